/* Products with 4-bit matrices and many tokens, and with matrices of every format of quant/any4.h. The
 * conventions are those of launch.h. */
#ifndef KERNELS_CUDA_LINEAR_H
#define KERNELS_CUDA_LINEAR_H

#include "kernels/cuda/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* -- 4-bit matrices: struct cuda_linear of launch.h -- */

/* Any number of tokens from 1 on, made for many. A token has the bits that cuda_any4_gemm_small gives it with
 * the same workspace.n_blocks; nothing else of the workspace is used. */
enum status cuda_any4_prefill(const struct cuda_linear *args, struct error *err);

/* Any number of tokens by the kernel made for it. batch_invariant: a token's bits do not depend on the others
 * nor on their number; else 1 and 2 tokens in one part take cuda_any4_gemv with sums of f16. The workspace
 * must be for min(n_tokens * x.parts, CUDA_MAX_TOKENS_SMALL) tokens. */
enum status cuda_any4_linear(const struct cuda_linear *args, bool batch_invariant, struct error *err);

/* out[row][col] = f16(w[row][col]) for the matrix's rows, zeros from n_cols to whole tiles; rows `stride`
 * elements apart, 16-byte aligned. */
enum status cuda_any4_dequantize(uint16_t *out, int64_t stride, const struct cuda_any4 *w, void *stream,
                                 struct error *err);

/* -- every format -- */

/* A matrix of any kind on the device: weights as stored, or codes in ANY4_LAYOUT_CPU_V1, with columns padded
 * with zeros to C = cuda_padded(n_cols), so that 128 bits of a row can be read anywhere.
 *     codes       (n_rows, row_bytes): C weights a row, or C / 32 blocks of codes;
 *     scales      ANY4_LUT_INT8: int8 (n_rows, n_groups), else bf16; n_groups = C / group_size, 0 behind the
 *                 matrix's own;
 *     zeros       bf16, the same shape, or NULL;
 *     table       ANY4_LUT: bf16 (n_rows, 2^code_bits), ANY4_LUT_INT8: int8, else NULL;
 *     row_scales  f32 (n_rows), ANY4_LUT_INT8 only.
 * Every part is 128-byte aligned in one block. */
struct cuda_matrix {
    enum any4_kind kind;
    int32_t n_rows, n_cols, code_bits, group_size, n_groups;
    int64_t row_bytes;
    const uint8_t *codes;
    const void *scales;
    const uint16_t *zeros;
    const void *table;
    const float *row_scales;
};

/* Refuses with STATUS_INVALID what is no matrix of quant/any4.h, or whose codes are ANY4_LAYOUT_TILE_V1; else
 * the bytes of the block. */
enum status cuda_matrix_bytes(size_t *out, const struct any4_matrix *w, struct error *err);
/* Fills a block of the host, 128-byte aligned or not. */
void cuda_matrix_pack(void *block, const struct any4_matrix *w);
/* Points into a copy of the block at `device`. */
void cuda_matrix_place(struct cuda_matrix *out, const struct any4_matrix *w, const void *device);

/* y[t][row] = sum over col of w[row][col] * x[t][col] with f32 products and sums, for n_tokens >= 1. The
 * order of additions depends on nothing but the number of columns. */
enum status cuda_linear_any(float *y, int64_t y_stride, const struct cuda_matrix *w,
                            const struct cuda_rows *x, int32_t n_tokens, void *stream, struct error *err);

/* y[slot] = W x for experts: the same bits as cuda_linear_any gives; arguments as in cuda_any4_grouped of
 * moe.h. */
enum status cuda_linear_any_grouped(float *y, int64_t y_stride, const struct cuda_matrix *experts,
                                    const struct cuda_matrix *shape, int32_t n_experts,
                                    const struct cuda_rows *x, const int32_t *slot_row,
                                    const int32_t *expert_begin, void *stream, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
