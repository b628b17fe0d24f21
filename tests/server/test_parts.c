/* The small parts: settings, SSE framing, JSON output, metrics text, text of one sequence. */
#include <math.h>

#include "server/sse.h"
#include "server/text_stream.h"
#include "tests/server/support.h"
#include "tests/tokenizer/tiny_model.h"

Test(config, every_default_is_in_range)
{
    struct config config;
    struct error err = {0};
    cr_assert_eq(config_load(&config, CONFIG_FOR_ALL, 0, NULL, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(config.max_body_bytes, 4 << 20);
    cr_assert_eq(config.port, 8080);
    cr_assert_eq(config.request_timeout, 600);
    cr_assert_eq(config.stream_interval_ms, CONFIG_AUTO);
    cr_assert(config.metrics && !config.strict_fields);
    for (int32_t i = 0; i < config_n_keys; i++) {
        for (int32_t j = 0; j < i; j++) {
            cr_expect_str_neq(config_keys[i].name, config_keys[j].name);
        }
        cr_expect(config_keys[i].help && config_keys[i].commands, "%s", config_keys[i].name);
    }
    config_finish(&config);
}

Test(config, precedence)
{
    char path[] = "/tmp/any4-config-XXXXXX";
    int fd = mkstemp(path);
    static const char text[] =
        "{\"port\": 1001, \"max_queue\": 7, \"strict_fields\": true, \"host\": \"file\", \"prompt\": \"x\"}";
    cr_assert_eq(write(fd, text, sizeof text - 1), (ssize_t)sizeof text - 1);
    close(fd);
    setenv("ANY4_PORT", "1002", 1);
    setenv("ANY4_HOST", "env", 1);
    char *argv[] = {(char *)"dir", (char *)"--config", path, (char *)"--port=1003"};
    struct config config;
    struct error err = {0};
    cr_assert_eq(config_load(&config, CONFIG_FOR_SERVE, 4, argv, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(config.port, 1003);
    cr_assert_str_eq(config.host, "env");
    cr_assert_eq(config.max_queue, 7);
    cr_assert(config.strict_fields);
    cr_assert_str_eq(config.model, "dir");
    config_finish(&config);
    unlink(path);
}

static void expect_refused(const char *flag, const char *value, const char *part)
{
    char *argv[] = {(char *)flag, (char *)value};
    struct config config;
    struct error err = {0};
    cr_expect_eq(config_load(&config, CONFIG_FOR_SERVE, value ? 2 : 1, argv, &err), STATUS_INVALID, "%s",
                 flag);
    cr_expect(strstr(err.message, part), "%s: %s", flag, err.message);
    config_finish(&config);
}

Test(config, refusals)
{
    expect_refused("--prot", "1", "did you mean --port?");
    expect_refused("--zzzzzzzzzz", "1", "--zzzzzzzzzz is unknown");
    expect_refused("--port", NULL, "needs a value");
    expect_refused("--port", "65536", "0..65535");
    expect_refused("--port", "8x", "must be an integer");
    expect_refused("--max-body-bytes", "9999999999999999999G", "must be an integer");
    expect_refused("--port", "auto", "must be an integer");
    expect_refused("--stream-interval-ms", "soon", "must be an integer or auto");
    expect_refused("--stream-interval-ms", "-1", "0..1000");
    expect_refused("--kv-cache-type", "int8", "auto|f32|f16|bf16");
    expect_refused("--metrics=maybe", NULL, "must be on or off");
    expect_refused("--drain-timeout", "nan", "seconds");
    expect_refused("--unix-socket", "/tmp/x", "--unix-socket is not supported yet");
    expect_refused("--seccomp=on", NULL, "not supported yet");
    expect_refused("--prompt", "x", "unknown"); /* a flag of another command */
    expect_refused("-p", "80", "-p is unknown (see --help)");
    expect_refused("--no-port", NULL, "--no-port is unknown");
    expect_refused("--no-metrics=on", NULL, "--no-metrics is unknown");
    setenv("ANY4_PROT", "1", 1);
    expect_refused("--port", "1", "ANY4_PROT is unknown; did you mean ANY4_PORT?");
}

static void expect_file_refused(const char *text, const char *part)
{
    char path[] = "/tmp/any4-config-XXXXXX", expected[256];
    int fd = mkstemp(path);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    char *argv[] = {(char *)"dir", (char *)"--config", path};
    struct config config;
    struct error err = {0};
    cr_expect_eq(config_load(&config, CONFIG_FOR_SERVE, 3, argv, &err), STATUS_INVALID, "%s", text);
    snprintf(expected, sizeof expected, "%s: %s", path, part);
    cr_expect(!strncmp(err.message, expected, strlen(expected)), "%s: %s", expected, err.message);
    config_finish(&config);
    unlink(path);
}

Test(config, file_and_key_are_named)
{
    expect_file_refused("{\"port\": \"abc\"}", "port is \"abc\", must be an integer");
    expect_file_refused("{\"portt\": 1}", "portt is unknown; did you mean port?");
    expect_file_refused("{\"port\": {}}", "port must not be an object");
    expect_file_refused("{\"port\": 1", "not JSON");
}

Test(config, booleans_can_be_negated)
{
    char *argv[] = {(char *)"dir", (char *)"--no-metrics", (char *)"--strict-fields", (char *)"--access-log",
                    (char *)"off"};
    struct config config;
    struct error err = {0};
    cr_assert_eq(config_load(&config, CONFIG_FOR_SERVE, 5, argv, &err), STATUS_OK, "%s", err.message);
    cr_assert(!config.metrics && config.strict_fields && !config.access_log);
    config_finish(&config);
    char *words[] = {(char *)"dir", (char *)"--no-bos", (char *)"--", (char *)"-5 degrees"};
    cr_assert_eq(config_load(&config, CONFIG_FOR_TOKENIZE, 4, words, &err), STATUS_OK, "%s", err.message);
    cr_assert(config.no_bos);
    cr_assert_str_eq(config.text, "-5 degrees");
    config_finish(&config);
}

Test(config, secrets_are_masked)
{
    char *argv[] = {(char *)"m", (char *)"--api-key", (char *)"hunter2"}, text[16384] = "";
    struct config config;
    struct error err = {0};
    cr_assert_eq(config_load(&config, CONFIG_FOR_SERVE, 3, argv, &err), STATUS_OK);
    FILE *file = fmemopen(text, sizeof text, "w");
    config_print(file, &config);
    fclose(file);
    cr_assert(!strstr(text, "hunter2"));
    cr_assert(strstr(text, "***"));
    cr_assert(strstr(text, "flag"));
    cr_assert(!strstr(text, "unix_socket"), "what is not supported yet is no setting");
    config_finish(&config);
}

Test(sse, framing)
{
    struct buffer out = {0};
    sse_write_data(&out, "{\"a\":1}", 7);
    sse_write_ping(&out);
    sse_write_done(&out);
    cr_assert_str_eq(buffer_string(&out), "data: {\"a\":1}\n\n: ping\n\ndata: [DONE]\n\n");
    cr_assert_eq(sse_event_length(out.data, out.length), 15);
    cr_assert_eq(sse_event_length("data: x\n", 8), 0);
    cr_assert_eq(sse_event_length(NULL, 0), 0);
    buffer_finish(&out);
}

Test(json, strings_and_numbers)
{
    struct buffer out = {0};
    buffer_json_string(&out, "a\"\\\n\x01\xc3\xa9\xff\xe2\x82", 10);
    cr_assert_str_eq(buffer_string(&out),
                     "\"a\\\"\\\\\\n\\u0001\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    out.length = 0;
    buffer_json_float(&out, -INFINITY);
    buffer_text(&out, " ");
    buffer_json_float(&out, 0);
    buffer_text(&out, " ");
    buffer_json_double(&out, 0.1);
    buffer_text(&out, " ");
    buffer_json_float(&out, -0.5f);
    cr_assert_str_eq(buffer_string(&out), "-9999.0 0.0 0.1 -0.5");
    buffer_finish(&out);
    static const struct {
        const char *text;
        size_t length;
    } bytes[] = {{"\xc0\x80", 0},
                 {"\xed\xa0\x80", 0},
                 {"\xf4\x90\x80\x80", 0},
                 {"\xf0\x9f\x98\x80", 4},
                 {"\xe2\x82", 0}};
    for (size_t i = 0; i < sizeof bytes / sizeof bytes[0]; i++) {
        cr_expect_eq(utf8_sequence(bytes[i].text, strlen(bytes[i].text)), bytes[i].length, "%zu", i);
    }
    cr_assert_eq(utf8_valid_bytes("a\xc3\xa9", 3), 3);
    cr_assert_eq(utf8_valid_bytes("a\xc3\xa9", 2), 1);
    cr_assert_eq(utf8_valid_bytes("", 0), 0);
}

/* Every line is a comment or name{labels} value; every series has a TYPE; buckets never fall. */
Test(metrics, text_format)
{
    static struct metrics metrics;
    struct buffer out = {0};
    struct engine_stats stats = {.running = 3};
    struct engine_info info = {.kernels = "k", .quant_cache = "miss"};
    const char *endpoints[] = {"other", "/x"};
    metrics_init(&metrics);
    metrics_count_request(&metrics, 1, 200);
    metrics_count_request(&metrics, 1, 418);
    metrics_observe(&metrics, HISTOGRAM_TTFT, 0.015);
    metrics_observe(&metrics, HISTOGRAM_TTFT, 1000);
    metrics_observe(&metrics, HISTOGRAM_PROMPT_TOKENS, 17);
    struct metrics_view view = {.model = "a\"b\\c",
                                .endpoints = endpoints,
                                .n_endpoints = 2,
                                .version = "1",
                                .commit = "c",
                                .stats = &stats,
                                .info = &info,
                                .connections = 1,
                                .ready = true};
    metrics_write(&out, &metrics, &view);
    const char *text = buffer_string(&out);
    cr_assert(!out.failed);
    cr_assert(strstr(text, "any4_requests_total{model=\"a\\\"b\\\\c\",endpoint=\"/x\",code=\"200\"} 1\n"));
    cr_assert(strstr(text, "any4_requests_running{model=\"a\\\"b\\\\c\"} 3\n"));
    cr_assert(strstr(text, "any4_time_to_first_token_seconds_bucket{model=\"a\\\"b\\\\c\",le=\"0.01\"} 0\n"));
    cr_assert(strstr(text, "any4_time_to_first_token_seconds_bucket{model=\"a\\\"b\\\\c\",le=\"0.02\"} 1\n"));
    cr_assert(strstr(text, "any4_time_to_first_token_seconds_bucket{model=\"a\\\"b\\\\c\",le=\"+Inf\"} 2\n"));
    cr_assert(strstr(text, "any4_time_to_first_token_seconds_sum{model=\"a\\\"b\\\\c\"} 1000.015"));
    cr_assert(strstr(text, "any4_request_prompt_tokens_bucket{model=\"a\\\"b\\\\c\",le=\"32\"} 1\n"));
    cr_assert(strstr(text, "any4_quant_cache{model=\"a\\\"b\\\\c\",result=\"miss\"} 1\n"));
    char *copy = strdup(text), *rest = copy, *line;
    while ((line = strsep(&rest, "\n")) && rest) {
        cr_expect(!strncmp(line, "# HELP any4_", 12) || !strncmp(line, "# TYPE any4_", 12) ||
                      (!strncmp(line, "any4_", 5) && strchr(line, '{') && strstr(line, "} ")),
                  "%s", line);
    }
    free(copy);
    buffer_finish(&out);
}

Test(metrics, quantile)
{
    uint32_t counts[METRICS_TIME_BUCKETS + 1] = {0};
    cr_assert_eq(metrics_quantile(counts, 0.99), 0);
    counts[metrics_time_bucket(0.0015)] = 98;
    counts[metrics_time_bucket(0.3)] = 2;
    cr_assert_float_eq(metrics_quantile(counts, 0.5), 0.002, 1e-12);
    cr_assert_float_eq(metrics_quantile(counts, 0.99), 0.5, 1e-12);
}

static bool push(struct text_stream *s, int32_t id)
{
    return text_stream_push(s, &(struct token_event){.kind = EVENT_TOKEN, .token = id, .logprob = {id, -1}});
}

Test(text_stream, characters_and_stops)
{
    struct folder folder;
    struct tokenizer *tokenizer = tiny_tokenizer(&folder);
    struct text_stream s;
    struct error err = {0};
    const char *stops[] = {"XY"};
    const size_t stop_bytes[] = {2};
    const int32_t prompt[] = {1, TINY_BYTES + 'p'};
    struct text_stream_options options = {
        .stops = stops, .stop_bytes = stop_bytes, .n_stops = 1, .prompt_ids = prompt, .n_prompt_ids = 2};
    cr_assert_eq(text_stream_init(&s, tokenizer, &options, &err), STATUS_OK);
    push(&s, TINY_BYTES + 0xc3);
    cr_assert_eq(s.text.length, 0);
    cr_assert_eq(s.n_released, 0);
    push(&s, TINY_BYTES + 0xa9);
    cr_assert_str_eq(buffer_string(&s.text), "\xc3\xa9");
    cr_assert_eq(s.n_released, 2);
    push(&s, TINY_BYTES + 'X');
    cr_assert_eq(s.text.length, 2, "a possible stop string waits");
    cr_assert_eq(s.n_released, 2);
    cr_assert(push(&s, TINY_BYTES + 'Y'));
    text_stream_end(&s);
    cr_assert_eq(s.stop_index, 0);
    cr_assert_eq(s.text.length, 2);
    cr_assert_eq(s.n_released, 2, "tokens of the stop string are not shown");
    cr_assert_eq(s.n_tokens, 4);
    struct buffer name = {0};
    text_stream_token_name(&s, TINY_BYTES + 0xc3, &s.tokens[0], &name);
    cr_assert_str_eq(buffer_string(&name), "bytes:\\xc3");
    name.length = 0;
    text_stream_token_name(&s, TINY_EOS, NULL, &name);
    cr_assert_str_eq(buffer_string(&name), "</s>");
    buffer_finish(&name);
    text_stream_finish(&s);

    /* min_tokens: the same string is text while it is too early. */
    options.min_tokens = 3;
    cr_assert_eq(text_stream_init(&s, tokenizer, &options, &err), STATUS_OK);
    cr_assert(!push(&s, TINY_BYTES + 'X'));
    cr_assert(!push(&s, TINY_BYTES + 'Y'));
    cr_assert(!push(&s, TINY_BYTES + 'X'));
    cr_assert(push(&s, TINY_BYTES + 'Y'));
    text_stream_end(&s);
    cr_assert_str_eq(buffer_string(&s.text), "XY");
    text_stream_finish(&s);

    /* Leftover bytes become U+FFFD at the end; EOS is a token without text. */
    options.min_tokens = 0;
    cr_assert_eq(text_stream_init(&s, tokenizer, &options, &err), STATUS_OK);
    push(&s, TINY_BYTES + 0xe2);
    text_stream_push(&s, &(struct token_event){.kind = EVENT_TOKEN, .token = TINY_EOS, .is_stop = true});
    text_stream_end(&s);
    cr_assert_str_eq(buffer_string(&s.text), "\xef\xbf\xbd");
    cr_assert_eq(s.n_generated, 2);
    cr_assert_eq(s.n_released, 2);
    text_stream_finish(&s);
    tokenizer_close(tokenizer);
    folder_remove(&folder);
}

/* A model whose texts do not begin with a space of their own: nothing is taken off, and positions are right.
 */
Test(text_stream, model_without_dummy_prefix)
{
    static struct proto model;
    struct proto trainer = {.n_bytes = 0}, normalizer = {.n_bytes = 0};
    struct tokenizer *tokenizer = NULL;
    struct text_stream s;
    struct error err = {0};
    size_t length = 0;
    const int32_t prompt[] = {TINY_BOS, TINY_TEXT + 7}; /* " a" */
    struct text_stream_options options = {
        .prompt_ids = prompt, .n_prompt_ids = 2, .echo_text = " a", .echo_bytes = 2};
    model.n_bytes = 0;
    tiny_special_pieces(&model);
    tiny_byte_pieces(&model);
    tiny_text_pieces(&model);
    proto_int(&trainer, 3, 2);
    proto_int(&trainer, 35, 1);
    proto_int(&normalizer, 3, 0); /* add_dummy_prefix */
    proto_int(&normalizer, 4, 0);
    proto_bytes(&model, 2, trainer.bytes, trainer.n_bytes);
    proto_bytes(&model, 3, normalizer.bytes, normalizer.n_bytes);
    cr_assert_eq(tokenizer_open_model(&tokenizer, model.bytes, model.n_bytes, "tiny", &err), STATUS_OK, "%s",
                 err.message);
    cr_assert_eq(text_stream_init(&s, tokenizer, &options, &err), STATUS_OK);
    text_stream_push_prompt(&s, TINY_BOS, NULL);
    text_stream_push_prompt(&s, TINY_TEXT + 7, NULL);
    push(&s, TINY_TEXT + 7);
    push(&s, TINY_TEXT + 2);
    text_stream_end(&s);
    cr_assert_str_eq(buffer_string(&s.text), " a ab");
    cr_assert_eq(s.tokens[1].end, 2);
    cr_assert_eq(s.tokens[2].begin, 2);
    cr_assert_eq(s.tokens[3].begin, 4);
    text_stream_token_bytes(&s, TINY_TEXT + 7, &s.tokens[1], &length);
    cr_assert_eq(length, 2);
    text_stream_finish(&s);
    options = (struct text_stream_options){0};
    cr_assert_eq(text_stream_init(&s, tokenizer, &options, &err), STATUS_OK);
    push(&s, TINY_TEXT + 7);
    text_stream_end(&s);
    cr_assert_str_eq(buffer_string(&s.text), " a");
    cr_assert_eq(s.tokens[0].end, 2);
    text_stream_finish(&s);
    tokenizer_close(tokenizer);
}

/* Without a charsmap every byte but spaces at the ends stays: a bound that encoding never goes below. */
Test(text_stream, least_number_of_tokens)
{
    static const char *const texts[] = {"",
                                        "   ",
                                        "abcabcabc",
                                        "a b c d",
                                        "\xe2\x96\x81\xe2\x96\x81\xe2\x96\x81\xe2\x96\x81",
                                        "\xf0\x9f\x98\x80\xf0\x9f\x98\x80",
                                        "\xff\xfe\x80\x80\x80"};
    struct folder folder;
    struct tokenizer *tokenizer = tiny_tokenizer(&folder);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int32_t *ids = NULL, n_ids = 0;
        struct error err = {0};
        cr_assert_eq(tokenizer_encode(tokenizer, texts[i], strlen(texts[i]), false, &ids, &n_ids, &err),
                     STATUS_OK);
        cr_assert_leq(tokenizer_min_tokens(tokenizer, texts[i], strlen(texts[i])), n_ids, "%s", texts[i]);
        free(ids);
    }
    cr_assert_gt(tokenizer_min_tokens(tokenizer, "xyzxyzxyzxyzxyz", 15), 2);
    tokenizer_close(tokenizer);
    folder_remove(&folder);
}

Test(buffer, failed_string_has_no_length)
{
    struct buffer b = {0};
    buffer_text(&b, "abc");
    b.failed = true;
    cr_assert_str_eq(buffer_string(&b), "");
    cr_assert_eq(b.length, 0);
    buffer_finish(&b);
}

/* Ids in, ids out: tokens are recorded and released, and stand for no text. */
Test(text_stream, without_tokenizer)
{
    struct text_stream s;
    struct error err = {0};
    const int32_t prompt[] = {1, 7};
    struct text_stream_options options = {.prompt_ids = prompt, .n_prompt_ids = 2};
    struct buffer name = {0};
    cr_assert_eq(text_stream_init(&s, NULL, &options, &err), STATUS_OK);
    cr_assert(!push(&s, 5));
    cr_assert(!push(&s, 6));
    cr_assert_eq(s.n_released, 2);
    text_stream_end(&s);
    cr_assert_eq(s.n_generated, 2);
    cr_assert_eq(s.text.length, 0);
    cr_assert_eq(s.stop_index, -1);
    text_stream_token_name(&s, 6, &s.tokens[1], &name);
    cr_assert_str_eq(buffer_string(&name), "token_id:6");
    buffer_finish(&name);
    text_stream_finish(&s);
}
