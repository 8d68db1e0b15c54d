// Our operators in ONNX Runtime, computed by the kernels of search_space/kernels.
//
// ONNX Runtime hands over float32 tensors in planar order (B, C, H, W). How many threads a kernel
// may take is set by `evolute_set_threads`.

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include "nodes.h"

namespace {

int64_t threads = 1;

std::vector<Input> floats(const Ort::KernelContext& context) {
    std::vector<Input> inputs;
    for (size_t i = 0; i < context.GetInputCount(); i++) {
        const auto tensor = context.GetInput(i);
        if (!tensor) break;  // an optional one
        inputs.push_back({tensor.GetTensorTypeAndShapeInfo().GetShape(),
                          tensor.GetTensorData<float>()});
    }
    return inputs;
}

float* begin(Ort::KernelContext& context, const Shape& shape) {
    return context.GetOutput(0, shape).GetTensorMutableData<float>();
}

struct InvolutionKernel {
    InvolutionNode node;

    explicit InvolutionKernel(const Ort::ConstKernelInfo& info)
        : node{info.GetAttribute<int64_t>("kernel_size"), info.GetAttribute<int64_t>("stride"),
               info.GetAttribute<int64_t>("dilation")} {}

    void Compute(OrtKernelContext* given) {
        Ort::KernelContext context(given);
        const auto inputs = floats(context);
        float* out = begin(context, node.output(inputs[0].shape, inputs[1].shape));
        node.run(inputs, out, threads);
    }
};

struct ExpertKernel {
    ExpertNode node;
    bool constant = false;

    explicit ExpertKernel(const Ort::ConstKernelInfo& info) {
        node.stride = info.GetAttribute<int64_t>("stride");
        node.padding = info.GetAttribute<int64_t>("padding");
        int is_constant = 0;
        info.GetTensorConstantInput(1, &is_constant);
        constant = is_constant != 0;
    }

    void Compute(OrtKernelContext* given) {
        Ort::KernelContext context(given);
        const auto inputs = floats(context);
        float* out = begin(context, node.output(inputs[0].shape, inputs[1].shape));
        node.run(inputs, out, constant, threads);
    }
};

// Needed: how many inputs there always are, of at most Most.
template <class Self, class Kernel, size_t Needed, size_t Most>
struct Operator : Ort::CustomOpBase<Self, Kernel> {
    void* CreateKernel(const OrtApi&, const OrtKernelInfo* info) const {
        return new Kernel(Ort::ConstKernelInfo(info));
    }
    const char* GetExecutionProviderType() const { return "CPUExecutionProvider"; }
    size_t GetInputTypeCount() const { return Most; }
    size_t GetOutputTypeCount() const { return 1; }
    ONNXTensorElementDataType GetInputType(size_t) const {
        return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    }
    ONNXTensorElementDataType GetOutputType(size_t) const {
        return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    }
    OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(size_t index) const {
        return index < Needed ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
    }
};

struct Involution : Operator<Involution, InvolutionKernel, 2, 4> {
    const char* GetName() const { return "Involution"; }
};

struct ExpertConvolution : Operator<ExpertConvolution, ExpertKernel, 3, 3> {
    const char* GetName() const { return "ExpertConvolution"; }
};

}  // namespace

extern "C" void evolute_set_threads(const int64_t* number) { threads = *number; }

// What ONNX Runtime calls when the library is registered.
extern "C" OrtStatus* RegisterCustomOps(OrtSessionOptions* given, const OrtApiBase* base) {
    const OrtApi* api = base->GetApi(ORT_API_VERSION);
    if (api == nullptr)  // what is in version 1 is in all
        return base->GetApi(1)->CreateStatus(
            ORT_FAIL, "these operators were compiled with headers newer than this ONNX Runtime");
    Ort::InitApi(api);
    static Involution involution;
    static ExpertConvolution expert_convolution;
    static Ort::CustomOpDomain* domain = [] {
        auto* made = new Ort::CustomOpDomain("evolute");  // for as long as the process
        made->Add(&involution);
        made->Add(&expert_convolution);
        return made;
    }();
    try {
        Ort::UnownedSessionOptions options(given);
        options.Add(*domain);
        // Threads of ONNX Runtime's that spin would hold the processors that a kernel's own need.
        options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    } catch (const Ort::Exception& error) {
        return Ort::GetApi().CreateStatus(error.GetOrtErrorCode(), error.what());
    }
    return nullptr;
}
