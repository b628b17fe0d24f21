/* Weighted 1-D k-means as the any4 paper uses it: a k-means++ start and Lloyd's iterations. (The exact
 * optimum of our any4 stands in quant/row.h.) */
#ifndef QUANT_KMEANS_H
#define QUANT_KMEANS_H

#include <stdint.h>

#include "quant/row.h"

enum { KMEANS_MAX_ITERATIONS = 100 };

/* Centres (ascending, in double) and bounds (first point of each run, and the end) of 16 clusters of the
 * points. A value halfway between two centres belongs to the lower. One start: k-means++ (Arthur and
 * Vassilvitskii, 2007) in its greedy form, the best of 2 + floor(ln 16) = 4 draws per centre, as common
 * libraries have it; drawn from seed by splitmix64. At most 100 iterations of Lloyd's; a cluster that has
 * lost its points keeps its centre. On sorted points with prefix sums an iteration is 15 binary searches.
 * scratch: (2, points->n). points->n >= 1. */
void kmeans_lloyd(double centres[ROW_LEVELS], int32_t bounds[ROW_LEVELS + 1], const struct row_points *points,
                  uint64_t seed, double *scratch);

#endif
