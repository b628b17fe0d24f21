/* The transformer step: embedding, layers, final norm, head. */
#include "engine/base/log.h"
#include "engine/device_forward.h"
#include "engine/forward_internal.h"
#include "engine/rotation.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER_ALIGNMENT = 64 };

/* Work (roughly: multiply-adds or element operations) below which a barrier costs more than it saves. */
enum { SMALL_WORK = 16384 };

/* Lays every buffer out in one block; with memory NULL it only measures. */
static size_t lay_out(struct forward *f, uint8_t *memory, const struct model_config *c, int64_t rows,
                      int64_t n_logits)
{
    size_t used = 0;
    int64_t slots = rows * (c->n_experts ? c->n_experts_used : 1);
    int64_t q_dim = (int64_t)c->n_heads * c->head_dim, kv_dim = (int64_t)c->n_kv_heads * c->head_dim;
#define TAKE(pointer, count)                                                                                 \
    do {                                                                                                     \
        if (memory) {                                                                                        \
            (pointer) = (void *)(memory + used);                                                             \
        }                                                                                                    \
        used += ((size_t)(count) * sizeof *(pointer) + BUFFER_ALIGNMENT - 1) / BUFFER_ALIGNMENT *            \
                BUFFER_ALIGNMENT;                                                                            \
    } while (0)
    TAKE(f->rope_step, c->head_dim / 2);
    TAKE(f->rope_cos, rows * (c->head_dim / 2));
    TAKE(f->rope_sin, rows * (c->head_dim / 2));
    TAKE(f->x, rows * c->dim);
    TAKE(f->h, rows * c->dim);
    TAKE(f->q, rows * q_dim);
    TAKE(f->attn, rows * q_dim);
    TAKE(f->kx, rows * kv_dim);
    TAKE(f->vx, rows * kv_dim);
    TAKE(f->gate, slots * c->ffn_dim);
    TAKE(f->up, slots * c->ffn_dim);
    TAKE(f->logits, n_logits * c->vocab_size);
    if (c->n_experts) {
        TAKE(f->router, rows * c->n_experts);
        TAKE(f->slot_of, slots);
        TAKE(f->expert_begin, c->n_experts + 1);
        TAKE(f->chosen, slots);
        TAKE(f->chosen_weight, slots);
        TAKE(f->slot_x, slots * c->dim);
        TAKE(f->slot_y, slots * c->dim);
    }
#undef TAKE
    return used;
}

size_t forward_bytes(const struct model_config *config, int32_t max_rows, int32_t max_logits)
{
    struct forward f;
    return lay_out(&f, NULL, config, max_rows, max_logits);
}

enum status forward_open(struct forward **out, const struct model *model, const struct kernels *kernels,
                         struct kv_cache *kv, struct thread_pool *pool, int32_t max_rows, int32_t max_logits,
                         struct error *err)
{
    struct forward *f = calloc(1, sizeof *f);
    size_t bytes = forward_bytes(&model->config, max_rows, max_logits);
    *out = NULL;
    if (!f || posix_memalign(&f->memory, BUFFER_ALIGNMENT, bytes)) {
        free(f);
        return error_set(err, STATUS_NO_MEMORY, "step buffers for %d rows: no memory for %zu bytes", max_rows,
                         bytes);
    }
    f->model = model;
    f->k = kernels;
    f->kv = kv;
    f->pool = pool;
    f->max_rows = max_rows;
    f->max_logits = max_logits;
    lay_out(f, f->memory, &model->config, max_rows, max_logits);
    model_config_rope_frequencies(&model->config, f->rope_step);
    *out = f;
    return STATUS_OK;
}

enum status forward_open_device(struct forward **out, const struct model *model, const struct device *device,
                                struct kv_cache *kv, struct thread_pool *pool,
                                const struct device_limits *limits, struct error *err)
{
    struct forward *f = calloc(1, sizeof *f);
    *out = NULL;
    if (!f) {
        return error_set(err, STATUS_NO_MEMORY, "step buffers: out of memory");
    }
    enum status status = device_forward_open(&f->device, device, model, kv, pool, limits, err);
    if (status) {
        free(f);
        return status;
    }
    f->model = model;
    *out = f;
    return STATUS_OK;
}

void forward_close(struct forward *forward)
{
    if (forward) {
        device_forward_close(forward->device);
        free(forward->memory);
        free(forward);
    }
}

struct products_job {
    const struct forward *f;
    const struct product *products;
    int32_t n_products;
};

/* Items are the rows of all products one after another; a piece may span two of them. */
static void run_products(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct products_job *job = context;
    const struct kernels *k = job->f->k;
    int64_t first = 0;
    (void)thread;
    for (int32_t i = 0; i < job->n_products; i++) {
        const struct product *p = &job->products[i];
        const struct any4_matrix *w = &p->linear->w;
        int64_t row_begin = begin - first, row_end = end - first;
        first += w->n_rows;
        row_begin = row_begin < 0 ? 0 : row_begin;
        row_end = row_end > w->n_rows ? w->n_rows : row_end;
        if (row_begin >= row_end) {
            continue;
        }
        if (p->n_tokens == 1) {
            k->any4_gemv(p->y, w, p->x, (int32_t)row_begin, (int32_t)row_end);
        } else {
            k->any4_gemm(p->y, p->y_stride, w, p->x, p->x_stride, p->n_tokens, (int32_t)row_begin,
                         (int32_t)row_end);
        }
        if (p->linear->bias) {
            for (int32_t t = 0; t < p->n_tokens; t++) {
                k->axpy(p->y + t * p->y_stride + row_begin, p->linear->bias + row_begin, 1.0f,
                        (int32_t)(row_end - row_begin));
            }
        }
    }
}

void forward_products(struct forward *f, const struct product *products, int32_t n_products)
{
    struct products_job job = {f, products, n_products};
    int64_t n_rows = 0, work = 0;
    for (int32_t i = 0; i < n_products; i++) {
        const struct any4_matrix *w = &products[i].linear->w;
        n_rows += w->n_rows;
        work += (int64_t)w->n_rows * w->n_cols * products[i].n_tokens;
    }
    if (work < SMALL_WORK) {
        run_products(&job, 0, n_rows, 0);
    } else {
        thread_pool_run(f->pool, n_rows, 8, run_products, &job);
    }
}

void forward_rows(struct forward *f, int32_t n, int64_t work_per_row, thread_pool_fn *fn, void *context)
{
    if (n * work_per_row < SMALL_WORK) {
        fn(context, 0, n, 0);
    } else {
        thread_pool_run(f->pool, n, 1, fn, context);
    }
}

struct rows_job {
    struct forward *f;
    const struct batch *batch;
    const float *in;
    float *out;
    const float *weight;
    int64_t n;
};

static void embed_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct rows_job *job = context;
    struct forward *f = job->f;
    const struct model_config *c = &f->model->config;
    int32_t half = c->head_dim / 2;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        tensor_to_f32(f->x + t * c->dim, f->model->embedding, (int64_t)job->batch->tokens[t] * c->dim,
                      c->dim);
        if (f->model->folded_norms) {
            rotation_apply(f->x + t * c->dim, c->dim);
        }
        for (int32_t i = 0; i < half; i++) {
            double angle = job->batch->positions[t] * f->rope_step[i];
            f->rope_cos[t * half + i] = (float)cos(angle);
            f->rope_sin[t * half + i] = (float)sin(angle);
        }
    }
}

static void norm_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct rows_job *job = context;
    const struct model_config *c = &job->f->model->config;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        job->f->k->rmsnorm(job->out + t * c->dim, job->in + t * c->dim, job->weight, c->dim, c->norm_eps);
    }
}

static void add_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct rows_job *job = context;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        job->f->k->axpy(job->out + t * job->n, job->in + t * job->n, 1.0f, (int32_t)job->n);
    }
}

static void swiglu_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct rows_job *job = context;
    struct forward *f = job->f;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        f->k->swiglu(f->gate + t * job->n, f->gate + t * job->n, f->up + t * job->n, (int32_t)job->n);
    }
}

static void norm(struct forward *f, float *out, const float *in, const float *weight, int32_t n_rows)
{
    struct rows_job job = {.f = f, .in = in, .out = out, .weight = weight};
    forward_rows(f, n_rows, 4 * (int64_t)f->model->config.dim, norm_rows, &job);
}

static void add(struct forward *f, float *out, const float *in, int32_t n_rows)
{
    struct rows_job job = {.f = f, .in = in, .out = out, .n = f->model->config.dim};
    forward_rows(f, n_rows, job.n, add_rows, &job);
}

void forward_embed(struct forward *f, const struct batch *batch)
{
    const struct model_config *c = &f->model->config;
    struct rows_job embed = {.f = f, .batch = batch};
    assert(batch->n_rows <= f->max_rows && batch->n_logits <= f->max_logits);
    forward_rows(f, batch->n_rows, c->dim + 16 * (int64_t)c->head_dim, embed_rows, &embed);
}

void forward_attention_input(struct forward *f, const struct layer *layer, int32_t n_rows)
{
    norm(f, f->h, f->x, layer->attn_norm, n_rows);
}

void forward_attention(struct forward *f, const struct batch *batch, const struct layer *layer,
                       int32_t kv_layer)
{
    const struct model_config *c = &f->model->config;
    int32_t n_rows = batch->n_rows;
    int64_t q_dim = (int64_t)c->n_heads * c->head_dim, kv_dim = (int64_t)c->n_kv_heads * c->head_dim;
    struct product qkv[] = {
        {layer->wq, f->h, f->q, c->dim, q_dim, n_rows},
        {layer->wk, f->h, f->kx, c->dim, kv_dim, n_rows},
        {layer->wv, f->h, f->vx, c->dim, kv_dim, n_rows},
    };
    forward_products(f, qkv, 3);
    attention_step(f, batch, kv_layer);
}

void forward_ffn_input(struct forward *f, const struct layer *layer, int32_t n_rows)
{
    const struct model_config *c = &f->model->config;
    struct product out = {layer->wo, f->attn, f->h, (int64_t)c->n_heads * c->head_dim, c->dim, n_rows};
    forward_products(f, &out, 1);
    add(f, f->x, f->h, n_rows);
    norm(f, f->h, f->x, layer->ffn_norm, n_rows);
    if (c->n_experts) {
        moe_route(f, layer, n_rows);
    }
}

void forward_ffn(struct forward *f, const struct layer *layer, int32_t n_rows)
{
    const struct model_config *c = &f->model->config;
    struct product products[] = {
        {layer->w_gate, f->h, f->gate, c->dim, c->ffn_dim, n_rows},
        {layer->w_up, f->h, f->up, c->dim, c->ffn_dim, n_rows},
    };
    struct rows_job job = {.f = f, .n = c->ffn_dim};
    if (c->n_experts) {
        moe_ffn(f, layer);
        return;
    }
    forward_products(f, products, 2);
    forward_rows(f, n_rows, 8 * job.n, swiglu_rows, &job);
}

void forward_ffn_output(struct forward *f, const struct layer *layer, int32_t n_rows)
{
    const struct model_config *c = &f->model->config;
    struct product down = {layer->w_down, f->gate, f->h, c->ffn_dim, c->dim, n_rows};
    if (c->n_experts) {
        moe_output(f, layer, n_rows);
        return;
    }
    forward_products(f, &down, 1);
    add(f, f->x, f->h, n_rows);
}

void forward_head_input(struct forward *f, int32_t n_rows)
{
    norm(f, f->h, f->x, f->model->final_norm, n_rows);
}

const float *forward_step_draw(struct forward *f, const struct batch *batch, const struct draw *draws,
                               int32_t *drawn)
{
    struct error err = {0};
    const float *logits = device_forward_step(f->device, batch, draws, drawn, &err);
    if (!logits) {
        log_error("%s", err.message);
    }
    return logits;
}

const float *forward_step(struct forward *f, const struct batch *batch)
{
    if (f->device) {
        return forward_step_draw(f, batch, NULL, NULL);
    }
    const struct model *model = f->model;
    const struct model_config *c = &model->config;
    int32_t n_rows = batch->n_rows;

    forward_embed(f, batch);
    for (int32_t l = 0; l < c->n_layers; l++) {
        const struct layer *layer = &model->layers[l];
        forward_attention_input(f, layer, n_rows);
        forward_attention(f, batch, layer, l);
        forward_ffn_input(f, layer, n_rows);
        forward_ffn(f, layer, n_rows);
        forward_ffn_output(f, layer, n_rows);
    }
    if (batch->n_logits) {
        /* Only the wanted rows go on; they are ascending, so they can be moved up in place. */
        for (int32_t i = 0; i < batch->n_logits; i++) {
            int32_t row = batch->logit_rows[i];
            if (row != i) {
                memmove(f->x + (int64_t)i * c->dim, f->x + (int64_t)row * c->dim,
                        (size_t)c->dim * sizeof *f->x);
            }
        }
        forward_head_input(f, batch->n_logits);
        struct product head = {model->head, f->h, f->logits, c->dim, c->vocab_size, batch->n_logits};
        forward_products(f, &head, 1);
    }
    return f->logits;
}
