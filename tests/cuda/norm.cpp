// Group and layer normalisation with their gradients against plain loops in f64.
#include "check.hpp"

#include "../../src/ops/cuda/norm.cu"

template <class T> struct Kernels {
    void (*moments)(const T *, float *, Norming);
    void (*apply)(const T *, const float *, T *, Norming);
    void (*sums)(const T *, const T *, const float *, const float *, const float *, float *, Norming);
    void (*backward)(const T *, const T *, const float *, const float *, const float *, const float *, T *, Norming);
    void (*layer)(const T *, const float *, const float *, T *, int, int, float);
    void (*layer_backward)(const T *, const T *, const float *, const T *, T *, int, int, float);
};

static const Kernels<float> IN_F32{group_moments_f32, group_apply_f32, group_sums_f32, group_backward_f32, layer_f32, layer_backward_f32};
static const Kernels<bf16> IN_BF16{group_moments_bf16, group_apply_bf16, group_sums_bf16, group_backward_bf16, layer_bf16, layer_backward_bf16};

template <class T> static std::vector<T> values(size_t count, float mean) {
    auto x = normal(count, 2);
    for (float &value : x) value += mean;
    return as<T>(x);
}

/// Standardises n values at x[at(i)] and differentiates: `z` normalised values, `d` their gradients, dx to `dx`.
template <class At> static void centre(const std::vector<double> &x, size_t n, At at, double eps, std::vector<double> *z, const std::vector<double> *d, std::vector<double> *dx) {
    double mean = 0, squares = 0, sum = 0, product = 0;
    for (size_t i = 0; i < n; i++) mean += x[at(i)] / n;
    for (size_t i = 0; i < n; i++) squares += (x[at(i)] - mean) * (x[at(i)] - mean);
    double inverse = 1 / std::sqrt(squares / n + eps);
    for (size_t i = 0; i < n; i++) (*z)[at(i)] = (x[at(i)] - mean) * inverse;
    if (!dx) return;
    for (size_t i = 0; i < n; i++) sum += (*d)[at(i)] / n, product += (*d)[at(i)] * (*z)[at(i)] / n;
    for (size_t i = 0; i < n; i++) (*dx)[at(i)] = inverse * ((*d)[at(i)] - sum - (*z)[at(i)] * product);
}

template <class T> static void group(const Kernels<T> &k, int batch, int pixels, int channels, int groups, int rows, bool silu, float mean) {
    Norming n{pixels, channels, groups, rows, 1e-5f, silu};
    auto x = values<T>(size_t(batch) * pixels * channels, mean), dy = values<T>(x.size(), 0);
    auto weight = normal(channels), bias = normal(channels);
    int parts = (pixels + rows - 1) / rows, each = channels / groups;
    auto moments = room<float>(size_t(batch) * parts * 2 * channels), statistics = room<float>(batch * groups * 2);
    auto line = room<float>(batch * 2 * channels), sums = room<float>(moments.size()), slopes = room<float>(statistics.size());
    auto y = room<T>(x.size()), dx = room<T>(x.size());
    dim3 by_part(parts, batch), by_group(groups, batch);
    emu::launch(k.moments, by_part, 64, 0, x.data(), moments.data(), n);
    emu::launch(group_line, by_group, 32, 0, moments.data(), parts, weight.data(), bias.data(), statistics.data(), line.data(), n);
    emu::launch(k.apply, by_part, 64, 0, x.data(), line.data(), y.data(), n);
    emu::launch(k.sums, by_part, 64, 0, x.data(), dy.data(), statistics.data(), line.data(), weight.data(), sums.data(), n);
    emu::launch(group_slopes, by_group, 32, 0, sums.data(), parts, statistics.data(), slopes.data(), n);
    emu::launch(k.backward, by_part, 64, 0, x.data(), dy.data(), statistics.data(), line.data(), weight.data(), slopes.data(), dx.data(), n);

    auto from = seen(x), d = seen(dy);
    std::vector<double> z(x.size()), truth(x.size()), of_z(x.size()), of_x(x.size());
    auto every = [&](auto work) {
        for (int b = 0; b < batch; b++)
            for (int g = 0; g < groups; g++)
                work(size_t(pixels) * each, [=](size_t i) { return (size_t(b) * pixels + i / each) * channels + g * each + i % each; });
    };
    every([&](size_t count, auto at) { centre(from, count, at, 1e-5, &z, nullptr, nullptr); });
    for (size_t i = 0; i < z.size(); i++) {
        int c = i % channels;
        double v = z[i] * weight[c] + bias[c], s = 1 / (1 + std::exp(-v));
        truth[i] = silu ? v * s : v;
        of_z[i] = d[i] * weight[c] * (silu ? s * (1 + v * (1 - s)) : 1);
    }
    every([&](size_t count, auto at) { centre(from, count, at, 1e-5, &z, &of_z, &of_x); });
    char name[120];
    snprintf(name, sizeof name, "group [%d, %d, %d], %d groups, parts of %d, mean %g, %zu bytes", batch, pixels, channels, groups, rows, mean, sizeof(T));
    // a mean of 1000 leaves 14 bits of the differences
    verdict(name, distance(truth, y), bound_of<T>(mean > 100 ? 1e-4 : 2e-6, 4e-3));
    verdict(std::string(name) + ", gradient", distance(of_x, dx), bound_of<T>(mean > 100 ? 2e-4 : 4e-6, 5e-3));
    shape();
}

template <class T> static void rows(const Kernels<T> &k, int rows, int width, bool residual) {
    auto x = values<T>(size_t(rows) * width, 1), dy = values<T>(x.size(), 0), more = values<T>(x.size(), 0);
    auto weight = normal(width), bias = normal(width);
    auto y = room<T>(x.size()), dx = room<T>(x.size());
    emu::launch(k.layer, (rows + 3) / 4, 128, 0, x.data(), weight.data(), bias.data(), y.data(), rows, width, 1e-5f);
    emu::launch(k.layer_backward, (rows + 3) / 4, 128, 0, x.data(), dy.data(), weight.data(), residual ? more.data() : nullptr, dx.data(), rows, width, 1e-5f);
    auto from = seen(x), d = seen(dy);
    std::vector<double> z(x.size()), truth(x.size()), of_x(x.size());
    for (size_t i = 0; i < d.size(); i++) d[i] *= weight[i % width];
    for (int r = 0; r < rows; r++) centre(from, width, [=](size_t i) { return size_t(r) * width + i; }, 1e-5, &z, &d, &of_x);
    for (size_t i = 0; i < z.size(); i++) {
        truth[i] = z[i] * weight[i % width] + bias[i % width];
        if (residual) of_x[i] += wide(more[i]);
    }
    char name[80];
    snprintf(name, sizeof name, "layer [%d, %d], %zu bytes", rows, width, sizeof(T));
    verdict(name, distance(truth, y), bound_of<T>(1e-6, 4e-3));
    verdict(std::string(name) + ", gradient", distance(of_x, dx), bound_of<T>(2e-6, 5e-3));
    shape();
}

template <class T> static void all(const Kernels<T> &k) {
    group(k, 2, 100, 320, 32, 16, true, 3);
    group(k, 1, 37, 64, 32, 64, true, 0);
    group(k, 2, 65, 12, 3, 8, false, -1);
    group(k, 1, 1, 32, 8, 4, true, 0);
    group(k, 3, 9, 35, 5, 2, true, 0);
    rows(k, 7, 40, true);
    rows(k, 1, 1, false);
    rows(k, 9, 320, false);
    rows(k, 2, 1283, true);
}

int main() {
    return check::main("norm", [] {
        all(IN_F32);
        all(IN_BF16);
        group(IN_F32, 1, 300, 32, 4, 32, false, 1000);
    });
}
