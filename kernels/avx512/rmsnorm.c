/* RMSNorm in double: squares of large f32 do not overflow, and the operation is a thousandth of a step. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"

#include <math.h>

enum { DOUBLES = 8 };

FORCE_INLINE __m512d load_doubles(const float *x, __mmask8 mask)
{
    return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(mask, x));
}

void avx512_rmsnorm(float *y, const float *x, const float *weight, int32_t n, float eps)
{
    __m512d squares = _mm512_setzero_pd();
    for (int32_t i = 0; i < n; i += DOUBLES) {
        __m512d v = load_doubles(x + i, (__mmask8)lanes_mask(n - i));
        squares = _mm512_fmadd_pd(v, v, squares);
    }
    double lanes[DOUBLES], sum = 0;
    _mm512_storeu_pd(lanes, squares);
    for (int32_t i = 0; i < DOUBLES; i++) {
        sum += lanes[i];
    }
    __m512d inverse = _mm512_set1_pd(1.0 / sqrt(sum / n + eps));
    for (int32_t i = 0; i < n; i += DOUBLES) {
        __mmask8 mask = (__mmask8)lanes_mask(n - i); /* the lower 8 of 16 lanes */
        __m512d scaled = _mm512_mul_pd(load_doubles(x + i, mask), inverse);
        __m256 result = _mm512_cvtpd_ps(_mm512_mul_pd(scaled, load_doubles(weight + i, mask)));
        _mm256_mask_storeu_ps(y + i, mask, result);
    }
}
