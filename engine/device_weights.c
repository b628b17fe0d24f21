/* Weights on their way to the device: packed by all threads, one matrix each at a time. */
#include "engine/device_weights.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/rotation.h"
#include "quant/pack.h"

enum { EXPERT_ROLES = 3 };

/* ---- bytes ---- */

static bool is_tiled(const struct any4_matrix *w)
{
    return w->code_bits == 4;
}

static enum status matrix_bytes(size_t *out, const struct any4_matrix *w, struct error *err)
{
    return is_tiled(w) ? cuda_any4_bytes(out, w, err) : cuda_matrix_bytes(out, w, err);
}

/* What a linear that is still to be loaded will be. */
static void expected_matrix(struct any4_matrix *w, const struct linear *linear,
                            const struct engine_options *options)
{
    if (linear->quantize) {
        quant_matrix_shape(w, &options->quant, linear->w.n_rows, linear->w.n_cols);
        return;
    }
    const enum dtype dtype = linear->source->dtype;
    *w = (struct any4_matrix){
        .kind = options->rotation || dtype == DTYPE_F32 ? ANY4_F32
                : dtype == DTYPE_F16                    ? ANY4_F16
                                                        : ANY4_BF16,
        .n_rows = linear->w.n_rows,
        .n_cols = linear->w.n_cols,
    };
}

static size_t embedding_bytes(const struct model *model, bool rotated)
{
    return rotated ? (size_t)model->embedding->n_elements * sizeof(float) : model->embedding->n_bytes;
}

static size_t norms_bytes(const struct model_config *c)
{
    return (2 * (size_t)c->n_layers + 1) * (size_t)c->dim * sizeof(float);
}

static size_t rope_bytes(const struct model_config *c, int32_t n_positions)
{
    return (size_t)n_positions * (size_t)(c->head_dim / 2) * sizeof(float);
}

enum status device_weights_bytes(size_t *out, size_t *staging, const struct model *model,
                                 const struct engine_options *options, int32_t n_positions, struct error *err)
{
    const struct model_config *c = &model->config;
    size_t quantized = 0, largest = 0;
    double n_quantized = 0;
    *out = embedding_bytes(model, options->rotation) + norms_bytes(c) + 2 * rope_bytes(c, n_positions);
    for (int64_t i = 0; i < model->n_linears; i++) {
        const struct linear *linear = &model->linears[i];
        struct any4_matrix w;
        size_t bytes;
        expected_matrix(&w, linear, options);
        enum status status = matrix_bytes(&bytes, &w, err);
        if (status) {
            return error_prefix(err, linear->name);
        }
        largest = bytes > largest ? bytes : largest;
        quantized += linear->quantize ? bytes : 0;
        n_quantized += linear->quantize ? (double)linear->source->n_elements : 0;
        *out += (linear->quantize ? 0 : bytes) +
                (linear->bias_source ? (size_t)linear->w.n_rows * sizeof(float) : 0);
    }
    if (options->bits_per_weight > 0) { /* no width is chosen yet; an eighth for padding */
        const double most = options->bits_per_weight / 8 * n_quantized * 1.125;
        quantized = (double)quantized > most ? quantized : (size_t)most;
    }
    *out += quantized;
    *staging = 2 * largest; /* in tiles, and in the device's arrangement */
    return STATUS_OK;
}

/* ---- copies ---- */

/* Device memory with a copy of `bytes` at `from`, which may go when this returns. */
static enum status copy_to(struct device_weights *w, void **out, const void *from, size_t bytes,
                           const char *what, struct error *err)
{
    const struct device *d = w->device;
    enum status status = d->k.alloc(out, bytes, what, err);
    status = status ? status : d->k.upload(&d->card, *out, from, bytes, err);
    return status ? status : d->k.wait(&d->card, err);
}

static enum status copy_linear(struct device_weights *w, const struct linear *linear,
                               struct device_linear *out, struct error *err)
{
    struct any4_matrix matrix = linear->w;
    uint8_t *tiles = NULL;
    size_t bytes;
    out->tiled = is_tiled(&matrix);
    enum status status = matrix_bytes(&bytes, &matrix, err);
    if (status) {
        return status;
    }
    void *block = malloc(bytes);
    if (out->tiled) {
        tiles = malloc(tile_matrix_bytes(matrix.n_rows, matrix.n_cols, matrix.code_bits));
    }
    if (!block || (out->tiled && !tiles)) {
        status = error_set(err, STATUS_NO_MEMORY, "%s: no memory for %zu bytes on the way to the device",
                           linear->name, bytes);
    } else if (out->tiled) {
        repack_to_tiles(tiles, matrix.codes, matrix.row_bytes, matrix.n_rows, matrix.n_cols,
                        matrix.code_bits);
        matrix.codes = tiles;
        matrix.layout = ANY4_LAYOUT_TILE_V1;
        matrix.row_bytes = tile_row_bytes(matrix.n_cols, matrix.code_bits);
        cuda_any4_pack(block, &matrix);
    } else {
        cuda_matrix_pack(block, &matrix);
    }
    status = status ? status : copy_to(w, &out->memory, block, bytes, linear->name, err);
    if (!status && out->tiled) {
        cuda_any4_place(&out->any4, &matrix, out->memory);
    } else if (!status) {
        cuda_matrix_place(&out->any, &matrix, out->memory);
    }
    if (!status && linear->bias) {
        status = copy_to(w, (void **)&out->bias, linear->bias, (size_t)matrix.n_rows * sizeof(float),
                         linear->name, err);
    }
    free(tiles);
    free(block);
    return status;
}

struct copy_job {
    struct device_weights *w;
    pthread_mutex_t lock; /* of what follows */
    enum status status;
    struct error error;
};

static void copy_linears(void *context, int64_t begin, int64_t end, int32_t thread)
{
    struct copy_job *job = context;
    struct device_weights *w = job->w;
    struct error err;
    (void)thread;
    pthread_mutex_lock(&job->lock);
    const bool failed = job->status != STATUS_OK;
    pthread_mutex_unlock(&job->lock);
    if (failed) {
        return;
    }
    enum status status = w->device->k.enter(&w->device->card, &err);
    for (int64_t i = begin; i < end && !status; i++) {
        status = copy_linear(w, &w->model->linears[i], &w->linears[i], &err);
    }
    if (status) {
        pthread_mutex_lock(&job->lock);
        if (!job->status) {
            job->status = status;
            job->error = err;
        }
        pthread_mutex_unlock(&job->lock);
    }
}

static bool same_format(const struct device_linear *a, const struct device_linear *b)
{
    return a->tiled == b->tiled &&
           (a->tiled ? a->any4.kind == b->any4.kind && a->any4.group_size == b->any4.group_size
                     : a->any.kind == b->any.kind && a->any.code_bits == b->any.code_bits &&
                           a->any.group_size == b->any.group_size);
}

static enum status copy_experts(struct device_weights *w, int32_t layer, int32_t role, struct error *err)
{
    const int32_t n = w->model->config.n_experts;
    struct device_experts *out = &w->experts[layer * EXPERT_ROLES + role];
    const size_t size = sizeof(struct cuda_matrix) > sizeof(struct cuda_any4) ? sizeof(struct cuda_matrix)
                                                                              : sizeof(struct cuda_any4);
    uint8_t *list = calloc((size_t)n, size);
    if (!list) {
        return error_set(err, STATUS_NO_MEMORY, "experts: out of memory");
    }
    enum status status = STATUS_OK;
    for (int32_t e = 0; e < n && !status; e++) {
        const struct expert *expert = &w->model->layers[layer].experts[e];
        const struct linear *linear = role == 0 ? expert->w_gate : role == 1 ? expert->w_up : expert->w_down;
        const struct device_linear *d = device_weights_linear(w, linear);
        out->first = out->first ? out->first : d;
        if (!same_format(out->first, d)) {
            status = error_set(err, STATUS_INVALID,
                               "%s has another format than the first expert: mixed widths of experts have no "
                               "CUDA kernel, use --device cpu",
                               linear->name);
        } else if (d->tiled) {
            memcpy(list + (size_t)e * sizeof d->any4, &d->any4, sizeof d->any4);
        } else {
            memcpy(list + (size_t)e * sizeof d->any, &d->any, sizeof d->any);
        }
    }
    status = status ? status : copy_to(w, &out->list, list, (size_t)n * size, "experts", err);
    free(list);
    return status;
}

static enum status copy_embedding(struct device_weights *w, struct error *err)
{
    const struct model *model = w->model;
    const struct tensor *tensor = model->embedding;
    const int32_t dim = model->config.dim;
    const size_t bytes = embedding_bytes(model, model->folded_norms != NULL);
    if (!model->folded_norms) {
        w->embedding_kind = tensor->dtype == DTYPE_F32   ? ANY4_F32
                            : tensor->dtype == DTYPE_F16 ? ANY4_F16
                                                         : ANY4_BF16;
        return copy_to(w, &w->embedding, tensor->data, bytes, "embedding", err);
    }
    float *rows = malloc(bytes);
    if (!rows) {
        return error_set(err, STATUS_NO_MEMORY, "no memory to rotate the embedding");
    }
    tensor_to_f32(rows, tensor, 0, tensor->n_elements);
    for (int64_t row = 0; row < model->config.vocab_size; row++) {
        rotation_apply(rows + row * dim, dim);
    }
    w->embedding_kind = ANY4_F32;
    enum status status = copy_to(w, &w->embedding, rows, bytes, "embedding", err);
    free(rows);
    return status;
}

/* The angles that forward.c computes with every step. */
static enum status copy_rope(struct device_weights *w, int32_t n_positions, struct error *err)
{
    const struct model_config *c = &w->model->config;
    const int32_t half = c->head_dim / 2;
    const size_t bytes = rope_bytes(c, n_positions);
    double *step = malloc((size_t)half * sizeof *step);
    float *cosines = malloc(bytes), *sines = malloc(bytes);
    enum status status =
        step && cosines && sines ? STATUS_OK : error_set(err, STATUS_NO_MEMORY, "rope: out of memory");
    if (!status) {
        model_config_rope_frequencies(c, step);
        for (int64_t at = 0; at < (int64_t)n_positions * half; at++) {
            const double angle = (double)(at / half) * step[at % half];
            cosines[at] = (float)cos(angle);
            sines[at] = (float)sin(angle);
        }
    }
    status = status ? status : copy_to(w, (void **)&w->rope_cos, cosines, bytes, "rope", err);
    status = status ? status : copy_to(w, (void **)&w->rope_sin, sines, bytes, "rope", err);
    free(step);
    free(cosines);
    free(sines);
    return status;
}

enum status device_weights_open(struct device_weights **out, const struct device *device,
                                const struct model *model, int32_t n_positions, struct thread_pool *pool,
                                struct error *err)
{
    const struct model_config *c = &model->config;
    struct device_weights *w = calloc(1, sizeof *w);
    enum status status = STATUS_OK;
    *out = NULL;
    if (!w) {
        return error_set(err, STATUS_NO_MEMORY, "weights: out of memory");
    }
    w->device = device;
    w->model = model;
    w->linears = calloc((size_t)model->n_linears, sizeof *w->linears);
    w->experts = c->n_experts ? calloc((size_t)c->n_layers * EXPERT_ROLES, sizeof *w->experts) : NULL;
    if (!w->linears || (c->n_experts && !w->experts)) {
        device_weights_close(w);
        return error_set(err, STATUS_NO_MEMORY, "weights: out of memory");
    }
    struct copy_job job = {.w = w};
    pthread_mutex_init(&job.lock, NULL);
    thread_pool_run_dynamic(pool, model->n_linears, 1, copy_linears, &job);
    pthread_mutex_destroy(&job.lock);
    if ((status = job.status) && err) {
        *err = job.error;
    }
    status = status ? status : device->k.enter(&device->card, err);
    for (int32_t i = 0; w->experts && i < c->n_layers * EXPERT_ROLES && !status; i++) {
        status = copy_experts(w, i / EXPERT_ROLES, i % EXPERT_ROLES, err);
    }
    if (status || (status = copy_embedding(w, err)) ||
        (status = copy_to(w, (void **)&w->norms, model->norms, norms_bytes(c), "norms", err)) ||
        (status = copy_rope(w, n_positions, err))) {
        device_weights_close(w);
        return status;
    }
    *out = w;
    return STATUS_OK;
}

void device_weights_close(struct device_weights *w)
{
    if (!w) {
        return;
    }
    const struct cuda_kernels *k = &w->device->k;
    k->enter(&w->device->card, NULL);
    for (int64_t i = 0; w->linears && i < w->model->n_linears; i++) {
        k->free(w->linears[i].memory);
        k->free(w->linears[i].bias);
    }
    for (int32_t i = 0; w->experts && i < w->model->config.n_layers * EXPERT_ROLES; i++) {
        k->free(w->experts[i].list);
    }
    k->free(w->embedding);
    k->free(w->norms);
    k->free(w->rope_cos);
    k->free(w->rope_sin);
    free(w->linears);
    free(w->experts);
    free(w);
}
