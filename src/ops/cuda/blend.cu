// The end of reference attention, a warp a row: grid (rows / 4), blocks of 128.
#include "common.cuh"

/// With [feature, m] = fused [rows, width + 1], m clamped to [0, 1]: y = x + m feature + (1 - m) own, and m itself.
template <class T> __device__ void blend(const T *fused, const T *own, const T *x, T *y, T *mask, int rows, int width) {
    int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    fused += size_t(row) * (width + 1);
    float m = fminf(fmaxf(wide(fused[width]), 0), 1);
    for (int c = lane; c < width; c += 32) {
        size_t at = size_t(row) * width + c;
        store(y[at], wide(x[at]) + wide(own[at]) + m * (wide(fused[c]) - wide(own[at])));
    }
    if (lane == 0) store(mask[row], m);
}

/// The gradients of fused and own; the clamp's is 1 on the closed interval.
template <class T>
__device__ void blend_backward(const T *fused, const T *own, const T *dy, T *d_fused, T *d_own, int rows, int width) {
    int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    fused += size_t(row) * (width + 1);
    d_fused += size_t(row) * (width + 1);
    float raw = wide(fused[width]), m = fminf(fmaxf(raw, 0), 1), sum = 0;
    for (int c = lane; c < width; c += 32) {
        size_t at = size_t(row) * width + c;
        float d = wide(dy[at]);
        store(d_fused[c], d * m);
        store(d_own[at], d * (1 - m));
        sum += d * (wide(fused[c]) - wide(own[at]));
    }
    sum = warp_sum(sum);
    if (lane == 0) store(d_fused[width], raw >= 0 && raw <= 1 ? sum : 0);
}

#define BLEND(T, name)                                                                                                \
    extern "C" __global__ void blend_##name(const T *fused, const T *own, const T *x, T *y, T *mask, int rows,        \
                                            int width) {                                                              \
        blend(fused, own, x, y, mask, rows, width);                                                                   \
    }                                                                                                                 \
    extern "C" __global__ void blend_backward_##name(const T *fused, const T *own, const T *dy, T *d_fused, T *d_own, \
                                                     int rows, int width) {                                           \
        blend_backward(fused, own, dy, d_fused, d_own, rows, width);                                                  \
    }
BLEND(float, f32)
BLEND(bf16, bf16)
