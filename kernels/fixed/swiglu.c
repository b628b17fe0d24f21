/* SwiGLU of the fixed-order set. */
#include "kernels/fixed/fixed.h"
#include "kernels/fixed/lanes.h"

void FIXED(swiglu)(float *h, const float *gate, const float *up, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        h[i] = gate[i] / (1.0f + fixed_exp(-gate[i])) * up[i];
    }
}
