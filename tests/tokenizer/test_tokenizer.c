/* Folder rules, encode and decode. The published pairs of the fixtures' cases.json are the judge of the
 * encoder. */
#include <criterion/criterion.h>
#include <pthread.h>

#include "engine/base/json.h"
#include "tests/fixtures.h"
#include "tests/tokenizer/folder.h"
#include "tests/tokenizer/tiny_model.h"
#include "tokenizer/tokenizer.h"

static struct tokenizer *tiny_open(void)
{
    struct proto *model = calloc(1, sizeof *model);
    struct tokenizer *t;
    struct error err = {0};
    tiny_model(model);
    enum status status = tokenizer_open_model(&t, model->bytes, model->n_bytes, "tiny", &err);
    cr_assert_eq(status, STATUS_OK, "%s", err.message);
    free(model);
    return t;
}

static void expect_ids(const struct tokenizer *t, const char *text, size_t length, bool add_bos,
                       const int32_t *expected, int32_t n_expected)
{
    int32_t *ids, n_ids;
    struct error err = {0};
    enum status status = tokenizer_encode(t, text, length, add_bos, &ids, &n_ids, &err);
    cr_assert_eq(status, STATUS_OK, "%s", err.message);
    cr_expect_eq(n_ids, n_expected, "'%s': %d ids, expected %d", text, (int)n_ids, (int)n_expected);
    for (int32_t i = 0; i < n_ids && i < n_expected; i++) {
        cr_expect_eq(ids[i], expected[i], "'%s': id %d is %d, expected %d", text, (int)i, (int)ids[i],
                     (int)expected[i]);
    }
    free(ids);
}

static void expect_text(const struct tokenizer *t, const int32_t *ids, int32_t n_ids, const char *expected,
                        size_t n_expected)
{
    char *text;
    size_t length;
    cr_assert_eq(tokenizer_decode(t, ids, n_ids, &text, &length, NULL), STATUS_OK);
    cr_expect_eq(length, n_expected);
    cr_expect(length == n_expected && !memcmp(text, expected, length), "'%s', expected '%s'", text, expected);
    cr_expect_eq(text[length], 0);
    free(text);
}

static void expect_round_trip(const struct tokenizer *t, const char *text, size_t length)
{
    int32_t *ids, n_ids;
    cr_assert_eq(tokenizer_encode(t, text, length, true, &ids, &n_ids, NULL), STATUS_OK);
    expect_text(t, ids, n_ids, text, length);
    free(ids);
}

Test(tokenizer, tiny_encodes)
{
    struct tokenizer *t = tiny_open();
    cr_expect_eq(tokenizer_n_tokens(t), TINY_N_TOKENS);
    /* "_abc": ab (5) merges before abc (6) and before _a (7): _ abc. */
    const int32_t merged[] = {TINY_BOS, TINY_TEXT, TINY_TEXT + 6};
    expect_ids(t, "abc", 3, true, merged, 3);
    expect_ids(t, "abc", 3, false, merged + 1, 2);
    const int32_t unknown[] = {TINY_TEXT, TINY_BYTES + 'x', TINY_BYTES + 0xc3, TINY_BYTES + 0xbc};
    expect_ids(t, "x\xc3\xbc", 3, false, unknown, 4);
    expect_ids(t, "", 0, false, NULL, 0);
    expect_ids(t, "", 0, true, merged, 1);
    tokenizer_close(t);
}

Test(tokenizer, special_strings_are_text)
{
    struct tokenizer *t = tiny_open();
    const char *text = "<s></s><unk><0x41>";
    int32_t *ids, n_ids;
    cr_assert_eq(tokenizer_encode(t, text, strlen(text), false, &ids, &n_ids, NULL), STATUS_OK);
    for (int32_t i = 0; i < n_ids; i++) {
        cr_expect_gt(ids[i], TINY_EOS);
    }
    expect_text(t, ids, n_ids, text, strlen(text));
    free(ids);
    tokenizer_close(t);
}

Test(tokenizer, any_bytes)
{
    struct tokenizer *t = tiny_open();
    expect_round_trip(t, "a\0b\0", 4);
    expect_round_trip(t, "  two  spaces \n\t ", 17);
    const int32_t bad[] = {TINY_TEXT, TINY_BYTES + 0xef, TINY_BYTES + 0xbf, TINY_BYTES + 0xbd, TINY_TEXT + 1};
    expect_ids(t,
               "\xff"
               "a",
               2, false, bad, 5);
    char all[512];
    for (int i = 0; i < 512; i++) {
        all[i] = (char)(i * 7);
    }
    int32_t *ids, n_ids;
    cr_assert_eq(tokenizer_encode(t, all, sizeof all, true, &ids, &n_ids, NULL), STATUS_OK);
    free(ids);
    tokenizer_close(t);
}

Test(tokenizer, text_over_the_limit)
{
    struct tokenizer *t = tiny_open();
    struct error err = {0};
    int32_t *ids, n_ids;
    /* Refused by its length before a byte is read. */
    cr_expect_eq(tokenizer_encode(t, "", (size_t)TOKENIZER_MAX_TEXT_BYTES + 1, true, &ids, &n_ids, &err),
                 STATUS_INVALID);
    cr_expect(strstr(err.message, "16777217") != NULL, "%s", err.message);
    cr_expect_null(ids);
    tokenizer_close(t);
}

Test(tokenizer, decodes)
{
    struct tokenizer *t = tiny_open();
    size_t length;
    const int32_t mixed[] = {TINY_BOS, TINY_TEXT + 7, TINY_BYTES + 0xff, TINY_EOS,
                             -1,       TINY_N_TOKENS, TINY_BYTES,        TINY_TEXT + 8};
    expect_text(t, mixed, 8, "a\xff\0  ", 5);
    const int32_t two_spaces[] = {TINY_TEXT + 8, TINY_TEXT + 1};
    expect_text(t, two_spaces, 2, " a", 2); /* only the one in front goes */
    const int32_t byte_first[] = {TINY_BYTES + 'x', TINY_TEXT + 7};
    expect_text(t, byte_first, 2, "x a", 3);
    const int32_t unknown[] = {TINY_UNK};
    expect_text(t, unknown, 1, " \xe2\x81\x87 ", 5);
    cr_expect_str_eq(tokenizer_piece(t, TINY_TEXT + 7), "\xe2\x96\x81"
                                                        "a");
    cr_expect_str_eq(tokenizer_piece(t, TINY_BYTES + 10), "<0x0A>");
    cr_expect_str_eq(tokenizer_piece(t, -1), "");
    cr_expect_str_eq(tokenizer_piece(t, TINY_N_TOKENS), "");
    cr_expect_str_eq(tokenizer_piece_bytes(t, TINY_TEXT + 7, &length), " a");
    cr_expect_eq(length, 2);
    cr_expect_str_eq(tokenizer_piece_bytes(t, TINY_BOS, &length), "");
    cr_expect_eq(length, 0);
    tokenizer_close(t);
}

/* ---- folders ---- */

static struct folder tiny_folder(void)
{
    struct folder folder = folder_make();
    struct proto *model = calloc(1, sizeof *model);
    tiny_model(model);
    folder_put(&folder, "tokenizer.model", model->bytes, model->n_bytes);
    free(model);
    return folder;
}

static void expect_refused(const struct folder *folder, enum status expected, const char *words)
{
    struct tokenizer *t;
    struct error err = {0};
    cr_expect_eq(tokenizer_open(&t, folder->path, &err), expected, "%s", err.message);
    cr_expect_eq(err.status, expected);
    cr_expect_null(t);
    cr_expect(strstr(err.message, words) != NULL, "'%s' lacks '%s'", err.message, words);
}

Test(folder, special_ids)
{
    struct folder folder = tiny_folder();
    struct tokenizer *t;
    int32_t n;
    cr_assert_eq(tokenizer_open(&t, folder.path, NULL), STATUS_OK);
    cr_expect_eq(tokenizer_bos(t), TINY_BOS);
    cr_expect(tokenizer_adds_bos(t) && tokenizer_is_eos(t, TINY_EOS) && !tokenizer_is_eos(t, TINY_BOS));
    tokenizer_close(t);

    folder_put_text(&folder, "config.json", "{\"bos_token_id\": 7, \"eos_token_id\": 9}");
    folder_put_text(&folder, "tokenizer_config.json", "{\"add_bos_token\": false}");
    cr_assert_eq(tokenizer_open(&t, folder.path, NULL), STATUS_OK);
    cr_expect_eq(tokenizer_bos(t), 7);
    cr_expect(!tokenizer_adds_bos(t) && tokenizer_is_eos(t, 9) && !tokenizer_is_eos(t, TINY_EOS));
    tokenizer_close(t);

    /* An id beyond the vocabulary is an added token's. */
    folder_put_text(&folder, "generation_config.json",
                    "{\"bos_token_id\": null, \"eos_token_id\": [2, 40000]}");
    cr_assert_eq(tokenizer_open(&t, folder.path, NULL), STATUS_OK);
    cr_expect_eq(tokenizer_bos(t), 7);
    cr_expect_eq(tokenizer_eos_ids(t, &n)[1], 40000);
    cr_expect_eq(n, 2);
    cr_expect(tokenizer_is_eos(t, 40000) && !tokenizer_is_eos(t, 9));
    tokenizer_close(t);
    folder_remove(&folder);
}

Test(folder, bad_configs)
{
    struct folder folder = tiny_folder();
    folder_put_text(&folder, "generation_config.json", "{\"eos_token_id\": \"</s>\"}");
    expect_refused(&folder, STATUS_BAD_MODEL, "generation_config.json: eos_token_id");
    folder_put_text(&folder, "generation_config.json",
                    "{\"eos_token_id\": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}");
    expect_refused(&folder, STATUS_BAD_MODEL, "eos_token_id");
    folder_put_text(&folder, "generation_config.json", "{\"eos_token_id\": -1}");
    expect_refused(&folder, STATUS_BAD_MODEL, "eos_token_id");
    folder_put_text(&folder, "generation_config.json", "{\"eos_token_id\": 2");
    expect_refused(&folder, STATUS_BAD_MODEL, "generation_config.json");
    folder_put_text(&folder, "generation_config.json", "[]");
    expect_refused(&folder, STATUS_BAD_MODEL, "not a JSON object");
    folder_put_text(&folder, "generation_config.json", "{}");
    folder_put_text(&folder, "tokenizer_config.json", "{\"add_bos_token\": 1}");
    expect_refused(&folder, STATUS_BAD_MODEL, "add_bos_token");
    folder_remove(&folder);
}

Test(folder, other_tokenizers)
{
    struct folder folder = folder_make();
    expect_refused(&folder, STATUS_NOT_FOUND, "tokenizer.model");
    folder_put_text(&folder, "tokenizer.json", "{}");
    expect_refused(&folder, STATUS_BAD_MODEL,
                   "tokenizer.json is not supported yet: put tokenizer.model beside it");
    folder_put_text(&folder, "tokenizer.model", "IQ== 0\nIg== 1\n");
    expect_refused(&folder, STATUS_BAD_MODEL, "tiktoken");
    folder_put_text(&folder, "tokenizer.model", "");
    expect_refused(&folder, STATUS_BAD_MODEL, "no pieces");
    folder_put_text(&folder, "tokenizer.model", "version https://git-lfs.github.com/spec/v1\n");
    expect_refused(&folder, STATUS_BAD_MODEL, "tokenizer.model");
    folder_remove(&folder);
    expect_refused(&(struct folder){"/nonexistent"}, STATUS_NOT_FOUND, "/nonexistent/tokenizer.model");
}

/* ---- fixtures ---- */

static struct tokenizer *fixture_open(const char *name)
{
    char path[4096];
    struct tokenizer *t;
    struct error err = {0};
    if (!fixture_path(path, sizeof path, name)) {
        return NULL;
    }
    enum status status = tokenizer_open(&t, path, &err);
    cr_assert_eq(status, STATUS_OK, "%s", err.message);
    return t;
}

/* lossless: the model does not fold spaces, so that decoding gives the text back. */
static void cases_run(const char *folder, const char *cases, bool lossless)
{
    char path[4096], *text;
    size_t length;
    cJSON *json;
    const cJSON *item, *id;
    struct json_limits limits = {64, 1 << 22};
    int n_cases = 0;
    struct tokenizer *t = fixture_open(folder);
    if (!t || !fixture_path(path, sizeof path, cases)) {
        tokenizer_close(t);
        return;
    }
    cr_assert_eq(file_read(&text, &length, path, 16 << 20, NULL), STATUS_OK);
    cr_assert_eq(json_parse(&json, text, length, &limits, NULL), JSON_OK);
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(json, "cases"))
    {
        const char *input = cJSON_GetObjectItemCaseSensitive(item, "text")->valuestring;
        const cJSON *list = cJSON_GetObjectItemCaseSensitive(item, "ids");
        int32_t *ids = calloc((size_t)cJSON_GetArraySize(list) + 1, sizeof *ids), n_ids = 0;
        cr_assert_null(cJSON_GetObjectItemCaseSensitive(item, "parse_special"));
        cJSON_ArrayForEach(id, list)
        {
            ids[n_ids++] = id->valueint;
        }
        expect_ids(t, input, strlen(input), false, ids, n_ids);
        if (lossless && !strstr(input, "\xe2\x96\x81")) { /* sentencepiece writes U+2581 itself as a space */
            expect_text(t, ids, n_ids, input, strlen(input));
        }
        free(ids);
        n_cases++;
    }
    cr_expect_gt(n_cases, 0);
    fprintf(stderr, "%s: %d cases\n", cases, n_cases);
    cJSON_Delete(json);
    free(text);
    tokenizer_close(t);
}

Test(fixtures, llama2)
{
    cases_run("tokenizers/llama2", "tokenizers/llama2/cases.json", true);
}

Test(fixtures, mistral_v1)
{
    cases_run("tokenizers/mistral-v1", "tokenizers/mistral-v1/cases.json", true);
}

Test(fixtures, mistral_v3)
{
    cases_run("tokenizers/mistral-v3", "tokenizers/mistral-v3/cases.json", true);
}

Test(fixtures, stories)
{
    cases_run("stories260K", "tokenizers/stories260K/cases.json", false);
}

Test(fixtures, llama3_is_refused)
{
    char path[4096];
    struct tokenizer *t;
    struct error err = {0};
    if (fixture_path(path, sizeof path, "tokenizers/llama3")) {
        cr_expect_eq(tokenizer_open(&t, path, &err), STATUS_BAD_MODEL);
        cr_expect(strstr(err.message, "tiktoken") != NULL, "%s", err.message);
    }
}

/* A megabyte in one piece, and in the shape that is worst for a merge loop: one character over and over. */
Test(fixtures, long_text, .timeout = 120)
{
    enum { N_BYTES = 1 << 20 };
    struct tokenizer *t = fixture_open("tokenizers/llama2");
    if (!t) {
        return;
    }
    char *text = malloc(N_BYTES);
    memset(text, 'a', N_BYTES);
    expect_round_trip(t, text, N_BYTES);
    for (int i = 0; i < N_BYTES; i++) {
        text[i] = "the quick brown fox, 12 jumps "[i % 30];
    }
    expect_round_trip(t, text, N_BYTES);
    free(text);
    tokenizer_close(t);
}

Test(demo_model, round_trip)
{
    char path[4096], model[4200];
    const char *root = getenv("ANY4_SOURCE_ROOT");
    struct tokenizer *t;
    struct error err = {0};
    snprintf(path, sizeof path, "%s/configs/demo-model", root && *root ? root : ".");
    snprintf(model, sizeof model, "%s/tokenizer.model", path);
    if (access(model, R_OK) != 0) {
        fprintf(stderr, "\n*** SKIPPED: %s is not there ***\n", model);
        return;
    }
    enum status status = tokenizer_open(&t, path, &err);
    cr_assert_eq(status, STATUS_OK, "%s", err.message);
    expect_round_trip(t, "Once upon a time, a cat sat.", 28);
    tokenizer_close(t);
}

/* ---- threads ---- */

struct thread_work {
    const struct tokenizer *tokenizer;
    bool same;
};

static void *thread_encode(void *context)
{
    struct thread_work *work = context;
    static const char text[] = "a cab abc dd \xc3\xa9 \xe2\x82\xac \xff dabcabccab";
    int32_t *first, n_first, *ids, n_ids;
    work->same =
        tokenizer_encode(work->tokenizer, text, sizeof text, true, &first, &n_first, NULL) == STATUS_OK;
    for (int i = 0; i < 200 && work->same; i++) {
        work->same =
            tokenizer_encode(work->tokenizer, text, sizeof text, true, &ids, &n_ids, NULL) == STATUS_OK &&
            n_ids == n_first && !memcmp(ids, first, (size_t)n_ids * sizeof *ids);
        free(ids);
    }
    free(first);
    return NULL;
}

Test(threads, same_ids)
{
    enum { N_THREADS = 8 };
    pthread_t threads[N_THREADS];
    struct thread_work work[N_THREADS];
    struct tokenizer *t = tiny_open();
    for (int i = 0; i < N_THREADS; i++) {
        work[i] = (struct thread_work){t, false};
        cr_assert_eq(pthread_create(&threads[i], NULL, thread_encode, &work[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        cr_expect(work[i].same);
    }
    tokenizer_close(t);
}
