// Frozen group normalisation of pixels [B, N, C] with its SiLU, layer normalisation of rows, and their input gradients.
#include "common.cuh"

/// What a group normalisation is told beside its values.
struct Norming {
    int pixels, channels, groups; // of a sample
    int rows;                     // pixels of a part: sums go through parts in a fixed order
    float eps;
    int silu;
};

/// Mean of each channel of a part's pixels and the sum of the squares of what differs from it: moments [B, parts, 2, C].
/// Grid (parts, B).
template <class T> __device__ void moments(const T *x, float *to, const Norming &n) {
    int first = blockIdx.x * n.rows, count = min(n.rows, n.pixels - first);
    x += (size_t(blockIdx.y) * n.pixels + first) * n.channels;
    to += (size_t(blockIdx.y) * gridDim.x + blockIdx.x) * 2 * n.channels;
    for (int c = threadIdx.x; c < n.channels; c += blockDim.x) {
        // differences to the first value: sums of squares alone would lose all digits where the mean is large
        float origin = wide(x[c]), sum = 0, squares = 0;
        for (int i = 1; i < count; i++) {
            float d = wide(x[size_t(i) * n.channels + c]) - origin;
            sum += d;
            squares += d * d;
        }
        to[c] = origin + sum / count;
        to[n.channels + c] = squares - sum * sum / count;
    }
}

/// Mean and 1 / sqrt(variance + eps) of each group: statistics [B, groups, 2]; and what they make of each channel:
/// line [B, 2, C], gains and lifts. A warp a group: grid (groups, B), blocks of 32.
extern "C" __global__ void group_line(const float *moments, int parts, const float *weight, const float *bias,
                                      float *statistics, float *line, Norming n) {
    int each = n.channels / n.groups, group = blockIdx.x, sample = blockIdx.y, lane = threadIdx.x;
    moments += size_t(sample) * parts * 2 * n.channels + group * each;
    auto rows = [&](int part) { return float(min(n.rows, n.pixels - part * n.rows)); };
    float sum = 0, squares = 0;
    for (int i = lane; i < parts * each; i += 32) sum += moments[size_t(i / each) * 2 * n.channels + i % each] * rows(i / each);
    float all = float(n.pixels) * each, mean = warp_sum(sum) / all;
    for (int i = lane; i < parts * each; i += 32) {
        const float *at = moments + size_t(i / each) * 2 * n.channels + i % each;
        squares += at[n.channels] + rows(i / each) * (at[0] - mean) * (at[0] - mean);
    }
    float inverse = 1 / sqrtf(warp_sum(squares) / all + n.eps);
    if (lane == 0) {
        float *to = statistics + (size_t(sample) * n.groups + group) * 2;
        to[0] = mean;
        to[1] = inverse;
    }
    line += size_t(sample) * 2 * n.channels;
    for (int i = lane; i < each; i += 32) {
        int c = group * each + i;
        line[c] = inverse * weight[c];
        line[n.channels + c] = bias[c] - mean * inverse * weight[c];
    }
}

/// y = x gain + lift, and its SiLU. Grid (parts, B).
template <class T> __device__ void group_apply(const T *x, const float *line, T *y, const Norming &n) {
    int first = blockIdx.x * n.rows, count = min(n.rows, n.pixels - first);
    size_t start = (size_t(blockIdx.y) * n.pixels + first) * n.channels;
    line += size_t(blockIdx.y) * 2 * n.channels;
    for (int i = threadIdx.x; i < count * n.channels; i += blockDim.x) {
        int c = i % n.channels;
        float z = wide(x[start + i]) * line[c] + line[n.channels + c];
        store(y[start + i], n.silu ? z * sigmoid(z) : z);
    }
}

/// The gradient of the normalised value from that of the result.
__device__ __forceinline__ float slope_of(float x, float dy, const float *line, const float *weight, int c, const Norming &n) {
    float d = dy * weight[c];
    if (!n.silu) return d;
    float z = x * line[c] + line[n.channels + c], s = sigmoid(z);
    return d * s * (1 + z * (1 - s));
}

/// The sums over a part's pixels of d and d (x - mean) of each channel, d the gradient of the normalised values:
/// sums [B, parts, 2, C]. Grid (parts, B).
template <class T>
__device__ void group_sums(const T *x, const T *dy, const float *statistics, const float *line, const float *weight,
                           float *sums, const Norming &n) {
    int first = blockIdx.x * n.rows, count = min(n.rows, n.pixels - first), each = n.channels / n.groups;
    size_t start = (size_t(blockIdx.y) * n.pixels + first) * n.channels;
    line += size_t(blockIdx.y) * 2 * n.channels;
    sums += (size_t(blockIdx.y) * gridDim.x + blockIdx.x) * 2 * n.channels;
    for (int c = threadIdx.x; c < n.channels; c += blockDim.x) {
        float mean = statistics[(size_t(blockIdx.y) * n.groups + c / each) * 2], sum = 0, product = 0;
        for (int i = 0; i < count; i++) {
            size_t at = start + size_t(i) * n.channels + c;
            float value = wide(x[at]), d = slope_of(value, wide(dy[at]), line, weight, c, n);
            sum += d;
            product += d * (value - mean);
        }
        sums[c] = sum;
        sums[n.channels + c] = product;
    }
}

/// What the sums make of each group: dx = d inverse - (x - mean) slope - constant; slopes [B, groups, 2].
/// A warp a group: grid (groups, B), blocks of 32.
extern "C" __global__ void group_slopes(const float *sums, int parts, const float *statistics, float *slopes, Norming n) {
    int each = n.channels / n.groups, group = blockIdx.x, sample = blockIdx.y;
    sums += size_t(sample) * parts * 2 * n.channels + group * each;
    float sum = 0, product = 0;
    for (int i = threadIdx.x; i < parts * each; i += 32) {
        const float *at = sums + size_t(i / each) * 2 * n.channels + i % each;
        sum += at[0];
        product += at[n.channels];
    }
    sum = warp_sum(sum);
    product = warp_sum(product);
    if (threadIdx.x) return;
    size_t at = (size_t(sample) * n.groups + group) * 2;
    float inverse = statistics[at + 1], all = float(n.pixels) * each;
    slopes[at] = product * inverse * inverse * inverse / all;
    slopes[at + 1] = sum * inverse / all;
}

/// dx [B, N, C]. Grid (parts, B).
template <class T>
__device__ void group_backward(const T *x, const T *dy, const float *statistics, const float *line, const float *weight,
                               const float *slopes, T *dx, const Norming &n) {
    int first = blockIdx.x * n.rows, count = min(n.rows, n.pixels - first), each = n.channels / n.groups;
    size_t start = (size_t(blockIdx.y) * n.pixels + first) * n.channels;
    line += size_t(blockIdx.y) * 2 * n.channels;
    statistics += size_t(blockIdx.y) * n.groups * 2;
    slopes += size_t(blockIdx.y) * n.groups * 2;
    for (int i = threadIdx.x; i < count * n.channels; i += blockDim.x) {
        int c = i % n.channels, group = c / each * 2;
        float value = wide(x[start + i]), d = slope_of(value, wide(dy[start + i]), line, weight, c, n);
        store(dx[start + i], d * statistics[group + 1] - (value - statistics[group]) * slopes[group] - slopes[group + 1]);
    }
}

/// Mean and 1 / sqrt(variance + eps) of a row, to all lanes of its warp.
template <class T> __device__ __forceinline__ float2 row_statistics(const T *x, int width, float eps, int lane) {
    float sum = 0, squares = 0;
    for (int c = lane; c < width; c += 32) sum += wide(x[c]);
    float mean = warp_sum(sum) / width;
    for (int c = lane; c < width; c += 32) {
        float d = wide(x[c]) - mean;
        squares += d * d;
    }
    return {mean, 1 / sqrtf(warp_sum(squares) / width + eps)};
}

/// y [rows, width] = (x - mean) / sqrt(variance + eps) weight + bias, row by row. A warp a row: grid (rows / 4), blocks of 128.
template <class T>
__device__ void layer(const T *x, const float *weight, const float *bias, T *y, int rows, int width, float eps) {
    int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    x += size_t(row) * width;
    float2 s = row_statistics(x, width, eps, lane);
    for (int c = lane; c < width; c += 32) store(y[size_t(row) * width + c], (wide(x[c]) - s.x) * s.y * weight[c] + bias[c]);
}

/// dx [rows, width], and `residual` added to it if there is one. As `layer`.
template <class T>
__device__ void layer_backward(const T *x, const T *dy, const float *weight, const T *residual, T *dx, int rows, int width, float eps) {
    int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    x += size_t(row) * width;
    dy += size_t(row) * width;
    float2 s = row_statistics(x, width, eps, lane);
    float sum = 0, product = 0;
    for (int c = lane; c < width; c += 32) {
        float d = wide(dy[c]) * weight[c];
        sum += d;
        product += d * (wide(x[c]) - s.x);
    }
    sum = warp_sum(sum) / width;
    product = warp_sum(product) * s.y * s.y / width;
    for (int c = lane; c < width; c += 32) {
        float d = (wide(dy[c]) * weight[c] - sum - (wide(x[c]) - s.x) * product) * s.y;
        store(dx[size_t(row) * width + c], residual ? d + wide(residual[size_t(row) * width + c]) : d);
    }
}

#define NORM(T, name)                                                                                                 \
    extern "C" __global__ void group_moments_##name(const T *x, float *to, Norming n) { moments(x, to, n); }          \
    extern "C" __global__ void group_apply_##name(const T *x, const float *line, T *y, Norming n) {                   \
        group_apply(x, line, y, n);                                                                                   \
    }                                                                                                                 \
    extern "C" __global__ void group_sums_##name(const T *x, const T *dy, const float *statistics, const float *line, \
                                                 const float *weight, float *sums, Norming n) {                       \
        group_sums(x, dy, statistics, line, weight, sums, n);                                                         \
    }                                                                                                                 \
    extern "C" __global__ void group_backward_##name(const T *x, const T *dy, const float *statistics,                \
                                                     const float *line, const float *weight, const float *slopes,     \
                                                     T *dx, Norming n) {                                              \
        group_backward(x, dy, statistics, line, weight, slopes, dx, n);                                               \
    }                                                                                                                 \
    extern "C" __global__ void layer_##name(const T *x, const float *weight, const float *bias, T *y, int rows,       \
                                            int width, float eps) {                                                   \
        layer(x, weight, bias, y, rows, width, eps);                                                                  \
    }                                                                                                                 \
    extern "C" __global__ void layer_backward_##name(const T *x, const T *dy, const float *weight, const T *residual, \
                                                     T *dx, int rows, int width, float eps) {                         \
        layer_backward(x, dy, weight, residual, dx, rows, width, eps);                                                \
    }
NORM(float, f32)
NORM(bf16, bf16)
