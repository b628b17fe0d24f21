/* What reader and writer of the cache share: which arrays a matrix of each kind has. */
#ifndef QUANT_CACHE_FORMAT_H
#define QUANT_CACHE_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/any4.h"

enum {
    CACHE_ALIGNMENT = 64,        /* of arrays in the file */
    CACHE_BLOCK_BYTES = 1 << 20, /* of data under one checksum */
    CACHE_HASH_BYTES = 16,
    CACHE_MAX_ARRAYS = 4,   /* of one matrix */
    CACHE_NAME_BYTES = 256, /* of a tensor, the array's name included */
};

#define CACHE_PADDING   "__padding__"
#define CACHE_CHECKSUMS "__checksums__"

struct cache_array {
    const char *name, *dtype; /* as in the file */
    int64_t n_cols;           /* elements of a row; as many rows as the matrix */
    size_t n_bytes;
    size_t offset; /* in struct any4_matrix, of the pointer to it */
};

/* The names of enumerators in the file, in their order; NULL behind the last. */
extern const char *const cache_kinds[], *const cache_layouts[];

/* Bytes of a row of codes without a gap behind it, or of stored weights. */
size_t cache_row_bytes(const struct any4_matrix *matrix);

/* The arrays of a matrix whose kind and sizes are filled in (n_rows times any row below 2^63 bytes), its
 * codes first. with_zeros: it has zero points. Returns their number. */
int32_t cache_arrays(struct cache_array out[CACHE_MAX_ARRAYS], const struct any4_matrix *matrix,
                     bool with_zeros);

/* NULL, or what is wrong with the numbers of a matrix: combinations that the format does not have. Its
 * pointers are not looked at. */
const char *cache_shape_fault(const struct any4_matrix *matrix);

/* Position in the file, behind so many bytes, where an array may begin. */
static inline size_t cache_align(size_t at)
{
    return (at + CACHE_ALIGNMENT - 1) / CACHE_ALIGNMENT * CACHE_ALIGNMENT;
}

#endif
