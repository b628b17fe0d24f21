/* y += a x, the reference. */
#include "kernels/scalar/scalar.h"

void scalar_axpy(float *y, const float *x, float a, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        y[i] = (float)(y[i] + (double)a * x[i]);
    }
}
