// What all kernels share: numbers of 16 bits, the tensor cores, asynchronous copies, sums of a warp.
//
// Everything that only a device has is in the block at the end of this file: `tests/cuda/emulate.hpp` has the same
// functions for a processor, so that every kernel also runs, and is checked, where there is no GPU.
#pragma once
#ifndef EMULATED
#include <cstdint>
#endif

typedef uint16_t bf16; // the upper half of an f32

__device__ __forceinline__ float wide(bf16 x) { return __uint_as_float(unsigned(x) << 16); }
__device__ __forceinline__ float wide(float x) { return x; }

/// Rounds to nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ bf16 narrow(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return bf16(bits >> 16 | 64);
    return bf16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
__device__ __forceinline__ void store(bf16 &to, float x) { to = narrow(x); }
__device__ __forceinline__ void store(float &to, float x) { to = x; }

/// Two neighbours in one word, the first in its lower half.
__device__ __forceinline__ unsigned pair(float a, float b) { return unsigned(narrow(b)) << 16 | narrow(a); }

/// Writes two neighbours at an even place.
__device__ __forceinline__ void store2(bf16 *to, float a, float b) { *reinterpret_cast<unsigned *>(to) = pair(a, b); }
__device__ __forceinline__ void store2(float *to, float a, float b) { *reinterpret_cast<float2 *>(to) = {a, b}; }

/// 1 / (1 + e^-x) without an infinity in between.
__device__ __forceinline__ float sigmoid(float x) { return 1 / (1 + __expf(-x)); }

/// The sum over the lanes of a warp, the same in all of them.
__device__ __forceinline__ float warp_sum(float x) {
    for (int with = 16; with; with /= 2) x += __shfl_xor_sync(0xffffffff, x, with);
    return x;
}
__device__ __forceinline__ double warp_sum(double x) {
    for (int with = 16; with; with /= 2) x += __shfl_xor_sync(0xffffffff, x, with);
    return x;
}

/// The sum over the threads of a block, the same in all of them; `room` has a place for each warp.
template <class T> __device__ __forceinline__ T block_sum(T x, T *room) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    T sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++) sum += room[warp];
    return sum;
}

// Where a lane finds its row of the four 8 x 8 matrices (8 x 4 of f32) that `load_matrices` reads.
/// Of 16 rows and 32 bytes as the left side of a product: {row, byte}.
__device__ __forceinline__ int2 left_row(int lane) { return {lane % 16, lane / 16 * 16}; }
/// Of 16 rows, two right sides of 8 columns each, one column a row.
__device__ __forceinline__ int2 right_row(int lane) { return {lane / 16 * 8 + lane % 8, lane / 8 % 2 * 16}; }

#ifndef EMULATED
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) char name[]

/// c [16, 8] += a [16, 16] b [16, 8] in bf16, summed in f32 (PTX ISA, "Matrix Fragments for mma.m16n8k16").
__device__ __forceinline__ void mma(float c[4], const unsigned a[4], const unsigned b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// c [16, 8] += a [16, 8] b [8, 8] in TF32, summed in f32 ("Matrix Fragments for mma.m16n8k8").
__device__ __forceinline__ void mma_tf32(float c[4], const unsigned a[4], const unsigned b[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// The nearest number with TF32's 10 bits of mantissa.
__device__ __forceinline__ float tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
}

/// Four matrices of 8 rows of 16 bytes; lane l tells where row l % 8 of matrix l / 8 lies.
__device__ __forceinline__ void load_matrices(unsigned to[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(unsigned(__cvta_generic_to_shared(row))) : "memory");
}

/// The same of 16-bit numbers, each matrix transposed.
__device__ __forceinline__ void load_transposed(unsigned to[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(unsigned(__cvta_generic_to_shared(row))) : "memory");
}

/// Begins to copy 16 bytes to shared memory, or zeros if they are not `there`.
__device__ __forceinline__ void copy_async(void *to, const void *from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(unsigned(__cvta_generic_to_shared(to))), "l"(from),
                 "r"(there ? 16 : 0) : "memory");
}

/// What was begun since the last call is one group.
__device__ __forceinline__ void copies_are_a_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until all of this thread's groups but the last N have arrived.
template <int N> __device__ __forceinline__ void wait_for_groups_but() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#endif
