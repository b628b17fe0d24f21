/* One table of flags: what --help prints and what the parser accepts are the same thing. */
#include "server/bench/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum flag_id {
    FLAG_URL,
    FLAG_API_KEY,
    FLAG_MODEL,
    FLAG_ENDPOINT,
    FLAG_RATE,
    FLAG_CONCURRENCY,
    FLAG_REQUESTS,
    FLAG_DURATION,
    FLAG_INPUT_TOKENS,
    FLAG_OUTPUT_TOKENS,
    FLAG_PROMPTS,
    FLAG_REPLAY,
    FLAG_WARMUP,
    FLAG_SEED,
    FLAG_TEMPERATURE,
    FLAG_IGNORE_EOS,
    FLAG_NO_STREAM,
    FLAG_VOCAB,
    FLAG_SLO,
    FLAG_TIMEOUT,
    FLAG_MAX_IN_FLIGHT,
    FLAG_JSON,
    FLAG_HELP,
    N_FLAGS,
};

enum { TOKENS_MAX = 1 << 20, IN_FLIGHT_MAX = 65536 };

static const struct {
    const char *name, *value, *help; /* value is NULL for a switch */
} FLAGS[N_FLAGS] = {
    [FLAG_URL] = {"url", "http://HOST:PORT", "server to load (http://127.0.0.1:8080)"},
    [FLAG_API_KEY] = {"api-key", "KEY", "sent as Authorization: Bearer (environment: ANY4_API_KEY)"},
    [FLAG_MODEL] = {"model", "NAME", "model field of the requests (what /v1/models lists first)"},
    [FLAG_ENDPOINT] = {"endpoint", "NAME", "completions or chat (completions)"},
    [FLAG_RATE] = {"rate", "R", "open loop: Poisson arrivals, R requests per second on average"},
    [FLAG_CONCURRENCY] = {"concurrency", "C", "closed loop: C requests in flight (1)"},
    [FLAG_REQUESTS] = {"requests", "N", "stop after N requests (100 without --duration and --replay)"},
    [FLAG_DURATION] = {"duration", "S", "start requests for S seconds, then let them finish"},
    [FLAG_INPUT_TOKENS] = {"input-tokens", "MEAN[,SPREAD]",
                           "prompt length, uniform in mean +- spread (128); of chat: in words"},
    [FLAG_OUTPUT_TOKENS] = {"output-tokens", "MEAN[,SPREAD]", "max_tokens, uniform in mean +- spread (64)"},
    [FLAG_PROMPTS] = {"prompts", "FILE",
                      "a prompt a line: text, \"JSON string\" or {\"prompt\", \"output_tokens\"}"},
    [FLAG_REPLAY] = {"replay", "FILE",
                     "JSON lines {\"at\" (s), \"prompt\" or \"input_tokens\", \"output_tokens\"}: open loop"},
    [FLAG_WARMUP] = {"warmup", "N", "requests sent and finished before the measurement (0)"},
    [FLAG_SEED] = {"seed", "S", "of lengths, prompts and arrivals (0)"},
    [FLAG_TEMPERATURE] = {"temperature", "T", "of the requests (0)"},
    [FLAG_IGNORE_EOS] = {"ignore-eos", NULL, "ask for output of exactly the drawn length"},
    [FLAG_NO_STREAM] = {"no-stream", NULL, "ask for whole answers: only E2E and rates are measured"},
    [FLAG_VOCAB] = {"vocab", "N", "random prompts draw token ids 3..N-1 (the server's vocab_size, else 256)"},
    [FLAG_SLO] = {"slo", "TERMS", "\"ttft_p99=500,itl_p99=50\" in ms; missed: exit 10"},
    [FLAG_TIMEOUT] = {"timeout", "S", "per request, from its planned moment; 0: none (600)"},
    [FLAG_MAX_IN_FLIGHT] = {"max-in-flight", "N", "connections an open loop may open (4096)"},
    [FLAG_JSON] = {"json", NULL, "one JSON object instead of a table"},
    [FLAG_HELP] = {"help", NULL, "this text"},
};

void bench_options_help(FILE *file)
{
    fputs("usage: any4 bench serve [flags]\n"
          "Loads a server and reports latencies and rates.\n\n",
          file);
    for (int32_t i = 0; i < N_FLAGS; i++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", FLAGS[i].name, FLAGS[i].value ? " " : "",
                 FLAGS[i].value ? FLAGS[i].value : "");
        fprintf(file, "  %-30s %s\n", left, FLAGS[i].help);
    }
    fputs("\nTimes count from the planned send moment: a client or server that falls behind the schedule "
          "makes\n"
          "them longer. In the closed loop a request is planned for the moment at which the one before it "
          "ended,\n"
          "so a slow server also slows the load: use --rate to measure latency, --concurrency throughput.\n"
          "  TTFT  planned moment to the first text (to the first chunk where no text ever comes)\n"
          "  ITL   gaps between successive chunks with text\n"
          "  TPOT  (last text - first text) / (completion tokens - 1)\n"
          "  E2E   planned moment to the end of the stream\n"
          "Percentiles are nearest rank over all samples. Failed requests have no samples; for --slo they "
          "count\n"
          "as infinitely slow. Goodput: share of all requests that succeed and keep every --slo limit.\n"
          "Exit codes: 0 done, 1 nothing succeeded or interrupted, 2 usage, 10 --slo missed.\n",
          file);
}

/* ---- values ---- */

static bool parse_double(const char *text, double low, double high, double *value)
{
    char *end;
    if (*text == '\0' || strspn(text, "0123456789.+-eE") != strlen(text)) {
        return false; /* neither spaces, nan nor hexadecimal */
    }
    *value = strtod(text, &end);
    return *end == '\0' && *value >= low && *value <= high;
}

static bool parse_int(const char *text, int64_t low, int64_t high, int64_t *value)
{
    char *end;
    if (*text == '\0' || strspn(text, "0123456789-") != strlen(text)) {
        return false;
    }
    errno = 0;
    *value = strtoll(text, &end, 10);
    return errno == 0 && *end == '\0' && *value >= low && *value <= high;
}

static bool parse_int32(const char *text, int32_t low, int32_t high, int32_t *value)
{
    int64_t wide;
    if (!parse_int(text, low, high, &wide)) {
        return false;
    }
    *value = (int32_t)wide;
    return true;
}

static bool parse_range(const char *text, struct length_range *range)
{
    char mean_text[16];
    size_t length = strcspn(text, ",");
    int32_t mean, spread = 0;
    if (length >= sizeof mean_text) {
        return false;
    }
    memcpy(mean_text, text, length);
    mean_text[length] = '\0';
    if (!parse_int32(mean_text, 1, TOKENS_MAX, &mean) ||
        (text[length] == ',' && !parse_int32(text + length + 1, 0, mean - 1, &spread))) {
        return false;
    }
    *range = (struct length_range){mean - spread, mean + spread};
    return true;
}

/* http://host, http://host:port, http://[v6]:port, with at most a "/" behind. */
static bool parse_url(struct bench_options *o, const char *text)
{
    if (strncmp(text, "http://", 7) != 0) {
        return false;
    }
    const char *host = text + 7;
    const char *rest;
    size_t length;
    o->ipv6_literal = *host == '[';
    if (o->ipv6_literal) {
        host++;
        length = strspn(host, "0123456789abcdefABCDEF:.");
        if (host[length] != ']') {
            return false;
        }
        rest = host + length + 1;
    } else {
        length = strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_");
        rest = host + length;
    }
    if (length == 0 || length >= sizeof o->host) {
        return false;
    }
    memcpy(o->host, host, length);
    o->host[length] = '\0';
    int32_t port = 80;
    if (*rest == ':') {
        size_t digits = strspn(rest + 1, "0123456789");
        char port_text[6];
        if (digits == 0 || digits >= sizeof port_text) {
            return false;
        }
        memcpy(port_text, rest + 1, digits);
        port_text[digits] = '\0';
        if (!parse_int32(port_text, 1, 65535, &port)) {
            return false;
        }
        rest += 1 + digits;
    }
    snprintf(o->port, sizeof o->port, "%d", (int)port);
    return *rest == '\0' || strcmp(rest, "/") == 0;
}

/* What may stand in a header line. */
static bool parse_key(const char *text, const char **key)
{
    for (const char *c = text; *c; c++) {
        if (*c < 0x21 || *c > 0x7e) {
            return false;
        }
    }
    *key = text;
    return *text && strlen(text) <= 4096;
}

static const char *apply(struct bench_options *o, enum flag_id id, const char *value, struct error *slo_error)
{
    switch (id) {
    case FLAG_URL:
        return parse_url(o, value) ? NULL : "http://HOST[:PORT] without a path";
    case FLAG_API_KEY:
        return parse_key(value, &o->api_key) ? NULL : "printable ASCII without spaces";
    case FLAG_MODEL:
        o->model = value;
        return NULL;
    case FLAG_ENDPOINT:
        o->chat = strcmp(value, "chat") == 0;
        return o->chat || strcmp(value, "completions") == 0 ? NULL : "completions or chat";
    case FLAG_RATE:
        return parse_double(value, 1e-6, 1e6, &o->rate) ? NULL : "requests per second, 0.000001..1000000";
    case FLAG_CONCURRENCY:
        return parse_int32(value, 1, IN_FLIGHT_MAX, &o->concurrency) ? NULL : "1..65536";
    case FLAG_REQUESTS:
        return parse_int(value, 1, BENCH_REQUESTS_MAX, &o->n_requests) ? NULL : "1..4194304";
    case FLAG_DURATION:
        return parse_double(value, 1e-3, 1e7, &o->duration_s) ? NULL : "seconds, 0.001..10000000";
    case FLAG_INPUT_TOKENS:
        return parse_range(value, &o->input) ? NULL : "MEAN[,SPREAD], mean 1..1048576, spread below the mean";
    case FLAG_OUTPUT_TOKENS:
        return parse_range(value, &o->output) ? NULL
                                              : "MEAN[,SPREAD], mean 1..1048576, spread below the mean";
    case FLAG_PROMPTS:
        o->prompts_path = value;
        return NULL;
    case FLAG_REPLAY:
        o->replay_path = value;
        return NULL;
    case FLAG_WARMUP:
        return parse_int32(value, 0, 1000000, &o->n_warmup) ? NULL : "0..1000000";
    case FLAG_SEED: {
        int64_t seed = 0;
        bool ok = parse_int(value, 0, INT64_MAX, &seed);
        o->seed = (uint64_t)seed;
        return ok ? NULL : "an integer from 0";
    }
    case FLAG_TEMPERATURE:
        return parse_double(value, 0, 2, &o->temperature) ? NULL : "0..2";
    case FLAG_NO_STREAM:
        o->no_stream = true;
        return NULL;
    case FLAG_IGNORE_EOS:
        o->ignore_eos = true;
        return NULL;
    case FLAG_VOCAB:
        return parse_int32(value, 4, INT32_MAX, &o->vocab) ? NULL : "at least 4";
    case FLAG_SLO:
        return slo_parse(&o->slo, value, slo_error) ? slo_error->message : NULL;
    case FLAG_TIMEOUT:
        return parse_double(value, 0, 1e7, &o->timeout_s) ? NULL : "seconds, 0..10000000";
    case FLAG_MAX_IN_FLIGHT:
        return parse_int32(value, 1, IN_FLIGHT_MAX, &o->max_in_flight) ? NULL : "1..65536";
    case FLAG_JSON:
        o->json = true;
        return NULL;
    case FLAG_HELP:
        o->help = true;
        return NULL;
    case N_FLAGS:
        break;
    }
    return NULL;
}

static enum status check_together(struct bench_options *o, const bool *given, struct error *err)
{
    if (o->rate > 0 && o->concurrency) {
        return error_set(err, STATUS_INVALID, "--rate and --concurrency exclude each other");
    }
    if (given[FLAG_REPLAY]) {
        static const enum flag_id WITHOUT[] = {FLAG_RATE, FLAG_CONCURRENCY, FLAG_PROMPTS};
        for (size_t i = 0; i < sizeof WITHOUT / sizeof *WITHOUT; i++) {
            if (given[WITHOUT[i]]) {
                return error_set(err, STATUS_INVALID, "--%s does not go with --replay, which has its own",
                                 FLAGS[WITHOUT[i]].name);
            }
        }
    }
    if (given[FLAG_PROMPTS] && given[FLAG_INPUT_TOKENS]) {
        return error_set(err, STATUS_INVALID, "--input-tokens does not go with --prompts, which has its own");
    }
    if (given[FLAG_MAX_IN_FLIGHT] && !(o->rate > 0) && !given[FLAG_REPLAY]) {
        return error_set(err, STATUS_INVALID, "--max-in-flight is for an open loop: use --concurrency");
    }
    for (int32_t i = 0; i < o->slo.n_terms && o->no_stream; i++) {
        if (o->slo.terms[i].metric != SLO_E2E) {
            return error_set(err, STATUS_INVALID,
                             "--no-stream measures e2e alone, so --slo can ask for no other");
        }
    }
    if (!(o->rate > 0) && !o->concurrency && !given[FLAG_REPLAY]) {
        o->concurrency = 1;
    }
    if (!o->n_requests && !(o->duration_s > 0) && !given[FLAG_REPLAY]) {
        o->n_requests = 100;
    }
    return STATUS_OK;
}

enum status bench_options_parse(struct bench_options *o, int argc, char **argv, struct error *err)
{
    bool given[N_FLAGS] = {false};
    *o = (struct bench_options){
        .input = {128, 128}, .output = {64, 64}, .timeout_s = 600, .max_in_flight = 4096};
    parse_url(o, "http://127.0.0.1:8080");
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        if (strncmp(argument, "--", 2) != 0) {
            return error_set(err, STATUS_INVALID, "%s: unexpected argument", argument);
        }
        size_t length = strcspn(argument + 2, "=");
        int32_t id = 0;
        while (id < N_FLAGS &&
               (strlen(FLAGS[id].name) != length || memcmp(FLAGS[id].name, argument + 2, length) != 0)) {
            id++;
        }
        if (id == N_FLAGS) {
            return error_set(err, STATUS_INVALID, "%.*s: unknown flag", (int)(length > 60 ? 60 : length) + 2,
                             argument);
        }
        const char *value = argument[2 + length] == '=' ? argument + 3 + length : NULL;
        if (!FLAGS[id].value && value) {
            return error_set(err, STATUS_INVALID, "--%s takes no value", FLAGS[id].name);
        }
        if (FLAGS[id].value && !value) {
            if (i + 1 == argc) {
                return error_set(err, STATUS_INVALID, "--%s: a value is missing: %s", FLAGS[id].name,
                                 FLAGS[id].value);
            }
            value = argv[++i];
        }
        struct error slo_error = {0};
        const char *expected = apply(o, (enum flag_id)id, value, &slo_error);
        if (expected) {
            if (id == FLAG_API_KEY) {
                value = "***"; /* a secret, even a malformed one */
            }
            return error_set(err, STATUS_INVALID, "--%s: \"%.100s\"; expected %s", FLAGS[id].name, value,
                             expected);
        }
        given[id] = true;
    }
    if (o->help) {
        return STATUS_OK;
    }
    const char *key = getenv("ANY4_API_KEY");
    if (!o->api_key && key && *key && !parse_key(key, &o->api_key)) {
        return error_set(err, STATUS_INVALID, "ANY4_API_KEY: expected printable ASCII without spaces");
    }
    return check_together(o, given, err);
}
