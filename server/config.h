/* All settings: defaults < config file < ANY4_ environment < flags, each key in one table (config_keys.c)
 * with its type, default, range and help. Checked once, before anything is opened. */
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/base/log.h"
#include "engine/base/status.h"
#include "server/buffer.h"

enum {
    CONFIG_FOR_SERVE = 1 << 0,
    CONFIG_FOR_GENERATE = 1 << 1,
    CONFIG_FOR_EVAL = 1 << 2,
    CONFIG_FOR_TOKENIZE = 1 << 3,
    CONFIG_FOR_PLAN = 1 << 4,
    CONFIG_FOR_VERIFY = 1 << 5,
    CONFIG_FOR_HEALTHCHECK = 1 << 6,
    CONFIG_FOR_VERSION = 1 << 7,
    CONFIG_FOR_BENCH_DECODE = 1 << 8,
    CONFIG_FOR_BENCH_QUANTIZE = 1 << 9,
    CONFIG_FOR_QUANTIZE = 1 << 10,
    CONFIG_FOR_BENCH_KERNELS = 1 << 11,
    CONFIG_FOR_ENGINE = CONFIG_FOR_SERVE | CONFIG_FOR_GENERATE | CONFIG_FOR_EVAL | CONFIG_FOR_VERIFY |
                        CONFIG_FOR_BENCH_DECODE | CONFIG_FOR_QUANTIZE,
    CONFIG_FOR_MODEL = CONFIG_FOR_ENGINE | CONFIG_FOR_TOKENIZE | CONFIG_FOR_PLAN,
    CONFIG_FOR_ALL = (1 << 12) - 1,
};

enum config_type {
    CONFIG_STRING,
    CONFIG_FIELD,   /* a field of a request: kept as text, judged with the request */
    CONFIG_FIELDS,  /* the same, may be given several times: values joined by CONFIG_SEPARATOR */
    CONFIG_INT,     /* int64_t in [min, max]; "auto" is CONFIG_AUTO where that is the default */
    CONFIG_BYTES,   /* int64_t; K, M, G suffixes of 1024; "auto" is 0 where min is 0 */
    CONFIG_SECONDS, /* double in [min, max] */
    CONFIG_REAL,    /* the same without a unit */
    CONFIG_BOOL,    /* on/off, true/false, 1/0; a flag alone is on, --no-name is off */
    CONFIG_CHOICE,  /* one of choices, "a|b|c": int32_t, its place there */
    CONFIG_LATER,   /* an API key that does not work yet: only its default is accepted */
};

/* Between the values of a key that was given several times: a control character that no stop string needs. */
#define CONFIG_SEPARATOR "\x1f"

/* A CONFIG_INT that was left to the program. */
enum { CONFIG_AUTO = -1 };

enum config_origin { ORIGIN_DEFAULT, ORIGIN_FILE, ORIGIN_ENVIRONMENT, ORIGIN_FLAG };

struct config_key {
    const char *name; /* as in the config file; a flag has dashes */
    enum config_type type;
    unsigned commands;        /* CONFIG_FOR_... where its flag exists */
    const char *default_text; /* NULL: none */
    double min, max;
    const char *choices;
    size_t offset; /* in struct config */
    bool secret;
    const char *help;
};
extern const struct config_key config_keys[];
extern const int32_t config_n_keys;

enum { CONFIG_MAX_KEYS = 160 };

struct config {
    /* Set by the table. Strings are owned by values[]. */
    const char *model, *served_model_name, *config_file;
    const char *host, *port_file;
    int64_t port, http_threads;
    const char *api_key, *api_key_file;
    bool metrics, metrics_auth;
    const char *cors_origin, *allowed_host;
    const char *device;
    bool batch_invariant;
    int32_t cuda_precision; /* enum cuda_precision */
    const char *quant, *quant_skip, *cpu_flags, *calib, *quant_cache;
    bool verify_cache;
    int32_t group_size, kv_cache_type, quant_report, quant_weighting;
    int64_t quant_seed, calib_tokens, calib_max_bytes, quant_cache_max_bytes;
    double quant_max_error;
    bool error_feedback, rotation, channel_scaling;
    double bits_per_weight;
    int64_t threads, max_model_len, max_running, max_queue, prefill_chunk, kv_cache_tokens, max_memory;
    bool strict_fields, access_log;
    int32_t log_format, log_level;
    const char *log_file;
    int64_t max_body_bytes, max_header_bytes, max_url_bytes, max_json_depth, max_json_nodes;
    int64_t max_connections, max_connections_per_ip;
    double header_timeout, body_timeout, keepalive_timeout, write_stall_timeout, request_timeout,
        stall_timeout, drain_timeout, sse_ping_interval;
    int64_t stream_interval_ms; /* or CONFIG_AUTO */
    int64_t max_n, max_best_of, max_logprobs, max_stops, default_max_tokens;
    bool json, print_config, help;
    /* Of single commands. */
    const char *url, *text_file, *text, *compare, *plot;
    int64_t max_bytes, chunk;
    const char *batch;
    int64_t input_tokens, output_tokens, repeat, rows, cols;
    bool no_bos, from_stdin, stream;
    /* Request fields of generate, as given; NULL: absent. */
    const char *prompt, *prompt_ids, *max_tokens, *min_tokens, *temperature, *top_k, *top_p, *min_p,
        *repetition_penalty, *presence_penalty, *frequency_penalty, *seed, *stop, *stop_token_ids, *logprobs,
        *n;
    bool ignore_eos, echo;

    char *cache_folder;            /* what quant_cache means here; NULL: none */
    char *values[CONFIG_MAX_KEYS]; /* the text that won, NULL: none */
    enum config_origin origins[CONFIG_MAX_KEYS];
    unsigned command;
};

/* Reads everything for one command from argv[0..argc) (what follows the command's name). A fault is
 * STATUS_INVALID with the key named, and the nearest known key where it is unknown. config needs
 * config_finish whatever the outcome. */
enum status config_load(struct config *config, unsigned command, int argc, char **argv, struct error *err);
void config_finish(struct config *config);

/* Where a key's value comes from. */
enum config_origin config_origin(const struct config *config, const char *name);

/* The pieces, for tests. Later calls win over earlier ones. */
enum status config_set(struct config *config, const char *name, const char *value, enum config_origin origin,
                       struct error *err);
enum status config_apply(struct config *config, struct error *err); /* values[] -> typed fields */
enum status config_read_json(struct config *config, const char *text, size_t length, struct error *err);

void config_print(FILE *file, const struct config *config); /* values and origins, secrets masked */
void config_print_json(FILE *file, const struct config *config);
/* What differs from the default, and the limits. */
void config_log(const struct config *config, enum log_level level);
void config_print_help(FILE *file, unsigned command, const char *usage, const char *about);

/* The known name nearest to `name` by edit distance, or NULL when none is near. */
const char *nearest_name(const char *name, const char *const *names, int32_t n_names);

/* A comma list cut into its parts, blanks trimmed, empty ones dropped: pointers into *copy (free it). Returns
 * the number (at most max, further parts are an error: -1), or -1 when out of memory. */
int32_t split_list(const char *list, char **copy, const char **parts, int32_t max);

#endif
