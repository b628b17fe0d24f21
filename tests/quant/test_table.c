/* How good the tables are: the exact optimum against brute force, the histogram against exact, Lloyd's
 * against its plain definition, and any4 against any4-paper. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/exact.h"
#include "quant/kmeans.h"
#include "quant/rows.h"
#include "tests/quant/rows.h"

enum { MAX_POINTS = 4096 };

static float point_value[MAX_POINTS];
static double point_mass[MAX_POINTS + 1], point_moment[MAX_POINTS + 1];
static struct row_points points = {0, point_value, point_mass, point_moment};

/* n distinct ascending values with weights in (0, 2). */
static void draw_points(int32_t n, uint64_t seed)
{
    uint64_t state = seed * 77 + 12345;
    float value = -8;
    points.n = n;
    for (int32_t i = 0; i < n; i++) {
        double mass = 2 * rows_uniform(&state), step = rows_uniform(&state);
        value += (float)(step * step * step * 15 / n * 4 + 1e-4);
        point_value[i] = value;
        point_mass[i + 1] = point_mass[i] + mass;
        point_moment[i + 1] = point_moment[i] + mass * value;
    }
}

static double run_gain(int32_t i, int32_t j)
{
    double moment = point_moment[j] - point_moment[i];
    return moment * moment / (point_mass[j] - point_mass[i]);
}

/* The largest gain over every way to cut [begin, n) in n_levels runs. */
static double brute_force(int32_t begin, int32_t n, int32_t n_levels)
{
    if (n_levels == 1) {
        return run_gain(begin, n);
    }
    double best = 0;
    for (int32_t end = begin + 1; end <= n - (n_levels - 1); end++) {
        best = fmax(best, run_gain(begin, end) + brute_force(end, n, n_levels - 1));
    }
    return best;
}

static double partition_gain(int32_t n, int32_t n_levels)
{
    int32_t bounds[ROW_LEVELS + 1];
    double *gain = malloc(2 * sizeof(double) * (size_t)(n + 1)), sum = 0;
    int32_t *split = malloc(sizeof(int32_t) * (size_t)n_levels * (size_t)(n + 1));
    exact_partition(bounds, point_mass, point_moment, n, n_levels, gain, split);
    cr_assert(bounds[0] == 0 && bounds[n_levels] == n);
    for (int32_t k = 0; k < n_levels; k++) {
        cr_assert_lt(bounds[k], bounds[k + 1]);
        sum += run_gain(bounds[k], bounds[k + 1]);
    }
    free(gain);
    free(split);
    return sum;
}

Test(quant_table, exact_partition_equals_brute_force)
{
    static const int32_t shapes[][2] = {{2, 2},   {3, 2},   {9, 2},   {14, 4}, {17, 8},
                                        {16, 16}, {17, 16}, {19, 16}, {20, 16}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (uint64_t seed = 1; seed <= 20; seed++) {
            draw_points(shapes[i][0], seed);
            double expected = brute_force(0, shapes[i][0], shapes[i][1]);
            double found = partition_gain(shapes[i][0], shapes[i][1]);
            cr_assert(fabs(found - expected) <= 1e-12 * expected,
                      "n %d, levels %d, seed %d: %.17g, expected %.17g", shapes[i][0], shapes[i][1],
                      (int)seed, found, expected);
        }
    }
}

/* The same for larger n against the dynamic programme without any pruning. */
Test(quant_table, exact_partition_equals_the_plain_recurrence)
{
    for (int32_t n = 21; n <= 301; n += 28) {
        static double best[ROW_LEVELS + 1][302];
        draw_points(n, (uint64_t)n);
        for (int32_t j = 1; j <= n; j++) {
            best[1][j] = run_gain(0, j);
        }
        for (int32_t k = 2; k <= ROW_LEVELS; k++) {
            for (int32_t j = k; j <= n; j++) {
                best[k][j] = 0;
                for (int32_t i = k - 1; i < j; i++) {
                    best[k][j] = fmax(best[k][j], best[k - 1][i] + run_gain(i, j));
                }
            }
        }
        for (int32_t k = 2; k <= ROW_LEVELS; k++) {
            double found = partition_gain(n, k);
            cr_assert(fabs(found - best[k][n]) <= 1e-12 * found, "n %d, levels %d", n, k);
        }
    }
}

/* One row in tiles, with importance, as quant/rows.c prepares it; free tile_memory. */
struct tiled {
    struct learn_row row;
    float *memory;
};

static struct tiled tile_row(const float *w, const float *importance, int32_t n_cols, int32_t group_size,
                             int32_t n_levels)
{
    size_t n = row_tile_columns(n_cols, group_size);
    struct tiled t = {.memory = calloc(3 * n, sizeof(float))};
    float *tiles = t.memory, *m = t.memory + n;
    for (int32_t j = 0; j < n_cols; j++) {
        int32_t group = j / group_size;
        int32_t at = (group / LEARN_LANES * group_size + j % group_size) * LEARN_LANES + group % LEARN_LANES;
        tiles[at] = w[j];
        m[at] = importance[j];
    }
    t.row = (struct learn_row){.w = tiles,
                               .m = m,
                               .scale = t.memory + 2 * n,
                               .n_tiles = row_n_tiles(n_cols, group_size),
                               .group_size = group_size,
                               .n_levels = n_levels};
    return t;
}

/* The error that the exact optimum of 1-D k-means leaves on the row's u with weights m s^2. */
static double exact_error(const struct learn_row *row, struct row_scratch *s, int32_t n)
{
    double energy = 0, gain = 0;
    double *scratch = malloc(2 * sizeof(double) * (size_t)(n + 1));
    int32_t *split = malloc(sizeof(int32_t) * ROW_LEVELS * (size_t)(n + 1)), bounds[ROW_LEVELS + 1], used = 0;
    for (int64_t at = 0; at < (int64_t)row->n_tiles * row->group_size * LEARN_LANES; at++) {
        int64_t group = at / (row->group_size * LEARN_LANES) * LEARN_LANES + at % LEARN_LANES;
        double scale = row->scale[group], mass = row->m[at] * scale * scale;
        if (mass > 0) {
            s->u[used] = row->w[at] / row->scale[group];
            s->weight[used++] = (float)mass;
            energy += row->m[at] * (double)row->w[at] * row->w[at];
        }
    }
    row_sort(s, used);
    const struct row_points *p = &s->points;
    exact_partition(bounds, p->mass, p->moment, p->n, row->n_levels, scratch, split);
    for (int32_t k = 0; k < row->n_levels; k++) {
        double mass = p->mass[bounds[k + 1]] - p->mass[bounds[k]];
        double moment = p->moment[bounds[k + 1]] - p->moment[bounds[k]];
        gain += moment * moment / mass;
    }
    free(scratch);
    free(split);
    return energy - gain;
}

/* The table that a row starts from, out of the histogram, against the exact optimum over all its values. */
Test(quant_table, histogram_loses_less_than_half_a_percent)
{
    enum { K = 4096, G = 32 };
    static float w[K], importance[K];
    struct row_scratch s;
    void *memory = aligned_alloc(64, row_scratch_init(&s, NULL, K, G));
    row_scratch_init(&s, memory, K, G);
    for (int d = 0; d < N_DISTRIBUTIONS; d++) {
        double found = 0, exact = 0, worst = 0;
        if (d == FEW_VALUES || d == FAR_FROM_ZERO || d == OUTLIERS) {
            continue; /* levels closer than a step of the int8 table that they end in are not looked for */
        }
        for (uint64_t seed = 1; seed <= 10; seed++) {
            uint64_t state = seed * 977 + 5;
            rows_fill(w, K, (enum distribution)d, seed);
            for (int32_t j = 0; j < K; j++) {
                importance[j] = (float)exp(rows_normal(&state));
            }
            struct tiled t = tile_row(w, importance, K, G, ROW_LEVELS);
            for (int32_t tile = 0; tile < t.row.n_tiles; tile++) {
                learn_peak_tile(t.row.scale + tile * LEARN_LANES, t.row.w + (int64_t)tile * G * LEARN_LANES,
                                G);
            }
            learn_start_table(&t.row, learn_split_tile);
            double error = learn_loss(&t.row), least = exact_error(&t.row, &s, K);
            worst = fmax(worst, error / least);
            found += error;
            exact += least;
            free(t.memory);
        }
        fprintf(stderr, "histogram / exact, %-14s %.6f (worst row %.6f)\n", distribution_names[d],
                found / exact, worst);
        cr_assert(found <= 1.005 * exact, "%s", distribution_names[d]);
    }
    free(memory);
}

static const struct quant_rows *const builds[] = {
    &quant_rows_scalar,
#ifdef ANY4_X86
    &quant_rows_avx2,
    &quant_rows_avx512,
#endif
};
static const unsigned build_flags[] = {0, CPU_AVX2, CPU_AVX512};

/* Codes, then scales, then the table: each is the best one given the others, so no round raises the
 * objective. The same in every build that may run here. */
Test(quant_table, rounds_never_raise_the_loss)
{
    enum { K = 1100, G = 32, N_GROUPS = (K + G - 1) / G };
    static float w[K], importance[K];
    static uint8_t codes[K];
    int8_t group_scales[N_GROUPS], table[ROW_LEVELS];
    float row_scale;
    struct row_scratch s;
    void *memory = aligned_alloc(64, row_scratch_init(&s, NULL, K, G));
    row_scratch_init(&s, memory, K, G);
    for (int32_t c = 0; c < N_DISTRIBUTIONS * 20; c++) {
        double loss[LEARN_ROUNDS + 1], first[LEARN_ROUNDS + 1];
        uint64_t state = (uint64_t)c * 31 + 9;
        rows_fill(w, K, (enum distribution)(c % N_DISTRIBUTIONS), (uint64_t)c + 1);
        for (int32_t j = 0; j < K; j++) {
            importance[j] = (float)exp(rows_normal(&state));
        }
        struct tiled t = tile_row(w, importance, K, G, ROW_LEVELS);
        struct quant_row row = {.w = w,
                                .n_cols = K,
                                .group_size = G,
                                .n_groups = N_GROUPS,
                                .code_bits = 2 + c % 3,
                                .importance_tiles = t.row.m,
                                .codes = codes,
                                .group_scales = group_scales,
                                .table = table,
                                .row_scale = &row_scale,
                                .loss = loss};
        for (size_t b = 0; b < sizeof builds / sizeof builds[0]; b++) {
            if (cpu_flags_usable(build_flags[b]) != build_flags[b]) {
                fprintf(stderr, "SKIPPED: this processor lacks build %zu\n", b);
                continue;
            }
            builds[b]->learned(&row, &s);
            for (int32_t round = 0; round < LEARN_ROUNDS; round++) {
                cr_assert_leq(loss[round + 1], loss[round] * (1 + 1e-6), "%s, seed %d, round %d",
                              distribution_names[c % N_DISTRIBUTIONS], c + 1, round);
            }
            if (b == 0) {
                memcpy(first, loss, sizeof first);
            }
            cr_assert_arr_eq(first, loss, sizeof first);
        }
        free(t.memory);
    }
    free(memory);
}

/* Sixteen values that an int8 table can express come back within the rounding of the row's f32 scale. */
Test(quant_table, sixteen_values_are_exact)
{
    enum { G = 64 };
    static const int8_t levels[16] = {-127, -101, -80, -63, -44, -30, -17, -5, 0, 9, 22, 35, 50, 72, 96, 127};
    static float w[2048], w_hat[2048];
    for (int32_t n_cols = 64; n_cols <= 2048; n_cols *= 2) {
        for (uint64_t seed = 1; seed <= 10; seed++) {
            struct any4_matrix m;
            void *memory;
            uint64_t state = seed * 31 + 7;
            for (int32_t j = 0; j < n_cols; j++) {
                /* The largest in every group, so that all have the same scale. */
                w[j] = 0.015625f * (float)levels[j % G < 1 ? 15 : rows_random(&state) % 16];
            }
            struct quant_stats stats = rows_quantize(&m, &memory, QUANT_ANY4, G, w, 1, n_cols, NULL);
            quant_dequantize(w_hat, &m, 0, 1);
            cr_assert_leq(stats.error_energy, 1e-12 * stats.weight_energy);
            for (int32_t j = 0; j < n_cols; j++) {
                cr_assert_float_eq(w[j], w_hat[j], 1e-6 * fabsf(w[j]), "K %d: %g became %g", n_cols,
                                   (double)w[j], (double)w_hat[j]);
            }
            free(memory);
        }
    }
}

/* A converged result must not move under one plain iteration over the unsorted values. */
Test(quant_table, lloyd_ends_at_a_fixed_point_of_its_definition)
{
    enum { K = 1000, G = 128 };
    static float w[K];
    struct row_scratch s;
    void *memory = aligned_alloc(64, row_scratch_init(&s, NULL, K, G));
    row_scratch_init(&s, memory, K, G);
    for (int32_t j = 0; j < K; j++) {
        s.weight[j] = 1;
    }
    for (int d = 0; d < N_DISTRIBUTIONS; d++) {
        double centres[ROW_LEVELS], sum[ROW_LEVELS] = {0};
        int32_t bounds[ROW_LEVELS + 1], count[ROW_LEVELS] = {0};
        rows_fill(w, K, (enum distribution)d, 21);
        memcpy(s.u, w, sizeof w);
        row_sort(&s, K);
        for (int32_t i = 1; i < s.points.n; i++) {
            cr_assert_lt(s.points.value[i - 1], s.points.value[i]);
        }
        cr_assert_eq(s.points.mass[s.points.n], K);
        kmeans_lloyd(centres, bounds, &s.points, 1, s.kmeans);
        for (int32_t j = 0; j < K; j++) {
            int32_t nearest = 0;
            for (int32_t k = 1; k < ROW_LEVELS; k++) {
                if (fabs(centres[k] - w[j]) < fabs(centres[nearest] - w[j])) {
                    nearest = k;
                }
            }
            sum[nearest] += w[j];
            count[nearest]++;
        }
        for (int32_t k = 0; k < ROW_LEVELS; k++) {
            cr_assert(count[k] == 0 ||
                          fabs(sum[k] / count[k] - centres[k]) <= 1e-9 * fabs(centres[k]) + 1e-16,
                      "%s: centre %d", distribution_names[d], k);
        }
    }
    free(memory);
}

/* The sum of squares that half a step of an int8 table explains: levels are multiples of 1/127 of a group's
 * largest weight. */
static double int8_rounding(const float *w, int32_t n_rows, int32_t n_cols, int32_t group_size)
{
    double sum = 0;
    for (int32_t row = 0; row < n_rows; row++) {
        for (int32_t begin = 0; begin < n_cols; begin += group_size) {
            int32_t end = begin + group_size < n_cols ? begin + group_size : n_cols;
            double largest = 0;
            for (int32_t j = begin; j < end; j++) {
                largest = fmax(largest, fabs((double)w[(int64_t)row * n_cols + j]));
            }
            sum += (end - begin) * (largest / 254) * (largest / 254);
        }
    }
    return sum;
}

/* At no more bits: groups of 32 with int8 scales against groups of 128 with bf16 scales and zero points; and
 * with equal groups, at fewer. Where the paper's is better (values far from 0, a handful of values in a row,
 * one weight hundreds of times the others), what is left is less than half a step of the int8 table. */
Test(quant_table, any4_beats_the_paper_everywhere)
{
    static const int32_t widths[] = {64, 172, 512, 2048};
    static const int32_t groups[][2] = {{32, 128}, {64, 64}, {128, 128}}; /* ours, paper's */
    static float w[16 * 2048];
    char line[512]; /* whole lines at once: Criterion runs the tests beside each other */
    int used = snprintf(line, sizeof line, "%-14s", "K, g, g:");
    for (int32_t c = 0; c < 12; c++) {
        used += snprintf(line + used, sizeof line - (size_t)used, " %4d,%d,%d", widths[c / 3],
                         groups[c % 3][0], groups[c % 3][1]);
    }
    fprintf(stderr, "squared error, any4 / any4-paper\n%s\n", line);
    for (int d = 0; d < N_DISTRIBUTIONS; d++) {
        used = snprintf(line, sizeof line, "%-14s", distribution_names[d]);
        for (int32_t c = 0; c < 12; c++) {
            int32_t n_cols = widths[c / 3], group_size = groups[c % 3][0];
            rows_fill(w, 16 * n_cols, (enum distribution)d, (uint64_t)c + 1);
            double ours = rows_error(QUANT_ANY4, group_size, w, 16, n_cols);
            double paper = rows_error(QUANT_ANY4_PAPER, groups[c % 3][1], w, 16, n_cols);
            double rounding = int8_rounding(w, 16, n_cols, group_size);
            used += snprintf(line + used, sizeof line - (size_t)used, " %9.4f%s", ours / paper,
                             ours < paper ? " " : "*");
            cr_expect(ours < paper || ours < rounding, "%s, K %d, g %d: %g, paper %g, rounding %g",
                      distribution_names[d], n_cols, group_size, ours, paper, rounding);
        }
        fprintf(stderr, "%s\n", line);
    }
}

/* Groups whose scales differ by many orders: the small ones must not disturb the sums that choose the table.
 */
Test(quant_table, tiny_groups_do_not_cost_the_others_their_table)
{
    enum { K = 512, G = 64, ROWS = 8 };
    static float w[ROWS * K];
    for (int exponent = -1; exponent >= -20; exponent--) {
        rows_fill(w, ROWS * K, NORMAL, (uint64_t)-exponent);
        for (int32_t i = 0; i < ROWS * K; i++) {
            w[i] *= i / G % 2 ? powf(10, (float)exponent) : 1;
        }
        double ours = rows_error(QUANT_ANY4, G, w, ROWS, K),
               paper = rows_error(QUANT_ANY4_PAPER, G, w, ROWS, K);
        cr_expect(ours < 0.95 * paper, "1e%d: %g, paper %g, ratio %.4f", exponent, ours, paper, ours / paper);
    }
}
