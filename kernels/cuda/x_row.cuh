/* The scale of a row of activations: how it is chosen and read (launch.h). */
#ifndef KERNELS_CUDA_X_ROW_CUH
#define KERNELS_CUDA_X_ROW_CUH

#include "kernels/cuda/launch.h"
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

/* Where number `i` of the parts of all slots lies in x: part i % parts of the row that slot i / parts reads.
 * Kernels of products count parts and do not tell them apart before their sums are whole. */
SIMT_DEVICE int32_t x_part_row(const int32_t *slot_row, int32_t i, int32_t parts)
{
    const int32_t second = parts - 1, slot = i >> second;
    return ((slot_row ? slot_row[slot] : slot) << second) + (i & second);
}

/* The second part of two values that were rounded to `pair`. */
SIMT_DEVICE uint32_t x_rest_pair(uint32_t pair, float low, float high)
{
    return simt_f16_pair((low - simt_f16_low(pair)) * CUDA_REST, (high - simt_f16_high(pair)) * CUDA_REST);
}

/* A token's sum from those of its parts. */
SIMT_DEVICE float x_parts_sum(float nearest, float rest)
{
    return fmaf(rest, 1 / CUDA_REST, nearest);
}

#endif
