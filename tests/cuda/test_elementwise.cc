/* RMSNorm, SwiGLU, residuals, embedding and rope with the append to the KV cache, against the scalar kernels.
 */
#include <cmath>

#include "kernels/cuda/launch.h"
#include "tests/cuda/support.h"

static struct kernels scalar;

#ifdef TEST_FEW_SHAPES
static const int32_t SIZES[] = {1, 200}, TOKENS[] = {2};
static const uint64_t N_SEEDS = 1;
#else
static const int32_t SIZES[] = {1, 8, 33, 96, 128, 256, 1408}, TOKENS[] = {1, 2, 3, 8, 9, 33, 64};
static const uint64_t N_SEEDS = 3;
#endif

static std::vector<float> floats(size_t n, enum data_kind kind, struct rng *rng)
{
    std::vector<float> values(n);
    data_fill(values.data(), n, kind, rng);
    return values;
}

/* f16 of a value that is itself some roundings of f32 away from the expected one. */
static bool f16_close(uint16_t value, double expected, double roundings)
{
    const double slack = fabs(expected) * roundings * UNIT_ROUNDOFF + 0x1p-149;
    const float low = f16_to_f32(f16_from_f32((float)(expected - slack)));
    const float high = f16_to_f32(f16_from_f32((float)(expected + slack)));
    return f16_to_f32(value) >= low && f16_to_f32(value) <= high;
}

/* What a launch wrote to x: a scale for which the largest is between 0.5 and 1, the values, zeros to the
 * tile's end, nothing behind; and what rounding lost, where it was asked for. */
static void check_x(const std::vector<uint16_t> &x, int64_t x_stride, const std::vector<float> &scales,
                    const std::vector<float> &expected, int32_t n, int32_t n_tokens, int32_t parts,
                    double roundings, const char *name, uint64_t seed)
{
    for (int32_t token = 0; parts == 2 && token < n_tokens; token++) {
        const double scale = scales[(size_t)token];
        for (int32_t i = 0; i < cuda_padded(n); i++) {
            const size_t at = (size_t)(2 * token * x_stride + i);
            const double rest = f16_to_f32(x[at + (size_t)x_stride]) / (double)CUDA_REST;
            const double found = (f16_to_f32(x[at]) + rest) * scale;
            const double wanted = i < n ? expected[(size_t)token * (size_t)n + (size_t)i] : 0;
            CHECK(fabs(found - wanted) <= fabs(wanted) * (roundings + 2) * UNIT_ROUNDOFF + scale * 0x1p-23,
                  "%s in two parts, %d of %d, token %d, seed %d: %.9g, expected %.9g", name, i, n, token,
                  (int)seed, found, wanted);
        }
        for (int64_t i = cuda_padded(n); i < x_stride; i++) {
            CHECK(x[(size_t)((2 * token + 1) * x_stride + i)] == 0x7777, "%s wrote behind a second part",
                  name);
        }
    }
    for (int32_t token = 0; token < n_tokens; token++) {
        const float scale = scales[(size_t)token];
        float max = 0;
        for (int32_t i = 0; i < x_stride; i++) {
            const uint16_t value = x[(size_t)(token * parts * x_stride + i)];
            if (i < n) {
                const float wanted = expected[(size_t)token * (size_t)n + (size_t)i];
                max = fmaxf(max, fabsf(f16_to_f32(value)));
                CHECK(f16_close(value, (double)wanted / (double)scale, roundings),
                      "%s, %d of %d, token %d of %d, seed %d: %g times %g, expected %g", name, i, n, token,
                      n_tokens, (int)seed, f16_to_f32(value), scale, wanted);
            } else {
                CHECK(value == (i < cuda_padded(n) ? 0 : 0x7777), "%s: %d behind %d is %04x", name, i, n,
                      value);
            }
        }
        int exponent;
        CHECK(frexpf(scale, &exponent) == 0.5f, "%s: scale %g is no power of two", name, scale);
        CHECK(max == 0 ? scale == 1 : max >= 0.5f && max <= 1, "%s, token %d: largest is %g, scale %g", name,
              token, max, scale);
    }
    CHECK(scales.size() == (size_t)n_tokens + 1 && scales.back() == 7, "%s wrote behind the scales", name);
}

static void test_rmsnorm_swiglu(int32_t n, int32_t n_tokens, int32_t parts, uint64_t seed,
                                enum data_kind kind)
{
    struct rng rng = {seed};
    struct error err = {};
    const int64_t h_stride = n + 3, x_stride = cuda_padded(n) + 8;
    const float eps = 1e-5f;
    std::vector<float> h = floats((size_t)(n_tokens * h_stride), kind, &rng),
                       weight = floats((size_t)n, DATA_RANDOM, &rng);
    std::vector<float> up = floats((size_t)(n_tokens * h_stride), DATA_RANDOM, &rng);
    std::vector<float> normed((size_t)n_tokens * (size_t)n), gated(normed);
    for (int32_t token = 0; token < n_tokens; token++) {
        const size_t from = (size_t)(token * h_stride), to = (size_t)token * (size_t)n;
        const int32_t shift = rng_below(&rng, 61) - 30;
        for (int32_t i = 0; i < n; i++) {
            up[from + (size_t)i] = ldexpf(up[from + (size_t)i], shift);
        }
        scalar.rmsnorm(normed.data() + to, h.data() + from, weight.data(), n, eps);
        scalar.swiglu(gated.data() + to, h.data() + from, up.data() + from, n);
    }
    device_array<float> device_h(h), device_weight(weight), device_up(up);
    device_array<uint16_t> x(std::vector<uint16_t>((size_t)(n_tokens * parts * x_stride), 0x7777));
    device_array<float> x_scales(std::vector<float>((size_t)n_tokens + 1, 7));
    const struct cuda_rows rows = {x.data, x_stride, x_scales.data, parts};
    order_seed(seed);
    CHECK(!cuda_rmsnorm(&rows, device_h.data, h_stride, device_weight.data, n, n_tokens, eps, nullptr, &err),
          "%s", err.message);
    check_x(x.download(), x_stride, x_scales.download(), normed, n, n_tokens, parts, sum_chain(n) / 2 + 4,
            "rmsnorm", seed);
    CHECK(!cuda_swiglu(&rows, device_h.data, device_up.data, h_stride, n, n_tokens, nullptr, &err), "%s",
          err.message);
    check_x(x.download(), x_stride, x_scales.download(), gated, n, n_tokens, parts, 16, "swiglu", seed);
}

/* Rows of which one value is special: NaN and infinities arrive as such and what is beyond the scales as well
 * as f16 can; the row beside them knows nothing of it. */
static void test_special_rows(float special, int32_t parts)
{
    enum { N = 200, N_TOKENS = 2, N_PADDED = 256 };
    struct rng rng = {11};
    struct error err = {};
    std::vector<float> gate(N_TOKENS * N, 1), up = floats(N_TOKENS * N, DATA_RANDOM, &rng), ones(N, 1);
    std::vector<float> expected(up);
    up[17] = special;
    for (int32_t token = 0; token < N_TOKENS; token++) {
        scalar.swiglu(expected.data() + token * N, gate.data() + token * N, up.data() + token * N, N);
    }
    device_array<float> device_gate(gate), device_up(up), weight(ones), x_scales(N_TOKENS);
    device_array<uint16_t> x((size_t)(parts * N_TOKENS * N_PADDED));
    const struct cuda_rows rows = {x.data, N_PADDED, x_scales.data, parts};
    const size_t beside = (size_t)(parts * N_PADDED); /* where the other row is */
    CHECK(!cuda_swiglu(&rows, device_gate.data, device_up.data, N, N, N_TOKENS, nullptr, &err), "%s",
          err.message);
    std::vector<uint16_t> out = x.download();
    std::vector<float> scales = x_scales.download();
    const float value = f16_to_f32(out[17]), wanted = expected[17] / scales[0];
    CHECK(isfinite(special) || scales[0] == 1, "scale %g of a row with %g", scales[0], special);
    CHECK(scales[0] >= 0x1p-126f && scales[0] <= 0x1p126f, "scale %g", scales[0]);
    CHECK(close_to(value, wanted, isfinite(wanted) ? fabsf(wanted) * 0x1p-10f : 0),
          "%g is %g times %g, expected %g", special, value, scales[0], expected[17]);
    CHECK(scales[1] > 0 && scales[1] <= 1 &&
              f16_close(out[beside + 17], (double)expected[N + 17] / (double)scales[1], 16),
          "the row beside %g: %g times %g, expected %g", special, f16_to_f32(out[beside + 17]), scales[1],
          expected[N + 17]);
    if (parts == 2) { /* what an infinity lost is no number, what others lost is small */
        const float rest = f16_to_f32(out[N_PADDED + 17]), other = f16_to_f32(out[beside + N_PADDED + 17]);
        CHECK(std::isfinite(special) ? fabsf(rest) <= 1 + fabsf(value) : std::isnan(rest),
              "the second part of %g is %g", special, rest);
        CHECK(fabsf(other) <= 1, "the second part beside %g is %g", special, other);
    }
    if (!isfinite(special)) { /* one value decides on all of a row */
        CHECK(!cuda_rmsnorm(&rows, device_up.data, N, weight.data, N, N_TOKENS, 1e-5f, nullptr, &err), "%s",
              err.message);
        out = x.download();
        scalar.rmsnorm(expected.data(), up.data(), ones.data(), N, 1e-5f);
        for (int32_t i = 0; i < N; i++) {
            CHECK(close_to(f16_to_f32(out[(size_t)i]), expected[(size_t)i], 0),
                  "rmsnorm beside %g: %g, expected %g", special, f16_to_f32(out[(size_t)i]),
                  expected[(size_t)i]);
        }
        CHECK(x_scales.download()[0] == 1, "rmsnorm, scale of a row with %g", special);
    }
}

static void test_axpy(int32_t n, int32_t n_tokens, uint64_t seed)
{
    struct rng rng = {seed};
    struct error err = {};
    const int64_t h_stride = n + 1, y_stride = n + 2;
    std::vector<float> h = floats((size_t)(n_tokens * h_stride), DATA_ALTERNATING, &rng);
    std::vector<float> y = floats((size_t)(n_tokens * y_stride), DATA_RANDOM, &rng);
    device_array<float> device_h(h), device_y(y);
    order_seed(seed);
    CHECK(!cuda_axpy(device_h.data, h_stride, device_y.data, y_stride, 0.75f, n, n_tokens, nullptr, &err),
          "%s", err.message);
    std::vector<float> out = device_h.download();
    for (int32_t token = 0; token < n_tokens; token++) {
        const size_t at = (size_t)(token * h_stride);
        scalar.axpy(h.data() + at, y.data() + (size_t)(token * y_stride), 0.75f, n);
        for (int32_t i = 0; i <= n; i++) { /* the gap behind a row included */
            const float value = out[at + (size_t)i], wanted = h[at + (size_t)i];
            CHECK(close_to(value, wanted, 4 * UNIT_ROUNDOFF * 1001), "axpy, %d of %d: %g, expected %g", i, n,
                  value, wanted);
        }
    }
}

static void test_embedding(int32_t n, int32_t n_tokens, uint64_t seed, enum any4_kind kind)
{
    enum { N_VOCAB = 11 };
    struct rng rng = {seed};
    struct error err = {};
    std::vector<float> values = floats((size_t)N_VOCAB * (size_t)n, DATA_RANDOM, &rng);
    std::vector<uint8_t> table(values.size() * (kind == ANY4_F32 ? 4 : 2));
    std::vector<int32_t> tokens((size_t)n_tokens);
    for (size_t i = 0; i < values.size(); i++) {
        uint16_t half = kind == ANY4_F16 ? f16_from_f32(values[i]) : bf16_from_f32(values[i]);
        if (kind == ANY4_F32) {
            memcpy(table.data() + 4 * i, &values[i], 4);
        } else {
            memcpy(table.data() + 2 * i, &half, 2);
            values[i] = kind == ANY4_F16 ? f16_to_f32(half) : bf16_to_f32(half);
        }
    }
    for (int32_t &token : tokens) {
        token = rng_below(&rng, N_VOCAB + 2) - 1; /* -1 and N_VOCAB are no tokens */
    }
    device_array<uint8_t> device_table(table);
    device_array<int32_t> device_tokens(tokens);
    device_array<float> h(std::vector<float>((size_t)n_tokens * (size_t)n, 5));
    order_seed(seed);
    CHECK(!cuda_embedding(h.data, n, device_table.data, kind, N_VOCAB, n, device_tokens.data, n_tokens,
                          nullptr, &err),
          "%s", err.message);
    std::vector<float> out = h.download();
    for (size_t i = 0; i < out.size(); i++) {
        const int32_t token = tokens[i / (size_t)n];
        const bool known = token >= 0 && token < N_VOCAB;
        const float wanted = known ? values[(size_t)token * (size_t)n + i % (size_t)n] : 0;
        CHECK(out[i] == wanted, "embedding of %d, kind %d, element %zu: %g, expected %g", token, (int)kind, i,
              out[i], wanted);
    }
}

/* A few sequences with blocks in any order; tokens at any position of theirs, some places empty. */
static void test_rope(int32_t head_dim, int32_t n_heads, int32_t n_kv_heads, int32_t n_tokens,
                      enum kv_type type, uint64_t seed)
{
    enum { BLOCK_SIZE = 4, N_BLOCKS = 12, N_SEQUENCES = 3, N_POSITIONS = 16 };
    struct rng rng = {seed};
    struct error err = {};
    const int32_t half = head_dim / 2, n_rows = n_heads + 2 * n_kv_heads;
    const int64_t qkv_stride = n_rows * head_dim + 5,
                  block_stride = (int64_t)n_kv_heads * BLOCK_SIZE * head_dim + 8;
    std::vector<float> qkv = floats((size_t)(n_tokens * qkv_stride), DATA_RANDOM, &rng);
    std::vector<float> cos = floats((size_t)(N_POSITIONS * half), DATA_RANDOM, &rng), sin = cos;
    for (size_t i = 0; i < cos.size(); i++) {
        float angle = 3 * cos[i];
        cos[i] = cosf(angle);
        sin[i] = sinf(angle);
    }
    std::vector<int32_t> positions((size_t)n_tokens), sequences(positions), tables(N_SEQUENCES * 4);
    for (int32_t i = 0; i < N_SEQUENCES * 4; i++) {
        tables[(size_t)i] = (i * 5 + 2) % N_BLOCKS;
    }
    for (int32_t i = 0; i < n_tokens; i++) { /* all different places: 48 of them, then none */
        const int32_t place = i * 7 % 48;
        sequences[(size_t)i] = place / N_POSITIONS;
        positions[(size_t)i] = i % 5 == 4 || i >= 48 ? -1 : place % N_POSITIONS;
    }
    const size_t cache_bytes = (size_t)(N_BLOCKS * block_stride) * kv_type_bytes(type);
    std::vector<uint8_t> k(cache_bytes, 0x55), v(cache_bytes, 0x55);
    device_array<float> device_qkv(qkv), device_cos(cos), device_sin(sin);
    device_array<int32_t> device_positions(positions), device_sequences(sequences), device_tables(tables);
    device_array<uint8_t> device_k(k), device_v(v);
    struct cuda_rope_append args = {};
    args.qkv = device_qkv.data;
    args.qkv_stride = qkv_stride;
    args.n_heads = n_heads;
    args.n_kv_heads = n_kv_heads;
    args.head_dim = head_dim;
    args.cos = device_cos.data;
    args.sin = device_sin.data;
    args.positions = device_positions.data;
    args.sequences = device_sequences.data;
    args.block_tables = device_tables.data;
    args.table_stride = 4;
    args.block_size = BLOCK_SIZE;
    args.block_stride = block_stride;
    args.type = type;
    args.k = device_k.data;
    args.v = device_v.data;
    order_seed(seed);
    CHECK(!cuda_rope_kv_append(&args, n_tokens, nullptr, &err), "%s", err.message);
    std::vector<float> out = device_qkv.download();
    std::vector<uint8_t> out_k = device_k.download(), out_v = device_v.download();
    for (int32_t token = 0; token < n_tokens; token++) {
        const int32_t position = positions[(size_t)token];
        float *row = qkv.data() + token * qkv_stride;
        const float *got = out.data() + token * qkv_stride;
        if (position >= 0) {
            scalar.rope(row, n_heads + n_kv_heads, head_dim, cos.data() + position * half,
                        sin.data() + position * half);
            const int64_t block = tables[(size_t)(sequences[(size_t)token] * 4 + position / BLOCK_SIZE)];
            for (int32_t head = 0; head < n_kv_heads;
                 head++) { /* what went to the cache is what stands in the row */
                const int64_t at =
                    block * block_stride + (head * BLOCK_SIZE + position % BLOCK_SIZE) * head_dim;
                scalar.kv_store(k.data() + (size_t)at * kv_type_bytes(type), type,
                                got + (n_heads + head) * head_dim, head_dim);
                scalar.kv_store(v.data() + (size_t)at * kv_type_bytes(type), type,
                                got + (n_heads + n_kv_heads + head) * head_dim, head_dim);
            }
        }
        for (int32_t i = 0; i < qkv_stride; i++) {
            CHECK(close_to(got[i], row[i], 6 * UNIT_ROUNDOFF),
                  "rope, token %d at %d, element %d: %g, expected %g", token, position, i, got[i], row[i]);
        }
    }
    CHECK(k == out_k && v == out_v, "KV cache, head_dim %d, %d heads, %d KV heads, type %d, seed %d",
          head_dim, n_heads, n_kv_heads, (int)type, (int)seed);
}

static void test_refusals(void)
{
    struct error err = {};
    struct cuda_rope_append rope = {};
    rope.n_heads = 3;
    rope.n_kv_heads = 2;
    rope.head_dim = 8;
    alignas(16) uint16_t x[256] = {};
    float h[256] = {};
    const struct cuda_rows near = {x, 120, h, 1}, odd = {x + 1, 128, h, 1}, three = {x, 128, h, 3};
    CHECK(cuda_rmsnorm(&near, h, 100, h, 100, 1, 1e-5f, nullptr, &err) == STATUS_INVALID &&
              strstr(err.message, "at least 128"),
          "%s", err.message);
    CHECK(cuda_swiglu(&odd, h, h, 100, 100, 1, nullptr, &err) == STATUS_INVALID, "%s", err.message);
    CHECK(cuda_swiglu(&three, h, h, 100, 100, 2, nullptr, &err) == STATUS_INVALID &&
              strstr(err.message, "3 parts"),
          "%s", err.message);
    CHECK(cuda_axpy(h, 0, h, 0, 1, 0, 1, nullptr, &err) == STATUS_INVALID, "%s", err.message);
    CHECK(cuda_embedding(h, 8, x, ANY4_LUT, 1, 8, nullptr, 1, nullptr, &err) == STATUS_INVALID, "%s",
          err.message);
    CHECK(cuda_rope_kv_append(&rope, 1, nullptr, &err) == STATUS_INVALID, "%s", err.message);
}

int main(void)
{
    checks_begin(60);
    kernels_init_cpu(&scalar, 0);
    test_refusals();
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
        for (int32_t n_tokens : TOKENS) {
            for (int32_t n : SIZES) {
                if (n * n_tokens > 20000) {
                    continue;
                }
                test_rmsnorm_swiglu(n, n_tokens, 1, seed, DATA_RANDOM);
                test_rmsnorm_swiglu(n, n_tokens, 2, seed, DATA_RANDOM);
                test_axpy(n, n_tokens, seed);
                test_embedding(n, n_tokens, seed, n % 3 == 0 ? ANY4_F32 : n % 3 == 1 ? ANY4_F16 : ANY4_BF16);
            }
            test_rope(8, 2, 1, n_tokens, KV_F32, seed);
            test_rope(64, 6, 2, n_tokens, KV_F16, seed);
            test_rope(48, 4, 4, n_tokens, KV_BF16, seed);
        }
        test_rmsnorm_swiglu(200, 3, 2, seed, DATA_ZERO);
        test_rmsnorm_swiglu(200, 3, 1, seed, DATA_ALTERNATING);
    }
    for (float special : {NAN, -NAN, INFINITY, -INFINITY, 3e38f, 2e38f, 1e30f}) {
        test_special_rows(special, 1);
        test_special_rows(special, 2);
    }
    return checks_finish("cuda_elementwise");
}
