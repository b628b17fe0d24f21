/* Many tokens at a time must give the bits that few at a time give, for every way to cut a matrix in stripes;
 * and dense copies of 4-bit matrices. */
#include <algorithm>

#include "kernels/cuda/cublas.h"
#include "kernels/cuda/linear.h"
#include "tests/cuda/any4_data.h"

enum way { FEW, PREFILL, CHOOSE, CHOOSE_FAST };

/* y of tokens [begin, begin + n_tokens), the others untouched. */
static void multiply(std::vector<float> &out, const linear &m, const inputs &in, int32_t begin,
                     int32_t n_tokens, way how, int32_t n_blocks, uint64_t seed)
{
    struct error err = {};
    const int32_t max_tokens = std::min(n_tokens * in.parts, (int32_t)CUDA_MAX_TOKENS_SMALL);
    const device_x x(in);
    device_array<float> y(out);
    device_array<float> partials(std::vector<float>((size_t)cuda_partials(n_blocks, max_tokens), NAN));
    device_array<uint32_t> counters(std::vector<uint32_t>((size_t)m.device.n_row_blocks, 0));
    const struct cuda_workspace workspace = {n_blocks, partials.data, counters.data, m.device.n_row_blocks,
                                             max_tokens};
    const struct cuda_linear args = {
        &m.device, y.data + begin * in.y_stride, in.y_stride, x.rows(begin), n_tokens, &workspace, nullptr};
    order_seed(seed);
    enum status status = how == FEW       ? cuda_any4_gemm_small(&args, &err)
                         : how == PREFILL ? cuda_any4_prefill(&args, &err)
                                          : cuda_any4_linear(&args, how == CHOOSE, &err);
    CHECK(!status, "%s", err.message);
    out = y.download();
}

static void test(enum any4_kind kind, int32_t n_rows, int32_t n_cols, int32_t group_size, int32_t n_tokens,
                 const std::vector<int32_t> &blocks, uint64_t seed, int32_t parts)
{
    struct rng rng = {seed * 99};
    const linear m(kind, n_rows, n_cols, group_size, DATA_RANDOM, seed);
    const inputs in(m, n_tokens, DATA_RANDOM, &rng, seed % 3 != 0, parts);
    const int32_t at_a_time = CUDA_MAX_TOKENS_SMALL / parts;
    for (int32_t n_blocks : blocks) {
        std::vector<float> few(in.expected.size(), 5), many[2] = {few, few};
        for (int32_t begin = 0; begin < n_tokens; begin += at_a_time) {
            multiply(few, m, in, begin, std::min(n_tokens - begin, at_a_time), FEW, n_blocks, seed);
        }
        for (int32_t turn = 0; turn < 2; turn++) {
#ifndef __CUDACC__
            simt_host_loads_reset();
#endif
            multiply(many[turn], m, in, 0, n_tokens, PREFILL, n_blocks, seed + (uint64_t)turn);
#if !defined(SIMT_TSAN) && !defined(__CUDACC__)
            const struct simt_host_loads loads = simt_host_loads_get();
            CHECK(loads.loads > 0 && loads.wavefronts == loads.ideal, "prefill: bank conflicts");
#endif
            for (int32_t i = 0; i < (int32_t)few.size(); i++) {
                CHECK(memcmp(&many[turn][(size_t)i], &few[(size_t)i], sizeof(float)) == 0,
                      "kind %d, %d x %d, group %d, %d blocks, token %d of %d in %d parts, row %d: %.9g, few "
                      "at a time %.9g",
                      (int)kind, n_rows, n_cols, group_size, n_blocks, (int)(i / in.y_stride), n_tokens,
                      parts, (int)(i % in.y_stride), many[turn][(size_t)i], few[(size_t)i]);
            }
        }
    }
}

/* A prompt in chunks of any size has the bits that it has in one. */
static void test_choice(enum any4_kind kind, int32_t parts)
{
    struct rng rng = {5};
    const linear m(kind, 40, 384, 64, DATA_RANDOM, 9);
    const inputs in(m, 70, DATA_RANDOM, &rng, true, parts);
    std::vector<float> together(in.expected.size(), 5), chunks = together, fast = together, gemv = together;
    multiply(together, m, in, 0, 70, CHOOSE, 4, 1);
    for (int32_t begin = 0; begin < 70;) {
        static const int32_t sizes[] = {1, 2, 30, 37};
        const int32_t n = sizes[begin == 0 ? 0 : begin == 1 ? 1 : begin == 3 ? 2 : 3];
        multiply(chunks, m, in, begin, n, CHOOSE, 4, 2);
        begin += n;
    }
    CHECK(memcmp(together.data(), chunks.data(), chunks.size() * sizeof(float)) == 0,
          "kind %d, %d parts: chunks have other bits", (int)kind, parts);
    multiply(fast, m, in, 0, 2, CHOOSE_FAST, 4, 3);
    multiply(gemv, m, in, 0, 1, CHOOSE_FAST, 4, 3);
    for (int32_t row = 0; row < 40; row++) {
        CHECK(fabs((double)fast[(size_t)row] - together[(size_t)row]) <= 0.1 * (1 + fabs(fast[(size_t)row])),
              "gemv chosen: row %d is %g, expected about %g", row, fast[(size_t)row], together[(size_t)row]);
    }
    CHECK(memcmp(fast.data(), gemv.data(), 40 * sizeof(float)) == 0, "one token of two by gemv");
    const bool same = memcmp(fast.data(), together.data(), 40 * sizeof(float)) == 0;
    CHECK(kind != ANY4_LUT_INT8 || same == (parts == 2), "kind %d, %d parts: f16 sums were %schosen",
          (int)kind, parts, same ? "not " : "");
}

/* Every weight is its definition's value, rounded to f32 and then to f16; the padding is 0. */
static void test_dequantize(enum any4_kind kind, int32_t n_rows, int32_t n_cols, int32_t group_size,
                            uint64_t seed)
{
    struct error err = {};
    const linear m(kind, n_rows, n_cols, group_size, DATA_RANDOM, seed);
    const int32_t n_padded = cuda_padded(n_cols), stride = n_padded + 8;
    device_array<uint16_t> out(std::vector<uint16_t>((size_t)(n_rows * stride), 0x7e00));
    CHECK(!cuda_any4_dequantize(out.data, stride, &m.device, nullptr, &err), "%s", err.message);
    const std::vector<uint16_t> found = out.download();
    for (int32_t row = 0; row < n_rows; row++) {
        for (int32_t col = 0; col < stride; col++) {
            const uint16_t expected = col >= n_padded ? 0x7e00
                                      : col >= n_cols
                                          ? 0
                                          : f16_from_f32((float)m.host.dense[(size_t)(row * n_cols + col)]);
            const uint16_t value = found[(size_t)(row * stride + col)];
            const bool zeros = !((value | expected) & 0x7fff); /* of either sign */
            CHECK(value == expected || zeros, "kind %d, group %d, weight %d %d: %04x, expected %04x",
                  (int)kind, group_size, row, col, value, expected);
        }
    }
    CHECK(cuda_any4_dequantize(out.data, n_padded - 8, &m.device, nullptr, &err) == STATUS_INVALID, "%s",
          err.message);
}

/* cuBLASLt over the dense copy. Without a card: it is not there, and says so. */
static void test_cublas(void)
{
#ifdef __SANITIZE_ADDRESS__
    return; /* the library loses 192 bytes where cublasLtCreate fails */
#endif
    struct error err = {};
    struct cublas *cublas = nullptr;
    device_array<uint8_t> workspace(4 << 20);
    enum status status = cublas_open(&cublas, workspace.data, workspace.n, &err);
    if (status) {
        CHECK(!cublas && (status == STATUS_UNAVAILABLE || status == STATUS_DEVICE) && err.message[0],
              "cublas_open: status %d", (int)status);
        fprintf(stderr, "cuBLASLt left out: %s\n", err.message);
        cublas_close(cublas);
        return;
    }
#ifdef __CUDACC__
    struct rng rng = {4};
    const linear m(ANY4_LUT_INT8, 40, 256, 32, DATA_RANDOM, 3);
    const inputs in(m, 9, DATA_RANDOM, &rng, false); /* the scales would be ours to apply */
    device_array<uint16_t> dense((size_t)40 * 256), x(in.x);
    device_array<float> y(in.expected.size());
    CHECK(!cuda_any4_dequantize(dense.data, 256, &m.device, nullptr, &err), "%s", err.message);
    CHECK(!cublas_linear(cublas, y.data, in.y_stride, dense.data, 256, x.data, in.x_stride, 40, 256, 9,
                         nullptr, &err),
          "%s", err.message);
    const std::vector<float> found = y.download();
    for (int32_t i = 0; i < 9 * 40; i++) {
        const int32_t token = i / 40, row = i % 40;
        double sum = 0, small = 0; /* weights below 2^-14 keep what lies above 2^-25 */
        for (int32_t col = 0; col < 256; col++) {
            const double value = fabs((double)in.values[(size_t)(token * 256 + col)]);
            sum += m.magnitude(row, col) * value;
            small += 0x1p-25 * value;
        }
        const size_t at = (size_t)(token * in.y_stride + row);
        CHECK(close_to(found[at], in.expected[at], (0x1p-11 + 300 * UNIT_ROUNDOFF) * sum + small),
              "cublas, token %d, row %d: %g, expected %g", token, row, found[at], in.expected[at]);
    }
#endif
    cublas_close(cublas);
}

static void test_refusals(void)
{
    struct error err = {};
    struct rng rng = {1};
    const linear m(ANY4_LUT_INT8, 8, 128, 32, DATA_RANDOM, 1);
    inputs in(m, 1, DATA_RANDOM, &rng);
    float y[8];
    struct cuda_workspace workspace = {1, nullptr, nullptr, 0, 0};
    const struct cuda_rows x = {in.x.data(), in.x_stride, in.scales.data(), 1};
    struct cuda_linear args = {&m.device, y, 8, x, 0, &workspace, nullptr};
    CHECK(cuda_any4_prefill(&args, &err) == STATUS_INVALID && strstr(err.message, "0 tokens"), "%s",
          err.message);
    args.n_tokens = 1;
    workspace.n_blocks = 0;
    CHECK(cuda_any4_prefill(&args, &err) == STATUS_INVALID && strstr(err.message, "0 blocks"), "%s",
          err.message);
}

int main(int n_arguments, char **arguments)
{
    checks_begin(120);
    kernels_init_cpu(&scalar, 0);
    test_refusals();
    test_cublas();
#ifdef TEST_FEW_SHAPES
    (void)n_arguments;
    (void)arguments;
    test(ANY4_LUT_INT8, 33, 700, 32, 66, {3}, 1, 1);
    test(ANY4_LUT_INT8, 33, 384, 32, 35, {3}, 1, 2);
    test(ANY4_LUT, 40, 256, 128, 33, {1}, 2, 1);
    test_choice(ANY4_LUT_INT8, 1);
    test_dequantize(ANY4_LUT_INT8, 33, 200, 32, 1);
#else
    const uint64_t n_seeds = n_arguments > 1 ? (uint64_t)atoi(arguments[1]) : 1;
    for (uint64_t seed = 1; seed <= n_seeds; seed++) {
        for (enum any4_kind kind : {ANY4_LUT_INT8, ANY4_LUT}) {
            for (int32_t parts : {1, 2}) {
                for (int32_t group_size : {32, 64, 128}) {
                    test(kind, 40, 200, group_size, 65, {1, 1000}, seed, parts);
                    test(kind, 1, 128, group_size, 1, {1}, seed + 1, parts);
                    test(kind, 100, 1408, group_size, 9, {1, 3, 7, 8}, seed + 2, parts);
                }
                test(kind, 161, 640, 128, 130, {7}, seed + 3, parts);
                test(kind, 8, 2560, 32, 3, {2, 3, 4, 6, 9}, seed + 4, parts);
            }
        }
    }
    for (int32_t parts : {1, 2}) {
        test_choice(ANY4_LUT_INT8, parts);
        test_choice(ANY4_LUT, parts);
    }
    for (int32_t group_size : {32, 64, 128}) {
        test_dequantize(ANY4_LUT_INT8, 33, 200, group_size, 1);
        test_dequantize(ANY4_LUT, 40, 256, group_size, 2);
    }
#endif
    return checks_finish("cuda_prefill");
}
