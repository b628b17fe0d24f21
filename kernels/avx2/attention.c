/* Attention over the paged KV cache: online softmax (Milakov and Gimelshein, 2018) over chunks of 32
 * positions that are counted from position 0, so that the order of additions depends on positions alone: not
 * on block_size, on how many heads share the call, or on the step that asks. All heads of a chunk are taken
 * before the next chunk, and while one is computed the next one's keys and values are fetched: see
 * avx512/attention.c. */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"

#include <assert.h>
#include <math.h>

enum {
    CHUNK = 32,         /* positions: four registers of scores */
    GROUP_HEADS = 32,   /* query heads whose sums are carried from chunk to chunk */
    TILE_POSITIONS = 4, /* independent chains of additions in the scores */
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

FORCE_INLINE __m256 load_kv(enum kv_type type, const void *base, int64_t at, int32_t left)
{
    return type == KV_F32   ? load_f32(base, at, left)
           : type == KV_F16 ? load_f16(base, at, left)
                            : load_bf16(base, at, left);
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

/* scores[i] = scale * q . key of the position at offset at[i], i < n. */
FORCE_INLINE void score_positions(float *scores, const float *q, const struct kv_view *kv, const int64_t *at,
                                  float scale, const enum kv_type type, const int32_t n)
{
    __m256 sum[TILE_POSITIONS];
    for (int32_t i = 0; i < n; i++) {
        sum[i] = _mm256_setzero_ps();
    }
    for (int32_t d = 0; d < kv->head_dim; d += LANES) {
        int32_t left = kv->head_dim - d;
        __m256 q_part = load_f32(q, d, left);
        for (int32_t i = 0; i < n; i++) {
            sum[i] = _mm256_fmadd_ps(load_kv(type, kv->k, at[i] + d, left), q_part, sum[i]);
        }
    }
    for (int32_t i = 0; i < n; i++) {
        scores[i] = sum_lanes(sum[i]) * scale;
    }
}

/* out[d ..] = out[d ..] * correction + sum over the chunk of weights[lane] * value. */
FORCE_INLINE void add_values(float *out, const struct kv_view *kv, const struct chunk *chunk,
                             const struct chunk *next, const float *weights, float correction, int32_t d,
                             int32_t left, const enum kv_type type, const int32_t n_vectors)
{
    __m256 sum[TILE_VECTORS];
    int32_t n_next = next && d == 0 ? next->n : 0;
    for (int32_t i = 0; i < n_vectors; i++) {
        sum[i] = _mm256_mul_ps(load_f32(out, d + i * LANES, left), _mm256_set1_ps(correction));
    }
    for (int32_t p = 0; p < chunk->n; p++) {
        __m256 weight = _mm256_set1_ps(weights[chunk->lane + p]);
        if (p < n_next) {
            prefetch_vector(type, kv->v, next->at[p], kv->head_dim);
        }
        for (int32_t i = 0; i < n_vectors; i++) {
            sum[i] =
                _mm256_fmadd_ps(weight, load_kv(type, kv->v, chunk->at[p] + d + i * LANES, left), sum[i]);
        }
    }
    for (int32_t i = 0; i < n_vectors; i++) {
        store_f32(out + d + i * LANES, sum[i], left);
    }
}

/* One chunk for one query head; next is what is fetched meanwhile, or NULL. */
FORCE_INLINE void attend_head(float *out, struct softmax_state *state, const float *q,
                              const struct kv_view *kv, const struct chunk *chunk, const struct chunk *next,
                              float scale, const enum kv_type type)
{
    float scores[CHUNK];
    int32_t n_next = next ? next->n : 0, i = 0;
    for (int32_t p = 0; p < CHUNK; p++) {
        scores[p] = -INFINITY; /* positions outside of the range weigh nothing and are not read */
    }
    for (; chunk->n - i >= TILE_POSITIONS; i += TILE_POSITIONS) {
        for (int32_t p = i; p < i + TILE_POSITIONS && p < n_next; p++) {
            prefetch_vector(type, kv->k, next->at[p], kv->head_dim);
        }
        score_positions(scores + chunk->lane + i, q, kv, chunk->at + i, scale, type, TILE_POSITIONS);
    }
    for (; i < chunk->n; i++) {
        score_positions(scores + chunk->lane + i, q, kv, chunk->at + i, scale, type, 1);
    }

    __m256 parts[CHUNK / LANES], highest = _mm256_set1_ps(state->max), total = _mm256_setzero_ps();
    for (i = 0; i < CHUNK / LANES; i++) {
        parts[i] = _mm256_loadu_ps(scores + i * LANES);
        highest = _mm256_max_ps(highest, parts[i]);
    }
    float max = max_lanes(highest);
    __m256 shift = _mm256_set1_ps(max == -INFINITY ? 0.0f : max); /* never -inf - -inf */
    for (i = 0; i < CHUNK / LANES; i++) {
        parts[i] = exp_ps(_mm256_sub_ps(parts[i], shift));
        total = _mm256_add_ps(total, parts[i]);
        _mm256_storeu_ps(scores + i * LANES, parts[i]);
    }
    float correction = _mm256_cvtss_f32(exp_ps(_mm256_sub_ps(_mm256_set1_ps(state->max), shift)));
    state->max = max;
    state->total = state->total * correction + sum_lanes(total);

    int32_t d = 0;
    for (; kv->head_dim - d >= TILE_VECTORS * LANES; d += TILE_VECTORS * LANES) {
        add_values(out, kv, chunk, next, scores, correction, d, LANES, type, TILE_VECTORS);
    }
    for (; d < kv->head_dim; d += LANES) {
        add_values(out, kv, chunk, next, scores, correction, d, kv->head_dim - d, type, 1);
    }
}

/* The same for all query heads of one KV head. */
FORCE_INLINE void attend_chunk(float *out, struct softmax_state *states, const float *q, int32_t n_q,
                               const struct kv_view *kv, const struct chunk *chunk, const struct chunk *next,
                               float scale, const enum kv_type type)
{
    for (int32_t h = 0; h < n_q; h++, next = NULL) {
        attend_head(out + h * kv->head_dim, states + h, q + h * kv->head_dim, kv, chunk, next, scale, type);
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

void avx2_attention(float *out, const float *q, int32_t n_q, const struct kv_view *kv, int32_t head_begin,
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
