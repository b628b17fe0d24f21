/* A temporary model folder made file by file. */
#ifndef TESTS_TOKENIZER_FOLDER_H
#define TESTS_TOKENIZER_FOLDER_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct folder {
    char path[64];
};

static inline struct folder folder_make(void)
{
    struct folder folder = {"/tmp/any4-tokenizer-XXXXXX"};
    cr_assert(mkdtemp(folder.path) != NULL);
    return folder;
}

static inline void folder_put(const struct folder *folder, const char *name, const void *bytes,
                              size_t n_bytes)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder->path, name);
    FILE *file = fopen(path, "wb");
    cr_assert(file != NULL);
    cr_assert_eq(fwrite(bytes, 1, n_bytes, file), n_bytes);
    cr_assert_eq(fclose(file), 0);
}

static inline void folder_put_text(const struct folder *folder, const char *name, const char *text)
{
    folder_put(folder, name, text, strlen(text));
}

static inline void folder_remove(const struct folder *folder)
{
    static const char *const names[] = {"tokenizer.model", "tokenizer.json", "tokenizer_config.json",
                                        "config.json", "generation_config.json"};
    char path[256];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder->path, names[i]);
        unlink(path);
    }
    rmdir(folder->path);
}

#endif
