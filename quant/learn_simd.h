/* The four tile steps of quant/learn.h on 16 groups at once: the same operations on every lane in the same
 * order, so the same bits. One source for AVX-512 (a register holds the 16 lanes) and AVX2 (two of 8 do). */
#ifndef QUANT_LEARN_SIMD_H
#define QUANT_LEARN_SIMD_H

#include <immintrin.h>

#include "quant/learn.h"

#define LEARN_INLINE static inline __attribute__((always_inline))

#ifdef __AVX512F__
enum { LEARN_WIDTH = 16 };
typedef __m512 learn_f;
typedef __mmask16 learn_mask;

LEARN_INLINE learn_f learn_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
LEARN_INLINE void learn_store(float *p, learn_f v)
{
    _mm512_storeu_ps(p, v);
}
LEARN_INLINE learn_f learn_set(float x)
{
    return _mm512_set1_ps(x);
}
LEARN_INLINE learn_f learn_add(learn_f a, learn_f b)
{
    return _mm512_add_ps(a, b);
}
LEARN_INLINE learn_f learn_sub(learn_f a, learn_f b)
{
    return _mm512_sub_ps(a, b);
}
LEARN_INLINE learn_f learn_fma(learn_f a, learn_f b, learn_f c) /* a b + c, rounded once */
{
    return _mm512_fmadd_ps(a, b, c);
}
LEARN_INLINE learn_f learn_mul(learn_f a, learn_f b)
{
    return _mm512_mul_ps(a, b);
}
LEARN_INLINE learn_f learn_div(learn_f a, learn_f b)
{
    return _mm512_div_ps(a, b);
}
LEARN_INLINE learn_mask learn_gt(learn_f a, learn_f b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}
LEARN_INLINE learn_mask learn_ne(learn_f a, learn_f b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ);
}
/* mask ? a : b; mask ? a : 0 */
LEARN_INLINE learn_f learn_select(learn_mask mask, learn_f a, learn_f b)
{
    return _mm512_mask_blend_ps(mask, b, a);
}
LEARN_INLINE learn_f learn_keep(learn_mask mask, learn_f a)
{
    return _mm512_maskz_mov_ps(mask, a);
}

/* Levels as the search tree reads them. */
struct learn_tree {
    __m512 middle, quarter, eighth, limit, table;
};
LEARN_INLINE struct learn_tree learn_tree_init(const struct learn_levels *levels)
{
    __m512 limits = _mm512_loadu_ps(levels->limits);
    __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    struct learn_tree tree = {
        .middle = _mm512_set1_ps(levels->limits[7]),
        .quarter = _mm512_permutexvar_ps(_mm512_add_epi32(lanes, _mm512_set1_epi32(3)), limits),
        .eighth = _mm512_permutexvar_ps(_mm512_add_epi32(lanes, _mm512_set1_epi32(1)), limits),
        .limit = limits,
        .table = _mm512_loadu_ps(levels->table),
    };
    return tree;
}
typedef __m512i learn_code;
LEARN_INLINE learn_code learn_find(const struct learn_tree *tree, learn_f u)
{
    __m512i k = _mm512_maskz_mov_epi32(learn_gt(u, tree->middle), _mm512_set1_epi32(8));
    __mmask16 up = learn_gt(u, _mm512_permutexvar_ps(k, tree->quarter));
    k = _mm512_mask_add_epi32(k, up, k, _mm512_set1_epi32(4));
    up = learn_gt(u, _mm512_permutexvar_ps(k, tree->eighth));
    k = _mm512_mask_add_epi32(k, up, k, _mm512_set1_epi32(2));
    up = learn_gt(u, _mm512_permutexvar_ps(k, tree->limit));
    return _mm512_mask_add_epi32(k, up, k, _mm512_set1_epi32(1));
}
LEARN_INLINE learn_f learn_level(const struct learn_tree *tree, learn_code k)
{
    return _mm512_permutexvar_ps(k, tree->table);
}
LEARN_INLINE void learn_store_codes(uint8_t *codes, learn_code k)
{
    _mm_storeu_si128((__m128i *)(void *)codes, _mm512_cvtepi32_epi8(k));
}
LEARN_INLINE learn_code learn_load_codes(const uint8_t *codes)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)codes));
}
LEARN_INLINE learn_mask learn_is(learn_code k, int32_t level)
{
    return _mm512_cmpeq_epi32_mask(k, _mm512_set1_epi32(level));
}
LEARN_INLINE learn_f learn_add_where(learn_mask mask, learn_f sum, learn_f x)
{
    return _mm512_mask_add_ps(sum, mask, sum, x);
}
LEARN_INLINE learn_mask learn_ge(learn_f a, learn_f b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
LEARN_INLINE learn_mask learn_less(learn_code a, learn_code b)
{
    return _mm512_cmplt_epi32_mask(a, b);
}
LEARN_INLINE learn_mask learn_and(learn_mask a, learn_mask b)
{
    return a & b;
}
LEARN_INLINE learn_mask learn_or(learn_mask a, learn_mask b)
{
    return a | b;
}
LEARN_INLINE void learn_store_ints(int32_t *p, learn_code v)
{
    _mm512_storeu_si512(p, v);
}
LEARN_INLINE learn_code learn_set_int(int32_t x)
{
    return _mm512_set1_epi32(x);
}
LEARN_INLINE learn_code learn_from(int32_t x) /* x, x + 1, x + 2 ... */
{
    return _mm512_add_epi32(_mm512_set1_epi32(x),
                            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
LEARN_INLINE learn_code learn_select_int(learn_mask mask, learn_code a, learn_code b)
{
    return _mm512_mask_blend_epi32(mask, b, a);
}
#else
enum { LEARN_WIDTH = 8 };
typedef __m256 learn_f;
typedef __m256 learn_mask;

LEARN_INLINE learn_f learn_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
LEARN_INLINE void learn_store(float *p, learn_f v)
{
    _mm256_storeu_ps(p, v);
}
LEARN_INLINE learn_f learn_set(float x)
{
    return _mm256_set1_ps(x);
}
LEARN_INLINE learn_f learn_add(learn_f a, learn_f b)
{
    return _mm256_add_ps(a, b);
}
LEARN_INLINE learn_f learn_sub(learn_f a, learn_f b)
{
    return _mm256_sub_ps(a, b);
}
LEARN_INLINE learn_f learn_fma(learn_f a, learn_f b, learn_f c) /* a b + c, rounded once */
{
    return _mm256_fmadd_ps(a, b, c);
}
LEARN_INLINE learn_f learn_mul(learn_f a, learn_f b)
{
    return _mm256_mul_ps(a, b);
}
LEARN_INLINE learn_f learn_div(learn_f a, learn_f b)
{
    return _mm256_div_ps(a, b);
}
LEARN_INLINE learn_mask learn_gt(learn_f a, learn_f b)
{
    return _mm256_cmp_ps(a, b, _CMP_GT_OQ);
}
LEARN_INLINE learn_mask learn_ne(learn_f a, learn_f b)
{
    return _mm256_cmp_ps(a, b, _CMP_NEQ_UQ);
}
LEARN_INLINE learn_f learn_select(learn_mask mask, learn_f a, learn_f b)
{
    return _mm256_blendv_ps(b, a, mask);
}
LEARN_INLINE learn_f learn_keep(learn_mask mask, learn_f a)
{
    return _mm256_and_ps(mask, a);
}

/* A permute reads the low 3 bits of an index: each step of the tree has its limits where those bits point. */
struct learn_tree {
    __m256 middle, quarter, eighth, limit_low, limit_high, table_low, table_high;
};
LEARN_INLINE struct learn_tree learn_tree_init(const struct learn_levels *levels)
{
    const float *l = levels->limits;
    struct learn_tree tree = {
        .middle = _mm256_set1_ps(l[7]),
        .quarter = _mm256_setr_ps(l[3], l[11], 0, 0, 0, 0, 0, 0),
        .eighth = _mm256_setr_ps(l[1], l[5], l[9], l[13], 0, 0, 0, 0),
        .limit_low = _mm256_loadu_ps(l),
        .limit_high = _mm256_loadu_ps(l + 8),
        .table_low = _mm256_loadu_ps(levels->table),
        .table_high = _mm256_loadu_ps(levels->table + 8),
    };
    return tree;
}
typedef __m256i learn_code;
LEARN_INLINE learn_f learn_pick(learn_code k, __m256 low, __m256 high)
{
    /* Bit 3 of k, moved to the sign, chooses the half. */
    __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(k, 28));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, k), _mm256_permutevar8x32_ps(high, k), upper);
}
LEARN_INLINE learn_code learn_step(learn_code k, learn_mask up) /* 2 k + (up ? 1 : 0) */
{
    return _mm256_sub_epi32(_mm256_add_epi32(k, k), _mm256_castps_si256(up));
}
LEARN_INLINE learn_code learn_find(const struct learn_tree *tree, learn_f u)
{
    __m256i k = learn_step(_mm256_setzero_si256(), learn_gt(u, tree->middle));
    k = learn_step(k, learn_gt(u, _mm256_permutevar8x32_ps(tree->quarter, k)));
    k = learn_step(k, learn_gt(u, _mm256_permutevar8x32_ps(tree->eighth, k)));
    __m256i even = _mm256_add_epi32(k, k);
    return learn_step(k, learn_gt(u, learn_pick(even, tree->limit_low, tree->limit_high)));
}
LEARN_INLINE learn_f learn_level(const struct learn_tree *tree, learn_code k)
{
    return learn_pick(k, tree->table_low, tree->table_high);
}
LEARN_INLINE void learn_store_codes(uint8_t *codes, learn_code k)
{
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(k), _mm256_extracti128_si256(k, 1));
    _mm_storel_epi64((__m128i *)(void *)codes, _mm_packus_epi16(words, words));
}
LEARN_INLINE learn_code learn_load_codes(const uint8_t *codes)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)codes));
}
LEARN_INLINE learn_mask learn_is(learn_code k, int32_t level)
{
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(k, _mm256_set1_epi32(level)));
}
LEARN_INLINE learn_f learn_add_where(learn_mask mask, learn_f sum, learn_f x)
{
    return _mm256_blendv_ps(sum, _mm256_add_ps(sum, x), mask);
}
LEARN_INLINE learn_mask learn_ge(learn_f a, learn_f b)
{
    return _mm256_cmp_ps(a, b, _CMP_GE_OQ);
}
LEARN_INLINE learn_mask learn_less(learn_code a, learn_code b)
{
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a));
}
LEARN_INLINE learn_mask learn_and(learn_mask a, learn_mask b)
{
    return _mm256_and_ps(a, b);
}
LEARN_INLINE learn_mask learn_or(learn_mask a, learn_mask b)
{
    return _mm256_or_ps(a, b);
}
LEARN_INLINE void learn_store_ints(int32_t *p, learn_code v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, v);
}
LEARN_INLINE learn_code learn_set_int(int32_t x)
{
    return _mm256_set1_epi32(x);
}
LEARN_INLINE learn_code learn_from(int32_t x) /* x, x + 1, x + 2 ... */
{
    return _mm256_add_epi32(_mm256_set1_epi32(x), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
LEARN_INLINE learn_code learn_select_int(learn_mask mask, learn_code a, learn_code b)
{
    return _mm256_blendv_epi8(b, a, _mm256_castps_si256(mask));
}
#endif

LEARN_INLINE learn_f learn_simd_inverse(learn_f scale)
{
    return learn_keep(learn_ne(scale, learn_set(0)), learn_div(learn_set(1), scale));
}

static inline void learn_simd_search_tile(float *scale, const struct learn_levels *levels, const float *w,
                                          const float *m, int32_t group_size, const float *factors,
                                          int32_t n_factors)
{
    enum { AT_ONCE = 4 }; /* columns: they divide every group size */
    const struct learn_tree tree = learn_tree_init(levels);
    for (int32_t lane = 0; lane < LEARN_LANES; lane += LEARN_WIDTH) {
        learn_f given = learn_load(scale + lane), best_gain = learn_set(-1), best = given;
        for (int32_t f = -1; f < n_factors; f++) {
            learn_f tried = f < 0 ? given : learn_mul(given, learn_set(factors[f]));
            learn_f inverse = learn_simd_inverse(tried), wt = learn_set(0), tt = learn_set(0);
            for (int32_t at = lane; at < group_size * LEARN_LANES; at += AT_ONCE * LEARN_LANES) {
                for (int32_t next = at; next < at + AT_ONCE * LEARN_LANES; next += LEARN_LANES) {
                    learn_f value = learn_load(w + next);
                    learn_f t = learn_level(&tree, learn_find(&tree, learn_mul(value, inverse)));
                    learn_f mt = learn_mul(learn_load(m + next), t);
                    wt = learn_fma(mt, value, wt);
                    tt = learn_fma(mt, t, tt);
                }
            }
            learn_f fitted = learn_keep(learn_gt(tt, learn_set(0)), learn_div(wt, tt));
            learn_f gain = learn_mul(wt, fitted);
            learn_mask better = learn_gt(gain, best_gain);
            best_gain = learn_select(better, gain, best_gain);
            best = learn_select(better, fitted, best);
        }
        learn_store(scale + lane, best);
    }
}

LEARN_INLINE void learn_simd_assign_lanes(uint8_t *codes, const struct learn_tree *tree, learn_f inverse,
                                          const float *w, int32_t group_size)
{
    for (int32_t at = 0; at < group_size * LEARN_LANES; at += LEARN_LANES) {
        learn_store_codes(codes + at, learn_find(tree, learn_mul(learn_load(w + at), inverse)));
    }
}

static inline void learn_simd_assign_tile(uint8_t *codes, const struct learn_levels *levels,
                                          const float *scale, const float *w, int32_t group_size)
{
    const struct learn_tree tree = learn_tree_init(levels);
    for (int32_t lane = 0; lane < LEARN_LANES; lane += LEARN_WIDTH) {
        learn_f inverse = learn_simd_inverse(learn_load(scale + lane));
        learn_simd_assign_lanes(codes + lane, &tree, inverse, w + lane, group_size);
    }
}

static inline void learn_simd_sum_tile(struct learn_sums *sums, const uint8_t *codes, const float *scale,
                                       const float *w, const float *m, int32_t group_size)
{
    enum { AT_ONCE = LEARN_WIDTH / 2 }; /* levels whose sums stay in registers: of 32, or of 16 */
    for (int32_t lane = 0; lane < LEARN_LANES; lane += LEARN_WIDTH) {
        learn_f s = learn_load(scale + lane);
        for (int32_t level = 0; level < LEARN_LEVELS; level += AT_ONCE) {
            learn_f mass[AT_ONCE], moment[AT_ONCE];
            for (int32_t k = 0; k < AT_ONCE; k++) {
                mass[k] = learn_load(&sums->mass[level + k][lane]);
                moment[k] = learn_load(&sums->moment[level + k][lane]);
            }
            for (int32_t at = lane; at < group_size * LEARN_LANES; at += LEARN_LANES) {
                learn_code code = learn_load_codes(codes + at);
                learn_f ms = learn_mul(learn_load(m + at), s);
                learn_f mss = learn_mul(ms, s), msw = learn_mul(ms, learn_load(w + at));
                for (int32_t k = 0; k < AT_ONCE; k++) {
                    learn_mask here = learn_is(code, level + k);
                    mass[k] = learn_add_where(here, mass[k], mss);
                    moment[k] = learn_add_where(here, moment[k], msw);
                }
            }
            for (int32_t k = 0; k < AT_ONCE; k++) {
                learn_store(&sums->mass[level + k][lane], mass[k]);
                learn_store(&sums->moment[level + k][lane], moment[k]);
            }
        }
    }
}

static inline void learn_simd_choose_tile(float *q, uint8_t *codes, const struct learn_levels *levels,
                                          const float *scale, float unit, const float *w, const float *m,
                                          int32_t group_size)
{
    const struct learn_tree tree = learn_tree_init(levels);
    const learn_f magic = learn_set(12582912.0f), units = learn_set(unit), most = learn_set(LEARN_MAX_Q);
    const learn_f least = learn_set(-LEARN_MAX_Q), per_unit = learn_set(learn_inverse(unit));
    for (int32_t lane = 0; lane < LEARN_LANES; lane += LEARN_WIDTH) {
        learn_f middle = learn_sub(learn_add(learn_mul(learn_load(scale + lane), per_unit), magic), magic);
        learn_f best = learn_set(0), best_error = learn_set(0);
        for (int32_t at = lane; at < group_size * LEARN_LANES; at += LEARN_LANES) {
            learn_f value = learn_load(w + at);
            best_error = learn_add(best_error, learn_mul(learn_mul(learn_load(m + at), value), value));
        }
        for (int32_t step = -1; step <= 1; step++) {
            learn_f tried = learn_add(middle, learn_set((float)step));
            tried =
                learn_select(learn_gt(tried, most), most, learn_select(learn_gt(least, tried), least, tried));
            learn_f s = learn_mul(tried, units), inverse = learn_simd_inverse(s), error = learn_set(0);
            for (int32_t at = lane; at < group_size * LEARN_LANES; at += LEARN_LANES) {
                learn_f value = learn_load(w + at);
                learn_f level = learn_level(&tree, learn_find(&tree, learn_mul(value, inverse)));
                learn_f d = learn_sub(learn_mul(s, level), value);
                error = learn_add(error, learn_mul(learn_mul(learn_load(m + at), d), d));
            }
            learn_mask better = learn_gt(best_error, error);
            best_error = learn_select(better, error, best_error);
            best = learn_select(better, tried, best);
        }
        learn_store(q + lane, best);
        learn_simd_assign_lanes(codes + lane, &tree, learn_simd_inverse(learn_mul(best, units)), w + lane,
                                group_size);
    }
}

/* In SPLIT_CHAINS chains, i mod SPLIT_CHAINS, so that comparisons need not wait for each other; of equal sums
 * the smaller i wins, as in the plain order. */
static inline void learn_simd_split_tile(float *best, int32_t *start, const float *last, const float *gain,
                                         int32_t j, int32_t low, int32_t high)
{
    enum { SPLIT_CHAINS = 4 };
    for (int32_t lane = 0; lane < LEARN_LANES; lane += LEARN_WIDTH) {
        learn_f largest[SPLIT_CHAINS];
        learn_code at[SPLIT_CHAINS];
        int32_t i = low;
        for (int32_t c = 0; c < SPLIT_CHAINS; c++) {
            largest[c] = learn_set(-1);
            at[c] = learn_from(j + lane);
        }
        for (; high - i >= SPLIT_CHAINS; i += SPLIT_CHAINS) {
            for (int32_t c = 0; c < SPLIT_CHAINS; c++) {
                const float *row = gain + (i + c) * LEARN_DP_BINS + lane;
                learn_f sum = learn_add(learn_set(last[i + c - 1]), learn_load(row));
                learn_mask better = learn_gt(sum, largest[c]);
                largest[c] = learn_select(better, sum, largest[c]);
                at[c] = learn_select_int(better, learn_set_int(i + c), at[c]);
            }
        }
        for (; i < high; i++) { /* behind all that chain 0 has seen */
            learn_f sum = learn_add(learn_set(last[i - 1]), learn_load(gain + i * LEARN_DP_BINS + lane));
            learn_mask better = learn_gt(sum, largest[0]);
            largest[0] = learn_select(better, sum, largest[0]);
            at[0] = learn_select_int(better, learn_set_int(i), at[0]);
        }
        for (int32_t step = SPLIT_CHAINS / 2; step >= 1; step /= 2) {
            for (int32_t c = 0; c < step; c++) {
                learn_f other = largest[c + step];
                learn_mask earlier = learn_and(learn_ge(other, largest[c]), learn_less(at[c + step], at[c]));
                learn_mask better = learn_or(learn_gt(other, largest[c]), earlier);
                largest[c] = learn_select(better, other, largest[c]);
                at[c] = learn_select_int(better, at[c + step], at[c]);
            }
        }
        learn_store(best + lane, largest[0]);
        learn_store_ints(start + lane, at[0]);
    }
}

/* out[j] = values[codes[j]] for whole registers of j; returns how many. values: (16). */
LEARN_INLINE int32_t learn_simd_look_up(float *out, const float *values, const uint8_t *codes, int32_t n)
{
    struct learn_levels levels = {{0}, {0}};
    memcpy(levels.table, values, sizeof levels.table);
    const struct learn_tree tree = learn_tree_init(&levels);
    int32_t j = 0;
    for (; n - j >= LEARN_WIDTH; j += LEARN_WIDTH) {
        learn_store(out + j, learn_level(&tree, learn_load_codes(codes + j)));
    }
    return j;
}

/* out[lane * stride + j] = in[j * 16 + lane] for j, lane < 16. Four times every pair of rows 8 apart is
 * interleaved bytewise, which turns the index (j, lane), 4 bits each, by one bit. */
LEARN_INLINE void learn_simd_transpose(uint8_t *out, int64_t stride, const uint8_t *in)
{
    __m128i rows[2][16];
    for (int32_t j = 0; j < 16; j++) {
        rows[0][j] = _mm_loadu_si128((const __m128i *)(const void *)(in + 16 * j));
    }
    for (int32_t turn = 0; turn < 4; turn++) {
        const __m128i *from = rows[turn % 2];
        __m128i *to = rows[1 - turn % 2];
        for (int32_t j = 0; j < 8; j++) {
            to[2 * j] = _mm_unpacklo_epi8(from[j], from[j + 8]);
            to[2 * j + 1] = _mm_unpackhi_epi8(from[j], from[j + 8]);
        }
    }
    for (int32_t lane = 0; lane < 16; lane++) {
        _mm_storeu_si128((__m128i *)(void *)(out + lane * stride), rows[0][lane]);
    }
}

/* out[j * 16 + lane] = in[lane * stride + j] * factor for j, lane < 8. */
LEARN_INLINE void learn_simd_transpose_floats(float *out, const float *in, int64_t stride, float factor)
{
    __m256 rows[2][8];
    for (int32_t lane = 0; lane < 8; lane++) {
        rows[0][lane] = _mm256_mul_ps(_mm256_loadu_ps(in + lane * stride), _mm256_set1_ps(factor));
    }
    for (int32_t pair = 0; pair < 8; pair += 2) { /* two lanes of the same j side by side */
        rows[1][pair] = _mm256_unpacklo_ps(rows[0][pair], rows[0][pair + 1]);
        rows[1][pair + 1] = _mm256_unpackhi_ps(rows[0][pair], rows[0][pair + 1]);
    }
    for (int32_t four = 0; four < 8; four += 4) { /* four */
        for (int32_t half = 0; half < 2; half++) {
            __m256 a = rows[1][four + half], b = rows[1][four + 2 + half];
            rows[0][four + 2 * half] = _mm256_shuffle_ps(a, b, 0x44);
            rows[0][four + 2 * half + 1] = _mm256_shuffle_ps(a, b, 0xee);
        }
    }
    for (int32_t j = 0; j < 4; j++) { /* eight: j of the low halves, j + 4 of the high ones */
        __m256 a = rows[0][j], b = rows[0][j + 4];
        _mm256_storeu_ps(out + j * LEARN_LANES, _mm256_permute2f128_ps(a, b, 0x20));
        _mm256_storeu_ps(out + (j + 4) * LEARN_LANES, _mm256_permute2f128_ps(a, b, 0x31));
    }
}

static inline void learn_simd_peak_tile(float *scale, const float *w, int32_t group_size)
{
    for (int32_t lane = 0; lane < LEARN_LANES; lane += LEARN_WIDTH) {
        learn_f low = learn_set(0), high = learn_set(0);
        for (int32_t at = lane; at < group_size * LEARN_LANES; at += LEARN_LANES) {
            learn_f value = learn_load(w + at);
            low = learn_select(learn_gt(low, value), value, low);
            high = learn_select(learn_gt(value, high), value, high);
        }
        learn_f negative = learn_sub(learn_set(0), low);
        learn_store(scale + lane, learn_select(learn_ge(high, negative), high, low));
    }
}

#endif
