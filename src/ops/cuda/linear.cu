// What comes after the product of a linear map. One thread a value.
#include "common.cuh"

/// y [rows, width] += bias `[width]` and residual, of y's shape, each if there is one.
template <class T>
__device__ void finish(T *y, const float *bias, const T *residual, unsigned long long count, int width) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float value = wide(y[i]);
    if (bias) value += bias[i % width];
    if (residual) value += wide(residual[i]);
    store(y[i], value);
}

extern "C" __global__ void finish_f32(float *y, const float *bias, const float *residual, unsigned long long count, int width) {
    finish(y, bias, residual, count, width);
}
extern "C" __global__ void finish_bf16(bf16 *y, const float *bias, const bf16 *residual, unsigned long long count, int width) {
    finish(y, bias, residual, count, width);
}
