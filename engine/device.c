/* Which device the engine runs on. */
#include "engine/device.h"

#include <stdlib.h>

#include "engine/base/log.h"

/* A kernel that runs: code for another kind of card is found out here, and not by the first request. */
static enum status probe(const struct device *device, struct error *err)
{
    enum { N = 32 };
    const struct cuda_kernels *k = &device->k;
    const struct cuda_device *card = &device->card;
    float in[N], out[N] = {0};
    void *memory = NULL;
    enum status status = k->alloc(&memory, sizeof in, "a first test", err);
    for (int32_t i = 0; i < N; i++) {
        in[i] = (float)i;
    }
    status = status ? status : k->upload(card, memory, in, sizeof in, err);
    status = status ? status : k->axpy(memory, N, memory, N, 1.0f, N, 1, card->stream, err);
    status = status ? status : k->download(card, out, memory, sizeof out, err);
    status = status ? status : k->wait(card, err);
    for (int32_t i = 0; i < N && !status; i++) {
        if (out[i] < 2 * in[i] || out[i] > 2 * in[i]) {
            status = error_set(err, STATUS_DEVICE, "CUDA device %d computes wrong results", (int)card->index);
        }
    }
    k->free(memory);
    return status;
}

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
    if (!status && (status = probe(device, &why))) {
        device->k.close(&device->card);
    }
    if (!status) {
        log_info("%s, compute capability %d.%d, %d processors, %.1f GiB of memory free", device->card.name,
                 (int)device->card.major, (int)device->card.minor, (int)device->card.n_processors,
                 (double)device->card.free_bytes / 1073741824);
        *out = device;
        return STATUS_OK;
    }
    free(device);
    if (options->device == DEVICE_AUTO) {
        if (status == STATUS_NOT_FOUND) {
            log_debug("the CPU computes: %s", why.message);
        } else {
            log_info("the CPU computes: %s", why.message);
        }
        return STATUS_OK;
    }
    return error_set(err, STATUS_DEVICE, "%s", why.message);
}

void device_close(struct device *device)
{
    if (device) {
        device->k.enter(&device->card, NULL);
        device->k.close(&device->card);
        free(device);
    }
}
