/* Scoring without the engine thread, and the report on a model's quantization. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/score.h"
#include "tests/engine/support.h"

enum { N_IDS = 200 };

static void make_ids(int32_t *ids, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        ids[i] = 3 + (i * 37 + i * i) % 60;
    }
}

static struct engine_options options_of(const char *folder, enum quant_method method, const char *skip)
{
    struct engine_options options;
    engine_options_init(&options);
    options.model_dir = folder;
    options.quant.method = method;
    options.kv_type = KV_CHOICE_F32;
    if (skip) {
        options.quant_skip[options.n_quant_skip++] = skip;
    }
    return options;
}

static struct scorer *open_scorer(const struct engine_options *options, int32_t max_ids,
                                  struct thread_pool *pool)
{
    struct scorer *scorer;
    struct error err = {0};
    cr_assert_eq(scorer_open(&scorer, options, max_ids, pool, &err), STATUS_OK, "%s", err.message);
    return scorer;
}

/* All logits of a text in steps of the given length. */
static float *score(struct scorer *scorer, const int32_t *ids, int32_t n, int32_t step)
{
    size_t vocab_size = (size_t)scorer_get_info(scorer)->config.vocab_size;
    float *out = malloc((size_t)n * vocab_size * sizeof *out);
    cr_assert(out);
    for (int32_t at = 0; at < n; at += step) {
        int32_t n_rows = n - at < step ? n - at : step;
        const float *logits = scorer_step(scorer, at, ids + at, n_rows);
        memcpy(out + (size_t)at * vocab_size, logits, (size_t)n_rows * vocab_size * sizeof *out);
    }
    return out;
}

/* The engine's own log-probabilities of ids[1..n) are those of the scorer's rows. */
static void check_against_engine(const char *folder, enum quant_method method, struct thread_pool *pool,
                                 const int32_t *ids)
{
    struct engine_options options = options_of(folder, method, NULL);
    struct engine *engine;
    struct error err = {0};
    options.n_threads = 2;
    cr_assert_eq(engine_open(&engine, &options, &err), STATUS_OK, "%s", err.message);
    struct scorer *scorer = open_scorer(&options, N_IDS, pool);
    int32_t vocab_size = scorer_get_info(scorer)->config.vocab_size;
    float *logits = score(scorer, ids, N_IDS, 64);
    struct generate_params params;
    struct request *request;
    struct token_event event;
    generate_params_init(&params);
    params.max_tokens = 0;
    params.logprobs = 0;
    params.prompt_logprobs = true;
    cr_assert_eq(engine_submit(engine, &params, ids, N_IDS, NULL, NULL, &request, &err), STATUS_OK, "%s",
                 err.message);
    for (int32_t i = 0; request_wait(request, &event, -1) && event.kind == EVENT_PROMPT_TOKEN; i++) {
        const float *row = logits + (int64_t)i * vocab_size;
        double sum = 0;
        for (int32_t v = 0; v < vocab_size; v++) {
            sum += exp(row[v]);
        }
        double expected = row[ids[i + 1]] - log(sum);
        cr_assert(fabs((double)event.logprob.logprob - expected) <= 1e-5, "%s: position %d: %f, expected %f",
                  quant_method_name(method), i, (double)event.logprob.logprob, expected);
    }
    request_release(request);
    const struct engine_info *a = engine_get_info(engine), *b = scorer_get_info(scorer);
    cr_assert(a->code_bits == b->code_bits && a->table_bits == b->table_bits && a->n_params == b->n_params);
    cr_assert(a->quant_error_mean == b->quant_error_mean && a->bits_per_weight == b->bits_per_weight);
    free(logits);
    scorer_close(scorer);
    engine_close(engine);
}

Test(score, agrees_with_the_engine_in_every_cut)
{
    static const char *const architectures[] = {"llama", "mistral", "mixtral"};
    int32_t ids[N_IDS];
    struct thread_pool *pool;
    struct error err;
    cr_assert_eq(thread_pool_open(&pool, 2, &err), STATUS_OK);
    make_ids(ids, N_IDS);
    for (int i = 0; i < 3; i++) {
        char folder[512];
        make_model(folder, sizeof folder, architectures[i], 7);
        check_against_engine(folder, QUANT_NONE, pool, ids);
        check_against_engine(folder, QUANT_ANY4, pool, ids);
        struct engine_options options = options_of(folder, QUANT_INT4, NULL);
        struct scorer *scorer = open_scorer(&options, N_IDS, pool),
                      *alone = open_scorer(&options, N_IDS, NULL);
        cr_assert(scorer_max_step(scorer) == N_IDS);
        size_t bytes = (size_t)N_IDS * (size_t)scorer_get_info(scorer)->config.vocab_size * sizeof(float);
        float *whole = score(scorer, ids, N_IDS, N_IDS), *cut = score(scorer, ids, N_IDS, 7),
              *single = score(alone, ids, N_IDS, 1);
        cr_assert_arr_eq(whole, cut, bytes, "a step's length changes logits");
        cr_assert_arr_eq(whole, single, bytes, "threads change logits");
        free(whole);
        free(cut);
        free(single);
        scorer_close(alone);
        scorer_close(scorer);
        remove_folder(folder);
    }
    thread_pool_close(pool);
}

Test(score, refusals)
{
    char folder[512];
    struct scorer *scorer;
    struct error err = {0};
    make_model(folder, sizeof folder, "llama", 1);
    struct engine_options options = options_of(folder, QUANT_INT4, NULL);
    cr_assert_eq(scorer_open(&scorer, &options, 1 << 24, NULL, &err), STATUS_INVALID);
    cr_assert(strstr(err.message, "a text of 16777216 ids: this model has positions for 1 to "), "%s",
              err.message);
    cr_assert_eq(scorer_open(&scorer, &options, 0, NULL, &err), STATUS_INVALID);
    options.max_memory = 1000;
    cr_assert_eq(scorer_open(&scorer, &options, 32, NULL, &err), STATUS_NO_MEMORY);
    cr_assert(!scorer);
    scorer_close(NULL);
    remove_folder(folder);
}

static void check_report(const struct quant_report *report, int64_t n_kept)
{
    double sum = 0, max = 0;
    int64_t n_quantized = 0, n_over_p95 = 0;
    for (int64_t i = 0; i < report->n_tensors; i++) {
        const struct quant_tensor *t = &report->tensors[i];
        if (!t->code_bits) {
            cr_assert(t->rel_error == 0 && (t->bits_per_weight == 16 || t->bits_per_weight == 32), "%s",
                      t->name);
            continue;
        }
        n_quantized++;
        cr_assert(t->rel_error > 0 && t->rel_error < 0.5 && t->worst_row >= 0 && t->worst_row < t->n_rows,
                  "%s", t->name);
        cr_assert(t->bits_per_weight > t->code_bits && t->group_size >= 32, "%s", t->name);
        sum += t->rel_error;
        max = t->rel_error > max ? t->rel_error : max;
        n_over_p95 += t->rel_error > report->p95;
    }
    cr_assert_eq(n_quantized, report->n_quantized);
    cr_assert_eq(report->n_tensors - n_quantized, n_kept);
    cr_assert(fabs(sum / (double)n_quantized - report->mean) < 1e-12 && report->max == max);
    cr_assert(report->p95 >= report->mean / 2 && report->p95 <= max && 20 * n_over_p95 <= n_quantized);
    cr_assert_eq(report->n_worst, n_quantized < QUANT_REPORT_WORST ? n_quantized : QUANT_REPORT_WORST);
    for (int32_t i = 0; i < report->n_worst; i++) {
        cr_assert(report->worst[i]->rel_error <= (i ? report->worst[i - 1]->rel_error : max));
    }
    cr_assert_eq(report->worst[0]->rel_error, max);
}

Test(report, figures_and_limit)
{
    char folder[512];
    struct engine *engine;
    struct error err = {0};
    make_model(folder, sizeof folder, "mixtral", 3);
    struct engine_options options = options_of(folder, QUANT_INT4, "lm_head");
    options.quant_report = QUANT_REPORT_FULL;
    cr_assert_eq(engine_open(&engine, &options, &err), STATUS_OK, "%s", err.message);
    const struct quant_report *report = engine_get_quantization(engine);
    const struct engine_info *info = engine_get_info(engine);
    int64_t n_routers = info->config.n_layers;
    check_report(report, n_routers + 1);
    cr_assert(info->quant_error_max == report->max && info->quant_error_mean == report->mean);
    cr_assert_str_eq(info->quant_cache, "off");
    double max = report->max;
    char worst[128];
    snprintf(worst, sizeof worst, "tensor %s has a relative error of ", report->worst[0]->name);
    engine_close(engine);

    options.quant_report = QUANT_REPORT_OFF;
    options.quant_max_error = max; /* what is not over the limit passes */
    cr_assert_eq(engine_open(&engine, &options, &err), STATUS_OK, "%s", err.message);
    engine_close(engine);
    options.quant_max_error = nextafter(max, 0);
    cr_assert_eq(engine_open(&engine, &options, &err), STATUS_QUANTIZE);
    cr_assert(!engine && strstr(err.message, worst) && strstr(err.message, "over quant_max_error 0."), "%s",
              err.message);
    options.quant.method = QUANT_NONE; /* nothing is quantized: nothing to refuse, nothing to report */
    options.n_quant_skip = 0;
    options.quant_report = QUANT_REPORT_FULL;
    cr_assert_eq(engine_open(&engine, &options, &err), STATUS_OK, "%s", err.message);
    report = engine_get_quantization(engine);
    cr_assert(report->n_quantized == 0 && report->n_worst == 0 && report->max == 0 && report->n_tensors > 0);
    engine_close(engine);
    remove_folder(folder);
}
