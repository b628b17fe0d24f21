/* The sampler against plain definitions. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "engine/sampler.h"

enum { VOCAB = 50 };

static struct sampler *sampler;
static float logits[VOCAB];

static void set_up(void)
{
    struct error err;
    cr_assert_eq(sampler_open(&sampler, VOCAB, &err), STATUS_OK);
    for (int i = 0; i < VOCAB; i++) {
        logits[i] = (float)sin(i * 1.7) * 3.0f;
    }
}

static void tear_down(void)
{
    sampler_close(sampler);
}

TestSuite(sampler, .init = set_up, .fini = tear_down);

static int32_t draw_with(struct generate_params *params, uint64_t seed)
{
    struct sampler_context context = {.params = params};
    params->seed = seed;
    return sampler_draw(sampler, logits, &context);
}

/* Draws many seeds and compares the frequencies with probabilities p (n entries): chi-squared per degree of
 * freedom. */
static void check_frequencies(struct generate_params *params, const double *p)
{
    enum { DRAWS = 40000 };
    double counts[VOCAB] = {0}, chi = 0;
    int n_possible = 0;
    for (uint64_t seed = 0; seed < DRAWS; seed++) {
        counts[draw_with(params, seed)]++;
    }
    for (int i = 0; i < VOCAB; i++) {
        if (p[i] == 0) {
            cr_expect_eq(counts[i], 0, "token %d drawn %g times, probability 0", i, counts[i]);
        } else {
            chi += (counts[i] - DRAWS * p[i]) * (counts[i] - DRAWS * p[i]) / (DRAWS * p[i]);
            n_possible++;
        }
    }
    if (n_possible > 1) {
        cr_expect(chi / (n_possible - 1) < 2.0, "chi squared %g over %d", chi, n_possible - 1);
    }
}

static int by_logit(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return logits[x] != logits[y] ? (logits[x] < logits[y] ? 1 : -1) : x - y;
}

/* The definition: sort, cut at k, cut at the nucleus, cut at min_p of the best, renormalise. */
static void probabilities(const struct generate_params *params, double *p)
{
    int order[VOCAB], n = VOCAB;
    double sum = 0, cumulative = 0;
    for (int i = 0; i < VOCAB; i++) {
        order[i] = i;
        p[i] = 0;
    }
    qsort(order, VOCAB, sizeof *order, by_logit);
    if (params->top_k > 0) {
        n = params->top_k;
    }
    for (int i = 0; i < n; i++) {
        sum += p[order[i]] = exp(logits[order[i]] / (double)params->temperature);
    }
    int kept = 0;
    while (kept < n && (kept == 0 || cumulative < (double)params->top_p * sum)) {
        cumulative += p[order[kept++]];
    }
    sum = 0;
    for (int i = 0; i < VOCAB; i++) {
        if (i >= kept || p[order[i]] < (double)params->min_p * p[order[0]]) {
            p[order[i]] = 0;
        }
        sum += p[order[i]];
    }
    for (int i = 0; i < VOCAB; i++) {
        p[i] /= sum;
    }
}

Test(sampler, filters_follow_their_definition)
{
    static const struct {
        float temperature, top_p, min_p;
        int32_t top_k;
    } cases[] = {{1, 1, 0, 0},    {0.7f, 1, 0, 0},      {1, 0.9f, 0, 0}, {1, 1, 0, 5},
                 {1, 1, 0.2f, 0}, {2, 0.8f, 0.05f, 20}, {1, 0.3f, 0, 0}, {1, 1, 0, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct generate_params params;
        double p[VOCAB];
        generate_params_init(&params);
        params.temperature = cases[i].temperature;
        params.top_p = cases[i].top_p;
        params.min_p = cases[i].min_p;
        params.top_k = cases[i].top_k;
        probabilities(&params, p);
        check_frequencies(&params, p);
    }
}

Test(sampler, greedy_takes_the_lowest_of_equals)
{
    struct generate_params params;
    generate_params_init(&params);
    params.temperature = 0;
    logits[7] = logits[3] = logits[40] = 9;
    cr_assert_eq(draw_with(&params, 1), 3);
}

Test(sampler, bias)
{
    struct generate_params params;
    int32_t ids[] = {4, 9};
    float never[] = {-100, -100}, only[] = {100, 100};
    generate_params_init(&params);
    params.bias_ids = ids;
    params.n_bias = 2;
    params.bias_values = never;
    logits[4] = logits[9] = 50;
    for (uint64_t seed = 0; seed < 500; seed++) {
        int32_t id = draw_with(&params, seed);
        cr_assert(id != 4 && id != 9);
    }
    params.bias_values = only;
    logits[4] = -20;
    logits[9] = -21;
    int n4 = 0;
    for (uint64_t seed = 0; seed < 500; seed++) {
        int32_t id = draw_with(&params, seed);
        cr_assert(id == 4 || id == 9);
        n4 += id == 4;
    }
    cr_assert(n4 > 320 && n4 < 410, "%d", n4); /* e / (1 + e) of 500 = 365 */
}

Test(sampler, penalties)
{
    struct generate_params params;
    int32_t prompt[] = {5, 5}, output[] = {6, 6, 7};
    struct sampler_context context = {&params, prompt, 2, output, 3, NULL, 0};
    generate_params_init(&params);
    params.temperature = 0;
    for (int i = 0; i < VOCAB; i++) {
        logits[i] = 0;
    }
    logits[5] = 4, logits[6] = 3.9f, logits[7] = 3.8f, logits[8] = 1.8f;
    cr_expect_eq(sampler_draw(sampler, logits, &context), 5);
    params.repetition_penalty = 1.5f; /* 5: 2.67, 6: 2.6, 7: 2.53 */
    cr_expect_eq(sampler_draw(sampler, logits, &context), 5);
    params.repetition_penalty = 3; /* 1.33, 1.3, 1.27: 8 wins */
    cr_expect_eq(sampler_draw(sampler, logits, &context), 8);
    params.repetition_penalty = 1;
    logits[5] = 1;
    params.frequency_penalty = 0.5f; /* 6: 2.9, 7: 3.3 */
    cr_expect_eq(sampler_draw(sampler, logits, &context), 7);
    params.presence_penalty = 2; /* 6: 0.9, 7: 1.3, 8: 1.8 */
    cr_expect_eq(sampler_draw(sampler, logits, &context), 8);
    /* The scratch was left clean: the same again. */
    cr_expect_eq(sampler_draw(sampler, logits, &context), 8);
}

Test(sampler, banned_ids_are_never_drawn)
{
    struct generate_params params;
    int32_t banned[] = {2};
    struct sampler_context context = {.params = &params, .banned = banned, .n_banned = 1};
    generate_params_init(&params);
    params.temperature = 0;
    logits[2] = 100;
    cr_expect_neq(sampler_draw(sampler, logits, &context), 2);
}

Test(sampler, logprobs)
{
    struct token_logprob chosen, top[20];
    double sum = 0;
    for (int i = 0; i < VOCAB; i++) {
        sum += exp((double)logits[i]);
    }
    sampler_logprobs(sampler, logits, 11, &chosen, top, 20);
    cr_expect_float_eq(chosen.logprob, logits[11] - log(sum), 1e-5);
    for (int i = 0; i < 20; i++) {
        cr_expect_float_eq(top[i].logprob, logits[top[i].id] - log(sum), 1e-5);
        if (i) {
            cr_expect(top[i].logprob <= top[i - 1].logprob);
        }
    }
    int n_better = 0;
    for (int i = 0; i < VOCAB; i++) {
        n_better += logits[i] > logits[top[19].id];
    }
    cr_expect_eq(n_better, 19);
}

Test(sampler, extreme_values)
{
    struct generate_params params;
    generate_params_init(&params);
    params.temperature = 1e-30f;
    logits[13] = 20;
    cr_expect_eq(draw_with(&params, 3), 13);
    for (int i = 0; i < VOCAB; i++) {
        logits[i] = i == 21 ? 1e30f : -INFINITY;
    }
    params.temperature = 1;
    cr_expect_eq(draw_with(&params, 3), 21);
}

Test(sampler, unusable_logits_are_told)
{
    struct generate_params params;
    struct token_logprob chosen, top[2];
    generate_params_init(&params);
    for (int i = 0; i < VOCAB; i++) {
        logits[i] = NAN;
    }
    cr_expect_eq(draw_with(&params, 3), -1);
    cr_expect(!sampler_logprobs(sampler, logits, 1, &chosen, top, 2));
    logits[3] = INFINITY;
    cr_expect_eq(draw_with(&params, 3), -1);
}

Test(sampler, a_ban_of_everything_is_ignored)
{
    struct generate_params params;
    int32_t id = 5;
    float only = 100;
    struct sampler_context context = {.params = &params, .banned = &id, .n_banned = 1};
    generate_params_init(&params);
    params.bias_ids = &id;
    params.bias_values = &only;
    params.n_bias = 1;
    cr_expect_eq(sampler_draw(sampler, logits, &context), 5);
}

Test(sampler, random_numbers_differ_by_seed_and_position)
{
    double sum = 0, product = 0;
    for (uint64_t i = 0; i < 20000; i++) {
        double a = sampler_uniform(i, 5), b = sampler_uniform(i + 1, 5), c = sampler_uniform(7, i);
        cr_assert(a >= 0 && a < 1 && c >= 0 && c < 1);
        sum += a + c;
        product += (a - 0.5) * (b - 0.5);
    }
    cr_expect_float_eq(sum / 40000, 0.5, 0.01);
    cr_expect_float_eq(product / 20000, 0, 0.003);
}
