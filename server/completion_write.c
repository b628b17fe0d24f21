/* Completion JSON: choices, logprobs, usage, for texts and for chat messages. A whole text is one chunk that
 * covers everything; a message in a stream has its end in a chunk of its own. */
#include "server/completion_write.h"

#include <inttypes.h>
#include <string.h>

#include "server/sse.h"

const char *finish_reason_name(enum finish_reason reason)
{
    return reason == FINISH_STOP ? "stop" : reason == FINISH_LENGTH ? "length" : NULL;
}

static void write_head(struct buffer *out, const struct completion *c, const struct completion_style *style,
                       bool chunk)
{
    const char *object = !c->request.chat ? "text_completion"
                         : chunk          ? "chat.completion.chunk"
                                          : "chat.completion";
    buffer_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%" PRId64 ",\"model\":", c->id, object,
                  c->created);
    buffer_json_text(out, style->model);
    buffer_text(out, ",\"system_fingerprint\":");
    buffer_json_text(out, style->system_fingerprint);
    buffer_text(out, ",\"choices\":");
}

static void write_usage(struct buffer *out, const struct completion *c)
{
    struct completion_usage u;
    completion_get_usage(c, &u);
    buffer_printf(out,
                  "{\"prompt_tokens\":%" PRId64 ",\"completion_tokens\":%" PRId64 ",\"total_tokens\":%" PRId64
                  ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRId64,
                  u.prompt_tokens, u.completion_tokens, u.prompt_tokens + u.completion_tokens,
                  u.cached_tokens);
    if (c->request.truncate_prompt_tokens) {
        buffer_printf(out, ",\"truncated_tokens\":%" PRId64, u.truncated_tokens);
    }
    buffer_text(out, "}}");
}

void completion_write_timings(struct buffer *out, const struct completion *c)
{
    struct completion_times t;
    completion_get_times(c, &t);
    buffer_printf(out,
                  "{\"queue_ms\":%.3f,\"prefill_ms\":%.3f,\"ttft_ms\":%.3f,\"decode_ms\":%.3f,"
                  "\"tokens_per_s\":%.3f,\"seed\":%" PRId64 "}",
                  t.queue_ms, t.prefill_ms, t.ttft_ms, t.decode_ms, t.tokens_per_s,
                  (int64_t)c->request.params.seed);
}

/* Code points that begin before byte `at`; a token that begins inside a character counts from that character.
 */
static int64_t char_offset(const struct text_stream *s, size_t at, struct text_cursor *seen)
{
    const char *text = s->text.data;
    size_t end = at < s->text.length ? at : s->text.length;
    for (; seen->bytes < end; seen->bytes++) {
        seen->chars += ((unsigned char)text[seen->bytes] & 0xc0) != 0x80;
    }
    bool inside = end < s->text.length && ((unsigned char)text[end] & 0xc0) == 0x80;
    return seen->chars - inside;
}

static void write_token_name(struct buffer *out, const struct text_stream *s, int32_t id,
                             const struct token_record *record, struct buffer *name)
{
    name->length = 0;
    text_stream_token_name(s, id, record, name);
    buffer_json_string(out, buffer_string(name), name->length);
}

/* One position's alternatives as an object. The chosen token is always there. Two ids may look the same: the
 * less likely one is named by its id, as an object may not have a key twice. */
static void write_top(struct buffer *out, const struct text_stream *s, const struct token_record *record,
                      struct buffer *scratch)
{
    struct token_logprob all[ENGINE_MAX_LOGPROBS + 1];
    char digests[ENGINE_MAX_LOGPROBS + 1][32];
    size_t lengths[ENGINE_MAX_LOGPROBS + 1];
    int32_t n = 0;
    bool has_chosen = false;
    for (int32_t i = 0; i < record->n_top && n < ENGINE_MAX_LOGPROBS; i++) {
        has_chosen |= record->top[i].id == record->id;
        all[n++] = record->top[i];
    }
    if (!has_chosen) {
        all[n++] = (struct token_logprob){record->id, record->logprob};
    }
    buffer_text(out, "{");
    for (int32_t i = 0; i < n; i++) {
        bool twin = false;
        scratch->length = 0;
        text_stream_token_name(s, all[i].id, all[i].id == record->id ? record : NULL, scratch);
        /* Twins are short (a byte token and the letter it stands for): a prefix and the length tell. */
        lengths[i] = scratch->length;
        memset(digests[i], 0, sizeof digests[i]);
        memcpy(digests[i], buffer_string(scratch),
               scratch->length < sizeof digests[i] ? scratch->length : sizeof digests[i]);
        for (int32_t j = 0; j < i; j++) {
            twin |= lengths[j] == lengths[i] && !memcmp(digests[j], digests[i], sizeof digests[i]);
        }
        buffer_text(out, i ? "," : "");
        if (twin) {
            buffer_printf(out, "\"token_id:%d\"", (int)all[i].id);
        } else {
            buffer_json_string(out, buffer_string(scratch), scratch->length);
        }
        buffer_text(out, ":");
        buffer_json_float(out, all[i].logprob);
    }
    buffer_text(out, "}");
}

/* {"token", "logprob", "bytes" without the closing brace; bytes is null for a control token. */
static void write_chat_token(struct buffer *out, const struct text_stream *s, int32_t id, float logprob,
                             const struct token_record *record, struct buffer *scratch)
{
    size_t length = 0;
    bool has_bytes = text_stream_token_bytes(s, id, NULL, &length) && length > 0;
    buffer_text(out, "{\"token\":");
    write_token_name(out, s, id, record, scratch);
    buffer_text(out, ",\"logprob\":");
    buffer_json_float(out, logprob);
    buffer_text(out, ",\"bytes\":");
    if (!has_bytes) {
        buffer_text(out, "null");
        return;
    }
    const unsigned char *bytes = (const unsigned char *)text_stream_token_bytes(s, id, record, &length);
    buffer_text(out, "[");
    for (size_t i = 0; i < length; i++) {
        buffer_printf(out, i ? ",%d" : "%d", bytes[i]);
    }
    buffer_text(out, "]");
}

/* The same tokens as below, each with its alternatives: a list, where two may look the same. */
static void write_chat_logprobs(struct buffer *out, const struct text_stream *s, int64_t first)
{
    struct buffer scratch = {0};
    bool any = false;
    buffer_text(out, "{\"content\":[");
    for (int64_t i = first; i < s->n_released; i++) {
        const struct token_record *record = &s->tokens[i];
        if (record->hidden) {
            continue;
        }
        buffer_text(out, any ? "," : "");
        any = true;
        write_chat_token(out, s, record->id, record->logprob, record, &scratch);
        buffer_text(out, ",\"top_logprobs\":[");
        for (int32_t j = 0; j < record->n_top; j++) {
            const struct token_logprob *top = &record->top[j];
            buffer_text(out, j ? "," : "");
            write_chat_token(out, s, top->id, top->logprob, top->id == record->id ? record : NULL, &scratch);
            buffer_text(out, "}");
        }
        buffer_text(out, "]}");
    }
    buffer_text(out, "]}");
    out->failed |= scratch.failed;
    buffer_finish(&scratch);
}

/* Tokens [first, s->n_released) without those that end the sequence. */
static void write_logprobs(struct buffer *out, const struct completion *c, const struct text_stream *s,
                           int64_t first, struct text_cursor *seen)
{
    if (c->request.params.logprobs < 0 || c->request.hide_logprobs) {
        buffer_text(out, "null");
        return;
    }
    if (c->request.chat) {
        write_chat_logprobs(out, s, first);
        return;
    }
    struct buffer scratch = {0}, tokens = {0}, values = {0}, tops = {0}, offsets = {0};
    int64_t n = 0;
    for (int64_t i = first; i < s->n_released; i++) {
        const struct token_record *record = &s->tokens[i];
        if (record->hidden) {
            continue;
        }
        const char *comma = n++ ? "," : "";
        buffer_text(&tokens, comma);
        write_token_name(&tokens, s, record->id, record, &scratch);
        buffer_text(&values, comma);
        buffer_text(&tops, comma);
        if (record->has_logprob) {
            buffer_json_float(&values, record->logprob);
            write_top(&tops, s, record, &scratch);
        } else {
            buffer_text(&values, "null");
            buffer_text(&tops, "null");
        }
        buffer_text(&offsets, comma);
        buffer_printf(&offsets, "%" PRId64, char_offset(s, record->begin, seen));
    }
    buffer_text(out, "{\"tokens\":[");
    buffer_append(out, tokens.data, tokens.length);
    buffer_text(out, "],\"token_logprobs\":[");
    buffer_append(out, values.data, values.length);
    if (c->request.params.logprobs > 0) {
        buffer_text(out, "],\"top_logprobs\":[");
        buffer_append(out, tops.data, tops.length);
        buffer_text(out, "],\"text_offset\":[");
    } else {
        buffer_text(out, "],\"top_logprobs\":null,\"text_offset\":[");
    }
    buffer_append(out, offsets.data, offsets.length);
    buffer_text(out, "]}");
    out->failed |= tokens.failed || values.failed || tops.failed || offsets.failed || scratch.failed;
    buffer_finish(&scratch);
    buffer_finish(&tokens);
    buffer_finish(&values);
    buffer_finish(&tops);
    buffer_finish(&offsets);
}

/* Generated ids from the first-th on: all that were counted, also those of a stop string or EOS. */
static void write_ids(struct buffer *out, const struct completion *c, const struct choice *choice,
                      int64_t first)
{
    const struct text_stream *s = &choice->stream;
    const struct completion_prompt *prompt = &c->request.prompts[choice->prompt];
    buffer_text(out, ",\"prompt_token_ids\":");
    if (first) {
        buffer_text(out, "null");
    } else {
        buffer_json_ids(out, prompt->ids, prompt->n_ids);
    }
    buffer_text(out, ",\"token_ids\":[");
    for (int64_t i = s->n_prompt_tokens + first; i < s->n_tokens; i++) {
        buffer_printf(out, i > s->n_prompt_tokens + first ? ",%d" : "%d", (int)s->tokens[i].id);
    }
    buffer_text(out, "]");
}

/* What of a choice one entry of choices shows. */
struct part {
    struct text_cursor *cursor; /* not behind the first token */
    size_t text_from;
    int64_t tokens_from, ids_from;
    bool delta; /* of a chat stream: message is called delta */
    bool begin; /* ... names the role */
    bool end;   /* says how the choice ended */
};

void completion_write_text(struct buffer *out, const struct completion *c, const char *text, size_t length)
{
    if (c->tokenizer) {
        buffer_json_string(out, text, length);
    } else {
        buffer_text(out, "null");
    }
}

static void write_part_text(struct buffer *out, const struct completion *c, const struct text_stream *s,
                            const struct part *part)
{
    const char *text = s->text.length > part->text_from ? s->text.data + part->text_from : "";
    size_t length = s->text.length - part->text_from;
    if (!c->request.chat) {
        buffer_text(out, ",\"text\":");
        completion_write_text(out, c, text, length);
        return;
    }
    buffer_printf(out, ",\"%s\":{", part->delta ? "delta" : "message");
    if (part->begin) {
        buffer_text(out, "\"role\":\"assistant\",");
    }
    if (part->begin || !part->end) {
        buffer_text(out, "\"content\":");
        buffer_json_string(out, text, length);
    }
    buffer_text(out, "}");
}

static void write_choice(struct buffer *out, const struct completion *c, const struct choice *choice,
                         int32_t index, const struct part *part)
{
    const struct text_stream *s = &choice->stream;
    const struct completion_request *r = &c->request;
    buffer_printf(out, "{\"index\":%d", (int)index);
    write_part_text(out, c, s, part);
    buffer_text(out, ",\"logprobs\":");
    write_logprobs(out, c, s, part->tokens_from, part->cursor);
    buffer_text(out, ",\"finish_reason\":");
    buffer_json_text(out, part->end ? finish_reason_name(choice->reason) : NULL);
    buffer_text(out, ",\"stop_reason\":");
    if (part->end && s->stop_index >= 0 && s->stop_index < r->n_stops) {
        buffer_json_string(out, r->stops[s->stop_index], r->stop_bytes[s->stop_index]);
    } else if (part->end && s->stop_index < 0 && choice->stop_token >= 0) {
        buffer_printf(out, "%d", (int)choice->stop_token);
    } else {
        buffer_text(out, "null");
    }
    if (r->return_token_ids) {
        write_ids(out, c, choice, part->ids_from);
    }
    buffer_text(out, "}");
}

void completion_write_choices(struct buffer *out, const struct completion *c)
{
    int32_t n = c->request.n_prompts * c->request.n;
    buffer_text(out, "[");
    for (int32_t i = 0; i < n; i++) {
        struct text_cursor cursor = {0};
        const struct part whole = {.cursor = &cursor, .begin = true, .end = true};
        buffer_text(out, i ? "," : "");
        write_choice(out, c, &c->choices[completion_pick(c, i)], i, &whole);
    }
    buffer_text(out, "]");
}

void completion_write(struct buffer *out, const struct completion *c, const struct completion_style *style)
{
    write_head(out, c, style, false);
    completion_write_choices(out, c);
    buffer_text(out, ",\"usage\":");
    write_usage(out, c);
    if (c->request.return_timings) {
        buffer_text(out, ",\"timings\":");
        completion_write_timings(out, c);
    }
    buffer_text(out, "}");
}

/* A chunk up to its choices, which is the same in all of a stream: written once, for it is most of a chunk.
 */
static void write_chunk_head(struct buffer *out, struct completion *c, const struct completion_style *style)
{
    if (!c->chunk_head.length) {
        sse_begin_data(&c->chunk_head);
        write_head(&c->chunk_head, c, style, true);
    }
    buffer_append(out, c->chunk_head.data, c->chunk_head.length);
    out->failed |= c->chunk_head.failed;
}

static void write_chunk(struct buffer *out, struct completion *c, struct choice *choice, int32_t index,
                        const struct completion_style *style, bool end)
{
    const struct part part = {.cursor = &choice->cursor,
                              .text_from = choice->text_sent,
                              .tokens_from = choice->tokens_sent,
                              .ids_from = choice->ids_sent,
                              .delta = true,
                              .begin = !choice->chunks_sent,
                              .end = end};
    write_chunk_head(out, c, style);
    buffer_text(out, "[");
    write_choice(out, c, choice, index, &part);
    buffer_text(out, "],\"usage\":");
    if (c->request.continuous_usage) {
        write_usage(out, c);
    } else {
        buffer_text(out, "null");
    }
    if (c->request.return_timings && end && completion_is_finished(c)) {
        buffer_text(out, ",\"timings\":");
        completion_write_timings(out, c);
    }
    buffer_text(out, "}");
    sse_end_data(out);
    choice->text_sent = choice->stream.text.length;
    choice->tokens_sent = choice->stream.n_released;
    choice->ids_sent = choice->stream.n_tokens - choice->stream.n_prompt_tokens;
    choice->chunks_sent++;
    choice->end_sent = end;
}

void completion_write_chunks(struct buffer *out, struct completion *c, const struct completion_style *style)
{
    bool was_complete = true;
    for (int32_t i = 0; i < c->n_submitted; i++) {
        struct choice *choice = &c->choices[i];
        was_complete &= choice->end_sent;
        bool started = choice->stream.n_generated || choice->finished; /* an echo waits for the first token */
        bool news = choice->stream.text.length > choice->text_sent;
        if (!started || choice->end_sent) {
            continue;
        }
        /* A text carries its end with its last piece. A message says who speaks, then what, then that it is
         * over: in a chunk of its own, whose delta is empty. */
        if (c->request.chat ? news || (choice->finished && !choice->chunks_sent)
                            : news && !choice->finished) {
            write_chunk(out, c, choice, i, style, false);
        }
        if (choice->finished) {
            write_chunk(out, c, choice, i, style, true);
        }
    }
    if (completion_is_finished(c) && !was_complete && c->request.include_usage) {
        write_chunk_head(out, c, style);
        buffer_text(out, "[],\"usage\":");
        write_usage(out, c);
        buffer_text(out, "}");
        sse_end_data(out);
    }
}
