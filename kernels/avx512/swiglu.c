/* SwiGLU, 16 elements at a time. silu(x) = x / (1 + e) for x >= 0 and x e / (1 + e) below, e = exp(-|x|): no
 * overflow, so no step to 0 where exp(-x) would leave f32. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"

void avx512_swiglu(float *h, const float *gate, const float *up, int32_t n)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    for (int32_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 x = _mm512_maskz_loadu_ps(mask, gate + i);
        __m512 e = exp_ps(_mm512_or_ps(x, _mm512_set1_ps(-0.0f)));
        __m512 numerator =
            _mm512_mask_mul_ps(x, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), x, e);
        __m512 silu = _mm512_div_ps(numerator, _mm512_add_ps(one, e));
        _mm512_mask_storeu_ps(h + i, mask, _mm512_mul_ps(silu, _mm512_maskz_loadu_ps(mask, up + i)));
    }
}
