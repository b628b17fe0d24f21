/* Optimal 1-D k-means of weighted points, exactly: the check that the tables of quant/learn.h are measured
 * against (it takes 20 times as long as they do). Its optimum is a partition of the sorted values in runs,
 * found by dynamic programming (Wu, 1991; Wang and Song, Ckmeans.1d.dp, 2011): D_k(j) = max over i of
 * D_{k-1}(i) + (S1_j - S1_i)^2 / (S0_j - S0_i), S0, S1 prefix sums of q and q u; maximising this is
 * minimising the error, as sum q u^2 is constant. */
#ifndef QUANT_EXACT_H
#define QUANT_EXACT_H

#include <stddef.h>
#include <stdint.h>

/* The best start i in [lo, hi] of the last run, which ends at j: the first of the largest sums. */
static inline int32_t exact_best_split(double *best, const double *last, const double *mass,
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
static inline void exact_partition(int32_t *bounds, const double *mass, const double *moment, int32_t m,
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
                at[j] = exact_best_split(&next[j], last, mass, moment, j, lo, hi);
            }
        }
        double *swap = last;
        last = next;
        next = swap;
    }
    bounds[n_levels] = m;
    bounds[n_levels - 1] = exact_best_split(&next[m], last, mass, moment, m, n_levels - 1, m - 1);
    for (int32_t k = n_levels - 2; k >= 1; k--) {
        bounds[k] = split[(size_t)k * stride + (size_t)bounds[k + 1]];
    }
    bounds[0] = 0;
}

#endif
