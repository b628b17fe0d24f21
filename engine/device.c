/* Which device the engine runs on. */
#include "engine/device.h"

#include <stdlib.h>

#include "engine/base/log.h"

enum status device_open(struct device **out, const struct engine_options *options, struct error *err)
{
    struct error why = {0};
    *out = NULL;
    if (options->device == DEVICE_CPU) {
        return STATUS_OK;
    }
    struct device *device = calloc(1, sizeof *device);
    if (!device) {
        return error_set(err, STATUS_NO_MEMORY, "device: out of memory");
    }
    enum status status = kernels_init_cuda(&device->k, &device->card, (int32_t)options->device_index, &why);
    if (!status) {
        log_info("%s, compute capability %d.%d, %d processors, %.1f GiB of memory free", device->card.name,
                 (int)device->card.major, (int)device->card.minor, (int)device->card.n_processors,
                 (double)device->card.free_bytes / 1073741824);
        *out = device;
        return STATUS_OK;
    }
    free(device);
    if (options->device == DEVICE_AUTO) {
        if (status != STATUS_NOT_FOUND) {
            log_info("the CPU computes: %s", why.message);
        }
        return STATUS_OK;
    }
    return error_set(err, STATUS_DEVICE, "%s", why.message);
}

void device_close(struct device *device)
{
    if (device) {
        device->k.close(&device->card);
        free(device);
    }
}
