/* Helpers of the AVX2 set: 8 f32 lanes. Tails go through the same vector arithmetic with masked loads and
 * stores, so a lane's bits never depend on where the end is. */
#ifndef KERNELS_AVX2_SIMD_H
#define KERNELS_AVX2_SIMD_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "quant/any4.h"

#define FORCE_INLINE static inline __attribute__((always_inline))

enum { LANES = 8 };

/* All ones in the lanes that hold elements when `left` elements remain. */
FORCE_INLINE __m256i lanes_mask(int32_t left)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(left), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* Eight 16-bit elements, of which `left` are read (all where left >= 8); the others are 0. */
FORCE_INLINE __m128i load_halves(const void *base, int64_t at, int32_t left)
{
    const uint8_t *from = (const uint8_t *)base + at * 2;
    if (left >= LANES) {
        return _mm_loadu_si128((const __m128i *)from);
    }
    uint16_t halves[LANES] = {0};
    memcpy(halves, from, (size_t)left * sizeof halves[0]);
    return _mm_loadu_si128((const __m128i *)halves);
}

/* Elements at .. at + 7 of an array of 32- or 16-bit floats as f32; of a tail (0 < left < 8) only the first
 * `left` are read and the others are 0. base needs the alignment of a byte. */
FORCE_INLINE __m256 load_f32(const void *base, int64_t at, int32_t left)
{
    const float *from = (const float *)((const uint8_t *)base + at * 4);
    return left >= LANES ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, lanes_mask(left));
}

FORCE_INLINE __m256 load_f16(const void *base, int64_t at, int32_t left)
{
    return _mm256_cvtph_ps(load_halves(base, at, left));
}

FORCE_INLINE __m256 load_bf16(const void *base, int64_t at, int32_t left)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_halves(base, at, left)), 16));
}

/* Eight int8 as f32. */
FORCE_INLINE __m256 load_i8(const int8_t *base, int64_t at)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(base + at))));
}

FORCE_INLINE void store_f32(float *out, __m256 v, int32_t left)
{
    if (left >= LANES) {
        _mm256_storeu_ps(out, v);
    } else {
        _mm256_maskstore_ps(out, lanes_mask(left), v);
    }
}

/* Sum of the lanes, halves first: one fixed order for every caller. */
FORCE_INLINE float sum_lanes(__m256 v)
{
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    b = _mm_add_ss(b, _mm_movehdup_ps(b));
    return _mm_cvtss_f32(b);
}

FORCE_INLINE float max_lanes(__m256 v)
{
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    b = _mm_max_ss(b, _mm_movehdup_ps(b));
    return _mm_cvtss_f32(b);
}

/* 2^n for integer n in [-126, 127]. */
FORCE_INLINE __m256 power_of_two(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* exp(x): x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts, Cody and Waite), the Taylor polynomial of
 * degree 7 (truncation r^8 / 8! < 6e-9), times 2^n in two steps so that neither leaves the range of normal
 * numbers. Relative error below 2 ulp; -inf and everything under -104 give 0, above 88.73 inf, NaN stays NaN
 * (max and min return their second operand then). */
FORCE_INLINE __m256 exp_ps(__m256 x)
{
    x = _mm256_min_ps(_mm256_set1_ps(89.0f), _mm256_max_ps(_mm256_set1_ps(-105.0f), x));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), x); /* 15 bits: n times it is exact */
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
    __m256 p = _mm256_set1_ps(1.0f / 5040);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    __m256i exponent = _mm256_cvtps_epi32(n); /* NaN becomes INT_MIN: p is NaN, so any factor will do */
    __m256i half = _mm256_srai_epi32(exponent, 1);
    return _mm256_mul_ps(_mm256_mul_ps(p, power_of_two(half)),
                         power_of_two(_mm256_sub_epi32(exponent, half)));
}

#endif
