/* How good the tables are: the exact optimum against brute force, candidates against exact, Lloyd's against
 * its plain definition, and any4 against any4-paper. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/kmeans.h"
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
    row_partition(bounds, point_mass, point_moment, n, n_levels, gain, split);
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

/* Squared error of the row's scaled values against the nearest entry of a table. */
static double table_error(const struct row_scratch *s, int32_t n_cols, int32_t group_size, const float *table)
{
    double sum = 0;
    for (int32_t j = 0; j < n_cols; j++) {
        double nearest = INFINITY;
        for (int32_t k = 0; k < ROW_LEVELS; k++) {
            nearest = fmin(nearest, fabs((double)table[k] - s->u[j]));
        }
        sum += s->weight[j / group_size] * nearest * nearest;
    }
    return sum;
}

/* Long rows are cut at 256 candidates first: what that loses against the exact optimum, both stored as bf16.
 */
Test(quant_table, candidates_lose_less_than_half_a_percent)
{
    enum { K = 4096, G = 128 };
    static float w[K];
    static uint8_t codes[K];
    uint16_t scales[K / G], zeros[K / G], lut[ROW_LEVELS];
    struct row_scratch s;
    void *memory = aligned_alloc(64, row_scratch_init(&s, NULL, K, G));
    double *gain = malloc(2 * sizeof(double) * (K + 1));
    int32_t *split = malloc(sizeof(int32_t) * ROW_LEVELS * (K + 1));
    row_scratch_init(&s, memory, K, G);
    for (int d = 0; d < N_DISTRIBUTIONS; d++) {
        double found = 0, exact = 0, worst = 0;
        for (uint64_t seed = 1; seed <= 20; seed++) {
            struct quant_row row = {w, K, G, codes, scales, zeros, lut};
            float table[ROW_LEVELS], best[ROW_LEVELS];
            int32_t bounds[ROW_LEVELS + 1];
            rows_fill(w, K, (enum distribution)d, seed);
            row_quantize_any4(&row, &s);
            for (int32_t k = 0; k < ROW_LEVELS; k++) {
                table[k] = bf16_to_f32(lut[k]);
            }
            row_partition(bounds, s.points.mass, s.points.moment, s.points.n, ROW_LEVELS, gain, split);
            row_means(best, bounds, &s.points);
            for (int32_t k = 0; k < ROW_LEVELS; k++) {
                best[k] = row_round_bf16(best[k]);
            }
            double error = table_error(&s, K, G, table), least = table_error(&s, K, G, best);
            worst = fmax(worst, error / least);
            found += error;
            exact += least;
        }
        fprintf(stderr, "candidates / exact, %-14s %.6f (worst row %.6f)\n", distribution_names[d],
                found / exact, worst);
        cr_assert(found <= 1.005 * exact, "%s", distribution_names[d]);
    }
    free(memory);
    free(gain);
    free(split);
}

/* Where the partition is exact, the refits after it start from the rounded optimum and must never raise its
 * error. */
Test(quant_table, refits_never_raise_the_error)
{
    enum { K = 200, G = 64, N_GROUPS = (K + G - 1) / G };
    static float w[K];
    static uint8_t codes[K];
    uint16_t scales[N_GROUPS], zeros[N_GROUPS], lut[ROW_LEVELS];
    struct row_scratch s;
    void *memory = aligned_alloc(64, row_scratch_init(&s, NULL, K, G));
    row_scratch_init(&s, memory, K, G);
    for (int32_t c = 0; c < N_DISTRIBUTIONS * 50; c++) {
        struct quant_row row = {w, K, G, codes, scales, zeros, lut};
        float table[ROW_LEVELS], start[ROW_LEVELS] = {0};
        int32_t bounds[ROW_LEVELS + 1];
        rows_fill(w, K, (enum distribution)(c % N_DISTRIBUTIONS), (uint64_t)c + 1);
        row_quantize_any4(&row, &s);
        if (s.points.n <= ROW_LEVELS) {
            continue;
        }
        row_partition(bounds, s.points.mass, s.points.moment, s.points.n, ROW_LEVELS, s.gain, s.split);
        row_means(start, bounds, &s.points);
        for (int32_t k = 0; k < ROW_LEVELS; k++) {
            start[k] = row_round_bf16(start[k]);
            table[k] = bf16_to_f32(lut[k]);
        }
        cr_assert_leq(table_error(&s, K, G, table), table_error(&s, K, G, start) * (1 + 1e-6), "%s, seed %d",
                      distribution_names[c % N_DISTRIBUTIONS], c + 1);
    }
    free(memory);
}

/* Sixteen values per row that bf16 scale, zero point and table can express come back exactly. */
Test(quant_table, sixteen_values_are_exact)
{
    enum { G = 64 };
    static float w[2048], w_hat[2048];
    for (int32_t n_cols = 64; n_cols <= 2048; n_cols *= 2) {
        for (uint64_t seed = 1; seed <= 10; seed++) {
            struct any4_matrix m;
            void *memory;
            uint64_t state = seed * 31 + 7;
            for (int32_t j = 0; j < n_cols; j++) {
                /* Both ends in every group, so that all have scale 2^-6 and zero point 0. */
                int32_t q = j % G < 2 ? 15 * (j % G) : (int32_t)(rows_random(&state) % 16);
                w[j] = 0.015625f * (float)(q - 8);
            }
            struct quant_stats stats = rows_quantize(&m, &memory, QUANT_ANY4, G, w, 1, n_cols, NULL);
            quant_dequantize(w_hat, &m, 0, 1);
            cr_assert_eq(stats.error_energy, 0);
            cr_assert_arr_eq(w, w_hat, sizeof(float) * (size_t)n_cols);
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
    for (int32_t g = 0; g <= K / G; g++) {
        s.weight[g] = 1;
    }
    for (int d = 0; d < N_DISTRIBUTIONS; d++) {
        double centres[ROW_LEVELS], sum[ROW_LEVELS] = {0};
        int32_t bounds[ROW_LEVELS + 1], count[ROW_LEVELS] = {0};
        rows_fill(w, K, (enum distribution)d, 21);
        memcpy(s.u, w, sizeof w);
        row_sort(&s, K, G);
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

Test(quant_table, any4_beats_the_paper_everywhere)
{
    static const int32_t widths[] = {64, 172, 512, 2048};
    static float w[16 * 2048];
    char line[256]; /* whole lines at once: Criterion runs the tests beside each other */
    int used = snprintf(line, sizeof line, "%-18s", "K, g:");
    for (int32_t c = 0; c < 12; c++) {
        used += snprintf(line + used, sizeof line - (size_t)used, " %4d,%-3d", widths[c / 3], 32 << c % 3);
    }
    fprintf(stderr, "squared error, any4 / any4-paper\n%s\n", line);
    for (int d = 0; d < N_DISTRIBUTIONS; d++) {
        used = snprintf(line, sizeof line, "%-18s", distribution_names[d]);
        for (int32_t c = 0; c < 12; c++) {
            int32_t n_cols = widths[c / 3], group_size = 32 << c % 3;
            rows_fill(w, 16 * n_cols, (enum distribution)d, (uint64_t)c + 1);
            double ours = rows_error(QUANT_ANY4, group_size, w, 16, n_cols);
            double paper = rows_error(QUANT_ANY4_PAPER, group_size, w, 16, n_cols);
            used += snprintf(line + used, sizeof line - (size_t)used, " %8.4f", ours / paper);
            cr_expect(ours < paper, "%s, K %d, g %d: %g, paper %g", distribution_names[d], n_cols, group_size,
                      ours, paper);
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
