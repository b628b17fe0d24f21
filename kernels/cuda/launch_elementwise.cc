/* Launches of elementwise.cuh. Compiled by nvcc for the card and by the host's compiler for its runtime. */
#include "kernels/cuda/launch.h"

#include "kernels/cuda/check.h"
#include "kernels/cuda/elementwise.cuh"

static struct simt_grid grid_of(const char *name, int32_t n_tokens, void *stream)
{
    return {name, n_tokens, ELEMENTWISE_THREADS, 0, stream};
}

static enum status check_sizes(const char *name, int32_t n, int32_t n_tokens, struct error *err)
{
    return n < 1 || n_tokens < 1 ? error_set(err, STATUS_INVALID, "%s: %d rows of %d", name, n_tokens, n)
                                 : STATUS_OK;
}

/* Rows are written in pairs up to their padding. */
static enum status check_out(const char *name, const struct cuda_rows *out, int32_t n, int32_t n_tokens,
                             struct error *err)
{
    const enum status status = check_rows(name, "out", out, cuda_padded(n), err);
    return status ? status : check_sizes(name, n, n_tokens, err);
}

enum status cuda_rmsnorm(const struct cuda_rows *out, const float *h, int64_t h_stride, const float *weight,
                         int32_t n, int32_t n_tokens, float eps, void *stream, struct error *err)
{
    enum status status = check_out("rmsnorm", out, n, n_tokens, err);
    return status ? status
                  : launched(simt_launch(grid_of("rmsnorm", n_tokens, stream), rmsnorm_kernel, *out, h,
                                         h_stride, weight, n, cuda_padded(n), eps),
                             "rmsnorm", err);
}

enum status cuda_swiglu(const struct cuda_rows *out, const float *gate, const float *up, int64_t y_stride,
                        int32_t n, int32_t n_tokens, void *stream, struct error *err)
{
    enum status status = check_out("swiglu", out, n, n_tokens, err);
    return status ? status
                  : launched(simt_launch(grid_of("swiglu", n_tokens, stream), swiglu_kernel, *out, gate, up,
                                         y_stride, n, cuda_padded(n)),
                             "swiglu", err);
}

enum status cuda_axpy(float *h, int64_t h_stride, const float *y, int64_t y_stride, float a, int32_t n,
                      int32_t n_tokens, void *stream, struct error *err)
{
    enum status status = check_sizes("axpy", n, n_tokens, err);
    return status ? status
                  : launched(simt_launch(grid_of("axpy", n_tokens, stream), axpy_kernel, h, h_stride, y,
                                         y_stride, a, n),
                             "axpy", err);
}

enum status cuda_embedding(float *h, int64_t h_stride, const void *table, enum any4_kind kind,
                           int32_t n_vocab, int32_t n, const int32_t *tokens, int32_t n_tokens, void *stream,
                           struct error *err)
{
    enum status status = check_sizes("embedding", n, n_tokens, err);
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
    enum status status = check_sizes("rope", args->head_dim, n_tokens, err);
    if (!status && (args->head_dim % 2 || args->n_kv_heads < 1 || args->n_heads % args->n_kv_heads)) {
        status = error_set(err, STATUS_INVALID, "rope: %d heads, %d KV heads of %d", args->n_heads,
                           args->n_kv_heads, args->head_dim);
    }
    return status
               ? status
               : launched(simt_launch(grid_of("rope_kv_append", n_tokens, stream), rope_append_kernel, *args),
                          "rope_kv_append", err);
}
