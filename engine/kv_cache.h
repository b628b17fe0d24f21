/* Keys and values of every live sequence: a pool of blocks of KV_BLOCK_TOKENS positions, all layers of a
 * position in the same block number. Sequences own block tables; the engine thread alone calls in. */
#ifndef ENGINE_KV_CACHE_H
#define ENGINE_KV_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/model_config.h"
#include "kernels/kernels.h"

enum { KV_BLOCK_TOKENS = 32 };

struct kv_cache {
    enum kv_type type;
    int32_t head_dim;
    int32_t n_blocks, n_free;
    int32_t *free_blocks; /* (n_blocks): the first n_free are free */
    int64_t block_stride; /* elements of one block of K (or V) of one layer */
    size_t plane_bytes;   /* bytes of all blocks of K (or V) of one layer */
    uint8_t *memory; /* NULL: elsewhere; (n_layers, 2, n_blocks, n_kv_heads, KV_BLOCK_TOKENS, head_dim) */
    size_t memory_bytes;
};

/* Bytes of one position over all layers, K and V. */
size_t kv_cache_bytes_per_token(const struct model_config *config, enum kv_type type);

/* Reserves n_blocks blocks; pages are touched as they are used. STATUS_NO_MEMORY with the size. */
enum status kv_cache_init(struct kv_cache *kv, const struct model_config *config, enum kv_type type,
                          int32_t n_blocks, struct error *err);
/* The pool of block numbers alone: the memory (memory_bytes, laid out as above) is elsewhere. */
enum status kv_cache_init_blocks(struct kv_cache *kv, const struct model_config *config, enum kv_type type,
                                 int32_t n_blocks, struct error *err);
void kv_cache_finish(struct kv_cache *kv);

/* Makes table (of *n_blocks entries) long enough for n_tokens positions. False, with nothing taken, when the
 * pool has too few blocks left. */
bool kv_cache_reserve(struct kv_cache *kv, int32_t *table, int32_t *n_blocks, int32_t n_tokens);
/* Gives all blocks of a table back. */
void kv_cache_release(struct kv_cache *kv, int32_t *table, int32_t *n_blocks);

/* One layer as the attention kernel reads it. */
struct kv_view kv_cache_view(const struct kv_cache *kv, int32_t layer, const int32_t *table);
/* Where position's key (or value) vector of kv_head of a layer lies. */
void *kv_cache_slot(const struct kv_cache *kv, int32_t layer, bool value, const int32_t *table,
                    int32_t position, int32_t kv_head);

#endif
