/* any4_gemv and any4_gemm: scalar against the definition, the others against scalar, and the batch contract
 * bit for bit. */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/support.h"

static const int32_t COLS[] = {1, 7, 31, 32, 33, 64, 96, 128, 172, 256, 384, 1408};
static const int32_t ROWS[] = {1, 2, 3, 5, 33};
static const int32_t TOKENS[] = {1, 2, 3, 4, 5, 8, 9, 33};
static const int32_t GROUPS[] = {32, 64, 128};
#define COUNT(array) (sizeof(array) / sizeof(array)[0])
enum { X_PAD = 3, Y_PAD = 5 }; /* strides differ from shapes */

struct shape {
    const struct test_format *format;
    enum data_kind data;
    int32_t n_rows, n_cols, group_size, n_tokens;
    uint64_t seed;
};

struct problem {
    struct shape shape;
    struct test_matrix m;
    struct guarded x;
    int64_t x_stride, y_stride;
};

static struct problem problem_build(struct shape shape)
{
    struct rng rng = {shape.seed * 7919 + 1};
    struct problem p = {.shape = shape, .x_stride = shape.n_cols + X_PAD, .y_stride = shape.n_rows + Y_PAD};
    p.m =
        test_matrix_build(shape.format, shape.n_rows, shape.n_cols, shape.group_size, shape.data, shape.seed);
    p.x = guarded_floats((size_t)((shape.n_tokens - 1) * p.x_stride + shape.n_cols), shape.data, &rng);
    return p;
}

static void problem_free(struct problem *p)
{
    test_matrix_free(&p->m);
    guarded_free(&p->x);
}

static struct output problem_output(const struct problem *p)
{
    return output_alloc((size_t)(p->shape.n_tokens * p->y_stride));
}

static const char *describe(const struct problem *p, const char *op, const char *variant)
{
    static char text[256];
    const struct shape *s = &p->shape;
    snprintf(text, sizeof text, "%s %s: %s, %d rows, %d columns, group %d, %d tokens, %s data, seed %llu", op,
             variant, s->format->name, s->n_rows, s->n_cols, s->group_size, s->n_tokens, data_names[s->data],
             (unsigned long long)s->seed);
    return text;
}

/* sum of |w x| of one row and token. */
static double magnitudes(const struct problem *p, int32_t token, int32_t row)
{
    const double *w = p->m.dense + (size_t)row * (size_t)p->shape.n_cols;
    const float *x = (const float *)p->x.data + token * p->x_stride;
    double sum = 0;
    for (int32_t col = 0; col < p->shape.n_cols; col++) {
        sum += fabs(w[col] * (double)x[col]);
    }
    return sum;
}

static double tolerance(const struct problem *p, int32_t token, int32_t row)
{
    return UNIT_ROUNDOFF * sum_chain(p->shape.n_cols) * magnitudes(p, token, row) +
           p->shape.n_cols * FLT_TRUE_MIN;
}

/* Rows in the range as expected, everything else untouched. */
static void check(const struct problem *p, const struct output *y, const float *expected, int32_t begin,
                  int32_t end, const char *op, const char *variant)
{
    for (int32_t token = 0; token < p->shape.n_tokens; token++) {
        for (int64_t row = 0; row < p->y_stride; row++) {
            size_t at = (size_t)(token * p->y_stride + row);
            if (row < begin || row >= end) {
                cr_assert(output_untouched(y, at), "%s: wrote row %d outside of [%d, %d)",
                          describe(p, op, variant), (int)row, begin, end);
                continue;
            }
            double allowed = tolerance(p, token, (int32_t)row);
            cr_assert(close_to(y->data[at], expected[at], allowed),
                      "%s: token %d row %d is %.9g, expected %.9g +- %.3g", describe(p, op, variant), token,
                      (int)row, (double)y->data[at], (double)expected[at], allowed);
        }
    }
    cr_assert(output_canaries_hold(y), "%s: wrote outside of the output", describe(p, op, variant));
}

static void run_all(const struct problem *p, const struct kernels *k, const struct kernels *scalar)
{
    const struct shape *s = &p->shape;
    const struct any4_matrix *w = &p->m.matrix;
    const int32_t ranges[][2] = {
        {0, s->n_rows}, {s->n_rows / 2, s->n_rows}, {s->n_rows - 1, s->n_rows}, {0, 0}};
    struct output expected = problem_output(p);
    scalar->any4_gemm(expected.data, p->y_stride, w, p->x.data, p->x_stride, s->n_tokens, 0, s->n_rows);
    for (size_t i = 0; i < COUNT(ranges); i++) {
        struct output y = problem_output(p);
        k->any4_gemm(y.data, p->y_stride, w, p->x.data, p->x_stride, s->n_tokens, ranges[i][0], ranges[i][1]);
        check(p, &y, expected.data, ranges[i][0], ranges[i][1], "any4_gemm", k->name);
        output_free(&y);
    }
    output_free(&expected);
}

/* Runs fn over the cross product of formats, columns, rows and tokens; groups and data are drawn. */
static void for_each_shape(void (*fn)(const struct problem *p, const struct kernels *k,
                                      const struct kernels *scalar),
                           const struct variant *variant)
{
    struct kernels k, scalar;
    kernels_init_cpu(&scalar, 0);
    if (!variant_open(&k, variant)) {
        return;
    }
    uint64_t seed = 1;
    for (size_t cols = 0; cols < COUNT(COLS); cols++) {
        for (size_t rows = 0; rows < COUNT(ROWS); rows++) {
            for (size_t tokens = 0; tokens < COUNT(TOKENS); tokens++) {
                for (int32_t f = 0; f < N_FORMATS; f++, seed++) {
                    struct rng pick = {seed};
                    struct shape shape = {&formats[f],
                                          (enum data_kind)rng_below(&pick, DATA_KINDS),
                                          ROWS[rows],
                                          COLS[cols],
                                          formats[f].code_bits ? GROUPS[rng_below(&pick, COUNT(GROUPS))] : 0,
                                          TOKENS[tokens],
                                          seed};
                    struct problem p = problem_build(shape);
                    fn(&p, &k, &scalar);
                    problem_free(&p);
                }
            }
        }
    }
}

/* The reference itself: one rounding away from the definition, which is summed here from the dense weights.
 */
static void against_definition(const struct problem *p, const struct kernels *k, const struct kernels *scalar)
{
    (void)k;
    struct output y = problem_output(p);
    scalar->any4_gemm(y.data, p->y_stride, &p->m.matrix, p->x.data, p->x_stride, p->shape.n_tokens, 0,
                      p->shape.n_rows);
    for (int32_t token = 0; token < p->shape.n_tokens; token++) {
        for (int32_t row = 0; row < p->shape.n_rows; row++) {
            const double *w = p->m.dense + (size_t)row * (size_t)p->shape.n_cols;
            const float *x = (const float *)p->x.data + token * p->x_stride;
            long double sum = 0;
            for (int32_t col = 0; col < p->shape.n_cols; col++) {
                sum += (long double)w[col] * x[col];
            }
            double allowed = UNIT_ROUNDOFF * fabs((double)sum) + FLT_TRUE_MIN +
                             p->shape.n_cols * 0x1p-52 * magnitudes(p, token, row);
            double found = (double)y.data[token * p->y_stride + row];
            cr_assert(fabs(found - (double)sum) <= allowed, "%s: token %d row %d is %.9g, expected %.9g",
                      describe(p, "any4_gemm", "scalar"), token, row, found, (double)sum);
        }
    }
    output_free(&y);
}

/* Bit for bit: gemv of each token alone, and gemm over split rows and split tokens. */
static void batch_bits(const struct problem *p, const struct kernels *k, const struct kernels *scalar)
{
    (void)scalar;
    const struct shape *s = &p->shape;
    const struct any4_matrix *w = &p->m.matrix;
    const float *x = p->x.data;
    struct output whole = problem_output(p), single = problem_output(p), split = problem_output(p);
    k->any4_gemm(whole.data, p->y_stride, w, x, p->x_stride, s->n_tokens, 0, s->n_rows);
    for (int32_t token = 0; token < s->n_tokens; token++) {
        k->any4_gemv(single.data + token * p->y_stride, w, x + token * p->x_stride, 0, s->n_rows);
    }
    struct rng rng = {s->seed + 5};
    for (int32_t token = 0, n; token < s->n_tokens; token += n) {
        n = 1 + rng_below(&rng, s->n_tokens - token);
        for (int32_t row = 0, n_rows; row < s->n_rows; row += n_rows) {
            n_rows = 1 + rng_below(&rng, s->n_rows - row);
            k->any4_gemm(split.data + token * p->y_stride, p->y_stride, w, x + token * p->x_stride,
                         p->x_stride, n, row, row + n_rows);
        }
    }
    size_t bytes = whole.n * sizeof(float);
    cr_assert_eq(memcmp(whole.data, single.data, bytes), 0, "%s: gemv and gemm differ",
                 describe(p, "any4", k->name));
    cr_assert_eq(memcmp(whole.data, split.data, bytes), 0, "%s: a split changes bits",
                 describe(p, "any4", k->name));
    cr_assert(output_canaries_hold(&single) && output_canaries_hold(&split), "%s",
              describe(p, "any4", k->name));
    output_free(&whole);
    output_free(&single);
    output_free(&split);
}

Test(any4, scalar_is_the_definition)
{
    for_each_shape(against_definition, &variants[0]);
}

Test(any4, avx2_matches_scalar)
{
    for_each_shape(run_all, &variants[1]);
}

Test(any4, avx512_matches_scalar)
{
    for_each_shape(run_all, &variants[2]);
}

Test(any4, batch_and_split_keep_bits)
{
    for (int32_t i = 0; i < N_VARIANTS; i++) {
        for_each_shape(batch_bits, &variants[i]);
    }
}

/* More tokens than share one decoding, and more columns than one chunk. */
Test(any4, many_tokens)
{
    static const int32_t tokens[] = {47, 48, 49, 54, 97};
    struct kernels k, scalar;
    kernels_init_cpu(&scalar, 0);
    for (int32_t v = 1; v < N_VARIANTS; v++) {
        if (!variant_open(&k, &variants[v])) {
            continue;
        }
        for (size_t i = 0; i < COUNT(tokens); i++) {
            for (int32_t f = 0; f < N_FORMATS; f++) {
                struct shape shape = {&formats[f], DATA_RANDOM, 6, 1100, 0, tokens[i], 900 + i};
                shape.group_size =
                    formats[f].code_bits ? GROUPS[(f + (int32_t)i) % (int32_t)COUNT(GROUPS)] : 0;
                struct problem p = problem_build(shape);
                run_all(&p, &k, &scalar);
                batch_bits(&p, &k, &scalar);
                problem_free(&p);
            }
        }
    }
}

/* The tolerance must see a single lost term: the one nearest to the mean magnitude is left out of x, for
 * every coded format and number of columns. */
Test(any4, a_dropped_term_fails)
{
    struct kernels scalar;
    kernels_init_cpu(&scalar, 0);
    for (size_t i = 0; i < COUNT(COLS) * N_FORMATS; i++) {
        const struct test_format *format = &formats[i % N_FORMATS];
        int32_t n_cols = COLS[i / N_FORMATS];
        for (uint64_t seed = 1; format->code_bits && seed <= 8; seed++) {
            struct problem p = problem_build((struct shape){format, DATA_RANDOM, 1, n_cols, 64, 1, seed});
            float *x = p.x.data, full = 0, dropped = 0;
            double mean = magnitudes(&p, 0, 0) / n_cols, allowed = tolerance(&p, 0, 0);
            int32_t victim = 0;
            for (int32_t col = 1; col < n_cols; col++) {
                if (fabs(fabs(p.m.dense[col] * (double)x[col]) - mean) <
                    fabs(fabs(p.m.dense[victim] * (double)x[victim]) - mean)) {
                    victim = col;
                }
            }
            scalar.any4_gemv(&full, &p.m.matrix, x, 0, 1);
            x[victim] = 0;
            scalar.any4_gemv(&dropped, &p.m.matrix, x, 0, 1);
            cr_assert(!close_to(dropped, full, allowed), "%s: dropping column %d goes unseen",
                      describe(&p, "any4_gemv", "scalar"), victim);
            problem_free(&p);
        }
    }
}
