/* One row at work: what every method gets and gives, and the arithmetic that several share. Inline C11 and
 * C++17, no allocation and no libm. Every sum has a fixed order: the stored bits depend on weights,
 * importance and settings alone. */
#ifndef QUANT_ROW_H
#define QUANT_ROW_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine/base/float16.h"
#include "quant/any4.h"
#include "quant/learn.h"

enum {
    ROW_LEVELS = ANY4_MAX_TABLE,
    ROW_DIGIT_BITS = 11, /* three passes of radix sort */
    ROW_DIGITS = 1 << ROW_DIGIT_BITS,
};

/* w: (n_cols), finite, |w| <= LEARN_MAX_WEIGHT. codes: (n_cols), one a byte. The other outputs are one row of
 * the arrays of struct any4_matrix; NULL where the method has none. */
struct quant_row {
    const float *w;
    int32_t n_cols, group_size, n_groups, code_bits;
    const float *importance; /* (n_cols) >= 0: how much a column's error counts; NULL: all alike */
    const float
        *importance_tiles; /* the same as quant/learn.h lays a row out; never NULL for learned methods */
    int32_t importance_is_moment; /* E[x^2], which counts with the square of a scale; |E[x]| with the scale */
    uint64_t seed;                /* of a start drawn at random */
    uint8_t *codes;
    uint16_t *scales, *zeros, *lut;
    int8_t *group_scales, *table;
    float *row_scale;
    double *loss; /* (LEARN_ROUNDS + 1) where learned methods leave their objective, or NULL */
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
    float *u; /* (n_cols) scaled weights */
    /* For tables from sorted values: any4-paper */
    float *weight;            /* (n_cols) of each element in the table's objective */
    uint64_t *keys;           /* (2, n_cols) */
    uint32_t *counts;         /* (3, ROW_DIGITS) */
    struct row_points points; /* room for n_cols */
    double *kmeans;           /* (2, n_cols) for k-means++ */
    /* For tables learned in tiles; tile_columns = row_tile_columns() */
    float *tiles;        /* (tile_columns) weights */
    float *tile_scales;  /* (n_tiles * 16) */
    uint8_t *tile_codes; /* (tile_columns) */
};

static inline int32_t row_n_tiles(int32_t n_cols, int32_t group_size)
{
    int64_t columns = (int64_t)group_size * LEARN_LANES;
    return (int32_t)((n_cols + columns - 1) / columns);
}

static inline size_t row_tile_columns(int32_t n_cols, int32_t group_size)
{
    return (size_t)row_n_tiles(n_cols, group_size) * (size_t)group_size * LEARN_LANES;
}

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
    size_t n = (size_t)n_cols, used = 0;
    size_t tiles = row_tile_columns(n_cols, group_size);
    s->u = (float *)row_carve(m, &used, n, sizeof(float));
    s->weight = (float *)row_carve(m, &used, n, sizeof(float));
    s->keys = (uint64_t *)row_carve(m, &used, 2 * n, sizeof(uint64_t));
    s->counts = (uint32_t *)row_carve(m, &used, 3 * ROW_DIGITS, sizeof(uint32_t));
    s->points.n = 0;
    s->points.value = (float *)row_carve(m, &used, n, sizeof(float));
    s->points.mass = (double *)row_carve(m, &used, n + 1, sizeof(double));
    s->points.moment = (double *)row_carve(m, &used, n + 1, sizeof(double));
    s->kmeans = (double *)row_carve(m, &used, 2 * n, sizeof(double));
    s->tiles = (float *)row_carve(m, &used, tiles, sizeof(float));
    s->tile_scales = (float *)row_carve(m, &used, tiles / (size_t)group_size, sizeof(float));
    s->tile_codes = (uint8_t *)row_carve(m, &used, tiles, 1);
    return used;
}

static inline int32_t row_group_columns(const struct quant_row *row, int32_t begin)
{
    return row->n_cols - begin < row->group_size ? row->n_cols - begin : row->group_size;
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

/* Sorts the row's scaled values into points; equal neighbours become one. Radix sort of the floats' bits,
 * made to ascend as integers, together with the column. */
static inline void row_sort(struct row_scratch *s, int32_t n_cols)
{
    const float *u = s->u;
    uint64_t *a = s->keys, *b = s->keys + n_cols;
    uint32_t *low = s->counts, *middle = low + ROW_DIGITS, *high = middle + ROW_DIGITS;
    const uint32_t mask = ROW_DIGITS - 1;
    memset(s->counts, 0, 3 * ROW_DIGITS * sizeof *s->counts);
    for (int32_t j = 0; j < n_cols; j++) {
        uint32_t key;
        memcpy(&key, &u[j], sizeof key);
        key ^= key >> 31 ? 0xffffffffu : 0x80000000u;
        low[key & mask]++;
        middle[key >> ROW_DIGIT_BITS & mask]++;
        high[key >> 2 * ROW_DIGIT_BITS]++;
        a[j] = (uint64_t)key << 32 | (uint32_t)j;
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
    for (int32_t i = 0; i < n_cols; i++) {
        b[low[a[i] >> 32 & mask]++] = a[i];
    }
    for (int32_t i = 0; i < n_cols; i++) {
        a[middle[b[i] >> (32 + ROW_DIGIT_BITS) & mask]++] = b[i];
    }
    for (int32_t i = 0; i < n_cols; i++) {
        b[high[a[i] >> (32 + 2 * ROW_DIGIT_BITS)]++] = a[i];
    }

    struct row_points *p = &s->points;
    float *values = p->value, last = 0;
    double *masses = p->mass, *moments = p->moment, mass = 0, moment = 0;
    int32_t n_points = 0;
    masses[0] = moments[0] = 0;
    for (int32_t i = 0; i < n_cols; i++) {
        uint32_t j = (uint32_t)b[i];
        float value = u[j];
        double q = s->weight[j];
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

#endif
