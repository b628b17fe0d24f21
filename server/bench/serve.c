/* The run of a load test: starts requests at their planned moments, takes their streams apart, keeps every
 * latency. All in one thread, whose own lateness is measured and reported. */
#include "server/bench/serve.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "server/bench/client.h"
#include "server/bench/options.h"
#include "server/bench/probe.h"
#include "server/bench/report.h"
#include "server/bench/stats.h"
#include "server/bench/workload.h"
#include "server/buffer.h"

enum { EXIT_FAULT = 1, EXIT_USAGE = 2, EXIT_SLO_MISSED = 10 };

enum {
    STARTS_A_ROUND = 32,         /* then the sockets get a turn, however many are overdue */
    CONNECT_FAILURES_MAX = 1000, /* in a row: the server is gone */
    WARMUP_CONCURRENCY = 16,     /* of an open loop */
    ERROR_BODY_MAX = 64 * 1024,
    ANSWER_MAX = 64 << 20,
};

static const int64_t TICK_NS = 250000000; /* progress line, interruption */

/* A request on its way. */
struct flight {
    struct run *run;
    bool warmup;
    int64_t planned_ns;
    int64_t first_chunk_ns, first_text_ns, last_text_ns, end_ns; /* 0: not yet */
    bool finished;                                               /* a finish_reason came */
    bool failed_inside;                                          /* an error event came */
    char error_code[64];                                         /* of that event */
    bool has_usage;
    int64_t prompt_tokens, completion_tokens;
    struct samples itl_ms;
};

struct run {
    const struct bench_options *options;
    struct workload workload;
    struct bench_client *client;
    struct bench_result result;
    struct flight *flights;
    struct flight **free_flights; /* stack */
    int32_t n_flights, n_free;
    int64_t *freed_at_ns;                     /* ring: when the places of the closed loop became free */
    int32_t freed_head, n_freed, concurrency; /* concurrency 0: open loop */
    int64_t gaps_in_flight;
    int64_t chunks_seen;      /* with text, for the progress line */
    int32_t connect_failures; /* in a row */
    int64_t last_end_ns;
    bool no_memory, too_many;
    const char *stopped;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static double ms(int64_t ns)
{
    return (double)ns / 1e6;
}

/* ---- a stream ---- */

static void copy_text(char *out, size_t size, const char *text)
{
    snprintf(out, size, "%s", text);
}

static bool text_arrived(struct flight *f, int64_t now_ns)
{
    struct run *run = f->run;
    if (!f->first_text_ns) {
        f->first_text_ns = now_ns;
    } else if (run->gaps_in_flight + run->result.series[SLO_ITL].n >= SAMPLES_MAX) {
        run->too_many = true;
        return false;
    } else if (!samples_push(&f->itl_ms, ms(now_ns - f->last_text_ns))) {
        run->no_memory = true;
        return false;
    } else {
        run->gaps_in_flight++;
    }
    f->last_text_ns = now_ns;
    run->chunks_seen++;
    return true;
}

static void read_usage(struct flight *f, const cJSON *object)
{
    const cJSON *usage = cJSON_GetObjectItemCaseSensitive(object, "usage");
    if (cJSON_IsObject(usage)) {
        f->has_usage = probe_count(usage, "prompt_tokens", &f->prompt_tokens) &&
                       probe_count(usage, "completion_tokens", &f->completion_tokens);
    }
}

static bool read_chunk(struct flight *f, int64_t now_ns, const cJSON *chunk)
{
    if (!cJSON_IsObject(chunk)) {
        return false;
    }
    if (cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(chunk, "error"))) {
        f->failed_inside = true;
        probe_error_code(chunk, f->error_code, sizeof f->error_code);
        return true;
    }
    read_usage(f, chunk);
    const cJSON *choices = cJSON_GetObjectItemCaseSensitive(chunk, "choices");
    if (!cJSON_IsArray(choices)) {
        return false;
    }
    const cJSON *choice = choices->child;
    if (!choice) {
        return true; /* the usage chunk */
    }
    if (!f->first_chunk_ns) {
        f->first_chunk_ns = now_ns;
    }
    f->finished = f->finished || cJSON_IsString(cJSON_GetObjectItemCaseSensitive(choice, "finish_reason"));
    const cJSON *delta = cJSON_GetObjectItemCaseSensitive(choice, "delta"); /* of chat */
    const cJSON *text = delta ? cJSON_GetObjectItemCaseSensitive(delta, "content")
                              : cJSON_GetObjectItemCaseSensitive(choice, "text");
    return !cJSON_IsString(text) || !*text->valuestring || text_arrived(f, now_ns);
}

static bool on_event(void *context, void *tag, int64_t now_ns, const char *data, size_t length)
{
    static const struct json_limits LIMITS = {.max_depth = 16, .max_nodes = 65536};
    struct flight *f = tag;
    (void)context;
    if (f->end_ns) {
        return false; /* nothing may follow [DONE] */
    }
    if (length == 6 && memcmp(data, "[DONE]", 6) == 0) {
        f->end_ns = now_ns;
        return true;
    }
    cJSON *chunk = NULL;
    bool ok = json_parse(&chunk, data, length, &LIMITS, NULL) == JSON_OK && read_chunk(f, now_ns, chunk);
    cJSON_Delete(chunk);
    return ok;
}

/* ---- the end of a request ---- */

static void tally(struct bench_result *result, int32_t status, const char *class, const char *detail)
{
    for (int32_t i = 0; i < result->n_tallies; i++) {
        struct bench_tally *t = &result->tallies[i];
        bool other = i == TALLIES_MAX - 1;
        if (other || (t->status == status && strcmp(t->class, class) == 0 &&
                      strncmp(t->detail, detail, sizeof t->detail - 1) == 0)) {
            t->count++;
            return;
        }
    }
    struct bench_tally *t = &result->tallies[result->n_tallies++];
    *t = (struct bench_tally){.status = status, .class = class, .count = 1};
    if (result->n_tallies == TALLIES_MAX) { /* the last row takes all that are left */
        *t = (struct bench_tally){.class = "other", .count = 1};
        detail = "";
    }
    copy_text(t->detail, sizeof t->detail, detail);
}

/* A whole answer of --no-stream. False: it is none. */
static bool read_answer(struct flight *f, int64_t now_ns, const struct client_outcome *outcome)
{
    static const struct json_limits LIMITS = {.max_depth = 16, .max_nodes = 1 << 22};
    cJSON *root = NULL;
    bool ok = json_parse(&root, outcome->body, outcome->body_length, &LIMITS, NULL) == JSON_OK;
    const cJSON *choices = cJSON_GetObjectItemCaseSensitive(root, "choices");
    const cJSON *choice = cJSON_IsArray(choices) ? choices->child : NULL;
    ok = ok && cJSON_IsString(cJSON_GetObjectItemCaseSensitive(choice, "finish_reason"));
    read_usage(f, root);
    f->end_ns = now_ns;
    cJSON_Delete(root);
    return ok;
}

/* NULL for a success, else the class of the failure; detail is filled. */
static const char *classify(struct flight *f, int64_t now_ns, const struct client_outcome *outcome,
                            char *detail, size_t size)
{
    static const struct json_limits LIMITS = {.max_depth = 16, .max_nodes = 65536};
    copy_text(detail, size, outcome->reason);
    switch (outcome->failure) {
    case CLIENT_CONNECT:
        return "connect";
    case CLIENT_CLOSED:
        return "closed";
    case CLIENT_TIMEOUT:
        copy_text(detail, size, f->first_text_ns ? "inside the stream" : "before the first text");
        return "timeout";
    case CLIENT_PROTOCOL:
        return "protocol";
    case CLIENT_OK:
        break;
    }
    if (outcome->status != 200) {
        cJSON *root = NULL;
        json_parse(&root, outcome->body, outcome->body_length, &LIMITS, NULL);
        probe_error_code(root, detail, size);
        cJSON_Delete(root);
        return "http";
    }
    if (f->run->options->no_stream) {
        copy_text(detail, size, "the answer is no completion");
        return read_answer(f, now_ns, outcome) ? NULL : "protocol";
    }
    if (!outcome->event_stream) {
        copy_text(detail, size, "the answer is no event stream");
        return "protocol";
    }
    if (f->failed_inside) {
        copy_text(detail, size, f->error_code);
        return "stream";
    }
    if (!f->end_ns || !f->finished) {
        copy_text(detail, size, f->end_ns ? "no finish_reason" : "no [DONE]");
        return "truncated";
    }
    return NULL;
}

static void record_success(struct run *run, const struct flight *f)
{
    struct bench_result *r = &run->result;
    int64_t first_ns = f->first_text_ns ? f->first_text_ns : f->first_chunk_ns;
    struct request_times times = {
        .ttft_ms = run->options->no_stream ? NAN : ms(first_ns - f->planned_ns),
        .tpot_ms = NAN,
        .e2e_ms = ms(f->end_ns - f->planned_ns),
        .itl_ms = f->itl_ms.values,
        .n_itl = f->itl_ms.n,
    };
    r->n_ok++;
    if (f->has_usage) {
        r->prompt_tokens += f->prompt_tokens;
        r->completion_tokens += f->completion_tokens;
        if (f->completion_tokens > 1 && f->itl_ms.n) {
            times.tpot_ms = ms(f->last_text_ns - f->first_text_ns) / (double)(f->completion_tokens - 1);
        }
    } else {
        r->n_without_usage++;
    }
    r->n_good += slo_request_met(&run->options->slo, &times);
    bool kept = (isnan(times.ttft_ms) || samples_push(&r->series[SLO_TTFT], times.ttft_ms)) &&
                samples_push(&r->series[SLO_E2E], times.e2e_ms) &&
                (isnan(times.tpot_ms) || samples_push(&r->series[SLO_TPOT], times.tpot_ms)) &&
                samples_append(&r->series[SLO_ITL], f->itl_ms.values, f->itl_ms.n);
    run->no_memory = run->no_memory || !kept;
}

static void on_done(void *context, void *tag, int64_t now_ns, const struct client_outcome *outcome)
{
    struct run *run = context;
    struct flight *f = tag;
    char detail[96];
    const char *class = classify(f, now_ns, outcome, detail, sizeof detail);
    run->connect_failures = outcome->failure == CLIENT_CONNECT ? run->connect_failures + 1 : 0;
    run->gaps_in_flight -= f->itl_ms.n;
    if (f->warmup) {
        run->result.n_warmup_failed += class != NULL;
    } else if (class) {
        run->result.n_failed++;
        tally(&run->result, outcome->status, class, detail);
    } else {
        record_success(run, f);
    }
    run->last_end_ns = now_ns;
    samples_finish(&f->itl_ms);
    run->free_flights[run->n_free++] = f;
    if (run->concurrency) {
        run->freed_at_ns[(run->freed_head + run->n_freed++) % run->concurrency] = now_ns;
    }
}

/* ---- the loop ---- */

static void progress(const struct run *run, int64_t start_ns, bool warmup)
{
    const struct bench_result *r = &run->result;
    double seconds = (double)(bench_clock_ns() - start_ns) / 1e9;
    int in_flight = (int)client_in_flight(run->client);
    if (warmup) {
        fprintf(stderr, "\rwarm-up %7.1f s  started %lld  in flight %d\033[K", seconds,
                (long long)r->n_warmup, in_flight);
    } else {
        fprintf(stderr, "\r%7.1f s  started %lld  ok %lld  failed %lld  in flight %d  %.1f chunks/s\033[K",
                seconds, (long long)r->n_started, (long long)r->n_ok, (long long)r->n_failed, in_flight,
                seconds > 0 ? (double)run->chunks_seen / seconds : 0.0);
    }
    fflush(stderr);
}

/* Starts one request; the bytes were prepared. */
static enum status start_request(struct run *run, bool warmup, int64_t planned_ns, struct buffer *request,
                                 struct error *err)
{
    double timeout_s = run->options->timeout_s;
    struct flight *f = run->free_flights[--run->n_free];
    *f = (struct flight){.run = run, .warmup = warmup, .planned_ns = planned_ns};
    if (warmup) {
        run->result.n_warmup++;
    } else {
        run->result.n_started++;
        if (!samples_push(&run->result.late_ms, ms(bench_clock_ns() - planned_ns))) {
            run->no_memory = true;
        }
    }
    return client_send(run->client, request, f, timeout_s > 0 ? planned_ns + (int64_t)(timeout_s * 1e9) : 0,
                       run->options->no_stream ? ANSWER_MAX : ERROR_BODY_MAX, err);
}

static const char *must_stop(const struct run *run)
{
    return interrupted                                     ? "interrupted"
           : run->connect_failures >= CONNECT_FAILURES_MAX ? "the server takes no connections any more"
           : run->too_many  ? "more latencies than can be kept: use a shorter --duration"
           : run->no_memory ? "out of memory"
                            : NULL;
}

struct phase {
    bool warmup;
    const int64_t *at_ns;     /* open loop */
    int64_t n_requests;       /* 0: until the duration is over */
    int64_t start_ns, end_ns; /* end_ns 0: none */
};

/* Whether request number `next` may start at all, and then when it is planned for. */
static bool next_planned(const struct run *run, const struct phase *phase, int64_t next, int64_t now_ns,
                         int64_t *planned_ns)
{
    if ((phase->n_requests && next == phase->n_requests) || next == BENCH_REQUESTS_MAX) {
        return false;
    }
    if (phase->at_ns) {
        *planned_ns = phase->start_ns + phase->at_ns[next];
        return true;
    }
    *planned_ns = run->n_freed ? run->freed_at_ns[run->freed_head] : INT64_MAX;
    return !phase->end_ns || now_ns < phase->end_ns;
}

static enum status run_phase(struct run *run, const struct phase *phase, struct error *err)
{
    const struct client_handler handler = {.context = run, .event = on_event, .done = on_done};
    bool show = isatty(STDERR_FILENO);
    struct buffer request = {0};
    int64_t next = 0, tick_ns = phase->start_ns;
    int64_t last_waited = -1;
    enum status status = STATUS_OK;
    if (run->concurrency) { /* every place is free since the start */
        run->freed_head = 0;
        run->n_freed = run->concurrency;
        for (int32_t i = 0; i < run->concurrency; i++) {
            run->freed_at_ns[i] = phase->start_ns;
        }
    }
    while (!status && !(run->stopped = must_stop(run))) {
        int64_t planned_ns, now_ns = bench_clock_ns();
        bool more;
        for (int32_t started = 0;; started++) {
            more = next_planned(run, phase, next, now_ns, &planned_ns);
            if (more &&
                !request.length) { /* also ahead of time: building a long prompt must not make it late */
                workload_write(&run->workload, next, phase->warmup, &request);
                run->no_memory = run->no_memory || request.failed;
            }
            if (!more || planned_ns > now_ns || !run->n_free || started == STARTS_A_ROUND || run->no_memory) {
                break;
            }
            if (phase->at_ns == NULL) {
                run->freed_head = (run->freed_head + 1) % run->concurrency;
                run->n_freed--;
            }
            if ((status = start_request(run, phase->warmup, planned_ns, &request, err))) {
                break;
            }
            next++;
            now_ns = bench_clock_ns();
        }
        if (status || (!more && !client_in_flight(run->client))) {
            break;
        }
        if (more && !run->n_free && planned_ns <= now_ns && last_waited != next) {
            run->result.n_waited++;
            last_waited = next;
        }
        int64_t until_ns = now_ns + TICK_NS;
        if (more && run->n_free && planned_ns < until_ns) {
            until_ns = planned_ns;
        }
        status = client_poll(run->client, until_ns, &handler, err);
        if (show && bench_clock_ns() >= tick_ns) {
            progress(run, phase->start_ns, phase->warmup);
            tick_ns = bench_clock_ns() + TICK_NS;
        }
    }
    buffer_finish(&request);
    if (show) {
        fputs("\r\033[K", stderr);
    }
    return status;
}

static enum status warm_up(struct run *run, struct error *err)
{
    int32_t concurrency = run->concurrency;
    run->concurrency = concurrency ? concurrency : WARMUP_CONCURRENCY;
    if (run->concurrency > client_capacity(run->client)) {
        run->concurrency = client_capacity(run->client);
    }
    struct phase phase = {.warmup = true, .n_requests = run->options->n_warmup, .start_ns = bench_clock_ns()};
    enum status status = run_phase(run, &phase, err);
    run->concurrency = concurrency;
    run->chunks_seen = 0;
    return status;
}

static enum status measure(struct run *run, struct error *err)
{
    const struct bench_options *o = run->options;
    struct server_counters before, after;
    enum status status = probe_metrics(run->client, o, &before, err);
    if (status) {
        return status;
    }
    struct phase phase = {
        .at_ns = run->workload.at_ns, .n_requests = run->workload.n_requests, .start_ns = bench_clock_ns()};
    if (!phase.at_ns && o->duration_s > 0) {
        phase.end_ns = phase.start_ns + (int64_t)(o->duration_s * 1e9);
    }
    int64_t busy_ns = client_busy_ns(run->client);
    run->last_end_ns = phase.start_ns;
    status = run_phase(run, &phase, err);
    if (status) {
        return status;
    }
    int64_t wall_ns = bench_clock_ns() - phase.start_ns;
    struct bench_result *r = &run->result;
    r->busy = wall_ns > 0 ? (double)(client_busy_ns(run->client) - busy_ns) / (double)wall_ns : 0;
    r->window_s = (double)(run->last_end_ns - phase.start_ns) / 1e9;
    r->n_cancelled = r->n_started - r->n_ok - r->n_failed;
    r->stopped = run->stopped;
    if (!r->stopped) {
        if ((status = probe_metrics(run->client, o, &after, err))) {
            return status;
        }
        r->server_ttft = server_mean_between(&before, &after, SERVER_TTFT);
        r->server_itl = server_mean_between(&before, &after, SERVER_ITL);
    }
    return STATUS_OK;
}

/* ---- the whole ---- */

static enum status open_run(struct run *run, struct error *err)
{
    const struct bench_options *o = run->options;
    int32_t wanted = o->concurrency ? o->concurrency : o->max_in_flight;
    enum status status = client_open(&run->client, o->host, o->port, wanted, err);
    if (status) {
        return status;
    }
    int32_t capacity = client_capacity(run->client);
    if (capacity < o->concurrency) {
        return error_set(err, STATUS_INVALID, "--concurrency %d: the limit of open files allows %d",
                         (int)o->concurrency, (int)capacity);
    }
    run->concurrency = o->concurrency;
    int32_t ring = o->concurrency > WARMUP_CONCURRENCY ? o->concurrency : WARMUP_CONCURRENCY;
    run->flights = calloc((size_t)capacity, sizeof *run->flights);
    run->free_flights = calloc((size_t)capacity, sizeof(struct flight *));
    run->freed_at_ns = calloc((size_t)ring, sizeof *run->freed_at_ns);
    if (!run->flights || !run->free_flights || !run->freed_at_ns) {
        return error_set(err, STATUS_NO_MEMORY, "%d requests in flight: out of memory", (int)capacity);
    }
    run->n_flights = run->n_free = capacity;
    for (int32_t i = 0; i < capacity; i++) {
        run->free_flights[i] = &run->flights[capacity - 1 - i];
    }
    return STATUS_OK;
}

static void close_run(struct run *run)
{
    client_close(run->client);
    for (int32_t i = 0; run->flights && i < run->n_flights; i++) {
        samples_finish(&run->flights[i].itl_ms);
    }
    free(run->flights);
    free(run->free_flights);
    free(run->freed_at_ns);
    workload_close(&run->workload);
    bench_result_finish(&run->result);
}

static enum status execute(struct run *run, struct server_facts *facts, struct error *err)
{
    enum status status = open_run(run, err);
    if (status || (status = probe_models(run->client, run->options, facts, err)) ||
        (status = workload_open(&run->workload, run->options, *facts->model ? facts->model : NULL,
                                facts->vocab, err))) {
        return status;
    }
    run->result.model = run->workload.model;
    int64_t longest = (int64_t)run->workload.input_longest + run->workload.output_longest;
    if (facts->max_model_len && longest > facts->max_model_len) {
        return error_set(err, STATUS_INVALID,
                         "%d prompt and %d output tokens do not fit into the server's context of %lld",
                         (int)run->workload.input_longest, (int)run->workload.output_longest,
                         (long long)facts->max_model_len);
    }
    if (run->options->n_warmup && (status = warm_up(run, err))) {
        return status;
    }
    if (run->stopped) {
        return error_set(err, STATUS_UNAVAILABLE, "warm-up: %s", run->stopped);
    }
    return measure(run, err);
}

static int report(struct run *run)
{
    struct bench_result *r = &run->result;
    struct buffer out = {0};
    bool met = bench_slo_met(r, &run->options->slo);
    if (run->options->json) {
        bench_report_json(r, run->options, &out);
    } else {
        bench_report_table(r, run->options, &out);
    }
    bool written =
        !out.failed && fwrite(out.data, 1, out.length, stdout) == out.length && fflush(stdout) == 0;
    buffer_finish(&out);
    if (!written) {
        fputs("any4 bench serve: cannot write the report\n", stderr);
    }
    return !written || r->stopped || !r->n_ok ? EXIT_FAULT : met ? 0 : EXIT_SLO_MISSED;
}

int bench_serve_main(int argc, char **argv)
{
    struct bench_options options;
    struct error err = {0};
    if (bench_options_parse(&options, argc, argv, &err)) {
        fprintf(stderr, "any4 bench serve: %s (--help lists the flags)\n", err.message);
        return EXIT_USAGE;
    }
    if (options.help) {
        bench_options_help(stdout);
        return fflush(stdout) == 0 ? 0 : EXIT_FAULT;
    }
    struct run run = {.options = &options};
    run.result.server_ttft = run.result.server_itl = (struct server_mean){-1, NAN};
    struct server_facts facts = {0};
    struct sigaction action = {.sa_handler = on_interrupt}, old;
    interrupted = 0;
    action.sa_flags = (int)SA_RESETHAND; /* the second one ends the process as usual */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, &old);
    enum status status = execute(&run, &facts, &err);
    int code;
    if (status) {
        fprintf(stderr, "any4 bench serve: %s\n", err.message);
        code = status == STATUS_INVALID || status == STATUS_NOT_FOUND ? EXIT_USAGE : EXIT_FAULT;
    } else {
        code = report(&run);
    }
    sigaction(SIGINT, &old, NULL);
    close_run(&run);
    return code;
}
