// One AdamW step of all trained variables together, in place: the common norm of their gradients, then their update.
#include "common.cuh"

/// One variable: its values, their gradient and moments, where it begins in the list of all pieces, and how many times the
/// learning rate it is trained with.
struct Variable {
    float *value;
    const float *grad;
    float *first, *second;
    unsigned long long count, first_piece;
    double multiplier;
};

/// The constants of a step.
struct Stepping {
    float first_keep, first_share, second_keep, second_share; // the moments' decay, and what a gradient adds
    float root, eps;                                          // sqrt(1 - beta2^t), and what is added to a root
    double rate, shrink;                                      // learning rate over 1 - beta^t, and times the weight decay
    double most;                                              // what the norm is clipped to
};

constexpr int PIECE = 1 << 14; // values that a block takes

/// The variable that piece `blockIdx.x` is of.
__device__ __forceinline__ const Variable &of_piece(const Variable *variables, int count) {
    int low = 0, high = count;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (variables[middle].first_piece <= blockIdx.x) low = middle;
        else high = middle;
    }
    return variables[low];
}

/// squares [pieces]: the sum of the squares of each piece's gradients, in f64. Grid (pieces), blocks of 256; shared a
/// place a warp.
extern "C" __global__ void gradient_squares(const Variable *variables, int count, double *squares) {
    DYNAMIC_SHARED(memory);
    const Variable &v = of_piece(variables, count);
    size_t first = (blockIdx.x - v.first_piece) * PIECE, last = first + PIECE < v.count ? first + PIECE : v.count;
    double sum = 0;
    for (size_t i = first + threadIdx.x; i < last; i += blockDim.x) sum += double(v.grad[i]) * v.grad[i];
    sum = block_sum(sum, reinterpret_cast<double *>(memory));
    if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

/// Clips, updates all variables and moments, and leaves the norm before clipping in `norm`. If it is not finite, nothing
/// changes. As `gradient_squares`.
extern "C" __global__ void adamw(const Variable *variables, int count, const double *squares, double *norm, Stepping s) {
    DYNAMIC_SHARED(memory);
    double sum = 0;
    for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) sum += squares[i];
    double length = sqrt(block_sum(sum, reinterpret_cast<double *>(memory)));
    if (blockIdx.x == 0 && threadIdx.x == 0) *norm = length;
    if (!(length <= 1.7e308)) return;
    double ratio = s.most / (length + 1e-6);
    float clip = ratio < 1 ? ratio : 1;
    const Variable &v = of_piece(variables, count);
    size_t first = (blockIdx.x - v.first_piece) * PIECE, last = first + PIECE < v.count ? first + PIECE : v.count;
    float rate = s.rate * v.multiplier, decay = 1 - s.shrink * v.multiplier;
    for (size_t i = first + threadIdx.x; i < last; i += blockDim.x) {
        float g = v.grad[i] * clip;
        float m = v.first[i] * s.first_keep + g * s.first_share, w = v.second[i] * s.second_keep + g * g * s.second_share;
        v.first[i] = m;
        v.second[i] = w;
        v.value[i] = v.value[i] * decay - rate * m / (sqrtf(w) / s.root + s.eps);
    }
}
