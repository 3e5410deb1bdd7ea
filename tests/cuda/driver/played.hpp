// Kernels by the names under which a program asks the driver for them, and what a launch of each costs.
#pragma once
#include "../emulate.hpp"

#include <map>
#include <mutex>
#include <string>

/// A function of a library that is played.
#define API extern "C" __attribute__((visibility("default")))

namespace played {

/// What a launch moves and computes: bytes of everything that it is given, each once, and two operations for each
/// product that is added to a sum; other arithmetic is not counted.
struct Cost {
    double bytes = 0, flop = 0;
};

struct Kernel {
    /// Under what a launch is counted.
    std::string family;
    /// Runs it with a grid, a block, bytes of shared memory, and the addresses of its arguments, as the driver is given them.
    std::function<void(dim3, dim3, size_t, void **)> run;
    std::function<Cost(dim3, void **)> cost;
};

std::map<std::string, Kernel> &kernels();

/// Whether anything is computed.
bool computes();
/// One caller at a time.
std::recursive_mutex &turn();
/// Counts a call of a function.
void called(const char *function);
/// Counts a launch of a family.
void tally(const std::string &family, Cost cost);

/// Bytes of a device's memory from that address to the end of what was allocated there; 0 if nothing was.
size_t held(const void *address);

/// What a kernel costs beside what its pointers hold, by its name, its grid and its last argument; cost/ has what some do.
template <class Sizes> Cost beside(const std::string &, dim3, const Sizes &) { return {}; }

template <class... P, size_t... I>
void call(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, void **given, std::index_sequence<I...>) {
    emu::launch(kernel, grid, block, shared, *static_cast<std::remove_const_t<P> *>(given[I])...);
}

template <class P> size_t bytes(void *given) {
    if constexpr (std::is_pointer_v<P>) return held(*static_cast<const void **>(given));
    else return 0;
}

template <class... P, size_t... I> Cost cost(const std::string &name, dim3 grid, void **given, std::index_sequence<I...>) {
    using Last = std::remove_const_t<std::tuple_element_t<sizeof...(P) - 1, std::tuple<P...>>>;
    Cost cost = beside(name, grid, *static_cast<Last *>(given[sizeof...(P) - 1]));
    cost.bytes += (bytes<P>(given[I]) + ...);
    return cost;
}

template <class... P> bool enlist(const char *family, const char *name, void (*kernel)(P...)) {
    auto run = [=](dim3 grid, dim3 block, size_t shared, void **given) {
        call(kernel, grid, block, shared, given, std::index_sequence_for<P...>{});
    };
    auto costs = [=](dim3 grid, void **given) { return cost<P...>(name, grid, given, std::index_sequence_for<P...>{}); };
    kernels()[name] = {family, run, costs};
    return true;
}

} // namespace played
