/* Checks messages one by one; what is refused is named by its place: "messages[1].role". */
#include "server/chat_messages.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/fields.h"

enum { PLACE_BYTES = 64 };

static void parse_role(const cJSON *item, int32_t i, struct chat_message *message, struct api_error *error)
{
    static const char *const names[] = {
        [CHAT_SYSTEM] = "system", [CHAT_USER] = "user", [CHAT_ASSISTANT] = "assistant"};
    struct fields f = {.object = item, .error = error};
    const cJSON *role = fields_get(&f, "role");
    char place[PLACE_BYTES];
    snprintf(place, sizeof place, "messages[%d].role", (int)i);
    if (!role) {
        api_fail(error, API_MISSING_FIELD, place, "%s is required", place);
        return;
    }
    if (!cJSON_IsString(role)) {
        api_fail(error, API_INVALID_TYPE, place, "%s must be a string, not %s", place,
                 fields_type_name(role));
        return;
    }
    for (int r = CHAT_SYSTEM; r <= CHAT_ASSISTANT; r++) {
        if (!strcmp(role->valuestring, names[r])) {
            message->role = (enum chat_role)r;
            return;
        }
    }
    if (!strcmp(role->valuestring, "tool")) {
        api_fail(error, API_UNSUPPORTED_PARAMETER, place, "%s is tool: tools are not supported", place);
        return;
    }
    api_fail(error, API_INVALID_VALUE, place, "%s is \"%.32s\", must be system, user or assistant", place,
             role->valuestring);
}

/* The text of one part, or NULL. */
static const char *part_text(const cJSON *part, int32_t i, int32_t j, struct api_error *error)
{
    char place[PLACE_BYTES];
    snprintf(place, sizeof place, "messages[%d].content[%d]", (int)i, (int)j);
    if (!cJSON_IsObject(part)) {
        api_fail(error, API_INVALID_TYPE, place, "%s must be an object, not %s", place,
                 fields_type_name(part));
        return NULL;
    }
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(part, "type");
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(part, "text");
    if (!cJSON_IsString(type)) {
        api_fail(error, type ? API_INVALID_TYPE : API_MISSING_FIELD, place, "%s needs a type, a string",
                 place);
        return NULL;
    }
    if (strcmp(type->valuestring, "text")) {
        api_fail(error, API_UNSUPPORTED_PARAMETER, place, "%s is of type \"%.32s\": only text is supported",
                 place, type->valuestring);
        return NULL;
    }
    if (!cJSON_IsString(text)) {
        api_fail(error, text ? API_INVALID_TYPE : API_MISSING_FIELD, place, "%s needs a text, a string",
                 place);
        return NULL;
    }
    return text->valuestring;
}

/* Parts follow one another with nothing between them. */
static void join_parts(const cJSON *content, int32_t i, struct chat_message *message, char **joined,
                       struct api_error *error)
{
    struct buffer text = {0};
    const cJSON *part;
    int32_t j = 0;
    cJSON_ArrayForEach(part, content)
    {
        const char *piece = part_text(part, i, j++, error);
        if (!piece) {
            buffer_finish(&text);
            return;
        }
        buffer_text(&text, piece);
    }
    *joined = text.failed ? NULL : strdup(buffer_string(&text));
    message->n_bytes = text.length;
    message->content = *joined;
    buffer_finish(&text);
    if (!*joined) {
        api_fail(error, API_OUT_OF_MEMORY, "messages", "out of memory for a message");
    }
}

static void parse_content(const cJSON *item, int32_t i, struct chat_message *message, char **joined,
                          struct api_error *error)
{
    struct fields f = {.object = item, .error = error};
    const cJSON *content = fields_get(&f, "content");
    char place[PLACE_BYTES];
    snprintf(place, sizeof place, "messages[%d].content", (int)i);
    if (error->code) {
        return;
    }
    if (!content) {
        api_fail(error, API_MISSING_FIELD, place, "%s is required", place);
    } else if (cJSON_IsString(content)) {
        message->content = content->valuestring;
        message->n_bytes = strlen(content->valuestring);
    } else if (!cJSON_IsArray(content)) {
        api_fail(error, API_INVALID_TYPE, place, "%s must be a string or a list of text parts, not %s", place,
                 fields_type_name(content));
    } else if (!content->child) {
        api_fail(error, API_INVALID_VALUE, place, "%s is an empty list", place);
    } else {
        join_parts(content, i, message, joined, error);
    }
}

/* What else clients send along with a message: a name, which the templates have no place for, and empty
 * remains of answers that come back as history. */
static void parse_rest(const cJSON *item, int32_t i, bool strict, struct buffer *ignored,
                       struct api_error *error)
{
    static const char *const empty[] = {"tool_calls", "function_call", "refusal", "audio"};
    static const char *const known[] = {"role",          "content", "name",  "tool_calls",
                                        "function_call", "refusal", "audio", NULL};
    struct fields f = {.object = item, .error = error};
    const cJSON *name = fields_get(&f, "name");
    char place[PLACE_BYTES];
    if (!error->code && name && !cJSON_IsString(name)) {
        snprintf(place, sizeof place, "messages[%d].name", (int)i);
        api_fail(error, API_INVALID_TYPE, place, "%s must be a string, not %s", place,
                 fields_type_name(name));
    }
    for (size_t k = 0; k < sizeof empty / sizeof *empty && !error->code; k++) {
        const cJSON *value = fields_get(&f, empty[k]);
        if (value && !(cJSON_IsArray(value) && !value->child)) {
            snprintf(place, sizeof place, "messages[%d].%s", (int)i, empty[k]);
            api_fail(error, API_UNSUPPORTED_PARAMETER, place, "%s is not supported", place);
        }
    }
    fields_check_known(&f, known, strict, ignored);
}

enum api_code chat_messages_parse(struct chat_messages *out, const cJSON *field, bool strict,
                                  struct buffer *ignored, struct api_error *error)
{
    *out = (struct chat_messages){0};
    if (error->code) {
        return error->code;
    }
    if (!field) {
        return api_fail(error, API_MISSING_FIELD, "messages", "messages is required");
    }
    if (!cJSON_IsArray(field)) {
        return api_fail(error, API_INVALID_TYPE, "messages", "messages must be a list, not %s",
                        fields_type_name(field));
    }
    int n = cJSON_GetArraySize(field);
    if (!n) {
        return api_fail(error, API_INVALID_VALUE, "messages", "messages is an empty list");
    }
    out->items = calloc((size_t)n, sizeof *out->items);
    out->joined = calloc((size_t)n, sizeof *out->joined);
    if (!out->items || !out->joined) {
        return api_fail(error, API_OUT_OF_MEMORY, "messages", "out of memory for %d messages", n);
    }
    out->n = n;
    const cJSON *item = field->child;
    for (int32_t i = 0; i < n && !error->code; i++, item = item->next) {
        if (!cJSON_IsObject(item)) {
            char place[PLACE_BYTES];
            snprintf(place, sizeof place, "messages[%d]", (int)i);
            return api_fail(error, API_INVALID_TYPE, place, "%s must be an object, not %s", place,
                            fields_type_name(item));
        }
        parse_role(item, i, &out->items[i], error);
        parse_content(item, i, &out->items[i], &out->joined[i], error);
        parse_rest(item, i, strict, ignored, error);
    }
    return error->code;
}

enum api_code chat_messages_render(struct chat_prompt *out, const struct chat_messages *messages,
                                   enum chat_template_kind kind, const struct tokenizer *tokenizer,
                                   enum chat_bos bos, struct api_error *error)
{
    struct error why = {0};
    int32_t bad_message;
    if (kind == CHAT_TEMPLATE_UNKNOWN) {
        return api_fail(error, API_UNSUPPORTED_PARAMETER, "messages",
                        "this model's chat template is not supported yet; use /v1/completions");
    }
    enum status status =
        chat_template_apply(out, kind, tokenizer, messages->items, messages->n, bos, &bad_message, &why);
    if (status == STATUS_INVALID && bad_message >= 0) {
        char place[PLACE_BYTES];
        snprintf(place, sizeof place, "messages[%d].role", (int)bad_message);
        return api_fail(error, API_INVALID_VALUE, place, "%s does not fit: %s", place, why.message);
    }
    if (status) {
        return api_fail(error,
                        status == STATUS_INVALID     ? API_INVALID_VALUE
                        : status == STATUS_NO_MEMORY ? API_OUT_OF_MEMORY
                                                     : API_INTERNAL,
                        "messages", "messages cannot be encoded: %s", why.message);
    }
    return API_OK;
}

void chat_messages_finish(struct chat_messages *messages)
{
    for (int32_t i = 0; i < messages->n; i++) {
        free(messages->joined[i]);
    }
    free(messages->joined);
    free(messages->items);
    *messages = (struct chat_messages){0};
}
