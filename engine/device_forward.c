/* Launches, buffers and the two copies of a step. The order of operations is forward.c's. */
#include "engine/device_forward.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/device_weights.h"

enum { BUFFER_ALIGNMENT = 256, BLOCKS_A_PROCESSOR = 2 };

/* What changes from step to step, in one block that is uploaded whole. The pointers of one copy lie on the
 * device, those of the other in pinned memory. */
struct step_inputs {
    int32_t *tokens, *positions, *sequences; /* (max_rows) */
    struct cuda_attention_tile *tiles;       /* (max_rows) */
    int32_t *logit_rows;                     /* (max_logits) */
    struct cuda_sample_row *draws;           /* (max_logits) */
    int32_t *block_tables; /* (max_sequences, table_stride): last, only as much as is used */
};

struct buffers {
    float *h;                     /* (max_rows, dim) the residual stream */
    float *h_wanted;              /* (max_logits, dim) its rows whose logits are wanted */
    struct cuda_rows x;           /* (max_rows, dim) what a linear over dim reads */
    float *qkv;                   /* (max_rows, qkv_stride) */
    struct cuda_rows attention;   /* (max_rows, n_heads * head_dim) of scale 1 */
    float *y;                     /* (max_rows, dim) */
    float *gate, *up;             /* (max_slots, ffn_dim) */
    struct cuda_rows act;         /* (max_slots, ffn_dim) */
    float *logits;                /* (max_logits, vocab_size) */
    int32_t *drawn;               /* (max_logits) */
    float *partials;              /* of linears */
    uint32_t *counters;           /* of linears */
    float *attention_partials;    /* n_attention_partials */
    uint32_t *attention_counters; /* n_attention_counters */
    float *router;                /* (max_rows, n_experts) */
    struct cuda_moe moe;
    float *slot_y; /* (max_slots, dim) */
};

struct device_forward {
    const struct device *device;
    const struct model *model;
    struct kv_cache *kv;
    struct device_limits limits;
    struct device_weights *weights;
    struct cuda_workspace workspace;
    struct step_inputs in, host_in;
    struct buffers b;
    void *inputs, *host_inputs, *memory, *counters, *keys_values;
    float *host_logits; /* (max_logits, vocab_size) pinned, as the next */
    int32_t *host_drawn;
    int32_t table_stride;
    int32_t qkv_stride;
    int64_t n_attention_partials;
    int32_t n_attention_counters, n_slots_a_row;
    bool failed; /* a fault of the device: nothing works any more */
};

/* ---- layout ---- */

#define TAKE(pointer, count)                                                                                 \
    do {                                                                                                     \
        (pointer) = (void *)(base + used);                                                                   \
        used += ((size_t)(count) * sizeof *(pointer) + BUFFER_ALIGNMENT - 1) / BUFFER_ALIGNMENT *            \
                BUFFER_ALIGNMENT;                                                                            \
    } while (0)

/* Rows as matrices read them, in two parts where exact. */
#define TAKE_ROWS(rows, n, n_cols, with_scales)                                                              \
    do {                                                                                                     \
        (rows).stride = cuda_padded(n_cols);                                                                 \
        (rows).parts = l->exact ? 2 : 1;                                                                     \
        TAKE((rows).x, (n) * (rows).parts * (rows).stride);                                                  \
        if (with_scales) {                                                                                   \
            TAKE((rows).scales, (n));                                                                        \
        }                                                                                                    \
    } while (0)

/* With base 0 both only measure. Gives the bytes. */
static size_t lay_out_inputs(struct step_inputs *in, uintptr_t base, const struct device_forward *f)
{
    const struct device_limits *l = &f->limits;
    size_t used = 0;
    TAKE(in->tokens, l->max_rows);
    TAKE(in->positions, l->max_rows);
    TAKE(in->sequences, l->max_rows);
    TAKE(in->tiles, l->max_rows);
    TAKE(in->logit_rows, l->max_logits);
    TAKE(in->draws, l->max_logits);
    TAKE(in->block_tables, (int64_t)l->max_sequences * f->table_stride);
    return used;
}

static size_t lay_out(struct device_forward *f, uintptr_t base, const struct model_config *c)
{
    const struct device_limits *l = &f->limits;
    const int64_t rows = l->max_rows, slots = rows * f->n_slots_a_row;
    const int32_t q_dim = c->n_heads * c->head_dim;
    struct buffers *b = &f->b;
    size_t used = 0;
    TAKE(b->h, rows * c->dim);
    TAKE(b->h_wanted, (int64_t)l->max_logits * c->dim);
    TAKE_ROWS(b->x, rows, c->dim, true);
    TAKE(b->qkv, rows * f->qkv_stride);
    TAKE_ROWS(b->attention, rows, q_dim, false);
    TAKE(b->y, rows * c->dim);
    TAKE(b->gate, slots * c->ffn_dim);
    TAKE(b->up, slots * c->ffn_dim);
    TAKE_ROWS(b->act, slots, c->ffn_dim, true);
    TAKE(b->logits, (int64_t)l->max_logits * c->vocab_size);
    TAKE(b->drawn, l->max_logits);
    TAKE(b->partials, cuda_partials(f->workspace.n_blocks, f->workspace.max_tokens));
    TAKE(b->attention_partials, f->n_attention_partials);
    if (c->n_experts) {
        TAKE(b->router, rows * c->n_experts);
        TAKE(b->moe.expert_begin, c->n_experts + 1);
        TAKE(b->moe.slot_row, slots);
        TAKE(b->moe.slot_of, slots);
        TAKE(b->moe.weights, slots);
        TAKE(b->slot_y, slots * c->dim);
    }
    return used;
}

/* Counters lie apart: they are zero before the first launch, and launches leave them so. */
static size_t lay_out_counters(struct device_forward *f, uintptr_t base)
{
    size_t used = 0;
    TAKE(f->b.counters, f->workspace.n_counters);
    TAKE(f->b.attention_counters, f->n_attention_counters);
    return used;
}
#undef TAKE_ROWS
#undef TAKE

static enum status check_model(const struct model_config *c, const struct device_limits *l, struct error *err)
{
    if (c->head_dim % 8 || c->head_dim > CUDA_ATTENTION_MAX_HEAD_DIM) {
        return error_set(err, STATUS_INVALID,
                         "head_dim %d: the CUDA kernels take multiples of 8 up to %d, use --device cpu",
                         c->head_dim, CUDA_ATTENTION_MAX_HEAD_DIM);
    }
    if (c->n_experts > CUDA_MOE_MAX_EXPERTS || c->n_experts_used > CUDA_MOE_MAX_USED) {
        return error_set(err, STATUS_INVALID,
                         "%d experts, %d used: the CUDA kernels take up to %d and %d, use --device cpu",
                         c->n_experts, c->n_experts_used, CUDA_MOE_MAX_EXPERTS, CUDA_MOE_MAX_USED);
    }
    if (c->n_experts && l->max_rows > CUDA_MOE_MAX_ROWS) {
        return error_set(
            err, STATUS_INVALID,
            "a step of %d tokens: with experts the CUDA kernels take up to %d, see prefill_chunk",
            l->max_rows, CUDA_MOE_MAX_ROWS);
    }
    return STATUS_OK;
}

/* Row blocks of the largest matrix, each with a counter. */
static int32_t most_row_blocks(const struct model_config *c)
{
    int32_t most = c->n_heads * c->head_dim;
    most = c->dim > most ? c->dim : most;
    most = c->ffn_dim > most ? c->ffn_dim : most;
    most = c->vocab_size > most ? c->vocab_size : most;
    return (most + ANY4_TILE_ROW_PAD - 1) / ANY4_TILE_ROW_PAD;
}

static void set_shapes(struct device_forward *f, const struct model_config *c)
{
    const struct device *device = f->device;
    const struct device_limits *l = &f->limits;
    f->table_stride = (l->n_positions + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    f->qkv_stride = (c->n_heads + 2 * c->n_kv_heads) * c->head_dim;
    f->n_slots_a_row = c->n_experts ? c->n_experts_used : 1;
    f->workspace.n_blocks = BLOCKS_A_PROCESSOR * device->card.n_processors;
    f->workspace.n_counters = most_row_blocks(c);
    f->workspace.max_tokens = CUDA_MAX_TOKENS_SMALL;
    f->n_attention_partials =
        device->k.attention_partials(c->n_heads, c->head_dim, l->max_rows, l->n_positions - 1);
    f->n_attention_counters = l->max_rows * c->n_kv_heads;
}

enum status device_forward_bytes(size_t *out, const struct device *device, const struct model_config *config,
                                 const struct device_limits *limits, struct error *err)
{
    struct device_forward f = {.device = device, .limits = *limits};
    enum status status = check_model(config, limits, err);
    *out = 0;
    if (!status) {
        set_shapes(&f, config);
        *out = lay_out(&f, 0, config) + lay_out_inputs(&f.in, 0, &f) + lay_out_counters(&f, 0);
    }
    return status;
}

/* ---- open and close ---- */

static enum status make_buffers(struct device_forward *f, struct error *err)
{
    const struct device *d = f->device;
    const struct model_config *c = &f->model->config;
    const size_t input_bytes = lay_out_inputs(&f->in, 0, f), bytes = lay_out(f, 0, c);
    const size_t counter_bytes = lay_out_counters(f, 0);
    enum status status;
    if ((status = d->k.alloc(&f->inputs, input_bytes, "step inputs", err)) ||
        (status = d->k.alloc_pinned(&f->host_inputs, input_bytes, "step inputs", err)) ||
        (status = d->k.alloc(&f->memory, bytes, "step buffers", err)) ||
        (status = d->k.alloc(&f->counters, counter_bytes, "step buffers", err)) ||
        (status = d->k.alloc(&f->keys_values, f->kv->memory_bytes, "KV cache", err)) ||
        (status = d->k.alloc_pinned((void **)&f->host_logits,
                                    (size_t)f->limits.max_logits * (size_t)c->vocab_size * sizeof(float),
                                    "logits", err)) ||
        (status = d->k.alloc_pinned((void **)&f->host_drawn, (size_t)f->limits.max_logits * sizeof(int32_t),
                                    "drawn tokens", err))) {
        return status;
    }
    lay_out_inputs(&f->in, (uintptr_t)f->inputs, f);
    lay_out_inputs(&f->host_in, (uintptr_t)f->host_inputs, f);
    lay_out(f, (uintptr_t)f->memory, c);
    lay_out_counters(f, (uintptr_t)f->counters);
    memset(f->host_inputs, 0, input_bytes);
    f->workspace.partials = f->b.partials;
    f->workspace.counters = f->b.counters;
    return d->k.zero(&d->card, f->counters, counter_bytes, err);
}

/* A step of one token in block 0, which nobody owns yet: kernels are loaded, and one that the card cannot run
 * is found before a request is. */
static enum status warm_up(struct device_forward *f, struct error *err)
{
    int32_t token = 0, position = 0, row = 0;
    const int32_t table = 0, *tables = &table;
    const struct batch batch = {.n_rows = 1,
                                .tokens = &token,
                                .positions = &position,
                                .block_tables = &tables,
                                .n_logits = 1,
                                .logit_rows = &row};
    return device_forward_step(f, &batch, NULL, NULL, err) ? STATUS_OK : STATUS_DEVICE;
}

enum status device_forward_open(struct device_forward **out, const struct device *device,
                                const struct model *model, struct kv_cache *kv, struct thread_pool *pool,
                                const struct device_limits *limits, struct error *err)
{
    struct device_forward *f = calloc(1, sizeof *f);
    enum status status;
    *out = NULL;
    if (!f) {
        return error_set(err, STATUS_NO_MEMORY, "step buffers: out of memory");
    }
    f->device = device;
    f->model = model;
    f->kv = kv;
    f->limits = *limits;
    if ((status = check_model(&model->config, limits, err))) {
        free(f);
        return status;
    }
    set_shapes(f, &model->config);
    if ((status = device->k.enter(&device->card, err)) || (status = make_buffers(f, err)) ||
        (status = device_weights_open(&f->weights, device, model, limits->n_positions, pool, err)) ||
        (status = warm_up(f, err))) {
        device_forward_close(f);
        return status;
    }
    *out = f;
    return STATUS_OK;
}

void device_forward_close(struct device_forward *f)
{
    if (!f) {
        return;
    }
    const struct cuda_kernels *k = &f->device->k;
    k->enter(&f->device->card, NULL);
    device_weights_close(f->weights);
    k->free(f->inputs);
    k->free(f->memory);
    k->free(f->counters);
    k->free(f->keys_values);
    k->free_pinned(f->host_inputs);
    k->free_pinned(f->host_logits);
    k->free_pinned(f->host_drawn);
    free(f);
}

/* ---- one step ---- */

/* A step while it is queued: after a failure the rest is left out. */
struct step {
    struct device_forward *f;
    const struct cuda_kernels *k;
    void *stream;
    int32_t n_rows, n_tiles, max_position;
    enum status status;
    struct error *err;
};

/* Calls a kernel of the table unless an earlier one failed. */
#define LAUNCH(s, kernel, ...)                                                                               \
    do {                                                                                                     \
        if (!(s)->status) {                                                                                  \
            (s)->status = (s)->k->kernel(__VA_ARGS__, (s)->stream, (s)->err);                                \
        }                                                                                                    \
    } while (0)

/* y = W rows + bias. */
static void linear(struct step *s, const struct linear *of, float *y, int64_t y_stride,
                   const struct cuda_rows *rows, int32_t n_tokens)
{
    const struct device_linear *l = device_weights_linear(s->f->weights, of);
    if (l->tiled) {
        const struct cuda_linear args = {.w = &l->any4,
                                         .y = y,
                                         .y_stride = y_stride,
                                         .x = *rows,
                                         .n_tokens = n_tokens,
                                         .workspace = &s->f->workspace,
                                         .stream = s->stream};
        if (!s->status) {
            s->status = s->k->any4_linear(&args, s->f->limits.batch_invariant, s->err);
        }
    } else {
        LAUNCH(s, linear_any, y, y_stride, &l->any, rows, n_tokens);
    }
    if (l->bias) {
        LAUNCH(s, axpy, y, y_stride, l->bias, 0, 1.0f, of->w.n_rows, n_tokens);
    }
}

static void attention(struct step *s, const struct layer *layer, int32_t index)
{
    struct device_forward *f = s->f;
    const struct model_config *c = &f->model->config;
    struct buffers *b = &f->b;
    const int64_t q_dim = (int64_t)c->n_heads * c->head_dim, kv_dim = (int64_t)c->n_kv_heads * c->head_dim;
    uint8_t *keys = (uint8_t *)f->keys_values + 2 * (size_t)index * f->kv->plane_bytes;
    linear(s, layer->wq, b->qkv, f->qkv_stride, &b->x, s->n_rows);
    linear(s, layer->wk, b->qkv + q_dim, f->qkv_stride, &b->x, s->n_rows);
    linear(s, layer->wv, b->qkv + q_dim + kv_dim, f->qkv_stride, &b->x, s->n_rows);
    struct cuda_rope_append append = {.qkv = b->qkv,
                                      .qkv_stride = f->qkv_stride,
                                      .n_heads = c->n_heads,
                                      .n_kv_heads = c->n_kv_heads,
                                      .head_dim = c->head_dim,
                                      .cos = f->weights->rope_cos,
                                      .sin = f->weights->rope_sin,
                                      .positions = f->in.positions,
                                      .sequences = f->in.sequences,
                                      .block_tables = f->in.block_tables,
                                      .table_stride = f->table_stride,
                                      .block_size = KV_BLOCK_TOKENS,
                                      .block_stride = f->kv->block_stride,
                                      .type = f->kv->type,
                                      .k = keys,
                                      .v = keys + f->kv->plane_bytes};
    LAUNCH(s, rope_kv_append, &append, s->n_rows);
    struct cuda_attention attend = {.out = b->attention,
                                    .q = b->qkv,
                                    .q_stride = f->qkv_stride,
                                    .n_heads = c->n_heads,
                                    .n_kv_heads = c->n_kv_heads,
                                    .head_dim = c->head_dim,
                                    .positions = f->in.positions,
                                    .sequences = f->in.sequences,
                                    .tiles = f->in.tiles,
                                    .n_tiles = s->n_tiles,
                                    .block_tables = f->in.block_tables,
                                    .table_stride = f->table_stride,
                                    .block_size = KV_BLOCK_TOKENS,
                                    .block_stride = f->kv->block_stride,
                                    .type = f->kv->type,
                                    .k = append.k,
                                    .v = append.v,
                                    .sliding_window = c->sliding_window,
                                    .scale = (float)(1.0 / sqrt((double)c->head_dim)),
                                    .n_rows = s->n_rows,
                                    .max_position = s->max_position,
                                    .partials = b->attention_partials,
                                    .n_partials = f->n_attention_partials,
                                    .counters = b->attention_counters,
                                    .n_counters = f->n_attention_counters};
    LAUNCH(s, attention, &attend);
    linear(s, layer->wo, b->y, c->dim, &b->attention, s->n_rows);
    LAUNCH(s, axpy, b->h, c->dim, b->y, c->dim, 1.0f, c->dim, s->n_rows);
}

static void dense_ffn(struct step *s, const struct layer *layer)
{
    struct device_forward *f = s->f;
    const struct model_config *c = &f->model->config;
    struct buffers *b = &f->b;
    linear(s, layer->w_gate, b->gate, c->ffn_dim, &b->x, s->n_rows);
    linear(s, layer->w_up, b->up, c->ffn_dim, &b->x, s->n_rows);
    LAUNCH(s, swiglu, &b->act, b->gate, b->up, c->ffn_dim, c->ffn_dim, s->n_rows);
    linear(s, layer->w_down, b->y, c->dim, &b->act, s->n_rows);
    LAUNCH(s, axpy, b->h, c->dim, b->y, c->dim, 1.0f, c->dim, s->n_rows);
}

/* Every slot's expert times its row: one launch. */
static void grouped(struct step *s, const struct device_experts *experts, float *y, int64_t y_stride,
                    const struct cuda_rows *rows, const int32_t *slot_row)
{
    const struct device_linear *first = experts->first;
    const int32_t n_experts = s->f->model->config.n_experts, n_slots = s->n_rows * s->f->n_slots_a_row;
    const int32_t *expert_begin = s->f->b.moe.expert_begin;
    if (first->tiled) {
        LAUNCH(s, any4_grouped, y, y_stride, experts->list, &first->any4, n_experts, rows, slot_row,
               expert_begin, n_slots);
    } else {
        LAUNCH(s, linear_any_grouped, y, y_stride, experts->list, &first->any, n_experts, rows, slot_row,
               expert_begin);
    }
}

/* norm: of the layer's second half, for the router. */
static void experts_ffn(struct step *s, const struct layer *layer, int32_t index, const float *norm)
{
    struct device_forward *f = s->f;
    const struct model_config *c = &f->model->config;
    struct buffers *b = &f->b;
    const struct device_experts *experts = &f->weights->experts[3 * index];
    const struct device_linear *router = device_weights_linear(f->weights, layer->router);
    LAUNCH(s, moe_logits, b->router, c->n_experts, &router->any, b->h, c->dim, norm, c->norm_eps, s->n_rows);
    LAUNCH(s, moe_route, &b->moe, b->router, c->n_experts, c->n_experts, c->n_experts_used, s->n_rows,
           f->in.positions);
    grouped(s, &experts[0], b->gate, c->ffn_dim, &b->x, b->moe.slot_row);
    grouped(s, &experts[1], b->up, c->ffn_dim, &b->x, b->moe.slot_row);
    LAUNCH(s, swiglu, &b->act, b->gate, b->up, c->ffn_dim, c->ffn_dim, s->n_rows * f->n_slots_a_row);
    grouped(s, &experts[2], b->slot_y, c->dim, &b->act, NULL);
    LAUNCH(s, moe_combine, b->h, c->dim, b->slot_y, c->dim, &b->moe, c->dim, c->n_experts_used, s->n_rows,
           f->in.positions);
}

/* Fills the inputs and queues their way to the device. */
static void upload_inputs(struct step *s, const struct batch *batch, const struct draw *draws)
{
    struct device_forward *f = s->f;
    struct step_inputs *in = &f->host_in;
    int32_t n_sequences = 0;
    memcpy(in->tokens, batch->tokens, (size_t)batch->n_rows * sizeof *in->tokens);
    memcpy(in->positions, batch->positions, (size_t)batch->n_rows * sizeof *in->positions);
    memcpy(in->logit_rows, batch->logit_rows, (size_t)batch->n_logits * sizeof *in->logit_rows);
    s->max_position = 0;
    for (int32_t row = 0; row < batch->n_rows; row++) {
        const int32_t *table = batch->block_tables[row];
        n_sequences += row == 0 || table != batch->block_tables[row - 1];
        in->sequences[row] = n_sequences - 1;
        const bool is_last = row + 1 == batch->n_rows || table != batch->block_tables[row + 1];
        if (is_last) { /* positions ascend: its blocks up to this row's are in use */
            const int32_t n = batch->positions[row] / KV_BLOCK_TOKENS + 1;
            assert(n_sequences <= f->limits.max_sequences && n <= f->table_stride);
            memcpy(in->block_tables + (int64_t)(n_sequences - 1) * f->table_stride, table,
                   (size_t)n * sizeof *table);
        }
        s->max_position = batch->positions[row] > s->max_position ? batch->positions[row] : s->max_position;
    }
    s->n_tiles = s->k->attention_tiles(in->tiles, in->positions, in->sequences, batch->n_rows);
    for (int32_t i = 0; draws && i < batch->n_logits; i++) {
        in->draws[i] = (struct cuda_sample_row){.logit_row = draws[i].wanted ? i : -1,
                                                .temperature = draws[i].temperature,
                                                .top_p = draws[i].top_p,
                                                .min_p = draws[i].min_p,
                                                .top_k = draws[i].top_k,
                                                .seed = draws[i].seed,
                                                .position = draws[i].position};
    }
    const size_t used = (size_t)((uint8_t *)(in->block_tables + (int64_t)n_sequences * f->table_stride) -
                                 (uint8_t *)f->host_inputs);
    s->status = s->k->upload(&f->device->card, f->inputs, f->host_inputs, used, s->err);
}

/* Logits of the wanted rows, draws, and what of both goes to the host. */
static void head(struct step *s, const struct batch *batch, const struct draw *draws)
{
    struct device_forward *f = s->f;
    const struct model_config *c = &f->model->config;
    const struct cuda_device *card = &f->device->card;
    struct buffers *b = &f->b;
    const int32_t n = batch->n_logits;
    bool any_draw = false;
    /* A row of h is a row of a table. */
    LAUNCH(s, embedding, b->h_wanted, c->dim, b->h, ANY4_F32, s->n_rows, c->dim, f->in.logit_rows, n);
    LAUNCH(s, rmsnorm, &b->x, b->h_wanted, c->dim, f->weights->norms + 2 * (int64_t)c->n_layers * c->dim,
           c->dim, n, c->norm_eps);
    linear(s, f->model->head, b->logits, c->vocab_size, &b->x, n);
    for (int32_t begin = 0, end; begin < n && !s->status; begin = end) {
        const bool drawn = draws && draws[begin].wanted;
        for (end = begin + 1; end < n && (draws && draws[end].wanted) == drawn; end++) {
        }
        any_draw |= drawn;
        if (!drawn) {
            const int64_t at = (int64_t)begin * c->vocab_size;
            s->status = s->k->download(card, f->host_logits + at, b->logits + at,
                                       (size_t)(end - begin) * (size_t)c->vocab_size * sizeof(float), s->err);
        }
    }
    if (any_draw) {
        LAUNCH(s, sample, b->drawn, b->logits, c->vocab_size, c->vocab_size, f->in.draws, n);
        if (!s->status) {
            s->status = s->k->download(card, f->host_drawn, b->drawn, (size_t)n * sizeof *b->drawn, s->err);
        }
    }
}

const float *device_forward_step(struct device_forward *f, const struct batch *batch,
                                 const struct draw *draws, int32_t *drawn, struct error *err)
{
    const struct model_config *c = &f->model->config;
    struct step step = {.f = f,
                        .k = &f->device->k,
                        .stream = f->device->card.stream,
                        .n_rows = batch->n_rows,
                        .err = err},
                *s = &step;
    struct buffers *b = &f->b;
    assert(batch->n_rows <= f->limits.max_rows && batch->n_logits <= f->limits.max_logits);
    if (f->failed) {
        error_set(err, STATUS_DEVICE, "the CUDA device has failed before");
        return NULL;
    }
    if (!(s->status = s->k->enter(&f->device->card, err))) {
        upload_inputs(s, batch, draws);
    }
    LAUNCH(s, embedding, b->h, c->dim, f->weights->embedding, f->weights->embedding_kind, c->vocab_size,
           c->dim, f->in.tokens, s->n_rows);
    for (int32_t l = 0; l < c->n_layers; l++) {
        const struct layer *layer = &f->model->layers[l];
        const float *norms = f->weights->norms + 2 * (int64_t)l * c->dim;
        LAUNCH(s, rmsnorm, &b->x, b->h, c->dim, norms, c->dim, s->n_rows, c->norm_eps);
        attention(s, layer, l);
        LAUNCH(s, rmsnorm, &b->x, b->h, c->dim, norms + c->dim, c->dim, s->n_rows, c->norm_eps);
        if (c->n_experts) {
            experts_ffn(s, layer, l, norms + c->dim);
        } else {
            dense_ffn(s, layer);
        }
    }
    if (batch->n_logits) {
        head(s, batch, draws);
    }
    if (!s->status) {
        s->status = s->k->wait(&f->device->card, err);
    }
    if (s->status) {
        f->failed = true;
        return NULL;
    }
    for (int32_t i = 0; draws && i < batch->n_logits; i++) {
        if (draws[i].wanted) {
            drawn[i] = f->host_drawn[i];
        }
    }
    return f->host_logits;
}
