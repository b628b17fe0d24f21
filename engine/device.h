/* An opened CUDA device, for forward.h. */
#ifndef ENGINE_DEVICE_H
#define ENGINE_DEVICE_H

#include "engine/engine.h"
#include "kernels/cuda/device.h"

struct device {
    struct cuda_kernels k;
    struct cuda_device card;
};

/* What options->device asks for: *out is NULL for the CPU, and with DEVICE_AUTO where no card can be used,
 * which gives one line in the log. Else STATUS_DEVICE with the reason. */
enum status device_open(struct device **out, const struct engine_options *options, struct error *err);
void device_close(struct device *device); /* accepts NULL */

#endif
