/* `any4 generate`: writes its flags as the JSON body of a completion request and runs that request in this
 * process, so that names, defaults, ranges and results are those of POST /v1/completions. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/clock.h"
#include "server/command.h"
#include "server/completion_write.h"
#include "server/server.h"

struct field_flag {
    const char *name, *value;
};

static void write_key(struct buffer *out, const char *name)
{
    buffer_printf(out, "%s\"%s\":", out->length > 1 ? "," : "", name);
}

/* The flag of a request's field: --max-tokens for max_tokens. */
static void flag_spelling(char *out, size_t size, const struct config *c, const char *name)
{
    snprintf(out, size, "--%s", !strcmp(name, "prompt") && c->prompt_ids ? "prompt_ids" : name);
    for (char *at = out; *at; at++) {
        *at = *at == '_' ? '-' : *at;
    }
}

/* The JSON of the request would show other bytes as U+FFFD: what HTTP refuses is refused here. */
static enum status check_text(const char *flag, const char *text, struct error *err)
{
    size_t length = text ? strlen(text) : 0, valid = utf8_valid_bytes(text, length);
    return valid == length ? STATUS_OK
                           : error_set(err, STATUS_INVALID, "%s is not valid UTF-8 (byte %zu)", flag, valid);
}

static enum status write_number(struct buffer *out, const struct config *c, const struct field_flag *flag,
                                struct error *err)
{
    char *end, spelling[64];
    errno = 0;
    long long integer = strtoll(flag->value, &end, 10);
    bool whole = end != flag->value && !*end && !errno;
    double real = whole ? 0 : strtod(flag->value, &end);
    if (end == flag->value || *end || !isfinite(real)) {
        flag_spelling(spelling, sizeof spelling, c, flag->name);
        return error_set(err, STATUS_INVALID, "%s is \"%.80s\", must be a number", spelling, flag->value);
    }
    write_key(out, flag->name);
    if (whole) {
        buffer_printf(out, "%lld", integer);
    } else {
        buffer_printf(out, "%.17g", real);
    }
    return STATUS_OK;
}

static enum status write_ids(struct buffer *out, const char *key, const char *flag, const char *list,
                             struct error *err)
{
    write_key(out, key);
    buffer_text(out, "[");
    for (const char *at = list; *at;) {
        char *end;
        long id = strtol(at, &end, 10);
        if (end == at || (*end && *end != ',')) {
            return error_set(err, STATUS_INVALID, "%s is \"%.80s\", must be ids with commas: 1,2,3", flag,
                             list);
        }
        buffer_printf(out, at == list ? "%ld" : ",%ld", id);
        at = *end ? end + 1 : end;
    }
    buffer_text(out, "]");
    return STATUS_OK;
}

static enum status write_request(struct buffer *out, const struct config *c, struct error *err)
{
    const struct field_flag numbers[] = {{"max_tokens", c->max_tokens},
                                         {"min_tokens", c->min_tokens},
                                         {"temperature", c->temperature},
                                         {"top_k", c->top_k},
                                         {"top_p", c->top_p},
                                         {"min_p", c->min_p},
                                         {"repetition_penalty", c->repetition_penalty},
                                         {"presence_penalty", c->presence_penalty},
                                         {"frequency_penalty", c->frequency_penalty},
                                         {"seed", c->seed},
                                         {"logprobs", c->logprobs},
                                         {"n", c->n}};
    enum status status = STATUS_OK;
    buffer_text(out, "{");
    if (c->prompt && c->prompt_ids) {
        return error_set(err, STATUS_INVALID, "give either --prompt or --prompt-ids");
    }
    if ((status = check_text("--prompt", c->prompt, err)) || (status = check_text("--stop", c->stop, err))) {
        return status;
    }
    if (c->prompt) {
        write_key(out, "prompt");
        buffer_json_text(out, c->prompt);
    } else if (c->prompt_ids && (status = write_ids(out, "prompt", "--prompt-ids", c->prompt_ids, err))) {
        return status;
    }
    if (c->stop_token_ids &&
        (status = write_ids(out, "stop_token_ids", "--stop-token-ids", c->stop_token_ids, err))) {
        return status;
    }
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (numbers[i].value && (status = write_number(out, c, &numbers[i], err))) {
            return status;
        }
    }
    if (c->stop) {
        write_key(out, "stop");
        const char *at = c->stop;
        for (bool first = true;; first = false) {
            size_t n = strcspn(at, CONFIG_SEPARATOR);
            buffer_text(out, first ? "[" : ",");
            buffer_json_string(out, at, n);
            if (!at[n]) {
                break;
            }
            at += n + 1;
        }
        buffer_text(out, "]");
    }
    buffer_printf(out, ",\"ignore_eos\":%s,\"echo\":%s}", c->ignore_eos ? "true" : "false",
                  c->echo ? "true" : "false");
    return STATUS_OK;
}

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool signaled;
};

static void waiter_notify(void *context, bool urgent)
{
    struct waiter *w = context;
    (void)urgent;
    pthread_mutex_lock(&w->lock);
    w->signaled = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static void waiter_wait(struct waiter *w)
{
    pthread_mutex_lock(&w->lock);
    while (!w->signaled) {
        pthread_cond_wait(&w->changed, &w->lock);
    }
    w->signaled = false;
    pthread_mutex_unlock(&w->lock);
}

/* Where there is no tokenizer, ids stand for the text. */
static void print_new_ids(struct choice *choice)
{
    const struct text_stream *s = &choice->stream;
    for (; choice->ids_sent < s->n_tokens - s->n_prompt_tokens; choice->ids_sent++) {
        printf(choice->ids_sent ? " %d" : "%d", (int)s->tokens[s->n_prompt_tokens + choice->ids_sent].id);
    }
    fflush(stdout);
}

static void print_new_text(struct choice *choice)
{
    if (!choice->stream.tokenizer) {
        print_new_ids(choice);
        return;
    }
    const struct buffer *text = &choice->stream.text;
    if (text->length > choice->text_sent) {
        fwrite(text->data + choice->text_sent, 1, text->length - choice->text_sent, stdout);
        fflush(stdout);
        choice->text_sent = text->length;
    }
}

static void print_result(const struct completion *c)
{
    struct buffer out = {0};
    const struct choice *choice = &c->choices[0];
    const struct text_stream *s = &choice->stream;
    buffer_text(&out, "{\"prompt_token_ids\":");
    buffer_json_ids(&out, c->request.prompts[0].ids, c->request.prompts[0].n_ids);
    buffer_text(&out, ",\"token_ids\":[");
    for (int64_t i = s->n_prompt_tokens; i < s->n_tokens; i++) {
        buffer_printf(&out, i > s->n_prompt_tokens ? ",%d" : "%d", (int)s->tokens[i].id);
    }
    buffer_text(&out, "],\"text\":");
    completion_write_text(&out, c, s->text.length ? s->text.data : "", s->text.length);
    buffer_text(&out, ",\"finish_reason\":");
    buffer_json_text(&out, finish_reason_name(choice->reason));
    buffer_text(&out, ",\"timings\":");
    completion_write_timings(&out, c);
    buffer_text(&out, ",\"choices\":");
    completion_write_choices(&out, c);
    printf("%s}\n", buffer_string(&out));
    buffer_finish(&out);
}

static enum status api_status(const struct config *config, const struct api_error *error, struct error *err)
{
    enum status status = api_code_status(error->code) == 400 ? STATUS_INVALID
                         : error->code == API_OUT_OF_MEMORY  ? STATUS_NO_MEMORY
                                                             : STATUS_IO;
    if (!error->param[0]) {
        return error_set(err, status, "%s", error->message);
    }
    /* Most messages begin with the field's name: the flag's stands in its place, or else in front. */
    char flag[80];
    size_t n = strlen(error->param);
    bool names_it = !strncmp(error->message, error->param, n) && strchr(" ,:", error->message[n]);
    flag_spelling(flag, sizeof flag, config, error->param);
    return error_set(err, status, names_it ? "%s%s" : "%s: %s", flag, error->message + (names_it ? n : 0));
}

static enum status run_request(const struct config *config, struct engine *engine,
                               const struct tokenizer *tokenizer, cJSON *root, struct error *err)
{
    const struct engine_info *info = engine_get_info(engine);
    struct request_rules rules = {.max_model_len = info->max_model_len,
                                  .vocab_size = info->config.vocab_size,
                                  .max_n = REQUEST_MAX_N,
                                  .max_best_of = REQUEST_MAX_N,
                                  .max_logprobs = ENGINE_MAX_LOGPROBS,
                                  .max_stops = REQUEST_MAX_STOPS,
                                  .strict_fields = true};
    struct waiter waiter = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct completion_request request;
    struct completion *completion = NULL;
    struct api_error error = {0};
    int64_t arrival_ns = clock_now_ns();
    if (completion_request_parse(&request, root, &rules, &error) ||
        completion_request_encode(&request, tokenizer, &rules, &error)) {
        completion_request_finish(&request);
        return api_status(config, &error, err);
    }
    if (completion_open(&completion, &request, engine, tokenizer, NULL, arrival_ns, waiter_notify, &waiter,
                        &error)) {
        return api_status(config, &error, err);
    }
    bool prints = config->stream && !config->json && completion->n_choices == 1;
    while (!completion_poll(completion, &error) && !completion_is_finished(completion)) {
        if (prints) {
            print_new_text(&completion->choices[0]);
        }
        waiter_wait(&waiter);
    }
    if (!error.code && config->json) {
        print_result(completion);
    }
    for (int32_t i = 0; !error.code && !config->json && i < completion->n_choices; i++) {
        if (completion->n_choices > 1) {
            printf("--- %d of %d ---\n", (int)i + 1, (int)completion->n_choices);
        }
        print_new_text(&completion->choices[i]);
        printf("\n");
    }
    completion_close(completion);
    return error.code ? api_status(config, &error, err) : STATUS_OK;
}

enum status command_generate(const struct config *config, struct outcome *outcome, struct error *err)
{
    static const struct json_limits limits = {.max_depth = 4, .max_nodes = 1 << 24};
    struct engine *engine = NULL;
    struct tokenizer *tokenizer = NULL;
    struct buffer body = {0};
    cJSON *root = NULL;
    FILE *log_file = NULL;
    (void)outcome;
    if (!config->prompt && !config->prompt_ids) {
        return error_set(err, STATUS_INVALID, "--prompt or --prompt-ids is missing");
    }
    if (config->json && config->stream) {
        return error_set(err, STATUS_INVALID, "--stream prints text: it does not go with --json");
    }
    if (config->logprobs && !config->json) {
        return error_set(err, STATUS_INVALID, "--logprobs needs --json: text has no place for them");
    }
    enum status status = server_check_folder(config, err);
    if (!status) {
        status = write_request(&body, config, err);
    }
    if (!status && json_parse(&root, buffer_string(&body), body.length, &limits, err)) {
        status = STATUS_INVALID;
    }
    buffer_finish(&body);
    if (status || (status = server_open_log(config, &log_file, err))) {
        cJSON_Delete(root);
        return status;
    }
    status = server_open_model(config, isatty(STDERR_FILENO), &engine, &tokenizer, err);
    if (status) {
        cJSON_Delete(root);
    } else {
        status = run_request(config, engine, tokenizer, root, err);
    }
    engine_close(engine);
    tokenizer_close(tokenizer);
    if (log_file) {
        fclose(log_file);
    }
    return status;
}
