/* The quantizer of learned tables (quant/learn.h: any4, any3, any2) on the device: the bits that quant_matrix
 * gives for the same weights and importance. Plain C11; launch.h says how these functions are called. */
#ifndef KERNELS_CUDA_QUANTIZE_H
#define KERNELS_CUDA_QUANTIZE_H

#include "kernels/cuda/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is quantized. All pointers are to the device's memory. */
struct cuda_quantize {
    const void *w;           /* (n_rows, n_cols), rows w_stride elements apart */
    enum any4_kind source;   /* ANY4_F32, ANY4_F16 or ANY4_BF16 */
    int64_t w_stride;        /* at least n_cols */
    const float *importance; /* (n_cols) finite, > 0: E[x^2] of the columns' inputs; NULL: all alike */
    int32_t n_rows, n_cols;
    int32_t group_size; /* 32, 64 or 128 */
    int32_t code_bits;  /* 2, 3 or 4 */
    /* row << 32 | column of the first weight that is NaN, infinite or beyond LEARN_MAX_WEIGHT: the smallest
     * such row, then column; all ones where there is none. Such a row is written as zeros. */
    uint64_t *bad;
    void *scratch;    /* cuda_quantize_scratch, 128-byte aligned; calls in one stream may share it */
    int32_t n_blocks; /* of the launch at most: some for each of the card's processors. No result depends on
                         it. */
    void *stream;
};

size_t cuda_quantize_scratch(int32_t n_cols, int32_t group_size, int32_t n_blocks);

/* The parts of an any4_matrix of kind ANY4_LUT_INT8 in ANY4_LAYOUT_TILE_V1, every byte of them written. */
struct cuda_quantized {
    uint8_t *codes;       /* tile_matrix_bytes of quant/pack.h, 16-byte aligned */
    int8_t *group_scales; /* (n_rows, n_groups) */
    int8_t *table;        /* (n_rows, 2^code_bits) */
    float *row_scales;    /* (n_rows) */
};
enum status cuda_quantize_rows(const struct cuda_quantize *args, const struct cuda_quantized *out,
                               struct error *err);

/* Straight to the arrangement of the kernels (4 bits only): out as cuda_any4_place gives it for a block of
 * cuda_any4_bytes, from an any4_matrix of which only kind, shape, group size and bits are filled in. What
 * lies between the parts of the block is not written. */
enum status cuda_quantize_any4(const struct cuda_quantize *args, const struct cuda_any4 *out,
                               struct error *err);

#ifdef __cplusplus
}
#endif
#endif
