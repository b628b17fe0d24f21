/* Many tokens: a block takes four row blocks, a warp 16 rows, which it decodes in its registers, for 64
 * tokens that all its warps read from shared memory. The bits are those of any4_gemm_kernel: sums go in the
 * order of the columns and are cut where that kernel's blocks and splits cut them. */
#ifndef KERNELS_CUDA_ANY4_PREFILL_CUH
#define KERNELS_CUDA_ANY4_PREFILL_CUH

#include "kernels/cuda/any4_gemm.cuh"

enum {
    PREFILL_WARPS = 8,
    PREFILL_THREADS = PREFILL_WARPS * SIMT_WARP,
    PREFILL_ROW_BLOCKS = PREFILL_WARPS / 2,
    PREFILL_STAGES = 3,
    PREFILL_PIECES_A_ROW = ANY4_TILE_COLS / 8,
};

struct prefill_args {
    struct cuda_any4 w;
    float *y;
    int64_t y_stride;
    const uint16_t *x;
    int32_t x_stride, n_x_rows; /* `parts` of them make a token of y */
    const float *x_scales;
    int32_t parts;
    int32_t n_stripes; /* the blocks of any4_gemm_kernel */
};

/* As gemm_rows_plain, in 64 bits: offsets of 32 would lie in registers beside the addresses, and groups of 32
 * have none to spare on sm_120. */
struct prefill_rows {
    const uint16_t *x;
    int32_t stride;
    SIMT_DEVICE_MEMBER const uint16_t *at(int32_t token, int32_t col) const
    {
        return x + (int64_t)token * stride + col;
    }
};

/* Starts copying one tile's columns, `col` the first, of a block's tokens, arranged as in gemm_stage. */
template <int TOKENS, class ROWS>
SIMT_DEVICE void prefill_stage_x(simt_words *stage, const ROWS &rows, int32_t n_here, int32_t col)
{
    constexpr int32_t ROWS_A_TURN = PREFILL_THREADS / PREFILL_PIECES_A_ROW;
    const int32_t piece = simt_thread() % PREFILL_PIECES_A_ROW, row = simt_thread() / PREFILL_PIECES_A_ROW;
    SIMT_UNROLL
    for (int32_t turn = 0; turn < TOKENS / ROWS_A_TURN; turn++) {
        const int32_t token = row + turn * ROWS_A_TURN;
        if (token < n_here) {
            simt_copy_async(stage + gemm_stage_at<TOKENS, ANY4_TILE_COLS>(0, token, piece),
                            rows.at(token, col + piece * 8), true);
        }
    }
}

/* Where the sum of a row block is cut: any4_gemm_kernel's segments, and their splits. */
struct prefill_cuts {
    int32_t stripe, segment_end, split_length, split_end; /* in tiles of the row block */
};

SIMT_DEVICE void prefill_next_segment(struct prefill_cuts &cuts, int32_t begin, int32_t first_unit,
                                      int32_t n_tile_cols, int32_t n_units, int32_t n_stripes)
{
    const int32_t end = stripe_begin(cuts.stripe + 1, n_units, n_stripes) - first_unit;
    cuts.segment_end = end < n_tile_cols ? end : n_tile_cols;
    cuts.split_length = gemm_range_of(0, begin, cuts.segment_end).length;
    cuts.split_end = begin;
}

/* Behind a split: the next one of the segment. */
SIMT_DEVICE void prefill_next_split(struct prefill_cuts &cuts)
{
    const int32_t end = cuts.split_end + cuts.split_length;
    cuts.split_end = end < cuts.segment_end ? end : cuts.segment_end;
}

/* Dynamic shared memory: the stages of x, then each thread's totals, PREFILL_THREADS words apart: for three
 * sets of sums there are not the registers. */
template <int N_TILES> struct prefill_shared {
    static constexpr int32_t STAGES = PREFILL_STAGES * 8 * N_TILES * ANY4_TILE_COLS * 2;
    static constexpr int32_t BYTES = STAGES + N_TILES * 4 * PREFILL_THREADS * 4;
};

/* Where results go: y of the tokens (slots) from `first` on, and the scales of their rows of x. */
struct prefill_out {
    float *y;
    int64_t y_stride;
    const float *x_scales;
    const int32_t *slot_row; /* or NULL */
    int32_t first;           /* row of x, as a block's tokens are */
    int32_t parts;
};

SIMT_DEVICE void prefill_store(const struct prefill_out &out, int32_t token, int64_t row, float sum)
{
    out.y[(int64_t)token * out.y_stride + row] = x_scale_of_slot(out.x_scales, out.slot_row, token) * sum;
}

/* y of a block's rows and of n_here tokens, cut as n_stripes blocks of any4_gemm_kernel cut. ONE_STRIPE:
 * n_stripes is 1; the one segment's sum is then the total. `memory` is free behind the next barrier. */
template <int GROUP, int N_TILES, bool INT8, bool ONE_STRIPE, class ROWS>
SIMT_DEVICE void prefill_product(uint8_t *memory, const struct cuda_any4 &w, int32_t row_tile,
                                 const ROWS &rows, int32_t n_here, int32_t n_stripes,
                                 const struct prefill_out &out)
{
    constexpr int32_t TOKENS = 8 * N_TILES, STAGE_PIECES = TOKENS * PREFILL_PIECES_A_ROW;
    simt_words *stages = reinterpret_cast<simt_words *>(memory);
    const int32_t lane = simt_lane(), g = lane / 4, t = lane % 4, half = simt_warp() % 2;
    const int32_t row_block = row_tile * PREFILL_ROW_BLOCKS + simt_warp() / 2;
    const int32_t n_tile_cols = w.n_tile_cols, n_units = w.n_row_blocks * n_tile_cols;
    const bool works = row_block < w.n_row_blocks; /* the others help with x */
    table_planes<INT8> planes[2] = {};
    struct prefill_cuts cuts = {};
    gemm_unit<GROUP, INT8> next = {};
    const int32_t first_unit = row_block * n_tile_cols;
    if (works) {
        const int64_t row = (int64_t)row_block * BLOCK_ROWS + half * 16 + g;
        planes[0] = planes_load<INT8>(w, row);
        planes[1] = planes_load<INT8>(w, row + 8);
        next = gemm_load<GROUP, INT8>(w, row_block, half, 0);
        cuts.stripe = stripe_of(first_unit, n_units, n_stripes);
        prefill_next_segment(cuts, 0, first_unit, n_tile_cols, n_units, n_stripes);
        prefill_next_split(cuts);
    }
    const struct gemm_lane_x lane_x = gemm_lane_x_of<TOKENS, ANY4_TILE_COLS>(stages, 0);
    float *totals = reinterpret_cast<float *>(memory + prefill_shared<N_TILES>::STAGES) + simt_thread();
    float sums[N_TILES][4] = {};
    [[maybe_unused]] float segment[N_TILES][4] = {};
    SIMT_UNROLL
    for (int32_t i = 0; i < 4 * N_TILES; i++) {
        totals[i * PREFILL_THREADS] = 0;
    }
    simt_dependency_wait();
    for (int32_t i = 0; i < PREFILL_STAGES - 1; i++) {
        if (i < n_tile_cols) {
            prefill_stage_x<TOKENS>(stages + i * STAGE_PIECES, rows, n_here, i * ANY4_TILE_COLS);
        }
        simt_copy_commit();
    }
    int32_t at = 0, free_at = PREFILL_STAGES - 1; /* stages: to read, to fill */
    for (int32_t tile_col = 0; tile_col < n_tile_cols; tile_col++) {
        simt_copy_wait<PREFILL_STAGES - 2>();
        simt_barrier(); /* this stage is there, and everybody has done with the one before it */
        if (tile_col + PREFILL_STAGES - 1 < n_tile_cols) {
            prefill_stage_x<TOKENS>(stages + free_at * STAGE_PIECES, rows, n_here,
                                    (tile_col + PREFILL_STAGES - 1) * ANY4_TILE_COLS);
        }
        simt_copy_commit();
        const int32_t here = at * STAGE_PIECES;
        free_at = at;
        at = at + 1 < PREFILL_STAGES ? at + 1 : 0;
        if (!works) {
            continue;
        }
        gemm_unit<GROUP, INT8> current = next;
        if (tile_col + 1 < n_tile_cols) {
            next = gemm_load<GROUP, INT8>(w, row_block, half, tile_col + 1);
        }
        if constexpr (!INT8) {
            gemm_load_scales(current, w, row_block, half, tile_col);
        }
        float group_sums[N_TILES][4] = {}, x_sums[INT8 ? 1 : N_TILES][4] = {};
        SIMT_UNROLL
        for (int32_t jj = 0; jj < RUNS; jj++) {
            gemm_word<GROUP, N_TILES, INT8, PREFILL_PIECES_A_ROW>(sums, group_sums, x_sums, current, planes,
                                                                  jj, lane_x.run(jj, here));
        }
        if (tile_col + 1 == cuts.split_end) {
            SIMT_UNROLL
            for (int32_t i = 0; i < 4 * N_TILES; i++) {
                if constexpr (ONE_STRIPE) {
                    totals[i * PREFILL_THREADS] += sums[i / 4][i % 4];
                } else {
                    segment[i / 4][i % 4] += sums[i / 4][i % 4];
                }
                sums[i / 4][i % 4] = 0;
            }
            if constexpr (!ONE_STRIPE) {
                if (tile_col + 1 == cuts.segment_end) {
                    SIMT_UNROLL
                    for (int32_t i = 0; i < 4 * N_TILES; i++) {
                        totals[i * PREFILL_THREADS] += segment[i / 4][i % 4];
                        segment[i / 4][i % 4] = 0;
                    }
                    cuts.stripe++;
                    prefill_next_segment(cuts, tile_col + 1, first_unit, n_tile_cols, n_units, n_stripes);
                }
            }
            prefill_next_split(cuts);
        }
    }
    SIMT_UNROLL_BY(1) /* for the registers */
    for (int32_t n = 0; n < N_TILES; n++) {
        SIMT_UNROLL
        for (int32_t i = 0; i < 2; i++) {
            const int32_t token = n * 8 + 2 * t; /* and the next, which may be its second part */
            const int64_t row = (int64_t)row_block * BLOCK_ROWS + half * 16 + g + i * 8;
            if (token >= n_here || row >= w.n_rows) {
                continue;
            }
            const float row_scale = INT8 ? w.row_scales[row] : 1.0f;
            const float *at = totals + (n * 4 + i * 2) * PREFILL_THREADS;
            const float sum = at[0], next_sum = at[PREFILL_THREADS];
            if (out.parts == 2) {
                prefill_store(out, (out.first + token) / 2, row, row_scale * x_parts_sum(sum, next_sum));
            } else {
                prefill_store(out, out.first + token, row, row_scale * sum);
                if (token + 1 < n_here) {
                    prefill_store(out, out.first + token + 1, row, row_scale * next_sum);
                }
            }
        }
    }
}

/* Blocks of the same rows follow each other. */
template <int GROUP, int N_TILES, bool INT8>
SIMT_KERNEL(PREFILL_THREADS, 1)
any4_prefill_kernel(struct prefill_args args)
{
    constexpr int32_t TOKENS = 8 * N_TILES;
    SIMT_DYNAMIC_SHARED(memory);
    const int32_t n_token_tiles = (args.n_x_rows + TOKENS - 1) / TOKENS;
    const int32_t token = simt_block() % n_token_tiles * TOKENS;
    const int32_t n_here = args.n_x_rows - token < TOKENS ? args.n_x_rows - token : TOKENS;
    const struct prefill_rows rows = {args.x + (int64_t)token * args.x_stride, args.x_stride};
    prefill_product<GROUP, N_TILES, INT8, false>(
        memory, args.w, simt_block() / n_token_tiles, rows, n_here, args.n_stripes,
        {args.y, args.y_stride, args.x_scales, nullptr, token, args.parts});
}

#endif
