/* One or two tokens: a lane owns a row and looks up two codes, a byte, at a time in a table of 256 pairs of
 * values in its own bank of shared memory. Warps of a block take tiles in turn. */
#ifndef KERNELS_CUDA_ANY4_GEMV_CUH
#define KERNELS_CUDA_ANY4_GEMV_CUH

#include "kernels/cuda/any4_tile.cuh"
#include "kernels/cuda/reduce.cuh"

enum {
    GEMV_WARPS = 8,
    GEMV_THREADS = GEMV_WARPS * SIMT_WARP,
    PAIR_TABLE_WORDS = 256 * SIMT_WARP,
};

/* Two values as f16 by a byte of codes, low nibble first: table[byte][lane]. A warp fills the rows of two
 * second codes. */
template <bool INT8>
SIMT_DEVICE void pair_table_fill(uint32_t *table, const struct cuda_any4 &w, int32_t row_block)
{
    const int64_t row = (int64_t)row_block * BLOCK_ROWS + simt_lane();
    const table_planes<INT8> planes = planes_load<INT8>(w, row);
    uint32_t pairs[8];
    SIMT_UNROLL
    for (int32_t i = 0; i < 8; i++) {
        if constexpr (INT8) {
            pairs[i] = pair_of_bytes(planes.word[i / 2], i % 2 ? 0x4342 : 0x4140);
        } else {
            pairs[i] = simt_prmt(planes.word[i / 2], planes.word[4 + i / 2], i % 2 ? 0x7362 : 0x5140);
        }
    }
    const uint8_t *bytes = reinterpret_cast<const uint8_t *>(w.planes) + row * (int64_t)sizeof planes;
    for (int32_t second = simt_warp(); second < 16; second += GEMV_WARPS) {
        uint32_t value = bytes[second];
        if constexpr (INT8) {
            value = pair_of_bytes(value, 0x4040);
        } else {
            value |= (uint32_t)bytes[16 + second] << 8;
        }
        SIMT_UNROLL
        for (int32_t first = 0; first < 16; first++) {
            table[(second * 16 + first) * SIMT_WARP + simt_lane()] =
                simt_prmt(pairs[first / 2], value, first % 2 ? 0x5432 : 0x5410);
        }
    }
}

/* x of all tokens to shared memory. For sums of f16 (F16), rows without a scale are divided by the power of
 * two that brings their largest value to 1 at most, which goes to undo; rows with one are small enough as
 * they are. */
template <int TOKENS, bool F16>
SIMT_DEVICE void gemv_stage(uint32_t *x, float *undo, const struct any4_args &args, uint32_t *scratch)
{
    const int32_t n_words = args.w.n_tile_cols * ANY4_TILE_COLS / 2;
    SIMT_UNROLL
    for (int32_t token = 0; token < TOKENS; token++) {
        const uint32_t *from = reinterpret_cast<const uint32_t *>(args.x + token * args.x_stride);
        uint32_t *to = x + token * n_words;
        uint32_t max = 0;
        for (int32_t i = simt_thread(); i < n_words; i += GEMV_THREADS) {
            const uint32_t pair = from[i], low = pair & 0x7fff, high = pair >> 16 & 0x7fff;
            max = low > max ? low : max;
            max = high > max ? high : max;
            to[i] = pair;
        }
        undo[token] = 1;
        if (F16 && !args.x_scales) {
            const float largest = simt_f16_low(block_max(max, scratch + token * GEMV_WARPS));
            undo[token] = x_scale_of(magnitude_bits(largest));
            const float down = 1.0f / undo[token];
            for (int32_t i = simt_thread(); i < n_words; i += GEMV_THREADS) {
                to[i] = simt_f16_pair(simt_f16_low(to[i]) * down, simt_f16_high(to[i]) * down);
            }
        }
    }
}

/* A lane's row of one tile. */
template <int GROUP, bool INT8> struct gemv_unit {
    simt_words piece[PIECES];
    tile_scales<GROUP, INT8> scales;
};

template <int GROUP, bool INT8>
SIMT_DEVICE gemv_unit<GROUP, INT8> gemv_load(const struct cuda_any4 &w, int32_t row_block, int32_t tile_col)
{
    const int32_t lane = simt_lane();
    const int32_t tile = (row_block * UNIT_TILES + lane / ANY4_TILE_ROWS) * w.n_tile_cols + tile_col;
    const simt_words *at =
        static_cast<const simt_words *>(w.codes) + tile * TILE_PIECES + lane % ANY4_TILE_ROWS;
    gemv_unit<GROUP, INT8> unit;
    SIMT_UNROLL
    for (int32_t t = 0; t < PIECES; t++) {
        unit.piece[t] = simt_load_stream(at + t * ANY4_TILE_ROWS);
    }
    unit.scales = scales_load<GROUP, INT8>(w, row_block, tile_col, lane);
    return unit;
}

/* The pair of a byte of a word of codes. */
template <int BYTE>
SIMT_DEVICE uint32_t pair_lookup(const uint32_t *table, uint32_t codes, uint32_t lane_offset)
{
    /* byte * 128 + 4 * lane: where it lies, in bytes */
    const uint32_t shifted = BYTE == 0 ? codes << 7 : codes >> (8 * BYTE - 7);
    const uint32_t offset = simt_and_or(shifted, 0x7f80, lane_offset);
    return simt_load_shared(
        reinterpret_cast<const uint32_t *>(reinterpret_cast<const uint8_t *>(table) + offset));
}

/* Adds one tile's products of a lane's row to sums. x: of the tile, tokens x_words apart. */
template <int GROUP, int TOKENS, bool INT8, bool F16>
SIMT_DEVICE void gemv_add(float sums[TOKENS], const gemv_unit<GROUP, INT8> &unit, const uint32_t *table,
                          const uint32_t *x, int32_t x_words)
{
    const uint32_t lane_offset = 4 * (uint32_t)simt_lane();
    float group_sums[TOKENS] = {}, x_sums[TOKENS] = {};
    SIMT_UNROLL
    for (int32_t jj = 0; jj < RUNS; jj++) {
        uint32_t halves[TOKENS] = {};
        SIMT_UNROLL
        for (int32_t t = 0; t < PIECES; t++) {
            const uint32_t codes = unit.piece[t].word[jj];
            const uint32_t pairs[4] = {
                pair_lookup<0>(table, codes, lane_offset), pair_lookup<1>(table, codes, lane_offset),
                pair_lookup<2>(table, codes, lane_offset), pair_lookup<3>(table, codes, lane_offset)};
            SIMT_UNROLL
            for (int32_t token = 0; token < TOKENS; token++) {
                const simt_words run = simt_load_shared(
                    reinterpret_cast<const simt_words *>(x + token * x_words) + (32 * jj + 8 * t) / 8);
                SIMT_UNROLL
                for (int32_t i = 0; i < 4; i++) {
                    if constexpr (F16) {
                        halves[token] = simt_f16_pair_fma(pairs[i], run.word[i], halves[token]);
                    } else {
                        const float low = simt_f16_low(run.word[i]), high = simt_f16_high(run.word[i]);
                        group_sums[token] = fmaf(simt_f16_low(pairs[i]), low, group_sums[token]);
                        group_sums[token] = fmaf(simt_f16_high(pairs[i]), high, group_sums[token]);
                        if constexpr (!INT8) {
                            x_sums[token] += low + high;
                        }
                    }
                }
                if constexpr (F16) { /* eight pairs are enough for a sum of f16 */
                    if (t % 2) {
                        group_sums[token] += simt_f16_low(halves[token]) + simt_f16_high(halves[token]);
                        halves[token] = 0;
                    }
                }
            }
        }
        if ((jj + 1) * 32 % GROUP == 0) {
            const int32_t group = jj * 32 / GROUP;
            const float scale = scale_of(unit.scales, group);
            SIMT_UNROLL
            for (int32_t token = 0; token < TOKENS; token++) {
                sums[token] = fmaf(scale, group_sums[token], sums[token]);
                if constexpr (!INT8) {
                    sums[token] = fmaf(zero_of(unit.scales, group), x_sums[token], sums[token]);
                }
                group_sums[token] = x_sums[token] = 0;
            }
        }
    }
}

/* Dynamic shared memory: the pair table, then x. */
template <int GROUP, int TOKENS, bool INT8, bool F16>
SIMT_KERNEL(GEMV_THREADS, 2)
any4_gemv_kernel(struct any4_args args)
{
    SIMT_DYNAMIC_SHARED(memory);
    SIMT_SHARED(float, parts, [GEMV_WARPS][TOKENS][BLOCK_ROWS]);
    SIMT_SHARED(uint32_t, scratch, [TOKENS * GEMV_WARPS]);
    SIMT_SHARED(uint32_t, is_last, [1]);
    uint32_t *table = reinterpret_cast<uint32_t *>(memory);
    uint32_t *x = table + PAIR_TABLE_WORDS;
    const int32_t n_tile_cols = args.w.n_tile_cols, x_words = n_tile_cols * ANY4_TILE_COLS / 2;
    const int32_t n_units = args.w.n_row_blocks * n_tile_cols;
    const int32_t end = stripe_begin(simt_block() + 1, n_units, simt_n_blocks());
    int32_t unit = stripe_begin(simt_block(), n_units, simt_n_blocks());
    float undo[TOKENS] = {};
    if (unit < end) { /* tables are weights: they need not wait */
        pair_table_fill<INT8>(table, args.w, unit / n_tile_cols);
    }
    simt_dependency_wait();
    gemv_stage<TOKENS, F16>(x, undo, args, scratch);
    for (bool filled = true; unit < end; filled = false) {
        const int32_t row_block = unit / n_tile_cols;
        const int32_t first = unit - row_block * n_tile_cols;
        const int32_t last = end - unit < n_tile_cols - first ? first + end - unit : n_tile_cols;
        if (!filled) { /* nobody reads the table behind the barriers that end a segment */
            pair_table_fill<INT8>(table, args.w, row_block);
        }
        simt_barrier();
        float sums[TOKENS] = {};
        int32_t tile_col = first + simt_warp();
        gemv_unit<GROUP, INT8> next = {};
        if (tile_col < last) {
            next = gemv_load<GROUP, INT8>(args.w, row_block, tile_col);
        }
        for (; tile_col < last; tile_col += GEMV_WARPS) {
            const gemv_unit<GROUP, INT8> current = next;
            if (tile_col + GEMV_WARPS < last) {
                next = gemv_load<GROUP, INT8>(args.w, row_block, tile_col + GEMV_WARPS);
            }
            gemv_add<GROUP, TOKENS, INT8, F16>(sums, current, table, x + tile_col * (ANY4_TILE_COLS / 2),
                                               x_words);
        }
        SIMT_UNROLL
        for (int32_t token = 0; token < TOKENS; token++) {
            parts[simt_warp()][token][simt_lane()] = F16 ? sums[token] * undo[token] : sums[token];
        }
        simt_barrier();
        if (simt_thread() < TOKENS * BLOCK_ROWS) {
            const int32_t token = simt_thread() / BLOCK_ROWS, row = simt_thread() % BLOCK_ROWS;
            float sum = 0;
            for (int32_t warp = 0; warp < GEMV_WARPS; warp++) {
                sum += parts[warp][token][row];
            }
            parts[0][token][row] = sum; /* nobody else reads this cell */
        }
        simt_barrier();
        segment_finish(args, row_block, n_units, parts[0][0], BLOCK_ROWS, is_last);
        unit += last - first;
    }
}

#endif
