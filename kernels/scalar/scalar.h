/* The reference: what every operation means. Plain loops and double accumulators, no intrinsics; kept for
 * ever. The contracts stand in kernels.h. */
#ifndef KERNELS_SCALAR_SCALAR_H
#define KERNELS_SCALAR_SCALAR_H

#include "kernels/kernels.h"

any4_gemv_fn scalar_any4_gemv;
any4_gemm_fn scalar_any4_gemm;
rmsnorm_fn scalar_rmsnorm;
rope_fn scalar_rope;
attention_fn scalar_attention;
swiglu_fn scalar_swiglu;
axpy_fn scalar_axpy;
kv_store_fn scalar_kv_store;

#endif
