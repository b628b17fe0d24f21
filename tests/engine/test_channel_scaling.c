/* Scales of channels: powers of two by moments, the least loss, models that answer as before, first start and
 * cached start alike. That floats keep every bit: test_calibrate.c. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/channel_scaling.h"
#include "engine/score.h"
#include "tests/engine/support.h"

enum { N = 6, N_IDS = 64 };

static const float mean[N] = {0}, second[N] = {1, 16, 1.0f / 16, 1, 1e-30f, 1e30f};

Test(channel_scaling, powers_of_two_by_moments)
{
    static const float whole[N] = {1, 4, 0.25f, 1, 1.0f / 65536, 65536}, half[N] = {1, 2, 0.5f, 1, 0, 0};
    float scales[N];
    channel_scales(scales, second, N, 0);
    for (int i = 0; i < N; i++) {
        cr_assert_eq(scales[i], 1);
    }
    channel_scales(scales, second, N, 1);
    cr_assert_arr_eq(scales, whole, sizeof scales);
    channel_scales(scales, second, N, 0.5);
    cr_assert_arr_eq(scales, half, 4 * sizeof *scales);
    static const float louder[3] = {1e6f, 16e6f, 1e6f / 16}; /* their level is no matter */
    channel_scales(scales, louder, 3, 1);
    cr_assert_arr_eq(scales, whole, 3 * sizeof *scales);
}

struct wish {
    const float *scales; /* what choose has written */
    float wanted;        /* of the second channel */
    int n_asked;
};

static enum status distance(void *context, double *loss, const struct quant_moments *moments,
                            struct error *err)
{
    struct wish *wish = context;
    (void)err;
    wish->n_asked++;
    for (int i = 0; i < N; i++) {
        cr_assert_eq(moments->second[i] * wish->scales[i] * wish->scales[i], second[i]);
    }
    *loss = fabs((double)wish->scales[1] - (double)wish->wanted);
    return STATUS_OK;
}

static enum status failure(void *context, double *loss, const struct quant_moments *moments,
                           struct error *err)
{
    (void)context, (void)loss, (void)moments;
    return error_set(err, STATUS_NO_MEMORY, "no more");
}

Test(channel_scaling, the_least_loss_is_chosen)
{
    static const struct quant_moments moments = {mean, second};
    float scales[N], expected[N];
    struct error err;
    static const struct {
        float wanted;
        double exponent;
    } cases[] = {{0, 0}, {1, 0}, {2, 0.5}, {4, 1}, {5, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wish wish = {scales, cases[i].wanted, 0};
        cr_assert_eq(channel_scaling_choose(scales, &moments, N, distance, &wish, &err), STATUS_OK);
        cr_assert_eq(wish.n_asked, 5);
        channel_scales(expected, second, N, cases[i].exponent);
        cr_assert_eq(scales[1], expected[1], "%g", (double)cases[i].wanted);
    }
    cr_assert_eq(channel_scaling_choose(scales, &moments, N, failure, NULL, &err), STATUS_NO_MEMORY);
    cr_assert_str_eq(err.message, "no more");
}

static void make_ids(int32_t *ids)
{
    for (int32_t i = 0; i < N_IDS; i++) {
        ids[i] = i ? 3 + (i * 37 + i * i) % 60 : 1;
    }
}

/* Logits of the ids that the model was calibrated on. */
static float *logits_of(struct engine_options *options, size_t *n)
{
    struct thread_pool *pool;
    struct scorer *scorer;
    struct error err = {0};
    int32_t ids[N_IDS];
    make_ids(ids);
    options->calib_ids = ids;
    options->n_calib_ids = N_IDS;
    cr_assert_eq(thread_pool_open(&pool, 2, &err), STATUS_OK);
    cr_assert_eq(scorer_open(&scorer, options, N_IDS, pool, &err), STATUS_OK, "%s", err.message);
    *n = N_IDS * (size_t)scorer_get_info(scorer)->config.vocab_size;
    float *out = malloc(*n * sizeof *out);
    cr_assert(out && scorer_max_step(scorer) >= N_IDS);
    memcpy(out, scorer_step(scorer, 0, ids, N_IDS), *n * sizeof *out);
    scorer_close(scorer);
    thread_pool_close(pool);
    return out;
}

static double largest_gap(const float *a, const float *b, size_t n)
{
    double gap = 0;
    for (size_t i = 0; i < n; i++) {
        gap = fmax(gap, fabs((double)a[i] - b[i]));
    }
    return gap;
}

/* The same bits from the file that an engine has written. */
static void check_cache(struct engine_options *options, const float *expected)
{
    char root[] = "/tmp/any4-channel-scaling-XXXXXX";
    struct engine *engine;
    struct engine_cache_result result;
    struct error err = {0};
    int32_t ids[N_IDS];
    size_t n;
    cr_assert(mkdtemp(root));
    make_ids(ids);
    options->quant_cache = root;
    options->calib_ids = ids;
    options->n_calib_ids = N_IDS;
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(engine_open(&engine, options, &err), STATUS_OK, "%s", err.message);
        engine_wait_cache(engine, &result);
        cr_assert_eq(result.status, STATUS_OK, "%s", result.message);
        cr_assert_str_eq(engine_get_info(engine)->quant_cache, i ? "hit" : "miss");
        engine_close(engine);
    }
    float *cached = logits_of(options, &n);
    cr_assert_arr_eq(cached, expected, n * sizeof *cached);
    free(cached);
    options->quant_cache = NULL;
    remove_folder(root);
}

struct format {
    enum quant_method method;
    double bits_per_weight;
    bool channel_scaling;
};

static double gap_of(struct engine_options *options, struct format format, const float *expected,
                     float **logits)
{
    size_t n;
    options->quant.method = format.method;
    options->bits_per_weight = format.bits_per_weight;
    options->channel_scaling = format.channel_scaling;
    *logits = logits_of(options, &n);
    return expected ? largest_gap(expected, *logits, n) : 0;
}

/* Scaled channels come about as near to the float model as plain ones, by 8 bits (of a dense model: experts
 * that no token visits get 2) much nearer than by 4, where they are really other ones. */
static void check_folder(const char *folder, bool is_dense, bool rotation)
{
    struct engine_options options;
    float *exact, *plain, *scaled, *scaled8;
    engine_options_init(&options);
    options.model_dir = folder;
    options.kv_type = KV_CHOICE_F32;
    options.n_threads = 2;
    gap_of(&options, (struct format){QUANT_NONE, 0, false}, NULL, &exact);
    options.rotation = rotation;
    double most = gap_of(&options, (struct format){QUANT_ANY4, 0, false}, exact, &plain);
    if (is_dense) {
        double gap = gap_of(&options, (struct format){QUANT_ANY4, 16, true}, exact, &scaled8);
        cr_assert_lt(gap, 0.3 * most, "%s: %g of %g", folder, gap, most);
        free(scaled8);
    }
    double gap = gap_of(&options, (struct format){QUANT_ANY4, 0, true}, exact, &scaled);
    cr_assert(gap < 2 * most && (rotation || gap < most || gap > most), "%s: %g of %g", folder, gap, most);
    check_cache(&options, scaled);
    free(exact);
    free(plain);
    free(scaled);
}

Test(channel_scaling, answers_stay)
{
    char path[256];
    if (fixture_model(path, sizeof path, "stories260K")) {
        check_folder(path, true, false);
        check_folder(path, true, true);
    }
    if (fixture_model(path, sizeof path, "stories260K-mixtral")) {
        check_folder(path, false, false);
    }
}

Test(channel_scaling, needs_moments)
{
    static const enum quant_method without[] = {QUANT_NONE, QUANT_INT8, QUANT_INT4, QUANT_NF4};
    char folder[64];
    struct engine *engine;
    struct engine_options options;
    struct error err = {0};
    int32_t ids[N_IDS];
    make_model(folder, sizeof folder, "llama", 3);
    make_ids(ids);
    engine_options_init(&options);
    options.model_dir = folder;
    options.channel_scaling = true;
    options.quant.method = QUANT_ANY4;
    cr_assert_eq(engine_open(&engine, &options, &err), STATUS_INVALID);
    cr_assert(strstr(err.message, "channel_scaling needs a calibration text"), "%s", err.message);
    options.calib_ids = ids;
    options.n_calib_ids = N_IDS;
    options.quant.weighting = QUANT_WEIGHTING_NONE;
    cr_assert_eq(engine_open(&engine, &options, &err), STATUS_INVALID);
    cr_assert(strstr(err.message, "any4 with quant_weighting none"), "%s", err.message);
    options.quant.weighting = QUANT_WEIGHTING_AUTO;
    for (size_t i = 0; i < sizeof without / sizeof *without; i++) {
        options.quant.method = without[i];
        cr_assert_eq(engine_open(&engine, &options, &err), STATUS_INVALID);
        cr_assert(strstr(err.message, "channel_scaling goes by moments"), "%s", err.message);
    }
    remove_folder(folder);
}
