/* y += a x, one rounding (FMA). */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"

void avx512_axpy(float *y, const float *x, float a, int32_t n)
{
    __m512 factor = _mm512_set1_ps(a);
    for (int32_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 sum =
            _mm512_fmadd_ps(factor, _mm512_maskz_loadu_ps(mask, x + i), _mm512_maskz_loadu_ps(mask, y + i));
        _mm512_mask_storeu_ps(y + i, mask, sum);
    }
}
