/* Attention over the paged KV cache: online softmax (Milakov and Gimelshein, 2018) over chunks of 32
 * positions that are counted from position 0, so that the order of additions depends on positions alone: not
 * on block_size, on how many heads share the call, or on the step that asks. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"

#include <assert.h>
#include <math.h>

enum {
    CHUNK = 32,         /* positions: two registers of scores */
    TILE_HEADS = 8,     /* query heads that read one chunk while it is in L1 */
    TILE_POSITIONS = 4, /* independent chains of additions in the scores */
    TILE_VECTORS = 4,   /* the same in the sums of values */
    MAX_HEAD_DIM = 512,
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

/* scores[i] = scale * q . key of the position at offset at[i], i < n. */
FORCE_INLINE void score_positions(float *scores, const float *q, const struct kv_view *kv, const int64_t *at,
                                  float scale, const enum kv_type type, const int32_t n)
{
    __m512 sum[TILE_POSITIONS];
    for (int32_t i = 0; i < n; i++) {
        sum[i] = _mm512_setzero_ps();
    }
    for (int32_t d = 0; d < kv->head_dim; d += LANES) {
        __mmask16 mask = lanes_mask(kv->head_dim - d);
        __m512 q_part = _mm512_maskz_loadu_ps(mask, q + d);
        for (int32_t i = 0; i < n; i++) {
            sum[i] = _mm512_fmadd_ps(load_kv(type, kv->k, at[i] + d, mask), q_part, sum[i]);
        }
    }
    if (n == TILE_POSITIONS) {
        _mm_storeu_ps(scores, _mm_mul_ps(sum_lanes4(sum[0], sum[1], sum[2], sum[3]), _mm_set1_ps(scale)));
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        scores[i] = sum_lanes(sum[i]) * scale;
    }
}

/* out[d ..] = out[d ..] * correction + sum over i < n of weights[i] * value at offset at[i]. */
FORCE_INLINE void add_values(float *out, const struct kv_view *kv, const int64_t *at, const float *weights,
                             int32_t n, float correction, int32_t d, __mmask16 mask, const enum kv_type type,
                             const int32_t n_vectors)
{
    __m512 sum[TILE_VECTORS];
    for (int32_t i = 0; i < n_vectors; i++) {
        sum[i] = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, out + d + i * LANES), _mm512_set1_ps(correction));
    }
    for (int32_t p = 0; p < n; p++) {
        __m512 weight = _mm512_set1_ps(weights[p]);
        for (int32_t i = 0; i < n_vectors; i++) {
            sum[i] = _mm512_fmadd_ps(weight, load_kv(type, kv->v, at[p] + d + i * LANES, mask), sum[i]);
        }
    }
    for (int32_t i = 0; i < n_vectors; i++) {
        _mm512_mask_storeu_ps(out + d + i * LANES, mask, sum[i]);
    }
}

/* One chunk: positions whose offsets are at[0 .. n), the first of them in lane `lane`. */
FORCE_INLINE void attend_chunk(float *out, struct softmax_state *state, const float *q,
                               const struct kv_view *kv, const int64_t *at, int32_t lane, int32_t n,
                               float scale, const enum kv_type type)
{
    float scores[CHUNK];
    int32_t i = 0;
    for (int32_t p = 0; p < CHUNK; p++) {
        scores[p] = -INFINITY; /* positions outside of the range weigh nothing and are not read */
    }
    for (; n - i >= TILE_POSITIONS; i += TILE_POSITIONS) {
        score_positions(scores + lane + i, q, kv, at + i, scale, type, TILE_POSITIONS);
    }
    for (; i < n; i++) {
        score_positions(scores + lane + i, q, kv, at + i, scale, type, 1);
    }

    __m512 low = _mm512_loadu_ps(scores), high = _mm512_loadu_ps(scores + LANES);
    float max = fmaxf(state->max, _mm512_reduce_max_ps(_mm512_max_ps(low, high)));
    __m512 shift = _mm512_set1_ps(max == -INFINITY ? 0.0f : max); /* never -inf - -inf */
    low = exp_ps(_mm512_sub_ps(low, shift));
    high = exp_ps(_mm512_sub_ps(high, shift));
    float correction = _mm512_cvtss_f32(exp_ps(_mm512_sub_ps(_mm512_set1_ps(state->max), shift)));
    state->max = max;
    state->total = state->total * correction + sum_lanes(_mm512_add_ps(low, high));
    _mm512_storeu_ps(scores, low);
    _mm512_storeu_ps(scores + LANES, high);

    int32_t d = 0;
    for (; kv->head_dim - d >= TILE_VECTORS * LANES; d += TILE_VECTORS * LANES) {
        add_values(out, kv, at, scores + lane, n, correction, d, ALL_LANES, type, TILE_VECTORS);
    }
    for (; d < kv->head_dim; d += LANES) {
        add_values(out, kv, at, scores + lane, n, correction, d, lanes_mask(kv->head_dim - d), type, 1);
    }
}

FORCE_INLINE void attend_heads(float *out, const float *q, int32_t n_q, const struct kv_view *kv,
                               int32_t kv_head, int32_t begin, int32_t end, float scale,
                               const enum kv_type type)
{
    struct softmax_state states[TILE_HEADS];
    int32_t dim = kv->head_dim;
    for (int32_t h = 0; h < n_q; h++) {
        states[h] = (struct softmax_state){.max = -INFINITY};
        for (int32_t d = 0; d < dim; d++) {
            out[h * dim + d] = 0;
        }
    }
    for (int32_t p = begin, n; p < end; p += n) {
        int64_t at[CHUNK];
        int32_t lane = p % CHUNK;
        n = end - p < CHUNK - lane ? end - p : CHUNK - lane;
        int32_t block = p / kv->block_size, in_block = p % kv->block_size;
        for (int32_t i = 0; i < n; i++) {
            at[i] = kv->block_table[block] * kv->block_stride +
                    ((int64_t)kv_head * kv->block_size + in_block) * dim;
            if (++in_block == kv->block_size) {
                in_block = 0;
                block++;
            }
        }
        for (int32_t h = 0; h < n_q; h++) {
            attend_chunk(out + h * dim, &states[h], q + h * dim, kv, at, lane, n, scale, type);
        }
    }
    for (int32_t h = 0; h < n_q; h++) {
        for (int32_t d = 0; d < dim; d++) {
            out[h * dim + d] /= states[h].total;
        }
    }
}

void avx512_attention(float *out, const float *q, int32_t n_q, const struct kv_view *kv, int32_t kv_head,
                      int32_t begin, int32_t end, float scale)
{
    assert(begin < end && kv->head_dim <= MAX_HEAD_DIM);
    for (int32_t h = 0; h < n_q; h += TILE_HEADS) {
        int64_t at = (int64_t)h * kv->head_dim;
        int32_t n = n_q - h < TILE_HEADS ? n_q - h : TILE_HEADS;
        switch (kv->type) {
        case KV_F32:
            attend_heads(out + at, q + at, n, kv, kv_head, begin, end, scale, KV_F32);
            break;
        case KV_F16:
            attend_heads(out + at, q + at, n, kv, kv_head, begin, end, scale, KV_F16);
            break;
        case KV_BF16:
            attend_heads(out + at, q + at, n, kv, kv_head, begin, end, scale, KV_BF16);
            break;
        }
    }
}
