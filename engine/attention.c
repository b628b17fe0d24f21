/* The attention chapter of forward.c: rotary positions, KV append, attention over the paged cache. */
#include <math.h>
#include <stdbool.h>

#include "engine/forward_internal.h"

enum { ROWS_PER_THREAD = 4 }; /* so many even out rows of different lengths */

struct attention_job {
    struct forward *f;
    const struct batch *batch;
    int32_t layer;
    int32_t n_parts; /* KV heads of one row are shared out to so many items */
};

static void append_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct attention_job *job = context;
    struct forward *f = job->f;
    const struct model_config *c = &f->model->config;
    int64_t q_dim = (int64_t)c->n_heads * c->head_dim, kv_dim = (int64_t)c->n_kv_heads * c->head_dim;
    int32_t half = c->head_dim / 2;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        const float *cosines = f->rope_cos + t * half, *sines = f->rope_sin + t * half;
        const int32_t *table = job->batch->block_tables[t];
        int32_t position = job->batch->positions[t];
        f->k->rope(f->q + t * q_dim, c->n_heads, c->head_dim, cosines, sines);
        f->k->rope(f->kx + t * kv_dim, c->n_kv_heads, c->head_dim, cosines, sines);
        for (int32_t h = 0; h < c->n_kv_heads; h++) {
            f->k->kv_store(kv_cache_slot(f->kv, job->layer, false, table, position, h), f->kv->type,
                           f->kx + t * kv_dim + (int64_t)h * c->head_dim, c->head_dim);
            f->k->kv_store(kv_cache_slot(f->kv, job->layer, true, table, position, h), f->kv->type,
                           f->vx + t * kv_dim + (int64_t)h * c->head_dim, c->head_dim);
        }
    }
}

/* Items are (row, part of its KV heads). */
static void attend(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct attention_job *job = context;
    struct forward *f = job->f;
    const struct model_config *c = &f->model->config;
    int64_t q_dim = (int64_t)c->n_heads * c->head_dim;
    int32_t n_q = c->n_heads / c->n_kv_heads, n_heads = c->n_kv_heads / job->n_parts;
    float scale = (float)(1.0 / sqrt((double)c->head_dim));
    (void)thread;
    for (int64_t item = begin; item < end; item++) {
        int64_t t = item / job->n_parts;
        int32_t head = (int32_t)(item % job->n_parts) * n_heads;
        int32_t position = job->batch->positions[t];
        int32_t first =
            c->sliding_window && position >= c->sliding_window ? position - c->sliding_window + 1 : 0;
        int64_t offset = t * q_dim + (int64_t)head * n_q * c->head_dim;
        struct kv_view view = kv_cache_view(f->kv, job->layer, job->batch->block_tables[t]);
        f->k->attention(f->attn + offset, f->q + offset, n_q, &view, head, head + n_heads, first,
                        position + 1, scale);
    }
}

void attention_step(struct forward *f, const struct batch *batch, int32_t layer)
{
    const struct model_config *c = &f->model->config;
    /* A row's heads lie side by side in memory: one thread takes them all where there are rows for every
     * thread, and few rows are shared out by heads. */
    bool by_row = batch->n_rows >= ROWS_PER_THREAD * thread_pool_n_threads(f->pool);
    struct attention_job job = {f, batch, layer, by_row ? 1 : c->n_kv_heads};
    int64_t work = 0, n_items = (int64_t)batch->n_rows * job.n_parts;
    /* All keys of the step are written before any row reads: rows of one sequence see each other. */
    forward_rows(f, batch->n_rows, 8 * (int64_t)c->n_heads * c->head_dim, append_rows, &job);
    for (int32_t t = 0; t < batch->n_rows; t++) {
        work += (int64_t)batch->positions[t] * c->n_heads * c->head_dim * 2;
    }
    if (work < 32768) {
        attend(&job, 0, n_items, 0);
    } else {
        thread_pool_run_dynamic(f->pool, n_items, 1, attend, &job);
    }
}
