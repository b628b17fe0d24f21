/* What the kernels over 4-bit tiles share: how work is dealt, scales, tables, and how blocks that share rows
 * put their sums together. The formats stand in launch.h and quant/any4.h. */
#ifndef KERNELS_CUDA_ANY4_TILE_CUH
#define KERNELS_CUDA_ANY4_TILE_CUH

#include "kernels/cuda/launch.h"
#include "kernels/cuda/simt.h"
#include "kernels/cuda/x_row.cuh"

enum {
    BLOCK_ROWS = ANY4_TILE_ROW_PAD,        /* rows of a unit of work: a lane each */
    PIECES = 4,                            /* of a row in a tile: t */
    RUNS = 4,                              /* words of a piece: jj */
    TILE_PIECES = PIECES * ANY4_TILE_ROWS, /* in memory, in order */
    UNIT_TILES = BLOCK_ROWS / ANY4_TILE_ROWS,
};

/* Kernel arguments: struct cuda_linear without pointers into the host. */
struct any4_args {
    struct cuda_any4 w;
    float *y;
    int64_t y_stride;
    const uint16_t *x;
    int32_t x_stride; /* 32 bits reach all tokens of a launch */
    int32_t n_x_rows; /* `parts` of them make a token of y */
    const float *x_scales;
    int32_t parts;
    float *partials; /* two slots a block of (tokens, BLOCK_ROWS) */
    uint32_t *counters;
};

/* Units (32 rows x 128 columns), columns first, are dealt to blocks in even stripes; so a row block may be
 * shared between neighbours. A segment is what a block has of one row block. Divisions of 64 bits would take
 * longer than a block's first loads: the launch sees to it that 32 are enough for this
 * and for the number of a 16-byte piece. */
SIMT_DEVICE int32_t stripe_begin(int32_t block, int32_t n_units, int32_t n_blocks)
{
    return block * n_units / n_blocks;
}

SIMT_DEVICE int32_t stripe_of(int32_t unit, int32_t n_units, int32_t n_blocks)
{
    return ((unit + 1) * n_blocks - 1) / n_units;
}

/* -- scales -- */

/* What a row's scales of one tile take in registers: ANY4_LUT_INT8 one word with a byte a group, ANY4_LUT a
 * word a group. */
template <int GROUP, bool INT8> struct tile_scales {
    uint32_t word[INT8 ? 1 : ANY4_TILE_COLS / GROUP];
};

/* row: of the row block. */
template <int GROUP, bool INT8>
SIMT_DEVICE tile_scales<GROUP, INT8> scales_load(const struct cuda_any4 &w, int32_t row_block,
                                                 int32_t tile_col, int32_t row)
{
    constexpr int32_t N_GROUPS = ANY4_TILE_COLS / GROUP;
    const int32_t tile = row_block * w.n_tile_cols + tile_col;
    tile_scales<GROUP, INT8> scales;
    if constexpr (INT8) {
        const int32_t at = tile * BLOCK_ROWS + row;
        if constexpr (N_GROUPS == 4) {
            scales.word[0] = static_cast<const uint32_t *>(w.scales)[at];
        } else if constexpr (N_GROUPS == 2) {
            scales.word[0] = static_cast<const uint16_t *>(w.scales)[at];
        } else {
            scales.word[0] = static_cast<const uint8_t *>(w.scales)[at];
        }
    } else {
        SIMT_UNROLL
        for (int32_t group = 0; group < N_GROUPS; group++) {
            scales.word[group] =
                static_cast<const uint32_t *>(w.scales)[(tile * N_GROUPS + group) * BLOCK_ROWS + row];
        }
    }
    return scales;
}

template <int GROUP, bool INT8>
SIMT_DEVICE float scale_of(const tile_scales<GROUP, INT8> &scales, int32_t group)
{
    if constexpr (INT8) {
        return (float)(int8_t)(scales.word[0] >> 8 * group);
    } else {
        return simt_bf16_low(scales.word[group]);
    }
}

template <int GROUP> SIMT_DEVICE float zero_of(const tile_scales<GROUP, false> &scales, int32_t group)
{
    return simt_bf16_high(scales.word[group]);
}

/* -- tables -- */

/* What prmt chooses a row's 16 values from: bytes of ANY4_LUT_INT8's entries + 128; ANY4_LUT's entries as
 * f16, four words of low bytes, then the high ones. */
template <bool INT8> struct table_planes {
    uint32_t word[INT8 ? 4 : 8];
};

template <bool INT8> SIMT_DEVICE table_planes<INT8> planes_load(const struct cuda_any4 &w, int64_t row)
{
    constexpr int32_t PLANES = INT8 ? 1 : 2;
    const simt_words *at = reinterpret_cast<const simt_words *>(w.planes) + PLANES * row;
    table_planes<INT8> planes;
    SIMT_UNROLL
    for (int32_t plane = 0; plane < PLANES; plane++) {
        const simt_words loaded = at[plane];
        SIMT_UNROLL
        for (int32_t i = 0; i < 4; i++) {
            planes.word[4 * plane + i] = loaded.word[i];
        }
    }
    return planes;
}

/* Two of four bytes entry + 128, at the places 4 k and 4 j of the selector 0x4k4j, as f16: under a high byte
 * of 0x64 such a byte is the number 1024 + entry + 128, and the difference is exact. */
SIMT_DEVICE uint32_t pair_of_bytes(uint32_t bytes, uint32_t selector)
{
    return simt_f16_pair_sub(simt_prmt(bytes, 0x64646464, selector), 0x64806480);
}

/* -- blocks that share rows -- */

/* The sums of the blocks [first, last] for number i of (rows of x, BLOCK_ROWS), in their order. */
SIMT_DEVICE float segment_partials(const struct any4_args &args, int32_t row_block, int32_t n_units,
                                   int32_t first, int32_t last, int32_t i)
{
    const int64_t slot_size = (int64_t)args.n_x_rows * BLOCK_ROWS;
    float sum = 0;
    for (int32_t block = first; block <= last; block++) {
        const int64_t slot =
            (int64_t)block * 2 +
            (stripe_begin(block, n_units, simt_n_blocks()) / args.w.n_tile_cols == row_block ? 0 : 1);
        sum += args.partials[slot * slot_size + i];
    }
    return sum;
}

/* Stores a block's sums of a segment: sum(token, row) in shared memory at sums[token * stride + row], already
 * whole but for the scales of row and token. A row block of one block is done with that; else the sums go to
 * a slot of the block's and the last one to come adds up all of them in order. Called by all threads, behind
 * a barrier; shared memory is free again behind the next one. */
SIMT_DEVICE void segment_finish(const struct any4_args &args, int32_t row_block, int32_t n_units,
                                const float *sums, int32_t stride, uint32_t *is_last)
{
    const struct cuda_any4 &w = args.w;
    const int32_t first = stripe_of(row_block * w.n_tile_cols, n_units, simt_n_blocks());
    const int32_t last = stripe_of((row_block + 1) * w.n_tile_cols - 1, n_units, simt_n_blocks());
    const int64_t slot_size = (int64_t)args.n_x_rows * BLOCK_ROWS;
    if (first != last) {
        const int64_t slot =
            (int64_t)simt_block() * 2 +
            (stripe_begin(simt_block(), n_units, simt_n_blocks()) / w.n_tile_cols == row_block ? 0 : 1);
        for (int32_t i = simt_thread(); i < args.n_x_rows * BLOCK_ROWS; i += simt_n_threads()) {
            args.partials[slot * slot_size + i] = sums[i / BLOCK_ROWS * stride + i % BLOCK_ROWS];
        }
        simt_barrier();
        if (simt_thread() == 0) {
            *is_last = simt_arrive(args.counters + row_block) == (uint32_t)(last - first);
            if (*is_last) {
                args.counters[row_block] = 0; /* for the next launch */
            }
        }
        simt_barrier();
        if (!*is_last) {
            return;
        }
    }
    const bool two = args.parts == 2;
    for (int32_t i = simt_thread(); i < args.n_x_rows / args.parts * BLOCK_ROWS; i += simt_n_threads()) {
        const int32_t token = i / BLOCK_ROWS, row = i % BLOCK_ROWS, x_row = token * args.parts;
        const int64_t out = (int64_t)row_block * BLOCK_ROWS + row;
        float sum, rest = 0;
        if (first == last) {
            sum = sums[x_row * stride + row];
            rest = two ? sums[(x_row + 1) * stride + row] : 0.0f;
        } else {
            const int32_t at = x_row * BLOCK_ROWS + row;
            sum = segment_partials(args, row_block, n_units, first, last, at);
            rest = two ? segment_partials(args, row_block, n_units, first, last, at + BLOCK_ROWS) : 0.0f;
        }
        sum = two ? x_parts_sum(sum, rest) : sum;
        if (out < w.n_rows) {
            sum = w.kind == ANY4_LUT_INT8 ? w.row_scales[out] * sum : sum;
            args.y[token * args.y_stride + out] = x_scale_at(args.x_scales, token) * sum;
        }
    }
}

#endif
