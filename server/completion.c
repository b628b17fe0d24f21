/* Runs the sequences of one completion request. Leaves the shape of answers to completion_write.c. */
#include "server/completion.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "server/clock.h"

static enum api_code open_streams(struct completion *c, struct api_error *error)
{
    const struct completion_request *r = &c->request;
    struct error why = {0};
    for (int32_t i = 0; i < c->n_choices; i++) {
        struct choice *choice = &c->choices[i];
        const struct completion_prompt *prompt = &r->prompts[i / r->best_of];
        choice->prompt = i / r->best_of;
        choice->stop_token = -1;
        struct text_stream_options options = {.stops = r->stops,
                                              .stop_bytes = r->stop_bytes,
                                              .n_stops = r->n_stops + r->n_template_stops,
                                              .n_template_stops = r->n_template_stops,
                                              .is_answer = r->chat,
                                              .include_stop = r->include_stop,
                                              .min_tokens = r->params.min_tokens,
                                              .prompt_ids = prompt->ids,
                                              .n_prompt_ids = prompt->n_ids,
                                              .echo_text = r->echo ? prompt->text : NULL,
                                              .echo_bytes = r->echo ? prompt->text_bytes : 0};
        if (text_stream_init(&choice->stream, c->tokenizer, &options, &why)) {
            return api_fail(error, API_OUT_OF_MEMORY, NULL, "%s", why.message);
        }
        if (r->params.prompt_logprobs) {
            text_stream_push_prompt(&choice->stream, prompt->ids[0], NULL);
        }
    }
    return API_OK;
}

/* Hands sequences to the engine until one is refused for lack of room. No more at a time than can run
 * together: one request must not take every place in the queue. */
static enum api_code submit_more(struct completion *c, struct api_error *error)
{
    int32_t most = c->request.max_submitted ? c->request.max_submitted : INT32_MAX;
    while (c->n_submitted < c->n_choices && c->n_submitted - c->n_finished < most) {
        struct choice *choice = &c->choices[c->n_submitted];
        const struct completion_prompt *prompt = &c->request.prompts[choice->prompt];
        struct generate_params params = c->request.params;
        struct error why = {0};
        params.seed += (uint64_t)(c->n_submitted % c->request.best_of);
        params.deadline_ms = c->deadline_ms;
        /* A request that was taken in is never turned away in its middle: when none of its sequences is left
         * in the engine to wait for, the next one goes in beyond the queue's bound. That is at most one per
         * request. */
        params.admitted = c->n_submitted && c->n_submitted == c->n_finished;
        enum status status = engine_submit(c->engine, &params, prompt->ids, prompt->n_ids, c->notify,
                                           c->context, &choice->handle, &why);
        switch (status) {
        case STATUS_OK:
            choice->submitted = true;
            c->n_submitted++;
            break;
        case STATUS_FULL:
            if (c->n_submitted > c->n_finished) {
                return API_OK; /* goes on when one of ours has ended */
            }
            return api_fail(error, API_QUEUE_FULL, NULL, "the queue is full: try again later");
        case STATUS_UNAVAILABLE:
            return api_fail(error, API_DRAINING, NULL, "the server is shutting down");
        case STATUS_DEVICE:
            return api_fail(error, API_INTERNAL, NULL, "%s", why.message);
        case STATUS_NO_MEMORY:
            return api_fail(error, API_OUT_OF_MEMORY, NULL, "no memory for this request: %s", why.message);
        case STATUS_INVALID:
            return api_fail(error, API_INVALID_VALUE, NULL, "%s", why.message);
        default:
            return api_fail(error, API_INTERNAL, NULL, "the engine refused the request: %s", why.message);
        }
    }
    return API_OK;
}

enum api_code completion_open(struct completion **out, struct completion_request *request,
                              struct engine *engine, const struct tokenizer *tokenizer,
                              struct metrics *metrics, int64_t arrival_ns, request_notify_fn *notify,
                              void *context, struct api_error *error)
{
    uint64_t random[2] = {0, 0};
    *out = NULL;
    struct completion *c = calloc(1, sizeof *c);
    int32_t n_choices = request->n_prompts * request->best_of;
    struct choice *choices = c ? calloc((size_t)n_choices, sizeof *choices) : NULL;
    if (!choices || getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
        completion_request_finish(request);
        free(choices);
        free(c);
        return api_fail(error, API_OUT_OF_MEMORY, NULL, "out of memory for %d choices", (int)n_choices);
    }
    c->request = *request;
    /* params borrows an array that lies inside the struct that has just moved. */
    if (c->request.params.n_stop_ids) {
        c->request.params.stop_ids = c->request.stop_ids;
    }
    *request = (struct completion_request){0};
    c->engine = engine;
    c->tokenizer = tokenizer;
    c->metrics = metrics;
    c->notify = notify;
    c->context = context;
    c->arrival_ns = arrival_ns;
    c->submitted_ns = clock_now_ns();
    c->deadline_ms = c->request.timeout_ms ? arrival_ns / 1000000 + c->request.timeout_ms : 0;
    c->choices = choices;
    c->n_choices = n_choices;
    c->created = (int64_t)time(NULL);
    snprintf(c->id, sizeof c->id, "%s-%016" PRIx64 "%08" PRIx32, c->request.chat ? "chatcmpl" : "cmpl",
             random[0], (uint32_t)random[1]);
    if (open_streams(c, error) || submit_more(c, error)) {
        completion_close(c);
        return error->code;
    }
    *out = c;
    return API_OK;
}

static void choice_finish(struct completion *c, struct choice *choice, enum finish_reason reason)
{
    text_stream_end(&choice->stream);
    request_get_timings(choice->handle, &choice->timings);
    choice->finished = true;
    /* A stop string may come out only now, when no longer one can follow. */
    choice->reason = choice->stream.stop_index >= 0 ? FINISH_STOP : reason;
    c->n_finished++;
    if (c->metrics && choice->timings.first_token) {
        const struct request_timings *t = &choice->timings;
        int32_t n = choice->stream.n_generated;
        metrics_observe(c->metrics, HISTOGRAM_TTFT, (double)(t->first_token - c->arrival_ns) * 1e-9);
        metrics_observe(c->metrics, HISTOGRAM_QUEUE, (double)(t->started - t->submitted) * 1e-9);
        metrics_observe(c->metrics, HISTOGRAM_PREFILL, (double)(t->first_token - t->started) * 1e-9);
        /* Not the engine's last token: it may have gone on while a stop string was not seen yet. */
        double decode = (double)(choice->last_token_ns - t->first_token) * 1e-9;
        metrics_observe(c->metrics, HISTOGRAM_DECODE, decode);
        if (n > 1) {
            metrics_observe(c->metrics, HISTOGRAM_TPOT, decode / (n - 1));
        }
    }
}

static void take_token(struct completion *c, struct choice *choice, const struct token_event *event)
{
    if (choice->last_token_ns) {
        double gap = (double)(event->time_ns - choice->last_token_ns) * 1e-9;
        c->itl_counts[metrics_time_bucket(gap)]++;
        if (c->metrics) {
            metrics_observe(c->metrics, HISTOGRAM_ITL, gap);
        }
    }
    choice->last_token_ns = event->time_ns;
    choice->logprob_sum += (double)event->logprob.logprob;
    if (text_stream_push(&choice->stream, event)) {
        /* Its text is complete: what the engine still has of it is not wanted. */
        request_cancel_as(choice->handle, FINISH_STOP);
        choice_finish(c, choice, FINISH_STOP);
    }
}

static enum api_code take_end(struct completion *c, struct choice *choice, const struct token_event *event,
                              struct api_error *error)
{
    switch (event->reason) {
    case FINISH_STOP:
    case FINISH_LENGTH:
        choice->stop_token = event->reason == FINISH_STOP ? event->stop_token : -1;
        choice_finish(c, choice, event->reason);
        return API_OK;
    case FINISH_TIMEOUT:
        return api_fail(error, API_REQUEST_TIMEOUT, NULL, "the request did not finish within %" PRId64 " ms",
                        c->request.timeout_ms);
    case FINISH_CANCELLED:
        return api_fail(error, API_DRAINING, NULL, "the request was cut off: the server is shutting down");
    default:
        return api_fail(error, API_INTERNAL, NULL, "the engine failed on this request");
    }
}

enum api_code completion_poll(struct completion *c, struct api_error *error)
{
    struct token_event event;
    int32_t n_finished = c->n_finished;
    error->code = API_OK;
    for (int32_t i = 0; i < c->n_submitted; i++) {
        struct choice *choice = &c->choices[i];
        while (!choice->finished && request_next(choice->handle, &event)) {
            c->any_output = true;
            if (event.kind == EVENT_PROMPT_TOKEN) {
                text_stream_push_prompt(&choice->stream, event.token, &event);
            } else if (event.kind == EVENT_TOKEN) {
                take_token(c, choice, &event);
            } else if (take_end(c, choice, &event, error)) {
                return error->code;
            }
            if (choice->stream.failed) {
                return api_fail(error, API_OUT_OF_MEMORY, NULL, "out of memory for the text of an answer");
            }
        }
    }
    return c->n_finished > n_finished ? submit_more(c, error) : API_OK;
}

bool completion_is_finished(const struct completion *c)
{
    return c->n_finished == c->n_choices;
}

void completion_close(struct completion *c)
{
    if (!c) {
        return;
    }
    for (int32_t i = 0; i < c->n_choices; i++) {
        if (c->choices[i].handle && !c->choices[i].finished) {
            request_cancel(c->choices[i].handle);
        }
    }
    for (int32_t i = 0; i < c->n_choices; i++) {
        request_release(c->choices[i].handle);
        text_stream_finish(&c->choices[i].stream);
    }
    free(c->choices);
    buffer_finish(&c->chunk_head);
    completion_request_finish(&c->request);
    free(c);
}

void completion_get_usage(const struct completion *c, struct completion_usage *out)
{
    *out = (struct completion_usage){0};
    for (int32_t i = 0; i < c->request.n_prompts; i++) {
        out->prompt_tokens += c->request.prompts[i].n_ids;
        out->truncated_tokens += c->request.prompts[i].n_truncated;
    }
    for (int32_t i = 0; i < c->n_choices; i++) {
        const struct choice *choice = &c->choices[i];
        out->completion_tokens += choice->stream.n_generated;
        if (choice->finished && i % c->request.best_of == 0) {
            out->cached_tokens += choice->timings.cached_tokens;
        }
    }
}

void completion_get_times(const struct completion *c, struct completion_times *out)
{
    int64_t started = 0, first = 0, last = 0, n_tokens = 0;
    *out = (struct completion_times){0};
    for (int32_t i = 0; i < c->n_submitted; i++) {
        struct request_timings t;
        request_get_timings(c->choices[i].handle, &t);
        started = t.started && (!started || t.started < started) ? t.started : started;
        first = t.first_token && (!first || t.first_token < first) ? t.first_token : first;
        last = c->choices[i].last_token_ns > last ? c->choices[i].last_token_ns : last;
        n_tokens += c->choices[i].stream.n_generated;
    }
    out->total_ms = clock_ms(clock_now_ns() - c->arrival_ns);
    if (started) {
        out->queue_ms = clock_ms(started - c->submitted_ns);
    }
    if (first) {
        out->prefill_ms = clock_ms(first - started);
        out->ttft_ms = clock_ms(first - c->arrival_ns);
        out->decode_ms = last > first ? clock_ms(last - first) : 0;
    }
    if (last > started) {
        out->tokens_per_s = (double)n_tokens * 1e9 / (double)(last - started);
    }
}

static double choice_score(const struct choice *choice)
{
    int32_t n = choice->stream.n_generated;
    return n ? choice->logprob_sum / n : 0;
}

int32_t completion_pick(const struct completion *c, int32_t index)
{
    int32_t n = c->request.n, best_of = c->request.best_of;
    int32_t first = index / n * best_of, rank = index % n;
    if (n == best_of) {
        return first + rank;
    }
    for (int32_t i = first; i < first + best_of; i++) {
        int32_t better = 0;
        for (int32_t j = first; j < first + best_of; j++) {
            double a = choice_score(&c->choices[j]), b = choice_score(&c->choices[i]);
            better += a > b || (a == b && j < i);
        }
        if (better == rank) {
            return i;
        }
    }
    return first + rank;
}
