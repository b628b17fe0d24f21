/* The folder of cached models as a whole: how much lies in it, and what of it has to go. Only files named as
 * ours are looked at: METHOD-KEY-CONTENT.safetensors and HASH.source. */
#ifndef ENGINE_CACHE_FOLDER_H
#define ENGINE_CACHE_FOLDER_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"

/* Removes the cached models whose last start is longest ago until all together take at most max_bytes; `keep`
 * (a path) stays. What cannot be removed stays too: STATUS_IO where it is too much then, or where the folder
 * cannot be read. */
enum status cache_folder_trim(const char *folder, const char *keep, size_t max_bytes, struct error *err);

/* A model was started from this file now. Does nothing where the file is somebody else's. */
void cache_folder_touch(const char *path);

/* The content that a note tells, into out (HASH_TEXT_BYTES); false where there is no note that is whole. */
typedef bool cache_note_reader(char *out, const char *path);

/* Whether a note other than `except` (a path) tells of this content. */
bool cache_folder_has_note(const char *folder, const char *content, const char *except,
                           cache_note_reader *read);

#endif
