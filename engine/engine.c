/* The engine thread: takes submissions in, builds a step, runs it, samples, publishes. All that is live
 * belongs to this thread; the inbox is the only thing that it shares under a lock. */
#include "engine/engine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/device.h"
#include "engine/forward.h"
#include "engine/loader.h"
#include "engine/memory_plan.h"
#include "engine/model_cache.h"
#include "engine/report.h"
#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"

enum { MIN_PARALLEL_SAMPLING = 16384 }; /* logits in a step below which one thread samples */

struct counters {
    _Atomic int32_t running, waiting, batch_size, live;
    _Atomic int64_t kv_tokens_used, prompt_tokens, generation_tokens, preemptions, steps, last_step_ns;
    _Atomic int64_t finished[FINISH_ERROR + 1];
    atomic_bool device_failed; /* nothing can be computed any more */
    _Atomic int64_t drain_ns;  /* smoothed nanoseconds between two ends while work is waiting */
};

struct engine {
    struct engine_options options;
    struct engine_info info;
    struct quant_report report;
    struct model *model;
    struct thread_pool *pool;
    struct kernels kernels;
    struct device *device; /* NULL: the CPU */
    struct kv_cache kv;
    struct forward *forward;
    struct scheduler scheduler;
    struct sampler **samplers; /* one per thread */
    int32_t n_samplers;
    int32_t *drawn;     /* (max_logits) token drawn in each logit row of the step */
    struct draw *draws; /* (max_logits) which of them the device draws; NULL without one */
    int64_t last_finish_ns;

    pthread_t thread;
    bool thread_started;
    pthread_mutex_t lock; /* guards inbox, stopping, next_number */
    pthread_cond_t wake;
    struct request *inbox, **inbox_end;
    int64_t next_number;
    bool stopping;
    struct counters counters;
};

void engine_options_init(struct engine_options *options)
{
    *options = (struct engine_options){
        .quant = {.method = QUANT_ANY4},
        .cpu_flags = CPU_ALL,
        .batch_invariant = true,
        .max_running = 32,
        .max_queue = 256,
        .prefill_chunk = 512,
    };
}

/* ---- the end of a sequence ---- */

static void finish(struct engine *e, struct request *r, enum finish_reason reason, int32_t stop_token)
{
    int64_t now = clock_ns();
    scheduler_remove(&e->scheduler, r);
    request_finish(r, reason, stop_token);
    request_flush(r);
    request_drop(r);
    if (e->last_finish_ns && e->scheduler.n_waiting) {
        int64_t gap = now - e->last_finish_ns, smoothed = e->counters.drain_ns;
        atomic_store(&e->counters.drain_ns, smoothed ? smoothed + (gap - smoothed) / 8 : gap);
    }
    e->last_finish_ns =
        e->scheduler.n_running || e->scheduler.n_waiting ? now : 0; /* idle time is no drain time */
    atomic_fetch_add(&e->counters.finished[reason], 1);
    atomic_fetch_sub(&e->counters.live, 1);
}

/* Cancelled and overdue sequences leave before the step is built. */
static void sweep_one(struct engine *e, struct request *r, int64_t now_ms)
{
    enum finish_reason reason = (enum finish_reason)atomic_load_explicit(&r->cancelled, memory_order_relaxed);
    if (reason != FINISH_NONE) {
        finish(e, r, reason, -1);
    } else if (r->params.deadline_ms && now_ms >= r->params.deadline_ms) {
        finish(e, r, FINISH_TIMEOUT, -1);
    }
}

static void sweep(struct engine *e)
{
    int64_t now_ms = clock_ns() / 1000000;
    for (int32_t i = e->scheduler.n_running - 1; i >= 0; i--) {
        sweep_one(e, e->scheduler.running[i], now_ms);
    }
    for (struct request *r = e->scheduler.waiting, *next; r; r = next) {
        next = r->next;
        sweep_one(e, r, now_ms);
    }
}

/* ---- sampling ---- */

static void sample_row(struct engine *e, struct sampler *sampler, const float *logits, int32_t index)
{
    const struct logit_row *row = &e->scheduler.logit_rows[index];
    struct request *r = row->request;
    int32_t token, event;
    logits += (int64_t)index * e->model->config.vocab_size;
    if (row->is_draw) {
        int32_t n_output = r->n_tokens - r->n_prompt;
        struct sampler_context context = {
            .params = &r->params,
            .prompt = r->tokens,
            .n_prompt = r->n_prompt,
            .output = r->tokens + r->n_prompt,
            .n_output = n_output,
            .banned = r->end_ids,
            .n_banned = n_output < r->params.min_tokens ? r->n_end_ids : 0,
        };
        token = sampler_draw(sampler, logits, &context);
        event = n_output + (r->params.prompt_logprobs ? r->n_prompt - 1 : 0);
    } else {
        token = r->tokens[row->position + 1];
        event = row->position;
    }
    e->drawn[index] = token;
    if (token >= 0 && r->n_logprobs) {
        struct token_logprob *slot = request_logprob_slot(r, event);
        if (!sampler_logprobs(sampler, logits, token, slot, slot + 1, r->n_logprobs - 1)) {
            e->drawn[index] = -1;
        }
    }
}

/* What a device can draw: a token without biases, penalties, bans and logprobs. */
static void choose_draws(struct engine *e)
{
    for (int32_t i = 0; i < e->scheduler.batch.n_logits; i++) {
        const struct logit_row *row = &e->scheduler.logit_rows[i];
        const struct request *r = row->request;
        const struct generate_params *p = &r->params;
        const int32_t n_output = r->n_tokens - r->n_prompt;
        e->draws[i] = (struct draw){
            .wanted = row->is_draw && !p->n_bias && p->repetition_penalty == 1 && p->presence_penalty == 0 &&
                      p->frequency_penalty == 0 && !r->n_logprobs &&
                      (n_output >= p->min_tokens || !r->n_end_ids),
            .temperature = p->temperature,
            .top_p = p->top_p,
            .min_p = p->min_p,
            .top_k = p->top_k,
            .seed = p->seed,
            .position = (uint64_t)n_output,
        };
    }
}

struct sample_job {
    struct engine *engine;
    const float *logits;
};

static void sample_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct sample_job *job = context;
    for (int64_t i = begin; i < end; i++) {
        if (!job->engine->draws || !job->engine->draws[i].wanted) {
            sample_row(job->engine, job->engine->samplers[thread], job->logits, (int32_t)i);
        }
    }
}

/* The drawn token joins the sequence; the sequence ends or goes on. */
static void commit_draw(struct engine *e, struct request *r, int32_t token)
{
    int64_t now = clock_ns();
    r->tokens[r->n_tokens++] = token;
    int32_t n_output = r->n_tokens - r->n_prompt;
    if (!r->first_token) {
        r->first_token = now;
    }
    r->last_token = now;
    atomic_fetch_add(&e->counters.generation_tokens, 1);
    request_publish(r, now);
    for (int32_t i = 0; i < r->n_end_ids; i++) {
        if (token == r->end_ids[i]) {
            finish(e, r, FINISH_STOP, i < r->n_stop_ids ? token : -1);
            return;
        }
    }
    if (n_output == r->params.max_tokens) {
        finish(e, r, FINISH_LENGTH, -1);
    }
}

static void commit(struct engine *e)
{
    const struct batch *b = &e->scheduler.batch;
    for (int32_t i = 0; i < b->n_logits; i++) {
        struct logit_row row = e->scheduler.logit_rows[i];
        if (e->drawn[i] < 0 || row.request->failed) { /* nothing behind the first unusable row is published */
            row.request->failed = true;
        } else if (row.is_draw) {
            commit_draw(e, row.request, e->drawn[i]);
        } else {
            row.request->n_scored = row.position + 1;
            request_publish(row.request, clock_ns());
        }
    }
    /* Sequences that only score end when their last scored position is computed. */
    for (int32_t i = e->scheduler.n_running - 1; i >= 0; i--) {
        struct request *r = e->scheduler.running[i];
        if (r->failed) {
            log_error("a sequence of %d tokens ends: its logits are NaN or infinite, or the device failed",
                      r->n_tokens);
            finish(e, r, FINISH_ERROR, -1);
        } else if (r->params.max_tokens == 0 && r->n_computed >= r->n_tokens - 1) {
            finish(e, r, FINISH_LENGTH, -1);
        } else {
            request_flush(r);
        }
    }
}

/* ---- the loop ---- */

static void publish_counters(struct engine *e)
{
    struct scheduler *s = &e->scheduler;
    atomic_store(&e->counters.running, s->n_running);
    atomic_store(&e->counters.kv_tokens_used, (int64_t)(e->kv.n_blocks - e->kv.n_free) * KV_BLOCK_TOKENS);
    atomic_store(&e->counters.preemptions, s->n_preemptions);
    atomic_store(&e->counters.batch_size, s->n_running);
    atomic_store(&e->counters.last_step_ns, clock_ns());
}

static void step(struct engine *e)
{
    struct scheduler *s = &e->scheduler;
    int32_t n_waiting = s->n_waiting;
    sweep(e);
    scheduler_build(s);
    /* The queue's bound counts what waits for the first time or again, so the counter follows both ways. */
    atomic_fetch_sub(&e->counters.waiting, n_waiting - s->n_waiting);
    if (s->batch.n_rows) {
        const float *logits;
        if (e->draws) {
            choose_draws(e);
            logits = forward_step_draw(e->forward, &s->batch, e->draws, e->drawn);
        } else {
            logits = forward_step(e->forward, &s->batch);
        }
        struct sample_job job = {e, logits};
        int64_t n_logits = (int64_t)s->batch.n_logits * e->model->config.vocab_size;
        if (!logits) { /* the device failed, for good: as with logits that are not usable */
            atomic_store(&e->counters.device_failed, true);
            for (int32_t i = 0; i < s->n_running; i++) {
                s->running[i]->failed = true;
            }
        } else if (n_logits < MIN_PARALLEL_SAMPLING) {
            sample_rows(&job, 0, s->batch.n_logits, 0);
        } else {
            thread_pool_run_dynamic(e->pool, s->batch.n_logits, 1, sample_rows, &job);
        }
        atomic_fetch_add(&e->counters.steps, 1);
    }
    commit(e);
    publish_counters(e);
}

static void take_inbox(struct engine *e, struct request *list)
{
    while (list) {
        struct request *r = list;
        list = r->next;
        atomic_fetch_add(&e->counters.prompt_tokens, r->n_prompt);
        scheduler_enqueue(&e->scheduler, r);
    }
}

static void *engine_main(void *argument)
{
    struct engine *e = argument;
    for (;;) {
        pthread_mutex_lock(&e->lock);
        while (!e->inbox && !e->stopping && !e->scheduler.n_running && !e->scheduler.waiting) {
            pthread_cond_wait(&e->wake, &e->lock);
        }
        struct request *list = e->inbox;
        bool stopping = e->stopping;
        e->inbox = NULL;
        e->inbox_end = &e->inbox;
        pthread_mutex_unlock(&e->lock);
        take_inbox(e, list);
        if (stopping) {
            break;
        }
        step(e);
    }
    while (e->scheduler.n_running) {
        finish(e, e->scheduler.running[0], FINISH_CANCELLED, -1);
    }
    while (e->scheduler.waiting) {
        finish(e, e->scheduler.waiting, FINISH_CANCELLED, -1);
    }
    publish_counters(e);
    return NULL;
}

/* ---- open and close ---- */

static void fill_info(struct engine *e, const struct engine_plan *plan)
{
    struct engine_info *info = &e->info;
    engine_info_fill(info, e->model, &e->report, &e->options, plan);
    info->kv_bytes = e->kv.memory_bytes;
    info->kernels = e->device ? e->device->k.name : e->kernels.name;
    info->device = e->device ? e->device->card.name : "cpu";
    info->device_bytes =
        plan->on_device ? plan->device_weights_bytes + plan->step_bytes + e->kv.memory_bytes : 0;
    info->n_threads = thread_pool_n_threads(e->pool);
    info->calibrate_seconds = e->model->calibrate_seconds;
}

static enum status start_step(struct engine *e, const struct engine_plan *plan, struct error *err)
{
    const struct model_config *config = &e->model->config;
    int32_t max_rows = memory_plan_rows(&e->options), max_logits = memory_plan_logits(&e->options, config);
    enum kv_type kv_type = memory_plan_kv_type(&e->options);
    int32_t n_blocks = (int32_t)(plan->kv_tokens / KV_BLOCK_TOKENS);
    enum status status;
    if (e->device) {
        const struct device_limits limits = {.max_rows = max_rows,
                                             .max_logits = max_logits,
                                             .max_sequences = e->options.max_running,
                                             .n_positions = plan->max_model_len,
                                             .batch_invariant = e->options.batch_invariant,
                                             .exact = memory_plan_exact(&e->options, config)};
        e->draws = calloc((size_t)max_logits, sizeof *e->draws);
        status = e->draws ? kv_cache_init_blocks(&e->kv, config, kv_type, n_blocks, err)
                          : error_set(err, STATUS_NO_MEMORY, "engine: out of memory");
        status = status
                     ? status
                     : forward_open_device(&e->forward, e->model, e->device, &e->kv, e->pool, &limits, err);
    } else {
        status = kv_cache_init(&e->kv, config, kv_type, n_blocks, err);
        status = status ? status
                        : forward_open(&e->forward, e->model, &e->kernels, &e->kv, e->pool, max_rows,
                                       max_logits, err);
    }
    if (status ||
        (status = scheduler_init(&e->scheduler, &e->kv, e->options.max_running, max_rows, max_logits, err))) {
        return status;
    }
    e->drawn = calloc((size_t)max_logits, sizeof *e->drawn);
    e->n_samplers = thread_pool_n_threads(e->pool);
    e->samplers = calloc((size_t)e->n_samplers, sizeof(struct sampler *));
    if (!e->drawn || !e->samplers) {
        return error_set(err, STATUS_NO_MEMORY, "engine: out of memory");
    }
    for (int32_t i = 0; i < e->n_samplers; i++) {
        if ((status = sampler_open(&e->samplers[i], config->vocab_size, err))) {
            return status;
        }
    }
    if (pthread_create(&e->thread, NULL, engine_main, e)) {
        return error_set(err, STATUS_IO, "engine: cannot start a thread");
    }
    e->thread_started = true;
    return STATUS_OK;
}

enum status engine_open(struct engine **out, const struct engine_options *options, struct error *err)
{
    struct engine_plan plan;
    enum status status;
    struct engine *e = calloc(1, sizeof *e);
    *out = NULL;
    if (!e) {
        return error_set(err, STATUS_NO_MEMORY, "engine: out of memory");
    }
    e->options = *options;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->wake, NULL);
    e->inbox_end = &e->inbox;
    kernels_init_cpu(&e->kernels, options->cpu_flags);
    if ((status = model_bind(&e->model, options, err)) || (status = device_open(&e->device, options, err)) ||
        (status = memory_plan_on(&plan, &e->device, e->model, options, err)) ||
        (status = thread_pool_open(&e->pool, options->n_threads, err)) ||
        (status = loader_run(e->model, options, e->pool, err)) ||
        (status = quant_report_init(&e->report, e->model, options, err))) {
        engine_close(e);
        return status;
    }
    model_cache_start_write(e->model->cache);
    if ((status = start_step(e, &plan, err))) {
        /* A device that failed is no reason to quantize again. */
        model_cache_wait(e->model->cache, NULL);
        engine_close(e);
        return status;
    }
    if (e->device && !options->batch_invariant && memory_plan_exact(options, &e->model->config)) {
        log_info("batch_invariant off changes nothing with exact activations (cuda_precision)");
    }
    if (e->device) { /* which has a copy */
        model_cache_release_weights(e->model->cache, e->model);
    }
    fill_info(e, &plan);
    e->options.calib_ids = NULL; /* the caller's, read while loading */
    e->options.quant_cache = NULL;
    quant_report_log(&e->report, &e->info, options->quant_report);
    *out = e;
    return STATUS_OK;
}

void engine_close(struct engine *e)
{
    if (!e) {
        return;
    }
    if (e->thread_started) {
        pthread_mutex_lock(&e->lock);
        e->stopping = true;
        pthread_cond_signal(&e->wake);
        pthread_mutex_unlock(&e->lock);
        pthread_join(e->thread, NULL);
    }
    for (int32_t i = 0; e->samplers && i < e->n_samplers; i++) {
        sampler_close(e->samplers[i]);
    }
    free(e->samplers);
    free(e->drawn);
    free(e->draws);
    scheduler_finish(&e->scheduler);
    forward_close(e->forward);
    kv_cache_finish(&e->kv);
    thread_pool_close(e->pool);
    quant_report_finish(&e->report);
    device_close(e->device);
    model_close(e->model);
    pthread_cond_destroy(&e->wake);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

enum status engine_plan(struct engine_plan *out, const struct engine_options *options, struct error *err)
{
    struct model *model;
    struct device *device;
    enum status status = model_bind(&model, options, err);
    if (status) {
        return status;
    }
    if ((status = device_open(&device, options, err))) {
        model_close(model);
        return status;
    }
    status = memory_plan_on(out, &device, model, options, err);
    device_close(device);
    if (status == STATUS_NO_MEMORY) { /* a plan that does not fit is an answer, not a failure */
        status = STATUS_OK;
    }
    model_close(model);
    return status;
}

/* ---- the other side ---- */

static enum status check_submission(const struct engine *e, const struct generate_params *p,
                                    const int32_t *ids, int32_t n_ids, struct error *err)
{
    int32_t vocab_size = e->info.config.vocab_size;
    if (n_ids < 1) {
        return error_set(err, STATUS_INVALID, "the prompt has no tokens");
    }
    if (p->max_tokens < 0 || (int64_t)n_ids + p->max_tokens > e->info.max_model_len) {
        return error_set(err, STATUS_INVALID,
                         "the prompt's %d tokens and max_tokens %d together exceed the context of %d tokens",
                         n_ids, p->max_tokens, e->info.max_model_len);
    }
    for (int32_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || ids[i] >= vocab_size) {
            return error_set(err, STATUS_INVALID, "prompt token %d is %d, expected 0 to %d", i, ids[i],
                             vocab_size - 1);
        }
    }
    if (p->n_stop_ids < 0 || p->n_stop_ids > ENGINE_MAX_STOP_IDS || p->n_bias < 0 ||
        p->n_bias > ENGINE_MAX_LOGIT_BIAS || p->logprobs > ENGINE_MAX_LOGPROBS) {
        return error_set(err, STATUS_INVALID, "too many stop ids, biases or logprobs");
    }
    for (int32_t i = 0; i < p->n_bias; i++) {
        if (p->bias_ids[i] < 0 || p->bias_ids[i] >= vocab_size) {
            return error_set(err, STATUS_INVALID, "logit_bias token %d, expected 0 to %d", p->bias_ids[i],
                             vocab_size - 1);
        }
    }
    for (int32_t i = 0; i < p->n_stop_ids; i++) {
        if (p->stop_ids[i] < 0 || p->stop_ids[i] >= vocab_size) {
            return error_set(err, STATUS_INVALID, "stop token %d, expected 0 to %d", p->stop_ids[i],
                             vocab_size - 1);
        }
    }
    if (!(p->temperature >= 0) || !(p->top_p > 0 && p->top_p <= 1) || !(p->min_p >= 0 && p->min_p <= 1) ||
        !(p->repetition_penalty > 0)) {
        return error_set(err, STATUS_INVALID, "temperature, top_p, min_p or repetition_penalty out of range");
    }
    return STATUS_OK;
}

enum status engine_submit(struct engine *e, const struct generate_params *params, const int32_t *ids,
                          int32_t n_ids, request_notify_fn *notify, void *context, struct request **out,
                          struct error *err)
{
    struct request *r;
    enum status status = check_submission(e, params, ids, n_ids, err);
    *out = NULL;
    if (status) {
        return status;
    }
    if (atomic_load(&e->counters.device_failed)) {
        return error_set(err, STATUS_DEVICE, "the device has failed, and the log says how");
    }
    /* The place in the queue is taken first, so that two threads cannot both take the last one. */
    if (atomic_fetch_add(&e->counters.waiting, 1) >= e->options.max_queue && !params->admitted) {
        atomic_fetch_sub(&e->counters.waiting, 1);
        return error_set(err, STATUS_FULL, "the queue is full (%d requests wait)", e->options.max_queue);
    }
    if ((status = request_open(&r, params, ids, n_ids, &e->info.config, notify, context, err))) {
        atomic_fetch_sub(&e->counters.waiting, 1);
        return status;
    }
    r->submitted = clock_ns();
    r->order = r->submitted + (int64_t)params->priority * 1000000000;
    if (!atomic_load(
            &e->counters.live)) { /* the age of the last step counts from the moment that work exists */
        atomic_store(&e->counters.last_step_ns, r->submitted);
    }
    atomic_fetch_add(&e->counters.live, 1);
    *out = r;
    pthread_mutex_lock(&e->lock);
    r->number = e->next_number++;
    *e->inbox_end = r;
    e->inbox_end = &r->next;
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->lock);
    return STATUS_OK;
}

bool engine_is_idle(const struct engine *engine)
{
    return atomic_load(&engine->counters.live) == 0;
}

void engine_get_stats(const struct engine *e, struct engine_stats *out)
{
    const struct counters *c = &e->counters;
    int64_t last_step = c->last_step_ns;
    *out = (struct engine_stats){
        .running = c->running,
        .waiting = c->waiting,
        .batch_size = c->batch_size,
        .kv_tokens_used = c->kv_tokens_used,
        .kv_tokens_capacity = (int64_t)e->kv.n_blocks * KV_BLOCK_TOKENS,
        .prompt_tokens = c->prompt_tokens,
        .generation_tokens = c->generation_tokens,
        .preemptions = c->preemptions,
        .steps = c->steps,
        .last_step_age_seconds = c->live && last_step ? 1e-9 * (double)(clock_ns() - last_step) : 0,
        .drain_seconds_per_request = 1e-9 * (double)c->drain_ns,
        .device_failed = c->device_failed,
    };
    for (int i = 0; i <= FINISH_ERROR; i++) {
        out->finished[i] = c->finished[i];
    }
}

const struct engine_info *engine_get_info(const struct engine *engine)
{
    return &engine->info;
}

const struct quant_report *engine_get_quantization(const struct engine *engine)
{
    return &engine->report;
}

void engine_wait_cache(struct engine *engine, struct engine_cache_result *out)
{
    model_cache_wait(engine->model->cache, out);
}
