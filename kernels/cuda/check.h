/* From the text of a launch to a status. */
#ifndef KERNELS_CUDA_CHECK_H
#define KERNELS_CUDA_CHECK_H

#include "engine/base/status.h"
#include "kernels/cuda/launch.h"

static inline enum status launched(const char *wrong, const char *name, struct error *err)
{
    return wrong ? error_set(err, STATUS_DEVICE, "%s: %s", name, wrong) : STATUS_OK;
}

/* Rows of activations, to write or to read: up to n_padded columns of each. */
static inline enum status check_x(const char *name, const struct cuda_rows *x, int32_t n_padded,
                                  int64_t max_stride, struct error *err)
{
    if (x->parts != 1 && x->parts != 2) {
        return error_set(err, STATUS_INVALID, "%s: x in %d parts, expected 1 or 2", name, x->parts);
    }
    if (x->stride < n_padded || x->stride > max_stride || x->stride % 8 || (uintptr_t)x->x % 16) {
        return error_set(
            err, STATUS_INVALID,
            "%s: rows of x are %lld apart, expected a multiple of 8 from %d to %lld, and 16-byte "
            "alignment",
            name, (long long)x->stride, n_padded, (long long)max_stride);
    }
    return STATUS_OK;
}

#endif
