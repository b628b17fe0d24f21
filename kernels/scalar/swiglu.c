/* SwiGLU, the reference (Shazeer, GLU Variants Improve Transformer, 2020). */
#include "kernels/scalar/scalar.h"

#include <math.h>

void scalar_swiglu(float *h, const float *gate, const float *up, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        double x = gate[i];
        h[i] = (float)(x / (1.0 + exp(-x)) * up[i]);
    }
}
