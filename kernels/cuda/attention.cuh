/* Attention over the paged KV cache: a kernel for narrow tiles, whose tokens and heads fit into one matrix
 * product's 16 rows (decode: its warps take different keys, splits may go to different blocks), one for wide
 * tiles (prefill: its warps take different rows of the same keys), and a plain one in f32. All
 * three begin where a row's first key lies and end behind its last: causal, windowed. */
#ifndef KERNELS_CUDA_ATTENTION_CUH
#define KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/attention_unit.cuh"
#include "kernels/cuda/stored.cuh"

enum {
    NARROW_WARPS = ATTENTION_UNITS, /* each takes a unit of a split */
    NARROW_THREADS = NARROW_WARPS * SIMT_WARP,
    WIDE_WARPS = 4,
    WIDE_THREADS = WIDE_WARPS * SIMT_WARP,
    NARROW_ROW_THREADS = NARROW_THREADS / ATTENTION_ROWS, /* that own a row's sums */
    PLAIN_THREADS = 128, /* keys that a block of the plain kernel takes at a time */
};

/* Sizes of what lies in dynamic shared memory: the queries, then two stages or a narrow block's sums. */
template <class K> struct attention_sizes {
    static constexpr int32_t HD = K::HD;
    static constexpr int32_t QUERIES = ATTENTION_ROWS * HD * K::QUERY_PARTS * 2 / 16; /* 16-byte words */
    static constexpr int32_t STAGE = ATTENTION_UNIT * HD * 2 / 16;
    /* Floats between two rows of sums: what a half-warp writes of four rows meets all banks once. */
    static constexpr int32_t SUMS_STRIDE = HD + 8;
    static constexpr int32_t SUMS = NARROW_WARPS * ATTENTION_ROWS * SUMS_STRIDE / 4;
    static constexpr int32_t NARROW = QUERIES + (2 * STAGE > SUMS ? 2 * STAGE : SUMS);
    static constexpr int32_t NARROW_BLOCKS = HD <= 64 ? 3 : 2; /* on a processor */
    /* Above 128 dimensions two warps take the same rows and half of the dimensions of values each: there are
     * neither the registers nor, on some cards, the shared memory for twice the sums and queries. */
    static constexpr int32_t SHARERS = HD <= 128 ? 1 : 2;
    static constexpr int32_t WIDE_TILES = WIDE_WARPS / SHARERS; /* of 16 rows */
    static constexpr int32_t WIDE = WIDE_TILES * QUERIES + 2 * STAGE;
};

/* -- narrow -- */

/* A thread's share of a row: maximum, sum of weights and, of each 32 dimensions, the four from 4 * (thread %
 * 8) on. */
template <int HD> struct narrow_sums {
    float max, total, value[HD / 8];
};

template <int HD>
SIMT_DEVICE void narrow_fold(narrow_sums<HD> &sums, float max, float total, const float *values, int32_t dim)
{
    const attention_fold fold = fold_limits(sums.max, sums.total, max, total);
    SIMT_UNROLL
    for (int32_t i = 0; i < HD / 32; i++) {
        const simt_words four = *reinterpret_cast<const simt_words *>(values + 32 * i + dim);
        SIMT_UNROLL
        for (int32_t j = 0; j < 4; j++) {
            sums.value[4 * i + j] = fold_value(sums.value[4 * i + j], simt_bits_float(four.word[j]), fold);
        }
    }
}

template <int HD> SIMT_DEVICE void narrow_empty(narrow_sums<HD> &sums)
{
    sums.max = -INFINITY;
    sums.total = 0;
    SIMT_UNROLL
    for (int32_t i = 0; i < HD / 8; i++) {
        sums.value[i] = 0;
    }
}

/* A warp's unit of a split, stages of 16 keys of which are the warp's own: all keys, then all values. Its
 * sums and limits go to shared memory, in place of the stages. */
template <class K>
SIMT_DEVICE void narrow_unit(simt_words *stages, float *sums, float *limits, const simt_words *q,
                             const float *factors, const int64_t *offsets, const struct attention_args &args,
                             const attention_tile &tile, int32_t key)
{
    constexpr int32_t HD = K::HD;
    const int32_t lane = simt_lane(), g = lane / 4, t = lane % 4, row = simt_warp() * 16;
    float s[8][4] = {}, d[HD / 8][4] = {};
    attention_weights<K> weights;
    attention_limits unit;
    stage_copy<HD>(stages + row * (HD / 8), args.call.k, offsets, 16, args.call.head_dim, lane, SIMT_WARP);
    SIMT_UNROLL
    for (int32_t i = 0; i < 2 * ATTENTION_STEPS; i++) {
        const simt_words *stage = stages + i % 2 * attention_sizes<K>::STAGE;
        if (i + 1 < 2 * ATTENTION_STEPS) {
            simt_words *next = stages + (i + 1) % 2 * attention_sizes<K>::STAGE + row * (HD / 8);
            stage_copy<HD>(next, i + 1 < ATTENTION_STEPS ? args.call.k : args.call.v,
                           offsets + (i + 1) % ATTENTION_STEPS * 16, 16, args.call.head_dim, lane, SIMT_WARP);
            simt_copy_wait<1>();
        } else {
            simt_copy_wait<0>();
        }
        simt_warp_barrier(); /* this stage is there */
        if (i < ATTENTION_STEPS) {
            scores_add<K, 2>(s + 2 * i, q, stage, row);
        } else {
            SIMT_UNROLL
            for (int32_t pair = 0; pair < HD / 16; pair++) {
                values_add<K>(d + 2 * pair, weights.step[i - ATTENTION_STEPS], stage, row, pair);
            }
        }
        simt_warp_barrier(); /* and may be overwritten */
        if (i == ATTENTION_STEPS - 1) {
            const int32_t tokens[2] = {g / args.group, (g + 8) / args.group};
            const int32_t last[2] = {tile.position + tokens[0], tile.position + tokens[1]};
            const int32_t first[2] = {first_key(args, last[0]), first_key(args, last[1])};
            const float factor[2] = {factors[g], factors[g + 8]};
            unit_softmax<K>(weights, unit, s, factor, first, last, key);
        }
    }
    simt_barrier(); /* everybody has done with the stages */
    SIMT_UNROLL
    for (int32_t i = 0; i < 2; i++) {
        const int32_t at = row + g + 8 * i;
        if (t == 0) {
            limits[2 * at] = unit.max[i];
            limits[2 * at + 1] = unit.total[i];
        }
        SIMT_UNROLL
        for (int32_t n = 0; n < HD / 8; n++) {
            float *to = sums + at * attention_sizes<K>::SUMS_STRIDE + 8 * n + 2 * t;
            to[0] = d[n][2 * i];
            to[1] = d[n][2 * i + 1];
        }
    }
}

template <class K>
SIMT_KERNEL(NARROW_THREADS, attention_sizes<K>::NARROW_BLOCKS)
attention_narrow_kernel(struct attention_args args)
{
    constexpr int32_t HD = K::HD;
    SIMT_DYNAMIC_SHARED(memory);
    SIMT_SHARED(int64_t, offsets, [CUDA_ATTENTION_SPLIT]);
    SIMT_SHARED(float, factors, [ATTENTION_ROWS]);
    SIMT_SHARED(float, powers, [ATTENTION_ROWS]);
    SIMT_SHARED(float, limits, [NARROW_WARPS * ATTENTION_ROWS * 2]);
    SIMT_SHARED(uint32_t, is_last, [1]);
    simt_words *q = reinterpret_cast<simt_words *>(memory);
    simt_words *stages = q + attention_sizes<K>::QUERIES;
    float *unit_sums = reinterpret_cast<float *>(stages);
    simt_dependency_wait();
    const int32_t kv_head = simt_block() % args.call.n_kv_heads, rest = simt_block() / args.call.n_kv_heads;
    const int32_t split = rest % args.n_splits;
    const attention_tile tile = attention_tile_load(args, rest / args.n_splits, kv_head);
    if (tile.n_rows > ATTENTION_ROWS) {
        return; /* the other kernel's */
    }
    if (tile.position < 0) {
        if (split == 0) {
            out_zeros(args, tile, 0, tile.n_rows);
        }
        return;
    }
    const int32_t last_key = tile.position + (tile.n_rows - 1) / args.group;
    const int32_t first_split = first_key(args, tile.position) / CUDA_ATTENTION_SPLIT;
    const int32_t last_split = last_key / CUDA_ATTENTION_SPLIT;
    const bool spread = args.n_splits > 1;
    if (spread && (split < first_split || split > last_split)) {
        return;
    }
    queries_stage<K>(q, factors, powers, args, tile, 0, 1);
    const int32_t row = simt_thread() / NARROW_ROW_THREADS, dim = simt_thread() % NARROW_ROW_THREADS * 4;
    const bool valid = row < tile.n_rows;
    narrow_sums<HD> all;
    narrow_empty(all);
    for (int32_t at = spread ? split : first_split; at <= (spread ? split : last_split); at++) {
        for (int32_t i = simt_thread(); i < CUDA_ATTENTION_SPLIT; i += NARROW_THREADS) {
            const int32_t key = at * CUDA_ATTENTION_SPLIT + i;
            const bool seen = key >= first_key(args, tile.position) && key <= last_key;
            offsets[i] = seen ? key_offset(args, tile, key) : -1;
        }
        simt_barrier(); /* queries and offsets are there; the sums before have been read */
        const int32_t key = at * CUDA_ATTENTION_SPLIT + simt_warp() * ATTENTION_UNIT;
        narrow_unit<K>(stages, unit_sums, limits, q, factors, offsets + simt_warp() * ATTENTION_UNIT, args,
                       tile, key);
        simt_barrier();
        narrow_sums<HD> sums;
        narrow_empty(sums);
        SIMT_UNROLL_BY(1)
        for (int32_t unit = 0; unit < ATTENTION_UNITS; unit++) {
            const int32_t from = unit * ATTENTION_ROWS + row;
            narrow_fold(sums, limits[2 * from], limits[2 * from + 1],
                        unit_sums + from * attention_sizes<K>::SUMS_STRIDE, dim);
        }
        if (spread && first_split < last_split) {
            if (valid) {
                const int64_t slot = partial_slot(args, tile, row) + at;
                float *to = args.call.partials + slot * HD + dim;
                SIMT_UNROLL
                for (int32_t i = 0; i < HD / 32; i++) {
                    simt_words four;
                    SIMT_UNROLL
                    for (int32_t j = 0; j < 4; j++) {
                        four.word[j] = simt_float_bits(sums.value[4 * i + j]);
                    }
                    *reinterpret_cast<simt_words *>(to + 32 * i) = four;
                }
                if (dim == 0) {
                    args.limits[2 * slot] = sums.max;
                    args.limits[2 * slot + 1] = sums.total;
                }
            }
        } else {
            const attention_fold fold = fold_limits(all.max, all.total, sums.max, sums.total);
            SIMT_UNROLL
            for (int32_t i = 0; i < HD / 8; i++) {
                all.value[i] = fold_value(all.value[i], sums.value[i], fold);
            }
        }
    }
    if (spread && first_split < last_split) {
        simt_barrier(); /* the block's part is written */
        if (simt_thread() == 0) {
            uint32_t *counter = args.call.counters + rest / args.n_splits * args.call.n_kv_heads + kv_head;
            is_last[0] = simt_arrive(counter) == (uint32_t)(last_split - first_split);
            if (is_last[0]) {
                *counter = 0;
            }
        }
        simt_barrier();
        if (!is_last[0]) {
            return;
        }
        const int64_t slot = partial_slot(args, tile, row);
        for (int32_t at = first_split; valid && at <= last_split; at++) {
            narrow_fold(all, args.limits[2 * (slot + at)], args.limits[2 * (slot + at) + 1],
                        args.call.partials + (slot + at) * HD, dim);
        }
    }
    if (valid) {
        uint32_t *out = reinterpret_cast<uint32_t *>(out_row(args, tile, row));
        const float inverse = inverse_total(all.total);
        SIMT_UNROLL
        for (int32_t i = 0; i < HD / 32; i++) {
            if (32 * i + dim < args.call.head_dim) {
                uint32_t *to = out + 16 * i + dim / 2;
                out_store_sums(args, to, all.value[4 * i], all.value[4 * i + 1], inverse);
                out_store_sums(args, to + 1, all.value[4 * i + 2], all.value[4 * i + 3], inverse);
            }
        }
    }
    out_zeros(args, tile, 0, tile.n_rows);
}

/* -- wide -- */

/* Offsets of a unit's keys, as far as the tile's rows [.., last_key] see them. */
SIMT_DEVICE void wide_offsets(int64_t *offsets, const struct attention_args &args, const attention_tile &tile,
                              int32_t unit, int32_t begin, int32_t last_key)
{
    static_assert((int)WIDE_THREADS >= (int)ATTENTION_UNIT, "a thread a key");
    const int32_t key = unit * ATTENTION_UNIT + simt_thread();
    if (simt_thread() < ATTENTION_UNIT) {
        offsets[simt_thread()] = key >= begin && key <= last_key ? key_offset(args, tile, key) : -1;
    }
}

/* Adds a lane's sums of a split to those of the splits before, which wait in partials (the lane's two rows;
 * NULL: the tile has not so many). `first`: there are none; `last`: the result is in d, else in partials. */
template <int TILES>
SIMT_DEVICE void wide_fold_split(float (*d)[4], const attention_fold fold[2], float *const partials[2],
                                 bool first, bool last)
{
    SIMT_UNROLL
    for (int32_t n = 0; n < TILES; n++) {
        SIMT_UNROLL
        for (int32_t i = 0; i < 4; i++) {
            if (partials[i / 2]) {
                float *at = partials[i / 2] + 8 * n + i % 2;
                d[n][i] = fold_value(first ? 0.0f : *at, d[n][i], fold[i / 2]);
                if (!last) {
                    *at = d[n][i];
                    d[n][i] = 0;
                }
            }
        }
        if (n % 4 == 3) {
            simt_warp_barrier(); /* for the compiler: all loads in front would take all registers */
        }
    }
}

template <class K> SIMT_KERNEL(WIDE_THREADS, 2) attention_wide_kernel(struct attention_args args)
{
    typedef attention_sizes<K> sizes;
    constexpr int32_t HD = K::HD;
    constexpr int32_t TILES = HD / 8 / sizes::SHARERS; /* of 8 dimensions, a warp's */
    SIMT_DYNAMIC_SHARED(memory);
    SIMT_SHARED(int64_t, offsets, [2 * ATTENTION_UNIT]);
    SIMT_SHARED(float, factors, [WIDE_WARPS * ATTENTION_ROWS]);
    SIMT_SHARED(float, powers, [WIDE_WARPS * ATTENTION_ROWS]);
    SIMT_SHARED(int32_t, last_keys, [WIDE_WARPS * ATTENTION_ROWS]); /* that rows see; -1: no row */
    simt_words *q = reinterpret_cast<simt_words *>(memory);
    simt_words *keys = q + sizes::WIDE_TILES * sizes::QUERIES, *values = keys + sizes::STAGE;
    const int32_t lane = simt_lane(), g = lane / 4, t = lane % 4;
    simt_dependency_wait();
    /* The last rows see the most keys: they start first. */
    const int32_t kv_head = simt_block() % args.call.n_kv_heads, rest = simt_block() / args.call.n_kv_heads;
    const int32_t n_row_blocks = (CUDA_ATTENTION_TILE * args.group + args.wide_rows - 1) / args.wide_rows;
    const int32_t begin = (n_row_blocks - 1 - rest % n_row_blocks) * args.wide_rows;
    const attention_tile tile =
        attention_tile_load(args, args.call.n_tiles - 1 - rest / n_row_blocks, kv_head);
    if (tile.n_rows <= ATTENTION_ROWS || begin >= tile.n_rows) {
        return;
    }
    const int32_t end = begin + args.wide_rows < tile.n_rows ? begin + args.wide_rows : tile.n_rows;
    if (tile.position < 0) {
        out_zeros(args, tile, begin, end);
        return;
    }
    const int32_t last_key = tile.position + (end - 1) / args.group;
    const int32_t begin_key = first_key(args, tile.position + begin / args.group);
    const int32_t last_unit = last_key / ATTENTION_UNIT;
    int32_t unit = begin_key / ATTENTION_UNIT;
    wide_offsets(offsets + unit % 2 * ATTENTION_UNIT, args, tile, unit, begin_key, last_key);
    queries_stage<K>(q, factors, powers, args, tile, begin, sizes::WIDE_TILES);
    for (int32_t i = simt_thread(); i < sizes::WIDE_TILES * ATTENTION_ROWS; i += WIDE_THREADS) {
        last_keys[i] = begin + i < end ? tile.position + (begin + i) / args.group : -1;
    }
    simt_barrier();
    const int32_t warp_row = simt_warp() / sizes::SHARERS * ATTENTION_ROWS;
    const int32_t share = simt_warp() % sizes::SHARERS;
    /* The warp's rows see no key outside of [warp_first, warp_last]. */
    const int32_t warp_end = begin + warp_row + 16 < end ? begin + warp_row + 16 : end;
    const int32_t warp_last = begin + warp_row < end ? tile.position + (warp_end - 1) / args.group : -1;
    const int32_t warp_first = first_key(args, tile.position + (begin + warp_row) / args.group);
    attention_limits split = {{-INFINITY, -INFINITY}, {0, 0}}, all = split;
    float d[TILES][4] = {};
    bool stored = false;
    stage_copy<HD>(keys, args.call.k, offsets + unit % 2 * ATTENTION_UNIT, ATTENTION_UNIT, args.call.head_dim,
                   simt_thread(), WIDE_THREADS);
    for (; unit <= last_unit; unit++) {
        const int32_t key = unit * ATTENTION_UNIT;
        const bool seen = key <= warp_last && key + ATTENTION_UNIT > warp_first;
        stage_copy<HD>(values, args.call.v, offsets + unit % 2 * ATTENTION_UNIT, ATTENTION_UNIT,
                       args.call.head_dim, simt_thread(), WIDE_THREADS);
        if (unit < last_unit) {
            wide_offsets(offsets + (unit + 1) % 2 * ATTENTION_UNIT, args, tile, unit + 1, begin_key,
                         last_key);
        }
        simt_copy_wait<1>();
        simt_barrier(); /* the keys are there */
        attention_weights<K> weights;
        attention_fold fold[2] = {};
        if (seen) {
            float s[8][4] = {};
            attention_limits added;
            const float factor[2] = {factors[warp_row + g], factors[warp_row + g + 8]};
            const int32_t last[2] = {last_keys[warp_row + g], last_keys[warp_row + g + 8]};
            const int32_t first[2] = {first_key(args, last[0]), first_key(args, last[1])};
            scores_add<K, 8>(s, q + warp_row / ATTENTION_ROWS * sizes::QUERIES, keys, 0);
            unit_softmax<K>(weights, added, s, factor, first, last, key);
            SIMT_UNROLL
            for (int32_t i = 0; i < 2; i++) {
                fold[i] = fold_limits(split.max[i], split.total[i], added.max[i], added.total[i]);
            }
        }
        simt_barrier(); /* and may be overwritten */
        if (unit < last_unit) {
            stage_copy<HD>(keys, args.call.k, offsets + (unit + 1) % 2 * ATTENTION_UNIT, ATTENTION_UNIT,
                           args.call.head_dim, simt_thread(), WIDE_THREADS);
            simt_copy_wait<1>();
        } else {
            simt_copy_wait<0>();
        }
        simt_barrier(); /* the values are there */
        if (seen) {
            SIMT_UNROLL
            for (int32_t pair = 0; pair < TILES / 2; pair++) {
                float added[2][4] = {};
                SIMT_UNROLL
                for (int32_t step = 0; step < ATTENTION_STEPS; step++) {
                    values_add<K>(added, weights.step[step], values + share * TILES, 16 * step, pair);
                }
                SIMT_UNROLL
                for (int32_t i = 0; i < 8; i++) {
                    float &sum = d[2 * pair + i / 4][i % 4];
                    sum = fold_value(sum, added[i / 4][i % 4], fold[i % 4 / 2]);
                }
                if (pair % 2) {
                    simt_warp_barrier(); /* for the compiler, as in wide_fold_split */
                }
            }
        }
        if (unit == last_unit || unit % ATTENTION_UNITS == ATTENTION_UNITS - 1) {
            float *partials[2];
            SIMT_UNROLL
            for (int32_t i = 0; i < 2; i++) {
                const int32_t row = begin + warp_row + g + 8 * i;
                const int64_t at = partial_slot(args, tile, row) * HD + share * TILES * 8 + 2 * t;
                partials[i] = row < end ? args.call.partials + at : nullptr;
                fold[i] = fold_limits(all.max[i], all.total[i], split.max[i], split.total[i]);
                split.max[i] = -INFINITY;
                split.total[i] = 0;
            }
            wide_fold_split<TILES>(d, fold, partials, !stored, unit == last_unit);
            stored = true;
        }
        simt_barrier(); /* the values may be overwritten */
    }
    SIMT_UNROLL
    for (int32_t i = 0; i < 2; i++) {
        const int32_t row = begin + warp_row + g + 8 * i;
        const float inverse = inverse_total(all.total[i]);
        if (row < end) {
            uint32_t *out = reinterpret_cast<uint32_t *>(out_row(args, tile, row));
            SIMT_UNROLL
            for (int32_t n = 0; n < TILES; n++) {
                const int32_t dim = (share * TILES + n) * 8;
                if (dim < args.call.head_dim) {
                    out_store_sums(args, out + dim / 2 + t, d[n][2 * i], d[n][2 * i + 1], inverse);
                }
            }
        }
    }
    out_zeros(args, tile, begin, end);
}

/* -- plain -- */

/* Products and sums in f32: a block a row and query head, a thread a key and then a dimension. TYPE: the
 * enum any4_kind that the cache is stored as. */
template <int TYPE> SIMT_KERNEL(PLAIN_THREADS, 4) attention_plain_kernel(struct attention_args args)
{
    SIMT_SHARED(float, query, [CUDA_ATTENTION_MAX_HEAD_DIM]);
    SIMT_SHARED(float, weights, [PLAIN_THREADS]);
    SIMT_SHARED(int64_t, offsets, [PLAIN_THREADS]);
    SIMT_SHARED(float, scratch, [2 * REDUCE_MAX_WARPS]);
    simt_dependency_wait();
    const struct cuda_attention &call = args.call;
    const int32_t head = simt_block() % call.n_heads, row = simt_block() / call.n_heads;
    const int32_t thread = simt_thread(), head_dim = call.head_dim, position = call.positions[row];
    const attention_tile tile = {row, args.group, position, head / args.group};
    const int32_t in_group = head % args.group;
    out_zeros(args, tile, in_group, in_group + 1);
    if (position < 0) {
        return;
    }
    for (int32_t i = thread; i < head_dim; i += PLAIN_THREADS) {
        query[i] = call.q[row * call.q_stride + (int64_t)head * head_dim + i];
    }
    const enum any4_kind type = static_cast<enum any4_kind>(TYPE);
    const int32_t first = first_key(args, position);
    float max = -INFINITY, total = 0, sums[2] = {0, 0};
    for (int32_t begin = first / PLAIN_THREADS * PLAIN_THREADS; begin <= position; begin += PLAIN_THREADS) {
        const int32_t key = begin + thread;
        const bool seen = key >= first && key <= position;
        offsets[thread] = seen ? key_offset(args, tile, key) : -1;
        simt_barrier(); /* the query is there */
        float score = -INFINITY;
        if (seen) {
            float dot = 0;
            for (int32_t i = 0; i < head_dim; i++) {
                dot = fmaf(query[i], stored_value(call.k, type, offsets[thread] + i), dot);
            }
            score = simt_product(dot, call.scale);
        }
        float most = score;
        SIMT_UNROLL
        for (int32_t step = SIMT_WARP / 2; step; step /= 2) {
            most = fmaxf(most, simt_bits_float(simt_shuffle_xor(simt_float_bits(most), step)));
        }
        if (simt_lane() == 0) {
            scratch[REDUCE_MAX_WARPS + simt_warp()] = most;
        }
        simt_barrier();
        for (int32_t warp = 0; warp < PLAIN_THREADS / SIMT_WARP; warp++) {
            most = fmaxf(most, scratch[REDUCE_MAX_WARPS + warp]);
        }
        const float both = fmaxf(max, most), before = max == -INFINITY ? 0.0f : expf(max - both);
        const float weight = seen ? expf(score - both) : 0.0f;
        weights[thread] = weight;
        total =
            fmaf(total, before, block_sum(weight, scratch)); /* its barrier: weights and offsets are there */
        max = both;
        for (int32_t i = 0; i < 2; i++) {
            const int32_t dim = thread + i * PLAIN_THREADS;
            float sum = sums[i] * before;
            for (int32_t at = 0; dim < head_dim && at < PLAIN_THREADS; at++) {
                if (offsets[at] >= 0) {
                    sum = fmaf(weights[at], stored_value(call.v, type, offsets[at] + dim), sum);
                }
            }
            sums[i] = sum;
        }
        simt_barrier(); /* all of them may be overwritten */
    }
    uint32_t *out = reinterpret_cast<uint32_t *>(out_row(args, tile, in_group));
    for (int32_t i = 0; i < 2; i++) {
        /* The even thread of two stores both results. */
        const int32_t dim = thread + i * PLAIN_THREADS;
        const float mine = sums[i] * inverse_total(total);
        const float other = simt_bits_float(simt_shuffle_xor(simt_float_bits(mine), 1));
        if (dim < head_dim && thread % 2 == 0) {
            out_store(args, out + dim / 2, mine, other);
        }
    }
}

#endif
