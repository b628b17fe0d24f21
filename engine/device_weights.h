/* A loaded model's weights on a CUDA device, in the arrangements that its kernels read. */
#ifndef ENGINE_DEVICE_WEIGHTS_H
#define ENGINE_DEVICE_WEIGHTS_H

#include "engine/base/thread_pool.h"
#include "engine/device.h"
#include "engine/model.h"

struct device_linear {
    bool tiled; /* 4-bit tiles: `any4`; else `any` */
    struct cuda_any4 any4;
    struct cuda_matrix any;
    float *bias; /* (n_rows) or NULL */
    void *memory;
};

/* All experts of one role in one layer: one shape and one format. */
struct device_experts {
    const struct device_linear *first; /* for shapes */
    void *list;                        /* on the device: (n_experts) struct cuda_any4 or cuda_matrix */
};

struct device_weights {
    const struct device *device;
    const struct model *model;
    struct device_linear *linears;  /* as model->linears */
    struct device_experts *experts; /* (n_layers, 3): gate, up, down; NULL: dense */
    void *embedding;                /* (vocab_size, dim), embedding_kind */
    enum any4_kind embedding_kind;
    float *norms;               /* as model->norms */
    float *rope_cos, *rope_sin; /* (n_positions, head_dim / 2) */
};

/* Copies a loaded model for contexts of n_positions. Everything given is borrowed. STATUS_NO_MEMORY or
 * STATUS_DEVICE; STATUS_INVALID for experts of mixed formats. */
enum status device_weights_open(struct device_weights **out, const struct device *device,
                                const struct model *model, int32_t n_positions, struct thread_pool *pool,
                                struct error *err);
void device_weights_close(struct device_weights *w); /* accepts NULL */

/* Bytes that they will take, from a bound model alone, and those of the host that a thread needs to copy
 * them. */
enum status device_weights_bytes(size_t *out, size_t *staging, const struct model *model,
                                 const struct engine_options *options, int32_t n_positions,
                                 struct error *err);

static inline const struct device_linear *device_weights_linear(const struct device_weights *w,
                                                                const struct linear *linear)
{
    return &w->linears[linear - w->model->linears];
}

#endif
