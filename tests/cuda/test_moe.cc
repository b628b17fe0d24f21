/* Mixture of experts: routing against engine/moe.c's rules in plain loops, grouped products against one
 * product an expert, the weighted sum against double. */
#include <algorithm>
#include <memory>

#include "kernels/cuda/moe.h"
#include "tests/cuda/any4_data.h"

/* Logits of rows that are not rounded, in two strides, against double. */
static void test_logits(enum any4_kind kind, int32_t n, int32_t n_experts, int32_t n_rows, uint64_t seed)
{
    struct error err = {};
    struct rng rng = {seed};
    const float eps = 1e-5f;
    const int32_t h_stride = n + 3, stride = n_experts + 1;
    struct test_matrix router = test_matrix_build(format_of(kind, 0), n_experts, n, 0, DATA_RANDOM, seed);
    size_t bytes;
    CHECK(!cuda_matrix_bytes(&bytes, &router.matrix, &err), "%s", err.message);
    std::vector<uint8_t> packed(bytes, 0x55);
    cuda_matrix_pack(packed.data(), &router.matrix);
    device_array<uint8_t> block(packed);
    struct cuda_matrix device;
    cuda_matrix_place(&device, &router.matrix, block.data);
    std::vector<float> h((size_t)(n_rows * h_stride)), norm((size_t)n);
    data_fill(h.data(), h.size(), DATA_RANDOM, &rng);
    data_fill(norm.data(), norm.size(), DATA_RANDOM, &rng);
    device_array<float> device_h(h), device_norm(norm),
        logits(std::vector<float>((size_t)(n_rows * stride), 5));
    order_seed(seed);
    CHECK(!cuda_moe_logits(logits.data, stride, &device, device_h.data, h_stride, device_norm.data, eps,
                           n_rows, nullptr, &err),
          "%s", err.message);
    const std::vector<float> found = logits.download();
    for (int32_t row = 0; row < n_rows; row++) {
        const float *x = h.data() + row * h_stride;
        double square = 0;
        for (int32_t i = 0; i < n; i++) {
            square += (double)x[i] * x[i];
        }
        const double inverse = 1 / sqrt(square / n + (double)eps);
        for (int32_t expert = 0; expert < n_experts; expert++) {
            double sum = 0, magnitude = 0;
            for (int32_t i = 0; i < n; i++) {
                const double term = (double)x[i] * norm[(size_t)i] * inverse *
                                    router.dense[(size_t)expert * (size_t)n + (size_t)i];
                sum += term;
                magnitude += fabs(term);
            }
            const float logit = found[(size_t)(row * stride + expert)];
            const double tolerance = (2 * sum_chain(n) + 6) * UNIT_ROUNDOFF * magnitude;
            CHECK(close_to(logit, (float)sum, tolerance),
                  "%d columns, row %d, expert %d: %.9g, expected %.9g", n, row, expert, logit, sum);
        }
        CHECK(found[(size_t)(row * stride + n_experts)] == 5, "logits wrote behind row %d", row);
    }
    test_matrix_free(&router);
}

/* What a route leaves. */
struct routed {
    std::vector<int32_t> expert_begin, slot_row, slot_of;
    std::vector<float> weights;
};

/* Rows of logits, some of them equal, some rows dead. */
struct route_case {
    int32_t n_experts, n_used, n_rows, stride;
    std::vector<float> logits;
    std::vector<int32_t> positions;

    route_case(int32_t experts, int32_t used, int32_t rows, bool dead, struct rng *rng)
        : n_experts(experts), n_used(used), n_rows(rows), stride(experts + 3),
          logits((size_t)(rows * stride), NAN), positions((size_t)rows)
    {
        for (int32_t row = 0; row < rows; row++) {
            const bool ties = rng_below(rng, 3) == 0;
            positions[(size_t)row] = dead && rng_below(rng, 3) == 0 ? -1 : row;
            for (int32_t expert = 0; expert < experts; expert++) {
                logits[(size_t)(row * stride + expert)] =
                    ties ? (float)rng_below(rng, 3) : 9 * rng_float(rng);
            }
        }
    }
};

static struct routed route(const route_case &c, uint64_t seed)
{
    struct error err = {};
    const size_t n_entries = (size_t)(c.n_rows * c.n_used);
    device_array<float> logits(c.logits), weights(std::vector<float>(n_entries, NAN));
    device_array<int32_t> begin(std::vector<int32_t>((size_t)c.n_experts + 1, -7)),
        slot_row(std::vector<int32_t>(n_entries, -7)), slot_of(std::vector<int32_t>(n_entries, -7)),
        positions(c.positions);
    const struct cuda_moe moe = {begin.data, slot_row.data, slot_of.data, weights.data};
    order_seed(seed);
    CHECK(!cuda_moe_route(&moe, logits.data, c.stride, c.n_experts, c.n_used, c.n_rows, positions.data,
                          nullptr, &err),
          "%s", err.message);
    return {begin.download(), slot_row.download(), slot_of.download(), weights.download()};
}

static void test_route(int32_t n_experts, int32_t n_used, int32_t n_rows, bool dead, uint64_t seed)
{
    struct rng rng = {seed};
    const route_case c(n_experts, n_used, n_rows, dead, &rng);
    const struct routed found = route(c, seed), again = route(c, seed + 1);
    CHECK(found.expert_begin == again.expert_begin && found.slot_row == again.slot_row &&
              found.slot_of == again.slot_of && found.weights == again.weights,
          "route depends on the order of threads");
    std::vector<std::vector<int32_t>> entries((size_t)n_experts); /* row * n_used + rank, in order */
    for (int32_t row = 0; row < n_rows; row++) {
        const float *logits = c.logits.data() + row * c.stride;
        std::vector<int32_t> order((size_t)n_experts);
        for (int32_t expert = 0; expert < n_experts; expert++) {
            order[(size_t)expert] = expert;
        }
        std::stable_sort(order.begin(), order.end(),
                         [logits](int32_t a, int32_t b) { return logits[a] > logits[b]; });
        double sum = 0;
        for (int32_t rank = 0; rank < n_used; rank++) {
            sum += exp((double)logits[order[(size_t)rank]] - logits[order[0]]);
        }
        const double span = logits[order[0]] - logits[order[(size_t)n_used - 1]];
        for (int32_t rank = 0; rank < n_used; rank++) {
            const size_t at = (size_t)(row * n_used + rank);
            if (c.positions[(size_t)row] < 0) {
                CHECK(found.slot_of[at] == -1 && found.weights[at] == 0, "a dead row took a slot");
                continue;
            }
            const int32_t expert = order[(size_t)rank];
            const double weight = exp((double)logits[expert] - logits[order[0]]) / sum;
            /* the difference's rounding, two exponentials of 2 units, the sum, the quotient */
            const double tolerance = weight * (2 * span + 2 * 4 + n_used + 2) * UNIT_ROUNDOFF;
            CHECK(close_to(found.weights[at], (float)weight, tolerance),
                  "%d experts, row %d, rank %d: weight %.9g, expected %.9g", n_experts, row, rank,
                  found.weights[at], weight);
            entries[(size_t)expert].push_back(row * n_used + rank);
        }
    }
    int32_t slot = 0;
    for (int32_t expert = 0; expert < n_experts; expert++) {
        CHECK(found.expert_begin[(size_t)expert] == slot, "expert %d of %d begins at %d, expected %d", expert,
              n_experts, found.expert_begin[(size_t)expert], slot);
        for (int32_t entry : entries[(size_t)expert]) {
            CHECK(found.slot_of[(size_t)entry] == slot && found.slot_row[(size_t)slot] == entry / n_used,
                  "%d rows, %d experts, %d used: entry %d in slot %d, expected %d", n_rows, n_experts, n_used,
                  entry, found.slot_of[(size_t)entry], slot);
            slot++;
        }
    }
    CHECK(found.expert_begin[(size_t)n_experts] == slot, "%d slots", slot);
    for (; slot < n_rows * n_used; slot++) {
        CHECK(found.slot_row[(size_t)slot] == -7, "slot %d is nobody's and was written", slot);
    }
}

/* counts: slots of each expert. Each slot has the bits of one product with a workspace of one block; so it
 * does for every max_slots, which choose other instances. */
static void test_grouped(enum any4_kind kind, int32_t n_rows, int32_t n_cols, int32_t group_size,
                         const std::vector<int32_t> &counts, bool gathered,
                         const std::vector<int32_t> &max_slots, uint64_t seed, int32_t parts)
{
    struct error err = {};
    struct rng rng = {seed};
    std::vector<std::unique_ptr<linear>> experts;
    std::vector<struct cuda_any4> matrices;
    std::vector<int32_t> begin = {0}, rows;
    for (int32_t count : counts) {
        experts.push_back(
            std::make_unique<linear>(kind, n_rows, n_cols, group_size, DATA_RANDOM, seed + 3 * begin.size()));
        matrices.push_back(experts.back()->device);
        begin.push_back(begin.back() + count);
    }
    const int32_t n_slots = begin.back(), n_x_rows = gathered ? 5 : n_slots;
    const inputs in(*experts[0], n_x_rows, DATA_RANDOM, &rng, seed % 3 != 0, parts);
    for (int32_t slot = 0; slot < n_slots; slot++) {
        rows.push_back(gathered ? rng_below(&rng, n_x_rows) : slot);
    }
    std::vector<float> expected((size_t)((n_slots + 1) * in.y_stride), 5);
    const device_x x(in);
    for (size_t expert = 0; expert < counts.size(); expert++) {
        device_array<float> partials((size_t)cuda_partials(1, parts));
        device_array<uint32_t> counters(std::vector<uint32_t>((size_t)matrices[expert].n_row_blocks, 0));
        const struct cuda_workspace workspace = {1, partials.data, counters.data,
                                                 matrices[expert].n_row_blocks, parts};
        for (int32_t slot = begin[expert]; slot < begin[expert + 1]; slot++) {
            device_array<float> y(std::vector<float>((size_t)in.y_stride, 5));
            const int32_t row = rows[(size_t)slot];
            const struct cuda_linear one = {&matrices[expert], y.data, in.y_stride, x.rows(row), 1,
                                            &workspace,        nullptr};
            CHECK(!cuda_any4_gemm_small(&one, &err), "%s", err.message);
            const std::vector<float> alone = y.download();
            std::copy(alone.begin(), alone.end(), expected.begin() + slot * in.y_stride);
        }
    }
    device_array<struct cuda_any4> device_matrices(matrices);
    device_array<int32_t> device_begin(begin), device_rows(rows);
    for (int32_t most : max_slots) {
        device_array<float> y(std::vector<float>(expected.size(), 5));
        order_seed(seed + (uint64_t)most);
#ifndef __CUDACC__
        simt_host_loads_reset();
#endif
        const struct cuda_rows all_rows = x.rows();
        CHECK(!cuda_any4_grouped(y.data, in.y_stride, device_matrices.data, matrices.data(),
                                 (int32_t)counts.size(), &all_rows, gathered ? device_rows.data : nullptr,
                                 device_begin.data, most, nullptr, &err),
              "%s", err.message);
        CHECK(memcmp(y.download().data(), expected.data(), expected.size() * sizeof(float)) == 0,
              "kind %d, %d x %d, group %d, %d parts, for %d slots: other bits than alone", (int)kind, n_rows,
              n_cols, group_size, parts, most);
#if !defined(SIMT_TSAN) && !defined(__CUDACC__)
        const struct simt_host_loads loads = simt_host_loads_get();
        CHECK(loads.loads > 0 && loads.wavefronts == loads.ideal, "grouped: bank conflicts");
#endif
    }
}

static void test_combine(int32_t n, int32_t n_used, int32_t n_rows, uint64_t seed)
{
    struct error err = {};
    struct rng rng = {seed};
    const int32_t n_slots = n_rows * n_used, y_stride = n + 2, h_stride = n + 1;
    std::vector<float> y((size_t)(n_slots * y_stride)), h((size_t)(n_rows * h_stride)), weights;
    std::vector<int32_t> slot_of, positions;
    data_fill(y.data(), y.size(), DATA_RANDOM, &rng);
    data_fill(h.data(), h.size(), DATA_RANDOM, &rng);
    for (int32_t i = 0; i < n_slots; i++) {
        slot_of.push_back(n_slots - 1 - i);
        weights.push_back(rng_float(&rng));
    }
    for (int32_t row = 0; row < n_rows; row++) {
        positions.push_back(row % 3 == 1 ? -1 : row);
    }
    device_array<float> device_h(h), device_y(y), device_weights(weights);
    device_array<int32_t> device_slot_of(slot_of), device_positions(positions);
    const struct cuda_moe moe = {nullptr, nullptr, device_slot_of.data, device_weights.data};
    CHECK(!cuda_moe_combine(device_h.data, h_stride, device_y.data, y_stride, &moe, n, n_used, n_rows,
                            device_positions.data, nullptr, &err),
          "%s", err.message);
    const std::vector<float> found = device_h.download();
    for (int32_t row = 0; row < n_rows; row++) {
        for (int32_t i = 0; i < h_stride; i++) {
            const size_t at = (size_t)(row * h_stride + i);
            double sum = 0, magnitude = fabs((double)h[at]);
            for (int32_t rank = 0; rank < n_used && i < n && positions[(size_t)row] >= 0; rank++) {
                const size_t entry = (size_t)(row * n_used + rank);
                const double term = (double)weights[entry] * y[(size_t)(slot_of[entry] * y_stride + i)];
                sum += term;
                magnitude += fabs(term);
            }
            const double tolerance = sum == 0 ? 0 : (n_used + 2) * UNIT_ROUNDOFF * magnitude;
            CHECK(close_to(found[at], (float)(h[at] + sum), tolerance), "combine, row %d, column %d: %g", row,
                  i, found[at]);
        }
    }
}

static void test_refusals(void)
{
    struct error err = {};
    const struct cuda_moe moe = {};
    CHECK(cuda_moe_route(&moe, nullptr, 8, 65, 2, 1, nullptr, nullptr, &err) == STATUS_INVALID &&
              strstr(err.message, "65 experts"),
          "%s", err.message);
    CHECK(cuda_moe_route(&moe, nullptr, 8, 4, 5, 1, nullptr, nullptr, &err) == STATUS_INVALID, "5 of 4");
    CHECK(cuda_moe_route(&moe, nullptr, 8, 8, 2, 4097, nullptr, nullptr, &err) == STATUS_INVALID, "rows");
    CHECK(cuda_moe_combine(nullptr, 8, nullptr, 8, &moe, 8, 9, 1, nullptr, nullptr, &err) == STATUS_INVALID,
          "9 used");
    struct cuda_matrix router = {};
    router.kind = ANY4_LUT_INT8;
    router.n_rows = 8;
    CHECK(cuda_moe_logits(nullptr, 8, &router, nullptr, 8, nullptr, 0, 1, nullptr, &err) == STATUS_INVALID &&
              strstr(err.message, "as stored"),
          "%s", err.message);
    router.n_rows = 65;
    CHECK(cuda_moe_logits(nullptr, 65, &router, nullptr, 8, nullptr, 0, 1, nullptr, &err) == STATUS_INVALID,
          "65 experts");
    const linear m(ANY4_LUT_INT8, 8, 200, 32, DATA_RANDOM, 1);
    const auto grouped_refuses = [&](int64_t x_stride, int32_t parts, int64_t y_stride, int32_t most,
                                     const char *part) {
        const struct cuda_rows x = {nullptr, x_stride, nullptr, parts};
        CHECK(cuda_any4_grouped(nullptr, y_stride, &m.device, &m.device, 1, &x, nullptr, nullptr, most,
                                nullptr, &err) == STATUS_INVALID &&
                  strstr(err.message, part),
              "%s", err.message);
    };
    grouped_refuses(200, 1, 8, 1, "rows of x");
    grouped_refuses(256, 0, 8, 1, "0 parts");
    grouped_refuses(256, 1, 7, 1, "rows of y");
    grouped_refuses(256, 1, 8, 0, "0 slots");
}

int main(int n_arguments, char **arguments)
{
    checks_begin(120);
    kernels_init_cpu(&scalar, 0);
    test_refusals();
#ifdef TEST_FEW_SHAPES
    (void)n_arguments;
    (void)arguments;
    test_logits(ANY4_BF16, 200, 8, 3, 1);
    test_route(8, 2, 33, true, 1);
    test_grouped(ANY4_LUT_INT8, 33, 200, 32, {3, 0, 17}, true, {20, 900}, 1, 1);
    test_grouped(ANY4_LUT, 33, 256, 128, {33}, false, {33}, 1, 1);
    test_grouped(ANY4_LUT_INT8, 33, 200, 32, {3, 0, 17}, true, {20, 900}, 1, 2);
    test_combine(200, 2, 3, 1);
#else
    const uint64_t n_seeds = n_arguments > 1 ? (uint64_t)atoi(arguments[1]) : 2;
    for (uint64_t seed = 1; seed <= n_seeds; seed++) {
        for (int32_t n_rows : {1, 2, 33, 700}) {
            test_route(8, 2, n_rows, seed % 2 == 0, seed);
            test_route(4, 4, n_rows, true, seed + 10);
        }
        for (enum any4_kind kind : {ANY4_F32, ANY4_F16, ANY4_BF16}) {
            test_logits(kind, 1, 1, 1, seed);
            test_logits(kind, 64, 4, 5, seed);
            test_logits(kind, 4100, 8, 3, seed);
        }
        test_logits(ANY4_BF16, 600, 64, 40, seed);
        test_route(64, 8, 40, true, seed);
        test_route(33, 6, 5, false, seed);
        for (enum any4_kind kind : {ANY4_LUT_INT8, ANY4_LUT}) {
            for (int32_t group_size : {32, 64, 128}) {
                for (int32_t parts : {1, 2}) {
                    test_grouped(kind, 33, 200, group_size, {3, 0, 9, 1}, true, {4, 32, 64, 1000}, seed,
                                 parts);
                    test_grouped(kind, 8, 1408, group_size, {0, 18}, false, {18}, seed + 1, parts);
                }
            }
        }
        test_combine(200, 2, 5, seed);
        test_combine(1, 1, 1, seed);
        test_combine(600, 8, 3, seed);
    }
    test_route(8, 2, 4096, true, 5);
    for (int32_t parts : {1, 2}) {
        test_grouped(ANY4_LUT_INT8, 40, 256, 64, {70, 1}, true, {200}, 3, parts);
        test_grouped(ANY4_LUT, 170, 640, 32, {2, 0, 35}, true, {8, 600}, 4, parts);
    }
#endif
    return checks_finish("cuda_moe");
}
