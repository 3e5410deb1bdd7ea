// What the checks share: random numbers, the distance to the truth, a verdict a shape, and the last line.
#pragma once
#include "emulate.hpp"

#include "../../src/ops/cuda/common.cuh"

#include <random>
#include <set>
#include <string>

namespace check {

inline std::mt19937 rng(1);
inline int shapes = 0, failures = 0;
inline double worst = 0; // as a share of its bound
inline std::string worst_what;

/// Standard normal numbers times `scale`.
inline std::vector<float> normal(size_t count, float scale = 1) {
    std::normal_distribution<float> distribution(0, scale);
    std::vector<float> x(count);
    for (float &value : x) value = distribution(rng);
    return x;
}

template <class T> std::vector<T> as(const std::vector<float> &x) {
    std::vector<T> y(x.size());
    for (size_t i = 0; i < x.size(); i++) store(y[i], x[i]);
    return y;
}

/// What kernels see of `x` in their precision, and f64 of it for the truth.
template <class T> std::vector<double> seen(const std::vector<T> &x) {
    std::vector<double> y(x.size());
    for (size_t i = 0; i < x.size(); i++) y[i] = wide(x[i]);
    return y;
}

/// Room for a result, in which nothing is a number yet.
template <class T> std::vector<T> room(size_t count) {
    std::vector<T> y(count);
    for (T &value : y) store(value, NAN);
    return y;
}
template <> inline std::vector<double> room(size_t count) { return std::vector<double>(count, NAN); }

/// The Euclidean distance to the truth as a share of the truth's length; NaN if there is one.
template <class T> double distance(const std::vector<double> &truth, const std::vector<T> &found) {
    assert(truth.size() == found.size());
    double gap = 0, size = 0;
    for (size_t i = 0; i < truth.size(); i++) {
        double d = truth[i] - double(wide(found[i]));
        gap += d * d;
        size += truth[i] * truth[i];
    }
    return size > 0 ? std::sqrt(gap / size) : std::sqrt(gap);
}

inline void verdict(const std::string &what, double error, double bound) {
    bool good = error <= bound;
    failures += !good;
    if (!(error / bound <= worst)) worst = error / bound, worst_what = what;
    if (!good) printf("FAILED %s: %.2e, at most %.0e allowed\n", what.c_str(), error, bound);
}

inline void shape() { shapes++; }

/// In which orders the threads of blocks run: in order, reversed, shuffled. Which memory they touch depends on none.
#ifdef __SANITIZE_ADDRESS__
constexpr unsigned ORDERS[] = {7};
#else
constexpr unsigned ORDERS[] = {0, 1, 7};
#endif

/// Runs `all` in every order and says how it went.
template <class F> int main(const char *name, F all) {
    for (unsigned order : ORDERS) {
        emu::order = order;
        rng.seed(1);
        shapes = 0;
        all();
    }
    printf("%s: %d shapes, %ld launches, worst at %.0f %% of its bound (%s), %d failed\n", name, shapes, emu::launches,
           100 * worst, worst_what.c_str(), failures);
    return failures != 0;
}

} // namespace check
using namespace check;

/// The bound of a result in the precision of T.
template <class T> constexpr double bound_of(double f32, double bf16_) { return sizeof(T) == 2 ? bf16_ : f32; }
