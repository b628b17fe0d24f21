/* The kernel for matrices of every format against the scalar reference, and its grouped form against itself.
 */
#include <algorithm>
#include <cmath>
#include <memory>

#include "kernels/cuda/linear.h"
#include "tests/cuda/support.h"
#include "tests/cuda/x_rows.h"

static struct kernels scalar;

/* A matrix on the host and on the device. */
struct linear {
    const char *name;
    struct test_matrix host;
    struct cuda_matrix device;
    std::unique_ptr<device_array<uint8_t>> block;

    linear(const struct test_format *format, int32_t n_rows, int32_t n_cols, int32_t group_size,
           enum data_kind data, uint64_t seed)
        : name(format->name),
          host(test_matrix_build(format, n_rows, n_cols, format->code_bits ? group_size : 0, data, seed))
    {
        struct error err = {};
        size_t bytes;
        CHECK(!cuda_matrix_bytes(&bytes, &host.matrix, &err), "%s", err.message);
        std::vector<uint8_t> packed(bytes, 0x55);
        cuda_matrix_pack(packed.data(), &host.matrix);
        block = std::make_unique<device_array<uint8_t>>(packed);
        cuda_matrix_place(&device, &host.matrix, block->data);
    }
    linear(const linear &) = delete;
    linear &operator=(const linear &) = delete;
    ~linear()
    {
        test_matrix_free(&host);
    }

    /* What a code's part in a sum is multiplied by, in magnitude, before a zero point cancels it. */
    double magnitude(int32_t row, int32_t col) const
    {
        const struct any4_matrix *w = &host.matrix;
        const double weight = host.dense[(size_t)row * (size_t)w->n_cols + (size_t)col];
        if (!w->code_bits || w->kind == ANY4_LUT_INT8 || !w->zeros) {
            return fabs(weight);
        }
        const double zero = bf16_to_f32(w->zeros[row * w->n_groups + col / w->group_size]);
        return fabs(weight - zero) + fabs(zero);
    }
};

struct inputs : x_rows {
    int64_t y_stride;

    inputs(const linear &m, int32_t tokens, enum data_kind data, struct rng *rng, bool with_scales = true,
           int32_t n_parts = 1)
        : x_rows(tokens, m.device.n_cols, with_scales, data, rng, n_parts), y_stride(m.device.n_rows + 3)
    {
    }
};

static std::vector<float> run(const linear &m, const inputs &in, int32_t n_tokens, uint64_t seed)
{
    struct error err = {};
    const device_x x(in);
    const struct cuda_rows rows = x.rows();
    device_array<float> y(std::vector<float>((size_t)(n_tokens * in.y_stride), 5));
    order_seed(seed);
    CHECK(!cuda_linear_any(y.data, in.y_stride, &m.device, &rows, n_tokens, nullptr, &err), "%s",
          err.message);
    return y.download();
}

static bool same_bits(const std::vector<float> &a, const std::vector<float> &b, size_t n)
{
    return memcmp(a.data(), b.data(), n * sizeof(float)) == 0;
}

static void check_y(const linear &m, const inputs &in, const std::vector<float> &y, uint64_t seed)
{
    const struct any4_matrix *w = &m.host.matrix;
    std::vector<float> expected(y.size());
    scalar.any4_gemm(expected.data(), in.y_stride, w, in.values.data(), w->n_cols, in.n_tokens, 0, w->n_rows);
    /* A lane adds 8 products and a scale or zero point a step of 1024 columns; then 5 shuffles, 4 warps and
     * the row's scale; the reference rounds a weight and the sum. */
    double chain = 10 * ((w->n_cols + 1023) / 1024) + 12;
    if (w->kind == ANY4_BF16) { /* each of a warp's columns twice, rounded or cut off, and 8 warps */
        chain = 2 * 64 * ((w->n_cols + 255) / 256) + 10;
    }
    chain += in.parts - 1;
    for (int32_t token = 0; token < in.n_tokens; token++) {
        const float *x = in.values.data() + (size_t)token * (size_t)w->n_cols;
        for (int32_t row = 0; row < w->n_rows; row++) {
            double sum = 0;
            for (int32_t col = 0; col < w->n_cols; col++) {
                sum += m.magnitude(row, col) * fabs((double)x[col]);
            }
            const double tolerance = chain * UNIT_ROUNDOFF * sum;
            const size_t at = (size_t)(token * in.y_stride + row);
            CHECK(close_to(y[at], expected[at], tolerance),
                  "%s, %d x %d, group %d, token %d of %d in %d parts, row %d, seed %d: %.9g, expected %.9g "
                  "+- %g",
                  m.name, w->n_rows, w->n_cols, w->group_size, token, in.n_tokens, in.parts, row, (int)seed,
                  y[at], expected[at], tolerance);
        }
        for (int64_t row = w->n_rows; row < in.y_stride; row++) {
            CHECK(y[(size_t)(token * in.y_stride + row)] == 5, "%s wrote behind row %d", m.name, w->n_rows);
        }
    }
}

static void test_parts(const struct test_format *format, int32_t n_rows, int32_t n_cols, int32_t group_size,
                       enum data_kind data, int32_t n_tokens, uint64_t seed, int32_t parts)
{
    struct rng rng = {seed * 77};
    const linear m(format, n_rows, n_cols, group_size, data, seed);
    const inputs in(m, n_tokens, data, &rng, data == DATA_EXTREME || rng_below(&rng, 3) != 0, parts);
#ifndef __CUDACC__
    simt_host_loads_reset();
#endif
    const std::vector<float> y = run(m, in, n_tokens, seed);
    check_y(m, in, y, seed);
    CHECK(same_bits(y, run(m, in, n_tokens, seed + 1), y.size()), "%s: bits depend on the order of threads",
          m.name);
    const std::vector<float> alone = run(m, in, 1, seed);
    CHECK(same_bits(y, alone, (size_t)n_rows), "%s: a token's bits depend on the others", m.name);
#if !defined(SIMT_TSAN) && !defined(__CUDACC__)
    const struct simt_host_loads loads = simt_host_loads_get();
    CHECK(loads.wavefronts == loads.ideal, "%s: bank conflicts", m.name);
#endif
}

static void test(const struct test_format *format, int32_t n_rows, int32_t n_cols, int32_t group_size,
                 enum data_kind data, int32_t n_tokens, uint64_t seed)
{
    test_parts(format, n_rows, n_cols, group_size, data, n_tokens, seed, 1);
    test_parts(format, n_rows, n_cols, group_size, data, n_tokens, seed, 2);
}

/* Experts, one of them without slots, against one product a slot. */
static void test_grouped(const struct test_format *format, int32_t n_cols, bool gathered, uint64_t seed,
                         int32_t parts)
{
    enum { N_EXPERTS = 4, N_ROWS = 9, N_TOKENS = 7 };
    const std::vector<int32_t> begin = {0, 3, 3, 12, 14};
    const int32_t n_slots = begin.back();
    struct error err = {};
    struct rng rng = {seed};
    std::vector<std::unique_ptr<linear>> experts;
    std::vector<struct cuda_matrix> matrices;
    for (int32_t expert = 0; expert < N_EXPERTS; expert++) {
        const uint64_t own = 1 + 3 * seed + 3 * (uint64_t)expert; /* zero points in all of them or in none */
        experts.push_back(std::make_unique<linear>(format, (int32_t)N_ROWS, n_cols, 32, DATA_RANDOM, own));
        matrices.push_back(experts.back()->device);
    }
    const inputs in(*experts[0], gathered ? (int32_t)N_TOKENS : n_slots, DATA_RANDOM, &rng, true, parts);
    std::vector<int32_t> rows;
    for (int32_t slot = 0; slot < n_slots; slot++) {
        rows.push_back(gathered ? rng_below(&rng, N_TOKENS) : slot);
    }
    device_array<struct cuda_matrix> device_matrices(matrices);
    device_array<int32_t> device_begin(begin), device_rows(rows);
    const device_x x(in);
    const struct cuda_rows x_all = x.rows();
    device_array<float> y(std::vector<float>((size_t)(n_slots * in.y_stride), 5));
    CHECK(!cuda_linear_any_grouped(y.data, in.y_stride, device_matrices.data, matrices.data(), N_EXPERTS,
                                   &x_all, gathered ? device_rows.data : nullptr, device_begin.data, nullptr,
                                   &err),
          "%s", err.message);
    const std::vector<float> found = y.download();
    for (int32_t expert = 0; expert < N_EXPERTS; expert++) {
        const std::vector<float> all = run(*experts[(size_t)expert], in, in.n_tokens, seed);
        for (int32_t slot = begin[(size_t)expert]; slot < begin[(size_t)expert + 1]; slot++) {
            const float *one = all.data() + rows[(size_t)slot] * in.y_stride;
            CHECK(memcmp(found.data() + slot * in.y_stride, one, N_ROWS * sizeof(float)) == 0,
                  "%s: slot %d of expert %d differs from its row alone", format->name, slot, expert);
            CHECK(found[(size_t)(slot * in.y_stride + N_ROWS)] == 5, "%s wrote behind its rows",
                  format->name);
        }
    }
}

/* A row that is not finite shows it in every result. */
static void test_not_finite(const struct test_format *format, int32_t parts)
{
    struct rng rng = {5};
    const linear m(format, 9, 200, 32, DATA_RANDOM, 2);
    inputs in(m, 2, DATA_RANDOM, &rng, true, parts);
    in.x[3] = 0x7c00;
    in.x[(size_t)(parts * in.x_stride) + 150] = 0x7e00;
    const std::vector<float> y = run(m, in, 2, 1);
    for (int32_t token = 0; token < 2; token++) {
        for (int32_t row = 0; row < 9; row++) {
            CHECK(!std::isfinite(y[(size_t)(token * in.y_stride + row)]),
                  "%s: token %d in %d parts, row %d is finite", format->name, token, parts, row);
        }
    }
}

static void test_refusals(void)
{
    struct error err = {};
    size_t bytes;
    struct rng rng = {1};
    const linear m(format_of(ANY4_LUT, 2), 8, 128, 32, DATA_RANDOM, 1);
    inputs in(m, 1, DATA_RANDOM, &rng);
    struct any4_matrix other = m.host.matrix;
    other.code_bits = 5;
    CHECK(cuda_matrix_bytes(&bytes, &other, &err) == STATUS_INVALID && bytes == 0, "5 bits");
    other = m.host.matrix;
    other.group_size = 16;
    CHECK(cuda_matrix_bytes(&bytes, &other, &err) == STATUS_INVALID, "group 16");
    other = m.host.matrix;
    other.layout = ANY4_LAYOUT_TILE_V1;
    CHECK(cuda_matrix_bytes(&bytes, &other, &err) == STATUS_INVALID && strstr(err.message, "layout"), "%s",
          err.message);
    float y[8];
    const auto refuses = [&](int64_t x_stride, int32_t parts, int64_t y_stride, int32_t n_tokens,
                             const char *part) {
        const struct cuda_rows x = {in.x.data(), x_stride, nullptr, parts};
        CHECK(cuda_linear_any(y, y_stride, &m.device, &x, n_tokens, nullptr, &err) == STATUS_INVALID &&
                  strstr(err.message, part),
              "%s", err.message);
    };
    refuses(120, 1, 8, 1, "rows of x");
    refuses(in.x_stride, 3, 8, 1, "3 parts");
    refuses(in.x_stride, 1, 7, 1, "rows of y");
    refuses(in.x_stride, 1, 8, 0, "0 blocks");
}

/* A bias is a row that is added to every token's. */
static void test_bias(void)
{
    struct error err = {};
    device_array<float> y(std::vector<float>{1, 2, 3, 9, 4, 5, 6, 9}), bias(std::vector<float>{10, 20, 30});
    CHECK(!cuda_axpy(y.data, 4, bias.data, 0, 1, 3, 2, nullptr, &err), "%s", err.message);
    const std::vector<float> expected = {11, 22, 33, 9, 14, 25, 36, 9};
    CHECK(y.download() == expected, "bias");
}

int main(int n_arguments, char **arguments)
{
    checks_begin(120);
    kernels_init_cpu(&scalar, 0);
    test_refusals();
    test_bias();
#ifdef TEST_FEW_SHAPES
    (void)n_arguments;
    (void)arguments;
    test(format_of(ANY4_LUT, 3), 5, 200, 32, DATA_RANDOM, 9, 1);
    test(format_of(ANY4_BF16, 0), 5, 640, 0, DATA_RANDOM, 17, 2);
    test_grouped(format_of(ANY4_LUT_INT8, 2), 200, true, 3, 2);
    test_not_finite(format_of(ANY4_BF16, 0), 1);
#else
    const uint64_t n_seeds = n_arguments > 1 ? (uint64_t)atoi(arguments[1]) : 2;
    static const int32_t all_tokens[] = {1, 2, 3, 8, 9, 35};
    for (const struct test_format &format : formats) {
        for (int32_t group_size : {32, 64, 128}) {
            if (!format.code_bits && group_size != 32) {
                continue;
            }
            for (uint64_t seed = 1; seed <= n_seeds; seed++) {
                struct rng rng = {seed + (uint64_t)group_size};
                for (int32_t n_cols : {1, 128, 200, 256}) {
                    for (int32_t n_rows : {1, 8, 33}) {
                        test(&format, n_rows, n_cols, group_size, DATA_RANDOM, all_tokens[rng_below(&rng, 6)],
                             seed * 10 + (uint64_t)n_rows);
                    }
                }
                test(&format, 9, 1408, group_size, DATA_RANDOM, 3, seed);
                test(&format, 3, 2304, group_size, DATA_RANDOM, 1, seed);
            }
            test(&format, 5, 256, group_size, DATA_ZERO, 2, 3);
            test(&format, 5, 256, group_size, DATA_EXTREME, 2, 4);
            test(&format, 5, 256, group_size, DATA_ALTERNATING, 9, 5);
        }
        for (int32_t parts : {1, 2}) {
            test_grouped(&format, 328, true, 1, parts);
            test_grouped(&format, 256, false, 2, parts);
        }
        test_not_finite(&format, 1);
        test_not_finite(&format, 2);
        if (format.kind == ANY4_BF16) {
            test(&format, 70, 640, 0, DATA_RANDOM, 33, 6);
        }
    }
#endif
    return checks_finish("cuda_linear_any");
}
