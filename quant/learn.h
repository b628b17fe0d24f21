/* The learned table of our any4, any3 and any2 (format ANY4_LUT_INT8): the algorithm for one row, in plain
 * inline C11 and C++17, without allocation and of libm only what is exact. This is the specification;
 * quant/learn_simd.h does the same arithmetic on 16 groups at once and gives the same bits.
 *
 * Minimised is sum over columns of m_j (w_hat_j - w_j)^2, m_j = E[x_j^2] of the calibration text (or 1): the
 * expected squared error of the row's product with x, inputs taken as uncorrelated. Three kinds of unknowns,
 * each optimal given the others:
 *   codes   the nearest level of u = w / s_G;
 *   scales  s_G = sum m w t / sum m t^2, t the level of each weight (least squares);
 *   table   t_k = sum m s w / sum m s^2 over the weights of level k.
 * The start: each group's scale is its weight of largest magnitude, sign included, so that u <= 1 with
 * equality once in every group and the table may be lopsided; the table is the optimum of weighted 1-D
 * k-means over a histogram of u, by dynamic programming (Wang and Song, Ckmeans.1d.dp, 2011). Then rounds; in
 * the first ones a group also tries scales up to 18 % smaller and larger and of the other sign, which leaves
 * local optima that alternation alone keeps (loss on normal rows of 4096: 0.43 without the search, 0.38 with
 * it, of the published method's at the same size). At last the table is rounded to int8, and each group takes
 * the best int8 scale with the codes that go with it.
 *
 * A row is held in tiles of 16 groups, transposed: weight j of lane l of tile i at (i * group_size + j) * 16
 * + l, for group 16 i + l. Places behind the end of the row or the last group have w = 0 and m = 0. Sums over
 * a group run along j; sums over the row run in each lane along tiles and j, then over the lanes by halves.
 */
#ifndef QUANT_LEARN_H
#define QUANT_LEARN_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "quant/any4.h"

/* The device's quantizer (kernels/cuda/quantize.cuh) runs these functions, too: compiled with -fmad=false
 * they give it the bits of the processor. */
#ifdef __CUDACC__
#define LEARN_FN       static __device__ __forceinline__
#define LEARN_CONSTANT static __constant__ const
#else
#define LEARN_FN       static inline
#define LEARN_CONSTANT static const
#endif

enum {
    LEARN_LANES = 16,
    LEARN_LEVELS = ANY4_MAX_TABLE,
    LEARN_BINS = 512,        /* of the histogram */
    LEARN_DP_BINS = 128,     /* of the dynamic programme: neighbours of the histogram's, put together */
    LEARN_REFINEMENTS = 8,   /* rounds of Lloyd's over the histogram after it */
    LEARN_SEARCH_ROUNDS = 1, /* rounds with a search for scales */
    LEARN_ROUNDS = 2,
    LEARN_MAX_Q = 127, /* of int8 scales and tables */
};

/* Larger weights are refused before they get here, so that no product of scale and table overflows. */
#define LEARN_MAX_WEIGHT 1e37f

/* A column that matters less than this beside the most important one still counts so much. */
#define LEARN_MIN_IMPORTANCE 0x1p-26f

/* Factors on a group's scale that a search round tries beside the scale itself. */
LEARN_CONSTANT float LEARN_FACTORS[] = {0.82f, 0.88f, 0.94f, 1.06f, 1.12f, 1.18f, -1.0f, -0.93f, -1.07f};
enum { LEARN_N_FACTORS = sizeof LEARN_FACTORS / sizeof LEARN_FACTORS[0] };

/* Levels in ascending order and the limits between them. A table of fewer than 16 levels repeats its last,
 * behind limits that nothing exceeds. */
struct learn_levels {
    float table[LEARN_LEVELS];
    float limits[LEARN_LEVELS]; /* between k and k + 1; the last is +inf */
};

/* One row at work. w, m: (n_tiles * group_size * 16) transposed. scale: (n_tiles * 16). codes as w. */
struct learn_row {
    const float *w, *m;
    float *scale;
    uint8_t *codes;
    int32_t n_tiles, group_size;
    int32_t n_levels; /* 4, 8 or 16 */
    struct learn_levels levels;
    double *loss; /* (LEARN_ROUNDS + 1) the objective after the start and after each round, or NULL */
};

/* Sums of a row by level and lane: mass = sum m s^2, moment = sum m s w. */
struct learn_sums {
    float mass[LEARN_LEVELS][LEARN_LANES];
    float moment[LEARN_LEVELS][LEARN_LANES];
};

LEARN_FN float learn_round(float x) /* |x| < 2^22; halves to even */
{
    return (x + 12582912.0f) - 12582912.0f;
}

LEARN_FN void learn_set_limits(struct learn_levels *levels, int32_t n_levels)
{
    for (int32_t k = n_levels; k < LEARN_LEVELS; k++) {
        levels->table[k] = levels->table[n_levels - 1];
    }
    for (int32_t k = 0; k < LEARN_LEVELS; k++) {
        levels->limits[k] = k + 1 < n_levels ? 0.5f * (levels->table[k] + levels->table[k + 1]) : INFINITY;
    }
}

/* The level nearest to u; a value halfway belongs to the lower one. */
LEARN_FN int32_t learn_nearest(const struct learn_levels *levels, float u)
{
    int32_t k = u > levels->limits[7] ? 8 : 0;
    k += u > levels->limits[k + 3] ? 4 : 0;
    k += u > levels->limits[k + 1] ? 2 : 0;
    k += u > levels->limits[k] ? 1 : 0;
    return k;
}

LEARN_FN float learn_inverse(float scale)
{
    return scale != 0 ? 1.0f / scale : 0.0f;
}

/* The power of two that brings a row's largest magnitude into [1, 2), 1 for a row of zeros. Exponents are
 * kept so that it and its inverse are normal numbers; weights below 2^-126 stay small, which only costs
 * precision.
 */
LEARN_FN float learn_unit(float largest, float *inverse)
{
    uint32_t bits, exponent;
    memcpy(&bits, &largest, sizeof bits);
    exponent = bits >> 23;
    exponent = exponent < 1 ? 1 : exponent > 253 ? 253 : exponent;
    exponent = largest > 0 ? exponent : 127;
    uint32_t unit_bits = exponent << 23, inverse_bits = (254 - exponent) << 23;
    float unit;
    memcpy(&unit, &unit_bits, sizeof unit);
    memcpy(inverse, &inverse_bits, sizeof inverse_bits);
    return unit;
}

/* How much the error of a column counts, from how much it was said to: the most important one of a matrix 1
 * to 2, by a power of two; without any (largest 0) all alike; none less than LEARN_MIN_IMPORTANCE. */
LEARN_FN float learn_importance(float value, float largest)
{
    double wide = largest, unit;
    uint64_t bits;
    memcpy(&bits, &wide, sizeof bits); /* normal in double, whatever it is in float */
    bits = (2046 - (bits >> 52)) << 52;
    memcpy(&unit, &bits, sizeof unit);
    float scaled = largest > 0 ? (float)(value * unit) : 1.0f;
    return scaled > LEARN_MIN_IMPORTANCE ? scaled : LEARN_MIN_IMPORTANCE;
}

/* ---- the steps over a lane, whose weights lie LEARN_LANES apart ---- */

/* The weight of largest magnitude, sign included; of two equal ones the positive. */
LEARN_FN float learn_peak(const float *w, int32_t group_size)
{
    float low = 0, high = 0;
    for (int32_t j = 0; j < group_size; j++) {
        float value = w[j * LEARN_LANES];
        low = low > value ? value : low;
        high = value > high ? value : high;
    }
    return high >= 0.0f - low ? high : low;
}

/* The least squares scale for the levels that are nearest at the scale tried, and its gain (sum m w t)^2 /
 * sum m t^2, by which the loss falls below sum m w^2. */
LEARN_FN float learn_try(float *gain, const struct learn_levels *levels, float tried, const float *w,
                         const float *m, int32_t group_size)
{
    float inverse = learn_inverse(tried), wt = 0, tt = 0;
    for (int32_t j = 0; j < group_size; j++) {
        float value = w[j * LEARN_LANES];
        float t = levels->table[learn_nearest(levels, value * inverse)];
        float mt = m[j * LEARN_LANES] * t;
        wt = fmaf(mt, value, wt);
        tt = fmaf(mt, t, tt);
    }
    float fitted = tt > 0 ? wt / tt : 0;
    *gain = wt * fitted;
    return fitted;
}

LEARN_FN void learn_assign(uint8_t *codes, const struct learn_levels *levels, float scale, const float *w,
                           int32_t group_size)
{
    float inverse = learn_inverse(scale);
    for (int32_t j = 0; j < group_size; j++) {
        codes[j * LEARN_LANES] = (uint8_t)learn_nearest(levels, w[j * LEARN_LANES] * inverse);
    }
}

/* The int8 scale q for levels in units of the row's scale (w ~ unit * q * level): 0, or one of the three
 * around the given scale, whichever errs least with its nearest levels; the first of equals wins. A group of
 * zeros gets 0. */
LEARN_FN float learn_choose(const struct learn_levels *levels, float scale, float unit, const float *w,
                            const float *m, int32_t group_size)
{
    const float per_unit = learn_inverse(unit), most = LEARN_MAX_Q;
    float middle = learn_round(scale * per_unit), best_error = 0, best = 0;
    for (int32_t j = 0; j < group_size; j++) {
        float value = w[j * LEARN_LANES];
        best_error += m[j * LEARN_LANES] * value * value;
    }
    for (int32_t step = -1; step <= 1; step++) {
        float tried = middle + (float)step;
        tried = tried > most ? most : tried < -most ? -most : tried;
        float s = tried * unit, inverse = learn_inverse(s), error = 0;
        for (int32_t j = 0; j < group_size; j++) {
            float value = w[j * LEARN_LANES];
            float d = s * levels->table[learn_nearest(levels, value * inverse)] - value;
            error += m[j * LEARN_LANES] * d * d;
        }
        if (error < best_error) {
            best_error = error;
            best = tried;
        }
    }
    return best;
}

/* ---- the steps over a tile: what learn_simd.h replaces ---- */

/* Each lane's peak. */
LEARN_FN void learn_peak_tile(float *scale, const float *w, int32_t group_size)
{
    for (int32_t lane = 0; lane < LEARN_LANES; lane++) {
        scale[lane] = learn_peak(w + lane, group_size);
    }
}

/* Replaces each lane's scale by the least squares scale for the best of scale * {1, factors}, the one of
 * largest gain. The first of equals wins. */
LEARN_FN void learn_search_tile(float *scale, const struct learn_levels *levels, const float *w,
                                const float *m, int32_t group_size, const float *factors, int32_t n_factors)
{
    for (int32_t lane = 0; lane < LEARN_LANES; lane++) {
        float best_gain = -1, best = scale[lane];
        for (int32_t f = -1; f < n_factors; f++) {
            float tried = f < 0 ? scale[lane] : scale[lane] * factors[f], gain;
            float fitted = learn_try(&gain, levels, tried, w + lane, m + lane, group_size);
            if (gain > best_gain) {
                best_gain = gain;
                best = fitted;
            }
        }
        scale[lane] = best;
    }
}

LEARN_FN void learn_assign_tile(uint8_t *codes, const struct learn_levels *levels, const float *scale,
                                const float *w, int32_t group_size)
{
    for (int32_t lane = 0; lane < LEARN_LANES; lane++) {
        learn_assign(codes + lane, levels, scale[lane], w + lane, group_size);
    }
}

LEARN_FN void learn_sum_tile(struct learn_sums *sums, const uint8_t *codes, const float *scale,
                             const float *w, const float *m, int32_t group_size)
{
    for (int32_t j = 0; j < group_size; j++) {
        for (int32_t lane = 0; lane < LEARN_LANES; lane++) {
            int32_t at = j * LEARN_LANES + lane;
            float ms = m[at] * scale[lane];
            sums->mass[codes[at]][lane] += ms * scale[lane];
            sums->moment[codes[at]][lane] += ms * w[at];
        }
    }
}

/* Chooses each lane's int8 scale. scale in, q and codes out. */
LEARN_FN void learn_choose_tile(float *q, uint8_t *codes, const struct learn_levels *levels,
                                const float *scale, float unit, const float *w, const float *m,
                                int32_t group_size)
{
    for (int32_t lane = 0; lane < LEARN_LANES; lane++) {
        q[lane] = learn_choose(levels, scale[lane], unit, w + lane, m + lane, group_size);
        learn_assign(codes + lane, levels, q[lane] * unit, w + lane, group_size);
    }
}

/* Where the last run best starts, for the 16 ends from j: the first i in [low, high) with the largest last[i
 * - 1] + gain of i .. end. gain: rows LEARN_DP_BINS apart, at column j. Ends that no i suits keep a start of
 * themselves. */
typedef void learn_split_fn(float *best, int32_t *start, const float *last, const float *gain, int32_t j,
                            int32_t low, int32_t high);

LEARN_FN void learn_split_tile(float *best, int32_t *start, const float *last, const float *gain, int32_t j,
                               int32_t low, int32_t high)
{
    for (int32_t lane = 0; lane < LEARN_LANES; lane++) {
        best[lane] = -1;
        start[lane] = j + lane;
        for (int32_t i = low; i < high; i++) {
            float sum = last[i - 1] + gain[i * LEARN_DP_BINS + lane];
            if (sum > best[lane]) {
                best[lane] = sum;
                start[lane] = i;
            }
        }
    }
}

/* ---- the whole row ---- */

/* Of a run of weights: mass = sum m s^2, moment = sum m s w, so that moment / mass is the weighted mean of u.
 */
struct learn_bin {
    double mass, moment;
};

/* The bin of u, of LEARN_BINS over [-1, 1]. */
LEARN_FN int32_t learn_bin_of(float u)
{
    /* Before the conversion: an infinity or NaN, of weights whose squares are all 0, has no integer. */
    float b = (u + 1.0f) * (LEARN_BINS / 2);
    b = b < LEARN_BINS - 1 ? b : LEARN_BINS - 1;
    b = b > 0 ? b : 0;
    return (int32_t)b;
}

/* Weighted histogram of u in bins of equal width. A bin adds its weights tile by tile, j by j, lane by lane.
 */
LEARN_FN void learn_histogram(struct learn_bin bins[LEARN_BINS], const struct learn_row *row)
{
    memset(bins, 0, LEARN_BINS * sizeof *bins);
    for (int32_t tile = 0; tile < row->n_tiles; tile++) {
        int64_t base = (int64_t)tile * row->group_size * LEARN_LANES;
        const float *scale = row->scale + tile * LEARN_LANES;
        float inverse[LEARN_LANES];
        for (int32_t lane = 0; lane < LEARN_LANES; lane++) {
            inverse[lane] = learn_inverse(scale[lane]);
        }
        for (int32_t j = 0; j < row->group_size; j++) {
            const float *w = row->w + base + j * LEARN_LANES, *m = row->m + base + j * LEARN_LANES;
            int32_t bin[LEARN_LANES];
            float add[LEARN_LANES][2];
            for (int32_t lane = 0; lane < LEARN_LANES; lane++) {
                float ms = m[lane] * scale[lane];
                bin[lane] = learn_bin_of(w[lane] * inverse[lane]);
                add[lane][0] = ms * scale[lane];
                add[lane][1] = ms * w[lane];
            }
            for (int32_t lane = 0; lane < LEARN_LANES; lane++) {
                struct learn_bin *at = &bins[bin[lane]];
                at->mass += add[lane][0];
                at->moment += add[lane][1];
            }
        }
    }
}

/* Prefix sums: of bins 0 .. b. */
LEARN_FN void learn_sum_bins(struct learn_bin sums[LEARN_BINS], const struct learn_bin *bins)
{
    struct learn_bin sum = {0, 0};
    for (int32_t b = 0; b < LEARN_BINS; b++) {
        sum.mass += bins[b].mass;
        sum.moment += bins[b].moment;
        sums[b] = sum;
    }
}

/* Puts neighbouring bins together until at most LEARN_DP_BINS are left, none empty: half of them divide the
 * mass evenly and half the range, so that neither a dense core nor a long tail is cut coarsely. Returns how
 * many are left.
 */
LEARN_FN int32_t learn_merge_bins(struct learn_bin merged[LEARN_DP_BINS], const struct learn_bin *bins,
                                  const struct learn_bin *sums)
{
    const double total = sums[LEARN_BINS - 1].mass;
    int32_t m = 0, n_filled = 0, last = -1;
    for (int32_t b = 0; b < LEARN_BINS; b++) {
        n_filled += bins[b].mass > 0;
    }
    const double per_mass = total > 0 ? 0.5 * (LEARN_DP_BINS - 1) / total : 0;
    const double per_bin = 0.5 * (LEARN_DP_BINS - 1) / LEARN_BINS;
    for (int32_t b = 0; b < LEARN_BINS; b++) {
        if (bins[b].mass > 0) {
            double before = b > 0 ? sums[b - 1].mass : 0;
            int32_t at = n_filled <= LEARN_DP_BINS ? b : (int32_t)(before * per_mass + b * per_bin);
            if (at != last) {
                last = at;
                merged[m++] = bins[b];
            } else {
                merged[m - 1].mass += bins[b].mass;
                merged[m - 1].moment += bins[b].moment;
            }
        }
    }
    return m;
}

/* Prefix sums of m bins, and the floor under the mass of a run: far below the rounding of a mass, but no 0
 * where one is lost beside a larger one. masses, moments: (n + 1), n >= m; behind the last bin is nothing. */
LEARN_FN float learn_sum_merged(double *masses, double *moments, const struct learn_bin *bins, int32_t m,
                                int32_t n)
{
    double mass = 0, moment = 0;
    masses[0] = moments[0] = 0;
    for (int32_t j = 0; j < n; j++) {
        mass += j < m ? bins[j].mass : 0;
        moment += j < m ? bins[j].moment : 0;
        masses[j + 1] = mass;
        moments[j + 1] = moment;
    }
    return (float)(mass * 1e-12);
}

/* moment^2 / mass of bins i .. j, by which the loss falls when they share a level. */
LEARN_FN float learn_gain(const double *masses, const double *moments, int32_t i, int32_t j, float floor)
{
    float q = (float)(masses[j + 1] - masses[i]), d = (float)(moments[j + 1] - moments[i]);
    return d * d / (q + floor);
}

/* The mean of bins begin .. end - 1. */
LEARN_FN float learn_run_mean(const double *masses, const double *moments, const struct learn_bin *bins,
                              int32_t begin, int32_t end)
{
    double q = masses[end] - masses[begin];
    return (float)(q > 0 ? (moments[end] - moments[begin]) / q : bins[begin].moment / bins[begin].mass);
}

/* The n_levels means of the best cut of m <= LEARN_DP_BINS bins, mass > 0 each, in runs: exact, by dynamic
 * programming. D_k(j) = max over i of D_{k-1}(i - 1) + gain(i, j), gain = moment^2 / mass of bins i .. j.
 * Where the last run best starts never falls with another run: that bounds the search from below. */
LEARN_FN void learn_partition(float *table, int32_t n_levels, const struct learn_bin *bins, int32_t m,
                              learn_split_fn *split)
{
    float gain[LEARN_DP_BINS][LEARN_DP_BINS]; /* [i][j] */
    float best[2][LEARN_DP_BINS];             /* [j] */
    int32_t from[LEARN_LEVELS][LEARN_DP_BINS];
    double masses[LEARN_DP_BINS + 1], moments[LEARN_DP_BINS + 1];
    int32_t padded = (m + LEARN_LANES - 1) / LEARN_LANES * LEARN_LANES;
    const float floor = learn_sum_merged(masses, moments, bins, m, padded);
    for (int32_t i = 0; i < m; i++) {
        int32_t first = i / LEARN_LANES * LEARN_LANES;
        for (int32_t j = first; j < padded; j += LEARN_LANES) {
            for (int32_t lane = j; lane < j + LEARN_LANES; lane++) {
                gain[i][lane] = learn_gain(masses, moments, i, lane, floor);
            }
        }
        for (int32_t j = first; j < i; j++) {
            gain[i][j] = -INFINITY; /* no run ends before it starts */
        }
    }
    float *last = best[0], *next = best[1];
    for (int32_t j = 0; j < padded; j++) {
        last[j] = gain[0][j];
        from[0][j] = 0;
    }
    for (int32_t k = 1; k < n_levels; k++) {
        /* Of all runs only the whole is asked for. */
        for (int32_t j = k + 1 < n_levels ? 0 : padded - LEARN_LANES; j < padded; j += LEARN_LANES) {
            int32_t low = from[k - 1][j] > k ? from[k - 1][j] : k;
            int32_t high = j + LEARN_LANES < m ? j + LEARN_LANES : m;
            split(next + j, from[k] + j, last, &gain[0][j], j, low, high);
        }
        float *swap = last;
        last = next;
        next = swap;
    }
    int32_t end = m;
    for (int32_t k = n_levels - 1; k >= 0; k--) {
        int32_t begin = from[k][end - 1];
        table[k] = learn_run_mean(masses, moments, bins, begin, end);
        end = begin;
    }
}

/* What lies below the limit behind level k: the sum of the bins whose middle does. */
LEARN_FN struct learn_bin learn_sum_below(const float *table, int32_t n_levels, int32_t k,
                                          const struct learn_bin *sums)
{
    if (k + 1 == n_levels) {
        return sums[LEARN_BINS - 1];
    }
    const struct learn_bin nothing = {0, 0};
    int32_t end = (int32_t)((0.5f * (table[k] + table[k + 1]) + 1.0f) * (LEARN_BINS / 2) + 0.5f);
    end = end < LEARN_BINS ? end : LEARN_BINS;
    return end > 0 ? sums[end - 1] : nothing;
}

/* The mean of a level between two such sums; a level without weights keeps its value. */
LEARN_FN float learn_mean_between(struct learn_bin begin, struct learn_bin end, float value)
{
    return end.mass > begin.mass ? (float)((end.moment - begin.moment) / (end.mass - begin.mass)) : value;
}

/* Lloyd's rounds over the histogram, from a table that is nearly the best. */
LEARN_FN void learn_refine_table(float *table, int32_t n_levels, const struct learn_bin *sums)
{
    for (int32_t round = 0; round < LEARN_REFINEMENTS; round++) {
        float next[LEARN_LEVELS];
        struct learn_bin begin = {0, 0};
        int32_t changed = 0;
        for (int32_t k = 0; k < n_levels; k++) {
            struct learn_bin end = learn_sum_below(table, n_levels, k, sums);
            next[k] = learn_mean_between(begin, end, table[k]);
            changed |= next[k] != table[k];
            begin = end;
        }
        memcpy(table, next, (size_t)n_levels * sizeof *table);
        if (!changed) {
            break;
        }
    }
}

/* Writes the row's distinct u in ascending order where the table has room for them all, and returns their
 * number; n_levels + 1 where there are more, which an ordinary row shows within its first few weights. Values
 * no further apart than the rounding of w * (1 / s) takes them are one. */
LEARN_FN int32_t learn_few_values(float values[LEARN_LEVELS], const struct learn_row *row)
{
    const float same = 4.8e-7f; /* 2^-21: |u| <= 1, and four roundings of 2^-24 on each side */
    int32_t n = 0;
    for (int32_t group = 0; group < row->n_tiles * LEARN_LANES; group++) {
        int64_t first = (int64_t)(group / LEARN_LANES) * row->group_size * LEARN_LANES + group % LEARN_LANES;
        float inverse = learn_inverse(row->scale[group]);
        for (int32_t j = 0; j < row->group_size && inverse != 0; j++) {
            float u = row->w[first + (int64_t)j * LEARN_LANES] * inverse;
            int32_t k = 0;
            if (!(row->m[first + (int64_t)j * LEARN_LANES] > 0)) {
                continue;
            }
            while (k < n && values[k] < u - same) {
                k++;
            }
            if (k < n && values[k] <= u + same) {
                continue;
            }
            if (n == row->n_levels) {
                return n + 1;
            }
            for (int32_t i = n++; i > k; i--) {
                values[i] = values[i - 1];
            }
            values[k] = u;
        }
    }
    return n;
}

/* n_values <= n_levels distinct values as a table. */
LEARN_FN void learn_repeat_last(float *table, int32_t n_values, int32_t n_levels)
{
    for (int32_t k = n_values; k < n_levels; k++) {
        table[k] = k > 0 ? table[k - 1] : 0.0f;
    }
}

/* m <= n_levels bins as a table. */
LEARN_FN void learn_table_of_bins(float *table, int32_t n_levels, const struct learn_bin *merged, int32_t m)
{
    for (int32_t k = 0; k < n_levels; k++) {
        int32_t b = k < m ? k : m - 1;
        table[k] = m ? (float)(merged[b].moment / merged[b].mass) : 0.0f;
    }
}

LEARN_FN void learn_ascend(float *table, int32_t n_levels) /* rounding may turn two near means around */
{
    for (int32_t k = 1; k < n_levels; k++) {
        table[k] = table[k] > table[k - 1] ? table[k] : table[k - 1];
    }
}

/* A row of few values keeps them all: a bin would make one of those that are nearly equal. */
LEARN_FN void learn_start_table(struct learn_row *row, learn_split_fn *split)
{
    struct learn_bin bins[LEARN_BINS], sums[LEARN_BINS], merged[LEARN_DP_BINS];
    float *table = row->levels.table;
    int32_t n_values = learn_few_values(table, row);
    if (n_values <= row->n_levels) {
        learn_repeat_last(table, n_values, row->n_levels);
    } else {
        learn_histogram(bins, row);
        learn_sum_bins(sums, bins);
        int32_t m = learn_merge_bins(merged, bins, sums);
        if (m > row->n_levels) {
            learn_partition(table, row->n_levels, merged, m, split);
            learn_refine_table(table, row->n_levels, sums);
        } else {
            learn_table_of_bins(table, row->n_levels, merged, m);
        }
        learn_ascend(table, row->n_levels);
    }
    learn_set_limits(&row->levels, row->n_levels);
}

LEARN_FN float learn_sum_lanes(const float lanes[LEARN_LANES])
{
    float sum[LEARN_LANES];
    memcpy(sum, lanes, sizeof sum);
    for (int32_t half = LEARN_LANES / 2; half >= 1; half /= 2) {
        for (int32_t lane = 0; lane < half; lane++) {
            sum[lane] += sum[lane + half];
        }
    }
    return sum[0];
}

/* A table that was fitted level by level never falls. */
LEARN_FN void learn_keep_order(float *table, int32_t n_levels)
{
    for (int32_t k = 1; k < n_levels; k++) {
        if (table[k] < table[k - 1]) {
            table[k] = table[k - 1];
        }
    }
}

/* The table for given codes and scales; a level without weights keeps its value. */
LEARN_FN void learn_fit_table(struct learn_row *row, const struct learn_sums *sums)
{
    float *table = row->levels.table;
    for (int32_t k = 0; k < row->n_levels; k++) {
        float mass = learn_sum_lanes(sums->mass[k]);
        table[k] = mass > 0 ? learn_sum_lanes(sums->moment[k]) / mass : table[k];
    }
    learn_keep_order(table, row->n_levels);
    learn_set_limits(&row->levels, row->n_levels);
}

/* The table as int8 in units of its largest magnitude, and the levels as the kernels will read them. Returns
 * that magnitude. */
LEARN_FN float learn_round_table(int8_t *table, struct learn_levels *levels, int32_t n_levels)
{
    float largest = 0;
    for (int32_t k = 0; k < n_levels; k++) {
        float magnitude = levels->table[k] < 0 ? -levels->table[k] : levels->table[k];
        largest = magnitude > largest ? magnitude : largest;
    }
    float inverse = learn_inverse(largest);
    for (int32_t k = 0; k < n_levels; k++) {
        float level = learn_round(levels->table[k] * inverse * LEARN_MAX_Q);
        table[k] = (int8_t)level;
        levels->table[k] = level;
    }
    learn_set_limits(levels, n_levels);
    return largest;
}

/* The objective with the nearest level for every weight, in double. */
LEARN_FN double learn_loss(const struct learn_row *row)
{
    double loss = 0;
    for (int64_t at = 0; at < (int64_t)row->n_tiles * row->group_size * LEARN_LANES; at++) {
        int64_t group = at / (row->group_size * LEARN_LANES) * LEARN_LANES + at % LEARN_LANES;
        float scale = row->scale[group];
        float level = row->levels.table[learn_nearest(&row->levels, row->w[at] * learn_inverse(scale))];
        double d = (double)scale * level - row->w[at];
        loss += row->m[at] * d * d;
    }
    return loss;
}

#endif
