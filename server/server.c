/* Shared state of the endpoints, and the way from settings to an open model. */
#include "server/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/base/log.h"
#include "server/api.h"
#include "server/calibration.h"
#include "server/clock.h"
#include "server/version.h"

static enum status read_list(struct name_list *list, const char *text, const char *what, struct error *err)
{
    list->n = split_list(text, &list->copy, list->parts, SERVER_MAX_NAMES);
    if (list->n < 0) {
        list->n = 0;
        return error_set(err, STATUS_INVALID, "%s has more than %d entries", what, (int)SERVER_MAX_NAMES);
    }
    return STATUS_OK;
}

static enum status add_key(struct server *s, const char *key, size_t length, struct error *err)
{
    if (!s->keys && !(s->keys = calloc(SERVER_MAX_KEYS, sizeof *s->keys))) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for keys");
    }
    if (s->n_keys == SERVER_MAX_KEYS) {
        return error_set(err, STATUS_INVALID, "api_key_file has more than %d keys", (int)SERVER_MAX_KEYS);
    }
    if (!(s->keys[s->n_keys] = strndup(key, length))) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for keys");
    }
    s->n_keys++;
    return STATUS_OK;
}

static enum status read_keys(struct server *s, const struct config *config, struct error *err)
{
    enum status status = STATUS_OK;
    if (config->api_key && *config->api_key) {
        status = add_key(s, config->api_key, strlen(config->api_key), err);
    }
    if (status || !config->api_key_file) {
        return status;
    }
    char *text = NULL;
    size_t length = 0;
    if (file_read(&text, &length, config->api_key_file, 1 << 20, err)) {
        return error_set(err, STATUS_INVALID, "api_key_file: %s", err ? err->message : "");
    }
    for (char *rest = text, *line; !status && (line = strsep(&rest, "\n"));) {
        line += strspn(line, " \t");
        size_t n = strcspn(line, "#\r");
        while (n && (line[n - 1] == ' ' || line[n - 1] == '\t')) {
            n--;
        }
        if (n) {
            status = add_key(s, line, n, err);
        }
    }
    explicit_bzero(text, length);
    free(text);
    if (!status && !s->n_keys) {
        /* A file without a key must not open the server to everyone. */
        status = error_set(err, STATUS_INVALID, "api_key_file %s holds no key", config->api_key_file);
    }
    return status;
}

const char *server_path_name(const char *path, char *out, size_t size)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') {
        length--;
    }
    size_t begin = length;
    while (begin && path[begin - 1] != '/') {
        begin--;
    }
    snprintf(out, size, "%.*s", (int)(length - begin), path + begin);
    return *out && strcmp(out, ".") && strcmp(out, "..") ? out : "model";
}

enum status server_init(struct server *s, const struct config *config, struct error *err)
{
    char name[256];
    memset(s, 0, sizeof *s);
    s->config = config;
    s->start_ns = clock_now_ns();
    s->created = (int64_t)time(NULL);
    metrics_init(&s->metrics);
    const char *names = config->served_model_name;
    if (!names || !*names) {
        names = server_path_name(config->model, name, sizeof name);
    }
    enum status status = read_list(&s->model_names, names, "served_model_name", err);
    if (!status) {
        status = read_list(&s->origins, config->cors_origin, "cors_origin", err);
    }
    if (!status) {
        status = read_list(&s->hosts, config->allowed_host, "allowed_host", err);
    }
    if (!status) {
        status = read_keys(s, config, err);
    }
    if (!status && !s->model_names.n) {
        status = error_set(err, STATUS_INVALID, "served_model_name has no name in it");
    }
    s->rules = (struct request_rules){.model_names = s->model_names.parts,
                                      .n_model_names = s->model_names.n,
                                      .max_n = (int32_t)config->max_n,
                                      .max_best_of = (int32_t)config->max_best_of,
                                      .max_logprobs = (int32_t)config->max_logprobs,
                                      .max_stops = (int32_t)config->max_stops,
                                      .max_timeout_ms = (int64_t)(config->request_timeout * 1000),
                                      .strict_fields = config->strict_fields,
                                      .default_max_tokens = (int32_t)config->default_max_tokens,
                                      .max_submitted = (int32_t)config->max_running};
    return status;
}

void server_finish(struct server *s)
{
    free(s->model_names.copy);
    free(s->origins.copy);
    free(s->hosts.copy);
    for (int32_t i = 0; i < s->n_keys; i++) {
        explicit_bzero(s->keys[i], strlen(s->keys[i]));
        free(s->keys[i]);
    }
    free(s->keys);
}

void server_publish(struct server *s, struct engine *engine, struct tokenizer *tokenizer, double load_seconds)
{
    const struct engine_info *info = engine_get_info(engine);
    s->engine = engine;
    s->tokenizer = tokenizer;
    s->load_seconds = load_seconds;
    s->rules.max_model_len = info->max_model_len;
    s->rules.vocab_size = info->config.vocab_size;
    /* Until weights have a hash: what tells one set of answers from another is build, kernels, format and
     * shape. */
    snprintf(s->system_fingerprint, sizeof s->system_fingerprint, "any4-%s-%.8s-%s-%s%s", ANY4_VERSION,
             ANY4_COMMIT, info->kernels, quant_method_name(info->method), info->cuda_exact ? "-exact" : "");
    atomic_store(&s->ready, true);
}

bool server_key_matches(const struct server *s, const char *key)
{
    size_t length = strlen(key);
    unsigned any = 0;
    for (int32_t i = 0; i < s->n_keys; i++) {
        const char *own = s->keys[i];
        size_t own_length = strlen(own);
        unsigned differs = length != own_length;
        for (size_t j = 0; j < own_length; j++) {
            differs |= (unsigned)(unsigned char)own[j] ^ (unsigned)(unsigned char)(j < length ? key[j] : 0);
        }
        any |= (unsigned)(differs == 0);
    }
    return any != 0;
}

int32_t server_group_size(const struct config *config)
{
    static const int32_t sizes[] = {0, 32, 64, 128};
    return sizes[config->group_size];
}

enum status server_read_device(struct engine_options *out, const char *text, struct error *err)
{
    char *end = NULL;
    const char *colon = strchr(text, ':');
    errno = 0;
    const long index = colon ? strtol(colon + 1, &end, 10) : 0;
    if (!strcmp(text, "auto") || !strcmp(text, "cpu")) {
        out->device = *text == 'a' ? DEVICE_AUTO : DEVICE_CPU;
        return STATUS_OK;
    }
    if (strncmp(text, "cuda", 4) || (text[4] && text[4] != ':') ||
        (colon && (*end || colon[1] < '0' || colon[1] > '9' || index > INT32_MAX || errno))) {
        return error_set(err, STATUS_INVALID, "device: \"%s\", expected auto, cpu, cuda or cuda:N", text);
    }
    out->device = DEVICE_CUDA;
    out->device_index = (int32_t)index;
    return STATUS_OK;
}

enum status server_engine_options(struct engine_options *out, const struct config *config, char **skip,
                                  struct error *err)
{
    static const enum kv_cache_choice kv_types[] = {KV_CHOICE_AUTO, KV_CHOICE_F32, KV_CHOICE_F16,
                                                    KV_CHOICE_BF16};
    *skip = NULL;
    engine_options_init(out);
    out->model_dir = config->model;
    enum status status = quant_method_parse(&out->quant.method, config->quant, err);
    if (status || (status = server_read_device(out, config->device ? config->device : "auto", err)) ||
        (status = cpu_flags_parse(&out->cpu_flags, config->cpu_flags ? config->cpu_flags : "all", err))) {
        return status;
    }
    out->batch_invariant = config->batch_invariant;
    out->cuda_precision = (enum cuda_precision)config->cuda_precision;
    out->quant.weighting = (enum quant_weighting)config->quant_weighting;
    if (out->quant.method == QUANT_NONE && (config->calib || out->quant.weighting)) {
        return error_set(err, STATUS_INVALID, "%s is set, but quant none has nothing to calibrate",
                         config->calib ? "calib" : "quant_weighting");
    }
    if (config->calib && !config->compare && !config->error_feedback &&
        quant_weighting_of(&out->quant) == QUANT_WEIGHTING_NONE) {
        return error_set(err, STATUS_INVALID,
                         "calib is set, but quant %s with quant_weighting %s does not calibrate",
                         config->quant, quant_weighting_name(out->quant.weighting));
    }
    out->error_feedback = config->error_feedback;
    out->rotation = config->rotation;
    out->channel_scaling = config->channel_scaling;
    out->bits_per_weight = config->bits_per_weight;
    if (config->error_feedback && !config->calib) {
        return error_set(
            err, STATUS_INVALID,
            "error_feedback needs calib, a text of some thousand tokens: any4 quantize %s --calib "
            "FILE --error-feedback; then serve with the same flags",
            config->model ? config->model : "MODEL_DIR");
    }
    out->quant.group_size = server_group_size(config);
    out->quant.seed = (uint64_t)config->quant_seed;
    out->quant_max_error = config->quant_max_error;
    out->quant_cache = config->cache_folder;
    out->quant_cache_max_bytes = (size_t)config->quant_cache_max_bytes;
    out->verify_cache = config->verify_cache;
    if (!config->cache_folder && strcmp(config->quant_cache, "off") && out->quant.method != QUANT_NONE) {
        log_warning("quant cache: going on without: HOME is not set");
    }
    /* Where it has no flag nobody looks at a report: commands that print results keep their terminal clean.
     */
    if (config->command & (CONFIG_FOR_SERVE | CONFIG_FOR_VERIFY)) {
        out->quant_report = (enum quant_report_level)config->quant_report;
    }
    out->kv_type = kv_types[config->kv_cache_type];
    out->n_threads = (int32_t)config->threads;
    out->max_model_len = (int32_t)config->max_model_len;
    out->max_running = (int32_t)config->max_running;
    out->max_queue = (int32_t)config->max_queue;
    out->prefill_chunk = (int32_t)config->prefill_chunk;
    out->kv_cache_tokens = config->kv_cache_tokens;
    out->max_memory = (size_t)config->max_memory;
    out->n_quant_skip = split_list(config->quant_skip, skip, out->quant_skip, ENGINE_MAX_SKIP);
    if (out->n_quant_skip < 0) {
        out->n_quant_skip = 0;
        return error_set(err, STATUS_INVALID, "quant_skip has more than %d patterns", (int)ENGINE_MAX_SKIP);
    }
    return STATUS_OK;
}

enum status server_check_folder(const struct config *config, struct error *err)
{
    char path[4096];
    struct stat info;
    if (!config->model || !*config->model) {
        return error_set(err, STATUS_INVALID, "the model folder is missing: give it as the first argument");
    }
    if (stat(config->model, &info)) {
        return error_set(err, STATUS_BAD_MODEL, "%s: %s", config->model,
                         errno == ENOENT ? "no such folder" : strerror(errno));
    }
    if (!S_ISDIR(info.st_mode)) {
        return error_set(err, STATUS_BAD_MODEL, "%s is not a folder", config->model);
    }
    /* Text needs nothing but the tokenizer. */
    int n = snprintf(path, sizeof path, "%s/config.json", config->model);
    if (config->command != CONFIG_FOR_TOKENIZE && n < (int)sizeof path && access(path, F_OK)) {
        return error_set(err, STATUS_BAD_MODEL, "%s: %s", path,
                         errno == ENOENT ? "no such file: is this a model's folder?" : strerror(errno));
    }
    return STATUS_OK;
}

/* A folder without any tokenizer serves `generate` all the same as long as nothing but ids is asked for, and
 * can be quantized without calibration. */
static enum status open_tokenizer(struct tokenizer **out, const struct config *config, struct error *err)
{
    bool ids_only = config->command == CONFIG_FOR_QUANTIZE ||
                    (config->prompt_ids && !config->prompt && !config->echo && !config->stop);
    enum status status = tokenizer_open(out, config->model, err);
    if (status == STATUS_NOT_FOUND && ids_only) {
        return STATUS_OK;
    }
    if (status == STATUS_NOT_FOUND && config->command == CONFIG_FOR_GENERATE) {
        error_prefix(err, "--prompt, --stop and --echo need a tokenizer");
    }
    return status;
}

enum status server_open_model(const struct config *config, bool show_progress, struct engine **engine,
                              struct tokenizer **tokenizer, struct error *err)
{
    struct engine_options options;
    char *skip = NULL;
    int32_t *calib_ids = NULL;
    *engine = NULL;
    *tokenizer = NULL;
    enum status status = server_engine_options(&options, config, &skip, err);
    options.show_progress = show_progress;
    /* The tokenizer first: it is quick, and a folder without one should not be quantized for nothing. */
    if (!status && !(status = open_tokenizer(tokenizer, config, err)) &&
        !(status = calibration_encode(&options, &calib_ids, config, *tokenizer, err)) &&
        !(status = engine_open(engine, &options, err))) {
        int32_t vocab_size = engine_get_info(*engine)->config.vocab_size;
        if (*tokenizer && tokenizer_n_tokens(*tokenizer) > vocab_size) {
            status =
                error_set(err, STATUS_BAD_MODEL, "%s: the tokenizer has %d tokens, the model's vocabulary %d",
                          config->model, (int)tokenizer_n_tokens(*tokenizer), (int)vocab_size);
        }
    }
    /* A server answers while its cache is written. What runs once would be over before. */
    if (!status && config->command != CONFIG_FOR_SERVE) {
        engine_wait_cache(*engine, NULL);
    }
    if (status == STATUS_NOT_FOUND) {
        status = STATUS_BAD_MODEL; /* a missing file of a model is a fault of the model folder */
    }
    if (status) {
        engine_close(*engine);
        tokenizer_close(*tokenizer);
        *engine = NULL;
        *tokenizer = NULL;
    }
    free(calib_ids);
    free(skip);
    return status;
}

enum status server_listen(struct server *s, struct error *err)
{
    const struct config *config = s->config;
    struct http_options options = {.host = config->host,
                                   .port = (int32_t)config->port,
                                   .n_threads = (int32_t)config->http_threads,
                                   .max_connections = (int32_t)config->max_connections,
                                   .max_connections_per_ip = (int32_t)config->max_connections_per_ip,
                                   .max_body_bytes = (size_t)config->max_body_bytes,
                                   .max_header_bytes =
                                       (size_t)(config->max_header_bytes + config->max_url_bytes),
                                   .header_timeout = config->header_timeout,
                                   .body_timeout = config->body_timeout,
                                   .keepalive_timeout = config->keepalive_timeout,
                                   .write_stall_timeout = config->write_stall_timeout,
                                   .callbacks = api_callbacks(),
                                   .context = s};
    return http_open(&s->http, &options, err);
}

enum log_format server_log_format(const struct config *config, FILE *file)
{
    enum { AUTO, TEXT, JSON };
    bool collected = config->command == CONFIG_FOR_SERVE && !isatty(fileno(file ? file : stderr));
    return config->log_format == JSON || (config->log_format == AUTO && collected) ? LOG_FORMAT_JSON
                                                                                   : LOG_FORMAT_TEXT;
}

enum status server_open_log(const struct config *config, FILE **file, struct error *err)
{
    *file = NULL;
    if (config->log_file && strcmp(config->log_file, "stderr") && !(*file = fopen(config->log_file, "ae"))) {
        return error_set(err, STATUS_INVALID, "log_file %s cannot be opened for appending", config->log_file);
    }
    log_configure(server_log_format(config, *file), (enum log_level)config->log_level,
                  *file ? *file : stderr);
    return STATUS_OK;
}
