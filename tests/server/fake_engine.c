/* The fake behind fake_engine.h. */
#include "tests/server/fake_engine.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"
#include "server/clock.h"
#include "tests/tokenizer/tiny_model.h"

enum { FAKE_CONTEXT = 256, FAKE_LONGEST = 512 };

struct fake_engine fake_engine = {.fail_at = -1};

struct request {
    struct engine *engine;
    struct request *next;
    struct generate_params params;
    int32_t ids[FAKE_LONGEST];
    int32_t n_ids, n_generated, n_prompt_done;
    struct token_event events[FAKE_LONGEST];
    int32_t n_events, n_taken;
    bool ended, released;
    _Atomic int32_t cancelled; /* enum finish_reason; FINISH_NONE while it runs */
    request_notify_fn *notify;
    void *context;
    struct request_timings timings;
};

struct engine {
    pthread_t thread;
    pthread_mutex_t lock; /* everything */
    pthread_cond_t changed;
    struct request *requests;
    int32_t n_requests;
    bool stop;
    int64_t steps;
    struct engine_info info;
};

void engine_options_init(struct engine_options *options)
{
    *options = (struct engine_options){.max_running = 32, .max_queue = 256};
}

void generate_params_init(struct generate_params *params)
{
    *params = (struct generate_params){
        .max_tokens = 16, .temperature = 1, .top_p = 1, .repetition_penalty = 1, .logprobs = -1};
}

static void publish(struct request *r, const struct token_event *event)
{
    if (r->n_events < FAKE_LONGEST) {
        r->events[r->n_events++] = *event;
    }
    r->ended |= event->kind == EVENT_FINISHED;
}

static void end(struct request *r, enum finish_reason reason)
{
    publish(r, &(struct token_event){.kind = EVENT_FINISHED, .reason = reason, .stop_token = -1});
}

static void publish_token(struct request *r, int kind, int32_t token, bool is_stop)
{
    struct token_event event = {.kind = kind,
                                .token = token,
                                .is_stop = is_stop,
                                .time_ns = clock_now_ns(),
                                .logprob = {token, -0.5f}};
    event.n_top = r->params.logprobs > 0 ? 1 : 0;
    event.top[0] = (struct token_logprob){token, -0.5f};
    publish(r, &event);
}

static void count_cancel(enum finish_reason reason)
{
    atomic_fetch_add(reason == FINISH_STOP ? &fake_engine.n_stopped : &fake_engine.n_cancelled, 1);
}

static void step(struct request *r)
{
    int64_t now = clock_now_ns();
    int32_t k = r->n_generated;
    if (!r->timings.started) {
        r->timings.started = now;
    }
    while (r->params.prompt_logprobs && r->n_prompt_done + 1 < r->n_ids) {
        publish_token(r, EVENT_PROMPT_TOKEN, r->ids[++r->n_prompt_done], false);
    }
    enum finish_reason asked = (enum finish_reason)atomic_load(&r->cancelled);
    if (asked != FINISH_NONE) {
        count_cancel(asked);
        end(r, asked);
    } else if (k == atomic_load(&fake_engine.fail_at)) {
        end(r, FINISH_ERROR);
    } else if (r->params.deadline_ms && now / 1000000 > r->params.deadline_ms) {
        end(r, FINISH_TIMEOUT);
    } else if (k >= r->params.max_tokens) {
        end(r, FINISH_LENGTH);
    } else {
        const char *script = fake_engine.script;
        bool over = script && !script[k];
        int32_t letter =
            script ? (unsigned char)script[k] : 'a' + (int32_t)((r->params.seed + (uint64_t)k) % 26);
        publish_token(r, EVENT_TOKEN, over ? TINY_EOS : TINY_BYTES + letter, over);
        r->n_generated++;
        r->timings.last_token = now;
        r->timings.first_token = r->timings.first_token ? r->timings.first_token : now;
        if (over) {
            end(r, FINISH_STOP);
        } else if (r->n_generated == r->params.max_tokens) {
            end(r, FINISH_LENGTH);
        }
    }
}

static void *engine_run(void *context)
{
    struct engine *e = context;
    pthread_mutex_lock(&e->lock);
    while (!e->stop) {
        bool any = false;
        for (struct request *r = e->requests; r; r = r->next) {
            if (!r->ended) {
                any = true;
                bool first = !r->timings.started;
                step(r);
                if (r->notify) {
                    r->notify(r->context, first || r->ended);
                }
            }
        }
        e->steps += any;
        int32_t pause = atomic_load(&fake_engine.token_us);
        if (!any) {
            pthread_cond_wait(&e->changed, &e->lock);
        } else if (pause) {
            pthread_mutex_unlock(&e->lock);
            usleep((useconds_t)pause);
            pthread_mutex_lock(&e->lock);
        }
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

void engine_wait_cache(struct engine *engine, struct engine_cache_result *out)
{
    (void)engine;
    (void)out;
}

enum status engine_open(struct engine **out, const struct engine_options *options, struct error *err)
{
    struct engine *e = calloc(1, sizeof *e);
    (void)options;
    *out = e;
    if (!e) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    }
    e->info = (struct engine_info){.max_model_len = FAKE_CONTEXT,
                                   .n_params = 1234,
                                   .kernels = "fake",
                                   .method = QUANT_NONE,
                                   .quant_cache = "off",
                                   .device_bytes = fake_engine.device_bytes,
                                   .cuda_exact = fake_engine.cuda_exact,
                                   .config = {.vocab_size = TINY_N_TOKENS, .bos_id = TINY_BOS}};
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->changed, NULL);
    return pthread_create(&e->thread, NULL, engine_run, e) ? error_set(err, STATUS_IO, "no thread")
                                                           : STATUS_OK;
}

void engine_close(struct engine *e)
{
    if (!e) {
        return;
    }
    pthread_mutex_lock(&e->lock);
    e->stop = true;
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->thread, NULL);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->changed);
    free(e);
}

enum status engine_submit(struct engine *e, const struct generate_params *params, const int32_t *ids,
                          int32_t n_ids, request_notify_fn *notify, void *context, struct request **out,
                          struct error *err)
{
    int32_t room = atomic_load(&fake_engine.room);
    *out = NULL;
    usleep((useconds_t)atomic_load(&fake_engine.submit_us));
    if (atomic_load(&fake_engine.full) || (room && atomic_load(&fake_engine.n_live) >= room)) {
        return error_set(err, STATUS_FULL, "full");
    }
    if (n_ids < 1 || n_ids > FAKE_CONTEXT) {
        return error_set(err, STATUS_INVALID, "%d ids", (int)n_ids);
    }
    struct request *r = calloc(1, sizeof *r);
    if (!r) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    }
    r->engine = e;
    r->params = *params;
    r->n_ids = n_ids;
    memcpy(r->ids, ids, (size_t)n_ids * sizeof *ids);
    r->notify = notify;
    r->context = context;
    r->timings.submitted = clock_now_ns();
    int32_t n_live = atomic_fetch_add(&fake_engine.n_live, 1) + 1;
    if (n_live > atomic_load(&fake_engine.most_live)) {
        atomic_store(&fake_engine.most_live, n_live);
    }
    pthread_mutex_lock(&e->lock);
    r->next = e->requests;
    e->requests = r;
    e->n_requests++;
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->lock);
    *out = r;
    return STATUS_OK;
}

bool request_next(struct request *r, struct token_event *event)
{
    pthread_mutex_lock(&r->engine->lock);
    bool found = r->n_taken < r->n_events;
    if (found) {
        *event = r->events[r->n_taken++];
        if (event->kind == EVENT_FINISHED) {
            atomic_fetch_sub(&fake_engine.n_live, 1);
        }
    }
    pthread_mutex_unlock(&r->engine->lock);
    return found;
}

bool request_wait(struct request *r, struct token_event *event, int32_t timeout_ms)
{
    int64_t end_ns = clock_now_ns() + (int64_t)timeout_ms * 1000000;
    while (!request_next(r, event)) {
        if (timeout_ms >= 0 && clock_now_ns() > end_ns) {
            return false;
        }
        usleep(100);
    }
    return true;
}

void request_cancel_as(struct request *r, enum finish_reason reason)
{
    int32_t none = FINISH_NONE;
    atomic_compare_exchange_strong(&r->cancelled, &none, (int32_t)reason);
}

void request_cancel(struct request *r)
{
    request_cancel_as(r, FINISH_CANCELLED);
}

void request_release(struct request *r)
{
    if (!r) {
        return;
    }
    struct engine *e = r->engine;
    pthread_mutex_lock(&e->lock);
    if (!r->ended) {
        request_cancel(r);
        count_cancel((enum finish_reason)atomic_load(&r->cancelled));
    }
    if (!r->n_taken || r->events[r->n_taken - 1].kind != EVENT_FINISHED) {
        atomic_fetch_sub(&fake_engine.n_live, 1);
    }
    struct request **at = &e->requests;
    while (*at != r) {
        at = &(*at)->next;
    }
    *at = r->next;
    e->n_requests--;
    pthread_mutex_unlock(&e->lock);
    free(r);
}

void request_get_timings(const struct request *r, struct request_timings *out)
{
    pthread_mutex_lock(&r->engine->lock);
    *out = r->timings;
    pthread_mutex_unlock(&r->engine->lock);
}

bool engine_is_idle(const struct engine *e)
{
    (void)e;
    return !atomic_load(&fake_engine.n_live);
}

void engine_get_stats(const struct engine *e, struct engine_stats *out)
{
    (void)e;
    *out =
        (struct engine_stats){.running = atomic_load(&fake_engine.n_live), .drain_seconds_per_request = 2.5};
}

const struct engine_info *engine_get_info(const struct engine *e)
{
    return &e->info;
}

/* Two tensors: a quantized one and one that is kept. */
static const struct quant_tensor fake_tensors[] = {
    {.name = "layers.0.\"q\"",
     .n_rows = 64,
     .n_cols = 32,
     .kind = "lut",
     .code_bits = 4,
     .group_size = 32,
     .bits_per_weight = 4.5,
     .rel_error = 0.25,
     .worst_row = 7,
     .worst_row_error = 0.5},
    {.name = "lm_head", .n_rows = 8, .n_cols = 32, .kind = "bf16", .bits_per_weight = 16},
};
static const struct quant_report fake_report = {.tensors = fake_tensors,
                                                .n_tensors = 2,
                                                .n_quantized = 1,
                                                .mean = 0.25,
                                                .p95 = 0.25,
                                                .max = 0.25,
                                                .worst = {&fake_tensors[0]},
                                                .n_worst = 1};

const struct quant_report *engine_get_quantization(const struct engine *e)
{
    (void)e;
    return &fake_report;
}

enum status engine_plan(struct engine_plan *out, const struct engine_options *options, struct error *err)
{
    (void)out;
    return error_set(err, STATUS_BAD_MODEL, "%s: the fake plans nothing", options->model_dir);
}
