/* POST /v1/tokenize and /v1/detokenize. */
#include <stdlib.h>
#include <string.h>

#include "server/api.h"
#include "server/fields.h"

enum exchange_step api_reply_with(struct server *s, struct exchange *x, struct api_error *error,
                                  struct buffer *ignored)
{
    if (ignored->length) {
        reply_header(&x->reply, "X-Ignored-Fields", buffer_string(ignored));
    }
    buffer_finish(ignored);
    return error->code ? api_reply_error(s, x, error) : api_reply_json(x, 200);
}

void api_check_model(struct fields *f, const struct server *s)
{
    const char *name = NULL;
    if (!fields_string(f, "model", 4096, &name)) {
        return;
    }
    for (int32_t i = 0; i < s->model_names.n; i++) {
        if (!strcmp(name, s->model_names.parts[i])) {
            return;
        }
    }
    api_fail(f->error, API_MODEL_NOT_FOUND, "model", "model \"%.200s\" is not served here", name);
}

/* The ids of one text, or of a conversation: exactly one of prompt and messages is given. */
static void encode(struct server *s, struct fields *f, const char *prompt, const bool *add_special_tokens,
                   struct chat_prompt *out, struct buffer *ignored)
{
    const cJSON *field = fields_get(f, "messages");
    if (f->error->code) {
        return;
    }
    if (field && prompt) {
        api_fail(f->error, API_INVALID_VALUE, "messages", "give either prompt or messages");
    } else if (field) {
        struct chat_messages messages;
        enum chat_bos bos = !add_special_tokens   ? CHAT_BOS_BY_TEMPLATE
                            : *add_special_tokens ? CHAT_BOS_ALWAYS
                                                  : CHAT_BOS_NEVER;
        if (!chat_messages_parse(&messages, field, s->config->strict_fields, ignored, f->error)) {
            chat_messages_render(out, &messages, s->rules.chat_template, s->tokenizer, bos, f->error);
        }
        chat_messages_finish(&messages);
    } else if (!prompt) {
        api_fail(f->error, API_MISSING_FIELD, "prompt", "prompt is required");
    } else {
        completion_text_encode(s->tokenizer, prompt, strlen(prompt),
                               !add_special_tokens || *add_special_tokens, &out->ids, &out->n_ids, f->error);
    }
}

enum exchange_step api_tokenize(struct server *s, struct exchange *x)
{
    static const char *const known[] = {"model",       "prompt", "messages", "add_special_tokens",
                                        "with_pieces", NULL};
    struct api_error error = {0};
    struct buffer ignored = {0}, *out = &x->reply.body;
    const char *prompt = NULL;
    bool add_special_tokens = true, with_pieces = false;
    cJSON *root = NULL;
    struct chat_prompt encoded = {0};
    if (!api_parse_body(s, x, &root, &error)) {
        return api_reply_error(s, x, &error);
    }
    struct fields f = {.object = root, .error = &error};
    api_check_model(&f, s);
    fields_string(&f, "prompt", SIZE_MAX, &prompt);
    bool given = fields_bool(&f, "add_special_tokens", &add_special_tokens);
    fields_bool(&f, "with_pieces", &with_pieces);
    fields_check_known(&f, known, s->config->strict_fields, &ignored);
    encode(s, &f, prompt, given ? &add_special_tokens : NULL, &encoded, &ignored);
    if (!error.code) {
        buffer_text(out, "{\"tokens\":");
        buffer_json_ids(out, encoded.ids, encoded.n_ids);
        buffer_printf(out, ",\"count\":%d,\"max_model_len\":%d", (int)encoded.n_ids,
                      (int)s->rules.max_model_len);
        if (with_pieces) {
            buffer_text(out, ",\"pieces\":[");
            for (int32_t i = 0; i < encoded.n_ids; i++) {
                buffer_text(out, i ? "," : "");
                buffer_json_text(out, tokenizer_piece(s->tokenizer, encoded.ids[i]));
            }
            buffer_text(out, "]");
        }
        buffer_text(out, "}");
    }
    chat_prompt_finish(&encoded);
    cJSON_Delete(root);
    return api_reply_with(s, x, &error, &ignored);
}

/* RFC 4648. */
static void write_base64(struct buffer *out, const char *data, size_t length)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *s = (const unsigned char *)data;
    for (size_t i = 0; i < length; i += 3) {
        size_t left = length - i;
        unsigned bits =
            (unsigned)s[i] << 16 | (left > 1 ? (unsigned)s[i + 1] << 8 : 0) | (left > 2 ? s[i + 2] : 0);
        char four[4] = {digits[bits >> 18], digits[bits >> 12 & 63], left > 1 ? digits[bits >> 6 & 63] : '=',
                        left > 2 ? digits[bits & 63] : '='};
        buffer_append(out, four, sizeof four);
    }
}

enum exchange_step api_detokenize(struct server *s, struct exchange *x)
{
    static const char *const known[] = {"model", "tokens", NULL};
    struct api_error error = {0};
    struct buffer ignored = {0}, *out = &x->reply.body;
    cJSON *root = NULL;
    int32_t *ids = NULL, n_ids = 0;
    char *text = NULL;
    size_t length = 0;
    struct error why = {0};
    if (!api_parse_body(s, x, &root, &error)) {
        return api_reply_error(s, x, &error);
    }
    struct fields f = {.object = root, .error = &error};
    api_check_model(&f, s);
    fields_check_known(&f, known, s->config->strict_fields, &ignored);
    const cJSON *tokens = fields_get(&f, "tokens"), *item;
    if (!error.code && !tokens) {
        api_fail(&error, API_MISSING_FIELD, "tokens", "tokens is required");
    } else if (!error.code && !cJSON_IsArray(tokens)) {
        api_fail(&error, API_INVALID_TYPE, "tokens", "tokens must be a list of ids, not %s",
                 fields_type_name(tokens));
    }
    if (!error.code && !(ids = malloc(((size_t)cJSON_GetArraySize(tokens) + 1) * sizeof *ids))) {
        api_fail(&error, API_OUT_OF_MEMORY, "tokens", "out of memory for ids");
    }
    if (!error.code) {
        cJSON_ArrayForEach(item, tokens)
        {
            if (!fields_id(&f, "tokens", item, s->rules.vocab_size, &ids[n_ids])) {
                break;
            }
            n_ids++;
        }
    }
    if (!error.code && tokenizer_decode(s->tokenizer, ids, n_ids, &text, &length, &why)) {
        api_fail(&error, API_INTERNAL, "tokens", "tokens cannot be decoded: %s", why.message);
    }
    if (!error.code) {
        buffer_text(out, "{\"prompt\":");
        buffer_json_string(out, text, length);
        buffer_text(out, ",\"bytes_b64\":\"");
        write_base64(out, text, length);
        buffer_text(out, "\"}");
    }
    free(text);
    free(ids);
    cJSON_Delete(root);
    return api_reply_with(s, x, &error, &ignored);
}
