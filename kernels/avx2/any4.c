/* Matrix times vector(s) in f32, codes decoded 32 columns (a block) at a time. ANY4_LUT: a row's table is two
 * registers of f32; the group's scale and zero point are folded into them once per block, then two permutes
 * and a blend decode 8 codes. ANY4_LUT_INT8: a row's table is 16 bytes, one byte shuffle decodes the block;
 * its values become f32 and are multiplied by the group's scale, which is exact, and the row's scale
 * multiplies the finished sum. ANY4_LINEAR is the same with the codes for values. Everything that depends on
 * kind and width is a constant in each copy of the loops.
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

/* A group is 2^this blocks. */
FORCE_INLINE int32_t group_shift(const struct any4_matrix *w)
{
    return w->group_size == 32 ? 0 : w->group_size == 64 ? 1 : 2;
}

/* Scale and zero point of each of a chunk's blocks, as f32: those of its group. */
struct scales {
    float scale[CHUNK_BLOCKS + 3], zero[CHUNK_BLOCKS + 3];
};

/* Of the chunk that starts at column begin, which is a multiple of CHUNK_COLS. */
FORCE_INLINE void load_scales(struct scales *out, const struct any4_matrix *w, int32_t row, int32_t begin,
                              const enum any4_kind kind)
{
    const int32_t shift = group_shift(w), first = begin / w->group_size;
    __m256i index = _mm256_srlv_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(shift));
    int64_t at = (int64_t)row * w->n_groups + first;
    int32_t n = w->n_groups - first, group = 0;
    for (; n - group >= LANES && group << shift < CHUNK_BLOCKS; group += LANES >> shift) {
        __m256 scale = kind == ANY4_LUT_INT8 ? load_i8(w->group_scales, at + group)
                                             : load_bf16(w->scales, at + group, LANES);
        _mm256_storeu_ps(out->scale + (group << shift), _mm256_permutevar8x32_ps(scale, index));
        if (kind != ANY4_LUT_INT8) {
            __m256 zero = w->zeros ? load_bf16(w->zeros, at + group, LANES) : _mm256_setzero_ps();
            _mm256_storeu_ps(out->zero + (group << shift), _mm256_permutevar8x32_ps(zero, index));
        }
    }
    /* The last few: four copies each, of which the next group's replace those too many. */
    for (; group < n && group << shift < CHUNK_BLOCKS; group++) {
        float scale =
            kind == ANY4_LUT_INT8 ? w->group_scales[at + group] : bf16_to_f32(w->scales[at + group]);
        _mm_storeu_ps(out->scale + (group << shift), _mm_set1_ps(scale));
        if (kind != ANY4_LUT_INT8) {
            float zero = w->zeros ? bf16_to_f32(w->zeros[at + group]) : 0.0f;
            _mm_storeu_ps(out->zero + (group << shift), _mm_set1_ps(zero));
        }
    }
}

/* What decodes codes. A row's holds its table: of ANY4_LUT as f32, entries 0..7 and 8..15 of 16, or 0..3 and
 * 4..7 of 8 (each twice), or the four of 4 (twice, in low); of ANY4_LUT_INT8 as bytes, in both halves. A
 * block's has scale and zero point besides, folded into a table of f32. */
struct decoder {
    __m256 low, high;
    __m256i bytes;
    __m256 scale, zero;
};

FORCE_INLINE struct decoder row_decoder(const struct any4_matrix *w, int32_t row, const enum any4_kind kind,
                                        const int32_t bits)
{
    const int64_t at = (int64_t)row << bits;
    struct decoder d = {0};
    if (kind == ANY4_LUT_INT8) {
        int8_t bytes[ANY4_MAX_TABLE] = {0};
        memcpy(bytes, w->table + at, bits == 4 ? 16 : bits == 3 ? 8 : 4);
        d.bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)bytes));
    } else if (kind == ANY4_LUT && bits == 4) {
        d.low = load_bf16(w->lut, at, LANES);
        d.high = load_bf16(w->lut, at + LANES, LANES);
    } else if (kind == ANY4_LUT) {
        __m256 entries = load_bf16(w->lut, at, bits == 3 ? LANES : 4);
        d.low = _mm256_permute2f128_ps(entries, entries, 0x00);
        d.high = _mm256_permute2f128_ps(entries, entries, 0x11);
    }
    return d;
}

/* scale * lut is exact in f32 (8 + 8 bits), so the FMA rounds as the scalar does. */
FORCE_INLINE struct decoder block_decoder(struct decoder d, const struct scales *scales, int32_t block,
                                          const enum any4_kind kind)
{
    d.scale = _mm256_broadcast_ss(&scales->scale[block]);
    if (kind != ANY4_LUT_INT8) {
        d.zero = _mm256_broadcast_ss(&scales->zero[block]);
    }
    if (kind == ANY4_LUT) {
        d.low = _mm256_fmadd_ps(d.low, d.scale, d.zero);
        d.high = _mm256_fmadd_ps(d.high, d.scale, d.zero);
    }
    return d;
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
    if (bits == 3) { /* byte i looks at bit i of the block's last word */
        const __m256i which =
            _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
        const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
        int32_t high;
        memcpy(&high, block + 8, sizeof high);
        __m256i set = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(high), which), bit);
        set = _mm256_and_si256(_mm256_cmpeq_epi8(set, bit), _mm256_set1_epi8(4));
        codes = _mm256_or_si256(codes, set);
    }
    return codes;
}

/* The weights of ANY4_LUT_INT8 (without the row's scale) and ANY4_LINEAR: int8 values of 32 codes at once,
 * times the scale. Both products are exact in f32, so the FMA rounds as the scalar does. */
FORCE_INLINE void decode_bytes(__m256 weights[BLOCK_VECTORS], const uint8_t *block, struct decoder d,
                               const enum any4_kind kind, const int32_t bits)
{
    __m256i codes = load_codes(block, bits);
    __m256i values = kind == ANY4_LUT_INT8 ? _mm256_shuffle_epi8(d.bytes, codes)
                                           : _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    for (int32_t part = 0; part < BLOCK_VECTORS; part++) {
        __m128i half = part < 2 ? _mm256_castsi256_si128(values) : _mm256_extracti128_si256(values, 1);
        __m128i eight = part % 2 ? _mm_unpackhi_epi64(half, half) : half;
        __m256 value = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
        weights[part] =
            kind == ANY4_LUT_INT8 ? _mm256_mul_ps(value, d.scale) : _mm256_fmadd_ps(value, d.scale, d.zero);
    }
}

/* The weights of ANY4_LUT: two permutes (each reads the low 3 bits of its lanes, and where a code has fewer
 * the table is repeated) and a blend by the code's highest bit for 8 codes. */
FORCE_INLINE void decode_lut(__m256 weights[BLOCK_VECTORS], const uint8_t *block, struct decoder d,
                             const int32_t bits)
{
    for (int32_t part = 0; part < BLOCK_VECTORS; part++) {
        const uint8_t *from = bits == 4 ? block + part % 2 * LANES : block;
        const int32_t shift = bits == 4 ? part / 2 * 4 : part * 2;
        __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from)), top;
        __m256i index = shift ? _mm256_srli_epi32(bytes, shift) : bytes;
        weights[part] = _mm256_permutevar8x32_ps(d.low, index);
        if (bits == 2) {
            continue;
        }
        if (bits == 4) { /* the highest bit as the sign, where blendv looks */
            top = _mm256_slli_epi32(bytes, 28 - shift);
        } else {
            const __m256i to_sign = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
            top = _mm256_sllv_epi32(_mm256_set1_epi32(block[LANES + part]), to_sign);
        }
        weights[part] = _mm256_blendv_ps(weights[part], _mm256_permutevar8x32_ps(d.high, index),
                                         _mm256_castsi256_ps(top));
    }
}

/* The 32 weights of a block. */
FORCE_INLINE void decode_block(__m256 weights[BLOCK_VECTORS], const uint8_t *block, struct decoder d,
                               const enum any4_kind kind, const int32_t bits)
{
    if (kind == ANY4_LUT) {
        decode_lut(weights, block, d, bits);
    } else {
        decode_bytes(weights, block, d, kind, bits);
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
    __m256 sum[GEMV_ROWS], weights[BLOCK_VECTORS];
    struct decoder rows[GEMV_ROWS];
    const uint8_t *codes[GEMV_ROWS];
    struct scales scales[GEMV_ROWS];
    for (int32_t r = 0; r < n_rows; r++) {
        sum[r] = _mm256_setzero_ps();
        rows[r] = row_decoder(w, row + r, kind, bits);
        codes[r] = row_codes(w, row + r);
    }
    for (int32_t begin = 0; begin < w->n_cols; begin += CHUNK_COLS) {
        int32_t left = chunk_end(w, begin) - begin, block = 0;
        for (int32_t r = 0; r < n_rows; r++) {
            load_scales(&scales[r], w, row + r, begin, kind);
            prefetch_chunk(w, row + r + GEMV_ROWS, begin, kind, bits);
        }
        for (; left >= ANY4_BLOCK_COLS; left -= ANY4_BLOCK_COLS, block++) {
            for (int32_t r = 0; r < n_rows; r++) {
                decode_block(weights, codes[r], block_decoder(rows[r], &scales[r], block, kind), kind, bits);
                for (int32_t part = 0; part < BLOCK_VECTORS; part++) {
                    __m256 x_part = _mm256_loadu_ps(x + part * LANES);
                    sum[r] = _mm256_fmadd_ps(weights[part], x_part, sum[r]);
                }
                codes[r] += any4_block_bytes(bits);
            }
            x += ANY4_BLOCK_COLS;
        }
        for (int32_t r = 0; left && r < n_rows; r++) { /* the row's end: codes fill the block, x does not */
            decode_block(weights, codes[r], block_decoder(rows[r], &scales[r], block, kind), kind, bits);
            for (int32_t part = 0; part < BLOCK_VECTORS && left > part * LANES; part++) {
                int32_t here = left - part * LANES;
                sum[r] = add_tail(weights[part], load_f32(x, part * LANES, here), sum[r], here);
            }
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
    struct decoder of_row = row_decoder(w, row, kind, bits);
    struct scales scales;
    load_scales(&scales, w, row, begin, kind);
    prefetch_chunk(w, row + TILE_ROWS, begin, kind, bits);
    for (int32_t block = 0; begin + block * ANY4_BLOCK_COLS < end; block++) {
        __m256 weights[BLOCK_VECTORS];
        decode_block(weights, codes, block_decoder(of_row, &scales, block, kind), kind, bits);
        for (int32_t part = 0; part < BLOCK_VECTORS; part++) {
            out->weights[block * BLOCK_VECTORS + part][r] = weights[part];
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
