/* Random numbers that are a function of (seed, position) alone: the sampler's on the processor and on the
 * card. */
#ifndef KERNELS_RANDOM_H
#define KERNELS_RANDOM_H

#include <stdint.h>

#ifdef __CUDACC__
#define RANDOM_FUNCTION static __host__ __device__ inline
#else
#define RANDOM_FUNCTION static inline
#endif

/* A 64-bit finaliser in the manner of SplitMix64 (Steele, Lea and Flood, 2014): every input bit reaches every
 * output bit. */
RANDOM_FUNCTION uint64_t random_mix64(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Uniform in [0, 1): 53 bits. */
RANDOM_FUNCTION double random_uniform(uint64_t seed, uint64_t position)
{
    /* Seeds that differ by one must give unrelated streams (choice i uses seed + i): mix the seed alone
     * first. */
    const uint64_t key = random_mix64(seed + 0x9e3779b97f4a7c15u);
    const uint64_t bits = random_mix64(random_mix64(key ^ (position * 0xd1342543de82ef95u + 1)) + key);
    return (double)(bits >> 11) * 0x1p-53;
}

#endif
