// Vectors of 16 channels, torch's memory formats, and rows packed from one into the other.
// Included by the kernels of every operator.

#include <cstdint>
#include <cstdlib>
#include <cstring>

#define UNROLL _Pragma("GCC unroll 32")

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
#define PART(v, q) __builtin_shufflevector(v, v, 4 * q, 4 * q + 1, 4 * q + 2, 4 * q + 3)

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
        for (long j = 0; j < columns; j++)
            write(dst + j * dst_step + i, read(src[i * src_step + j]));
}
inline void transpose_tile(const float* src, long src_step, float* dst, long dst_step) {
    Quad a = load4(src), b = load4(src + src_step), c = load4(src + 2 * src_step),
         d = load4(src + 3 * src_step);
    Quad ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    Quad ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    Quad cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    Quad cd1 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    store4(dst, __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5));
    store4(dst + dst_step, __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7));
    store4(dst + 2 * dst_step, __builtin_shufflevector(ab1, cd1, 0, 1, 4, 5));
    store4(dst + 3 * dst_step, __builtin_shufflevector(ab1, cd1, 2, 3, 6, 7));
}
inline void transpose(const float* src, long src_step, float* dst, long dst_step, long rows,
                      long columns) {
    long full_rows = rows & ~3L, full_columns = columns & ~3L;
    if (src_step > dst_step)  // the side with the long steps is passed through once, in order
        for (long i = 0; i < full_rows; i += 4)
            for (long j = 0; j < full_columns; j += 4)
                transpose_tile(src + i * src_step + j, src_step, dst + j * dst_step + i, dst_step);
    else
        for (long j = 0; j < full_columns; j += 4)
            for (long i = 0; i < full_rows; i += 4)
                transpose_tile(src + i * src_step + j, src_step, dst + j * dst_step + i, dst_step);
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
    int64_t batch, channels, height, width, groups, kernel, stride, dilation;
    int64_t last, weight_last, bfloat16, threads;  // are the tensors channels-last?
    long out_height, out_width, padding, padded_width, blocks_per_group, blocks, taps;
};
constexpr int kGivenSizes = 12;  // the caller gives the first twelve, the rest follows from them

// A tensor (batch, channels, height, width), dense in one of torch's two memory formats.
template <class T>
struct Image {
    T* data;
    long channels, height, width;
    int64_t channels_last;

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
    const bool inside = h >= 0 && h < image.height;
    if (!inside || g.channels != g.blocks * kLanes)
        memset(row, 0, g.blocks * columns * kLanes * sizeof(float));
    if (!inside) return;
    for (long block = 0; block < g.blocks; block++) {
        const T* src = image.at(b, first_channel(g, block), h);
        float* dst = row + (block * columns + padding) * kLanes;
        const long n = lanes(g, block), margin = padding * kLanes * sizeof(float);
        memset(dst - padding * kLanes, 0, margin);
        memset(dst + image.width * kLanes, 0, margin);
        if (!image.channels_last)
            transpose(src, image.channel_step(), dst, kLanes, n, image.width);
        else if (n == kLanes)
            for (long w = 0; w < image.width; w++)
                store(dst + w * kLanes, load(src + w * g.channels));
        else
            for (long w = 0; w < image.width; w++)
                for (long c = 0; c < n; c++) dst[w * kLanes + c] = read(src[w * g.channels + c]);
    }
}

// One padded row to (block, quarter of its channels, columns, 4). Columns are in the order of
// their remainder by the dilation, `phase` places for each, so that taps are neighbours.
template <class T>
void pack_quarters(const Geometry& g, const Image<const T>& image, long b, long h, float* row,
                   long columns, long phase, float* buffer) {
    const bool inside = h >= 0 && h < image.height;
    if (!inside) {
        memset(row, 0, g.blocks * columns * kLanes * sizeof(float));
        return;
    }
    const bool direct = g.dilation == 1 && g.channels == g.blocks * kLanes && image.channels_last;
    if (!direct) pack_row(g, image, b, h, buffer, g.padded_width, g.padding);
    for (long block = 0; block < g.blocks; block++) {
        float* to = row + block * columns * kLanes;
        const auto put = [&](long place, Vector values) {
            store4(to + place * 4, PART(values, 0));
            store4(to + (columns + place) * 4, PART(values, 1));
            store4(to + (2 * columns + place) * 4, PART(values, 2));
            store4(to + (3 * columns + place) * 4, PART(values, 3));
        };
        if (direct) {
            const T* from = image.at(b, block * kLanes, h);
            for (long w = 0; w < g.padding; w++) {
                put(w, Vector{});
                put(g.padding + image.width + w, Vector{});
            }
            for (long w = 0; w < image.width; w++)
                put(g.padding + w, load(from + w * g.channels));
        } else {
            const float* from = buffer + block * g.padded_width * kLanes;
            for (long start = 0; start < g.dilation; start++)
                for (long w = start, place = start * phase; w < g.padded_width; w += g.dilation)
                    put(place++, load(from + w * kLanes));
        }
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
            for (long w = 0; w < image.width; w++)
                store(dst + w * g.channels, load(src + w * kLanes));
        else
            for (long w = 0; w < image.width; w++)
                for (long c = 0; c < n; c++) write(dst + w * g.channels + c, src[w * kLanes + c]);
    }
}

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

}  // namespace
