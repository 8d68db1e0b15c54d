// Convolution with every image's own mixture of kernels, and its gradients, in float32.
//
// The mixed kernels of a batch are never in memory: a slice of them (a tile of 32 output channels,
// some input channels) is mixed in the first-level cache, applied to the whole image, and
// overwritten by the next image's. Output channels are the lanes of the vectors; the input is read
// as scalars from a zero-padded, channels-first copy, where neighbouring pixels and taps lie at
// fixed distances. A task owns what it writes: no result depends on the number of threads.
//
// Kernels are packed as (input channel, tap, 32 output channels), tile by tile, expert by expert;
// the lanes past the last output channel are zero.

#include "../layout.h"

namespace {

constexpr int kTile = 2 * kLanes;     // output channels of a task
constexpr long kOutputs = 512L << 10; // bytes of the outputs a task works on

struct Mixture {
    int64_t batch, channels, height, width, out_channels, experts, kernel, stride, padding;
    int64_t slice, last, threads;  // input channels mixed at once; is the input channels-last?
    long out_height, out_width, pixels, padded_width, plane, image, taps, length, tiles, slices;

    explicit Mixture(const int64_t* given) {  // the first twelve; the rest follows from them
        memcpy(this, given, 12 * sizeof(int64_t));
        out_height = (height + 2 * padding - kernel) / stride + 1;
        out_width = (width + 2 * padding - kernel) / stride + 1;
        pixels = out_height * out_width;
        padded_width = width + 2 * padding;
        plane = (height + 2 * padding) * padded_width;
        image = channels * plane;
        taps = kernel * kernel;
        length = channels * taps * kTile;  // floats of one expert's tile
        tiles = (out_channels + kTile - 1) / kTile;
        slices = (channels + slice - 1) / slice;
    }
    long tile_width(long tile) const {
        const long left = out_channels - tile * kTile;
        return left < kTile ? left : kTile;
    }
};

// One image to (channel, row, column), surrounded by zeros.
void pad_image(const Mixture& m, const float* x, long b, float* padded) {
    const Image<const float> from{x, m.channels, m.height, m.width, m.last};
    memset(padded, 0, m.image * sizeof(float));
    for (long h = 0; h < m.height; h++) {
        float* row = padded + (h + m.padding) * m.padded_width + m.padding;
        if (m.last) transpose(from.at(b, 0, h), m.channels, row, m.plane, m.width, m.channels);
        else for (long c = 0; c < m.channels; c++)
            memcpy(row + c * m.plane, from.at(b, c, h), m.width * sizeof(float));
    }
}

void pack_tile(const Mixture& m, const float* experts, long expert, long tile, float* packed) {
    const long row = m.channels * m.taps, width = m.tile_width(tile);
    if (width < kTile) memset(packed, 0, m.length * sizeof(float));
    transpose(experts + (expert * m.out_channels + tile * kTile) * row, row, packed, kTile, width,
              row);
}

// Everything padded and packed, by all threads of the region that calls it. Without experts these
// are packed already.
void prepare(const Mixture& m, const float* x, const float* experts, float* padded,
             float* packed) {
#pragma omp for schedule(dynamic, 1) nowait
    for (long b = 0; b < m.batch; b++) pad_image(m, x, b, padded + b * m.image);
#pragma omp for schedule(dynamic, 1)
    for (long t = 0; t < (experts ? m.tiles * m.experts : 0); t++)
        pack_tile(m, experts, t % m.experts, t / m.experts, packed + t * m.length);
}

// ---- Forward.

void mix(const Mixture& m, const float* packed, const float* weights, float* mixed, long floats) {
    for (long i = 0; i < floats; i += kLanes) {
        Vector sum = load(packed + i) * weights[0];
        for (long e = 1; e < m.experts; e++) sum += load(packed + e * m.length + i) * weights[e];
        store(mixed + i, sum);
    }
}

// out[p] (+)= kernels * x for N neighbouring pixels, 32 output channels and `channels` of x.
template <int K, int Stride, int N>
void convolve_pixels(const Mixture& m, const float* x, const float* kernels, long channels,
                     bool first, float* out, long out_step) {
    const long size = K ? K : m.kernel;
    Vector low[N] = {}, high[N] = {};
    for (long c = 0; c < channels; c++, x += m.plane)
        UNROLL for (long i = 0; i < size; i++)
            UNROLL for (long j = 0; j < size; j++, kernels += kTile) {
                const float* row = x + i * m.padded_width + j;
                const Vector a = load(kernels), b = load(kernels + kLanes);
                UNROLL for (int n = 0; n < N; n++) {
                    low[n] += a * row[n * Stride];
                    high[n] += b * row[n * Stride];
                }
            }
    UNROLL for (int n = 0; n < N; n++, out += out_step) {
        store(out, first ? low[n] : load(out) + low[n]);
        store(out + kLanes, first ? high[n] : load(out + kLanes) + high[n]);
    }
}

template <int K, int Stride, int N>
void convolve_row(const Mixture& m, const float* x, const float* kernels, long channels,
                  bool first, float* out, long out_step, long start) {
    for (; start + N <= m.out_width; start += N)
        convolve_pixels<K, Stride, N>(m, x + start * Stride, kernels, channels, first,
                                      out + start * out_step, out_step);
    if constexpr (N > 1)
        convolve_row<K, Stride, N == 7 ? 1 : N / 2>(m, x, kernels, channels, first, out, out_step,
                                                    start);
}

template <int K, int Stride>
void convolve(const Mixture& m, const float* x, const float* kernels, long channels, bool first,
              float* out, long out_step) {
    const bool sevens = kPixels == 8 && m.out_width % 8 && m.out_width % 7 == 0;
    const auto row = sevens ? convolve_row<K, Stride, 7> : convolve_row<K, Stride, kPixels>;
    for (long h = 0; h < m.out_height; h++)
        row(m, x + h * Stride * m.padded_width, kernels, channels, first,
            out + h * m.out_width * out_step, out_step, 0);
}

using Convolve = void (*)(const Mixture&, const float*, const float*, long, bool, float*, long);
Convolve choose(const Mixture& m) {
    if (m.stride == 2) return m.kernel == 3 ? convolve<3, 2> : convolve<0, 2>;
    return m.kernel == 1 ? convolve<1, 1> : m.kernel == 3 ? convolve<3, 1> : convolve<0, 1>;
}

// One tile of the images [begin, end). A tile that is not full goes through a buffer.
void forward_task(const Mixture& m, const float* padded, const float* packed, const float* weights,
                  float* out, long tile, long begin, long end) {
    const Convolve convolve = choose(m);
    const long width = m.tile_width(tile), full = width == kTile;
    float* mixed = scratch(m.slice * m.taps * kTile + (full ? 0 : (end - begin) * m.pixels * kTile));
    float* partial = mixed + m.slice * m.taps * kTile;
    for (long c = 0; c < m.channels; c += m.slice) {
        const long channels = m.channels - c < m.slice ? m.channels - c : m.slice;
        const float* kernels = packed + tile * m.experts * m.length + c * m.taps * kTile;
        for (long b = begin; b < end; b++) {
            mix(m, kernels, weights + b * m.experts, mixed, channels * m.taps * kTile);
            float* to = full ? out + b * m.pixels * m.out_channels + tile * kTile
                             : partial + (b - begin) * m.pixels * kTile;
            convolve(m, padded + b * m.image + c * m.plane, mixed, channels, c == 0, to,
                     full ? m.out_channels : kTile);
        }
    }
    if (full) return;
    for (long p = 0; p < (end - begin) * m.pixels; p++)
        memcpy(out + (begin * m.pixels + p) * m.out_channels + tile * kTile, partial + p * kTile,
               width * sizeof(float));
}

// ---- Gradients of the experts and of their weights. A task owns the kernels between one tile of
// ---- output channels and one slice of input channels, for all images.

// For `Rows` rows of one channel's taps: G = sum over pixels of gradient * x, then the experts'
// gradients += weight * G, and dots[e] += G * expert e.
template <int K, int Rows>
void correlate(const Mixture& m, const float* x, const float* gradient, const float* weights,
               const float* packed, float* experts_gradient, long step, Vector* dots) {
    Vector low[Rows * K] = {}, high[Rows * K] = {};
    for (long h = 0; h < m.out_height; h++) {
        const float* row = x + h * m.stride * m.padded_width;
        for (long w = 0; w < m.out_width; w++, row += m.stride, gradient += kTile) {
            const Vector a = load(gradient), b = load(gradient + kLanes);
            UNROLL for (int t = 0; t < Rows * K; t++) {
                const float value = row[t / K * m.padded_width + t % K];
                low[t] += a * value;
                high[t] += b * value;
            }
        }
    }
    for (long e = 0; e < m.experts; e++) {
        const float* kernel = packed + e * m.length;
        float* to = experts_gradient + e * step;
        Vector dot = dots[e];
        UNROLL for (int t = 0; t < Rows * K; t++, kernel += kTile, to += kTile) {
            dot += low[t] * load(kernel) + high[t] * load(kernel + kLanes);
            store(to, load(to) + low[t] * weights[e]);
            store(to + kLanes, load(to + kLanes) + high[t] * weights[e]);
        }
        dots[e] = dot;
    }
}

template <int K, int Rows>
void correlate_channel(const Mixture& m, const float* x, const float* gradient,
                       const float* weights, const float* packed, float* experts_gradient,
                       long step, Vector* dots) {
    for (int i = 0; i < K; i += Rows)
        correlate<K, Rows>(m, x + i * m.padded_width, gradient, weights, packed + i * K * kTile,
                           experts_gradient + i * K * kTile, step, dots);
}

// gradient is channels-last; weights_gradient is this task's share of it, (image, expert).
void backward_task(const Mixture& m, const float* padded, const float* packed,
                   const float* weights, const float* gradient, float* experts_gradient,
                   float* weights_gradient, long tile, long first) {
    const long channels = m.channels - first < m.slice ? m.channels - first : m.slice;
    const long width = m.tile_width(tile), step = channels * m.taps * kTile;
    float* sums = scratch(m.experts * (step + kLanes) + m.pixels * kTile);
    float* pixels = sums + m.experts * step;
    Vector* dots = reinterpret_cast<Vector*>(pixels + m.pixels * kTile);
    memset(sums, 0, (m.experts * step + m.pixels * kTile) * sizeof(float));
    const auto channel = m.kernel == 1 ? correlate_channel<1, 1>
                         : m.kernel == 3 ? correlate_channel<3, 3>
                         : m.kernel == 5 ? correlate_channel<5, 1> : correlate_channel<7, 1>;
    for (long b = 0; b < m.batch; b++) {
        for (long p = 0; p < m.pixels; p++)
            memcpy(pixels + p * kTile, gradient + (b * m.pixels + p) * m.out_channels + tile * kTile,
                   width * sizeof(float));
        memset(dots, 0, m.experts * sizeof(Vector));
        for (long c = 0; c < channels; c++)
            channel(m, padded + b * m.image + (first + c) * m.plane, pixels,
                    weights + b * m.experts,
                    packed + tile * m.experts * m.length + (first + c) * m.taps * kTile,
                    sums + c * m.taps * kTile, step, dots);
        for (long e = 0; e < m.experts; e++) {
            float total = 0;
            for (int lane = 0; lane < kLanes; lane++) total += dots[e][lane];
            weights_gradient[b * m.experts + e] = total;
        }
    }
    const long row = m.channels * m.taps;
    for (long e = 0; e < m.experts; e++)
        transpose(sums + e * step, kTile,
                  experts_gradient + (e * m.out_channels + tile * kTile) * row + first * m.taps,
                  row, channels * m.taps, width);
}

}  // namespace

// For programs whose experts never change: then `expert_conv_forward` takes them as packed here.
extern "C" void expert_conv_pack(const int64_t* sizes, const float* experts, float* packed) {
    const Mixture m(sizes);
    for (long t = 0; t < m.tiles * m.experts; t++)
        pack_tile(m, experts, t % m.experts, t / m.experts, packed + t * m.length);
}

// sizes: the first twelve fields of Mixture. padded and packed are room for batch * image and
// tiles * experts * length floats; out is channels-last. experts may be null, see `prepare`.
extern "C" void expert_conv_forward(const int64_t* sizes, const float* x, const float* experts,
                                const float* weights, float* padded, float* packed, float* out) {
    const Mixture m(sizes);
    long images = kOutputs / (m.pixels * kTile * long(sizeof(float)));
    const long wanted = m.tiles * m.batch / (4 * m.threads);
    if (images > wanted) images = wanted;
    if (images < 1) images = 1;
    const long pieces = (m.batch + images - 1) / images;
#pragma omp parallel num_threads(m.threads) if (m.threads > 1)
    {
        prepare(m, x, experts, padded, packed);
#pragma omp for schedule(dynamic, 1)
        for (long t = 0; t < m.tiles * pieces; t++) {
            const long begin = t % pieces * images;
            const long end = begin + images < m.batch ? begin + images : m.batch;
            forward_task(m, padded, packed, weights, out, t / pieces, begin, end);
        }
    }
}

// weights_gradient: (tiles * slices, batch, experts), to be summed over the first.
extern "C" void expert_conv_backward(const int64_t* sizes, const float* gradient, const float* x,
                                 const float* experts, const float* weights, float* padded,
                                 float* packed, float* experts_gradient, float* weights_gradient) {
    const Mixture m(sizes);
#pragma omp parallel num_threads(m.threads) if (m.threads > 1)
    {
        prepare(m, x, experts, padded, packed);
#pragma omp for schedule(dynamic, 1)
        for (long t = 0; t < m.tiles * m.slices; t++)
            backward_task(m, padded, packed, weights, gradient, experts_gradient,
                          weights_gradient + t * m.batch * m.experts, t / m.slices,
                          t % m.slices * m.slice);
    }
}
