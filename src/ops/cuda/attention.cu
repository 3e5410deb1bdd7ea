// Softmax attention that never stores its map (Dao, "FlashAttention-2", 2023), with the column of L_ra as one more value.
#include "attention.cuh"

constexpr int ROWS = 64, KEYS = 64;

/// y [B, N, pitch], the heads' result in its first channels; lse [B, H, N] = the logarithm of the sum of each query's
/// powers; seen [B, H, N] = sum_j A_ij column_j with column [B / sharing, M], if there is one.
/// Grid (N / 64, H, B), blocks of 128, a head's width a multiple of 8 up to W; shared 4 tiles of 64 rows.
template <int W>
__device__ void attend(const bf16 *q, const bf16 *k, const bf16 *v, const float *column, bf16 *y, float *lse, float *seen,
                       const Attending &s) {
    constexpr int TILE = KEYS * (W + 8);
    DYNAMIC_SHARED(memory);
    bf16 *tiles = reinterpret_cast<bf16 *>(memory); // keys and values of one step, and those of the next
    const int head = blockIdx.y, sample = blockIdx.z, width = s.heads * s.head;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, place = lane % 4;
    const int row = blockIdx.x * ROWS + warp * 16 + group; // this thread's queries are row and row + 8
    q += size_t(sample) * s.queries * width + head * s.head;
    k += size_t(sample / s.sharing) * s.keys * width + head * s.head;
    v += size_t(sample / s.sharing) * s.keys * width + head * s.head;
    if (column) column += size_t(sample / s.sharing) * s.keys;

    auto load = [&](int step) {
        load_tiles<W, KEYS>(tiles + step % 2 * 2 * TILE, k, v, step * KEYS, s.keys, width, s.head);
    };
    const int last_query = min(int(blockIdx.x + 1) * ROWS, s.queries) - 1;
    const int steps = ((s.causal ? min(s.keys, last_query + 1) : s.keys) + KEYS - 1) / KEYS;
    load(0);

    unsigned left[W / 16][4];
#pragma unroll
    for (int t = 0; t < W / 16; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = row + i % 2 * 8, c = t * 16 + 2 * place + i / 2 * 8;
            bool there = r < s.queries && c < s.head;
            left[t][i] = there ? *reinterpret_cast<const unsigned *>(q + size_t(r) * width + c) : 0;
        }
    auto of_queries = [&](unsigned words[4], int t) {
#pragma unroll
        for (int i = 0; i < 4; i++) words[i] = left[t][i];
    };
    float sums[W / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, total[2] = {}, on_column[2] = {};
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) load(step + 1);
        else copies_are_a_group();
        wait_for_groups_but<1>();
        __syncthreads();
        const bf16 *keys = tiles + step % 2 * 2 * TILE, *values = keys + TILE;
        float scores[KEYS / 8][4] = {};
        add_scores<W, KEYS>(scores, of_queries, keys, lane);
        float now[2] = {top[0], top[1]};
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = step * KEYS + j * 8 + 2 * place + i % 2;
                bool visible = key < s.keys && !(s.causal && key > row + i / 2 * 8);
                scores[j][i] = visible ? scores[j][i] * s.scale : -INFINITY;
                now[i / 2] = fmaxf(now[i / 2], scores[j][i]);
            }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            now[h] = fmaxf(now[h], __shfl_xor_sync(0xffffffff, now[h], 1));
            now[h] = fmaxf(now[h], __shfl_xor_sync(0xffffffff, now[h], 2));
            float fade = __expf(top[h] - now[h]); // every query sees a key in the first step
            top[h] = now[h];
            total[h] *= fade;
            on_column[h] *= fade;
#pragma unroll
            for (int t = 0; t < W / 8; t++) sums[t][2 * h] *= fade, sums[t][2 * h + 1] *= fade;
        }
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float power = __expf(scores[j][i] - top[i / 2]);
                scores[j][i] = power;
                total[i / 2] += power;
                int key = step * KEYS + j * 8 + 2 * place + i % 2;
                if (column && key < s.keys) on_column[i / 2] += power * column[key];
            }
        add_product<W, KEYS>(sums, scores, values, lane);
        __syncthreads(); // before the next step but one is loaded over this one
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int with = 1; with < 4; with *= 2) {
            total[h] += __shfl_xor_sync(0xffffffff, total[h], with);
            on_column[h] += __shfl_xor_sync(0xffffffff, on_column[h], with);
        }
        int r = row + 8 * h;
        if (r >= s.queries) continue;
        bf16 *to = y + (size_t(sample) * s.queries + r) * s.pitch + head * s.head;
#pragma unroll
        for (int t = 0; t < W / 8; t++) {
            int c = t * 8 + 2 * place;
            if (c >= s.head) continue;
            float values[2] = {sums[t][2 * h] / total[h], sums[t][2 * h + 1] / total[h]};
            if (s.pitch % 2 == 0) store2(to + c, values[0], values[1]);
            else store(to[c], values[0]), store(to[c + 1], values[1]);
        }
        size_t at = (size_t(sample) * s.heads + head) * s.queries + r;
        if (place == 0) lse[at] = top[h] + logf(total[h]);
        if (place == 0 && column) seen[at] = on_column[h] / total[h];
    }
}

/// Channel `heads head` of y: the mean over the heads of seen [B, H, N]. One thread a query, grid (N / 128, B).
extern "C" __global__ void attend_column(const float *seen, bf16 *y, Attending s) {
    int query = blockIdx.x * blockDim.x + threadIdx.x, sample = blockIdx.y;
    if (query >= s.queries) return;
    float sum = 0;
    for (int head = 0; head < s.heads; head++) sum += seen[(size_t(sample) * s.heads + head) * s.queries + query];
    store(y[(size_t(sample) * s.queries + query) * s.pitch + s.heads * s.head], sum / s.heads);
}

#define ATTEND(W)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(128)                                                                 \
        attend_##W(const bf16 *q, const bf16 *k, const bf16 *v, const float *column, bf16 *y, float *lse,             \
                   float *seen, Attending s) {                                                                        \
        attend<W>(q, k, v, column, y, lse, seen, s);                                                                  \
    }
ATTEND(16)
ATTEND(32)
ATTEND(48)
ATTEND(64)
ATTEND(80)
ATTEND(160)
