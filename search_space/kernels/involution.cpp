// Involution on the CPU: forward and backward in one pass each, nothing saved but the inputs.
//
// Everything is computed in float32 on vectors of 16 channels of one group (a "block"). Rows of
// the input are first packed, converted and zero-padded into a small per-thread buffer
// (row, block, column, 16), so one set of loops serves every memory format, dtype and group
// width; a pixel's K*K weights are read as scalars and broadcast. Each task owns rows of one
// image and writes nothing outside them: the result does not depend on the number of threads.
//
// Plain C++ with GCC's vector extension and OpenMP, no header of torch: compiles in seconds.

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kLanes = 16;
#ifdef __AVX512F__
constexpr int kPixels = 8;  // output pixels whose sums stay in registers
#else
constexpr int kPixels = 4;
#endif

typedef float Vector __attribute__((vector_size(64)));
typedef float Quad __attribute__((vector_size(16)));
typedef uint32_t Bits __attribute__((vector_size(64)));
typedef uint16_t HalfBits __attribute__((vector_size(32)));
struct BFloat16 { uint16_t bits; };

inline Vector load(const float* p) { Vector v; memcpy(&v, p, sizeof v); return v; }
inline Quad load4(const float* p) { Quad v; memcpy(&v, p, sizeof v); return v; }
inline void store(float* p, Vector v) { memcpy(p, &v, sizeof v); }
inline void store4(float* p, Quad v) { memcpy(p, &v, sizeof v); }

inline Vector load(const BFloat16* p) {
    HalfBits h;
    memcpy(&h, p, sizeof h);
    return (Vector)(__builtin_convertvector(h, Bits) << 16);
}
inline void store(BFloat16* p, Vector v) {  // rounds to nearest even; NaN stays NaN
    Bits u = (Bits)v;
    Bits rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    Bits nan = (Bits)(v != v);
    HalfBits h = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0u), HalfBits);
    memcpy(p, &h, sizeof h);
}
inline float read(float x) { return x; }
inline float read(BFloat16 x) {
    uint32_t u = uint32_t(x.bits) << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
inline void write(float* p, float x) { *p = x; }
inline void write(BFloat16* p, float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    p->bits = x != x ? 0x7fc0 : uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

// dst[j * dst_step + i] = src[i * src_step + j]; 4x4 tiles when both are float32.
template <class S, class D>
void transpose(const S* src, long src_step, D* dst, long dst_step, long rows, long columns) {
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < columns; j++) write(dst + j * dst_step + i, read(src[i * src_step + j]));
}
inline void transpose(const float* src, long src_step, float* dst, long dst_step, long rows,
                      long columns) {
    long full_rows = rows & ~3L, full_columns = columns & ~3L;
    for (long j = 0; j < full_columns; j += 4)
        for (long i = 0; i < full_rows; i += 4) {
            const float* s = src + i * src_step + j;
            float* d = dst + j * dst_step + i;
            Quad a = load4(s), b = load4(s + src_step), c = load4(s + 2 * src_step),
                 e = load4(s + 3 * src_step);
            Quad ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5);
            Quad ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            Quad ce0 = __builtin_shufflevector(c, e, 0, 4, 1, 5);
            Quad ce1 = __builtin_shufflevector(c, e, 2, 6, 3, 7);
            store4(d, __builtin_shufflevector(ab0, ce0, 0, 1, 4, 5));
            store4(d + dst_step, __builtin_shufflevector(ab0, ce0, 2, 3, 6, 7));
            store4(d + 2 * dst_step, __builtin_shufflevector(ab1, ce1, 0, 1, 4, 5));
            store4(d + 3 * dst_step, __builtin_shufflevector(ab1, ce1, 2, 3, 6, 7));
        }
    for (long i = 0; i < rows; i++)
        for (long j = i < full_rows ? full_columns : 0; j < columns; j++)
            dst[j * dst_step + i] = src[i * src_step + j];
}

template <class S, class D>
void copy(const S* src, D* dst, long n) {
    long i = 0;
    for (; i + kLanes <= n; i += kLanes) store(dst + i, load(src + i));
    for (; i < n; i++) write(dst + i, read(src[i]));
}

struct Geometry {
    long batch, channels, height, width, groups, kernel, stride, dilation;
    long out_height, out_width, padding, padded_width;
    long blocks_per_group, blocks, taps;
};

// A tensor (batch, channels, height, width), dense in one of torch's two memory formats.
template <class T>
struct Image {
    T* data;
    long channels, height, width;
    bool channels_last;

    T* at(long b, long c, long h) const {
        T* image = data + b * channels * height * width;
        return channels_last ? image + h * width * channels + c : image + (c * height + h) * width;
    }
    long channel_step() const { return channels_last ? 1 : height * width; }

    // One row to (column, channel) in float32, and back.
    void read_row(long b, long h, float* row) const {
        if (channels_last) copy(at(b, 0, h), row, width * channels);
        else transpose(at(b, 0, h), channel_step(), row, channels, channels, width);
    }
    void write_row(long b, long h, const float* row) const {
        if (channels_last) copy(row, at(b, 0, h), width * channels);
        else transpose(row, channels, at(b, 0, h), channel_step(), width, channels);
    }
};

// The block's first channel and how many channels it holds; the remaining lanes are zero.
inline long first_channel(const Geometry& g, long block) {
    long group_width = g.channels / g.groups;
    return block / g.blocks_per_group * group_width + block % g.blocks_per_group * kLanes;
}
inline long lanes(const Geometry& g, long block) {
    long left = g.channels / g.groups - block % g.blocks_per_group * kLanes;
    return left < kLanes ? left : kLanes;
}

// One image row to (block, columns, 16), starting at column `padding` of `columns`.
template <class T>
void pack_row(const Geometry& g, const Image<const T>& image, long b, long h, float* row,
              long columns, long padding) {
    if (padding || g.channels != g.blocks * kLanes)
        memset(row, 0, g.blocks * columns * kLanes * sizeof(float));
    if (h < 0 || h >= image.height) return;
    for (long block = 0; block < g.blocks; block++) {
        const T* src = image.at(b, first_channel(g, block), h);
        float* dst = row + (block * columns + padding) * kLanes;
        long n = lanes(g, block);
        if (!image.channels_last)
            transpose(src, image.channel_step(), dst, kLanes, n, image.width);
        else if (n == kLanes)
            for (long w = 0; w < image.width; w++) store(dst + w * kLanes, load(src + w * g.channels));
        else
            for (long w = 0; w < image.width; w++)
                for (long c = 0; c < n; c++) dst[w * kLanes + c] = read(src[w * g.channels + c]);
    }
}

template <class T>
void unpack_row(const Geometry& g, const float* row, long columns, long padding,
                const Image<T>& image, long b, long h) {
    for (long block = 0; block < g.blocks; block++) {
        const float* src = row + (block * columns + padding) * kLanes;
        T* dst = image.at(b, first_channel(g, block), h);
        long n = lanes(g, block);
        if (!image.channels_last)
            transpose(src, kLanes, dst, image.channel_step(), image.width, n);
        else if (n == kLanes)
            for (long w = 0; w < image.width; w++) store(dst + w * g.channels, load(src + w * kLanes));
        else
            for (long w = 0; w < image.width; w++)
                for (long c = 0; c < n; c++) write(dst + w * g.channels + c, src[w * kLanes + c]);
    }
}

// ---- The three inner loops. K is known to the compiler for 3, 5 and 7 and 0 otherwise; Unit
// ---- means stride 1 and dilation 1, where neighbouring pixels share the columns they read.

#define UNROLL _Pragma("GCC unroll 32")

// out[p] = sum of weight[p, i, j] * x[i, stride*p + dilation*j] for R neighbouring pixels.
template <int K, bool Unit, int R>
inline void forward_pixels(const Geometry& g, const float* x, long x_row, const float* weight,
                           long weight_step, float* out) {
    const long size = K ? K : g.kernel;
    Vector sum[R] = {};
    for (long i = 0; i < size; i++, x += x_row, weight += size) {
        if constexpr (Unit && K > 0) {
            UNROLL for (int t = 0; t < R + K - 1; t++) {
                Vector column = load(x + t * kLanes);
                UNROLL for (int r = 0; r < R; r++)
                    if (r <= t && t < r + K) sum[r] += column * weight[r * weight_step + t - r];
            }
        } else {
            for (long j = 0; j < size; j++)
                UNROLL for (int r = 0; r < R; r++)
                    sum[r] += load(x + (g.stride * r + g.dilation * j) * kLanes) *
                              weight[r * weight_step + j];
        }
    }
    UNROLL for (int r = 0; r < R; r++) store(out + r * kLanes, sum[r]);
}

// x_gradient[stride*p + dilation*j] += weight[p, j] * gradient[p] for one kernel row.
template <int K, bool Unit, int R>
inline void scatter_pixels(const Geometry& g, const float* gradient, const float* weight,
                           long weight_step, float* x_gradient) {
    const long size = K ? K : g.kernel;
    Vector pixel[R];
    UNROLL for (int r = 0; r < R; r++) pixel[r] = load(gradient + r * kLanes);
    if constexpr (Unit && K > 0) {
        UNROLL for (int t = 0; t < R + K - 1; t++) {
            Vector column = load(x_gradient + t * kLanes);
            UNROLL for (int r = 0; r < R; r++)
                if (r <= t && t < r + K) column += pixel[r] * weight[r * weight_step + t - r];
            store(x_gradient + t * kLanes, column);
        }
    } else {
        for (long j = 0; j < size; j++)
            UNROLL for (int r = 0; r < R; r++) {
                float* column = x_gradient + (g.stride * r + g.dilation * j) * kLanes;
                store(column, load(column) + pixel[r] * weight[r * weight_step + j]);
            }
    }
}

// Sums of the 4-lane quarters of four vectors, vector by vector.
inline Vector quarter_sums(const Vector* v) {
#define PICK(a, b, x, y)                                                                      \
    __builtin_shufflevector(a, b, x, y, 16 + x, 16 + y, 4 + x, 4 + y, 20 + x, 20 + y, 8 + x,   \
                            8 + y, 24 + x, 24 + y, 12 + x, 12 + y, 28 + x, 28 + y)
    Vector first = PICK(v[0], v[1], 0, 2) + PICK(v[0], v[1], 1, 3);
    Vector second = PICK(v[2], v[3], 0, 2) + PICK(v[2], v[3], 1, 3);
    Vector sums = PICK(first, second, 0, 2) + PICK(first, second, 1, 3);
    return __builtin_shufflevector(sums, sums, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
#undef PICK
}

#define PART(v, q) __builtin_shufflevector(v, v, 4 * q, 4 * q + 1, 4 * q + 2, 4 * q + 3)
#define QUARTER(v, q)                                                                          \
    __builtin_shufflevector(v, v, 4 * q, 4 * q + 1, 4 * q + 2, 4 * q + 3, 4 * q, 4 * q + 1,     \
                            4 * q + 2, 4 * q + 3, 4 * q, 4 * q + 1, 4 * q + 2, 4 * q + 3,       \
                            4 * q, 4 * q + 1, 4 * q + 2, 4 * q + 3)


// weight_gradient[i, j] = sum over channels of gradient * x[i, j] for one pixel and group.
// x is stored in quarters (block, quarter, column, 4): one vector holds 4 columns of 4 channels.
template <int K>
inline void weight_pixel(const Geometry& g, const float* x, long x_row, long quarter,
                         const float* gradient, float* weight_gradient) {
    const int size = K ? K : int(g.kernel), chunks = (size + 3) / 4, total = size * chunks;
    constexpr int kBatch = K ? (K * ((K + 3) / 4) + 3) / 4 * 4 : 4;
    for (int start = 0; start < total; start += kBatch) {
        Vector sums[kBatch] = {};
        for (long block = 0; block < g.blocks_per_group; block++) {
            const Vector pixel = load(gradient + block * g.out_width * kLanes);
            const Vector quarters[4] = {QUARTER(pixel, 0), QUARTER(pixel, 1), QUARTER(pixel, 2),
                                        QUARTER(pixel, 3)};
            UNROLL for (int n = 0; n < kBatch; n++) {
                const int i = (start + n) / chunks, chunk = (start + n) % chunks;
                if (start + n < total) {
                    const float* column = x + i * x_row + 4 * block * quarter + chunk * kLanes;
                    UNROLL for (int q = 0; q < 4; q++)
                        sums[n] += load(column + q * quarter) * quarters[q];
                }
            }
        }
        UNROLL for (int n = 0; n < kBatch; n += 4) {
            const Vector four = quarter_sums(sums + n);
            const Quad parts[4] = {PART(four, 0), PART(four, 1), PART(four, 2), PART(four, 3)};
            UNROLL for (int m = 0; m < 4; m++) {
                const int i = (start + n + m) / chunks, chunk = (start + n + m) % chunks;
                float* target = weight_gradient + i * size + 4 * chunk;
                // A chunk may spill into the next row's taps, which are written after it: all
                // but the very last one, which would write to another pixel.
                if (start + n + m + 1 < total) store4(target, parts[m]);
                else if (start + n + m < total)
                    for (int j = 0; j < size - 4 * chunk; j++) target[j] = parts[m][j];
            }
        }
    }
}

// ---- Rows of one image: forward, backward.

float* scratch(size_t floats) {  // grows, is reused by the next call, and ends with its thread
    struct Buffer {
        float* data = nullptr;
        size_t size = 0;
        ~Buffer() { free(data); }
    };
    static thread_local Buffer buffer;
    if (buffer.size < floats) {
        free(buffer.data);
        size_t bytes = (floats * sizeof(float) + 4095) & ~size_t(4095);
        buffer.data = static_cast<float*>(aligned_alloc(64, bytes));
        buffer.size = floats;
    }
    return buffer.data;
}

template <int R, class Body>
inline void for_pixels(long width, long start, Body&& body) {
    for (; start + R <= width; start += R) body.template operator()<R>(start);
    if constexpr (R > 1) for_pixels<R / 2>(width, start, body);
}
template <class Body>
inline void for_pixels(long width, Body&& body) {  // 7, 14, 28 and 56 are multiples of 7
    if (kPixels == 8 && width % 8 && width % 7 == 0)
        for (long p = 0; p < width; p += 7) body.template operator()<7>(p);
    else for_pixels<kPixels>(width, 0, body);
}

template <int K, bool Unit>
void forward_row(const Geometry& g, const float* x, long x_row, const float* weight, float* out) {
    const long weight_step = g.groups * g.taps;
    for (long block = 0; block < g.blocks; block++) {
        const float* block_x = x + block * g.padded_width * kLanes;
        const float* block_weight = weight + block / g.blocks_per_group * g.taps;
        float* block_out = out + block * g.out_width * kLanes;
        for_pixels(g.out_width, [&]<int R>(long p) {
            forward_pixels<K, Unit, R>(g, block_x + p * g.stride * kLanes, x_row,
                                       block_weight + p * weight_step, weight_step,
                                       block_out + p * kLanes);
        });
    }
}

template <int K, bool Unit>
void scatter_row(const Geometry& g, const float* gradient, const float* weight, float* x_gradient) {
    const long weight_step = g.groups * g.taps;
    for (long block = 0; block < g.blocks; block++) {
        const float* block_gradient = gradient + block * g.out_width * kLanes;
        const float* block_weight = weight + block / g.blocks_per_group * g.taps;
        float* block_x = x_gradient + block * g.padded_width * kLanes;
        for_pixels(g.out_width, [&]<int R>(long p) {
            scatter_pixels<K, Unit, R>(g, block_gradient + p * kLanes, block_weight + p * weight_step,
                                       weight_step, block_x + p * g.stride * kLanes);
        });
    }
}

template <int K>
void weight_row(const Geometry& g, const float* x, long x_row, long columns, const float* gradient,
                float* weight_gradient) {
    const long quarter = columns * 4, phase = columns / g.dilation;
    for (long p = 0; p < g.out_width; p++) {
        long column = g.stride * p;
        const float* pixel_x = x + (column % g.dilation * phase + column / g.dilation) * 4;
        for (long group = 0; group < g.groups; group++) {
            long block = group * g.blocks_per_group;
            weight_pixel<K>(g, pixel_x + 4 * block * quarter, x_row, quarter,
                            gradient + (block * g.out_width + p) * kLanes,
                            weight_gradient + (p * g.groups + group) * g.taps);
        }
    }
}

using ForwardRow = void (*)(const Geometry&, const float*, long, const float*, float*);
using ScatterRow = void (*)(const Geometry&, const float*, const float*, float*);
using WeightRow = void (*)(const Geometry&, const float*, long, long, const float*, float*);
struct Rows { ForwardRow forward; ScatterRow scatter; WeightRow weight; };

template <int K>
Rows rows_of(bool unit) {
    return unit ? Rows{forward_row<K, true>, scatter_row<K, true>, weight_row<K>}
                : Rows{forward_row<K, false>, scatter_row<K, false>, weight_row<K>};
}
Rows choose(const Geometry& g) {
    bool unit = g.stride == 1 && g.dilation == 1;
    if (g.kernel == 3) return rows_of<3>(unit);
    if (g.kernel == 5) return rows_of<5>(unit);
    if (g.kernel == 7) return rows_of<7>(unit);
    return rows_of<0>(false);
}

template <class T>
const float* weight_pointer(const Image<const T>& weight, long b, long h, float* buffer) {
    if constexpr (sizeof(T) == sizeof(float))
        if (weight.channels_last) return weight.at(b, 0, h);
    weight.read_row(b, h, buffer);
    return buffer;
}

template <class T>
void forward_task(const Geometry& g, Rows rows, Image<const T> x, Image<const T> weight,
                  Image<T> out, long b, long begin, long end) {
    const long x_row = g.blocks * g.padded_width * kLanes;
    const long top = begin * g.stride - g.padding;
    const long packed_rows = (end - 1 - begin) * g.stride + g.dilation * (g.kernel - 1) + 1;
    const long out_row = g.blocks * g.out_width * kLanes;
    float* packed = scratch(packed_rows * x_row + out_row + weight.width * weight.channels);
    float* sums = packed + packed_rows * x_row;
    for (long h = 0; h < packed_rows; h++)
        pack_row(g, x, b, top + h, packed + h * x_row, g.padded_width, g.padding);
    for (long h = begin; h < end; h++) {
        const float* kernels = weight_pointer(weight, b, h, sums + out_row);
        rows.forward(g, packed + (h - begin) * g.stride * x_row, g.dilation * x_row, kernels, sums);
        unpack_row(g, sums, g.out_width, 0, out, b, h);
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
    memset(packed, 0, packed_rows * x_row * sizeof(float));
    memset(sums, 0, (past - first) * wide_row * sizeof(float));
    for (long h = 0; h < packed_rows; h++) {
        if (top + h < 0 || top + h >= g.height) continue;
        pack_row(g, x, b, top + h, row, g.padded_width, g.padding);
        for (long block = 0; block < g.blocks; block++)
            for (long w = g.padding; w < g.padding + g.width; w++) {
                long column = w % g.dilation * phase + w / g.dilation;
                for (int q = 0; q < 4; q++)
                    store4(packed + h * x_row + ((4 * block + q) * columns + column) * 4,
                           load4(row + (block * g.padded_width + w) * kLanes + 4 * q));
            }
    }

    const long reach = g.dilation * (g.kernel - 1) - g.padding;
    long h = (first - reach) / g.stride > 0 ? (first - reach) / g.stride : 0;
    for (; h < g.out_height && h * g.stride - g.padding < past; h++) {
        pack_row(g, gradient, b, h, pixels, g.out_width, 0);
        const float* row_kernels = weight_pointer(weight, b, h, kernels);
        for (long i = 0; i < g.kernel; i++) {
            long target = h * g.stride - g.padding + g.dilation * i;
            if (target >= first && target < past)
                rows.scatter(g, pixels, row_kernels + i * g.kernel, sums + (target - first) * wide_row);
        }
        if (h < begin || h >= end) continue;
        const bool direct = sizeof(T) == sizeof(float) && weight_gradient.channels_last;
        float* result = direct ? (float*)weight_gradient.at(b, 0, h) : kernels + weight_size;
        rows.weight(g, packed + (h - begin) * g.stride * x_row, g.dilation * x_row, columns, pixels,
                    result);
        if (!direct) weight_gradient.write_row(b, h, result);
    }
    for (long q = first; q < past; q++)
        unpack_row(g, sums + (q - first) * wide_row, g.padded_width, g.padding, x_gradient, b, q);
}

// ---- Splitting the work. A task is a run of output rows of one image, at most about 512 KiB of
// ---- packed rows, and there are a few tasks for every thread where the image allows it.

template <class Task>
void for_tasks(const Geometry& g, long threads, Task&& task) {
    const long row_bytes = g.blocks * g.padded_width * kLanes * sizeof(float) * g.stride;
    long rows = (512L << 10) / row_bytes;
    const long wanted = (4 * threads + g.batch - 1) / g.batch;  // tasks of one image
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
    Geometry g = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7]};
    g.out_height = (g.height + g.stride - 1) / g.stride;
    g.out_width = (g.width + g.stride - 1) / g.stride;
    g.padding = g.dilation * (g.kernel / 2);
    g.padded_width = g.width + 2 * g.padding;
    g.blocks_per_group = (g.channels / g.groups + kLanes - 1) / kLanes;
    g.blocks = g.groups * g.blocks_per_group;
    g.taps = g.kernel * g.kernel;
    return g;
}

template <class T>
void forward(const Geometry& g, long formats, long threads, const void* x, const void* weight,
             void* out) {
    Image<const T> x_image{(const T*)x, g.channels, g.height, g.width, bool(formats & 1)};
    Image<const T> weights{(const T*)weight, g.groups * g.taps, g.out_height, g.out_width,
                           bool(formats & 2)};
    Image<T> output{(T*)out, g.channels, g.out_height, g.out_width, bool(formats & 1)};
    Rows rows = choose(g);
    for_tasks(g, threads, [&](long b, long begin, long end) {
        forward_task<T>(g, rows, x_image, weights, output, b, begin, end);
    });
}

template <class T>
void backward(const Geometry& g, long formats, long threads, const void* gradient, const void* x,
              const void* weight, void* x_gradient, void* weight_gradient) {
    bool x_last = formats & 1, weight_last = formats & 2;
    long q = g.groups * g.taps;
    Image<const T> grad{(const T*)gradient, g.channels, g.out_height, g.out_width, x_last};
    Image<const T> x_image{(const T*)x, g.channels, g.height, g.width, x_last};
    Image<const T> weights{(const T*)weight, q, g.out_height, g.out_width, weight_last};
    Image<T> x_grad{(T*)x_gradient, g.channels, g.height, g.width, x_last};
    Image<T> weight_grad{(T*)weight_gradient, q, g.out_height, g.out_width, weight_last};
    Rows rows = choose(g);
    for_tasks(g, threads, [&](long b, long begin, long end) {
        backward_task<T>(g, rows, grad, x_image, weights, x_grad, weight_grad, b, begin, end);
    });
}

}  // namespace

// sizes: batch, channels, height, width, groups, kernel, stride, dilation, memory formats
// (bit 0: input, output and their gradients channels-last; bit 1: weights), bfloat16, threads.
extern "C" void involution_forward(const int64_t* sizes, const void* x, const void* weight,
                                   void* out) {
    Geometry g = geometry(sizes);
    if (sizes[9]) forward<BFloat16>(g, sizes[8], sizes[10], x, weight, out);
    else forward<float>(g, sizes[8], sizes[10], x, weight, out);
}

extern "C" void involution_backward(const int64_t* sizes, const void* gradient, const void* x,
                                    const void* weight, void* x_gradient, void* weight_gradient) {
    Geometry g = geometry(sizes);
    if (sizes[9]) backward<BFloat16>(g, sizes[8], sizes[10], gradient, x, weight, x_gradient,
                                     weight_gradient);
    else backward<float>(g, sizes[8], sizes[10], gradient, x, weight, x_gradient, weight_gradient);
}
