/* The known templates: how they are recognized, and how each is written. Templates in model folders are Jinja
 * programs; they are compared as texts and never run. */
#include "tokenizer/chat_template.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/folder_config.h"

/* The demo model's. It takes the roles that alternate and drops others; here those are refused. */
static const char LLAMA2_DEMO[] =
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + "
    "messages[0]['content'] + '\n<</SYS>>\n\n' %}{% set loop_messages = messages[1:] %}{% else %}{% set "
    "system = '' %}{% set loop_messages = messages %}{% endif %}{% for message in loop_messages %}{% if "
    "message['role'] == 'user' %}{% if loop.index0 > 0 %}{{ bos_token }}{% endif %}{{ '[INST] ' + (system if "
    "loop.index0 == 0 else '') + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' "
    "%}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}";

static const struct {
    const char *text;
    enum chat_template_kind kind;
} known[] = {{LLAMA2_DEMO, CHAT_TEMPLATE_LLAMA2}};

static enum chat_template_kind recognize(const char *text)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!strcmp(text, known[i].text)) {
            return known[i].kind;
        }
    }
    return CHAT_TEMPLATE_UNKNOWN;
}

enum status chat_template_open(enum chat_template_kind *out, const char *folder, struct error *err)
{
    char *text;
    size_t length;
    cJSON *json;
    *out = CHAT_TEMPLATE_PLAIN;
    enum status status = folder_text_read(&text, &length, folder, "chat_template.jinja", err);
    if (status || text) {
        *out = text ? recognize(text) : CHAT_TEMPLATE_PLAIN;
        free(text);
        return status;
    }
    if ((status = folder_config_read(&json, folder, "tokenizer_config.json", err))) {
        return status;
    }
    const cJSON *item = json ? cJSON_GetObjectItemCaseSensitive(json, "chat_template") : NULL;
    if (item && !cJSON_IsNull(item)) {
        /* Some folders have a list of named templates: which one is meant would be a guess. */
        *out = cJSON_IsString(item) ? recognize(item->valuestring) : CHAT_TEMPLATE_UNKNOWN;
    }
    cJSON_Delete(json);
    return STATUS_OK;
}

const char *chat_template_name(enum chat_template_kind kind)
{
    static const char *const names[] = {"plain", "llama2", "unknown"};
    return names[kind];
}

const char *const *chat_template_stops(enum chat_template_kind kind, int32_t *n)
{
    static const char *const plain[] = {"\nQuestion:"};
    *n = kind == CHAT_TEMPLATE_PLAIN ? 1 : 0;
    return *n ? plain : NULL;
}

/* ---- writing ---- */

/* A prompt in the making. A turn is what is encoded as one text; its end adds it to the prompt. */
struct writer {
    const struct tokenizer *tokenizer;
    struct chat_prompt *prompt;
    size_t capacity;   /* of prompt->text */
    size_t turn_begin; /* in prompt->text */
    bool spells_specials;
    bool failed; /* out of memory */
};

static void write_bytes(struct writer *w, const char *bytes, size_t n_bytes)
{
    struct chat_prompt *p = w->prompt;
    if (w->failed) {
        return;
    }
    if (n_bytes >= w->capacity - p->n_bytes) {
        if (n_bytes > SIZE_MAX / 4 || w->capacity > SIZE_MAX / 4) {
            w->failed = true;
            return;
        }
        size_t capacity = (w->capacity + n_bytes + 1) * 2;
        char *text = realloc(p->text, capacity);
        if (!text) {
            w->failed = true;
            return;
        }
        p->text = text;
        w->capacity = capacity;
    }
    if (n_bytes) {
        memcpy(p->text + p->n_bytes, bytes, n_bytes);
    }
    p->n_bytes += n_bytes;
    p->text[p->n_bytes] = '\0';
}

static void write_text(struct writer *w, const char *text)
{
    write_bytes(w, text, strlen(text));
}

static void write_content(struct writer *w, const struct chat_message *message)
{
    write_bytes(w, message->content, message->n_bytes);
}

static void write_special(struct writer *w, int32_t id)
{
    if (w->spells_specials && id >= 0) {
        write_text(w, tokenizer_piece(w->tokenizer, id));
    }
}

static void turn_begin(struct writer *w, bool bos)
{
    if (bos) {
        write_special(w, tokenizer_bos(w->tokenizer));
    }
    w->turn_begin = w->prompt->n_bytes;
}

/* Encodes what was written since turn_begin. */
static enum status turn_end(struct writer *w, bool bos, bool eos, struct error *err)
{
    struct chat_prompt *p = w->prompt;
    int32_t *ids = NULL, n_ids = 0, n_eos = 0;
    if (w->failed) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for a prompt");
    }
    const int32_t *eos_ids = tokenizer_eos_ids(w->tokenizer, &n_eos);
    enum status status = tokenizer_encode(w->tokenizer, p->text + w->turn_begin, p->n_bytes - w->turn_begin,
                                          bos, &ids, &n_ids, err);
    if (status) {
        return status;
    }
    eos = eos && n_eos > 0;
    int64_t total = (int64_t)p->n_ids + n_ids + eos;
    int32_t *all = total <= INT32_MAX ? realloc(p->ids, (size_t)(total ? total : 1) * sizeof *p->ids) : NULL;
    if (!all) {
        free(ids);
        return error_set(err, STATUS_NO_MEMORY, "out of memory for a prompt of %lld tokens",
                         (long long)total);
    }
    p->ids = all;
    if (n_ids) {
        memcpy(all + p->n_ids, ids, (size_t)n_ids * sizeof *ids);
    }
    p->n_ids += n_ids;
    free(ids);
    if (eos) {
        p->ids[p->n_ids++] = eos_ids[0];
        write_special(w, eos_ids[0]);
    }
    return STATUS_OK;
}

static enum status write_plain(struct writer *w, const struct chat_message *messages, int32_t n_messages,
                               bool bos, struct error *err)
{
    static const char *const before[] = {
        [CHAT_SYSTEM] = "", [CHAT_USER] = "Question: ", [CHAT_ASSISTANT] = "Answer: "};
    turn_begin(w, bos);
    for (int32_t i = 0; i < n_messages; i++) {
        write_text(w, before[messages[i].role]);
        write_content(w, &messages[i]);
        write_text(w, "\n");
    }
    write_text(w, "Answer:"); /* the model brings the space itself */
    return turn_end(w, bos, false, err);
}

static enum status write_llama2(struct writer *w, const struct chat_message *messages, int32_t n_messages,
                                bool bos, int32_t *bad_message, struct error *err)
{
    int32_t first = messages[0].role == CHAT_SYSTEM;
    for (int32_t i = first; i < n_messages; i++) {
        enum chat_role expected = (i - first) % 2 ? CHAT_ASSISTANT : CHAT_USER;
        bool last = i == n_messages - 1;
        if (messages[i].role != expected || (last && expected == CHAT_ASSISTANT)) {
            *bad_message = i;
            break;
        }
    }
    if (first == n_messages) {
        *bad_message = 0;
    }
    if (*bad_message >= 0) {
        return error_set(err, STATUS_INVALID,
                         "this model's chat template takes one system message or none, then user and "
                         "assistant in turn, and a user message last");
    }
    for (int32_t i = first; i < n_messages; i += 2) {
        bool begins = i > first || bos, answered = i + 1 < n_messages;
        turn_begin(w, begins);
        write_text(w, "[INST] ");
        if (first && i == first) {
            write_text(w, "<<SYS>>\n");
            write_content(w, &messages[0]);
            write_text(w, "\n<</SYS>>\n\n");
        }
        write_content(w, &messages[i]);
        write_text(w, " [/INST]");
        if (answered) {
            write_text(w, " ");
            write_content(w, &messages[i + 1]);
        }
        enum status status = turn_end(w, begins, answered, err);
        if (status) {
            return status;
        }
    }
    return w->failed ? error_set(err, STATUS_NO_MEMORY, "out of memory for a prompt") : STATUS_OK;
}

enum status chat_template_apply(struct chat_prompt *out, enum chat_template_kind kind,
                                const struct tokenizer *tokenizer, const struct chat_message *messages,
                                int32_t n_messages, enum chat_bos bos, int32_t *bad_message,
                                struct error *err)
{
    struct writer w = {.tokenizer = tokenizer, .prompt = out, .spells_specials = kind != CHAT_TEMPLATE_PLAIN};
    enum status status;
    *out = (struct chat_prompt){0};
    *bad_message = -1;
    switch (kind) {
    case CHAT_TEMPLATE_PLAIN:
        status = write_plain(
            &w, messages, n_messages,
            bos == CHAT_BOS_BY_TEMPLATE ? tokenizer_adds_bos(tokenizer) : bos == CHAT_BOS_ALWAYS, err);
        break;
    case CHAT_TEMPLATE_LLAMA2:
        status = write_llama2(&w, messages, n_messages, bos != CHAT_BOS_NEVER, bad_message, err);
        break;
    default:
        status = error_set(err, STATUS_INVALID, "the chat template of this model is not known");
    }
    if (status) {
        chat_prompt_finish(out);
    }
    return status;
}

void chat_prompt_finish(struct chat_prompt *prompt)
{
    free(prompt->text);
    free(prompt->ids);
    *prompt = (struct chat_prompt){0};
}
