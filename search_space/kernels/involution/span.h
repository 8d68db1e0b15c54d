// The K*K weights of each pixel, made of its features where they are used: a 1x1 convolution, row
// by row, whose output stays in the cache. Included by involution.cpp, after loops.h.

namespace {

#ifdef __AVX512F__
constexpr int kWide = 3;  // vectors of taps whose sums stay in registers, for kPixels pixels
#else
constexpr int kWide = 1;
#endif

// How kernels come from features: all planar, one image row after the other.
struct Span {
    const float* features;  // (batch, count, height, width) of the output
    const float* taps;      // (count, groups * K * K)
    const float* bias;      // (groups * K * K)
    long count;
};

// out[p, t] = bias[t] + sum over f of features[f, p] * taps[f, t] for R pixels, 16 V taps from t.
template <int R, int V>
inline void span_pixels(const Span& span, const float* features, long step, long total, long t,
                        float* out) {
    Vector sum[R][V];
    UNROLL for (int v = 0; v < V; v++) {
        const Vector bias = load(span.bias + t + v * kLanes);
        UNROLL for (int r = 0; r < R; r++) sum[r][v] = bias;
    }
    const float* taps = span.taps + t;
    for (long f = 0; f < span.count; f++, features += step, taps += total) {
        Vector tap[V];
        UNROLL for (int v = 0; v < V; v++) tap[v] = load(taps + v * kLanes);
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int v = 0; v < V; v++) sum[r][v] += tap[v] * features[r];
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++) store(out + r * total + t + v * kLanes, sum[r][v]);
}

// One row of kernels to (pixel, groups * K * K), as `forward_row` reads them.
void span_row(const Geometry& g, const Span& span, long b, long h, float* out) {
    const long total = g.groups * g.taps, step = g.out_height * g.out_width;
    const float* features = span.features + b * span.count * step + h * g.out_width;
    const auto run = [&]<int V>(long t) {
        for_pixels(g.out_width, [&]<int R>(long p) {
            span_pixels<R, V>(span, features + p, step, total, t, out + p * total);
        });
    };
    if (total < kLanes) {
        for (long p = 0; p < g.out_width; p++)
            for (long t = 0; t < total; t++) {
                float sum = span.bias[t];
                for (long f = 0; f < span.count; f++)
                    sum += features[f * step + p] * span.taps[f * total + t];
                out[p * total + t] = sum;
            }
        return;
    }
    long t = 0;
    for (; t + kWide * kLanes <= total; t += kWide * kLanes) run.template operator()<kWide>(t);
    for (; t < total; t += kLanes)  // the last begins earlier and computes some taps again
        run.template operator()<1>(t + kLanes <= total ? t : total - kLanes);
}

}  // namespace
