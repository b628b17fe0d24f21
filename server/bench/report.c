/* Writes what a load test found. */
#include "server/bench/report.h"

#include <math.h>
#include <string.h>

static const char *const SERIES_NAMES[N_SLO_METRICS] = {"ttft", "tpot", "itl", "e2e"};
static const char *const SERIES_TITLES[N_SLO_METRICS] = {"TTFT", "TPOT", "ITL", "E2E"};

void bench_result_finish(struct bench_result *result)
{
    for (int32_t i = 0; i < N_SLO_METRICS; i++) {
        samples_finish(&result->series[i]);
    }
    samples_finish(&result->late_ms);
}

struct rates {
    double requests, output_tokens, total_tokens, good; /* per second; NaN where unknown */
    double goodput;                                     /* share of the requests that ended */
};

static struct rates rates_of(const struct bench_result *r)
{
    double window = r->window_s > 0 ? r->window_s : NAN;
    bool tokens_known = r->n_without_usage == 0;
    int64_t ended = r->n_ok + r->n_failed;
    return (struct rates){
        .requests = (double)r->n_ok / window,
        .output_tokens = tokens_known ? (double)r->completion_tokens / window : NAN,
        .total_tokens = tokens_known ? (double)(r->prompt_tokens + r->completion_tokens) / window : NAN,
        .good = (double)r->n_good / window,
        .goodput = ended ? (double)r->n_good / (double)ended : NAN,
    };
}

/* The run's value of a term, and whether it is within the limit: NaN is not. */
static double slo_value(const struct bench_result *r, const struct slo_term *term, bool *met)
{
    double value = slo_run_value(term, &r->series[term->metric], r->n_failed);
    *met = value <= term->limit_ms;
    return value;
}

bool bench_slo_met(struct bench_result *result, const struct slo *slo)
{
    bool all = true;
    for (int32_t i = 0; i < slo->n_terms; i++) {
        bool met;
        samples_sort(&result->series[slo->terms[i].metric]);
        slo_value(result, &slo->terms[i], &met);
        all = all && met;
    }
    return all;
}

/* ---- the table ---- */

static void put_ms(struct buffer *out, double value)
{
    if (isnan(value)) {
        buffer_printf(out, " %10s", "-");
    } else if (isinf(value)) {
        buffer_printf(out, " %10s", "never");
    } else {
        buffer_printf(out, " %10.*f", value < 10 ? 3 : value < 1000 ? 2 : 1, value);
    }
}

static void put_rate(struct buffer *out, const char *name, double value, const char *unit)
{
    if (isnan(value)) {
        buffer_printf(out, "  %-22s %12s\n", name, "unknown");
    } else {
        buffer_printf(out, "  %-22s %12.2f %s\n", name, value, unit);
    }
}

/* The server's words may hold anything: a terminal sees printable ASCII only. */
static void put_printable(struct buffer *out, const char *text)
{
    for (; *text; text++) {
        char c = *text >= 0x20 && *text < 0x7f ? *text : '?';
        buffer_append(out, &c, 1);
    }
}

static void put_settings(const struct bench_result *r, const struct bench_options *o, struct buffer *out)
{
    buffer_printf(out, "http://%s%s%s:%s, model ", o->ipv6_literal ? "[" : "", o->host,
                  o->ipv6_literal ? "]" : "", o->port);
    put_printable(out, r->model ? r->model : "not named");
    buffer_text(out, o->chat ? ", chat" : "");
    if (o->replay_path) {
        buffer_text(out, ", replay");
    } else if (o->rate > 0) {
        buffer_printf(out, ", open loop of %g requests per second", o->rate);
    } else {
        buffer_printf(out, ", closed loop of %d", (int)o->concurrency);
    }
    buffer_printf(out, ", seed %llu\n\n", (unsigned long long)o->seed);
}

static void put_counts(const struct bench_result *r, struct buffer *out)
{
    buffer_printf(out, "Requests                %12lld in %.2f s\n", (long long)r->n_started, r->window_s);
    buffer_printf(out, "  %-22s %12lld\n", "succeeded", (long long)r->n_ok);
    buffer_printf(out, "  %-22s %12lld\n", "failed", (long long)r->n_failed);
    for (int32_t i = 0; i < r->n_tallies; i++) {
        const struct bench_tally *t = &r->tallies[i];
        buffer_printf(out, "    %-20s %12lld ", t->class, (long long)t->count);
        if (t->status) {
            buffer_printf(out, " %d", (int)t->status);
        }
        buffer_text(out, " ");
        put_printable(out, t->detail);
        buffer_text(out, "\n");
    }
    if (r->n_cancelled) {
        buffer_printf(out, "  %-22s %12lld\n", "cancelled", (long long)r->n_cancelled);
    }
    if (r->n_warmup) {
        buffer_printf(out, "  %-22s %12lld (%lld failed), not counted\n", "warm-up", (long long)r->n_warmup,
                      (long long)r->n_warmup_failed);
    }
    if (r->n_without_usage) {
        buffer_printf(out, "  %-22s %12lld: token rates and their TPOT are unknown\n", "without usage",
                      (long long)r->n_without_usage);
    }
}

static void put_server(struct buffer *out, const char *name, const struct server_mean *mean)
{
    if (mean->n < 0) {
        buffer_printf(out, "  %-22s %12s\n", name, "unknown");
    } else {
        buffer_printf(out, "  %-22s", name);
        put_ms(out, mean->mean_ms);
        buffer_printf(out, " ms, n %lld\n", (long long)mean->n);
    }
}

void bench_report_table(struct bench_result *result, const struct bench_options *o, struct buffer *out)
{
    struct rates rates = rates_of(result);
    put_settings(result, o, out);
    put_counts(result, out);
    buffer_printf(out, "\n%-8s %8s %10s %10s %10s %10s %10s %10s\n", "ms", "n", "mean", "p50", "p90", "p95",
                  "p99", "max");
    for (int32_t i = 0; i < N_SLO_METRICS; i++) {
        struct summary s;
        samples_summarize(&result->series[i], &s);
        buffer_printf(out, "%-8s %8lld", SERIES_TITLES[i], (long long)s.n);
        const double values[] = {s.mean, s.p50, s.p90, s.p95, s.p99, s.max};
        for (size_t j = 0; j < sizeof values / sizeof *values; j++) {
            put_ms(out, values[j]);
        }
        buffer_text(out, "\n");
    }
    buffer_text(out, "\nRates\n");
    put_rate(out, "requests", rates.requests, "1/s");
    put_rate(out, "output tokens", rates.output_tokens, "1/s");
    put_rate(out, "prompt + output tokens", rates.total_tokens, "1/s");
    put_rate(out, "goodput", rates.goodput * 100, "% of requests");
    put_rate(out, "good requests", rates.good, "1/s");
    for (int32_t i = 0; i < o->slo.n_terms; i++) {
        char name[24];
        bool met;
        double value = slo_value(result, &o->slo.terms[i], &met);
        slo_term_name(&o->slo.terms[i], name, sizeof name);
        buffer_printf(out, "%s  %-22s", i ? "" : "\nObjectives\n", name);
        put_ms(out, value);
        buffer_printf(out, " ms, limit %g: %s\n", o->slo.terms[i].limit_ms, met ? "met" : "MISSED");
    }
    struct summary late;
    samples_summarize(&result->late_ms, &late);
    buffer_text(out, "\nClient\n  late against the plan ");
    put_ms(out, late.p99);
    buffer_text(out, " ms p99,");
    put_ms(out, late.max);
    buffer_printf(out, " ms max\n  %-22s %12.1f %%%s\n", "thread busy", result->busy * 100,
                  result->busy > 0.8 ? ": the client is saturated, its latencies are its own" : "");
    if (result->n_waited) {
        buffer_printf(out, "  %-22s %12lld requests: raise --max-in-flight\n", "no free connection",
                      (long long)result->n_waited);
    }
    buffer_text(out, "\nServer, same window, from /metrics\n");
    put_server(out, "mean TTFT", &result->server_ttft);
    put_server(out, "mean ITL", &result->server_itl);
    if (result->stopped) {
        buffer_printf(out, "\nStopped early: %s\n", result->stopped);
    }
}

/* ---- JSON ---- */

static void key(struct buffer *out, const char *name)
{
    buffer_printf(out, ",\"%s\":", name);
}

static void key_double(struct buffer *out, const char *name, double value)
{
    key(out, name);
    buffer_json_double(out, value);
}

static void key_int(struct buffer *out, const char *name, int64_t value)
{
    buffer_printf(out, ",\"%s\":%lld", name, (long long)value);
}

static void json_settings(const struct bench_result *r, const struct bench_options *o, struct buffer *out)
{
    buffer_printf(out, "{\"url\":\"http://%s%s%s:%s\"", o->ipv6_literal ? "[" : "", o->host,
                  o->ipv6_literal ? "]" : "", o->port);
    key(out, "model");
    buffer_json_text(out, r->model);
    key(out, "endpoint");
    buffer_json_text(out, o->chat ? "chat" : "completions");
    key(out, "mode");
    buffer_json_text(out, o->replay_path ? "replay" : o->rate > 0 ? "open" : "closed");
    key(out, "rate");
    if (o->rate > 0) {
        buffer_json_double(out, o->rate);
    } else {
        buffer_text(out, "null");
    }
    key(out, "concurrency");
    if (o->concurrency) {
        buffer_printf(out, "%d", (int)o->concurrency);
    } else {
        buffer_text(out, "null");
    }
    buffer_printf(out, ",\"seed\":%llu", (unsigned long long)o->seed);
}

static void json_counts(const struct bench_result *r, struct buffer *out)
{
    buffer_printf(out,
                  ",\"requests\":{\"started\":%lld,\"succeeded\":%lld,\"failed\":%lld,\"cancelled\":%lld,"
                  "\"good\":%lld,\"without_usage\":%lld,\"warmup\":%lld,\"warmup_failed\":%lld}",
                  (long long)r->n_started, (long long)r->n_ok, (long long)r->n_failed,
                  (long long)r->n_cancelled, (long long)r->n_good, (long long)r->n_without_usage,
                  (long long)r->n_warmup, (long long)r->n_warmup_failed);
    /* By status: successes are all 200, failures may be 200 too (a stream that broke); "none": no answer
     * came. */
    struct {
        int32_t status;
        int64_t count;
    } statuses[TALLIES_MAX + 1] = {{200, r->n_ok}};
    int32_t n_statuses = r->n_ok ? 1 : 0;
    for (int32_t i = 0; i < r->n_tallies; i++) {
        int32_t at = 0;
        while (at < n_statuses && statuses[at].status != r->tallies[i].status) {
            at++;
        }
        if (at == n_statuses) {
            statuses[n_statuses].status = r->tallies[i].status;
            statuses[n_statuses++].count = 0;
        }
        statuses[at].count += r->tallies[i].count;
    }
    buffer_text(out, ",\"statuses\":{");
    for (int32_t i = 0; i < n_statuses; i++) {
        buffer_text(out, i ? "," : "");
        if (statuses[i].status) {
            buffer_printf(out, "\"%d\":%lld", (int)statuses[i].status, (long long)statuses[i].count);
        } else {
            buffer_printf(out, "\"none\":%lld", (long long)statuses[i].count);
        }
    }
    buffer_text(out, "},\"errors\":[");
    for (int32_t i = 0; i < r->n_tallies; i++) {
        const struct bench_tally *t = &r->tallies[i];
        buffer_printf(out, "%s{\"status\":", i ? "," : "");
        if (t->status) {
            buffer_printf(out, "%d", (int)t->status);
        } else {
            buffer_text(out, "null");
        }
        buffer_printf(out, ",\"class\":\"%s\",\"detail\":", t->class);
        buffer_json_text(out, t->detail);
        buffer_printf(out, ",\"count\":%lld}", (long long)t->count);
    }
    buffer_text(out, "]");
}

static void json_summary(struct buffer *out, const char *name, struct samples *samples)
{
    struct summary s;
    samples_summarize(samples, &s);
    buffer_printf(out, ",\"%s\":{\"n\":%lld", name, (long long)s.n);
    key_double(out, "mean", s.mean);
    key_double(out, "p50", s.p50);
    key_double(out, "p90", s.p90);
    key_double(out, "p95", s.p95);
    key_double(out, "p99", s.p99);
    key_double(out, "max", s.max);
    buffer_text(out, "}");
}

static void json_server(struct buffer *out, const char *name, const struct server_mean *mean)
{
    if (mean->n < 0) {
        buffer_printf(out, "\"%s\":null", name);
    } else {
        buffer_printf(out, "\"%s\":{\"n\":%lld", name, (long long)mean->n);
        key_double(out, "mean", mean->mean_ms);
        buffer_text(out, "}");
    }
}

void bench_report_json(struct bench_result *result, const struct bench_options *o, struct buffer *out)
{
    struct rates rates = rates_of(result);
    json_settings(result, o, out);
    json_counts(result, out);
    key_double(out, "window_s", result->window_s);
    key_int(out, "prompt_tokens", result->prompt_tokens);
    key_int(out, "completion_tokens", result->completion_tokens);
    for (int32_t i = 0; i < N_SLO_METRICS; i++) {
        char name[16];
        snprintf(name, sizeof name, "%s_ms", SERIES_NAMES[i]);
        json_summary(out, name, &result->series[i]);
    }
    key_double(out, "requests_per_s", rates.requests);
    key_double(out, "output_tokens_per_s", rates.output_tokens);
    key_double(out, "total_tokens_per_s", rates.total_tokens);
    key_double(out, "goodput", rates.goodput);
    key_double(out, "good_requests_per_s", rates.good);
    buffer_text(out, ",\"slo\":[");
    for (int32_t i = 0; i < o->slo.n_terms; i++) {
        char name[24];
        bool met;
        double value = slo_value(result, &o->slo.terms[i], &met);
        slo_term_name(&o->slo.terms[i], name, sizeof name);
        buffer_printf(out, "%s{\"name\":\"%s\"", i ? "," : "", name);
        key_double(out, "limit_ms", o->slo.terms[i].limit_ms);
        key_double(out, "value_ms", value); /* null: infinitely slow, or nothing measured */
        buffer_printf(out, ",\"met\":%s}", met ? "true" : "false");
    }
    buffer_printf(out, "],\"client\":{\"waited_for_connection\":%lld", (long long)result->n_waited);
    key_double(out, "busy", result->busy);
    json_summary(out, "late_ms", &result->late_ms);
    buffer_text(out, "},\"server\":{");
    json_server(out, "ttft_ms", &result->server_ttft);
    buffer_text(out, ",");
    json_server(out, "itl_ms", &result->server_itl);
    buffer_text(out, "}");
    key(out, "stopped");
    buffer_json_text(out, result->stopped);
    buffer_text(out, "}\n");
}
