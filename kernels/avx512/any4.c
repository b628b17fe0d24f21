/* Matrix times vector(s) in f32. A row's table of 16 values is one register: per group scale and zero point
 * are folded into it once, then one permute decodes 16 codes (it reads the low 4 bits of each lane, so no
 * masks).
 *
 * Every path adds in the same order: one accumulator of 16 lanes per (row, token), columns 16 at a time from
 * 0, the lanes summed last by sum_lanes. So gemv, gemm and any split of rows or tokens give the same bits. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"

#include <assert.h>
#include <stdbool.h>

#include "engine/base/float16.h"

enum {
    TILE_ROWS = 4,     /* as many independent chains as hide the latency of an FMA */
    TILE_TOKENS = 6,   /* 4 x 6 accumulators of the 32 registers */
    CHUNK_COLS = 512,  /* columns decoded at once: 8 KiB for 4 rows stay in L1 beside x */
    BLOCK_TOKENS = 72, /* tokens that share one decoding; their running sums are 18 KiB */
};

FORCE_INLINE const uint8_t *row_codes(const struct any4_matrix *w, int32_t row)
{
    return w->codes + (size_t)row * w->row_bytes;
}

FORCE_INLINE __m512 row_lut(const struct any4_matrix *w, int32_t row)
{
    return load_bf16(w->lut, (int64_t)row * ANY4_TABLE_SIZE, ALL_LANES);
}

/* The 16 weights of a group. scale * lut is exact in f32 (8 + 8 bits), so the FMA rounds as the scalar does.
 */
FORCE_INLINE __m512 group_table(const struct any4_matrix *w, __m512 lut, int32_t row, int32_t group)
{
    size_t at = (size_t)row * (size_t)w->n_groups + (size_t)group;
    float zero = w->zeros ? bf16_to_f32(w->zeros[at]) : 0.0f;
    return _mm512_fmadd_ps(lut, _mm512_set1_ps(bf16_to_f32(w->scales[at])), _mm512_set1_ps(zero));
}

FORCE_INLINE __m512i load_codes(const uint8_t *codes, int32_t col)
{
    return _mm512_cvtepu8_epi32(
        _mm_loadu_si128((const __m128i *)(codes + col / ANY4_BLOCK_COLS * ANY4_BLOCK_BYTES)));
}

FORCE_INLINE __m512 decode_low(__m512i codes, __m512 table)
{
    return _mm512_permutexvar_ps(codes, table);
}

FORCE_INLINE __m512 decode_high(__m512i codes, __m512 table)
{
    return _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), table);
}

/* y[r] = the lanes of sum[r], r < n_rows <= TILE_ROWS. */
FORCE_INLINE void store_sums(float *y, const __m512 *sum, int32_t n_rows)
{
    if (n_rows == TILE_ROWS) {
        _mm_storeu_ps(y, sum_lanes4(sum[0], sum[1], sum[2], sum[3]));
        return;
    }
    for (int32_t r = 0; r < n_rows; r++) {
        y[r] = sum_lanes(sum[r]);
    }
}

FORCE_INLINE __m512 load_stored(enum any4_kind kind, const uint8_t *row, int32_t col, __mmask16 mask)
{
    return kind == ANY4_F32   ? load_f32(row, col, mask)
           : kind == ANY4_F16 ? load_f16(row, col, mask)
                              : load_bf16(row, col, mask);
}

FORCE_INLINE int32_t group_end(const struct any4_matrix *w, int32_t group)
{
    int32_t begin = group * w->group_size;
    return w->n_cols - begin < w->group_size ? w->n_cols : begin + w->group_size;
}

FORCE_INLINE void lut4_gemv_rows(float *y, const struct any4_matrix *w, const float *x, int32_t row,
                                 const int32_t n_rows)
{
    __m512 sum[TILE_ROWS], lut[TILE_ROWS], table[TILE_ROWS];
    const uint8_t *codes[TILE_ROWS];
    for (int32_t r = 0; r < n_rows; r++) {
        sum[r] = _mm512_setzero_ps();
        lut[r] = row_lut(w, row + r);
        codes[r] = row_codes(w, row + r);
    }
    for (int32_t group = 0; group < w->n_groups; group++) {
        int32_t col = group * w->group_size, end = group_end(w, group);
        for (int32_t r = 0; r < n_rows; r++) {
            table[r] = group_table(w, lut[r], row + r, group);
        }
        for (; end - col >= ANY4_BLOCK_COLS; col += ANY4_BLOCK_COLS) {
            __m512 x_low = _mm512_loadu_ps(x + col), x_high = _mm512_loadu_ps(x + col + LANES);
            for (int32_t r = 0; r < n_rows; r++) {
                __m512i block = load_codes(codes[r], col);
                sum[r] = _mm512_fmadd_ps(decode_low(block, table[r]), x_low, sum[r]);
                sum[r] = _mm512_fmadd_ps(decode_high(block, table[r]), x_high, sum[r]);
            }
        }
        if (col < end) { /* the end of the row: codes are padded to whole blocks, x is not */
            __mmask16 low = lanes_mask(end - col), high = lanes_mask(end - col - LANES);
            __m512 x_low = _mm512_maskz_loadu_ps(low, x + col);
            __m512 x_high = high ? _mm512_maskz_loadu_ps(high, x + col + LANES) : _mm512_setzero_ps();
            for (int32_t r = 0; r < n_rows; r++) {
                __m512i block = load_codes(codes[r], col);
                sum[r] = _mm512_mask3_fmadd_ps(decode_low(block, table[r]), x_low, sum[r], low);
                sum[r] = _mm512_mask3_fmadd_ps(decode_high(block, table[r]), x_high, sum[r], high);
            }
        }
    }
    store_sums(y + row, sum, n_rows);
}

FORCE_INLINE void stored_gemv_rows(float *y, const struct any4_matrix *w, const float *x, int32_t row,
                                   const enum any4_kind kind, const int32_t n_rows)
{
    __m512 sum[TILE_ROWS];
    int32_t col = 0;
    for (int32_t r = 0; r < n_rows; r++) {
        sum[r] = _mm512_setzero_ps();
    }
    for (; w->n_cols - col >= LANES; col += LANES) {
        __m512 x_part = _mm512_loadu_ps(x + col);
        for (int32_t r = 0; r < n_rows; r++) {
            sum[r] =
                _mm512_fmadd_ps(load_stored(kind, row_codes(w, row + r), col, ALL_LANES), x_part, sum[r]);
        }
    }
    if (col < w->n_cols) {
        __mmask16 mask = lanes_mask(w->n_cols - col);
        __m512 x_part = _mm512_maskz_loadu_ps(mask, x + col);
        for (int32_t r = 0; r < n_rows; r++) {
            __m512 weights = load_stored(kind, row_codes(w, row + r), col, mask);
            sum[r] = _mm512_mask3_fmadd_ps(weights, x_part, sum[r], mask);
        }
    }
    store_sums(y + row, sum, n_rows);
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
    case ANY4_LUT4:
        lut4_gemv_rows(y, w, x, row, n_rows);
        break;
    }
}

void avx512_any4_gemv(float *y, const struct any4_matrix *w, const float *x, int32_t row_begin,
                      int32_t row_end)
{
    assert(w->kind != ANY4_LUT4 || w->layout == ANY4_LAYOUT_CPU_V1);
    int32_t row = row_begin;
    for (; row_end - row >= TILE_ROWS; row += TILE_ROWS) {
        gemv_rows(y, w, x, row, TILE_ROWS);
    }
    for (; row < row_end; row++) {
        gemv_rows(y, w, x, row, 1);
    }
}

/* Columns [begin, end) of TILE_ROWS rows as f32; the four rows alternate, 16 columns each. Lanes behind the
 * last column hold anything. */
struct decoded {
    __m512 weights[CHUNK_COLS / LANES][TILE_ROWS];
};

static void decode_lut4(struct decoded *out, const struct any4_matrix *w, int32_t row, int32_t r,
                        int32_t begin, int32_t end)
{
    const uint8_t *codes = row_codes(w, row);
    __m512 lut = row_lut(w, row);
    for (int32_t col = begin, group = begin / w->group_size; col < end; group++) {
        __m512 table = group_table(w, lut, row, group);
        for (int32_t stop = group_end(w, group); col < stop; col += ANY4_BLOCK_COLS) {
            __m512i block = load_codes(codes, col);
            int32_t at = (col - begin) / LANES;
            out->weights[at][r] = decode_low(block, table);
            out->weights[at + 1][r] = decode_high(block, table);
        }
    }
}

FORCE_INLINE void decode_stored(struct decoded *out, const struct any4_matrix *w, int32_t row, int32_t r,
                                int32_t begin, int32_t end, const enum any4_kind kind)
{
    const uint8_t *weights = row_codes(w, row);
    for (int32_t col = begin; col < end; col += LANES) {
        out->weights[(col - begin) / LANES][r] = load_stored(kind, weights, col, lanes_mask(end - col));
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
    case ANY4_LUT4:
        decode_lut4(out, w, row, r, begin, end);
        break;
    }
}

/* Where the sums of a row tile go: a piece of columns in the middle of a row starts from and ends in `sums`,
 * the first piece starts from zero, the last one ends in y. So rows of one piece, such as those of small
 * models, never leave the registers: gemm_block spent a third of its time on carrying sums of 128 columns. */
struct tile_sums {
    __m512 (*sums)[TILE_ROWS]; /* (n_tokens) */
    float *y;                  /* of the first token */
    int64_t y_stride;
    int32_t n_rows;
    bool is_first, is_last;
};

/* Multiplies n_cols columns of x (first column at x) of n_tokens tokens by the decoded weights. */
FORCE_INLINE void multiply_tile(const struct tile_sums *out, int32_t token, const struct decoded *w,
                                const float *x, int64_t x_stride, int32_t n_cols, const int32_t n_tokens)
{
    __m512 sum[TILE_TOKENS][TILE_ROWS];
    __m512(*sums)[TILE_ROWS] = out->sums + token;
    for (int32_t t = 0; t < n_tokens; t++) {
        for (int32_t r = 0; r < TILE_ROWS; r++) {
            sum[t][r] = _mm512_setzero_ps();
        }
    }
    if (!out->is_first) {
        for (int32_t t = 0; t < n_tokens; t++) {
            for (int32_t r = 0; r < TILE_ROWS; r++) {
                sum[t][r] = sums[t][r];
            }
        }
    }
    const __m512(*weights)[TILE_ROWS] = w->weights;
    x += token * x_stride;
    for (; n_cols >= LANES; n_cols -= LANES, x += LANES, weights++) {
        for (int32_t t = 0; t < n_tokens; t++) {
            __m512 x_part = _mm512_loadu_ps(x + t * x_stride);
            for (int32_t r = 0; r < TILE_ROWS; r++) {
                sum[t][r] = _mm512_fmadd_ps((*weights)[r], x_part, sum[t][r]);
            }
        }
    }
    if (n_cols) {
        __mmask16 mask = lanes_mask(n_cols);
        for (int32_t t = 0; t < n_tokens; t++) {
            __m512 x_part = _mm512_maskz_loadu_ps(mask, x + t * x_stride);
            for (int32_t r = 0; r < TILE_ROWS; r++) {
                sum[t][r] = _mm512_mask3_fmadd_ps((*weights)[r], x_part, sum[t][r], mask);
            }
        }
    }
    if (out->is_last && out->n_rows == TILE_ROWS) {
        for (int32_t t = 0; t < n_tokens; t++) {
            store_sums(out->y + (token + t) * out->y_stride, sum[t], TILE_ROWS);
        }
        return;
    }
    if (out->is_last) {
        for (int32_t t = 0; t < n_tokens; t++) {
            store_sums(out->y + (token + t) * out->y_stride, sum[t], out->n_rows);
        }
        return;
    }
    for (int32_t t = 0; t < n_tokens; t++) {
        for (int32_t r = 0; r < TILE_ROWS; r++) {
            sums[t][r] = sum[t][r];
        }
    }
}

static void multiply(const struct tile_sums *out, const struct decoded *w, const float *x, int64_t x_stride,
                     int32_t n_cols, int32_t n_tokens)
{
    int32_t token = 0;
    for (; n_tokens - token >= TILE_TOKENS; token += TILE_TOKENS) {
        multiply_tile(out, token, w, x, x_stride, n_cols, TILE_TOKENS);
    }
    switch (n_tokens - token) {
    case 5:
        multiply_tile(out, token, w, x, x_stride, n_cols, 5);
        break;
    case 4:
        multiply_tile(out, token, w, x, x_stride, n_cols, 4);
        break;
    case 3:
        multiply_tile(out, token, w, x, x_stride, n_cols, 3);
        break;
    case 2:
        multiply_tile(out, token, w, x, x_stride, n_cols, 2);
        break;
    case 1:
        multiply_tile(out, token, w, x, x_stride, n_cols, 1);
        break;
    default:
        break;
    }
}

/* At most BLOCK_TOKENS tokens and TILE_ROWS rows. Where there are fewer rows, the last is decoded again in
 * place of the missing ones and not written. */
static void gemm_block(float *y, int64_t y_stride, const struct any4_matrix *w, const float *x,
                       int64_t x_stride, int32_t n_tokens, int32_t row, int32_t n_rows)
{
    struct decoded decoded;
    __m512 sums[BLOCK_TOKENS][TILE_ROWS];
    struct tile_sums out = {.sums = sums, .y = y + row, .y_stride = y_stride, .n_rows = n_rows};
    for (int32_t begin = 0; begin < w->n_cols; begin += CHUNK_COLS) {
        int32_t end = w->n_cols - begin < CHUNK_COLS ? w->n_cols : begin + CHUNK_COLS;
        for (int32_t r = 0; r < TILE_ROWS; r++) {
            decode(&decoded, w, row + (r < n_rows ? r : n_rows - 1), r, begin, end);
        }
        out.is_first = begin == 0;
        out.is_last = end == w->n_cols;
        multiply(&out, &decoded, x + begin, x_stride, end - begin, n_tokens);
    }
}

void avx512_any4_gemm(float *y, int64_t y_stride, const struct any4_matrix *w, const float *x,
                      int64_t x_stride, int32_t n_tokens, int32_t row_begin, int32_t row_end)
{
    /* A chunk starts with a group: decode_lut4 relies on it. */
    assert(w->kind != ANY4_LUT4 || (w->layout == ANY4_LAYOUT_CPU_V1 && CHUNK_COLS % w->group_size == 0));
    if (n_tokens == 1) {
        avx512_any4_gemv(y, w, x, row_begin, row_end);
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
