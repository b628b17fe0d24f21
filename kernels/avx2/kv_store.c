/* f32 to the type of the KV cache, rounding to nearest even. */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"

/* As bf16_from_f32 of engine/base/float16.h: add half of the last place (less one where even), cut; NaN made
 * quiet. */
FORCE_INLINE __m128i to_bf16(__m256 x)
{
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)), nan);
    rounded = _mm256_srli_epi32(rounded, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}

void avx2_kv_store(void *out, enum kv_type type, const float *x, int32_t n)
{
    uint16_t *halves = out;
    if (type == KV_F32) {
        memcpy(out, x, (size_t)n * sizeof *x);
        return;
    }
    for (int32_t i = 0; i < n; i += LANES) {
        __m256 v = load_f32(x, i, n - i);
        __m128i packed =
            type == KV_F16 ? _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) : to_bf16(v);
        if (n - i >= LANES) {
            _mm_storeu_si128((__m128i *)(halves + i), packed);
        } else {
            memcpy(halves + i, &packed, (size_t)(n - i) * sizeof *halves);
        }
    }
}
