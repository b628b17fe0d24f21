/* The methods, row by row. rows.c is built once per instruction set; every build gives the same bits. */
#ifndef QUANT_ROWS_H
#define QUANT_ROWS_H

#include "quant/row.h"

typedef void quant_row_fn(const struct quant_row *row, struct row_scratch *scratch);

/* Sums over one row, in lanes of a fixed order. w_hat: (n_cols) what the stored row stands for. second:
 * (n_cols) or NULL. out: w^2, (w_hat - w)^2, and both times second (or times 1). */
typedef void quant_measure_fn(double out[4], const float *w, const float *w_hat, const float *second,
                              int32_t n_cols);

/* One row of codes as floats. */
typedef void quant_dequantize_fn(float *w_hat, const struct quant_row *row);

struct quant_rows {
    quant_row_fn *learned; /* any4, any3, any2: ANY4_LUT_INT8 */
    quant_row_fn *paper;   /* k-means++ and Lloyd */
    quant_row_fn *integer; /* int2, int3, int4 as tables, int8 without */
    quant_row_fn *nf4, *fp4, *mx4;
    quant_dequantize_fn *dequantize;
    quant_measure_fn *measure;
};

extern const struct quant_rows quant_rows_scalar;
#ifdef ANY4_X86
extern const struct quant_rows quant_rows_avx2, quant_rows_avx512;
#endif

#endif
