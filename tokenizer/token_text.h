/* What one token adds to a text: shared by the whole and the streaming decode, and by records of where tokens
 * lie in a text. */
#ifndef TOKENIZER_TOKEN_TEXT_H
#define TOKENIZER_TOKEN_TEXT_H

#include "tokenizer/tokenizer.h"

/* The bytes that id adds. *at_begin: nothing of the text is out yet, and the space that encoding put in front
 * is to be left out; the call clears it when that is over. Start with true for a text of its own, with false
 * for one that goes on. Empty for control ids and ids out of range. */
const char *token_text(const struct tokenizer *tokenizer, int32_t id, bool *at_begin, size_t *length);

/* No token adds more bytes than this. */
size_t token_text_max_bytes(const struct tokenizer *tokenizer);

#endif
