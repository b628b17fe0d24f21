/* POST /v1/chat/completions, and POST /v1/apply-template: what a conversation looks like to the model. */
#include <string.h>

#include "server/api.h"
#include "server/fields.h"

enum exchange_step api_chat(struct server *s, struct exchange *x)
{
    return api_start_completion(s, x, chat_request_parse);
}

enum exchange_step api_apply_template(struct server *s, struct exchange *x)
{
    static const char *const known[] = {"model", "messages", "add_special_tokens", NULL};
    struct api_error error = {0};
    struct buffer ignored = {0}, *out = &x->reply.body;
    struct chat_messages messages;
    struct chat_prompt prompt = {0};
    enum chat_bos bos = CHAT_BOS_BY_TEMPLATE;
    bool special = true;
    cJSON *root = NULL;
    if (!api_parse_body(s, x, &root, &error)) {
        return api_reply_error(s, x, &error);
    }
    struct fields f = {.object = root, .error = &error};
    api_check_model(&f, s);
    chat_messages_parse(&messages, fields_get(&f, "messages"), s->config->strict_fields, &ignored, &error);
    if (fields_bool(&f, "add_special_tokens", &special)) {
        bos = special ? CHAT_BOS_ALWAYS : CHAT_BOS_NEVER;
    }
    fields_check_known(&f, known, s->config->strict_fields, &ignored);
    if (!error.code &&
        !chat_messages_render(&prompt, &messages, s->rules.chat_template, s->tokenizer, bos, &error)) {
        buffer_text(out, "{\"prompt\":");
        buffer_json_string(out, prompt.text, prompt.n_bytes);
        buffer_text(out, ",\"tokens\":");
        buffer_json_ids(out, prompt.ids, prompt.n_ids);
        buffer_text(out, "}");
    }
    chat_prompt_finish(&prompt);
    chat_messages_finish(&messages);
    cJSON_Delete(root);
    return api_reply_with(s, x, &error, &ignored);
}
