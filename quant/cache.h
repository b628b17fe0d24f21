/* Quantized matrices on disk: one safetensors file per model and settings, mapped and served in place.
 *
 * Each array of each matrix is a tensor NAME.codes (U8), NAME.scales, NAME.zeros, NAME.lut (BF16),
 * NAME.group_scales, NAME.table (I8), NAME.row_scales (F32), or NAME.weight (as stored); quant/any4.h says
 * what they mean. __metadata__ has strings:
 *
 *     any4.format                  CACHE_FORMAT
 *     any4.key                     what the matrices depend on besides the model's weights: shapes, settings,
 * versions any4.content                 the weights that they were made from any4.model, any4.settings    the
 * same for people any4.matrices                JSON: [{name, kind, layout, n_rows, n_cols, code_bits,
 * group_size, and the fields of struct quant_stats, its bits as total_code_bits and total_table_bits}]
 *
 * Arrays begin at multiples of 64 bytes; zeros between them are tensors __padding__.N. The last tensor,
 * __checksums__ (U8, n x 16), has XXH3-128 hashes: of the header, of each MiB of the data before it, and of
 * its own rows before the last: no bit of the file is left out. */
#ifndef QUANT_CACHE_H
#define QUANT_CACHE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/hash.h"
#include "engine/base/status.h"
#include "engine/base/thread_pool.h"
#include "quant/any4.h"
#include "quant/quantize.h"

enum { CACHE_FORMAT = 1 };

struct cache;

/* What a file is of. */
struct cache_label {
    char key[HASH_TEXT_BYTES], content[HASH_TEXT_BYTES];
    const char *model, *settings; /* for people */
};

struct cache_entry {
    const char *name; /* of the linear layer; unique */
    struct any4_matrix matrix;
    struct quant_stats stats;
};

/* Maps a file whose key and content must be these, checks every byte of it, and keeps it open. No file:
 * STATUS_NOT_FOUND. Damaged, cut, of another format or label: STATUS_BAD_MODEL. Whatever the bytes are, the
 * matrices of an opened cache have a known kind and layout, arrays of the right size inside the file, and
 * scales and tables that are finite; whether they fit the model, the caller asks. Messages name the path.
 * pool may be NULL. A file that is cut while it is mapped is out of scope (as for every mapped file). */
enum status cache_open(struct cache **out, const char *path, const char *key, const char *content,
                       struct thread_pool *pool, struct error *err);
void cache_close(struct cache *cache); /* accepts NULL; the matrices are gone then */

const struct cache_entry *cache_find(const struct cache *cache, const char *name); /* NULL if absent */
int64_t cache_n_entries(const struct cache *cache);
const struct cache_entry *cache_at(const struct cache *cache, int64_t index); /* sorted by name */
size_t cache_bytes(const struct cache *cache);                                /* of the file */

/* All of cache_open's checks but label and checksums, on a file in memory (64-byte aligned, borrowed): the
 * fuzz target's entry. */
enum status cache_parse(struct cache **out, const unsigned char *bytes, size_t n_bytes, const char *path,
                        struct error *err);

/* The size of the file that cache_write would write. */
enum status cache_file_bytes(size_t *out, const struct cache_label *label, const struct cache_entry *entries,
                             int64_t n_entries, struct error *err);

/* Writes a file next to path under a name of its own, syncs it and renames it to path; what stood there
 * before stays whole until then, and after every failure. Whatever writers left that are no more goes first.
 * *cancel (may be NULL) set by another thread: STATUS_UNAVAILABLE soon after. *n_bytes is the file's size. */
enum status cache_write(const char *path, const struct cache_label *label, const struct cache_entry *entries,
                        int64_t n_entries, const atomic_bool *cancel, size_t *n_bytes, struct error *err);

#endif
