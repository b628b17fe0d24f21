/* Proves a normalizer's precompiled_charsmap safe to search: the library walks its double-array trie without
 * looking at any bound. */
#ifndef TOKENIZER_CHARSMAP_CHECK_H
#define TOKENIZER_CHARSMAP_CHECK_H

#include <stddef.h>

#include "engine/base/status.h"

/* Layout: u32 trie bytes, double-array units (u32, little endian), NUL-terminated replacements. An empty map
 * is well. *max_replacement_bytes: the longest replacement in reach. STATUS_BAD_MODEL sets *reason (static
 * text that goes on after the field's name); STATUS_NO_MEMORY does not. */
enum status charsmap_check(const unsigned char *bytes, size_t n_bytes, size_t *max_replacement_bytes,
                           const char **reason);

#endif
