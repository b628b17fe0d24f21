/* The AVX-512 (F, BW, DQ, VL) set: 16 lanes, tails by mask. Call only where cpu_features.c allows it.
 * The contracts stand in kernels.h. */
#ifndef KERNELS_AVX512_AVX512_H
#define KERNELS_AVX512_AVX512_H

#include "kernels/kernels.h"

any4_gemv_fn avx512_any4_gemv;
any4_gemm_fn avx512_any4_gemm;
rmsnorm_fn avx512_rmsnorm;
rope_fn avx512_rope;
attention_fn avx512_attention;
swiglu_fn avx512_swiglu;
axpy_fn avx512_axpy;
kv_store_fn avx512_kv_store;

#endif
