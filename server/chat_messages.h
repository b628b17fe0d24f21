/* The `messages` field, which chat completions, apply-template and tokenize take: checked, and rendered with
 * the model's template. */
#ifndef SERVER_CHAT_MESSAGES_H
#define SERVER_CHAT_MESSAGES_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "server/api_error.h"
#include "server/buffer.h"
#include "tokenizer/chat_template.h"

struct chat_messages {
    struct chat_message *items; /* owned, n; contents are borrowed from the JSON tree or from joined */
    char **joined;              /* owned, n: the content of a message that came in several parts, or NULL */
    int32_t n;
};

/* field: the value of `messages`, NULL when absent. Unknown members of a message are named in ignored, or
 * refused when strict. out needs chat_messages_finish whatever the outcome. */
enum api_code chat_messages_parse(struct chat_messages *out, const cJSON *field, bool strict,
                                  struct buffer *ignored, struct api_error *error);

/* Refuses with unsupported_parameter when the model's template is not known, with invalid_value and the
 * message named when the template has no place for it. */
enum api_code chat_messages_render(struct chat_prompt *out, const struct chat_messages *messages,
                                   enum chat_template_kind kind, const struct tokenizer *tokenizer,
                                   enum chat_bos bos, struct api_error *error);

void chat_messages_finish(struct chat_messages *messages); /* accepts zeroed memory */

#endif
