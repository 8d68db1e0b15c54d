// An OpenVINO operator for involution, computed by the kernel of search_space/kernels/involution.
//
// OpenVINO hands over float32 tensors in planar order (B, C, H, W). Its own threads work on other
// nodes; how many the kernel may take is set by `evolute_set_threads`.

#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/op.hpp>
#include <openvino/op/op.hpp>

extern "C" void involution_forward(const int64_t* sizes, const void* x, const void* weight,
                                   void* out);

namespace {

int64_t threads = 1;

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
        const auto size = [](size_t value) { return (int64_t)value; };
        const int64_t groups = size(weight[1]) / (kernel_ * kernel_);
        const int64_t sizes[] = {size(x[0]), size(x[1]), size(x[2]), size(x[3]), groups, kernel_,
                                 stride_, dilation_, 0, 0, 0, threads};
        involution_forward(sizes, inputs[0].data(), inputs[1].data(), outputs[0].data());
        return true;
    }

private:
    int64_t kernel_ = 1, stride_ = 1, dilation_ = 1;
};

}  // namespace

extern "C" void evolute_set_threads(const int64_t* number) { threads = *number; }

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>(
    {std::make_shared<ov::OpExtension<Involution>>(),
     std::make_shared<ov::frontend::onnx::OpExtension<Involution>>("Involution", "evolute")}));
