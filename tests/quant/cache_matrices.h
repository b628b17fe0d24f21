/* Hand-made matrices of every kind, and files of them: for the tests of the cache. Plain header: usable with
 * and without Criterion. */
#ifndef TESTS_QUANT_CACHE_MATRICES_H
#define TESTS_QUANT_CACHE_MATRICES_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/cache.h"
#include "quant/cache_format.h"
#include "tests/quant/rows.h"

enum { MAX_MATRICES = 32 };

struct matrices {
    struct cache_entry entries[MAX_MATRICES];
    int32_t n;
    char names[MAX_MATRICES][32];
    void *arrays[MAX_MATRICES * CACHE_MAX_ARRAYS];
    int32_t n_arrays;
};

/* Random bytes that are finite as bf16, as f16 and, two by two, as f32; as int8 never -128. */
static inline void *random_array(struct matrices *all, size_t n_bytes, uint64_t *state)
{
    uint8_t *bytes = malloc(n_bytes);
    if (!bytes) {
        abort();
    }
    for (size_t i = 0; i < n_bytes; i++) {
        uint64_t random = rows_random(state);
        bytes[i] = (uint8_t)random == 128 ? 0 : (uint8_t)random;
        if (i % 2) { /* exponents below their largest, and no sign: fit for row_scales too */
            bytes[i] &= 0x3f;
        }
    }
    return all->arrays[all->n_arrays++] = bytes;
}

static inline void add_matrix(struct matrices *all, enum any4_kind kind, int32_t n_rows, int32_t n_cols,
                              int32_t code_bits, int32_t group_size, bool with_zeros, uint64_t seed)
{
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    struct cache_array arrays[CACHE_MAX_ARRAYS];
    struct cache_entry *entry = &all->entries[all->n];
    struct any4_matrix *m = &entry->matrix;
    snprintf(all->names[all->n], sizeof all->names[0], "layers.%d.linear", (int)all->n);
    entry->name = all->names[all->n++];
    m->kind = kind;
    m->layout = code_bits ? ANY4_LAYOUT_CPU_V1 : ANY4_LAYOUT_ROW_MAJOR;
    m->n_rows = n_rows;
    m->n_cols = n_cols;
    m->code_bits = code_bits;
    m->group_size = group_size;
    m->n_groups = group_size ? (n_cols + group_size - 1) / group_size : 0;
    m->row_bytes = cache_row_bytes(m);
    int32_t n = cache_arrays(arrays, m, with_zeros);
    for (int32_t i = 0; i < n; i++) {
        void *bytes = random_array(all, arrays[i].n_bytes, &state);
        memcpy((char *)m + arrays[i].offset, &bytes, sizeof bytes);
    }
    entry->stats = (struct quant_stats){.weight_energy = 1.0 / 3 * (double)seed,
                                        .error_energy = 1e-300 * (double)seed,
                                        .weighted_energy = 1.7e300,
                                        .weighted_error = 0.1,
                                        .max_row_error = 2.0 / 3,
                                        .worst_row = n_rows - 1,
                                        .code_bits = INT64_MAX - (int64_t)seed,
                                        .table_bits = (int64_t)1 << 53 | 1};
}

/* Every kind, width and group size, with shapes that need padding and shapes that do not. */
static inline void make_matrices(struct matrices *all, uint64_t seed)
{
    memset(all, 0, sizeof *all);
    add_matrix(all, ANY4_F32, 3, 5, 0, 0, false, seed);
    add_matrix(all, ANY4_F16, 7, 3, 0, 0, false, seed + 1);
    add_matrix(all, ANY4_BF16, 64, 32, 0, 0, false, seed + 2);
    for (int32_t bits = 2; bits <= 4; bits++) {
        add_matrix(all, ANY4_LUT, 5, 172, bits, 128, true, seed + 3);
        add_matrix(all, ANY4_LUT, 64, 64, bits, 64, false, seed + 4);
        add_matrix(all, ANY4_LUT_INT8, 1, 1, bits, 32, false, seed + 5);
        add_matrix(all, ANY4_LUT_INT8, 64, 256, bits, 32, false, seed + 6);
    }
    add_matrix(all, ANY4_LINEAR, 9, 100, 8, 32, true, seed + 7);
    add_matrix(all, ANY4_LINEAR, 1, 33, 8, 64, false, seed + 8);
}

static inline void free_matrices(struct matrices *all)
{
    for (int32_t i = 0; i < all->n_arrays; i++) {
        free(all->arrays[i]);
    }
    all->n_arrays = 0;
}

/* The label of files made with this seed. */
static inline struct cache_label make_label(uint64_t seed)
{
    struct cache_label label = {.model = "/models/\"odd\" name", .settings = "quant any4"};
    snprintf(label.key, sizeof label.key, "%032d", 7);
    snprintf(label.content, sizeof label.content, "%032llx", (unsigned long long)seed);
    return label;
}

static inline enum status write_matrices(const char *path, const struct matrices *all, uint64_t seed,
                                         struct error *err)
{
    struct cache_label label = make_label(seed);
    size_t n_bytes;
    return cache_write(path, &label, all->entries, all->n, NULL, &n_bytes, err);
}

/* NULL, or the name of a matrix that is not in the cache as it was written. */
static inline const char *find_difference(const struct cache *cache, const struct matrices *all)
{
    for (int32_t i = 0; i < all->n; i++) {
        struct cache_array arrays[CACHE_MAX_ARRAYS];
        const struct cache_entry *expected = &all->entries[i], *found = cache_find(cache, expected->name);
        const struct any4_matrix *a = &expected->matrix, *b = found ? &found->matrix : NULL;
        if (!b || a->kind != b->kind || a->layout != b->layout || a->n_rows != b->n_rows ||
            a->n_cols != b->n_cols || a->code_bits != b->code_bits || a->group_size != b->group_size ||
            a->n_groups != b->n_groups || a->row_bytes != b->row_bytes || !a->zeros != !b->zeros ||
            !a->lut != !b->lut || !a->table != !b->table ||
            memcmp(&expected->stats, &found->stats, sizeof found->stats)) {
            return expected->name;
        }
        int32_t n = cache_arrays(arrays, a, a->zeros != NULL);
        for (int32_t k = 0; k < n; k++) {
            const void *x, *y;
            memcpy(&x, (const char *)a + arrays[k].offset, sizeof x);
            memcpy(&y, (const char *)b + arrays[k].offset, sizeof y);
            if ((uintptr_t)y % CACHE_ALIGNMENT || memcmp(x, y, arrays[k].n_bytes)) {
                return expected->name;
            }
        }
    }
    return cache_n_entries(cache) == all->n ? NULL : "too many matrices";
}

/* Files in a folder whose name is not `name`; -1 when it cannot be read. */
static inline int32_t count_others(const char *folder, const char *name)
{
    char command[512];
    int32_t n = -1;
    snprintf(command, sizeof command, "ls -A '%s' | grep -vxc '%s'", folder, name);
    FILE *pipe = popen(command, "r");
    if (pipe && fscanf(pipe, "%d", &n) != 1) {
        n = -1;
    }
    if (pipe) {
        pclose(pipe);
    }
    return n;
}

#endif
