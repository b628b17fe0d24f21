/* Attention over the paged KV cache: online softmax (Milakov and Gimelshein, 2018) over chunks of 32
 * positions that are counted from position 0, so that the order of additions depends on positions alone: not
 * on block_size, on how many heads share the call, or on the step that asks.
 *
 * The keys and values of many sequences come from memory, and one head's part of a block is as small as a
 * page: the processor's own prefetcher learns each too late. So all heads of a chunk are taken before the
 * next chunk, for they lie side by side, and while one is computed the next one's keys and values are
 * fetched. 64 sequences of 80 positions then take 0.47 instead of 1.31 ms (5 layers, 2 threads of AMD Zen 5).
 */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"

#include <assert.h>
#include <math.h>

enum {
    CHUNK = 32,         /* positions: two registers of scores */
    GROUP_HEADS = 32,   /* query heads whose sums are carried from chunk to chunk */
    TILE_HEADS = 4,     /* query heads that share one reading of keys and values */
    TILE_POSITIONS = 4, /* with one head: independent chains of additions in the scores */
    TILE_VECTORS = 4,   /* the same in the sums of values */
    MAX_HEAD_DIM = 512,
    CACHE_LINE = 64,
};

/* Positions of one chunk: offsets (in elements) of a head's keys and values, the first one in lane `lane`. */
struct chunk {
    int32_t lane, n;
    int64_t at[CHUNK];
};

/* What is left of one query head: its sums stand in out. */
struct softmax_state {
    float max;   /* of the scores so far */
    float total; /* sum of exp(score - max) */
};

FORCE_INLINE __m512 load_kv(enum kv_type type, const void *base, int64_t at, __mmask16 mask)
{
    return type == KV_F32   ? load_f32(base, at, mask)
           : type == KV_F16 ? load_f16(base, at, mask)
                            : load_bf16(base, at, mask);
}

/* The head_dim elements at `at` on their way to the first cache. */
FORCE_INLINE void prefetch_vector(enum kv_type type, const void *base, int64_t at, int32_t head_dim)
{
    const int64_t bytes = type == KV_F32 ? 4 : 2;
    const uint8_t *begin = (const uint8_t *)base + at * bytes, *end = begin + head_dim * bytes;
    for (; begin < end; begin += CACHE_LINE) {
        _mm_prefetch(begin, _MM_HINT_T0);
    }
}

/* The chunk of positions from p, which ends before `end`. */
FORCE_INLINE void find_chunk(struct chunk *out, const struct kv_view *kv, int32_t kv_head, int32_t p,
                             int32_t end)
{
    out->lane = p % CHUNK;
    out->n = end - p < CHUNK - out->lane ? end - p : CHUNK - out->lane;
    for (int32_t i = 0; i < out->n;) {
        int32_t block = (p + i) / kv->block_size, in_block = (p + i) % kv->block_size;
        int32_t stop = out->n - i < kv->block_size - in_block ? out->n : i + kv->block_size - in_block;
        int64_t at = kv->block_table[block] * kv->block_stride +
                     ((int64_t)kv_head * kv->block_size + in_block) * kv->head_dim;
        for (; i < stop; i++, at += kv->head_dim) {
            out->at[i] = at;
        }
    }
}

/* Columns d .. d + 15 of n keys times those of n_q heads. */
FORCE_INLINE void multiply_keys(__m512 (*sum)[TILE_POSITIONS], const float *q, const struct kv_view *kv,
                                const int64_t *at, int32_t d, __mmask16 mask, const enum kv_type type,
                                const int32_t n, const int32_t n_q)
{
    __m512 key[TILE_POSITIONS];
    for (int32_t i = 0; i < n; i++) {
        key[i] = load_kv(type, kv->k, at[i] + d, mask);
    }
    for (int32_t h = 0; h < n_q; h++) {
        __m512 q_part = _mm512_maskz_loadu_ps(mask, q + h * kv->head_dim + d);
        for (int32_t i = 0; i < n; i++) {
            sum[h][i] = _mm512_fmadd_ps(key[i], q_part, sum[h][i]);
        }
    }
}

/* scores[h][i] = scale * q[h] . key of the position at offset at[i], i < n, h < n_q. */
FORCE_INLINE void score_positions(float (*scores)[CHUNK], int32_t lane, const float *q,
                                  const struct kv_view *kv, const int64_t *at, float scale,
                                  const enum kv_type type, const int32_t n, const int32_t n_q)
{
    __m512 sum[TILE_HEADS][TILE_POSITIONS];
    int32_t d = 0;
    for (int32_t h = 0; h < n_q; h++) {
        for (int32_t i = 0; i < n; i++) {
            sum[h][i] = _mm512_setzero_ps();
        }
    }
    for (; kv->head_dim - d >= LANES; d += LANES) {
        multiply_keys(sum, q, kv, at, d, ALL_LANES, type, n, n_q);
    }
    if (d < kv->head_dim) {
        multiply_keys(sum, q, kv, at, d, lanes_mask(kv->head_dim - d), type, n, n_q);
    }
    for (int32_t h = 0; h < n_q; h++) {
        if (n == TILE_POSITIONS) {
            __m128 dots = sum_lanes4(sum[h][0], sum[h][1], sum[h][2], sum[h][3]);
            _mm_storeu_ps(scores[h] + lane, _mm_mul_ps(dots, _mm_set1_ps(scale)));
            continue;
        }
        for (int32_t i = 0; i < n; i++) {
            scores[h][lane + i] = sum_lanes(sum[h][i]) * scale;
        }
    }
}

/* out[h][d ..] = out[h][d ..] * correction[h] + sum over i < n of weights[h][i] * value of position i. */
FORCE_INLINE void add_values(float *out, const struct kv_view *kv, const struct chunk *chunk,
                             const struct chunk *next, float (*weights)[CHUNK], const float *correction,
                             int32_t d, __mmask16 mask, const enum kv_type type, const int32_t n_vectors,
                             const int32_t n_q)
{
    __m512 sum[TILE_HEADS][TILE_VECTORS];
    int32_t n_next = next && d == 0 ? next->n : 0;
    for (int32_t h = 0; h < n_q; h++) {
        for (int32_t i = 0; i < n_vectors; i++) {
            sum[h][i] = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, out + h * kv->head_dim + d + i * LANES),
                                      _mm512_set1_ps(correction[h]));
        }
    }
    for (int32_t p = 0; p < chunk->n; p++) {
        if (p < n_next) {
            prefetch_vector(type, kv->v, next->at[p], kv->head_dim);
        }
        for (int32_t i = 0; i < n_vectors; i++) {
            __m512 value = load_kv(type, kv->v, chunk->at[p] + d + i * LANES, mask);
            for (int32_t h = 0; h < n_q; h++) {
                sum[h][i] = _mm512_fmadd_ps(_mm512_set1_ps(weights[h][chunk->lane + p]), value, sum[h][i]);
            }
        }
    }
    for (int32_t h = 0; h < n_q; h++) {
        for (int32_t i = 0; i < n_vectors; i++) {
            _mm512_mask_storeu_ps(out + h * kv->head_dim + d + i * LANES, mask, sum[h][i]);
        }
    }
}

/* Turns a chunk's scores into weights; correction[h] is what the sums so far are multiplied by. */
FORCE_INLINE void weigh(float (*scores)[CHUNK], float *correction, struct softmax_state *states,
                        const int32_t n_q)
{
    float change[LANES] = {0};
    __m512 total[TILE_HEADS];
    for (int32_t h = 0; h < n_q; h++) {
        __m512 low = _mm512_loadu_ps(scores[h]), high = _mm512_loadu_ps(scores[h] + LANES);
        float highest = _mm512_reduce_max_ps(_mm512_max_ps(low, high));
        float max = highest > states[h].max ? highest : states[h].max;
        float shift = max == -INFINITY ? 0.0f : max; /* never -inf - -inf */
        low = exp_ps(_mm512_sub_ps(low, _mm512_set1_ps(shift)));
        high = exp_ps(_mm512_sub_ps(high, _mm512_set1_ps(shift)));
        _mm512_storeu_ps(scores[h], low);
        _mm512_storeu_ps(scores[h] + LANES, high);
        total[h] = _mm512_add_ps(low, high);
        change[h] = states[h].max - shift;
        states[h].max = max;
    }
    _mm512_storeu_ps(correction, exp_ps(_mm512_loadu_ps(change)));
    for (int32_t h = 0; h < n_q; h++) {
        states[h].total = states[h].total * correction[h] + sum_lanes(total[h]);
    }
}

/* One chunk for n_q <= TILE_HEADS query heads of one KV head; next is what is fetched meanwhile, or NULL. */
FORCE_INLINE void attend_tile(float *out, struct softmax_state *states, const float *q,
                              const struct kv_view *kv, const struct chunk *chunk, const struct chunk *next,
                              float scale, const enum kv_type type, const int32_t n_q)
{
    float scores[TILE_HEADS][CHUNK], correction[LANES];
    int32_t n_next = next ? next->n : 0, i = 0, d = 0;
    for (int32_t h = 0; h < n_q; h++) { /* positions outside of the range weigh nothing and are not read */
        _mm512_storeu_ps(scores[h], _mm512_set1_ps(-INFINITY));
        _mm512_storeu_ps(scores[h] + LANES, _mm512_set1_ps(-INFINITY));
    }
    for (; chunk->n - i >= TILE_POSITIONS; i += TILE_POSITIONS) {
        for (int32_t p = i; p < i + TILE_POSITIONS && p < n_next; p++) {
            prefetch_vector(type, kv->k, next->at[p], kv->head_dim);
        }
        score_positions(scores, chunk->lane + i, q, kv, chunk->at + i, scale, type, TILE_POSITIONS, n_q);
    }
    for (; i < chunk->n; i++) {
        score_positions(scores, chunk->lane + i, q, kv, chunk->at + i, scale, type, 1, n_q);
    }
    weigh(scores, correction, states, n_q);
    for (; kv->head_dim - d >= TILE_VECTORS * LANES; d += TILE_VECTORS * LANES) {
        add_values(out, kv, chunk, next, scores, correction, d, ALL_LANES, type, TILE_VECTORS, n_q);
    }
    for (; d < kv->head_dim; d += LANES) {
        add_values(out, kv, chunk, next, scores, correction, d, lanes_mask(kv->head_dim - d), type, 1, n_q);
    }
}

/* The same for any number of query heads: constant n_q in every copy, so that the sums are registers. */
FORCE_INLINE void attend_chunk(float *out, struct softmax_state *states, const float *q, int32_t n_q,
                               const struct kv_view *kv, const struct chunk *chunk, const struct chunk *next,
                               float scale, const enum kv_type type)
{
    int32_t dim = kv->head_dim, h = 0;
    for (; n_q - h >= 4; h += 4, next = NULL) {
        attend_tile(out + h * dim, states + h, q + h * dim, kv, chunk, next, scale, type, 4);
    }
    for (; n_q - h >= 2; h += 2, next = NULL) {
        attend_tile(out + h * dim, states + h, q + h * dim, kv, chunk, next, scale, type, 2);
    }
    if (h < n_q) {
        attend_tile(out + h * dim, states + h, q + h * dim, kv, chunk, next, scale, type, 1);
    }
}

/* KV heads [head, head_end) with n_q query heads each, at most GROUP_HEADS in all. */
FORCE_INLINE void attend_group(float *out, const float *q, int32_t n_q, const struct kv_view *kv,
                               int32_t head, int32_t head_end, int32_t begin, int32_t end, float scale,
                               const enum kv_type type)
{
    struct softmax_state states[GROUP_HEADS];
    struct chunk chunks[2];
    int32_t dim = kv->head_dim, n_heads = (head_end - head) * n_q;
    for (int32_t h = 0; h < n_heads; h++) {
        states[h] = (struct softmax_state){.max = -INFINITY};
    }
    for (int32_t i = 0; i < n_heads * dim; i++) {
        out[i] = 0;
    }
    find_chunk(&chunks[0], kv, head, begin, end);
    for (int32_t p = begin, current = 0; p < end;) {
        int32_t p_next = p + chunks[current].n;
        for (int32_t h = head; h < head_end; h++, current = !current) {
            struct chunk *next = &chunks[!current];
            if (h + 1 < head_end) {
                find_chunk(next, kv, h + 1, p, end);
            } else if (p_next < end) {
                find_chunk(next, kv, head, p_next, end);
            } else {
                next = NULL;
            }
            int32_t first = (h - head) * n_q;
            attend_chunk(out + first * dim, states + first, q + first * dim, n_q, kv, &chunks[current], next,
                         scale, type);
        }
        p = p_next;
    }
    for (int32_t h = 0; h < n_heads; h++) {
        for (int32_t d = 0; d < dim; d++) {
            out[h * dim + d] /= states[h].total;
        }
    }
}

FORCE_INLINE void attend(float *out, const float *q, int32_t n_q, const struct kv_view *kv,
                         int32_t head_begin, int32_t head_end, int32_t begin, int32_t end, float scale,
                         const enum kv_type type)
{
    /* Whole KV heads, as many as fit; of one that does not fit, a part of its query heads at a time. */
    int32_t n_kv = n_q < GROUP_HEADS ? GROUP_HEADS / n_q : 1, n_part = n_q < GROUP_HEADS ? n_q : GROUP_HEADS;
    for (int32_t head = head_begin; head < head_end; head += n_kv) {
        int32_t last = head_end - head < n_kv ? head_end : head + n_kv;
        for (int32_t h = 0; h < n_q; h += n_part) {
            int64_t at = ((int64_t)(head - head_begin) * n_q + h) * kv->head_dim;
            attend_group(out + at, q + at, n_q - h < n_part ? n_q - h : n_part, kv, head, last, begin, end,
                         scale, type);
        }
    }
}

void avx512_attention(float *out, const float *q, int32_t n_q, const struct kv_view *kv, int32_t head_begin,
                      int32_t head_end, int32_t begin, int32_t end, float scale)
{
    assert(begin < end && kv->head_dim <= MAX_HEAD_DIM);
    switch (kv->type) {
    case KV_F32:
        attend(out, q, n_q, kv, head_begin, head_end, begin, end, scale, KV_F32);
        break;
    case KV_F16:
        attend(out, q, n_q, kv, head_begin, head_end, begin, end, scale, KV_F16);
        break;
    case KV_BF16:
        attend(out, q, n_q, kv, head_begin, head_end, begin, end, scale, KV_BF16);
        break;
    }
}
