/* Sums and maxima over a block, in one order whatever the order of threads. */
#ifndef KERNELS_CUDA_REDUCE_CUH
#define KERNELS_CUDA_REDUCE_CUH

#include "kernels/cuda/simt.h"

enum { REDUCE_MAX_WARPS = 32 };

SIMT_DEVICE float warp_sum(float value)
{
    SIMT_UNROLL
    for (int32_t step = SIMT_WARP / 2; step; step /= 2) {
        value += simt_bits_float(simt_shuffle_xor(simt_float_bits(value), step));
    }
    return value;
}

SIMT_DEVICE uint32_t warp_max(uint32_t value)
{
    SIMT_UNROLL
    for (int32_t step = SIMT_WARP / 2; step; step /= 2) {
        uint32_t other = simt_shuffle_xor(value, step);
        value = other > value ? other : value;
    }
    return value;
}

/* The same for every thread of the block; `shared` holds a word a warp and is free to be used again behind
 * the block's next barrier. */
SIMT_DEVICE float block_sum(float value, float *shared)
{
    value = warp_sum(value);
    if (simt_lane() == 0) {
        shared[simt_warp()] = value;
    }
    simt_barrier();
    float sum = 0;
    for (int32_t warp = 0; warp < simt_n_threads() / SIMT_WARP; warp++) {
        sum += shared[warp];
    }
    return sum;
}

SIMT_DEVICE uint32_t block_max(uint32_t value, uint32_t *shared)
{
    value = warp_max(value);
    if (simt_lane() == 0) {
        shared[simt_warp()] = value;
    }
    simt_barrier();
    uint32_t max = 0;
    for (int32_t warp = 0; warp < simt_n_threads() / SIMT_WARP; warp++) {
        max = shared[warp] > max ? shared[warp] : max;
    }
    return max;
}

#endif
