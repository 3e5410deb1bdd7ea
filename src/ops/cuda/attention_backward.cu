// The gradients of attention (Dao, "FlashAttention-2", 2023): powers are computed again from the logarithms of their sums;
// one pass over the keys' tiles for the gradients of keys and values, one over the queries' for theirs, no atomic sums.
#include "attention.cuh"

constexpr int OWN = 64, OTHERS = 32; // rows whose gradient a block computes, and those that it goes through

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

/// sums [16, 32] += rows [16, W] others [32, W]^T, all in shared memory.
template <int W> __device__ __forceinline__ void scores_of(float sums[OTHERS / 8][4], const bf16 *rows, const bf16 *others, int lane) {
    const int2 at = left_row(lane);
    auto left = [&](unsigned words[4], int t) { load_matrices(words, rows + at.x * (W + 8) + t * 16 + at.y / 2); };
    add_scores<W, OTHERS>(sums, left, others, lane);
}

/// What an attention is where one of a block's rows meets one of the others.
struct Meeting {
    bool visible;
    float log_sum, mean; // of its query
    float column;        // what the column adds to the gradient of its share
};

/// From scores and the gradients of shares to shares and the gradients of scores, where `meeting(i, other)` is that of a
/// thread's row i (of two) with one of the others.
template <class F>
__device__ __forceinline__ void to_slopes(float powers[OTHERS / 8][4], float slopes[OTHERS / 8][4], float scale, int place, F meeting) {
#pragma unroll
    for (int j = 0; j < OTHERS / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            Meeting m = meeting(i / 2, j * 8 + 2 * place + i % 2);
            float power = m.visible ? __expf(powers[j][i] * scale - m.log_sum) : 0;
            powers[j][i] = power;
            slopes[j][i] = m.visible ? power * (slopes[j][i] + m.column - m.mean) : 0;
        }
}

/// Writes a warp's 16 rows of a gradient, zeros in the `fixed` first ones.
template <int W>
__device__ __forceinline__ void write_rows(bf16 *to, float sums[W / 8][4], float scale, int row, int fixed, int rows, int width, int head, int place) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int r = row + 8 * h;
        if (r >= rows) continue;
        float factor = r < fixed ? 0 : scale;
#pragma unroll
        for (int t = 0; t < W / 8; t++) {
            int c = t * 8 + 2 * place;
            if (c < head) store2(to + size_t(r) * width + c, sums[t][2 * h] * factor, sums[t][2 * h + 1] * factor);
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
        to_slopes(powers, slopes, s.scale, place, [&](int h, int other) -> Meeting {
            int query = step * OTHERS + other, key = row + 8 * h;
            if (query >= s.queries || key >= s.keys || (s.causal && key > query)) return {};
            return {true, lse[query], means[query], column ? column[key] * share[query] : 0};
        });
        add_product<W, OTHERS>(of_values, powers, d, lane);
        add_product<W, OTHERS>(of_keys, slopes, queries, lane);
        __syncthreads();
    }
    wait_for_groups_but<0>();
    write_rows<W>(dk + from_keys, of_keys, s.scale, row, s.fixed, s.keys, width, s.head, place);
    write_rows<W>(dv + from_keys, of_values, 1, row, s.fixed, s.keys, width, s.head, place);
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
        to_slopes(powers, slopes, s.scale, place, [&](int h, int other) -> Meeting {
            int key = step * OTHERS + other, query = row + 8 * h;
            if (key >= s.keys || query >= s.queries || (s.causal && key > query)) return {};
            return {true, log_sum[h], mean[h], column ? column[key] * of_head[h] : 0};
        });
        add_product<W, OTHERS>(sums, slopes, keys, lane);
        __syncthreads();
    }
    write_rows<W>(dq + from_queries, sums, s.scale, row, 0, s.queries, width, s.head, place);
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
