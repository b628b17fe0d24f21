/* Attention over the paged KV cache, the reference: scores twice, first for their maximum, then for the sums,
 * position by position, in double. */
#include "kernels/scalar/scalar.h"

#include <assert.h>
#include <math.h>

#include "engine/base/float16.h"

enum { MAX_HEAD_DIM = 512 };

static float kv_element(const void *base, enum kv_type type, int64_t at)
{
    if (type == KV_F32) {
        return ((const float *)base)[at];
    }
    uint16_t half = ((const uint16_t *)base)[at];
    return type == KV_F16 ? f16_to_f32(half) : bf16_to_f32(half);
}

/* Where the vector of a position starts, in elements. */
static int64_t kv_offset(const struct kv_view *kv, int32_t kv_head, int32_t p)
{
    int64_t in_block = (int64_t)kv_head * kv->block_size + p % kv->block_size;
    return kv->block_table[p / kv->block_size] * kv->block_stride + in_block * kv->head_dim;
}

static double score(const float *q, const struct kv_view *kv, int32_t kv_head, int32_t p, float scale)
{
    int64_t at = kv_offset(kv, kv_head, p);
    double dot = 0;
    for (int32_t d = 0; d < kv->head_dim; d++) {
        dot += (double)q[d] * kv_element(kv->k, kv->type, at + d);
    }
    return dot * scale;
}

void scalar_attention(float *out, const float *q, int32_t n_q, const struct kv_view *kv, int32_t head_begin,
                      int32_t head_end, int32_t begin, int32_t end, float scale)
{
    assert(begin < end && kv->head_dim <= MAX_HEAD_DIM);
    for (int32_t h = 0; h < (head_end - head_begin) * n_q; h++) {
        int32_t kv_head = head_begin + h / n_q;
        const float *q_head = q + (int64_t)h * kv->head_dim;
        float *out_head = out + (int64_t)h * kv->head_dim;
        double sums[MAX_HEAD_DIM] = {0};
        double max = -INFINITY, total = 0;
        for (int32_t p = begin; p < end; p++) {
            max = fmax(max, score(q_head, kv, kv_head, p, scale));
        }
        for (int32_t p = begin; p < end; p++) {
            double weight = exp(score(q_head, kv, kv_head, p, scale) - max);
            int64_t at = kv_offset(kv, kv_head, p);
            total += weight;
            for (int32_t d = 0; d < kv->head_dim; d++) {
                sums[d] += weight * kv_element(kv->v, kv->type, at + d);
            }
        }
        for (int32_t d = 0; d < kv->head_dim; d++) {
            out_head[d] = (float)(sums[d] / total);
        }
    }
}
