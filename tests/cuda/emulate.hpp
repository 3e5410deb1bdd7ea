// A GPU's grid, blocks, warps and shared memory on one thread of a processor (x86-64), so that a kernel compiled as
// ordinary C++ computes what it computes on the device: c++ -std=c++17 -include emulate.hpp ...
//
// The threads of a block are fibers that run until they wait. In which order they run between two barriers is chosen by
// `emu::order`: no result may depend on it, as it does where a barrier is missing. Shared memory holds nonsense at first,
// an asynchronous copy arrives no sooner than it is waited for, and a barrier that cannot be passed ends the program.
#pragma once
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#define EMULATED 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(name) char *name = emu::block.shared
using std::max;
using std::min;

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct int2 { int x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };

inline thread_local uint3 threadIdx, blockIdx;
inline thread_local dim3 blockDim, gridDim;

namespace emu {

/// How the threads that can go on are chosen: 0 in order, 1 the last first, else shuffled by this seed.
inline unsigned order = 0;
/// Kernels launched so far.
inline long launches = 0;

/// Saves the registers that a function must keep, and goes on where another fiber saved its own.
extern "C" void emu_switch(void **from, void *to);
asm(R"(
.text
.weak emu_switch
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

enum class State { Ready, AtBlock, AtWarp, Done };

/// What the lanes of a warp do together: it is given what each of them brought, null for those that are done.
using Together = void (*)(void **lanes);

/// Sixteen bytes on their way to shared memory.
struct Copy {
    void *to;
    const void *from;
    unsigned group;
};

struct Fiber {
    void *stack_pointer = nullptr;
    char *stack = nullptr;
    State state = State::Done;
    uint3 index{};
    Together together = nullptr;
    void *brought = nullptr;
    std::vector<Copy> copies;
    unsigned group = 0;
};

struct Block {
    static constexpr size_t STACK = 128 << 10;
    std::vector<Fiber> fibers;
    char *shared = nullptr;
    void *scheduler = nullptr;
    unsigned current = 0;
    const std::function<void()> *body = nullptr;
};
inline thread_local Block block;

inline Fiber &self() { return block.fibers[block.current]; }

inline void wait_as(State state) {
    Fiber &fiber = self();
    fiber.state = state;
    emu_switch(&fiber.stack_pointer, block.scheduler);
}

/// Brings `mine`, which the lanes' common work may change, and waits until it is done.
template <class T> void together(T &mine, Together work) {
    self().together = work;
    self().brought = &mine;
    wait_as(State::AtWarp);
}

[[noreturn]] inline void stop(const char *why) {
    fprintf(stderr, "emulation: block (%u, %u, %u): %s\n", blockIdx.x, blockIdx.y, blockIdx.z, why);
    abort();
}

[[noreturn]] inline void fiber_main() {
    (*block.body)();
    wait_as(State::Done);
    abort();
}

/// Lets the warp of fibers `first` to `last` go on if all of it waits for one another.
inline bool release_warp(unsigned first, unsigned last) {
    void *lanes[32] = {};
    Together work = nullptr;
    for (unsigned t = first; t < last; t++) {
        Fiber &fiber = block.fibers[t];
        if (fiber.state == State::Done) continue;
        if (fiber.state != State::AtWarp) return false;
        if (work && work != fiber.together) stop("the lanes of a warp do different things together");
        work = fiber.together;
        lanes[t - first] = fiber.brought;
    }
    if (!work) return false;
    work(lanes);
    for (unsigned t = first; t < last; t++)
        if (block.fibers[t].state == State::AtWarp) block.fibers[t].state = State::Ready;
    return true;
}

inline void run_block(unsigned threads) {
    auto &fibers = block.fibers;
    while (fibers.size() < threads) {
        fibers.emplace_back();
        fibers.back().stack = static_cast<char *>(aligned_alloc(4096, Block::STACK));
    }
    std::vector<unsigned> turn(threads);
    for (unsigned t = 0; t < threads; t++) {
        Fiber &fiber = fibers[t];
        fiber.index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
        void **top = reinterpret_cast<void **>(fiber.stack + Block::STACK) - 2;
        *top = reinterpret_cast<void *>(+fiber_main); // it is returned to, with the stack aligned as after a call
        fiber.stack_pointer = top - 6;
        fiber.state = State::Ready;
        fiber.copies.clear();
        fiber.group = 0;
        turn[t] = order == 1 ? threads - 1 - t : t;
    }
    unsigned random = order * 2654435761u + 1;
    for (size_t done = 0; done < threads;) {
        for (unsigned t = threads; order > 1 && t-- > 1;) {
            random = random * 1664525u + 1013904223u;
            std::swap(turn[t], turn[(random >> 8) % (t + 1)]);
        }
        bool moved = false;
        for (unsigned t : turn) {
            if (fibers[t].state != State::Ready) continue;
            moved = true;
            block.current = t;
            threadIdx = fibers[t].index;
            emu_switch(&block.scheduler, fibers[t].stack_pointer);
            done += fibers[t].state == State::Done;
        }
        for (unsigned first = 0; first < threads; first += 32) moved |= release_warp(first, min(first + 32, threads));
        size_t waiting = 0;
        for (unsigned t = 0; t < threads; t++) waiting += fibers[t].state == State::AtBlock;
        if (waiting && waiting == threads - done) {
            moved = true;
            for (unsigned t = 0; t < threads; t++)
                if (fibers[t].state == State::AtBlock) fibers[t].state = State::Ready;
        }
        if (!moved && done < threads) stop("it waits for ever at a barrier");
    }
}

/// `kernel<<<grid, threads, bytes>>>(arguments...)`.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 threads, size_t bytes, A... arguments) {
    static_assert(sizeof...(P) == sizeof...(A), "as many arguments as the kernel has");
    launches++;
    gridDim = grid;
    blockDim = threads;
    std::function<void()> body = [&] { kernel(static_cast<P>(arguments)...); };
    block.body = &body;
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) {
                // of exactly that size, so that a sanitizer sees what lies beyond
                block.shared = static_cast<char *>(::operator new(bytes, std::align_val_t(16)));
                memset(block.shared, 0x7f, bytes);
                run_block(threads.x * threads.y * threads.z);
                ::operator delete(block.shared, std::align_val_t(16));
            }
}

template <class T> struct Shuffle {
    T value;
    int from;
};

/// Each lane's value becomes that of the lane that it asks for.
template <class T> T shuffle(T value, int from) {
    Shuffle<T> mine{value, from};
    together(mine, [](void **lanes) {
        auto at = [&](int lane) { return static_cast<Shuffle<T> *>(lanes[lane]); };
        T values[32] = {};
        for (int lane = 0; lane < 32; lane++)
            if (at(lane)) values[lane] = at(lane)->value;
        for (int lane = 0; lane < 32; lane++) {
            if (!at(lane)) continue;
            if (!at(at(lane)->from)) stop("a lane asks for the value of one that is done");
            at(lane)->value = values[at(lane)->from];
        }
    });
    return mine.value;
}

inline int lane() { return block.current % 32; }

struct Product {
    float *c;
    const unsigned *a, *b;
};

/// c [16, 8] += a [16, K] b [K, 8], where `value` takes number i of a word, of which a word has K / 8.
template <int K, class Value> void multiply(void **lanes, Value value) {
    constexpr int EACH = K / 8;
    float left[16][K], right[K][8];
    for (int lane = 0; lane < 32; lane++) {
        auto *p = static_cast<Product *>(lanes[lane]);
        if (!p) stop("a lane is missing in a product");
        int group = lane / 4, place = lane % 4;
        for (int i = 0; i < 4; i++)
            for (int e = 0; e < EACH; e++) left[group + i % 2 * 8][i / 2 * 4 * EACH + EACH * place + e] = value(p->a[i], e);
        for (int i = 0; i < 2; i++)
            for (int e = 0; e < EACH; e++) right[i * 4 * EACH + EACH * place + e][group] = value(p->b[i], e);
    }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            float sum = 0;
            for (int k = 0; k < K; k++) sum += left[row][k] * right[k][column];
            static_cast<Product *>(lanes[lane])->c[i] += sum;
        }
}

struct Rows {
    unsigned *to;
    const void *row;
};

/// Four matrices of 8 x 8 numbers of 16 bits.
inline void matrices(void **lanes, bool transposed) {
    for (int lane = 0; lane < 32; lane++) {
        auto *mine = static_cast<Rows *>(lanes[lane]);
        if (!mine) stop("a lane is missing in a load of matrices");
        for (int i = 0; i < 4; i++) {
            uint16_t halves[2];
            for (int e = 0; e < 2; e++) {
                int row = transposed ? lane % 4 * 2 + e : lane / 4, column = transposed ? lane / 4 : lane % 4 * 2 + e;
                auto *from = static_cast<const uint16_t *>(static_cast<Rows *>(lanes[i * 8 + row])->row);
                if (reinterpret_cast<uintptr_t>(from) % 16) stop("a row of a matrix is not aligned");
                halves[e] = from[column];
            }
            mine->to[i] = unsigned(halves[1]) << 16 | halves[0];
        }
    }
}

} // namespace emu

inline void __syncthreads() { emu::wait_as(emu::State::AtBlock); }
inline void __syncwarp() {
    int nothing = 0;
    emu::together(nothing, [](void **) {});
}
template <class T> T __shfl_xor_sync(unsigned, T value, int with) { return emu::shuffle(value, emu::lane() ^ with); }
template <class T> T __shfl_sync(unsigned, T value, int from) { return emu::shuffle(value, from); }
inline float __expf(float x) { return expf(x); }
inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }

// The functions at the end of common.cuh.
inline void mma(float c[4], const unsigned a[4], const unsigned b[2]) {
    emu::Product mine{c, a, b};
    emu::together(mine, [](void **lanes) {
        emu::multiply<16>(lanes, [](unsigned word, int i) { return __uint_as_float(i ? word & 0xffff0000 : word << 16); });
    });
}
inline void mma_tf32(float c[4], const unsigned a[4], const unsigned b[2]) {
    emu::Product mine{c, a, b};
    emu::together(mine, [](void **lanes) {
        // the tensor cores do not see the lower bits
        emu::multiply<8>(lanes, [](unsigned word, int) { return __uint_as_float(word & 0xffffe000); });
    });
}
inline float tf32(float x) { return std::isfinite(x) ? __uint_as_float((__float_as_uint(x) + 0x1000) & 0xffffe000) : x; }
inline void load_matrices(unsigned to[4], const void *row) {
    emu::Rows mine{to, row};
    emu::together(mine, [](void **lanes) { emu::matrices(lanes, false); });
}
inline void load_transposed(unsigned to[4], const void *row) {
    emu::Rows mine{to, row};
    emu::together(mine, [](void **lanes) { emu::matrices(lanes, true); });
}
inline void copy_async(void *to, const void *from, bool there) {
    if (reinterpret_cast<uintptr_t>(to) % 16 || (there && reinterpret_cast<uintptr_t>(from) % 16))
        emu::stop("an asynchronous copy is not aligned");
    emu::self().copies.push_back({to, there ? from : nullptr, emu::self().group});
}
inline void copies_are_a_group() { emu::self().group++; }
template <int N> void wait_for_groups_but() {
    auto &fiber = emu::self();
    auto late = std::stable_partition(fiber.copies.begin(), fiber.copies.end(),
                                      [&](const emu::Copy &copy) { return copy.group + N < fiber.group; });
    for (auto copy = fiber.copies.begin(); copy != late; copy++)
        if (copy->from) memcpy(copy->to, copy->from, 16);
        else memset(copy->to, 0, 16);
    fiber.copies.erase(fiber.copies.begin(), late);
}
