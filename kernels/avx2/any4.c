/* Matrix times vector(s) in f32. A row's table of 16 values is two registers: per group scale and zero point
 * are folded into them once, then two permutes (each reads the low 3 bits) and a blend by bit 3 decode 8
 * codes.
 *
 * Every path adds in the same order: one accumulator of 8 lanes per (row, token), columns 8 at a time from 0,
 * the lanes summed last by sum_lanes. So gemv, gemm and any split of rows or tokens give the same bits. */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"

#include <assert.h>
#include <stdbool.h>

#include "engine/base/float16.h"

enum {
    GEMV_ROWS = 2, /* decoding takes as long as the two chains of FMAs */
    TILE_ROWS = 4, /* 4 x 3 accumulators of the 16 registers */
    TILE_TOKENS = 3,
    CHUNK_COLS = 512,  /* columns decoded at once: 8 KiB for 4 rows stay in L1 beside x */
    BLOCK_TOKENS = 48, /* tokens that share one decoding; their running sums are 6 KiB */
    BLOCK_VECTORS = ANY4_BLOCK_COLS / LANES,
};

/* The 16 values of a row or the 16 weights of a group. */
struct table {
    __m256 low, high;
};

FORCE_INLINE const uint8_t *row_codes(const struct any4_matrix *w, int32_t row)
{
    return w->codes + (size_t)row * w->row_bytes;
}

FORCE_INLINE struct table row_lut(const struct any4_matrix *w, int32_t row)
{
    int64_t at = (int64_t)row * ANY4_MAX_TABLE;
    return (struct table){load_bf16(w->lut, at, LANES), load_bf16(w->lut, at + LANES, LANES)};
}

/* scale * lut is exact in f32 (8 + 8 bits), so the FMA rounds as the scalar does. */
FORCE_INLINE struct table group_table(const struct any4_matrix *w, struct table lut, int32_t row,
                                      int32_t group)
{
    size_t at = (size_t)row * (size_t)w->n_groups + (size_t)group;
    __m256 scale = _mm256_set1_ps(bf16_to_f32(w->scales[at]));
    __m256 zero = _mm256_set1_ps(w->zeros ? bf16_to_f32(w->zeros[at]) : 0.0f);
    return (struct table){_mm256_fmadd_ps(lut.low, scale, zero), _mm256_fmadd_ps(lut.high, scale, zero)};
}

/* Weights of columns 8 * part .. 8 * part + 7 of the block of 32 that starts at codes. */
FORCE_INLINE __m256 decode_part(const uint8_t *codes, struct table table, const int32_t part)
{
    __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(codes + part % 2 * LANES)));
    __m256i index = part < 2 ? bytes : _mm256_srli_epi32(bytes, 4);
    __m256i bit3 = _mm256_slli_epi32(bytes, part < 2 ? 28 : 24); /* as the sign, where blendv looks */
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.low, index),
                            _mm256_permutevar8x32_ps(table.high, index), _mm256_castsi256_ps(bit3));
}

FORCE_INLINE __m256 load_stored(enum any4_kind kind, const uint8_t *row, int32_t col, int32_t left)
{
    return kind == ANY4_F32   ? load_f32(row, col, left)
           : kind == ANY4_F16 ? load_f16(row, col, left)
                              : load_bf16(row, col, left);
}

/* sum + weights * x with the weights of lanes behind the last column made 0: x is 0 there, a weight may be
 * anything. */
FORCE_INLINE __m256 add_tail(__m256 weights, __m256 x, __m256 sum, int32_t left)
{
    return _mm256_fmadd_ps(_mm256_and_ps(weights, _mm256_castsi256_ps(lanes_mask(left))), x, sum);
}

FORCE_INLINE int32_t group_end(const struct any4_matrix *w, int32_t group)
{
    int32_t begin = group * w->group_size;
    return w->n_cols - begin < w->group_size ? w->n_cols : begin + w->group_size;
}

FORCE_INLINE const uint8_t *block_codes(const uint8_t *codes, int32_t col)
{
    return codes + col / ANY4_BLOCK_COLS * any4_block_bytes(4);
}

FORCE_INLINE void lut4_gemv_rows(float *y, const struct any4_matrix *w, const float *x, int32_t row,
                                 const int32_t n_rows)
{
    __m256 sum[GEMV_ROWS];
    struct table lut[GEMV_ROWS], table[GEMV_ROWS];
    const uint8_t *codes[GEMV_ROWS];
    for (int32_t r = 0; r < n_rows; r++) {
        sum[r] = _mm256_setzero_ps();
        lut[r] = row_lut(w, row + r);
        codes[r] = row_codes(w, row + r);
    }
    for (int32_t group = 0; group < w->n_groups; group++) {
        int32_t col = group * w->group_size, end = group_end(w, group);
        for (int32_t r = 0; r < n_rows; r++) {
            table[r] = group_table(w, lut[r], row + r, group);
        }
        for (; end - col >= ANY4_BLOCK_COLS; col += ANY4_BLOCK_COLS) {
            for (int32_t part = 0; part < BLOCK_VECTORS; part++) {
                __m256 x_part = _mm256_loadu_ps(x + col + part * LANES);
                for (int32_t r = 0; r < n_rows; r++) {
                    __m256 weights = decode_part(block_codes(codes[r], col), table[r], part);
                    sum[r] = _mm256_fmadd_ps(weights, x_part, sum[r]);
                }
            }
        }
        for (int32_t part = 0; part < BLOCK_VECTORS && end - col > part * LANES; part++) {
            int32_t left =
                end - col - part * LANES; /* the end of the row: codes fill the block, x does not */
            __m256 x_part = load_f32(x, col + part * LANES, left);
            for (int32_t r = 0; r < n_rows; r++) {
                sum[r] =
                    add_tail(decode_part(block_codes(codes[r], col), table[r], part), x_part, sum[r], left);
            }
        }
    }
    for (int32_t r = 0; r < n_rows; r++) {
        y[row + r] = sum_lanes(sum[r]);
    }
}

FORCE_INLINE void stored_gemv_rows(float *y, const struct any4_matrix *w, const float *x, int32_t row,
                                   const enum any4_kind kind, const int32_t n_rows)
{
    __m256 sum[GEMV_ROWS];
    int32_t col = 0;
    for (int32_t r = 0; r < n_rows; r++) {
        sum[r] = _mm256_setzero_ps();
    }
    for (; w->n_cols - col >= LANES; col += LANES) {
        __m256 x_part = _mm256_loadu_ps(x + col);
        for (int32_t r = 0; r < n_rows; r++) {
            sum[r] = _mm256_fmadd_ps(load_stored(kind, row_codes(w, row + r), col, LANES), x_part, sum[r]);
        }
    }
    if (col < w->n_cols) {
        int32_t left = w->n_cols - col;
        __m256 x_part = load_f32(x, col, left);
        for (int32_t r = 0; r < n_rows; r++) {
            sum[r] = add_tail(load_stored(kind, row_codes(w, row + r), col, left), x_part, sum[r], left);
        }
    }
    for (int32_t r = 0; r < n_rows; r++) {
        y[row + r] = sum_lanes(sum[r]);
    }
}

/* Constant n_rows and kind in every copy, so that the accumulators are registers. */
FORCE_INLINE void gemv_rows(float *y, const struct any4_matrix *w, const float *x, int32_t row,
                            const int32_t n_rows)
{
    switch (w->kind) {
    case ANY4_F32:
        stored_gemv_rows(y, w, x, row, ANY4_F32, n_rows);
        break;
    case ANY4_F16:
        stored_gemv_rows(y, w, x, row, ANY4_F16, n_rows);
        break;
    case ANY4_BF16:
        stored_gemv_rows(y, w, x, row, ANY4_BF16, n_rows);
        break;
    case ANY4_LUT:
        lut4_gemv_rows(y, w, x, row, n_rows);
        break;
    case ANY4_LUT_INT8:
    case ANY4_LINEAR:
        assert(false); /* no quantizer makes them yet */
        break;
    }
}

void avx2_any4_gemv(float *y, const struct any4_matrix *w, const float *x, int32_t row_begin, int32_t row_end)
{
    assert(w->kind != ANY4_LUT || w->layout == ANY4_LAYOUT_CPU_V1);
    int32_t row = row_begin;
    for (; row_end - row >= GEMV_ROWS; row += GEMV_ROWS) {
        gemv_rows(y, w, x, row, GEMV_ROWS);
    }
    for (; row < row_end; row++) {
        gemv_rows(y, w, x, row, 1);
    }
}

/* Columns [begin, end) of TILE_ROWS rows as f32; the four rows alternate, 8 columns each. Lanes behind the
 * last column hold anything. */
struct decoded {
    __m256 weights[CHUNK_COLS / LANES][TILE_ROWS];
};

static void decode_lut4(struct decoded *out, const struct any4_matrix *w, int32_t row, int32_t r,
                        int32_t begin, int32_t end)
{
    const uint8_t *codes = row_codes(w, row);
    struct table lut = row_lut(w, row);
    for (int32_t col = begin, group = begin / w->group_size; col < end; group++) {
        struct table table = group_table(w, lut, row, group);
        for (int32_t stop = group_end(w, group); col < stop; col += ANY4_BLOCK_COLS) {
            __m256(*weights)[TILE_ROWS] = out->weights + (col - begin) / LANES;
            for (int32_t part = 0; part < BLOCK_VECTORS; part++) {
                weights[part][r] = decode_part(block_codes(codes, col), table, part);
            }
        }
    }
}

FORCE_INLINE void decode_stored(struct decoded *out, const struct any4_matrix *w, int32_t row, int32_t r,
                                int32_t begin, int32_t end, const enum any4_kind kind)
{
    const uint8_t *weights = row_codes(w, row);
    for (int32_t col = begin; col < end; col += LANES) {
        out->weights[(col - begin) / LANES][r] = load_stored(kind, weights, col, end - col);
    }
}

static void decode(struct decoded *out, const struct any4_matrix *w, int32_t row, int32_t r, int32_t begin,
                   int32_t end)
{
    switch (w->kind) {
    case ANY4_F32:
        decode_stored(out, w, row, r, begin, end, ANY4_F32);
        break;
    case ANY4_F16:
        decode_stored(out, w, row, r, begin, end, ANY4_F16);
        break;
    case ANY4_BF16:
        decode_stored(out, w, row, r, begin, end, ANY4_BF16);
        break;
    case ANY4_LUT:
        decode_lut4(out, w, row, r, begin, end);
        break;
    case ANY4_LUT_INT8:
    case ANY4_LINEAR:
        assert(false); /* no quantizer makes them yet */
        break;
    }
}

/* Adds n_cols columns of x (first column at x) times the decoded weights to the sums of n_tokens tokens. */
FORCE_INLINE void multiply_tile(__m256 (*sums)[TILE_ROWS], const struct decoded *w, const float *x,
                                int64_t x_stride, int32_t n_cols, const int32_t n_tokens)
{
    __m256 sum[TILE_TOKENS][TILE_ROWS], x_part[TILE_TOKENS];
    for (int32_t t = 0; t < n_tokens; t++) {
        for (int32_t r = 0; r < TILE_ROWS; r++) {
            sum[t][r] = sums[t][r];
        }
    }
    int32_t col = 0;
    for (; n_cols - col >= LANES; col += LANES) {
        const __m256 *weights = w->weights[col / LANES];
        for (int32_t t = 0; t < n_tokens; t++) {
            x_part[t] = _mm256_loadu_ps(x + t * x_stride + col);
        }
        for (int32_t r = 0; r < TILE_ROWS; r++) {
            for (int32_t t = 0; t < n_tokens; t++) {
                sum[t][r] = _mm256_fmadd_ps(weights[r], x_part[t], sum[t][r]);
            }
        }
    }
    if (col < n_cols) {
        const __m256 *weights = w->weights[col / LANES];
        for (int32_t t = 0; t < n_tokens; t++) {
            x_part[t] = load_f32(x, t * x_stride + col, n_cols - col);
        }
        for (int32_t r = 0; r < TILE_ROWS; r++) {
            for (int32_t t = 0; t < n_tokens; t++) {
                sum[t][r] = add_tail(weights[r], x_part[t], sum[t][r], n_cols - col);
            }
        }
    }
    for (int32_t t = 0; t < n_tokens; t++) {
        for (int32_t r = 0; r < TILE_ROWS; r++) {
            sums[t][r] = sum[t][r];
        }
    }
}

static void multiply(__m256 (*sums)[TILE_ROWS], const struct decoded *w, const float *x, int64_t x_stride,
                     int32_t n_cols, int32_t n_tokens)
{
    for (; n_tokens >= TILE_TOKENS; n_tokens -= TILE_TOKENS) {
        multiply_tile(sums, w, x, x_stride, n_cols, TILE_TOKENS);
        sums += TILE_TOKENS;
        x += TILE_TOKENS * x_stride;
    }
    if (n_tokens == 2) {
        multiply_tile(sums, w, x, x_stride, n_cols, 2);
    } else if (n_tokens == 1) {
        multiply_tile(sums, w, x, x_stride, n_cols, 1);
    }
}

/* At most BLOCK_TOKENS tokens and TILE_ROWS rows. Where there are fewer rows, the last is decoded again in
 * place of the missing ones and not written. */
static void gemm_block(float *y, int64_t y_stride, const struct any4_matrix *w, const float *x,
                       int64_t x_stride, int32_t n_tokens, int32_t row, int32_t n_rows)
{
    struct decoded decoded;
    __m256 sums[BLOCK_TOKENS][TILE_ROWS];
    for (int32_t t = 0; t < n_tokens; t++) {
        for (int32_t r = 0; r < TILE_ROWS; r++) {
            sums[t][r] = _mm256_setzero_ps();
        }
    }
    for (int32_t begin = 0; begin < w->n_cols; begin += CHUNK_COLS) {
        int32_t end = w->n_cols - begin < CHUNK_COLS ? w->n_cols : begin + CHUNK_COLS;
        for (int32_t r = 0; r < TILE_ROWS; r++) {
            decode(&decoded, w, row + (r < n_rows ? r : n_rows - 1), r, begin, end);
        }
        multiply(sums, &decoded, x + begin, x_stride, end - begin, n_tokens);
    }
    for (int32_t t = 0; t < n_tokens; t++) {
        for (int32_t r = 0; r < n_rows; r++) {
            y[t * y_stride + row + r] = sum_lanes(sums[t][r]);
        }
    }
}

void avx2_any4_gemm(float *y, int64_t y_stride, const struct any4_matrix *w, const float *x, int64_t x_stride,
                    int32_t n_tokens, int32_t row_begin, int32_t row_end)
{
    /* A chunk starts with a group: decode_lut4 relies on it. */
    assert(w->kind != ANY4_LUT || (w->layout == ANY4_LAYOUT_CPU_V1 && CHUNK_COLS % w->group_size == 0));
    if (n_tokens == 1) {
        avx2_any4_gemv(y, w, x, row_begin, row_end);
        return;
    }
    for (int32_t token = 0; token < n_tokens; token += BLOCK_TOKENS) {
        int32_t n = n_tokens - token < BLOCK_TOKENS ? n_tokens - token : BLOCK_TOKENS;
        for (int32_t row = row_begin; row < row_end; row += TILE_ROWS) {
            gemm_block(y + token * y_stride, y_stride, w, x + token * x_stride, x_stride, n, row,
                       row_end - row < TILE_ROWS ? row_end - row : TILE_ROWS);
        }
    }
}
