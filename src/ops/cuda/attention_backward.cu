// The gradients of attention (Dao, "FlashAttention-2", 2023): powers are computed again from the logarithms of their sums;
// one pass over the keys' tiles for the gradients of keys and values, one over the queries' for theirs, no atomic sums.
#include "common.cuh"

constexpr int OWN = 64, OTHERS = 32; // rows whose gradient a block computes, and those that it goes through

/// As in attention.cu, without sharing.
struct Attending {
    int batch, queries, keys, heads, head;
    int sharing;
    int causal;
    int pitch;
    float scale;
};

/// means [B, H, N] = sum_j A_ij dA_ij, from y and dy [B, N, pitch]; with `seen` [B, H, N], what each head saw of the
/// column, share [B, N] is what of the last channel's gradient falls to each head. A warp a query: grid (N / 4, H, B).
extern "C" __global__ void attend_means(const bf16 *y, const bf16 *dy, const float *seen, float *means, float *share,
                                        Attending s) {
    int query = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y, sample = blockIdx.z;
    if (query >= s.queries) return;
    size_t row = (size_t(sample) * s.queries + query) * s.pitch, at = (size_t(sample) * s.heads + head) * s.queries + query;
    float sum = 0;
    for (int c = lane; c < s.head; c += 32) sum += wide(y[row + head * s.head + c]) * wide(dy[row + head * s.head + c]);
    sum = warp_sum(sum);
    if (lane) return;
    if (seen) {
        float of_head = wide(dy[row + s.heads * s.head]) / s.heads;
        sum += of_head * seen[at];
        if (head == 0) share[size_t(sample) * s.queries + query] = of_head;
    }
    means[at] = sum;
}

/// Rows `first` and on of two matrices [rows, width], of which a head's part is taken, to two tiles.
template <int W, int COUNT>
__device__ __forceinline__ void load_tiles(bf16 *to, const bf16 *a, const bf16 *b, int first, int rows, int width, int head) {
    constexpr int PITCH = W + 8;
    for (int i = threadIdx.x; i < COUNT * (W / 8); i += blockDim.x) {
        int r = i / (W / 8), c = i % (W / 8) * 8;
        bool there = first + r < rows && c < head;
        size_t at = there ? size_t(first + r) * width + c : 0;
        copy_async(to + r * PITCH + c, a + at, there);
        copy_async(to + (COUNT + r) * PITCH + c, b + at, there);
    }
    copies_are_a_group();
}

/// sums [16, 32] += rows [16, W] others [32, W]^T.
template <int W> __device__ __forceinline__ void scores_of(float sums[OTHERS / 8][4], const bf16 *rows, const bf16 *others, int lane) {
    constexpr int PITCH = W + 8;
    const int2 left_at = left_row(lane), right_at = right_row(lane);
#pragma unroll
    for (int t = 0; t < W / 16; t++) {
        unsigned left[4];
        load_matrices(left, rows + left_at.x * PITCH + t * 16 + left_at.y / 2);
#pragma unroll
        for (int j = 0; j < OTHERS / 16; j++) {
            unsigned right[4];
            load_matrices(right, others + (j * 16 + right_at.x) * PITCH + t * 16 + right_at.y / 2);
            mma(sums[2 * j], left, right);
            mma(sums[2 * j + 1], left, right + 2);
        }
    }
}

/// sums [16, W] += factors [16, 32] others [32, W].
template <int W> __device__ __forceinline__ void add_product(float sums[W / 8][4], float factors[OTHERS / 8][4], const bf16 *others, int lane) {
    constexpr int PITCH = W + 8;
    const int2 at = left_row(lane);
#pragma unroll
    for (int j = 0; j < OTHERS / 16; j++) {
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

/// Writes a warp's 16 rows of a gradient.
template <int W> __device__ __forceinline__ void write_rows(bf16 *to, float sums[W / 8][4], float scale, int row, int rows, int width, int head, int place) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int r = row + 8 * h;
        if (r >= rows) continue;
#pragma unroll
        for (int t = 0; t < W / 8; t++) {
            int c = t * 8 + 2 * place;
            if (c < head) store2(to + size_t(r) * width + c, sums[t][2 * h] * scale, sums[t][2 * h + 1] * scale);
        }
    }
}

/// dk, dv [B, M, H d] from q, k, v, dy [B, N, H d], lse and means [B, H, N]; column [B, M] and share [B, N] if there is a
/// column. Grid (M / 64, H, B), blocks of 128; shared 256 rows.
template <int W>
__device__ void attend_keys(const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *dy, const float *lse, const float *means,
                            const float *column, const float *share, bf16 *dk, bf16 *dv, const Attending &s) {
    constexpr int PITCH = W + 8;
    DYNAMIC_SHARED(memory);
    bf16 *keys = reinterpret_cast<bf16 *>(memory), *values = keys + OWN * PITCH, *tiles = values + OWN * PITCH;
    const int head = blockIdx.y, sample = blockIdx.z, width = s.heads * s.head, first = blockIdx.x * OWN;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, place = lane % 4;
    const int row = first + warp * 16 + lane / 4; // this thread's keys are row and row + 8
    const size_t from_queries = size_t(sample) * s.queries * width + head * s.head;
    const size_t from_keys = size_t(sample) * s.keys * width + head * s.head;
    lse += (size_t(sample) * s.heads + head) * s.queries;
    means += (size_t(sample) * s.heads + head) * s.queries;
    if (column) column += size_t(sample) * s.keys, share += size_t(sample) * s.queries;

    auto load = [&](int step) {
        load_tiles<W, OTHERS>(tiles + step % 2 * 2 * OTHERS * PITCH, q + from_queries, dy + from_queries, step * OTHERS,
                              s.queries, width, s.head);
    };
    const int start = s.causal ? first / OTHERS : 0, steps = (s.queries + OTHERS - 1) / OTHERS;
    load_tiles<W, OWN>(keys, k + from_keys, v + from_keys, first, s.keys, width, s.head);
    if (start < steps) load(start);
    float of_keys[W / 8][4] = {}, of_values[W / 8][4] = {};
    for (int step = start; step < steps; step++) {
        if (step + 1 < steps) load(step + 1);
        else copies_are_a_group();
        wait_for_groups_but<1>();
        __syncthreads();
        const bf16 *queries = tiles + step % 2 * 2 * OTHERS * PITCH, *d = queries + OTHERS * PITCH;
        float powers[OTHERS / 8][4] = {}, slopes[OTHERS / 8][4] = {};
        scores_of<W>(powers, keys + warp * 16 * PITCH, queries, lane);
        scores_of<W>(slopes, values + warp * 16 * PITCH, d, lane);
#pragma unroll
        for (int j = 0; j < OTHERS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int query = step * OTHERS + j * 8 + 2 * place + i % 2, key = row + i / 2 * 8;
                bool visible = query < s.queries && key < s.keys && !(s.causal && key > query);
                float power = visible ? __expf(powers[j][i] * s.scale - lse[query]) : 0;
                float slope = slopes[j][i];
                if (visible && column) slope += column[key] * share[query];
                powers[j][i] = power;
                slopes[j][i] = visible ? power * (slope - means[query]) : 0;
            }
        add_product<W>(of_values, powers, d, lane);
        add_product<W>(of_keys, slopes, queries, lane);
        __syncthreads();
    }
    wait_for_groups_but<0>();
    write_rows<W>(dk + from_keys, of_keys, s.scale, row, s.keys, width, s.head, place);
    write_rows<W>(dv + from_keys, of_values, 1, row, s.keys, width, s.head, place);
}

/// dq [B, N, H d], from the same. Grid (N / 64, H, B), blocks of 128; shared 256 rows.
template <int W>
__device__ void attend_queries(const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *dy, const float *lse, const float *means,
                               const float *column, const float *share, bf16 *dq, const Attending &s) {
    constexpr int PITCH = W + 8;
    DYNAMIC_SHARED(memory);
    bf16 *queries = reinterpret_cast<bf16 *>(memory), *d = queries + OWN * PITCH, *tiles = d + OWN * PITCH;
    const int head = blockIdx.y, sample = blockIdx.z, width = s.heads * s.head, first = blockIdx.x * OWN;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, place = lane % 4;
    const int row = first + warp * 16 + lane / 4; // this thread's queries are row and row + 8
    const size_t from_queries = size_t(sample) * s.queries * width + head * s.head;
    const size_t from_keys = size_t(sample) * s.keys * width + head * s.head;
    if (column) column += size_t(sample) * s.keys;

    auto load = [&](int step) {
        load_tiles<W, OTHERS>(tiles + step % 2 * 2 * OTHERS * PITCH, k + from_keys, v + from_keys, step * OTHERS, s.keys,
                              width, s.head);
    };
    const int last = min(first + OWN, s.queries) - 1;
    const int steps = ((s.causal ? min(s.keys, last + 1) : s.keys) + OTHERS - 1) / OTHERS;
    load_tiles<W, OWN>(queries, q + from_queries, dy + from_queries, first, s.queries, width, s.head);
    load(0);
    float log_sum[2] = {}, mean[2] = {}, of_head[2] = {};
    for (int h = 0; h < 2; h++) {
        int query = row + 8 * h;
        if (query >= s.queries) continue;
        size_t at = (size_t(sample) * s.heads + head) * s.queries + query;
        log_sum[h] = lse[at];
        mean[h] = means[at];
        if (column) of_head[h] = share[size_t(sample) * s.queries + query];
    }
    float sums[W / 8][4] = {};
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) load(step + 1);
        else copies_are_a_group();
        wait_for_groups_but<1>();
        __syncthreads();
        const bf16 *keys = tiles + step % 2 * 2 * OTHERS * PITCH, *values = keys + OTHERS * PITCH;
        float powers[OTHERS / 8][4] = {}, slopes[OTHERS / 8][4] = {};
        scores_of<W>(powers, queries + warp * 16 * PITCH, keys, lane);
        scores_of<W>(slopes, d + warp * 16 * PITCH, values, lane);
#pragma unroll
        for (int j = 0; j < OTHERS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = step * OTHERS + j * 8 + 2 * place + i % 2, h = i / 2;
                bool visible = key < s.keys && row + 8 * h < s.queries && !(s.causal && key > row + 8 * h);
                float power = visible ? __expf(powers[j][i] * s.scale - log_sum[h]) : 0;
                float slope = slopes[j][i];
                if (visible && column) slope += column[key] * of_head[h];
                slopes[j][i] = visible ? power * (slope - mean[h]) : 0;
            }
        add_product<W>(sums, slopes, keys, lane);
        __syncthreads();
    }
    write_rows<W>(dq + from_queries, sums, s.scale, row, s.queries, width, s.head, place);
}

#define BACKWARD(W)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(128)                                                                 \
        attend_keys_##W(const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *dy, const float *lse,                \
                        const float *means, const float *column, const float *share, bf16 *dk, bf16 *dv,              \
                        Attending s) {                                                                                \
        attend_keys<W>(q, k, v, dy, lse, means, column, share, dk, dv, s);                                            \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(128)                                                                 \
        attend_queries_##W(const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *dy, const float *lse,             \
                           const float *means, const float *column, const float *share, bf16 *dq, Attending s) {      \
        attend_queries<W>(q, k, v, dy, lse, means, column, share, dq, s);                                             \
    }
BACKWARD(16)
BACKWARD(32)
BACKWARD(48)
BACKWARD(64)
BACKWARD(80)
BACKWARD(160)
