/* The kernels over 4-bit matrices against the scalar reference. A tolerance is what the kernel's own
 * roundings can add up to, from the magnitudes of the terms: one dropped term fails it. */
#include <algorithm>

#include "tests/cuda/any4_data.h"

enum variant_name { GEMV_F16, GEMV_EXACT, GEMM };
static const char *const names[] = {"gemv", "exact gemv", "gemm"};

/* What sums of eight f16 products can lose, for one row and token: each addition half a unit of its result,
 * and x without a scale what lies below the last place of f16 once its largest is near 1. */
static double f16_loss(const linear &m, const float *x, int32_t row, bool scaled)
{
    const struct any4_matrix *w = &m.host.matrix;
    const double *weights = m.host.dense + (size_t)row * (size_t)w->n_cols;
    double loss = 0, max = 0, sum_of_weights = 0;
    for (int32_t col = 0; col < w->n_cols; col++) {
        max = std::max(max, fabs((double)x[col]));
        sum_of_weights += fabs(weights[col]);
    }
    for (int32_t begin = 0; begin < w->n_cols; begin += 16) {
        for (int32_t parity = 0; parity < 2; parity++) {
            /* the two runs of 8 columns that share a sum lie next to each other: t = 0 1 and 2 3 */
            double sum = 0;
            for (int32_t i = begin + parity; i < begin + 16 && i < w->n_cols; i += 2) {
                sum += weights[i] * x[i];
                loss += fabs(sum) * 0x1p-11 * 1.01;
            }
        }
    }
    return loss + (scaled ? 0 : sum_of_weights * max * 0x1p-24);
}

static void check_y(const linear &m, const inputs &in, const std::vector<float> &y, variant_name variant,
                    int32_t n_blocks, uint64_t seed)
{
    const struct any4_matrix *w = &m.host.matrix;
    const double chain = w->group_size + w->n_groups + 16 + n_blocks + (in.parts - 1);
    for (int32_t token = 0; token < in.n_tokens; token++) {
        const float *x = in.values.data() + (size_t)token * (size_t)w->n_cols;
        for (int32_t row = 0; row < w->n_rows; row++) {
            double sum = 0;
            for (int32_t col = 0; col < w->n_cols; col++) {
                sum += m.magnitude(row, col) * fabs((double)x[col]);
            }
            const double tolerance =
                2 * chain * UNIT_ROUNDOFF * sum + (variant == GEMV_F16 ? f16_loss(m, x, row, in.scaled) : 0);
            const size_t at = (size_t)(token * in.y_stride + row);
            CHECK(close_to(y[at], in.expected[at], tolerance),
                  "%s, kind %d, %d x %d, group %d, token %d of %d in %d parts, row %d, %d blocks, seed %d: "
                  "%.9g, expected %.9g +- %g",
                  names[variant], (int)w->kind, w->n_rows, w->n_cols, w->group_size, token, in.n_tokens,
                  in.parts, row, n_blocks, (int)seed, y[at], in.expected[at], tolerance);
        }
        for (int64_t row = w->n_rows; row < in.y_stride; row++) {
            CHECK(y[(size_t)(token * in.y_stride + row)] == 5, "%s wrote behind row %d", names[variant],
                  w->n_rows);
        }
    }
}

/* Runs one kernel twice, for the counters must be ready again; gives y. */
static std::vector<float> run(const linear &m, const inputs &in, variant_name variant, int32_t n_blocks,
                              uint64_t seed)
{
    struct error err = {};
    const device_x x(in);
    const int32_t n_x_rows = in.n_tokens * in.parts;
    device_array<float> y(in.expected.size());
    device_array<float> partials(std::vector<float>((size_t)cuda_partials(n_blocks, n_x_rows), NAN));
    device_array<uint32_t> counters(std::vector<uint32_t>((size_t)m.device.n_row_blocks, 0));
    const struct cuda_workspace workspace = {n_blocks, partials.data, counters.data, m.device.n_row_blocks,
                                             n_x_rows};
    const struct cuda_linear args = {&m.device,   y.data,     in.y_stride, x.rows(),
                                     in.n_tokens, &workspace, nullptr};
    std::vector<float> first;
#ifndef __CUDACC__
    simt_host_loads_reset();
#endif
    for (int32_t turn = 0; turn < 2; turn++) {
        const std::vector<float> untouched(in.expected.size(), 5);
        CHECK_RUN(simt_memory_upload(y.data, untouched.data(), untouched.size() * sizeof(float)));
        order_seed(seed + (uint64_t)turn);
        enum status status = variant == GEMM ? cuda_any4_gemm_small(&args, &err)
                                             : cuda_any4_gemv(&args, variant == GEMV_EXACT, &err);
        CHECK(!status, "%s", err.message);
        if (turn == 0) {
            first = y.download();
        }
    }
    std::vector<float> second = y.download();
    CHECK(memcmp(first.data(), second.data(), first.size() * sizeof(float)) == 0,
          "%s: bits depend on the order of threads", names[variant]);
#if !defined(SIMT_TSAN) && !defined(__CUDACC__)
    struct simt_host_loads loads = simt_host_loads_get();
    CHECK(loads.loads > 0 && loads.wavefronts == loads.ideal, "%s: %.3f wavefronts a load without conflicts",
          names[variant], (double)loads.wavefronts / (double)loads.ideal);
#endif
    return first;
}

static void test(const linear &m, const inputs &in, variant_name variant, int32_t n_blocks, uint64_t seed)
{
    check_y(m, in, run(m, in, variant, n_blocks, seed), variant, n_blocks, seed);
}

static void test_all(enum any4_kind kind, int32_t n_rows, int32_t n_cols, int32_t group_size,
                     enum data_kind data, const std::vector<int32_t> &tokens, uint64_t seed)
{
    static const int32_t blocks[] = {1, 3, 5, 1000}; /* in one, shared unevenly, one a unit */
    struct rng rng = {seed * 77};
    linear m(kind, n_rows, n_cols, group_size, data, seed);
    for (int32_t n_tokens : tokens) {
        const bool scaled = rng_below(&rng, 3) != 0;
        inputs in(m, n_tokens, data, &rng, scaled);
        const int32_t n_blocks = blocks[rng_below(&rng, 4)];
        if (n_tokens <= CUDA_MAX_TOKENS_GEMV) {
            test(m, in, GEMV_EXACT, n_blocks, seed);
            if (kind == ANY4_LUT_INT8) {
                test(m, in, GEMV_F16, n_blocks, seed);
            }
        }
        test(m, in, GEMM, n_blocks, seed);
        const int32_t n_two = std::min(n_tokens, CUDA_MAX_TOKENS_SMALL / 2);
        const inputs two(m, n_two, data, &rng, scaled, 2);
        test(m, two, GEMM, n_blocks, seed);
        if (n_two == 1) {
            test(m, two, GEMV_EXACT, n_blocks, seed);
        }
    }
}

/* A second part of zeros changes no bit of what the first gives. */
static void test_empty_rests(enum any4_kind kind)
{
    struct rng rng = {6};
    linear m(kind, 40, 384, 64, DATA_RANDOM, 9);
    const inputs one(m, 9, DATA_RANDOM, &rng);
    inputs two = one;
    two.parts = 2;
    two.x.assign(2 * one.x.size(), 0);
    for (int32_t token = 0; token < 9; token++) {
        std::copy_n(one.x.begin() + token * one.x_stride, one.x_stride,
                    two.x.begin() + 2 * token * one.x_stride);
    }
    const std::vector<float> expected = run(m, one, GEMM, 4, 1), found = run(m, two, GEMM, 4, 2);
    CHECK(memcmp(found.data(), expected.data(), expected.size() * sizeof(float)) == 0,
          "kind %d: a rest of 0 changes bits", (int)kind);
}

/* A token's bits are the same alone, among few and among many. */
static void test_invariance(enum any4_kind kind, int32_t group_size, int32_t parts)
{
    struct rng rng = {5};
    linear m(kind, 40, 384, group_size, DATA_RANDOM, 9);
    inputs all(m, 64 / parts, DATA_RANDOM, &rng, true, parts);
    std::vector<float> together = run(m, all, GEMM, 4, 1);
    for (int32_t n_tokens : {1, 7, 8, 9, 16, 17, 33}) {
        if (n_tokens >= all.n_tokens) {
            break;
        }
        inputs few = all;
        few.n_tokens = n_tokens;
        std::vector<float> alone = run(m, few, GEMM, 4, 2);
        CHECK(memcmp(alone.data(), together.data(), (size_t)(n_tokens * all.y_stride) * sizeof(float)) == 0,
              "kind %d, group %d, %d parts: %d tokens have other bits than %d", (int)kind, group_size, parts,
              n_tokens, all.n_tokens);
    }
}

/* Tables and scales of bf16 anywhere in its range: moving a row's table by a power of two and its scales by
 * the opposite one changes no bit. */
static void test_table_range(uint64_t seed)
{
    enum { N_ROWS = 40, N_COLS = 200 };
    struct rng rng = {seed};
    linear plain(ANY4_LUT, N_ROWS, N_COLS, 64, DATA_RANDOM, seed),
        moved(ANY4_LUT, N_ROWS, N_COLS, 64, DATA_RANDOM, seed);
    struct any4_matrix *w = &moved.host.matrix;
    uint16_t *lut = static_cast<uint16_t *>(moved.host.lut.data);
    uint16_t *scales = static_cast<uint16_t *>(moved.host.scales.data);
    for (int32_t row = 0; row < N_ROWS; row++) {
        const int32_t shift = rng_below(&rng, 221) - 110;
        for (int32_t code = 0; code < 16; code++) {
            uint16_t *entry = &lut[row * 16 + code];
            *entry = bf16_from_f32(ldexpf(bf16_to_f32(*entry), shift));
        }
        for (int32_t group = 0; group < w->n_groups; group++) {
            uint16_t *scale = &scales[row * w->n_groups + group];
            *scale = bf16_from_f32(ldexpf(bf16_to_f32(*scale), -shift));
        }
    }
    moved.place();
    inputs in(plain, 3, DATA_RANDOM, &rng);
    CHECK(run(plain, in, GEMM, 3, 1) == run(moved, in, GEMM, 3, 1), "tables of other sizes, gemm");
    inputs two = in;
    two.n_tokens = 2;
    CHECK(run(plain, two, GEMV_EXACT, 3, 1) == run(moved, two, GEMV_EXACT, 3, 1),
          "tables of other sizes, gemv");
    /* Entries far apart, the smallest subnormal in bf16, under scales that let the largest come to 1: those
     * above 2^-32 of the largest are exact, and so is a scale that has no smaller power of two below it. */
    for (int32_t row = 0; row < N_ROWS; row++) {
        for (int32_t code = 0; code < 16; code++) {
            lut[row * 16 + code] = bf16_from_f32(ldexpf(1.9f, code < 8 ? -4 * code : 1 - 16 * (16 - code)));
        }
        for (int32_t group = 0; group < w->n_groups; group++) {
            scales[row * w->n_groups + group] = row % 2 ? 0x3f81 : group ? 0x0181 : 0x0001;
        }
    }
    moved.place();
    for (int32_t row = 0; row < N_ROWS; row++) {
        for (int32_t group = 0; group < w->n_groups; group++) {
            const double product = (double)lut_entry(moved, row, 0) * lut_scale(moved, row, group);
            const double wanted =
                (double)bf16_to_f32(lut[row * 16]) * bf16_to_f32(scales[row * w->n_groups + group]);
            CHECK(product == wanted, "row %d, group %d: %g, expected %g", row, group, product, wanted);
        }
        for (int32_t code = 0; code < 16; code++) {
            const double found = (double)lut_entry(moved, row, code) / lut_entry(moved, row, 0);
            const double wanted = (double)bf16_to_f32(lut[row * 16 + code]) / bf16_to_f32(lut[row * 16]);
            const bool exact = row % 2 && code < 8;
            CHECK(fabs(found - wanted) <= (exact     ? 0
                                           : row % 2 ? 0x1p-39
                                                     : 0x1p-24),
                  "row %d, entry %d: %g of the largest, expected %g", row, code, found, wanted);
        }
    }
}

static void test_refusals(void)
{
    struct error err = {};
    size_t bytes;
    struct rng rng = {1};
    linear m(ANY4_LUT_INT8, 8, 128, 32, DATA_RANDOM, 1);
    inputs in(m, 1, DATA_RANDOM, &rng);
    struct any4_matrix other = m.tiled;
    other.code_bits = 3;
    CHECK(cuda_any4_bytes(&bytes, &other, &err) == STATUS_INVALID && bytes == 0, "3 bits");
    other = m.tiled;
    other.group_size = 16;
    CHECK(cuda_any4_bytes(&bytes, &other, &err) == STATUS_INVALID, "group 16");
    float partials[64];
    uint32_t counters[1] = {0};
    struct cuda_workspace workspace = {1, partials, counters, 1, 1};
    const struct cuda_rows x = {in.x.data(), in.x_stride, in.scales.data(), 1};
    const struct cuda_linear good = {&m.device, partials, 8, x, 1, &workspace, nullptr};
    struct cuda_linear bad = good;
    bad.n_tokens = 3;
    CHECK(cuda_any4_gemv(&bad, true, &err) == STATUS_INVALID && strstr(err.message, "3 tokens"), "%s",
          err.message);
    bad.n_tokens = 65;
    CHECK(cuda_any4_gemm_small(&bad, &err) == STATUS_INVALID, "%s", err.message);
    bad = good;
    bad.x.stride = 120;
    CHECK(cuda_any4_gemm_small(&bad, &err) == STATUS_INVALID && strstr(err.message, "rows of x"), "%s",
          err.message);
    bad = good;
    bad.x.parts = 3;
    CHECK(cuda_any4_gemm_small(&bad, &err) == STATUS_INVALID && strstr(err.message, "3 parts"), "%s",
          err.message);
    bad.x.parts = 2;
    CHECK(cuda_any4_gemv(&bad, false, &err) == STATUS_INVALID && strstr(err.message, "2 parts"), "%s",
          err.message);
    CHECK(cuda_any4_gemm_small(&bad, &err) == STATUS_INVALID &&
              strstr(err.message, "1 tokens, expected 1 and 2"),
          "%s", err.message);
    bad.n_tokens = 33;
    CHECK(cuda_any4_gemm_small(&bad, &err) == STATUS_INVALID && strstr(err.message, "33 tokens"), "%s",
          err.message);
    bad = good;
    bad.y_stride = 7;
    CHECK(cuda_any4_gemm_small(&bad, &err) == STATUS_INVALID && strstr(err.message, "rows of y"), "%s",
          err.message);
    workspace.n_counters = 0;
    CHECK(cuda_any4_gemm_small(&good, &err) == STATUS_INVALID && strstr(err.message, "0 counters"), "%s",
          err.message);
}

int main(int n_arguments, char **arguments)
{
    checks_begin(120);
    kernels_init_cpu(&scalar, 0);
    test_refusals();
    test_table_range(1);
    test_empty_rests(ANY4_LUT_INT8);
    test_empty_rests(ANY4_LUT);
#ifdef TEST_FEW_SHAPES
    (void)n_arguments;
    (void)arguments;
    test_all(ANY4_LUT_INT8, 33, 1408, 32, DATA_RANDOM, {1, 9}, 2);
    test_all(ANY4_LUT, 8, 256, 64, DATA_RANDOM, {2}, 3);
    test_invariance(ANY4_LUT_INT8, 128, 1);
    test_invariance(ANY4_LUT_INT8, 128, 2);
#else
    const uint64_t n_seeds = n_arguments > 1 ? (uint64_t)atoi(arguments[1]) : 2;
    const std::vector<int32_t> tokens = {1, 2, 3, 8, 9, 33, 64};
    for (enum any4_kind kind : {ANY4_LUT_INT8, ANY4_LUT}) {
        for (int32_t group_size : {32, 64, 128}) {
            for (uint64_t seed = 1; seed <= n_seeds; seed++) {
                for (int32_t n_cols : {128, 200, 256}) {
                    for (int32_t n_rows : {1, 8, 33, 96}) {
                        test_all(kind, n_rows, n_cols, group_size, DATA_RANDOM, tokens,
                                 seed * 10 + (uint64_t)n_rows);
                    }
                }
                test_all(kind, 33, 1408, group_size, DATA_RANDOM, tokens, seed);
                test_all(kind, 96, 1408, group_size, DATA_RANDOM, {1, 2, 9}, seed);
            }
            test_all(kind, 33, 256, group_size, DATA_ZERO, {1, 2, 9}, 3);
            test_all(kind, 33, 256, group_size, DATA_ALTERNATING, {1, 2, 9}, 4);
            test_invariance(kind, group_size, 1);
            test_invariance(kind, group_size, 2);
        }
    }
#endif
    return checks_finish("cuda_any4");
}
