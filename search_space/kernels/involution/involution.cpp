// Involution on the CPU: forward and backward in one pass each, nothing saved but the inputs.
//
// Everything is computed in float32 on vectors of 16 channels of one group (a "block"). Rows of
// the input are first packed, converted and zero-padded into a small per-thread buffer
// (row, block, column, 16), so one set of loops serves every memory format, dtype and group
// width; a pixel's K*K weights are read as scalars and broadcast. Each task owns rows of one
// image and writes nothing outside them: the result does not depend on the number of threads.
//
// Plain C++ with GCC's vector extension and OpenMP, no header of torch: it compiles in seconds.

#include "../layout.h"
#include "loops.h"
#include "span.h"

namespace {

// ---- Rows of one image: forward, backward.

template <class T>
const float* weight_pointer(const Image<const T>& weight, long b, long h, float* buffer) {
    if constexpr (sizeof(T) == sizeof(float))
        if (weight.channels_last) return weight.at(b, 0, h);
    weight.read_row(b, h, buffer);
    return buffer;
}

// kernels(b, h, buffer) returns the weights of a row, (pixel, groups * K * K), in the buffer or not.
template <class T, class Kernels>
void forward_task(const Geometry& g, Rows rows, Image<const T> x, const Kernels& kernels,
                  Image<T> out, long b, long begin, long end) {
    const long x_row = g.blocks * g.padded_width * kLanes;
    const long top = begin * g.stride - g.padding;
    const long packed_rows = (end - 1 - begin) * g.stride + g.dilation * (g.kernel - 1) + 1;
    const long out_row = g.blocks * g.out_width * kLanes;
    float* packed = scratch(packed_rows * x_row + out_row + g.out_width * g.groups * g.taps);
    float* sums = packed + packed_rows * x_row;
    for (long h = 0; h < packed_rows; h++)
        pack_row(g, x, b, top + h, packed + h * x_row, g.padded_width, g.padding);
    // Full blocks of a float32, channels-last image are written where they belong.
    const bool full = g.channels == g.blocks * kLanes;
    const bool direct = full && sizeof(T) == sizeof(float) && out.channels_last;
    for (long h = begin; h < end; h++) {
        const float* weight = kernels(b, h, sums + out_row);
        const float* source = packed + (h - begin) * g.stride * x_row;
        if (direct)
            rows.forward(g, source, g.dilation * x_row, weight, (float*)out.at(b, 0, h), kLanes,
                         g.channels);
        else
            rows.forward(g, source, g.dilation * x_row, weight, sums, g.out_width * kLanes,
                         kLanes);
        if (!direct) unpack_row(g, sums, g.out_width, 0, out, b, h);
    }
}

// Owns output rows [begin, end) for the weights, and for the input the rows that start there.
template <class T>
void backward_task(const Geometry& g, Rows rows, Image<const T> gradient, Image<const T> x,
                   Image<const T> weight, Image<T> x_gradient, Image<T> weight_gradient, long b,
                   long begin, long end) {
    const long wide_row = g.blocks * g.padded_width * kLanes;
    const long top = begin * g.stride - g.padding;
    const long packed_rows = (end - 1 - begin) * g.stride + g.dilation * (g.kernel - 1) + 1;
    // Columns in the order of their remainder by the dilation: taps become neighbours.
    const long phase = (g.padded_width + g.dilation - 1) / g.dilation + 4;
    const long columns = phase * g.dilation, x_row = g.blocks * columns * kLanes;
    const long first = begin * g.stride, past = end == g.out_height ? g.height : end * g.stride;
    const long out_row = g.blocks * g.out_width * kLanes;
    const long weight_size = weight.width * weight.channels;

    float* packed = scratch(packed_rows * x_row + (past - first + 1) * wide_row + out_row +
                            2 * weight_size);
    float* sums = packed + packed_rows * x_row;
    float* row = sums + (past - first) * wide_row;
    float* pixels = row + wide_row;
    float* kernels = pixels + out_row;
    memset(sums, 0, (past - first) * wide_row * sizeof(float));
    for (long h = 0; h < packed_rows; h++)
        pack_quarters(g, x, b, top + h, packed + h * x_row, columns, phase, row);

    const bool full = g.channels == g.blocks * kLanes;
    const long reach = g.dilation * (g.kernel - 1) - g.padding;
    long h = (first - reach) / g.stride > 0 ? (first - reach) / g.stride : 0;
    for (; h < g.out_height && h * g.stride - g.padding < past; h++) {
        // Full blocks of a float32, channels-last image are read where they are.
        const bool in_place = full && sizeof(T) == sizeof(float) && gradient.channels_last;
        const float* from = in_place ? (const float*)gradient.at(b, 0, h) : pixels;
        const long block = in_place ? kLanes : g.out_width * kLanes;
        const long step = in_place ? g.channels : kLanes;
        if (!in_place) pack_row(g, gradient, b, h, pixels, g.out_width, 0);
        const float* row_kernels = weight_pointer(weight, b, h, kernels);
        long i = 0, stop = g.kernel;  // the kernel rows that lie within our rows of the input
        const long target = h * g.stride - g.padding;
        while (target + g.dilation * i < first) i++;
        while (target + g.dilation * (stop - 1) >= past) stop--;
        rows.scatter(g, from, block, step, row_kernels + i * g.kernel,
                     sums + (target + g.dilation * i - first) * wide_row, g.dilation * wide_row,
                     stop - i);
        if (h < begin || h >= end) continue;
        const bool direct = sizeof(T) == sizeof(float) && weight_gradient.channels_last;
        float* result = direct ? (float*)weight_gradient.at(b, 0, h) : kernels + weight_size;
        rows.weight(g, packed + (h - begin) * g.stride * x_row, g.dilation * x_row, columns, from,
                    block, step, result);
        if (!direct) weight_gradient.write_row(b, h, result);
    }
    for (long q = first; q < past; q++)
        unpack_row(g, sums + (q - first) * wide_row, g.padded_width, g.padding, x_gradient, b, q);
}

// ---- Splitting the work. A task is a run of output rows of one image, at most about 512 KiB of
// ---- packed rows; there are a few for every thread where the image allows it, and no more
// ---- threads than have work for some ten microseconds each.

template <class Task>
void for_tasks(const Geometry& g, Task&& task) {
    const long work = g.batch * g.blocks * kLanes * g.taps * g.out_height * g.out_width;
    if (work == 0) return;
    const long row_bytes = g.blocks * g.padded_width * kLanes * sizeof(float) * g.stride;
    const long busy = 1 + work / 500000;
    const long threads = g.threads < busy ? g.threads : busy;
    const long wanted = (4 * threads + g.batch - 1) / g.batch;  // tasks of one image
    long rows = (512L << 10) / row_bytes;
    if (threads > 1 && rows > (g.out_height + wanted - 1) / wanted)
        rows = (g.out_height + wanted - 1) / wanted;
    if (rows < 4) rows = 4;
    if (rows > g.out_height) rows = g.out_height;
    const long pieces = (g.out_height + rows - 1) / rows;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
    for (long t = 0; t < g.batch * pieces; t++) {
        long begin = t % pieces * rows;
        long end = begin + rows < g.out_height ? begin + rows : g.out_height;
        task(t / pieces, begin, end);
    }
}

Geometry geometry(const int64_t* sizes) {
    Geometry g = {};
    memcpy(&g, sizes, kGivenSizes * sizeof(int64_t));
    g.out_height = (g.height + g.stride - 1) / g.stride;
    g.out_width = (g.width + g.stride - 1) / g.stride;
    g.padding = g.dilation * (g.kernel / 2);
    g.padded_width = g.width + 2 * g.padding;
    g.blocks_per_group = (g.channels / g.groups + kLanes - 1) / kLanes;
    g.blocks = g.groups * g.blocks_per_group;
    g.taps = g.kernel * g.kernel;
    return g;
}

template <class T, class Kernels>
void forward(const Geometry& g, const void* x, const Kernels& kernels, void* out) {
    Image<const T> x_image{(const T*)x, g.channels, g.height, g.width, g.last};
    Image<T> output{(T*)out, g.channels, g.out_height, g.out_width, g.last};
    const Rows rows = choose(g);
    for_tasks(g, [&](long b, long begin, long end) {
        forward_task<T>(g, rows, x_image, kernels, output, b, begin, end);
    });
}

template <class T>
void weighted(const Geometry& g, const void* x, const void* weight, void* out) {
    const long taps = g.groups * g.taps;
    Image<const T> weights{(const T*)weight, taps, g.out_height, g.out_width, g.weight_last};
    const auto kernels = [&](long b, long h, float* buffer) {
        return weight_pointer(weights, b, h, buffer);
    };
    forward<T>(g, x, kernels, out);
}

template <class T>
void backward(const Geometry& g, const void* gradient, const void* x, const void* weight,
              void* x_gradient, void* weight_gradient) {
    const long taps = g.groups * g.taps;
    Image<const T> grad{(const T*)gradient, g.channels, g.out_height, g.out_width, g.last};
    Image<const T> x_image{(const T*)x, g.channels, g.height, g.width, g.last};
    Image<const T> weights{(const T*)weight, taps, g.out_height, g.out_width, g.weight_last};
    Image<T> x_grad{(T*)x_gradient, g.channels, g.height, g.width, g.last};
    Image<T> weight_grad{(T*)weight_gradient, taps, g.out_height, g.out_width, g.weight_last};
    const Rows rows = choose(g);
    for_tasks(g, [&](long b, long begin, long end) {
        backward_task<T>(g, rows, grad, x_image, weights, x_grad, weight_grad, b, begin, end);
    });
}

}  // namespace

// sizes: the first kGivenSizes fields of Geometry. The gradients have the formats of the tensors.
extern "C" void involution_forward(const int64_t* sizes, const void* x, const void* weight,
                                   void* out) {
    const Geometry g = geometry(sizes);
    (g.bfloat16 ? weighted<BFloat16> : weighted<float>)(g, x, weight, out);
}

// The same with weights made of planar features, see Span; float32. sizes[kGivenSizes]: features.
extern "C" void involution_spanned(const int64_t* sizes, const float* x, const float* features,
                                   const float* taps, const float* bias, float* out) {
    const Geometry g = geometry(sizes);
    const Span span{features, taps, bias, long(sizes[kGivenSizes])};
    const auto kernels = [&](long b, long h, float* buffer) -> const float* {
        span_row(g, span, b, h, buffer);
        return buffer;
    };
    forward<float>(g, x, kernels, out);
}

extern "C" void involution_backward(const int64_t* sizes, const void* gradient, const void* x,
                                    const void* weight, void* x_gradient, void* weight_gradient) {
    const Geometry g = geometry(sizes);
    (g.bfloat16 ? backward<BFloat16> : backward<float>)(g, gradient, x, weight, x_gradient,
                                                        weight_gradient);
}
