/* Products with matrices of every format but bf16, f32 throughout: the one correct kernel for what the 4-bit
 * kernels do not read. A block takes four rows; its warps take 256 columns in
 * turn, a lane 8 of them that share a block of codes and so a group. A token's sum is made the same way
 * whatever the other tokens are. */
#ifndef KERNELS_CUDA_LINEAR_ANY_CUH
#define KERNELS_CUDA_LINEAR_ANY_CUH

#include "kernels/cuda/linear.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/simt.h"
#include "kernels/cuda/x_row.cuh"

enum {
    ANY_ROWS = 4, /* share what is loaded of x */
    ANY_WARPS = 4,
    ANY_THREADS = ANY_WARPS * SIMT_WARP,
    ANY_LANE_COLS = 8,
    ANY_STEP_COLS = SIMT_WARP * ANY_LANE_COLS,
    ANY_TOKENS = 8, /* at a time */
    ANY_LANES_A_BLOCK = ANY4_BLOCK_COLS / ANY_LANE_COLS,
};
static_assert(ANY_TOKENS % 2 == 0, "both parts of a token are in one block");

/* How a row is read: weights as stored, or codes of 2, 3, 4 or 8 bits. bf16 has linear_dense.cuh. */
enum any_format { ANY_F32, ANY_F16, ANY_CODES_2, ANY_CODES_3, ANY_CODES_4, ANY_CODES_8 };

template <any_format FORMAT> struct any_traits {
    static constexpr bool CODED = FORMAT >= ANY_CODES_2;
    static constexpr int32_t BITS = FORMAT == ANY_CODES_8   ? 8
                                    : FORMAT == ANY_CODES_4 ? 4
                                    : FORMAT == ANY_CODES_3 ? 3
                                                            : 2; /* of codes */
    static constexpr bool TABLE = CODED && BITS < 8;
    /* words of a lane's 8 weights */
    static constexpr int32_t WORDS = FORMAT == ANY_F32 ? 8 : !CODED ? 4 : BITS == 8 || BITS == 3 ? 2 : 1;
};

struct any_args {
    struct cuda_matrix w;
    const struct cuda_matrix *experts; /* grouped: their matrices, w is the shape */
    float *y;
    int64_t y_stride;
    struct cuda_rows x;
    int32_t n_x_rows;            /* x.parts of them make a token of y */
    int32_t n_row_tiles;         /* of a block's rows */
    int32_t n_padded;            /* columns */
    const int32_t *slot_row;     /* grouped: row of x of each slot, or NULL */
    const int32_t *expert_begin; /* grouped */
};

/* A lane's share of the 256 columns from `col`: of a block of 32 columns, which four lanes share, four pairs
 * of columns that lie together in its bytes. Gives the first column of a pair, counted from the block's. */
template <any_format FORMAT> SIMT_DEVICE int32_t any_pair_col(int32_t pair, int32_t quarter)
{
    typedef any_traits<FORMAT> traits;
    if (!traits::CODED || traits::BITS == 8) {
        return 8 * quarter + 2 * pair;
    }
    return traits::BITS == 4 ? pair / 2 * 16 + 4 * quarter + pair % 2 * 2 : 8 * pair + 2 * quarter;
}

/* The words that hold a lane's weights. block_col: the first column of the lane's block of 32. */
template <any_format FORMAT>
SIMT_DEVICE void any_load(uint32_t words[any_traits<FORMAT>::WORDS], const uint8_t *row, int32_t block_col,
                          int32_t quarter)
{
    const int64_t block = block_col / ANY4_BLOCK_COLS;
    if constexpr (!any_traits<FORMAT>::CODED) {
        constexpr int32_t ELEMENT = FORMAT == ANY_F32 ? 4 : 2;
        const simt_words *at = reinterpret_cast<const simt_words *>(
            row + (block_col + (int64_t)quarter * ANY_LANE_COLS) * ELEMENT);
        SIMT_UNROLL
        for (int32_t i = 0; i < ELEMENT / 2; i++) {
            const simt_words loaded = simt_load_stream(at + i);
            SIMT_UNROLL
            for (int32_t j = 0; j < 4; j++) {
                words[i * 4 + j] = loaded.word[j];
            }
        }
    } else {
        constexpr int32_t BITS = any_traits<FORMAT>::BITS;
        const uint8_t *at = row + block * 4 * BITS;
        if constexpr (BITS == 8) {
            words[0] = simt_load_stream(reinterpret_cast<const uint32_t *>(at) + 2 * quarter);
            words[1] = simt_load_stream(reinterpret_cast<const uint32_t *>(at) + 2 * quarter + 1);
        } else if constexpr (BITS == 4) {
            words[0] = simt_load_stream(reinterpret_cast<const uint32_t *>(at) + quarter);
        } else {
            words[0] = reinterpret_cast<const uint16_t *>(at)[quarter];
            if constexpr (BITS == 3) { /* bit 2 of the block's codes, the lane's pairs 8 bits apart */
                words[1] = simt_load_stream(reinterpret_cast<const uint32_t *>(at) + 2) >> 2 * quarter;
            }
        }
    }
}

/* One of a lane's weights, element 0 or 1 of a pair, before scale and zero point. table: of the row. */
template <any_format FORMAT>
SIMT_DEVICE float any_value(const uint32_t words[any_traits<FORMAT>::WORDS], int32_t pair, int32_t element,
                            const uint32_t *table)
{
    typedef any_traits<FORMAT> traits;
    if constexpr (FORMAT == ANY_F32) {
        return simt_bits_float(words[2 * pair + element]);
    } else if constexpr (FORMAT == ANY_F16) {
        return element ? simt_f16_high(words[pair]) : simt_f16_low(words[pair]);
    } else if constexpr (traits::BITS == 8) {
        return (float)((int32_t)(words[pair / 2] >> (pair % 2 * 16 + element * 8) & 0xff) - 128);
    } else {
        uint32_t code;
        if constexpr (traits::BITS == 4) {
            code = words[0] >> (8 * (pair % 2 * 2 + element) + pair / 2 * 4) & 15;
        } else {
            code = words[0] >> (8 * element + 2 * pair) & 3;
            if constexpr (traits::BITS == 3) {
                code |= (words[1] >> (8 * pair + element) & 1) << 2;
            }
        }
        return simt_bits_float(simt_load_shared(table + code));
    }
}

/* A lane's 8 values of a row of x, in the order of its pairs. */
template <any_format FORMAT>
SIMT_DEVICE void any_load_x(float values[ANY_LANE_COLS], const uint16_t *x, int32_t quarter)
{
    uint32_t pairs[4];
    if constexpr (!any_traits<FORMAT>::CODED || any_traits<FORMAT>::BITS == 8) {
        const simt_words loaded = reinterpret_cast<const simt_words *>(x)[quarter];
        SIMT_UNROLL
        for (int32_t pair = 0; pair < 4; pair++) {
            pairs[pair] = loaded.word[pair];
        }
    } else {
        SIMT_UNROLL
        for (int32_t pair = 0; pair < 4; pair++) {
            pairs[pair] = reinterpret_cast<const uint32_t *>(x)[any_pair_col<FORMAT>(pair, quarter) / 2];
        }
    }
    SIMT_UNROLL
    for (int32_t pair = 0; pair < 4; pair++) {
        values[2 * pair] = simt_f16_low(pairs[pair]);
        values[2 * pair + 1] = simt_f16_high(pairs[pair]);
    }
}

/* Rows behind the last one are read as the last one and not stored. */
SIMT_DEVICE int64_t any_row(const struct cuda_matrix &w, int32_t row)
{
    return row < w.n_rows ? row : w.n_rows - 1;
}

/* The values of the tables of a block's rows as f32. */
template <any_format FORMAT>
SIMT_DEVICE void any_table_fill(uint32_t *tables, const struct cuda_matrix &w, int32_t first_row)
{
    constexpr int32_t ENTRIES = 1 << any_traits<FORMAT>::BITS;
    if (simt_thread() < ANY_ROWS * ENTRIES) {
        const int32_t i = simt_thread() / ENTRIES, code = simt_thread() % ENTRIES;
        const int64_t from = any_row(w, first_row + i) * ENTRIES + code;
        const float value = w.kind == ANY4_LUT_INT8
                                ? (float)static_cast<const int8_t *>(w.table)[from]
                                : simt_bf16_low(static_cast<const uint16_t *>(w.table)[from]);
        tables[i * ANY4_MAX_TABLE + code] = simt_float_bits(value);
    }
}

/* The sum of N values `stride` apart, the first of which is at[0]. */
template <int N> SIMT_DEVICE float any_sum(const float *at, int32_t stride)
{
    float sum = 0;
    SIMT_UNROLL
    for (int32_t i = 0; i < N; i++) {
        sum += at[i * stride];
    }
    return sum;
}

/* A token's scale times its sum, to a row of y. x_row: the token's first. */
SIMT_DEVICE void any_store(const struct any_args &args, int32_t x_row, int32_t row, float sum)
{
    const int32_t token = x_row / args.x.parts;
    args.y[token * args.y_stride + row] = x_scale_of_slot(args.x.scales, args.slot_row, token) * sum;
}

/* y of a block's rows and the tokens (slots, where x is gathered) of n_here of at most TOKENS rows of x from
 * first_x_row on.
 * tables: of the block's rows; sums: (ANY_WARPS, ANY_ROWS * TOKENS), free behind the next barrier. */
template <any_format FORMAT, int TOKENS>
SIMT_DEVICE void any_product(const struct any_args &args, const struct cuda_matrix &w, int32_t first_row,
                             int32_t first_x_row, int32_t n_here, const uint32_t *tables, float *shared_sums)
{
    typedef any_traits<FORMAT> traits;
    const int32_t quarter = simt_lane() % ANY_LANES_A_BLOCK, n_padded = args.n_padded;
    const uint16_t *x[TOKENS];
    SIMT_UNROLL
    for (int32_t t = 0; t < TOKENS; t++) { /* rows that are not there: the last one again */
        const int32_t x_row = first_x_row + (t < n_here ? t : n_here - 1);
        x[t] = args.x.x + x_part_row(args.slot_row, x_row, args.x.parts) * args.x.stride;
    }
    float sums[ANY_ROWS][TOKENS] = {};
    for (int32_t step = simt_warp(); step * ANY_STEP_COLS < n_padded; step += ANY_WARPS) {
        const int32_t col = step * ANY_STEP_COLS + simt_lane() / ANY_LANES_A_BLOCK * ANY4_BLOCK_COLS;
        const bool there = col < n_padded; /* the last step may be half as wide */
        uint32_t words[ANY_ROWS][traits::WORDS] = {};
        float scales[ANY_ROWS] = {}, zeros[ANY_ROWS] = {};
        if (there) {
            SIMT_UNROLL
            for (int32_t i = 0; i < ANY_ROWS; i++) {
                const int64_t row = any_row(w, first_row + i);
                any_load<FORMAT>(words[i], w.codes + row * w.row_bytes, col, quarter);
                if constexpr (traits::CODED) {
                    const int64_t group = row * w.n_groups + col / w.group_size;
                    scales[i] = w.kind == ANY4_LUT_INT8
                                    ? (float)static_cast<const int8_t *>(w.scales)[group]
                                    : simt_bf16_low(static_cast<const uint16_t *>(w.scales)[group]);
                    zeros[i] = w.zeros ? simt_bf16_low(w.zeros[group]) : 0.0f;
                }
            }
        }
        float weights[ANY_ROWS][ANY_LANE_COLS];
        SIMT_UNROLL
        for (int32_t i = 0; i < ANY_ROWS; i++) {
            SIMT_UNROLL
            for (int32_t k = 0; k < ANY_LANE_COLS; k++) {
                weights[i][k] = any_value<FORMAT>(words[i], k / 2, k % 2, tables + i * ANY4_MAX_TABLE);
            }
        }
        SIMT_UNROLL
        for (int32_t t = 0; t < TOKENS; t++) {
            float values[ANY_LANE_COLS] = {}, x_sum = 0;
            if (there) {
                any_load_x<FORMAT>(values, x[t] + col, quarter);
            }
            if constexpr (traits::CODED) {
                SIMT_UNROLL
                for (int32_t k = 0; k < ANY_LANE_COLS; k++) {
                    x_sum += values[k];
                }
            }
            SIMT_UNROLL
            for (int32_t i = 0; i < ANY_ROWS; i++) {
                float sum = traits::CODED ? 0.0f : sums[i][t];
                SIMT_UNROLL
                for (int32_t k = 0; k < ANY_LANE_COLS; k++) {
                    sum = fmaf(weights[i][k], values[k], sum);
                }
                sums[i][t] = traits::CODED ? fmaf(zeros[i], x_sum, fmaf(scales[i], sum, sums[i][t])) : sum;
            }
        }
    }
    SIMT_UNROLL
    for (int32_t i = 0; i < ANY_ROWS; i++) {
        SIMT_UNROLL
        for (int32_t t = 0; t < TOKENS; t++) {
            const float sum = warp_sum(sums[i][t]);
            if (simt_lane() == 0) {
                shared_sums[simt_warp() * ANY_ROWS * TOKENS + t * ANY_ROWS + i] = sum;
            }
        }
    }
    simt_barrier();
    const int32_t parts = args.x.parts;
    if (simt_thread() < n_here / parts * ANY_ROWS) {
        const int32_t x_row = simt_thread() / ANY_ROWS * parts, row = first_row + simt_thread() % ANY_ROWS;
        const float *at = shared_sums + x_row * ANY_ROWS + simt_thread() % ANY_ROWS;
        float sum = any_sum<ANY_WARPS>(at, ANY_ROWS * TOKENS);
        if (parts == 2) {
            sum = x_parts_sum(sum, any_sum<ANY_WARPS>(at + ANY_ROWS, ANY_ROWS * TOKENS));
        }
        if (row < w.n_rows) {
            any_store(args, first_x_row + x_row, row,
                      w.kind == ANY4_LUT_INT8 ? w.row_scales[row] * sum : sum);
        }
    }
}

/* Blocks of the same rows follow each other: their weights come from L2 for all but the first tokens. */
template <any_format FORMAT, int TOKENS> SIMT_KERNEL(ANY_THREADS, 1) linear_any_kernel(struct any_args args)
{
    SIMT_SHARED(uint32_t, tables, [ANY_ROWS * ANY4_MAX_TABLE]);
    SIMT_SHARED(float, sums, [ANY_WARPS * ANY_ROWS * TOKENS]);
    const int32_t n_token_tiles = (args.n_x_rows + TOKENS - 1) / TOKENS;
    const int32_t row = simt_block() / n_token_tiles * ANY_ROWS;
    const int32_t token = simt_block() % n_token_tiles * TOKENS;
    const int32_t n_here = args.n_x_rows - token < TOKENS ? args.n_x_rows - token : TOKENS;
    if constexpr (any_traits<FORMAT>::TABLE) {
        any_table_fill<FORMAT>(tables, args.w, row);
    }
    simt_dependency_wait();
    simt_barrier();
    any_product<FORMAT, TOKENS>(args, args.w, row, token, n_here, tables, sums);
}

/* A block takes rows of one expert and all its slots, a few at a time. */
template <any_format FORMAT> SIMT_KERNEL(ANY_THREADS, 1) linear_any_grouped_kernel(struct any_args args)
{
    SIMT_SHARED(uint32_t, tables, [ANY_ROWS * ANY4_MAX_TABLE]);
    SIMT_SHARED(float, sums, [ANY_WARPS * ANY_ROWS * ANY_TOKENS]);
    const int32_t expert = simt_block() / args.n_row_tiles;
    const int32_t row = simt_block() % args.n_row_tiles * ANY_ROWS;
    simt_dependency_wait();
    const int32_t begin = args.expert_begin[expert] * args.x.parts;
    const int32_t end = args.expert_begin[expert + 1] * args.x.parts;
    if (begin >= end) {
        return;
    }
    const struct cuda_matrix &own = args.experts[expert];
    struct cuda_matrix w = args.w; /* shapes from the arguments, arrays from memory */
    w.codes = own.codes;
    w.scales = own.scales;
    w.zeros = own.zeros;
    w.table = own.table;
    w.row_scales = own.row_scales;
    if constexpr (any_traits<FORMAT>::TABLE) {
        any_table_fill<FORMAT>(tables, w, row);
    }
    for (int32_t slot = begin; slot < end; slot += ANY_TOKENS) {
        const int32_t n_here = end - slot < ANY_TOKENS ? end - slot : (int32_t)ANY_TOKENS;
        simt_barrier(); /* the table is there; the sums of the slots before have been read */
        any_product<FORMAT, ANY_TOKENS>(args, w, row, slot, n_here, tables, sums);
    }
}

#endif
