/* The block pool: a stack of free block numbers over one reserved mapping. */
#include "engine/kv_cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

size_t kv_cache_bytes_per_token(const struct model_config *config, enum kv_type type)
{
    return 2 * (size_t)config->n_layers * (size_t)config->n_kv_heads * (size_t)config->head_dim *
           kv_type_bytes(type);
}

enum status kv_cache_init_blocks(struct kv_cache *kv, const struct model_config *config, enum kv_type type,
                                 int32_t n_blocks, struct error *err)
{
    size_t token_bytes = kv_cache_bytes_per_token(config, type);
    memset(kv, 0, sizeof *kv);
    kv->type = type;
    kv->head_dim = config->head_dim;
    kv->block_stride = (int64_t)config->n_kv_heads * KV_BLOCK_TOKENS * config->head_dim;
    if (n_blocks < 1 || token_bytes > SIZE_MAX / KV_BLOCK_TOKENS / (size_t)n_blocks) {
        return error_set(err, STATUS_NO_MEMORY,
                         "KV cache of %d blocks of %d tokens, %zu bytes each: too large", n_blocks,
                         KV_BLOCK_TOKENS, token_bytes);
    }
    kv->plane_bytes = (size_t)n_blocks * (size_t)kv->block_stride * kv_type_bytes(type);
    kv->memory_bytes = token_bytes * KV_BLOCK_TOKENS * (size_t)n_blocks;
    kv->free_blocks = malloc((size_t)n_blocks * sizeof *kv->free_blocks);
    if (!kv->free_blocks) {
        kv_cache_finish(kv);
        return error_set(err, STATUS_NO_MEMORY, "KV cache: out of memory");
    }
    /* Highest number at the bottom: low blocks are taken first and their warm pages reused first. */
    for (int32_t i = 0; i < n_blocks; i++) {
        kv->free_blocks[i] = n_blocks - 1 - i;
    }
    kv->n_blocks = kv->n_free = n_blocks;
    return STATUS_OK;
}

enum status kv_cache_init(struct kv_cache *kv, const struct model_config *config, enum kv_type type,
                          int32_t n_blocks, struct error *err)
{
    enum status status = kv_cache_init_blocks(kv, config, type, n_blocks, err);
    if (status) {
        return status;
    }
    void *memory = mmap(NULL, kv->memory_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        free(kv->free_blocks);
        kv->free_blocks = NULL;
        return error_set(err, STATUS_NO_MEMORY, "KV cache: no memory for %zu bytes", kv->memory_bytes);
    }
    /* A block of one head is as small as a page: without huge pages every one is a miss of the TLB. */
    madvise(memory, kv->memory_bytes, MADV_HUGEPAGE);
    kv->memory = memory;
    return STATUS_OK;
}

void kv_cache_finish(struct kv_cache *kv)
{
    if (kv->memory) {
        munmap(kv->memory, kv->memory_bytes);
    }
    free(kv->free_blocks);
    memset(kv, 0, sizeof *kv);
}

bool kv_cache_reserve(struct kv_cache *kv, int32_t *table, int32_t *n_blocks, int32_t n_tokens)
{
    int32_t wanted = (n_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    if (wanted - *n_blocks > kv->n_free) {
        return false;
    }
    while (*n_blocks < wanted) {
        table[(*n_blocks)++] = kv->free_blocks[--kv->n_free];
    }
    return true;
}

void kv_cache_release(struct kv_cache *kv, int32_t *table, int32_t *n_blocks)
{
    while (*n_blocks > 0) {
        assert(kv->n_free < kv->n_blocks);
        kv->free_blocks[kv->n_free++] = table[--*n_blocks];
    }
}

struct kv_view kv_cache_view(const struct kv_cache *kv, int32_t layer, const int32_t *table)
{
    const uint8_t *k = kv->memory + 2 * (size_t)layer * kv->plane_bytes;
    return (struct kv_view){
        .type = kv->type,
        .k = k,
        .v = k + kv->plane_bytes,
        .block_table = table,
        .block_stride = kv->block_stride,
        .block_size = KV_BLOCK_TOKENS,
        .head_dim = kv->head_dim,
    };
}

void *kv_cache_slot(const struct kv_cache *kv, int32_t layer, bool value, const int32_t *table,
                    int32_t position, int32_t kv_head)
{
    size_t element =
        (size_t)table[position / KV_BLOCK_TOKENS] * (size_t)kv->block_stride +
        ((size_t)kv_head * KV_BLOCK_TOKENS + (size_t)(position % KV_BLOCK_TOKENS)) * (size_t)kv->head_dim;
    return kv->memory + (2 * (size_t)layer + value) * kv->plane_bytes + element * kv_type_bytes(kv->type);
}
