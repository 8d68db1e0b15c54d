// Our operators for programs of PyTorch's that have no Python, such as those that run a `.pt2`.
//
// A library with them is loaded by `dlopen` (C++) or `torch.ops.load_library` (Python), in the
// place of `import search_space`, which defines the same operators. They compute forward, on CPUs.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "expert_conv/call.h"

extern "C" void involution_forward(const int64_t* sizes, const void* x, const void* weight,
                                   void* out);

namespace {

using at::MemoryFormat;
using at::Tensor;

bool channels_last(const Tensor& tensor) {
    return !tensor.is_contiguous() && tensor.is_contiguous(MemoryFormat::ChannelsLast);
}

MemoryFormat format(bool last) {
    return last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

Tensor involution(const Tensor& given, const Tensor& given_weight, int64_t kernel, int64_t stride,
                  int64_t dilation) {
    const bool last = channels_last(given), weight_last = channels_last(given_weight);
    const Tensor x = given.contiguous(format(last));
    const Tensor weight = given_weight.contiguous(format(weight_last));
    TORCH_CHECK_VALUE(x.dim() == 4 && weight.dim() == 4 && kernel % 2 == 1 && stride > 0 &&
                          dilation > 0,
                      "involution of 4 dimensions, an odd kernel, positive stride and dilation");
    TORCH_CHECK_VALUE(x.scalar_type() == weight.scalar_type() &&
                          (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16),
                      "involution of float32 or bfloat16, both of one type");
    const int64_t taps = kernel * kernel, groups = weight.size(1) / taps;
    const int64_t rows = (x.size(2) + stride - 1) / stride;
    const int64_t columns = (x.size(3) + stride - 1) / stride;
    TORCH_CHECK_VALUE(groups > 0 && x.size(1) % groups == 0 && weight.size(0) == x.size(0) &&
                          weight.size(1) == groups * taps && weight.size(2) == rows &&
                          weight.size(3) == columns,
                      "involution of ", x.sizes(), " by weights of ", weight.sizes());
    Tensor out = at::empty({x.size(0), x.size(1), rows, columns},
                           x.options().memory_format(format(last)));
    const int64_t sizes[] = {x.size(0), x.size(1), x.size(2), x.size(3), groups, kernel, stride,
                             dilation, last, weight_last, x.scalar_type() == at::kBFloat16,
                             at::get_num_threads()};
    involution_forward(sizes, x.data_ptr(), weight.data_ptr(), out.data_ptr());
    return out;
}

Tensor expert_convolution(const Tensor& given, const Tensor& given_experts,
                          const Tensor& given_weights, int64_t stride, int64_t padding) {
    const bool last = channels_last(given);
    const Tensor x = given.contiguous(format(last));
    const Tensor experts = given_experts.contiguous(), weights = given_weights.contiguous();
    for (const Tensor& tensor : {x, experts, weights})
        TORCH_CHECK_VALUE(tensor.scalar_type() == at::kFloat, "expert convolution of float32");
    TORCH_CHECK_VALUE(x.dim() == 4 && experts.dim() == 5 && weights.dim() == 2,
                      "expert convolution of 4, 5 and 2 dimensions");
    const int64_t kernel = experts.size(4);
    const bool kernel_fits = kernel == 1 || kernel == 3 || kernel == 5 || kernel == 7;
    TORCH_CHECK_VALUE(kernel_fits && (stride == 1 || stride == 2) && padding >= 0 &&
                          padding < kernel && experts.size(3) == kernel &&
                          experts.size(2) == x.size(1) && weights.size(0) == x.size(0) &&
                          weights.size(1) == experts.size(0),
                      "expert convolution of ", x.sizes(), ", ", experts.sizes(), ", ",
                      weights.sizes());
    const ExpertCall call(x.size(0), x.size(1), x.size(2), x.size(3), experts.size(1),
                          experts.size(0), kernel, stride, padding, last, at::get_num_threads());
    TORCH_CHECK_VALUE(x.size(2) + 2 * padding >= kernel && x.size(3) + 2 * padding >= kernel,
                      "the kernel exceeds the image and its padding");
    const Tensor padded = at::empty({call.padded}, x.options());
    const Tensor packed = at::empty({call.packed}, x.options());
    const Tensor out =
        at::empty({x.size(0), experts.size(1), call.out_height, call.out_width},
                  x.options().memory_format(MemoryFormat::ChannelsLast));
    expert_conv_forward(call.sizes, x.data_ptr<float>(), experts.data_ptr<float>(),
                        weights.data_ptr<float>(), padded.data_ptr<float>(),
                        packed.data_ptr<float>(), out.data_ptr<float>());
    return out.contiguous(format(last));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(evolute, library) {
    library.def("involution(Tensor input, Tensor weight, int kernel_size, int stride, "
                "int dilation) -> Tensor", involution);
    library.def("expert_convolution(Tensor input, Tensor experts, Tensor weights, int stride, "
                "int padding) -> Tensor", expert_convolution);
}
