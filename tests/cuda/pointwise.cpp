// Activations and the blend of reference attention against plain loops in f64.
#include "check.hpp"

#include "../../src/ops/cuda/activation.cu"
#include "../../src/ops/cuda/blend.cu"

static double phi(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.)); }
static double gelu_slope(double x) { return phi(x) + x * std::exp(-x * x / 2) / std::sqrt(2 * M_PI); }

template <class T, class F, class G>
static void curve_check(const char *name, F forward, G backward, double (*value)(double), double (*slope)(double), size_t count) {
    auto x = as<T>(normal(count, 3)), dy = as<T>(normal(count)), y = room<T>(count), dx = room<T>(count);
    unsigned long long n = count;
    emu::launch(forward, (count + 255) / 256, 256, 0, x.data(), y.data(), n);
    emu::launch(backward, (count + 255) / 256, 256, 0, x.data(), dy.data(), dx.data(), n);
    std::vector<double> truth(count), of_x(count);
    for (size_t i = 0; i < count; i++) truth[i] = value(wide(x[i])), of_x[i] = wide(dy[i]) * slope(wide(x[i]));
    verdict(name, distance(truth, y), bound_of<T>(1e-6, 4e-3));
    verdict(std::string(name) + ", gradient", distance(of_x, dx), bound_of<T>(1e-6, 4e-3));
    shape();
}

template <class T, class F, class G> static void geglu_check(F forward, G backward, int rows, int width) {
    auto x = as<T>(normal(size_t(rows) * 2 * width, 2)), dy = as<T>(normal(size_t(rows) * width));
    auto bias = as<T>(normal(2 * width));
    auto y = room<T>(dy.size()), dx = room<T>(x.size());
    emu::launch(forward, (y.size() + 255) / 256, 256, 0, x.data(), bias.data(), y.data(), rows, width);
    emu::launch(backward, (y.size() + 255) / 256, 256, 0, x.data(), bias.data(), dy.data(), dx.data(), rows, width);
    std::vector<double> truth(y.size()), of_x(x.size());
    for (size_t i = 0; i < truth.size(); i++) {
        size_t c = i % width, row = i / width * 2 * width;
        double value = double(wide(x[row + c])) + wide(bias[c]), gate = double(wide(x[row + width + c])) + wide(bias[width + c]);
        truth[i] = value * gate * phi(gate);
        of_x[row + c] = wide(dy[i]) * gate * phi(gate);
        of_x[row + width + c] = wide(dy[i]) * value * gelu_slope(gate);
    }
    std::string name = "geglu [" + std::to_string(rows) + ", " + std::to_string(width) + "]";
    verdict(name, distance(truth, y), bound_of<T>(1e-6, 4e-3));
    verdict(name + ", gradient", distance(of_x, dx), bound_of<T>(1e-6, 4e-3));
    shape();
}

template <class T, class F, class G> static void blend_check(F forward, G backward, int rows, int width) {
    auto fused = as<T>(normal(size_t(rows) * (width + 1), 0.7)), own = as<T>(normal(size_t(rows) * width)), x = own;
    store(fused[width], 0); // the ends of the interval belong to it
    auto dy = as<T>(normal(own.size()));
    auto y = room<T>(own.size()), mask = room<T>(rows), d_fused = room<T>(fused.size()), d_own = room<T>(own.size());
    emu::launch(forward, (rows + 3) / 4, 128, 0, fused.data(), own.data(), x.data(), y.data(), mask.data(), rows, width);
    emu::launch(backward, (rows + 3) / 4, 128, 0, fused.data(), own.data(), dy.data(), d_fused.data(), d_own.data(), rows, width);
    std::vector<double> truth(y.size()), masks(rows), of_fused(fused.size()), of_own(own.size());
    for (int r = 0; r < rows; r++) {
        double raw = wide(fused[r * (width + 1) + width]), m = masks[r] = std::min(std::max(raw, 0.), 1.), sum = 0;
        for (int c = 0; c < width; c++) {
            double f = wide(fused[r * (width + 1) + c]), o = wide(own[r * width + c]), d = wide(dy[r * width + c]);
            truth[r * width + c] = wide(x[r * width + c]) + m * f + (1 - m) * o;
            of_fused[r * (width + 1) + c] = d * m;
            of_own[r * width + c] = d * (1 - m);
            sum += d * (f - o);
        }
        of_fused[r * (width + 1) + width] = raw >= 0 && raw <= 1 ? sum : 0;
    }
    std::string name = "blend [" + std::to_string(rows) + ", " + std::to_string(width) + "]";
    verdict(name, distance(truth, y), bound_of<T>(1e-6, 4e-3));
    verdict(name + ", mask", distance(masks, mask), bound_of<T>(1e-7, 4e-3));
    verdict(name + ", d fused", distance(of_fused, d_fused), bound_of<T>(1e-6, 4e-3));
    verdict(name + ", d own", distance(of_own, d_own), bound_of<T>(1e-6, 4e-3));
    shape();
}

static double gelu_value(double x) { return x * phi(x); }
static double quick_value(double x) { return x / (1 + std::exp(-1.702 * x)); }
static double quick_slope(double x) {
    double s = 1 / (1 + std::exp(-1.702 * x));
    return s * (1 + 1.702 * x * (1 - s));
}

int main() {
    return check::main("pointwise", [] {
        for (size_t count : {1, 255, 1000}) {
            curve_check<float>("gelu", gelu_f32, gelu_backward_f32, gelu_value, gelu_slope, count);
            curve_check<bf16>("gelu in bf16", gelu_bf16, gelu_backward_bf16, gelu_value, gelu_slope, count);
            curve_check<float>("quick gelu", quick_gelu_f32, quick_gelu_backward_f32, quick_value, quick_slope, count);
            curve_check<bf16>("quick gelu in bf16", quick_gelu_bf16, quick_gelu_backward_bf16, quick_value, quick_slope, count);
        }
        for (auto [rows, width] : {int2{1, 1}, int2{7, 40}, int2{33, 19}, int2{4, 321}}) {
            geglu_check<float>(geglu_f32, geglu_backward_f32, rows, width);
            geglu_check<bf16>(geglu_bf16, geglu_backward_bf16, rows, width);
            blend_check<float>(blend_f32, blend_backward_f32, rows, width);
            blend_check<bf16>(blend_bf16, blend_backward_bf16, rows, width);
        }
    });
}
