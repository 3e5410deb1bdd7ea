// Plays the CUDA driver, cuBLAS and cuRAND in the machine's memory, as far as the program calls them.
//
// PLAYED_RUN=0: nothing is computed, all is counted. PLAYED_REPORT=FILE: what was called, when the program ends.
// PLAYED_MEMORY=GIB: the device's memory, 80 without it.
#include "played.hpp"

#include "../../../src/ops/cuda/common.cuh"

#define API extern "C" __attribute__((visibility("default")))

static std::map<std::string, long> calls, launches;
static double flop = 0;
/// Times that the program waited for the device, where a read and what waits for it are one.
static long waits = 0;
static bool has_read = false;
static int wait() {
    waits += !has_read;
    has_read = false;
    return 0;
}
static std::map<void *, size_t> blocks;
static size_t taken = 0, peak = 0;
static const bool run = !(getenv("PLAYED_RUN") && *getenv("PLAYED_RUN") == '0');
static const size_t memory = size_t(getenv("PLAYED_MEMORY") ? atof(getenv("PLAYED_MEMORY")) * 1024 : 80 << 10) << 20;
#define COUNT calls[__func__]++

struct Report {
    ~Report() {
        const char *path = getenv("PLAYED_REPORT");
        FILE *file = path ? fopen(path, "w") : nullptr;
        if (!file) return;
        long all = 0;
        for (auto &[name, count] : launches) all += count;
        fprintf(file, "launches %ld\nproducts %ld\nproducts_tflop %.4f\nallocations %ld\nuploads %ld\nreads %ld\nsynchronisations %ld\npeak_gib %.3f\n",
                all, calls["cublasGemmStridedBatchedEx"], flop / 1e12, calls["cuMemAllocAsync"], calls["cuMemcpyHtoDAsync_v2"],
                calls["cuMemcpyDtoHAsync_v2"], waits, double(peak) / (1 << 30));
        for (auto &[name, count] : calls) fprintf(file, "call %s %ld\n", name.c_str(), count);
        std::vector<std::pair<long, std::string>> by_count;
        for (auto &[name, count] : launches) by_count.push_back({count, name});
        std::sort(by_count.rbegin(), by_count.rend());
        for (auto &[count, name] : by_count) fprintf(file, "kernel %s %ld\n", name.c_str(), count);
        fclose(file);
    }
} report;

typedef int Result;
typedef uint64_t Address;

API Result cuInit(unsigned) { return 0; }
API Result cuDriverGetVersion(int *version) { *version = 13000; return 0; }
API Result cuDeviceGetCount(int *count) { *count = 1; return 0; }
API Result cuDeviceGet(int *device, int i) { *device = 0; return i ? 101 : 0; }
API Result cuDeviceGetName(char *name, int size, int) { snprintf(name, size, "played on the processor"); return 0; }
API Result cuDeviceTotalMem_v2(size_t *bytes, int) { *bytes = memory; return 0; }
API Result cuDeviceGetAttribute(int *value, int attribute, int) {
    // memory pools, compute capability 8.0, multiprocessors, threads of a block
    *value = attribute == 115 ? 1 : attribute == 75 ? 8 : attribute == 76 ? 0 : attribute == 16 ? 108 : attribute == 1 ? 1024 : 1;
    return 0;
}
API Result cuDeviceGetDefaultMemPool(void **pool, int) { *pool = &blocks; return 0; }
API Result cuMemPoolSetAttribute(void *, int, void *) { return 0; }
API Result cuDevicePrimaryCtxRetain(void **context, int) { *context = &blocks; return 0; }
API Result cuDevicePrimaryCtxRelease_v2(int) { return 0; }
static thread_local void *context;
API Result cuCtxSetCurrent(void *c) { context = c; return 0; }
API Result cuCtxGetCurrent(void **c) { *c = context; return 0; }
API Result cuCtxSynchronize() { COUNT; return wait(); }
API Result cuStreamCreate(void **stream, unsigned) { *stream = &calls; return 0; }
API Result cuStreamDestroy_v2(void *) { return 0; }
API Result cuStreamSynchronize(void *) { COUNT; return wait(); }
API Result cuStreamWaitEvent(void *, void *, unsigned) { COUNT; return 0; }
API Result cuStreamIsCapturing(void *, int *status) { *status = 0; return 0; }
API Result cuEventCreate(void **event, unsigned) { COUNT; *event = &calls; return 0; }
API Result cuEventDestroy_v2(void *) { return 0; }
API Result cuEventRecord(void *, void *) { return 0; }
API Result cuEventSynchronize(void *) { COUNT; return wait(); }

static Result take(Address *to, size_t bytes) {
    if (!bytes) return 1;
    if (taken + bytes > memory) return 2;
    void *block = aligned_alloc(256, (bytes + 511) / 256 * 256);
    if (!block) return 2;
    if (run) memset(block, 0xff, bytes); // NaN: nobody may read what nobody wrote
    blocks[block] = bytes;
    peak = max(peak, taken += bytes);
    *to = reinterpret_cast<Address>(block);
    return 0;
}
static Result give_back(Address address) {
    auto block = blocks.find(reinterpret_cast<void *>(address));
    if (block == blocks.end()) return address ? 1 : 0;
    taken -= block->second;
    free(block->first);
    blocks.erase(block);
    return 0;
}
API Result cuMemPoolGetAttribute(void *, int attribute, void *value) {
    if (attribute != 8) return 1; // the most that was used
    *static_cast<uint64_t *>(value) = peak;
    return 0;
}
static void *at(Address address) { return reinterpret_cast<void *>(address); }
API Result cuMemAllocAsync(Address *to, size_t bytes, void *) { COUNT; return take(to, bytes); }
API Result cuMemAlloc_v2(Address *to, size_t bytes) { COUNT; return take(to, bytes); }
API Result cuMemFreeAsync(Address address, void *) { return give_back(address); }
API Result cuMemFree_v2(Address address) { return give_back(address); }
API Result cuMemGetInfo_v2(size_t *free, size_t *total) { *total = memory; *free = memory - taken; return 0; }
API Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *) { COUNT; if (run) memcpy(at(to), from, bytes); return 0; }
API Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *) { COUNT; wait(); has_read = true; if (run) memcpy(to, at(from), bytes); else memset(to, 0, bytes); return 0; }
API Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *) { COUNT; if (run) memmove(at(to), at(from), bytes); return 0; }
API Result cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void *) { COUNT; if (run) memset(at(to), value, bytes); return 0; }
API Result cuMemsetD8_v2(Address to, unsigned char value, size_t bytes) { COUNT; if (run) memset(at(to), value, bytes); return 0; }

API Result cuModuleLoadData(void **module, const void *) { COUNT; *module = &launches; return 0; }
API Result cuModuleUnload(void *) { return 0; }
/// A kernel as it was asked for, and the shared memory that it was allowed.
struct Function {
    std::string name;
    size_t shared = 48 << 10;
};
static std::map<std::string, Function> functions;
API Result cuModuleGetFunction(void **function, void *, const char *name) {
    functions[name].name = name;
    *function = &functions[name];
    return 0;
}
API Result cuFuncSetAttribute(void *function, int attribute, int value) {
    if (attribute != 8) return 0;
    if (value > 227 << 10) return 1; // the most that an H100 has
    static_cast<Function *>(function)->shared = value;
    return 0;
}
API Result cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *,
                          void **arguments, void **) {
    auto &[name, allowed] = *static_cast<Function *>(function);
    launches[name]++;
    has_read = false;
    size_t threads = size_t(bx) * by * bz;
    if (!gx || !gy || !gz || !threads || threads > 1024 || gx > 0x7fffffff || gy > 65535 || gz > 65535 || shared > allowed) {
        fprintf(stderr, "driver: %s refused: grid %u x %u x %u, %zu threads, %u bytes shared\n", name.c_str(), gx, gy, gz, threads, shared);
        return 1;
    }
    auto kernel = played::kernels().find(name);
    if (kernel == played::kernels().end()) {
        fprintf(stderr, "driver: kernel %s is not played\n", name.c_str());
        return 500;
    }
    if (run) kernel->second(dim3(gx, gy, gz), dim3(bx, by, bz), shared, arguments);
    return 0;
}
API Result cuGetErrorName(int error, const char **text) {
    *text = error == 101 ? "CUDA_ERROR_INVALID_DEVICE" : error == 1 ? "CUDA_ERROR_INVALID_VALUE" : error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : error == 500 ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR";
    return 0;
}
API Result cuGetErrorString(int error, const char **text) {
    *text = error == 101 ? "invalid device ordinal" : error == 1 ? "invalid argument" : error == 2 ? "out of memory" : error == 500 ? "named symbol not found" : "error";
    return 0;
}

// cuBLAS counts columns first
API Result cublasCreate_v2(void **handle) { *handle = &calls; return 0; }
API Result cublasDestroy_v2(void *) { return 0; }
API Result cublasSetStream_v2(void *, void *) { return 0; }
API Result cublasSetWorkspace_v2(void *, void *, size_t) { return 0; }

template <class T>
static void product(bool turn_a, bool turn_b, int m, int n, int k, float alpha, const T *a, int lda, const T *b, int ldb, float beta, T *c, int ldc) {
    std::vector<float> left(size_t(m) * k), column(m);
    for (int p = 0; p < k; p++)
        for (int x = 0; x < m; x++) left[size_t(p) * m + x] = wide(turn_a ? a[size_t(x) * lda + p] : a[size_t(p) * lda + x]);
    for (int y = 0; y < n; y++) {
        std::fill(column.begin(), column.end(), 0.f);
        for (int p = 0; p < k; p++) {
            float right = wide(turn_b ? b[size_t(p) * ldb + y] : b[size_t(y) * ldb + p]);
            const float *from = &left[size_t(p) * m];
            for (int x = 0; x < m; x++) column[x] += right * from[x];
        }
        for (int x = 0; x < m; x++) {
            T &to = c[size_t(y) * ldc + x];
            store(to, alpha * column[x] + (beta == 0 ? 0 : beta * wide(to)));
        }
    }
}

API Result cublasGemmStridedBatchedEx(void *, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int type_a, int lda, long long stride_a, const void *b,
                                      int type_b, int ldb, long long stride_b, const void *beta, void *c, int type_c, int ldc, long long stride_c, int count, int, int) {
    COUNT;
    flop += 2. * m * n * k * count;
    if (!run) return 0;
    float al = *static_cast<const float *>(alpha), be = *static_cast<const float *>(beta);
    for (int i = 0; i < count; i++) {
        auto multiply = [&](auto zero) {
            using T = decltype(zero);
            product(ta, tb, m, n, k, al, static_cast<const T *>(a) + i * stride_a, lda, static_cast<const T *>(b) + i * stride_b, ldb, be, static_cast<T *>(c) + i * stride_c, ldc);
        };
        if (type_a == 0 && type_b == 0 && type_c == 0) multiply(0.f);
        else if (type_a == 14 && type_b == 14 && type_c == 14) multiply(bf16(0));
        else return 15;
    }
    return 0;
}
API Result curandCreateGenerator(void **generator, int) { *generator = &calls; return 0; }
API Result curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return 0; }
API Result curandSetStream(void *, void *) { return 0; }
API Result curandDestroyGenerator(void *) { return 0; }
