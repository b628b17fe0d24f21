/* The primitives of simt.h, each against its definition. Where a card runs this instead of the host's
 * runtime, the same must hold. */
#include "tests/cuda/support.h"

/* -- matrix products -- */

/* d = a b + c of whole matrices, stored row by row, through the fragments: the PTX ISA's tables, written out
 * here once more as the kernels' authors read them. */
SIMT_KERNEL(32, 1) product16(float *d, const uint16_t *a, const uint16_t *b, const float *c, bool bf16)
{
    const int32_t lane = simt_lane(), g = lane / 4, t = lane % 4;
    uint32_t fragment_a[4], fragment_b[2];
    float sum[4];
    for (int32_t i = 0; i < 4; i++) {
        const uint16_t *at = a + (g + 8 * (i & 1)) * 16 + 2 * t + 8 * (i >> 1);
        fragment_a[i] = at[0] | (uint32_t)at[1] << 16;
    }
    for (int32_t i = 0; i < 2; i++) {
        const uint16_t *at = b + (2 * t + 8 * i) * 8 + g;
        fragment_b[i] = at[0] | (uint32_t)at[8] << 16;
    }
    for (int32_t i = 0; i < 4; i++) {
        sum[i] = c[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)];
    }
    if (bf16) {
        simt_mma_bf16(sum, fragment_a, fragment_b);
    } else {
        simt_mma_f16(sum, fragment_a, fragment_b);
    }
    for (int32_t i = 0; i < 4; i++) {
        d[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = sum[i];
    }
}

SIMT_KERNEL(32, 1) product8(int32_t *d, const uint8_t *a, const uint8_t *b, const int32_t *c)
{
    const int32_t lane = simt_lane(), g = lane / 4, t = lane % 4;
    uint32_t fragment_a[4] = {0, 0, 0, 0}, fragment_b[2] = {0, 0};
    int32_t sum[4];
    for (int32_t i = 0; i < 4; i++) {
        for (int32_t byte = 0; byte < 4; byte++) {
            fragment_a[i] |= (uint32_t)a[(g + 8 * (i & 1)) * 32 + 4 * t + 16 * (i >> 1) + byte] << 8 * byte;
        }
    }
    for (int32_t i = 0; i < 2; i++) {
        for (int32_t byte = 0; byte < 4; byte++) {
            fragment_b[i] |= (uint32_t)b[(4 * t + 16 * i + byte) * 8 + g] << 8 * byte;
        }
    }
    for (int32_t i = 0; i < 4; i++) {
        sum[i] = c[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)];
    }
    simt_mma_s8(sum, fragment_a, fragment_b);
    for (int32_t i = 0; i < 4; i++) {
        d[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = sum[i];
    }
}

/* Rows in any order, the words of the four transposed matrices lane by lane. */
SIMT_KERNEL(32, 1) load_matrices(uint32_t *out, const uint32_t *values)
{
    SIMT_SHARED(simt_words, rows, [32]);
    const int32_t lane = simt_lane();
    for (int32_t i = 0; i < 4; i++) {
        rows[lane].word[i] = values[lane * 4 + i];
    }
    simt_warp_barrier();
    const simt_words words = simt_load_matrices(rows + (lane * 5 + 3) % 32);
    for (int32_t i = 0; i < 4; i++) {
        out[lane * 4 + i] = words.word[i];
    }
}

static void test_matrices(void)
{
    std::vector<uint32_t> values(128);
    for (uint32_t i = 0; i < 128; i++) { /* element e is e */
        values[i] = 2 * i | (2 * i + 1) << 16;
    }
    device_array<uint32_t> in(values), out(128);
    order_seed(3);
    CHECK_RUN(simt_launch({"load_matrices", 1, 32, 0, nullptr}, load_matrices, out.data, in.data));
    const std::vector<uint32_t> words = out.download();
    for (uint32_t lane = 0; lane < 32; lane++) {
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t column = lane / 4, row = 8 * i + lane % 4 * 2;
            const uint32_t low = (row * 5 + 3) % 32 * 8 + column,
                           high = ((row + 1) * 5 + 3) % 32 * 8 + column;
            CHECK(words[lane * 4 + i] == (low | high << 16), "lane %u, matrix %u: %08x", lane, i,
                  words[lane * 4 + i]);
        }
    }
}

static void test_product16(bool bf16)
{
    /* Small integers, no two rows or columns alike, exact in every order of additions. */
    std::vector<uint16_t> a(256), b(128);
    std::vector<float> c(128);
    for (int32_t i = 0; i < 256; i++) {
        float value = (float)((i * 37 + 11) % 251 - 125);
        a[(size_t)i] = bf16 ? bf16_from_f32(value) : f16_from_f32(value);
    }
    for (int32_t i = 0; i < 128; i++) {
        float value = (float)((i * 53 + 7) % 127 - 63);
        b[(size_t)i] = bf16 ? bf16_from_f32(value) : f16_from_f32(value);
        c[(size_t)i] = (float)(i * 1000);
    }
    device_array<uint16_t> device_a(a), device_b(b);
    device_array<float> device_c(c), device_d(128);
    simt_grid grid = {"product16", 1, 32, 0, nullptr};
    CHECK_RUN(simt_launch(grid, product16, device_d.data, device_a.data, device_b.data, device_c.data, bf16));
    std::vector<float> d = device_d.download();
    for (int32_t row = 0; row < 16; row++) {
        for (int32_t col = 0; col < 8; col++) {
            float sum = c[(size_t)(row * 8 + col)];
            for (int32_t k = 0; k < 16; k++) {
                uint16_t x = a[(size_t)(row * 16 + k)], y = b[(size_t)(k * 8 + col)];
                sum += bf16 ? bf16_to_f32(x) * bf16_to_f32(y) : f16_to_f32(x) * f16_to_f32(y);
            }
            CHECK(d[(size_t)(row * 8 + col)] == sum, "bf16 %d, row %d, column %d: %g, expected %g", bf16, row,
                  col, d[(size_t)(row * 8 + col)], sum);
        }
    }
}

static void test_product8(void)
{
    std::vector<uint8_t> a(512), b(256);
    std::vector<int32_t> c(128);
    for (size_t i = 0; i < 512; i++) {
        a[i] = (uint8_t)(i * 37 + 11);
        b[i / 2] = (uint8_t)(i * 53 + 7);
        c[i / 4] = (int32_t)i * 100000 - 7;
    }
    device_array<uint8_t> device_a(a), device_b(b);
    device_array<int32_t> device_c(c), device_d(128);
    simt_grid grid = {"product8", 1, 32, 0, nullptr};
    CHECK_RUN(simt_launch(grid, product8, device_d.data, device_a.data, device_b.data, device_c.data));
    std::vector<int32_t> d = device_d.download();
    for (size_t i = 0; i < 128; i++) {
        int32_t sum = c[i];
        for (size_t k = 0; k < 32; k++) {
            sum += (int8_t)a[i / 8 * 32 + k] * (int8_t)b[k * 8 + i % 8];
        }
        CHECK(d[i] == sum, "row %zu, column %zu: %d, expected %d", i / 8, i % 8, d[i], sum);
    }
}

/* -- bits -- */

struct prmt_case {
    uint32_t low, high, selector, out;
};

SIMT_KERNEL(32, 1) prmt_all(prmt_case *cases, int32_t n)
{
    for (int32_t i = simt_thread(); i < n; i += simt_n_threads()) {
        cases[i].out = simt_prmt(cases[i].low, cases[i].high, cases[i].selector);
    }
}

static void test_prmt(void)
{
    struct rng rng = {3};
    std::vector<prmt_case> cases(4096);
    for (size_t i = 0; i < cases.size(); i++) {
        cases[i] = {(uint32_t)rng_next(&rng), (uint32_t)rng_next(&rng), (uint32_t)rng_next(&rng), 0};
    }
    device_array<prmt_case> device(cases);
    CHECK_RUN(simt_launch({"prmt", 1, 32, 0, nullptr}, prmt_all, device.data, (int32_t)cases.size()));
    cases = device.download();
    int32_t n_replicated = 0;
    for (const prmt_case &c : cases) {
        uint8_t bytes[8], out[4];
        memcpy(bytes, &c.low, 4);
        memcpy(bytes + 4, &c.high, 4);
        for (int32_t i = 0; i < 4; i++) {
            uint32_t nibble = c.selector >> 4 * i & 15;
            out[i] = bytes[nibble & 7];
            if (nibble & 8) {
                out[i] = (int8_t)out[i] < 0 ? 0xff : 0x00;
                n_replicated++;
            }
        }
        uint32_t expected;
        memcpy(&expected, out, 4);
        CHECK(c.out == expected, "prmt(%08x, %08x, %08x) is %08x, expected %08x", c.low, c.high, c.selector,
              c.out, expected);
    }
    CHECK(n_replicated > 1000, "only %d nibbles had bit 3", n_replicated);
}

/* -- 16-bit pairs -- */

struct pair_case {
    uint32_t a, b, c, out, difference;
    float low, high;
    uint32_t f16, bf16;
    float f16_low, f16_high;
};

SIMT_KERNEL(32, 1) pairs_all(pair_case *cases, int32_t n)
{
    for (int32_t i = simt_thread(); i < n; i += simt_n_threads()) {
        pair_case *c = cases + i;
        c->out = simt_f16_pair_fma(c->a, c->b, c->c);
        c->difference = simt_f16_pair_sub(c->a, c->c);
        c->f16 = simt_f16_pair(c->low, c->high);
        c->bf16 = simt_bf16_pair(c->low, c->high);
        c->f16_low = simt_f16_low(c->a);
        c->f16_high = simt_f16_high(c->a);
    }
}

/* Any finite half of ordinary size. */
static uint16_t random_half(struct rng *rng)
{
    return (uint16_t)(rng_below(rng, 2) << 15 | (rng_below(rng, 18) + 6) << 10 | rng_below(rng, 1024));
}

/* Every half between the neighbours is further from the exact value: found by trying them. */
static bool nearest_half(uint16_t half, long double exact)
{
    long double error = fabsl((long double)f16_to_f32(half) - exact);
    for (int32_t step = -1; step <= 1; step += 2) {
        uint16_t other = (uint16_t)(half + step);
        long double other_error = fabsl((long double)f16_to_f32(other) - exact);
        if (other_error < error || (other_error == error && (half & 1))) {
            return false; /* not nearest, or a tie that went to the odd one */
        }
    }
    return true;
}

static void test_pairs(void)
{
    struct rng rng = {4};
    std::vector<pair_case> cases(8192);
    for (pair_case &c : cases) {
        c = {};
        uint16_t half[6];
        for (uint16_t &h : half) {
            h = random_half(&rng);
        }
        c.a = half[0] | (uint32_t)half[1] << 16;
        c.b = (half[2] & 0x83ff) | 0x3800 | (uint32_t)((half[3] & 0x83ff) | 0x3800) << 16; /* 0.5 to 1 */
        c.c = half[4] | (uint32_t)half[5] << 16;
        c.low = rng_float(&rng);
        c.high = rng_float(&rng);
    }
    /* 2049 * 1 - 2^-24: nearer to 2048 than a double rounding believes; a tie without the last term. */
    cases[0].a = 0x6800 | 0x6800u << 16;
    cases[0].b = 0x3c00 | 0x3c00u << 16;
    cases[0].c = 0x3c00 | 0x3c01u << 16;
    /* 1024 + byte - 1152, which is exact: a table's entry (any4_tile.cuh). */
    for (uint32_t byte = 0; byte < 256; byte++) {
        cases[1 + byte].a = (0x6400 | byte) | (0x64ff - byte) << 16;
        cases[1 + byte].c = 0x64806480;
    }
    device_array<pair_case> device(cases);
    CHECK_RUN(simt_launch({"pairs", 1, 32, 0, nullptr}, pairs_all, device.data, (int32_t)cases.size()));
    cases = device.download();
    for (int32_t byte = 0; byte < 256; byte++) {
        const uint32_t difference = cases[(size_t)byte + 1].difference;
        CHECK(f16_to_f32((uint16_t)difference) == byte - 128 &&
                  f16_to_f32((uint16_t)(difference >> 16)) == 127 - byte,
              "entry %d is %08x", byte, difference);
    }
    for (const pair_case &c : cases) {
        for (int32_t shift = 0; shift < 32; shift += 16) {
            uint16_t a = (uint16_t)(c.a >> shift), b = (uint16_t)(c.b >> shift),
                     add = (uint16_t)(c.c >> shift);
            long double exact = (long double)f16_to_f32(a) * f16_to_f32(b) + f16_to_f32(add);
            uint16_t out = (uint16_t)(c.out >> shift);
            if ((out & 0x7fff) && (out & 0x7c00) != 0x7c00) {
                CHECK(nearest_half(out, exact), "fma(%04x, %04x, %04x) is %04x", a, b, add, out);
            }
            out = (uint16_t)(c.difference >> shift);
            if ((out & 0x7fff) && (out & 0x7c00) != 0x7c00) {
                exact = (long double)f16_to_f32(a) - f16_to_f32(add);
                CHECK(nearest_half(out, exact), "%04x - %04x is %04x", a, add, out);
            }
        }
        CHECK(c.f16 == (f16_from_f32(c.low) | (uint32_t)f16_from_f32(c.high) << 16), "%g %g", c.low, c.high);
        CHECK(c.bf16 == (bf16_from_f32(c.low) | (uint32_t)bf16_from_f32(c.high) << 16), "%g %g", c.low,
              c.high);
        CHECK(c.f16_low == f16_to_f32((uint16_t)c.a) && c.f16_high == f16_to_f32((uint16_t)(c.a >> 16)),
              "%08x", c.a);
    }
}

/* -- warps -- */

SIMT_KERNEL(96, 1) shuffles(uint32_t *out)
{
    const int32_t thread = simt_thread();
    const uint32_t value = (uint32_t)thread * 1000 + 1;
    uint32_t *mine = out + thread * 6;
    mine[0] = simt_shuffle(value, (thread * 5 + 3) % 32);
    mine[1] = simt_shuffle_xor(value, 16);
    mine[2] = simt_shuffle_xor(value, 3);
    mine[3] = simt_ballot(thread % 3 == 0);
    mine[4] = (uint32_t)simt_popcount(mine[3] << thread % 32);
    mine[5] = (uint32_t)simt_lowest_bit(0xa0000000u >> thread % 30);
}

static void test_shuffles(void)
{
    device_array<uint32_t> device(96 * 6);
    CHECK_RUN(simt_launch({"shuffles", 1, 96, 0, nullptr}, shuffles, device.data));
    std::vector<uint32_t> out = device.download();
    for (uint32_t thread = 0; thread < 96; thread++) {
        uint32_t lane = thread % 32, first = thread - lane, ballot = 0, ones = 0;
        for (uint32_t i = 0; i < 32; i++) {
            ballot |= (uint32_t)((first + i) % 3 == 0) << i;
            ones += i + lane < 32 && (first + i) % 3 == 0;
        }
        const uint32_t expected[] = {(first + (thread * 5 + 3) % 32) * 1000 + 1,
                                     (first + (lane ^ 16)) * 1000 + 1,
                                     (first + (lane ^ 3)) * 1000 + 1,
                                     ballot,
                                     ones,
                                     29 - thread % 30};
        for (uint32_t i = 0; i < 6; i++) {
            CHECK(out[thread * 6 + i] == expected[i], "thread %u, operation %u: %u, expected %u", thread, i,
                  out[thread * 6 + i], expected[i]);
        }
    }
}

/* -- memory -- */

/* Reverses 64 words through shared memory, by copies in two groups; lane 0's second half stays zeros. */
SIMT_KERNEL(16, 1) copies(uint32_t *out, const uint32_t *in)
{
    SIMT_DYNAMIC_SHARED(memory);
    uint32_t *words = reinterpret_cast<uint32_t *>(memory);
    const int32_t thread = simt_thread();
    if (thread < 8) {
        simt_copy_async(words + thread * 4, in + thread * 4, true);
    }
    simt_copy_commit();
    if (thread < 8) {
        simt_copy_async(words + 32 + thread * 4, in + 32 + thread * 4, thread != 0);
    }
    simt_copy_commit();
    simt_copy_wait<1>();
    simt_barrier();
    out[2 * thread] = words[31 - 2 * thread];
    out[2 * thread + 1] = words[30 - 2 * thread];
    simt_copy_wait<0>();
    simt_barrier();
    out[32 + 2 * thread] = words[63 - 2 * thread];
    out[33 + 2 * thread] = words[62 - 2 * thread];
}

static void test_copies(void)
{
    std::vector<uint32_t> in(64);
    for (uint32_t i = 0; i < 64; i++) {
        in[i] = i + 100;
    }
    device_array<uint32_t> device_in(in), device_out(64);
    CHECK_RUN(simt_launch({"copies", 1, 16, 256, nullptr}, copies, device_out.data, device_in.data));
    std::vector<uint32_t> out = device_out.download();
    for (uint32_t i = 0; i < 64; i++) {
        uint32_t at = i < 32 ? 31 - i : 63 - (i - 32);
        uint32_t expected = at >= 32 && at < 36 ? 0 : in[at];
        CHECK(out[i] == expected, "word %u: %u, expected %u", i, out[i], expected);
    }
}

/* Sums over blocks by the last one to finish, in the order of the blocks. */
SIMT_KERNEL(64, 1)
last_block(float *sum, float *parts, uint32_t *counter, uint32_t *largest, uint64_t *smallest)
{
    SIMT_SHARED(uint32_t, before, [1]);
    SIMT_SHARED(float, values, [64]);
    const int32_t thread = simt_thread();
    values[thread] = (float)(simt_block() * 64 + thread);
    simt_atomic_max(largest, (uint32_t)(simt_block() * 64 + thread));
    simt_atomic_min(smallest, (uint64_t)(simt_block() * 64 + thread + 3) << 32 | 5);
    simt_barrier();
    if (thread == 0) {
        float part = 0;
        for (int32_t i = 0; i < 64; i++) {
            part += values[i];
        }
        parts[simt_block()] = part;
    }
    simt_barrier();
    if (thread == 0) {
        before[0] = simt_arrive(counter);
    }
    simt_barrier();
    if (before[0] == (uint32_t)simt_n_blocks() - 1 && thread == 0) {
        float total = 0;
        for (int32_t i = 0; i < simt_n_blocks(); i++) {
            total += parts[i];
        }
        *sum = total;
        *counter = 0;
    }
}

static void test_last_block(void)
{
    device_array<float> sum(1), parts(7);
    device_array<uint32_t> counters(std::vector<uint32_t>{0, 0});
    device_array<uint64_t> smallest(std::vector<uint64_t>{UINT64_MAX});
    CHECK_RUN(simt_launch({"last_block", 7, 64, 0, nullptr}, last_block, sum.data, parts.data, counters.data,
                          counters.data + 1, smallest.data));
    CHECK(smallest.download()[0] == (3ull << 32 | 5), "%llx", (unsigned long long)smallest.download()[0]);
    CHECK(sum.download()[0] == 447.0f * 448 / 2, "%g", sum.download()[0]);
    CHECK(counters.download()[0] == 0 && counters.download()[1] == 447, "%u", counters.download()[1]);
}

#ifndef __CUDACC__
/* What a thread finds where a copy goes, before and after it has waited. */
SIMT_KERNEL(32, 1) early_copy(uint32_t *out, const simt_words *from)
{
    SIMT_SHARED(simt_words, words, [1]);
    if (simt_thread() == 0) {
        words[0].word[0] = 7;
        simt_copy_async(words, from, true);
        simt_copy_commit();
        out[0] = words[0].word[0];
        simt_copy_wait<0>();
        out[1] = words[0].word[0];
    }
}

static void test_early_copies(void)
{
    const simt_words from = {{9, 9, 9, 9}};
    for (bool early : {true, false}) {
        uint32_t out[2] = {};
        simt_host_copy_early(early);
        CHECK_RUN(simt_launch({"early_copy", 1, 32, 0, nullptr}, early_copy, out, &from));
        CHECK(out[0] == (early ? 9u : 7u) && out[1] == 9, "early %d: %u, then %u", early, out[0], out[1]);
    }
}
#endif

#ifndef __CUDACC__
/* Shared memory, static and dynamic, is NaN at the start of every block, also behind a block that wrote it.
 */
SIMT_KERNEL(32, 1) poison(uint32_t *n_numbers)
{
    SIMT_SHARED(float, fixed, [64]);
    SIMT_SHARED(uint16_t, halves, [2][32]);
    SIMT_DYNAMIC_SHARED(memory);
    float *open = reinterpret_cast<float *>(memory);
    const int32_t thread = simt_thread();
    for (int32_t i = thread; i < 64; i += 32) {
        simt_atomic_add(n_numbers, fixed[i] == fixed[i] || open[i] == open[i]);
        fixed[i] = open[i] = 1;
    }
    float half = f16_to_f32(halves[1][thread]), bfloat = bf16_to_f32(halves[0][thread]);
    simt_atomic_add(n_numbers, half == half || bfloat == bfloat);
}

static void test_poison(void)
{
    device_array<uint32_t> n_numbers(std::vector<uint32_t>{0});
    CHECK_RUN(simt_launch({"poison", 3, 32, 256, nullptr}, poison, n_numbers.data));
    CHECK(n_numbers.download()[0] == 0, "%u", n_numbers.download()[0]);
}

/* The order of threads differs from seed to seed and from pass to pass, and is the seed's alone. */
SIMT_KERNEL(64, 1) order(uint32_t *next, uint32_t *places)
{
    for (int32_t pass = 0; pass < 2; pass++) {
        places[pass * 64 + simt_thread()] = simt_atomic_add(next + pass, 1);
        simt_barrier();
    }
}

static std::vector<uint32_t> order_of(uint64_t seed)
{
    device_array<uint32_t> next(std::vector<uint32_t>{0, 0}), places(128);
    simt_host_seed(seed);
    CHECK_RUN(simt_launch({"order", 1, 64, 0, nullptr}, order, next.data, places.data));
    return places.download();
}

static void test_order(void)
{
    std::vector<uint32_t> first = order_of(1), again = order_of(1), other = order_of(2);
    CHECK(first == again, "one seed, two orders");
    CHECK(first != other, "two seeds, one order");
    CHECK(!std::equal(first.begin(), first.begin() + 64, first.begin() + 64), "both passes in one order");
}

/* The tried cases of bank conflicts: a table in the lane's own bank, a compact one, rows of 256 bytes. */
SIMT_KERNEL(32, 1) conflicts(int32_t which, uint32_t *out)
{
    SIMT_DYNAMIC_SHARED(memory);
    const int32_t lane = simt_lane();
    uint32_t sum = 0;
    if (which == 0) {
        sum = simt_load_shared(reinterpret_cast<const uint32_t *>(memory) + lane + 32 * (lane * 7 % 16));
    } else if (which == 1) {
        sum = simt_load_shared(reinterpret_cast<const uint32_t *>(memory) + 32 * (lane % 4));
    } else if (which == 2) {
        sum =
            simt_load_shared(reinterpret_cast<const simt_words *>(memory) + lane / 4 * 16 + lane % 4).word[0];
    } else if (which == 3) {
        sum = simt_load_shared(reinterpret_cast<const uint32_t *>(memory)); /* one word for all */
    } else {
        sum = simt_load_shared(reinterpret_cast<const simt_words *>(memory) + lane).word[0];
    }
    out[lane] = sum;
}

static void test_conflicts(void)
{
    const int64_t expected[][2] = {{1, 1}, {4, 1}, {8, 4}, {1, 1}, {4, 4}}; /* wavefronts, ideal */
    device_array<uint32_t> out(32);
    for (int32_t which = 0; which < 5; which++) {
        simt_host_loads_reset();
        CHECK_RUN(simt_launch({"conflicts", 1, 32, 4096, nullptr}, conflicts, which, out.data));
        struct simt_host_loads loads = simt_host_loads_get();
#ifndef SIMT_TSAN
        CHECK(loads.loads == 1 && loads.wavefronts == expected[which][0] && loads.ideal == expected[which][1],
              "case %d: %lld loads, %lld wavefronts, ideal %lld", which, (long long)loads.loads,
              (long long)loads.wavefronts, (long long)loads.ideal);
#else
        (void)expected;
        (void)loads;
#endif
    }
}
#endif

int main(void)
{
    checks_begin(60);
#ifndef __CUDACC__
    test_early_copies();
    test_poison();
    test_order();
    test_conflicts();
    simt_host_seed(1);
#endif
    test_product16(true);
    test_product16(false);
    test_product8();
    test_matrices();
    test_prmt();
    test_pairs();
    test_shuffles();
    test_copies();
    test_last_block();
    return checks_finish("cuda_runtime");
}
