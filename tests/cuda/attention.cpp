// Attention and its gradients against plain loops in f64.
#include "check.hpp"

#include "../../src/ops/cuda/attention.cuh"

namespace forward {
#include "../../src/ops/cuda/attention.cu"
}
namespace backward {
#include "../../src/ops/cuda/attention_backward.cu"
}

struct Case {
    int batch, sharing, queries, keys, heads, head;
    bool causal, column;
    int fixed = 0;
};

/// f(kernel instance of that width, its width).
#define OF_WIDTH(name, head)                                                                                          \
    (head <= 16 ? name##_16 : head <= 32 ? name##_32 : head <= 48 ? name##_48 : head <= 64 ? name##_64 : head <= 80 ? name##_80 : name##_160)
static int width_of(int head) { return head <= 16 ? 16 : head <= 32 ? 32 : head <= 48 ? 48 : head <= 64 ? 64 : head <= 80 ? 80 : 160; }

static void check_case(const Case &k) {
    const int width = k.heads * k.head, entries = k.batch / k.sharing, pitch = width + k.column;
    const float scale = 1 / std::sqrt(float(k.head));
    auto values = [](size_t count) { return as<bf16>(normal(count, 1.5)); };
    auto q = values(size_t(k.batch) * k.queries * width), keys = values(size_t(entries) * k.keys * width), v = values(keys.size());
    auto column = normal(size_t(entries) * k.keys);
    auto dy = values(size_t(k.batch) * k.queries * pitch);
    auto lse = room<float>(size_t(k.batch) * k.heads * k.queries), seen_by = lse;
    auto y = room<bf16>(dy.size());
    const float *col = k.column ? column.data() : nullptr;
    int w = width_of(k.head);
    dim3 grid((k.queries + 63) / 64, k.heads, k.batch);
    const Attending sizes{k.batch, k.queries, k.keys, k.heads, k.head, k.sharing, k.causal, k.fixed, pitch, scale};
    emu::launch(OF_WIDTH(forward::attend, k.head), grid, 128, 4 * 64 * (w + 8) * 2, q.data(), keys.data(), v.data(), col, y.data(),
                lse.data(), seen_by.data(), sizes);
    if (k.column) emu::launch(forward::attend_column, dim3((k.queries + 127) / 128, k.batch), 128, 0, seen_by.data(), y.data(), sizes);

    std::vector<double> truth(y.size(), 0.), sums(lse.size()), of_column(lse.size(), 0.);
    std::vector<double> dq(q.size(), 0.), dk(keys.size(), 0.), dv(v.size(), 0.);
    auto a = seen(q), b = seen(keys), c = seen(v), d = seen(dy);
    for (int s = 0; s < k.batch; s++)
        for (int h = 0; h < k.heads; h++)
            for (int i = 0; i < k.queries; i++) {
                size_t qi = (size_t(s) * k.queries + i) * width + h * k.head, yi = (size_t(s) * k.queries + i) * pitch + h * k.head;
                size_t last = (size_t(s) * k.queries + i) * pitch + width, at = (size_t(s) * k.heads + h) * k.queries + i;
                auto key = [&](int j) { return (size_t(s / k.sharing) * k.keys + j) * width + h * k.head; };
                int count = k.causal ? std::min(k.keys, i + 1) : k.keys;
                std::vector<double> p(count), dp(count);
                double most = -1e300, total = 0, mean = 0;
                for (int j = 0; j < count; j++) {
                    for (int e = 0; e < k.head; e++) p[j] += a[qi + e] * b[key(j) + e];
                    most = std::max(most, p[j] /= std::sqrt(double(k.head)));
                }
                for (double &x : p) total += x = std::exp(x - most);
                sums[at] = most + std::log(total);
                for (int j = 0; j < count; j++) {
                    p[j] /= total;
                    double col = k.column ? column[size_t(s / k.sharing) * k.keys + j] : 0;
                    of_column[at] += p[j] * col;
                    if (k.column) truth[last] += p[j] * col / k.heads;
                    for (int e = 0; e < k.head; e++) {
                        truth[yi + e] += p[j] * c[key(j) + e];
                        dp[j] += d[yi + e] * c[key(j) + e];
                        if (j >= k.fixed) dv[key(j) + e] += p[j] * d[yi + e];
                    }
                    if (k.column) dp[j] += d[last] / k.heads * col;
                    mean += p[j] * dp[j];
                }
                for (int j = 0; j < count; j++)
                    for (int e = 0; e < k.head; e++) {
                        double ds = p[j] * (dp[j] - mean) / std::sqrt(double(k.head));
                        dq[qi + e] += ds * b[key(j) + e];
                        if (j >= k.fixed) dk[key(j) + e] += ds * a[qi + e];
                    }
            }
    char name[120];
    snprintf(name, sizeof name, "[%d / %d, %d x %d], %d heads of %d%s%s", k.batch, k.sharing, k.queries, k.keys, k.heads, k.head,
             k.causal ? ", causal" : "", k.column ? ", column" : "");
    verdict(std::string(name), distance(truth, y), 6e-3);
    verdict(std::string(name) + ", log sums", distance(sums, lse), 1e-6);
    if (k.column) verdict(std::string(name) + ", column", distance(of_column, seen_by), 3e-6);
    shape();
    if (k.sharing > 1) return; // no gradient asks for it

    auto means = room<float>(lse.size()), share = room<float>(size_t(k.batch) * k.queries);
    auto found_q = room<bf16>(q.size()), found_k = room<bf16>(keys.size()), found_v = room<bf16>(v.size());
    std::vector<bf16> rows(q.size());
    for (size_t i = 0; i < rows.size(); i++) rows[i] = dy[i / width * pitch + i % width];
    emu::launch(backward::attend_means, dim3((k.queries + 3) / 4, k.heads, k.batch), 128, 0, y.data(), dy.data(),
                k.column ? seen_by.data() : nullptr, means.data(), share.data(), sizes);
    size_t bytes = (2 * 64 + 4 * 32) * (w + 8) * 2;
    emu::launch(OF_WIDTH(backward::attend_keys, k.head), dim3((k.keys + 63) / 64, k.heads, k.batch), 128, bytes, q.data(), keys.data(),
                v.data(), rows.data(), lse.data(), means.data(), col, share.data(), found_k.data(), found_v.data(), sizes);
    emu::launch(OF_WIDTH(backward::attend_queries, k.head), grid, 128, bytes, q.data(), keys.data(), v.data(), rows.data(), lse.data(),
                means.data(), col, share.data(), found_q.data(), sizes);
    verdict(std::string(name) + ", dq", distance(dq, found_q), 1.2e-2);
    verdict(std::string(name) + ", dk", distance(dk, found_k), 1.2e-2);
    verdict(std::string(name) + ", dv", distance(dv, found_v), 6e-3);
}

int main() {
    const Case cases[] = {
        {2, 1, 70, 130, 2, 40, false, true}, {4, 2, 33, 77, 1, 80, false, false}, {1, 1, 5, 3, 2, 8, false, true},
        {1, 1, 100, 65, 1, 160, false, true}, {2, 1, 77, 77, 2, 64, true, false}, {1, 1, 130, 40, 1, 160, false, false},
        {1, 1, 64, 64, 3, 24, false, false}, {2, 1, 9, 9, 1, 16, true, true},     {2, 2, 1, 1, 1, 80, false, true},
        {1, 1, 66, 96, 1, 80, false, true},  {2, 1, 50, 77, 2, 40, false, true, 1},
    };
    return check::main("attention", [&] {
        for (const Case &k : cases) check_case(k);
    });
}
