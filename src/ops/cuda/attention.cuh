// What attention and its gradients share: tiles of rows in shared memory, and the products that warps make of them.
#pragma once
#include "common.cuh"

/// Sizes of an attention, as the launcher has them.
struct Attending {
    int batch, queries, keys, heads, head; // q [batch, queries, heads head], k and v [batch / sharing, keys, heads head]
    int sharing;                           // successive samples that share their keys; gradients want 1
    int causal;                            // a query sees no key after its own place
    int fixed;                             // the first keys and values, which have no gradient
    int pitch;                             // values from one row of the result to the next
    float scale;                           // of the scores
};

/// Rows `first` and on of two matrices [rows, width], of which a head's part is taken, to two tiles of COUNT rows.
template <int W, int COUNT>
__device__ __forceinline__ void load_tiles(bf16 *to, const bf16 *a, const bf16 *b, int first, int rows, int width, int head) {
    constexpr int PITCH = W + 8; // rows begin in different banks
    for (int i = threadIdx.x; i < COUNT * (W / 8); i += blockDim.x) {
        int r = i / (W / 8), c = i % (W / 8) * 8;
        bool there = first + r < rows && c < head;
        size_t at = there ? size_t(first + r) * width + c : 0;
        copy_async(to + r * PITCH + c, a + at, there);
        copy_async(to + (COUNT + r) * PITCH + c, b + at, there);
    }
    copies_are_a_group();
}

/// sums [16, COUNT] += rows [16, W] others [COUNT, W]^T, where `left(words, t)` gives 16 columns of the rows.
template <int W, int COUNT, class Left>
__device__ __forceinline__ void add_scores(float sums[COUNT / 8][4], Left left, const bf16 *others, int lane) {
    constexpr int PITCH = W + 8;
    const int2 at = right_row(lane);
#pragma unroll
    for (int t = 0; t < W / 16; t++) {
        unsigned words[4];
        left(words, t);
#pragma unroll
        for (int j = 0; j < COUNT / 16; j++) {
            unsigned right[4];
            load_matrices(right, others + (j * 16 + at.x) * PITCH + t * 16 + at.y / 2);
            mma(sums[2 * j], words, right);
            mma(sums[2 * j + 1], words, right + 2);
        }
    }
}

/// sums [16, W] += factors [16, COUNT] others [COUNT, W]. Scores are spread over the warp as the left side of a product is.
template <int W, int COUNT>
__device__ __forceinline__ void add_product(float sums[W / 8][4], float factors[COUNT / 8][4], const bf16 *others, int lane) {
    constexpr int PITCH = W + 8;
    const int2 at = left_row(lane);
#pragma unroll
    for (int j = 0; j < COUNT / 16; j++) {
        unsigned left[4] = {pair(factors[2 * j][0], factors[2 * j][1]), pair(factors[2 * j][2], factors[2 * j][3]),
                            pair(factors[2 * j + 1][0], factors[2 * j + 1][1]),
                            pair(factors[2 * j + 1][2], factors[2 * j + 1][3])};
#pragma unroll
        for (int t = 0; t < W / 16; t++) {
            unsigned right[4];
            load_transposed(right, others + (j * 16 + at.x) * PITCH + t * 16 + at.y / 2);
            mma(sums[2 * t], left, right);
            mma(sums[2 * t + 1], left, right + 2);
        }
    }
}
