/* One step of one batch through the model: prefill chunks and decode rows alike. A row's bits do not depend
 * on its neighbours, on chunking or on the thread count; a step allocates nothing. */
#ifndef ENGINE_FORWARD_H
#define ENGINE_FORWARD_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/thread_pool.h"
#include "engine/kv_cache.h"
#include "engine/model.h"
#include "kernels/kernels.h"

/* Rows of one step. A sequence's rows stand together, positions ascending; its blocks are reserved already.
 */
struct batch {
    int32_t n_rows;
    int32_t *tokens;              /* (n_rows) ids below vocab_size */
    int32_t *positions;           /* (n_rows) */
    const int32_t **block_tables; /* (n_rows) the row's sequence's */
    int32_t n_logits;
    int32_t *logit_rows; /* (n_logits) ascending row numbers whose logits are wanted */
};

/* A token to be drawn from the logits of a row: what a device can do by itself, which is temperature, top-k,
 * top-p and min-p (engine/sampler.h says what they mean). */
struct draw {
    bool wanted; /* else the row's logits go to the host */
    float temperature, top_p, min_p;
    int32_t top_k;
    uint64_t seed, position;
};

struct forward;
struct device;

/* Buffers for at most max_rows rows, max_logits of them with logits. Everything given is borrowed. */
enum status forward_open(struct forward **out, const struct model *model, const struct kernels *kernels,
                         struct kv_cache *kv, struct thread_pool *pool, int32_t max_rows, int32_t max_logits,
                         struct error *err);
void forward_close(struct forward *forward); /* accepts NULL */
/* Bytes that such buffers take. */
size_t forward_bytes(const struct model_config *config, int32_t max_rows, int32_t max_logits);

/* What the largest step on a device will be, and how it computes (engine_options). */
struct device_limits {
    int32_t max_rows, max_logits;
    int32_t max_sequences;
    int32_t n_positions; /* of the longest sequence */
    bool batch_invariant;
    bool exact; /* activations in two parts */
};

/* The same on a CUDA device: copies the model there. kv: kv_cache_init_blocks. */
enum status forward_open_device(struct forward **out, const struct model *model, const struct device *device,
                                struct kv_cache *kv, struct thread_pool *pool,
                                const struct device_limits *limits, struct error *err);

/* Runs the batch: appends keys and values, returns logits (n_logits, vocab_size) f32, valid until the next
 * step. NULL when a device failed, with the reason in the log; never without one. */
const float *forward_step(struct forward *forward, const struct batch *batch);

/* The same on a device, but draws the tokens that are wanted: drawn[i] for logit row i, -1 where its logits
 * are not usable. The logits of those rows are not there to be read. */
const float *forward_step_draw(struct forward *forward, const struct batch *batch, const struct draw *draws,
                               int32_t *drawn);

#endif
