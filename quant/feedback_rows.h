/* Error feedback's arithmetic on 32 rows at once. feedback_rows.c is built once per instruction set; every
 * build gives the same bits. */
#ifndef QUANT_FEEDBACK_ROWS_H
#define QUANT_FEEDBACK_ROWS_H

#include <stdint.h>

#include "quant/any4.h"

enum {
    FEEDBACK_ROWS = 32, /* lanes: one row each */
    FEEDBACK_MAX_GROUP = 128,
    FEEDBACK_LIMITS = ANY4_MAX_TABLE - 1,
    FEEDBACK_ROUNDS = 2,      /* over the columns after the feedback */
    FEEDBACK_BLOCK = 64,      /* columns that the factorization takes at once */
    FEEDBACK_SUM_COLUMNS = 8, /* that a sum of products takes at once */
};

/* A = U D U^T. */
struct feedback_factor {
    int32_t n_cols;
    float *matrix;   /* (n_cols, n_cols): A below the diagonal, U above it */
    float *diagonal; /* (n_cols) of A */
    float *pivots;   /* (n_cols) D */
};

/* Rows at work, transposed: column j of lane l at j * FEEDBACK_ROWS + l. Weights and errors are in units of
 * the lane's row scale, so that a value is scale * level, an integer. Lanes behind the last row are zeros. */
struct feedback_tile {
    int32_t n_cols, group_size, n_groups, n_levels;
    float *w, *e;                                 /* (n_cols) lanes; e is what the last step left */
    uint8_t *codes;                               /* (n_cols) lanes */
    float *scales;                                /* (n_groups) lanes: -127..127 */
    float base[FEEDBACK_ROWS];                    /* the lowest level of the table */
    float limits[FEEDBACK_LIMITS][FEEDBACK_ROWS]; /* between levels; +inf behind the last one */
    float steps[FEEDBACK_LIMITS][FEEDBACK_ROWS];  /* from level to level; 0 behind the last one */
};

struct feedback_rows {
    /* matrix[j][k] += sum over the given rows of x[row][j] * x[row][k], for FEEDBACK_SUM_COLUMNS columns j
     * from `first` on (fewer at the end) and k <= j. x: (.., n_cols). matrix: (n_cols, n_cols). */
    void (*sum_products)(float *matrix, int32_t n_cols, int32_t first, const float *x, const int32_t *rows,
                         int32_t n_rows);
    /* Fills e, codes and scales from w and the scales to begin with. */
    void (*quantize)(struct feedback_tile *tile, const struct feedback_factor *factor);
    /* Sum over k of D_k (x_k + sum over j < k of x_j U_jk)^2 per lane; x is w or e. */
    void (*quadratic)(double out[FEEDBACK_ROWS], const float *x, const struct feedback_factor *factor);
    /* Factorization, a block of columns [begin, end) at a time from the last one, with a factor V = U D^1/2
     * in U's place. block: the diagonal block itself; whether its pivots are all positive. panel: rows above
     * the block, given the block done. update: takes the block's share off the rows above it. transposed:
     * (FEEDBACK_BLOCK, begin) the panel with rows and columns exchanged. */
    int32_t (*factor_block)(struct feedback_factor *factor, int32_t begin, int32_t end);
    void (*factor_panel)(struct feedback_factor *factor, int32_t begin, int32_t end, int32_t row,
                         float *transposed);
    void (*factor_update)(struct feedback_factor *factor, int32_t begin, int32_t end, int32_t row,
                          const float *transposed);
};

extern const struct feedback_rows feedback_rows_scalar;
#ifdef ANY4_X86
extern const struct feedback_rows feedback_rows_avx2, feedback_rows_avx512;
#endif

#endif
