/* Prompts, lengths, arrival times, and the bytes of a request. */
#include "server/bench/workload.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"

enum {
    FILE_BYTES_MAX = 256 * 1024 * 1024,
    FILE_LINES_MAX = BENCH_REQUESTS_MAX,
    FIRST_RANDOM_ID = 3, /* 0..2 are <unk>, <s>, </s> in every model that is served */
};

/* Streams of random numbers of one seed. */
enum { STREAM_ARRIVALS, STREAM_MEASURED, STREAM_WARMUP };

/* ---- files ---- */

static enum status line_error(struct error *err, const char *path, int64_t line, const char *what)
{
    return error_set(err, STATUS_INVALID, "%s, line %lld: %s", path, (long long)line, what);
}

static bool read_tokens(const cJSON *value, int32_t *tokens)
{
    int64_t wide;
    if (!json_int64(value, &wide) || wide < 1 || wide > 1 << 20) {
        return false;
    }
    *tokens = (int32_t)wide;
    return true;
}

static bool is_prompt(const cJSON *value)
{
    if (cJSON_IsArray(value)) {
        const cJSON *id;
        cJSON_ArrayForEach(id, value)
        {
            int64_t wide;
            if (!json_int64(id, &wide) || wide < 0) {
                return false;
            }
        }
        return value->child != NULL;
    }
    return cJSON_IsString(value);
}

/* The bytes as one terminated string to free, or NULL. */
static char *take_string(struct buffer *b)
{
    buffer_string(b);
    if (b->failed) {
        buffer_finish(b);
    }
    return b->data;
}

static char *text_json(const char *text, size_t length)
{
    struct buffer b = {0};
    buffer_json_string(&b, text, length);
    return take_string(&b);
}

static char *prompt_json(const cJSON *prompt)
{
    if (cJSON_IsString(prompt)) {
        return text_json(prompt->valuestring, strlen(prompt->valuestring));
    }
    struct buffer b = {0};
    const cJSON *id;
    cJSON_ArrayForEach(id, prompt)
    {
        int64_t value = 0;
        json_int64(id, &value);
        buffer_printf(&b, "%c%lld", id == prompt->child ? '[' : ',', (long long)value);
    }
    buffer_text(&b, "]");
    return take_string(&b);
}

/* {"prompt", "output_tokens"} of --prompts; "at" and "input_tokens" too in --replay. NULL or what is wrong.
 */
static const char *read_object(struct workload_item *item, const cJSON *object, bool replay)
{
    bool has_at = false;
    const cJSON *value;
    cJSON_ArrayForEach(value, object)
    {
        const char *key = value->string;
        if (strcmp(key, "prompt") == 0) {
            if (!is_prompt(value)) {
                return "\"prompt\" must be a string or a list of token ids";
            }
            item->prompt = prompt_json(value);
            if (!item->prompt) {
                return "out of memory";
            }
        } else if (strcmp(key, "output_tokens") == 0) {
            if (!read_tokens(value, &item->output_tokens)) {
                return "\"output_tokens\" must be 1..1048576";
            }
        } else if (replay && strcmp(key, "input_tokens") == 0) {
            if (!read_tokens(value, &item->input_tokens)) {
                return "\"input_tokens\" must be 1..1048576";
            }
        } else if (replay && strcmp(key, "at") == 0) {
            if (!cJSON_IsNumber(value) || !(value->valuedouble >= 0 && value->valuedouble <= 1e7)) {
                return "\"at\" must be seconds from the start, 0..10000000";
            }
            item->at_s = value->valuedouble;
            has_at = true;
        } else {
            return replay ? "unknown key: expected at, prompt, input_tokens, output_tokens"
                          : "unknown key: expected prompt, output_tokens";
        }
    }
    if (replay && !has_at) {
        return "\"at\" is missing";
    }
    if (replay ? !item->prompt == !item->input_tokens : !item->prompt) {
        return replay ? "one of \"prompt\" and \"input_tokens\" is needed" : "\"prompt\" is missing";
    }
    return NULL;
}

static enum status read_item(struct workload_item *item, const char *path, int64_t line_number,
                             const char *line, size_t length, bool replay, struct error *err)
{
    if (!replay && *line != '"' && *line != '{') {
        item->prompt = text_json(line, length);
        return item->prompt ? STATUS_OK : line_error(err, path, line_number, "out of memory");
    }
    static const struct json_limits LIMITS = {.max_depth = 4, .max_nodes = 1 << 21};
    cJSON *json = NULL;
    struct error why = {0};
    const char *wrong = NULL;
    if (json_parse(&json, line, length, &LIMITS, &why) != JSON_OK) {
        return line_error(err, path, line_number, why.message);
    }
    if (cJSON_IsString(json) && !replay) {
        item->prompt = prompt_json(json);
        wrong = item->prompt ? NULL : "out of memory";
    } else if (cJSON_IsObject(json)) {
        wrong = read_object(item, json, replay);
    } else {
        wrong = replay ? "expected a JSON object" : "expected a JSON string or object";
    }
    cJSON_Delete(json);
    return wrong ? line_error(err, path, line_number, wrong) : STATUS_OK;
}

static enum status read_items(struct workload *w, const char *path, bool replay, struct error *err)
{
    char *text = NULL;
    size_t size = 0;
    int64_t capacity = 0, line_number = 0;
    enum status status = file_read(&text, &size, path, FILE_BYTES_MAX, err);
    for (size_t at = 0; !status && at < size;) {
        const char *line = text + at;
        const char *lf = memchr(line, '\n', size - at);
        size_t length = lf ? (size_t)(lf - line) : size - at;
        at += length + 1;
        line_number++;
        if (length && line[length - 1] == '\r') {
            length--;
        }
        if (!length) {
            continue;
        }
        if (w->n_items == FILE_LINES_MAX) {
            status = error_set(err, STATUS_INVALID, "%s: more than %d lines", path, (int)FILE_LINES_MAX);
            break;
        }
        if (w->n_items == capacity) {
            capacity = capacity ? capacity * 2 : 64;
            struct workload_item *grown = realloc(w->items, (size_t)capacity * sizeof *grown);
            if (!grown) {
                status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", path);
                break;
            }
            w->items = grown;
        }
        struct workload_item *item = &w->items[w->n_items++];
        *item = (struct workload_item){0};
        status = read_item(item, path, line_number, line, length, replay, err);
        if (!status && w->options->chat && item->prompt && *item->prompt == '[') {
            status = line_error(err, path, line_number, "a message of chat is a text, not token ids");
        }
        if (!status && replay && w->n_items > 1 && item->at_s < item[-1].at_s) {
            status =
                line_error(err, path, line_number, "\"at\" goes back: the lines must be in order of time");
        }
    }
    free(text);
    if (!status && !w->n_items) {
        status = error_set(err, STATUS_INVALID, "%s: no line in it", path);
    }
    return status;
}

/* ---- the plan ---- */

static enum status replay_schedule(struct workload *w, struct error *err)
{
    const struct bench_options *o = w->options;
    w->at_ns = calloc((size_t)w->n_items, sizeof *w->at_ns);
    if (!w->at_ns) {
        return error_set(err, STATUS_NO_MEMORY, "schedule: out of memory");
    }
    while (w->n_requests < w->n_items && (!o->n_requests || w->n_requests < o->n_requests) &&
           (!(o->duration_s > 0) || w->items[w->n_requests].at_s < o->duration_s)) {
        w->at_ns[w->n_requests] = (int64_t)(w->items[w->n_requests].at_s * 1e9);
        w->n_requests++;
    }
    return STATUS_OK;
}

static const struct workload_item *item_of(const struct workload *w, int64_t index, bool warmup)
{
    if (!w->n_items) {
        return NULL;
    }
    int64_t turn = index % w->n_items;
    return &w->items[warmup ? w->n_items - 1 - turn : turn];
}

/* Lengths of a request; the state goes on to draw its prompt. */
static void draw_lengths(const struct workload *w, const struct workload_item *item, uint64_t *rng,
                         int32_t *input, int32_t *output)
{
    const struct bench_options *o = w->options;
    *input = rng_between(rng, o->input.low, o->input.high);
    *output = rng_between(rng, o->output.low, o->output.high);
    if (item && item->input_tokens) {
        *input = item->input_tokens;
    }
    if (item && item->output_tokens) {
        *output = item->output_tokens;
    }
}

static enum status measure_plan(struct workload *w, struct error *err)
{
    w->input_longest = w->n_items ? 0 : w->options->input.high;
    w->output_longest = w->n_items ? 0 : w->options->output.high;
    for (int64_t i = 0; i < w->n_items; i++) {
        const struct workload_item *item = &w->items[i];
        int32_t output = item->output_tokens ? item->output_tokens : w->options->output.high;
        w->output_longest = output > w->output_longest ? output : w->output_longest;
        w->input_longest = item->input_tokens > w->input_longest ? item->input_tokens : w->input_longest;
    }
    for (int64_t i = 0; i < w->n_requests; i++) {
        uint64_t rng = rng_fork(w->options->seed, STREAM_MEASURED, (uint64_t)i);
        int32_t input, output;
        draw_lengths(w, item_of(w, i, false), &rng, &input, &output);
        w->output_tokens_max += output;
    }
    if (w->output_tokens_max > SAMPLES_MAX) {
        return error_set(
            err, STATUS_INVALID,
            "%lld requests with %lld output tokens: every latency is kept, at most %d; use fewer",
            (long long)w->n_requests, (long long)w->output_tokens_max, (int)SAMPLES_MAX);
    }
    return STATUS_OK;
}

enum status workload_open(struct workload *w, const struct bench_options *options, const char *model,
                          int32_t vocab, struct error *err)
{
    enum status status = STATUS_OK;
    *w = (struct workload){.options = options};
    w->model = options->model ? options->model : model;
    w->vocab = options->vocab ? options->vocab : vocab ? vocab : 256;
    if (options->prompts_path || options->replay_path) {
        status = read_items(w, options->replay_path ? options->replay_path : options->prompts_path,
                            options->replay_path != NULL, err);
    }
    if (!status && options->replay_path) {
        status = replay_schedule(w, err);
    } else if (!status && options->rate > 0) {
        status = poisson_schedule(&w->at_ns, &w->n_requests, options->rate, options->n_requests,
                                  options->duration_s, rng_fork(options->seed, STREAM_ARRIVALS, 0), err);
    } else if (!status) {
        w->n_requests = options->n_requests;
    }
    if (!status && w->at_ns && !w->n_requests) {
        status =
            error_set(err, STATUS_INVALID, "--duration: no request falls into %g s", options->duration_s);
    }
    if (!status) {
        status = measure_plan(w, err);
    }
    if (status) {
        workload_close(w);
    }
    return status;
}

void workload_close(struct workload *w)
{
    for (int64_t i = 0; i < w->n_items; i++) {
        free(w->items[i].prompt);
    }
    free(w->items);
    free(w->at_ns);
    *w = (struct workload){0};
}

/* ---- bytes ---- */

static void write_head(const struct bench_options *o, const char *method, const char *path,
                       struct buffer *out)
{
    buffer_printf(out, "%s %s HTTP/1.1\r\nHost: %s%s%s:%s\r\nUser-Agent: any4-bench\r\n", method, path,
                  o->ipv6_literal ? "[" : "", o->host, o->ipv6_literal ? "]" : "", o->port);
    if (o->api_key) {
        buffer_printf(out, "Authorization: Bearer %s\r\n", o->api_key);
    }
}

void workload_write_get(const struct bench_options *o, const char *path, struct buffer *out)
{
    write_head(o, "GET", path, out);
    buffer_text(out, "\r\n");
}

static void write_random_ids(struct buffer *body, uint64_t *rng, int32_t n_ids, int32_t vocab)
{
    char digits[12];
    buffer_text(body, "[");
    for (int32_t i = 0; i < n_ids; i++) {
        int32_t id = rng_between(rng, FIRST_RANDOM_ID, vocab - 1);
        /* By hand: a printf per id would make a long prompt late. */
        char *at = digits + sizeof digits;
        do {
            *--at = (char)('0' + id % 10);
            id /= 10;
        } while (id);
        if (i) {
            *--at = ',';
        }
        buffer_append(body, at, (size_t)(digits + sizeof digits - at));
    }
    buffer_text(body, "]");
}

/* A message of n_words words, each a token or two with most vocabularies: chat takes no token ids. */
static void write_random_words(struct buffer *body, uint64_t *rng, int32_t n_words)
{
    static const char *const words[] = {"the", "and", "one", "day",  "she", "was",  "very", "big",
                                        "dog", "cat", "sun", "said", "to",  "with", "in",   "a"};
    enum { N_WORDS = sizeof words / sizeof *words };
    buffer_text(body, "\"");
    for (int32_t i = 0; i < n_words; i++) {
        buffer_text(body, i ? " " : "");
        buffer_text(body, words[rng_between(rng, 0, N_WORDS - 1)]);
    }
    buffer_text(body, "\"");
}

void workload_write(const struct workload *w, int64_t index, bool warmup, struct buffer *out)
{
    const struct bench_options *o = w->options;
    const struct workload_item *item = item_of(w, index, warmup);
    uint64_t rng = rng_fork(o->seed, warmup ? STREAM_WARMUP : STREAM_MEASURED, (uint64_t)index);
    int32_t input, output;
    struct buffer body = {0};
    draw_lengths(w, item, &rng, &input, &output);
    buffer_text(&body, "{");
    if (w->model) {
        buffer_text(&body, "\"model\":");
        buffer_json_text(&body, w->model);
        buffer_text(&body, ",");
    }
    buffer_text(&body, o->chat ? "\"messages\":[{\"role\":\"user\",\"content\":" : "\"prompt\":");
    if (item && item->prompt) {
        buffer_text(&body, item->prompt);
    } else if (o->chat) {
        write_random_words(&body, &rng, input);
    } else {
        write_random_ids(&body, &rng, input, w->vocab);
    }
    buffer_printf(&body, "%s,\"max_tokens\":%d,\"temperature\":%.9g", o->chat ? "}]" : "", (int)output,
                  o->temperature);
    if (o->temperature > 0) {
        buffer_printf(&body, ",\"seed\":%llu", (unsigned long long)(rng_next(&rng) >> 33));
    }
    if (o->ignore_eos) {
        buffer_text(&body, ",\"ignore_eos\":true");
    }
    buffer_text(&body, o->no_stream ? "}" : ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    write_head(o, "POST", o->chat ? "/v1/chat/completions" : "/v1/completions", out);
    buffer_printf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n", body.length);
    buffer_append(out, body.data, body.length);
    out->failed = out->failed || body.failed;
    buffer_finish(&body);
}
