/* Launches of attention.cuh. Compiled by nvcc for the card and by the host's compiler for its runtime. */
#include "kernels/cuda/attention.h"

#include <algorithm>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/check.h"

/* Rows times splits that may be spread over blocks: enough for a large card with few rows of long contexts;
 * from there on rows alone fill it. */
static const int64_t MAX_SPREAD = 8192;

static int32_t splits_of(int32_t max_position)
{
    return max_position / CUDA_ATTENTION_SPLIT + 1;
}

/* The head_dim of the instance. */
static int32_t padded_head_dim(int32_t head_dim)
{
    return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256;
}

int32_t cuda_attention_tiles(struct cuda_attention_tile *out, const int32_t *positions,
                             const int32_t *sequences, int32_t n_rows)
{
    int32_t n_tiles = 0;
    for (int32_t row = 0; row < n_rows; row++) {
        struct cuda_attention_tile *tile = out + n_tiles - 1;
        if (n_tiles && tile->n < CUDA_ATTENTION_TILE && positions[row] > 0 &&
            positions[row - 1] == positions[row] - 1 && sequences[row - 1] == sequences[row]) {
            tile->n++;
        } else {
            out[n_tiles++] = {row, 1};
        }
    }
    return n_tiles;
}

int64_t cuda_attention_partials(int32_t n_heads, int32_t head_dim, int32_t n_rows, int32_t max_position)
{
    const int64_t spread = std::min((int64_t)n_rows * splits_of(max_position), MAX_SPREAD);
    return std::max<int64_t>(n_rows, spread) * n_heads * (padded_head_dim(head_dim) + 2);
}

static enum status check_attention(const struct cuda_attention *args, struct error *err)
{
    const int64_t n = (int64_t)args->n_heads * args->head_dim;
    if (args->head_dim < 8 || args->head_dim % 8 || args->head_dim > CUDA_ATTENTION_MAX_HEAD_DIM ||
        args->n_kv_heads < 1 || args->n_heads < 1 || args->n_heads % args->n_kv_heads) {
        return error_set(err, STATUS_INVALID,
                         "attention: %d heads, %d KV heads of %d, expected a multiple of 8 up to %d",
                         args->n_heads, args->n_kv_heads, args->head_dim, CUDA_ATTENTION_MAX_HEAD_DIM);
    }
    if (args->n_rows < 1 || args->n_tiles < 1 || args->n_tiles > args->n_rows || args->max_position < 0 ||
        args->block_size < 1 || args->sliding_window < 0 || !(args->scale > 0)) {
        return error_set(
            err, STATUS_INVALID,
            "attention: %d rows in %d tiles up to position %d, blocks of %d, window %d, scale %g",
            args->n_rows, args->n_tiles, args->max_position, args->block_size, args->sliding_window,
            (double)args->scale);
    }
    const enum status status = check_rows("attention", "out", &args->out, cuda_padded((int32_t)n), err);
    if (status) {
        return status;
    }
    if (args->out.scales || args->q_stride < n) {
        return error_set(
            err, STATUS_INVALID,
            "attention: rows of q are %lld apart, expected at least %lld, scales are %p, expected "
            "none",
            (long long)args->q_stride, (long long)n, (const void *)args->out.scales);
    }
    if (args->block_stride % 8 || (uintptr_t)args->k % 16 || (uintptr_t)args->v % 16 ||
        (uintptr_t)args->partials % 16) {
        return error_set(
            err, STATUS_INVALID,
            "attention: blocks are %lld elements apart, expected a multiple of 8, and keys, values "
            "and partials aligned to 16 bytes",
            (long long)args->block_stride);
    }
    const int64_t n_partials =
        cuda_attention_partials(args->n_heads, args->head_dim, args->n_rows, args->max_position);
    const int64_t n_counters = (int64_t)args->n_tiles * args->n_kv_heads;
    if (args->n_partials < n_partials || args->n_counters < n_counters) {
        return error_set(
            err, STATUS_INVALID, "attention: %lld partials and %d counters, expected at least %lld and %lld",
            (long long)args->n_partials, args->n_counters, (long long)n_partials, (long long)n_counters);
    }
    return STATUS_OK;
}

typedef void attention_kernel(struct attention_args);

static enum status start(const char *name, attention_kernel *kernel, int64_t n_blocks, int32_t n_threads,
                         size_t shared_bytes, const struct attention_args &args, void *stream,
                         struct error *err)
{
    if (n_blocks > INT32_MAX) {
        return error_set(err, STATUS_INVALID, "%s: %lld blocks are too many", name, (long long)n_blocks);
    }
    return launched(simt_launch({name, (int32_t)n_blocks, n_threads, shared_bytes, stream}, kernel, args),
                    name, err);
}

/* Narrow tiles, then wide ones; each kernel leaves the other's alone. */
template <class K> static enum status start_both(struct attention_args args, void *stream, struct error *err)
{
    typedef attention_sizes<K> sizes;
    const struct cuda_attention &call = args.call;
    enum status status = STATUS_OK;
    args.wide_rows = sizes::WIDE_TILES * ATTENTION_ROWS;
    if (args.group <= ATTENTION_ROWS) {
        const int64_t n_blocks = (int64_t)call.n_tiles * args.n_splits * call.n_kv_heads;
        status = start("attention_narrow", attention_narrow_kernel<K>, n_blocks, NARROW_THREADS,
                       (size_t)sizes::NARROW * 16, args, stream, err);
    }
    if (!status && (call.n_tiles < call.n_rows || args.group > ATTENTION_ROWS)) {
        const int32_t n_row_blocks = (CUDA_ATTENTION_TILE * args.group + args.wide_rows - 1) / args.wide_rows;
        const int64_t n_blocks = (int64_t)call.n_tiles * n_row_blocks * call.n_kv_heads;
        status = start("attention_wide", attention_wide_kernel<K>, n_blocks, WIDE_THREADS,
                       (size_t)sizes::WIDE * 16, args, stream, err);
    }
    return status;
}

template <bool F16>
static enum status start_16(const struct attention_args &args, void *stream, struct error *err)
{
    const bool exact = args.call.out.parts == 2;
    switch (padded_head_dim(args.call.head_dim)) {
    case 64:
        return exact ? start_both<attention_kind<F16, 64, true>>(args, stream, err)
                     : start_both<attention_kind<F16, 64, false>>(args, stream, err);
    case 128:
        return exact ? start_both<attention_kind<F16, 128, true>>(args, stream, err)
                     : start_both<attention_kind<F16, 128, false>>(args, stream, err);
    default:
        return start_both<attention_kind<F16, 256, false>>(args, stream, err);
    }
}

template <int TYPE>
static enum status start_plain(const struct attention_args &args, void *stream, struct error *err)
{
    return start("attention_plain", attention_plain_kernel<TYPE>,
                 (int64_t)args.call.n_rows * args.call.n_heads, PLAIN_THREADS, 0, args, stream, err);
}

enum status cuda_attention(const struct cuda_attention *args, void *stream, struct error *err)
{
    enum status status = check_attention(args, err);
    if (status) {
        return status;
    }
    struct attention_args all = {};
    const int64_t n_splits = splits_of(args->max_position);
    all.call = *args;
    all.group = args->n_heads / args->n_kv_heads;
    all.n_padded = cuda_padded(args->n_heads * args->head_dim);
    all.n_splits = args->n_rows * n_splits <= MAX_SPREAD ? (int32_t)n_splits : 1;
    all.limits = args->partials +
                 (int64_t)args->n_rows * args->n_heads * all.n_splits * padded_head_dim(args->head_dim);
    /* For results in two parts of more than 128 dimensions the others have neither registers nor shared
     * memory. */
    const bool plain = args->type == KV_F32 || (args->out.parts == 2 && args->head_dim > 128);
    if (plain) {
        return args->type == KV_F32   ? start_plain<ANY4_F32>(all, stream, err)
               : args->type == KV_F16 ? start_plain<ANY4_F16>(all, stream, err)
                                      : start_plain<ANY4_BF16>(all, stream, err);
    }
    return args->type == KV_F16 ? start_16<true>(all, stream, err) : start_16<false>(all, stream, err);
}
