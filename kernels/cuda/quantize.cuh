/* Learned tables on the device: quant/learn.h with a block a row. A thread takes a group, a level or a bin
 * where there are many, and what is one chain of additions by its specification is thread 0's; every sum has
 * the order of quant/learn.h, so the bits are those of the processor. Compiled with -fmad=false.
 *
 * A row lies in the block's scratch in global memory as learn.h has it, tiles of 16 groups transposed: half a
 * warp reads a stretch of 64 bytes, and after the first pass it comes from the caches. Levels and limits are
 * 32 words of shared memory in 32 banks, so that looking them up has no conflicts. */
#ifndef KERNELS_CUDA_QUANTIZE_CUH
#define KERNELS_CUDA_QUANTIZE_CUH

#include "kernels/cuda/simt.h"
#include "kernels/cuda/stored.cuh"
#include "quant/any4.h"
#include "quant/learn.h"

enum {
    QUANTIZE_THREADS = LEARN_LEVELS * LEARN_LANES, /* 256: one for each level and lane */
    QUANTIZE_WARPS = QUANTIZE_THREADS / SIMT_WARP,
    QUANTIZE_WARP_BINS = LEARN_BINS / QUANTIZE_WARPS,                /* 64, two a lane */
    QUANTIZE_TRIED = LEARN_N_FACTORS + 1,                            /* scales of a group in a search round */
    QUANTIZE_GAINS = LEARN_DP_BINS * (LEARN_DP_BINS + 1) / 2,        /* of runs i .. j, i <= j */
    QUANTIZE_NO_BIN = 0xffff,                                        /* of a place behind the row */
    QUANTIZE_COLUMN_BYTES = sizeof(float) + sizeof(uint16_t) + 1,    /* of scratch: weight, bin, code */
    QUANTIZE_GROUP_BYTES = (2 * QUANTIZE_TRIED + 1) * sizeof(float), /* scale, gains, fitted scales */
};
static_assert(QUANTIZE_WARP_BINS == 2 * SIMT_WARP, "a lane owns two bins");

struct quantize_job {
    const void *w;
    enum any4_kind source;
    int64_t w_stride;
    const float *importance; /* (n_cols) or NULL */
    int32_t n_rows, n_cols, group_bits, code_bits;
    int32_t n_groups, n_tiles, n_tile_cols;
    float *importance_tiles; /* (n_tiles, group_size, 16) */
    uint8_t *scratch;        /* a row's for each block */
    int64_t scratch_bytes;   /* of one block */
    uint64_t *bad;
    uint8_t *codes;
    int8_t *group_scales;
    int8_t *table;    /* or planes */
    uint32_t *planes; /* not NULL: group scales, planes and padded row scales as struct cuda_any4 has them */
    float *row_scales;
};

/* One row at work: arrays in global memory. */
struct quantize_row {
    int32_t row, group_size, n_places, n_lanes; /* places and lanes of all tiles */
    float *w;                                   /* (n_places) */
    const float *m;                             /* (n_places) */
    float *scale;                               /* (n_lanes) */
    float *gain, *fitted;                       /* (QUANTIZE_TRIED, n_lanes) */
    uint16_t *bin;                              /* (n_places) */
    uint8_t *codes;                             /* (n_places) */
};

/* A block's shared memory: two blocks fit the smallest processors (100 KB). */
struct alignas(128) quantize_shared {
    struct learn_levels levels;
    struct quantize_job job; /* here, that nothing made of it stays in registers from phase to phase */
    union {
        struct learn_bin bins[LEARN_BINS]; /* until they are merged */
        float gain[QUANTIZE_GAINS];
    };
    struct learn_bin sums[LEARN_BINS];
    struct learn_bin merged[LEARN_DP_BINS];
    double masses[LEARN_DP_BINS + 1], moments[LEARN_DP_BINS + 1];
    float best[2][LEARN_DP_BINS];
    uint8_t from[LEARN_LEVELS][LEARN_DP_BINS];
    int8_t table[LEARN_LEVELS];
    uint32_t largest, bad; /* bits of a magnitude; complement of a column */
    int32_t n_values, n_merged;
    float floor, level_unit;
};
static_assert(sizeof(struct learn_levels) == SIMT_WARP * sizeof(float), "a bank each");
static_assert(sizeof(struct quantize_shared) <= 48 * 1024, "static shared memory");

/* ---- in and out ---- */

/* The column of a place in tiles. */
SIMT_DEVICE int32_t quantize_column(int32_t place, int32_t group_bits)
{
    const int32_t at = place / LEARN_LANES, j = at & ((1 << group_bits) - 1);
    return (((at >> group_bits) * LEARN_LANES + place % LEARN_LANES) << group_bits) + j;
}

/* How much each column counts, once for all rows: one block. */
SIMT_KERNEL(QUANTIZE_THREADS, 1) quantize_importance_kernel(struct quantize_job job)
{
    SIMT_SHARED(uint32_t, largest_bits, [1]);
    const int32_t thread = simt_thread();
    simt_dependency_wait();
    if (thread == 0) {
        largest_bits[0] = 0;
        *job.bad = UINT64_MAX;
    }
    simt_barrier();
    float largest = 0;
    for (int32_t col = thread; job.importance && col < job.n_cols; col += QUANTIZE_THREADS) {
        largest = job.importance[col] > largest ? job.importance[col] : largest;
    }
    simt_atomic_max(largest_bits, simt_float_bits(largest));
    simt_barrier();
    largest = job.importance ? simt_bits_float(largest_bits[0]) : 1.0f;
    const int32_t n_places = (job.n_tiles * LEARN_LANES) << job.group_bits;
    for (int32_t place = thread; place < n_places; place += QUANTIZE_THREADS) {
        const int32_t col = quantize_column(place, job.group_bits);
        const float value = job.importance && col < job.n_cols ? job.importance[col] : 1.0f;
        job.importance_tiles[place] = col < job.n_cols ? learn_importance(value, largest) : 0.0f;
    }
}

/* Finds the largest magnitude and the first bad weight, then the row in tiles, its largest weight in [1, 2).
 * Returns the row's unit; 0 for a row with a bad weight. */
SIMT_DEVICE float quantize_load(const struct quantize_job &job, const struct quantize_row &r,
                                struct quantize_shared *s)
{
    const int64_t first = r.row * job.w_stride;
    float largest = 0, inverse;
    uint32_t bad = 0;
    if (simt_thread() == 0) {
        s->largest = s->bad = 0;
    }
    simt_barrier();
    for (int32_t col = simt_thread(); col < job.n_cols; col += QUANTIZE_THREADS) {
        const float magnitude = fabsf(stored_value(job.w, job.source, first + col));
        if (!(magnitude <= LEARN_MAX_WEIGHT)) {
            bad = bad ? bad : ~(uint32_t)col;
        } else if (magnitude > largest) {
            largest = magnitude;
        }
    }
    simt_atomic_max(&s->largest, simt_float_bits(largest));
    simt_atomic_max(&s->bad, bad);
    simt_barrier();
    if (s->bad) {
        if (simt_thread() == 0) {
            simt_atomic_min(job.bad, (uint64_t)(uint32_t)r.row << 32 | ~s->bad);
        }
        return 0;
    }
    const float unit = learn_unit(simt_bits_float(s->largest), &inverse);
    for (int32_t place = simt_thread(); place < r.n_places; place += QUANTIZE_THREADS) {
        const int32_t col = quantize_column(place, job.group_bits);
        r.w[place] = col < job.n_cols ? stored_value(job.w, job.source, first + col) * inverse : 0.0f;
    }
    simt_barrier();
    return unit;
}

SIMT_DEVICE void quantize_store_scale(const struct quantize_job &job, int32_t row, int32_t group, int8_t q)
{
    int64_t at = (int64_t)row * job.n_groups + group;
    if (job.planes) {
        const int32_t tile_bits = 7 - job.group_bits; /* groups a tile */
        const int64_t tile = (int64_t)(row / ANY4_TILE_ROW_PAD) * job.n_tile_cols + (group >> tile_bits);
        at = ((tile * ANY4_TILE_ROW_PAD + row % ANY4_TILE_ROW_PAD) << tile_bits) +
             (group & ((1 << tile_bits) - 1));
    }
    job.group_scales[at] = q;
}

/* The codes in ANY4_LAYOUT_TILE_V1, a thread a run of 8 columns; a row of the padding, or one with a bad
 * weight, is zeros. */
SIMT_DEVICE void quantize_store_codes(const struct quantize_job &job, const struct quantize_row &r, bool live)
{
    enum { RUNS = ANY4_TILE_COLS / 8 };
    const int32_t tile_bytes = ANY4_TILE_COLS * job.code_bits;
    uint8_t *row = job.codes + (int64_t)(r.row / ANY4_TILE_ROWS) * job.n_tile_cols * tile_bytes;
    for (int32_t run = simt_thread(); run < job.n_tile_cols * RUNS; run += QUANTIZE_THREADS) {
        const int32_t jj = run / 4 % 4, piece = run % 4 * ANY4_TILE_ROWS + r.row % ANY4_TILE_ROWS;
        const int32_t bits = job.code_bits == 4 ? 4 : 2;
        uint8_t *tile = row + (int64_t)(run / RUNS) * tile_bytes;
        uint32_t low = 0, high = 0; /* high: the third bits */
        for (int32_t i = 0; i < 8; i++) {
            const int32_t col = run * 8 + i, group = col >> job.group_bits;
            if (live && col < job.n_cols) {
                const int32_t j = col & (r.group_size - 1);
                const int32_t at = ((group / LEARN_LANES) << job.group_bits) + j;
                const uint32_t code = r.codes[at * LEARN_LANES + group % LEARN_LANES];
                low |= (code & ((1u << bits) - 1)) << bits * i;
                high |= code >> 2 << i;
            }
        }
        if (bits == 4) {
            reinterpret_cast<uint32_t *>(tile)[piece * 4 + jj] = low;
        } else {
            reinterpret_cast<uint16_t *>(tile)[piece * 4 + jj] = (uint16_t)low;
        }
        if (job.code_bits == 3) {
            tile[2 * ANY4_TILE_COLS + piece * 4 + jj] = (uint8_t)high;
        }
    }
}

/* Table and row scale. */
SIMT_DEVICE void quantize_store_table(const struct quantize_job &job, int32_t row, const int8_t *table,
                                      float row_scale)
{
    const int32_t thread = simt_thread(), n_levels = 1 << job.code_bits;
    if (job.planes && thread < LEARN_LEVELS / 4) {
        uint32_t word = 0;
        for (int32_t i = 0; i < 4; i++) {
            word |= (uint32_t)(table[4 * thread + i] + 128) << 8 * i; /* a byte each: never negative */
        }
        job.planes[(int64_t)row * (LEARN_LEVELS / 4) + thread] = word;
    } else if (!job.planes && thread < n_levels) {
        job.table[((int64_t)row << job.code_bits) + thread] = table[thread];
    }
    if (thread == 0) {
        job.row_scales[row] = row_scale;
    }
}

/* A row without weights: of the padding, of which only the kernels' arrangement has more than codes, or one
 * with a bad weight. */
SIMT_DEVICE void quantize_store_zeros(const struct quantize_job &job, const struct quantize_row &r,
                                      struct quantize_shared *s)
{
    quantize_store_codes(job, r, false);
    if (r.row < job.n_rows || job.planes) {
        if (simt_thread() < LEARN_LEVELS) {
            s->table[simt_thread()] = 0;
        }
        simt_barrier();
        quantize_store_table(job, r.row, s->table, 0);
        const int32_t n_groups = job.planes ? job.n_tile_cols << (7 - job.group_bits) : job.n_groups;
        for (int32_t group = simt_thread(); group < n_groups; group += QUANTIZE_THREADS) {
            quantize_store_scale(job, r.row, group, 0);
        }
    }
}

/* ---- the start ---- */

/* learn_histogram: a lane owns two bins and adds what falls in them in the order of places. A warp passes
 * over the row, 32 places at a time, and stops at those that are its own. */
SIMT_DEVICE void quantize_histogram(const struct quantize_job &job, const struct quantize_row &r,
                                    struct learn_bin *bins)
{
    const int32_t lane = simt_lane(), warp = simt_warp();
    for (int32_t place = simt_thread(); place < r.n_places; place += QUANTIZE_THREADS) {
        const int32_t tile = place / LEARN_LANES >> job.group_bits;
        const float inverse = learn_inverse(r.scale[tile * LEARN_LANES + place % LEARN_LANES]);
        r.bin[place] = (uint16_t)(r.m[place] > 0 ? learn_bin_of(r.w[place] * inverse) : QUANTIZE_NO_BIN);
    }
    simt_barrier();
    struct learn_bin even = {0, 0}, odd = {0, 0};
    for (int32_t first = 0; first < r.n_places; first += SIMT_WARP) {
        uint32_t ours = simt_ballot(r.bin[first + lane] / QUANTIZE_WARP_BINS == warp);
        for (; ours; ours &= ours - 1) {
            const int32_t place = first + simt_lowest_bit(ours), bin = r.bin[place];
            if (bin % SIMT_WARP == lane) {
                const int32_t tile = place / LEARN_LANES >> job.group_bits;
                const float scale = r.scale[tile * LEARN_LANES + place % LEARN_LANES];
                const float ms = r.m[place] * scale;
                const double mass = ms * scale, moment = ms * r.w[place];
                if (bin & SIMT_WARP) {
                    odd.mass += mass;
                    odd.moment += moment;
                } else {
                    even.mass += mass;
                    even.moment += moment;
                }
            }
        }
    }
    bins[warp * QUANTIZE_WARP_BINS + lane] = even;
    bins[warp * QUANTIZE_WARP_BINS + SIMT_WARP + lane] = odd;
    simt_barrier();
}

/* Where the gain of bins i .. j lies: runs of one start follow each other. */
SIMT_DEVICE int32_t quantize_gain_at(int32_t i, int32_t j)
{
    return i * LEARN_DP_BINS - i * (i + 1) / 2 + j;
}

/* learn_partition: a thread an end j. Among equal sums the first start wins, and no search begins below
 * where the tile of ends found its start a level earlier, as there. */
SIMT_DEVICE void quantize_partition(struct quantize_shared *s, int32_t n_levels)
{
    const int32_t m = s->n_merged, j = simt_thread() % LEARN_DP_BINS;
    if (simt_thread() == 0) {
        s->floor = learn_sum_merged(s->masses, s->moments, s->merged, m, m);
    }
    simt_barrier();
    for (int32_t i = simt_thread() / LEARN_DP_BINS; i <= j && j < m; i += QUANTIZE_THREADS / LEARN_DP_BINS) {
        s->gain[quantize_gain_at(i, j)] = learn_gain(s->masses, s->moments, i, j, s->floor);
    }
    simt_barrier();
    const bool works = simt_thread() < m;
    if (works) {
        s->best[0][j] = s->gain[j];
        s->from[0][j] = 0;
    }
    for (int32_t k = 1; k < n_levels; k++) {
        simt_barrier();
        if (works) {
            const float *last = s->best[(k - 1) & 1];
            const int32_t lowest = s->from[k - 1][j / LEARN_LANES * LEARN_LANES];
            float best = -1;
            int32_t start = j;
            for (int32_t i = lowest > k ? lowest : k; i <= j; i++) {
                const float sum = last[i - 1] + s->gain[quantize_gain_at(i, j)];
                if (sum > best) {
                    best = sum;
                    start = i;
                }
            }
            s->best[k & 1][j] = best;
            s->from[k][j] = (uint8_t)start;
        }
    }
    simt_barrier();
    if (simt_thread() == 0) {
        int32_t end = m;
        for (int32_t k = n_levels - 1; k >= 0; k--) {
            const int32_t begin = s->from[k][end - 1];
            s->levels.table[k] = learn_run_mean(s->masses, s->moments, s->merged, begin, end);
            end = begin;
        }
    }
    simt_barrier();
}

/* learn_refine_table: a thread of the first warp a level. */
SIMT_DEVICE void quantize_refine(struct quantize_shared *s, int32_t n_levels)
{
    const int32_t k = simt_thread();
    float *table = s->levels.table;
    if (simt_warp() == 0) {
        const bool works = k < n_levels;
        for (int32_t round = 0; round < LEARN_REFINEMENTS; round++) {
            float next = 0;
            if (works) {
                struct learn_bin begin = {0, 0};
                if (k > 0) {
                    begin = learn_sum_below(table, n_levels, k - 1, s->sums);
                }
                next = learn_mean_between(begin, learn_sum_below(table, n_levels, k, s->sums), table[k]);
            }
            const bool changed = simt_ballot(works && next != table[k]);
            simt_warp_barrier();
            if (works) {
                table[k] = next;
            }
            simt_warp_barrier();
            if (!changed) {
                break;
            }
        }
    }
    simt_barrier();
}

/* learn_start_table, behind the first scales. */
SIMT_DEVICE void quantize_start(const struct quantize_job &job, const struct quantize_row &r,
                                struct quantize_shared *s)
{
    const int32_t n_levels = 1 << job.code_bits;
    float *table = s->levels.table;
    if (simt_thread() == 0) {
        struct learn_row row;
        row.w = r.w;
        row.m = r.m;
        row.scale = r.scale;
        row.n_tiles = job.n_tiles;
        row.group_size = r.group_size;
        row.n_levels = n_levels;
        s->n_values = learn_few_values(table, &row);
    }
    simt_barrier();
    if (s->n_values > n_levels) {
        quantize_histogram(job, r, s->bins);
        if (simt_thread() == 0) {
            learn_sum_bins(s->sums, s->bins);
            s->n_merged = learn_merge_bins(s->merged, s->bins, s->sums);
        }
        simt_barrier();
        if (s->n_merged > n_levels) {
            quantize_partition(s, n_levels);
            quantize_refine(s, n_levels);
        } else if (simt_thread() == 0) {
            learn_table_of_bins(table, n_levels, s->merged, s->n_merged);
        }
    }
    if (simt_thread() == 0) {
        if (s->n_values > n_levels) {
            learn_ascend(table, n_levels);
        } else {
            learn_repeat_last(table, s->n_values, n_levels);
        }
        learn_set_limits(&s->levels, n_levels);
    }
    simt_barrier();
}

/* ---- the rounds ---- */

/* learn_search_tile: a thread a group and scale, then a thread a group for the choice. */
SIMT_DEVICE void quantize_search(const struct quantize_row &r, const struct learn_levels *levels,
                                 int32_t n_tried)
{
    for (int32_t item = simt_thread(); item < n_tried * r.n_lanes; item += QUANTIZE_THREADS) {
        const int32_t f = item / r.n_lanes, group = item % r.n_lanes;
        const int32_t first = group / LEARN_LANES * LEARN_LANES * r.group_size + group % LEARN_LANES;
        const float tried = f == 0 ? r.scale[group] : r.scale[group] * LEARN_FACTORS[f - 1];
        r.fitted[item] = learn_try(r.gain + item, levels, tried, r.w + first, r.m + first, r.group_size);
    }
    simt_barrier();
    for (int32_t group = simt_thread(); group < r.n_lanes; group += QUANTIZE_THREADS) {
        float best_gain = -1, best = r.scale[group];
        for (int32_t f = 0; f < n_tried; f++) {
            const float gain = r.gain[f * r.n_lanes + group];
            if (gain > best_gain) {
                best_gain = gain;
                best = r.fitted[f * r.n_lanes + group];
            }
        }
        r.scale[group] = best;
    }
    simt_barrier();
}

/* learn_sum_tile and learn_fit_table: a thread a level and lane. */
SIMT_DEVICE void quantize_fit(const struct quantize_job &job, const struct quantize_row &r,
                              struct quantize_shared *s)
{
    const int32_t lane = simt_thread() % LEARN_LANES, level = simt_thread() / LEARN_LANES;
    const int32_t n_levels = 1 << job.code_bits;
    for (int32_t group = simt_thread(); group < r.n_lanes; group += QUANTIZE_THREADS) {
        const int32_t first = group / LEARN_LANES * LEARN_LANES * r.group_size + group % LEARN_LANES;
        learn_assign(r.codes + first, &s->levels, r.scale[group], r.w + first, r.group_size);
    }
    simt_barrier();
    float mass = 0, moment = 0;
    for (int32_t place = lane; place < r.n_places; place += LEARN_LANES) {
        if (r.codes[place] == level) {
            const float scale = r.scale[(place / LEARN_LANES >> job.group_bits) * LEARN_LANES + lane];
            const float ms = r.m[place] * scale;
            mass += ms * scale;
            moment += ms * r.w[place];
        }
    }
    for (int32_t half = LEARN_LANES / 2; half >= 1; half /= 2) { /* learn_sum_lanes */
        mass += simt_bits_float(simt_shuffle_xor(simt_float_bits(mass), half));
        moment += simt_bits_float(simt_shuffle_xor(simt_float_bits(moment), half));
    }
    if (lane == 0 && level < n_levels && mass > 0) {
        s->levels.table[level] = moment / mass;
    }
    simt_barrier();
    if (simt_thread() == 0) {
        learn_keep_order(s->levels.table, n_levels);
        learn_set_limits(&s->levels, n_levels);
    }
    simt_barrier();
}

/* The int8 table, int8 scales and the codes that go with them. */
SIMT_DEVICE void quantize_finish(const struct quantize_job &job, const struct quantize_row &r,
                                 struct quantize_shared *s, float unit)
{
    if (simt_thread() == 0) {
        s->level_unit = learn_round_table(s->table, &s->levels, 1 << job.code_bits) / LEARN_MAX_Q;
        s->largest = 0;
    }
    simt_barrier();
    float largest = 0;
    for (int32_t group = simt_thread(); group < r.n_lanes; group += QUANTIZE_THREADS) {
        const float scale = r.scale[group] * s->level_unit, magnitude = fabsf(scale);
        r.scale[group] = scale;
        largest = magnitude > largest ? magnitude : largest;
    }
    simt_atomic_max(&s->largest, simt_float_bits(largest));
    simt_barrier();
    const float step = simt_bits_float(s->largest) / LEARN_MAX_Q;
    quantize_store_table(job, r.row, s->table, step * unit);
    const int32_t n_groups = job.planes ? job.n_tile_cols << (7 - job.group_bits) : job.n_groups;
    for (int32_t group = simt_thread(); group < n_groups; group += QUANTIZE_THREADS) {
        float q = 0;
        if (group < job.n_groups) {
            const int32_t first = group / LEARN_LANES * LEARN_LANES * r.group_size + group % LEARN_LANES;
            q = learn_choose(&s->levels, r.scale[group], step, r.w + first, r.m + first, r.group_size);
            learn_assign(r.codes + first, &s->levels, q * step, r.w + first, r.group_size);
        }
        quantize_store_scale(job, r.row, group, (int8_t)q);
    }
    simt_barrier();
    quantize_store_codes(job, r, true);
}

/* A block takes every n_blocks-th row. */
SIMT_KERNEL(QUANTIZE_THREADS, 4) quantize_kernel(struct quantize_job given)
{
    SIMT_SHARED(struct quantize_shared, shared, [1]);
    struct quantize_shared *const s = shared;
    const struct quantize_job &job = s->job;
    if (simt_thread() == 0) {
        s->job = given;
    }
    simt_barrier();
    struct quantize_row r;
    r.group_size = 1 << job.group_bits;
    r.n_lanes = job.n_tiles * LEARN_LANES;
    r.n_places = r.n_lanes * r.group_size;
    r.m = job.importance_tiles;
    uint8_t *scratch = job.scratch + simt_block() * job.scratch_bytes;
    r.w = reinterpret_cast<float *>(scratch);
    r.scale = r.w + r.n_places;
    r.gain = r.scale + r.n_lanes;
    r.fitted = r.gain + QUANTIZE_TRIED * r.n_lanes;
    r.bin = reinterpret_cast<uint16_t *>(r.fitted + QUANTIZE_TRIED * r.n_lanes);
    r.codes = reinterpret_cast<uint8_t *>(r.bin + r.n_places);
    const int32_t n_rows = (job.n_rows + ANY4_TILE_ROW_PAD - 1) / ANY4_TILE_ROW_PAD * ANY4_TILE_ROW_PAD;
    simt_dependency_wait();
    for (r.row = simt_block(); r.row < n_rows; r.row += simt_n_blocks()) {
        const float unit = r.row < job.n_rows ? quantize_load(job, r, s) : 0;
        if (unit == 0) {
            quantize_store_zeros(job, r, s);
        } else {
            for (int32_t group = simt_thread(); group < r.n_lanes; group += QUANTIZE_THREADS) {
                const int32_t tile = group / LEARN_LANES;
                r.scale[group] =
                    learn_peak(r.w + tile * LEARN_LANES * r.group_size + group % LEARN_LANES, r.group_size);
            }
            simt_barrier();
            quantize_start(job, r, s);
            for (int32_t round = 0; round < LEARN_ROUNDS; round++) {
                quantize_search(r, &s->levels, round < LEARN_SEARCH_ROUNDS ? QUANTIZE_TRIED : 1);
                if (round + 1 < LEARN_ROUNDS) { /* the last table goes with the last scales */
                    quantize_fit(job, r, s);
                }
            }
            quantize_finish(job, r, s, unit);
        }
        simt_barrier();
    }
}

#endif
