/* What `any4 bench serve` asks a server besides the load itself: what it serves, and its own latency
 * histograms. */
#ifndef SERVER_BENCH_PROBE_H
#define SERVER_BENCH_PROBE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "server/bench/client.h"
#include "server/bench/options.h"
#include "server/bench/report.h"

struct server_facts {
    char model[256];       /* "" if unknown */
    int32_t vocab;         /* 0 if unknown */
    int64_t max_model_len; /* 0 if unknown */
};

/* GET /v1/models: is the server there, does it take the key, what does it serve. A server without that route
 * (404, 405) leaves the facts unknown. Errors: STATUS_UNAVAILABLE. Nothing else may be in flight. */
enum status probe_models(struct bench_client *client, const struct bench_options *o,
                         struct server_facts *facts, struct error *err);

enum server_metric { SERVER_TTFT, SERVER_ITL, N_SERVER_METRICS };

/* Sum and count of the server's histograms, over all label sets. */
struct server_counters {
    bool has_sum[N_SERVER_METRICS], has_count[N_SERVER_METRICS];
    double sum_s[N_SERVER_METRICS], count[N_SERVER_METRICS];
};

/* Reads the text of GET /metrics (terminated; cut into lines on the way). */
void server_counters_read(struct server_counters *counters, char *text);
/* GET /metrics. A server without it has no counters, which is no error. Nothing else may be in flight. */
enum status probe_metrics(struct bench_client *client, const struct bench_options *o,
                          struct server_counters *counters, struct error *err);
/* Not available (n is -1) without the metric, or when it went backwards: the server was restarted. */
struct server_mean server_mean_between(const struct server_counters *before,
                                       const struct server_counters *after, enum server_metric metric);

/* ---- pieces of answers ---- */

/* The code of {"error":{...}}, its type where there is none, "" without either. root may be NULL. */
void probe_error_code(const cJSON *root, char *out, size_t size);
/* A member that is an integer in 0..INT32_MAX. */
bool probe_count(const cJSON *object, const char *name, int64_t *value);

#endif
