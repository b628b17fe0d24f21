/* The step of forward.h on a CUDA device: plain launches of the table's kernels on one stream. Activations,
 * keys and values never leave the device; a step uploads one block of integers and downloads token ids, and
 * logits of the rows that the host wants to see. */
#ifndef ENGINE_DEVICE_FORWARD_H
#define ENGINE_DEVICE_FORWARD_H

#include "engine/device.h"
#include "engine/forward.h"

struct device_forward;

/* Copies the model and makes the buffers. kv: a pool of block numbers (kv_cache_init_blocks), whose memory is
 * made here. Refuses (STATUS_INVALID) a model that the kernels do not take. */
enum status device_forward_open(struct device_forward **out, const struct device *device,
                                const struct model *model, struct kv_cache *kv, struct thread_pool *pool,
                                const struct device_limits *limits, struct error *err);
void device_forward_close(struct device_forward *f); /* accepts NULL */
/* Device bytes of the buffers, without weights and cache; STATUS_INVALID as above. */
enum status device_forward_bytes(size_t *out, const struct device *device, const struct model_config *config,
                                 const struct device_limits *limits, struct error *err);

/* forward_step and forward_step_draw. NULL with err when the device failed. */
const float *device_forward_step(struct device_forward *f, const struct batch *batch,
                                 const struct draw *draws, int32_t *drawn, struct error *err);

#endif
