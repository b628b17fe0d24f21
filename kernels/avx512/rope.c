/* Rotary position embedding, 16 pairs at a time. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"

void avx512_rope(float *v, int32_t n_heads, int32_t head_dim, const float *cos, const float *sin)
{
    int32_t half = head_dim / 2;
    for (int32_t i = 0; i < half; i += LANES) {
        __mmask16 mask = lanes_mask(half - i);
        __m512 c = _mm512_maskz_loadu_ps(mask, cos + i), s = _mm512_maskz_loadu_ps(mask, sin + i);
        for (int32_t head = 0; head < n_heads; head++) {
            float *first = v + (int64_t)head * head_dim + i;
            float *second = first + half;
            __m512 a = _mm512_maskz_loadu_ps(mask, first), b = _mm512_maskz_loadu_ps(mask, second);
            _mm512_mask_storeu_ps(first, mask, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
            _mm512_mask_storeu_ps(second, mask, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
        }
    }
}
