/* Synthetic weights with known second moments of their inputs: how much loss a method leaves, where loss is
 * the expected squared error of the product. The known answer is what real calibration lacks. */
#ifndef TESTS_QUANT_SYNTHETIC_H
#define TESTS_QUANT_SYNTHETIC_H

#include "tests/quant/rows.h"

enum { SYNTHETIC_TOKENS = 150 };

enum synthetic_kind {
    SYNTHETIC_GROUPS,  /* normal, times exp(0.3 n) for each 128 columns of each row */
    SYNTHETIC_STUDENT, /* Student's t, 5 degrees of freedom */
    SYNTHETIC_COLUMNS, /* normal, times exp(0.5 n) for each column */
    N_SYNTHETIC
};

static const char *const synthetic_names[] = {"normal x group", "student-t5", "normal x column"};

struct synthetic {
    int32_t n_rows, n_cols;
    float *w;             /* (n_rows, n_cols) */
    float *mean, *second; /* (n_cols) as a calibration of SYNTHETIC_TOKENS tokens estimates them */
    double *true_second;  /* (n_cols) */
};

static inline void *synthetic_allocate(size_t n, size_t size)
{
    void *memory = malloc(n * size);
    if (!memory) {
        fprintf(stderr, "out of memory\n");
        abort();
    }
    return memory;
}

/* Second moments exp(n), of which 0.5 % are outliers a hundred times as large; means 0.3 sqrt(second) n. */
static inline void synthetic_inputs(struct synthetic *s, uint64_t *state)
{
    for (int32_t j = 0; j < s->n_cols; j++) {
        double m = exp(rows_normal(state)) * (rows_uniform(state) < 0.005 ? 100 : 1);
        double mean = 0.3 * sqrt(m) * rows_normal(state), sum = 0, sum_squares = 0;
        double deviation = sqrt(fmax(m - mean * mean, 0.05 * m));
        for (int32_t t = 0; t < SYNTHETIC_TOKENS; t++) {
            double x = mean + deviation * rows_normal(state);
            sum += x;
            sum_squares += x * x;
        }
        s->true_second[j] = m;
        s->mean[j] = (float)(sum / SYNTHETIC_TOKENS);
        s->second[j] = (float)(sum_squares / SYNTHETIC_TOKENS);
    }
}

static inline double synthetic_student5(uint64_t *state)
{
    double n = rows_normal(state), squares = 0;
    for (int32_t i = 0; i < 5; i++) {
        double a = rows_normal(state);
        squares += a * a;
    }
    return n / sqrt(squares / 5);
}

static inline void synthetic_init(struct synthetic *s, enum synthetic_kind kind, int32_t n_rows,
                                  int32_t n_cols, uint64_t seed)
{
    uint64_t state = (seed * N_SYNTHETIC + kind + 1) * 0x9e3779b97f4a7c15u;
    size_t n = (size_t)n_cols;
    *s = (struct synthetic){.n_rows = n_rows, .n_cols = n_cols};
    s->w = synthetic_allocate((size_t)n_rows * n, sizeof(float));
    s->mean = synthetic_allocate(2 * n, sizeof(float));
    s->second = s->mean + n;
    s->true_second = synthetic_allocate(2 * n, sizeof(double));
    synthetic_inputs(s, &state);
    double *column = s->true_second + n, group = 1;
    for (int32_t j = 0; j < n_cols; j++) {
        column[j] = kind == SYNTHETIC_COLUMNS ? exp(0.5 * rows_normal(&state)) : 1;
    }
    for (int64_t i = 0; i < (int64_t)n_rows * n_cols; i++) {
        int32_t j = (int32_t)(i % n_cols);
        if (kind == SYNTHETIC_GROUPS && j % 128 == 0) {
            group = exp(0.3 * rows_normal(&state));
        }
        double v = kind == SYNTHETIC_STUDENT ? synthetic_student5(&state) : rows_normal(&state);
        s->w[i] = (float)(0.02 * v * group * column[j]);
    }
}

static inline void synthetic_finish(struct synthetic *s)
{
    free(s->w);
    free(s->mean);
    free(s->true_second);
    *s = (struct synthetic){0};
}

/* Sum over all weights of the true second moment of the column times (w_hat - w)^2. Fills the stats. */
static inline double synthetic_loss(const struct synthetic *s, const struct quant_settings *settings,
                                    struct quant_stats *stats, struct thread_pool *pool)
{
    struct any4_matrix matrix;
    struct rows rows = {s->w, s->n_cols};
    struct quant_moments moments = {s->mean, s->second};
    struct error err;
    size_t bytes = quant_matrix_bytes(settings, s->n_rows, s->n_cols);
    void *memory = aligned_alloc(64, bytes);
    float *w_hat = synthetic_allocate((size_t)s->n_cols, sizeof(float));
    double loss = 0;
    if (!memory || quant_matrix(&matrix, memory, stats, settings, s->n_rows, s->n_cols, rows_read, &rows,
                                &moments, pool, &err)) {
        fprintf(stderr, "quantizing (%d, %d) failed\n", s->n_rows, s->n_cols);
        abort();
    }
    for (int32_t row = 0; row < s->n_rows; row++) {
        const float *w = s->w + (size_t)row * (size_t)s->n_cols;
        quant_dequantize(w_hat, &matrix, row, row + 1);
        for (int32_t j = 0; j < s->n_cols; j++) {
            double d = (double)w_hat[j] - w[j];
            loss += s->true_second[j] * d * d;
        }
    }
    free(memory);
    free(w_hat);
    return loss;
}

#endif
