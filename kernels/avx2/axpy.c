/* y += a x, one rounding (FMA). */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"

void avx2_axpy(float *y, const float *x, float a, int32_t n)
{
    __m256 factor = _mm256_set1_ps(a);
    for (int32_t i = 0; i < n; i += LANES) {
        store_f32(y + i, _mm256_fmadd_ps(factor, load_f32(x, i, n - i), load_f32(y, i, n - i)), n - i);
    }
}
