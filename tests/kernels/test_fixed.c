/* The fixed-order set: the same bits from every instruction set and for every split, and right within what
 * its order of additions allows. */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/support.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
enum { X_PAD = 3, Y_PAD = 5 }; /* strides differ from shapes */
static const int32_t COLS[] = {1, 31, 32, 33, 64, 127, 128, 129, 172, 300, 1408};
static const int32_t ROWS[] = {1, 3, 31, 32, 33, 70};
static const int32_t TOKENS[] = {1, 2, 4, 7, 8, 9, 33, 257};
static const int32_t GROUPS[] = {32, 64, 128};

/* The table of one instruction set; false, said aloud, where this processor cannot run it. */
static bool fixed_open(struct kernels *k, const struct variant *variant)
{
    struct kernels ordinary;
    kernels_init_fixed(k, variant->flags);
    return variant_open(&ordinary, variant);
}

/* Roundings between a sum's terms: 128 columns one after another, then a chunk's sum after the other, the
 * product, and the value of the weight. */
static double chain(int32_t n_cols)
{
    return (n_cols < 128 ? n_cols : 128) + (n_cols + 127) / 128 + 3.0;
}

struct problem {
    struct test_matrix m;
    struct guarded x;
    int32_t n_tokens;
    int64_t x_stride, y_stride;
    char name[128];
};

static struct problem problem_build(const struct test_format *format, int32_t n_rows, int32_t n_cols,
                                    int32_t n_tokens, uint64_t seed)
{
    struct rng rng = {seed * 7919 + 1};
    enum data_kind data = (enum data_kind)rng_below(&rng, DATA_KINDS);
    int32_t group_size = GROUPS[rng_below(&rng, COUNT(GROUPS))];
    struct problem p = {.n_tokens = n_tokens, .x_stride = n_cols + X_PAD, .y_stride = n_rows + Y_PAD};
    p.m = test_matrix_build(format, n_rows, n_cols, format->code_bits ? group_size : 0, data, seed);
    p.x = guarded_floats((size_t)((n_tokens - 1) * p.x_stride + n_cols), data, &rng);
    snprintf(p.name, sizeof p.name, "%s, %d rows, %d columns, group %d, %d tokens, %s data, seed %d",
             format->name, n_rows, n_cols, group_size, n_tokens, data_names[data], (int)seed);
    return p;
}

static void problem_free(struct problem *p)
{
    test_matrix_free(&p->m);
    guarded_free(&p->x);
}

static struct output run(const struct problem *p, const struct kernels *k)
{
    struct output y = output_alloc((size_t)(p->n_tokens * p->y_stride));
    k->any4_gemm(y.data, p->y_stride, &p->m.matrix, p->x.data, p->x_stride, p->n_tokens, 0,
                 p->m.matrix.n_rows);
    cr_assert(output_canaries_hold(&y), "%s: wrote outside of the output", p->name);
    return y;
}

static void check_definition(const struct problem *p, const struct output *y)
{
    const struct any4_matrix *w = &p->m.matrix;
    for (int32_t token = 0; token < p->n_tokens; token++) {
        const float *x = (const float *)p->x.data + token * p->x_stride;
        for (int32_t row = 0; row < w->n_rows; row++) {
            const double *weights = p->m.dense + (size_t)row * (size_t)w->n_cols;
            double sum = 0, magnitude = 0;
            for (int32_t col = 0; col < w->n_cols; col++) {
                sum += weights[col] * (double)x[col];
                magnitude += fabs(weights[col] * (double)x[col]);
            }
            float found = y->data[token * p->y_stride + row];
            double allowed = UNIT_ROUNDOFF * chain(w->n_cols) * magnitude + w->n_cols * FLT_TRUE_MIN;
            cr_assert(close_to(found, (float)sum, allowed), "%s: token %d row %d is %.9g, expected %.9g",
                      p->name, token, row, (double)found, sum);
        }
        for (int64_t row = w->n_rows; row < p->y_stride; row++) {
            cr_assert(output_untouched(y, (size_t)(token * p->y_stride + row)), "%s: wrote row %d", p->name,
                      (int)row);
        }
    }
}

/* gemv of each token, and gemm over pieces of rows and tokens. */
static void check_splits(const struct problem *p, const struct kernels *k, const struct output *whole,
                         uint64_t seed)
{
    const struct any4_matrix *w = &p->m.matrix;
    const float *x = p->x.data;
    struct output y = output_alloc(whole->n);
    size_t bytes = whole->n * sizeof(float);
    struct rng rng = {seed};
    for (int32_t token = 0; token < p->n_tokens; token++) {
        k->any4_gemv(y.data + token * p->y_stride, w, x + token * p->x_stride, 0, w->n_rows);
    }
    cr_assert_eq(memcmp(y.data, whole->data, bytes), 0, "%s: gemv and gemm differ", p->name);
    for (int32_t token = 0, n; token < p->n_tokens; token += n) {
        n = 1 + rng_below(&rng, p->n_tokens - token);
        for (int32_t row = 0, n_rows; row < w->n_rows; row += n_rows) {
            n_rows = 1 + rng_below(&rng, w->n_rows - row);
            k->any4_gemm(y.data + token * p->y_stride, p->y_stride, w, x + token * p->x_stride, p->x_stride,
                         n, row, row + n_rows);
        }
    }
    cr_assert_eq(memcmp(y.data, whole->data, bytes), 0, "%s: a split changes bits", p->name);
    output_free(&y);
}

/* All kinds and columns; rows and tokens take turns. */
Test(fixed, any4)
{
    struct kernels scalar, k;
    kernels_init_fixed(&scalar, 0);
    uint64_t seed = 1;
    for (int32_t format = 0; format < N_FORMATS; format++) {
        for (size_t cols = 0; cols < COUNT(COLS); cols++) {
            for (size_t turn = 0; turn < COUNT(TOKENS); turn++, seed++) {
                struct problem p =
                    problem_build(&formats[format], ROWS[seed % COUNT(ROWS)], COLS[cols], TOKENS[turn], seed);
                struct output expected = run(&p, &scalar);
                check_definition(&p, &expected);
                check_splits(&p, &scalar, &expected, seed);
                for (int32_t v = 1; v < N_VARIANTS; v++) {
                    kernels_init_fixed(&k, variants[v].flags);
                    struct output y = run(&p, &k);
                    cr_assert_eq(memcmp(y.data, expected.data, y.n * sizeof(float)), 0,
                                 "%s: %s gives other bits than scalar", p.name, variants[v].name);
                    check_splits(&p, &k, &y, seed);
                    output_free(&y);
                }
                output_free(&expected);
                problem_free(&p);
            }
        }
    }
}

/* Which sets the tests of this file really saw. */
Test(fixed, every_set_can_run)
{
    for (int32_t v = 0; v < N_VARIANTS; v++) {
        struct kernels k;
        if (fixed_open(&k, &variants[v])) {
            cr_assert_str_eq(k.name, "fixed");
            cr_assert(k.any4_gemv && k.any4_gemm && k.rmsnorm && k.rope && k.attention && k.swiglu &&
                      k.axpy && k.kv_store);
        }
    }
}

/* The tolerance must see a single lost term of average size. */
Test(fixed, a_dropped_term_fails)
{
    struct kernels k;
    kernels_init_fixed(&k, CPU_ALL);
    for (size_t cols = 1; cols < COUNT(COLS); cols++) {
        double sum = 0, magnitude = 0, mean, victim = 0;
        struct rng rng = {cols};
        for (int32_t i = 0; i < COLS[cols]; i++) {
            double term = (double)rng_float(&rng) * rng_float(&rng);
            sum += term;
            magnitude += fabs(term);
        }
        mean = magnitude / COLS[cols];
        victim = sum > 0 ? mean : -mean;
        cr_assert(!close_to((float)(sum - victim), (float)sum, UNIT_ROUNDOFF * chain(COLS[cols]) * magnitude),
                  "%d columns", COLS[cols]);
    }
}

/* ---- attention ---- */

enum { BLOCK = 32, KV_HEADS = 2 };

/* Softmax and sum in double over the same cache, for one head, and what f32 may miss: a score's error
 * multiplies its weight, the maximum's all of them; the weights' and the values' sums are chunks of 64. */
static void define_head(float *expected, double *allowed, const float *q, const float *k, const float *v,
                        int32_t head_dim, int32_t begin, int32_t end, float scale)
{
    double max = -INFINITY, total = 0, worst = 0, magnitude = 0,
           *scores = malloc((size_t)end * sizeof *scores);
    cr_assert(scores);
    for (int32_t p = begin; p < end; p++) {
        double dot = 0, size = 0;
        for (int32_t d = 0; d < head_dim; d++) {
            dot += (double)q[d] * k[p * head_dim + d];
            size += fabs((double)q[d] * k[p * head_dim + d]);
        }
        scores[p] = dot * scale;
        worst = fmax(worst, (head_dim / 16 + 8) * UNIT_ROUNDOFF * size * scale);
        max = fmax(max, scores[p]);
    }
    for (int32_t p = begin; p < end; p++) {
        scores[p] = exp(scores[p] - max);
        total += scores[p];
    }
    double roundings = 64 + (end - begin) / 64 * 6.0 + 16;
    for (int32_t d = 0; d < head_dim; d++) {
        double sum = 0;
        magnitude = 0;
        for (int32_t p = begin; p < end; p++) {
            sum += scores[p] / total * v[p * head_dim + d];
            magnitude += scores[p] / total * fabs((double)v[p * head_dim + d]);
        }
        expected[d] = (float)sum;
        allowed[d] = (4 * worst + 2 * roundings * UNIT_ROUNDOFF) * magnitude + FLT_TRUE_MIN;
    }
    free(scores);
}

static void check_attention(enum kv_type type, int32_t head_dim, int32_t n_q, int32_t begin, int32_t end,
                            uint64_t seed)
{
    struct rng rng = {seed};
    int32_t n_blocks = (end + BLOCK - 1) / BLOCK, table[64];
    int64_t stride = (int64_t)KV_HEADS * BLOCK * head_dim;
    size_t n = (size_t)(end * head_dim);
    float *k = malloc(n * sizeof *k), *v = malloc(n * sizeof *v), scale = 1.0f / sqrtf((float)head_dim);
    struct guarded keys = guarded_alloc((size_t)(n_blocks * stride) * kv_type_bytes(type)),
                   values = guarded_alloc((size_t)(n_blocks * stride) * kv_type_bytes(type)),
                   q = guarded_floats((size_t)(2 * n_q * head_dim), DATA_RANDOM, &rng);
    struct output out[N_VARIANTS];
    struct kernels set, scalar;
    cr_assert(k && v && n_blocks <= 64);
    kernels_init_fixed(&scalar, 0);
    data_fill(k, n, DATA_RANDOM, &rng);
    data_fill(v, n, DATA_RANDOM, &rng);
    for (int32_t i = 0; i < n_blocks; i++) {
        table[i] = n_blocks - 1 - i;
    }
    for (int32_t p = 0; p < end; p++) {
        size_t at = (size_t)(table[p / BLOCK] * stride + (BLOCK + p % BLOCK) * head_dim); /* KV head 1 */
        for (int32_t d = 0; d < head_dim; d++) { /* values that all types hold exactly */
            k[p * head_dim + d] = roundf(k[p * head_dim + d] * 64) / 16;
            v[p * head_dim + d] = roundf(v[p * head_dim + d] * 64) / 64;
        }
        scalar.kv_store((uint8_t *)keys.data + at * kv_type_bytes(type), type, k + p * head_dim, head_dim);
        scalar.kv_store((uint8_t *)values.data + at * kv_type_bytes(type), type, v + p * head_dim, head_dim);
    }
    struct kv_view view = {type, keys.data, values.data, table, stride, BLOCK, head_dim};
    for (int32_t i = 0; i < N_VARIANTS; i++) {
        kernels_init_fixed(&set, variants[i].flags);
        out[i] = output_alloc((size_t)(n_q * head_dim));
        set.attention(out[i].data, q.data, n_q, &view, 1, 2, begin, end, scale);
        cr_assert(output_canaries_hold(&out[i]));
        cr_assert_eq(memcmp(out[i].data, out[0].data, out[i].n * sizeof(float)), 0,
                     "%s: type %d, head_dim %d, positions [%d, %d): other bits than scalar", variants[i].name,
                     type, head_dim, begin, end);
    }
    /* Both KV heads in one call: each one's queries as alone. */
    struct output both = output_alloc((size_t)(2 * n_q * head_dim));
    const float *behind = (const float *)q.data + n_q * head_dim;
    scalar.attention(both.data, q.data, n_q, &view, 0, 2, begin, end, scale);
    set.attention(out[N_VARIANTS - 1].data, behind, n_q, &view, 1, 2, begin, end, scale);
    cr_assert_eq(memcmp(both.data + n_q * head_dim, out[N_VARIANTS - 1].data, out[0].n * sizeof(float)), 0);
    output_free(&both);
    for (int32_t h = 0; h < n_q; h++) {
        float expected[512];
        double allowed[512];
        define_head(expected, allowed, (const float *)q.data + h * head_dim, k, v, head_dim, begin, end,
                    scale);
        for (int32_t d = 0; d < head_dim; d++) {
            float found = out[0].data[h * head_dim + d];
            cr_assert(close_to(found, expected[d], allowed[d]),
                      "type %d, head_dim %d, positions [%d, %d): head %d element %d is %.9g, expected %.9g",
                      type, head_dim, begin, end, h, d, (double)found, (double)expected[d]);
        }
    }
    for (int32_t i = 0; i < N_VARIANTS; i++) {
        output_free(&out[i]);
    }
    guarded_free(&keys);
    guarded_free(&values);
    guarded_free(&q);
    free(k);
    free(v);
}

Test(fixed, attention)
{
    static const int32_t head_dims[] = {2, 8, 16, 18, 64, 96, 128, 512};
    static const int32_t ranges[][2] = {{0, 1},  {0, 2},  {0, 63},   {0, 64},
                                        {0, 65}, {5, 70}, {64, 130}, {0, 300}};
    uint64_t seed = 1;
    for (size_t dim = 0; dim < COUNT(head_dims); dim++) {
        for (size_t range = 0; range < COUNT(ranges); range++, seed++) {
            check_attention((enum kv_type)(seed % 3), head_dims[dim], 1 + (int32_t)(seed % 4),
                            ranges[range][0], ranges[range][1], seed);
        }
    }
}

/* ---- elements ---- */

/* exp, seen through silu, over its range and beyond; bits equal on every set and in every place. */
Test(fixed, swiglu)
{
    enum { N = 100003 };
    static float gate[N], up[N], h[N], expected[N];
    static const float ends[] = {NAN, -NAN, INFINITY, 1e38f, -0.0f, 0.0f, 103.0f, -86.5f, 88.9f};
    struct kernels k;
    for (int32_t i = 0; i < N; i++) {
        gate[i] = -86.0f + (float)i * (172.0f / N);
        up[i] = i % 2 ? 1.0f : -0.5f;
    }
    kernels_init_fixed(&k, 0);
    k.swiglu(expected, gate, up, N);
    double worst = 0;
    for (int32_t i = 0; i < N; i++) {
        double silu = (double)gate[i] / (1 + exp(-(double)gate[i])) * (double)up[i];
        worst = silu != 0 ? fmax(worst, fabs(((double)expected[i] - silu) / silu)) : worst;
    }
    cr_assert_leq(worst, 9 * UNIT_ROUNDOFF, "relative error %.3g", worst);
    for (int32_t v = 0; v < N_VARIANTS; v++) {
        kernels_init_fixed(&k, variants[v].flags);
        k.swiglu(h, gate, up, N);
        cr_assert_eq(memcmp(h, expected, sizeof h), 0, "%s: other bits than scalar", variants[v].name);
        k.swiglu(h, gate, up, 12345);
        k.swiglu(h + 12345, gate + 12345, up + 12345, N - 12345);
        cr_assert_eq(memcmp(h, expected, sizeof h), 0, "%s: a split changes bits", variants[v].name);
        k.swiglu(h, ends, (float[]){1, 1, 1, 1, 1, 1, 1, 1, 1}, COUNT(ends));
        for (size_t i = 0; i < COUNT(ends); i++) {
            double x = (double)ends[i], silu = x < 0 && isinf(x) ? 0 : x / (1 + exp(-x));
            cr_assert(close_to(h[i], (float)silu, 9 * UNIT_ROUNDOFF * fabs(silu)), "%s: silu(%g) is %g",
                      variants[v].name, x, (double)h[i]);
        }
    }
}
