/* Matrix times vector(s) in f32. A row's table of up to 16 values is one register: per block of 32 columns
 * the group's scale and zero point are folded into it, then one permute decodes 16 codes (it reads the low 4
 * bits of each lane, and tables of 4 or 8 values are repeated: no masks). ANY4_LUT_INT8 is folded as the
 * exact integer group scale * table value; the row's scale multiplies the finished sum. Everything that
 * depends on kind and width is a constant in each copy of the loops.
 *
 * Every path adds in the same order: one accumulator of 16 lanes per (row, token), columns 16 at a time from
 * 0, the lanes summed last by sum_lanes. So gemv, gemm and any split of rows or tokens give the same bits. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "engine/base/float16.h"

enum {
    TILE_ROWS = 4,     /* as many independent chains as hide the latency of an FMA */
    TILE_TOKENS = 6,   /* 4 x 6 accumulators of the 32 registers */
    CHUNK_COLS = 512,  /* columns decoded at once: 8 KiB for 4 rows stay in L1 beside x */
    BLOCK_TOKENS = 72, /* tokens that share one decoding; their running sums are 18 KiB */
    CHUNK_BLOCKS = CHUNK_COLS / ANY4_BLOCK_COLS,
};

FORCE_INLINE const uint8_t *row_codes(const struct any4_matrix *w, int32_t row)
{
    return w->codes + (size_t)row * w->row_bytes;
}

FORCE_INLINE __m512i lane_numbers(void)
{
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

/* The row's table as f32, without scales, repeated until it fills the lanes. */
FORCE_INLINE __m512 row_table(const struct any4_matrix *w, int32_t row, const enum any4_kind kind,
                              const int32_t bits)
{
    if (kind == ANY4_LINEAR) {
        return _mm512_setzero_ps(); /* has none */
    }
    const int32_t n = 1 << bits;
    int64_t at = (int64_t)row * n;
    __m512 table =
        kind == ANY4_LUT ? load_bf16(w->lut, at, lanes_mask(n)) : load_i8(w->table, at, lanes_mask(n));
    return bits == 4
               ? table
               : _mm512_permutexvar_ps(_mm512_and_si512(lane_numbers(), _mm512_set1_epi32(n - 1)), table);
}

/* A group is 2^this blocks. */
FORCE_INLINE int32_t group_shift(const struct any4_matrix *w)
{
    return w->group_size == 32 ? 0 : w->group_size == 64 ? 1 : 2;
}

/* Scale and zero point of each of a chunk's blocks, as f32: those of its group. */
struct scales {
    float scale[CHUNK_BLOCKS], zero[CHUNK_BLOCKS];
};

/* Of the chunk that starts at column begin, which is a multiple of CHUNK_COLS. */
FORCE_INLINE void load_scales(struct scales *out, const struct any4_matrix *w, int32_t row, int32_t begin,
                              const enum any4_kind kind)
{
    static_assert((int)CHUNK_BLOCKS == (int)LANES, "a chunk's scales are one register");
    const int32_t first = begin / w->group_size;
    __m512i group = _mm512_srlv_epi32(lane_numbers(), _mm512_set1_epi32(group_shift(w)));
    __mmask16 mask = lanes_mask(w->n_groups - first);
    int64_t at = (int64_t)row * w->n_groups + first;
    __m512 scale =
        kind == ANY4_LUT_INT8 ? load_i8(w->group_scales, at, mask) : load_bf16(w->scales, at, mask);
    _mm512_storeu_ps(out->scale, _mm512_permutexvar_ps(group, scale));
    if (kind != ANY4_LUT_INT8) {
        __m512 zero = w->zeros ? load_bf16(w->zeros, at, mask) : _mm512_setzero_ps();
        _mm512_storeu_ps(out->zero, _mm512_permutexvar_ps(group, zero));
    }
}

/* Codes of columns 0..15 and 16..31 of a block, each in the low `bits` bits of its lane; above them anything
 * where a repeated table does not look (see row_table). */
FORCE_INLINE void load_codes(__m512i codes[2], const uint8_t *block, const int32_t bits)
{
    if (bits == 4) {
        codes[0] = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)block));
        codes[1] = _mm512_srli_epi32(codes[0], 4);
    } else if (bits == 8) {
        codes[0] = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)block));
        codes[1] = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(block + LANES)));
    } else {
        /* Bytes 0..7 twice, one a lane: columns 0..7 are their bits 0 and 1, 8..15 bits 2 and 3 and so on */
        const __m512i shifts = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2);
        uint64_t low;
        memcpy(&low, block, sizeof low);
        __m512i bytes = _mm512_cvtepu8_epi32(_mm_set1_epi64x((int64_t)low));
        codes[0] = _mm512_srlv_epi32(bytes, shifts);
        codes[1] = _mm512_srli_epi32(codes[0], 4);
        if (bits == 3) { /* bit i of the block's last word becomes bit 2 of lane i */
            const __m512i turn =
                _mm512_setr_epi32(2, 1, 0, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19);
            const __m512i three = _mm512_set1_epi32(3), half = _mm512_set1_epi32(LANES);
            int32_t high;
            memcpy(&high, block + 8, sizeof high);
            __m512i word = _mm512_set1_epi32(high);
            __m512i high_low = _mm512_rolv_epi32(word, turn);
            __m512i high_high = _mm512_rolv_epi32(word, _mm512_sub_epi32(turn, half));
            codes[0] = _mm512_ternarylogic_epi32(three, codes[0], high_low, 0xca); /* three ? codes : high */
            codes[1] = _mm512_ternarylogic_epi32(three, codes[1], high_high, 0xca);
        }
    }
}

/* What decodes a block's codes: its group's weights (ANY4_LUT_INT8: without the row's scale), or for
 * ANY4_LINEAR scale and zero point. */
struct decoder {
    __m512 table;
    __m512 scale, zero;
};

/* The products of scale with table or code are exact in f32 (two bf16, two int8, or bf16 and 8 bits), so the
 * FMA rounds as the scalar does. */
FORCE_INLINE struct decoder block_decoder(__m512 table, const struct scales *scales, int32_t block,
                                          const enum any4_kind kind)
{
    struct decoder d = {.scale = _mm512_set1_ps(scales->scale[block])};
    if (kind == ANY4_LUT_INT8) {
        d.table = _mm512_mul_ps(table, d.scale);
    } else {
        d.zero = _mm512_set1_ps(scales->zero[block]);
        d.table = kind == ANY4_LUT ? _mm512_fmadd_ps(table, d.scale, d.zero) : table;
    }
    return d;
}

/* The 32 weights of a block. */
FORCE_INLINE void decode_block(__m512 weights[2], const uint8_t *block, struct decoder d,
                               const enum any4_kind kind, const int32_t bits)
{
    __m512i codes[2];
    load_codes(codes, block, bits);
    for (int32_t i = 0; i < 2; i++) {
        if (kind == ANY4_LINEAR) {
            __m512i value = _mm512_sub_epi32(codes[i], _mm512_set1_epi32(1 << (bits - 1)));
            weights[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(value), d.scale, d.zero);
        } else {
            weights[i] = _mm512_permutexvar_ps(codes[i], d.table);
        }
    }
}

/* y[r] = the lanes of sum[r] for rows row + r, r < n_rows <= TILE_ROWS, times the rows' scales if there are
 * any. */
FORCE_INLINE void store_sums(float *y, const __m512 *sum, const struct any4_matrix *w, int32_t row,
                             int32_t n_rows)
{
    const float *scales = w->kind == ANY4_LUT_INT8 ? w->row_scales + row : NULL;
    if (n_rows == TILE_ROWS) {
        __m128 sums = sum_lanes4(sum[0], sum[1], sum[2], sum[3]);
        _mm_storeu_ps(y, scales ? _mm_mul_ps(sums, _mm_loadu_ps(scales)) : sums);
        return;
    }
    for (int32_t r = 0; r < n_rows; r++) {
        y[r] = scales ? sum_lanes(sum[r]) * scales[r] : sum_lanes(sum[r]);
    }
}

FORCE_INLINE __m512 load_stored(enum any4_kind kind, const uint8_t *row, int32_t col, __mmask16 mask)
{
    return kind == ANY4_F32   ? load_f32(row, col, mask)
           : kind == ANY4_F16 ? load_f16(row, col, mask)
                              : load_bf16(row, col, mask);
}

FORCE_INLINE int32_t chunk_end(const struct any4_matrix *w, int32_t begin)
{
    return w->n_cols - begin < CHUNK_COLS ? w->n_cols : begin + CHUNK_COLS;
}

/* Asks for the codes and scales of a chunk; without it a product with one vector waits for memory, for the
 * hardware's own prefetchers follow neither several rows at once nor one row into the next. A prefetch of an
 * address behind the matrix does nothing: hence integers, where pointers must stay inside. Rows
 * shorter than a chunk lie so close that the hardware copes. */
FORCE_INLINE void prefetch_chunk(const struct any4_matrix *w, int32_t row, int32_t begin,
                                 const enum any4_kind kind, const int32_t bits)
{
    if (w->n_cols < CHUNK_COLS) {
        return;
    }
    uintptr_t codes = (uintptr_t)w->codes + (size_t)row * w->row_bytes + (size_t)begin / 8 * (size_t)bits;
    for (int32_t byte = 0; byte < CHUNK_COLS / 8 * bits; byte += 64) {
        _mm_prefetch((const char *)(codes + (size_t)byte), _MM_HINT_T0);
    }
    size_t at = (size_t)row * (size_t)w->n_groups + (size_t)(begin / w->group_size);
    if (kind == ANY4_LUT_INT8) {
        _mm_prefetch((const char *)((uintptr_t)w->group_scales + at), _MM_HINT_T0);
    } else {
        _mm_prefetch((const char *)((uintptr_t)w->scales + at * sizeof *w->scales), _MM_HINT_T0);
        if (w->zeros) {
            _mm_prefetch((const char *)((uintptr_t)w->zeros + at * sizeof *w->zeros), _MM_HINT_T0);
        }
    }
}

FORCE_INLINE void coded_gemv_rows(float *y, const struct any4_matrix *w, const float *x, int32_t row,
                                  const enum any4_kind kind, const int32_t bits, const int32_t n_rows)
{
    __m512 sum[TILE_ROWS], table[TILE_ROWS], weights[2];
    const uint8_t *codes[TILE_ROWS];
    struct scales scales[TILE_ROWS];
    for (int32_t r = 0; r < n_rows; r++) {
        sum[r] = _mm512_setzero_ps();
        table[r] = row_table(w, row + r, kind, bits);
        codes[r] = row_codes(w, row + r);
    }
    for (int32_t begin = 0; begin < w->n_cols; begin += CHUNK_COLS) {
        int32_t left = chunk_end(w, begin) - begin, block = 0;
        for (int32_t r = 0; r < n_rows; r++) {
            load_scales(&scales[r], w, row + r, begin, kind);
            prefetch_chunk(w, row + r + TILE_ROWS, begin, kind, bits);
        }
        for (; left >= ANY4_BLOCK_COLS; left -= ANY4_BLOCK_COLS, block++) {
            __m512 x_low = _mm512_loadu_ps(x), x_high = _mm512_loadu_ps(x + LANES);
            for (int32_t r = 0; r < n_rows; r++) {
                decode_block(weights, codes[r], block_decoder(table[r], &scales[r], block, kind), kind, bits);
                sum[r] = _mm512_fmadd_ps(weights[0], x_low, sum[r]);
                sum[r] = _mm512_fmadd_ps(weights[1], x_high, sum[r]);
                codes[r] += any4_block_bytes(bits);
            }
            x += ANY4_BLOCK_COLS;
        }
        if (left) { /* the end of the row: codes are padded to whole blocks, x is not */
            __mmask16 low = lanes_mask(left), high = lanes_mask(left - LANES);
            __m512 x_low = _mm512_maskz_loadu_ps(low, x);
            __m512 x_high = high ? _mm512_maskz_loadu_ps(high, x + LANES) : _mm512_setzero_ps();
            for (int32_t r = 0; r < n_rows; r++) {
                decode_block(weights, codes[r], block_decoder(table[r], &scales[r], block, kind), kind, bits);
                sum[r] = _mm512_mask3_fmadd_ps(weights[0], x_low, sum[r], low);
                sum[r] = _mm512_mask3_fmadd_ps(weights[1], x_high, sum[r], high);
            }
        }
    }
    store_sums(y + row, sum, w, row, n_rows);
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
    store_sums(y + row, sum, w, row, n_rows);
}

FORCE_INLINE void table_gemv_rows(float *y, const struct any4_matrix *w, const float *x, int32_t row,
                                  const enum any4_kind kind, const int32_t n_rows)
{
    switch (w->code_bits) {
    case 2:
        coded_gemv_rows(y, w, x, row, kind, 2, n_rows);
        break;
    case 3:
        coded_gemv_rows(y, w, x, row, kind, 3, n_rows);
        break;
    default:
        coded_gemv_rows(y, w, x, row, kind, 4, n_rows);
        break;
    }
}

/* Constant n_rows, kind and width in every copy, so that the accumulators are registers. */
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
        table_gemv_rows(y, w, x, row, ANY4_LUT, n_rows);
        break;
    case ANY4_LUT_INT8:
        table_gemv_rows(y, w, x, row, ANY4_LUT_INT8, n_rows);
        break;
    case ANY4_LINEAR:
        coded_gemv_rows(y, w, x, row, ANY4_LINEAR, 8, n_rows);
        break;
    }
}

/* Codes in the order and widths of quant/any4.h, and groups that do not straddle chunks. */
FORCE_INLINE void assert_runs(const struct any4_matrix *w)
{
    if (w->code_bits) {
        assert(w->layout == ANY4_LAYOUT_CPU_V1);
        assert(w->group_size == 32 || w->group_size == 64 || w->group_size == 128);
        assert(w->kind == ANY4_LINEAR ? w->code_bits == 8 : w->code_bits >= 2 && w->code_bits <= 4);
    }
}

void avx512_any4_gemv(float *y, const struct any4_matrix *w, const float *x, int32_t row_begin,
                      int32_t row_end)
{
    assert_runs(w);
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

FORCE_INLINE void decode_coded(struct decoded *out, const struct any4_matrix *w, int32_t row, int32_t r,
                               int32_t begin, int32_t end, const enum any4_kind kind, const int32_t bits)
{
    const uint8_t *codes = row_codes(w, row) + begin / ANY4_BLOCK_COLS * any4_block_bytes(bits);
    __m512 table = row_table(w, row, kind, bits);
    struct scales scales;
    load_scales(&scales, w, row, begin, kind);
    prefetch_chunk(w, row + TILE_ROWS, begin, kind, bits);
    for (int32_t block = 0; begin + block * ANY4_BLOCK_COLS < end; block++) {
        __m512 weights[2];
        decode_block(weights, codes, block_decoder(table, &scales, block, kind), kind, bits);
        out->weights[2 * block][r] = weights[0];
        out->weights[2 * block + 1][r] = weights[1];
        codes += any4_block_bytes(bits);
    }
}

FORCE_INLINE void decode_table(struct decoded *out, const struct any4_matrix *w, int32_t row, int32_t r,
                               int32_t begin, int32_t end, const enum any4_kind kind)
{
    switch (w->code_bits) {
    case 2:
        decode_coded(out, w, row, r, begin, end, kind, 2);
        break;
    case 3:
        decode_coded(out, w, row, r, begin, end, kind, 3);
        break;
    default:
        decode_coded(out, w, row, r, begin, end, kind, 4);
        break;
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
    case ANY4_LUT:
        decode_table(out, w, row, r, begin, end, ANY4_LUT);
        break;
    case ANY4_LUT_INT8:
        decode_table(out, w, row, r, begin, end, ANY4_LUT_INT8);
        break;
    case ANY4_LINEAR:
        decode_coded(out, w, row, r, begin, end, ANY4_LINEAR, 8);
        break;
    }
}

/* Where the sums of a row tile go: a piece of columns in the middle of a row starts from and ends in `sums`,
 * the first piece starts from zero, the last one ends in y. So rows of one piece, such as those of small
 * models, never leave the registers: gemm_block spent a third of its time on carrying sums of 128 columns. */
struct tile_sums {
    __m512 (*sums)[TILE_ROWS]; /* (n_tokens) */
    const struct any4_matrix *w;
    float *y; /* of the first token, at the first row */
    int64_t y_stride;
    int32_t row, n_rows;
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
            store_sums(out->y + (token + t) * out->y_stride, sum[t], out->w, out->row, TILE_ROWS);
        }
        return;
    }
    if (out->is_last) {
        for (int32_t t = 0; t < n_tokens; t++) {
            store_sums(out->y + (token + t) * out->y_stride, sum[t], out->w, out->row, out->n_rows);
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
    struct tile_sums out = {
        .sums = sums, .w = w, .y = y + row, .y_stride = y_stride, .row = row, .n_rows = n_rows};
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
    assert_runs(w);
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
