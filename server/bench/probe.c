/* Questions to the server before and after the load. */
#include "server/bench/probe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "server/bench/workload.h"

enum {
    GET_BODY_MAX = 8 * 1024 * 1024,
    GET_TIMEOUT_S = 10,
};

void probe_error_code(const cJSON *root, char *out, size_t size)
{
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(root, "error");
    const cJSON *code = cJSON_GetObjectItemCaseSensitive(error, "code");
    if (!cJSON_IsString(code)) {
        code = cJSON_GetObjectItemCaseSensitive(error, "type");
    }
    snprintf(out, size, "%s", cJSON_IsString(code) ? code->valuestring : "");
}

bool probe_count(const cJSON *object, const char *name, int64_t *value)
{
    return json_int64(cJSON_GetObjectItemCaseSensitive(object, name), value) && *value >= 0 &&
           *value <= INT32_MAX;
}

/* ---- asking the server ---- */

struct answer {
    bool done;
    enum client_failure failure;
    int32_t status;
    char reason[128];
    struct buffer body;
};

static void on_answer(void *context, void *tag, int64_t now_ns, const struct client_outcome *outcome)
{
    struct answer *answer = tag;
    (void)context;
    (void)now_ns;
    answer->done = true;
    answer->failure = outcome->failure;
    answer->status = outcome->status;
    snprintf(answer->reason, sizeof answer->reason, "%s", outcome->reason);
    buffer_append(&answer->body, outcome->body, outcome->body_length);
}

/* One GET with nothing else in flight. answer must be zeroed; finish its body. */
static enum status ask(struct bench_client *client, const struct bench_options *o, const char *path,
                       struct answer *answer, struct error *err)
{
    struct client_handler handler = {.done = on_answer};
    struct buffer request = {0};
    workload_write_get(o, path, &request);
    if (request.failed) {
        buffer_finish(&request);
        return error_set(err, STATUS_NO_MEMORY, "request: out of memory");
    }
    int64_t deadline_ns = bench_clock_ns() + GET_TIMEOUT_S * INT64_C(1000000000);
    enum status status = client_send(client, &request, answer, deadline_ns, GET_BODY_MAX, err);
    while (!status && !answer->done) {
        status = client_poll(client, deadline_ns, &handler, err);
    }
    buffer_finish(&request);
    if (!status && answer->body.failed) {
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", path);
    }
    return status;
}

enum status probe_models(struct bench_client *client, const struct bench_options *o,
                         struct server_facts *facts, struct error *err)
{
    static const struct json_limits LIMITS = {.max_depth = 32, .max_nodes = 65536};
    struct answer answer = {0};
    cJSON *root = NULL;
    enum status status = ask(client, o, "/v1/models", &answer, err);
    if (status) {
        goto cleanup;
    }
    if (answer.failure) {
        status = error_set(err, STATUS_UNAVAILABLE, "%s:%s: %s", o->host, o->port, answer.reason);
        goto cleanup;
    }
    if (answer.status != 200 && answer.status != 404 && answer.status != 405) {
        char code[64];
        json_parse(&root, answer.body.data, answer.body.length, &LIMITS, NULL);
        probe_error_code(root, code, sizeof code);
        status = error_set(err, STATUS_UNAVAILABLE, "%s:%s: /v1/models answers %d %s", o->host, o->port,
                           (int)answer.status, code);
        goto cleanup;
    }
    if (answer.status == 200 &&
        json_parse(&root, answer.body.data, answer.body.length, &LIMITS, NULL) == JSON_OK) {
        const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "data");
        const cJSON *model = cJSON_IsArray(list) ? list->child : NULL;
        const cJSON *id = cJSON_GetObjectItemCaseSensitive(model, "id");
        int64_t value;
        if (cJSON_IsString(id) && strlen(id->valuestring) < sizeof facts->model) {
            snprintf(facts->model, sizeof facts->model, "%s", id->valuestring);
        }
        if (probe_count(model, "vocab_size", &value) && value >= 4) {
            facts->vocab = (int32_t)value;
        }
        if (probe_count(model, "max_model_len", &value)) {
            facts->max_model_len = value;
        }
    }
cleanup:
    cJSON_Delete(root);
    buffer_finish(&answer.body);
    return status;
}

/* ---- the server's own histograms ---- */

/* The number behind `name` or `name{labels}`; false if the line is another metric's. */
static bool metric_value(const char *line, const char *name, double *value)
{
    size_t length = strlen(name);
    if (strncmp(line, name, length) != 0 || (line[length] != '{' && line[length] != ' ')) {
        return false;
    }
    const char *at = line + length;
    bool quoted = false;
    if (*at == '{') {
        while (*at && (*at != '}' || quoted)) {
            if (*at == '\\' && at[1]) {
                at++;
            } else if (*at == '"') {
                quoted = !quoted;
            }
            at++;
        }
        if (!*at++) {
            return false;
        }
    }
    char *end;
    *value = strtod(at, &end);
    return end != at && isfinite(*value);
}

void server_counters_read(struct server_counters *counters, char *text)
{
    static const char *const SUMS[N_SERVER_METRICS] = {"any4_time_to_first_token_seconds_sum",
                                                       "any4_inter_token_latency_seconds_sum"};
    static const char *const COUNTS[N_SERVER_METRICS] = {"any4_time_to_first_token_seconds_count",
                                                         "any4_inter_token_latency_seconds_count"};
    char *rest;
    *counters = (struct server_counters){0};
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        for (int32_t i = 0; i < N_SERVER_METRICS; i++) {
            double value;
            if (metric_value(line, SUMS[i], &value)) {
                counters->has_sum[i] = true;
                counters->sum_s[i] += value;
            } else if (metric_value(line, COUNTS[i], &value)) {
                counters->has_count[i] = true;
                counters->count[i] += value;
            }
        }
    }
}

enum status probe_metrics(struct bench_client *client, const struct bench_options *o,
                          struct server_counters *counters, struct error *err)
{
    struct answer answer = {0};
    *counters = (struct server_counters){0};
    enum status status = ask(client, o, "/metrics", &answer, err);
    if (!status && answer.failure == CLIENT_OK && answer.status == 200) {
        buffer_string(&answer.body);
        if (!answer.body.failed) {
            server_counters_read(counters, answer.body.data);
        }
    }
    buffer_finish(&answer.body);
    return status;
}

struct server_mean server_mean_between(const struct server_counters *before,
                                       const struct server_counters *after, enum server_metric metric)
{
    /* A series that the server creates with its first sample counts as zero before. */
    double n = after->count[metric] - before->count[metric];
    double seconds = after->sum_s[metric] - before->sum_s[metric];
    if (!after->has_sum[metric] || !after->has_count[metric] || n < 0 || n > 1e15 || seconds < 0) {
        return (struct server_mean){-1, NAN};
    }
    return (struct server_mean){(int64_t)n, n > 0 ? seconds / n * 1e3 : NAN};
}
