/* f32 to the type of the KV cache, the reference. */
#include "kernels/scalar/scalar.h"

#include <string.h>

#include "engine/base/float16.h"

void scalar_kv_store(void *out, enum kv_type type, const float *x, int32_t n)
{
    uint16_t *halves = out;
    if (type == KV_F32) {
        memcpy(out, x, (size_t)n * sizeof *x);
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        halves[i] = type == KV_F16 ? f16_from_f32(x[i]) : bf16_from_f32(x[i]);
    }
}
