/* Attention of the fixed-order set: positions in chunks of CHUNK from position 0. A score is summed in LANES
 * partial sums (dimension d in sum d mod LANES) that are folded by halves; weights and values are added
 * position after position within a chunk, then the chunk to the total, which is rescaled whenever a larger
 * score appears (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018). */
#include <assert.h>
#include <math.h>

#include "engine/base/float16.h"
#include "kernels/fixed/fixed.h"
#include "kernels/fixed/lanes.h"

enum { MAX_HEAD_DIM = 512, CHUNK = 64, LANES = 16 };

/* The vector of a position as f32: where it lies, or converted into scratch. */
static const float *kv_vector(float *scratch, const struct kv_view *kv, const void *base, int32_t kv_head,
                              int32_t p)
{
    int64_t in_block = (int64_t)kv_head * kv->block_size + p % kv->block_size;
    int64_t at = kv->block_table[p / kv->block_size] * kv->block_stride + in_block * kv->head_dim;
    if (kv->type == KV_F32) {
        return (const float *)base + at;
    }
    const uint16_t *halves = (const uint16_t *)base + at;
    for (int32_t d = 0; d < kv->head_dim; d++) {
        scratch[d] = kv->type == KV_F16 ? f16_to_f32(halves[d]) : bf16_to_f32(halves[d]);
    }
    return scratch;
}

static float dot(const float *a, const float *b, int32_t n)
{
    vec sum[LANES / WIDTH];
    float lanes[LANES];
    int32_t d = 0;
    for (int32_t v = 0; v < LANES / WIDTH; v++) {
        sum[v] = (vec){0};
    }
    for (; n - d >= LANES; d += LANES) {
        for (int32_t v = 0; v < LANES / WIDTH; v++) {
            sum[v] += load(a + d + v * WIDTH) * load(b + d + v * WIDTH);
        }
    }
    for (int32_t v = 0; v < LANES / WIDTH; v++) {
        store(lanes + v * WIDTH, sum[v]);
    }
    for (int32_t i = 0; d + i < n; i++) {
        lanes[i] += a[d + i] * b[d + i];
    }
    for (int32_t half = LANES / 2; half; half /= 2) {
        for (int32_t i = 0; i < half; i++) {
            lanes[i] += lanes[i + half];
        }
    }
    return lanes[0];
}

static void attend_head(float *out, const float *q, const struct kv_view *kv, int32_t kv_head, int32_t begin,
                        int32_t end, float scale)
{
    float scratch[MAX_HEAD_DIM], sums[MAX_HEAD_DIM] = {0}, part[MAX_HEAD_DIM], weights[CHUNK];
    float max = -INFINITY, total = 0;
    for (int32_t first = begin, stop; first < end; first = stop) {
        stop = first / CHUNK * CHUNK + CHUNK;
        stop = stop < end ? stop : end;
        float chunk_max = max, chunk_total = 0;
        for (int32_t p = first; p < stop; p++) {
            float score = dot(q, kv_vector(scratch, kv, kv->k, kv_head, p), kv->head_dim) * scale;
            chunk_max = score > chunk_max ? score : chunk_max;
            weights[p - first] = score;
        }
        for (int32_t i = 0; i < stop - first; i++) {
            weights[i] = fixed_exp(weights[i] - chunk_max);
        }
        memset(part, 0, (size_t)kv->head_dim * sizeof *part);
        for (int32_t p = first; p < stop; p++) {
            const float *value = kv_vector(scratch, kv, kv->v, kv_head, p);
            chunk_total += weights[p - first];
            for (int32_t d = 0; d < kv->head_dim; d++) {
                part[d] += weights[p - first] * value[d];
            }
        }
        float rescale = fixed_exp(max - chunk_max);
        total = total * rescale + chunk_total;
        for (int32_t d = 0; d < kv->head_dim; d++) {
            sums[d] = sums[d] * rescale + part[d];
        }
        max = chunk_max;
    }
    for (int32_t d = 0; d < kv->head_dim; d++) {
        out[d] = sums[d] / total;
    }
}

void FIXED(attention)(float *out, const float *q, int32_t n_q, const struct kv_view *kv, int32_t head_begin,
                      int32_t head_end, int32_t begin, int32_t end, float scale)
{
    assert(begin < end && kv->head_dim <= MAX_HEAD_DIM);
    for (int32_t h = 0; h < (head_end - head_begin) * n_q; h++) {
        attend_head(out + (int64_t)h * kv->head_dim, q + (int64_t)h * kv->head_dim, kv, head_begin + h / n_q,
                    begin, end, scale);
    }
}
