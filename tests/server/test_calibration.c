/* The calibration text on its way to the engine: the built-in sample, files good and bad, limits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/calibration.h"
#include "tests/server/support.h"
#include "tests/tokenizer/tiny_model.h"

static struct folder folder;
static struct tokenizer *tokenizer;
static char path[128];

static void set_up(void)
{
    tokenizer = tiny_tokenizer(&folder);
    snprintf(path, sizeof path, "%s/calib.txt", folder.path);
}

static void tear_down(void)
{
    tokenizer_close(tokenizer);
    unlink(path);
    folder_remove(&folder);
}

TestSuite(calibration, .init = set_up, .fini = tear_down);

/* Settings from flags (ended by NULL) and what the engine gets from them. */
struct outcome_of {
    struct engine_options options;
    int32_t *ids;
    struct error err;
    enum status status;
};

static struct outcome_of encode_with(const struct tokenizer *with, const char *const *flags)
{
    struct outcome_of out = {.status = STATUS_OK};
    struct config config;
    char *argv[16], *skip = NULL;
    int argc = 0;
    argv[argc++] = folder.path;
    for (; *flags; flags++) {
        argv[argc++] = (char *)(uintptr_t)*flags;
    }
    out.status = config_load(&config, CONFIG_FOR_SERVE, argc, argv, &out.err);
    if (!out.status && !(out.status = server_engine_options(&out.options, &config, &skip, &out.err))) {
        out.status = calibration_encode(&out.options, &out.ids, &config, with, &out.err);
    }
    free(skip);
    config_finish(&config);
    return out;
}

#define ENCODE(...) encode_with(tokenizer, (const char *const[]){__VA_ARGS__, NULL})

static void expect_refused(struct outcome_of out, const char *part)
{
    cr_expect_eq(out.status, STATUS_INVALID, "%s", status_name(out.status));
    cr_expect(strstr(out.err.message, part), "\"%s\" does not say %s", out.err.message, part);
    cr_expect_null(out.ids);
}

Test(calibration, built_in_sample)
{
    struct outcome_of out = ENCODE("--calib-tokens=65536");
    size_t length = strlen(calibration_sample);
    cr_assert_eq(out.status, STATUS_OK, "%s", out.err.message);
    cr_expect_eq(utf8_valid_bytes(calibration_sample, length), length);
    cr_expect_eq(out.options.calib_ids, out.ids);
    cr_expect_eq(out.ids[0], TINY_BOS);
    cr_expect_gt(out.options.n_calib_ids, 600); /* this tokenizer knows little but bytes */
    free(out.ids);
}

Test(calibration, calib_tokens_cuts_the_text)
{
    struct outcome_of all = ENCODE("--calib-tokens=65536"), some = ENCODE(NULL);
    cr_assert(!all.status && !some.status);
    cr_expect_eq(some.options.n_calib_ids, 257, "BOS and 256 tokens");
    cr_expect_eq(memcmp(all.ids, some.ids, 257 * sizeof *some.ids), 0);
    free(all.ids);
    free(some.ids);
    some = ENCODE("--calib-tokens=1");
    cr_expect_eq(some.options.n_calib_ids, 2);
    free(some.ids);
    some = ENCODE("--calib-tokens=0");
    cr_expect_eq(some.options.n_calib_ids, 257, "0: the usual number");
    free(some.ids);
    expect_refused(ENCODE("--calib-tokens=-1"), "--calib-tokens");
    expect_refused(ENCODE("--calib-tokens=65537"), "--calib-tokens");
}

Test(calibration, file)
{
    folder_put_text(&folder, "calib.txt", "abc abc");
    struct outcome_of out = ENCODE("--calib", path);
    cr_assert_eq(out.status, STATUS_OK, "%s", out.err.message);
    cr_expect_gt(out.options.n_calib_ids, 2);
    cr_expect_lt(out.options.n_calib_ids, 8);
    free(out.ids);
}

/* Of a long file only as much is encoded as is used, with the same result. */
Test(calibration, long_file)
{
    enum { LENGTH = 1 << 20, TOKENS = 300 };
    char *text = malloc(LENGTH), flag[32];
    int32_t *whole, n_whole;
    struct error err = {0};
    cr_assert(text);
    for (int i = 0; i < LENGTH; i++) { /* characters of two bytes, so that cuts fall into them */
        text[i] = "\xc3\xa9\xc3\xa9"
                  "abcab dd"[i % 12];
    }
    size_t length = utf8_valid_bytes(text, LENGTH);
    folder_put(&folder, "calib.txt", text, length);
    snprintf(flag, sizeof flag, "--calib-tokens=%d", TOKENS);
    struct outcome_of out = ENCODE("--calib", path, flag);
    cr_assert_eq(out.status, STATUS_OK, "%s", out.err.message);
    cr_assert_eq(out.options.n_calib_ids, TOKENS + 1);
    cr_assert_eq(tokenizer_encode(tokenizer, text, 1 << 14, true, &whole, &n_whole, &err), STATUS_OK);
    cr_expect_eq(memcmp(out.ids, whole, (TOKENS + 1) * sizeof *whole), 0);
    free(whole);
    free(out.ids);
    free(text);
}

/* Never at load without being asked, and not from the page that is built in. */
Test(calibration, error_feedback_needs_a_file_and_takes_more_of_it)
{
    struct buffer text = {0};
    for (int i = 0; i < 9000; i++) {
        buffer_text(&text, i % 3 ? "ab " : "c ");
    }
    expect_refused(ENCODE("--error-feedback"), "error_feedback needs calib");
    folder_put_text(&folder, "calib.txt", buffer_string(&text));
    struct outcome_of out = ENCODE("--error-feedback", "--calib", path);
    cr_assert_eq(out.status, STATUS_OK, "%s", out.err.message);
    cr_expect(out.options.error_feedback);
    cr_expect_eq(out.options.n_calib_ids, 8193, "BOS and 8192 tokens");
    free(out.ids);
    buffer_finish(&text);
}

Test(calibration, bad_files_are_refused_by_name)
{
    expect_refused(ENCODE("--calib", path), path); /* none there */
    folder_put_text(&folder, "calib.txt", "");
    expect_refused(ENCODE("--calib", path), "holds no text");
    folder_put(&folder, "calib.txt", "ab\xff", 3);
    expect_refused(ENCODE("--calib", path), "is not valid UTF-8 (byte 2)");
    expect_refused(ENCODE("--calib", path), path);
    folder_put_text(&folder, "calib.txt", "abcabc");
    expect_refused(ENCODE("--calib", path, "--calib-max-bytes=5"), "6 bytes, at most 5");
    expect_refused(ENCODE("--calib", folder.path), "not a regular file");
}

Test(calibration, weighting)
{
    static const char *const names[] = {"auto", "none", "mean", "moment"};
    for (int i = 0; i < 4; i++) {
        struct outcome_of out = ENCODE("--quant-weighting", names[i]);
        cr_assert_eq(out.status, STATUS_OK, "%s", out.err.message);
        cr_expect_eq((int)out.options.quant.weighting, i);
        cr_expect_eq(out.options.n_calib_ids > 0, i != QUANT_WEIGHTING_NONE, "%s", names[i]);
        free(out.ids);
    }
    expect_refused(ENCODE("--quant-weighting=most"), "auto|none|mean|moment");
    expect_refused(ENCODE("--quant=none", "--quant-weighting=mean"), "quant_weighting");
    expect_refused(ENCODE("--quant=none", "--calib", path), "calib");
}

Test(calibration, formats_that_learn_nothing)
{
    static const char *const names[] = {"--quant=none", "--quant=int4", "--quant=nf4", "--quant=fp4"};
    for (int i = 0; i < 4; i++) {
        struct outcome_of out = encode_with(tokenizer, (const char *const[]){names[i], NULL});
        cr_expect_eq(out.status, STATUS_OK, "%s", out.err.message);
        cr_expect_eq(out.options.n_calib_ids, 0, "%s", names[i]);
        cr_expect_null(out.ids);
    }
}

/* Without a tokenizer there is no calibration, unless somebody asked for it. */
Test(calibration, folder_without_tokenizer)
{
    struct outcome_of out = encode_with(NULL, (const char *const[]){NULL}); /* the folder's own */
    cr_assert_eq(out.status, STATUS_OK, "%s", out.err.message);
    cr_expect_gt(out.options.n_calib_ids, 0);
    free(out.ids);
    folder_put_text(&folder, "calib.txt", "abc");
    char model[128];
    snprintf(model, sizeof model, "%s/tokenizer.model", folder.path);
    unlink(model);
    out = encode_with(NULL, (const char *const[]){NULL});
    cr_expect_eq(out.status, STATUS_OK, "%s", out.err.message);
    cr_expect_eq(out.options.n_calib_ids, 0);
    out = encode_with(NULL, (const char *const[]){"--calib", path, NULL});
    cr_expect_eq(out.status, STATUS_NOT_FOUND);
    cr_expect(strstr(out.err.message, "calib needs a tokenizer"), "%s", out.err.message);
}
