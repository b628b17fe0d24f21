/* What must hold for every method and every row, however odd: zeros and constants, few values, tails, extreme
 * magnitudes and moments, bad weights. */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdint.h>

#include "engine/base/cpu_features.h"
#include "engine/base/float16.h"
#include "tests/quant/rows.h"

enum { N_METHODS = QUANT_MX4 - QUANT_ANY4 + 1 };

static const int32_t group_sizes[] = {32, 64, 128};

struct quantized {
    struct any4_matrix matrix;
    struct quant_stats stats;
    void *memory;
    float *values; /* (n_rows, n_cols) */
};

/* False where the method has no such group size. */
static bool quantized_init(struct quantized *q, const struct quant_settings *settings, const float *w,
                           int32_t n_rows, int32_t n_cols, const struct quant_moments *moments)
{
    struct rows rows = {w, n_cols};
    struct error err = {0};
    size_t bytes = quant_matrix_bytes(settings, n_rows, n_cols);
    *q = (struct quantized){.memory = NULL};
    if (bytes == SIZE_MAX) {
        return false;
    }
    q->memory = aligned_alloc(64, bytes);
    q->values = malloc((size_t)n_rows * (size_t)n_cols * sizeof(float));
    cr_assert(q->memory && q->values);
    cr_assert_eq(quant_matrix(&q->matrix, q->memory, &q->stats, settings, n_rows, n_cols, rows_read, &rows,
                              moments, NULL, &err),
                 STATUS_OK, "%s", err.message);
    quant_dequantize(q->values, &q->matrix, 0, n_rows);
    return true;
}

static void quantized_finish(struct quantized *q)
{
    free(q->memory);
    free(q->values);
}

/* The error that no method exceeds on ordinary rows: two bits between the extremes of a group leave most of a
 * long-tailed row, everything else does better than half. */
static double worst_error(const struct quantized *q)
{
    return (q->matrix.code_bits == 2 ? 1.0 : 0.5) * q->stats.weight_energy;
}

static struct quant_settings settings_of(int32_t method, int32_t group_size)
{
    return (struct quant_settings){
        .method = (enum quant_method)(QUANT_ANY4 + method), .group_size = group_size, .cpu_flags = CPU_ALL};
}

/* Code of a column by the byte order in quant/any4.h. */
static int32_t code_at(const struct any4_matrix *m, int32_t row, int32_t col)
{
    const uint8_t *block =
        m->codes + (size_t)row * m->row_bytes + (size_t)(col / 32) * any4_block_bytes(m->code_bits);
    int32_t i = col % 32;
    switch (m->code_bits) {
    case 4:
        return i < 16 ? block[i] & 15 : block[i - 16] >> 4;
    case 2:
        return block[i % 8] >> 2 * (i / 8) & 3;
    case 3:
        return (block[i % 8] >> 2 * (i / 8) & 3) | (block[8 + i / 8] >> i % 8 & 1) << 2;
    default:
        return block[i];
    }
}

/* The parts of a row's format: finite, in range, the table ascending, padding 0. */
static void check_row(const struct any4_matrix *m, int32_t row, const char *name)
{
    int32_t n_table = 1 << m->code_bits;
    size_t row_table = (size_t)row * (size_t)n_table, row_groups = (size_t)row * (size_t)m->n_groups;
    for (int32_t k = 0; k < n_table && m->kind == ANY4_LUT; k++) {
        float value = bf16_to_f32(m->lut[row_table + (size_t)k]);
        cr_assert(isfinite(value), "%s: table entry %d", name, k);
        cr_assert(k == 0 || bf16_to_f32(m->lut[row_table + (size_t)k - 1]) <= value, "%s: entry %d", name, k);
    }
    for (int32_t k = 0; k < n_table && m->kind == ANY4_LUT_INT8; k++) {
        cr_assert_neq(m->table[row_table + (size_t)k], INT8_MIN, "%s: entry %d", name, k);
        cr_assert(k == 0 || m->table[row_table + (size_t)k - 1] <= m->table[row_table + (size_t)k],
                  "%s: entry %d", name, k);
    }
    for (int32_t g = 0; g < m->n_groups; g++) {
        size_t at = row_groups + (size_t)g;
        if (m->kind == ANY4_LUT_INT8) {
            cr_assert_neq(m->group_scales[at], INT8_MIN, "%s: group %d", name, g);
        } else {
            cr_assert(isfinite(bf16_to_f32(m->scales[at])) && bf16_to_f32(m->scales[at]) >= 0, "%s", name);
            cr_assert(!m->zeros || isfinite(bf16_to_f32(m->zeros[at])), "%s: group %d", name, g);
        }
    }
    if (m->kind == ANY4_LUT_INT8) {
        cr_assert(isfinite(m->row_scales[row]) && m->row_scales[row] >= 0, "%s: row scale", name);
    }
    for (int32_t col = m->n_cols; col < (m->n_cols + 31) / 32 * 32; col++) {
        cr_assert_eq(code_at(m, row, col), 0, "%s: padding column %d", name, col);
    }
}

/* The formulas of quant/any4.h, spelled out. */
static float value_at(const struct any4_matrix *m, int32_t row, int32_t col)
{
    int32_t code = code_at(m, row, col), n_table = 1 << m->code_bits;
    size_t group = (size_t)row * (size_t)m->n_groups + (size_t)(col / m->group_size);
    size_t entry = (size_t)row * (size_t)n_table + (size_t)code;
    if (m->kind == ANY4_LUT_INT8) {
        return m->row_scales[row] * (float)(m->group_scales[group] * m->table[entry]);
    }
    float step = m->kind == ANY4_LINEAR ? (float)(code - n_table / 2) : bf16_to_f32(m->lut[entry]);
    float product = bf16_to_f32(m->scales[group]) * step;
    return product + (m->zeros ? bf16_to_f32(m->zeros[group]) : 0);
}

/* Every method, group size, distribution and width, with and without moments: the format holds, the values
 * follow the formula, the statistics are those of the values. */
Test(quant_invariants, formats_hold_for_every_row)
{
    static const int32_t widths[] = {1, 2, 31, 33, 64, 127, 129, 172, 384};
    enum { ROWS = 3, MAX = 384, N_WIDTHS = sizeof widths / sizeof widths[0] };
    static float w[ROWS * MAX], mean[MAX], second[MAX];
    for (int32_t c = 0; c < N_METHODS * N_WIDTHS * 3 * N_DISTRIBUTIONS; c++) {
        int32_t n_cols = widths[c % N_WIDTHS], distribution = c / N_WIDTHS % N_DISTRIBUTIONS;
        int32_t group_size = group_sizes[c / N_WIDTHS / N_DISTRIBUTIONS % 3];
        struct quant_settings settings = settings_of(c / N_WIDTHS / N_DISTRIBUTIONS / 3, group_size);
        struct quant_moments moments = {mean, second};
        struct quantized q;
        char name[128];
        double energies[2] = {0}, errors[2] = {0};
        uint64_t state = (uint64_t)c + 99;
        snprintf(name, sizeof name, "%s, K %d, g %d, %s", quant_method_name(settings.method), n_cols,
                 group_size, distribution_names[distribution]);
        rows_fill(w, ROWS * n_cols, (enum distribution)distribution, (uint64_t)c + 1);
        for (int32_t j = 0; j < n_cols; j++) {
            mean[j] = (float)rows_normal(&state);
            second[j] = mean[j] * mean[j] + (float)rows_uniform(&state);
        }
        if (!quantized_init(&q, &settings, w, ROWS, n_cols, c % 2 ? &moments : NULL)) {
            continue;
        }
        cr_assert_eq(q.matrix.n_groups, (n_cols + group_size - 1) / group_size);
        cr_assert_eq(q.matrix.row_bytes, (size_t)((n_cols + 31) / 32) * any4_block_bytes(q.matrix.code_bits));
        for (int32_t i = 0; i < ROWS * n_cols; i++) {
            double d = (double)q.values[i] - w[i], weight = c % 2 ? second[i % n_cols] : 1;
            cr_assert_eq(q.values[i], value_at(&q.matrix, i / n_cols, i % n_cols), "%s, %d", name, i);
            energies[0] += (double)w[i] * w[i];
            errors[0] += d * d;
            energies[1] += (double)w[i] * w[i] * weight;
            errors[1] += d * d * weight;
        }
        for (int32_t row = 0; row < ROWS; row++) {
            check_row(&q.matrix, row, name);
        }
        cr_assert_float_eq(q.stats.weight_energy, energies[0], 1e-12 * energies[0], "%s", name);
        cr_assert_float_eq(q.stats.error_energy, errors[0], 1e-12 * errors[0], "%s", name);
        cr_assert_float_eq(q.stats.weighted_energy, energies[1], 1e-12 * energies[1], "%s", name);
        cr_assert_float_eq(q.stats.weighted_error, errors[1], 1e-12 * errors[1], "%s", name);
        quantized_finish(&q);
    }
}

/* Zero rows, of either sign, between others. */
Test(quant_invariants, zero_rows_are_exact_zeros)
{
    enum { K = 172, ROWS = 4 };
    static float w[ROWS * K];
    rows_fill(w, ROWS * K, NORMAL, 3);
    for (int32_t j = 0; j < K; j++) {
        w[K + j] = 0;
        w[2 * K + j] = j % 2 ? -0.0f : 0.0f;
    }
    for (int32_t c = 0; c < N_METHODS * 3; c++) {
        struct quant_settings settings = settings_of(c / 3, group_sizes[c % 3]);
        struct quantized q;
        if (!quantized_init(&q, &settings, w, ROWS, K, NULL)) {
            continue;
        }
        for (int32_t i = K; i < 3 * K; i++) {
            cr_assert_eq(q.values[i], 0, "%s, %d: %g", quant_method_name(settings.method), i,
                         (double)q.values[i]);
        }
        quantized_finish(&q);
    }
}

/* Constant rows come back within the rounding of what is stored: bf16 keeps 2^-8 of a value (the paper's
 * floor of 1e-6 on the range apart). mx4 has no zero point and eight magnitudes: a constant is off by up to a
 * sixth (between 4 and 6) or, beyond 6, a quarter. */
Test(quant_invariants, constant_rows_come_back)
{
    static const float constants[] = {0.5f, -1.5f, 0.02001953125f, 1e-8f, -3.14159f, 1e30f, -1e-30f, 127};
    enum { K = 172 };
    float w[K];
    for (int32_t c = 0; c < 8 * N_METHODS * 3; c++) {
        float constant = constants[c / 3 % 8];
        struct quant_settings settings = settings_of(c / 24, group_sizes[c % 3]);
        const char *name = quant_method_name(settings.method);
        double allowed = fabs((double)constant) / 256;
        struct quantized q;
        if (settings.method == QUANT_MX4) {
            allowed = fabs((double)constant) / 4;
        } else if (settings.method == QUANT_ANY4_PAPER) {
            allowed += fabs((double)constant) / 256 + 1e-6;
        }
        for (int32_t j = 0; j < K; j++) {
            w[j] = constant;
        }
        if (!quantized_init(&q, &settings, w, 1, K, NULL)) {
            continue;
        }
        for (int32_t j = 0; j < K; j++) {
            cr_assert(fabs((double)q.values[j] - constant) <= allowed, "%s: %g became %g", name,
                      (double)constant, (double)q.values[j]);
        }
        quantized_finish(&q);
    }
}

/* One row of 512 out of a palette, whose ends -1 and 1 are in every 32 columns: the largest error. */
static double palette_error(enum quant_method method, const float *palette, int32_t n_values, uint64_t seed)
{
    enum { K = 512 };
    static float w[K];
    struct quant_settings settings = {.method = method, .cpu_flags = CPU_ALL};
    struct quantized q;
    double largest = 0;
    uint64_t state = seed * 77 + 1;
    for (int32_t j = 0; j < K; j++) {
        w[j] = palette[j % 32 < 2 ? j % 32 : (int32_t)(rows_random(&state) % (uint64_t)n_values)];
    }
    cr_assert(quantized_init(&q, &settings, w, 1, K, NULL));
    for (int32_t j = 0; j < K; j++) {
        largest = fmax(largest, fabs((double)q.values[j] - w[j]));
    }
    quantized_finish(&q);
    return largest;
}

static const struct {
    enum quant_method method;
    int32_t n_values;
} learned[] = {{QUANT_ANY4, 16}, {QUANT_ANY3, 8}, {QUANT_ANY2, 4}, {QUANT_ANY4_PAPER, 16}};
enum { N_LEARNED = sizeof learned / sizeof learned[0], N_INT8_LEARNED = 3 };

/* Rows of as many values as the table has entries, all groups of one range: nothing but rounding is lost,
 * however near to each other the values are. An int8 table of values up to 1 is off by 1 / 254, its scales
 * are exact here. bf16 keeps 8 bits: half a last place is 1 / 64 of a table from -8 to 7, 1 / 2048 of the
 * scale of 2 / 15 and 1 / 4096 of the zero point of 1 / 15. */
Test(quant_invariants, few_values_come_back_within_rounding)
{
    for (int32_t c = 0; c < N_LEARNED * 50; c++) {
        float palette[16] = {-1, 1};
        uint64_t state = (uint64_t)c * 13 + 1;
        int32_t kind = c % N_LEARNED;
        for (int32_t k = 2; k < learned[kind].n_values; k++) {
            double u = rows_uniform(&state);
            palette[k] = (float)(c % 3 ? 2 * u - 1 : 0.1 * u);
        }
        double error = palette_error(learned[kind].method, palette, learned[kind].n_values, (uint64_t)c);
        double allowed = kind < N_INT8_LEARNED ? 1.0 / 254 + 1e-6 : 2.0 / 15 / 64 + 8.0 / 2048 + 1.0 / 4096;
        cr_expect_leq(error, allowed, "%s, trial %d: %g", quant_method_name(learned[kind].method), c, error);
    }
}

/* The same where an int8 table has the values exactly: what is left is the rounding of a group's scale, two
 * sums of 32 terms. */
Test(quant_invariants, few_values_are_exact_where_they_are_representable)
{
    for (int32_t c = 0; c < N_INT8_LEARNED * 50; c++) {
        float palette[16] = {-1, 1};
        uint64_t state = (uint64_t)c * 17 + 1;
        for (int32_t k = 2; k < learned[c % N_INT8_LEARNED].n_values; k++) {
            palette[k] = (float)((int32_t)(rows_random(&state) % 255) - 127) / 127;
        }
        double error = palette_error(learned[c % N_INT8_LEARNED].method, palette,
                                     learned[c % N_INT8_LEARNED].n_values, (uint64_t)c);
        cr_expect_leq(error, 32 * FLT_EPSILON, "%s, trial %d: %g",
                      quant_method_name(learned[c % N_INT8_LEARNED].method), c, error);
    }
}

/* A row times a power of two is quantized to the same times that power: no threshold is absolute. any4-paper
 * alone has one, as published. */
Test(quant_invariants, magnitude_does_not_matter)
{
    enum { K = 300 };
    static float w[K], scaled[K];
    for (int32_t c = 0; c < N_METHODS * N_DISTRIBUTIONS; c++) {
        struct quant_settings settings = settings_of(c / N_DISTRIBUTIONS, 0);
        struct quantized plain;
        if (settings.method == QUANT_ANY4_PAPER) {
            continue;
        }
        rows_fill(w, K, (enum distribution)(c % N_DISTRIBUTIONS), (uint64_t)c + 1);
        cr_assert(quantized_init(&plain, &settings, w, 1, K, NULL));
        for (int32_t exponent = -80; exponent <= 100; exponent += 180) { /* about 1e-26 and 1e28 */
            struct quantized q;
            for (int32_t j = 0; j < K; j++) {
                scaled[j] = ldexpf(w[j], exponent);
            }
            cr_assert(quantized_init(&q, &settings, scaled, 1, K, NULL));
            for (int32_t j = 0; j < K; j++) {
                cr_assert_eq(q.values[j], ldexpf(plain.values[j], exponent), "%s, %s, 2^%d, column %d",
                             quant_method_name(settings.method), distribution_names[c % N_DISTRIBUTIONS],
                             exponent, j);
            }
            quantized_finish(&q);
        }
        quantized_finish(&plain);
    }
}

/* Magnitudes from the smallest to the largest in one row, in runs of 32: finite, and no weight is off by more
 * than the largest of its group (any4-paper's floor on the range apart). */
Test(quant_invariants, extreme_magnitudes_beside_each_other)
{
    enum { K = 512 };
    static float w[K];
    for (int32_t c = 0; c < N_METHODS * 3; c++) {
        int32_t group_size = group_sizes[c % 3];
        struct quant_settings settings = settings_of(c / 3, group_size);
        struct quantized q;
        uint64_t state = (uint64_t)c + 5;
        for (int32_t j = 0; j < K; j++) {
            w[j] = (float)(rows_normal(&state) * pow(10, (double)(j / 32 % 4) * 20 - 30)); /* 1e-30 to 1e30 */
        }
        if (!quantized_init(&q, &settings, w, 1, K, NULL)) {
            continue;
        }
        for (int32_t begin = 0; begin < K; begin += group_size) {
            double largest = settings.method == QUANT_ANY4_PAPER ? 1e-6 : 0;
            for (int32_t j = begin; j < begin + group_size; j++) {
                largest = fmax(largest, fabs((double)w[j]));
            }
            for (int32_t j = begin; j < begin + group_size; j++) {
                cr_assert(fabs((double)q.values[j] - w[j]) <= largest, "%s, g %d, column %d: %g became %g",
                          quant_method_name(settings.method), group_size, j, (double)w[j],
                          (double)q.values[j]);
            }
        }
        quantized_finish(&q);
    }
}

/* Second moments over twelve orders of magnitude, and means that are zero: finite, and the weighted error of
 * the method that weights by moments is no larger than without them. */
Test(quant_invariants, moments_of_any_size_help)
{
    enum { K = 512, ROWS = 8 };
    static float w[ROWS * K], mean[K], second[K];
    struct quant_moments moments = {mean, second};
    uint64_t state = 11;
    for (int32_t j = 0; j < K; j++) {
        second[j] = (float)pow(10, 12 * rows_uniform(&state) - 6);
    }
    rows_fill(w, ROWS * K, NORMAL, 12);
    for (int32_t i = 0; i < N_INT8_LEARNED; i++) {
        struct quant_settings settings = {.method = learned[i].method, .cpu_flags = CPU_ALL}, plain;
        struct quantized weighted, unweighted;
        plain = settings;
        plain.weighting = QUANT_WEIGHTING_NONE;
        cr_assert(quantized_init(&weighted, &settings, w, ROWS, K, &moments));
        cr_assert(quantized_init(&unweighted, &plain, w, ROWS, K, &moments));
        for (int32_t j = 0; j < ROWS * K; j++) {
            cr_assert(isfinite(weighted.values[j]));
        }
        fprintf(stderr, "moments of 1e-6 to 1e6, %s: weighted error with / without %.4f\n",
                quant_method_name(learned[i].method),
                weighted.stats.weighted_error / unweighted.stats.weighted_error);
        cr_expect_lt(weighted.stats.weighted_error, unweighted.stats.weighted_error, "%s",
                     quant_method_name(learned[i].method));
        quantized_finish(&weighted);
        quantized_finish(&unweighted);
    }
    for (int32_t i = 0; i < N_METHODS; i++) { /* the same extremes, all means zero, by every weighting */
        for (int32_t weighting = 0; weighting <= QUANT_WEIGHTING_MOMENT; weighting++) {
            struct quant_settings settings = settings_of(i, 0);
            struct quantized q;
            settings.weighting = (enum quant_weighting)weighting;
            cr_assert(quantized_init(&q, &settings, w, ROWS, K, &moments));
            for (int32_t j = 0; j < ROWS * K; j++) {
                cr_assert(isfinite(q.values[j]));
            }
            cr_assert(q.stats.error_energy <= worst_error(&q), "%s, weighting %d: %g of %g",
                      quant_method_name(settings.method), weighting, q.stats.error_energy,
                      q.stats.weight_energy);
            quantized_finish(&q);
        }
    }
}

/* No weighting asked for, no moments given, or moments that are all alike: the same bits. */
Test(quant_invariants, no_weighting_is_equal_columns)
{
    enum { K = 300, ROWS = 3 };
    static float w[ROWS * K], ones[K], mean[K], second[K];
    struct quant_moments equal = {ones, ones}, any = {mean, second};
    uint64_t state = 4;
    for (int32_t j = 0; j < K; j++) {
        ones[j] = 1;
        mean[j] = (float)rows_normal(&state);
        second[j] = 1 + mean[j] * mean[j];
    }
    rows_fill(w, ROWS * K, STUDENT_T, 8);
    for (int32_t i = 0; i < N_METHODS; i++) {
        struct quant_settings settings = settings_of(i, 0), none = settings;
        struct quantized without, with_none, with_equal;
        none.weighting = QUANT_WEIGHTING_NONE;
        cr_assert(quantized_init(&without, &none, w, ROWS, K, NULL));
        cr_assert(quantized_init(&with_none, &none, w, ROWS, K, &any));
        cr_assert_arr_eq(without.values, with_none.values, sizeof w, "%s", quant_method_name(none.method));
        settings.weighting = QUANT_WEIGHTING_MOMENT;
        cr_assert(quantized_init(&with_equal, &settings, w, ROWS, K, &equal));
        if (settings.method != QUANT_ANY4_PAPER) { /* times the group's scale */
            cr_assert_arr_eq(without.values, with_equal.values, sizeof w, "%s",
                             quant_method_name(none.method));
        }
        quantized_finish(&without);
        quantized_finish(&with_none);
        quantized_finish(&with_equal);
    }
}

/* The longest rows and the shortest. */
Test(quant_invariants, rows_of_65536_and_of_1)
{
    enum { LONG = 65536 };
    static float w[LONG + 1];
    rows_fill(w, LONG + 1, STUDENT_T, 2);
    for (int32_t c = 0; c < N_METHODS * 3; c++) {
        static const int32_t widths[] = {LONG, LONG + 1, 1};
        struct quant_settings settings = settings_of(c / 3, 0);
        struct quantized q;
        cr_assert(quantized_init(&q, &settings, w, 1, widths[c % 3], NULL));
        check_row(&q.matrix, 0, quant_method_name(settings.method));
        cr_assert(q.stats.error_energy <= worst_error(&q), "%s, K %d: %g of %g",
                  quant_method_name(settings.method), widths[c % 3], q.stats.error_energy,
                  q.stats.weight_energy);
        quantized_finish(&q);
    }
}

/* The first bad weight is named, by row before column, whatever the number of threads. */
Test(quant_invariants, bad_weights_are_named)
{
    enum { ROWS = 64, K = 172 };
    static float w[ROWS * K];
    static const struct {
        int32_t row, col;
        float value;
        const char *text;
    } bad[] = {{0, 0, NAN, "row 0, column 0"},
               {ROWS - 1, K - 1, INFINITY, "row 63, column 171"},
               {40, 44, -INFINITY, "row 40, column 44"},
               {7, 171, 3e37f, "row 7, column 171"}};
    struct thread_pool *pool = NULL;
    struct error err = {0};
    cr_assert_eq(thread_pool_open(&pool, 3, &err), STATUS_OK);
    for (int32_t c = 0; c < N_METHODS * 8; c++) {
        struct quant_settings settings = settings_of(c / 8, 0);
        struct rows rows = {w, K};
        struct any4_matrix matrix;
        struct quant_stats stats;
        int32_t row = bad[c % 4].row;
        void *memory = aligned_alloc(64, quant_matrix_bytes(&settings, ROWS, K));
        cr_assert_not_null(memory);
        rows_fill(w, ROWS * K, NORMAL, 6);
        w[row * K + bad[c % 4].col] = bad[c % 4].value;
        for (int32_t later = row + 1; later < ROWS; later += 5) {
            w[later * K] = NAN;
        }
        cr_assert_eq(quant_matrix(&matrix, memory, &stats, &settings, ROWS, K, rows_read, &rows, NULL,
                                  c % 8 < 4 ? NULL : pool, &err),
                     STATUS_QUANTIZE);
        cr_assert_not_null(strstr(err.message, bad[c % 4].text), "%s", err.message);
        free(memory);
    }
    thread_pool_close(pool);
}
