/* Products with matrices stored as bf16, lm_heads above all: bf16 matrix products, so that as many tokens as
 * 64 cost little more than the weights' bytes. Weights and x stay exact: a number of 11 bits is the sum of
 * two of 8, which take a product each. A row's 16 bytes are a lane's part of two fragments when
 * columns are taken in the order of any4_gemm.cuh, and so are those of a row of x: neither goes through
 * shared memory. The warps of a block share its rows and take 32 columns in turn, whatever the number of
 * tokens. */
#ifndef KERNELS_CUDA_LINEAR_DENSE_CUH
#define KERNELS_CUDA_LINEAR_DENSE_CUH

#include "kernels/cuda/linear_any.cuh"

enum {
    DENSE_WARPS = 8,
    DENSE_THREADS = DENSE_WARPS * SIMT_WARP,
    DENSE_STEP_COLS = 32,
};

/* A lane's weights of 32 columns: rows g and g + 8 of each tile of 16. */
template <int M_TILES> struct dense_unit {
    simt_words rows[M_TILES][2];
};

template <int M_TILES>
SIMT_DEVICE dense_unit<M_TILES> dense_load(const struct cuda_matrix &w, int32_t first_row, int32_t col)
{
    dense_unit<M_TILES> unit;
    SIMT_UNROLL
    for (int32_t i = 0; i < 2 * M_TILES; i++) {
        const int64_t row = any_row(w, first_row + i * 8 + simt_lane() / 4);
        unit.rows[i / 2][i % 2] = simt_load_stream(reinterpret_cast<const simt_words *>(
            w.codes + row * w.row_bytes + (col + simt_lane() % 4 * 8) * (int64_t)sizeof(uint16_t)));
    }
    return unit;
}

/* 8 values of f16 as sums of two bf16: the nearest one and the rest, which has no more than 8 bits either. */
struct dense_x {
    uint32_t nearest[4], rest[4];
};

SIMT_DEVICE struct dense_x dense_split(const simt_words &x)
{
    struct dense_x split;
    SIMT_UNROLL
    for (int32_t i = 0; i < 4; i++) {
        const float low = simt_f16_low(x.word[i]), high = simt_f16_high(x.word[i]);
        const uint32_t pair = simt_bf16_pair(low, high);
        split.nearest[i] = pair;
        split.rest[i] = simt_bf16_pair(low - simt_bf16_low(pair), high - simt_bf16_high(pair));
    }
    return split;
}

template <int M_TILES> struct dense_shared {
    static constexpr int32_t ROWS = 16 * M_TILES;
    static constexpr int32_t STRIDE = ROWS + 4;                /* of a token's sums */
    static constexpr int32_t WORDS = DENSE_WARPS * 8 * STRIDE; /* of 8 tokens, every warp's */
};

/* y of 16 * M_TILES rows and the tokens (slots, where x is gathered) of n_here of at most 8 * N_TILES rows of
 * x. shared_sums: free behind the next barrier. */
template <int M_TILES, int N_TILES>
SIMT_DEVICE void dense_product(const struct any_args &args, const struct cuda_matrix &w, int32_t first_row,
                               int32_t first_x_row, int32_t n_here, float *shared_sums)
{
    typedef dense_shared<M_TILES> layout;
    const int32_t g = simt_lane() / 4, t = simt_lane() % 4;
    const uint16_t *x[N_TILES];
    SIMT_UNROLL
    for (int32_t n = 0; n < N_TILES; n++) { /* rows that are not there: the last one again */
        const int32_t x_row = first_x_row + (n * 8 + g < n_here ? n * 8 + g : n_here - 1);
        x[n] = args.x.x + x_part_row(args.slot_row, x_row, args.x.parts) * args.x.stride + t * 8;
    }
    float sums[M_TILES][N_TILES][4] = {};
    dense_unit<M_TILES> next = {};
    int32_t col = simt_warp() * DENSE_STEP_COLS;
    if (col < args.n_padded) {
        next = dense_load<M_TILES>(w, first_row, col);
    }
    for (; col < args.n_padded; col += DENSE_WARPS * DENSE_STEP_COLS) {
        const dense_unit<M_TILES> current = next;
        if (col + DENSE_WARPS * DENSE_STEP_COLS < args.n_padded) {
            next = dense_load<M_TILES>(w, first_row, col + DENSE_WARPS * DENSE_STEP_COLS);
        }
        SIMT_UNROLL
        for (int32_t n = 0; n < N_TILES; n++) {
            const struct dense_x b = dense_split(*reinterpret_cast<const simt_words *>(x[n] + col));
            SIMT_UNROLL
            for (int32_t m = 0; m < M_TILES; m++) {
                const uint32_t *upper = current.rows[m][0].word, *lower = current.rows[m][1].word;
                const uint32_t a[2][4] = {{upper[0], lower[0], upper[1], lower[1]},
                                          {upper[2], lower[2], upper[3], lower[3]}};
                simt_mma_bf16(sums[m][n], a[0], b.nearest);
                simt_mma_bf16(sums[m][n], a[1], b.nearest + 2);
                simt_mma_bf16(sums[m][n], a[0], b.rest);
                simt_mma_bf16(sums[m][n], a[1], b.rest + 2);
            }
        }
    }
    SIMT_UNROLL
    for (int32_t n = 0; n < N_TILES; n++) {
        simt_barrier(); /* the sums before have been read */
        SIMT_UNROLL
        for (int32_t m = 0; m < M_TILES; m++) {
            SIMT_UNROLL
            for (int32_t i = 0; i < 4; i++) {
                shared_sums[(simt_warp() * 8 + 2 * t + i % 2) * layout::STRIDE + m * 16 + g + i / 2 * 8] =
                    sums[m][n][i];
            }
        }
        simt_barrier();
        const int32_t parts = args.x.parts;
        for (int32_t i = simt_thread(); i < 8 / parts * layout::ROWS; i += DENSE_THREADS) {
            const int32_t of_tile = i / layout::ROWS * parts, x_row = n * 8 + of_tile;
            const int32_t row = first_row + i % layout::ROWS;
            const float *at = shared_sums + of_tile * layout::STRIDE + i % layout::ROWS;
            float sum = any_sum<DENSE_WARPS>(at, 8 * layout::STRIDE);
            if (parts == 2) {
                sum = x_parts_sum(sum, any_sum<DENSE_WARPS>(at + layout::STRIDE, 8 * layout::STRIDE));
            }
            if (x_row < n_here && row < w.n_rows) {
                any_store(args, first_x_row + x_row, row, sum);
            }
        }
    }
}

/* Blocks of the same rows follow each other: their weights come from L2 for all but the first tokens. */
template <int M_TILES, int N_TILES>
SIMT_KERNEL(DENSE_THREADS, (N_TILES == 1 ? 2 : 1))
linear_dense_kernel(struct any_args args)
{
    SIMT_SHARED(float, sums, [dense_shared<M_TILES>::WORDS]);
    constexpr int32_t TOKENS = 8 * N_TILES;
    const int32_t n_token_tiles = (args.n_x_rows + TOKENS - 1) / TOKENS;
    const int32_t token = simt_block() % n_token_tiles * TOKENS;
    const int32_t n_here = args.n_x_rows - token < TOKENS ? args.n_x_rows - token : TOKENS;
    simt_dependency_wait();
    dense_product<M_TILES, N_TILES>(args, args.w, simt_block() / n_token_tiles * dense_shared<M_TILES>::ROWS,
                                    token, n_here, sums);
}

/* A block takes rows of one expert and all its slots. */
template <int M_TILES, int N_TILES>
SIMT_KERNEL(DENSE_THREADS, 1)
linear_dense_grouped_kernel(struct any_args args)
{
    SIMT_SHARED(float, sums, [dense_shared<M_TILES>::WORDS]);
    constexpr int32_t TOKENS = 8 * N_TILES;
    const int32_t expert = simt_block() / args.n_row_tiles;
    const int32_t row = simt_block() % args.n_row_tiles * dense_shared<M_TILES>::ROWS;
    simt_dependency_wait();
    const int32_t begin = args.expert_begin[expert] * args.x.parts;
    const int32_t end = args.expert_begin[expert + 1] * args.x.parts;
    if (begin >= end) {
        return;
    }
    struct cuda_matrix w = args.w;
    w.codes = args.experts[expert].codes;
    for (int32_t slot = begin; slot < end; slot += TOKENS) {
        dense_product<M_TILES, N_TILES>(args, w, row, slot, end - slot < TOKENS ? end - slot : TOKENS, sums);
    }
}

#endif
