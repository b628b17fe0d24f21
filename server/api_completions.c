/* POST /v1/completions, and the job that chat shares with it: body -> sequences in the engine -> JSON or SSE.
 * Runs whenever its exchange is woken and never waits. */
#include <stdlib.h>
#include <string.h>

#include "server/api.h"
#include "server/clock.h"
#include "server/completion_write.h"
#include "server/sse.h"

static const int64_t UNSEEN_PACE_NS = 50000000;
enum { EVENTS_PER_THREAD = 500 }; /* per second */

struct completion_job {
    struct server *server;
    struct completion *completion;
    const char *finish; /* how it ended, for the log */
};

static struct completion_style job_style(const struct completion_job *job)
{
    return (struct completion_style){.model = job->server->model_names.parts[0],
                                     .system_fingerprint = job->server->system_fingerprint};
}

static enum exchange_step job_fail(struct completion_job *job, struct exchange *x,
                                   const struct api_error *error)
{
    job->finish = error->code == API_REQUEST_TIMEOUT ? "timeout" : "error";
    if (!x->streaming) {
        return api_reply_error(job->server, x, error);
    }
    struct buffer json = {0};
    api_error_write(&json, error);
    sse_write_data(&x->stream, buffer_string(&json), json.length);
    sse_write_done(&x->stream);
    buffer_finish(&json);
    x->stream_done = true;
    return EXCHANGE_STREAM;
}

static const char *job_reason(const struct completion *c)
{
    /* Of several choices the first that hit the length limit tells more than a stop. */
    for (int32_t i = 0; i < c->n_choices; i++) {
        if (c->choices[i].reason == FINISH_LENGTH) {
            return "length";
        }
    }
    return "stop";
}

static void add_header(struct exchange *x, const char *name, const char *format, double value)
{
    char text[32];
    snprintf(text, sizeof text, format, value);
    reply_header(&x->reply, name, text);
}

static enum exchange_step job_answer(struct completion_job *job, struct exchange *x)
{
    struct completion *c = job->completion;
    struct completion_style style = job_style(job);
    struct completion_usage usage;
    struct completion_times times;
    completion_get_usage(c, &usage);
    completion_get_times(c, &times);
    completion_write(&x->reply.body, c, &style);
    add_header(x, "X-Queue-Time-Ms", "%.3f", times.queue_ms);
    add_header(x, "X-TTFT-Ms", "%.3f", times.ttft_ms);
    add_header(x, "X-Inference-Time-Ms", "%.3f", times.prefill_ms + times.decode_ms);
    add_header(x, "X-Prompt-Tokens", "%.0f", (double)usage.prompt_tokens);
    add_header(x, "X-Generated-Tokens", "%.0f", (double)usage.completion_tokens);
    return api_reply_json(x, 200);
}

static enum exchange_step job_step(struct exchange *x)
{
    struct completion_job *job = x->job;
    struct completion *c = job->completion;
    struct api_error error = {0};
    if (x->stream_done) {
        return EXCHANGE_STREAM;
    }
    if (completion_poll(c, &error)) {
        return job_fail(job, x, &error);
    }
    bool finished = completion_is_finished(c);
    if (!finished && atomic_load(&x->cut)) {
        api_fail(&error, API_DRAINING, NULL, "the request was cut off: the server is shutting down");
        return job_fail(job, x, &error);
    }
    if (finished) {
        job->finish = job_reason(c);
    }
    if (!c->request.stream) {
        return finished ? job_answer(job, x) : EXCHANGE_WAIT;
    }
    struct completion_style style = job_style(job);
    completion_write_chunks(&x->stream, c, &style);
    if (finished) {
        sse_write_done(&x->stream);
        x->stream_done = true;
    } else if (!x->stream.length && x->ping_due) {
        sse_write_ping(&x->stream);
    }
    x->ping_due = false;
    return x->streaming || x->stream.length ? EXCHANGE_STREAM : EXCHANGE_WAIT;
}

/* A stream is written to as often as the server allows; then a stop string in it is seen an interval late.
 * What nobody sees before the end need not be looked at with every token, but where a stop string may end it.
 *
 * By itself the server has streams send at most EVENTS_PER_THREAD events a second in all for each thread of
 * the CPU that computes (as long as no tick comes near SHARED_PACE_MAX_NS). An event costs those threads some
 * 30 us between them (writing, sending, and that the others wait for the one that it takes the time of), so
 * this bounds it to some hundredths of their time. Streams with stop strings are not held: what the engine
 * made behind the stop would cost more. A card's steps do not wait for events. */
static void job_pace(const struct completion_job *job, struct exchange *x)
{
    const struct completion_request *r = &job->completion->request;
    const struct engine_info *info = engine_get_info(job->server->engine);
    int64_t interval_ms = job->server->config->stream_interval_ms;
    if (!r->stream && !r->n_stops && !r->n_template_stops) {
        x->pace_ns = UNSEEN_PACE_NS;
    } else if (interval_ms != CONFIG_AUTO) {
        x->pace_ns = interval_ms * 1000000;
    } else if (r->stream && !r->n_stops && !info->device_bytes) {
        x->share_ns = 1000000000 / EVENTS_PER_THREAD / (info->n_threads > 1 ? info->n_threads : 1);
    }
}

static void job_close(struct exchange *x)
{
    struct completion_job *job = x->job;
    completion_close(job->completion);
    free(job);
    x->job = NULL;
}

bool api_completions_figures(const struct exchange *x, struct api_log_figures *out)
{
    if (x->step != job_step || !x->job) {
        return false;
    }
    const struct completion_job *job = x->job;
    struct completion_usage usage;
    struct completion_times times;
    completion_get_usage(job->completion, &usage);
    completion_get_times(job->completion, &times);
    *out = (struct api_log_figures){
        .prompt_tokens = usage.prompt_tokens,
        .cached_tokens = usage.cached_tokens,
        .completion_tokens = usage.completion_tokens,
        .n = job->completion->request.n,
        .stream = job->completion->request.stream,
        .queue_ms = times.queue_ms,
        .ttft_ms = times.ttft_ms,
        .itl_p99_ms = metrics_quantile(job->completion->itl_counts, 0.99) * 1e3,
        .finish = job->finish ? job->finish : "cancelled",
    };
    return true;
}

enum exchange_step api_start_completion(struct server *s, struct exchange *x, request_parse_fn *parse)
{
    struct api_error error = {0};
    struct completion_request request;
    cJSON *root = NULL;
    if (!api_parse_body(s, x, &root, &error)) {
        return api_reply_error(s, x, &error);
    }
    struct completion_job *job = calloc(1, sizeof *job);
    if (!job) {
        cJSON_Delete(root);
        api_fail(&error, API_OUT_OF_MEMORY, NULL, "out of memory for a request");
        return api_reply_error(s, x, &error);
    }
    job->server = s;
    if (!parse(&request, root, &s->rules, &error)) {
        int64_t begin = clock_now_ns();
        completion_request_encode(&request, s->tokenizer, &s->rules, &error);
        metrics_observe(&s->metrics, HISTOGRAM_TOKENIZE, (double)(clock_now_ns() - begin) * 1e-9);
    }
    if (request.ignored.length) {
        reply_header(&x->reply, "X-Ignored-Fields", buffer_string(&request.ignored));
    }
    if (error.code) {
        completion_request_finish(&request);
        free(job);
        return api_reply_error(s, x, &error);
    }
    if (completion_open(&job->completion, &request, s->engine, s->tokenizer, &s->metrics, x->arrival_ns,
                        exchange_notify, x, &error)) {
        free(job);
        return api_reply_error(s, x, &error);
    }
    x->job = job;
    x->step = job_step;
    x->close_job = job_close;
    job_pace(job, x);
    x->ping_ns = job->completion->request.stream ? (int64_t)(s->config->sse_ping_interval * 1e9) : 0;
    return job_step(x);
}

enum exchange_step api_completions(struct server *s, struct exchange *x)
{
    return api_start_completion(s, x, completion_request_parse);
}
