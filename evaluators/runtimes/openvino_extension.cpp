// Our operators in OpenVINO, computed by the kernels of search_space/kernels.
//
// OpenVINO hands over float32 tensors in planar order (B, C, H, W). Its own threads work on other
// nodes; how many a kernel may take is set by `evolute_set_threads`.

#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/op.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/op.hpp>

#include "nodes.h"

namespace {

int64_t threads = 1;

Shape numbers(const ov::Shape& shape) { return Shape(shape.begin(), shape.end()); }

// The inputs of a node; none where one of them is not in float32.
std::vector<Input> floats(const ov::TensorVector& tensors) {
    std::vector<Input> inputs;
    for (const auto& tensor : tensors) {
        if (tensor.get_element_type() != ov::element::f32) return {};
        inputs.push_back({numbers(tensor.get_shape()), static_cast<const float*>(tensor.data())});
    }
    return inputs;
}

float* begin(ov::Tensor& output, const Shape& shape) {
    output.set_shape(ov::Shape(shape.begin(), shape.end()));
    return static_cast<float*>(output.data());
}

class Involution : public ov::op::Op {
public:
    OPENVINO_OP("Involution", "evolute");

    Involution() = default;
    Involution(const ov::OutputVector& inputs, int64_t kernel, int64_t stride, int64_t dilation)
        : Op(inputs), node_{kernel, stride, dilation} {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        const auto x = get_input_partial_shape(0), second = get_input_partial_shape(1);
        const ov::PartialShape shape{x[0], x[1], second[2], second[3]};
        set_output_type(0, get_input_element_type(0), shape);
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        const auto& [kernel, stride, dilation] = node_;
        return std::make_shared<Involution>(inputs, kernel, stride, dilation);
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("kernel_size", node_.kernel_size);
        visitor.on_attribute("stride", node_.stride);
        visitor.on_attribute("dilation", node_.dilation);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& tensors) const override {
        const auto inputs = floats(tensors);
        if (inputs.empty()) return false;
        float* out = begin(outputs[0], node_.output(inputs[0].shape, inputs[1].shape));
        node_.run(inputs, out, threads);
        return true;
    }

private:
    InvolutionNode node_;
};

class ExpertConvolution : public ov::op::Op {
public:
    OPENVINO_OP("ExpertConvolution", "evolute");

    ExpertConvolution() = default;
    ExpertConvolution(const ov::OutputVector& inputs, int64_t stride, int64_t padding)
        : Op(inputs) {
        node_.stride = stride;
        node_.padding = padding;
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        const auto x = get_input_partial_shape(0), experts = get_input_partial_shape(1);
        ov::PartialShape shape{x[0], experts[1], ov::Dimension(), ov::Dimension()};
        for (int side : {2, 3})
            if (x[side].is_static() && experts[3].is_static())
                shape[side] = node_.steps(x[side].get_length(), experts[3].get_length());
        set_output_type(0, get_input_element_type(0), shape);
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<ExpertConvolution>(inputs, node_.stride, node_.padding);
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("stride", node_.stride);
        visitor.on_attribute("padding", node_.padding);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& tensors) const override {
        const auto inputs = floats(tensors);
        if (inputs.empty()) return false;
        const bool constant = ov::is_type<ov::op::v0::Constant>(get_input_node_shared_ptr(1));
        float* out = begin(outputs[0], node_.output(inputs[0].shape, inputs[1].shape));
        node_.run(inputs, out, constant, threads);
        return true;
    }

private:
    ExpertNode node_;
};

}  // namespace

extern "C" void evolute_set_threads(const int64_t* number) { threads = *number; }

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>(
    {std::make_shared<ov::OpExtension<Involution>>(),
     std::make_shared<ov::frontend::onnx::OpExtension<Involution>>("Involution", "evolute"),
     std::make_shared<ov::OpExtension<ExpertConvolution>>(),
     std::make_shared<ov::frontend::onnx::OpExtension<ExpertConvolution>>("ExpertConvolution",
                                                                          "evolute")}));
