/* The fixed-order set, for calibration: the same bits on every instruction set, so that quantized weights do
 * not depend on the machine that made them. Each file here is compiled once per set (FIXED_SET is its name)
 * and says what is added to what in plain C on GNU vector types: every lane belongs to one output, so the
 * width of a register cannot change an order; nothing is contracted into an FMA, and no function of libm
 * whose last bit a library may choose is called. What the scalar reference computes in that way already
 * (double, columns in order) serves in this table too: rmsnorm, rope, axpy, kv_store. */
#ifndef KERNELS_FIXED_FIXED_H
#define KERNELS_FIXED_FIXED_H

#include "kernels/kernels.h"

#define FIXED_JOIN2(set, name) fixed_##set##_##name
#define FIXED_JOIN(set, name)  FIXED_JOIN2(set, name)
#define FIXED(name)            FIXED_JOIN(FIXED_SET, name)

#define FIXED_DECLARE(set)                                                                                   \
    any4_gemv_fn fixed_##set##_any4_gemv;                                                                    \
    any4_gemm_fn fixed_##set##_any4_gemm;                                                                    \
    attention_fn fixed_##set##_attention;                                                                    \
    swiglu_fn fixed_##set##_swiglu

FIXED_DECLARE(scalar);
#ifdef ANY4_X86
FIXED_DECLARE(avx2);
FIXED_DECLARE(avx512);
#endif

#endif
