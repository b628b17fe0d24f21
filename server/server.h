/* What the endpoints share: the model behind them, its names, the keys that open them, counters. Set up
 * before the first request except for the model, which is published once when it is loaded. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "server/completion_request.h"
#include "server/config.h"
#include "server/http.h"
#include "server/metrics.h"
#include "tokenizer/tokenizer.h"

enum { SERVER_MAX_NAMES = 64, SERVER_MAX_KEYS = 1024, SERVER_MAX_ORIGINS = 64 };

struct name_list {
    char *copy; /* owned text that the parts point into */
    const char *parts[SERVER_MAX_NAMES];
    int32_t n;
};

struct server {
    const struct config *config;
    struct metrics metrics;
    struct name_list model_names, origins, hosts;
    char **keys; /* n_keys, owned */
    int32_t n_keys;
    /* The model: valid when `ready` was seen true. */
    struct engine *engine;
    struct tokenizer *tokenizer;
    struct request_rules rules;
    char system_fingerprint[64];
    double load_seconds;
    atomic_bool ready, draining;
    int64_t start_ns;
    _Atomic int64_t first_token_ns; /* after start; 0: none yet */
    int64_t created;                /* seconds since 1970 */
    struct http *http;              /* for counting; NULL in unit tests */
};

/* Reads names, origins and key files. config must outlive the server. */
enum status server_init(struct server *s, const struct config *config, struct error *err);
void server_finish(struct server *s); /* frees lists and keys, not the model */

/* Opens s->http with the limits of the configuration: from here on health is answered, and requests as soon
 * as a model is published. */
enum status server_listen(struct server *s, struct error *err);

/* Makes a loaded model available to requests. Both are borrowed. */
void server_publish(struct server *s, struct engine *engine, struct tokenizer *tokenizer,
                    double load_seconds);

/* Whether key is one of the server's: every byte of every key is compared, whatever the outcome. */
bool server_key_matches(const struct server *s, const char *key);

/* The words of --device into options: "auto", "cpu", "cuda", "cuda:N". */
enum status server_read_device(struct engine_options *out, const char *text, struct error *err);

/* Options of the engine from the configuration. skip owns the strings that options borrows: free(*skip) after
 * opening. */
enum status server_engine_options(struct engine_options *out, const struct config *config, char **skip,
                                  struct error *err);

/* The columns that group_size stands for; 0: auto. */
int32_t server_group_size(const struct config *config);

/* The last part of a path, in out; "model" where it has no name of its own. */
const char *server_path_name(const char *path, char *out, size_t size);

/* Whether there is a folder to open: it is given, it is a folder, and (but for `tokenize`) it has a
 * config.json. */
enum status server_check_folder(const struct config *config, struct error *err);

/* Opens the (checked) model folder's tokenizer and engine, both or none. Of a folder that has no tokenizer
 * *tokenizer is NULL if `generate` is about ids alone; else that is a failure. */
enum status server_open_model(const struct config *config, bool show_progress, struct engine **engine,
                              struct tokenizer **tokenizer, struct error *err);

/* The format that log_format stands for; file NULL: standard error. */
enum log_format server_log_format(const struct config *config, FILE *file);
/* Log settings of a command; *file is what to close at the end, or NULL. */
enum status server_open_log(const struct config *config, FILE **file, struct error *err);

#endif
