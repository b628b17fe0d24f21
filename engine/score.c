/* The forward pass without the engine around it. */
#include "engine/score.h"

#include <assert.h>
#include <stdlib.h>

#include "engine/device.h"
#include "engine/forward.h"
#include "engine/loader.h"
#include "engine/memory_plan.h"
#include "engine/model_cache.h"
#include "engine/report.h"

enum { MAX_STEP = 512 };

struct scorer {
    struct engine_info info;
    struct quant_report report;
    struct model *model;
    struct kernels kernels;
    struct device *device; /* NULL: the CPU */
    struct kv_cache kv;
    struct forward *forward;
    int32_t max_ids, max_step;
    int32_t *table; /* the text's blocks: all that the cache has */
    int32_t n_blocks;
    /* The rows of a step, max_step each. */
    int32_t *tokens, *positions, *rows;
    const int32_t **tables;
};

static enum status start(struct scorer *s, struct thread_pool *pool, const struct engine_options *options,
                         struct error *err)
{
    const struct model_config *config = &s->model->config;
    size_t n = (size_t)s->max_step;
    int32_t n_blocks = (s->max_ids + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    enum status status;
    if (s->device) {
        const struct device_limits limits = {.max_rows = s->max_step,
                                             .max_logits = s->max_step,
                                             .max_sequences = 1,
                                             .n_positions = s->max_ids,
                                             .batch_invariant = options->batch_invariant,
                                             .exact = memory_plan_exact(options, config)};
        status = kv_cache_init_blocks(&s->kv, config, s->info.kv_type, n_blocks, err);
        status = status ? status
                        : forward_open_device(&s->forward, s->model, s->device, &s->kv, pool, &limits, err);
    } else {
        status = kv_cache_init(&s->kv, config, s->info.kv_type, n_blocks, err);
        status = status ? status
                        : forward_open(&s->forward, s->model, &s->kernels, &s->kv, pool, s->max_step,
                                       s->max_step, err);
    }
    if (status) {
        return status;
    }
    s->table = calloc((size_t)n_blocks, sizeof *s->table);
    s->tokens = calloc(n, sizeof *s->tokens);
    s->positions = calloc(n, sizeof *s->positions);
    s->rows = calloc(n, sizeof *s->rows);
    s->tables = calloc(n, sizeof(const int32_t *));
    if (!s->table || !s->tokens || !s->positions || !s->rows || !s->tables) {
        return error_set(err, STATUS_NO_MEMORY, "scorer: out of memory for steps of %d ids", s->max_step);
    }
    for (int32_t i = 0; i < s->max_step; i++) {
        s->rows[i] = i;
        s->tables[i] = s->table;
    }
    bool reserved = kv_cache_reserve(&s->kv, s->table, &s->n_blocks, s->max_ids);
    assert(reserved);
    (void)reserved;
    s->info.kv_bytes = s->kv.memory_bytes;
    return STATUS_OK;
}

enum status scorer_open(struct scorer **out, const struct engine_options *options, int32_t max_ids,
                        struct thread_pool *pool, struct error *err)
{
    struct engine_plan plan;
    struct engine_options own = *options;
    struct scorer *s = calloc(1, sizeof *s);
    enum status status;
    *out = NULL;
    if (!s) {
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", options->model_dir);
    }
    kernels_init_cpu(&s->kernels, options->cpu_flags);
    if ((status = model_bind(&s->model, options, err))) {
        goto cleanup;
    }
    if (max_ids < 1 || max_ids > s->model->config.max_positions) {
        status = error_set(err, STATUS_INVALID, "%s: a text of %d ids: this model has positions for 1 to %d",
                           options->model_dir, max_ids, s->model->config.max_positions);
        goto cleanup;
    }
    own.max_running = 1;
    own.prefill_chunk = max_ids < MAX_STEP ? max_ids : MAX_STEP;
    own.max_model_len = max_ids;
    own.kv_cache_tokens = 0;
    s->max_ids = max_ids;
    s->max_step = memory_plan_logits(&own, &s->model->config);
    own.prefill_chunk = s->max_step;
    if ((status = device_open(&s->device, &own, err)) ||
        (status = memory_plan_on(&plan, &s->device, s->model, &own, err)) ||
        (status = loader_run(s->model, &own, pool, err)) ||
        (status = quant_report_init(&s->report, s->model, &own, err))) {
        goto cleanup;
    }
    engine_info_fill(&s->info, s->model, &s->report, &own, &plan);
    s->info.kernels = s->device ? s->device->k.name : s->kernels.name;
    s->info.device = s->device ? s->device->card.name : "cpu";
    s->info.n_threads = thread_pool_n_threads(pool);
    status = start(s, pool, options, err);
    if (!status && s->device) { /* which has a copy */
        model_cache_release_weights(s->model->cache, s->model);
    }
cleanup:
    if (status) {
        scorer_close(s);
        return status;
    }
    quant_report_log(&s->report, &s->info, options->quant_report);
    *out = s;
    return STATUS_OK;
}

void scorer_close(struct scorer *s)
{
    if (!s) {
        return;
    }
    free(s->tables);
    free(s->rows);
    free(s->positions);
    free(s->tokens);
    free(s->table);
    forward_close(s->forward);
    kv_cache_finish(&s->kv);
    quant_report_finish(&s->report);
    device_close(s->device);
    model_close(s->model);
    free(s);
}

const struct engine_info *scorer_get_info(const struct scorer *scorer)
{
    return &scorer->info;
}

int32_t scorer_max_step(const struct scorer *scorer)
{
    return scorer->max_step;
}

const float *scorer_step(struct scorer *s, int32_t position, const int32_t *ids, int32_t n_ids)
{
    struct batch batch = {n_ids, s->tokens, s->positions, s->tables, n_ids, s->rows};
    assert(n_ids >= 1 && n_ids <= s->max_step && position >= 0 && position + n_ids <= s->max_ids);
    for (int32_t i = 0; i < n_ids; i++) {
        s->tokens[i] = ids[i];
        s->positions[i] = position + i;
    }
    return forward_step(s->forward, &batch);
}
