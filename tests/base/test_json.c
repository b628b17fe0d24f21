/* The strict JSON reader: what RFC 8259 has, what it has not, and the limits. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/json.h"

static const struct json_limits usual = {.max_depth = 64, .max_nodes = 1000};

static enum json_fault fault_of(const char *text, size_t length)
{
    /* A block of exactly this length: a read behind the end is seen by sanitizers. */
    char *exact = malloc(length ? length : 1);
    cJSON *tree;
    struct error err = {0};
    memcpy(exact, text, length);
    enum json_fault fault = json_parse(&tree, exact, length, &usual, &err);
    free(exact);
    cr_assert_eq(fault == JSON_OK, tree != NULL);
    cr_assert(fault == JSON_OK || err.message[0]);
    cJSON_Delete(tree);
    return fault;
}

Test(json, accepts)
{
    static const char *const texts[] = {
        "0",
        "-0",
        "1",
        "1.5",
        "-1.5e+10",
        "1E-3",
        "1e5",
        "true",
        "false",
        "null",
        "\"\"",
        "[]",
        "{}",
        " [ ] ",
        "\t\r\n1\n",
        "[1,2,[3,{\"a\":[]}]]",
        "{\"\":1}",
        "{\"a\":1,\"A\":2}",
        "\"\\u0041\\ud83d\\ude00\\/\\b\\f\"",
        "\"\x7f\"",
        "\"\xc2\x80\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"",
        "1e-999",
        "123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        cr_assert_eq(fault_of(texts[i], strlen(texts[i])), JSON_OK, "%s", texts[i]);
    }
}

Test(json, refuses_what_is_no_json)
{
    static const char *const texts[] = {
        "",           " ",         "[",
        "{",          "[1",        "[1,",
        "[1,]",       "[,1]",      "[1 2]",
        "{\"a\"}",    "{\"a\":}",  "{\"a\":1,}",
        "{a:1}",      "{'a':1}",   "{1:1}",
        "]",          "}",         "[}",
        "01",         "-",         "+1",
        "1.",         ".5",        "1e",
        "1e+",        "0x10",      "-01",
        "1.e5",       "NaN",       "Infinity",
        "-Infinity",  "nul",       "nulll",
        "True",       "tru",       "\"",
        "\"a",        "\"\\",      "\"\\\"",
        "\"\\x\"",    "\"\\u12\"", "\"\\u12g4\"",
        "\"a\nb\"",   "\"\t\"",    "1 1",
        "{} {}",      "[] x",      "// c\n1",
        "/* c */ 1",  "[1] // c",  "\xef\xbb\xbf{}",
        "\f1",        "\xa0 1",    "'a'",
        "\"a\"\"b\"",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        cr_assert_eq(fault_of(texts[i], strlen(texts[i])), JSON_SYNTAX, "%s", texts[i]);
    }
    cr_assert_eq(fault_of("\"a\0b\"", 5), JSON_SYNTAX);
    cr_assert_eq(fault_of("1\0", 2), JSON_SYNTAX);
    cr_assert_eq(fault_of("[1]\0[2]", 7), JSON_SYNTAX);
}

Test(json, refuses_broken_unicode)
{
    static const char *const texts[] = {
        "\"\x80\"",
        "\"\xc0\x80\"",
        "\"\xc1\xbf\"",
        "\"\xc3\"",
        "\"\xc3(\"",
        "\"\xe0\x80\x80\"",
        "\"\xe0\x9f\xbf\"",
        "\"\xed\xa0\x80\"",
        "\"\xe2\x82\"",
        "\"\xf0\x80\x80\x80\"",
        "\"\xf0\x8f\xbf\xbf\"",
        "\"\xf4\x90\x80\x80\"",
        "\"\xf5\x80\x80\x80\"",
        "\"\xff\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\ud800\"",
        "\"\\ud800x\"",
        "\"\\ud83d\\n\"",
        "{\"\xff\":1}",
        "[\"\xf0\x9f\x98\"]",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        cr_assert_eq(fault_of(texts[i], strlen(texts[i])), JSON_UTF8, "%d", (int)i);
    }
    cr_assert_eq(fault_of("\"a\\u0000b\"", 10), JSON_NUL);
    cr_assert_eq(fault_of("{\"\\u0000\":1}", 12), JSON_NUL);
}

Test(json, strings_are_decoded)
{
    static const char text[] = "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\u20AC\\ud83d\\ude00 \xc3\xa9\"";
    cJSON *tree;
    cr_assert_eq(json_parse(&tree, text, sizeof text - 1, &usual, NULL), JSON_OK);
    cr_assert_str_eq(tree->valuestring, "\"\\/\b\f\n\r\t\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 \xc3\xa9");
    cJSON_Delete(tree);
}

Test(json, duplicate_keys)
{
    static const char *const texts[] = {
        "{\"a\":1,\"a\":2}",
        "{\"a\":1,\"\\u0061\":2}",
        "[{\"x\":{\"b\":1,\"c\":2,\"b\":3}}]",
        "{\"\":1,\"\":1}",
        "{\"a\":1,\"b\":1,\"c\":1,\"d\":1,\"e\":1,\"f\":1,\"g\":1,\"h\":1,\"i\":1,\"j\":1,\"a\":1}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        cr_assert_eq(fault_of(texts[i], strlen(texts[i])), JSON_DUPLICATE, "%s", texts[i]);
    }
    cr_assert_eq(fault_of("[{\"a\":1},{\"a\":1}]", 17), JSON_OK);
}

Test(json, limits_hold)
{
    const struct json_limits small = {.max_depth = 3, .max_nodes = 5};
    const struct json_limits huge = {.max_depth = INT32_MAX, .max_nodes = INT64_MAX};
    cJSON *tree;
    cr_assert_eq(json_parse(&tree, "[[[]]]", 6, &small, NULL), JSON_OK);
    cJSON_Delete(tree);
    cr_assert_eq(json_parse(&tree, "[[[[]]]]", 8, &small, NULL), JSON_TOO_COMPLEX);
    cr_assert_eq(json_parse(&tree, "[1,2,3,4]", 9, &small, NULL), JSON_OK);
    cJSON_Delete(tree);
    cr_assert_eq(json_parse(&tree, "[1,2,3,4,5]", 11, &small, NULL), JSON_TOO_COMPLEX);
    cr_assert_eq(json_parse(&tree, "{\"a\":1,\"b\":2}", 13, &small, NULL), JSON_OK);
    cJSON_Delete(tree);
    cr_assert_eq(json_parse(&tree, "{\"a\":1,\"b\":[3]}", 15, &small, NULL), JSON_TOO_COMPLEX);
    static char deep[200000];
    memset(deep, '[', sizeof deep);
    cr_assert_eq(json_parse(&tree, deep, sizeof deep, &huge, NULL), JSON_TOO_COMPLEX);
    cr_assert_eq(fault_of("1e999", 5), JSON_TOO_COMPLEX);
    memset(deep, '1', sizeof deep);
    cr_assert_eq(json_parse(&tree, deep, sizeof deep, &huge, NULL), JSON_TOO_COMPLEX);
}

Test(json, two_hundred_thousand_keys_are_quick)
{
    const struct json_limits huge = {.max_depth = 4, .max_nodes = 1000000};
    enum { N = 200000 };
    static char text[N * 20 + 10];
    size_t at = 0;
    text[at++] = '{';
    for (int i = 0; i < N; i++) {
        at += (size_t)snprintf(text + at, sizeof text - at, "\"key%d\":0,", i);
    }
    snprintf(text + at, sizeof text - at, "\"key77777\":0}");
    cJSON *tree;
    clock_t start = clock();
    cr_assert_eq(json_parse(&tree, text, strlen(text), &huge, NULL), JSON_DUPLICATE);
    cr_assert((double)(clock() - start) / CLOCKS_PER_SEC < 5, "quadratic would take minutes");
    text[at - 1] = '}';
    text[at] = '\0';
    cr_assert_eq(json_parse(&tree, text, strlen(text), &huge, NULL), JSON_OK);
    cr_assert_eq(cJSON_GetArraySize(tree), N);
    cJSON_Delete(tree);
}

Test(json, integers_are_exact)
{
    static const struct {
        const char *text;
        bool ok;
        int64_t value;
    } cases[] = {
        {"0", true, 0},
        {"-0", true, 0},
        {"1.0", true, 1},
        {"1e3", true, 1000},
        {"1.5e1", true, 15},
        {"1.5", false, 0},
        {"10.50e1", true, 105},
        {"100e-2", true, 1},
        {"100e-3", false, 0},
        {"0e99999999999999999999", true, 0},
        {"0.000", true, 0},
        {"9007199254740993", true, 9007199254740993},
        {"-9007199254740993", true, -9007199254740993},
        {"9007199254740993.0", true, 9007199254740993},
        {"9223372036854775807", true, INT64_MAX},
        {"9223372036854775808", false, 0},
        {"-9223372036854775808", true, INT64_MIN},
        {"-9223372036854775809", false, 0},
        {"18446744073709551616", false, 0},
        {"1e18", true, 1000000000000000000},
        {"1e19", false, 0},
        {"92233720368547758.07e2", true, INT64_MAX},
        {"1.00000000000000000001", false, 0},
        {"0.99999999999999999999", false, 0},
        {"1e-400", false, 0},
        {"1e300", false, 0},
        {"100000000000000000000000000000e-20", true, 1000000000},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cJSON *tree;
        int64_t value = 0;
        cr_assert_eq(json_parse(&tree, cases[i].text, strlen(cases[i].text), &usual, NULL), JSON_OK);
        cr_assert_eq(json_int64(tree, &value), cases[i].ok, "%s", cases[i].text);
        cr_assert(!cases[i].ok || value == cases[i].value, "%s", cases[i].text);
        cJSON *copy = cJSON_Duplicate(tree, true); /* digits travel with copies */
        cr_assert_eq(json_int64(copy, &value), cases[i].ok);
        cJSON_Delete(copy);
        cJSON_Delete(tree);
    }
    int64_t value;
    cr_assert_not(json_int64(NULL, &value));
    cJSON *string = cJSON_CreateString("1"), *number = cJSON_CreateNumber(7);
    cr_assert_not(json_int64(string, &value));
    cr_assert(json_int64(number, &value) && value == 7);
    cJSON_Delete(string);
    cJSON_Delete(number);
}

Test(json, files)
{
    char path[] = "/tmp/any4-json-XXXXXX";
    struct error err;
    char *text;
    size_t length;
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, "hello", 5) == 5);
    close(fd);
    cr_assert_eq(file_read(&text, &length, path, 5, &err), STATUS_OK);
    cr_assert(length == 5 && strcmp(text, "hello") == 0);
    free(text);
    cr_assert_eq(file_read(&text, &length, path, 4, &err), STATUS_INVALID);
    cr_assert(strstr(err.message, path));
    unlink(path);
    cr_assert_eq(file_read(&text, &length, path, 5, &err), STATUS_NOT_FOUND);
    cr_assert_eq(file_read(&text, &length, "/tmp", 5, &err), STATUS_INVALID);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_assert_eq(file_read(&text, &length, path, 5, &err),
                 STATUS_INVALID); /* and does not wait for a writer */
    unlink(path);
    cr_assert_null(text);
}
