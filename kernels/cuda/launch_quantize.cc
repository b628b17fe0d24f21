/* Launches of quantize.cuh. Compiled by nvcc for the card (with -fmad=false, as the specification has no
 * fused products but those it names) and by the host's compiler for its runtime. */
#include "kernels/cuda/quantize.h"

#include "kernels/cuda/check.h"
#include "kernels/cuda/quantize.cuh"

enum { SCRATCH_ALIGNMENT = 128 };

static int32_t n_tiles_of(int32_t n_cols, int32_t group_size)
{
    const int64_t columns = (int64_t)group_size * LEARN_LANES;
    return (int32_t)((n_cols + columns - 1) / columns);
}

static size_t aligned(size_t bytes)
{
    return (bytes + SCRATCH_ALIGNMENT - 1) / SCRATCH_ALIGNMENT * SCRATCH_ALIGNMENT;
}

/* Of the columns' importance, before the blocks' own parts. */
static size_t importance_bytes(int32_t n_cols, int32_t group_size)
{
    return aligned((size_t)n_tiles_of(n_cols, group_size) * LEARN_LANES * (size_t)group_size * sizeof(float));
}

static size_t block_bytes(int32_t n_cols, int32_t group_size)
{
    const size_t n_lanes = (size_t)n_tiles_of(n_cols, group_size) * LEARN_LANES;
    return aligned(n_lanes * ((size_t)group_size * QUANTIZE_COLUMN_BYTES + QUANTIZE_GROUP_BYTES));
}

size_t cuda_quantize_scratch(int32_t n_cols, int32_t group_size, int32_t n_blocks)
{
    return importance_bytes(n_cols, group_size) + (size_t)n_blocks * block_bytes(n_cols, group_size);
}

static enum status check(const struct cuda_quantize *args, struct error *err)
{
    if (args->n_rows < 1 || args->n_cols < 1 || args->n_rows > INT32_MAX / 2 ||
        args->n_cols > INT32_MAX - 2 * LEARN_LANES * ANY4_TILE_COLS || args->w_stride < args->n_cols) {
        return error_set(err, STATUS_INVALID, "quantize: %d rows of %d, %lld apart", args->n_rows,
                         args->n_cols, (long long)args->w_stride);
    }
    if (args->source != ANY4_F32 && args->source != ANY4_F16 && args->source != ANY4_BF16) {
        return error_set(err, STATUS_INVALID, "quantize: kind %d is not f32, f16 or bf16", (int)args->source);
    }
    if (args->group_size != 32 && args->group_size != 64 && args->group_size != 128) {
        return error_set(err, STATUS_INVALID, "quantize: group size %d is not 32, 64 or 128",
                         args->group_size);
    }
    if (args->code_bits < 2 || args->code_bits > 4) {
        return error_set(err, STATUS_INVALID, "quantize: codes of %d bits, expected 2, 3 or 4",
                         args->code_bits);
    }
    if (args->n_blocks < 1 || !args->scratch || (uintptr_t)args->scratch % SCRATCH_ALIGNMENT) {
        return error_set(err, STATUS_INVALID,
                         "quantize: %d blocks, scratch at %p, expected %d-byte alignment", args->n_blocks,
                         args->scratch, SCRATCH_ALIGNMENT);
    }
    return STATUS_OK;
}

static struct quantize_job job_of(const struct cuda_quantize *args)
{
    uint8_t *scratch = static_cast<uint8_t *>(args->scratch);
    struct quantize_job job = {};
    job.w = args->w;
    job.source = args->source;
    job.w_stride = args->w_stride;
    job.importance = args->importance;
    job.n_rows = args->n_rows;
    job.n_cols = args->n_cols;
    job.group_bits = args->group_size == 32 ? 5 : args->group_size == 64 ? 6 : 7;
    job.code_bits = args->code_bits;
    job.n_groups = (int32_t)(((int64_t)args->n_cols + args->group_size - 1) / args->group_size);
    job.n_tiles = n_tiles_of(args->n_cols, args->group_size);
    job.n_tile_cols = cuda_padded(args->n_cols) / ANY4_TILE_COLS;
    job.importance_tiles = reinterpret_cast<float *>(scratch);
    job.scratch = scratch + importance_bytes(args->n_cols, args->group_size);
    job.scratch_bytes = (int64_t)block_bytes(args->n_cols, args->group_size);
    job.bad = args->bad;
    return job;
}

static enum status launch(const struct quantize_job &job, const struct cuda_quantize *args, struct error *err)
{
    const int32_t n_rows = (args->n_rows + ANY4_TILE_ROW_PAD - 1) / ANY4_TILE_ROW_PAD * ANY4_TILE_ROW_PAD;
    const int32_t n_blocks = args->n_blocks < n_rows ? args->n_blocks : n_rows;
    const struct simt_grid one = {"quantize_importance", 1, QUANTIZE_THREADS, 0, args->stream};
    const struct simt_grid all = {"quantize", n_blocks, QUANTIZE_THREADS, 0, args->stream};
    enum status status = launched(simt_launch(one, quantize_importance_kernel, job), one.name, err);
    return status ? status : launched(simt_launch(all, quantize_kernel, job), all.name, err);
}

enum status cuda_quantize_rows(const struct cuda_quantize *args, const struct cuda_quantized *out,
                               struct error *err)
{
    enum status status = check(args, err);
    if (status) {
        return status;
    }
    if ((uintptr_t)out->codes % 16) {
        return error_set(err, STATUS_INVALID, "quantize: codes at %p, expected 16-byte alignment",
                         (void *)out->codes);
    }
    struct quantize_job job = job_of(args);
    job.codes = out->codes;
    job.group_scales = out->group_scales;
    job.table = out->table;
    job.row_scales = out->row_scales;
    return launch(job, args, err);
}

enum status cuda_quantize_any4(const struct cuda_quantize *args, const struct cuda_any4 *out,
                               struct error *err)
{
    enum status status = check(args, err);
    if (status) {
        return status;
    }
    if (args->code_bits != 4 || out->kind != ANY4_LUT_INT8 || out->n_rows != args->n_rows ||
        out->n_cols != args->n_cols || out->group_size != args->group_size) {
        return error_set(err, STATUS_INVALID,
                         "quantize: %d rows of %d in %d bits and groups of %d, expected %d rows of %d in 4 "
                         "bits and groups of %d for int8 tables",
                         args->n_rows, args->n_cols, args->code_bits, args->group_size, out->n_rows,
                         out->n_cols, out->group_size);
    }
    struct quantize_job job = job_of(args);
    /* Whoever made the block may write it; the kernels that struct cuda_any4 is for may not. */
    job.codes = static_cast<uint8_t *>(const_cast<void *>(out->codes));
    job.group_scales = static_cast<int8_t *>(const_cast<void *>(out->scales));
    job.planes = const_cast<uint32_t *>(out->planes);
    job.row_scales = const_cast<float *>(out->row_scales);
    return launch(job, args, err);
}
