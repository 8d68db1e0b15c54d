// The inner loops of involution over one row of pixels: output, input gradient, weight gradient.
// Included by involution.cpp, after layout.h.
//
// K is known to the compiler for 3, 5 and 7, and 0 otherwise. Unit means stride 1 and dilation 1,
// where neighbouring pixels share the columns they read.

namespace {

// Keeps a pointer in a register of its own. Left alone, the compiler turns "pointer r, offset j"
// into R * K addresses, more than there are registers.
#define OPAQUE(pointer) asm("" : "+r"(pointer))

// out[p] = sum of weight[p, i, j] * x[i, stride*p + dilation*j] for R neighbouring pixels.
template <int K, bool Unit, int R>
inline void forward_pixels(const Geometry& g, const float* x, long x_row, const float* weight,
                           long weight_step, float* out, long out_step) {
    const long size = K ? K : g.kernel;
    Vector sum[R] = {};
    const float* taps[R];
    UNROLL for (int r = 0; r < R; r++) taps[r] = weight + r * weight_step;
    for (long i = 0; i < size; i++, x += x_row) {
        UNROLL for (int r = 0; r < R; r++) OPAQUE(taps[r]);
        if constexpr (Unit && K > 0) {
            UNROLL for (int t = 0; t < R + K - 1; t++) {
                Vector column = load(x + t * kLanes);
                UNROLL for (int r = 0; r < R; r++)
                    if (r <= t && t < r + K) sum[r] += column * taps[r][t - r];
            }
        } else {
            for (long j = 0; j < size; j++)
                UNROLL for (int r = 0; r < R; r++)
                    sum[r] += load(x + (g.stride * r + g.dilation * j) * kLanes) * taps[r][j];
        }
        UNROLL for (int r = 0; r < R; r++) taps[r] += size;
    }
    UNROLL for (int r = 0; r < R; r++) store(out + r * out_step, sum[r]);
}

// x_gradient[i, stride*p + dilation*j] += weight[p, i, j] * gradient[p] for `rows` kernel rows.
template <int K, bool Unit, int R>
inline void scatter_pixels(const Geometry& g, const float* gradient, long step,
                           const float* weight, long weight_step, float* x_gradient, long x_row, long rows) {
    const long size = K ? K : g.kernel;
    Vector pixel[R];
    const float* taps[R];
    UNROLL for (int r = 0; r < R; r++) {
        pixel[r] = load(gradient + r * step);
        taps[r] = weight + r * weight_step;
    }
    for (long i = 0; i < rows; i++, x_gradient += x_row) {
        UNROLL for (int r = 0; r < R; r++) OPAQUE(taps[r]);
        if constexpr (Unit && K > 0) {
            UNROLL for (int t = 0; t < R + K - 1; t++) {
                Vector column = load(x_gradient + t * kLanes);
                UNROLL for (int r = 0; r < R; r++)
                    if (r <= t && t < r + K) column += pixel[r] * taps[r][t - r];
                store(x_gradient + t * kLanes, column);
            }
        } else {
            for (long j = 0; j < size; j++)
                UNROLL for (int r = 0; r < R; r++) {
                    float* column = x_gradient + (g.stride * r + g.dilation * j) * kLanes;
                    store(column, load(column) + pixel[r] * taps[r][j]);
                }
        }
        UNROLL for (int r = 0; r < R; r++) taps[r] += size;
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
    return __builtin_shufflevector(sums, sums, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11,
                                   15);
#undef PICK
}

#define QUARTER(v, q)                                                                          \
    __builtin_shufflevector(v, v, 4 * q, 4 * q + 1, 4 * q + 2, 4 * q + 3, 4 * q, 4 * q + 1,     \
                            4 * q + 2, 4 * q + 3, 4 * q, 4 * q + 1, 4 * q + 2, 4 * q + 3,       \
                            4 * q, 4 * q + 1, 4 * q + 2, 4 * q + 3)

// weight_gradient[i, j] = sum over channels of gradient * x[i, j] for one pixel and group.
// x is stored in quarters (block, quarter, column, 4): one vector holds 4 columns of 4 channels.
template <int K>
[[gnu::always_inline]] inline void weight_pixel(const Geometry& g, const float* x, long x_row,
                                                long quarter, const float* gradient,
                                                long gradient_block, float* weight_gradient) {
    const int size = K ? K : int(g.kernel), chunks = (size + 3) / 4, total = size * chunks;
    constexpr int kBatch = K ? (K * ((K + 3) / 4) + 3) / 4 * 4 : 4;
    for (int start = 0; start < total; start += kBatch) {
        Vector sums[kBatch] = {};
        for (long block = 0; block < g.blocks_per_group; block++) {
            const Vector pixel = load(gradient + block * gradient_block);
            const Vector quarters[4] = {QUARTER(pixel, 0), QUARTER(pixel, 1), QUARTER(pixel, 2),
                                        QUARTER(pixel, 3)};
            UNROLL for (int q = 0; q < 4; q++) {
                const float* columns = x + (4 * block + q) * quarter;
                OPAQUE(columns);
                UNROLL for (int n = 0; n < kBatch; n++) {
                    const int i = (start + n) / chunks, chunk = (start + n) % chunks;
                    if (start + n < total)
                        sums[n] += load(columns + i * x_row + chunk * kLanes) * quarters[q];
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

// The weights are most of the memory traffic and are read group by group, in an order that the
// processor does not foresee: while a row is worked on, the same place of the next is fetched.
inline void prefetch(const float* row, long floats) {
    for (long i = 0; i < floats; i += 16) __builtin_prefetch(row + i, 0, 2);
}

// out, gradient: block b of pixel p begins at out + b * out_block + p * out_step.
template <int K, bool Unit>
void forward_row(const Geometry& g, const float* x, long x_row, const float* weight, float* out,
                 long out_block, long out_step) {
    const long weight_step = g.groups * g.taps, share = weight_step / g.blocks;
    for (long block = 0; block < g.blocks; block++) {
        const float* block_x = x + block * g.padded_width * kLanes;
        const float* block_weight = weight + block / g.blocks_per_group * g.taps;
        const float* next = weight + g.out_width * weight_step + block * g.out_width * share;
        float* block_out = out + block * out_block;
        for_pixels(g.out_width, [&]<int R>(long p) {
            prefetch(next + p * share, R * share);
            forward_pixels<K, Unit, R>(g, block_x + p * g.stride * kLanes, x_row,
                                       block_weight + p * weight_step, weight_step,
                                       block_out + p * out_step, out_step);
        });
    }
}

template <int K, bool Unit>
void scatter_row(const Geometry& g, const float* gradient, long gradient_block, long step,
                 const float* weight, float* x_gradient, long x_row, long rows) {
    const long weight_step = g.groups * g.taps, share = weight_step / g.blocks;
    for (long block = 0; block < g.blocks; block++) {
        const float* block_gradient = gradient + block * gradient_block;
        const float* block_weight = weight + block / g.blocks_per_group * g.taps;
        const float* next = weight + g.out_width * weight_step + block * g.out_width * share;
        float* block_x = x_gradient + block * g.padded_width * kLanes;
        for_pixels(g.out_width, [&]<int R>(long p) {
            prefetch(next + p * share, R * share);
            scatter_pixels<K, Unit, R>(g, block_gradient + p * step, step,
                                       block_weight + p * weight_step, weight_step,
                                       block_x + p * g.stride * kLanes, x_row, rows);
        });
    }
}

template <int K>
void weight_row(const Geometry& g, const float* x, long x_row, long columns, const float* gradient,
                long gradient_block, long step, float* weight_gradient) {
    const long quarter = columns * 4, phase = columns / g.dilation;
    for (long group = 0; group < g.groups; group++) {
        const long block = group * g.blocks_per_group;
        for (long p = 0; p < g.out_width; p++) {
            const long column = g.stride * p;
            const long place = g.dilation == 1  // a division costs as much as a pixel
                                   ? column
                                   : column % g.dilation * phase + column / g.dilation;
            float* result = weight_gradient + (p * g.groups + group) * g.taps;
            const long next = (g.groups + group) * g.out_width + p;
            prefetch(weight_gradient + next * g.taps, g.taps);
            weight_pixel<K>(g, x + 4 * (block * quarter + place), x_row, quarter,
                            gradient + block * gradient_block + p * step, gradient_block, result);
        }
    }
}

using ForwardRow = void (*)(const Geometry&, const float*, long, const float*, float*, long, long);
using ScatterRow = void (*)(const Geometry&, const float*, long, long, const float*, float*, long,
                            long);
using WeightRow = void (*)(const Geometry&, const float*, long, long, const float*, long, long,
                           float*);
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

}  // namespace
