/* Random matrices for the tests and the benchmark of quant/: seeded, the same everywhere. */
#ifndef TESTS_QUANT_ROWS_H
#define TESTS_QUANT_ROWS_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/cpu_features.h"
#include "quant/quantize.h"

enum distribution {
    NORMAL,
    STUDENT_T,
    MIXTURE,
    FEW_VALUES,
    OUTLIERS,
    TINY,
    FAR_FROM_ZERO,
    SPARSE,
    N_DISTRIBUTIONS
};

static const char *const distribution_names[] = {"normal",   "student-t3", "mixture",       "few values",
                                                 "outliers", "tiny",       "far from zero", "sparse"};

static inline uint64_t rows_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline double rows_uniform(uint64_t *state) /* (0, 1) */
{
    return ((double)(rows_random(state) >> 11) + 0.5) * 0x1p-53;
}

static inline double rows_normal(uint64_t *state)
{
    double r = sqrt(-2 * log(rows_uniform(state)));
    return r * cos(6.283185307179586 * rows_uniform(state));
}

static inline float rows_draw(enum distribution distribution, uint64_t *state)
{
    double n = rows_normal(state), v = rows_uniform(state);
    switch (distribution) {
    case STUDENT_T: {
        double a = rows_normal(state), b = rows_normal(state), c = rows_normal(state);
        return (float)(0.02 * n / sqrt((a * a + b * b + c * c) / 3));
    }
    case MIXTURE:
        return (float)(v < 0.3 ? 0.05 + 0.002 * n : v < 0.7 ? -0.02 + 0.01 * n : 0.0005 * n);
    case FEW_VALUES:
        return (float)(int)(v * 24) * 0.01f - 0.1f;
    case OUTLIERS:
        return (float)(v < 0.01 ? 5 * n : 0.02 * n);
    case TINY:
        return (float)(1e-8 * n);
    case FAR_FROM_ZERO:
        return (float)(100 + n);
    case SPARSE:
        return v < 0.7 ? 0 : (float)(0.02 * n);
    default:
        return (float)(0.02 * n);
    }
}

static inline void rows_fill(float *w, int64_t n, enum distribution distribution, uint64_t seed)
{
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 88172645463325252u;
    for (int64_t i = 0; i < n; i++) {
        w[i] = rows_draw(distribution, &state);
    }
}

/* A matrix in memory as a source of rows. */
struct rows {
    const float *w;
    int32_t n_cols;
};

static inline void rows_read(void *source, float *out, int32_t row_begin, int32_t row_end)
{
    const struct rows *rows = source;
    memcpy(out, rows->w + (size_t)row_begin * (size_t)rows->n_cols,
           (size_t)(row_end - row_begin) * (size_t)rows->n_cols * sizeof(float));
}

/* Quantizes w (n_rows, n_cols); free *memory. Ends the process on failure: callers expect success. */
static inline struct quant_stats rows_quantize(struct any4_matrix *out, void **memory,
                                               enum quant_method method, int32_t group_size, const float *w,
                                               int32_t n_rows, int32_t n_cols, struct thread_pool *pool)
{
    struct quant_settings settings = {.method = method, .group_size = group_size, .cpu_flags = CPU_ALL};
    struct rows rows = {w, n_cols};
    struct quant_stats stats;
    struct error err;
    size_t bytes = quant_matrix_bytes(&settings, n_rows, n_cols);
    *memory = aligned_alloc(64, bytes);
    if (!*memory ||
        quant_matrix(out, *memory, &stats, &settings, n_rows, n_cols, rows_read, &rows, NULL, pool, &err)) {
        fprintf(stderr, "quantizing (%d, %d) failed\n", n_rows, n_cols);
        abort();
    }
    return stats;
}

/* The summed squared error alone. */
static inline double rows_error(enum quant_method method, int32_t group_size, const float *w, int32_t n_rows,
                                int32_t n_cols)
{
    struct any4_matrix matrix;
    void *memory;
    double error = rows_quantize(&matrix, &memory, method, group_size, w, n_rows, n_cols, NULL).error_energy;
    free(memory);
    return error;
}

#endif
