// Convolutions and their input gradients against plain loops in f64.
#include "check.hpp"

#include "../../src/ops/cuda/convolution.cu"

/// A convolution as models ask for it.
struct Case {
    int size, stride, padding, height, width, from, to;
    bool doubled;
    int splits;
};

template <class T> using Kernel = void (*)(const T *, const T *, const float *, const float *, const T *, T *, float *, Convolving);
template <class T>
using Normed = void (*)(const T *, const float *, const T *, const float *, const float *, const T *, T *, float *, Convolving);

template <class T> struct Kernels {
    Kernel<T> plain;
    Normed<T> normed;
    void (*add_parts)(const float *, int, const float *, const float *, const T *, T *, int, int, int);
    void (*halve)(const T *, T *, int, int, int, int, int, int);
    double bound;
};

/// Runs one convolution as its launcher does.
template <class T>
static std::vector<T> run(const Kernels<T> &kernels, const std::vector<T> &x, const std::vector<float> *line, const std::vector<T> &filters,
                          const float *bias, const float *shift, const T *residual, Convolving c, int splits) {
    int pixels = c.batch * c.rows * c.columns, depth = c.size * c.size * c.channels, piece = DEPTH_BYTES / sizeof(T);
    int pieces = (depth + piece - 1) / piece;
    c.steps = (pieces + splits - 1) / splits;
    splits = (pieces + c.steps - 1) / c.steps;
    auto y = room<T>(size_t(pixels) * c.out);
    auto parts = room<float>(splits > 1 ? y.size() * splits : 0);
    float *sums = splits > 1 ? parts.data() : nullptr;
    dim3 grid((pixels + PIXELS - 1) / PIXELS, (c.out + OUTS - 1) / OUTS, splits);
    if (line)
        emu::launch(kernels.normed, grid, THREADS, STAGES * STAGE, x.data(), line->data(), filters.data(), bias, shift, residual, y.data(),
                    sums, c);
    else
        emu::launch(kernels.plain, grid, THREADS, STAGES * STAGE, x.data(), filters.data(), bias, shift, residual, y.data(), sums, c);
    if (splits > 1)
        emu::launch(kernels.add_parts, (y.size() + 255) / 256, 256, 0, parts.data(), splits, bias, shift, residual, y.data(), pixels,
                    c.rows * c.columns, c.out);
    return y;
}

template <class T> static void check_case(const Kernels<T> &kernels, const Case &k, const char *name) {
    const int batch = 2;
    int tall = k.doubled ? 2 * k.height - 1 : k.height, wide_ = k.doubled ? 2 * k.width : k.width;
    int rows = (tall + 2 * k.padding - k.size) / k.stride + 1, columns = (wide_ + 2 * k.padding - k.size) / k.stride + 1;
    Convolving c{batch, k.height, k.width, k.from, rows, columns, k.to, k.size, k.stride, k.padding, tall, wide_, k.doubled, 1, 0};
    auto x = as<T>(normal(size_t(batch) * k.height * k.width * k.from));
    auto weight = as<T>(normal(size_t(k.to) * k.size * k.size * k.from));
    auto bias = normal(k.to), shift = normal(batch * k.to), line = normal(batch * 2 * k.from);
    auto residual = as<T>(normal(size_t(batch) * rows * columns * k.to));
    char shape[120];
    snprintf(shape, sizeof shape, "%s %dx%d/%d, %d x %d, %d to %d%s, in %d", name, k.size, k.size, k.stride, k.height, k.width, k.from,
             k.to, k.doubled ? ", doubled" : "", k.splits);

    auto source = [&](int u, int v) { return k.doubled ? u / 2 * k.width + v / 2 : u * k.width + v; };
    auto each = [&](auto visit) { // (output, input, weight) of every product, sample by sample
        for (int b = 0; b < batch; b++)
            for (int i = 0; i < rows; i++)
                for (int j = 0; j < columns; j++)
                    for (int p = 0; p < k.size * k.size; p++) {
                        int u = i * k.stride + p / k.size - k.padding, v = j * k.stride + p % k.size - k.padding;
                        if (u < 0 || v < 0 || u >= tall || v >= wide_) continue;
                        size_t in = (size_t(b) * k.height * k.width + source(u, v)) * k.from;
                        for (int o = 0; o < k.to; o++)
                            visit(((size_t(b) * rows + i) * columns + j) * k.to + o, in, (size_t(o) * k.size * k.size + p) * k.from);
                    }
    };
    for (bool normed : {false, true}) {
        auto values = seen(x);
        for (size_t i = 0; normed && i < values.size(); i++) {
            size_t sample = i / (size_t(k.height) * k.width * k.from), channel = i % k.from;
            double z = values[i] * line[sample * 2 * k.from + channel] + line[sample * 2 * k.from + k.from + channel];
            values[i] = z / (1 + std::exp(-z));
        }
        auto truth = seen(residual), w = seen(weight);
        for (size_t i = 0; i < truth.size(); i++) truth[i] += bias[i % k.to] + shift[i / (rows * columns * k.to) * k.to + i % k.to];
        each([&](size_t y, size_t in, size_t at) {
            for (int e = 0; e < k.from; e++) truth[y] += values[in + e] * w[at + e];
        });
        auto y = run(kernels, x, normed ? &line : nullptr, weight, bias.data(), shift.data(), residual.data(), c, k.splits);
        verdict(std::string(shape) + (normed ? ", normed" : ""), distance(truth, y), kernels.bound);
    }
    // the input gradient is a convolution of the output's with turned filters
    auto dy = as<T>(normal(size_t(batch) * rows * columns * k.to));
    std::vector<double> truth(x.size(), 0.), w = seen(weight), d = seen(dy);
    each([&](size_t y, size_t in, size_t at) {
        for (int e = 0; e < k.from; e++) truth[in + e] += d[y] * w[at + e];
    });
    std::vector<T> turned(weight.size());
    int taps = k.size * k.size;
    for (int o = 0; o < k.to; o++)
        for (int p = 0; p < taps; p++)
            for (int e = 0; e < k.from; e++)
                turned[(size_t(e) * taps + taps - 1 - p) * k.to + o] = weight[(size_t(o) * taps + p) * k.from + e];
    Convolving back{batch, rows, columns, k.to, tall, wide_, k.from, k.size, 1, k.size - 1 - k.padding,
                    (rows - 1) * k.stride + 1, (columns - 1) * k.stride + 1, 0, k.stride, 0};
    auto dx = run<T>(kernels, dy, nullptr, turned, nullptr, nullptr, nullptr, back, k.splits);
    double bound = kernels.bound;
    if (k.doubled) {
        auto sums = room<T>(x.size());
        emu::launch(kernels.halve, (sums.size() + 255) / 256, 256, 0, dx.data(), sums.data(), batch, k.height, k.width, k.from, tall, wide_);
        dx = sums;
        bound *= 2;
    }
    verdict(std::string(shape) + ", gradient", distance(truth, dx), bound);
    check::shape();
}

int main() {
    const Case cases[] = {
        {3, 1, 1, 7, 5, 5, 60, false, 1},   {3, 1, 1, 9, 10, 32, 66, true, 1},  {3, 1, 1, 12, 11, 16, 64, false, 3},
        {3, 1, 1, 3, 2, 4, 9, true, 1},     {3, 2, 1, 8, 6, 4, 16, false, 1},   {3, 2, 1, 7, 5, 40, 8, false, 2},
        {1, 1, 0, 5, 7, 64, 33, false, 1},  {3, 2, 0, 9, 9, 16, 24, false, 1},  {3, 1, 1, 1, 1, 8, 130, false, 1},
        {8, 8, 0, 16, 8, 3, 16, false, 1},
    };
    const Kernels<bf16> in_bf16{convolve_bf16, convolve_normed_bf16, add_parts_bf16, halve_bf16, 5e-3};
    const Kernels<float> in_tf32{convolve_tf32, convolve_normed_tf32, add_parts_f32, halve_f32, 1e-3};
    const Kernels<float> in_f32{convolve_f32, convolve_normed_f32, add_parts_f32, halve_f32, 2e-6};
    return check::main("convolution", [&] {
        for (const Case &k : cases) {
            check_case(in_bf16, k, "bf16");
            check_case(in_tf32, k, "tf32");
            check_case(in_f32, k, "f32");
        }
    });
}
