#include "engine/cache_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/atomic_file.h"
#include "engine/base/hash.h"
#include "engine/base/log.h"
#include "quant/quantize.h"

enum { PATH_BYTES = ATOMIC_FILE_PATH_BYTES, HASH_DIGITS = HASH_TEXT_BYTES - 1 };

static const char model_suffix[] = ".safetensors", note_suffix[] = ".source";

struct cached_model {
    char path[PATH_BYTES];
    size_t n_bytes;
    struct timespec used;
};

static bool has_suffix(const char *name, const char *suffix)
{
    const size_t length = strlen(name), end = strlen(suffix);
    return length >= end && !strcmp(name + length - end, suffix);
}

/* 32 digits as hash_text writes them. */
static bool is_hash(const char *text)
{
    return strspn(text, "0123456789abcdef") >= HASH_DIGITS;
}

/* METHOD-KEY-CONTENT.safetensors */
static bool is_model(const char *name)
{
    const size_t tail = 2 * (1 + HASH_DIGITS) + strlen(model_suffix), length = strlen(name);
    char method[32];
    enum quant_method found;
    if (length <= tail || length - tail >= sizeof method || !has_suffix(name, model_suffix)) {
        return false;
    }
    const char *key = name + length - tail, *content = key + 1 + HASH_DIGITS;
    snprintf(method, sizeof method, "%.*s", (int)(length - tail), name);
    return key[0] == '-' && is_hash(key + 1) && content[0] == '-' && is_hash(content + 1) &&
           !quant_method_parse(&found, method, NULL) && !strcmp(quant_method_name(found), method);
}

/* HASH.source */
static bool is_note(const char *name)
{
    return strlen(name) == HASH_DIGITS + strlen(note_suffix) && is_hash(name) &&
           has_suffix(name, note_suffix);
}

static int older_first(const void *a, const void *b)
{
    const struct timespec *left = &((const struct cached_model *)a)->used;
    const struct timespec *right = &((const struct cached_model *)b)->used;
    if (left->tv_sec != right->tv_sec) {
        return left->tv_sec < right->tv_sec ? -1 : 1;
    }
    return (left->tv_nsec > right->tv_nsec) - (left->tv_nsec < right->tv_nsec);
}

/* All of them, unsorted. What goes away while it is looked at is not there. */
static enum status list_models(struct cached_model **out, size_t *n, const char *folder, struct error *err)
{
    DIR *dir = opendir(folder);
    struct stat info;
    enum status status = STATUS_OK;
    size_t n_allocated = 0;
    *out = NULL;
    *n = 0;
    if (!dir) {
        return error_set(err, STATUS_IO, "%s: %s", folder, strerror(errno));
    }
    for (struct dirent *entry; !status && (entry = readdir(dir));) {
        char path[PATH_BYTES];
        const int length = snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (!is_model(entry->d_name) || length >= PATH_BYTES || lstat(path, &info) ||
            !S_ISREG(info.st_mode)) {
            continue;
        }
        if (*n == n_allocated) {
            n_allocated = n_allocated ? 2 * n_allocated : 16;
            struct cached_model *more = realloc(*out, n_allocated * sizeof **out);
            if (!more) {
                status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", folder);
                break;
            }
            *out = more;
        }
        struct cached_model *model = &(*out)[(*n)++];
        memcpy(model->path, path, (size_t)length + 1);
        model->n_bytes = (size_t)info.st_size;
        model->used = info.st_mtim;
    }
    closedir(dir);
    return status;
}

enum status cache_folder_trim(const char *folder, const char *keep, size_t max_bytes, struct error *err)
{
    struct cached_model *models;
    struct error stuck = {0};
    size_t n, used = 0;
    enum status status = list_models(&models, &n, folder, err);
    for (size_t i = 0; i < n; i++) {
        used += models[i].n_bytes;
    }
    if (!status && n) {
        qsort(models, n, sizeof *models, older_first);
    }
    for (size_t i = 0; !status && i < n && used > max_bytes; i++) {
        if (!strcmp(models[i].path, keep)) {
            continue;
        }
        if (!unlink(models[i].path)) {
            log_info("quant cache: removed %s for quant_cache_max_bytes", models[i].path);
        } else if (errno != ENOENT) {
            error_set(&stuck, STATUS_IO, "%s cannot be removed: %s", models[i].path, strerror(errno));
            continue;
        }
        used -= models[i].n_bytes;
    }
    free(models);
    if (!status && stuck.status && used > max_bytes) {
        *err = stuck;
        status = stuck.status;
    }
    return status;
}

void cache_folder_touch(const char *path)
{
    (void)utimensat(AT_FDCWD, path, NULL, 0);
}

bool cache_folder_has_note(const char *folder, const char *content, const char *except,
                           cache_note_reader *read)
{
    bool found = false;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && !found && (entry = readdir(dir));) {
        char path[PATH_BYTES], told[HASH_TEXT_BYTES];
        const int length = snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        found = is_note(entry->d_name) && length < PATH_BYTES && strcmp(path, except) && read(told, path) &&
                !strcmp(told, content);
    }
    if (dir) {
        closedir(dir);
    }
    return found;
}
