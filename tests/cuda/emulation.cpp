// The emulation itself: what would go wrong on a device goes wrong here.
#include "check.hpp"

/// y[i] = x of the next thread, through shared memory.
static void next(const float *x, float *y, int barrier) {
    DYNAMIC_SHARED(memory);
    float *shared = reinterpret_cast<float *>(memory);
    shared[threadIdx.x] = x[threadIdx.x];
    if (barrier) __syncthreads();
    y[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

/// y = x through asynchronous copies of two groups, of which the first `waited` are waited for.
static void copied(const float *x, float *y, int waited) {
    DYNAMIC_SHARED(memory);
    float *shared = reinterpret_cast<float *>(memory) + threadIdx.x * 8;
    for (int half = 0; half < 2; half++) {
        copy_async(shared + half * 4, x + threadIdx.x * 8 + half * 4, true);
        copies_are_a_group();
    }
    if (waited == 1) wait_for_groups_but<1>();
    if (waited == 2) wait_for_groups_but<0>();
    for (int i = 0; i < 8; i++) y[threadIdx.x * 8 + i] = shared[i];
}

/// The sum over the lanes of a warp, and the product of two matrices of ones.
static void warp(float *y) {
    y[threadIdx.x] = warp_sum(float(threadIdx.x));
    float c[4] = {};
    unsigned ones = pair(1.f, 1.f), a[4] = {ones, ones, ones, ones}, b[2] = {ones, ones};
    mma(c, a, b);
    y[32 + threadIdx.x] = c[0] + c[3];
}

static bool same(const std::vector<float> &a, const std::vector<float> &b) { return a == b; }

int main() {
    return check::main("emulation", [] {
        auto x = normal(64), shifted = x, y = room<float>(64);
        std::rotate(shifted.begin(), shifted.begin() + 1, shifted.end());
        emu::launch(next, 1, 64, 64 * 4, x.data(), y.data(), 1);
        verdict("threads meet at a barrier", !same(y, shifted), 0.5);
        emu::launch(next, 1, 64, 64 * 4, x.data(), y.data(), 0);
        verdict("a missing barrier is seen", same(y, shifted), 0.5);
        auto all = normal(64 * 8), found = room<float>(64 * 8);
        for (int waited : {0, 1, 2}) {
            emu::launch(copied, 1, 64, 64 * 32, all.data(), found.data(), waited);
            int arrived = 0;
            for (size_t i = 0; i < all.size(); i++) arrived += found[i] == all[i];
            verdict("only what was waited for has arrived", arrived != waited * 64 * 4, 0.5);
        }
        auto sums = room<float>(64);
        emu::launch(warp, 1, 32, 0, sums.data());
        for (int lane = 0; lane < 32; lane++) verdict("a warp's sum and product", sums[lane] != 496 || sums[32 + lane] != 32, 0.5);
        for (int i = 0; i < 7; i++) shape();
    });
}
