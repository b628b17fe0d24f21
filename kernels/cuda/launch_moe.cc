/* Launches of moe.cuh. Compiled by nvcc for the card and by the host's compiler for its runtime. */
#include "kernels/cuda/check.h"
#include "kernels/cuda/moe.cuh"

static enum status check_moe(const char *name, int32_t n_experts, int32_t n_used, int32_t n_rows,
                             struct error *err)
{
    if (n_rows < 1 || n_rows > CUDA_MOE_MAX_ROWS || n_experts < 1 || n_experts > CUDA_MOE_MAX_EXPERTS ||
        n_used < 1 || n_used > CUDA_MOE_MAX_USED || n_used > n_experts) {
        return error_set(err, STATUS_INVALID,
                         "%s: %d rows, %d of %d experts, expected at most %d rows, %d of %d experts", name,
                         n_rows, n_used, n_experts, (int)CUDA_MOE_MAX_ROWS, (int)CUDA_MOE_MAX_USED,
                         (int)CUDA_MOE_MAX_EXPERTS);
    }
    return STATUS_OK;
}

enum status cuda_moe_logits(float *logits, int64_t logits_stride, const struct cuda_matrix *router,
                            const float *h, int64_t h_stride, const float *norm, float eps, int32_t n_rows,
                            void *stream, struct error *err)
{
    const char *name = "moe_logits";
    enum status status = check_moe(name, router->n_rows, 1, n_rows, err);
    if (status) {
        return status;
    }
    if (router->kind != ANY4_F32 && router->kind != ANY4_F16 && router->kind != ANY4_BF16) {
        return error_set(err, STATUS_INVALID, "%s: a router of kind %d, expected one as stored", name,
                         (int)router->kind);
    }
    const struct moe_logits_args args = {logits, logits_stride, *router, h, h_stride, norm, eps};
    const struct simt_grid grid = {name, n_rows * router->n_rows, MOE_LOGITS_THREADS, 0, stream};
    return launched(simt_launch(grid, moe_logits_kernel, args), name, err);
}

enum status cuda_moe_route(const struct cuda_moe *moe, const float *logits, int64_t logits_stride,
                           int32_t n_experts, int32_t n_used, int32_t n_rows, const int32_t *positions,
                           void *stream, struct error *err)
{
    enum status status = check_moe("moe_route", n_experts, n_used, n_rows, err);
    if (status) {
        return status;
    }
    const struct moe_route_args args = {*moe, logits, logits_stride, n_experts, n_used, n_rows, positions};
    const struct simt_grid grid = {"moe_route", 1, MOE_THREADS, (size_t)n_rows * (size_t)n_used, stream};
    return launched(simt_launch(grid, moe_route_kernel, args), grid.name, err);
}

enum status cuda_moe_combine(float *h, int64_t h_stride, const float *y, int64_t y_stride,
                             const struct cuda_moe *moe, int32_t n, int32_t n_used, int32_t n_rows,
                             const int32_t *positions, void *stream, struct error *err)
{
    enum status status = check_moe("moe_combine", CUDA_MOE_MAX_EXPERTS, n_used, n_rows, err);
    const struct simt_grid grid = {"moe_combine", n_rows, MOE_COMBINE_THREADS, 0, stream};
    return status ? status
                  : launched(simt_launch(grid, moe_combine_kernel, h, h_stride, y, y_stride, *moe, n, n_used,
                                         positions),
                             grid.name, err);
}

struct grouped_choice {
    void (*kernel)(struct grouped_args);
    int32_t n_row_blocks; /* of a block */
    int32_t shared_bytes;
};

template <int GROUP, bool INT8, int N_TILES> static grouped_choice grouped_of(void)
{
    return {any4_grouped_kernel<GROUP, N_TILES, INT8>, 1, gemm_shared_bytes<N_TILES, ANY4_TILE_COLS>()};
}

/* slots: that an expert is likely to have at most. */
template <int GROUP, bool INT8> static grouped_choice grouped_of_slots(int64_t slots)
{
    if (slots <= 8) {
        return grouped_of<GROUP, INT8, 1>();
    }
    if (slots <= 16) {
        return grouped_of<GROUP, INT8, 2>();
    }
    if (slots <= 32) {
        return grouped_of<GROUP, INT8, 4>();
    }
    constexpr int N_TILES = INT8 ? 8 : 4; /* as in launch_prefill.cc */
    return {any4_grouped_prefill_kernel<GROUP, N_TILES, INT8>, PREFILL_ROW_BLOCKS,
            prefill_shared<N_TILES>::BYTES};
}

template <bool INT8> static grouped_choice grouped_of_group(int32_t group_size, int64_t slots)
{
    switch (group_size) {
    case 32:
        return grouped_of_slots<32, INT8>(slots);
    case 64:
        return grouped_of_slots<64, INT8>(slots);
    default:
        return grouped_of_slots<128, INT8>(slots);
    }
}

enum status cuda_any4_grouped(float *y, int64_t y_stride, const struct cuda_any4 *experts,
                              const struct cuda_any4 *shape, int32_t n_experts, const struct cuda_rows *x,
                              const int32_t *slot_row, const int32_t *expert_begin, int32_t max_slots,
                              void *stream, struct error *err)
{
    const char *name = "any4_grouped";
    const int32_t n_padded = shape->n_tile_cols * ANY4_TILE_COLS;
    const int64_t n_blocks = (int64_t)shape->n_row_blocks * n_experts;
    const int64_t n_units = (int64_t)shape->n_row_blocks * shape->n_tile_cols;
    if (n_experts < 1 || n_experts > CUDA_MOE_MAX_EXPERTS || max_slots < 1 || n_blocks > INT32_MAX ||
        x->stride > INT32_MAX / 2 / max_slots || n_units > INT32_MAX / (UNIT_TILES * TILE_PIECES)) {
        return error_set(err, STATUS_INVALID,
                         "%s: %d slots, %d experts of %lld tiles of 32 rows are out of range", name,
                         max_slots, n_experts, (long long)n_units);
    }
    const enum status status = check_rows(name, "x", x, n_padded, err);
    if (status) {
        return status;
    }
    if (y_stride < shape->n_rows) {
        return error_set(err, STATUS_INVALID, "%s: rows of y are %lld apart, expected at least %d", name,
                         (long long)y_stride, shape->n_rows);
    }
    /* Twice an even share: experts that have more take another turn. */
    const int64_t slots = 2 * (((int64_t)max_slots + n_experts - 1) / n_experts) * x->parts;
    const grouped_choice choice = shape->kind == ANY4_LUT_INT8
                                      ? grouped_of_group<true>(shape->group_size, slots)
                                      : grouped_of_group<false>(shape->group_size, slots);
    const struct grouped_args args = {*shape,    experts,  y,        y_stride,    x->x, (int32_t)x->stride,
                                      x->scales, x->parts, slot_row, expert_begin};
    const int32_t n_row_tiles = (shape->n_row_blocks + choice.n_row_blocks - 1) / choice.n_row_blocks;
    const struct simt_grid grid = {name, n_row_tiles * n_experts, GEMM_THREADS, (size_t)choice.shared_bytes,
                                   stream};
    static_assert((int32_t)GEMM_THREADS == (int32_t)PREFILL_THREADS, "one size of block");
    return launched(simt_launch(grid, choice.kernel, args), name, err);
}
