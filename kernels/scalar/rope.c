/* Rotary position embedding, halves convention, the reference (Su et al., RoFormer, 2021). */
#include "kernels/scalar/scalar.h"

void scalar_rope(float *v, int32_t n_heads, int32_t head_dim, const float *cos, const float *sin)
{
    int32_t half = head_dim / 2;
    for (int32_t head = 0; head < n_heads; head++) {
        float *a = v + (int64_t)head * head_dim;
        float *b = a + half;
        for (int32_t i = 0; i < half; i++) {
            double first = (double)a[i] * cos[i] - (double)b[i] * sin[i];
            double second = (double)b[i] * cos[i] + (double)a[i] * sin[i];
            a[i] = (float)first;
            b[i] = (float)second;
        }
    }
}
