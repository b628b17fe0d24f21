/* Float rows in, any4 rows out: quantize a matrix, dequantize it, measure its error. Knows statistics, never
 * a model or a request. The result depends on weights and settings only: never on thread count, instruction
 * set or run. Methods: docs/quantization.md (any4: Johnson and Elhoushi, ICML 2025, and our exact-optimum
 * tables). */
#ifndef QUANT_QUANTIZE_H
#define QUANT_QUANTIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/thread_pool.h"
#include "quant/any4.h"

/* Raised with every change that gives the same weights, settings and text other bits, in calibration too:
 * files of an earlier one are not used any more. */
enum { QUANT_VERSION = 1 };

enum quant_method {
    QUANT_NONE,       /* weights as stored, same call path */
    QUANT_ANY4,       /* learned table and scales (quant/learn.h): the default */
    QUANT_ANY3,       /* the same with 8 levels */
    QUANT_ANY2,       /* and with 4 */
    QUANT_ANY4_PAPER, /* per-row table: k-means++ start and Lloyd iterations, as published */
    QUANT_INT8,       /* asymmetric min/max, round to nearest */
    QUANT_INT4,
    QUANT_INT3,
    QUANT_INT2,
    QUANT_NF4,
    QUANT_FP4,
    QUANT_MX4,
};

/* How the squared error of a column's weights counts while tables and scales are learned. */
enum quant_weighting {
    QUANT_WEIGHTING_AUTO,   /* the method's own: moment for any4, mean for any4-paper */
    QUANT_WEIGHTING_NONE,   /* every column alike */
    QUANT_WEIGHTING_MEAN,   /* |E[x]|, the published weighting */
    QUANT_WEIGHTING_MOMENT, /* E[x^2]: what the error of a product depends on */
};

struct quant_settings {
    enum quant_method method;
    int32_t group_size; /* 32, 64 or 128; 0 = the method's default */
    enum quant_weighting weighting;
    uint64_t seed;      /* of any4-paper's k-means++ start; 0 = the fixed default */
    unsigned cpu_flags; /* instruction sets to use: speed only, never the result */
};

/* What a linear's inputs looked like over a calibration text, per column (n_cols each, f32). */
struct quant_moments {
    const float *mean;   /* E[x] */
    const float *second; /* E[x^2], finite, > 0 */
};

/* "any4", "int3" ...; parse fails with STATUS_INVALID listing the names. */
enum status quant_method_parse(enum quant_method *out, const char *name, struct error *err);
const char *quant_method_name(enum quant_method method);
int32_t quant_code_bits(enum quant_method method); /* 2, 3, 4 or 8; 0 for QUANT_NONE */

/* "auto", "none", "mean", "moment". */
enum status quant_weighting_parse(enum quant_weighting *out, const char *name, struct error *err);
const char *quant_weighting_name(enum quant_weighting weighting);

/* What settings with 0 and auto in them mean. Methods that take no account of moments: QUANT_WEIGHTING_NONE.
 */
enum quant_weighting quant_weighting_of(const struct quant_settings *settings);
int32_t quant_group_size(const struct quant_settings *settings);

/* Where a matrix's rows come from: converts rows [row_begin, row_end) to f32, n_cols each, densely. Called
 * from several threads at once on different rows. */
typedef void quant_read_rows_fn(void *source, float *out, int32_t row_begin, int32_t row_end);

/* What quantizing one matrix did. Sums are over all elements, in double, rows added in order. */
struct quant_stats {
    double weight_energy;   /* sum of w^2 */
    double error_energy;    /* sum of (w_hat - w)^2, w_hat as the stored formats give it */
    double weighted_energy; /* the same two with column j's terms times second[j]; without moments as above */
    double weighted_error;
    double max_row_error; /* largest per-row sqrt(weighted error / energy) among rows with energy > 0 */
    int32_t worst_row;
    int64_t code_bits;  /* bits of codes, scales and zero points, padding included */
    int64_t table_bits; /* bits of tables */
};

/* Bytes of one block of memory that holds codes, scales, zeros and tables of such a matrix (64-byte aligned
 * parts); SIZE_MAX when the shape does not fit. settings->method must not be QUANT_NONE. */
size_t quant_matrix_bytes(const struct quant_settings *settings, int32_t n_rows, int32_t n_cols);

/* The matrix that quant_matrix would give, but for what its pointers point to: only whether they are NULL
 * tells something. Arguments as of quant_matrix_bytes, in range. */
void quant_matrix_shape(struct any4_matrix *out, const struct quant_settings *settings, int32_t n_rows,
                        int32_t n_cols);

/* Quantizes a matrix (n_rows, n_cols >= 1) into memory (quant_matrix_bytes, 64-byte aligned), which out
 * points into afterwards. moments may be NULL: every
 * column alike. pool may be NULL. A weight that is NaN, infinite or beyond 1e37: STATUS_QUANTIZE
 * with "row R, column C" in the message (the smallest such row, then column; the caller adds the tensor's
 * name). Allocates scratch per thread, not per row. */
enum status quant_matrix(struct any4_matrix *out, void *memory, struct quant_stats *stats,
                         const struct quant_settings *settings, int32_t n_rows, int32_t n_cols,
                         quant_read_rows_fn *read_rows, void *source, const struct quant_moments *moments,
                         struct thread_pool *pool, struct error *err);

/* w_hat of rows [row_begin, row_end) to f32, densely; any kind of matrix. */
void quant_dequantize(float *out, const struct any4_matrix *matrix, int32_t row_begin, int32_t row_end);

#endif
