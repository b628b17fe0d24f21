/* Attention over paged KV: types, head sizes, ranges that start and end anywhere, block sizes, shared heads.
 */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/float16.h"
#include "tests/kernels/support.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
static const char *const TYPE_NAMES[] = {"f32", "f16", "bf16"};

struct shape {
    enum kv_type type;
    enum data_kind data;
    int32_t head_dim, n_q, block_size, begin, end;
    uint64_t seed;
};
enum { N_KV_HEADS = 2, KV_HEAD = 1 };

/* Keys and values dense (end, head_dim) in f32 as the type holds them, and paged: blocks in random order,
 * everything that is not a position of this head's range is NaN. */
struct problem {
    struct shape shape;
    struct kv_view kv;
    struct guarded q, k, v, table;
    float *dense_k, *dense_v;
    float scale;
};

static float as_type(enum kv_type type, float value, void *out, int64_t at)
{
    if (type == KV_F32) {
        ((float *)out)[at] = value;
        return value;
    }
    uint16_t half = type == KV_F16 ? f16_from_f32(value) : bf16_from_f32(value);
    ((uint16_t *)out)[at] = half;
    return type == KV_F16 ? f16_to_f32(half) : bf16_to_f32(half);
}

static struct problem problem_build(struct shape s)
{
    struct problem p = {.shape = s, .scale = 1.0f / sqrtf((float)s.head_dim)};
    struct rng rng = {s.seed};
    int32_t n_blocks = (s.end + s.block_size - 1) / s.block_size;
    int64_t block_stride = (int64_t)N_KV_HEADS * s.block_size * s.head_dim;
    int64_t n_elements = n_blocks * block_stride;
    size_t bytes = (size_t)n_elements * kv_type_bytes(s.type), n_dense = (size_t)s.end * (size_t)s.head_dim;
    p.q = guarded_floats((size_t)(s.n_q * s.head_dim), s.data == DATA_EXTREME ? DATA_RANDOM : s.data, &rng);
    p.k = guarded_alloc(bytes);
    p.v = guarded_alloc(bytes);
    p.table = guarded_alloc((size_t)n_blocks * sizeof(int32_t));
    p.dense_k = malloc(n_dense * sizeof(float));
    p.dense_v = malloc(n_dense * sizeof(float));
    cr_assert(p.dense_k && p.dense_v);
    int32_t *table = p.table.data;
    for (int32_t i = 0; i < n_blocks; i++) { /* a random permutation, grown by insertion */
        int32_t at = rng_below(&rng, i + 1);
        table[i] = table[at];
        table[at] = i;
    }
    for (int64_t i = 0; i < n_elements; i++) {
        as_type(s.type, NAN, p.k.data, i);
        as_type(s.type, NAN, p.v.data, i);
    }
    data_fill(p.dense_k, n_dense, s.data == DATA_EXTREME ? DATA_RANDOM : s.data, &rng);
    data_fill(p.dense_v, n_dense, s.data == DATA_EXTREME ? DATA_RANDOM : s.data, &rng);
    for (int32_t pos = s.begin; pos < s.end; pos++) {
        int64_t at = table[pos / s.block_size] * block_stride +
                     ((int64_t)KV_HEAD * s.block_size + pos % s.block_size) * s.head_dim;
        /* extreme: scores far apart, most weights underflow */
        float factor = s.data == DATA_EXTREME ? ldexpf(1.0f, rng_below(&rng, 12)) : 1.0f;
        for (int32_t d = 0; d < s.head_dim; d++) {
            size_t from = (size_t)pos * (size_t)s.head_dim + (size_t)d;
            p.dense_k[from] = as_type(s.type, p.dense_k[from] * factor, p.k.data, at + d);
            p.dense_v[from] = as_type(s.type, p.dense_v[from], p.v.data, at + d);
        }
    }
    p.kv = (struct kv_view){.type = s.type,
                            .k = p.k.data,
                            .v = p.v.data,
                            .block_table = table,
                            .block_stride = block_stride,
                            .block_size = s.block_size,
                            .head_dim = s.head_dim};
    return p;
}

static void problem_free(struct problem *p)
{
    guarded_free(&p->q);
    guarded_free(&p->k);
    guarded_free(&p->v);
    guarded_free(&p->table);
    free(p->dense_k);
    free(p->dense_v);
}

static const char *describe(const struct problem *p, const char *variant)
{
    static char text[256];
    const struct shape *s = &p->shape;
    snprintf(text, sizeof text,
             "attention %s: %s, head_dim %d, %d heads, blocks of %d, positions [%d, %d), %s data, seed %llu",
             variant, TYPE_NAMES[s->type], s->head_dim, s->n_q, s->block_size, s->begin, s->end,
             data_names[s->data], (unsigned long long)s->seed);
    return text;
}

static void run(const struct problem *p, const struct kernels *k, float *out, int32_t begin)
{
    k->attention(out, p->q.data, p->shape.n_q, &p->kv, KV_HEAD, KV_HEAD + 1, begin, p->shape.end, p->scale);
}

/* The definition from the dense copies: expected (n_q, head_dim), and how far f32 may be from it.
 * A score is off by at most d = u (chain + 2) sum|q k| scale + 2 u |score - max|, so a weight by the factor
 * exp(2 d) (its own and the maximum's error); exp adds 4 u, each chunk of 32 positions a correction of 6 u,
 * and the sum over n positions n u, twice (numerator and total). All of that multiplies sum(weight |v|). */
static void define(const struct problem *p, float *expected, double *allowed)
{
    const struct shape *s = &p->shape;
    int32_t n = s->end - s->begin;
    double *scores = malloc((size_t)n * sizeof *scores);
    cr_assert(scores);
    for (int32_t h = 0; h < s->n_q; h++) {
        const float *q = (const float *)p->q.data + h * s->head_dim;
        double max = -INFINITY, total = 0, worst = 0, lowest = INFINITY;
        for (int32_t i = 0; i < n; i++) {
            const float *key = p->dense_k + (size_t)(s->begin + i) * (size_t)s->head_dim;
            double dot = 0, magnitude = 0;
            for (int32_t d = 0; d < s->head_dim; d++) {
                dot += (double)q[d] * key[d];
                magnitude += fabs((double)q[d] * key[d]);
            }
            scores[i] = dot * p->scale;
            worst = fmax(worst, UNIT_ROUNDOFF * (sum_chain(s->head_dim) + 2) * magnitude * p->scale);
            max = fmax(max, scores[i]);
            lowest = fmin(lowest, scores[i]);
        }
        /* weights under exp(-104) are 0 in f32: their argument's rounding does not count */
        worst += 2 * UNIT_ROUNDOFF * fmin(max - lowest, 104);
        for (int32_t i = 0; i < n; i++) {
            scores[i] = exp(scores[i] - max);
            total += scores[i];
        }
        double relative = expm1(2 * worst) + UNIT_ROUNDOFF * (4 + 6 * (n / 32 + 2) + n);
        for (int32_t d = 0; d < s->head_dim; d++) {
            double sum = 0, magnitude = 0;
            for (int32_t i = 0; i < n; i++) {
                double v = p->dense_v[(size_t)(s->begin + i) * (size_t)s->head_dim + (size_t)d];
                sum += scores[i] * v;
                magnitude += scores[i] * fabs(v);
            }
            expected[h * s->head_dim + d] = (float)(sum / total);
            allowed[h * s->head_dim + d] =
                (2 * relative + 4 * UNIT_ROUNDOFF) * magnitude / total + n * FLT_TRUE_MIN;
        }
    }
    free(scores);
}

static void check(const struct problem *p, const struct kernels *k)
{
    size_t n = (size_t)(p->shape.n_q * p->shape.head_dim);
    struct output out = output_alloc(n);
    float *expected = malloc(n * sizeof *expected);
    double *allowed = malloc(n * sizeof *allowed);
    cr_assert(expected && allowed);
    define(p, expected, allowed);
    run(p, k, out.data, p->shape.begin);
    for (size_t i = 0; i < n; i++) {
        cr_assert(close_to(out.data[i], expected[i], allowed[i]),
                  "%s: element %zu is %.9g, expected %.9g +- %.3g", describe(p, k->name), i,
                  (double)out.data[i], (double)expected[i], allowed[i]);
    }
    cr_assert(output_canaries_hold(&out), "%s: wrote outside of the output", describe(p, k->name));
    output_free(&out);
    free(expected);
    free(allowed);
}

static const int32_t DIMS[] = {2, 4, 6, 8, 10, 16, 48, 64, 80, 128, 512};
static const int32_t HEADS[] = {1, 2, 4, 8, 9};
static const int32_t BLOCKS[] = {1, 3, 16, 32, 256};
static const int32_t RANGES[][2] = {{0, 1},   {0, 2},   {5, 6},    {0, 31},    {0, 32}, {0, 33},
                                    {31, 33}, {32, 64}, {40, 101}, {200, 257}, {0, 300}};

static struct shape pick_shape(size_t dim, size_t range, int type, uint64_t seed)
{
    struct rng rng = {seed};
    return (struct shape){.type = (enum kv_type)type,
                          .data = (enum data_kind)rng_below(&rng, DATA_KINDS),
                          .head_dim = DIMS[dim],
                          .n_q = HEADS[rng_below(&rng, COUNT(HEADS))],
                          .block_size = BLOCKS[rng_below(&rng, COUNT(BLOCKS))],
                          .begin = RANGES[range][0],
                          .end = RANGES[range][1],
                          .seed = seed};
}

static void matches_definition(const struct variant *variant)
{
    struct kernels k;
    if (!variant_open(&k, variant)) {
        return;
    }
    uint64_t seed = 1;
    for (size_t dim = 0; dim < COUNT(DIMS); dim++) {
        for (size_t range = 0; range < COUNT(RANGES); range++) {
            for (int type = KV_F32; type <= KV_BF16; type++, seed++) {
                struct problem p = problem_build(pick_shape(dim, range, type, seed));
                check(&p, &k);
                problem_free(&p);
            }
        }
    }
}

Test(attention, scalar_matches_definition)
{
    matches_definition(&variants[0]);
}

Test(attention, avx2_matches_definition)
{
    matches_definition(&variants[1]);
}

Test(attention, avx512_matches_definition)
{
    matches_definition(&variants[2]);
}

/* Neither the paging nor the heads that share a call change a bit. */
Test(attention, paging_and_sharing_keep_bits)
{
    for (int32_t v = 0; v < N_VARIANTS; v++) {
        struct kernels k;
        if (!variant_open(&k, &variants[v])) {
            continue;
        }
        for (size_t range = 0; range < COUNT(RANGES); range++) {
            for (int type = KV_F32; type <= KV_BF16; type++) {
                struct shape s = {.type = (enum kv_type)type,
                                  .head_dim = 80,
                                  .n_q = 9,
                                  .block_size = 16,
                                  .begin = RANGES[range][0],
                                  .end = RANGES[range][1],
                                  .seed = 77 + range};
                struct problem p = problem_build(s);
                struct output first = output_alloc(9 * 80), other = output_alloc(9 * 80);
                run(&p, &k, first.data, s.begin);
                for (int32_t h = 0; h < 9; h++) {
                    k.attention(other.data + h * 80, (float *)p.q.data + h * 80, 1, &p.kv, KV_HEAD,
                                KV_HEAD + 1, s.begin, s.end, p.scale);
                }
                cr_assert_eq(memcmp(first.data, other.data, first.n * sizeof(float)), 0,
                             "%s: heads alone differ", describe(&p, k.name));

                /* the same keys and values as one long block */
                struct problem flat = p;
                size_t n = (size_t)(N_KV_HEADS * s.end * s.head_dim);
                flat.k = guarded_alloc(n * kv_type_bytes(s.type));
                flat.v = guarded_alloc(n * kv_type_bytes(s.type));
                int32_t zero = 0;
                flat.kv.k = flat.k.data;
                flat.kv.v = flat.v.data;
                flat.kv.block_table = &zero;
                flat.kv.block_size = s.end;
                flat.kv.block_stride = (int64_t)n;
                for (int64_t i = (int64_t)s.begin * s.head_dim; i < (int64_t)s.end * s.head_dim; i++) {
                    int64_t at = (int64_t)KV_HEAD * s.end * s.head_dim + i;
                    as_type(s.type, p.dense_k[i], flat.k.data, at);
                    as_type(s.type, p.dense_v[i], flat.v.data, at);
                }
                run(&flat, &k, other.data, s.begin);
                cr_assert_eq(memcmp(first.data, other.data, first.n * sizeof(float)), 0,
                             "%s: paging changes bits", describe(&p, k.name));
                guarded_free(&flat.k);
                guarded_free(&flat.v);
                output_free(&first);
                output_free(&other);
                problem_free(&p);
            }
        }
    }
}

/* KV heads of one call, few and many query heads each, give the bits of calls of their own. */
Test(attention, heads_together_keep_bits)
{
    enum { N_HEADS = 5, DIM = 24, BLOCK = 16, END = 77, BEGIN = 3 };
    static const int32_t shared[] = {1, 6, 9, 40};
    static const int32_t table[] = {3, 0, 4, 1, 2};
    const int64_t n_kv = (int64_t)COUNT(table) * N_HEADS * BLOCK * DIM;
    for (int32_t v = 0; v < N_VARIANTS; v++) {
        struct kernels k;
        if (!variant_open(&k, &variants[v])) {
            continue;
        }
        for (size_t i = 0; i < COUNT(shared); i++) {
            for (int type = KV_F32; type <= KV_BF16; type++) {
                struct rng rng = {500 + i};
                int32_t n_q = shared[i];
                size_t n = (size_t)(N_HEADS * n_q * DIM),
                       bytes = (size_t)n_kv * kv_type_bytes((enum kv_type)type);
                struct guarded q = guarded_floats(n, DATA_RANDOM, &rng);
                struct guarded keys = guarded_alloc(bytes), values = guarded_alloc(bytes);
                struct output together = output_alloc(n), alone = output_alloc(n);
                struct kv_view kv = {.type = (enum kv_type)type,
                                     .k = keys.data,
                                     .v = values.data,
                                     .block_table = table,
                                     .block_stride = N_HEADS * BLOCK * DIM,
                                     .block_size = BLOCK,
                                     .head_dim = DIM};
                for (int64_t at = 0; at < n_kv; at++) {
                    as_type(kv.type, rng_float(&rng), keys.data, at);
                    as_type(kv.type, rng_float(&rng), values.data, at);
                }
                k.attention(together.data, q.data, n_q, &kv, 0, N_HEADS, BEGIN, END, 0.2f);
                for (int32_t h = 0; h < N_HEADS; h++) {
                    int64_t at = (int64_t)h * n_q * DIM;
                    k.attention(alone.data + at, (float *)q.data + at, n_q, &kv, h, h + 1, BEGIN, END, 0.2f);
                }
                cr_assert_eq(memcmp(together.data, alone.data, n * sizeof(float)), 0,
                             "attention %s: %s, %d query heads for each KV head: heads together differ",
                             k.name, TYPE_NAMES[type], n_q);
                cr_assert(output_canaries_hold(&together), "attention %s: wrote outside", k.name);
                guarded_free(&q);
                guarded_free(&keys);
                guarded_free(&values);
                output_free(&together);
                output_free(&alone);
            }
        }
    }
}

/* Leaving out one position must be outside of the tolerance: else the comparison above would prove little. */
Test(attention, a_dropped_position_fails)
{
    struct kernels scalar;
    kernels_init_cpu(&scalar, 0);
    static const int32_t ends[] = {2, 33, 257, 300};
    for (size_t i = 0; i < COUNT(ends); i++) {
        struct shape s = {.head_dim = 64, .n_q = 2, .block_size = 16, .end = ends[i], .seed = 5 + i};
        struct problem p = problem_build(s);
        float expected[128], dropped[128];
        double allowed[128];
        bool seen = false;
        define(&p, expected, allowed);
        run(&p, &scalar, dropped, 1);
        for (int32_t d = 0; d < 128; d++) {
            seen = seen || !close_to(dropped[d], expected[d], allowed[d]);
        }
        cr_assert(seen, "%s: dropping position 0 goes unseen", describe(&p, "scalar"));
        problem_free(&p);
    }
}

/* Positions whose scores are -inf weigh nothing, and leave the very bits that a range without them has: the
 * chunks of additions are counted from position 0, not from the start of the range. A NaN in a key reaches
 * the output. */
Test(attention, chunks_count_from_zero)
{
    static const int32_t begins[] = {1, 5, 20, 32, 33, 64, 69};
    enum { DIM = 8, BLOCK = 128, END = 70 };
    for (int32_t v = 0; v < N_VARIANTS; v++) {
        struct kernels k;
        if (!variant_open(&k, &variants[v])) {
            continue;
        }
        for (size_t i = 0; i < COUNT(begins); i++) {
            struct problem p = problem_build(
                (struct shape){.head_dim = DIM, .n_q = 1, .block_size = BLOCK, .end = END, .seed = 3 + i});
            float *keys = (float *)p.k.data + KV_HEAD * BLOCK * DIM, *q = p.q.data, out[DIM], expected[DIM];
            for (int32_t d = 0; d < DIM; d++) {
                q[d] = 1.0f;
            }
            run(&p, &k, expected, begins[i]);
            for (int32_t at = 0; at < begins[i] * DIM; at++) {
                keys[at] = -INFINITY;
            }
            run(&p, &k, out, 0);
            cr_assert_eq(memcmp(out, expected, sizeof out), 0, "%s: -inf before position %d changes bits",
                         k.name, begins[i]);
            keys[(END - 1) * DIM] = NAN;
            run(&p, &k, out, 0);
            for (int32_t d = 0; d < DIM; d++) {
                cr_assert(isnan(out[d]), "%s: NaN is lost", k.name);
            }
            problem_free(&p);
        }
    }
}
