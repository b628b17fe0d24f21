/* The stored bits depend on weights, settings and moments alone: not on instruction set, thread count, run,
 * or the other rows. Compared whole, as memory. A hash of all of it is printed: the rows are drawn without
 * libm, so that it can be compared between compilers and machines too. */
#include <criterion/criterion.h>
#include <stdint.h>

#include "engine/base/cpu_features.h"
#include "engine/base/float16.h"
#include "tests/quant/rows.h"

enum { N_METHODS = QUANT_MX4 - QUANT_ANY4 + 1 };
enum { N_KINDS = 12, N_ROWS = N_KINDS, MAX_COLS = 4096 };

static const struct {
    int32_t n_cols, group_size; /* 0: the method's default */
    enum quant_weighting weighting;
} cases[] = {
    {1, 0, QUANT_WEIGHTING_AUTO},     {1, 32, QUANT_WEIGHTING_MOMENT},     {64, 128, QUANT_WEIGHTING_AUTO},
    {64, 32, QUANT_WEIGHTING_NONE},   {172, 0, QUANT_WEIGHTING_MOMENT},    {172, 64, QUANT_WEIGHTING_MEAN},
    {300, 128, QUANT_WEIGHTING_AUTO}, {300, 32, QUANT_WEIGHTING_MEAN},     {1000, 0, QUANT_WEIGHTING_AUTO},
    {4096, 0, QUANT_WEIGHTING_AUTO},  {4096, 128, QUANT_WEIGHTING_MOMENT},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

/* What version QUANT_VERSION of the quantizer gives. Cached models of one version are taken for each other:
 * whoever changes these raises it (quant/quantize.h). */
static const uint64_t known_bits[N_METHODS] = {
    0x6a7e509c0b266c0c, 0xfab2dfe02a577e72, 0x3a1e0ba61bbb287a, 0x7eb110425d532b06,
    0xf98e1e57994b5933, 0x2ee05620bdfb4842, 0x77bfc7d3e4850dfd, 0x2ba00769df75e882,
    0x0d8c505e5cf332fd, 0x8a258500ae9f41f1, 0x89ac07b93c9acea2,
};
_Static_assert(QUANT_VERSION == 1, "known_bits are those of version 1");

static const unsigned flag_sets[] = {0, CPU_AVX2, CPU_AVX2 | CPU_AVX512};
enum { N_FLAG_SETS = sizeof flag_sets / sizeof flag_sets[0] };

static const int32_t thread_counts[] = {1, 2, 4, 1}; /* the last is a second run */
enum { N_POOLS = sizeof thread_counts / sizeof thread_counts[0] };

static float w[N_ROWS * MAX_COLS], mean[MAX_COLS], second[MAX_COLS];

/* About normal: twelve uniforms. */
static double draw(uint64_t *state)
{
    double sum = -6;
    for (int32_t i = 0; i < 12; i++) {
        sum += rows_uniform(state);
    }
    return sum;
}

/* Every row is another kind: plain, long tails, few values, values on bf16's grid (many equal), constant,
 * zero, far from zero, very large, very small, subnormal, one outlier, groups of different size. */
static void fill(int32_t n_cols, uint64_t seed)
{
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    for (int32_t row = 0; row < N_ROWS; row++) {
        for (int32_t j = 0; j < n_cols; j++) {
            double n = draw(&state);
            float kinds[N_KINDS] = {(float)(0.02 * n),
                                    (float)(0.02 * n * n * n),
                                    (float)(int32_t)(3 * n) * 0.01f,
                                    bf16_to_f32(bf16_from_f32((float)(0.02 * n))),
                                    -0.37f,
                                    0,
                                    (float)(100 + n),
                                    (float)(1e30 * n),
                                    (float)(1e-30 * n),
                                    (float)(1e-39 * n),
                                    j == n_cols / 2 ? 100 : (float)(0.02 * n),
                                    (float)(0.02 * n) / (float)(1 + j / 32 % 7 * 100)};
            w[row * n_cols + j] = kinds[row % N_KINDS];
        }
    }
    for (int32_t j = 0; j < n_cols; j++) {
        double n = draw(&state), deviation = draw(&state);
        mean[j] = (float)n;
        second[j] = (float)(n * n + deviation * deviation + 1e-3) * (j % 97 == 5 ? 1000 : 1);
    }
}

static const uint64_t HASH_START = 0xcbf29ce484222325u;

static uint64_t hash(uint64_t h, const void *memory, size_t bytes) /* FNV-1a */
{
    for (size_t i = 0; i < bytes; i++) {
        h = (h ^ ((const unsigned char *)memory)[i]) * 0x100000001b3u;
    }
    return h;
}

/* A hash of all that quantizing the current rows gives. */
static uint64_t hash_of(void *memory, size_t bytes, const struct quant_settings *settings, int32_t n_cols,
                        struct thread_pool *pool)
{
    struct rows rows = {w, n_cols};
    struct quant_moments moments = {mean, second};
    struct quant_stats stats;
    struct any4_matrix matrix;
    struct error err = {0};
    memset(memory, 0xa5, bytes);
    memset(&stats, 0, sizeof stats); /* padding too */
    cr_assert_eq(quant_matrix(&matrix, memory, &stats, settings, N_ROWS, n_cols, rows_read, &rows, &moments,
                              pool, &err),
                 STATUS_OK, "%s", err.message);
    return hash(hash(HASH_START, memory, bytes), &stats, sizeof stats);
}

Test(quant_invariance, instruction_set_threads_and_run_never_change_a_bit)
{
    struct thread_pool *pools[N_POOLS];
    struct error err;
    bool usable[N_FLAG_SETS];
    for (int32_t i = 0; i < N_POOLS; i++) {
        cr_assert_eq(thread_pool_open(&pools[i], thread_counts[i], &err), STATUS_OK);
    }
    for (int32_t i = 0; i < N_FLAG_SETS; i++) {
        usable[i] = cpu_flags_usable(flag_sets[i]) == flag_sets[i];
        if (!usable[i]) {
            fprintf(stderr, "*** SKIPPED: instruction sets %#x do not run here ***\n", flag_sets[i]);
        }
    }
    for (int32_t i = 0; i < N_METHODS; i++) {
        enum quant_method method = (enum quant_method)(QUANT_ANY4 + i);
        uint64_t all = HASH_START;
        for (int32_t c = 0; c < N_CASES; c++) {
            struct quant_settings settings = {
                .method = method, .group_size = cases[c].group_size, .weighting = cases[c].weighting};
            size_t bytes = quant_matrix_bytes(&settings, N_ROWS, cases[c].n_cols);
            if (bytes == SIZE_MAX) { /* a format of one group size */
                continue;
            }
            void *memory = aligned_alloc(64, bytes);
            cr_assert_not_null(memory);
            fill(cases[c].n_cols, (uint64_t)c + 1);
            uint64_t expected = hash_of(memory, bytes, &settings, cases[c].n_cols, NULL);
            all = hash(all, &expected, sizeof expected);
            for (int32_t run = 0; run < N_FLAG_SETS * N_POOLS; run++) {
                settings.cpu_flags = flag_sets[run % N_FLAG_SETS];
                if (usable[run % N_FLAG_SETS]) {
                    uint64_t found =
                        hash_of(memory, bytes, &settings, cases[c].n_cols, pools[run / N_FLAG_SETS]);
                    cr_assert_eq(found, expected, "%s, case %d, instruction sets %#x, %d threads",
                                 quant_method_name(method), c, settings.cpu_flags,
                                 thread_counts[run / N_FLAG_SETS]);
                }
            }
            free(memory);
        }
        fprintf(stderr, "bits of %-10s %016llx\n", quant_method_name(method), (unsigned long long)all);
        cr_expect_eq(all, known_bits[i], "%s gives other bits than before: raise QUANT_VERSION",
                     quant_method_name(method));
    }
    for (int32_t i = 0; i < N_POOLS; i++) {
        thread_pool_close(pools[i]);
    }
}

/* A row quantized alone has the values that it has among others. */
Test(quant_invariance, rows_do_not_see_each_other)
{
    enum { K = 300 };
    static float together[N_ROWS * K], alone[K];
    struct quant_moments moments = {mean, second};
    for (int32_t i = 0; i < N_METHODS; i++) {
        struct quant_settings settings = {.method = (enum quant_method)(QUANT_ANY4 + i),
                                          .cpu_flags = CPU_ALL};
        struct rows rows = {w, K};
        struct any4_matrix matrix;
        struct quant_stats stats;
        struct error err = {0};
        void *memory = aligned_alloc(64, quant_matrix_bytes(&settings, N_ROWS, K));
        fill(K, 77);
        cr_assert_eq(quant_matrix(&matrix, memory, &stats, &settings, N_ROWS, K, rows_read, &rows, &moments,
                                  NULL, &err),
                     STATUS_OK, "%s", err.message);
        quant_dequantize(together, &matrix, 0, N_ROWS);
        for (int32_t row = 0; row < N_ROWS; row++) {
            rows.w = w + row * K;
            cr_assert_eq(quant_matrix(&matrix, memory, &stats, &settings, 1, K, rows_read, &rows, &moments,
                                      NULL, &err),
                         STATUS_OK, "%s", err.message);
            quant_dequantize(alone, &matrix, 0, 1);
            cr_assert_arr_eq(alone, together + row * K, sizeof alone, "%s, row %d",
                             quant_method_name(settings.method), row);
        }
        free(memory);
    }
}
