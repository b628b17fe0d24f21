/* Launches of elementwise.cuh. Compiled by nvcc for the card and by the host's compiler for its runtime. */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/check.h"
#include "kernels/cuda/elementwise.cuh"

static struct simt_grid grid_of(const char *name, int32_t n_tokens, void *stream)
{
    return {name, n_tokens, ELEMENTWISE_THREADS, 0, stream};
}

/* x rows are written in pairs up to their padding. */
static enum status check_rows(const char *name, const uint16_t *x, int64_t x_stride, int32_t n,
                              int32_t n_tokens, struct error *err)
{
    if (n < 1 || n_tokens < 1) {
        return error_set(err, STATUS_INVALID, "%s: %d rows of %d", name, n_tokens, n);
    }
    if (x && (x_stride < cuda_padded(n) || x_stride % 8 || (uintptr_t)x % 16)) {
        return error_set(
            err, STATUS_INVALID,
            "%s: rows of x are %lld apart, expected a multiple of 8, at least %d, and 16-byte alignment",
            name, (long long)x_stride, cuda_padded(n));
    }
    return STATUS_OK;
}

enum status cuda_rmsnorm(uint16_t *x, int64_t x_stride, float *x_scales, const float *h, int64_t h_stride,
                         const float *weight, int32_t n, int32_t n_tokens, float eps, void *stream,
                         struct error *err)
{
    enum status status = check_rows("rmsnorm", x, x_stride, n, n_tokens, err);
    return status ? status
                  : launched(simt_launch(grid_of("rmsnorm", n_tokens, stream), rmsnorm_kernel, x, x_stride,
                                         x_scales, h, h_stride, weight, n, cuda_padded(n), eps),
                             "rmsnorm", err);
}

enum status cuda_swiglu(uint16_t *x, int64_t x_stride, float *x_scales, const float *gate, const float *up,
                        int64_t y_stride, int32_t n, int32_t n_tokens, void *stream, struct error *err)
{
    enum status status = check_rows("swiglu", x, x_stride, n, n_tokens, err);
    return status ? status
                  : launched(simt_launch(grid_of("swiglu", n_tokens, stream), swiglu_kernel, x, x_stride,
                                         x_scales, gate, up, y_stride, n, cuda_padded(n)),
                             "swiglu", err);
}

enum status cuda_axpy(float *h, int64_t h_stride, const float *y, int64_t y_stride, float a, int32_t n,
                      int32_t n_tokens, void *stream, struct error *err)
{
    enum status status = check_rows("axpy", nullptr, 0, n, n_tokens, err);
    return status ? status
                  : launched(simt_launch(grid_of("axpy", n_tokens, stream), axpy_kernel, h, h_stride, y,
                                         y_stride, a, n),
                             "axpy", err);
}

enum status cuda_embedding(float *h, int64_t h_stride, const void *table, enum any4_kind kind,
                           int32_t n_vocab, int32_t n, const int32_t *tokens, int32_t n_tokens, void *stream,
                           struct error *err)
{
    enum status status = check_rows("embedding", nullptr, 0, n, n_tokens, err);
    if (!status && kind != ANY4_F32 && kind != ANY4_F16 && kind != ANY4_BF16) {
        status = error_set(err, STATUS_INVALID, "embedding: kind %d is not f32, f16 or bf16", (int)kind);
    }
    return status ? status
                  : launched(simt_launch(grid_of("embedding", n_tokens, stream), embedding_kernel, h,
                                         h_stride, table, kind, n_vocab, n, tokens),
                             "embedding", err);
}

enum status cuda_rope_kv_append(const struct cuda_rope_append *args, int32_t n_tokens, void *stream,
                                struct error *err)
{
    enum status status = check_rows("rope", nullptr, 0, args->head_dim, n_tokens, err);
    if (!status && (args->head_dim % 2 || args->n_kv_heads < 1 || args->n_heads % args->n_kv_heads)) {
        status = error_set(err, STATUS_INVALID, "rope: %d heads, %d KV heads of %d", args->n_heads,
                           args->n_kv_heads, args->head_dim);
    }
    return status
               ? status
               : launched(simt_launch(grid_of("rope_kv_append", n_tokens, stream), rope_append_kernel, *args),
                          "rope_kv_append", err);
}
