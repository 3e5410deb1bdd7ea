// The step of all variables together against plain loops in f64.
#include "check.hpp"

#include "../../src/ops/cuda/adamw.cu"

static void step(const std::vector<size_t> &sizes, double most, bool finite) {
    struct Numbers {
        std::vector<float> value, grad, first, second;
    };
    std::vector<Numbers> all, before;
    std::vector<Variable> variables;
    unsigned long long pieces = 0;
    double square = 0;
    for (size_t size : sizes) {
        Numbers n{normal(size), normal(size), normal(size, 0.1), normal(size, 0.1)};
        for (float &x : n.second) x *= x;
        if (!finite && all.empty()) n.grad[size / 2] = INFINITY;
        for (float g : n.grad) square += double(g) * g;
        all.push_back(n);
    }
    before = all;
    for (Numbers &n : all) {
        // each at another multiplier
        double multiplier = 1 + variables.size();
        variables.push_back({n.value.data(), n.grad.data(), n.first.data(), n.second.data(), n.value.size(), pieces, multiplier});
        pieces += (n.value.size() + PIECE - 1) / PIECE;
    }
    const double betas[2] = {0.9, 0.999}, corrections[2] = {1 - std::pow(0.9, 3), 1 - std::pow(0.999, 3)}, rate = 1e-2, shrink = 1e-4;
    Stepping s{float(betas[0]), float(1 - betas[0]), float(betas[1]), float(1 - betas[1]),
               float(std::sqrt(corrections[1])), 1e-8f, rate / corrections[0], shrink, most};
    auto squares = room<double>(pieces);
    double norm = NAN, clip = std::min(1., most / (std::sqrt(square) + 1e-6));
    int count = variables.size();
    emu::launch(gradient_squares, pieces, 256, 64, variables.data(), count, squares.data());
    emu::launch(adamw, pieces, 256, 64, variables.data(), count, squares.data(), &norm, s);
    shape();
    for (size_t v = 0; v < all.size(); v++) {
        const Numbers &a = before[v], &b = all[v];
        if (!finite) {
            bool same = a.value == b.value && a.first == b.first && a.second == b.second;
            verdict("nothing changes where a gradient is infinite", same ? 0 : 1, 1e-9);
            continue;
        }
        std::vector<double> value(a.value.size()), first(value.size()), second(value.size());
        for (size_t i = 0; i < value.size(); i++) {
            double g = a.grad[i] * clip;
            first[i] = a.first[i] * betas[0] + g * (1 - betas[0]);
            second[i] = a.second[i] * betas[1] + g * g * (1 - betas[1]);
            value[i] = a.value[i] * (1 - shrink * (v + 1)) - (v + 1) * rate / corrections[0] * first[i] / (std::sqrt(second[i] / corrections[1]) + 1e-8);
        }
        verdict("adamw, values", distance(value, b.value), 1e-6);
        verdict("adamw, first moments", distance(first, b.first), 1e-6);
        verdict("adamw, second moments", distance(second, b.second), 1e-6);
    }
    if (finite) verdict("the norm of all gradients", std::abs(norm / std::sqrt(square) - 1), 1e-12);
    else verdict("an infinite norm is told", std::isfinite(norm), 1e-9);
}

int main() {
    return check::main("adamw", [] {
        step({5, 20000, 1, 16384, 40000}, 1, true);
        step({3}, 1e9, true);
        step({16385, 7}, 0.5, true);
        step({900, 30}, 1, false);
    });
}
