#include "quant/kmeans.h"

#include <stdbool.h>

enum { DRAWS = 4 };

static double next_uniform(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (double)((x ^ x >> 31) >> 11) * 0x1p-53;
}

static double point_mass(const struct row_points *p, int32_t i)
{
    return p->mass[i + 1] - p->mass[i];
}

static double squared_distance(const struct row_points *p, int32_t i, double centre)
{
    double d = (double)p->value[i] - centre;
    return d * d;
}

/* By how much the sum of mass * distance falls with a centre at point i. The points that come nearer are
 * those around i up to the first that does not; with apply their distances are written. */
static double add_centre(const struct row_points *p, double *distance, int32_t i, bool apply)
{
    double centre = p->value[i], gained = 0;
    for (int32_t direction = -1; direction <= 1; direction += 2) {
        for (int32_t j = direction < 0 ? i : i + 1; j >= 0 && j < p->n; j += direction) {
            double d = squared_distance(p, j, centre);
            if (d >= distance[j]) {
                break;
            }
            gained += point_mass(p, j) * (distance[j] - d);
            if (apply) {
                distance[j] = d;
            }
        }
    }
    return gained;
}

/* The first i < n - 1 with target < sums[i], else n - 1. sums: (n) ascending. */
static int32_t draw_point(const double *sums, int32_t n, double target)
{
    int32_t lo = 0, hi = n - 1;
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        if (sums[mid] <= target) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

static void start_plus_plus(double centres[ROW_LEVELS], const struct row_points *p, uint64_t seed,
                            double *distance, double *sums)
{
    centres[0] = p->value[draw_point(p->mass + 1, p->n, next_uniform(&seed) * p->mass[p->n])];
    for (int32_t i = 0; i < p->n; i++) {
        distance[i] = squared_distance(p, i, centres[0]);
    }
    for (int32_t k = 1; k < ROW_LEVELS; k++) {
        double total = 0, best_gain = -1;
        int32_t best = 0;
        for (int32_t i = 0; i < p->n; i++) {
            total += point_mass(p, i) * distance[i];
            sums[i] = total;
        }
        if (!(total > 0)) { /* every point is a centre already */
            centres[k] = centres[k - 1];
            continue;
        }
        for (int32_t draw = 0; draw < DRAWS; draw++) {
            int32_t drawn = draw_point(sums, p->n, next_uniform(&seed) * total);
            double gain = add_centre(p, distance, drawn, false);
            if (gain > best_gain) {
                best_gain = gain;
                best = drawn;
            }
        }
        add_centre(p, distance, best, true);
        centres[k] = p->value[best];
    }
    for (int32_t k = 1; k < ROW_LEVELS; k++) { /* insertion sort of 16 */
        double centre = centres[k];
        int32_t at = k;
        for (; at > 0 && centres[at - 1] > centre; at--) {
            centres[at] = centres[at - 1];
        }
        centres[at] = centre;
    }
}

/* Recomputes bounds for the centres; tells whether any changed. */
static bool assign(int32_t bounds[ROW_LEVELS + 1], const double centres[ROW_LEVELS],
                   const struct row_points *p)
{
    bool changed = false;
    for (int32_t k = 1; k < ROW_LEVELS; k++) {
        double limit = 0.5 * (centres[k - 1] + centres[k]);
        int32_t lo = 0, hi = p->n;
        while (lo < hi) {
            int32_t mid = lo + (hi - lo) / 2;
            if ((double)p->value[mid] <= limit) {
                lo = mid + 1;
            } else {
                hi = mid;
            }
        }
        changed |= bounds[k] != lo;
        bounds[k] = lo;
    }
    return changed;
}

void kmeans_lloyd(double centres[ROW_LEVELS], int32_t bounds[ROW_LEVELS + 1], const struct row_points *p,
                  uint64_t seed, double *scratch)
{
    start_plus_plus(centres, p, seed, scratch, scratch + p->n);
    for (int32_t k = 0; k < ROW_LEVELS; k++) {
        bounds[k] = 0;
    }
    bounds[ROW_LEVELS] = p->n;
    assign(bounds, centres, p);
    for (int32_t iteration = 0; iteration < KMEANS_MAX_ITERATIONS; iteration++) {
        for (int32_t k = 0; k < ROW_LEVELS; k++) {
            double mass = p->mass[bounds[k + 1]] - p->mass[bounds[k]];
            if (mass > 0) {
                centres[k] = (p->moment[bounds[k + 1]] - p->moment[bounds[k]]) / mass;
            }
        }
        if (!assign(bounds, centres, p)) {
            break;
        }
    }
}
