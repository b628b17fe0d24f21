/* Launches of any4_prefill.cuh and any4_dequantize.cuh, and the choice among all kernels over 4-bit matrices.
 * Compiled by nvcc for the card and by the host's compiler for its runtime. */
#include "kernels/cuda/linear.h"

#include "kernels/cuda/any4_dequantize.cuh"
#include "kernels/cuda/any4_prefill.cuh"
#include "kernels/cuda/check_linear.h"

struct prefill_choice {
    void (*kernel)(struct prefill_args);
    int32_t n_tokens; /* of a block */
    int32_t shared_bytes;
};

/* The zero points of ANY4_LUT take sums of x, which leave registers for half as many tokens. */
template <int GROUP> static prefill_choice prefill_of(bool int8)
{
    return int8 ? prefill_choice{any4_prefill_kernel<GROUP, 8, true>, 64, prefill_shared<8>::BYTES}
                : prefill_choice{any4_prefill_kernel<GROUP, 4, false>, 32, prefill_shared<4>::BYTES};
}

static prefill_choice prefill_of_matrix(const struct cuda_any4 *w)
{
    const bool int8 = w->kind == ANY4_LUT_INT8;
    switch (w->group_size) {
    case 32:
        return prefill_of<32>(int8);
    case 64:
        return prefill_of<64>(int8);
    default:
        return prefill_of<128>(int8);
    }
}

enum status cuda_any4_prefill(const struct cuda_linear *args, struct error *err)
{
    const struct cuda_any4 *w = args->w;
    enum status status = check_linear("any4_prefill", args, INT32_MAX, err);
    if (status) {
        return status;
    }
    const prefill_choice choice = prefill_of_matrix(w);
    const int32_t n_rows = args->n_tokens * args->x.parts;
    const int64_t n_token_tiles = ((int64_t)n_rows + choice.n_tokens - 1) / choice.n_tokens;
    const int64_t n_row_tiles = ((int64_t)w->n_row_blocks + PREFILL_ROW_BLOCKS - 1) / PREFILL_ROW_BLOCKS;
    if (n_token_tiles * n_row_tiles > INT32_MAX) {
        return error_set(err, STATUS_INVALID, "any4_prefill: %d tokens for %d rows are too many",
                         args->n_tokens, w->n_rows);
    }
    const struct prefill_args kernel_args = {
        *w,     args->y,        args->y_stride, args->x.x,           (int32_t)args->x.stride,
        n_rows, args->x.scales, args->x.parts,  linear_stripes(args)};
    const struct simt_grid grid = {"any4_prefill", (int32_t)(n_token_tiles * n_row_tiles), PREFILL_THREADS,
                                   (size_t)choice.shared_bytes, args->stream};
    return launched(simt_launch(grid, choice.kernel, kernel_args), grid.name, err);
}

enum status cuda_any4_linear(const struct cuda_linear *args, bool batch_invariant, struct error *err)
{
    if (!batch_invariant && args->x.parts == 1 && args->n_tokens <= CUDA_MAX_TOKENS_GEMV) {
        return cuda_any4_gemv(args, false, err);
    }
    return (int64_t)args->n_tokens * args->x.parts <= CUDA_MAX_TOKENS_SMALL ? cuda_any4_gemm_small(args, err)
                                                                            : cuda_any4_prefill(args, err);
}

typedef void dequantize_kernel(uint16_t *, int64_t, struct cuda_any4);

template <bool INT8> static dequantize_kernel *dequantize_of(int32_t group_size)
{
    return group_size == 32   ? any4_dequantize_kernel<32, INT8>
           : group_size == 64 ? any4_dequantize_kernel<64, INT8>
                              : any4_dequantize_kernel<128, INT8>;
}

enum status cuda_any4_dequantize(uint16_t *out, int64_t stride, const struct cuda_any4 *w, void *stream,
                                 struct error *err)
{
    const int64_t n_tiles = (int64_t)w->n_row_blocks * UNIT_TILES * w->n_tile_cols;
    const int64_t n_padded = (int64_t)w->n_tile_cols * ANY4_TILE_COLS;
    if (stride < n_padded || stride % 8 || (uintptr_t)out % 16) {
        return error_set(err, STATUS_INVALID,
                         "any4_dequantize: rows %lld apart, expected a multiple of 8, at least %lld, and "
                         "16-byte alignment",
                         (long long)stride, (long long)n_padded);
    }
    if (n_tiles > INT32_MAX / TILE_PIECES) {
        return error_set(err, STATUS_INVALID, "any4_dequantize: a matrix of %lld tiles is too large",
                         (long long)n_tiles);
    }
    const struct simt_grid grid = {"any4_dequantize",
                                   (int32_t)((n_tiles + DEQUANTIZE_WARPS - 1) / DEQUANTIZE_WARPS),
                                   DEQUANTIZE_THREADS, 0, stream};
    return launched(simt_launch(grid,
                                w->kind == ANY4_LUT_INT8 ? dequantize_of<true>(w->group_size)
                                                         : dequantize_of<false>(w->group_size),
                                out, stride, *w),
                    grid.name, err);
}
