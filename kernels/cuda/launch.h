/* The CUDA kernels, one function each: checks what it is given, starts the kernel and returns. On the card
 * `stream` is a cudaStream_t and every array lies in the device's memory; in the build for the host (docs/
 * cuda.md) the kernel has run when the function returns, and arrays are plain memory. A launch that fails
 * gives STATUS_DEVICE with the text of CUDA or of the host's runtime.
 *
 * Activations that a matrix is multiplied by are f16 with a scale a token, in one part or in two: struct
 * cuda_rows. Rows are `stride` elements apart, 16-byte aligned, padded with zeros to whole tiles:
 * cuda_padded(n) columns. The kernels that make them choose the power of two for which a row's largest
 * magnitude is in [0.5, 1]: 1 for a row of zeros and for one with NaN or an infinity, which stay what they
 * are; nothing below 2^-126 or above 2^126, where the largest may lie below 0.5 or reach 4. f16 keeps 11 bits
 * of values down to 2^-14 of the scale, and whole multiples of 2^-24 of it below that; a second part keeps
 * what they lose (of an infinity it is NaN, and so is then what a matrix makes of the row). Kernels that read
 * x take NULL for scales of 1; x is then any f16. Residuals and results are f32. */
#ifndef KERNELS_CUDA_LAUNCH_H
#define KERNELS_CUDA_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "kernels/kernels.h"
#include "quant/any4.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { CUDA_MAX_TOKENS_GEMV = 2, CUDA_MAX_TOKENS_SMALL = 64 };

/* Columns of an activation row that matters to a matrix: whole tiles. */
static inline int32_t cuda_padded(int32_t n)
{
    return (n + ANY4_TILE_COLS - 1) / ANY4_TILE_COLS * ANY4_TILE_COLS;
}

/* -- between the matrices; n_tokens >= 1 rows everywhere -- */

/* What f16 loses of a value up to 1 is at most 1 / CUDA_REST. */
#define CUDA_REST 4096.0f

/* Rows of activations as matrices read them, zeros from their n to cuda_padded(n). In one part row t is
 *     x[t][i] * scales[t],
 * in two parts it takes two rows of x, the second of which is what rounding to f16 lost, itself rounded:
 *     (x[2 t][i] + x[2 t + 1][i] / CUDA_REST) * scales[t],
 * 22 bits of the row's largest value. A product takes both with the same read of its weights and adds the two
 * sums: a token in two parts costs what two tokens in one part do. */
struct cuda_rows {
    uint16_t *x;    /* f16 */
    int64_t stride; /* elements */
    float *scales;  /* powers of two, or NULL: all are 1 */
    int32_t parts;  /* 1 or 2 */
};

/* out[t][i] = h[t][i] / sqrt(mean(h[t]^2) + eps) * weight[i], with scales. */
enum status cuda_rmsnorm(const struct cuda_rows *out, const float *h, int64_t h_stride, const float *weight,
                         int32_t n, int32_t n_tokens, float eps, void *stream, struct error *err);

/* out[t][i] = silu(gate[t][i]) * up[t][i], with scales; both f32 rows y_stride apart. */
enum status cuda_swiglu(const struct cuda_rows *out, const float *gate, const float *up, int64_t y_stride,
                        int32_t n, int32_t n_tokens, void *stream, struct error *err);

/* h[t][i] += a * y[t][i]; with y_stride 0 the same row for all: a bias. */
enum status cuda_axpy(float *h, int64_t h_stride, const float *y, int64_t y_stride, float a, int32_t n,
                      int32_t n_tokens, void *stream, struct error *err);

/* h[t] = row tokens[t] of the table (n_vocab, n) of kind ANY4_F32, ANY4_F16 or ANY4_BF16; a token that is not
 * in it gives zeros. */
enum status cuda_embedding(float *h, int64_t h_stride, const void *table, enum any4_kind kind,
                           int32_t n_vocab, int32_t n, const int32_t *tokens, int32_t n_tokens, void *stream,
                           struct error *err);

/* Rotates queries and keys of a row [n_heads q][n_kv_heads k][n_kv_heads v] of head_dim f32 each in place
 * (rope_fn of kernels.h), then stores keys and values in the KV cache (struct kv_view). A row whose position
 * is negative is left out: the empty places of a batch of fixed size. */
struct cuda_rope_append {
    float *qkv;
    int64_t qkv_stride;
    int32_t n_heads, n_kv_heads, head_dim;
    const float *cos, *sin;      /* (n_positions, head_dim / 2) */
    const int32_t *positions;    /* (n_tokens) */
    const int32_t *sequences;    /* (n_tokens): whose block table */
    const int32_t *block_tables; /* (n_sequences, table_stride) */
    int32_t table_stride;
    int32_t block_size;
    int64_t block_stride; /* elements */
    enum kv_type type;
    void *k, *v;
};
enum status cuda_rope_kv_append(const struct cuda_rope_append *args, int32_t n_tokens, void *stream,
                                struct error *err);

/* -- matrices -- */

/* A 4-bit matrix of kind ANY4_LUT or ANY4_LUT_INT8 as the kernels read it. With rows padded to 32 and columns
 * to 128, B = padded rows / 32, C = padded columns / 128 and S = 128 / group_size:
 *     codes   ANY4_LAYOUT_TILE_V1;
 *     planes  ANY4_LUT_INT8: (rows)[4] words: a byte entry + 128 for each of the 16 of the row's table;
 *             ANY4_LUT: (rows)[8] words: the low bytes of the entries as f16, then the high bytes;
 *     scales  ANY4_LUT_INT8: int8 (B, C, 32, S): what a lane needs of a tile is one word, half-word or byte;
 *             ANY4_LUT: words (B, C, S, 32) of a bf16 scale (low) and zero point;
 *     row_scales  f32 (rows), ANY4_LUT_INT8 only.
 * A row's entries of ANY4_LUT are multiplied by the power of two that brings the largest to [2^14, 2^15), and
 * its scales divided by it; by a lesser one where a scale would become too small for bf16. So entries above
 * 2^-32 of the largest are exact; smaller ones are rounded to multiples of 2^-39 of it, at most.
 * Scales, zero points, row scales and tables of the padding are 0. Every part is 128-byte aligned in one
 * block. */
struct cuda_any4 {
    enum any4_kind kind;
    int32_t n_rows, n_cols, group_size;
    int32_t n_row_blocks, n_tile_cols; /* B, C */
    const void *codes;
    const uint32_t *planes;
    const void *scales;
    const float *row_scales;
};

/* Refuses with STATUS_INVALID what these kernels do not read; else the bytes of the block. */
enum status cuda_any4_bytes(size_t *out, const struct any4_matrix *w, struct error *err);
/* Fills a block of the host from a matrix whose codes are ANY4_LAYOUT_TILE_V1. */
void cuda_any4_pack(void *block, const struct any4_matrix *w);
/* Points into a copy of the block at `device`. */
void cuda_any4_place(struct cuda_any4 *out, const struct any4_matrix *w, const void *device);

/* What the blocks of one launch leave to each other; calls in one stream may share it. */
struct cuda_workspace {
    int32_t n_blocks; /* of a launch at most: a multiple of the card's processors. A result depends on it. */
    float *partials;  /* cuda_partials(n_blocks, tokens) f32 */
    uint32_t *counters; /* n_counters, zero before the first launch and behind each */
    int32_t n_counters; /* at least n_row_blocks of any matrix */
    int32_t max_tokens; /* that partials were made for, each part of a token counted */
};
static inline int64_t cuda_partials(int32_t n_blocks, int32_t n_tokens)
{
    return (int64_t)n_blocks * 2 * n_tokens * ANY4_TILE_ROW_PAD;
}

/* y[t][row] = sum over col of w[row][col] * x[t][col]. y: f32 rows y_stride apart, columns behind n_rows are
 * not written. */
struct cuda_linear {
    const struct cuda_any4 *w;
    float *y;
    int64_t y_stride;
    struct cuda_rows x;
    int32_t n_tokens;
    const struct cuda_workspace *workspace;
    void *stream;
};
/* At most CUDA_MAX_TOKENS_GEMV rows of x, parts counted. exact: f32 products and sums, else (ANY4_LUT_INT8
 * only, ignored for ANY4_LUT) f16 products, eight to a sum of f16; where there are no scales, of x divided by
 * the power of two that brings its largest magnitude to 1 at most. */
enum status cuda_any4_gemv(const struct cuda_linear *args, bool exact, struct error *err);
/* At most CUDA_MAX_TOKENS_SMALL rows of x, parts counted. A token's bits do not depend on the others nor on
 * their number. */
enum status cuda_any4_gemm_small(const struct cuda_linear *args, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
