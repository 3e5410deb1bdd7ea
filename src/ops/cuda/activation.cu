// Functions of single values, GEGLU, and their gradients. One thread a value of the result.
#include "common.cuh"

/// The normal distribution function and its density.
__device__ __forceinline__ float below(float x) { return 0.5f * (1 + erff(x * 0.70710678f)); }
__device__ __forceinline__ float density(float x) { return 0.39894228f * __expf(-0.5f * x * x); }

/// x times the normal distribution function.
struct Gelu {
    static __device__ __forceinline__ float value(float x) { return x * below(x); }
    static __device__ __forceinline__ float slope(float x) { return below(x) + x * density(x); }
};

/// x sigmoid(1.702 x).
struct QuickGelu {
    static __device__ __forceinline__ float value(float x) { return x * sigmoid(1.702f * x); }
    static __device__ __forceinline__ float slope(float x) {
        float s = sigmoid(1.702f * x);
        return s * (1 + 1.702f * x * (1 - s));
    }
};

template <class F, class T> __device__ void curve(const T *x, T *y, unsigned long long count) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) store(y[i], F::value(wide(x[i])));
}

template <class F, class T> __device__ void curve_backward(const T *x, const T *dy, T *dx, unsigned long long count) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) store(dx[i], wide(dy[i]) * F::slope(wide(x[i])));
}

/// y [rows, width] = value gelu(gate) of x [rows, 2 width], values and gates, to each of which its bias [2 width] is added.
template <class T> __device__ void geglu(const T *x, const T *bias, T *y, int rows, int width) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= size_t(rows) * width) return;
    int c = i % width;
    const T *row = x + i / width * 2 * width;
    store(y[i], (wide(row[c]) + wide(bias[c])) * Gelu::value(wide(row[width + c]) + wide(bias[width + c])));
}

/// dx [rows, 2 width] from dy [rows, width].
template <class T> __device__ void geglu_backward(const T *x, const T *bias, const T *dy, T *dx, int rows, int width) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= size_t(rows) * width) return;
    int c = i % width;
    size_t row = i / width * 2 * width;
    float value = wide(x[row + c]) + wide(bias[c]), gate = wide(x[row + width + c]) + wide(bias[width + c]), d = wide(dy[i]);
    store(dx[row + c], d * Gelu::value(gate));
    store(dx[row + width + c], d * value * Gelu::slope(gate));
}

#define CURVE(F, T, name)                                                                                             \
    extern "C" __global__ void name(const T *x, T *y, unsigned long long count) { curve<F>(x, y, count); }
#define CURVE_BACKWARD(F, T, name)                                                                                    \
    extern "C" __global__ void name(const T *x, const T *dy, T *dx, unsigned long long count) {                       \
        curve_backward<F>(x, dy, dx, count);                                                                          \
    }
#define GEGLU(T, name)                                                                                                \
    extern "C" __global__ void geglu_##name(const T *x, const T *bias, T *y, int rows, int width) {                   \
        geglu(x, bias, y, rows, width);                                                                               \
    }                                                                                                                 \
    extern "C" __global__ void geglu_backward_##name(const T *x, const T *bias, const T *dy, T *dx, int rows,         \
                                                     int width) {                                                     \
        geglu_backward(x, bias, dy, dx, rows, width);                                                                 \
    }
CURVE(Gelu, float, gelu_f32)
CURVE(Gelu, bf16, gelu_bf16)
CURVE(QuickGelu, float, quick_gelu_f32)
CURVE(QuickGelu, bf16, quick_gelu_bf16)
CURVE_BACKWARD(Gelu, float, gelu_backward_f32)
CURVE_BACKWARD(Gelu, bf16, gelu_backward_bf16)
CURVE_BACKWARD(QuickGelu, float, quick_gelu_backward_f32)
CURVE_BACKWARD(QuickGelu, bf16, quick_gelu_backward_bf16)
GEGLU(float, f32)
GEGLU(bf16, bf16)
