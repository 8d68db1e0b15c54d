// How C++ calls `expert_conv_forward`: its sizes and the floats of room that it needs, as cpu.py.

#pragma once

#include <algorithm>
#include <cstdint>

extern "C" void expert_conv_forward(const int64_t* sizes, const float* x, const float* experts,
                                    const float* weights, float* padded, float* packed,
                                    float* out);

struct ExpertCall {
    int64_t sizes[12], out_height, out_width, padded, packed;

    ExpertCall(int64_t batch, int64_t channels, int64_t height, int64_t width,
               int64_t out_channels, int64_t experts, int64_t kernel, int64_t stride,
               int64_t padding, bool channels_last, int64_t threads) {
        const int64_t tile = 32, taps = kernel * kernel, tiles = (out_channels + tile - 1) / tile;
        const int64_t slice = std::min(channels, std::max<int64_t>(1, 32768 / (taps * tile * 4)));
        const int64_t given[] = {batch, channels, height, width, out_channels, experts, kernel,
                                 stride, padding, slice, channels_last, threads};
        std::copy_n(given, 12, sizes);
        out_height = (height + 2 * padding - kernel) / stride + 1;
        out_width = (width + 2 * padding - kernel) / stride + 1;
        padded = batch * channels * (height + 2 * padding) * (width + 2 * padding);
        packed = tiles * experts * channels * taps * tile;
    }
};
