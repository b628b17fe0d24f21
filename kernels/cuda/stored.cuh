/* Weights as a file stores them. */
#ifndef KERNELS_CUDA_STORED_CUH
#define KERNELS_CUDA_STORED_CUH

#include "kernels/cuda/simt.h"
#include "quant/any4.h"

/* One half, by way of a pair. */
SIMT_DEVICE float stored_value(const void *values, enum any4_kind kind, int64_t at)
{
    if (kind == ANY4_F32) {
        return static_cast<const float *>(values)[at];
    }
    const uint32_t half = static_cast<const uint16_t *>(values)[at];
    return kind == ANY4_F16 ? simt_f16_low(half) : simt_bf16_low(half);
}

#endif
