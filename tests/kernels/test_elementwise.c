/* rmsnorm, rope, swiglu, axpy, kv_store: each variant against scalar, and lanes that do not depend on their
 * place. */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/float16.h"
#include "tests/kernels/support.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
static const int32_t SIZES[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 172, 1000, 1408};

#define CHECK(op, k, value, expected, allowed, i, n, kind, seed)                                             \
    cr_assert(close_to(value, expected, allowed),                                                            \
              "%s %s: n %d, %s data, seed %d: element %d is %.9g, expected %.9g", op, (k)->name, n,          \
              data_names[kind], seed, i, (double)(value), (double)(expected))

typedef void check_fn(const struct kernels *k, const struct kernels *scalar, int32_t n, enum data_kind kind,
                      int seed);

static void for_each_size(check_fn *fn)
{
    struct kernels k, scalar;
    kernels_init_cpu(&scalar, 0);
    for (int32_t v = 0; v < N_VARIANTS; v++) {
        if (!variant_open(&k, &variants[v])) {
            continue;
        }
        for (size_t size = 0; size < COUNT(SIZES); size++) {
            for (int kind = 0; kind < DATA_KINDS; kind++) {
                fn(&k, &scalar, SIZES[size], (enum data_kind)kind, (int)size * DATA_KINDS + kind);
            }
        }
    }
}

static void check_rmsnorm(const struct kernels *k, const struct kernels *scalar, int32_t n,
                          enum data_kind kind, int seed)
{
    struct rng rng = {(uint64_t)seed};
    struct guarded x = guarded_floats((size_t)n, kind, &rng),
                   weight = guarded_floats((size_t)n, DATA_RANDOM, &rng);
    struct output y = output_alloc((size_t)n), expected = output_alloc((size_t)n);
    const float *values = x.data;
    scalar->rmsnorm(expected.data, values, weight.data, n, 1e-5f);
    k->rmsnorm(y.data, values, weight.data, n, 1e-5f);
    double squares = 0;
    for (int32_t i = 0; i < n; i++) {
        squares += (double)values[i] * values[i];
    }
    double inverse = 1.0 / sqrt(squares / n + 1e-5f);
    for (int32_t i = 0; i < n; i++) {
        /* both compute in double and round once: neighbours at most */
        double definition = values[i] * inverse * ((float *)weight.data)[i];
        double allowed = 2 * UNIT_ROUNDOFF * fabs(definition) + FLT_TRUE_MIN;
        CHECK("rmsnorm", scalar, expected.data[i], (float)definition, allowed, i, n, kind, seed);
        CHECK("rmsnorm", k, y.data[i], expected.data[i], allowed, i, n, kind, seed);
    }
    cr_assert(output_canaries_hold(&y), "rmsnorm %s: n %d wrote outside", k->name, n);
    memcpy(y.data, values, (size_t)n * sizeof(float)); /* in place */
    k->rmsnorm(y.data, y.data, weight.data, n, 1e-5f);
    for (int32_t i = 0; i < n; i++) {
        CHECK("rmsnorm in place", k, y.data[i], expected.data[i],
              2 * UNIT_ROUNDOFF * fabs((double)expected.data[i]) + FLT_TRUE_MIN, i, n, kind, seed);
    }
    if (kind == DATA_RANDOM && n > 1) { /* a dropped square must be seen */
        double less = 1.0 / sqrt((squares - (double)values[0] * values[0]) / n + 1e-5f);
        double definition = values[1] * inverse * ((float *)weight.data)[1];
        cr_assert(!close_to((float)(values[1] * less * ((float *)weight.data)[1]), (float)definition,
                            2 * UNIT_ROUNDOFF * fabs(definition) + FLT_TRUE_MIN),
                  "rmsnorm: n %d: a dropped term goes unseen", n);
    }
    guarded_free(&x);
    guarded_free(&weight);
    output_free(&y);
    output_free(&expected);
}

Test(elementwise, rmsnorm)
{
    for_each_size(check_rmsnorm);
}

/* Squares beyond the range of f32. */
Test(elementwise, rmsnorm_large)
{
    float x[33], weight[33], y[33];
    for (int32_t v = 0; v < N_VARIANTS; v++) {
        struct kernels k;
        if (!variant_open(&k, &variants[v])) {
            continue;
        }
        for (int32_t i = 0; i < 33; i++) {
            x[i] = i % 2 ? 3e38f : -3e38f;
            weight[i] = 0.5f;
        }
        k.rmsnorm(y, x, weight, 33, 1e-5f);
        for (int32_t i = 0; i < 33; i++) {
            cr_assert_float_eq(y[i], i % 2 ? 0.5f : -0.5f, 1e-6f, "%s: %.9g", k.name, (double)y[i]);
        }
    }
}

static void check_rope(const struct kernels *k, const struct kernels *scalar, int32_t n, enum data_kind kind,
                       int seed)
{
    struct rng rng = {(uint64_t)seed};
    int32_t n_heads = 1 + seed % 3;
    size_t n_all = (size_t)n_heads * 2 * (size_t)n;
    struct guarded v = guarded_floats(n_all, kind, &rng), cosines = guarded_alloc((size_t)n * sizeof(float)),
                   sines = guarded_alloc((size_t)n * sizeof(float));
    struct output y = output_alloc(n_all), expected = output_alloc(n_all);
    const float *values = v.data;
    float *c = cosines.data, *s = sines.data;
    for (int32_t i = 0; i < n; i++) {
        double angle = 4.0 * (double)rng_float(&rng);
        c[i] = (float)cos(angle);
        s[i] = (float)sin(angle);
    }
    memcpy(y.data, values, n_all * sizeof(float));
    memcpy(expected.data, values, n_all * sizeof(float));
    scalar->rope(expected.data, n_heads, 2 * n, c, s);
    k->rope(y.data, n_heads, 2 * n, c, s);
    for (int32_t at = 0; at < (int32_t)n_all; at++) {
        int32_t head = at / (2 * n) * 2 * n, i = at % n;
        double a = values[head + i], b = values[head + n + i];
        bool first = at - head < n;
        double definition = first ? a * c[i] - b * s[i] : b * c[i] + a * s[i];
        double magnitude = first ? fabs(a * c[i]) + fabs(b * s[i]) : fabs(b * c[i]) + fabs(a * s[i]);
        double allowed = 2 * UNIT_ROUNDOFF * magnitude + 2 * (double)FLT_TRUE_MIN; /* two roundings */
        CHECK("rope", scalar, expected.data[at], (float)definition, allowed, at, n, kind, seed);
        CHECK("rope", k, y.data[at], expected.data[at], allowed, at, n, kind, seed);
    }
    cr_assert(output_canaries_hold(&y), "rope %s: head_dim %d wrote outside", k->name, 2 * n);
    memcpy(y.data, values, n_all * sizeof(float)); /* and not a byte is read behind the end */
    memcpy(expected.data, y.data, n_all * sizeof(float));
    k->rope(v.data, n_heads, 2 * n, c, s);
    k->rope(y.data, n_heads, 2 * n, c, s);
    cr_assert_eq(memcmp(v.data, y.data, n_all * sizeof(float)), 0, "rope %s: head_dim %d: address matters",
                 k->name, 2 * n);
    guarded_free(&v);
    guarded_free(&cosines);
    guarded_free(&sines);
    output_free(&y);
    output_free(&expected);
}

Test(elementwise, rope)
{
    for_each_size(check_rope);
}

static void check_swiglu(const struct kernels *k, const struct kernels *scalar, int32_t n,
                         enum data_kind kind, int seed)
{
    struct rng rng = {(uint64_t)seed};
    struct guarded gate = guarded_floats((size_t)n, kind, &rng), up = guarded_floats((size_t)n, kind, &rng);
    struct output h = output_alloc((size_t)n), expected = output_alloc((size_t)n);
    const float *g = gate.data, *u = up.data;
    scalar->swiglu(expected.data, g, u, n);
    k->swiglu(h.data, g, u, n);
    for (int32_t i = 0; i < n; i++) {
        /* exp 4 roundings, then +, *, /, * and the reference's own; e may be subnormal */
        double allowed =
            9 * UNIT_ROUNDOFF * fabs((double)expected.data[i]) +
            FLT_TRUE_MIN * (1 + fabs((double)g[i] < -200 ? 0.0 : (double)g[i])) * (1 + fabs((double)u[i]));
        CHECK("swiglu", k, h.data[i], expected.data[i], allowed, i, n, kind, seed);
    }
    cr_assert(output_canaries_hold(&h), "swiglu %s: n %d wrote outside", k->name, n);

    /* the same bits in place and from any starting element */
    struct output again = output_alloc((size_t)n);
    memcpy(again.data, g, (size_t)n * sizeof(float));
    int32_t cut = n / 3;
    k->swiglu(again.data, again.data, u, cut);
    k->swiglu(again.data + cut, again.data + cut, u + cut, n - cut);
    cr_assert_eq(memcmp(again.data, h.data, (size_t)n * sizeof(float)), 0,
                 "swiglu %s: n %d: a split changes bits", k->name, n);
    memcpy(again.data, u, (size_t)n * sizeof(float));
    k->swiglu(again.data, g, again.data, n);
    cr_assert_eq(memcmp(again.data, h.data, (size_t)n * sizeof(float)), 0, "swiglu %s: n %d: h = up differs",
                 k->name, n);
    guarded_free(&gate);
    guarded_free(&up);
    output_free(&h);
    output_free(&expected);
    output_free(&again);
}

Test(elementwise, swiglu)
{
    for_each_size(check_swiglu);
}

/* exp, seen through silu: dense arguments over its whole range, and the values at its ends. */
Test(elementwise, swiglu_exp)
{
    enum { N = 4096 };
    static float gate[N], up[N], h[N], expected[N];
    for (int32_t v = 1; v < N_VARIANTS; v++) {
        struct kernels k, scalar;
        kernels_init_cpu(&scalar, 0);
        if (!variant_open(&k, &variants[v])) {
            continue;
        }
        double worst = 0;
        for (int32_t part = 0; part < 64; part++) {
            for (int32_t i = 0; i < N; i++) {
                gate[i] = -86.0f + (float)(part * N + i) * (172.0f / (64 * N));
                up[i] = 1.0f;
            }
            k.swiglu(h, gate, up, N);
            scalar.swiglu(expected, gate, up, N);
            for (int32_t i = 0; i < N; i++) {
                if (expected[i] != 0) {
                    worst = fmax(worst, fabs(((double)h[i] - expected[i]) / expected[i]));
                }
            }
        }
        fprintf(stderr, "%s: silu within %.2f units of roundoff (2^-24) on [-86, 86]\n", k.name,
                worst / UNIT_ROUNDOFF);
        cr_assert_leq(worst, 9 * UNIT_ROUNDOFF, "%s: relative error %.3g", k.name, worst);

        float ends[] = {NAN, -NAN, INFINITY, 1e38f, -1e30f, -0.0f, 0.0f, -103.0f, -88.9f, 88.9f};
        k.swiglu(h, ends, up, COUNT(ends));
        scalar.swiglu(expected, ends, up, COUNT(ends));
        for (size_t i = 0; i < COUNT(ends); i++) {
            double allowed = 9 * UNIT_ROUNDOFF * fabs((double)expected[i]) + 104 * (double)FLT_TRUE_MIN;
            cr_assert(close_to(h[i], expected[i], allowed), "%s: silu(%g) is %.9g, expected %.9g", k.name,
                      (double)ends[i], (double)h[i], (double)expected[i]);
        }
    }
}

static void check_axpy(const struct kernels *k, const struct kernels *scalar, int32_t n, enum data_kind kind,
                       int seed)
{
    struct rng rng = {(uint64_t)seed};
    struct guarded x = guarded_floats((size_t)n, kind, &rng), start = guarded_floats((size_t)n, kind, &rng);
    struct output y = output_alloc((size_t)n), expected = output_alloc((size_t)n);
    float a = seed % 2 ? 1.0f : rng_float(&rng);
    memcpy(y.data, start.data, (size_t)n * sizeof(float));
    memcpy(expected.data, start.data, (size_t)n * sizeof(float));
    k->axpy(y.data, x.data, a, n);
    scalar->axpy(expected.data, x.data, a, n);
    for (int32_t i = 0; i < n; i++) {
        double definition = ((float *)start.data)[i] + (double)a * ((float *)x.data)[i];
        double allowed = 2 * UNIT_ROUNDOFF * fabs(definition) + FLT_TRUE_MIN;
        CHECK("axpy", scalar, expected.data[i], (float)definition, allowed, i, n, kind, seed);
        CHECK("axpy", k, y.data[i], expected.data[i], allowed, i, n, kind, seed);
    }
    cr_assert(output_canaries_hold(&y), "axpy %s: n %d wrote outside", k->name, n);
    int32_t cut = n / 3; /* written at a guard page, and in two parts: the same bits */
    k->axpy(start.data, x.data, a, cut);
    k->axpy((float *)start.data + cut, (float *)x.data + cut, a, n - cut);
    cr_assert_eq(memcmp(start.data, y.data, (size_t)n * sizeof(float)), 0,
                 "axpy %s: n %d: a split changes bits", k->name, n);
    guarded_free(&x);
    guarded_free(&start);
    output_free(&y);
    output_free(&expected);
}

Test(elementwise, axpy)
{
    for_each_size(check_axpy);
}

static bool same_half(enum kv_type type, uint16_t a, uint16_t b)
{
    float x = type == KV_F16 ? f16_to_f32(a) : bf16_to_f32(a),
          y = type == KV_F16 ? f16_to_f32(b) : bf16_to_f32(b);
    return a == b || (isnan(x) && isnan(y) && signbit(x) == signbit(y)); /* NaN may keep its payload or not */
}

static void check_kv_store(const struct kernels *k, const struct kernels *scalar, int32_t n,
                           enum data_kind kind, int seed)
{
    struct rng rng = {(uint64_t)seed};
    struct guarded x = guarded_floats((size_t)n, kind, &rng);
    float *values = x.data;
    for (int type = KV_F32; type <= KV_BF16; type++) {
        size_t bytes = (size_t)n * kv_type_bytes((enum kv_type)type);
        struct guarded y = guarded_alloc(bytes), expected = guarded_alloc(bytes);
        if (kind == DATA_EXTREME) { /* any bit pattern; every second one next to the middle of two halves */
            for (int32_t i = 0; i < n; i++) {
                uint32_t bits = (uint32_t)rng_next(&rng);
                if (i % 2) {
                    bits = type == KV_F16 ? (bits & 0xffffe000u) + 0xfffu + (uint32_t)rng_below(&rng, 3)
                                          : (bits & 0xffff0000u) + 0x7fffu + (uint32_t)rng_below(&rng, 3);
                }
                memcpy(values + i, &bits, sizeof bits);
            }
        }
        k->kv_store(y.data, (enum kv_type)type, values, n);
        scalar->kv_store(expected.data, (enum kv_type)type, values, n);
        const uint16_t *found = y.data, *wanted = expected.data;
        for (int32_t i = 0; i < n && type != KV_F32; i++) {
            cr_assert(same_half((enum kv_type)type, found[i], wanted[i]),
                      "kv_store %s: type %d, n %d, seed %d: element %d (%a) is %04x, expected %04x", k->name,
                      type, n, seed, i, (double)values[i], found[i], wanted[i]);
        }
        cr_assert(type != KV_F32 || memcmp(y.data, values, bytes) == 0, "kv_store %s f32", k->name);
        struct output between = output_alloc((size_t)n); /* larger than the halves: the rest stays */
        k->kv_store(between.data, (enum kv_type)type, values, n);
        cr_assert(output_canaries_hold(&between), "kv_store %s: n %d wrote outside", k->name, n);
        for (size_t i = (bytes + 3) / 4; i < (size_t)n; i++) {
            cr_assert(output_untouched(&between, i), "kv_store %s: n %d wrote behind the end", k->name, n);
        }
        output_free(&between);
        guarded_free(&y);
        guarded_free(&expected);
    }
    guarded_free(&x);
}

Test(elementwise, kv_store)
{
    for_each_size(check_kv_store);
}

/* The definition of rounding to nearest even, by the neighbours: no half is nearer, and a tie is even. */
Test(elementwise, kv_store_rounds_to_nearest_even)
{
    struct rng rng = {4};
    for (int32_t v = 0; v < N_VARIANTS; v++) {
        struct kernels k;
        if (!variant_open(&k, &variants[v])) {
            continue;
        }
        for (int32_t i = 0; i < 20000; i++) {
            float x[16];
            uint16_t half[16];
            for (int32_t j = 0; j < 16; j++) {
                x[j] = ldexpf(rng_float(&rng), rng_below(&rng, 40) - 26);
            }
            k.kv_store(half, KV_F16, x, 16);
            for (int32_t j = 0; j < 16; j++) {
                double error = fabs((double)f16_to_f32(half[j]) - (double)x[j]);
                for (int step = -1; step <= 1; step += 2) {
                    uint16_t next = (uint16_t)(half[j] + step);
                    if ((half[j] & 0x7fff) == 0 || (next & 0x7c00) == 0x7c00) {
                        continue;
                    }
                    double other = fabs((double)f16_to_f32(next) - (double)x[j]);
                    cr_assert(error < other || (error == other && half[j] % 2 == 0), "%s: %a became %04x",
                              k.name, (double)x[j], half[j]);
                }
            }
        }
    }
}
