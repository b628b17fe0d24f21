/* Checks every field of a completion request. The order of checks is the order of the API's table; the first
 * fault wins. */
#include "server/completion_request.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "server/fields.h"

static const char *const common_fields[] = {"model",
                                            "max_tokens",
                                            "max_completion_tokens",
                                            "min_tokens",
                                            "temperature",
                                            "top_p",
                                            "top_k",
                                            "min_p",
                                            "repetition_penalty",
                                            "presence_penalty",
                                            "frequency_penalty",
                                            "seed",
                                            "stop",
                                            "stop_token_ids",
                                            "include_stop_str_in_output",
                                            "ignore_eos",
                                            "logit_bias",
                                            "logprobs",
                                            "n",
                                            "user",
                                            "metadata",
                                            "stream",
                                            "stream_options",
                                            "truncate_prompt_tokens",
                                            "add_special_tokens",
                                            "priority",
                                            "timeout_ms",
                                            "cache_prompt",
                                            "cache_salt",
                                            "return_token_ids",
                                            "return_timings",
                                            "response_format",
                                            "grammar",
                                            "tools",
                                            "tool_choice",
                                            "functions"};
static const char *const completion_fields[] = {"prompt", "best_of", "echo", "suffix"};
static const char *const chat_fields[] = {"messages", "top_logprobs"};
enum {
    N_COMMON_FIELDS = sizeof common_fields / sizeof *common_fields,
    N_COMPLETION_FIELDS = sizeof completion_fields / sizeof *completion_fields,
    N_CHAT_FIELDS = sizeof chat_fields / sizeof *chat_fields,
};

static void check_known(struct fields *f, struct completion_request *request,
                        const struct request_rules *rules)
{
    const char *known[N_COMMON_FIELDS + N_COMPLETION_FIELDS + N_CHAT_FIELDS + 1];
    size_t n_own = request->chat ? N_CHAT_FIELDS : N_COMPLETION_FIELDS;
    memcpy(known, common_fields, sizeof common_fields);
    memcpy(known + N_COMMON_FIELDS, request->chat ? chat_fields : completion_fields, n_own * sizeof *known);
    known[N_COMMON_FIELDS + n_own] = NULL;
    fields_check_known(f, known, rules->strict_fields, &request->ignored);
}

static void parse_model(struct fields *f, const struct request_rules *rules)
{
    const char *name = NULL;
    if (!fields_string(f, "model", 4096, &name)) {
        return;
    }
    for (int32_t i = 0; i < rules->n_model_names; i++) {
        if (!strcmp(name, rules->model_names[i])) {
            return;
        }
    }
    api_fail(f->error, API_MODEL_NOT_FOUND, "model",
             "model \"%.200s\" is not served here; this server has \"%.200s\"", name,
             rules->n_model_names ? rules->model_names[0] : "");
}

static void parse_prompt_ids(struct fields *f, struct completion_prompt *prompt, const cJSON *array,
                             const struct request_rules *rules)
{
    int n = cJSON_GetArraySize(array);
    if (!n) {
        api_fail(f->error, API_INVALID_VALUE, "prompt", "prompt holds an empty list of ids");
        return;
    }
    prompt->ids = malloc((size_t)n * sizeof *prompt->ids);
    if (!prompt->ids) {
        api_fail(f->error, API_OUT_OF_MEMORY, "prompt", "out of memory for %d ids", n);
        return;
    }
    const cJSON *item;
    cJSON_ArrayForEach(item, array)
    {
        if (!fields_id(f, "prompt", item, rules->vocab_size, &prompt->ids[prompt->n_ids])) {
            return;
        }
        prompt->n_ids++;
    }
}

/* What comes before the type of a wrong item: members of the body have a name, elements of a list do not. */
static const char *inside_list(const cJSON *item)
{
    return item->string ? "" : "a list with ";
}

static void parse_one_prompt(struct fields *f, struct completion_prompt *prompt, const cJSON *item,
                             const struct request_rules *rules)
{
    if (cJSON_IsString(item)) {
        prompt->text = item->valuestring;
        prompt->text_bytes = strlen(item->valuestring);
    } else if (cJSON_IsArray(item)) {
        parse_prompt_ids(f, prompt, item, rules);
    } else {
        api_fail(f->error, API_INVALID_TYPE, "prompt",
                 "prompt must be a string, a list of strings, a list of ids or a list of lists of ids, not "
                 "%s%s",
                 inside_list(item), fields_type_name(item));
    }
}

static void parse_prompts(struct fields *f, struct completion_request *request,
                          const struct request_rules *rules)
{
    const cJSON *prompt = fields_get(f, "prompt");
    if (f->error->code) {
        return;
    }
    if (!prompt) {
        api_fail(f->error, API_MISSING_FIELD, "prompt", "prompt is required");
        return;
    }
    const cJSON *first = cJSON_IsArray(prompt) ? prompt->child : NULL;
    bool list = first && !cJSON_IsNumber(first);
    int n_prompts = list ? cJSON_GetArraySize(prompt) : 1;
    if (n_prompts > REQUEST_MAX_PROMPTS) {
        api_fail(f->error, API_INVALID_VALUE, "prompt", "prompt has %d entries, at most %d are allowed",
                 n_prompts, (int)REQUEST_MAX_PROMPTS);
        return;
    }
    request->prompts = calloc((size_t)n_prompts, sizeof *request->prompts);
    if (!request->prompts) {
        api_fail(f->error, API_OUT_OF_MEMORY, "prompt", "out of memory for %d prompts", n_prompts);
        return;
    }
    request->n_prompts = n_prompts;
    if (!list) {
        parse_one_prompt(f, &request->prompts[0], prompt, rules);
        return;
    }
    const cJSON *item = first;
    for (int i = 0; i < n_prompts && !f->error->code; i++, item = item->next) {
        if (item->type != first->type) {
            api_fail(f->error, API_INVALID_TYPE, "prompt", "prompt holds both %s and %s",
                     fields_type_name(first), fields_type_name(item));
            return;
        }
        parse_one_prompt(f, &request->prompts[i], item, rules);
    }
}

static void parse_lengths(struct fields *f, struct completion_request *request,
                          const struct request_rules *rules)
{
    struct generate_params *p = &request->params;
    int32_t other = 0, least = request->chat ? 1 : 0;
    bool has_max = fields_int32(f, "max_tokens", least, rules->max_model_len, &p->max_tokens);
    if (fields_int32(f, "max_completion_tokens", least, rules->max_model_len, &other)) {
        if (has_max && other != p->max_tokens) {
            api_fail(f->error, API_INVALID_VALUE, "max_completion_tokens",
                     "max_tokens is %d and max_completion_tokens is %d: give one of them", (int)p->max_tokens,
                     (int)other);
            return;
        }
        p->max_tokens = other;
    } else if (!has_max && request->chat) {
        request->rest_of_context = true;
        p->max_tokens = rules->max_model_len;
    }
    if (!request->chat) {
        fields_bool(f, "echo", &request->echo);
    }
    if (!f->error->code && p->max_tokens == 0 && !request->echo) {
        api_fail(f->error, API_INVALID_VALUE, "max_tokens", "max_tokens 0 is only allowed with echo");
    }
    fields_int32(f, "min_tokens", 0, p->max_tokens, &p->min_tokens);
}

static void parse_sampling(struct fields *f, struct completion_request *request,
                           const struct request_rules *rules)
{
    struct generate_params *p = &request->params;
    int64_t seed = 0;
    fields_number(f, "temperature", 0, 2, false, &p->temperature);
    fields_number(f, "top_p", 0, 1, true, &p->top_p);
    fields_int32(f, "top_k", -1, rules->vocab_size, &p->top_k);
    fields_number(f, "min_p", 0, 1, false, &p->min_p);
    fields_number(f, "repetition_penalty", 0, 10, true, &p->repetition_penalty);
    fields_number(f, "presence_penalty", -2, 2, false, &p->presence_penalty);
    fields_number(f, "frequency_penalty", -2, 2, false, &p->frequency_penalty);
    if (fields_int(f, "seed", INT64_MIN, INT64_MAX, &seed)) {
        p->seed = (uint64_t)seed;
    } else if (!f->error->code && getrandom(&p->seed, sizeof p->seed, 0) != (ssize_t)sizeof p->seed) {
        api_fail(f->error, API_INTERNAL, NULL, "the system gives no random seed");
    } else {
        p->seed &= INT64_MAX; /* so that the seed that timings report can be sent back */
    }
    fields_bool(f, "ignore_eos", &p->ignore_eos);
}

static void parse_stop_string(struct fields *f, struct completion_request *request, const cJSON *item,
                              const struct request_rules *rules)
{
    if (!cJSON_IsString(item)) {
        api_fail(f->error, API_INVALID_TYPE, "stop", "stop must be a string or a list of strings, not %s%s",
                 inside_list(item), fields_type_name(item));
        return;
    }
    size_t length = strlen(item->valuestring);
    if (length < 1 || length > DETOKENIZER_MAX_STOP_BYTES) {
        api_fail(f->error, API_INVALID_VALUE, "stop", "a stop string has %zu bytes, must be 1..%d", length,
                 (int)DETOKENIZER_MAX_STOP_BYTES);
        return;
    }
    if (request->n_stops >= rules->max_stops) {
        api_fail(f->error, API_INVALID_VALUE, "stop", "stop has more than %d strings", (int)rules->max_stops);
        return;
    }
    request->stops[request->n_stops] = item->valuestring;
    request->stop_bytes[request->n_stops++] = length;
}

static void parse_stops(struct fields *f, struct completion_request *request,
                        const struct request_rules *rules)
{
    const cJSON *stop = fields_get(f, "stop"), *ids = fields_get(f, "stop_token_ids"), *item;
    if (f->error->code) {
        return;
    }
    if (cJSON_IsArray(stop)) {
        for (item = stop->child; item && !f->error->code; item = item->next) {
            parse_stop_string(f, request, item, rules);
        }
    } else if (stop) {
        parse_stop_string(f, request, stop, rules);
    }
    fields_bool(f, "include_stop_str_in_output", &request->include_stop);
    if (request->chat && !request->params.ignore_eos) { /* they are this template's EOS */
        const char *const *own = chat_template_stops(rules->chat_template, &request->n_template_stops);
        for (int32_t i = 0; i < request->n_template_stops; i++) {
            request->stops[request->n_stops + i] = own[i];
            request->stop_bytes[request->n_stops + i] = strlen(own[i]);
        }
    }
    if (!ids || f->error->code) {
        return;
    }
    if (!cJSON_IsArray(ids)) {
        api_fail(f->error, API_INVALID_TYPE, "stop_token_ids", "stop_token_ids must be a list of ids, not %s",
                 fields_type_name(ids));
        return;
    }
    if (cJSON_GetArraySize(ids) > ENGINE_MAX_STOP_IDS) {
        api_fail(f->error, API_INVALID_VALUE, "stop_token_ids", "stop_token_ids has more than %d ids",
                 (int)ENGINE_MAX_STOP_IDS);
        return;
    }
    struct generate_params *p = &request->params;
    p->stop_ids = request->stop_ids;
    cJSON_ArrayForEach(item, ids)
    {
        if (!fields_id(f, "stop_token_ids", item, rules->vocab_size, &request->stop_ids[p->n_stop_ids])) {
            return;
        }
        p->n_stop_ids++;
    }
}

static void parse_logit_bias(struct fields *f, struct completion_request *request,
                             const struct request_rules *rules)
{
    static const char field[] = "logit_bias";
    const cJSON *map = fields_get(f, field), *item;
    if (!map || f->error->code) {
        return;
    }
    if (!cJSON_IsObject(map)) {
        api_fail(f->error, API_INVALID_TYPE, field, "logit_bias must be an object, not %s",
                 fields_type_name(map));
        return;
    }
    int n = cJSON_GetArraySize(map);
    if (n > ENGINE_MAX_LOGIT_BIAS) {
        api_fail(f->error, API_INVALID_VALUE, field, "logit_bias has %d entries, at most %d are allowed", n,
                 (int)ENGINE_MAX_LOGIT_BIAS);
        return;
    }
    struct generate_params *p = &request->params;
    request->bias_ids = malloc((size_t)(n ? n : 1) * sizeof *request->bias_ids);
    request->bias_values = malloc((size_t)(n ? n : 1) * sizeof *request->bias_values);
    if (!request->bias_ids || !request->bias_values) {
        api_fail(f->error, API_OUT_OF_MEMORY, field, "out of memory for logit_bias");
        return;
    }
    cJSON_ArrayForEach(item, map)
    {
        /* Canonical decimal only: "7" and "07" would be two names of one token. */
        char *end = NULL;
        long id = item->string[0] >= '0' && item->string[0] <= '9' ? strtol(item->string, &end, 10) : -1;
        if (id < 0 || *end || (item->string[0] == '0' && item->string[1]) || id >= rules->vocab_size) {
            api_fail(f->error, API_INVALID_VALUE, field,
                     "logit_bias has key \"%.40s\", must be an id in 0..%d", item->string,
                     (int)rules->vocab_size - 1);
            return;
        }
        if (!cJSON_IsNumber(item)) {
            api_fail(f->error, API_INVALID_TYPE, field, "logit_bias of id %ld must be a number, not %s", id,
                     fields_type_name(item));
            return;
        }
        if (!(item->valuedouble >= -100 && item->valuedouble <= 100)) {
            api_fail(f->error, API_INVALID_VALUE, field, "logit_bias of id %ld is %g, must be in -100..100",
                     id, item->valuedouble);
            return;
        }
        request->bias_ids[p->n_bias] = (int32_t)id;
        request->bias_values[p->n_bias++] = (float)item->valuedouble;
    }
    p->bias_ids = request->bias_ids;
    p->bias_values = request->bias_values;
}

/* Chat says with a boolean whether, and with a number how many. */
static void parse_chat_logprobs(struct fields *f, struct generate_params *p,
                                const struct request_rules *rules)
{
    bool wanted = false;
    int32_t n_top = 0;
    fields_bool(f, "logprobs", &wanted);
    if (fields_int32(f, "top_logprobs", 0, rules->max_logprobs, &n_top) && n_top && !wanted) {
        api_fail(f->error, API_INVALID_VALUE, "top_logprobs", "top_logprobs is only allowed with logprobs");
    }
    p->logprobs = wanted ? n_top : -1;
}

static void parse_choices(struct fields *f, struct completion_request *request,
                          const struct request_rules *rules)
{
    struct generate_params *p = &request->params;
    if (request->chat) {
        parse_chat_logprobs(f, p, rules);
    } else {
        fields_int32(f, "logprobs", 0, rules->max_logprobs, &p->logprobs);
    }
    fields_int32(f, "n", 1, rules->max_n, &request->n);
    request->best_of = request->n;
    if (!request->chat) {
        fields_int32(f, "best_of", request->n, rules->max_best_of, &request->best_of);
    }
    fields_bool(f, "stream", &request->stream);
    if (!f->error->code && request->stream && request->best_of != request->n) {
        api_fail(f->error, API_INVALID_VALUE, "best_of", "best_of cannot be streamed");
    }
    const cJSON *options = fields_get(f, "stream_options");
    if (!options || f->error->code) {
        return;
    }
    if (!cJSON_IsObject(options)) {
        api_fail(f->error, API_INVALID_TYPE, "stream_options", "stream_options must be an object, not %s",
                 fields_type_name(options));
        return;
    }
    if (!request->stream) {
        api_fail(f->error, API_INVALID_VALUE, "stream_options", "stream_options is only allowed with stream");
        return;
    }
    static const char *const known[] = {"include_usage", "continuous_usage_stats", NULL};
    struct fields inner = {.object = options, .error = f->error};
    fields_bool(&inner, "include_usage", &request->include_usage);
    fields_bool(&inner, "continuous_usage_stats", &request->continuous_usage);
    fields_check_known(&inner, known, rules->strict_fields, &request->ignored);
}

/* Fields that exist in the API and have one value here. */
static void parse_unsupported(struct fields *f, bool chat)
{
    if (f->error->code) {
        return;
    }
    const cJSON *item = chat ? NULL : fields_get(f, "suffix");
    if (item && !(cJSON_IsString(item) && !item->valuestring[0])) {
        api_fail(f->error, API_UNSUPPORTED_PARAMETER, "suffix",
                 "suffix is not supported: it must be null or \"\"");
        return;
    }
    item = fields_get(f, "response_format");
    if (item) {
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(item, "type");
        if (!cJSON_IsString(type) || strcmp(type->valuestring, "text")) {
            api_fail(f->error, API_UNSUPPORTED_PARAMETER, "response_format",
                     "response_format is not supported: it must be null or {\"type\":\"text\"}");
            return;
        }
    }
    if (fields_get(f, "grammar")) {
        api_fail(f->error, API_UNSUPPORTED_PARAMETER, "grammar", "grammar is not supported");
        return;
    }
    enum { TOOLS, TOOL_CHOICE, FUNCTIONS, N_TOOL_FIELDS };
    static const char *const tool_fields[N_TOOL_FIELDS] = {
        [TOOLS] = "tools", [TOOL_CHOICE] = "tool_choice", [FUNCTIONS] = "functions"};
    for (int i = 0; i < N_TOOL_FIELDS; i++) {
        item = fields_get(f, tool_fields[i]);
        bool empty = cJSON_IsArray(item) && !item->child;
        bool none = cJSON_IsString(item) && !strcmp(item->valuestring, "none");
        /* Tools were refused before it: with none to choose from, the choice is free. */
        none |= i == TOOL_CHOICE && cJSON_IsString(item) && !strcmp(item->valuestring, "auto");
        if (item && !empty && !none) {
            api_fail(f->error, API_UNSUPPORTED_PARAMETER, tool_fields[i], "%s is not supported",
                     tool_fields[i]);
            return;
        }
    }
}

/* A conversation is one prompt, written later by the template. */
static void parse_messages(struct fields *f, struct completion_request *request,
                           const struct request_rules *rules)
{
    if (chat_messages_parse(&request->messages, fields_get(f, "messages"), rules->strict_fields,
                            &request->ignored, f->error)) {
        return;
    }
    request->prompts = calloc(1, sizeof *request->prompts);
    if (!request->prompts) {
        api_fail(f->error, API_OUT_OF_MEMORY, "messages", "out of memory for a prompt");
        return;
    }
    request->n_prompts = 1;
}

static enum api_code parse_request(struct completion_request *request, cJSON *root,
                                   const struct request_rules *rules, bool chat, struct api_error *error)
{
    *request = (struct completion_request){.root = root,
                                           .chat = chat,
                                           .n = 1,
                                           .best_of = 1,
                                           .add_special_tokens = true,
                                           .max_submitted = rules->max_submitted};
    generate_params_init(&request->params);
    *error = (struct api_error){0};
    if (!cJSON_IsObject(root)) {
        return api_fail(error, API_INVALID_TYPE, NULL, "the body must be a JSON object, not %s",
                        fields_type_name(root));
    }
    struct fields f = {.object = root, .error = error};
    bool accepted; /* fields whose values change nothing here */
    const char *salt, *user;
    parse_model(&f, rules);
    if (chat) {
        parse_messages(&f, request, rules);
    } else {
        parse_prompts(&f, request, rules);
    }
    parse_lengths(&f, request, rules);
    parse_sampling(&f, request, rules);
    parse_stops(&f, request, rules);
    parse_logit_bias(&f, request, rules);
    parse_choices(&f, request, rules);
    fields_int32(&f, "truncate_prompt_tokens", 1, rules->max_model_len, &request->truncate_prompt_tokens);
    if (fields_bool(&f, "add_special_tokens", &request->add_special_tokens)) {
        request->bos = request->add_special_tokens ? CHAT_BOS_ALWAYS : CHAT_BOS_NEVER;
    }
    fields_int32(&f, "priority", -100, 100, &request->params.priority);
    request->timeout_ms = rules->max_timeout_ms;
    fields_int(&f, "timeout_ms", 1, rules->max_timeout_ms ? rules->max_timeout_ms : INT32_MAX,
               &request->timeout_ms);
    fields_bool(&f, "cache_prompt", &accepted);
    fields_string(&f, "cache_salt", REQUEST_MAX_SALT, &salt);
    fields_string(&f, "user", SIZE_MAX, &user);
    fields_bool(&f, "return_token_ids", &request->return_token_ids);
    fields_bool(&f, "return_timings", &request->return_timings);
    parse_unsupported(&f, chat);
    check_known(&f, request, rules);
    request->params.prompt_logprobs = request->echo && request->params.logprobs >= 0;
    if (!error->code && request->best_of > request->n && request->params.logprobs < 0) {
        /* Choosing needs logprobs that the client did not ask for. */
        request->params.logprobs = 0;
        request->hide_logprobs = true;
    }
    return error->code;
}

enum api_code completion_request_parse(struct completion_request *request, cJSON *root,
                                       const struct request_rules *rules, struct api_error *error)
{
    return parse_request(request, root, rules, false, error);
}

enum api_code chat_request_parse(struct completion_request *request, cJSON *root,
                                 const struct request_rules *rules, struct api_error *error)
{
    return parse_request(request, root, rules, true, error);
}

/* What max_tokens stands for when chat leaves it out. */
static enum api_code decide_max_tokens(struct completion_request *request, int32_t n_ids,
                                       const struct request_rules *rules, struct api_error *error)
{
    struct generate_params *p = &request->params;
    int32_t rest = rules->max_model_len - n_ids;
    if (rest < 1) {
        return api_fail(error, API_CONTEXT_LENGTH_EXCEEDED, "messages",
                        "the prompt has %d tokens, the context %d: nothing is left for an answer", (int)n_ids,
                        (int)rules->max_model_len);
    }
    p->max_tokens =
        rules->default_max_tokens && rules->default_max_tokens < rest ? rules->default_max_tokens : rest;
    if (p->min_tokens > p->max_tokens) {
        return api_fail(error, API_INVALID_VALUE, "min_tokens", "min_tokens is %d, and max_tokens is %d",
                        (int)p->min_tokens, (int)p->max_tokens);
    }
    return API_OK;
}

enum api_code completion_text_encode(const struct tokenizer *tokenizer, const char *text, size_t n_bytes,
                                     bool add_special_tokens, int32_t **ids, int32_t *n_ids,
                                     struct api_error *error)
{
    struct error why = {0};
    bool bos = n_bytes ? add_special_tokens && tokenizer_adds_bos(tokenizer) : tokenizer_bos(tokenizer) >= 0;
    enum status status = tokenizer_encode(tokenizer, text, n_bytes, bos, ids, n_ids, &why);
    if (!status) {
        return API_OK;
    }
    return api_fail(error, status == STATUS_NO_MEMORY ? API_OUT_OF_MEMORY : API_INVALID_VALUE, "prompt",
                    "prompt cannot be encoded: %s", why.message);
}

/* Refuses before encoding, which takes seconds for megabytes, what cannot fit even in the longest tokens. */
static enum api_code check_text_fits(const struct completion_request *request,
                                     const struct completion_prompt *prompt,
                                     const struct tokenizer *tokenizer, const struct request_rules *rules,
                                     struct api_error *error)
{
    int64_t least = 0, wanted = request->rest_of_context ? 1 : request->params.max_tokens;
    if (request->truncate_prompt_tokens) {
        return API_OK;
    }
    if (prompt->text) {
        least = tokenizer_min_tokens(tokenizer, prompt->text, prompt->text_bytes);
    }
    for (int32_t i = 0; i < request->messages.n; i++) {
        const char *text = request->messages.items[i].content;
        least += tokenizer_min_tokens(tokenizer, text, strlen(text));
    }
    if (least + wanted <= rules->max_model_len) {
        return API_OK;
    }
    return api_fail(error, API_CONTEXT_LENGTH_EXCEEDED, request->chat ? "messages" : "prompt",
                    "the prompt has at least %lld tokens and %s %lld: together more than the context of %d",
                    (long long)least, request->rest_of_context ? "an answer at least" : "max_tokens is",
                    (long long)wanted, (int)rules->max_model_len);
}

static enum api_code encode_one(struct completion_request *request, struct completion_prompt *prompt,
                                const struct tokenizer *tokenizer, const struct request_rules *rules,
                                struct api_error *error)
{
    struct error why = {0};
    const char *field = request->chat ? "messages" : "prompt";
    if (check_text_fits(request, prompt, tokenizer, rules, error)) {
        return error->code;
    }
    if (request->chat) {
        struct chat_prompt rendered;
        if (chat_messages_render(&rendered, &request->messages, rules->chat_template, tokenizer, request->bos,
                                 error)) {
            return error->code;
        }
        prompt->ids = rendered.ids;
        prompt->n_ids = rendered.n_ids;
        rendered.ids = NULL;
        chat_prompt_finish(&rendered);
    } else if (prompt->text) {
        if (completion_text_encode(tokenizer, prompt->text, prompt->text_bytes, request->add_special_tokens,
                                   &prompt->ids, &prompt->n_ids, error)) {
            return error->code;
        }
    }
    if (prompt->n_ids < 1) {
        return api_fail(error, API_INVALID_VALUE, field, "%s gives no tokens, and this model has no BOS",
                        field);
    }
    int32_t keep = request->truncate_prompt_tokens;
    if (keep && prompt->n_ids > keep) {
        prompt->n_truncated = prompt->n_ids - keep;
        memmove(prompt->ids, prompt->ids + prompt->n_truncated, (size_t)keep * sizeof *prompt->ids);
        prompt->n_ids = keep;
    }
    if (request->rest_of_context && decide_max_tokens(request, prompt->n_ids, rules, error)) {
        return error->code;
    }
    if ((int64_t)prompt->n_ids + request->params.max_tokens > rules->max_model_len) {
        return api_fail(
            error, API_CONTEXT_LENGTH_EXCEEDED, field,
            "the prompt has %d tokens and max_tokens is %d: together %lld, more than the context of %d",
            (int)prompt->n_ids, (int)request->params.max_tokens,
            (long long)prompt->n_ids + request->params.max_tokens, (int)rules->max_model_len);
    }
    if (request->echo && (!prompt->text || prompt->n_truncated)) {
        /* What is echoed is what the model sees. */
        if (tokenizer_decode(tokenizer, prompt->ids, prompt->n_ids, &prompt->decoded, &prompt->text_bytes,
                             &why)) {
            return api_fail(error, API_INTERNAL, "prompt", "prompt cannot be decoded: %s", why.message);
        }
        prompt->text = prompt->decoded;
    }
    return API_OK;
}

enum api_code completion_request_encode(struct completion_request *request, const struct tokenizer *tokenizer,
                                        const struct request_rules *rules, struct api_error *error)
{
    for (int32_t i = 0; i < request->n_prompts; i++) {
        if (encode_one(request, &request->prompts[i], tokenizer, rules, error)) {
            return error->code;
        }
    }
    return API_OK;
}

void completion_request_finish(struct completion_request *request)
{
    for (int32_t i = 0; i < request->n_prompts; i++) {
        free(request->prompts[i].ids);
        free(request->prompts[i].decoded);
    }
    free(request->prompts);
    chat_messages_finish(&request->messages);
    free(request->bias_ids);
    free(request->bias_values);
    buffer_finish(&request->ignored);
    cJSON_Delete(request->root);
    *request = (struct completion_request){0};
}
