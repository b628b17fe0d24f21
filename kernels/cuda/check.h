/* From the text of a launch to a status. */
#ifndef KERNELS_CUDA_CHECK_H
#define KERNELS_CUDA_CHECK_H

#include "engine/base/status.h"
#include "kernels/cuda/launch.h"

static inline enum status launched(const char *wrong, const char *name, struct error *err)
{
    return wrong ? error_set(err, STATUS_DEVICE, "%s: %s", name, wrong) : STATUS_OK;
}

/* Rows of activations, of which n_padded columns are written or read. what: "x" or "out". */
static inline enum status check_rows(const char *name, const char *what, const struct cuda_rows *rows,
                                     int32_t n_padded, struct error *err)
{
    if (rows->parts != 1 && rows->parts != 2) {
        return error_set(err, STATUS_INVALID, "%s: %s in %d parts, expected 1 or 2", name, what, rows->parts);
    }
    if (rows->stride < n_padded || rows->stride % 8 || (uintptr_t)rows->x % 16) {
        return error_set(err, STATUS_INVALID,
                         "%s: rows of %s are %lld apart, expected a multiple of 8, at least %d, and 16-byte "
                         "alignment",
                         name, what, (long long)rows->stride, n_padded);
    }
    return STATUS_OK;
}

#endif
