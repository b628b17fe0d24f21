/* Tokens of one sequence -> its text, token by token, with stop strings. What HTTP answers and `any4
 * generate` share: the whole text and the record of every token are kept, and readers hold cursors into both.
 */
#ifndef SERVER_TEXT_STREAM_H
#define SERVER_TEXT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"
#include "server/buffer.h"
#include "tokenizer/detokenizer.h"
#include "tokenizer/tokenizer.h"

struct token_record {
    int32_t id;
    bool has_logprob; /* false: the first prompt token, or none asked for */
    bool hidden;      /* ends the sequence (EOS or a stop id): an id, but no text */
    float logprob;
    uint8_t n_stripped; /* first bytes of the token that the text is without */
    size_t begin, end;  /* the bytes of text that it stands for */
    int32_t n_top;
    struct token_logprob *top; /* n_top alternatives, best first */
};

/* How far characters were counted; only goes on. */
struct text_cursor {
    size_t bytes;
    int64_t chars;
};

struct text_stream {
    const struct tokenizer *tokenizer;
    struct detokenizer *detokenizer;
    struct buffer text; /* what the client may see so far */
    struct token_record *tokens;
    int64_t n_tokens, tokens_capacity;
    int64_t n_released;      /* tokens[0, n_released) lie wholly inside text */
    int64_t n_prompt_tokens; /* the first of tokens: an echoed prompt's */
    size_t raw_end;          /* where the next token's bytes begin */
    size_t raw_limit;        /* an echoed prompt's tokens never reach beyond its text */
    bool at_begin;           /* as in token_text */
    bool answer_at_begin;    /* at_begin of the first generated token */
    bool ended;
    bool failed; /* out of memory */
    int32_t min_tokens, n_generated;
    int32_t stop_index;                         /* the stop string that matched, else -1 */
    size_t hidden_bytes[DETOKENIZER_MAX_STOPS]; /* of each stop string: bytes to cut when it matched */
};

struct text_stream_options {
    const char *const *stops;
    const size_t *stop_bytes;
    int32_t n_stops;
    int32_t n_template_stops; /* the last of n_stops: never shown, whatever include_stop says */
    bool include_stop;
    bool is_answer;     /* a text of its own, also after a visible prompt: it loses one leading space */
    int32_t min_tokens; /* stop strings are held off until then */
    const int32_t *prompt_ids; /* n_prompt_ids: whether the text goes on from something visible */
    int32_t n_prompt_ids;
    const char *echo_text; /* the prompt to begin with, or NULL */
    size_t echo_bytes;
};

/* tokenizer NULL: records of tokens without any text; then there are no stop strings and no echo. */
enum status text_stream_init(struct text_stream *s, const struct tokenizer *tokenizer,
                             const struct text_stream_options *options, struct error *err);
void text_stream_finish(struct text_stream *s); /* accepts zeroed memory */

/* One token of the echoed prompt, with its logprob; NULL for none. Before any other token. */
void text_stream_push_prompt(struct text_stream *s, int32_t id, const struct token_event *event);
/* One generated token. Returns true when a stop string matched: the text has ended. */
bool text_stream_push(struct text_stream *s, const struct token_event *event);
/* The sequence is over: held-back bytes come out. Idempotent. */
void text_stream_end(struct text_stream *s);

/* A token as logprobs show it: its text, `bytes:\xNN` if that is no whole UTF-8, the vocabulary's spelling if
 * it has none, `token_id:N` without a tokenizer. record may be NULL (an alternative); a record that a stop
 * string cut shows what is left of it.
 */
void text_stream_token_name(const struct text_stream *s, int32_t id, const struct token_record *record,
                            struct buffer *out);
/* The bytes behind that name (length 0 for a control token): valid as long as the tokenizer. */
const char *text_stream_token_bytes(const struct text_stream *s, int32_t id,
                                    const struct token_record *record, size_t *length);

#endif
