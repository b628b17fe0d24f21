/* Streaming decode of one sequence: ids in, whole UTF-8 text out. Holds bytes back until a UTF-8 sequence is
 * whole, and while they may be the beginning of a stop string. The concatenation of everything given out
 * equals the text that one non-streaming pass gives, byte for byte. Everything given out is valid UTF-8. Time
 * is linear in the bytes. */
#ifndef TOKENIZER_DETOKENIZER_H
#define TOKENIZER_DETOKENIZER_H

#include "tokenizer/tokenizer.h"

/* 16 of a client and CHAT_TEMPLATE_MAX_STOPS of a template. */
enum { DETOKENIZER_MAX_STOPS = 20, DETOKENIZER_MAX_STOP_BYTES = 256 };

struct detokenizer;

struct detokenizer_options {
    const char *const *stops; /* n_stops strings of stop_bytes[i] in 1..256 bytes of valid UTF-8, copied */
    const size_t *stop_bytes;
    int32_t n_stops;
    bool include_stop; /* the matched stop string is part of the text */
    bool after_prompt; /* the text continues a prompt: keep a leading space of the first token; when
                        * false the dummy space at the beginning is removed, as tokenizer_decode does */
};

/* STATUS_INVALID with the offending stop string's number. The tokenizer must outlive the detokenizer. */
enum status detokenizer_open(struct detokenizer **out, const struct tokenizer *tokenizer,
                             const struct detokenizer_options *options, struct error *err);
void detokenizer_close(struct detokenizer *d); /* accepts NULL */

/* Adds one id. Whole text that is now certain is at *text (valid until the next call; not terminated),
 * *length bytes, maybe 0. match_stops false holds stop strings off (min_tokens): bytes of such ids never take
 * part in a match. Returns true when a stop string matched: the text ends there, *stop_index (may be NULL)
 * tells which; of several that match, the one that begins first, then the longest. Further ids are then
 * ignored. Invalid bytes become U+FFFD as soon as they are known to be invalid (maximal subpart practice of
 * the Unicode standard). */
bool detokenizer_push(struct detokenizer *d, int32_t id, bool match_stops, const char **text, size_t *length,
                      int32_t *stop_index);

/* Ends the sequence: what was held back, unfinished bytes as one U+FFFD. A stop string that was found but
 * waited for a longer or earlier one to be ruled out counts here: ask detokenizer_stopped afterwards. */
void detokenizer_finish(struct detokenizer *d, const char **text, size_t *length);

/* Whether a stop string has ended the text, in push or in finish; *stop_index (may be NULL) tells which, else
 * -1. */
bool detokenizer_stopped(const struct detokenizer *d, int32_t *stop_index);

#endif
