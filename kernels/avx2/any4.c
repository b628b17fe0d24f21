/* Matrix times vector(s) in f32. A row's table of up to 16 values is two registers: per block of 32 columns
 * the group's scale and zero point are folded into them, then two permutes (each reads the low 3 bits) and a
 * blend by the code's highest bit decode 8 codes; a table of 4 values, repeated, takes one permute and no
 * blend. ANY4_LUT_INT8 is folded as the exact integer group scale * table value; the row's scale multiplies
 * the finished sum. Everything that depends on kind and width is a constant in each copy of the loops.
 *
 * Every path adds in the same order: one accumulator of 8 lanes per (row, token), columns 8 at a time from 0,
 * the lanes summed last by sum_lanes. So gemv, gemm and any split of rows or tokens give the same bits. */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"

#include <assert.h>

#include "engine/base/float16.h"

enum {
    GEMV_ROWS = 2, /* decoding takes as long as the two chains of FMAs */
    TILE_ROWS = 4, /* 4 x 3 accumulators of the 16 registers */
    TILE_TOKENS = 3,
    CHUNK_COLS = 512,  /* columns decoded at once: 8 KiB for 4 rows stay in L1 beside x */
    BLOCK_TOKENS = 48, /* tokens that share one decoding; their running sums are 6 KiB */
    BLOCK_VECTORS = ANY4_BLOCK_COLS / LANES,
    CHUNK_BLOCKS = CHUNK_COLS / ANY4_BLOCK_COLS,
};

FORCE_INLINE const uint8_t *row_codes(const struct any4_matrix *w, int32_t row)
{
    return w->codes + (size_t)row * w->row_bytes;
}

/* A row's table. ANY4_LUT: as f32, entries 0..7 and 8..15 of 16; entries 0..3 and 4..7 of 8, each repeated;
 * the four entries of 4 repeated (high is unused). ANY4_LUT_INT8: its bytes, in both halves of low. */
struct table {
    __m256 low, high;
};

FORCE_INLINE struct table row_table(const struct any4_matrix *w, int32_t row, const enum any4_kind kind,
                                    const int32_t bits)
{
    const int64_t at = (int64_t)row << bits;
    struct table table = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    if (kind == ANY4_LUT_INT8) {
        int8_t bytes[ANY4_MAX_TABLE] = {0};
        memcpy(bytes, w->table + at, (size_t)1 << bits);
        __m128i half = _mm_loadu_si128((const __m128i *)bytes);
        table.low = _mm256_castsi256_ps(_mm256_broadcastsi128_si256(half));
    } else if (kind == ANY4_LUT && bits == 4) {
        table.low = load_bf16(w->lut, at, LANES);
        table.high = load_bf16(w->lut, at + LANES, LANES);
    } else if (kind == ANY4_LUT) {
        __m256 entries = load_bf16(w->lut, at, 1 << bits);
        table.low = _mm256_permute2f128_ps(entries, entries, 0x00);
        table.high = _mm256_permute2f128_ps(entries, entries, 0x11);
    }
    return table;
}

/* Scale and zero point of the group that each of a chunk's blocks belongs to, as f32. */
struct chunk_scales {
    float scale[CHUNK_BLOCKS], zero[CHUNK_BLOCKS];
};

/* Of the chunk that starts at column begin, which is a multiple of CHUNK_COLS. */
FORCE_INLINE void load_scales(struct chunk_scales *out, const struct any4_matrix *w, int32_t row,
                              int32_t begin, const enum any4_kind kind)
{
    const int32_t shift = w->group_size == 32 ? 0 : w->group_size == 64 ? 1 : 2;
    __m256i index = _mm256_srlv_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(shift));
    for (int32_t block = 0; block < CHUNK_BLOCKS; block += LANES) {
        int32_t group = begin / w->group_size + (block >> shift), left = w->n_groups - group;
        int64_t at = (int64_t)row * w->n_groups + group;
        if (left <= 0) {
            return;
        }
        __m256 scale =
            kind == ANY4_LUT_INT8 ? load_i8(w->group_scales, at, left) : load_bf16(w->scales, at, left);
        _mm256_storeu_ps(out->scale + block, _mm256_permutevar8x32_ps(scale, index));
        if (kind != ANY4_LUT_INT8) {
            __m256 zero = w->zeros ? load_bf16(w->zeros, at, left) : _mm256_setzero_ps();
            _mm256_storeu_ps(out->zero + block, _mm256_permutevar8x32_ps(zero, index));
        }
    }
}

/* The 32 codes of a block, one a byte. */
FORCE_INLINE __m256i load_codes(const uint8_t *block, const int32_t bits)
{
    if (bits == 8) {
        return _mm256_loadu_si256((const __m256i *)block);
    }
    if (bits == 4) {
        const __m256i shifts = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
        __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)block));
        return _mm256_and_si256(_mm256_srlv_epi32(bytes, shifts), _mm256_set1_epi8(15));
    }
    int64_t low;
    memcpy(&low, block, sizeof low);
    __m256i codes = _mm256_srlv_epi64(_mm256_set1_epi64x(low), _mm256_setr_epi64x(0, 2, 4, 6));
    codes = _mm256_and_si256(codes, _mm256_set1_epi8(3));
    if (bits == 3) { /* byte i of the result looks at bit i of the block's last word */
        const __m256i which = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
        const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
        int32_t high;
        memcpy(&high, block + 8, sizeof high);
        __m256i set = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(high), which), bit);
        codes = _mm256_or_si256(codes, _mm256_and_si256(_mm256_cmpeq_epi8(set, bit), _mm256_set1_epi8(4)));
    }
    return codes;
}

/* The 32 weights of a block (ANY4_LUT_INT8: without the row's scale). The products of scale with table or code
 * are exact in f32 (two bf16, two int8, or bf16 and 8 bits), so the FMA rounds as the scalar does. */
FORCE_INLINE void decode_block(__m256 weights[BLOCK_VECTORS], const uint8_t *block, struct table table,
                               const struct chunk_scales *scales, int32_t at, const enum any4_kind kind,
                               const int32_t bits)
{
    __m256 scale = _mm256_broadcast_ss(&scales->scale[at]), zero = _mm256_broadcast_ss(&scales->zero[at]);
    __m256i codes = load_codes(block, bits);
    __m256i values = kind == ANY4_LUT_INT8 ? _mm256_shuffle_epi8(_mm256_castps_si256(table.low), codes)
                     : kind == ANY4_LINEAR ? _mm256_xor_si256(codes, _mm256_set1_epi8(-128))
                                           : codes;
    if (kind == ANY4_LUT) {
        table.low = _mm256_fmadd_ps(table.low, scale, zero);
        table.high = bits == 2 ? table.low : _mm256_fmadd_ps(table.high, scale, zero);
    }
#ifdef SPILL
    int8_t bytes[32] __attribute__((aligned(32)));
    _mm256_store_si256((__m256i*)bytes, values);
    __asm__("" : "+m"(bytes));
#endif
    for (int32_t part = 0; part < BLOCK_VECTORS; part++) {
#ifdef SPILL
        __m128i eight = _mm_loadl_epi64((const __m128i*)(bytes + 8 * part));
#else
        __m128i half = part < 2 ? _mm256_castsi256_si128(values) : _mm256_extracti128_si256(values, 1);
        __m128i eight = part % 2 ? _mm_unpackhi_epi64(half, half) : half;
#endif
        if (kind == ANY4_LUT) {
            __m256i index = _mm256_cvtepu8_epi32(eight);
            weights[part] = _mm256_permutevar8x32_ps(table.low, index);
            if (bits > 2) { /* the code's highest bit as the sign, where blendv looks */
                __m256 top = _mm256_castsi256_ps(_mm256_slli_epi32(index, 32 - bits));
                __m256 upper = _mm256_permutevar8x32_ps(table.high, index);
                weights[part] = _mm256_blendv_ps(weights[part], upper, top);
            }
        } else {
            __m256 value = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
            weights[part] = kind == ANY4_LINEAR ? _mm256_fmadd_ps(value, scale, zero) : _mm256_mul_ps(value, scale);
        }
    }
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

/* y[r] = the lanes of sum[r] for rows row + r, r < n_rows, times the rows' scales if there are any. */
FORCE_INLINE void store_sums(float *y, const __m256 *sum, const struct any4_matrix *w, int32_t row,
                             int32_t n_rows)
{
    const float *scales = w->kind == ANY4_LUT_INT8 ? w->row_scales + row : NULL;
    for (int32_t r = 0; r < n_rows; r++) {
        y[r] = scales ? sum_lanes(sum[r]) * scales[r] : sum_lanes(sum[r]);
    }
}

FORCE_INLINE void coded_gemv_rows(float *y, const struct any4_matrix *w, const float *x, int32_t row,
                                  const enum any4_kind kind, const int32_t bits, const int32_t n_rows)
{
    __m256 sum[GEMV_ROWS];
    struct table table[GEMV_ROWS];
    const uint8_t *codes[GEMV_ROWS];
    struct chunk_scales scales[GEMV_ROWS];
    for (int32_t r = 0; r < n_rows; r++) {
        sum[r] = _mm256_setzero_ps();
        table[r] = row_table(w, row + r, kind, bits);
        codes[r] = row_codes(w, row + r);
    }
    for (int32_t begin = 0; begin < w->n_cols; begin += CHUNK_COLS) {
        int32_t left = w->n_cols - begin < CHUNK_COLS ? w->n_cols - begin : CHUNK_COLS;
        for (int32_t r = 0; r < n_rows; r++) {
            load_scales(&scales[r], w, row + r, begin, kind);
        }
        for (int32_t at = 0; left > 0; left -= ANY4_BLOCK_COLS, at++) {
            for (int32_t r = 0; r < n_rows; r++) {
                __m256 weights[BLOCK_VECTORS];
                decode_block(weights, codes[r], table[r], &scales[r], at, kind, bits);
                if (left >= ANY4_BLOCK_COLS) {
                    for (int32_t part = 0; part < BLOCK_VECTORS; part++) {
                        __m256 x_part = _mm256_loadu_ps(x + part * LANES);
                        sum[r] = _mm256_fmadd_ps(weights[part], x_part, sum[r]);
                    }
                } else { /* the end of the row: codes fill the block, x does not */
                    for (int32_t part = 0; left > part * LANES; part++) {
                        int32_t here = left - part * LANES;
                        sum[r] = add_tail(weights[part], load_f32(x, part * LANES, here), sum[r], here);
                    }
                }
                codes[r] += any4_block_bytes(bits);
            }
            x += ANY4_BLOCK_COLS;
        }
    }
    store_sums(y + row, sum, w, row, n_rows);
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

void avx2_any4_gemv(float *y, const struct any4_matrix *w, const float *x, int32_t row_begin, int32_t row_end)
{
    assert_runs(w);
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

FORCE_INLINE void decode_coded(struct decoded *out, const struct any4_matrix *w, int32_t row, int32_t r,
                               int32_t begin, int32_t end, const enum any4_kind kind, const int32_t bits)
{
    const uint8_t *codes = row_codes(w, row) + begin / ANY4_BLOCK_COLS * any4_block_bytes(bits);
    struct table table = row_table(w, row, kind, bits);
    struct chunk_scales scales;
    load_scales(&scales, w, row, begin, kind);
    for (int32_t at = 0; begin + at * ANY4_BLOCK_COLS < end; at++) {
        __m256 weights[BLOCK_VECTORS];
        decode_block(weights, codes, table, &scales, at, kind, bits);
        for (int32_t part = 0; part < BLOCK_VECTORS; part++) {
            out->weights[at * BLOCK_VECTORS + part][r] = weights[part];
        }
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
        store_sums(y + t * y_stride + row, sums[t], w, row, n_rows);
    }
}

void avx2_any4_gemm(float *y, int64_t y_stride, const struct any4_matrix *w, const float *x, int64_t x_stride,
                    int32_t n_tokens, int32_t row_begin, int32_t row_end)
{
    assert_runs(w);
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
