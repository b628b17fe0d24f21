/* Prometheus text. Series that nothing feeds yet are left out: an absent metric is honest, a zero is not. */
#include "server/metrics.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

static const double time_bounds[METRICS_TIME_BUCKETS] = {
    1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100};
/* The last slot takes whatever else a future status may be. */
static const int32_t statuses[METRICS_N_STATUSES] = {200, 204, 400, 401, 403, 404, 405, 408, 413,
                                                     414, 429, 431, 499, 500, 503, 504, 0};
static const char *const reject_names[N_REJECTS] = {"queue_full", "draining", "loading", "limits"};
static const char *const phase_names[N_PHASES] = {"body", "waiting", "stream"};
static const struct {
    const char *name, *help;
} histogram_names[N_HISTOGRAMS] = {
    [HISTOGRAM_TTFT] = {"time_to_first_token_seconds", "From arrival of a request to its first token."},
    [HISTOGRAM_ITL] = {"inter_token_latency_seconds",
                       "Between two tokens of a sequence, as the HTTP side sees them."},
    [HISTOGRAM_TPOT] = {"time_per_output_token_seconds",
                        "Mean time per token after the first, per sequence."},
    [HISTOGRAM_LATENCY] = {"request_latency_seconds", "From arrival to the end of the answer."},
    [HISTOGRAM_QUEUE] = {"queue_time_seconds", "From submission to the first step of a sequence."},
    [HISTOGRAM_PREFILL] = {"prefill_time_seconds", "From the first step to the first token."},
    [HISTOGRAM_DECODE] = {"decode_time_seconds", "From the first token to the last."},
    [HISTOGRAM_TOKENIZE] = {"tokenize_time_seconds", "Encoding the prompts of a request."},
    [HISTOGRAM_PROMPT_TOKENS] = {"request_prompt_tokens", "Prompt tokens per request."},
    [HISTOGRAM_GENERATION_TOKENS] = {"request_generation_tokens", "Generated tokens per request."},
};

void metrics_init(struct metrics *m)
{
    struct timeval now;
    memset(m, 0, sizeof *m);
    gettimeofday(&now, NULL);
    m->start_time = (double)now.tv_sec + (double)now.tv_usec * 1e-6;
}

static int32_t status_slot(int32_t status)
{
    int32_t slot = 0;
    while (slot < METRICS_N_STATUSES - 1 && statuses[slot] != status) {
        slot++;
    }
    return slot;
}

void metrics_count_request(struct metrics *m, int32_t endpoint, int32_t status)
{
    int32_t slot = status_slot(status);
    atomic_fetch_add_explicit(&m->requests[endpoint][slot], 1, memory_order_relaxed);
    if (status >= 400 && status < 499) {
        atomic_fetch_add_explicit(&m->bad_requests[slot], 1, memory_order_relaxed);
    }
}

static bool histogram_counts_tokens(enum metrics_histogram which)
{
    return which >= HISTOGRAM_PROMPT_TOKENS;
}

static int32_t histogram_buckets(enum metrics_histogram which)
{
    return histogram_counts_tokens(which) ? METRICS_TOKEN_BUCKETS : METRICS_TIME_BUCKETS;
}

static double histogram_bound(enum metrics_histogram which, int32_t bucket)
{
    return histogram_counts_tokens(which) ? ldexp(1, bucket) : time_bounds[bucket];
}

int32_t metrics_time_bucket(double seconds)
{
    int32_t bucket = 0;
    while (bucket < METRICS_TIME_BUCKETS && seconds > time_bounds[bucket]) {
        bucket++;
    }
    return bucket;
}

double metrics_quantile(const uint32_t counts[METRICS_TIME_BUCKETS + 1], double q)
{
    uint64_t total = 0, seen = 0;
    for (int32_t i = 0; i <= METRICS_TIME_BUCKETS; i++) {
        total += counts[i];
    }
    if (!total) {
        return 0;
    }
    uint64_t rank = (uint64_t)ceil(q * (double)total);
    for (int32_t i = 0; i < METRICS_TIME_BUCKETS; i++) {
        seen += counts[i];
        if (seen >= rank) {
            return time_bounds[i];
        }
    }
    return time_bounds[METRICS_TIME_BUCKETS - 1];
}

void metrics_observe(struct metrics *m, enum metrics_histogram which, double value)
{
    struct histogram *h = &m->histograms[which];
    int32_t n = histogram_buckets(which), bucket = 0;
    while (bucket < n && value > histogram_bound(which, bucket)) {
        bucket++;
    }
    atomic_fetch_add_explicit(&h->counts[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_micro, (uint64_t)(value > 0 ? value * 1e6 + 0.5 : 0),
                              memory_order_relaxed);
}

/* A label value: backslash, quote and newline are escaped as the format asks. */
static void write_label(struct buffer *out, const char *name, const char *value)
{
    buffer_printf(out, "%s=\"", name);
    for (; *value; value++) {
        if (*value == '\\' || *value == '"') {
            buffer_append(out, "\\", 1);
        }
        buffer_text(out, *value == '\n' ? "\\n" : (char[]){*value, 0});
    }
    buffer_text(out, "\"");
}

struct writer {
    struct buffer *out;
    struct buffer model; /* model="..." */
};

static void write_head(struct writer *w, const char *name, const char *type, const char *help)
{
    buffer_printf(w->out, "# HELP any4_%s %s\n# TYPE any4_%s %s\n", name, help, name, type);
}

static void write_value(struct writer *w, const char *name, const char *label, const char *label_value,
                        double value)
{
    buffer_printf(w->out, "any4_%s{%s", name, buffer_string(&w->model));
    if (label) {
        buffer_text(w->out, ",");
        write_label(w->out, label, label_value);
    }
    buffer_printf(w->out, "} %.17g\n", value);
}

static void write_single(struct writer *w, const char *name, const char *type, const char *help, double value)
{
    write_head(w, name, type, help);
    write_value(w, name, NULL, NULL, value);
}

static void write_histogram(struct writer *w, struct metrics *m, enum metrics_histogram which)
{
    const char *name = histogram_names[which].name;
    struct histogram *h = &m->histograms[which];
    uint64_t total = 0;
    write_head(w, name, "histogram", histogram_names[which].help);
    for (int32_t i = 0; i < histogram_buckets(which); i++) {
        total += atomic_load_explicit(&h->counts[i], memory_order_relaxed);
        buffer_printf(w->out, "any4_%s_bucket{%s,le=\"%g\"} %" PRIu64 "\n", name, buffer_string(&w->model),
                      histogram_bound(which, i), total);
    }
    total += atomic_load_explicit(&h->counts[histogram_buckets(which)], memory_order_relaxed);
    buffer_printf(w->out, "any4_%s_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n", name, buffer_string(&w->model),
                  total);
    buffer_printf(w->out, "any4_%s_sum{%s} %.17g\n", name, buffer_string(&w->model),
                  (double)atomic_load_explicit(&h->sum_micro, memory_order_relaxed) * 1e-6);
    buffer_printf(w->out, "any4_%s_count{%s} %" PRIu64 "\n", name, buffer_string(&w->model), total);
}

static void write_http(struct writer *w, struct metrics *m, const struct metrics_view *view)
{
    char code[16];
    write_head(w, "requests_total", "counter", "Answered requests by endpoint and status.");
    for (int32_t e = 0; e < view->n_endpoints; e++) {
        for (int32_t s = 0; s < METRICS_N_STATUSES; s++) {
            uint64_t n = atomic_load_explicit(&m->requests[e][s], memory_order_relaxed);
            if (n) {
                snprintf(code, sizeof code, "%d", (int)statuses[s]);
                buffer_printf(w->out, "any4_requests_total{%s,", buffer_string(&w->model));
                write_label(w->out, "endpoint", view->endpoints[e]);
                buffer_printf(w->out, ",code=\"%s\"} %" PRIu64 "\n", code, n);
            }
        }
    }
    write_head(w, "http_bad_requests_total", "counter", "Requests refused as the client's fault.");
    for (int32_t s = 0; s < METRICS_N_STATUSES; s++) {
        if (statuses[s] >= 400 && statuses[s] < 499) {
            snprintf(code, sizeof code, "%d", (int)statuses[s]);
            write_value(w, "http_bad_requests_total", "code", code,
                        (double)atomic_load_explicit(&m->bad_requests[s], memory_order_relaxed));
        }
    }
    write_head(w, "requests_rejected_total", "counter", "Requests turned away without being judged.");
    for (int32_t i = 0; i < N_REJECTS; i++) {
        write_value(w, "requests_rejected_total", "reason", reject_names[i],
                    (double)atomic_load_explicit(&m->rejected[i], memory_order_relaxed));
    }
    write_head(w, "client_disconnects_total", "counter",
               "Clients that left before their answer was complete.");
    for (int32_t i = 0; i < N_PHASES; i++) {
        write_value(w, "client_disconnects_total", "phase", phase_names[i],
                    (double)atomic_load_explicit(&m->disconnects[i], memory_order_relaxed));
    }
    write_single(w, "connections", "gauge", "Open connections.", view->connections);
    write_single(w, "ready", "gauge", "1 when requests are taken.", view->ready);
    write_single(w, "draining", "gauge", "1 while shutting down.", view->draining);
}

static void write_engine(struct writer *w, const struct engine_stats *s)
{
    static const char *const reasons[FINISH_ERROR + 1] = {[FINISH_STOP] = "stop",
                                                          [FINISH_LENGTH] = "length",
                                                          [FINISH_CANCELLED] = "cancelled",
                                                          [FINISH_TIMEOUT] = "timeout",
                                                          [FINISH_ERROR] = "error"};
    write_single(w, "requests_running", "gauge", "Sequences in the batch.", s->running);
    write_single(w, "requests_waiting", "gauge", "Sequences in the queue.", s->waiting);
    write_single(w, "batch_size", "gauge", "Sequences of the last step.", s->batch_size);
    write_single(w, "kv_tokens_used", "gauge", "Positions of the KV cache in use.",
                 (double)s->kv_tokens_used);
    write_single(w, "kv_tokens_capacity", "gauge", "Positions of the KV cache.",
                 (double)s->kv_tokens_capacity);
    write_single(w, "last_step_age_seconds", "gauge", "Since the last step ended while work is running.",
                 s->last_step_age_seconds);
    write_single(w, "prompt_tokens_total", "counter", "Prompt tokens taken in.", (double)s->prompt_tokens);
    write_single(w, "prompt_tokens_cached_total", "counter", "Prompt tokens found in the prefix cache.",
                 (double)s->prompt_tokens_cached);
    write_single(w, "generation_tokens_total", "counter", "Tokens generated.", (double)s->generation_tokens);
    write_single(w, "preemptions_total", "counter", "Sequences put back for lack of KV memory.",
                 (double)s->preemptions);
    write_single(w, "steps_total", "counter", "Steps of the engine.", (double)s->steps);
    write_head(w, "requests_finished_total", "counter", "Sequences that ended, by reason.");
    for (int32_t i = 0; i <= FINISH_ERROR; i++) {
        if (reasons[i]) {
            write_value(w, "requests_finished_total", "reason", reasons[i], (double)s->finished[i]);
        }
    }
}

static double resident_bytes(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*s %ld", &pages) != 1) {
        pages = 0;
    }
    if (file) {
        fclose(file);
    }
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static void write_model(struct writer *w, const struct metrics_view *view)
{
    const struct engine_info *info = view->info;
    write_single(w, "weights_bytes", "gauge", "Bytes of weights in memory.", (double)info->weights_bytes);
    if (info->device_bytes) {
        write_head(w, "device_memory_bytes", "gauge", "Bytes of a device's memory that the model takes.");
        write_value(w, "device_memory_bytes", "device", info->device, (double)info->device_bytes);
    }
    write_head(w, "quant_rel_error", "gauge", "Relative error of quantized tensors.");
    write_value(w, "quant_rel_error", "stat", "mean", info->quant_error_mean);
    write_value(w, "quant_rel_error", "stat", "p95", info->quant_error_p95);
    write_value(w, "quant_rel_error", "stat", "max", info->quant_error_max);
    write_head(w, "quant_cache", "gauge", "1 for what became of the cache of quantized models at load.");
    write_value(w, "quant_cache", "result", info->quant_cache, 1);
    write_head(w, "load_seconds", "gauge", "How long loading took.");
    write_value(w, "load_seconds", "phase", "quantize", info->quantize_seconds);
    write_value(w, "load_seconds", "phase", "calibrate", info->calibrate_seconds);
    write_value(w, "load_seconds", "phase", "total", view->load_seconds);
    if (view->first_token_seconds > 0) {
        write_single(w, "first_token_after_start_seconds", "gauge",
                     "From the start of the process to its first token.", view->first_token_seconds);
    }
}

void metrics_write(struct buffer *out, struct metrics *m, const struct metrics_view *view)
{
    struct writer w = {.out = out};
    write_label(&w.model, "model", view->model);
    write_head(&w, "build_info", "gauge", "Always 1: what is running.");
    buffer_printf(out, "any4_build_info{%s,", buffer_string(&w.model));
    write_label(out, "version", view->version);
    buffer_text(out, ",");
    write_label(out, "commit", view->commit);
    buffer_text(out, ",");
    write_label(out, "kernels", view->info ? view->info->kernels : "");
    buffer_text(out, "} 1\n");
    write_single(&w, "process_start_time_seconds", "gauge", "When the process started, since 1970.",
                 m->start_time);
    write_single(&w, "host_rss_bytes", "gauge", "Resident memory of the process.", resident_bytes());
    write_http(&w, m, view);
    if (view->stats) {
        write_engine(&w, view->stats);
    }
    if (view->info) {
        write_model(&w, view);
    }
    for (int32_t i = 0; i < N_HISTOGRAMS; i++) {
        write_histogram(&w, m, (enum metrics_histogram)i);
    }
    out->failed |= w.model.failed;
    buffer_finish(&w.model);
}
