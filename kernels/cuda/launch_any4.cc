/* Launches of the kernels over 4-bit matrices: chooses the instance. Compiled by nvcc for the card and by the
 * host's compiler for its runtime. */
#include "kernels/cuda/launch.h"

#include <algorithm>

#include "kernels/cuda/any4_gemm.cuh"
#include "kernels/cuda/any4_gemv.cuh"
#include "kernels/cuda/check_linear.h"

static enum status linear_launch(const char *name, void (*kernel)(struct any4_args), int32_t n_threads,
                                 size_t shared_bytes, const struct cuda_linear *args, struct error *err)
{
    const struct any4_args kernel_args = {*args->w,
                                          args->y,
                                          args->y_stride,
                                          args->x.x,
                                          (int32_t)args->x.stride,
                                          args->n_tokens * args->x.parts,
                                          args->x.scales,
                                          args->x.parts,
                                          args->workspace->partials,
                                          args->workspace->counters};
    return launched(
        simt_launch({name, linear_stripes(args), n_threads, shared_bytes, args->stream}, kernel, kernel_args),
        name, err);
}

typedef void any4_kernel(struct any4_args);

/* -- gemv -- */

template <int GROUP, int TOKENS> static any4_kernel *gemv_of(bool int8, bool exact)
{
    if (int8) {
        return exact ? any4_gemv_kernel<GROUP, TOKENS, true, false>
                     : any4_gemv_kernel<GROUP, TOKENS, true, true>;
    }
    return any4_gemv_kernel<GROUP, TOKENS, false, false>;
}

template <int TOKENS> static any4_kernel *gemv_of_group(int32_t group_size, bool int8, bool exact)
{
    switch (group_size) {
    case 32:
        return gemv_of<32, TOKENS>(int8, exact);
    case 64:
        return gemv_of<64, TOKENS>(int8, exact);
    default:
        return gemv_of<128, TOKENS>(int8, exact);
    }
}

enum status cuda_any4_gemv(const struct cuda_linear *args, bool exact, struct error *err)
{
    if (args->x.parts == 2 && !exact) {
        return error_set(err, STATUS_INVALID, "any4_gemv: x in 2 parts, expected 1 for sums of f16");
    }
    enum status status = check_linear("any4_gemv", args, CUDA_MAX_TOKENS_GEMV, err);
    status = status ? status : check_workspace("any4_gemv", args, err);
    if (status) {
        return status;
    }
    const bool int8 = args->w->kind == ANY4_LUT_INT8;
    const int32_t n_rows = args->n_tokens * args->x.parts;
    any4_kernel *kernel = n_rows == 1 ? gemv_of_group<1>(args->w->group_size, int8, exact)
                                      : gemv_of_group<2>(args->w->group_size, int8, exact);
    const size_t x_bytes = (size_t)n_rows * (size_t)args->w->n_tile_cols * ANY4_TILE_COLS * 2;
    return linear_launch("any4_gemv", kernel, GEMV_THREADS, PAIR_TABLE_WORDS * sizeof(uint32_t) + x_bytes,
                         args, err);
}

/* -- gemm -- */

struct gemm_choice {
    any4_kernel *kernel;
    int32_t shared_bytes;
};

/* All of a tile's columns at a time, but for 64 tokens, of which they would not fit on every card. */
template <int GROUP, bool INT8, int N_TILES> static gemm_choice gemm_of(void)
{
    constexpr int COLS = N_TILES == 8 ? ANY4_TILE_COLS / 2 : ANY4_TILE_COLS;
    return {any4_gemm_kernel<GROUP, N_TILES, INT8, COLS>, gemm_shared_bytes<N_TILES, COLS>()};
}

template <int GROUP, bool INT8> static gemm_choice gemm_of_tokens(int32_t n_tokens)
{
    if (n_tokens <= 8) {
        return gemm_of<GROUP, INT8, 1>();
    }
    if (n_tokens <= 16) {
        return gemm_of<GROUP, INT8, 2>();
    }
    if constexpr (INT8) {
        return n_tokens <= 32 ? gemm_of<GROUP, INT8, 4>() : gemm_of<GROUP, INT8, 8>();
    } else {
        return gemm_of<GROUP, INT8, 4>();
    }
}

template <bool INT8> static gemm_choice gemm_of_group(int32_t group_size, int32_t n_tokens)
{
    switch (group_size) {
    case 32:
        return gemm_of_tokens<32, INT8>(n_tokens);
    case 64:
        return gemm_of_tokens<64, INT8>(n_tokens);
    default:
        return gemm_of_tokens<128, INT8>(n_tokens);
    }
}

/* The zero points of ANY4_LUT take sums of x beside every sum: for more than this many tokens at a time there
 * are not the registers, so they go in parts. */
static const int32_t LUT_MAX_TOKENS = 32;

enum status cuda_any4_gemm_small(const struct cuda_linear *args, struct error *err)
{
    enum status status = check_linear("any4_gemm_small", args, CUDA_MAX_TOKENS_SMALL, err);
    status = status ? status : check_workspace("any4_gemm_small", args, err);
    const bool int8 = args->w->kind == ANY4_LUT_INT8;
    const int32_t at_a_time =
        (int8 ? (int32_t)CUDA_MAX_TOKENS_SMALL : LUT_MAX_TOKENS) / std::max(args->x.parts, 1);
    for (int32_t begin = 0; begin < args->n_tokens && !status; begin += at_a_time) {
        struct cuda_linear some = *args;
        some.x.x += begin * args->x.parts * args->x.stride;
        some.x.scales += args->x.scales ? begin : 0;
        some.y += begin * args->y_stride;
        some.n_tokens = std::min(args->n_tokens - begin, at_a_time);
        const int32_t n_rows = some.n_tokens * some.x.parts;
        const gemm_choice choice = int8 ? gemm_of_group<true>(args->w->group_size, n_rows)
                                        : gemm_of_group<false>(args->w->group_size, n_rows);
        status = linear_launch("any4_gemm_small", choice.kernel, GEMM_THREADS, (size_t)choice.shared_bytes,
                               &some, err);
    }
    return status;
}
