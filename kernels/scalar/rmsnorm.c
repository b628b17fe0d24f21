/* RMSNorm, the reference (Zhang and Sennrich, Root Mean Square Layer Normalization, 2019). */
#include "kernels/scalar/scalar.h"

#include <math.h>

void scalar_rmsnorm(float *y, const float *x, const float *weight, int32_t n, float eps)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += (double)x[i] * x[i];
    }
    double inverse = 1.0 / sqrt(sum / n + eps);
    for (int32_t i = 0; i < n; i++) {
        y[i] = (float)(x[i] * inverse * weight[i]);
    }
}
