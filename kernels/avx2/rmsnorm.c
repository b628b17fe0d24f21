/* RMSNorm in double: squares of large f32 do not overflow, and the operation is a thousandth of a step. */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"

#include <math.h>

FORCE_INLINE __m256d low_doubles(__m256 v)
{
    return _mm256_cvtps_pd(_mm256_castps256_ps128(v));
}

FORCE_INLINE __m256d high_doubles(__m256 v)
{
    return _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
}

void avx2_rmsnorm(float *y, const float *x, const float *weight, int32_t n, float eps)
{
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    for (int32_t i = 0; i < n; i += LANES) {
        __m256 v = load_f32(x, i, n - i);
        low = _mm256_fmadd_pd(low_doubles(v), low_doubles(v), low);
        high = _mm256_fmadd_pd(high_doubles(v), high_doubles(v), high);
    }
    double lanes[LANES / 2];
    _mm256_storeu_pd(lanes, _mm256_add_pd(low, high));
    double sum = (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
    __m256d inverse = _mm256_set1_pd(1.0 / sqrt(sum / n + eps));
    for (int32_t i = 0; i < n; i += LANES) {
        __m256 v = load_f32(x, i, n - i), factor = load_f32(weight, i, n - i);
        low = _mm256_mul_pd(_mm256_mul_pd(low_doubles(v), inverse), low_doubles(factor));
        high = _mm256_mul_pd(_mm256_mul_pd(high_doubles(v), inverse), high_doubles(factor));
        store_f32(y + i, _mm256_set_m128(_mm256_cvtpd_ps(high), _mm256_cvtpd_ps(low)), n - i);
    }
}
