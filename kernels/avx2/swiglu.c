/* SwiGLU, 8 elements at a time. silu(x) = x / (1 + e) for x >= 0 and x e / (1 + e) below, e = exp(-|x|): no
 * overflow, so no step to 0 where exp(-x) would leave f32. */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"

void avx2_swiglu(float *h, const float *gate, const float *up, int32_t n)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    for (int32_t i = 0; i < n; i += LANES) {
        __m256 x = load_f32(gate, i, n - i);
        __m256 e = exp_ps(_mm256_or_ps(x, _mm256_set1_ps(-0.0f)));
        __m256 numerator = _mm256_blendv_ps(x, _mm256_mul_ps(x, e), x); /* chosen by the sign of x */
        __m256 silu = _mm256_div_ps(numerator, _mm256_add_ps(one, e));
        store_f32(h + i, _mm256_mul_ps(silu, load_f32(up, i, n - i)), n - i);
    }
}
