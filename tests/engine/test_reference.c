/* Whole models against independent reference values: greedy ids, NLL, logits. The values come from a float64
 * implementation that agrees with Hugging Face transformers (see the fixtures' README). */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/forward.h"
#include "engine/loader.h"
#include "tests/engine/support.h"

static const char *const trained[] = {"stories260K", "stories260K-bf16", "stories260K-mistral",
                                      "stories260K-wide", "stories260K-mixtral"};

static void check_prompt(struct engine *engine, const cJSON *prompt, const char *what)
{
    int32_t *ids, *expected;
    int32_t n_ids = json_ids(cJSON_GetObjectItem(prompt, "prompt_ids"), &ids);
    int32_t n_expected = json_ids(cJSON_GetObjectItem(prompt, "greedy_ids"), &expected);
    int32_t *out = calloc((size_t)n_expected, sizeof *out);
    struct generate_params params;
    generate_params_init(&params);
    params.temperature = 0;
    params.max_tokens = n_expected;
    params.ignore_eos = true;
    cr_assert(n_ids > 0 && n_expected > 0);
    int32_t n = run_sequence(engine, &params, ids, n_ids, out, NULL), n_equal = 0;
    for (int32_t i = 0; i < n; i++) {
        n_equal += out[i] == expected[i];
    }
    fprintf(stderr, "%-40s %3d of %3d greedy ids equal\n", what, n_equal, n_expected);
    cr_expect_eq(n_equal, n_expected, "%s: %d of %d greedy ids equal", what, n_equal, n_expected);
    free(ids);
    free(expected);
    free(out);
}

/* config_override NULL: the folder as it is. */
static void check_model(const char *name, const char *reference_name, const char *config_override)
{
    char folder[512], path[128];
    double first[255];
    snprintf(path, sizeof path, "%s/%s", name, reference_name);
    cJSON *reference = fixture_json(path);
    if (!reference || !fixture_model(folder, sizeof folder, name)) {
        return;
    }
    struct engine *engine = open_engine(folder, QUANT_NONE, 0, NULL, config_override);
    const cJSON *prompt, *eval = cJSON_GetObjectItem(reference, "eval");
    cJSON_ArrayForEach(prompt, cJSON_GetObjectItem(reference, "prompts"))
    {
        check_prompt(engine, prompt, path);
    }
    prompt = cJSON_GetObjectItem(reference, "published");
    if (prompt) {
        check_prompt(engine, prompt, "published story of llama2.c");
    }
    double nll = evaluate(engine, folder, first),
           expected = cJSON_GetObjectItem(eval, "mean_nll_f64")->valuedouble;
    fprintf(stderr, "%-40s NLL %.6f, reference %.6f, difference %.1e\n", path, nll, expected, nll - expected);
    cr_expect(fabs(nll - expected) <= 1e-4, "%s: NLL %.6f, expected %.6f", path, nll, expected);
    int32_t i = 0;
    const cJSON *logprob;
    cJSON_ArrayForEach(logprob, cJSON_GetObjectItem(eval, "first_chunk_logprobs"))
    {
        cr_expect(fabs(first[i] - logprob->valuedouble) <= 2e-4, "%s: logprob %d is %f, expected %f", path, i,
                  first[i], logprob->valuedouble);
        i++;
    }
    engine_close(engine);
    cJSON_Delete(reference);
}

Test(reference, trained_models)
{
    for (size_t i = 0; i < sizeof trained / sizeof *trained; i++) {
        check_model(trained[i], "reference.json", NULL);
    }
}

Test(reference, rope_overrides)
{
    static const char *const files[] = {"reference_rope_llama3.json", "reference_rope_theta.json"};
    for (int i = 0; i < 2; i++) {
        char path[128];
        snprintf(path, sizeof path, "stories260K/%s", files[i]);
        cJSON *reference = fixture_json(path);
        if (!reference) {
            return;
        }
        char *override = cJSON_PrintUnformatted(cJSON_GetObjectItem(reference, "config_override"));
        check_model("stories260K", files[i], override);
        free(override);
        cJSON_Delete(reference);
    }
}

/* All logits of a sequence through the forward pass, in chunks of the given size: the split must not change a
 * bit. */
static float *all_logits(const struct model *model, const int32_t *ids, int32_t n_ids, int32_t chunk)
{
    struct kernels kernels;
    struct kv_cache kv;
    struct forward *forward;
    struct error err = {0};
    int32_t vocab_size = model->config.vocab_size, table[64], n_blocks = 0, rows[64], positions[64],
            tokens[64];
    const int32_t *tables[64];
    float *out = malloc((size_t)n_ids * (size_t)vocab_size * sizeof *out);
    kernels_init_cpu(&kernels, CPU_ALL);
    cr_assert_eq(kv_cache_init(&kv, &model->config, KV_F32, 4, &err), STATUS_OK);
    cr_assert(kv_cache_reserve(&kv, table, &n_blocks, n_ids));
    cr_assert_eq(forward_open(&forward, model, &kernels, &kv, NULL, 64, 64, &err), STATUS_OK);
    for (int32_t at = 0; at < n_ids; at += chunk) {
        int32_t n = n_ids - at < chunk ? n_ids - at : chunk;
        struct batch batch = {n, tokens, positions, tables, n, rows};
        for (int32_t i = 0; i < n; i++) {
            tokens[i] = ids[at + i];
            positions[i] = at + i;
            tables[i] = table;
            rows[i] = i;
        }
        const float *logits = forward_step(forward, &batch);
        memcpy(out + (int64_t)at * vocab_size, logits, (size_t)n * (size_t)vocab_size * sizeof *out);
    }
    forward_close(forward);
    kv_cache_finish(&kv);
    return out;
}

Test(reference, random_tiny_logits)
{
    static const char *const names[] = {"random-tiny-llama", "random-tiny-mistral", "random-tiny-mixtral"};
    for (int m = 0; m < 3; m++) {
        char folder[512], path[128];
        struct engine_options options;
        struct model *model;
        struct error err = {0};
        double worst = 0;
        snprintf(path, sizeof path, "%s/logits.json", names[m]);
        cJSON *reference = fixture_json(path);
        if (!reference || !fixture_model(folder, sizeof folder, names[m])) {
            return;
        }
        engine_options_init(&options);
        options.model_dir = folder;
        options.quant.method = QUANT_NONE;
        cr_assert_eq(model_bind(&model, &options, &err), STATUS_OK, "%s", err.message);
        cr_assert_eq(loader_run(model, &options, NULL, &err), STATUS_OK, "%s", err.message);
        const cJSON *sequences = cJSON_GetObjectItem(reference, "sequences");
        const cJSON *logits = cJSON_GetObjectItem(reference, "logits");
        for (int s = 0; s < cJSON_GetArraySize(sequences); s++) {
            int32_t *ids, n = json_ids(cJSON_GetArrayItem(sequences, s), &ids);
            float *whole = all_logits(model, ids, n, n), *single = all_logits(model, ids, n, 1);
            for (int32_t i = 0; i < n; i++) {
                const cJSON *row = cJSON_GetArrayItem(cJSON_GetArrayItem(logits, s), i);
                for (int32_t v = 0; v < model->config.vocab_size; v++) {
                    double expected = cJSON_GetArrayItem(row, v)->valuedouble;
                    double difference = fabs((double)whole[i * model->config.vocab_size + v] - expected);
                    worst = difference > worst ? difference : worst;
                    cr_expect(difference <= 1e-4, "%s: sequence %d, position %d, token %d: off by %g",
                              names[m], s, i, v, difference);
                }
            }
            cr_expect_arr_eq(whole, single, (size_t)n * (size_t)model->config.vocab_size * sizeof *whole);
            free(ids);
            free(whole);
            free(single);
        }
        fprintf(stderr, "%-40s largest logit difference %.1e\n", path, worst);
        model_close(model);
        cJSON_Delete(reference);
    }
}

/* int4 within 0.005 of the fixtures' README; any4-paper better than int4 and nf4. */
Test(reference, quantized_nll)
{
    static const struct {
        const char *model;
        int32_t group_size;
        double int4;
    } rows[] = {{"stories260K", 32, 1.5546},
                {"stories260K", 64, 1.5886},
                {"stories260K-wide", 128, 1.5701},
                {"stories260K-mixtral", 64, 1.7194}};
    static const enum quant_method methods[] = {QUANT_INT4, QUANT_NF4, QUANT_FP4, QUANT_ANY4_PAPER,
                                                QUANT_ANY4};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double nll[5];
        char folder[512];
        if (!fixture_model(folder, sizeof folder, rows[i].model)) {
            return;
        }
        for (int m = 0; m < 5; m++) {
            struct engine *engine = open_engine(folder, methods[m], rows[i].group_size, "lm_head", NULL);
            nll[m] = evaluate(engine, folder, NULL);
            engine_close(engine);
        }
        fprintf(stderr,
                "%-20s g%-3d int4 %.4f (README %.4f)  nf4 %.4f  fp4 %.4f  any4-paper %.4f  any4 %.4f\n",
                rows[i].model, rows[i].group_size, nll[0], rows[i].int4, nll[1], nll[2], nll[3], nll[4]);
        cr_expect(fabs(nll[0] - rows[i].int4) <= 0.005, "%s g%d: int4 NLL %.4f, expected %.4f", rows[i].model,
                  rows[i].group_size, nll[0], rows[i].int4);
        cr_expect(nll[3] < nll[0] && nll[3] < nll[1], "%s g%d: any4-paper %.4f, int4 %.4f, nf4 %.4f",
                  rows[i].model, rows[i].group_size, nll[3], nll[0], nll[1]);
    }
}
