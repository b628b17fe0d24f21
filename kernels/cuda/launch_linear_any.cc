/* Launches of linear_any.cuh: chooses the instance. Compiled by nvcc for the card and by the host's compiler
 * for its runtime. */
#include "kernels/cuda/check.h"
#include "kernels/cuda/linear_any.cuh"

static enum status check_any(const char *name, const struct any_args *args, int64_t n_blocks,
                             struct error *err)
{
    const int32_t n_padded = cuda_padded(args->w.n_cols);
    if (args->x_stride < n_padded || args->x_stride % 8 || (uintptr_t)args->x % 16) {
        return error_set(
            err, STATUS_INVALID,
            "%s: rows of x are %lld apart, expected a multiple of 8, at least %d, and 16-byte alignment",
            name, (long long)args->x_stride, n_padded);
    }
    if (args->y_stride < args->w.n_rows) {
        return error_set(err, STATUS_INVALID, "%s: rows of y are %lld apart, expected at least %d", name,
                         (long long)args->y_stride, args->w.n_rows);
    }
    if (n_blocks < 1 || n_blocks > INT32_MAX) {
        return error_set(err, STATUS_INVALID, "%s: %lld blocks are out of range", name, (long long)n_blocks);
    }
    return STATUS_OK;
}

struct any_choice {
    void (*one)(struct any_args);
    void (*many)(struct any_args);
    void (*grouped)(struct any_args);
};

template <any_format FORMAT> static any_choice any_of(void)
{
    return {linear_any_kernel<FORMAT, 1>, linear_any_kernel<FORMAT, ANY_TOKENS>,
            linear_any_grouped_kernel<FORMAT>};
}

static any_choice any_of_matrix(const struct cuda_matrix *w)
{
    switch (w->kind) {
    case ANY4_F32:
        return any_of<ANY_F32>();
    case ANY4_F16:
        return any_of<ANY_F16>();
    case ANY4_BF16:
        return any_of<ANY_BF16>();
    case ANY4_LINEAR:
        return any_of<ANY_CODES_8>();
    case ANY4_LUT:
    case ANY4_LUT_INT8:
        break;
    }
    switch (w->code_bits) {
    case 2:
        return any_of<ANY_CODES_2>();
    case 3:
        return any_of<ANY_CODES_3>();
    default:
        return any_of<ANY_CODES_4>();
    }
}

enum status cuda_linear_any(float *y, int64_t y_stride, const struct cuda_matrix *w, const uint16_t *x,
                            int64_t x_stride, int32_t n_tokens, void *stream, struct error *err)
{
    const int32_t n_row_tiles = (int32_t)(((int64_t)w->n_rows + ANY_ROWS - 1) / ANY_ROWS);
    const int64_t n_token_tiles = n_tokens == 1 ? 1 : ((int64_t)n_tokens + ANY_TOKENS - 1) / ANY_TOKENS;
    const struct any_args args = {
        *w,      nullptr, y, y_stride, x, x_stride, n_tokens, n_row_tiles, cuda_padded(w->n_cols),
        nullptr, nullptr};
    enum status status = check_any("linear_any", &args, n_row_tiles * n_token_tiles, err);
    if (status) {
        return status;
    }
    const any_choice choice = any_of_matrix(w);
    const struct simt_grid grid = {"linear_any", (int32_t)(n_row_tiles * n_token_tiles), ANY_THREADS, 0,
                                   stream};
    return launched(simt_launch(grid, n_tokens == 1 ? choice.one : choice.many, args), grid.name, err);
}

enum status cuda_linear_any_grouped(float *y, int64_t y_stride, const struct cuda_matrix *experts,
                                    const struct cuda_matrix *shape, int32_t n_experts, const uint16_t *x,
                                    int64_t x_stride, const int32_t *slot_row, const int32_t *expert_begin,
                                    void *stream, struct error *err)
{
    const int32_t n_row_tiles = (int32_t)(((int64_t)shape->n_rows + ANY_ROWS - 1) / ANY_ROWS);
    const struct any_args args = {
        *shape,   experts,     y, y_stride, x, x_stride, 0, n_row_tiles, cuda_padded(shape->n_cols),
        slot_row, expert_begin};
    const int64_t n_blocks = (int64_t)n_row_tiles * n_experts;
    enum status status = check_any("linear_any_grouped", &args, n_blocks, err);
    if (status) {
        return status;
    }
    const struct simt_grid grid = {"linear_any_grouped", (int32_t)n_blocks, ANY_THREADS, 0, stream};
    return launched(simt_launch(grid, any_of_matrix(shape).grouped, args), grid.name, err);
}
