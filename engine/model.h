/* A model's parts: which tensor of the folder plays which role, every shape checked against the config.
 * Binding places nothing and reads no weights; loader.h does that. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include <stdbool.h>

#include "engine/base/safetensors.h"
#include "engine/base/status.h"
#include "engine/engine.h"
#include "engine/model_config.h"
#include "quant/any4.h"
#include "quant/quantize.h"

/* y = W x (+ bias): every one runs through the any4 kernels, quantized or as stored. */
struct linear {
    const struct tensor *source; /* (n_rows, n_cols) in the folder */
    const struct tensor *bias_source;
    struct any4_matrix w; /* filled by the loader */
    float *bias;          /* (n_rows) f32 or NULL; owned */
    /* With a rotated residual stream (engine/rotation.h), set by the loader: */
    const float *folded_norm; /* (n_cols) reads the stream behind this norm; NULL: does not */
    bool writes_stream;
    const float *column_scales; /* (n_cols) of model->channel_scales (engine/channel_scaling.h), or NULL */
    void *memory;               /* what w points into, or NULL where it points into the file; owned */
    bool quantize;              /* decided at binding: method, role and --quant-skip */
    enum quant_method method;   /* the model's, or what bits_per_weight chose for it */
    struct quant_stats stats;   /* when quantized */
    char name[96];              /* the tensor's name without ".weight" */
};

struct expert {
    struct linear *w_gate, *w_up, *w_down;
};

struct layer {
    float *attn_norm, *ffn_norm; /* (dim) f32, owned by model->norms */
    struct linear *wq, *wk, *wv, *wo;
    struct linear *w_gate, *w_up, *w_down; /* dense models */
    struct linear *router;                 /* (n_experts, dim), never quantized */
    struct expert *experts;                /* n_experts, or NULL */
};

struct model {
    struct model_config config;
    struct safetensors *tensors;
    const struct tensor *embedding; /* (vocab_size, dim), read in place */
    float *norms;                   /* (2 * n_layers + 1, dim) f32; all 1 when they are folded into linears */
    float *folded_norms;            /* what they were; NULL: the residual stream is not rotated */
    float *channel_scales;          /* as norms, which are divided by them; NULL: channels are not scaled */
    const struct tensor **norm_sources;
    float *final_norm;
    struct layer *layers;
    struct expert *experts; /* n_layers * n_experts */
    struct linear *linears; /* all of them, in the order of loading; head last */
    int64_t n_linears;
    struct linear *head;
    int64_t n_params;
    size_t stored_bytes, largest_tensor_bytes;
    double quantize_seconds;
    double calibrate_seconds; /* without what was loaded meanwhile; 0: not calibrated */
    double load_seconds;
    struct model_cache *cache; /* what quantized linears may point into; NULL without one */
};

/* Reads config and headers of options->model_dir and binds every tensor. Errors (STATUS_BAD_MODEL,
 * STATUS_NOT_FOUND) name file and tensor or key. */
enum status model_bind(struct model **out, const struct engine_options *options, struct error *err);
/* Frees the weights that linears own, on the host: their matrices keep their shapes. What a cache's file or
 * the model's files hold stays, for it can leave memory by itself. */
void model_free_weights(struct model *model);
void model_close(struct model *model); /* accepts NULL */

#endif
