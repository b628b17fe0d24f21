/* The mask of instruction sets that picks a set of kernels. */
#include <criterion/criterion.h>

#include "kernels/kernels.h"

Test(kernels_table, mask_picks_the_set)
{
    static const char *const names[] = {"scalar", "avx2", "avx512", "avx512"};
    unsigned detected = cpu_flags_detect();
    for (unsigned flags = 0; flags <= CPU_ALL; flags++) {
        struct kernels k;
        kernels_init_cpu(&k, flags);
        cr_assert_str_eq(k.name, names[flags & detected]);
        cr_assert(k.any4_gemv && k.any4_gemm && k.rmsnorm && k.rope && k.attention && k.swiglu && k.axpy &&
                  k.kv_store);
    }
}
