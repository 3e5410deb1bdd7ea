// The masked error of a prediction, sample by sample, in f32.
#include "common.cuh"

/// loss `[B]` = sum of mask (predicted - target)^2 of a sample, all [B, C, pixels] but the mask [B, 1, pixels], divided by
/// the mask's area (by 1 if it is smaller), or with `plain` by C pixels; divisors `[B]` are kept for the gradient.
/// A block a sample: grid (B), blocks of 256; shared 2 places a warp.
extern "C" __global__ void masked_error(const float *predicted, const float *target, const float *mask, float *loss,
                                        float *divisors, int channels, int pixels, int plain) {
    DYNAMIC_SHARED(memory);
    float *room = reinterpret_cast<float *>(memory);
    size_t sample = blockIdx.x, first = sample * channels * pixels;
    float sum = 0, area = 0;
    for (int i = threadIdx.x; i < pixels; i += blockDim.x) {
        float inside = mask[sample * pixels + i], squares = 0;
        for (int c = 0; c < channels; c++) {
            float d = predicted[first + size_t(c) * pixels + i] - target[first + size_t(c) * pixels + i];
            squares += d * d;
        }
        sum += inside * squares;
        area += inside;
    }
    sum = block_sum(sum, room);
    area = block_sum(area, room);
    if (threadIdx.x) return;
    float divisor = plain ? float(channels) * pixels : fmaxf(area, 1);
    loss[sample] = sum / divisor;
    divisors[sample] = divisor;
}

/// The gradient of `predicted` from d_loss `[B]`. One thread a value.
extern "C" __global__ void masked_error_backward(const float *predicted, const float *target, const float *mask,
                                                 const float *divisors, const float *d_loss, float *d_predicted,
                                                 int batch, int channels, int pixels) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x, sample = i / pixels / channels;
    if (sample >= size_t(batch)) return;
    float share = 2 * d_loss[sample] / divisors[sample] * mask[sample * pixels + i % pixels];
    d_predicted[i] = share * (predicted[i] - target[i]);
}
