/* The per-row algorithm: scale groups, sort, optimal table, assign. Inline C11 and C++17, no allocation and
 * no libm, so that the CPU and a device quantizer share it. Every sum has a fixed order: the stored bits
 * depend on weights and group size alone.
 *
 * The table of our any4 minimises the squared error of the weights, sum over j of q_j (t[c_j] - u_j)^2 with
 * u = (w - z) / s and q = s^2 (s, z as stored), which is 1-D k-means with weights q. Its optimum is a
 * partition of the sorted values in 16 runs. Dynamic programming finds it exactly (Wu, 1991; Wang and Song,
 * Ckmeans.1d.dp, 2011): D_k(j) = max over i of D_{k-1}(i) + (S1_j - S1_i)^2 / (S0_j - S0_i), S0, S1 prefix
 * sums of q and q u; maximising this is minimising the error, as sum q u^2 is constant. */
#ifndef QUANT_ROW_H
#define QUANT_ROW_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine/base/float16.h"
#include "quant/any4.h"

enum {
    ROW_LEVELS = ANY4_MAX_TABLE,
    ROW_DP_POINTS = 256, /* rows with more distinct values are cut at this many candidates before the DP */
    ROW_DIGIT_BITS = 11, /* three passes of radix sort */
    ROW_DIGITS = 1 << ROW_DIGIT_BITS,
    ROW_REFINE_ROUNDS =
        40, /* Lloyd rounds after the DP on candidates; they end by themselves, usually in 5 to 15 */
};

/* Larger weights are refused before they get here, so that no product of scale and table overflows. */
#define ROW_MAX_WEIGHT 1e37f

/* Least element weight in the table's objective, relative to the row's largest. */
#define ROW_MIN_WEIGHT 1e-8

/* Input and output of one row. w: (n_cols), finite, |w| <= ROW_MAX_WEIGHT. codes: (n_cols), one a byte.
 * scales, zeros: (n_groups) bf16, zeros NULL for formats without. lut: (16) bf16. */
struct quant_row {
    const float *w;
    int32_t n_cols, group_size;
    uint8_t *codes;
    uint16_t *scales, *zeros, *lut;
};

/* Distinct values of a row in ascending order, with prefix sums: mass[i], moment[i] over the first i of them.
 */
struct row_points {
    int32_t n;
    float *value;   /* (n) */
    double *mass;   /* (n + 1) */
    double *moment; /* (n + 1) */
};

struct row_scratch {
    float *u;                 /* (n_cols) scaled weights */
    double *weight;           /* (n_groups) q of each group; 0 leaves the group out of the table */
    uint64_t *keys;           /* (2, n_cols) */
    uint32_t *counts;         /* (3, ROW_DIGITS) */
    struct row_points points; /* room for n_cols */
    int32_t *cuts;            /* (ROW_DP_POINTS + 1) candidates, as positions in points */
    double *cut_mass;         /* (ROW_DP_POINTS + 1) */
    double *cut_moment;       /* (ROW_DP_POINTS + 1) */
    double *gain;             /* (2, ROW_DP_POINTS + 1) */
    int32_t *split;           /* (ROW_LEVELS, ROW_DP_POINTS + 1) */
    double *kmeans;           /* (2, n_cols) for k-means++ */
};

static inline void *row_carve(unsigned char *memory, size_t *used, size_t n, size_t size)
{
    void *at = memory ? memory + *used : NULL;
    *used += (n * size + 63) / 64 * 64;
    return at;
}

/* Lays the scratch out in memory (64-byte aligned) and returns its bytes; with memory NULL only counts. */
static inline size_t row_scratch_init(struct row_scratch *s, void *memory, int32_t n_cols, int32_t group_size)
{
    unsigned char *m = (unsigned char *)memory;
    size_t n = (size_t)n_cols, n_cuts = ROW_DP_POINTS + 1, used = 0;
    s->u = (float *)row_carve(m, &used, n, sizeof(float));
    s->weight = (double *)row_carve(m, &used, n / (size_t)group_size + 1, sizeof(double));
    s->keys = (uint64_t *)row_carve(m, &used, 2 * n, sizeof(uint64_t));
    s->counts = (uint32_t *)row_carve(m, &used, 3 * ROW_DIGITS, sizeof(uint32_t));
    s->points.n = 0;
    s->points.value = (float *)row_carve(m, &used, n, sizeof(float));
    s->points.mass = (double *)row_carve(m, &used, n + 1, sizeof(double));
    s->points.moment = (double *)row_carve(m, &used, n + 1, sizeof(double));
    s->cuts = (int32_t *)row_carve(m, &used, n_cuts, sizeof(int32_t));
    s->cut_mass = (double *)row_carve(m, &used, n_cuts, sizeof(double));
    s->cut_moment = (double *)row_carve(m, &used, n_cuts, sizeof(double));
    s->gain = (double *)row_carve(m, &used, 2 * n_cuts, sizeof(double));
    s->split = (int32_t *)row_carve(m, &used, ROW_LEVELS * n_cuts, sizeof(int32_t));
    s->kmeans = (double *)row_carve(m, &used, 2 * n, sizeof(double));
    return used;
}

static inline float row_round_bf16(float x)
{
    return bf16_to_f32(bf16_from_f32(x));
}

/* Minimum and maximum of n >= 1 values. Eight lanes, because a compiler may not reorder the comparisons
 * itself. */
static inline void row_range(float *min, float *max, const float *w, int32_t n)
{
    float lo[8], hi[8];
    int32_t j = 0;
    for (int32_t l = 0; l < 8; l++) {
        lo[l] = hi[l] = w[0];
    }
    for (; j + 8 <= n; j += 8) {
        for (int32_t l = 0; l < 8; l++) {
            lo[l] = w[j + l] < lo[l] ? w[j + l] : lo[l];
            hi[l] = w[j + l] > hi[l] ? w[j + l] : hi[l];
        }
    }
    for (; j < n; j++) {
        lo[0] = w[j] < lo[0] ? w[j] : lo[0];
        hi[0] = w[j] > hi[0] ? w[j] : hi[0];
    }
    for (int32_t l = 1; l < 8; l++) {
        lo[0] = lo[l] < lo[0] ? lo[l] : lo[0];
        hi[0] = hi[l] > hi[0] ? hi[l] : hi[0];
    }
    *min = lo[0];
    *max = hi[0];
}

/* u = (w - offset) / scale; a scale of 0 gives 0. */
static inline void row_scale(float *u, const float *w, int32_t n, float offset, float scale)
{
    for (int32_t j = 0; j < n; j++) {
        u[j] = scale > 0 ? (w[j] - offset) / scale : 0;
    }
}

/* code = how many of the 15 ascending limits lie below u: a value on a limit gets the lower code. */
static inline void row_assign(uint8_t *codes, const float *u, int32_t n, const float limits[ROW_LEVELS - 1])
{
    for (int32_t j = 0; j < n; j++) {
        float v = u[j];
        codes[j] = (uint8_t)((v > limits[0]) + (v > limits[1]) + (v > limits[2]) + (v > limits[3]) +
                             (v > limits[4]) + (v > limits[5]) + (v > limits[6]) + (v > limits[7]) +
                             (v > limits[8]) + (v > limits[9]) + (v > limits[10]) + (v > limits[11]) +
                             (v > limits[12]) + (v > limits[13]) + (v > limits[14]));
    }
}

static inline void row_limits(float limits[ROW_LEVELS - 1], const float table[ROW_LEVELS])
{
    for (int32_t k = 0; k + 1 < ROW_LEVELS; k++) {
        limits[k] = 0.5f * (table[k] + table[k + 1]);
    }
}

static inline void row_store_table(uint16_t *lut, const float table[ROW_LEVELS])
{
    for (int32_t k = 0; k < ROW_LEVELS; k++) {
        lut[k] = bf16_from_f32(table[k]);
    }
}

/* Sorts the row's scaled values (those of groups with weight > 0) into points; equal neighbours become one.
 * Radix sort of the floats' bits, made to ascend as integers, together with the column. */
static inline void row_sort(struct row_scratch *s, int32_t n_cols, int32_t group_size)
{
    const float *u = s->u;
    uint64_t *a = s->keys, *b = s->keys + n_cols;
    uint32_t *low = s->counts, *middle = low + ROW_DIGITS, *high = middle + ROW_DIGITS;
    const uint32_t mask = ROW_DIGITS - 1;
    int32_t n = 0;
    memset(s->counts, 0, 3 * ROW_DIGITS * sizeof *s->counts);
    for (int32_t begin = 0, group = 0; begin < n_cols; begin += group_size, group++) {
        int32_t end = n_cols - begin < group_size ? n_cols : begin + group_size;
        if (!(s->weight[group] > 0)) {
            continue;
        }
        for (int32_t j = begin; j < end; j++) {
            uint32_t key;
            memcpy(&key, &u[j], sizeof key);
            key ^= key >> 31 ? 0xffffffffu : 0x80000000u;
            low[key & mask]++;
            middle[key >> ROW_DIGIT_BITS & mask]++;
            high[key >> 2 * ROW_DIGIT_BITS]++;
            a[n++] = (uint64_t)key << 32 | (uint32_t)j;
        }
    }
    uint32_t at_low = 0, at_middle = 0, at_high = 0;
    for (int32_t d = 0; d < ROW_DIGITS; d++) {
        uint32_t count_low = low[d], count_middle = middle[d], count_high = high[d];
        low[d] = at_low;
        middle[d] = at_middle;
        high[d] = at_high;
        at_low += count_low;
        at_middle += count_middle;
        at_high += count_high;
    }
    for (int32_t i = 0; i < n; i++) {
        b[low[a[i] >> 32 & mask]++] = a[i];
    }
    for (int32_t i = 0; i < n; i++) {
        a[middle[b[i] >> (32 + ROW_DIGIT_BITS) & mask]++] = b[i];
    }
    for (int32_t i = 0; i < n; i++) {
        b[high[a[i] >> (32 + 2 * ROW_DIGIT_BITS)]++] = a[i];
    }

    struct row_points *p = &s->points;
    float *values = p->value, last = 0;
    double *masses = p->mass, *moments = p->moment, mass = 0, moment = 0;
    int32_t n_points = 0, shift = 0;
    while (1 << shift < group_size) { /* group sizes are powers of two */
        shift++;
    }
    masses[0] = moments[0] = 0;
    for (int32_t i = 0; i < n; i++) {
        uint32_t j = (uint32_t)b[i];
        float value = u[j];
        double q = s->weight[j >> shift];
        mass += q;
        moment += q * value;
        n_points += i == 0 || value != last;
        last = value;
        values[n_points - 1] = value;
        masses[n_points] = mass;
        moments[n_points] = moment;
    }
    p->n = n_points;
}

/* The best start i in [lo, hi] of the last run, which ends at j: the first of the largest sums. */
static inline int32_t row_best_split(double *best, const double *last, const double *mass,
                                     const double *moment, int32_t j, int32_t lo, int32_t hi)
{
    double largest = -1, mass_j = mass[j], moment_j = moment[j];
    int32_t at = lo;
    for (int32_t i = lo; i <= hi; i++) {
        double d = moment_j - moment[i];
        double sum = last[i] + d * d / (mass_j - mass[i]);
        if (sum > largest) {
            largest = sum;
            at = i;
        }
    }
    *best = largest;
    return at;
}

/* Cuts m intervals in n_levels runs, 2 <= n_levels <= m, so that the sum of (moment)^2 / mass over the runs
 * is largest: exact. mass, moment: (m + 1) prefix sums from 0, mass strictly rising. bounds: (n_levels + 1),
 * first interval of each run and the end. gain: (2, m + 1). split: (n_levels, m + 1). The best start of the
 * last run is monotone in j and in the number of runs: each is searched between its neighbours' (in halving
 * strides) and from the one with a run fewer. */
static inline void row_partition(int32_t *bounds, const double *mass, const double *moment, int32_t m,
                                 int32_t n_levels, double *gain, int32_t *split)
{
    const size_t stride = (size_t)m + 1;
    double *last = gain, *next = gain + stride;
    int32_t top = 1;
    while (top <= m / 2) {
        top *= 2;
    }
    last[0] = 0;
    split[0] = 0;
    for (int32_t j = 1; j <= m; j++) {
        last[j] = moment[j] * moment[j] / mass[j];
        split[j] = 0;
    }
    for (int32_t k = 2; k < n_levels; k++) {
        const int32_t *above = split + (size_t)(k - 2) * stride;
        int32_t *at = split + (size_t)(k - 1) * stride;
        at[0] = k - 1;
        for (int32_t step = top; step >= 1; step /= 2) {
            for (int32_t j = step; j <= m; j += 2 * step) {
                if (j < k) { /* too few intervals for k runs: only a lower bound for those behind */
                    at[j] = k - 1;
                    continue;
                }
                int32_t lo = at[j - step] > above[j] ? at[j - step] : above[j];
                int32_t hi = j + step <= m && at[j + step] < j ? at[j + step] : j - 1;
                hi = hi < lo ? lo : hi; /* rounding may turn around two equally good splits */
                at[j] = row_best_split(&next[j], last, mass, moment, j, lo, hi);
            }
        }
        double *swap = last;
        last = next;
        next = swap;
    }
    bounds[n_levels] = m;
    bounds[n_levels - 1] = row_best_split(&next[m], last, mass, moment, m, n_levels - 1, m - 1);
    for (int32_t k = n_levels - 2; k >= 1; k--) {
        bounds[k] = split[(size_t)k * stride + (size_t)bounds[k + 1]];
    }
    bounds[0] = 0;
}

/* Candidates for the DP where a row has more than ROW_DP_POINTS distinct values: half of them divide the
 * values' number evenly and half their range, so that neither a dense core nor a long tail is cut coarsely.
 * Writes cuts (0 first, n last, ascending, distinct) and returns the number of intervals, at most
 * ROW_DP_POINTS. */
static inline int32_t row_cuts(int32_t *cuts, const struct row_points *p)
{
    int32_t m = 0;
    float base = p->value[0];
    float per_value = (float)(ROW_DP_POINTS - 1) * 0.5f / (p->value[p->n - 1] - base);
    float per_rank = (float)(ROW_DP_POINTS - 1) * 0.5f / (float)p->n;
    int32_t filled = 0;
    cuts[0] = 0;
    for (int32_t i = 1; i < p->n; i++) {
        float position = (p->value[i] - base) * per_value + (float)i * per_rank;
        if ((int32_t)position > filled && m + 1 < ROW_DP_POINTS) {
            filled = (int32_t)position;
            cuts[++m] = i;
        }
    }
    cuts[++m] = p->n;
    return m;
}

/* How many points have value <= limit. */
static inline int32_t row_points_below(const struct row_points *p, float limit)
{
    int32_t lo = 0, hi = p->n;
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        if (p->value[mid] <= limit) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

/* The table for given runs: each entry the weighted mean of its run; an empty run keeps its entry. */
static inline void row_means(float table[ROW_LEVELS], const int32_t *bounds, const struct row_points *p)
{
    for (int32_t k = 0; k < ROW_LEVELS; k++) {
        double mass = p->mass[bounds[k + 1]] - p->mass[bounds[k]];
        if (bounds[k + 1] > bounds[k] && mass > 0) {
            table[k] = (float)((p->moment[bounds[k + 1]] - p->moment[bounds[k]]) / mass);
        }
    }
}

/* The table of 16 values for the points, each a bf16 value, ascending. */
static inline void row_table(float table[ROW_LEVELS], struct row_scratch *s)
{
    const struct row_points *p = &s->points;
    int32_t bounds[ROW_LEVELS + 1];
    if (p->n <= ROW_LEVELS) {
        for (int32_t k = 0; k < ROW_LEVELS; k++) {
            table[k] = p->n ? row_round_bf16(p->value[k < p->n ? k : p->n - 1]) : 0;
        }
        return;
    }
    if (p->n <= ROW_DP_POINTS) {
        row_partition(bounds, p->mass, p->moment, p->n, ROW_LEVELS, s->gain, s->split);
    } else {
        int32_t m = row_cuts(s->cuts, p);
        for (int32_t i = 0; i <= m; i++) {
            s->cut_mass[i] = p->mass[s->cuts[i]];
            s->cut_moment[i] = p->moment[s->cuts[i]];
        }
        row_partition(bounds, s->cut_mass, s->cut_moment, m, ROW_LEVELS, s->gain, s->split);
        for (int32_t k = 0; k <= ROW_LEVELS; k++) {
            bounds[k] = s->cuts[bounds[k]];
        }
    }
    row_means(table, bounds, p);
    /* Two descents: in float, from the candidates' optimum to the values' own; then with every entry rounded
     * to bf16. Given the runs, the bf16 value nearest to the mean is the best one, and given the table the
     * nearest entry is: no round raises the error of what is stored. */
    for (int32_t stored = 0; stored < 2; stored++) {
        for (int32_t round = 0; round < ROW_REFINE_ROUNDS; round++) {
            float limits[ROW_LEVELS - 1], before[ROW_LEVELS];
            int32_t changed = 0;
            if (stored) {
                for (int32_t k = 0; k < ROW_LEVELS; k++) {
                    table[k] = row_round_bf16(table[k]);
                }
            }
            row_limits(limits, table);
            for (int32_t k = 1; k < ROW_LEVELS; k++) {
                bounds[k] = row_points_below(p, limits[k - 1]);
            }
            memcpy(before, table, sizeof before);
            row_means(table, bounds, p);
            for (int32_t k = 0; k < ROW_LEVELS; k++) {
                changed |= (stored ? row_round_bf16(table[k]) : table[k]) != before[k];
            }
            if (!changed) {
                break;
            }
        }
    }
    for (int32_t k = 0; k < ROW_LEVELS; k++) {
        table[k] = row_round_bf16(table[k]);
    }
}

/* Our any4: scale and zero rounded first, everything else computed from what is stored. */
static inline void row_quantize_any4(const struct quant_row *row, struct row_scratch *s)
{
    float table[ROW_LEVELS], limits[ROW_LEVELS - 1];
    double heaviest = 0;
    int32_t n_groups = 0;
    for (int32_t begin = 0, group = 0; begin < row->n_cols; begin += row->group_size, group++) {
        int32_t n = row->n_cols - begin < row->group_size ? row->n_cols - begin : row->group_size;
        float min, max;
        row_range(&min, &max, row->w + begin, n);
        float largest = max > -min ? max : -min;
        float scale = 0, zero = min;
        if (max > min || row_round_bf16(min) != min) {
            /* Where a group lies far from 0, the rounding of its zero point (2^-9 of it) exceeds its range:
             * the scale is then made large enough for the table to reach back, u within about +-16. */
            scale = (max - min) / 15;
            scale = row_round_bf16(scale > largest / 4096 ? scale : largest / 4096);
            zero = row_round_bf16(min + 8 * scale);
        }
        row_scale(s->u + begin, row->w + begin, n, zero, scale);
        s->weight[group] = (double)scale * scale;
        heaviest = s->weight[group] > heaviest ? s->weight[group] : heaviest;
        n_groups = group + 1;
        row->scales[group] = bf16_from_f32(scale);
        row->zeros[group] = bf16_from_f32(zero);
    }
    /* A group far smaller than the largest weighs next to nothing, but prefix sums that do not rise would
     * make the search for runs divide by rounding noise. */
    for (int32_t group = 0; group < n_groups; group++) {
        if (s->weight[group] > 0 && s->weight[group] < ROW_MIN_WEIGHT * heaviest) {
            s->weight[group] = ROW_MIN_WEIGHT * heaviest;
        }
    }
    row_sort(s, row->n_cols, row->group_size);
    row_table(table, s);
    row_limits(limits, table);
    row_assign(row->codes, s->u, row->n_cols, limits);
    row_store_table(row->lut, table);
}

#endif
