// candle's own kernels by what they mean, as far as the program calls them: not their code, which is candle's to test.
#include "played.hpp"

#include "../../../src/ops/cuda/common.cuh"

namespace played {

std::map<std::string, Kernel> &kernels() {
    static std::map<std::string, Kernel> kernels;
    return kernels;
}

template <class T> static T argument(void **given, int i) { return *static_cast<T *>(given[i]); }

/// Enlists a kernel of candle's, of which `count` of its arguments says how many values it goes through, with so many bytes
/// of reading and writing each.
static void enlist(const char *family, const std::string &name, double bytes, std::function<void(void **)> run,
                   std::function<size_t(void **)> count = [](void **given) { return argument<size_t>(given, 0); }) {
    kernels()[name] = {family, [=](dim3, dim3, size_t, void **given) { run(given); },
                       [=](dim3, void **given) { return Cost{bytes * count(given), 0}; }};
}

/// A number of checkpoints, which nothing is computed with.
struct half {
    uint16_t bits;
};
static double load(const half *x) {
    int exponent = x->bits >> 10 & 31, mantissa = x->bits & 1023;
    double value = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
    return x->bits >> 15 ? -value : value;
}
static double load(const bf16 *x) { return wide(*x); }
template <class T> static double load(const T *x) { return double(*x); }
static void save(bf16 *to, double x) { *to = narrow(float(x)); }
template <class T> static void save(T *to, double x) { *to = T(x); }

/// Place of value i of a tensor of these sides and strides.
static size_t place(size_t i, size_t rank, const size_t *dims, const size_t *strides) {
    size_t at = 0;
    for (size_t d = rank; d-- > 0;) {
        at += i % dims[d] * strides[d];
        i /= dims[d];
    }
    return at;
}

using Unary = double (*)(double);
using Binary = double (*)(double, double);

/// (count, rank, info, in, out): `info` has sides and strides, or is null where values lie one after the other.
template <class S, class T, class F> static void each(void **given, F f) {
    auto count = argument<size_t>(given, 0), rank = argument<size_t>(given, 1);
    auto *info = argument<const size_t *>(given, 2);
    auto *in = argument<const S *>(given, 3);
    auto *out = argument<T *>(given, 4);
    for (size_t i = 0; i < count; i++) {
        size_t at = info ? place(i, rank, info, info + rank) : i;
        save(out + i, f(load(in ? in + at : reinterpret_cast<const S *>(out) + i)));
    }
}

template <class T> static void unary(const std::string &type) {
    static const std::map<std::string, Unary> all = {
        {"uneg", [](double x) { return -x; }},
        {"uexp", [](double x) { return double(expf(x)); }},
        {"ulog", [](double x) { return std::log(x); }},
        {"usqr", [](double x) { return x * x; }},
        {"usqrt", [](double x) { return double(sqrtf(x)); }},
        {"uabs", [](double x) { return std::abs(x); }},
        {"urecip", [](double x) { return 1 / x; }},
        {"usin", [](double x) { return std::sin(x); }},
        {"ucos", [](double x) { return std::cos(x); }},
        {"utanh", [](double x) { return std::tanh(x); }},
        {"uerf", [](double x) { return std::erf(x); }},
        {"usilu", [](double x) { return x / (1 + std::exp(-x)); }},
        {"usigmoid", [](double x) { return 1 / (1 + std::exp(-x)); }},
        {"ugelu_erf", [](double x) { return x * 0.5 * std::erfc(-x / std::sqrt(2.)); }},
        {"urelu", [](double x) { return x > 0 ? x : 0; }},
        {"usign", [](double x) { return double((x > 0) - (x < 0)); }},
    };
    for (auto [name, f] : all)
        enlist("values", name + "_" + type, 2 * sizeof(T), [f = f](void **given) { each<T, T>(given, f); });
    enlist("values", "affine_" + type, 2 * sizeof(T), [](void **given) {
        double factor = load(static_cast<T *>(given[5])), added = load(static_cast<T *>(given[6]));
        each<T, T>(given, [=](double x) { return float(x * factor) + added; });
    });
    enlist("values", "upowf_" + type, 2 * sizeof(T), [](void **given) {
        double power = load(static_cast<T *>(given[3]));
        void *rest[] = {given[0], given[1], given[2], given[4], given[5]};
        each<T, T>(rest, [=](double x) { return std::pow(x, power); });
    });
}

/// Copies keep every bit of any type.
template <class T> static void copies(const std::string &type) {
    enlist("copies", "ucopy_" + type, 2 * sizeof(T), [](void **given) {
        auto count = argument<size_t>(given, 0), rank = argument<size_t>(given, 1);
        auto *info = argument<const size_t *>(given, 2);
        auto *in = argument<const T *>(given, 3);
        auto *out = argument<T *>(given, 4);
        for (size_t i = 0; i < count; i++) out[i] = in[info ? place(i, rank, info, info + rank) : i];
    });
    auto copied = [](void **given) { return size_t(argument<uint32_t>(given, 2)) * argument<uint32_t>(given, 3); };
    enlist("copies", "copy2d_" + type, 2 * sizeof(T), [](void **given) {
        auto *from = argument<const T *>(given, 0);
        auto *to = argument<T *>(given, 1);
        auto rows = argument<uint32_t>(given, 2), width = argument<uint32_t>(given, 3);
        auto from_stride = argument<uint32_t>(given, 4), to_stride = argument<uint32_t>(given, 5);
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < width; c++) to[r * to_stride + c] = from[r * from_stride + c];
    }, copied);
    enlist("copies", "fill_" + type, sizeof(T), [](void **given) {
        std::fill_n(argument<T *>(given, 0), argument<size_t>(given, 2), argument<T>(given, 1));
    }, [](void **given) { return argument<size_t>(given, 2); });
    enlist("copies", "const_set_" + type, sizeof(T), [](void **given) {
        auto count = argument<size_t>(given, 0), rank = argument<size_t>(given, 1);
        auto *info = argument<const size_t *>(given, 2);
        auto *out = argument<T *>(given, 4);
        for (size_t i = 0; i < count; i++) out[info ? place(i, rank, info, info + rank) : i] = argument<T>(given, 3);
    });
}

/// (count, rank, info, left, right, out): `info` has sides, strides of the left and of the right.
template <class T, class R> static void both(void **given, Binary f) {
    auto count = argument<size_t>(given, 0), rank = argument<size_t>(given, 1);
    auto *info = argument<const size_t *>(given, 2);
    auto *left = argument<const T *>(given, 3), *right = argument<const T *>(given, 4);
    auto *out = argument<R *>(given, 5);
    for (size_t i = 0; i < count; i++) {
        size_t a = info ? place(i, rank, info, info + rank) : i, b = info ? place(i, rank, info, info + 2 * rank) : i;
        save(out + i, f(load(left + a), load(right + b)));
    }
}

template <class T> static void binary(const std::string &type) {
    static const std::map<std::string, Binary> numbers = {
        {"badd", [](double a, double b) { return a + b; }},    {"bsub", [](double a, double b) { return a - b; }},
        {"bmul", [](double a, double b) { return a * b; }},    {"bdiv", [](double a, double b) { return a / b; }},
        {"bmaximum", [](double a, double b) { return std::max(a, b); }},
        {"bminimum", [](double a, double b) { return std::min(a, b); }},
    };
    static const std::map<std::string, Binary> comparisons = {
        {"eq", [](double a, double b) { return double(a == b); }}, {"ne", [](double a, double b) { return double(a != b); }},
        {"lt", [](double a, double b) { return double(a < b); }},  {"le", [](double a, double b) { return double(a <= b); }},
        {"gt", [](double a, double b) { return double(a > b); }},  {"ge", [](double a, double b) { return double(a >= b); }},
    };
    for (auto [name, f] : numbers)
        enlist(name == std::string("badd") ? "sums of two" : "values", name + "_" + type, 3 * sizeof(T), [f = f](void **given) { both<T, T>(given, f); });
    for (auto [name, f] : comparisons)
        enlist("values", name + "_" + type, 2 * sizeof(T) + 1, [f = f](void **given) { both<T, uint8_t>(given, f); });
}

/// (count, of a sum, rank, info, in, out): the reduced sides come last. `small` counts results instead of inputs.
template <class T, class F> static void reduce(void **given, bool small, F f) {
    auto count = argument<size_t>(given, 0), each = argument<size_t>(given, 1), rank = argument<size_t>(given, 2);
    auto *info = argument<const size_t *>(given, 3);
    auto *in = argument<const T *>(given, 4);
    size_t results = small ? count : count / each;
    for (size_t i = 0; i < results; i++) {
        std::vector<double> values(each);
        for (size_t j = 0; j < each; j++) values[j] = load(in + (info ? place(i * each + j, rank, info, info + rank) : i * each + j));
        f(i, values);
    }
}

template <class T> static void reductions(const std::string &type) {
    auto sum = [](bool small) {
        return [small](void **given) {
            auto *out = argument<T *>(given, 5);
            reduce<T>(given, small, [&](size_t i, const std::vector<double> &values) {
                double sum = 0;
                for (double value : values) sum += value;
                save(out + i, sum);
            });
        };
    };
    enlist("reductions", "fast_sum_" + type, sizeof(T), sum(false));
    enlist("reductions", "fast_sum_small_" + type, sizeof(T), sum(true),
           [](void **given) { return argument<size_t>(given, 0) * argument<size_t>(given, 1); });
    enlist("reductions", "fast_max_" + type, sizeof(T), [](void **given) {
        auto *out = argument<T *>(given, 5);
        reduce<T>(given, false, [&](size_t i, const auto &values) { save(out + i, *std::max_element(values.begin(), values.end())); });
    });
    enlist("reductions", "fast_argmax_" + type, sizeof(T), [](void **given) {
        auto *out = argument<uint32_t *>(given, 5);
        reduce<T>(given, false, [&](size_t i, const auto &values) { out[i] = std::max_element(values.begin(), values.end()) - values.begin(); });
    });
}

template <class T> static void indexing(const std::string &type) {
    enlist("copies", "is_u32_" + type, 2 * sizeof(T), [](void **given) {
        auto count = argument<size_t>(given, 0); // then sides and strides of the ids, which lie one after the other
        auto *ids = argument<const uint32_t *>(given, 3);
        auto *in = argument<const T *>(given, 4);
        auto *out = argument<T *>(given, 5);
        auto sides = argument<size_t>(given, 7), chosen = argument<size_t>(given, 8), right = argument<size_t>(given, 9);
        for (size_t i = 0; i < count; i++) {
            size_t id = ids[i / right % chosen];
            assert(id < sides);
            size_t at = (i / (chosen * right) * sides + id) * right + i % right;
            out[i] = in[at];
        }
    });
    enlist("copies", "ia_u32_" + type, 3 * sizeof(T), [](void **given) {
        auto *ids = argument<const uint32_t *>(given, 0);
        auto chosen = argument<size_t>(given, 1);
        auto *in = argument<const T *>(given, 2);
        auto *out = argument<T *>(given, 3);
        auto left = argument<size_t>(given, 4), sides = argument<size_t>(given, 6), right = argument<size_t>(given, 7);
        for (size_t i = 0; i < left * right; i++)
            for (size_t j = 0; j < chosen; j++) {
                T *to = out + (i / right * sides + ids[j]) * right + i % right;
                save(to, load(to) + load(in + (i / right * chosen + j) * right + i % right));
            }
    }, [](void **given) { return argument<size_t>(given, 1) * argument<size_t>(given, 4) * argument<size_t>(given, 7); });
}

template <class S, class T> static void cast(const std::string &name) {
    enlist("conversions", "cast_" + name, sizeof(S) + sizeof(T), [](void **given) { each<S, T>(given, [](double x) { return x; }); });
}

static bool all = [] {
    unary<float>("f32"), unary<double>("f64"), unary<bf16>("bf16");
    copies<float>("f32"), copies<double>("f64"), copies<bf16>("bf16"), copies<uint8_t>("u8"), copies<uint32_t>("u32"), copies<int64_t>("i64");
    binary<float>("f32"), binary<double>("f64"), binary<bf16>("bf16"), binary<uint8_t>("u8"), binary<uint32_t>("u32");
    reductions<float>("f32"), reductions<double>("f64"), reductions<bf16>("bf16"), reductions<uint32_t>("u32");
    indexing<float>("f32"), indexing<bf16>("bf16"), indexing<uint32_t>("u32");
    cast<half, float>("f16_f32"), cast<float, bf16>("f32_bf16"), cast<bf16, float>("bf16_f32"), cast<float, double>("f32_f64"), cast<double, float>("f64_f32");
    cast<uint8_t, float>("u8_f32"), cast<uint8_t, bf16>("u8_bf16"), cast<uint32_t, float>("u32_f32"), cast<uint32_t, uint32_t>("u32_u32");
    cast<bf16, double>("bf16_f64"), cast<int64_t, float>("i64_f32"), cast<float, uint32_t>("f32_u32");
    return true;
}();

} // namespace played
