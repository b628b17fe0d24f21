/* What the launches of products with 4-bit matrices check, and how they cut the work. */
#ifndef KERNELS_CUDA_CHECK_LINEAR_H
#define KERNELS_CUDA_CHECK_LINEAR_H

#include <algorithm>

#include "kernels/cuda/any4_tile.cuh"
#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"

/* In how many stripes a matrix is dealt (any4_tile.cuh): results depend on it. 0: too large. */
static inline int32_t linear_stripes(const struct cuda_linear *args)
{
    const int64_t n_units = (int64_t)args->w->n_row_blocks * args->w->n_tile_cols;
    const int64_t most = std::min(n_units, INT32_MAX / n_units - 1); /* 32 bits must do */
    return n_units > INT32_MAX / (UNIT_TILES * TILE_PIECES)
               ? 0
               : (int32_t)std::min<int64_t>(args->workspace->n_blocks, most);
}

static inline enum status check_linear(const char *name, const struct cuda_linear *args, int32_t max_tokens,
                                       struct error *err)
{
    const int32_t n_padded = args->w->n_tile_cols * ANY4_TILE_COLS;
    const enum status status = check_rows(name, "x", &args->x, n_padded, err);
    if (status) {
        return status;
    }
    if (args->x.stride > INT32_MAX / CUDA_MAX_TOKENS_SMALL) {
        return error_set(err, STATUS_INVALID, "%s: rows of x are %lld apart, expected at most %d", name,
                         (long long)args->x.stride, INT32_MAX / CUDA_MAX_TOKENS_SMALL);
    }
    if (args->n_tokens < 1 || args->n_tokens > max_tokens / args->x.parts) {
        return error_set(err, STATUS_INVALID, "%s: %d tokens in %d parts, expected 1 to %d", name,
                         args->n_tokens, args->x.parts, max_tokens / args->x.parts);
    }
    if (args->y_stride < args->w->n_rows) {
        return error_set(err, STATUS_INVALID, "%s: rows of y are %lld apart, expected at least %d", name,
                         (long long)args->y_stride, args->w->n_rows);
    }
    if (args->workspace->n_blocks < 1) {
        return error_set(err, STATUS_INVALID, "%s: a workspace for %d blocks, expected at least 1", name,
                         args->workspace->n_blocks);
    }
    if (linear_stripes(args) < 1) {
        return error_set(err, STATUS_INVALID, "%s: a matrix of %d x %d tiles of 32 rows is too large", name,
                         args->w->n_row_blocks, args->w->n_tile_cols);
    }
    return STATUS_OK;
}

/* Where blocks leave sums to each other. */
static inline enum status check_workspace(const char *name, const struct cuda_linear *args, struct error *err)
{
    const struct cuda_workspace *workspace = args->workspace;
    const int32_t n_tokens = args->n_tokens * args->x.parts;
    if (workspace->n_counters < args->w->n_row_blocks || workspace->max_tokens < n_tokens) {
        return error_set(err, STATUS_INVALID,
                         "%s: a workspace for %d counters and %d tokens, expected %d and %d", name,
                         workspace->n_counters, workspace->max_tokens, args->w->n_row_blocks, n_tokens);
    }
    return STATUS_OK;
}

#endif
