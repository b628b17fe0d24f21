/* Rotary position embedding, 8 pairs at a time. */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"

void avx2_rope(float *v, int32_t n_heads, int32_t head_dim, const float *cos, const float *sin)
{
    int32_t half = head_dim / 2;
    for (int32_t i = 0; i < half; i += LANES) {
        int32_t left = half - i;
        __m256 c = load_f32(cos, i, left), s = load_f32(sin, i, left);
        for (int32_t head = 0; head < n_heads; head++) {
            float *first = v + (int64_t)head * head_dim + i;
            float *second = first + half;
            __m256 a = load_f32(first, 0, left), b = load_f32(second, 0, left);
            store_f32(first, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)), left);
            store_f32(second, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)), left);
        }
    }
}
