// Our operators as nodes of an exported program, whichever runtime runs it: from shapes and planar
// float32 data to the kernels of search_space/kernels.

#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "call.h"  // of expert_conv

extern "C" void involution_forward(const int64_t* sizes, const void* x, const void* weight,
                                   void* out);
extern "C" void involution_spanned(const int64_t* sizes, const float* x, const float* features,
                                   const float* taps, const float* bias, float* out);
extern "C" void expert_conv_pack(const int64_t* sizes, const float* experts, float* packed);

using Shape = std::vector<int64_t>;

struct Input {
    Shape shape;
    const float* data = nullptr;
};

// Inputs: x (B, C, H, W) and the kernels (B, G K K, H', W'); or x, the features (B, F, H', W') that
// kernels are made of, and the 1x1 convolution that makes them: (F, G K K) and (G K K).
struct InvolutionNode {
    int64_t kernel_size = 1, stride = 1, dilation = 1;

    static Shape output(const Shape& x, const Shape& second) {
        return {x[0], x[1], second[2], second[3]};
    }

    void run(const std::vector<Input>& inputs, float* out, int64_t threads) const {
        const Shape &x = inputs[0].shape, &second = inputs[1].shape;
        const bool spanned = inputs.size() == 4;
        const int64_t taps = spanned ? inputs[3].shape[0] : second[1];
        const int64_t groups = taps / (kernel_size * kernel_size);
        const int64_t sizes[] = {x[0], x[1], x[2], x[3], groups, kernel_size, stride, dilation,
                                 0, 0, 0, threads, second[1]};
        if (spanned)
            involution_spanned(sizes, inputs[0].data, inputs[1].data, inputs[2].data,
                               inputs[3].data, out);
        else involution_forward(sizes, inputs[0].data, inputs[1].data, out);
    }
};

// Y_b = (sum over e of weights[b, e] experts[e]) * X_b; experts (E, O, C, K, K), weights (B, E).
struct ExpertNode {
    int64_t stride = 1, padding = 0;

    int64_t steps(int64_t side, int64_t kernel) const {
        return (side + 2 * padding - kernel) / stride + 1;
    }

    Shape output(const Shape& x, const Shape& experts) const {
        return {x[0], experts[1], steps(x[2], experts[3]), steps(x[3], experts[3])};
    }

    // constant: the experts are always the same; they are packed once for all calls.
    void run(const std::vector<Input>& inputs, float* out, bool constant, int64_t threads) const {
        const Shape &x = inputs[0].shape, &experts = inputs[1].shape;
        const ExpertCall call(x[0], x[1], x[2], x[3], experts[1], experts[0], experts[3], stride,
                              padding, false, threads);
        const int64_t pixels = call.out_height * call.out_width, wide = experts[1];
        const auto room = [](int64_t floats) { return std::unique_ptr<float[]>(new float[floats]); };
        const auto pack = [&] {
            auto packed = room(call.packed);
            expert_conv_pack(call.sizes, inputs[1].data, packed.get());
            return packed;
        };
        if (constant) std::call_once(once_, [&] { packed_ = pack(); });
        const auto anew = constant ? nullptr : pack();
        const auto padded = room(call.padded), last = room(x[0] * pixels * wide);
        expert_conv_forward(call.sizes, inputs[0].data, nullptr, inputs[2].data, padded.get(),
                            constant ? packed_.get() : anew.get(), last.get());
        for (int64_t b = 0; b < x[0]; b++)  // channels-last to planar
            for (int64_t c = 0; c < wide; c++)
                for (int64_t p = 0; p < pixels; p++) *out++ = last[(b * pixels + p) * wide + c];
    }

private:
    mutable std::once_flag once_;
    mutable std::unique_ptr<float[]> packed_;
};
