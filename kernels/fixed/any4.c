/* Matrix times vectors in the fixed order: columns in chunks of CHUNK_COLS from 0; within a chunk they are
 * added one after another, then the chunk's sum is added to the total. A lane is a row of the matrix: a tile
 * of rows is decoded once, column by column side by side, and all tokens are multiplied with it. Meant for
 * hundreds of tokens; one token pays for the decoding alone, but adds in the same order. */
#include <stddef.h>

#include "engine/base/float16.h"
#include "kernels/fixed/fixed.h"
#include "kernels/fixed/lanes.h"

enum {
    TILE_ROWS = 32,
    /* Additions that follow one another at most, besides those of the chunks; a decoded tile takes 16 KiB. */
    CHUNK_COLS = 128,
    /* Tokens that share one decoding: 256 and a BOS, in whole tiles; their sums take 34 KiB. */
    BLOCK_TOKENS = 264,
    SUB_VECS = 2,                     /* registers of rows ... */
    SUB_TOKENS = WIDTH == 16 ? 8 : 4, /* ... times tokens: sums that stay in registers */
    SUB_ROWS = SUB_VECS * WIDTH,
};

/* Weights of TILE_ROWS rows and a chunk of columns: w[column][row]. */
struct tile {
    float w[CHUNK_COLS][TILE_ROWS];
};

static void decode_stored(struct tile *tile, const struct any4_matrix *w, int32_t row, int32_t lane,
                          int32_t begin, int32_t n)
{
    /* Stored weights are element-aligned at best (they lie in a mapped file): read them bytewise. */
    const uint8_t *at = w->codes + (size_t)row * w->row_bytes + (size_t)begin * (w->kind == ANY4_F32 ? 4 : 2);
    if (w->kind == ANY4_F32) {
        for (int32_t i = 0; i < n; i++) {
            memcpy(&tile->w[i][lane], at + 4 * i, sizeof(float));
        }
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, at + 2 * i, sizeof half);
        tile->w[i][lane] = w->kind == ANY4_F16 ? f16_to_f32(half) : bf16_to_f32(half);
    }
}

/* The codes of a block of 32 columns, see quant/any4.h. */
FORCE_INLINE void unpack_block(uint8_t *codes, const uint8_t *block, const int32_t bits)
{
    if (bits == 8) {
        memcpy(codes, block, ANY4_BLOCK_COLS);
        return;
    }
    if (bits == 4) {
        for (int32_t i = 0; i < 16; i++) {
            codes[i] = block[i] & 15;
            codes[i + 16] = block[i] >> 4;
        }
        return;
    }
    for (int32_t i = 0; i < ANY4_BLOCK_COLS; i++) {
        codes[i] = (uint8_t)(block[i % 8] >> (i / 8 * 2) & 3);
        if (bits == 3) {
            codes[i] |= (uint8_t)((block[8 + i / 8] >> (i % 8) & 1) << 2);
        }
    }
}

/* What each code is worth in one group of a row. */
FORCE_INLINE void group_values(float *values, const struct any4_matrix *w, int32_t row, int32_t group,
                               const int32_t bits)
{
    const int32_t n = 1 << bits;
    size_t at = (size_t)row * (size_t)w->n_groups + (size_t)group;
    if (w->kind == ANY4_LUT_INT8) {
        const int8_t *table = w->table + (size_t)row * (size_t)n;
        for (int32_t code = 0; code < n; code++) {
            values[code] = w->row_scales[row] * (float)(w->group_scales[at] * table[code]);
        }
        return;
    }
    float scale = bf16_to_f32(w->scales[at]), zero = w->zeros ? bf16_to_f32(w->zeros[at]) : 0.0f;
    const uint16_t *lut = w->lut ? w->lut + (size_t)row * (size_t)n : NULL;
    for (int32_t code = 0; code < n; code++) {
        values[code] = scale * (lut ? bf16_to_f32(lut[code]) : (float)(code - n / 2)) + zero;
    }
}

FORCE_INLINE void decode_quantized(struct tile *tile, const struct any4_matrix *w, int32_t row, int32_t lane,
                                   int32_t begin, int32_t n, const int32_t bits)
{
    float values[256];
    int32_t known_group = -1;
    /* A chunk begins with a block, and a block lies in one group: group sizes are multiples of both. */
    for (int32_t col = begin; col < begin + n; col += ANY4_BLOCK_COLS) {
        uint8_t codes[ANY4_BLOCK_COLS];
        int32_t group = col / w->group_size, left = begin + n - col;
        if (group != known_group) {
            group_values(values, w, row, group, bits);
            known_group = group;
        }
        unpack_block(codes,
                     w->codes + (size_t)row * w->row_bytes +
                         (size_t)(col / ANY4_BLOCK_COLS) * any4_block_bytes(bits),
                     bits);
        for (int32_t i = 0; i < ANY4_BLOCK_COLS && i < left; i++) {
            tile->w[col - begin + i][lane] = values[codes[i]];
        }
    }
}

static void decode_row(struct tile *tile, const struct any4_matrix *w, int32_t row, int32_t lane,
                       int32_t begin, int32_t n)
{
    switch (w->code_bits) {
    case 2:
        decode_quantized(tile, w, row, lane, begin, n, 2);
        break;
    case 3:
        decode_quantized(tile, w, row, lane, begin, n, 3);
        break;
    case 4:
        decode_quantized(tile, w, row, lane, begin, n, 4);
        break;
    case 8:
        decode_quantized(tile, w, row, lane, begin, n, 8);
        break;
    default:
        decode_stored(tile, w, row, lane, begin, n);
        break;
    }
}

/* sums[t][row] += sum over the chunk's n columns, for n_tokens tokens and SUB_ROWS rows from `first`. */
FORCE_INLINE void multiply_sub(float (*sums)[TILE_ROWS], const struct tile *tile, const float *x,
                               int64_t x_stride, int32_t n, int32_t first, const int32_t n_tokens)
{
    vec sum[SUB_TOKENS][SUB_VECS];
    for (int32_t t = 0; t < n_tokens; t++) {
        for (int32_t v = 0; v < SUB_VECS; v++) {
            sum[t][v] = (vec){0};
        }
    }
    for (int32_t i = 0; i < n; i++) {
        const float *weights = tile->w[i] + first;
        for (int32_t t = 0; t < n_tokens; t++) {
            float factor = x[t * x_stride + i];
            for (int32_t v = 0; v < SUB_VECS; v++) {
                sum[t][v] += load(weights + v * WIDTH) * factor;
            }
        }
    }
    for (int32_t t = 0; t < n_tokens; t++) {
        for (int32_t v = 0; v < SUB_VECS; v++) {
            float *at = sums[t] + first + v * WIDTH;
            store(at, load(at) + sum[t][v]);
        }
    }
}

static void multiply(float (*sums)[TILE_ROWS], const struct tile *tile, const float *x, int64_t x_stride,
                     int32_t n, int32_t n_tokens)
{
    for (; n_tokens >= SUB_TOKENS; n_tokens -= SUB_TOKENS) {
        for (int32_t first = 0; first < TILE_ROWS; first += SUB_ROWS) {
            multiply_sub(sums, tile, x, x_stride, n, first, SUB_TOKENS);
        }
        sums += SUB_TOKENS;
        x += SUB_TOKENS * x_stride;
    }
    for (; n_tokens > 0; n_tokens--, sums++, x += x_stride) {
        for (int32_t first = 0; first < TILE_ROWS; first += SUB_ROWS) {
            multiply_sub(sums, tile, x, x_stride, n, first, 1);
        }
    }
}

/* At most BLOCK_TOKENS tokens and TILE_ROWS rows; lanes without a row hold zeros and are not written. */
static void gemm_block(float *y, int64_t y_stride, const struct any4_matrix *w, const float *x,
                       int64_t x_stride, int32_t n_tokens, int32_t row, int32_t n_rows)
{
    struct tile tile;
    float sums[BLOCK_TOKENS][TILE_ROWS];
    memset(sums, 0, (size_t)n_tokens * sizeof sums[0]);
    if (n_rows < TILE_ROWS) {
        memset(&tile, 0, sizeof tile);
    }
    for (int32_t begin = 0; begin < w->n_cols; begin += CHUNK_COLS) {
        int32_t n = w->n_cols - begin < CHUNK_COLS ? w->n_cols - begin : CHUNK_COLS;
        for (int32_t lane = 0; lane < n_rows; lane++) {
            decode_row(&tile, w, row + lane, lane, begin, n);
        }
        multiply(sums, &tile, x + begin, x_stride, n, n_tokens);
    }
    for (int32_t t = 0; t < n_tokens; t++) {
        memcpy(y + t * y_stride + row, sums[t], (size_t)n_rows * sizeof *y);
    }
}

void FIXED(any4_gemm)(float *y, int64_t y_stride, const struct any4_matrix *w, const float *x,
                      int64_t x_stride, int32_t n_tokens, int32_t row_begin, int32_t row_end)
{
    for (int32_t token = 0; token < n_tokens; token += BLOCK_TOKENS) {
        int32_t n = n_tokens - token < BLOCK_TOKENS ? n_tokens - token : BLOCK_TOKENS;
        for (int32_t row = row_begin; row < row_end; row += TILE_ROWS) {
            gemm_block(y + token * y_stride, y_stride, w, x + token * x_stride, x_stride, n, row,
                       row_end - row < TILE_ROWS ? row_end - row : TILE_ROWS);
        }
    }
}

void FIXED(any4_gemv)(float *y, const struct any4_matrix *w, const float *x, int32_t row_begin,
                      int32_t row_end)
{
    FIXED(any4_gemm)(y, 0, w, x, 0, 1, row_begin, row_end);
}
