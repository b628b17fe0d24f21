/* Helpers of the AVX-512 set: 16 f32 lanes, tails by mask, so a lane's arithmetic never depends on where the
 * end is. */
#ifndef KERNELS_AVX512_SIMD_H
#define KERNELS_AVX512_SIMD_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/any4.h"

#define FORCE_INLINE static inline __attribute__((always_inline))

enum { LANES = 16 };
static const __mmask16 ALL_LANES = 0xffff;

/* The lanes that hold elements when `left` elements remain; none when left <= 0. */
FORCE_INLINE __mmask16 lanes_mask(int32_t left)
{
    return left >= LANES ? ALL_LANES : left <= 0 ? 0 : (__mmask16)((1u << left) - 1u);
}

/* Elements at .. at + 15 of an array of 32- or 16-bit floats as f32; only the lanes of the mask are read, the
 * others are 0. base needs the alignment of a byte. */
FORCE_INLINE __m512 load_f32(const void *base, int64_t at, __mmask16 mask)
{
    return _mm512_maskz_loadu_ps(mask, (const uint8_t *)base + at * 4);
}

FORCE_INLINE __m512 load_f16(const void *base, int64_t at, __mmask16 mask)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, (const uint8_t *)base + at * 2));
}

FORCE_INLINE __m512 load_bf16(const void *base, int64_t at, __mmask16 mask)
{
    __m256i halves = _mm256_maskz_loadu_epi16(mask, (const uint8_t *)base + at * 2);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* The same for int8. */
FORCE_INLINE __m512 load_i8(const int8_t *base, int64_t at, __mmask16 mask)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, base + at)));
}

/* Sum of the lanes, halves first: one fixed order for every caller. */
FORCE_INLINE float sum_lanes(__m512 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    b = _mm_add_ss(b, _mm_movehdup_ps(b));
    return _mm_cvtss_f32(b);
}

/* sum_lanes of four vectors at once, in its very order of additions: less than half the instructions. */
FORCE_INLINE __m128 sum_lanes4(__m512 v0, __m512 v1, __m512 v2, __m512 v3)
{
    /* Halves: (v0 | v1), (v2 | v3), two quads each. */
    __m512 a01 = _mm512_add_ps(_mm512_shuffle_f32x4(v0, v1, 0x44), _mm512_shuffle_f32x4(v0, v1, 0xee));
    __m512 a23 = _mm512_add_ps(_mm512_shuffle_f32x4(v2, v3, 0x44), _mm512_shuffle_f32x4(v2, v3, 0xee));
    /* Quads: one for each vector. */
    __m512 b = _mm512_add_ps(_mm512_shuffle_f32x4(a01, a23, 0x88), _mm512_shuffle_f32x4(a01, a23, 0xdd));
    b = _mm512_add_ps(b, _mm512_permute_ps(b, 0x4e));
    b = _mm512_add_ps(b, _mm512_permute_ps(b, 0xb1));
    const __m512i first_of_each = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_each, b));
}

/* exp(x): x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts, Cody and Waite), the Taylor polynomial of
 * degree 7 (truncation r^8 / 8! < 6e-9), times 2^n. Relative error below 2 ulp; -inf and everything under
 * -104 give 0, above 88.73 inf, NaN stays NaN (max and min return their second operand then). */
FORCE_INLINE __m512 exp_ps(__m512 x)
{
    x = _mm512_min_ps(_mm512_set1_ps(89.0f), _mm512_max_ps(_mm512_set1_ps(-105.0f), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e4p-1f), x); /* 15 bits: n times it is exact */
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

#endif
