/* Mixed widths: the choice, the measure behind it, and models loaded with both. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/loader.h"
#include "engine/score.h"
#include "engine/sensitivity.h"
#include "engine/widths.h"
#include "tests/engine/support.h"

enum { N_IDS = 100 };

static unsigned state = 5;

static double draw(void)
{
    return (double)rand_r(&state) / RAND_MAX;
}

static double sum_of(const struct width_costs *costs, const int32_t *chosen, int32_t n, bool bits)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += bits ? costs[i].bits[chosen[i]] : costs[i].loss[chosen[i]];
    }
    return sum;
}

/* The least loss within the budget over all choices. */
static double brute_force(const struct width_costs *costs, int32_t n, double budget)
{
    double least = INFINITY;
    for (int32_t code = 0; code < 1 << 2 * n; code++) {
        int32_t chosen[8];
        for (int32_t i = 0; i < n; i++) {
            chosen[i] = code >> 2 * i & 3;
        }
        if (sum_of(costs, chosen, n, true) <= budget) {
            least = fmin(least, sum_of(costs, chosen, n, false));
        }
    }
    return least;
}

/* Linears of one size whose losses fall by a factor a bit: then step by step is the optimum. */
Test(widths, equal_steps_are_chosen_optimally)
{
    enum { N = 5 };
    for (int trial = 0; trial < 50; trial++) {
        struct width_costs costs[N];
        int32_t chosen[N];
        for (int32_t i = 0; i < N; i++) {
            double loss = draw() * draw();
            for (int32_t k = 0; k < N_WIDTHS; k++) {
                costs[i].bits[k] = k + 1;
                costs[i].loss[k] = loss * pow(0.25, k);
            }
        }
        double budget = N + floor(draw() * 3 * N);
        cr_assert(widths_choose(chosen, costs, N, budget));
        cr_assert_leq(sum_of(costs, chosen, N, true), budget);
        cr_assert_float_eq(sum_of(costs, chosen, N, false), brute_force(costs, N, budget), 1e-12);
    }
}

/* Anything at all: within the budget, and nothing that could still be raised is left. */
Test(widths, the_budget_is_kept_and_used)
{
    enum { N = 8 };
    for (int trial = 0; trial < 500; trial++) {
        struct width_costs costs[N];
        int32_t chosen[N];
        double fewest = 0;
        for (int32_t i = 0; i < N; i++) {
            costs[i].bits[0] = 1 + 1000 * draw();
            costs[i].loss[0] = draw();
            fewest += costs[i].bits[0];
            for (int32_t k = 1; k < N_WIDTHS; k++) {
                costs[i].bits[k] = costs[i].bits[k - 1] + 1 + 1000 * draw();
                costs[i].loss[k] = draw(); /* may rise */
            }
        }
        double budget = fewest * (1 + 3 * draw());
        cr_assert(widths_choose(chosen, costs, N, budget));
        double used = sum_of(costs, chosen, N, true);
        cr_assert_leq(used, budget);
        for (int32_t i = 0; i < N; i++) {
            cr_assert_leq(costs[i].loss[chosen[i]], costs[i].loss[0]);
            for (int32_t k = chosen[i] + 1; k < N_WIDTHS; k++) {
                cr_assert(costs[i].loss[k] >= costs[i].loss[chosen[i]] ||
                          used + costs[i].bits[k] - costs[i].bits[chosen[i]] > budget);
            }
        }
        cr_assert(!widths_choose(chosen, costs, N, fewest * 0.999));
    }
}

static void make_ids(int32_t *ids)
{
    for (int32_t i = 0; i < N_IDS; i++) {
        ids[i] = i ? 3 + (i * 37 + i * i) % 60 : 1;
    }
}

static struct engine_options options_of(const char *folder, const int32_t *ids, double bits)
{
    struct engine_options options;
    engine_options_init(&options);
    options.model_dir = folder;
    options.quant.method = QUANT_ANY4;
    options.bits_per_weight = bits;
    options.calib_ids = ids;
    options.n_calib_ids = ids ? N_IDS : 0;
    return options;
}

Test(widths, sensitivity_is_the_divergence_of_the_answers)
{
    char folder[64];
    int32_t ids[N_IDS];
    struct model *model;
    struct thread_pool *pool;
    struct sensitivity *sensitivity;
    struct error err = {0};
    make_ids(ids);
    make_model(folder, sizeof folder, "llama", 4);
    struct engine_options options = options_of(folder, ids, 0);
    cr_assert_eq(thread_pool_open(&pool, 2, &err), STATUS_OK);
    cr_assert_eq(model_bind(&model, &options, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(loader_run(model, &options, pool, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(sensitivity_open(&sensitivity, model, ids, N_IDS, CPU_ALL, pool, &err), STATUS_OK);
    cr_assert_eq(sensitivity_measure(sensitivity), 0);
    float *scales = (float *)(uintptr_t)model->head->w.row_scales, before = scales[3];
    scales[3] *= 1.5f;
    double once = sensitivity_measure(sensitivity);
    scales[3] *= 1.5f;
    double twice = sensitivity_measure(sensitivity);
    cr_assert(once > 0 && twice > once, "%g, %g", once, twice);
    scales[3] = NAN;
    cr_assert_eq(sensitivity_measure(sensitivity),
                 1e6); /* the largest there is: finite, or no width would gain by it */
    scales[3] = before;
    cr_assert_eq(sensitivity_measure(sensitivity), 0);
    sensitivity_close(sensitivity);
    sensitivity_close(NULL);
    model_close(model);
    thread_pool_close(pool);
    remove_folder(folder);
}

Test(widths, models_stay_within_their_bits)
{
    static const char *const architectures[] = {"llama", "mixtral"};
    int32_t ids[N_IDS];
    make_ids(ids);
    for (int a = 0; a < 2; a++) {
        char folder[64];
        double last = 0;
        make_model(folder, sizeof folder, architectures[a], 8);
        for (double bits = 4; bits < 12; bits += 2) {
            struct engine_options options = options_of(folder, ids, bits);
            struct engine *engine;
            struct error err = {0};
            cr_assert_eq(engine_open(&engine, &options, &err), STATUS_OK, "%s", err.message);
            const struct engine_info *info = engine_get_info(engine);
            cr_assert_leq(info->bits_per_weight, bits);
            cr_assert_gt(info->bits_per_weight, last);
            last = info->bits_per_weight;
            engine_close(engine);
        }
        remove_folder(folder);
    }
}

static void expect_refused(const struct engine_options *options, const char *part)
{
    struct engine *engine;
    struct error err = {0};
    cr_assert_eq(engine_open(&engine, options, &err), STATUS_INVALID, "%s", err.message);
    cr_assert(strstr(err.message, part), "%s", err.message);
}

Test(widths, refusals)
{
    char folder[64];
    int32_t ids[N_IDS];
    make_ids(ids);
    make_model(folder, sizeof folder, "llama", 4);
    struct engine_options options = options_of(folder, ids, 1.5);
    expect_refused(&options, "bits_per_weight 1.5: the fewest bits that this model can have are ");
    options = options_of(folder, NULL, 4);
    expect_refused(&options, "bits_per_weight needs a calibration text");
    options = options_of(folder, ids, 4);
    options.quant.method = QUANT_INT4;
    expect_refused(&options, "with quant int4 it means nothing");
    remove_folder(folder);
}
