/* Mixture of experts: routing with a stable counting sort, grouped products of 4-bit matrices, the weighted
 * sum. */
#ifndef KERNELS_CUDA_MOE_CUH
#define KERNELS_CUDA_MOE_CUH

#include "kernels/cuda/any4_prefill.cuh"
#include "kernels/cuda/moe.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/simt.h"
#include "kernels/cuda/stored.cuh"

enum {
    MOE_THREADS = 512,
    MOE_WARPS = MOE_THREADS / SIMT_WARP,
    MOE_COMBINE_THREADS = 256,
    MOE_LOGITS_THREADS = 256,
    MOE_DEAD = 255, /* the expert of a dead row's ranks */
};

struct moe_logits_args {
    float *logits;
    int64_t logits_stride;
    struct cuda_matrix router;
    const float *h;
    int64_t h_stride;
    const float *norm;
    float eps;
};

/* A block an expert of a row: the row's norm is found again by each, so that none waits for another. */
SIMT_KERNEL(MOE_LOGITS_THREADS, 1) moe_logits_kernel(struct moe_logits_args args)
{
    SIMT_SHARED(float, squares, [REDUCE_MAX_WARPS]);
    SIMT_SHARED(float, sums, [REDUCE_MAX_WARPS]);
    const int32_t n_experts = args.router.n_rows, n = args.router.n_cols;
    const int32_t row = simt_block() / n_experts, expert = simt_block() % n_experts;
    const uint8_t *weights = args.router.codes + expert * args.router.row_bytes;
    const float *h = args.h + row * args.h_stride;
    simt_dependency_wait();
    float square = 0, sum = 0;
    for (int32_t i = simt_thread(); i < n; i += MOE_LOGITS_THREADS) {
        square = fmaf(h[i], h[i], square);
        sum = fmaf(h[i] * args.norm[i], stored_value(weights, args.router.kind, i), sum);
    }
    const float inverse = 1.0f / sqrtf(block_sum(square, squares) / (float)n + args.eps);
    sum = block_sum(sum, sums);
    if (simt_thread() == 0) {
        args.logits[row * args.logits_stride + expert] = inverse * sum;
    }
}

struct moe_route_args {
    struct cuda_moe moe;
    const float *logits;
    int64_t logits_stride;
    int32_t n_experts, n_used, n_rows;
    const int32_t *positions;
};

/* The n_used largest logits of one row, their experts to chosen[], their weights. */
SIMT_DEVICE void moe_choose(uint8_t *chosen, float *weights, const float *logits, int32_t n_experts,
                            int32_t n_used)
{
    uint64_t taken = 0;
    float max = 0, sum = 0;
    for (int32_t rank = 0; rank < n_used; rank++) {
        int32_t best = -1;
        float best_logit = 0;
        for (int32_t expert = 0; expert < n_experts; expert++) {
            const float logit = logits[expert];
            if (!(taken >> expert & 1) && (best < 0 || logit > best_logit)) {
                best = expert;
                best_logit = logit;
            }
        }
        taken |= (uint64_t)1 << best;
        max = rank == 0 ? best_logit : max;
        /* The softmax's denominator cancels in the renormalisation. */
        const float p = expf(best_logit - max);
        chosen[rank] = (uint8_t)best;
        weights[rank] = p;
        sum += p;
    }
    for (int32_t rank = 0; rank < n_used; rank++) {
        weights[rank] /= sum;
    }
}

/* One block. Dynamic shared memory: the chosen experts, a byte an entry (row, rank). */
SIMT_KERNEL(MOE_THREADS, 1) moe_route_kernel(struct moe_route_args args)
{
    SIMT_DYNAMIC_SHARED(chosen);
    SIMT_SHARED(int32_t, begin, [CUDA_MOE_MAX_EXPERTS + 1]);
    const struct cuda_moe &moe = args.moe;
    const int32_t n_entries = args.n_rows * args.n_used, n_experts = args.n_experts;
    simt_dependency_wait();
    for (int32_t row = simt_thread(); row < args.n_rows; row += MOE_THREADS) {
        const int32_t at = row * args.n_used;
        if (args.positions && args.positions[row] < 0) {
            for (int32_t rank = 0; rank < args.n_used; rank++) {
                chosen[at + rank] = MOE_DEAD;
                moe.weights[at + rank] = 0;
                moe.slot_of[at + rank] = -1;
            }
        } else {
            moe_choose(chosen + at, moe.weights + at, args.logits + row * args.logits_stride, n_experts,
                       args.n_used);
        }
    }
    simt_barrier();
    for (int32_t expert = simt_warp(); expert < n_experts; expert += MOE_WARPS) {
        int32_t n = 0;
        for (int32_t from = 0; from < n_entries; from += SIMT_WARP) {
            const int32_t entry = from + simt_lane();
            n += simt_popcount(simt_ballot(entry < n_entries && chosen[entry] == expert));
        }
        if (simt_lane() == 0) {
            begin[expert + 1] = n;
        }
    }
    simt_barrier();
    if (simt_thread() == 0) {
        begin[0] = 0;
        for (int32_t expert = 0; expert < n_experts; expert++) {
            begin[expert + 1] += begin[expert];
        }
    }
    simt_barrier();
    if (simt_thread() <= n_experts) {
        moe.expert_begin[simt_thread()] = begin[simt_thread()];
    }
    /* A warp puts the entries of an expert in their order, 32 looked at at a time. */
    for (int32_t expert = simt_warp(); expert < n_experts; expert += MOE_WARPS) {
        int32_t next = begin[expert];
        for (int32_t from = 0; from < n_entries; from += SIMT_WARP) {
            const int32_t entry = from + simt_lane();
            const bool mine = entry < n_entries && chosen[entry] == expert;
            const uint32_t all = simt_ballot(mine);
            if (mine) {
                const int32_t slot = next + simt_popcount(all & ((1u << simt_lane()) - 1));
                moe.slot_of[entry] = slot;
                moe.slot_row[slot] = entry / args.n_used;
            }
            next += simt_popcount(all);
        }
    }
}

struct grouped_args {
    struct cuda_any4 shape;
    const struct cuda_any4 *experts;
    float *y;
    int64_t y_stride;
    const uint16_t *x;
    int32_t x_stride; /* 32 bits reach all slots */
    const float *x_scales;
    int32_t parts;
    const int32_t *slot_row;
    const int32_t *expert_begin;
};

/* An expert's matrix in shared memory: there are not the registers for all its pointers. Shapes come from the
 * arguments. Behind a barrier. */
SIMT_DEVICE void grouped_matrix(struct cuda_any4 *w, const struct grouped_args &args, int32_t expert)
{
    if (simt_thread() == 0) {
        *w = args.shape;
        w->codes = args.experts[expert].codes;
        w->planes = args.experts[expert].planes;
        w->scales = args.experts[expert].scales;
        w->row_scales = args.experts[expert].row_scales;
    }
}

/* Where n_here rows of x begin, from number x_row of those of all slots on (x_part_row). Behind a barrier. */
SIMT_DEVICE void grouped_rows(int32_t *x_at, const struct grouped_args &args, int32_t x_row, int32_t n_here)
{
    if (simt_thread() < n_here) {
        const int32_t row = x_part_row(args.slot_row, x_row + simt_thread(), args.parts);
        x_at[simt_thread()] = row * args.x_stride;
    }
}

/* As gemm_blocks, but for the slots' registers. */
template <int N_TILES, bool INT8> constexpr int32_t grouped_blocks(void)
{
    return INT8 && N_TILES == 1 ? 2 : 1;
}

/* A block takes a row block of one expert, all its columns, for all the expert's slots, 8 * N_TILES rows of x
 * at a time. */
template <int GROUP, int N_TILES, bool INT8>
SIMT_KERNEL(GEMM_THREADS, (grouped_blocks<N_TILES, INT8>()))
any4_grouped_kernel(struct grouped_args args)
{
    constexpr int32_t TOKENS = 8 * N_TILES;
    SIMT_DYNAMIC_SHARED(memory);
    SIMT_SHARED(int32_t, x_at, [TOKENS]);
    SIMT_SHARED(struct cuda_any4, w, [1]);
    const float *sums = reinterpret_cast<const float *>(memory);
    const int32_t expert = simt_block() / args.shape.n_row_blocks;
    const int32_t row_block = simt_block() % args.shape.n_row_blocks;
    simt_dependency_wait();
    const int32_t parts = args.parts;
    const int32_t begin = args.expert_begin[expert] * parts, end = args.expert_begin[expert + 1] * parts;
    if (begin >= end) {
        return;
    }
    grouped_matrix(w, args, expert);
    simt_barrier();
    const struct gemm_rows_gathered rows = {args.x, x_at};
    for (int32_t x_row = begin; x_row < end; x_row += TOKENS) {
        const int32_t n_here = end - x_row < TOKENS ? end - x_row : TOKENS;
        grouped_rows(x_at, args, x_row, n_here); /* read behind the product's first barrier */
        gemm_segment<GROUP, N_TILES, INT8, ANY4_TILE_COLS>(
            memory, w[0], gemm_range_of(row_block, 0, args.shape.n_tile_cols), rows, n_here);
        for (int32_t i = simt_thread(); i < n_here / parts * BLOCK_ROWS; i += GEMM_THREADS) {
            const int32_t slot = x_row / parts + i / BLOCK_ROWS;
            const int32_t row = row_block * BLOCK_ROWS + i % BLOCK_ROWS;
            const float *at = sums + i / BLOCK_ROWS * parts * GEMM_SUM_STRIDE + i % BLOCK_ROWS;
            float sum = parts == 2 ? x_parts_sum(at[0], at[GEMM_SUM_STRIDE]) : at[0];
            if (row < args.shape.n_rows) {
                sum = INT8 ? w[0].row_scales[row] * sum : sum;
                args.y[slot * args.y_stride + row] =
                    x_scale_of_slot(args.x_scales, args.slot_row, slot) * sum;
            }
        }
    }
}

/* The same for many slots an expert: four row blocks, in one stripe. */
template <int GROUP, int N_TILES, bool INT8>
SIMT_KERNEL(PREFILL_THREADS, 1)
any4_grouped_prefill_kernel(struct grouped_args args)
{
    constexpr int32_t TOKENS = 8 * N_TILES;
    SIMT_DYNAMIC_SHARED(memory);
    SIMT_SHARED(int32_t, x_at, [TOKENS]);
    SIMT_SHARED(struct cuda_any4, w, [1]);
    const int32_t n_row_tiles = (args.shape.n_row_blocks + PREFILL_ROW_BLOCKS - 1) / PREFILL_ROW_BLOCKS;
    const int32_t expert = simt_block() / n_row_tiles, row_tile = simt_block() % n_row_tiles;
    simt_dependency_wait();
    const int32_t begin = args.expert_begin[expert] * args.parts;
    const int32_t end = args.expert_begin[expert + 1] * args.parts;
    if (begin >= end) {
        return;
    }
    grouped_matrix(w, args, expert);
    const struct gemm_rows_gathered rows = {args.x, x_at};
    for (int32_t x_row = begin; x_row < end; x_row += TOKENS) {
        const int32_t n_here = end - x_row < TOKENS ? end - x_row : TOKENS;
        grouped_rows(x_at, args, x_row, n_here); /* those before were read in front of a barrier */
        simt_barrier();                          /* and nobody works on them any more */
        prefill_product<GROUP, N_TILES, INT8, true>(
            memory, w[0], row_tile, rows, n_here, 1,
            {args.y, args.y_stride, args.x_scales, args.slot_row, x_row, args.parts});
    }
}

/* A block a row. */
SIMT_KERNEL(MOE_COMBINE_THREADS, 1)
moe_combine_kernel(float *h, int64_t h_stride, const float *y, int64_t y_stride, struct cuda_moe moe,
                   int32_t n, int32_t n_used, const int32_t *positions)
{
    const int64_t row = simt_block();
    simt_dependency_wait();
    if (positions && positions[row] < 0) {
        return;
    }
    for (int32_t i = simt_thread(); i < n; i += MOE_COMBINE_THREADS) {
        float sum = 0;
        for (int32_t rank = 0; rank < n_used; rank++) {
            const int64_t slot = moe.slot_of[row * n_used + rank];
            sum = fmaf(moe.weights[row * n_used + rank], y[slot * y_stride + i], sum);
        }
        h[row * h_stride + i] += sum;
    }
}

#endif
