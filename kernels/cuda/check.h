/* From the text of a launch to a status. */
#ifndef KERNELS_CUDA_CHECK_H
#define KERNELS_CUDA_CHECK_H

#include "engine/base/status.h"

static inline enum status launched(const char *wrong, const char *name, struct error *err)
{
    return wrong ? error_set(err, STATUS_DEVICE, "%s: %s", name, wrong) : STATUS_OK;
}

#endif
