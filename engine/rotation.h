/* An orthogonal change of basis of the residual stream that leaves the model's answers as they are and
 * spreads outliers of single channels over many (QuaRot: Ashkboos et al., 2024): a Hadamard matrix behind
 * random signs, in blocks of the largest power of two that divides dim. The loader folds norms into the
 * linears behind them and rotates whatever reads or writes the stream; only the embedding's rows are rotated
 * on the way. */
#ifndef ENGINE_ROTATION_H
#define ENGINE_ROTATION_H

#include <stdint.h>

/* x: (n) in place, in a fixed order of additions. Applied to a row of weights over the stream, to a vector of
 * the stream, or to each column of a matrix that writes it, it is the same. */
void rotation_apply(float *x, int32_t n);

/* The same for columns [begin, end) of a matrix of n_rows rows that write the stream. */
void rotation_apply_columns(float *matrix, int32_t n_rows, int64_t n_cols, int64_t begin, int64_t end);

#endif
