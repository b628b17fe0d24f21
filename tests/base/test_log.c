/* One event, one line, whatever the message holds. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/base/log.h"

static char *text;
static size_t text_bytes;
static FILE *stream;

static void open_log(enum log_format format)
{
    stream = open_memstream(&text, &text_bytes);
    cr_assert(stream);
    log_configure(format, LOG_INFO, stream);
}

static void close_log(void)
{
    log_configure(LOG_FORMAT_TEXT, LOG_ERROR, NULL);
    fclose(stream);
}

static int count_lines(void)
{
    int n = 0;
    for (size_t i = 0; i < text_bytes; i++) {
        n += text[i] == '\n';
    }
    return n;
}

static cJSON *parse_line(void)
{
    const struct json_limits limits = {.max_depth = 8, .max_nodes = 100};
    struct error err = {0};
    cJSON *tree;
    cr_assert_eq(json_parse(&tree, text, text_bytes, &limits, &err), JSON_OK, "%s: %s", err.message, text);
    return tree;
}

Test(log, json_lines_are_json_whatever_the_message_holds)
{
    open_log(LOG_FORMAT_JSON);
    log_warning("%s", "quote \" backslash \\ line\nfeed \x01\x7f\x1b[31m bad \xff\xc0\x80 good \xc3\xa9 nel "
                      "\xc2\x85 ls \xe2\x80\xa8");
    close_log();
    cr_assert_eq(count_lines(), 1);
    cr_assert_eq(text[text_bytes - 1], '\n');
    cJSON *tree = parse_line();
    cr_assert_str_eq(cJSON_GetObjectItem(tree, "level")->valuestring, "warning");
    cr_assert_str_eq(cJSON_GetObjectItem(tree, "msg")->valuestring,
                     "quote \" backslash \\ line\nfeed \x01\x7f\x1b[31m bad "
                     "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd good \xc3\xa9 nel "
                     "\xc2\x85 ls \xe2\x80\xa8");
    cr_assert_eq(strlen(cJSON_GetObjectItem(tree, "ts")->valuestring), strlen("2026-01-01T00:00:00.000Z"));
    cJSON_Delete(tree);
    free(text);
}

Test(log, every_single_byte_stays_one_line)
{
    for (int format = LOG_FORMAT_TEXT; format <= LOG_FORMAT_JSON; format++) {
        for (int c = 1; c < 256; c++) {
            open_log((enum log_format)format);
            log_info("a%cb", c);
            close_log();
            cr_assert_eq(count_lines(), 1);
            for (size_t i = 0; i + 1 < text_bytes; i++) {
                cr_assert((unsigned char)text[i] >= 0x20 && text[i] != 0x7f, "byte %02x", (unsigned)c);
            }
            if (format == LOG_FORMAT_JSON) {
                cJSON_Delete(parse_line());
            }
            free(text);
        }
    }
}

Test(log, long_messages_are_whole)
{
    static char big[100001];
    memset(big, 'x', sizeof big - 1);
    open_log(LOG_FORMAT_JSON);
    log_info("%s", big);
    close_log();
    cJSON *tree = parse_line();
    cr_assert_eq(strlen(cJSON_GetObjectItem(tree, "msg")->valuestring), sizeof big - 1);
    cJSON_Delete(tree);
    free(text);
}

Test(log, events_in_both_formats)
{
    open_log(LOG_FORMAT_JSON);
    log_event(LOG_INFO, "\"status\":200,\"endpoint\":\"/v1/completions\"");
    close_log();
    cJSON *tree = parse_line();
    cr_assert_eq(cJSON_GetObjectItem(tree, "status")->valueint, 200);
    cJSON_Delete(tree);
    free(text);
    open_log(LOG_FORMAT_TEXT);
    log_event(LOG_INFO, "\"status\":200,\"path\":\"/a,b:\\\"c\",\"list\":[1,{\"k\":2}]");
    close_log();
    cr_assert(strstr(text, " info status=200 path=\"/a,b:\\\"c\" list=[1,{\"k\":2}]\n"), "%s", text);
    free(text);
}

Test(log, levels_filter)
{
    open_log(LOG_FORMAT_TEXT);
    log_debug("hidden");
    log_event(LOG_DEBUG, "\"hidden\":1");
    cr_assert_not(log_enabled(LOG_DEBUG));
    cr_assert(log_enabled(LOG_INFO) && log_enabled(LOG_ERROR));
    close_log();
    cr_assert_eq(text_bytes, 0);
    free(text);
}

/* Work of less than a second writes nothing; longer work about a line a second, the last with 100 %. */
Test(log, progress_without_a_terminal_is_a_line_a_second)
{
    open_log(LOG_FORMAT_TEXT);
    for (int i = 0; i <= 1000; i++) {
        log_progress("quantizing", i, 1000);
    }
    for (int i = 0; i <= 12; i++) {
        log_progress("quantizing", i, 12);
        usleep(110000);
    }
    close_log();
    cr_assert(count_lines() >= 2 && count_lines() <= 4, "%s", text);
    cr_assert(strstr(text, "quantizing: 100 %"));
    free(text);
}
