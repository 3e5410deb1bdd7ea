// Frozen convolutions over pixels [B, h, w, C] as one product on tensor cores (implicit GEMM), and their input gradients,
// which are convolutions too: of the output's gradient with turned filters.
#include "common.cuh"

/// What is convolved, and how.
struct Convolving {
    int batch, height, width, channels; // the source
    int rows, columns, out;             // the result
    int size, stride, padding;          // the window
    int tall, wide;                     // what the window moves over: the source, doubled or spread
    int doubled;                        // each source pixel stands for two by two
    int spread;                         // source pixels lie so far apart, zeros between them
    int steps;                          // pieces of the depth that a block takes
};

constexpr int PIXELS = 128, OUTS = 64, THREADS = 128, STAGES = 3;
constexpr int DEPTH_BYTES = 64;           // of a row of a piece
constexpr int PITCH = DEPTH_BYTES + 16;   // rows of a matrix begin in different banks
constexpr int STAGE = (PIXELS + OUTS) * PITCH;

/// The source pixel of sample `b` that place (u, v) of the window's plane shows; negative if there is a zero.
__device__ __forceinline__ int source_pixel(const Convolving &c, int b, int u, int v) {
    if (u < 0 || v < 0 || u >= c.tall || v >= c.wide) return -1;
    if (c.doubled) u /= 2, v /= 2;
    if (c.spread > 1) {
        if (u % c.spread || v % c.spread) return -1;
        u /= c.spread, v /= c.spread;
    }
    return (b * c.height + u) * c.width + v;
}

/// How products are made of numbers of type T.
template <class T, bool EXACT> struct Product;
template <> struct Product<bf16, false> {
    static __device__ __forceinline__ void add(float c[4], const unsigned a[4], const unsigned b[2]) { mma(c, a, b); }
};
template <> struct Product<float, false> {
    static __device__ __forceinline__ void add(float c[4], const unsigned a[4], const unsigned b[2]) {
        unsigned left[4], right[2];
        for (int i = 0; i < 4; i++) left[i] = __float_as_uint(tf32(__uint_as_float(a[i])));
        for (int i = 0; i < 2; i++) right[i] = __float_as_uint(tf32(__uint_as_float(b[i])));
        mma_tf32(c, left, right);
    }
};
/// Each number as the sum of two of TF32, of which the product of the smaller parts is left out: f32 but for its last bits.
/// Tensor cores cut what they add off, always towards 0: only a few products are theirs to sum.
template <> struct Product<float, true> {
    static __device__ __forceinline__ void add(float c[4], const unsigned a[4], const unsigned b[2]) {
        unsigned left[2][4], right[2][2];
        split<4>(left, a);
        split<2>(right, b);
        float sum[4] = {};
        mma_tf32(sum, left[1], right[0]);
        mma_tf32(sum, left[0], right[1]);
        mma_tf32(sum, left[0], right[0]);
        for (int i = 0; i < 4; i++) c[i] += sum[i];
    }
    template <int N> static __device__ __forceinline__ void split(unsigned parts[2][N], const unsigned *x) {
        for (int i = 0; i < N; i++) {
            float whole = __uint_as_float(x[i]), large = tf32(whole);
            parts[0][i] = __float_as_uint(large);
            parts[1][i] = __float_as_uint(tf32(whole - large));
        }
    }
};

/// The normed value of channel `at` of a sample, after its SiLU.
__device__ __forceinline__ float normed(float x, const float *gain, const float *shift, int at) {
    float z = x * gain[at] + shift[at];
    return z * sigmoid(z);
}

/// y [B, rows, columns, out] = filters [out, size, size, C] over x [B, h, w, C], plus bias `[out]`, shift [B, out] and
/// residual, of y's shape, each if there is one. NORMED: x is silu(x gain + lift) with `line` [B, 2, C], gains and lifts.
/// With `parts` [gridDim.z, B rows columns, out], each block only sums `steps` pieces of the depth, to be added later.
/// Grid (pixels / 128, out / 64, pieces / steps), blocks of 128; shared 3 stages.
template <class T, bool EXACT, bool NORMED>
__device__ void convolve(const T *x, const float *line, const T *filters, const float *bias, const float *shift,
                         const T *residual, T *y, float *parts, const Convolving &c) {
    constexpr int EACH = 16 / sizeof(T), DEPTH = DEPTH_BYTES / sizeof(T), LOADS = PIXELS * 4 / THREADS;
    DYNAMIC_SHARED(memory);
    const int area = c.rows * c.columns, pixels = c.batch * area, depth = c.size * c.size * c.channels;
    const int first_pixel = blockIdx.x * PIXELS, first_out = blockIdx.y * OUTS;
    const int chunk = threadIdx.x % 4 * EACH; // of the depth, which this thread loads
    const bool vectors = c.channels % EACH == 0;
    const int first_step = blockIdx.z * c.steps, last_step = min(first_step + c.steps, (depth + DEPTH - 1) / DEPTH);

    // the pixels whose rows this thread loads
    int sample[LOADS], top[LOADS], left[LOADS];
    for (int i = 0; i < LOADS; i++) {
        int pixel = first_pixel + threadIdx.x / 4 + i * (THREADS / 4);
        sample[i] = pixel < pixels ? pixel / area : -1;
        top[i] = pixel % area / c.columns * c.stride - c.padding;
        left[i] = pixel % c.columns * c.stride - c.padding;
    }

    uint4 waiting[LOADS]; // values that are normed between their load and their place in shared memory
    int from[LOADS];      // where they come from: the sample and the first channel; negative for zeros
    auto number = [&](int i, int k) -> T { // value k of the depth of row i
        T zero = 0;
        if (sample[i] < 0 || k >= depth) return zero;
        int tap = k / c.channels, channel = k % c.channels;
        int pixel = source_pixel(c, sample[i], top[i] + tap / c.size, left[i] + tap % c.size);
        if (pixel < 0) return zero;
        T value = x[size_t(pixel) * c.channels + channel];
        if (NORMED) {
            const float *gain = line + size_t(sample[i]) * 2 * c.channels;
            store(value, normed(wide(value), gain, gain + c.channels, channel));
        }
        return value;
    };
    auto load = [&](int step) {
        char *stage = memory + step % STAGES * STAGE;
        int k = step * DEPTH + chunk, tap = k / c.channels, channel = k % c.channels;
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            int row = threadIdx.x / 4 + i * (THREADS / 4);
            char *to = stage + row * PITCH + threadIdx.x % 4 * 16;
            if (!vectors) {
#pragma unroll 1
                for (int e = 0; e < EACH; e++) reinterpret_cast<T *>(to)[e] = number(i, k + e);
                continue;
            }
            bool inside = sample[i] >= 0 && k < depth;
            int pixel = inside ? source_pixel(c, sample[i], top[i] + tap / c.size, left[i] + tap % c.size) : -1;
            const T *at = pixel < 0 ? x : x + size_t(pixel) * c.channels + channel;
            if (NORMED) {
                from[i] = pixel < 0 ? -1 : sample[i] * 2 * c.channels + channel;
                if (pixel >= 0) waiting[i] = *reinterpret_cast<const uint4 *>(at);
            } else {
                copy_async(to, at, pixel >= 0);
            }
        }
        stage += PIXELS * PITCH;
#pragma unroll
        for (int i = 0; i < OUTS * 4 / THREADS; i++) {
            int row = threadIdx.x / 4 + i * (THREADS / 4), out = first_out + row;
            char *to = stage + row * PITCH + threadIdx.x % 4 * 16;
            bool there = out < c.out && k < depth;
            const T *at = there ? filters + size_t(out) * depth + k : filters;
            if (vectors) {
                copy_async(to, at, there);
                continue;
            }
#pragma unroll 1
            for (int e = 0; e < EACH; e++) {
                T zero = 0;
                reinterpret_cast<T *>(to)[e] = there && k + e < depth ? at[e] : zero;
            }
        }
    };
    auto norm = [&](int step) {
        if (!NORMED || !vectors) return;
        char *stage = memory + step % STAGES * STAGE;
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            uint4 values = {0, 0, 0, 0};
            if (from[i] >= 0) {
                values = waiting[i];
                T *each = reinterpret_cast<T *>(&values);
#pragma unroll
                for (int e = 0; e < EACH; e++) store(each[e], normed(wide(each[e]), line, line + c.channels, from[i] + e));
            }
            int row = threadIdx.x / 4 + i * (THREADS / 4);
            *reinterpret_cast<uint4 *>(stage + row * PITCH + threadIdx.x % 4 * 16) = values;
        }
    };

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, place = lane % 4;
    const int warp_pixel = warp / 2 * 64, warp_out = warp % 2 * 32;
    const int2 left_at = left_row(lane), right_at = right_row(lane);
    float sums[4][4][4] = {};
#pragma unroll 1
    for (int ahead = 0; ahead < STAGES - 1; ahead++) {
        if (first_step + ahead < last_step) load(first_step + ahead), norm(first_step + ahead);
        copies_are_a_group();
    }
    for (int step = first_step; step < last_step; step++) {
        wait_for_groups_but<STAGES - 2>();
        __syncthreads(); // what was read a step ago may be written from here on
        bool more = step + STAGES - 1 < last_step;
        if (more) load(step + STAGES - 1);
        copies_are_a_group();
        const char *stage = memory + step % STAGES * STAGE;
#pragma unroll
        for (int half = 0; half < DEPTH_BYTES; half += 32) {
            unsigned a[4][4], b[2][4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                load_matrices(a[i], stage + (warp_pixel + i * 16 + left_at.x) * PITCH + half + left_at.y);
#pragma unroll
            for (int j = 0; j < 2; j++)
                load_matrices(b[j], stage + (PIXELS + warp_out + j * 16 + right_at.x) * PITCH + half + right_at.y);
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) Product<T, EXACT>::add(sums[i][j], a[i], b[j / 2] + j % 2 * 2);
        }
        if (more) norm(step + STAGES - 1);
    }

#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int pixel = first_pixel + warp_pixel + i * 16 + group + 8 * h;
            if (pixel >= pixels) continue;
            size_t row = size_t(pixel) * c.out;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int out = first_out + warp_out + j * 8 + 2 * place;
                float values[2] = {sums[i][j][2 * h], sums[i][j][2 * h + 1]};
                for (int e = 0; e < 2; e++) {
                    if (out + e >= c.out || parts) continue;
                    if (bias) values[e] += bias[out + e];
                    if (shift) values[e] += shift[size_t(pixel / area) * c.out + out + e];
                    if (residual) values[e] += wide(residual[row + out + e]);
                }
                if (parts) {
                    float *to = parts + size_t(blockIdx.z) * pixels * c.out + row + out;
                    for (int e = 0; e < 2; e++)
                        if (out + e < c.out) to[e] = values[e];
                } else if (out + 1 < c.out && c.out % 2 == 0) {
                    store2(y + row + out, values[0], values[1]);
                } else {
                    for (int e = 0; e < 2; e++)
                        if (out + e < c.out) store(y[row + out + e], values[e]);
                }
            }
        }
}

/// What `convolve` left in `count` parts, added in their order, with everything that it adds. One thread a value.
template <class T>
__device__ void add_parts(const float *parts, int count, const float *bias, const float *shift, const T *residual, T *y,
                          int pixels, int area, int outs) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x, all = size_t(pixels) * outs;
    if (i >= all) return;
    float sum = 0;
    for (int part = 0; part < count; part++) sum += parts[part * all + i];
    if (bias) sum += bias[i % outs];
    if (shift) sum += shift[i / outs / area * outs + i % outs];
    if (residual) sum += wide(residual[i]);
    store(y[i], sum);
}

/// The sums over the two by two pixels of x [B, tall, wide, C] that each pixel of y [B, h, w, C] stood for; the last
/// ones may lack their second line or column. One thread a value.
template <class T> __device__ void halve(const T *x, T *y, int batch, int height, int width, int channels, int tall, int wide_) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= size_t(batch) * height * width * channels) return;
    int channel = i % channels, v = i / channels % width, u = i / channels / width % height;
    int sample = i / channels / width / height;
    float sum = 0;
    for (int line = 2 * u; line < min(2 * u + 2, tall); line++)
        for (int column = 2 * v; column < min(2 * v + 2, wide_); column++)
            sum += wide(x[((size_t(sample) * tall + line) * wide_ + column) * channels + channel]);
    store(y[i], sum);
}

#define CONVOLVE(T, EXACT, name)                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        convolve_##name(const T *x, const T *filters, const float *bias, const float *shift, const T *residual, T *y, \
                        float *parts, Convolving c) {                                                                 \
        convolve<T, EXACT, false>(x, nullptr, filters, bias, shift, residual, y, parts, c);                           \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
        convolve_normed_##name(const T *x, const float *line, const T *filters, const float *bias, const float *shift, \
                               const T *residual, T *y, float *parts, Convolving c) {                                 \
        convolve<T, EXACT, true>(x, line, filters, bias, shift, residual, y, parts, c);                               \
    }
CONVOLVE(bf16, false, bf16)
CONVOLVE(float, false, tf32)
CONVOLVE(float, true, f32)

#define AFTER(T, name)                                                                                                \
    extern "C" __global__ void add_parts_##name(const float *parts, int count, const float *bias, const float *shift, \
                                                const T *residual, T *y, int pixels, int area, int outs) {            \
        add_parts(parts, count, bias, shift, residual, y, pixels, area, outs);                                        \
    }                                                                                                                 \
    extern "C" __global__ void halve_##name(const T *x, T *y, int batch, int height, int width, int channels,         \
                                            int tall, int wide) {                                                     \
        halve(x, y, batch, height, width, channels, tall, wide);                                                      \
    }
AFTER(bf16, bf16)
AFTER(float, f32)
