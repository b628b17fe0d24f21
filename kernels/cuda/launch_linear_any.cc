/* Launches of linear_any.cuh and linear_dense.cuh: chooses the instance. Compiled by nvcc for the card and by
 * the host's compiler for its runtime. */
#include "kernels/cuda/check.h"
#include "kernels/cuda/linear_any.cuh"
#include "kernels/cuda/linear_dense.cuh"

static enum status check_any(const char *name, const struct any_args *args, int64_t n_blocks,
                             struct error *err)
{
    const enum status status = check_rows(name, "x", &args->x, cuda_padded(args->w.n_cols), err);
    if (status) {
        return status;
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

/* An instance, and the rows and tokens of a block of it. */
struct any_choice {
    void (*kernel)(struct any_args);
    int32_t n_rows, n_tokens, n_threads;
};

enum any_use { ANY_ONE, ANY_TWO, ANY_MANY, ANY_GROUPED };

template <any_format FORMAT> static any_choice any_of(any_use use)
{
    switch (use) {
    case ANY_ONE:
        return {linear_any_kernel<FORMAT, 1>, ANY_ROWS, 1, ANY_THREADS};
    case ANY_TWO: /* a token in two parts, or two in one */
        return {linear_any_kernel<FORMAT, 2>, ANY_ROWS, 2, ANY_THREADS};
    case ANY_MANY:
        return {linear_any_kernel<FORMAT, ANY_TOKENS>, ANY_ROWS, ANY_TOKENS, ANY_THREADS};
    default:
        return {linear_any_grouped_kernel<FORMAT>, ANY_ROWS, ANY_TOKENS, ANY_THREADS};
    }
}

static any_choice dense_of(any_use use, int32_t n_tokens)
{
    if (use == ANY_GROUPED) {
        return {linear_dense_grouped_kernel<4, 4>, dense_shared<4>::ROWS, 32, DENSE_THREADS};
    }
    return n_tokens <= 8 ? any_choice{linear_dense_kernel<2, 1>, dense_shared<2>::ROWS, 8, DENSE_THREADS}
                         : any_choice{linear_dense_kernel<4, 4>, dense_shared<4>::ROWS, 32, DENSE_THREADS};
}

static any_choice any_choose(const struct cuda_matrix *w, any_use use, int32_t n_tokens)
{
    switch (w->kind) {
    case ANY4_F32:
        return any_of<ANY_F32>(use);
    case ANY4_F16:
        return any_of<ANY_F16>(use);
    case ANY4_BF16:
        return dense_of(use, n_tokens);
    case ANY4_LINEAR:
        return any_of<ANY_CODES_8>(use);
    case ANY4_LUT:
    case ANY4_LUT_INT8:
        break;
    }
    switch (w->code_bits) {
    case 2:
        return any_of<ANY_CODES_2>(use);
    case 3:
        return any_of<ANY_CODES_3>(use);
    default:
        return any_of<ANY_CODES_4>(use);
    }
}

/* times: how many blocks there are for each tile of rows. */
static enum status any_launch(const char *name, struct any_args *args, const struct any_choice *choice,
                              int64_t times, void *stream, struct error *err)
{
    args->n_row_tiles = (int32_t)(((int64_t)args->w.n_rows + choice->n_rows - 1) / choice->n_rows);
    args->n_padded = cuda_padded(args->w.n_cols);
    const int64_t n_blocks = args->n_row_tiles * times;
    enum status status = check_any(name, args, n_blocks, err);
    const struct simt_grid grid = {name, (int32_t)n_blocks, choice->n_threads, 0, stream};
    return status ? status : launched(simt_launch(grid, choice->kernel, *args), name, err);
}

enum status cuda_linear_any(float *y, int64_t y_stride, const struct cuda_matrix *w,
                            const struct cuda_rows *x, int32_t n_tokens, void *stream, struct error *err)
{
    const int64_t n_x_rows = (int64_t)n_tokens * x->parts;
    if (n_x_rows > INT32_MAX) {
        return error_set(err, STATUS_INVALID, "linear_any: %d tokens in %d parts are too many", n_tokens,
                         x->parts);
    }
    struct any_args args = {*w, nullptr, y, y_stride, *x, (int32_t)n_x_rows, 0, 0, nullptr, nullptr};
    const enum any_use use = n_x_rows == 1 ? ANY_ONE : n_x_rows == 2 ? ANY_TWO : ANY_MANY;
    const any_choice choice = any_choose(w, use, (int32_t)n_x_rows);
    const int64_t n_token_tiles = (n_x_rows + choice.n_tokens - 1) / choice.n_tokens;
    return any_launch("linear_any", &args, &choice, n_token_tiles, stream, err);
}

enum status cuda_linear_any_grouped(float *y, int64_t y_stride, const struct cuda_matrix *experts,
                                    const struct cuda_matrix *shape, int32_t n_experts,
                                    const struct cuda_rows *x, const int32_t *slot_row,
                                    const int32_t *expert_begin, void *stream, struct error *err)
{
    struct any_args args = {*shape, experts, y, y_stride, *x, 0, 0, 0, slot_row, expert_begin};
    const any_choice choice = any_choose(shape, ANY_GROUPED, 0);
    return any_launch("linear_any_grouped", &args, &choice, n_experts, stream, err);
}
