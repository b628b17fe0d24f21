/* Requests: memory, events and the two-sided lifetime. */
#include "engine/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kv_cache.h"

void generate_params_init(struct generate_params *params)
{
    *params = (struct generate_params){
        .max_tokens = 16,
        .temperature = 1,
        .top_p = 1,
        .repetition_penalty = 1,
        .logprobs = -1,
    };
}

static void request_free(struct request *r)
{
    free(r->tokens);
    free(r->blocks);
    free(r->logprobs);
    free(r->times);
    free((void *)(uintptr_t)r->params.bias_ids);
    free((void *)(uintptr_t)r->params.bias_values);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

static void *copy_array(const void *from, size_t bytes)
{
    void *copy = malloc(bytes ? bytes : 1);
    if (copy && bytes) {
        memcpy(copy, from, bytes);
    }
    return copy;
}

enum status request_open(struct request **out, const struct generate_params *params, const int32_t *ids,
                         int32_t n_ids, const struct model_config *config, request_notify_fn *notify,
                         void *context, struct error *err)
{
    *out = NULL;
    struct request *r = calloc(1, sizeof *r);
    if (!r) {
        return error_set(err, STATUS_NO_MEMORY, "request: out of memory");
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&r->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&r->lock, NULL);

    size_t n_total = (size_t)n_ids + (size_t)params->max_tokens;
    size_t n_events = (size_t)params->max_tokens + (params->prompt_logprobs ? (size_t)n_ids : 0);
    r->params = *params;
    r->params.stop_ids = NULL; /* kept in end_ids */
    r->params.bias_ids = copy_array(params->bias_ids, (size_t)params->n_bias * sizeof *params->bias_ids);
    r->params.bias_values =
        copy_array(params->bias_values, (size_t)params->n_bias * sizeof *params->bias_values);
    r->n_prompt = r->n_tokens = n_ids;
    r->n_logprobs = params->logprobs >= 0 ? 1 + params->logprobs : 0;
    r->tokens = malloc(n_total * sizeof *r->tokens);
    r->blocks = malloc((n_total / KV_BLOCK_TOKENS + 1) * sizeof *r->blocks);
    r->logprobs = malloc(n_events * (size_t)r->n_logprobs * sizeof *r->logprobs + 1);
    r->times = malloc(n_events * sizeof *r->times + 1);
    r->notify = notify;
    r->context = context;
    r->stop_token = -1;
    atomic_init(&r->references, 2);
    if (!r->tokens || !r->blocks || !r->logprobs || !r->times || !r->params.bias_ids ||
        !r->params.bias_values) {
        request_free(r);
        return error_set(err, STATUS_NO_MEMORY, "request of %zu tokens: out of memory", n_total);
    }
    memcpy(r->tokens, ids, (size_t)n_ids * sizeof *ids);
    for (int32_t i = 0; i < params->n_stop_ids; i++) {
        r->end_ids[r->n_end_ids++] = params->stop_ids[i];
    }
    r->n_stop_ids = r->n_end_ids;
    for (int32_t i = 0; i < config->n_eos && !params->ignore_eos; i++) {
        if (config->eos_ids[i] >= 0 && config->eos_ids[i] < config->vocab_size) {
            r->end_ids[r->n_end_ids++] = config->eos_ids[i];
        }
    }
    *out = r;
    return STATUS_OK;
}

void request_drop(struct request *r)
{
    if (atomic_fetch_sub(&r->references, 1) == 1) {
        request_free(r);
    }
}

struct token_logprob *request_logprob_slot(struct request *r, int32_t event)
{
    return r->logprobs + (size_t)event * (size_t)r->n_logprobs;
}

void request_publish(struct request *r, int64_t now_ns)
{
    int32_t index = atomic_load_explicit(&r->n_published, memory_order_relaxed);
    r->times[index] = now_ns;
    atomic_store_explicit(&r->n_published, index + 1, memory_order_release);
    r->dirty = true;
    r->urgent |= index == 0;
}

void request_finish(struct request *r, enum finish_reason reason, int32_t stop_token)
{
    r->stop_token = stop_token;
    atomic_store_explicit(&r->reason, reason, memory_order_release);
    r->dirty = r->urgent = true;
}

void request_flush(struct request *r)
{
    if (!r->dirty) {
        return;
    }
    bool urgent = r->urgent;
    r->dirty = r->urgent = false;
    pthread_mutex_lock(&r->lock);
    pthread_cond_signal(&r->changed);
    if (r->notify) {
        r->notify(r->context, urgent);
    }
    pthread_mutex_unlock(&r->lock);
}

bool request_next(struct request *r, struct token_event *event)
{
    /* The end is read first: with it in view, every token published before it is in view too. */
    enum finish_reason reason = (enum finish_reason)atomic_load_explicit(&r->reason, memory_order_acquire);
    int32_t n_published = atomic_load_explicit(&r->n_published, memory_order_acquire);
    if (r->n_taken < n_published) {
        int32_t n_prompt_events = r->params.prompt_logprobs ? r->n_prompt - 1 : 0;
        int32_t index = r->n_taken++;
        bool is_prompt = index < n_prompt_events;
        event->kind = is_prompt ? EVENT_PROMPT_TOKEN : EVENT_TOKEN;
        event->token = r->tokens[is_prompt ? index + 1 : r->n_prompt + index - n_prompt_events];
        event->is_stop = false;
        event->time_ns = r->times[index];
        if (!is_prompt) {
            for (int32_t i = 0; i < r->n_end_ids; i++) {
                event->is_stop |= event->token == r->end_ids[i];
            }
        }
        event->n_top = 0;
        event->logprob = (struct token_logprob){event->token, 0};
        if (r->n_logprobs) {
            const struct token_logprob *logprobs = request_logprob_slot(r, index);
            event->logprob = logprobs[0];
            for (int32_t i = 1; i < r->n_logprobs && logprobs[i].id >= 0; i++) {
                event->top[event->n_top++] = logprobs[i];
            }
        }
        event->reason = FINISH_NONE;
        event->stop_token = -1;
        return true;
    }
    if (reason != FINISH_NONE && !r->end_taken) {
        r->end_taken = true;
        *event = (struct token_event){.kind = EVENT_FINISHED, .reason = reason, .stop_token = r->stop_token};
        return true;
    }
    return false;
}

bool request_wait(struct request *r, struct token_event *event, int32_t timeout_ms)
{
    if (request_next(r, event)) {
        return true;
    }
    if (r->end_taken) {
        return false;
    }
    int64_t deadline = clock_ns() + (int64_t)timeout_ms * 1000000;
    struct timespec until = {.tv_sec = deadline / 1000000000, .tv_nsec = deadline % 1000000000};
    bool found;
    pthread_mutex_lock(&r->lock);
    while (!(found = request_next(r, event))) {
        if (timeout_ms < 0) {
            pthread_cond_wait(&r->changed, &r->lock);
        } else if (pthread_cond_timedwait(&r->changed, &r->lock, &until) == ETIMEDOUT) {
            found = request_next(r, event);
            break;
        }
    }
    pthread_mutex_unlock(&r->lock);
    return found;
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
    request_cancel(r);
    pthread_mutex_lock(&r->lock);
    r->notify = NULL;
    pthread_mutex_unlock(&r->lock);
    request_drop(r);
}

void request_get_timings(const struct request *r, struct request_timings *out)
{
    *out = (struct request_timings){
        .submitted = r->submitted,
        .started = r->started,
        .first_token = r->first_token,
        .last_token = r->last_token,
    };
}
