/* The scale of a row of activations: how it is chosen and read (launch.h). */
#ifndef KERNELS_CUDA_X_ROW_CUH
#define KERNELS_CUDA_X_ROW_CUH

#include "kernels/cuda/simt.h"

SIMT_DEVICE uint32_t magnitude_bits(float value)
{
    return simt_float_bits(value) & 0x7fffffff; /* in the order of magnitudes, NaN behind infinity */
}

/* The scale of a row of x whose largest magnitude has these bits: the power of two not below it, from 2^-126
 * to 2^126. 1 for a row of zeros, and for one that is not finite, which f16 shows as well as f32. */
SIMT_DEVICE float x_scale_of(uint32_t max_bits)
{
    if (max_bits == 0 || max_bits >= 0x7f800000) {
        return 1.0f;
    }
    uint32_t exponent = (max_bits + 0x7fffff) >> 23;
    exponent = exponent < 1 ? 1 : exponent > 253 ? 253 : exponent;
    return simt_bits_float(exponent << 23);
}

SIMT_DEVICE float x_scale_at(const float *x_scales, int64_t token)
{
    return x_scales ? x_scales[token] : 1.0f;
}

/* That of the row that a slot reads; without slot_row of row `slot` itself. */
SIMT_DEVICE float x_scale_of_slot(const float *x_scales, const int32_t *slot_row, int64_t slot)
{
    return x_scale_at(x_scales, slot_row ? slot_row[slot] : slot);
}

#endif
