/* Sampling on the card against engine/sampler.c: the same tokens, but where a cut or the random number lies
 * within rounding of a boundary. */
#include <algorithm>

#include "kernels/cuda/sampling.h"
#include "tests/cuda/support.h"
extern "C" {
#include "engine/sampler.h"
}

static int64_t n_draws, n_mismatches;

enum logit_kind {
    LOGITS_NORMAL, /* a bell of width 3 */
    LOGITS_PEAKED, /* a few far above the rest */
    LOGITS_TIES,   /* seven different values, 0 with both signs among them */
    LOGITS_HOLES,  /* mostly -infinity, some NaN */
    LOGITS_EQUAL,
    LOGITS_HUGE, /* up to 2^100: most weights are 0 */
    N_LOGIT_KINDS,
};

static std::vector<float> logits_make(int32_t n, enum logit_kind kind, struct rng *rng)
{
    std::vector<float> logits((size_t)n);
    for (float &logit : logits) {
        const float bell = (rng_float(rng) + rng_float(rng) + rng_float(rng) + rng_float(rng)) * 2.6f;
        switch (kind) {
        case LOGITS_NORMAL:
            logit = bell;
            break;
        case LOGITS_PEAKED:
            logit = rng_below(rng, 100) ? bell : bell + 12;
            break;
        case LOGITS_TIES:
            logit = (float)(rng_below(rng, 7) - 3) * (rng_below(rng, 2) ? 1.0f : -1.0f);
            break;
        case LOGITS_HOLES:
            logit = rng_below(rng, 4) == 0 ? bell : rng_below(rng, 4) ? -INFINITY : NAN;
            break;
        case LOGITS_EQUAL:
            logit = -1.5f;
            break;
        default:
            logit = ldexpf(rng_float(rng), rng_below(rng, 100));
            break;
        }
    }
    if (kind == LOGITS_HOLES) {
        logits[(size_t)(n / 2)] = 1; /* one at least */
    }
    return logits;
}

struct candidate {
    float value;
    int32_t id;
};

/* How near the draw comes to another result, in parts of the sum of weights: distances of the nucleus's end
 * and of the target from the nearest running sum, and of min_p from the nearest logit. */
static double distance(const std::vector<float> &logits, const struct cuda_sample_row &row)
{
    std::vector<struct candidate> all;
    const float inverse = 1.0f / row.temperature;
    for (size_t i = 0; i < logits.size(); i++) {
        if (logits[i] > -INFINITY) {
            all.push_back({logits[i] * inverse, (int32_t)i});
        }
    }
    const auto better = [](const struct candidate &a, const struct candidate &b) {
        return a.value > b.value || (a.value == b.value && a.id < b.id);
    };
    const double max = (double)std::min_element(all.begin(), all.end(), better)->value;
    double nearest = INFINITY, total = 0, sum = 0;
    const bool top_k = row.top_k > 0 && row.top_k < (int32_t)all.size();
    if (top_k || row.top_p < 1) {
        std::sort(all.begin(), all.end(), better);
        all.resize(top_k ? (size_t)row.top_k : all.size());
    }
    for (const struct candidate &c : all) {
        total += exp(c.value - max);
    }
    if (row.top_p < 1) {
        size_t n = 0;
        while (n < all.size() && (n == 0 || sum < row.top_p * total)) {
            sum += exp(all[n++].value - max);
            nearest = fmin(nearest, fabs(sum - row.top_p * total) / total);
        }
        all.resize(n);
    }
    if (row.min_p > 0) {
        const double floor = max + log((double)row.min_p);
        for (const struct candidate &c : all) {
            nearest = fmin(nearest, fabs((double)c.value - floor));
        }
        all.erase(std::remove_if(all.begin(), all.end(),
                                 [&](const struct candidate &c) { return (double)c.value < floor; }),
                  all.end());
    }
    total = sum = 0;
    for (const struct candidate &c : all) {
        total += exp(c.value - max);
    }
    for (const struct candidate &c : all) {
        sum += exp(c.value - max);
        nearest = fmin(nearest, fabs(sum - sampler_uniform(row.seed, row.position) * total) / total);
    }
    return nearest;
}

/* One launch over rows of their own parameters, some of the same logits, some dead. */
static void test_rows(int32_t n_vocab, int32_t n_rows, enum logit_kind kind, uint64_t seed)
{
    enum { N_LOGIT_ROWS = 2 };
    static const float temperatures[] = {0, 1, 0.7f, 1.5f, 1e-3f, 1e-42f},
                       top_ps[] = {1, 0.9f, 0.5f, 0.99f, 1e-6f}, min_ps[] = {0, 0, 0.05f, 1};
    static const int32_t top_ks[] = {0, 1, 40, 600, 1 << 20};
    struct rng rng = {seed * 977 + (uint64_t)kind};
    struct error err = {};
    const int64_t stride = n_vocab + 3;
    std::vector<std::vector<float>> logits;
    std::vector<float> all((size_t)(N_LOGIT_ROWS * stride), INFINITY);
    for (int32_t i = 0; i < N_LOGIT_ROWS; i++) {
        logits.push_back(logits_make(n_vocab, kind, &rng));
        memcpy(all.data() + i * stride, logits[(size_t)i].data(), (size_t)n_vocab * sizeof(float));
    }
    std::vector<struct cuda_sample_row> rows((size_t)n_rows);
    for (struct cuda_sample_row &row : rows) {
        row.logit_row = rng_below(&rng, 12) ? rng_below(&rng, N_LOGIT_ROWS) : -1;
        row.temperature = temperatures[rng_below(&rng, 12) % 9 % 6];
        row.top_p = top_ps[rng_below(&rng, 5)];
        row.min_p = min_ps[rng_below(&rng, 4)];
        row.top_k = top_ks[rng_below(&rng, 5)];
        row.seed = rng_next(&rng);
        row.position = (uint64_t)rng_below(&rng, 4000);
    }
    device_array<float> device_logits(all);
    device_array<struct cuda_sample_row> device_rows(rows);
    device_array<int32_t> tokens(std::vector<int32_t>((size_t)n_rows, -7));
    order_seed(seed);
    CHECK(!cuda_sample(tokens.data, device_logits.data, stride, n_vocab, device_rows.data, n_rows, nullptr,
                       &err),
          "%s", err.message);
    const std::vector<int32_t> out = tokens.download();
    struct sampler *sampler = NULL;
    CHECK(!sampler_open(&sampler, n_vocab, &err), "%s", err.message);
    for (size_t i = 0; i < rows.size(); i++) {
        const struct cuda_sample_row &row = rows[i];
        int32_t expected = -1;
        if (row.logit_row >= 0) {
            struct generate_params params = {};
            params.repetition_penalty = 1;
            params.temperature = row.temperature;
            params.top_p = row.top_p;
            params.min_p = row.min_p;
            params.top_k = row.top_k;
            params.seed = row.seed;
            struct sampler_context context = {};
            context.params = &params;
            context.n_output = (int32_t)row.position;
            expected = sampler_draw(sampler, logits[(size_t)row.logit_row].data(), &context);
        }
        n_draws++;
        bool same = out[i] == expected;
        if (!same && row.logit_row >= 0 && row.temperature > 0 && out[i] >= 0 && out[i] < n_vocab) {
            n_mismatches++;
            same = distance(logits[(size_t)row.logit_row], row) <= 1e-6;
        }
        CHECK(same,
              "vocabulary of %d, logits %d, seed %d, row %zu: temperature %g, top_k %d, top_p %g, min_p %g: "
              "token %d, "
              "expected %d",
              n_vocab, (int)kind, (int)seed, i, row.temperature, row.top_k, row.top_p, row.min_p, out[i],
              expected);
    }
    sampler_close(sampler);
    order_seed(seed + 1000);
    CHECK(!cuda_sample(tokens.data, device_logits.data, stride, n_vocab, device_rows.data, n_rows, nullptr,
                       &err) &&
              tokens.download() == out,
          "another order of threads");
}

static int32_t draw_one(const std::vector<float> &logits, float temperature, float top_p = 1,
                        uint64_t seed = 5)
{
    struct error err = {};
    const struct cuda_sample_row row = {0, temperature, top_p, 0, 0, seed, 6};
    device_array<float> device_logits(logits);
    device_array<struct cuda_sample_row> device_row(std::vector<struct cuda_sample_row>(1, row));
    device_array<int32_t> token(1);
    const int32_t n = (int32_t)logits.size();
    CHECK(!cuda_sample(token.data, device_logits.data, n, n, device_row.data, 1, nullptr, &err), "%s",
          err.message);
    return token.download()[0];
}

static void test_unusable(void)
{
    const float nan = NAN, inf = INFINITY;
    for (float temperature : {0.0f, 1.0f}) {
        CHECK(draw_one({1, inf, 2}, temperature) == -1, "an infinite logit");
        CHECK(draw_one({-inf, -inf}, temperature) == -1, "nothing but -infinity");
        CHECK(draw_one({nan, nan}, temperature) == -1, "nothing but NaN");
        CHECK(draw_one({nan, -inf, -3, nan}, temperature) == 2, "one number");
    }
    CHECK(draw_one({-0.0f, 0.0f, -1}, 0) == 0, "zeros of both signs are a tie");
    CHECK(draw_one({1, 3, 3, 2}, 0) == 1, "ties go to the lower id");
    for (uint64_t seed = 0; seed < 8; seed++) { /* the nucleus ends exactly behind the second */
        CHECK(draw_one({0, 2, 2, 2, 2, -200}, 1e-2f, 0.5f, seed) <= 2,
              "a nucleus of half of four equal weights");
    }
}

static void test_refusals(void)
{
    struct error err = {};
    CHECK(cuda_sample(nullptr, nullptr, 4, 5, nullptr, 1, nullptr, &err) == STATUS_INVALID, "%s",
          err.message);
    CHECK(cuda_sample(nullptr, nullptr, 4, 0, nullptr, 1, nullptr, &err) == STATUS_INVALID, "%s",
          err.message);
    CHECK(cuda_sample(nullptr, nullptr, 5, 5, nullptr, 0, nullptr, &err) == STATUS_INVALID, "%s",
          err.message);
    CHECK(cuda_sample(nullptr, nullptr, 1 << 23, (1 << 22) + 1, nullptr, 1, nullptr, &err) == STATUS_INVALID,
          "%s", err.message);
}

int main(void)
{
    checks_begin(60);
    test_refusals();
    test_unusable();
#ifdef TEST_FEW_SHAPES
    test_rows(700, 6, LOGITS_TIES, 1);
    test_rows(700, 6, LOGITS_NORMAL, 2);
#else
    for (int32_t kind = 0; kind < N_LOGIT_KINDS; kind++) {
        uint64_t seed = 1;
        for (int32_t n_vocab : {1, 2, 50, 300, 1000, 2600}) {
            test_rows(n_vocab, 30, (enum logit_kind)kind, seed++);
        }
        test_rows(20000, 6, (enum logit_kind)kind, seed++);
    }
#endif
    CHECK(n_mismatches * 100 <= n_draws, "too many to be within rounding");
    fprintf(stderr, "%lld of %lld draws differ, all within rounding of a boundary\n", (long long)n_mismatches,
            (long long)n_draws);
    return checks_finish("cuda_sampling");
}
