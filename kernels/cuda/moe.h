/* Mixture of experts (engine/moe.c): which rows each expert serves, the products of all experts in one
 * launch, and their weighted sum. The conventions are those of launch.h. Counts stay on the device: a launch
 * is made for the most slots that there can be.
 *
 * A slot is one (row, rank) pair; slots are sorted by expert, within one by row and rank. */
#ifndef KERNELS_CUDA_MOE_H
#define KERNELS_CUDA_MOE_H

#include "kernels/cuda/linear.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { CUDA_MOE_MAX_ROWS = 4096, CUDA_MOE_MAX_EXPERTS = 64, CUDA_MOE_MAX_USED = 8 };

struct cuda_moe {
    int32_t *expert_begin; /* (n_experts + 1) first slot of each expert */
    int32_t *slot_row;     /* (n_rows * n_used) row of each slot */
    int32_t *slot_of;      /* (n_rows, n_used) slot of each rank of a row; -1 for a dead row */
    float *weights;        /* (n_rows, n_used), 0 for a dead row */
};

/* logits[t][e] = sum over i of router[e][i] * h[t][i] / sqrt(mean(h[t]^2) + eps) * norm[i], rows of h of
 * router->n_cols f32; the router is a matrix as stored. What cuda_rmsnorm makes of h is f16: good enough for
 * a product, but not for a choice between two experts that is close, so the norm is taken here once more, in
 * f32. A row's bits do not depend on the others. */
enum status cuda_moe_logits(float *logits, int64_t logits_stride, const struct cuda_matrix *router,
                            const float *h, int64_t h_stride, const float *norm, float eps, int32_t n_rows,
                            void *stream, struct error *err);

/* Softmax over logits (n_rows, n_experts) f32, rows logits_stride apart; the n_used largest (ties to the
 * lower expert), renormalised to sum 1; the slots sorted. positions (n_rows), or NULL: a row whose position
 * is negative is dead and takes no slot. Of slot_row only the slots that are taken are written. */
enum status cuda_moe_route(const struct cuda_moe *moe, const float *logits, int64_t logits_stride,
                           int32_t n_experts, int32_t n_used, int32_t n_rows, const int32_t *positions,
                           void *stream, struct error *err);

/* y[slot] = W[expert of slot] x[slot_row[slot]], or x[slot] where slot_row is NULL, for every slot up to
 * expert_begin[n_experts]. experts: (n_experts) on the device, equal shapes; shape: one of them on the host.
 * max_slots: how many slots there can be; chooses how many are worked on at a time, which no bit depends on:
 * a slot has the bits that cuda_any4_gemm_small gives with a workspace of one block. */
enum status cuda_any4_grouped(float *y, int64_t y_stride, const struct cuda_any4 *experts,
                              const struct cuda_any4 *shape, int32_t n_experts, const struct cuda_rows *x,
                              const int32_t *slot_row, const int32_t *expert_begin, int32_t max_slots,
                              void *stream, struct error *err);

/* h[t] += (sum over ranks r in order of weights[t][r] * y[slot_of[t][r]]), rows of n f32; dead rows keep what
 * they hold. */
enum status cuda_moe_combine(float *h, int64_t h_stride, const float *y, int64_t y_stride,
                             const struct cuda_moe *moe, int32_t n, int32_t n_used, int32_t n_rows,
                             const int32_t *positions, void *stream, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
