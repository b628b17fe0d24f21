/* Calibration as the loader does it: which formats calibrate, the same quantized bits everywhere, weights
 * that are no numbers, tokens that are none. Models are random and small. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/loader.h"
#include "tests/engine/support.h"

enum { N_IDS = 60 };

static const char *const architectures[] = {"llama", "mistral", "mixtral"};

static enum status load(const char *folder, const int32_t *ids, int32_t n_ids, enum quant_method method,
                        double *calibrate_seconds, struct error *err)
{
    struct engine_options options;
    struct model *model;
    engine_options_init(&options);
    options.model_dir = folder;
    options.quant.method = method;
    options.calib_ids = ids;
    options.n_calib_ids = n_ids;
    cr_assert_eq(model_bind(&model, &options, err), STATUS_OK, "%s", err->message);
    enum status status = loader_run(model, &options, NULL, err);
    *calibrate_seconds = model->calibrate_seconds;
    model_close(model);
    return status;
}

Test(calibrate_load, the_loader_calibrates_what_learns)
{
    static const enum quant_method methods[] = {QUANT_ANY4, QUANT_ANY4_PAPER, QUANT_INT4, QUANT_NONE};
    int32_t ids[N_IDS];
    make_random_ids(ids, N_IDS);
    for (int a = 0; a < 3; a++) {
        char folder[64];
        make_model(folder, sizeof folder, architectures[a], 4);
        for (int m = 0; m < 4; m++) {
            struct error err = {0};
            double seconds = 0;
            cr_assert_eq(load(folder, ids, N_IDS, methods[m], &seconds, &err), STATUS_OK, "%s", err.message);
            cr_assert_eq(seconds > 0, m < 2, "%s", quant_method_name(methods[m]));
        }
        remove_folder(folder);
    }
}

/* FNV-1a over what the quantizer wrote for every linear. */
static uint64_t quantized_hash(const char *folder, unsigned cpu_flags, int32_t n_threads)
{
    int32_t ids[N_IDS];
    struct engine_options options;
    struct thread_pool *pool;
    struct model *model;
    struct error err = {0};
    uint64_t hash = 0xcbf29ce484222325u;
    make_random_ids(ids, N_IDS);
    engine_options_init(&options);
    options.model_dir = folder;
    options.cpu_flags = cpu_flags;
    options.calib_ids = ids;
    options.n_calib_ids = N_IDS;
    cr_assert_eq(model_bind(&model, &options, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(thread_pool_open(&pool, n_threads, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(loader_run(model, &options, pool, &err), STATUS_OK, "%s", err.message);
    for (int64_t i = 0; i < model->n_linears; i++) {
        const struct linear *linear = &model->linears[i];
        size_t bytes = quant_matrix_bytes(&options.quant, linear->w.n_rows, linear->w.n_cols);
        for (size_t at = 0; linear->quantize && at < bytes; at++) {
            hash = (hash ^ ((const uint8_t *)linear->memory)[at]) * 0x100000001b3u;
        }
    }
    thread_pool_close(pool);
    model_close(model);
    return hash;
}

/* Calibration and quantization together. */
Test(calibrate_load, quantized_bits_are_the_same_everywhere)
{
    static const unsigned flags[] = {0, CPU_AVX2, CPU_ALL};
    for (int a = 0; a < 3; a++) {
        char folder[64];
        make_model(folder, sizeof folder, architectures[a], 8);
        uint64_t expected = quantized_hash(folder, CPU_ALL, 1);
        for (int f = 0; f < 3; f++) {
            for (int32_t n_threads = 1; n_threads <= 4; n_threads *= 2) {
                cr_assert_eq(quantized_hash(folder, flags[f], n_threads), expected,
                             "%s: flags %u and %d threads give other bits", architectures[a], flags[f],
                             n_threads);
            }
        }
        remove_folder(folder);
    }
}

/* A weight that is no number ends loading by its tensor's name, whichever tensor it stands in. */
Test(calibrate_load, nan_weight_names_its_tensor)
{
    int32_t ids[N_IDS], n_named = 0;
    char folder[64], path[128];
    struct engine_options options;
    struct model *model;
    struct error err = {0};
    make_random_ids(ids, N_IDS);
    make_model(folder, sizeof folder, "mixtral", 4);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    engine_options_init(&options);
    options.model_dir = folder;
    cr_assert_eq(model_bind(&model, &options, &err), STATUS_OK, "%s", err.message);
    const uint8_t *base = model->embedding->data; /* the first tensor */
    for (int64_t i = 0; i < model->n_linears; i++) {
        const struct tensor *tensor = model->linears[i].source;
        const uint32_t nan = 0x7fc00000;
        uint32_t old;
        uint64_t header_bytes;
        double seconds;
        FILE *file = fopen(path, "r+b");
        cr_assert(file && fread(&header_bytes, 8, 1, file) == 1);
        long at = (long)(8 + header_bytes) + (long)((const uint8_t *)tensor->data - base) + 4 * 65;
        cr_assert(!fseek(file, at, SEEK_SET) && fread(&old, 4, 1, file) == 1);
        cr_assert(!fseek(file, at, SEEK_SET) && fwrite(&nan, 4, 1, file) == 1 && !fflush(file));
        cr_expect_eq(load(folder, ids, N_IDS, QUANT_ANY4, &seconds, &err), STATUS_QUANTIZE);
        n_named += strstr(err.message, tensor->name) != NULL;
        cr_expect(strstr(err.message, tensor->name), "%s: %s", tensor->name, err.message);
        cr_assert(!fseek(file, at, SEEK_SET) && fwrite(&old, 4, 1, file) == 1);
        fclose(file);
    }
    cr_assert_eq(n_named, model->n_linears);
    model_close(model);
    remove_folder(folder);
}

Test(calibrate_load, ids_are_checked_before_anything_is_loaded)
{
    int32_t ids[] = {MODEL_BOS, 5, MODEL_VOCAB};
    char folder[64];
    struct engine_options options;
    struct engine *engine;
    struct engine_plan plan;
    struct error err = {0};
    make_model(folder, sizeof folder, "llama", 4);
    engine_options_init(&options);
    options.model_dir = folder;
    options.calib_ids = ids;
    options.n_calib_ids = 3;
    cr_assert_eq(engine_open(&engine, &options, &err), STATUS_INVALID);
    cr_assert(strstr(err.message, "calibration token 2 is 64"), "%s", err.message);
    cr_assert_eq(engine_plan(&plan, &options, &err), STATUS_INVALID);
    options.n_calib_ids = 2;
    cr_assert_eq(engine_plan(&plan, &options, &err), STATUS_OK, "%s", err.message);
    size_t peak = plan.peak_load_bytes;
    options.n_calib_ids = 0;
    cr_assert_eq(engine_plan(&plan, &options, &err), STATUS_OK, "%s", err.message);
    cr_assert_gt(peak, plan.peak_load_bytes);
    remove_folder(folder);
}
