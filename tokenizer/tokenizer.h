/* text <-> token ids: knows bytes, never logits. Reads sentencepiece's tokenizer.model (Llama 2, Mistral
 * v1..v3, Mixtral); a folder that has only tokenizer.json is refused plainly. Thread-safe after open: const
 * everywhere. */
#ifndef TOKENIZER_TOKENIZER_H
#define TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct tokenizer;

enum { TOKENIZER_MAX_MODEL_BYTES = 64 << 20, TOKENIZER_MAX_EOS = 16 };

/* The longest text that tokenizer_encode takes (1 MB takes about 3 s and 120 MB with a 32000-piece model, 16
 * kB 17 ms); the second one for models without byte fallback, where the library needs quadratic time for
 * characters that it does not know. */
enum { TOKENIZER_MAX_TEXT_BYTES = 16 << 20, TOKENIZER_MAX_TEXT_BYTES_NO_FALLBACK = 256 << 10 };

/* Opens folder/tokenizer.model and takes special ids from the folder: bos_token_id and eos_token_id (int or
 * list) of generation_config.json win over config.json's, then the model's own; add_bos_token from
 * tokenizer_config.json (default true). Tokens that added_tokens.json or tokenizer_config.json put beyond the
 * sentencepiece vocabulary are not read: as special ids they work, in a text they decode to nothing, and no
 * text encodes to them. STATUS_NOT_FOUND with the missing path named, STATUS_BAD_MODEL with file and key
 * named. */
enum status tokenizer_open(struct tokenizer **out, const char *folder, struct error *err);

/* The same from the bytes of a tokenizer.model alone, which may be any bytes at all; path is for messages. */
enum status tokenizer_open_model(struct tokenizer **out, const void *bytes, size_t n_bytes, const char *path,
                                 struct error *err);
void tokenizer_close(struct tokenizer *tokenizer); /* accepts NULL */

int32_t tokenizer_n_tokens(const struct tokenizer *tokenizer);
int32_t tokenizer_bos(const struct tokenizer *tokenizer); /* -1: none */
bool tokenizer_adds_bos(const struct tokenizer *tokenizer);
bool tokenizer_is_eos(const struct tokenizer *tokenizer, int32_t id);
const int32_t *tokenizer_eos_ids(const struct tokenizer *tokenizer, int32_t *n);

/* Encodes length bytes of text (any bytes; each byte of invalid UTF-8 goes in as U+FFFD; "<s>" in text is
 * plain text, but what the vocabulary lists as a user-defined symbol is that symbol). *ids (malloc; free it)
 * gets *n_ids ids, with BOS first if add_bos and the tokenizer has one. STATUS_INVALID: longer than the
 * limits above. */
enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length, bool add_bos,
                             int32_t **ids, int32_t *n_ids, struct error *err);

/* A number of tokens that encoding this text gives at least, without encoding it: its bytes over the longest
 * token's, rounded down, so that parts may be added up. Spaces at its ends do not count, and none do where
 * the model makes several of them one. 0 for models that may shorten a text in other ways. */
int64_t tokenizer_min_tokens(const struct tokenizer *tokenizer, const char *text, size_t length);

/* The whole decode of ids as sentencepiece does it (leading dummy space removed, control ids give nothing,
 * byte ids give their byte). *text: malloc, terminated; length in *length (it may hold NUL bytes and invalid
 * UTF-8). */
enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, int32_t n_ids,
                             char **text, size_t *length, struct error *err);

/* The bytes that id adds to a text that goes on (a leading space kept): pointer into the tokenizer, length in
 * *length; empty for control ids and ids out of range. */
const char *tokenizer_piece_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *length);
/* The vocabulary's own spelling, e.g. "\xe2\x96\x81the" or "<0x0A>": terminated; "" when out of range. */
const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id);

#ifdef __cplusplus
}
#endif
#endif
