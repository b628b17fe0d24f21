/* The folder of cached models as a whole: how much lies in it, and what of it has to go. Only files named as
 * ours are seen, METHOD-KEY-CONTENT.safetensors and HASH.source. */
#ifndef ENGINE_CACHE_FOLDER_H
#define ENGINE_CACHE_FOLDER_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"

/* Removes the cached models that were used longest ago until those that are left and n_bytes more take at
 * most max_bytes; `keep` (a path, may not exist) stays and is not counted. STATUS_INVALID, and nothing is
 * removed, where n_bytes alone are more. */
enum status cache_folder_make_room(const char *folder, const char *keep, size_t n_bytes, size_t max_bytes,
                                   struct error *err);

/* The file was used now. Does nothing where the folder cannot be written. */
void cache_folder_touch(const char *path);

/* The content that a note tells, into out (HASH_TEXT_BYTES); false where there is no note that is whole. */
typedef bool cache_note_reader(char *out, const char *path);

/* Whether a note other than `except` (a path) tells of this content. */
bool cache_folder_has_note(const char *folder, const char *content, const char *except,
                           cache_note_reader *read);

#endif
