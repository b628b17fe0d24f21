/* The stream against the naive reference: chosen cases, then many random ones. */
#include <criterion/criterion.h>

#include "tests/tokenizer/stream_reference.h"
#include "tests/tokenizer/tiny_model.h"

static struct tokenizer *tiny_open(void)
{
    struct proto *model = calloc(1, sizeof *model);
    struct tokenizer *t = NULL;
    tiny_model(model);
    cr_assert_eq(tokenizer_open_model(&t, model->bytes, model->n_bytes, "tiny", NULL), STATUS_OK);
    free(model);
    return t;
}

static struct detokenizer *stream_open(const struct tokenizer *t, const char *const *stops, int32_t n_stops,
                                       bool include_stop, bool after_prompt)
{
    size_t stop_bytes[DETOKENIZER_MAX_STOPS];
    struct detokenizer *d;
    for (int32_t i = 0; i < n_stops; i++) {
        stop_bytes[i] = strlen(stops[i]);
    }
    struct detokenizer_options options = {stops, stop_bytes, n_stops, include_stop, after_prompt};
    struct error err = {0};
    enum status status = detokenizer_open(&d, t, &options, &err);
    cr_assert_eq(status, STATUS_OK, "%s", err.message);
    return d;
}

static void expect_push(struct detokenizer *d, int32_t id, const char *expected, int32_t expected_stop)
{
    const char *text;
    size_t length;
    int32_t index;
    bool stopped = detokenizer_push(d, id, true, &text, &length, &index);
    cr_expect_eq(stopped, expected_stop >= 0);
    cr_expect_eq(index, expected_stop);
    cr_expect(length == strlen(expected) && !memcmp(text, expected, length), "'%.*s', expected '%s'",
              (int)length, text, expected);
}

static void expect_finish(struct detokenizer *d, const char *expected)
{
    const char *text;
    size_t length;
    detokenizer_finish(d, &text, &length);
    cr_expect(length == strlen(expected) && !memcmp(text, expected, length), "'%.*s', expected '%s'",
              (int)length, text, expected);
    detokenizer_close(d);
}

enum { A = TINY_TEXT + 1, B = TINY_TEXT + 2, C = TINY_TEXT + 3, SPACE_A = TINY_TEXT + 7 };

Test(detokenizer, begin_of_text)
{
    struct tokenizer *t = tiny_open();
    struct detokenizer *d = stream_open(t, NULL, 0, false, true);
    expect_push(d, SPACE_A, " a", -1);
    expect_push(d, SPACE_A, " a", -1);
    expect_finish(d, "");
    d = stream_open(t, NULL, 0, false, false);
    expect_push(d, TINY_BOS, "", -1);
    expect_push(d, SPACE_A, "a", -1);
    expect_push(d, SPACE_A, " a", -1);
    expect_finish(d, "");
    tokenizer_close(t);
}

Test(detokenizer, characters)
{
    struct tokenizer *t = tiny_open();
    struct detokenizer *d = stream_open(t, NULL, 0, false, true);
    expect_push(d, TINY_BYTES + 0xf0, "", -1);
    expect_push(d, TINY_BYTES + 0x9f, "", -1);
    expect_push(d, TINY_EOS, "", -1);
    expect_push(d, TINY_BYTES + 0x98, "", -1);
    expect_push(d, TINY_BYTES + 0x80, "\xf0\x9f\x98\x80", -1);
    expect_push(d, TINY_BYTES + 0xff, "\xef\xbf\xbd", -1);
    expect_push(d, TINY_BYTES + 0xe2, "", -1);
    expect_push(d, TINY_BYTES + 0x82, "", -1);
    expect_push(d, A,
                "\xef\xbf\xbd"
                "a",
                -1);
    expect_push(d, TINY_BYTES + 0xed, "", -1);
    expect_push(d, TINY_BYTES + 0xa0, "\xef\xbf\xbd\xef\xbf\xbd", -1); /* a surrogate: two bad subparts */
    expect_push(d, -5, "", -1);
    expect_push(d, TINY_BYTES + 0xf0, "", -1);
    expect_push(d, TINY_BYTES + 0x9f, "", -1);
    expect_finish(d, "\xef\xbf\xbd");
    tokenizer_close(t);
}

Test(detokenizer, stops)
{
    struct tokenizer *t = tiny_open();
    const char *const bc[] = {"zz", "bc"};
    struct detokenizer *d = stream_open(t, bc, 2, false, true);
    expect_push(d, A, "a", -1);
    expect_push(d, B, "", -1);
    expect_push(d, B, "b", -1);
    expect_push(d, C, "", 1);
    expect_push(d, A, "", 1);
    expect_finish(d, "");
    d = stream_open(t, bc, 2, true, true);
    expect_push(d, TINY_TEXT + 6, "abc", 1); /* inside one token */
    expect_finish(d, "");
    d = stream_open(t, bc, 2, false, true);
    expect_push(d, B, "", -1);
    expect_finish(d, "b");

    /* Found, but one that begins earlier may still come: it comes, it does not, the text ends. */
    const char *const nested[] = {"b", "abcd"};
    d = stream_open(t, nested, 2, false, true);
    expect_push(d, A, "", -1);
    expect_push(d, B, "", -1);
    expect_push(d, C, "", -1);
    expect_push(d, TINY_TEXT + 4, "", 1);
    expect_finish(d, "");
    d = stream_open(t, nested, 2, false, true);
    expect_push(d, A, "", -1);
    expect_push(d, B, "", -1);
    expect_push(d, A, "a", 0);
    expect_finish(d, "");
    d = stream_open(t, nested, 2, false, true);
    expect_push(d, TINY_TEXT + 5, "", -1);
    const char *text;
    size_t length;
    int32_t index;
    detokenizer_finish(d, &text, &length);
    cr_expect(length == 1 && text[0] == 'a');
    cr_expect(detokenizer_stopped(d, &index) && index == 0);
    detokenizer_close(d);
    tokenizer_close(t);
}

Test(detokenizer, stops_held_off)
{
    struct tokenizer *t = tiny_open();
    const char *const stops[] = {"ab"}, *text;
    size_t length;
    struct detokenizer *d = stream_open(t, stops, 1, false, true);
    cr_expect(!detokenizer_push(d, TINY_TEXT + 5, false, &text, &length, NULL));
    cr_expect(length == 2 && !memcmp(text, "ab", 2));
    cr_expect(!detokenizer_push(d, A, false, &text, &length, NULL));
    expect_push(d, B, "b", -1); /* its 'a' took no part */
    expect_push(d, A, "", -1);
    expect_push(d, B, "", 0);
    expect_finish(d, "");
    tokenizer_close(t);
}

Test(detokenizer, bad_options)
{
    struct tokenizer *t = tiny_open();
    struct detokenizer *d;
    struct error err = {0};
    const char *const stops[17] = {"\xe2\x82", "a"};
    size_t n_bytes[17] = {2, 1};
    struct detokenizer_options options = {.stops = stops, .stop_bytes = n_bytes, .n_stops = 1};
    cr_expect_eq(detokenizer_open(&d, t, &options, &err), STATUS_INVALID);
    cr_expect(strstr(err.message, "UTF-8") != NULL);
    n_bytes[0] = 0;
    cr_expect_eq(detokenizer_open(&d, t, &options, &err), STATUS_INVALID);
    n_bytes[0] = 257;
    cr_expect_eq(detokenizer_open(&d, t, &options, &err), STATUS_INVALID);
    options.n_stops = 17;
    cr_expect_eq(detokenizer_open(&d, t, &options, &err), STATUS_INVALID);
    cr_expect_null(d);
    tokenizer_close(t);
}

static uint32_t random_next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Few letters, so that stop strings overlap themselves and each other all the time. */
Test(detokenizer, equals_reference, .timeout = 120)
{
    static const uint8_t bytes[] = {0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0xc3, 0xa9, 0xff, 'a', 'b', 0};
    static const char *const parts[] = {"a", "b", "ab", "\xc3\xa9", "\xe2\x82\xac", "\xef\xbf\xbd", " "};
    enum { N_RUNS = 20000, MAX_IDS = 200, MAX_PARTS = 6 };
    struct tokenizer *t = tiny_open();
    int n_stopped = 0;
    for (uint64_t seed = 0; seed < N_RUNS; seed++) {
        uint64_t state = seed;
        int32_t ids[MAX_IDS];
        bool match[MAX_IDS];
        char stop_text[DETOKENIZER_MAX_STOPS][MAX_PARTS * 4 + 1];
        const char *stops[DETOKENIZER_MAX_STOPS];
        size_t stop_bytes[DETOKENIZER_MAX_STOPS];
        struct stream_case c = {.ids = ids,
                                .match = match,
                                .stops = stops,
                                .stop_bytes = stop_bytes,
                                .n_ids = (int32_t)(random_next(&state) % MAX_IDS),
                                .n_stops = (int32_t)(random_next(&state) % 5 * (random_next(&state) % 5)),
                                .include_stop = random_next(&state) & 1,
                                .after_prompt = random_next(&state) & 1};
        uint32_t hold = random_next(&state) % 3; /* 0: always on, 1: off for a while, 2: now and then */
        for (int32_t s = 0; s < c.n_stops; s++) {
            stop_text[s][0] = 0;
            for (uint32_t k = 1 + random_next(&state) % MAX_PARTS; k; k--) {
                strcat(stop_text[s], parts[random_next(&state) % 7]);
            }
            stops[s] = stop_text[s];
            stop_bytes[s] = strlen(stop_text[s]);
        }
        for (int32_t i = 0; i < c.n_ids; i++) {
            uint32_t kind = random_next(&state) % 8;
            ids[i] = kind < 5   ? TINY_TEXT + (int32_t)(random_next(&state) % TINY_N_PIECES)
                     : kind < 7 ? TINY_BYTES + bytes[random_next(&state) % sizeof bytes]
                                : (int32_t)(random_next(&state) % 5) - 1;
            match[i] = hold == 0 || (hold == 1 ? i > 20 : random_next(&state) % 8 != 0);
        }
        const char *fault = stream_check(t, &c);
        cr_assert_null(fault, "seed %llu: %s", (unsigned long long)seed, fault);
        struct stream_result result = stream_reference(t, &c);
        n_stopped += result.stopped;
        free(result.text);
    }
    cr_expect_gt(n_stopped, N_RUNS / 10);
    tokenizer_close(t);
}

/* The worst case for holding back: a stop string of 256 equal bytes on a text of one byte fewer, again and
 * again. */
Test(detokenizer, long_stop)
{
    struct tokenizer *t = tiny_open();
    char stop[257];
    memset(stop, 'a', 256);
    stop[256] = 0;
    const char *const stops[] = {stop}, *text;
    size_t length, n_given = 0;
    struct detokenizer *d = stream_open(t, stops, 1, false, true);
    for (int i = 0; i < 1000; i++) {
        for (int k = 0; k < 255; k++) {
            cr_assert(!detokenizer_push(d, A, true, &text, &length, NULL));
            n_given += length;
        }
        cr_assert(!detokenizer_push(d, B, true, &text, &length, NULL));
        n_given += length;
    }
    cr_expect_eq(n_given, 256000);
    for (int k = 0; k < 256; k++) {
        expect_push(d, A, "", k == 255 ? 0 : -1);
    }
    expect_finish(d, "");
    tokenizer_close(t);
}
