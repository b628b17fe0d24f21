/* What the attention kernels share: queries as fragments, keys and values on their way to shared memory, the
 * softmax of a unit of 64 keys, and how partial results are added. Each element is computed by the same
 * operations in the same order whoever calls, which is what gives a row the same bits in decode and prefill.
 *
 * A row of a matrix product is a token and one of the query heads that share a KV head: row r of a tile is
 * token r / group, head r % group. Online softmax: Milakov and Gimelshein, 2018. */
#ifndef KERNELS_CUDA_ATTENTION_UNIT_CUH
#define KERNELS_CUDA_ATTENTION_UNIT_CUH

#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/simt.h"

enum {
    ATTENTION_UNIT = 64, /* keys */
    ATTENTION_UNITS = CUDA_ATTENTION_SPLIT / ATTENTION_UNIT,
    ATTENTION_ROWS = 16, /* of a matrix product */
    ATTENTION_STEPS = ATTENTION_UNIT / 16,
};

/* What an instance of the kernels is for: keys and values of f16 or else of bf16, HEAD_DIM of a vector at
 * most, results in one part or (EXACT) in two. Queries and weights are sums of so many 16-bit numbers, each
 * of which holds the rounding of those before it: one part of f16 has 11 bits, of bf16 8. Rounded queries
 * would be the largest error of the scores, weights of bf16 that of the results; f16 rounds them less than it
 * does the result. Above 128 dimensions there are not the registers for a second part of weights. */
template <bool IS_F16, int HEAD_DIM, bool EXACT> struct attention_kind {
    static constexpr bool F16 = IS_F16;
    static constexpr int32_t HD = HEAD_DIM;
    static constexpr int32_t QUERY_PARTS = EXACT && !F16 ? 3 : 2;
    static constexpr int32_t WEIGHT_PARTS = F16 ? (EXACT ? 2 : 1) : HD <= 128 ? 2 : 1;
    /* Weights are multiplied by this, and with them their total: f16 would keep nothing of what is below
     * 2^-25 of the largest, nor of what rounding loses below that. */
    static constexpr float WEIGHT_SCALE = F16 ? 16384 : 1;
};

/* What a launch passes to its kernels. */
struct attention_args {
    struct cuda_attention call;
    int32_t group;     /* query heads of a KV head */
    int32_t n_padded;  /* columns of out that are written */
    int32_t n_splits;  /* over which narrow tiles are spread; 1: a block takes all of a tile's */
    int32_t wide_rows; /* matrix rows of a block of the kernel for wide tiles */
    float *limits;     /* behind the sums in partials: maximum and total of each */
};

struct attention_tile {
    int32_t first, n_rows; /* token; matrix rows */
    int32_t position;      /* of the first token; negative: dead */
    int32_t kv_head;
};

SIMT_DEVICE attention_tile attention_tile_load(const struct attention_args &args, int32_t tile,
                                               int32_t kv_head)
{
    const struct cuda_attention_tile rows = args.call.tiles[tile];
    return {rows.first, rows.n * args.group, args.call.positions[rows.first], kv_head};
}

/* The first key that a position sees. */
SIMT_DEVICE int32_t first_key(const struct attention_args &args, int32_t position)
{
    const int32_t window = args.call.sliding_window;
    return window > 0 && position >= window ? position - window + 1 : 0;
}

/* Where a matrix row's token and head stand in partials (in vectors of padded head_dim), split 0. */
SIMT_DEVICE int64_t partial_slot(const struct attention_args &args, const attention_tile &tile, int32_t row)
{
    const int64_t token = tile.first + row / args.group, head = tile.kv_head * args.group + row % args.group;
    return (token * args.call.n_heads + head) * args.n_splits;
}

SIMT_DEVICE uint16_t *out_row(const struct attention_args &args, const attention_tile &tile, int32_t row)
{
    const int64_t token = tile.first + row / args.group, head = tile.kv_head * args.group + row % args.group;
    return args.call.out.x + token * args.call.out.parts * args.call.out.stride + head * args.call.head_dim;
}

/* Two columns of a row of out become 0, in both parts. */
SIMT_DEVICE void out_zero(const struct attention_args &args, uint32_t *pair)
{
    *pair = 0;
    if (args.call.out.parts == 2) {
        pair[args.call.out.stride / 2] = 0;
    }
}

/* Zeros behind the last head of the rows [begin, end) of a tile; all of dead rows. */
SIMT_DEVICE void out_zeros(const struct attention_args &args, const attention_tile &tile, int32_t begin,
                           int32_t end)
{
    const int32_t n = args.call.n_heads * args.call.head_dim, head_dim = args.call.head_dim;
    if (tile.position < 0) {
        for (int32_t i = simt_thread(); i < (end - begin) * head_dim / 2; i += simt_n_threads()) {
            out_zero(args, reinterpret_cast<uint32_t *>(out_row(args, tile, begin + i / (head_dim / 2))) +
                               i % (head_dim / 2));
        }
    }
    if (tile.kv_head != args.call.n_kv_heads - 1) {
        return;
    }
    for (int32_t row = begin; row < end; row++) {
        if (row % args.group == 0) {
            const int64_t token = tile.first + row / args.group;
            uint32_t *out = reinterpret_cast<uint32_t *>(args.call.out.x +
                                                         token * args.call.out.parts * args.call.out.stride);
            for (int32_t i = n / 2 + simt_thread(); i < args.n_padded / 2; i += simt_n_threads()) {
                out_zero(args, out + i);
            }
        }
    }
}

/* -- fragments -- */

template <bool F16> SIMT_DEVICE uint32_t pair_of(float low, float high)
{
    return F16 ? simt_f16_pair(low, high) : simt_bf16_pair(low, high);
}

template <bool F16> SIMT_DEVICE float pair_low(uint32_t pair)
{
    return F16 ? simt_f16_low(pair) : simt_bf16_low(pair);
}

template <bool F16> SIMT_DEVICE float pair_high(uint32_t pair)
{
    return F16 ? simt_f16_high(pair) : simt_bf16_high(pair);
}

/* A pair of values, rounded; leaves in them what that lost. */
template <bool F16> SIMT_DEVICE uint32_t pair_take(float &low, float &high)
{
    const uint32_t pair = pair_of<F16>(low, high);
    low -= pair_low<F16>(pair);
    high -= pair_high<F16>(pair);
    return pair;
}

template <bool F16> SIMT_DEVICE void product(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    if constexpr (F16) {
        simt_mma_f16(d, a, b);
    } else {
        simt_mma_bf16(d, a, b);
    }
}

/* A power of two that brings the largest magnitude of a row of queries to 2^13 .. 2^14, where f16 is finite
 * and what lies far below the largest is not lost; and its inverse. Zero and tiny rows take the largest
 * power. */
SIMT_DEVICE float f16_power(uint32_t max_bits, float *inverse)
{
    uint32_t exponent = max_bits >> 23;
    exponent = exponent < 14 ? 14 : exponent;
    *inverse = simt_bits_float((exponent - 13) << 23);
    return simt_bits_float((267 - exponent) << 23);
}

/* Queries as A fragments: [n_tiles of 16 rows][HD / 16 steps][QUERY_PARTS][32 lanes]. Step s, lane t:
 * dimensions 32 (s / 2) + 8 t + 4 (s % 2) + 0 .. 3, so that the B fragments of two steps are 16 bytes of a
 * key. factors[row]: what makes of a product of fragments a score in powers of two.
 */
template <class K>
SIMT_DEVICE void queries_stage(simt_words *q, float *factors, float *powers,
                               const struct attention_args &args, const attention_tile &tile, int32_t begin,
                               int32_t n_tiles)
{
    constexpr int32_t STEPS = K::HD / 16, PARTS = K::QUERY_PARTS;
    const int32_t head_dim = args.call.head_dim, n_warps = simt_n_threads() / SIMT_WARP;
    const float *queries = args.call.q + (int64_t)tile.first * args.call.q_stride;
    const float factor = args.call.scale * 1.44269504f; /* log2(e) */
    for (int32_t row = simt_warp(); row < n_tiles * ATTENTION_ROWS; row += n_warps) {
        float power = 1, inverse = 1;
        if (K::F16) {
            uint32_t max = 0;
            const int32_t at = begin + row, head = tile.kv_head * args.group + at % args.group;
            const float *query = queries + at / args.group * args.call.q_stride + head * head_dim;
            for (int32_t i = simt_lane(); at < tile.n_rows && i < head_dim; i += SIMT_WARP) {
                const uint32_t bits = simt_float_bits(query[i]) & 0x7fffffffu;
                max = bits > max ? bits : max;
            }
            power = f16_power(warp_max(max), &inverse);
        }
        if (simt_lane() == 0) {
            powers[row] = power;
            factors[row] = factor * inverse;
        }
    }
    simt_barrier();
    for (int32_t i = simt_thread(); i < n_tiles * STEPS * SIMT_WARP; i += simt_n_threads()) {
        const int32_t lane = i % SIMT_WARP, step = i / SIMT_WARP % STEPS, row_tile = i / SIMT_WARP / STEPS;
        const int32_t dim = step / 2 * 32 + lane % 4 * 8 + step % 2 * 4;
        simt_words parts[PARTS];
        SIMT_UNROLL
        for (int32_t half = 0; half < 2; half++) {
            const int32_t row = row_tile * ATTENTION_ROWS + half * 8 + lane / 4, at = begin + row;
            const int32_t head = tile.kv_head * args.group + at % args.group;
            const bool valid = at < tile.n_rows && dim < head_dim;
            const float *query = queries + at / args.group * args.call.q_stride + head * head_dim + dim;
            SIMT_UNROLL
            for (int32_t pair = 0; pair < 2; pair++) {
                float a = valid ? query[2 * pair] * powers[row] : 0.0f;
                float b = valid ? query[2 * pair + 1] * powers[row] : 0.0f;
                SIMT_UNROLL
                for (int32_t part = 0; part < PARTS; part++) {
                    parts[part].word[2 * pair + half] = pair_take<K::F16>(a, b);
                }
            }
        }
        simt_words *to = q + (row_tile * STEPS + step) * PARTS * SIMT_WARP + lane;
        SIMT_UNROLL
        for (int32_t part = 0; part < PARTS; part++) {
            to[part * SIMT_WARP] = parts[part];
        }
    }
}

/* -- keys and values -- */

/* A stage: vectors of HD 16-bit elements, 16-byte pieces exchanged within eight so that both ways to read
 * (four neighbouring pieces of two vectors; the same piece of eight vectors) meet all banks once. Piece eight
 * + piece, the first a multiple of 8, the second below 8. */
template <int HD> SIMT_DEVICE int32_t stage_at(int32_t row, int32_t eight, int32_t piece)
{
    return row * (HD / 8) + eight + (piece ^ ((row & 1) * 4 | (row >> 1 & 3)));
}

/* Where a position's vector starts for a KV head, in elements. */
SIMT_DEVICE int64_t key_offset(const struct attention_args &args, const attention_tile &tile,
                               int32_t position)
{
    const int32_t page = position / args.call.block_size, slot = position - page * args.call.block_size;
    const int64_t table = (int64_t)args.call.sequences[tile.first] * args.call.table_stride;
    return args.call.block_tables[table + page] * args.call.block_stride +
           ((int64_t)tile.kv_head * args.call.block_size + slot) * args.call.head_dim;
}

/* Copies n_rows vectors from where `offsets` says, zeros where it is negative, with n_threads of which this
 * is number `thread`, and closes the group. */
template <int HD>
SIMT_DEVICE void stage_copy(simt_words *stage, const void *cache, const int64_t *offsets, int32_t n_rows,
                            int32_t head_dim, int32_t thread, int32_t n_threads)
{
    constexpr int32_t PIECES = HD / 8;
    const uint16_t *base = static_cast<const uint16_t *>(cache);
    const int32_t piece = thread % PIECES, step = n_threads / PIECES;
    SIMT_UNROLL_BY(2)
    for (int32_t row = thread / PIECES; row < n_rows; row += step) {
        const int64_t offset = offsets[row];
        const bool valid = offset >= 0 && piece * 8 < head_dim;
        simt_copy_async(stage + stage_at<HD>(row, piece & ~7, piece & 7),
                        base + (valid ? offset + piece * 8 : 0), valid);
    }
    simt_copy_commit();
}

/* -- a unit -- */

/* s[j] += q . keys of 8 N rows of a stage from `row` on: the warp's 16 rows times 8 keys each. */
template <class K, int N>
SIMT_DEVICE void scores_add(float (*s)[4], const simt_words *q, const simt_words *stage, int32_t row)
{
    constexpr int32_t HD = K::HD, PARTS = K::QUERY_PARTS;
    const int32_t lane = simt_lane(), g = lane / 4, t = lane % 4;
    SIMT_UNROLL_BY(1)
    for (int32_t eight = 0; eight < HD / 8; eight += 8) {
        SIMT_UNROLL
        for (int32_t half = 0; half < 8; half += 4) {
            simt_words a[2 * PARTS]; /* those of a step, then those of the next */
            SIMT_UNROLL
            for (int32_t i = 0; i < 2 * PARTS; i++) {
                a[i] = simt_load_shared(q + ((eight + half) / 2 * PARTS + i) * SIMT_WARP + lane);
            }
            SIMT_UNROLL
            for (int32_t j = 0; j < N; j++) {
                const simt_words key =
                    simt_load_shared(stage + stage_at<HD>(row + 8 * j + g, eight, half + t));
                SIMT_UNROLL
                for (int32_t i = 0; i < 2 * PARTS; i++) {
                    product<K::F16>(s[j], a[i].word, key.word + i / PARTS * 2);
                }
            }
        }
    }
}

/* Weights as A fragments of a unit's steps. Where they are in one part, the total is that of the rounded
 * ones. */
template <class K> struct attention_weights {
    uint32_t step[ATTENTION_STEPS][K::WEIGHT_PARTS][4];
};

/* Maximum and sum of weights of a lane's two rows, g and g + 8, over some keys. */
struct attention_limits {
    float max[2], total[2];
};

/* Weights of the unit that starts at key: WEIGHT_SCALE 2^(s factor - max), 0 for keys outside of the row's
 * range; a row without any has max -infinity and total 0. */
template <class K>
SIMT_DEVICE void unit_softmax(attention_weights<K> &weights, attention_limits &limits, float s[8][4],
                              const float factor[2], const int32_t first[2], const int32_t last[2],
                              int32_t key)
{
    float max[2] = {-INFINITY, -INFINITY}, base[2];
    SIMT_UNROLL
    for (int32_t j = 0; j < 8; j++) {
        SIMT_UNROLL
        for (int32_t i = 0; i < 4; i++) {
            const int32_t at = key + 8 * j + simt_lane() % 4 * 2 + i % 2, row = i / 2;
            s[j][i] = at >= first[row] && at <= last[row] ? s[j][i] : -INFINITY;
            max[row] = fmaxf(max[row], s[j][i]);
        }
    }
    SIMT_UNROLL
    for (int32_t row = 0; row < 2; row++) {
        SIMT_UNROLL
        for (int32_t step = 1; step <= 2; step *= 2) {
            max[row] = fmaxf(max[row], simt_bits_float(simt_shuffle_xor(simt_float_bits(max[row]), step)));
        }
        limits.max[row] = simt_product(max[row], factor[row]);
        base[row] = max[row] == -INFINITY ? 0.0f : limits.max[row];
        limits.total[row] = 0;
    }
    SIMT_UNROLL
    for (int32_t j = 0; j < 8; j++) {
        SIMT_UNROLL
        for (int32_t row = 0; row < 2; row++) {
            float a = K::WEIGHT_SCALE * exp2f(fmaf(s[j][2 * row], factor[row], -base[row]));
            float b = K::WEIGHT_SCALE * exp2f(fmaf(s[j][2 * row + 1], factor[row], -base[row]));
            if constexpr (K::WEIGHT_PARTS == 1) {
                const uint32_t pair = pair_of<K::F16>(a, b);
                weights.step[j / 2][0][j % 2 * 2 + row] = pair;
                limits.total[row] += pair_low<K::F16>(pair);
                limits.total[row] += pair_high<K::F16>(pair);
            } else {
                limits.total[row] += a;
                limits.total[row] += b;
                SIMT_UNROLL
                for (int32_t part = 0; part < K::WEIGHT_PARTS; part++) {
                    weights.step[j / 2][part][j % 2 * 2 + row] = pair_take<K::F16>(a, b);
                }
            }
        }
    }
    SIMT_UNROLL
    for (int32_t row = 0; row < 2; row++) {
        SIMT_UNROLL
        for (int32_t step = 1; step <= 2; step *= 2) {
            limits.total[row] += simt_bits_float(simt_shuffle_xor(simt_float_bits(limits.total[row]), step));
        }
    }
}

/* d[0..1] += weights of 16 keys . their values in 16 dimensions from 16 * pair on; `row`: the first of the
 * keys in the stage. */
template <class K>
SIMT_DEVICE void values_add(float (*d)[4], const uint32_t (*weights)[4], const simt_words *stage, int32_t row,
                            int32_t pair)
{
    const int32_t lane = simt_lane(), key = row + (lane / 8 & 1) * 8 + lane % 8;
    const simt_words values =
        simt_load_matrices(stage + stage_at<K::HD>(key, pair / 4 * 8, pair % 4 * 2 + lane / 16));
    SIMT_UNROLL
    for (int32_t n = 0; n < 2; n++) {
        SIMT_UNROLL
        for (int32_t part = 0; part < K::WEIGHT_PARTS; part++) {
            product<K::F16>(d[n], weights[part], values.word + 2 * n);
        }
    }
}

/* -- adding partial results -- */

/* What the sums so far and those that are added are multiplied by. */
struct attention_fold {
    float before, added;
};

SIMT_DEVICE attention_fold fold_limits(float &max, float &total, float added_max, float added_total)
{
    const float both = fmaxf(max, added_max);
    attention_fold fold;
    fold.before = max == -INFINITY ? 0.0f : exp2f(max - both);
    fold.added = added_max == -INFINITY ? 0.0f : exp2f(added_max - both);
    total = fmaf(total, fold.before, added_total * fold.added);
    max = both;
    return fold;
}

SIMT_DEVICE float fold_value(float sum, float added, const attention_fold &fold)
{
    return fmaf(sum, fold.before, added * fold.added);
}

SIMT_DEVICE float inverse_total(float total)
{
    return total > 0 ? 1.0f / total : total; /* 0: no keys; NaN stays */
}

/* Results are at most as large as the largest value, which other types hold beyond f16's end. */
SIMT_DEVICE float saturated(float value)
{
    const float limit = 65504;
    return value > limit ? limit : value < -limit ? -limit : value; /* NaN stays */
}

/* Two columns of a row of out. What rounding lost of a saturated value saturates as well. */
SIMT_DEVICE void out_store(const struct attention_args &args, uint32_t *out, float low, float high)
{
    const uint32_t pair = simt_f16_pair(saturated(low), saturated(high));
    *out = pair;
    if (args.call.out.parts == 2) {
        out[args.call.out.stride / 2] = simt_f16_pair(saturated((low - simt_f16_low(pair)) * CUDA_REST),
                                                      saturated((high - simt_f16_high(pair)) * CUDA_REST));
    }
}

/* Units outside of a row's range may have been added or not: that shows in the sign of zeros at most, which
 * adding 0 takes away. */
SIMT_DEVICE void out_store_sums(const struct attention_args &args, uint32_t *out, float low, float high,
                                float inverse)
{
    out_store(args, out, simt_product(low, inverse) + 0.0f, simt_product(high, inverse) + 0.0f);
}

#endif
