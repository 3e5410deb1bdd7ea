// Plays the CUDA driver and cuRAND in the machine's memory, as far as the program calls them.
//
// PLAYED_RUN=0: nothing is computed, all is counted. PLAYED_REPORT=FILE: what was called, when the program ends.
// PLAYED_MEMORY=GIB: a device's memory, 80 without it. PLAYED_CARDS=N: so many devices, 1 without it. PLAYED_FULL=I: others
// have taken all memory of that device. PLAYED_CAPABILITY=NN: its compute capability, 80 without it.
#include "played.hpp"

#include <algorithm>
#include <atomic>
#include <thread>

static std::map<std::string, long> calls, launches;
/// What was launched of a family of kernels.
struct Tally {
    long launches = 0;
    played::Cost cost;
};
static std::map<std::string, Tally> families;
/// Times that the program waited for a device, where a read and what waits for it are one.
static long waits = 0;
static bool has_read = false;
static int wait() {
    waits += !has_read;
    has_read = false;
    return 0;
}

/// A device: what it has of its memory in use, the most that it had, and what its pool keeps until nobody has its context.
struct Card {
    size_t taken = 0, peak = 0, kept = 0;
    long launches = 0, holders = 0;
};
static const size_t memory = size_t(getenv("PLAYED_MEMORY") ? atof(getenv("PLAYED_MEMORY")) * 1024 : 80 << 10) << 20;
static std::vector<Card> cards(getenv("PLAYED_CARDS") ? atoi(getenv("PLAYED_CARDS")) : 1);
static const Card *const full = getenv("PLAYED_FULL") ? &cards.at(atoi(getenv("PLAYED_FULL"))) : nullptr;
static thread_local Card *current = &cards[0];
/// A block, and the thread that asked for it, in whose stream its kernels run: another one does not wait for them.
struct Held {
    size_t bytes;
    Card *card;
    std::thread::id thread;
};
static std::map<void *, Held> blocks;

bool played::computes() {
    static const bool run = !(getenv("PLAYED_RUN") && *getenv("PLAYED_RUN") == '0');
    return run;
}
std::recursive_mutex &played::turn() {
    static std::recursive_mutex turn;
    return turn;
}
void played::called(const char *function) { calls[function]++; }
void played::tally(const std::string &family, Cost cost) {
    Tally &of = families[family];
    of.launches++;
    of.cost.bytes += cost.bytes;
    of.cost.flop += cost.flop;
    current->launches++;
}
size_t played::held(const void *address) {
    auto block = blocks.upper_bound(const_cast<void *>(address));
    if (block == blocks.begin()) return 0;
    block--;
    size_t from = static_cast<const char *>(address) - static_cast<char *>(block->first);
    return from < block->second.bytes ? block->second.bytes - from : 0;
}
using played::computes;
using played::tally;
#define TURN std::lock_guard<std::recursive_mutex> turn(played::turn())
#define COUNT TURN; played::called(__func__)

struct Report {
    ~Report() {
        const char *path = getenv("PLAYED_REPORT");
        FILE *file = path ? fopen(path, "w") : nullptr;
        if (!file) return;
        size_t peak = 0;
        for (const Card &card : cards) peak = max(peak, card.peak);
        long kernels = 0;
        for (auto &[name, count] : launches) kernels += count;
        fprintf(file, "total launches %ld\ntotal products %ld\n", kernels, families["products"].launches);
        fprintf(file, "total allocations %ld\ntotal uploads %ld\ntotal reads %ld\ntotal synchronisations %ld\ntotal peak %zu\n",
                calls["cuMemAllocAsync"] + calls["cuMemAlloc_v2"], calls["cuMemcpyHtoDAsync_v2"], calls["cuMemcpyDtoHAsync_v2"], waits, peak);
        for (auto &[name, of] : families) fprintf(file, "family %ld %.0f %.0f %s\n", of.launches, of.cost.bytes, of.cost.flop, name.c_str());
        for (size_t i = 0; i < cards.size(); i++) fprintf(file, "card %zu %ld %zu\n", i, cards[i].launches, cards[i].kept);
        std::vector<std::pair<long, std::string>> by_count;
        for (auto &[name, count] : launches) by_count.push_back({count, name});
        std::sort(by_count.rbegin(), by_count.rend());
        for (auto &[count, name] : by_count) fprintf(file, "kernel %ld %s\n", count, name.c_str());
        fclose(file);
    }
} report;

typedef int Result;
typedef uint64_t Address;

/// The driver answers nothing about devices before this.
static std::atomic<bool> begun;
API Result cuInit(unsigned) { begun = true; return 0; }
API Result cuDriverGetVersion(int *version) { *version = 13000; return 0; }
API Result cuDeviceGetCount(int *count) { *count = cards.size(); return begun ? 0 : 3; }
API Result cuDeviceGet(int *device, int i) { *device = i; return !begun ? 3 : i < 0 || size_t(i) >= cards.size() ? 101 : 0; }
API Result cuDeviceGetName(char *name, int size, int) { snprintf(name, size, "played on the processor"); return 0; }
API Result cuDeviceTotalMem_v2(size_t *bytes, int) { *bytes = memory; return 0; }
/// What an A100 of 80 GiB says of itself, but for the compute capability, where PLAYED_CAPABILITY=75 or the like is given.
API Result cuDeviceGetAttribute(int *value, int attribute, int) {
    static const int capability = getenv("PLAYED_CAPABILITY") ? atoi(getenv("PLAYED_CAPABILITY")) : 80;
    static const std::map<int, int> known = {
        {1, 1024},       // threads of a block
        {13, 1410000},   // kHz of its clock
        {16, 108},       // multiprocessors
        {36, 1512000},   // kHz of its memory's clock
        {37, 5120},      // bits of its memory's bus
        {75, capability / 10}, {76, capability % 10},
        {115, 1},        // memory pools
    };
    auto found = known.find(attribute);
    *value = found == known.end() ? 1 : found->second;
    return 0;
}
API Result cuDeviceGetDefaultMemPool(void **pool, int device) { *pool = &cards[device]; return 0; }
API Result cuMemPoolSetAttribute(void *, int, void *) { return 0; }
API Result cuDevicePrimaryCtxRetain(void **context, int device) {
    TURN;
    cards[device].holders++;
    *context = &cards[device];
    return 0;
}
API Result cuDevicePrimaryCtxRelease_v2(int device) {
    TURN;
    if (!--cards[device].holders) cards[device].kept = 0;
    return 0;
}
API Result cuCtxSetCurrent(void *card) { current = static_cast<Card *>(card); return 0; }
API Result cuCtxGetCurrent(void **card) { *card = current; return 0; }
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
    if (current == full || current->taken + bytes > memory) return 2;
    void *block = aligned_alloc(256, (bytes + 511) / 256 * 256);
    if (!block) return 2;
    if (computes()) memset(block, 0xff, bytes); // NaN: nobody may read what nobody wrote
    blocks[block] = {bytes, current, std::this_thread::get_id()};
    current->peak = max(current->peak, current->taken += bytes);
    current->kept = max(current->kept, current->taken);
    *to = reinterpret_cast<Address>(block);
    return 0;
}
static Result give_back(Address address) {
    TURN;
    auto block = blocks.find(reinterpret_cast<void *>(address));
    if (block == blocks.end()) return address ? 1 : 0;
    block->second.card->taken -= block->second.bytes;
    free(block->first);
    blocks.erase(block);
    return 0;
}
API Result cuMemPoolGetAttribute(void *pool, int attribute, void *value) {
    const Card &card = *static_cast<Card *>(pool);
    if (attribute != 5 && attribute != 7 && attribute != 8) return 1;
    *static_cast<uint64_t *>(value) = attribute == 5 ? card.kept : attribute == 7 ? card.taken : card.peak;
    return 0;
}
static void *at(Address address) { return reinterpret_cast<void *>(address); }
/// Whether this thread may read a block: else what it reads depends on who is faster.
static bool in_order(Address address) {
    auto block = blocks.upper_bound(at(address));
    bool ours = block == blocks.begin() || (--block)->second.thread == std::this_thread::get_id();
    if (!ours) fprintf(stderr, "driver: a thread reads what is computed in the stream of another\n");
    return ours;
}
API Result cuMemAllocAsync(Address *to, size_t bytes, void *) { COUNT; return take(to, bytes); }
API Result cuMemAlloc_v2(Address *to, size_t bytes) { COUNT; return take(to, bytes); }
API Result cuMemFreeAsync(Address address, void *) { return give_back(address); }
API Result cuMemFree_v2(Address address) { return give_back(address); }
API Result cuMemGetInfo_v2(size_t *free, size_t *total) { *total = memory; *free = memory - current->kept; return 0; }
API Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *) { COUNT; if (computes()) memcpy(at(to), from, bytes); return 0; }
API Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *) {
    COUNT;
    if (!in_order(from)) return 719;
    wait();
    has_read = true;
    if (computes()) memcpy(to, at(from), bytes);
    else memset(to, 0, bytes);
    return 0;
}
API Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *) { COUNT; tally("copies, by the driver", {2. * bytes, 0}); if (computes()) memmove(at(to), at(from), bytes); return 0; }
API Result cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void *) { COUNT; tally("zeros, by the driver", {double(bytes), 0}); if (computes()) memset(at(to), value, bytes); return 0; }
API Result cuMemsetD8_v2(Address to, unsigned char value, size_t bytes) { COUNT; if (computes()) memset(at(to), value, bytes); return 0; }

API Result cuModuleLoadData(void **module, const void *) { COUNT; *module = &launches; return 0; }
API Result cuModuleUnload(void *) { return 0; }
/// A kernel as it was asked for, and the shared memory that it was allowed.
struct Function {
    std::string name;
    size_t shared = 48 << 10;
};
static std::map<std::string, Function> functions;
API Result cuModuleGetFunction(void **function, void *, const char *name) {
    TURN;
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
    TURN;
    auto &[name, allowed] = *static_cast<Function *>(function);
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
    launches[name]++;
    dim3 grid(gx, gy, gz);
    tally(kernel->second.family, kernel->second.cost(grid, arguments));
    if (computes()) kernel->second.run(grid, dim3(bx, by, bz), shared, arguments);
    return 0;
}
API Result cuGetErrorName(int error, const char **text) {
    *text = error == 3 ? "CUDA_ERROR_NOT_INITIALIZED" : error == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : error == 101 ? "CUDA_ERROR_INVALID_DEVICE" : error == 1 ? "CUDA_ERROR_INVALID_VALUE" : error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : error == 500 ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR";
    return 0;
}
API Result cuGetErrorString(int error, const char **text) {
    *text = error == 3 ? "initialization error" : error == 719 ? "unspecified launch failure" : error == 101 ? "invalid device ordinal" : error == 1 ? "invalid argument" : error == 2 ? "out of memory" : error == 500 ? "named symbol not found" : "error";
    return 0;
}

API Result curandCreateGenerator(void **generator, int) { *generator = &calls; return 0; }
API Result curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return 0; }
API Result curandSetStream(void *, void *) { return 0; }
API Result curandDestroyGenerator(void *) { return 0; }
