/* The device's quantizer against the processor's, bit for bit. */
#include "kernels/cuda/quantize.h"
#include "tests/cuda/support.h"
extern "C" {
#include "quant/pack.h"
#include "quant/quantize.h"
}

enum { N_KINDS = 16 };

static double uniform(struct rng *rng) /* [0, 1) */
{
    return 0.5 + 0.5 * rng_float(rng);
}

/* Every row is another kind: plain, long tails, few values, values on bf16's grid, constant, zero, far from
 * zero, very large, very small, subnormal, one outlier, groups of different size, a weight beside which the
 * others' squares and inverses are no numbers, 17 values, sparse, many values in one bin. */
static std::vector<float> draw_rows(int32_t n_rows, int32_t n_cols, uint64_t seed)
{
    struct rng rng = {seed * 977 + 5};
    std::vector<float> w((size_t)n_rows * (size_t)n_cols);
    for (int32_t row = 0; row < n_rows; row++) {
        for (int32_t j = 0; j < n_cols; j++) {
            double n = 0;
            for (int32_t i = 0; i < 12; i++) {
                n += 0.5 * rng_float(&rng);
            }
            const double kinds[N_KINDS] = {0.02 * n,
                                           0.02 * n * n * n,
                                           (int32_t)(3 * n) * 0.01,
                                           bf16_to_f32(bf16_from_f32((float)(0.02 * n))),
                                           -0.37,
                                           0,
                                           100 + n,
                                           1e30 * n,
                                           1e-30 * n,
                                           1e-39 * n,
                                           j == n_cols / 2 ? 100 : 0.02 * n,
                                           0.02 * n / (1 + j / 32 % 7 * 100),
                                           j == n_cols / 3   ? -1e30
                                           : j / 32 % 3 == 0 ? 1e-11 * n
                                                             : 1e-9 * n,
                                           (int32_t)(uniform(&rng) * 17) - 8.0,
                                           uniform(&rng) < 0.9 ? 0 : 0.02 * n,
                                           0.1 * (1 - 1e-6 * (j % 64))};
            w[(size_t)row * (size_t)n_cols + (size_t)j] = (float)kinds[row % N_KINDS];
        }
    }
    return w;
}

/* A matrix on the host as the processor quantizes it, in tiles. */
struct expected {
    std::vector<uint8_t> tiles;
    struct any4_matrix matrix;
    void *memory;

    expected(const std::vector<float> &w, int32_t n_rows, int32_t n_cols, int32_t group_size,
             int32_t code_bits, const float *second, bool with_moments)
    {
        struct error err = {};
        struct quant_stats stats;
        struct source {
            const float *w;
            int32_t n_cols;
        } source = {w.data(), n_cols};
        const struct quant_moments moments = {second, second};
        struct quant_settings settings = {};
        settings.method = code_bits == 4 ? QUANT_ANY4 : code_bits == 3 ? QUANT_ANY3 : QUANT_ANY2;
        settings.group_size = group_size;
        settings.weighting = with_moments ? QUANT_WEIGHTING_MOMENT : QUANT_WEIGHTING_NONE;
        settings.cpu_flags = ~0u;
        memory = aligned_alloc(64, quant_matrix_bytes(&settings, n_rows, n_cols));
        auto read = [](void *from, float *out, int32_t begin, int32_t end) {
            const struct source *rows = static_cast<const struct source *>(from);
            memcpy(out, rows->w + (size_t)begin * (size_t)rows->n_cols,
                   (size_t)(end - begin) * (size_t)rows->n_cols * sizeof(float));
        };
        CHECK(!quant_matrix(&matrix, memory, &stats, &settings, n_rows, n_cols, read, &source, &moments,
                            nullptr, &err),
              "%s", err.message);
        tiles.resize(tile_matrix_bytes(n_rows, n_cols, code_bits));
        repack_to_tiles(tiles.data(), matrix.codes, matrix.row_bytes, n_rows, n_cols, code_bits);
        matrix.layout = ANY4_LAYOUT_TILE_V1;
        matrix.codes = tiles.data();
        matrix.row_bytes = tile_row_bytes(n_cols, code_bits);
    }
    expected(const expected &) = delete;
    expected &operator=(const expected &) = delete;
    ~expected()
    {
        free(memory);
    }
};

/* Weights as a file has them; w becomes what that kind holds of it. Rows lie 3 elements further apart than
 * they are long, NaN between. */
static std::vector<uint8_t> store(std::vector<float> *w, enum any4_kind kind, int32_t n_rows, int32_t n_cols)
{
    const size_t size = kind == ANY4_F32 ? 4 : 2, stride = (size_t)n_cols + 3;
    std::vector<uint8_t> bytes((size_t)n_rows * stride * size, 0xff);
    for (size_t i = 0; i < w->size(); i++) {
        float *value = &(*w)[i];
        uint8_t *to = &bytes[(i / (size_t)n_cols * stride + i % (size_t)n_cols) * size];
        if (kind == ANY4_F32) {
            memcpy(to, value, size);
        } else {
            if (kind == ANY4_F16) { /* whose range is small */
                *value = fabsf(*value) > 60000 ? copysignf(60000, *value) : *value;
            }
            const uint16_t half = kind == ANY4_F16 ? f16_from_f32(*value) : bf16_from_f32(*value);
            memcpy(to, &half, size);
            *value = kind == ANY4_F16 ? f16_to_f32(half) : bf16_to_f32(half);
        }
    }
    return bytes;
}

struct setup {
    int32_t n_rows, n_cols, group_size, code_bits;
    enum any4_kind source;
    bool with_moments;
    uint64_t seed;
};

static struct cuda_quantize arguments_of(const struct setup &t, const void *w, const float *importance,
                                         uint64_t *bad, void *scratch, int32_t n_blocks)
{
    struct cuda_quantize args = {};
    args.w = w;
    args.source = t.source;
    args.w_stride = t.n_cols + 3;
    args.importance = importance;
    args.n_rows = t.n_rows;
    args.n_cols = t.n_cols;
    args.group_size = t.group_size;
    args.code_bits = t.code_bits;
    args.bad = bad;
    args.scratch = scratch;
    args.n_blocks = n_blocks;
    return args;
}

/* Where two arrays first differ; -1: nowhere. */
template <class T> static long difference(const std::vector<T> &found, const T *expected)
{
    for (size_t i = 0; i < found.size(); i++) {
        if (memcmp(&found[i], expected + i, sizeof(T)) != 0) {
            return (long)i;
        }
    }
    return -1;
}

/* Scratch must be 128-byte aligned on the host, too. */
struct scratch_memory {
    device_array<uint8_t> memory;
    void *data;

    scratch_memory(const struct setup &t, int32_t n_blocks)
        : memory(std::vector<uint8_t>(cuda_quantize_scratch(t.n_cols, t.group_size, n_blocks) + 127, 0xff)),
          data(memory.data + (128 - (uintptr_t)memory.data % 128) % 128)
    {
    }
};

#define CHECK_SAME(found, expected, what)                                                                    \
    do {                                                                                                     \
        const long at_ = difference(found, expected);                                                        \
        CHECK(at_ < 0, "%s differ at %ld: %d x %d, group %d, %d bits, kind %d, moments %d, %d blocks", what, \
              at_, t.n_rows, t.n_cols, t.group_size, t.code_bits, (int)t.source, t.with_moments, n_blocks);  \
    } while (0)

static void test(const struct setup &t, const std::vector<int32_t> &block_counts)
{
    struct error err = {};
    struct rng rng = {t.seed};
    std::vector<float> w = draw_rows(t.n_rows, t.n_cols, t.seed), second((size_t)t.n_cols);
    for (int32_t j = 0; j < t.n_cols; j++) {
        const double u = uniform(&rng);
        second[(size_t)j] = (float)(u * u * u + 1e-10) * (j % 97 == 5 ? 1000.0f : 0.01f);
    }
    device_array<uint8_t> stored(store(&w, t.source, t.n_rows, t.n_cols));
    device_array<float> importance(second);
    expected cpu(w, t.n_rows, t.n_cols, t.group_size, t.code_bits, second.data(), t.with_moments);
    const size_t n_groups = (size_t)cpu.matrix.n_groups, n_rows = (size_t)t.n_rows;
    for (int32_t n_blocks : block_counts) {
        device_array<uint64_t> bad(1);
        scratch_memory scratch(t, n_blocks);
        device_array<uint8_t> codes(cpu.tiles.size());
        device_array<int8_t> scales(n_rows * n_groups), table(n_rows << t.code_bits);
        device_array<float> row_scales(n_rows);
        const struct cuda_quantize args = arguments_of(
            t, stored.data, t.with_moments ? importance.data : nullptr, bad.data, scratch.data, n_blocks);
        const struct cuda_quantized out = {codes.data, scales.data, table.data, row_scales.data};
        order_seed(t.seed * 31 + (uint64_t)n_blocks);
        CHECK(!cuda_quantize_rows(&args, &out, &err), "%s", err.message);
        CHECK(bad.download()[0] == UINT64_MAX, "good weights called bad");
        CHECK_SAME(row_scales.download(), cpu.matrix.row_scales, "row scales");
        CHECK_SAME(table.download(), cpu.matrix.table, "tables");
        CHECK_SAME(scales.download(), cpu.matrix.group_scales, "group scales");
        CHECK_SAME(codes.download(), cpu.tiles.data(), "codes");
        if (t.code_bits != 4) {
            continue;
        }
        size_t bytes;
        CHECK(!cuda_any4_bytes(&bytes, &cpu.matrix, &err), "%s", err.message);
        std::vector<uint8_t> packed(bytes);
        cuda_any4_pack(packed.data(), &cpu.matrix);
        device_array<uint8_t> block(std::vector<uint8_t>(bytes, 0)); /* gaps are not written */
        struct cuda_any4 placed;
        cuda_any4_place(&placed, &cpu.matrix, block.data);
        CHECK(!cuda_quantize_any4(&args, &placed, &err), "%s", err.message);
        CHECK_SAME(block.download(), packed.data(), "arrangements");
    }
}

/* Bad weights: the smallest row, its smallest column; the rows around it are as ever. */
static void test_bad(float wrong)
{
    const struct setup t = {9, 200, 64, 4, ANY4_F32, false, 3};
    const int32_t n_blocks = 4;
    struct error err = {};
    std::vector<float> w = draw_rows(t.n_rows, t.n_cols, t.seed);
    expected cpu(w, t.n_rows, t.n_cols, t.group_size, t.code_bits, w.data(), false);
    for (int32_t at : {7 * 200 + 3, 2 * 200 + 199, 2 * 200 + 31, 8 * 200}) {
        w[(size_t)at] = wrong;
    }
    device_array<uint8_t> stored(store(&w, t.source, t.n_rows, t.n_cols));
    device_array<uint64_t> bad(1);
    scratch_memory scratch(t, n_blocks);
    device_array<uint8_t> codes(cpu.tiles.size());
    device_array<int8_t> scales(9 * 4), table(9 * 16);
    device_array<float> row_scales(9);
    const struct cuda_quantize args = arguments_of(t, stored.data, nullptr, bad.data, scratch.data, n_blocks);
    const struct cuda_quantized out = {codes.data, scales.data, table.data, row_scales.data};
    CHECK(!cuda_quantize_rows(&args, &out, &err), "%s", err.message);
    const uint64_t found = bad.download()[0];
    CHECK(found == (2ull << 32 | 31), "row %u, column %u", (unsigned)(found >> 32), (unsigned)found);
    const std::vector<float> found_scales = row_scales.download();
    const std::vector<int8_t> found_table = table.download(), found_groups = scales.download();
    for (int32_t row = 0; row < t.n_rows; row++) {
        const bool lost = row == 2 || row == 7 || row == 8;
        CHECK(found_scales[(size_t)row] == (lost ? 0 : cpu.matrix.row_scales[row]), "row %d", row);
        for (int32_t k = 0; k < 16; k++) {
            CHECK(found_table[(size_t)row * 16 + (size_t)k] == (lost ? 0 : cpu.matrix.table[row * 16 + k]),
                  "row %d, level %d", row, k);
        }
        for (int32_t g = 0; g < 4; g++) {
            CHECK(found_groups[(size_t)row * 4 + (size_t)g] ==
                      (lost ? 0 : cpu.matrix.group_scales[row * 4 + g]),
                  "row %d, group %d", row, g);
        }
    }
}

static void test_refusals(void)
{
    const struct setup t = {4, 128, 32, 4, ANY4_F32, false, 1};
    struct error err = {};
    struct cuda_any4 other = {};
    alignas(128) uint8_t scratch[128];
    const struct cuda_quantized out = {};
    const struct cuda_quantize good = arguments_of(t, nullptr, nullptr, nullptr, scratch, 1);
    struct cuda_quantize bad = good;
    bad.group_size = 16;
    CHECK(cuda_quantize_rows(&bad, &out, &err) == STATUS_INVALID && strstr(err.message, "16"), "%s",
          err.message);
    bad = good;
    bad.code_bits = 8;
    CHECK(cuda_quantize_rows(&bad, &out, &err) == STATUS_INVALID && strstr(err.message, "8 bits"), "%s",
          err.message);
    bad = good;
    bad.source = ANY4_LUT;
    CHECK(cuda_quantize_rows(&bad, &out, &err) == STATUS_INVALID && strstr(err.message, "kind"), "%s",
          err.message);
    bad = good;
    bad.w_stride = 127;
    CHECK(cuda_quantize_rows(&bad, &out, &err) == STATUS_INVALID && strstr(err.message, "127"), "%s",
          err.message);
    bad = good;
    bad.n_blocks = 0;
    CHECK(cuda_quantize_rows(&bad, &out, &err) == STATUS_INVALID && strstr(err.message, "0 blocks"), "%s",
          err.message);
    other.kind = ANY4_LUT_INT8;
    CHECK(cuda_quantize_any4(&good, &other, &err) == STATUS_INVALID, "another shape");
}

int main(int n_arguments, char **arguments)
{
    checks_begin(120);
    test_refusals();
#ifdef TEST_FEW_SHAPES
    (void)n_arguments;
    (void)arguments;
    test({4, 200, 32, 4, ANY4_BF16, true, 1}, {2});
    test({4, 520, 128, 3, ANY4_F32, false, 2}, {3});
    test_bad(NAN);
#else
    const uint64_t n_seeds = n_arguments > 1 ? (uint64_t)atoi(arguments[1]) : 3;
    for (uint64_t seed = 1; seed <= n_seeds; seed++) {
        for (int32_t group_size : {32, 64, 128}) {
            for (int32_t code_bits : {4, 3, 2}) {
                const bool moments = code_bits != 3;
                test({16, 128, group_size, code_bits, ANY4_F32, moments, seed}, {16});
                test({17, 200, group_size, code_bits, ANY4_F32, !moments, seed + 100}, {3, 1000});
                test({16, 256, group_size, code_bits, ANY4_BF16, moments, seed + 200}, {7});
                test({16, 1408, group_size, code_bits, ANY4_F32, moments, seed + 300}, {5});
            }
        }
        test({33, 264, 32, 4, ANY4_F16, true, seed + 400}, {2, 9});
        test({1, 1, 32, 4, ANY4_F32, true, seed + 500}, {1});
        test({2, 4096, 32, 4, ANY4_BF16, true, seed + 600}, {1});
        test({12, 4096, 64, 4, ANY4_F32, false, seed + 700}, {12});
        test({2, 14336, 32, 4, ANY4_BF16, true, seed + 800}, {2});
    }
    for (float wrong : {NAN, INFINITY, -INFINITY, 2e37f}) {
        test_bad(wrong);
    }
#endif
    return checks_finish("cuda_quantize");
}
