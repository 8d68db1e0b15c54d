// Our operators in OpenVINO, computed by the kernels of search_space/kernels.
//
// OpenVINO hands over float32 tensors in planar order (B, C, H, W). Its own threads work on other
// nodes; how many a kernel may take is set by `evolute_set_threads`.

#include <memory>
#include <mutex>

#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/op.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/op.hpp>

#include "call.h"  // of expert_conv

extern "C" void involution_forward(const int64_t* sizes, const void* x, const void* weight,
                                   void* out);
extern "C" void expert_conv_pack(const int64_t* sizes, const float* experts, float* packed);

namespace {

int64_t threads = 1;

int64_t size(size_t value) { return int64_t(value); }

class Involution : public ov::op::Op {
public:
    OPENVINO_OP("Involution", "evolute");

    Involution() = default;
    Involution(const ov::OutputVector& inputs, int64_t kernel, int64_t stride, int64_t dilation)
        : Op(inputs), kernel_(kernel), stride_(stride), dilation_(dilation) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        const auto x = get_input_partial_shape(0), weight = get_input_partial_shape(1);
        const ov::PartialShape shape{x[0], x[1], weight[2], weight[3]};
        set_output_type(0, get_input_element_type(0), shape);
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<Involution>(inputs, kernel_, stride_, dilation_);
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("kernel_size", kernel_);
        visitor.on_attribute("stride", stride_);
        visitor.on_attribute("dilation", dilation_);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        const ov::Shape x = inputs[0].get_shape(), weight = inputs[1].get_shape();
        if (inputs[0].get_element_type() != ov::element::f32) return false;
        outputs[0].set_shape({x[0], x[1], weight[2], weight[3]});
        const int64_t groups = size(weight[1]) / (kernel_ * kernel_);
        const int64_t sizes[] = {size(x[0]), size(x[1]), size(x[2]), size(x[3]), groups, kernel_,
                                 stride_, dilation_, 0, 0, 0, threads};
        involution_forward(sizes, inputs[0].data(), inputs[1].data(), outputs[0].data());
        return true;
    }

private:
    int64_t kernel_ = 1, stride_ = 1, dilation_ = 1;
};

// Y_b = (sum over e of weights[b, e] experts[e]) * X_b; experts (E, O, C, K, K), weights (B, E).
class ExpertConvolution : public ov::op::Op {
public:
    OPENVINO_OP("ExpertConvolution", "evolute");

    ExpertConvolution() = default;
    ExpertConvolution(const ov::OutputVector& inputs, int64_t stride, int64_t padding)
        : Op(inputs), stride_(stride), padding_(padding) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        const auto x = get_input_partial_shape(0), experts = get_input_partial_shape(1);
        ov::PartialShape shape{x[0], experts[1], ov::Dimension(), ov::Dimension()};
        for (int side : {2, 3})
            if (x[side].is_static() && experts[3].is_static())
                shape[side] = steps(x[side].get_length(), experts[3].get_length());
        set_output_type(0, get_input_element_type(0), shape);
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<ExpertConvolution>(inputs, stride_, padding_);
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("stride", stride_);
        visitor.on_attribute("padding", padding_);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        for (const auto& input : inputs)
            if (input.get_element_type() != ov::element::f32) return false;
        const ov::Shape x = inputs[0].get_shape(), experts = inputs[1].get_shape();
        const int64_t batch = size(x[0]), wide = size(experts[1]);
        const ExpertCall call(batch, size(x[1]), size(x[2]), size(x[3]), wide, size(experts[0]),
                              size(experts[3]), stride_, padding_, false, threads);
        const int64_t pixels = call.out_height * call.out_width;
        outputs[0].set_shape({x[0], experts[1], size_t(call.out_height), size_t(call.out_width)});
        const auto room = [](int64_t floats) { return std::unique_ptr<float[]>(new float[floats]); };
        const auto pack = [&] {
            auto packed = room(call.packed);
            expert_conv_pack(call.sizes, data(inputs[1]), packed.get());
            return packed;
        };
        const bool constant = ov::is_type<ov::op::v0::Constant>(get_input_node_shared_ptr(1));
        if (constant) std::call_once(once_, [&] { packed_ = pack(); });
        const auto anew = constant ? nullptr : pack();
        const auto padded = room(call.padded), last = room(batch * pixels * wide);
        expert_conv_forward(call.sizes, data(inputs[0]), nullptr, data(inputs[2]), padded.get(),
                            constant ? packed_.get() : anew.get(), last.get());
        float* out = static_cast<float*>(outputs[0].data());
        for (int64_t b = 0; b < batch; b++)  // channels-last to planar
            for (int64_t c = 0; c < wide; c++)
                for (int64_t p = 0; p < pixels; p++) *out++ = last[(b * pixels + p) * wide + c];
        return true;
    }

private:
    static const float* data(const ov::Tensor& tensor) {
        return static_cast<const float*>(tensor.data());
    }
    int64_t steps(int64_t side, int64_t kernel) const {
        return (side + 2 * padding_ - kernel) / stride_ + 1;
    }

    int64_t stride_ = 1, padding_ = 0;
    mutable std::once_flag once_;
    mutable std::unique_ptr<float[]> packed_;  // constant experts, once for all calls
};

}  // namespace

extern "C" void evolute_set_threads(const int64_t* number) { threads = *number; }

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>(
    {std::make_shared<ov::OpExtension<Involution>>(),
     std::make_shared<ov::frontend::onnx::OpExtension<Involution>>("Involution", "evolute"),
     std::make_shared<ov::OpExtension<ExpertConvolution>>(),
     std::make_shared<ov::frontend::onnx::OpExtension<ExpertConvolution>>("ExpertConvolution",
                                                                          "evolute")}));
