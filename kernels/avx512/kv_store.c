/* f32 to the type of the KV cache, rounding to nearest even. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"

#include <string.h>

/* As bf16_from_f32 of engine/base/float16.h: add half of the last place (less one where even), cut; NaN made
 * quiet. */
FORCE_INLINE __m256i to_bf16(__m512 x)
{
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}

void avx512_kv_store(void *out, enum kv_type type, const float *x, int32_t n)
{
    uint16_t *halves = out;
    if (type == KV_F32) {
        memcpy(out, x, (size_t)n * sizeof *x);
        return;
    }
    for (int32_t i = 0; i < n; i += LANES) {
        __mmask16 mask = lanes_mask(n - i);
        __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        __m256i packed =
            type == KV_F16 ? _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) : to_bf16(v);
        _mm256_mask_storeu_epi16(halves + i, mask, packed);
    }
}
