// Kernels by the names under which a program asks the driver for them.
#pragma once
#include "../emulate.hpp"

#include <map>
#include <string>

namespace played {

/// Runs a kernel: grid, block, bytes of shared memory, and the addresses of its arguments, as the driver is given them.
using Kernel = std::function<void(dim3, dim3, size_t, void **)>;

std::map<std::string, Kernel> &kernels();

template <class... P, size_t... I>
void call(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, void **given, std::index_sequence<I...>) {
    emu::launch(kernel, grid, block, shared, *static_cast<std::remove_const_t<P> *>(given[I])...);
}

template <class... P> bool enlist(const char *name, void (*kernel)(P...)) {
    kernels()[name] = [=](dim3 grid, dim3 block, size_t shared, void **given) {
        call(kernel, grid, block, shared, given, std::index_sequence_for<P...>{});
    };
    return true;
}

} // namespace played
