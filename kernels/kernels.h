/* The table of operations that the engine calls: arithmetic on arrays; knows shapes, never models. Every
 * entry is filled by the scalar reference first and then overwritten by faster variants that the CPU has. No
 * entry starts a thread, allocates or fails: the engine checks shapes and splits work over its pool. A row's
 * (token's) bits never depend on the other tokens of the call, on n_tokens or on how rows are split over
 * calls. */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/cpu_features.h"
#include "engine/base/status.h"
#include "quant/any4.h"

#ifdef __cplusplus
extern "C" {
#endif

enum kv_type { KV_F32, KV_F16, KV_BF16 };
static inline size_t kv_type_bytes(enum kv_type type)
{
    return type == KV_F32 ? 4 : 2;
}

/* y[row] = sum over col of w[row][col] * x[col] for row in [row_begin, row_end); see quant/any4.h for w.
 * y: (n_rows) f32, only the given rows are written. x: (n_cols) f32, not aliased with y. One token: decode.
 */
typedef void any4_gemv_fn(float *y, const struct any4_matrix *w, const float *x, int32_t row_begin,
                          int32_t row_end);

/* The same for n_tokens >= 1 rows of x: y[t * y_stride + row], x[t * x_stride + col]; strides in elements.
 * Bit for bit what any4_gemv gives for each token. */
typedef void any4_gemm_fn(float *y, int64_t y_stride, const struct any4_matrix *w, const float *x,
                          int64_t x_stride, int32_t n_tokens, int32_t row_begin, int32_t row_end);

/* y[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i], i < n. y may be x. (Zhang and Sennrich, 2019.) */
typedef void rmsnorm_fn(float *y, const float *x, const float *weight, int32_t n, float eps);

/* Rotates n_heads vectors of head_dim in place by one position's angles: for i < head_dim / 2, halves
 * convention, (v[i], v[i + head_dim/2]) = (v[i] cos[i] - v[i + head_dim/2] sin[i], v[i + head_dim/2] cos[i] +
 * v[i] sin[i]). cos, sin: (head_dim / 2) f32. (Su et al., RoFormer, 2021; the order of Hugging Face
 * checkpoints.) */
typedef void rope_fn(float *v, int32_t n_heads, int32_t head_dim, const float *cos, const float *sin);

/* One layer's keys and values of one sequence, in blocks of block_size positions. Key of position p, KV head
 * h: k + block_table[p / block_size] * block_stride + (h * block_size + p % block_size) * head_dim elements
 * of the type; v alike. block_stride counts elements. */
struct kv_view {
    enum kv_type type;
    const void *k, *v;
    const int32_t *block_table;
    int64_t block_stride;
    int32_t block_size;
    int32_t head_dim;
};

/* Attention of one token for the KV heads [head_begin, head_end), each shared by n_q query heads (GQA):
 * out[h] = sum over p in [begin, end) of softmax_p(scale * q[h] . k[p]) v[p]. end > begin.
 * q, out: ((head_end - head_begin) * n_q, head_dim) f32, not aliased. head_dim <= 512. The order of additions
 * depends on p alone (fixed chunks counted from position 0), so that prefill and decode agree bit for bit. */
typedef void attention_fn(float *out, const float *q, int32_t n_q, const struct kv_view *kv,
                          int32_t head_begin, int32_t head_end, int32_t begin, int32_t end, float scale);

/* h[i] = silu(gate[i]) * up[i], silu(x) = x / (1 + exp(-x)). h may be gate or up. (Shazeer, 2020.) */
typedef void swiglu_fn(float *h, const float *gate, const float *up, int32_t n);

/* y[i] += a * x[i]: residuals (a = 1), expert sums, biases. */
typedef void axpy_fn(float *y, const float *x, float a, int32_t n);

/* Stores n f32 values as the KV type, rounding to nearest even. */
typedef void kv_store_fn(void *out, enum kv_type type, const float *x, int32_t n);

struct kernels {
    const char *name; /* "scalar", "avx2", "avx512": the highest set in use; logged at start */
    any4_gemv_fn *any4_gemv;
    any4_gemm_fn *any4_gemm;
    rmsnorm_fn *rmsnorm;
    rope_fn *rope;
    attention_fn *attention;
    swiglu_fn *swiglu;
    axpy_fn *axpy;
    kv_store_fn *kv_store;
};

/* Scalar first, then overwritten upward by what both cpu_flags and the processor allow. */
void kernels_init_cpu(struct kernels *k, unsigned cpu_flags);
/* A table whose every result has the same bits whatever cpu_flags allows: for calibration, on whose outcome
 * quantized weights depend. Its gemm is made for many tokens. */
void kernels_init_fixed(struct kernels *k, unsigned cpu_flags);

#ifdef __cplusplus
}
#endif
#endif
