/* A file that appears whole or not at all: written under a temporary name in its folder, synced, renamed.
 * What stood under its name stays until then, and for good when writing fails. */
#ifndef ENGINE_BASE_ATOMIC_FILE_H
#define ENGINE_BASE_ATOMIC_FILE_H

#include <stddef.h>

#include "engine/base/status.h"

enum { ATOMIC_FILE_PATH_BYTES = 4096 };

struct atomic_file {
    int fd;           /* to write to */
    const char *path; /* borrowed */
    char temporary[ATOMIC_FILE_PATH_BYTES];
};

/* Creates the temporary file, and removes those that others left in the folder who died over theirs. Errors
 * name the folder. */
enum status atomic_file_open(struct atomic_file *file, const char *path, struct error *err);
/* Exactly one of the two ends an opened one: syncs and renames it (on failure it is removed), or removes it.
 */
enum status atomic_file_commit(struct atomic_file *file, struct error *err);
void atomic_file_abandon(struct atomic_file *file);

/* Appends n bytes; STATUS_IO with the path and the system's reason. */
enum status atomic_file_write(struct atomic_file *file, const void *bytes, size_t n, struct error *err);

#endif
