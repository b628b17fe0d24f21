/* Attention over the paged KV cache against the scalar kernel: types, head sizes, shared heads, tiles,
 * windows; a row's bits in any tile, chunk and launch; refusals. */
#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.h"
#include "tests/cuda/support.h"

static struct kernels scalar;
static const char *const TYPE_NAMES[] = {"f32", "f16", "bf16"};

struct shape {
    enum kv_type type;
    int32_t head_dim, n_heads, n_kv_heads, block_size, window;
    enum data_kind data;
    uint64_t seed;
    int32_t parts = 1; /* of a result */

    bool plain() const /* products and sums in f32 */
    {
        return type == KV_F32 || (parts == 2 && head_dim > 128);
    }
};

/* Some sequences of N_POSITIONS positions each, all keys and values there; what no position owns is NaN. */
struct problem {
    enum { N_SEQUENCES = 2 };
    struct shape shape;
    int32_t n_positions, table_stride;
    int64_t block_stride;
    float scale;
    std::vector<uint8_t> k, v;
    std::vector<int32_t> tables;
    std::vector<float> q; /* (N_SEQUENCES, n_positions, n_heads * head_dim) */

    int64_t q_row() const
    {
        return (int64_t)shape.n_heads * shape.head_dim;
    }
    const float *query(int32_t sequence, int32_t position) const
    {
        return q.data() + (sequence * n_positions + position) * q_row();
    }
};

static void store(std::vector<uint8_t> &cache, enum kv_type type, int64_t at, float value)
{
    scalar.kv_store(cache.data() + (size_t)at * kv_type_bytes(type), type, &value, 1);
}

static struct problem problem_build(const struct shape &s, int32_t n_positions)
{
    struct problem p = {};
    struct rng rng = {s.seed};
    p.shape = s;
    p.n_positions = n_positions;
    p.table_stride = (n_positions + s.block_size - 1) / s.block_size + 1;
    p.block_stride = ((int64_t)s.n_kv_heads * s.block_size * s.head_dim + 15) / 8 * 8;
    p.scale = 1.0f / sqrtf((float)s.head_dim);
    const int32_t n_blocks = p.table_stride * problem::N_SEQUENCES;
    p.tables.resize((size_t)n_blocks);
    for (int32_t i = 0; i < n_blocks; i++) { /* a random permutation, grown by insertion */
        const int32_t at = rng_below(&rng, i + 1);
        p.tables[(size_t)i] = p.tables[(size_t)at];
        p.tables[(size_t)at] = i;
    }
    const int64_t n_elements = n_blocks * p.block_stride;
    p.k.resize((size_t)n_elements * kv_type_bytes(s.type));
    p.v.resize(p.k.size());
    for (int64_t i = 0; i < n_elements; i++) {
        store(p.k, s.type, i, NAN);
        store(p.v, s.type, i, NAN);
    }
    for (int32_t i = 0; i < problem::N_SEQUENCES * n_positions; i++) {
        const int32_t sequence = i / n_positions, position = i % n_positions;
        const int64_t block = p.tables[(size_t)(sequence * p.table_stride + position / s.block_size)];
        /* extreme: scores far apart, most weights are next to nothing */
        const float factor = s.data == DATA_EXTREME ? ldexpf(1.0f, rng_below(&rng, 8)) : 1.0f;
        for (int32_t j = 0; j < s.n_kv_heads * s.head_dim; j++) {
            const int64_t slot = (int64_t)(j / s.head_dim) * s.block_size + position % s.block_size;
            const int64_t at = block * p.block_stride + slot * s.head_dim + j % s.head_dim;
            store(p.k, s.type, at, s.data == DATA_ZERO ? 0 : rng_float(&rng) * factor);
            store(p.v, s.type, at, rng_float(&rng));
        }
    }
    p.q.resize((size_t)(problem::N_SEQUENCES * n_positions * p.q_row()));
    for (float &value : p.q) {
        value = rng_float(&rng) * 4;
    }
    return p;
}

/* A step: some rows, cut into tiles by the helper or by hand. */
struct step {
    std::vector<int32_t> positions, sequences;
    std::vector<struct cuda_attention_tile> tiles;

    void add(int32_t sequence, int32_t position, int32_t n)
    {
        for (int32_t i = 0; i < n; i++) {
            sequences.push_back(sequence);
            positions.push_back(position + i);
        }
    }
    void cut(void)
    {
        tiles.resize(positions.size());
        tiles.resize((size_t)cuda_attention_tiles(tiles.data(), positions.data(), sequences.data(),
                                                  (int32_t)positions.size()));
    }
};

/* The parts of the rows' results, out_stride apart. max_position: the bound that the launch is given. */
static std::vector<uint16_t> run(const struct problem &p, const struct step &step, int32_t max_position,
                                 int64_t out_stride, uint64_t seed)
{
    const struct shape &s = p.shape;
    struct error err = {};
    const int32_t n_rows = (int32_t)step.positions.size();
    const int64_t q_stride = p.q_row() + 5;
    std::vector<float> q((size_t)(n_rows * q_stride), NAN);
    for (int32_t row = 0; row < n_rows; row++) {
        const int32_t position = step.positions[(size_t)row];
        if (position >= 0) {
            memcpy(q.data() + row * q_stride, p.query(step.sequences[(size_t)row], position),
                   (size_t)p.q_row() * sizeof(float));
        }
    }
    const int64_t n_partials = cuda_attention_partials(s.n_heads, s.head_dim, n_rows, max_position);
    const size_t n_counters = step.tiles.size() * (size_t)s.n_kv_heads;
    device_array<float> device_q(q), partials(std::vector<float>((size_t)n_partials, NAN));
    device_array<uint8_t> k(p.k), v(p.v);
    device_array<int32_t> positions(step.positions), sequences(step.sequences), tables(p.tables);
    device_array<struct cuda_attention_tile> tiles(step.tiles);
    device_array<uint16_t> out(std::vector<uint16_t>((size_t)(s.parts * n_rows * out_stride), 0x7777));
    device_array<uint32_t> counters(std::vector<uint32_t>(n_counters, 0));
    struct cuda_attention args = {};
    args.out = {out.data, out_stride, nullptr, s.parts};
    args.q = device_q.data;
    args.q_stride = q_stride;
    args.n_heads = s.n_heads;
    args.n_kv_heads = s.n_kv_heads;
    args.head_dim = s.head_dim;
    args.positions = positions.data;
    args.sequences = sequences.data;
    args.tiles = tiles.data;
    args.n_tiles = (int32_t)step.tiles.size();
    args.block_tables = tables.data;
    args.table_stride = p.table_stride;
    args.block_size = s.block_size;
    args.block_stride = p.block_stride;
    args.type = s.type;
    args.k = k.data;
    args.v = v.data;
    args.sliding_window = s.window;
    args.scale = p.scale;
    args.n_rows = n_rows;
    args.max_position = max_position;
    args.partials = partials.data;
    args.n_partials = n_partials;
    args.counters = counters.data;
    args.n_counters = (int32_t)n_counters;
    order_seed(seed);
    CHECK(!cuda_attention(&args, nullptr, &err), "%s", err.message);
    for (uint32_t counter : counters.download()) {
        CHECK(counter == 0, "a counter is %u behind the launch", counter);
    }
    return out.download();
}

/* What roundings may do to a result whose exact value is sum(weight v) / sum(weight), with magnitude
 * sum(weight |v|) / sum(weight) =: m and u = 2^-24. A score in powers of e is off by d: a query is the sum of
 * two numbers of 8 (11) bits, its rest below 2^-16 (2^-22) of it, of three of 8 (2^-24) for results in two
 * parts; products are exact and head_dim of them summed in f32; scaling and the argument of exp2 give 4 u
 * |score - max| more. A weight then differs by the factor exp(2 d), maximum included; it has 8 bits twice
 * (bf16: 2^-16, above 128 dimensions once) or 11 (f16: 2^-11, for results in two parts twice: 2^-22, or 2^-39
 * of the unit's largest weight where f16 is subnormal, for each of n keys); exp2f adds 4 u, sums n u, every
 * unit and split 4 u, in numerator and total. Then f16: 2^-11, or 2^-25 below 2^-14, or its end; in two parts
 * 2^-22, or 2^-37. Plain kernels round nothing but sums. */
static void check_rows(const struct problem &p, const struct step &step, const std::vector<uint16_t> &out,
                       int64_t out_stride, double *error, double *rounding)
{
    const struct shape &s = p.shape;
    const bool exact = s.parts == 2;
    const bool f16 = s.type == KV_F16 && !s.plain(), bf16 = s.type == KV_BF16 && !s.plain();
    const double u = UNIT_ROUNDOFF, query_rest = bf16 ? (exact ? 0x1p-24 : 0x1p-16) : f16 ? 0x1p-22 : 0;
    const double weight_rest = bf16  ? (s.head_dim > 128 ? 0x1p-8 : 0x1p-16)
                               : f16 ? (exact ? 0x1p-22 : 0x1p-11)
                                     : 0;
    const int32_t group = s.n_heads / s.n_kv_heads;
    std::vector<double> scores((size_t)p.n_positions);
    std::vector<float> key((size_t)s.head_dim), value(key), expected((size_t)p.q_row());
    for (size_t row = 0; row < step.positions.size(); row++) {
        const int32_t position = step.positions[row], sequence = step.sequences[row];
        const uint16_t *got = out.data() + row * (size_t)(s.parts * out_stride);
        const uint16_t *rest = s.parts == 2 ? got + out_stride : nullptr;
        for (int64_t i = position < 0 ? 0 : p.q_row(); i < out_stride; i++) {
            const uint16_t behind = i < cuda_padded((int32_t)p.q_row()) ? 0 : 0x7777;
            CHECK(got[i] == behind && (!rest || rest[i] == behind), "row %zu, element %d is %04x", row,
                  (int)i, got[i]);
        }
        if (position < 0) {
            continue;
        }
        const struct kv_view view = {
            s.type,         p.k.data(),   p.v.data(), p.tables.data() + sequence * p.table_stride,
            p.block_stride, s.block_size, s.head_dim};
        const int32_t begin = s.window > 0 && position >= s.window ? position - s.window + 1 : 0;
        scalar.attention(expected.data(), p.query(sequence, position), group, &view, 0, s.n_kv_heads, begin,
                         position + 1, p.scale);
        for (int32_t head = 0; head < s.n_heads; head++) {
            const float *q = p.query(sequence, position) + head * s.head_dim;
            double max = -INFINITY, worst = 0, lowest = INFINITY, total = 0;
            std::vector<double> magnitude((size_t)s.head_dim);
            const auto element = [&](const std::vector<uint8_t> &cache, int32_t at, int32_t dim) {
                const int64_t block = view.block_table[at / s.block_size];
                const int64_t from =
                    block * p.block_stride +
                    ((int64_t)(head / group) * s.block_size + at % s.block_size) * s.head_dim + dim;
                if (s.type == KV_F32) {
                    float loaded;
                    memcpy(&loaded, cache.data() + 4 * from, 4);
                    return (double)loaded;
                }
                uint16_t half;
                memcpy(&half, cache.data() + 2 * from, 2);
                return (double)(s.type == KV_F16 ? f16_to_f32(half) : bf16_to_f32(half));
            };
            for (int32_t at = begin; at <= position; at++) {
                double dot = 0, size = 0;
                for (int32_t dim = 0; dim < s.head_dim; dim++) {
                    const double term = q[dim] * element(p.k, at, dim);
                    dot += term;
                    size += fabs(term);
                }
                scores[(size_t)at] = dot * p.scale;
                worst = fmax(worst, (query_rest + u * (s.head_dim + 2)) * size * p.scale);
                max = fmax(max, scores[(size_t)at]);
                lowest = fmin(lowest, scores[(size_t)at]);
            }
            worst += 4 * u * (fabs(max) + fmin(max - lowest, 104));
            for (int32_t at = begin; at <= position; at++) {
                const double weight = exp(scores[(size_t)at] - max);
                total += weight;
                for (int32_t dim = 0; dim < s.head_dim; dim++) {
                    magnitude[(size_t)dim] += weight * fabs(element(p.v, at, dim));
                }
            }
            const int32_t n = position + 1 - begin;
            const double relative = expm1(2 * worst) + weight_rest + u * (8 + n + 4 * (n / 64 + 2));
            for (int32_t dim = 0; dim < s.head_dim; dim++) {
                const int32_t at = head * s.head_dim + dim;
                const double wanted = fmax(-65504, fmin(65504, (double)expected[(size_t)at]));
                const double value_got = f16_to_f32(got[at]) + (rest ? f16_to_f32(rest[at]) / CUDA_REST : 0);
                const double subnormal = f16 ? n * 0x1p-39 / total : 0;
                const double allowed = 2 * relative * magnitude[(size_t)dim] / total + subnormal +
                                       fabs(wanted) * (rest ? 0x1p-22 : 0x1.02p-11) +
                                       (rest ? 0x1p-37 : 0x1p-25);
                const double err = fabs(value_got - wanted);
                CHECK(err <= allowed,
                      "%s, head_dim %d, %d heads, %d KV heads, blocks of %d, window %d, %s data, seed %d: "
                      "row %zu "
                      "(sequence %d, position %d), head %d, dimension %d is %g, expected %g +- %g",
                      TYPE_NAMES[s.type], s.head_dim, s.n_heads, s.n_kv_heads, s.block_size, s.window,
                      data_names[s.data], (int)s.seed, row, sequence, position, head, dim, value_got, wanted,
                      allowed);
                *error += err * err;
                const double rounded = f16_to_f32(f16_from_f32((float)wanted)) - wanted;
                *rounding += rounded * rounded;
            }
        }
    }
}

/* Rows that two steps have in common have the same bits. */
static void check_same(const struct problem &p, const struct step &a, const std::vector<uint16_t> &out_a,
                       const struct step &b, const std::vector<uint16_t> &out_b, int64_t out_stride,
                       const char *what)
{
    int32_t n_same = 0;
    for (size_t i = 0; i < a.positions.size(); i++) {
        for (size_t j = 0; j < b.positions.size(); j++) {
            if (a.positions[i] >= 0 && a.positions[i] == b.positions[j] && a.sequences[i] == b.sequences[j]) {
                const size_t row = (size_t)(p.shape.parts * out_stride); /* with what lies behind it */
                CHECK(!memcmp(&out_a[i * row], &out_b[j * row], row * sizeof out_a[0]),
                      "%s: sequence %d, position %d, %s, head_dim %d, %d heads, %d KV heads, window %d, seed "
                      "%d",
                      what, a.sequences[i], a.positions[i], TYPE_NAMES[p.shape.type], p.shape.head_dim,
                      p.shape.n_heads, p.shape.n_kv_heads, p.shape.window, (int)p.shape.seed);
                n_same++;
            }
        }
    }
    CHECK(n_same > 0, "%s: nothing to compare", what);
}

/* What the root mean square error may be, of what rounding the result to f16 alone gives: somewhat more than
 * it is, and less than with one part fewer of queries or weights. */
static double error_limit(const struct shape &s)
{
    if (s.parts == 1) {
        return s.plain() ? 1.01 : s.type == KV_F16 || s.head_dim <= 128 ? 1.2 : 5;
    }
    if (s.data == DATA_EXTREME) { /* scores of thousands */
        return 0.03;
    }
    return s.plain() ? 0.003 : s.type == KV_F16 ? 0.001 : 0.0075;
}

/* One mixed step (two chunks, single rows, dead rows) against the reference; again in another order of
 * threads; the chunks' rows one by one, spread over blocks and not; and in chunks that are cut elsewhere. */
static void test_shape(const struct shape &s, int32_t n_positions, int32_t chunk)
{
    double error = 0, rounding = 0;
    const struct problem p = problem_build(s, n_positions);
    const int64_t out_stride = cuda_padded((int32_t)p.q_row()) + 8;
    const int32_t last = n_positions - 1;
    struct step mixed, single, other;
    mixed.add(0, n_positions - chunk, chunk);
    mixed.add(1, last, 1);
    mixed.add(1, -1, 1);
    mixed.add(1, 0, chunk / 2 + 1);
    mixed.cut();
    const std::vector<uint16_t> out = run(p, mixed, last, out_stride, s.seed);
    check_rows(p, mixed, out, out_stride, &error, &rounding);
    const double ratio = rounding > 0 ? sqrt(error / rounding) : 0;
    fprintf(stderr, "%s, head_dim %d, %s data, %d part%s%s: error %.3g of what rounding to f16 gives\n",
            TYPE_NAMES[s.type], s.head_dim, data_names[s.data], s.parts, s.parts > 1 ? "s" : "",
            s.plain() ? ", plain" : "", ratio);
    CHECK(ratio <= error_limit(s), "error %g, at most %g expected", ratio, error_limit(s));
    CHECK(out == run(p, mixed, last, out_stride, s.seed + 1001), "another order of threads");
    single.add(0, last, 1);
    single.add(0, n_positions - chunk, 1);
    single.add(1, chunk / 2, 1);
    single.add(0, n_positions - chunk / 2, 1);
    single.cut();
    CHECK(single.tiles.size() == single.positions.size(), "%zu tiles of %zu single rows", single.tiles.size(),
          single.positions.size());
    const std::vector<uint16_t> spread = run(p, single, last, out_stride, s.seed);
    check_same(p, mixed, out, single, spread, out_stride, "prefill and decode");
    CHECK(spread == run(p, single, last, out_stride, s.seed + 1001), "another order of threads and blocks");
    /* A bound so high that rows are no longer spread. */
    check_same(p, mixed, out, single, run(p, single, 8191 * CUDA_ATTENTION_SPLIT / 3, out_stride, s.seed),
               out_stride, "decode without splits");
    other.add(0, n_positions - chunk, chunk / 3 + 1);
    other.cut();
    check_same(p, mixed, out, other, run(p, other, last, out_stride, s.seed), out_stride, "a shorter chunk");
}

/* Results beyond f16's end become its largest number, NaN stays. */
static void test_saturation(enum kv_type type, int32_t parts)
{
    const struct shape shape = {type, 8, 2, 1, 16, 0, DATA_RANDOM, 5, parts};
    struct problem p = problem_build(shape, 70);
    for (size_t i = 0; i < p.v.size() / kv_type_bytes(type); i += 8) {
        store(p.v, type, (int64_t)i, 1e6f);
        store(p.v, type, (int64_t)i + 1, -70000);
        store(p.v, type, (int64_t)i + 2, NAN);
    }
    const int64_t stride = cuda_padded((int32_t)p.q_row());
    for (int32_t n : {1, 20}) {
        struct step step;
        step.add(0, 70 - n, n);
        step.cut();
        const std::vector<uint16_t> out = run(p, step, 69, stride, 3);
        for (int32_t row = 0; row < parts * n; row++) { /* all parts */
            for (int64_t at = row * stride; at < row * stride + p.q_row(); at += 8) {
                const uint16_t *head = &out[(size_t)at];
                CHECK(head[0] == 0x7bff && head[1] == 0xfbff && (head[2] & 0x7fff) > 0x7c00 &&
                          fabsf(f16_to_f32(head[3])) <= 1,
                      "%s, %d rows, part %d of %d: %04x %04x %04x %04x", TYPE_NAMES[type], n, row % parts,
                      parts, head[0], head[1], head[2], head[3]);
            }
        }
    }
}

/* One key that all rows look at, with values of 0, and 63 whose weights are some 2^-22 of its: the result is
 * theirs alone, so each must keep its bits. */
static void test_small_weights(enum kv_type type, int32_t parts)
{
    enum { N = 64 };
    struct problem p = problem_build({type, 8, 2, 1, 16, 0, DATA_RANDOM, 5, parts}, N);
    double error = 0, rounding = 0;
    p.scale = 1;
    for (int32_t position = 0; position < N; position++) {
        const int64_t at = p.tables[(size_t)(position / 16)] * p.block_stride + position % 16 * 8;
        for (int32_t dim = 0; dim < 8; dim++) {
            store(p.k, type, at + dim,
                  position && dim == 0 ? -1.875f - 0.0078125f * (float)(position % 5) : 0);
            store(p.v, type, at + dim, position ? 1.0f : 0.0f);
        }
    }
    for (size_t i = 0; i < p.q.size(); i++) {
        p.q[i] = i % 8 == 0 ? 8.0f : 0.0f;
    }
    const int64_t stride = cuda_padded((int32_t)p.q_row());
    for (int32_t n : {1, 20}) {
        struct step step;
        step.add(0, N - n, n);
        step.cut();
        check_rows(p, step, run(p, step, N - 1, stride, 3), stride, &error, &rounding);
    }
}

static void test_tiles(void)
{
    const int32_t positions[] = {5, 6, 7, -1, -1, 0, 1, 2, 2, 3, 9},
                  sequences[] = {0, 0, 0, 0, 0, 1, 1, 2, 3, 3, 3};
    const struct cuda_attention_tile expected[] = {{0, 3}, {3, 1}, {4, 1}, {5, 2}, {7, 1}, {8, 2}, {10, 1}};
    struct cuda_attention_tile tiles[200];
    int32_t n = cuda_attention_tiles(tiles, positions, sequences, 11);
    CHECK(n == 7 && !memcmp(tiles, expected, sizeof expected), "%d tiles", n);
    int32_t many[200], zeros[200] = {};
    for (int32_t i = 0; i < 200; i++) {
        many[i] = i + 3;
    }
    n = cuda_attention_tiles(tiles, many, zeros, 200);
    CHECK(n == 4 && tiles[3].first == 192 && tiles[3].n == 8 && tiles[0].n == CUDA_ATTENTION_TILE, "%d tiles",
          n);
    CHECK(cuda_attention_tiles(tiles, many, zeros, 0) == 0, "no rows");
}

static void test_refusals(void)
{
    alignas(16) static uint16_t memory[512];
    alignas(16) static float floats[4096];
    static uint32_t counters[8];
    static int32_t zeros[8];
    static const struct cuda_attention_tile tile = {0, 1};
    struct cuda_attention good = {};
    good.out = {memory, 128, nullptr, 1};
    good.q = floats;
    good.q_stride = 128;
    good.n_heads = 2;
    good.n_kv_heads = 1;
    good.head_dim = 64;
    good.positions = good.sequences = good.block_tables = zeros;
    good.tiles = &tile;
    good.n_tiles = good.n_rows = good.table_stride = 1;
    good.block_size = 4;
    good.block_stride = 256;
    good.type = KV_BF16;
    good.k = good.v = memory;
    good.scale = 1;
    good.partials = floats;
    good.n_partials = 4096;
    good.counters = counters;
    good.n_counters = 8;
    struct error err = {};
#ifndef __CUDACC__ /* a card cannot read this memory */
    CHECK(!cuda_attention(&good, nullptr, &err), "%s", err.message);
#endif
    const auto refused = [&](void (*change)(struct cuda_attention *), const char *part) {
        struct cuda_attention bad = good;
        change(&bad);
        CHECK(cuda_attention(&bad, nullptr, &err) == STATUS_INVALID && strstr(err.message, part), "%s",
              err.message);
    };
    refused([](struct cuda_attention *a) { a->head_dim = 12; }, "heads of 12");
    refused([](struct cuda_attention *a) { a->head_dim = 264; }, "heads of 264");
    refused([](struct cuda_attention *a) { a->n_heads = 3, a->n_kv_heads = 2; }, "3 heads");
    refused([](struct cuda_attention *a) { a->n_tiles = 2; }, "2 tiles");
    refused([](struct cuda_attention *a) { a->out.stride = 120; }, "at least 128");
    refused([](struct cuda_attention *a) { a->out.scales = floats; }, "scales");
    refused([](struct cuda_attention *a) { a->out.parts = 0; }, "0 parts");
    refused([](struct cuda_attention *a) { a->q_stride = 127; }, "127");
    refused([](struct cuda_attention *a) { a->block_stride = 260; }, "260");
    refused([](struct cuda_attention *a) { a->n_partials = 100; }, "100 partials");
    refused([](struct cuda_attention *a) { a->n_counters = 0; }, "0 counters");
}

int main(void)
{
    checks_begin(60);
    kernels_init_cpu(&scalar, 0);
    test_tiles();
    test_refusals();
    for (int32_t parts : {1, 2}) {
        for (enum kv_type type : {KV_F32, KV_F16, KV_BF16}) {
            test_small_weights(type, parts);
        }
        test_saturation(KV_BF16, parts);
        test_saturation(KV_F32, parts);
    }
#ifdef TEST_FEW_SHAPES
    const struct shape shapes[] = {{KV_BF16, 8, 4, 1, 16, 0, DATA_RANDOM, 1},
                                   {KV_F32, 8, 2, 1, 4, 0, DATA_RANDOM, 2},
                                   {KV_F16, 8, 2, 1, 4, 0, DATA_RANDOM, 3, 2},
                                   {KV_BF16, 8, 2, 1, 4, 0, DATA_RANDOM, 4, 2}};
    for (const struct shape &s : shapes) {
        test_shape(s, s.type == KV_F32 ? 140 : 260, 6);
    }
#else
    const struct shape shapes[] = {
        {KV_BF16, 64, 4, 1, 32, 0, DATA_RANDOM, 1},        {KV_F16, 64, 8, 1, 16, 0, DATA_RANDOM, 2},
        {KV_BF16, 128, 2, 2, 32, 0, DATA_EXTREME, 3},      {KV_F16, 128, 4, 1, 32, 0, DATA_EXTREME, 4},
        {KV_BF16, 8, 8, 4, 3, 0, DATA_RANDOM, 5},          {KV_F16, 80, 3, 1, 8, 100, DATA_RANDOM, 6},
        {KV_BF16, 96, 7, 1, 1, 300, DATA_RANDOM, 7},       {KV_BF16, 256, 2, 1, 32, 0, DATA_RANDOM, 8},
        {KV_F16, 16, 17, 1, 32, 33, DATA_RANDOM, 9},       {KV_BF16, 32, 2, 1, 64, 1, DATA_ZERO, 10},
        {KV_F32, 64, 4, 2, 32, 0, DATA_RANDOM, 11},        {KV_F32, 256, 2, 1, 16, 100, DATA_EXTREME, 12},
        {KV_BF16, 64, 4, 1, 32, 0, DATA_RANDOM, 14, 2},    {KV_F16, 80, 3, 1, 8, 100, DATA_EXTREME, 16, 2},
        {KV_F32, 24, 2, 1, 3, 0, DATA_RANDOM, 18, 2},      {KV_F16, 128, 4, 1, 32, 0, DATA_RANDOM, 20, 2},
        {KV_BF16, 200, 2, 1, 16, 0, DATA_RANDOM, 22, 2},   {KV_BF16, 128, 4, 1, 32, 0, DATA_EXTREME, 24, 2},
        {KV_BF16, 128, 4, 1, 32, 0, DATA_RANDOM, 26, 2},   {KV_BF16, 96, 7, 1, 1, 300, DATA_RANDOM, 27, 2},
        {KV_F16, 64, 8, 1, 16, 0, DATA_RANDOM, 28, 2},     {KV_F16, 16, 17, 1, 32, 33, DATA_RANDOM, 29, 2},
        {KV_BF16, 112, 17, 1, 32, 33, DATA_RANDOM, 31, 2}, {KV_F16, 256, 2, 1, 16, 0, DATA_RANDOM, 32},
    };
#ifndef __CUDACC__
    simt_host_loads_reset();
#endif
    for (const struct shape &s : shapes) {
        test_shape(s, s.seed % 2 ? 530 : 300, 21);
    }
#ifndef __CUDACC__
    const struct simt_host_loads loads = simt_host_loads_get();
    CHECK(loads.loads > 0 && loads.wavefronts == loads.ideal,
          "%lld wavefronts of shared memory, %lld without conflicts", (long long)loads.wavefronts,
          (long long)loads.ideal);
#endif
#endif
    return checks_finish("cuda_attention");
}
