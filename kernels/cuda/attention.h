/* Attention over the paged KV cache on the card: see launch.h for what holds for every kernel.
 *
 * Softmax is taken over units of 64 keys, units are added up to splits of CUDA_ATTENTION_SPLIT keys and
 * splits to a row's result, all counted from position 0 and added in ascending order. So a row's bits depend
 * on its query, its keys and values and the window alone: not on tiles, other rows or how blocks share the
 * work. */
#ifndef KERNELS_CUDA_ATTENTION_H
#define KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CUDA_ATTENTION_TILE = 64,   /* most rows of a tile */
    CUDA_ATTENTION_SPLIT = 256, /* keys that a block takes at least */
    CUDA_ATTENTION_MAX_HEAD_DIM = 256,
};

/* Rows [first, first + n): one sequence, positions ascending by one; or one dead row. */
struct cuda_attention_tile {
    int32_t first, n;
};

/* Cuts n_rows rows (their positions and sequences, on the host) into tiles; gives how many, at most n_rows.
 * Dead rows (position < 0) become tiles of one row. */
int32_t cuda_attention_tiles(struct cuda_attention_tile *out, const int32_t *positions,
                             const int32_t *sequences, int32_t n_rows);

/* out[row][head] = sum over keys p of softmax_p(scale * q[row][head] . k[p]) v[p], p <= position and, with a
 * window, p > position - window (attention_fn of kernels.h); what f16 does not reach is +-65504 (in two
 * parts 65520), NaN stays NaN. Query heads that share a KV head lie together. With a cache of f32,
 * products and sums are f32; with one of 16 bits, results in two parts keep 16 bits (bf16) or 22 (f16) of
 * their weights. */
struct cuda_attention {
    struct cuda_rows out; /* (n_rows, n_heads * head_dim); scales NULL */
    const float *q; /* (n_rows, n_heads * head_dim) f32, rotated: the front of cuda_rope_append's rows */
    int64_t q_stride;
    int32_t n_heads, n_kv_heads, head_dim;   /* head_dim: a multiple of 8 */
    const int32_t *positions;                /* (n_rows); negative: a dead row, its out is zeros */
    const int32_t *sequences;                /* (n_rows): whose block table */
    const struct cuda_attention_tile *tiles; /* (n_tiles): each row is in one */
    int32_t n_tiles;
    const int32_t *block_tables; /* these four as in struct cuda_rope_append */
    int32_t table_stride;
    int32_t block_size;
    int64_t block_stride; /* elements, a multiple of 8 */
    enum kv_type type;
    const void *k, *v;      /* 16-byte aligned */
    int32_t sliding_window; /* 0: none */
    float scale;
    int32_t n_rows;
    int32_t max_position; /* no row's position is above it: sizes the grid */
    float *partials;      /* 16-byte aligned; what the blocks of a launch leave to each other */
    int64_t n_partials;   /* at least cuda_attention_partials(...) */
    uint32_t *counters;   /* zero before the first launch and behind each */
    int32_t n_counters;   /* at least n_tiles * n_kv_heads */
};

/* f32 of partials that any call of up to n_rows rows and this bound on positions needs. */
int64_t cuda_attention_partials(int32_t n_heads, int32_t head_dim, int32_t n_rows, int32_t max_position);

enum status cuda_attention(const struct cuda_attention *args, void *stream, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
