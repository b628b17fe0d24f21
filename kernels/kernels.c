/* Fills the table of operations: the scalar reference first, then every faster set that may run, upward. */
#include "kernels/kernels.h"

#include "kernels/fixed/fixed.h"
#include "kernels/scalar/scalar.h"
#ifdef ANY4_X86
#include "kernels/avx2/avx2.h"
#include "kernels/avx512/avx512.h"
#endif

void kernels_init_cpu(struct kernels *k, unsigned cpu_flags)
{
    unsigned usable = cpu_flags_usable(cpu_flags);
    *k = (struct kernels){
        .name = "scalar",
        .any4_gemv = scalar_any4_gemv,
        .any4_gemm = scalar_any4_gemm,
        .rmsnorm = scalar_rmsnorm,
        .rope = scalar_rope,
        .attention = scalar_attention,
        .swiglu = scalar_swiglu,
        .axpy = scalar_axpy,
        .kv_store = scalar_kv_store,
    };
#ifdef ANY4_X86
    if (usable & CPU_AVX2) {
        k->name = "avx2";
        k->any4_gemv = avx2_any4_gemv;
        k->any4_gemm = avx2_any4_gemm;
        k->rmsnorm = avx2_rmsnorm;
        k->rope = avx2_rope;
        k->attention = avx2_attention;
        k->swiglu = avx2_swiglu;
        k->axpy = avx2_axpy;
        k->kv_store = avx2_kv_store;
    }
    if (usable & CPU_AVX512) {
        k->name = "avx512";
        k->any4_gemv = avx512_any4_gemv;
        k->any4_gemm = avx512_any4_gemm;
        k->rmsnorm = avx512_rmsnorm;
        k->rope = avx512_rope;
        k->attention = avx512_attention;
        k->swiglu = avx512_swiglu;
        k->axpy = avx512_axpy;
        k->kv_store = avx512_kv_store;
    }
#else
    (void)usable;
#endif
}

#define FIXED_FILL(k, set)                                                                                   \
    ((k)->any4_gemv = fixed_##set##_any4_gemv, (k)->any4_gemm = fixed_##set##_any4_gemm,                     \
     (k)->attention = fixed_##set##_attention, (k)->swiglu = fixed_##set##_swiglu)

void kernels_init_fixed(struct kernels *k, unsigned cpu_flags)
{
    unsigned usable = cpu_flags_usable(cpu_flags);
    *k = (struct kernels){
        .name = "fixed",
        .rmsnorm = scalar_rmsnorm,
        .rope = scalar_rope,
        .axpy = scalar_axpy,
        .kv_store = scalar_kv_store,
    };
    FIXED_FILL(k, scalar);
#ifdef ANY4_X86
    if (usable & CPU_AVX2) {
        FIXED_FILL(k, avx2);
    }
    if (usable & CPU_AVX512) {
        FIXED_FILL(k, avx512);
    }
#else
    (void)usable;
#endif
}
