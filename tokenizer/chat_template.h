/* Chat messages -> prompt. A model folder says which template its model was trained with; a template that is
 * not known here is never imitated by another one, for a model answers nonsense in a form that it has not
 * seen. A new template is a kind here, its texts in the table of chat_template.c, and a function that writes
 * it. */
#ifndef TOKENIZER_CHAT_TEMPLATE_H
#define TOKENIZER_CHAT_TEMPLATE_H

#include "tokenizer/tokenizer.h"

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT };

struct chat_message {
    enum chat_role role;
    const char *content; /* n_bytes, borrowed, need not be terminated */
    size_t n_bytes;
};

/* plain, for folders without a template:
 *     {system}\nQuestion: {user}\nAnswer: {assistant}\n ... Answer:
 * in any order; an answer ends where the model begins a new line with "Question:".
 * llama2, messages in the order [system] user (assistant user)*:
 *     <s>[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{user} [/INST] {assistant}</s><s>[INST] {user} [/INST]
 * where every <s>...</s> is encoded as a text of its own (Touvron et al., Llama 2, 2023, and its code). */
enum chat_template_kind { CHAT_TEMPLATE_PLAIN, CHAT_TEMPLATE_LLAMA2, CHAT_TEMPLATE_UNKNOWN };

enum { CHAT_TEMPLATE_MAX_STOPS = 4 };

/* Reads which template a folder asks for: chat_template.jinja, else chat_template in tokenizer_config.json,
 * else plain. One that is not known is CHAT_TEMPLATE_UNKNOWN and no error: the model completes all the same.
 */
enum status chat_template_open(enum chat_template_kind *out, const char *folder, struct error *err);

const char *chat_template_name(enum chat_template_kind kind); /* "plain", "llama2", "unknown" */

/* Strings at which an answer ends though EOS did not come; they are no part of it. NULL when *n is 0. */
const char *const *chat_template_stops(enum chat_template_kind kind, int32_t *n);

/* Whether the prompt begins with BOS (where the tokenizer has one). */
enum chat_bos { CHAT_BOS_BY_TEMPLATE, CHAT_BOS_NEVER, CHAT_BOS_ALWAYS };

struct chat_prompt {
    char *text; /* terminated, with the special tokens that the template itself writes spelled out */
    size_t n_bytes;
    int32_t *ids; /* what the model sees: only the template's special tokens are special, never a message's */
    int32_t n_ids;
};

/* Renders n_messages >= 1 messages (of a known kind), ready for the assistant's answer. STATUS_INVALID when
 * the template has no place for a message: *bad_message is its index, or -1 when the fault is another one (a
 * text that is too long to encode). */
enum status chat_template_apply(struct chat_prompt *out, enum chat_template_kind kind,
                                const struct tokenizer *tokenizer, const struct chat_message *messages,
                                int32_t n_messages, enum chat_bos bos, int32_t *bad_message,
                                struct error *err);
void chat_prompt_finish(struct chat_prompt *prompt); /* accepts zeroed memory */

#endif
