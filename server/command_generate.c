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

static enum status write_number(struct buffer *out, const struct field_flag *flag, struct error *err)
{
    char *end;
    errno = 0;
    long long integer = strtoll(flag->value, &end, 10);
    bool whole = end != flag->value && !*end && !errno;
    double real = whole ? 0 : strtod(flag->value, &end);
    if (end == flag->value || *end || !isfinite(real)) {
        return error_set(err, STATUS_INVALID, "%s is \"%.80s\", must be a number", flag->name, flag->value);
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
        if (numbers[i].value && (status = write_number(out, &numbers[i], err))) {
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

static void waiter_notify(void *context)
{
    struct waiter *w = context;
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

static void print_new_text(struct choice *choice)
{
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
    buffer_json_string(&out, s->text.length ? s->text.data : "", s->text.length);
    buffer_text(&out, ",\"finish_reason\":");
    buffer_json_text(&out, finish_reason_name(choice->reason));
    buffer_text(&out, ",\"timings\":");
    completion_write_timings(&out, c);
    buffer_text(&out, ",\"choices\":");
    completion_write_choices(&out, c);
    printf("%s}\n", buffer_string(&out));
    buffer_finish(&out);
}

static enum status api_status(const struct api_error *error, struct error *err)
{
    enum status status = api_code_status(error->code) == 400 ? STATUS_INVALID
                         : error->code == API_OUT_OF_MEMORY  ? STATUS_NO_MEMORY
                                                             : STATUS_IO;
    return error_set(err, status, "%s", error->message);
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
        return api_status(&error, err);
    }
    if (completion_open(&completion, &request, engine, tokenizer, NULL, arrival_ns, waiter_notify, &waiter,
                        &error)) {
        return api_status(&error, err);
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
        print_new_text(&completion->choices[i]);
        printf("\n");
    }
    completion_close(completion);
    return error.code ? api_status(&error, err) : STATUS_OK;
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
    if (!config->model) {
        return error_set(err, STATUS_INVALID, "the model folder is missing: give it as the first argument");
    }
    if (!config->prompt && !config->prompt_ids) {
        return error_set(err, STATUS_INVALID, "--prompt or --prompt-ids is missing");
    }
    if (config->json && config->stream) {
        return error_set(err, STATUS_INVALID, "--stream prints text: it does not go with --json");
    }
    enum status status = write_request(&body, config, err);
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
