/* Text of one sequence. The detokenizer decides which bytes are certain; this file keeps them, and tells
 * which tokens they cover, so that logprobs never show more than the text does. */
#include "server/text_stream.h"

#include <stdlib.h>
#include <string.h>

#include "tokenizer/token_text.h"

/* Without a tokenizer a token stands for no bytes. */
static const char *piece_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *length)
{
    *length = 0;
    return tokenizer ? tokenizer_piece_bytes(tokenizer, id, length) : "";
}

enum status text_stream_init(struct text_stream *s, const struct tokenizer *tokenizer,
                             const struct text_stream_options *options, struct error *err)
{
    bool after_prompt = false;
    for (int32_t i = 0; i < options->n_prompt_ids && !after_prompt && !options->is_answer; i++) {
        size_t length;
        piece_bytes(tokenizer, options->prompt_ids[i], &length);
        after_prompt = length > 0;
    }
    *s = (struct text_stream){.tokenizer = tokenizer,
                              .min_tokens = options->min_tokens,
                              .at_begin = options->echo_text || !after_prompt,
                              .answer_at_begin = !after_prompt,
                              .raw_limit = options->echo_bytes,
                              .stop_index = -1};
    struct detokenizer_options decode = {.stops = options->stops,
                                         .stop_bytes = options->stop_bytes,
                                         .n_stops = options->n_stops,
                                         .include_stop = options->include_stop,
                                         .after_prompt = after_prompt};
    enum status status = tokenizer ? detokenizer_open(&s->detokenizer, tokenizer, &decode, err) : STATUS_OK;
    if (status) {
        return status;
    }
    for (int32_t i = options->n_stops - options->n_template_stops; i < options->n_stops; i++) {
        s->hidden_bytes[i] = options->include_stop ? options->stop_bytes[i] : 0;
    }
    if (options->echo_text) {
        buffer_append(&s->text, options->echo_text, options->echo_bytes);
    }
    if (s->text.failed) {
        text_stream_finish(s);
        return error_set(err, STATUS_NO_MEMORY, "out of memory for an echoed prompt");
    }
    return STATUS_OK;
}

void text_stream_finish(struct text_stream *s)
{
    detokenizer_close(s->detokenizer);
    for (int64_t i = 0; i < s->n_tokens; i++) {
        free(s->tokens[i].top);
    }
    free(s->tokens);
    buffer_finish(&s->text);
    *s = (struct text_stream){0};
}

static void text_stream_release(struct text_stream *s)
{
    while (s->n_released < s->n_tokens) {
        const struct token_record *record = &s->tokens[s->n_released];
        /* At the end a token that begins inside the text is shown up to where a stop string cut it; one that
         * lies behind the cut is not shown at all. Tokens without bytes go out in their turn. */
        bool inside = record->end <= s->text.length;
        bool cut = s->ended && record->begin < s->text.length;
        if (!inside && !cut) {
            break;
        }
        s->n_released++;
    }
}

static struct token_record *text_stream_record(struct text_stream *s, int32_t id,
                                               const struct token_event *event)
{
    if (s->n_tokens == s->tokens_capacity) {
        int64_t capacity = s->tokens_capacity ? s->tokens_capacity * 2 : 16;
        struct token_record *tokens = realloc(s->tokens, (size_t)capacity * sizeof *tokens);
        if (!tokens) {
            s->failed = true;
            return NULL;
        }
        s->tokens = tokens;
        s->tokens_capacity = capacity;
    }
    struct token_record *record = &s->tokens[s->n_tokens];
    *record = (struct token_record){.id = id, .begin = s->raw_end, .end = s->raw_end};
    if (event && event->logprob.id == id) {
        record->has_logprob = true;
        record->logprob = event->logprob.logprob;
    }
    if (event && event->n_top > 0) {
        record->top = malloc((size_t)event->n_top * sizeof *record->top);
        if (!record->top) {
            s->failed = true;
            return NULL;
        }
        memcpy(record->top, event->top, (size_t)event->n_top * sizeof *record->top);
        record->n_top = event->n_top;
    }
    s->n_tokens++;
    if (s->tokenizer) { /* as the detokenizer does */
        size_t whole, length;
        tokenizer_piece_bytes(s->tokenizer, id, &whole);
        token_text(s->tokenizer, id, &s->at_begin, &length);
        record->n_stripped = (uint8_t)(whole - length);
        record->end += length;
    }
    return record;
}

void text_stream_push_prompt(struct text_stream *s, int32_t id, const struct token_event *event)
{
    struct token_record *record = text_stream_record(s, id, event);
    if (!record) {
        return;
    }
    s->n_prompt_tokens = s->n_tokens;
    /* The tokenizer may have normalized the text that is echoed as it came: positions are then near, not
     * exact. */
    if (record->end > s->raw_limit) {
        record->end = s->raw_limit;
    }
    s->raw_end = record->end;
    text_stream_release(s);
}

/* The stop string that matched came out whole with the last bytes: one of a template is taken off again. */
static void text_stream_stop(struct text_stream *s, int32_t stop_index)
{
    s->stop_index = stop_index;
    if (s->hidden_bytes[stop_index] <= s->text.length) {
        s->text.length -= s->hidden_bytes[stop_index];
    }
}

bool text_stream_push(struct text_stream *s, const struct token_event *event)
{
    if (s->ended) {
        return s->stop_index >= 0;
    }
    if (!s->n_generated && s->raw_end < s->raw_limit) {
        s->raw_end = s->raw_limit;
    }
    if (!s->n_generated++) {
        s->at_begin = s->answer_at_begin;
    }
    struct token_record *record = text_stream_record(s, event->token, event);
    if (!record) {
        return false;
    }
    if (event->is_stop) {
        record->hidden = true;
        record->end = record->begin;
        text_stream_release(s);
        return false;
    }
    s->raw_end = record->end;
    const char *text = NULL;
    size_t length = 0;
    int32_t stop_index = -1;
    bool stopped =
        s->detokenizer && detokenizer_push(s->detokenizer, event->token, s->n_generated >= s->min_tokens,
                                           &text, &length, &stop_index);
    buffer_append(&s->text, text, length);
    s->failed |= s->text.failed;
    if (stopped) {
        text_stream_stop(s, stop_index);
        s->ended = true;
    }
    text_stream_release(s);
    return stopped;
}

void text_stream_end(struct text_stream *s)
{
    if (!s->ended && s->detokenizer) {
        const char *text = NULL;
        size_t length = 0;
        detokenizer_finish(s->detokenizer, &text, &length);
        buffer_append(&s->text, text, length);
        s->failed |= s->text.failed;
        int32_t stop_index = -1;
        if (detokenizer_stopped(s->detokenizer, &stop_index)) { /* it had waited for a longer one */
            text_stream_stop(s, stop_index);
        }
    }
    s->ended = true;
    text_stream_release(s);
}

const char *text_stream_token_bytes(const struct text_stream *s, int32_t id,
                                    const struct token_record *record, size_t *length)
{
    const char *bytes = piece_bytes(s->tokenizer, id, length);
    if (record && *length) {
        /* Shown bytes: without a stripped leading space, and not beyond the cut of a stop string. */
        bytes += record->n_stripped;
        *length -= record->n_stripped;
        if (record->end > s->text.length && record->begin < s->text.length) {
            size_t left = s->text.length - record->begin;
            *length = left < *length ? left : *length;
        }
    }
    return bytes;
}

void text_stream_token_name(const struct text_stream *s, int32_t id, const struct token_record *record,
                            struct buffer *out)
{
    size_t length;
    piece_bytes(s->tokenizer, id, &length);
    if (!s->tokenizer) {
        buffer_printf(out, "token_id:%d", (int)id);
        return;
    }
    if (!length) {
        buffer_text(out, tokenizer_piece(s->tokenizer, id));
        return;
    }
    const char *bytes = text_stream_token_bytes(s, id, record, &length);
    size_t whole = 0;
    while (whole < length) {
        size_t n = utf8_sequence(bytes + whole, length - whole);
        if (!n) {
            break;
        }
        whole += n;
    }
    if (whole == length) {
        buffer_append(out, bytes, length);
        return;
    }
    buffer_text(out, "bytes:");
    for (size_t i = 0; i < length; i++) {
        buffer_printf(out, "\\x%02x", (unsigned char)bytes[i]);
    }
}
