/* What stands between the matrices: RMSNorm, SwiGLU, residuals, embedding, rope with the KV cache's append.
 */
#ifndef KERNELS_CUDA_ELEMENTWISE_CUH
#define KERNELS_CUDA_ELEMENTWISE_CUH

#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/simt.h"
#include "kernels/cuda/stored.cuh"
#include "kernels/cuda/x_row.cuh"

enum { ELEMENTWISE_THREADS = 256 };

/* Columns 2 i and 2 i + 1 of a row, given divided by its scale. */
SIMT_DEVICE void store_pair(const struct cuda_rows &out, int64_t token, int32_t i, float low, float high)
{
    const uint32_t pair = simt_f16_pair(low, high);
    uint16_t *row = out.x + token * out.parts * out.stride;
    reinterpret_cast<uint32_t *>(row)[i] = pair;
    if (out.parts == 2) {
        reinterpret_cast<uint32_t *>(row + out.stride)[i] = x_rest_pair(pair, low, high);
    }
}

SIMT_DEVICE void store_scale(const struct cuda_rows &out, int64_t token, float scale)
{
    if (simt_thread() == 0) {
        out.scales[token] = scale;
    }
}

/* A block a token. Two columns a thread at a time: rows of x are padded to whole tiles, so pairs are whole.
 * The largest value is found with the sum, before it is known what all are multiplied by: some roundings of
 * f32 apart from the largest that is stored, which f16 does not see. */
SIMT_KERNEL(ELEMENTWISE_THREADS, 1)
rmsnorm_kernel(struct cuda_rows out, const float *h, int64_t h_stride, const float *weight, int32_t n,
               int32_t n_padded, float eps)
{
    SIMT_SHARED(float, sums, [REDUCE_MAX_WARPS]);
    SIMT_SHARED(uint32_t, maxima, [REDUCE_MAX_WARPS]);
    const int64_t token = simt_block();
    const float *row = h + token * h_stride;
    simt_dependency_wait();
    float sum = 0;
    uint32_t max = 0;
    for (int32_t i = simt_thread(); i < n; i += simt_n_threads()) {
        const uint32_t bits = magnitude_bits(row[i] * weight[i]);
        sum = fmaf(row[i], row[i], sum);
        max = bits > max ? bits : max;
    }
    const float inverse = 1.0f / sqrtf(block_sum(sum, sums) / (float)n + eps);
    const float largest = simt_bits_float(block_max(max, maxima)) * inverse;
    const float scale = x_scale_of(magnitude_bits(largest)), down = 1.0f / scale;
    for (int32_t i = 2 * simt_thread(); i < n_padded; i += 2 * simt_n_threads()) {
        const float low = i < n ? row[i] * inverse * weight[i] : 0.0f;
        const float high = i + 1 < n ? row[i + 1] * inverse * weight[i + 1] : 0.0f;
        store_pair(out, token, i / 2, low * down, high * down);
    }
    store_scale(out, token, scale);
}

SIMT_DEVICE float silu(float value)
{
    return value / (1.0f + expf(-value));
}

/* Values are made twice: there is no place for a row of them. */
SIMT_KERNEL(ELEMENTWISE_THREADS, 1)
swiglu_kernel(struct cuda_rows out, const float *gate, const float *up, int64_t y_stride, int32_t n,
              int32_t n_padded)
{
    SIMT_SHARED(uint32_t, maxima, [REDUCE_MAX_WARPS]);
    const int64_t token = simt_block();
    const float *g = gate + token * y_stride, *u = up + token * y_stride;
    simt_dependency_wait();
    uint32_t max = 0;
    for (int32_t i = simt_thread(); i < n; i += simt_n_threads()) {
        const uint32_t bits = magnitude_bits(silu(g[i]) * u[i]);
        max = bits > max ? bits : max;
    }
    const float scale = x_scale_of(block_max(max, maxima)), down = 1.0f / scale;
    for (int32_t i = 2 * simt_thread(); i < n_padded; i += 2 * simt_n_threads()) {
        const float low = i < n ? silu(g[i]) * u[i] : 0.0f;
        const float high = i + 1 < n ? silu(g[i + 1]) * u[i + 1] : 0.0f;
        store_pair(out, token, i / 2, low * down, high * down);
    }
    store_scale(out, token, scale);
}

SIMT_KERNEL(ELEMENTWISE_THREADS, 1)
axpy_kernel(float *h, int64_t h_stride, const float *y, int64_t y_stride, float a, int32_t n)
{
    const int64_t token = simt_block();
    simt_dependency_wait();
    for (int32_t i = simt_thread(); i < n; i += simt_n_threads()) {
        h[token * h_stride + i] += a * y[token * y_stride + i];
    }
}

SIMT_KERNEL(ELEMENTWISE_THREADS, 1)
embedding_kernel(float *h, int64_t h_stride, const void *table, enum any4_kind kind, int32_t n_vocab,
                 int32_t n, const int32_t *tokens)
{
    simt_dependency_wait();
    const int32_t token = tokens[simt_block()];
    const bool known = token >= 0 && token < n_vocab;
    for (int32_t i = simt_thread(); i < n; i += simt_n_threads()) {
        h[simt_block() * h_stride + i] = known ? stored_value(table, kind, (int64_t)token * n + i) : 0.0f;
    }
}

SIMT_DEVICE void kv_store(void *cache, enum kv_type type, int64_t at, float value)
{
    if (type == KV_F32) {
        static_cast<float *>(cache)[at] = value;
    } else {
        const uint32_t pair = type == KV_F16 ? simt_f16_pair(value, 0) : simt_bf16_pair(value, 0);
        static_cast<uint16_t *>(cache)[at] = (uint16_t)pair;
    }
}

/* A block a token; a thread takes a pair of elements that turn together. */
SIMT_KERNEL(ELEMENTWISE_THREADS, 1) rope_append_kernel(struct cuda_rope_append args)
{
    simt_dependency_wait();
    const int64_t token = simt_block();
    const int32_t position = args.positions[token];
    if (position < 0) {
        return;
    }
    const int32_t half = args.head_dim / 2, n_turned = args.n_heads + args.n_kv_heads;
    const float *cos = args.cos + (int64_t)position * half, *sin = args.sin + (int64_t)position * half;
    float *row = args.qkv + token * args.qkv_stride;
    const int64_t block =
        args.block_tables[(int64_t)args.sequences[token] * args.table_stride + position / args.block_size];
    for (int32_t i = simt_thread(); i < (n_turned + args.n_kv_heads) * half; i += simt_n_threads()) {
        const int32_t head = i / half, at = i % half;
        float *first = row + (int64_t)head * args.head_dim + at, *second = first + half;
        float a = *first, b = *second;
        if (head < n_turned) {
            const float turned = a * cos[at] - b * sin[at];
            b = b * cos[at] + a * sin[at];
            a = turned;
            *first = a;
            *second = b;
        }
        if (head >= args.n_heads) {
            const int32_t kv_head = (head - args.n_heads) % args.n_kv_heads;
            const int64_t slot = (int64_t)kv_head * args.block_size + position % args.block_size;
            const int64_t to = block * args.block_stride + slot * args.head_dim + at;
            void *cache = head < n_turned ? args.k : args.v;
            kv_store(cache, args.type, to, a);
            kv_store(cache, args.type, to + half, b);
        }
    }
}

#endif
