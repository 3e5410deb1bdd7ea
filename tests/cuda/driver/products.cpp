// Plays cuBLAS and cuBLASLt, which count columns first, as far as the program calls them.
#include "played.hpp"

#include "../../../src/ops/cuda/common.cuh"

using played::computes;
typedef int Result;
static int handle;

/// Types of numbers, and ways to multiply them, as both libraries name them.
enum { F32 = 0, BF16 = 14, FAST_TF32 = 77, REFUSED = 15 };
static size_t size_of(int type) { return type == BF16 ? 2 : 4; }

/// A matrix: whether it is read across, and the way from one of its columns to the next.
template <class T> struct Matrix {
    const T *at;
    bool turned;
    long long pitch;
    float operator()(int row, int column) const { return wide(turned ? at[row * pitch + column] : at[column * pitch + row]); }
};

/// d [m, n] = alpha a [m, k] b [k, n] + beta c + bias `[m]`, where `c` may be `d`.
template <class T, class D> struct Product {
    int m, n, k;
    Matrix<T> a, b;
    float alpha, beta;
    const D *c, *bias;
    D *d;
    long long pitch;
    bool rounded;

    void run() const {
        auto seen = [&](float x) { return rounded ? tf32(x) : x; };
        std::vector<float> left(size_t(m) * k), column(m);
        for (int p = 0; p < k; p++)
            for (int x = 0; x < m; x++) left[size_t(p) * m + x] = seen(a(x, p));
        for (int y = 0; y < n; y++) {
            std::fill(column.begin(), column.end(), 0.f);
            for (int p = 0; p < k; p++) {
                float right = seen(b(p, y));
                const float *from = &left[size_t(p) * m];
                for (int x = 0; x < m; x++) column[x] += right * from[x];
            }
            for (int x = 0; x < m; x++) {
                float value = alpha * column[x];
                if (beta != 0) value += beta * wide(c[y * pitch + x]);
                if (bias) value += wide(bias[x]);
                store(d[y * pitch + x], value);
            }
        }
    }
};

/// Counts a product of that size, read and written once.
static void tally(double m, double n, double k, int type, int type_d, bool added) {
    played::tally("products", {(m * k + k * n) * size_of(type) + (1 + added) * m * n * size_of(type_d), 2 * m * n * k});
}

API Result cublasCreate_v2(void **to) { *to = &handle; return 0; }
API Result cublasDestroy_v2(void *) { return 0; }
API Result cublasSetStream_v2(void *, void *) { return 0; }
API Result cublasSetWorkspace_v2(void *, void *, size_t) { return 0; }
API Result cublasGemmStridedBatchedEx(void *, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int type_a, int lda, long long stride_a, const void *b,
                                      int type_b, int ldb, long long stride_b, const void *beta, void *c, int type_c, int ldc, long long stride_c, int count, int how, int) {
    std::lock_guard<std::recursive_mutex> turn(played::turn());
    if (type_a != type_b || type_a != type_c || (type_a != F32 && type_a != BF16)) return REFUSED;
    float al = *static_cast<const float *>(alpha), be = *static_cast<const float *>(beta);
    tally(m, double(n) * count, k, type_a, type_a, be != 0);
    auto multiply = [&](auto zero, int i) {
        using T = decltype(zero);
        T *d = static_cast<T *>(c) + i * stride_c;
        Matrix<T> left{static_cast<const T *>(a) + i * stride_a, ta != 0, lda}, right{static_cast<const T *>(b) + i * stride_b, tb != 0, ldb};
        Product<T, T>{m, n, k, left, right, al, be, d, nullptr, d, ldc, how == FAST_TF32}.run();
    };
    for (int i = 0; computes() && i < count; i++) type_a == F32 ? multiply(0.f, i) : multiply(bf16(0), i);
    return 0;
}

// cuBLASLt: what is set of a product, and of a matrix
struct Way {
    int how, turn_a = 0, turn_b = 0, epilogue = 1;
    const void *bias = nullptr;
};
struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t pitch;
};
/// The alignment of the four matrices that algorithms may count on.
struct Wanted {
    unsigned aligned[4] = {256, 256, 256, 256};
};
/// What was found for a product: nothing but what it may count on.
struct Found {
    Wanted algorithm;
    char rest[64 - sizeof(Wanted)];
    size_t workspace;
    Result state;
    float waves;
    int reserved[4];
};
API Result cublasLtCreate(void **to) { *to = &handle; return 0; }
API Result cublasLtDestroy(void *) { return 0; }
API Result cublasLtMatmulDescCreate(Way **way, int how, int) { *way = new Way{how}; return 0; }
API Result cublasLtMatmulDescDestroy(Way *way) { delete way; return 0; }
API Result cublasLtMatmulDescSetAttribute(Way *way, int attribute, const void *value, size_t size) {
    void *to = attribute == 3 ? static_cast<void *>(&way->turn_a) : attribute == 4 ? &way->turn_b : attribute == 7 ? &way->epilogue : attribute == 8 ? static_cast<void *>(&way->bias) : nullptr;
    if (!to || size != (attribute == 8 ? 8 : 4)) return 7;
    memcpy(to, value, size);
    return 0;
}
API Result cublasLtMatrixLayoutCreate(Layout **layout, int type, uint64_t rows, uint64_t columns, int64_t pitch) {
    *layout = new Layout{type, rows, columns, pitch};
    return pitch < int64_t(rows) ? 7 : 0;
}
API Result cublasLtMatrixLayoutDestroy(Layout *layout) { delete layout; return 0; }
API Result cublasLtMatmulPreferenceCreate(Wanted **wanted) { *wanted = new Wanted; return 0; }
API Result cublasLtMatmulPreferenceDestroy(Wanted *wanted) { delete wanted; return 0; }
API Result cublasLtMatmulPreferenceSetAttribute(Wanted *wanted, int attribute, const void *value, size_t) {
    if (attribute >= 5 && attribute <= 8) memcpy(&wanted->aligned[attribute - 5], value, 4);
    return 0;
}
/// Whether matrices fit together, and their types are among those that the library's table has.
static bool fits(const Way &way, const Layout &a, const Layout &b, const Layout &c, const Layout &d) {
    uint64_t m = way.turn_a ? a.columns : a.rows, k = way.turn_a ? a.rows : a.columns;
    uint64_t k_b = way.turn_b ? b.columns : b.rows, n = way.turn_b ? b.rows : b.columns;
    bool sizes = k == k_b && d.rows == m && d.columns == n && c.rows == m && c.columns == n;
    bool types = a.type == b.type && c.type == d.type && (a.type == BF16 ? d.type == BF16 || d.type == F32 : a.type == F32 && d.type == F32);
    return sizes && types && (way.epilogue == 1 || way.epilogue == 4) && (way.how == 68 || way.how == FAST_TF32);
}
API Result cublasLtMatmulAlgoGetHeuristic(void *, Way *way, Layout *a, Layout *b, Layout *c, Layout *d, Wanted *wanted, int, Found *found, int *count) {
    *count = fits(*way, *a, *b, *c, *d);
    if (!*count) return REFUSED;
    *found = Found{*wanted, {}, 0, 0, 1, {}};
    return 0;
}
API Result cublasLtMatmul(void *, Way *way, const float *alpha, const void *a, Layout *la, const void *b, Layout *lb, const float *beta, const void *c, Layout *lc, void *d,
                          Layout *ld, const Wanted *algorithm, void *, size_t, void *) {
    std::lock_guard<std::recursive_mutex> turn(played::turn());
    if (!fits(*way, *la, *lb, *lc, *ld) || (way->epilogue == 4) != (way->bias != nullptr)) return REFUSED;
    const void *matrices[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        if (reinterpret_cast<uintptr_t>(matrices[i]) % algorithm->aligned[i]) {
            fprintf(stderr, "cuBLASLt: matrix %d is not aligned to the %u bytes that were promised\n", i, algorithm->aligned[i]);
            return 14;
        }
    int m = ld->rows, n = ld->columns, k = way->turn_a ? la->rows : la->columns;
    tally(m, n, k, la->type, ld->type, *beta != 0);
    auto multiply = [&](auto in, auto out) {
        using T = decltype(in);
        using D = decltype(out);
        Matrix<T> left{static_cast<const T *>(a), way->turn_a != 0, la->pitch}, right{static_cast<const T *>(b), way->turn_b != 0, lb->pitch};
        auto *bias = way->epilogue == 4 ? static_cast<const D *>(way->bias) : nullptr;
        Product<T, D>{m, n, k, left, right, *alpha, *beta, static_cast<const D *>(c), bias, static_cast<D *>(d), ld->pitch, way->how == FAST_TF32}.run();
    };
    if (!computes()) return 0;
    if (la->type == F32) multiply(0.f, 0.f);
    else if (ld->type == F32) multiply(bf16(0), 0.f);
    else multiply(bf16(0), bf16(0));
    return 0;
}
