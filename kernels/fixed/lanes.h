/* The widest vector of the instruction set that a file is compiled for, and an exponential of our own. */
#ifndef KERNELS_FIXED_LANES_H
#define KERNELS_FIXED_LANES_H

#include <stdint.h>
#include <string.h>

#define FORCE_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
enum { WIDTH = 16 };
#elif defined(__AVX__)
enum { WIDTH = 8 };
#else
enum { WIDTH = 4 };
#endif

/* Aligned to nothing in particular: it is laid over arrays of float. */
typedef float vec __attribute__((vector_size(WIDTH * sizeof(float)), aligned(sizeof(float)), may_alias));

FORCE_INLINE vec load(const float *at)
{
    return *(const vec *)at;
}

FORCE_INLINE void store(float *at, vec v)
{
    *(vec *)at = v;
}

/* e^x to about 2 ulp, x cut to [-87, 88] (what lies beyond would leave the normal range); NaN stays NaN.
 * x = n ln 2 + r with |r| <= ln 2 / 2: n by adding and taking away 1.5 * 2^23, e^r by its Taylor series to
 * r^7 / 7!, whose rest is below 2^-27. */
FORCE_INLINE float fixed_exp(float x)
{
    const float round = 12582912.0f;
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504f + round;
    float n = shifted - round;
    float r = x - n * 0.693359375f; /* ln 2 in two parts; the first has 10 bits: the product is exact */
    r = r - n * -2.12194440e-4f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    /* The low bits of `shifted` hold n: moved into an exponent's place they scale by 2^n. */
    uint32_t bits, power;
    memcpy(&bits, &shifted, sizeof bits);
    power = (bits + 127u) << 23;
    float scale;
    memcpy(&scale, &power, sizeof scale);
    return p * scale;
}

#endif
