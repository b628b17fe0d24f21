/* The AVX2 + FMA + F16C set: 8 lanes. Call only where cpu_features.c allows it.
 * The contracts stand in kernels.h. */
#ifndef KERNELS_AVX2_AVX2_H
#define KERNELS_AVX2_AVX2_H

#include "kernels/kernels.h"

any4_gemv_fn avx2_any4_gemv;
any4_gemm_fn avx2_any4_gemm;
rmsnorm_fn avx2_rmsnorm;
rope_fn avx2_rope;
attention_fn avx2_attention;
swiglu_fn avx2_swiglu;
axpy_fn avx2_axpy;
kv_store_fn avx2_kv_store;

#endif
