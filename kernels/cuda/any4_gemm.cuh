/* 3 to 64 tokens (1 and 2 work too): weights are the A fragments of f16 matrix products, decoded once by
 * prmt on planes of bytes and used for all tokens, which are B fragments in tiles of 8. A block's eight
 * warps are two halves of 16 rows times four that take a quarter of a row block's tiles each; the order of
 * additions is the same for any number of tokens. */
#ifndef KERNELS_CUDA_ANY4_GEMM_CUH
#define KERNELS_CUDA_ANY4_GEMM_CUH

#include "kernels/cuda/any4_tile.cuh"

enum {
    GEMM_SPLITS = 4, /* tiles that a block works on at a time */
    GEMM_WARPS = 2 * GEMM_SPLITS,
    GEMM_THREADS = GEMM_WARPS * SIMT_WARP,
    GEMM_SUM_STRIDE = BLOCK_ROWS + 4, /* of a token's sums: no two lanes of a warp write to one bank */
};

/* Four bytes of a plane by two selectors of four nibbles: within the halves of the plane, and of a half. */
SIMT_DEVICE uint32_t plane_bytes(const uint32_t plane[4], uint32_t entry, uint32_t half)
{
    return simt_prmt(simt_prmt(plane[0], plane[1], entry), simt_prmt(plane[2], plane[3], entry), half);
}

/* Eight codes of one row to the registers of two steps: codes 0 1, 2 3, 4 5, 6 7 as f16 pairs. Bit 3 of a
 * code chooses between the two halves of the table; prmt would take it for its sign mode. */
template <bool INT8>
SIMT_DEVICE void decode_run(uint32_t out[4], uint32_t codes, const table_planes<INT8> &planes)
{
    uint32_t entry = codes & 0x77777777u;
    uint32_t half = simt_and_or(codes >> 1, 0x44444444u, 0x32103210u); /* byte i of the lower or upper half */
    SIMT_UNROLL
    for (int32_t i = 0; i < 4; i += 2) {
        const uint32_t low = plane_bytes(planes.word, entry, half);
        if constexpr (INT8) {
            out[i] = pair_of_bytes(low, 0x4140);
            out[i + 1] = pair_of_bytes(low, 0x4342);
        } else {
            const uint32_t high = plane_bytes(planes.word + 4, entry, half);
            out[i] = simt_prmt(low, high, 0x5140);
            out[i + 1] = simt_prmt(low, high, 0x7362);
        }
        entry >>= 16;
        half >>= 16;
    }
}

/* A lane's pieces of one tile of 16 rows: rows g and g + 8. The word of scales of ANY4_LUT_INT8 is loaded as
 * early; for the words of ANY4_LUT there are not the registers. */
template <int GROUP, bool INT8> struct gemm_unit {
    simt_words piece[2];
    tile_scales<GROUP, INT8> scales[2];
};

template <int GROUP, bool INT8>
SIMT_DEVICE void gemm_load_scales(gemm_unit<GROUP, INT8> &unit, const struct cuda_any4 &w, int32_t row_block,
                                  int32_t half, int32_t tile_col)
{
    SIMT_UNROLL
    for (int32_t i = 0; i < 2; i++) {
        const int32_t row = (2 * half + i) * ANY4_TILE_ROWS + simt_lane() / 4;
        unit.scales[i] = scales_load<GROUP, INT8>(w, row_block, tile_col, row);
    }
}

template <int GROUP, bool INT8>
SIMT_DEVICE gemm_unit<GROUP, INT8> gemm_load(const struct cuda_any4 &w, int32_t row_block, int32_t half,
                                             int32_t tile_col)
{
    const int32_t lane = simt_lane(), g = lane / 4, t = lane % 4;
    gemm_unit<GROUP, INT8> unit;
    SIMT_UNROLL
    for (int32_t i = 0; i < 2; i++) {
        const int32_t tile_row = 2 * half + i;
        const int32_t tile = (row_block * UNIT_TILES + tile_row) * w.n_tile_cols + tile_col;
        unit.piece[i] = simt_load_stream(static_cast<const simt_words *>(w.codes) + tile * TILE_PIECES +
                                         t * ANY4_TILE_ROWS + g);
    }
    if constexpr (INT8) {
        gemm_load_scales(unit, w, row_block, half, tile_col);
    }
    return unit;
}

/* The products of run jj of a tile. x: the piece of token g that the lane meets, the next eight tokens'
 * pieces PIECES_A_ROW * 8 further. Every kernel whose bits have to agree adds like this. */
template <int GROUP, int N_TILES, bool INT8, int PIECES_A_ROW>
SIMT_DEVICE void gemm_word(float sums[N_TILES][4], float group_sums[N_TILES][4], float x_sums[][4],
                           const gemm_unit<GROUP, INT8> &unit, const table_planes<INT8> planes[2], int32_t jj,
                           const simt_words *x)
{
    uint32_t upper[4], lower[4];
    decode_run(upper, unit.piece[0].word[jj], planes[0]);
    decode_run(lower, unit.piece[1].word[jj], planes[1]);
    const uint32_t a[2][4] = {{upper[0], lower[0], upper[1], lower[1]},
                              {upper[2], lower[2], upper[3], lower[3]}};
    const bool ends_group = (jj + 1) * 32 % GROUP == 0;
    const int32_t group = jj * 32 / GROUP;
    SIMT_UNROLL
    for (int32_t n = 0; n < N_TILES; n++) {
        const simt_words b = simt_load_shared(x + n * 8 * PIECES_A_ROW);
        simt_mma_f16(group_sums[n], a[0], b.word);
        simt_mma_f16(group_sums[n], a[1], b.word + 2);
        if constexpr (!INT8) { /* sums of x, for the zero points: a product with ones */
            const uint32_t ones[4] = {0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00};
            simt_mma_f16(x_sums[n], ones, b.word);
            simt_mma_f16(x_sums[n], ones, b.word + 2);
        }
        if (ends_group) {
            SIMT_UNROLL
            for (int32_t i = 0; i < 4; i++) {
                const float scale = scale_of(unit.scales[i / 2], group);
                sums[n][i] = fmaf(scale, group_sums[n][i], sums[n][i]);
                group_sums[n][i] = 0;
                if constexpr (!INT8) {
                    sums[n][i] = fmaf(zero_of(unit.scales[i / 2], group), x_sums[n][i], sums[n][i]);
                    x_sums[n][i] = 0;
                }
            }
        }
    }
}

/* One stage of x in shared memory: (GEMM_SPLITS, tokens, COLS) f16, 16-byte pieces of odd tokens with the
 * halves of each 128 bytes exchanged, so that the eight lanes that read at a time meet all banks once. */
template <int TOKENS, int COLS> struct gemm_stage {
    static constexpr int32_t PIECES_A_ROW = COLS / 8;
    static constexpr int32_t PIECES_ALL = GEMM_SPLITS * TOKENS * PIECES_A_ROW;
};

template <int TOKENS, int COLS> SIMT_DEVICE int32_t gemm_stage_at(int32_t split, int32_t token, int32_t piece)
{
    return (split * TOKENS + token) * gemm_stage<TOKENS, COLS>::PIECES_A_ROW + (piece ^ (token & 1) * 4);
}

/* Where in a stage a lane finds its pieces of token g: run jj is at[jj % 2][jj / 2 * 8]. Two addresses do for
 * all runs, for the exchange concerns but the lowest bit of a run's number. */
struct gemm_lane_x {
    const simt_words *at[2];
    SIMT_DEVICE_MEMBER const simt_words *run(int32_t jj, int32_t stage_pieces) const
    {
        return at[jj % 2] + (stage_pieces + jj / 2 * 8);
    }
};

template <int TOKENS, int COLS>
SIMT_DEVICE struct gemm_lane_x gemm_lane_x_of(const simt_words *stages, int32_t split)
{
    const int32_t g = simt_lane() / 4, t = simt_lane() % 4;
    return {{stages + gemm_stage_at<TOKENS, COLS>(split, g, t),
             stages + gemm_stage_at<TOKENS, COLS>(split, g, 4 + t)}};
}

/* Where the rows of x lie: one behind the other, or by a list in shared memory. */
struct gemm_rows_plain {
    const uint16_t *x;
    int32_t stride; /* 32 bits reach all tokens of a launch */
    SIMT_DEVICE_MEMBER const uint16_t *at(int32_t token, int32_t col) const
    {
        return x + (token * stride + col);
    }
};
struct gemm_rows_gathered {
    const uint16_t *x;
    const int32_t *begin; /* of each row, in elements */
    SIMT_DEVICE_MEMBER const uint16_t *at(int32_t token, int32_t col) const
    {
        return x + (begin[token] + col);
    }
};

/* What a block has of one row block: the tiles [first, last) of its n_tokens, of which each split takes
 * `length` in a row, the last ones fewer. */
struct gemm_range {
    int32_t row_block, first, last, length;
};

SIMT_DEVICE struct gemm_range gemm_range_of(int32_t row_block, int32_t first, int32_t last)
{
    return {row_block, first, last, (last - first + GEMM_SPLITS - 1) / GEMM_SPLITS};
}

/* Starts copying the columns [col, col + COLS) of tile `step` of each split. Rows of tokens that are not
 * there keep what they hold: they end in sums that nobody takes. A thread copies the same piece of several
 * rows (split, token). */
template <int TOKENS, int COLS, class ROWS>
SIMT_DEVICE void gemm_stage_x(simt_words *stage, const ROWS &rows, int32_t n_tokens,
                              const struct gemm_range &range, int32_t step, int32_t col)
{
    constexpr int32_t PIECES_A_ROW = gemm_stage<TOKENS, COLS>::PIECES_A_ROW;
    constexpr int32_t ROWS_A_TURN = GEMM_THREADS / PIECES_A_ROW;
    constexpr int32_t TURNS = gemm_stage<TOKENS, COLS>::PIECES_ALL / GEMM_THREADS;
    static_assert(ROWS_A_TURN % 2 == 0 && (TOKENS % ROWS_A_TURN == 0 || ROWS_A_TURN % TOKENS == 0),
                  "whole rows");
    const int32_t piece = simt_thread() % PIECES_A_ROW, row = simt_thread() / PIECES_A_ROW;
    simt_words *to = stage + gemm_stage_at<TOKENS, COLS>(0, row, piece);
    const int32_t tile = range.first + row / TOKENS * range.length + step;
    SIMT_UNROLL
    for (int32_t turn = 0; turn < TURNS; turn++) {
        /* row + turn * ROWS_A_TURN is split * TOKENS + token */
        const int32_t token = row % TOKENS + turn * ROWS_A_TURN % TOKENS;
        const int32_t tile_col = tile + turn * ROWS_A_TURN / TOKENS * range.length;
        if (token < n_tokens && tile_col < range.last) {
            simt_copy_async(to + turn * GEMM_THREADS,
                            rows.at(token, tile_col * ANY4_TILE_COLS + col + piece * 8), true);
        }
    }
    simt_copy_commit();
}

/* Dynamic shared memory: two stages of x, and at the end the sums. */
template <int N_TILES, int COLS> constexpr int32_t gemm_shared_bytes(void)
{
    constexpr int32_t stages = 2 * gemm_stage<8 * N_TILES, COLS>::PIECES_ALL * 16;
    constexpr int32_t sums = GEMM_SPLITS * 8 * N_TILES * GEMM_SUM_STRIDE * 4;
    return stages > sums ? stages : sums;
}

/* Two blocks share a processor where 128 registers are enough for both; what is loaded ahead has to fit. */
template <int N_TILES, bool INT8> constexpr int32_t gemm_blocks(void)
{
    return INT8 && N_TILES <= 2 ? 2 : 1;
}

/* The sums of one row block over tiles [first, last): at sums[token * GEMM_SUM_STRIDE + row], sums being all
 * of `memory`, whole but for the scales of row and token, for all threads to read. A token's sum is one chain
 * over the groups of each split, then the splits in order, whatever N_TILES (of 8 tokens) and COLS (of a tile
 * that are staged at a time, 64 or 128) are. */
template <int GROUP, int N_TILES, bool INT8, int COLS, class ROWS>
SIMT_DEVICE void gemm_segment(uint8_t *memory, const struct cuda_any4 &w, const struct gemm_range &range,
                              const ROWS &rows, int32_t n_tokens)
{
    constexpr int32_t TOKENS = 8 * N_TILES, PARTS = ANY4_TILE_COLS / COLS, AHEAD = N_TILES == 1 ? 2 : 1;
    typedef gemm_stage<TOKENS, COLS> layout;
    simt_words *stages = reinterpret_cast<simt_words *>(memory);
    float *all_sums = reinterpret_cast<float *>(memory);
    const int32_t lane = simt_lane(), g = lane / 4, t = lane % 4;
    const int32_t half = simt_warp() % 2, split = simt_warp() / 2;
    const int64_t row = (int64_t)range.row_block * BLOCK_ROWS + half * 16 + g;
    const table_planes<INT8> planes[2] = {planes_load<INT8>(w, row), planes_load<INT8>(w, row + 8)};
    const int32_t begin = range.first + split * range.length; /* this split's tiles */
    const int32_t end = begin + range.length < range.last ? begin + range.length : range.last;
    gemm_unit<GROUP, INT8> ahead[AHEAD] = {};
    SIMT_UNROLL
    for (int32_t i = 0; i < AHEAD; i++) {
        if (begin + i < end) {
            ahead[i] = gemm_load<GROUP, INT8>(w, range.row_block, half, begin + i);
        }
    }
    const struct gemm_lane_x lane_x = gemm_lane_x_of<TOKENS, COLS>(stages, split);
    float sums[N_TILES][4] = {};
    simt_dependency_wait();
    simt_barrier(); /* the sums before, which lie where x goes, have been read */
    gemm_stage_x<TOKENS, COLS>(stages, rows, n_tokens, range, 0, 0);
    int32_t turn = 0;
    for (int32_t step = 0; step < range.length; step++) {
        gemm_unit<GROUP, INT8> current = ahead[0];
        const int32_t mine = begin + step;
        if constexpr (AHEAD == 2) {
            ahead[0] = ahead[1];
        }
        if (mine + AHEAD < end) {
            ahead[AHEAD - 1] = gemm_load<GROUP, INT8>(w, range.row_block, half, mine + AHEAD);
        }
        if (!INT8 && mine < end) {
            gemm_load_scales(current, w, range.row_block, half, mine);
        }
        float group_sums[N_TILES][4] = {}, x_sums[INT8 ? 1 : N_TILES][4] = {};
        SIMT_UNROLL
        for (int32_t part = 0; part < PARTS; part++) {
            simt_copy_wait<0>();
            simt_barrier(); /* this stage is there, and everybody has done with the other one */
            simt_words *other = stages + (turn ^ 1) * layout::PIECES_ALL;
            const int32_t here = turn * layout::PIECES_ALL;
            if (part + 1 < PARTS) {
                gemm_stage_x<TOKENS, COLS>(other, rows, n_tokens, range, step, (part + 1) * COLS);
            } else if (step + 1 < range.length) {
                gemm_stage_x<TOKENS, COLS>(other, rows, n_tokens, range, step + 1, 0);
            }
            turn ^= 1;
            if (mine >= end) {
                continue;
            }
            SIMT_UNROLL
            for (int32_t word = 0; word < COLS / 32; word++) {
                gemm_word<GROUP, N_TILES, INT8, layout::PIECES_A_ROW>(sums, group_sums, x_sums, current,
                                                                      planes, part * (COLS / 32) + word,
                                                                      lane_x.run(word, here));
            }
        }
    }
    simt_barrier(); /* x has been read; sums take its place */
    SIMT_UNROLL
    for (int32_t n = 0; n < N_TILES; n++) {
        SIMT_UNROLL
        for (int32_t i = 0; i < 4; i++) {
            const int32_t token = n * 8 + 2 * t + i % 2, of_block = half * 16 + g + i / 2 * 8;
            all_sums[(split * TOKENS + token) * GEMM_SUM_STRIDE + of_block] = sums[n][i];
        }
    }
    simt_barrier();
    for (int32_t i = simt_thread(); i < n_tokens * BLOCK_ROWS; i += GEMM_THREADS) {
        const int32_t at = i / BLOCK_ROWS * GEMM_SUM_STRIDE + i % BLOCK_ROWS;
        float sum = 0;
        SIMT_UNROLL
        for (int32_t from = 0; from < GEMM_SPLITS; from++) {
            sum += all_sums[from * TOKENS * GEMM_SUM_STRIDE + at];
        }
        all_sums[at] = sum; /* nobody else reads this cell */
    }
    simt_barrier();
}

template <int GROUP, int N_TILES, bool INT8, int COLS>
SIMT_KERNEL(GEMM_THREADS, (gemm_blocks<N_TILES, INT8>()))
any4_gemm_kernel(struct any4_args args)
{
    SIMT_DYNAMIC_SHARED(memory);
    SIMT_SHARED(uint32_t, is_last, [1]);
    const struct gemm_rows_plain rows = {args.x, args.x_stride};
    const int32_t n_tile_cols = args.w.n_tile_cols;
    const int32_t n_units = args.w.n_row_blocks * n_tile_cols;
    const int32_t end = stripe_begin(simt_block() + 1, n_units, simt_n_blocks());
    int32_t unit = stripe_begin(simt_block(), n_units, simt_n_blocks());
    while (unit < end) {
        const int32_t row_block = unit / n_tile_cols;
        const int32_t first = unit - row_block * n_tile_cols;
        const int32_t last = end - unit < n_tile_cols - first ? first + end - unit : n_tile_cols;
        gemm_segment<GROUP, N_TILES, INT8, COLS>(memory, args.w, gemm_range_of(row_block, first, last), rows,
                                                 args.n_x_rows);
        segment_finish(args, row_block, n_units, reinterpret_cast<const float *>(memory), GEMM_SUM_STRIDE,
                       is_last);
        unit += last - first;
    }
}

#endif
