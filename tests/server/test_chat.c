/* Chat over the fake engine and the tiny tokenizer: what is refused, what fields mean, and every byte of an
 * answer and of a stream. */
#include <ctype.h>

#include "engine/base/json.h"
#include "server/text_stream.h"
#include "tests/server/support.h"
#include "tests/tokenizer/tiny_model.h"

#define ASK "{\"messages\":[{\"role\":\"user\",\"content\":\"ab\"}]"

static const struct request_rules rules = {.model_names = (const char *const[]){"m"},
                                           .n_model_names = 1,
                                           .max_model_len = 64,
                                           .vocab_size = TINY_N_TOKENS,
                                           .max_n = 16,
                                           .max_best_of = 16,
                                           .max_logprobs = 20,
                                           .max_stops = 16,
                                           .max_timeout_ms = 1000};

static enum api_code parse_with(struct completion_request *request, const char *text,
                                const struct request_rules *own, struct api_error *error)
{
    const struct json_limits limits = {.max_depth = 64, .max_nodes = 100000};
    cJSON *root = NULL;
    struct error why = {0};
    *request = (struct completion_request){0};
    *error = (struct api_error){0};
    cr_assert_eq(json_parse(&root, text, strlen(text), &limits, &why), JSON_OK, "%s: %s", text, why.message);
    return chat_request_parse(request, root, own, error);
}

static const struct {
    const char *body;
    const char *code, *param;
} bad[] = {
    {"{}", "missing_field", "messages"},
    {"{\"messages\":null}", "missing_field", "messages"},
    {"{\"messages\":\"a\"}", "invalid_type", "messages"},
    {"{\"messages\":{}}", "invalid_type", "messages"},
    {"{\"messages\":[]}", "invalid_value", "messages"},
    {"{\"messages\":[null]}", "invalid_type", "messages[0]"},
    {"{\"messages\":[\"a\"]}", "invalid_type", "messages[0]"},
    {"{\"messages\":[{\"content\":\"a\"}]}", "missing_field", "messages[0].role"},
    {"{\"messages\":[{\"role\":null,\"content\":\"a\"}]}", "missing_field", "messages[0].role"},
    {"{\"messages\":[{\"role\":1,\"content\":\"a\"}]}", "invalid_type", "messages[0].role"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"robot\",\"content\":\"a\"}]}",
     "invalid_value", "messages[1].role"},
    {"{\"messages\":[{\"role\":\"User\",\"content\":\"a\"}]}", "invalid_value", "messages[0].role"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"tool\",\"content\":\"a\"}]}",
     "unsupported_parameter", "messages[1].role"},
    {"{\"messages\":[{\"role\":\"user\"}]}", "missing_field", "messages[0].content"},
    {"{\"messages\":[{\"role\":\"assistant\",\"content\":null}]}", "missing_field", "messages[0].content"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":7}]}", "invalid_type", "messages[0].content"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":{}}]}", "invalid_type", "messages[0].content"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", "invalid_value", "messages[0].content"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[\"a\"]}]}", "invalid_type", "messages[0].content[0]"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{}]}]}", "missing_field", "messages[0].content[0]"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", "missing_field",
     "messages[0].content[0]"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":1}]}]}", "invalid_type",
     "messages[0].content[0]"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
     "{\"type\":\"image_url\",\"image_url\":{}}]}]}",
     "unsupported_parameter", "messages[0].content[1]"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"name\":1}]}", "invalid_type", "messages[0].name"},
    {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":[{}]}]}",
     "unsupported_parameter", "messages[0].tool_calls"},
    {ASK ",\"model\":\"x\"}", "model_not_found", "model"},
    {ASK ",\"max_tokens\":0}", "invalid_value", "max_tokens"},
    {ASK ",\"max_tokens\":65}", "invalid_value", "max_tokens"},
    {ASK ",\"max_completion_tokens\":0}", "invalid_value", "max_completion_tokens"},
    {ASK ",\"max_tokens\":5,\"max_completion_tokens\":6}", "invalid_value", "max_completion_tokens"},
    {ASK ",\"max_tokens\":5,\"min_tokens\":6}", "invalid_value", "min_tokens"},
    {ASK ",\"min_tokens\":65}", "invalid_value", "min_tokens"},
    {ASK ",\"temperature\":3}", "invalid_value", "temperature"},
    {ASK ",\"logprobs\":1}", "invalid_type", "logprobs"},
    {ASK ",\"logprobs\":true,\"top_logprobs\":21}", "invalid_value", "top_logprobs"},
    {ASK ",\"logprobs\":true,\"top_logprobs\":true}", "invalid_type", "top_logprobs"},
    {ASK ",\"top_logprobs\":2}", "invalid_value", "top_logprobs"},
    {ASK ",\"logprobs\":false,\"top_logprobs\":2}", "invalid_value", "top_logprobs"},
    {ASK ",\"n\":0}", "invalid_value", "n"},
    {ASK ",\"n\":17}", "invalid_value", "n"},
    {ASK ",\"stop\":\"\"}", "invalid_value", "stop"},
    {ASK ",\"stream_options\":{}}", "invalid_value", "stream_options"},
    {ASK ",\"tools\":[{}]}", "unsupported_parameter", "tools"},
    {ASK ",\"tool_choice\":\"required\"}", "unsupported_parameter", "tool_choice"},
    {ASK ",\"functions\":[{}]}", "unsupported_parameter", "functions"},
    {ASK ",\"response_format\":{\"type\":\"json_object\"}}", "unsupported_parameter", "response_format"},
    {ASK ",\"grammar\":\"x\"}", "unsupported_parameter", "grammar"},
    {ASK ",\"add_special_tokens\":1}", "invalid_type", "add_special_tokens"},
};

Test(chat, bad_bodies)
{
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct completion_request request;
        struct api_error error;
        cr_expect_neq(parse_with(&request, bad[i].body, &rules, &error), API_OK, "%s", bad[i].body);
        cr_expect_str_eq(api_code_name(error.code), bad[i].code, "%s: %s", bad[i].body, error.message);
        cr_expect_str_eq(error.param, bad[i].param, "%s", bad[i].body);
        cr_expect(error.message[0]);
        completion_request_finish(&request);
    }
}

Test(chat, fields)
{
    struct completion_request r;
    struct api_error error;
    cr_assert_eq(parse_with(&r,
                            "{\"messages\":[{\"role\":\"system\",\"content\":\"\",\"name\":\"x\"},"
                            "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                            "{\"type\":\"text\",\"text\":\"b c\"}],\"mood\":1},"
                            "{\"role\":\"assistant\",\"content\":\"d\",\"tool_calls\":[],\"refusal\":null}],"
                            "\"tools\":[],\"tool_choice\":\"none\",\"response_format\":{\"type\":\"text\"},"
                            "\"user\":\"u\",\"echo\":true,\"best_of\":3,\"suffix\":\"x\",\"prompt\":\"y\","
                            "\"logprobs\":true,\"stop\":[\"x\",\"y\"]}",
                            &rules, &error),
                 API_OK, "%s", error.message);
    cr_assert_eq(r.messages.n, 3);
    cr_assert_eq(r.messages.items[1].role, CHAT_USER);
    cr_assert_str_eq(r.messages.items[1].content, "ab c");
    cr_assert_eq(r.messages.items[0].n_bytes, 0);
    cr_assert_eq(r.params.logprobs, 0);
    cr_assert(!r.echo && r.best_of == 1 && r.rest_of_context);
    cr_assert_eq(r.n_stops, 2);
    cr_assert_eq(r.n_template_stops, 1);
    cr_assert_str_eq(r.stops[2], "\nQuestion:");
    cr_assert_str_eq(buffer_string(&r.ignored), "mood, echo, best_of, suffix, prompt");
    completion_request_finish(&r);
    cr_assert_eq(
        parse_with(&r, ASK ",\"logprobs\":true,\"top_logprobs\":3,\"ignore_eos\":true}", &rules, &error),
        API_OK);
    cr_assert_eq(r.params.logprobs, 3);
    cr_assert_eq(r.n_template_stops, 0, "a template's stops are its EOS");
    completion_request_finish(&r);
    struct request_rules strict = rules;
    strict.strict_fields = true;
    cr_assert_eq(parse_with(&r, ASK ",\"echo\":true}", &strict, &error), API_UNKNOWN_FIELD);
    completion_request_finish(&r);
    cr_assert_eq(
        parse_with(&r, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"mood\":1}]}", &strict, &error),
        API_UNKNOWN_FIELD);
    completion_request_finish(&r);
}

/* "Question: ab\nAnswer:" and BOS */
enum { N_ASK_IDS = 21 };

static enum api_code encode(const struct tokenizer *tokenizer, const char *body,
                            const struct request_rules *own, int32_t *max_tokens, struct api_error *error)
{
    struct completion_request r;
    enum api_code code = parse_with(&r, body, own, error);
    if (!code) {
        code = completion_request_encode(&r, tokenizer, own, error);
    }
    if (!code) {
        cr_expect_eq(r.prompts[0].n_ids, N_ASK_IDS, "%d", r.prompts[0].n_ids);
        cr_expect_eq(r.prompts[0].ids[0], TINY_BOS);
    }
    *max_tokens = r.params.max_tokens;
    completion_request_finish(&r);
    return code;
}

Test(chat, length_of_the_answer)
{
    struct folder folder;
    struct tokenizer *t = tiny_tokenizer(&folder);
    struct request_rules own = rules;
    struct api_error error;
    int32_t max_tokens;
    cr_assert_eq(encode(t, ASK "}", &own, &max_tokens, &error), API_OK, "%s", error.message);
    cr_assert_eq(max_tokens, 64 - N_ASK_IDS);
    cr_assert_eq(encode(t, ASK ",\"max_tokens\":43}", &own, &max_tokens, &error), API_OK);
    cr_assert_eq(max_tokens, 43);
    cr_assert_eq(encode(t, ASK ",\"max_completion_tokens\":44}", &own, &max_tokens, &error),
                 API_CONTEXT_LENGTH_EXCEEDED);
    cr_assert_str_eq(error.param, "messages");
    cr_assert(strstr(error.message, "21") && strstr(error.message, "64"), "%s", error.message);
    cr_assert_eq(encode(t, ASK ",\"min_tokens\":44}", &own, &max_tokens, &error), API_INVALID_VALUE);
    own.default_max_tokens = 10;
    cr_assert_eq(encode(t, ASK "}", &own, &max_tokens, &error), API_OK);
    cr_assert_eq(max_tokens, 10);
    own.default_max_tokens = 1000;
    cr_assert_eq(encode(t, ASK "}", &own, &max_tokens, &error), API_OK);
    cr_assert_eq(max_tokens, 43);
    own.max_model_len = N_ASK_IDS;
    cr_assert_eq(encode(t, ASK "}", &own, &max_tokens, &error), API_CONTEXT_LENGTH_EXCEEDED);
    cr_assert(strstr(error.message, "21"), "%s", error.message);
    own = rules;
    own.chat_template = CHAT_TEMPLATE_UNKNOWN;
    cr_assert_eq(encode(t, ASK "}", &own, &max_tokens, &error), API_UNSUPPORTED_PARAMETER);
    cr_assert(strstr(error.message, "/v1/completions"), "%s", error.message);
    own.chat_template = CHAT_TEMPLATE_LLAMA2;
    cr_assert_eq(encode(t,
                        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\","
                        "\"content\":\"b\"}]}",
                        &own, &max_tokens, &error),
                 API_INVALID_VALUE);
    cr_assert_str_eq(error.param, "messages[1].role");
    tokenizer_close(t);
    folder_remove(&folder);
}

/* ---- answers ---- */

static char *chat(const struct rig *rig, const char *body)
{
    return ask(rig, "POST", "/v1/chat/completions", "", body);
}

/* Overwrites what differs from run to run: the id, the moment, and the build in the fingerprint. */
static void blank(char *text)
{
    static const char *const before[] = {"\"id\":\"chatcmpl-",
                                         "\"created\":", "\"system_fingerprint\":\"any4-"};
    for (size_t i = 0; i < sizeof before / sizeof *before; i++) {
        for (char *at = text; (at = strstr(at, before[i]));) {
            at += strlen(before[i]);
            char *end = at;
            while (isalnum((unsigned char)*end) || *end == '.' || *end == '-') {
                end++;
            }
            memmove(at, end, strlen(end) + 1);
        }
    }
}

/* The body of an answer that was not chunked. */
static void expect_body(const struct rig *rig, const char *body, const char *expected)
{
    char *answer = chat(rig, body);
    cr_assert_eq(status_of(answer), 200, "%s", answer);
    blank(answer);
    const char *at = strstr(answer, "\r\n\r\n");
    char *end = answer + strlen(answer) - 1;
    cr_assert(at && *end == '\n');
    *end = '\0';
    cr_expect_str_eq(at + 4, expected);
    free(answer);
}

static void expect_part(const struct rig *rig, const char *body, int status, const char *part)
{
    char *answer = chat(rig, body);
    cr_expect_eq(status_of(answer), status, "%s: %s", body, answer);
    cr_expect(strstr(answer, part), "%s: no %s in %s", body, part, answer);
    free(answer);
}

#define HEAD(object)                                                                                         \
    "{\"id\":\"chatcmpl-\",\"object\":\"" object                                                             \
    "\",\"created\":,\"model\":\"tiny\",\"system_fingerprint\":\"any4-\",\"choices\":["
#define USAGE(out, all)                                                                                      \
    "\"usage\":{\"prompt_tokens\":21,\"completion_tokens\":" #out ",\"total_tokens\":" #all                  \
    ",\"prompt_tokens_details\":{\"cached_tokens\":0}}}"
#define TOP(t, b) "{\"token\":\"" t "\",\"logprob\":-0.5,\"bytes\":[" b "]}"
#define TOKEN(t, b, alternatives)                                                                            \
    "{\"token\":\"" t "\",\"logprob\":-0.5,\"bytes\":[" b "],\"top_logprobs\":[" alternatives "]}"

Test(chat, answer)
{
    struct rig rig;
    fake_engine.script = "hi\xc3\xa9\nQuestion: more";
    rig_open(&rig, NULL);
    /* The template's stop string is not shown and is no stop reason. Of the tokens
     * those of the shown text are listed; a broken character is shown by its bytes. */
    expect_body(
        &rig, ASK ",\"logprobs\":true,\"top_logprobs\":1}",
        HEAD(
            "chat.completion") "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"hi\xc3\xa9\"},"
                               "\"logprobs\":{\"content\":[" TOKEN("h", "104", TOP("h", "104")) "," TOKEN(
                                   "i", "105",
                                   TOP("i",
                                       "105")) "," TOKEN("bytes:\\\\xc3", "195",
                                                         TOP("bytes:\\\\xc3",
                                                             "195")) "," TOKEN("bytes:\\\\xa9", "169",
                                                                               TOP("bytes:\\\\xa9",
                                                                                   "169")) "]},"
                                                                                           "\"finish_"
                                                                                           "reason\":"
                                                                                           "\"stop\",\"stop_"
                                                                                           "reason\":null}]"
                                                                                           "," USAGE(14, 35));
    expect_part(&rig, ASK ",\"include_stop_str_in_output\":true}", 200, "\"content\":\"hi\xc3\xa9\"}");
    expect_part(&rig, ASK ",\"stop\":\"i\",\"include_stop_str_in_output\":true}", 200,
                "\"content\":\"hi\"},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":\"i\"");
    expect_part(&rig, ASK ",\"ignore_eos\":true}", 200, "\"content\":\"hi\xc3\xa9\\nQuestion: more\"}");
    expect_part(&rig, ASK ",\"min_tokens\":20}", 200, "\"content\":\"hi\xc3\xa9\\nQuestion: more\"}");
    expect_part(&rig, ASK ",\"max_tokens\":2}", 200,
                "\"content\":\"hi\"},\"logprobs\":null,\"finish_reason\":\"length\"");
    expect_part(&rig, ASK ",\"max_tokens\":3,\"n\":2,\"return_token_ids\":true}", 200,
                "\"index\":1,\"message\"");
    expect_part(&rig, ASK ",\"echo\":true}", 200, "X-Ignored-Fields: echo");
    expect_part(&rig, ASK ",\"max_tokens\":256}", 400, "context_length_exceeded");
    expect_part(&rig, "{\"messages\":[]}", 400, "\"param\":\"messages\"");
    fake_engine.script = "";
    expect_part(&rig, ASK "}", 200, "\"message\":{\"role\":\"assistant\",\"content\":\"\"}");
    rig_close(&rig);
}

/* An answer goes on from a visible prompt and is a text of its own all the same. */
Test(chat, leading_space_is_trimmed)
{
    struct folder folder;
    struct tokenizer *t = tiny_tokenizer(&folder);
    const int32_t prompt[] = {TINY_BOS, TINY_TEXT + 1};
    for (int32_t is_answer = 0; is_answer < 2; is_answer++) {
        struct text_stream s;
        struct buffer name = {0};
        struct text_stream_options options = {
            .prompt_ids = prompt, .n_prompt_ids = 2, .is_answer = is_answer == 1};
        cr_assert_eq(text_stream_init(&s, t, &options, NULL), STATUS_OK);
        struct token_event event = {.kind = EVENT_TOKEN, .token = TINY_TEXT + 7}; /* a space and "a" */
        text_stream_push(&s, &event);
        text_stream_push(&s, &event);
        text_stream_end(&s);
        cr_expect_str_eq(buffer_string(&s.text), is_answer ? "a a" : " a a");
        text_stream_token_name(&s, event.token, &s.tokens[0], &name);
        cr_expect_str_eq(buffer_string(&name), is_answer ? "a" : " a");
        buffer_finish(&name);
        text_stream_finish(&s);
    }
    tokenizer_close(t);
    folder_remove(&folder);
}

/* A stop string that is found only when nothing longer can follow is found all the same. */
Test(chat, stop_string_at_the_end)
{
    struct rig rig;
    fake_engine.script = "xab";
    rig_open(&rig, NULL);
    expect_part(&rig, ASK ",\"stop\":[\"b\",\"abc\"]}", 200,
                "\"content\":\"xa\"},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":\"b\"");
    expect_part(&rig, ASK ",\"stop\":[\"b\",\"abc\"],\"max_tokens\":3}", 200,
                "\"content\":\"xa\"},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":\"b\"");
    rig_close(&rig);
}

/* The chunks of a chunked answer put together again: what the client's event parser sees. */
static char *unchunk(const char *answer)
{
    struct buffer out = {0};
    const char *at = strstr(answer, "\r\n\r\n") + 4;
    for (;;) {
        char *end;
        unsigned long n = strtoul(at, &end, 16);
        cr_assert(!strncmp(end, "\r\n", 2), "%s", at);
        if (!n) {
            break;
        }
        cr_assert(n >= 2 && !strncmp(end + 2 + n - 2, "\n\n", 2), "a write is whole events: %s", at);
        buffer_append(&out, end + 2, n);
        at = end + 2 + n + 2;
    }
    char *text = strdup(buffer_string(&out));
    buffer_finish(&out);
    return text;
}

static void expect_stream(const struct rig *rig, const char *body, const char *expected)
{
    char *answer = chat(rig, body);
    cr_assert_eq(status_of(answer), 200, "%s", answer);
    cr_assert(strstr(answer, "Content-Type: text/event-stream; charset=utf-8\r\n"), "%s", answer);
    char *events = unchunk(answer);
    blank(events);
    cr_expect_str_eq(events, expected);
    free(events);
    free(answer);
}

#define DELTA(index, delta, logprobs, finish)                                                                \
    "data: " HEAD("chat.completion.chunk") "{\"index\":" #index ",\"delta\":" delta                          \
                                           ",\"logprobs\":" logprobs ",\"finish_reason\":" finish            \
                                           ",\"stop_reason\":null}],\"usage\":null}\n\n"

Test(chat, stream)
{
    struct rig rig;
    fake_engine.script = "a\xc3\xa9\nQuestion: more";
    atomic_store(&fake_engine.token_us, 20000); /* one event a token */
    rig_open(&rig, NULL);
    expect_stream(&rig, ASK ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
                  DELTA(0, "{\"role\":\"assistant\",\"content\":\"a\"}", "null", "null")
                      DELTA(0, "{\"content\":\"\xc3\xa9\"}", "null", "null")
                          DELTA(0, "{}", "null", "\"stop\"") "data: " HEAD(
                              "chat.completion.chunk") "]," USAGE(13, 34) "\n\ndata: [DONE]\n\n");
    expect_stream(&rig, ASK ",\"stream\":true,\"max_tokens\":1,\"logprobs\":true}",
                  DELTA(0, "{\"role\":\"assistant\",\"content\":\"a\"}",
                        "{\"content\":[" TOKEN("a", "97", "") "]}", "null")
                      DELTA(0, "{}", "{\"content\":[]}", "\"length\"") "data: [DONE]\n\n");
    fake_engine.script = "";
    expect_stream(&rig, ASK ",\"stream\":true}",
                  DELTA(0, "{\"role\":\"assistant\",\"content\":\"\"}", "null", "null")
                      DELTA(0, "{}", "null", "\"stop\"") "data: [DONE]\n\n");
    rig_close(&rig);
}

/* The contents of message or of all deltas, joined. */
static char *joined_content(const char *answer)
{
    struct buffer out = {0};
    for (const char *at = answer; (at = strstr(at, "\"content\":\""));) {
        at += 11;
        size_t n = strcspn(at, "\"");
        buffer_append(&out, at, n);
        at += n;
    }
    char *text = strdup(buffer_string(&out));
    buffer_finish(&out);
    return text;
}

Test(chat, stream_equals_answer)
{
    struct rig rig;
    atomic_store(&fake_engine.token_us, 300);
    rig_open(&rig, NULL);
    char *whole = chat(&rig, ASK ",\"seed\":3,\"max_tokens\":40}");
    char *stream = chat(&rig, ASK ",\"seed\":3,\"max_tokens\":40,\"stream\":true}");
    char *a = joined_content(whole), *b = joined_content(stream);
    cr_assert_eq(strlen(a), 40, "%s", whole);
    cr_assert_str_eq(a, b);
    free(a);
    free(b);
    free(whole);
    free(stream);
    rig_close(&rig);
}

Test(chat, faults)
{
    struct rig rig;
    rig_open(&rig, (const char *[]){"--default-max-tokens", "7", NULL});
    expect_part(&rig, ASK "}", 200, "\"completion_tokens\":7,");
    atomic_store(&fake_engine.full, true);
    expect_part(&rig, ASK "}", 429, "queue_full");
    atomic_store(&fake_engine.full, false);
    atomic_store(&fake_engine.token_us, 20000);
    atomic_store(&fake_engine.fail_at, 2);
    expect_part(&rig, ASK ",\"stream\":true}", 200, "data: {\"error\":{");
    atomic_store(&fake_engine.fail_at, -1);
    atomic_store(&fake_engine.token_us, 0);
    rig.server.rules.chat_template = CHAT_TEMPLATE_UNKNOWN;
    expect_part(&rig, ASK "}", 400,
                "\"message\":\"this model's chat template is not supported yet; use /v1/completions\",");
    expect_part(&rig, ASK "}", 400, "\"code\":\"unsupported_parameter\"");
    char *metrics = ask(&rig, "GET", "/metrics", "", NULL);
    cr_assert(strstr(metrics, "endpoint=\"/v1/chat/completions\",code=\"429\"} 1"), "%s", metrics);
    free(metrics);
    rig_close(&rig);
}

static void expect_reply(const struct rig *rig, const char *path, const char *body, int status,
                         const char *part)
{
    char *answer = ask(rig, "POST", path, "", body);
    cr_expect_eq(status_of(answer), status, "%s: %s", body, answer);
    cr_expect(strstr(answer, part), "%s: no %s in %s", body, part, answer);
    free(answer);
}

Test(chat, apply_template_and_tokenize)
{
    struct rig rig;
    rig_open(&rig, NULL);
    const char *apply = "/v1/apply-template", *tokenize = "/v1/tokenize";
    expect_reply(&rig, apply, ASK "}", 200, "{\"prompt\":\"Question: ab\\nAnswer:\",\"tokens\":[1,");
    expect_reply(&rig, apply, ASK ",\"add_special_tokens\":false}", 200, "\"tokens\":[259,");
    expect_reply(&rig, apply, "{}", 400, "missing_field");
    expect_reply(&rig, apply, ASK ",\"model\":\"x\"}", 404, "model_not_found");
    expect_reply(&rig, apply, ASK ",\"odd\":1}", 200, "X-Ignored-Fields: odd");
    expect_reply(&rig, tokenize, ASK "}", 200, "\"count\":21,");
    expect_reply(&rig, tokenize, ASK ",\"add_special_tokens\":false}", 200, "\"count\":20,");
    expect_reply(&rig, tokenize, ASK ",\"prompt\":\"a\"}", 400, "\"param\":\"messages\"");
    expect_reply(&rig, tokenize, "{\"messages\":[]}", 400, "\"param\":\"messages\"");
    expect_reply(&rig, tokenize, "{}", 400, "missing_field");
    rig.server.rules.chat_template = CHAT_TEMPLATE_LLAMA2;
    expect_reply(&rig, apply, ASK "}", 200, "{\"prompt\":\"<s>[INST] ab [/INST]\",\"tokens\":[1,");
    rig.server.rules.chat_template = CHAT_TEMPLATE_UNKNOWN;
    expect_reply(&rig, apply, ASK "}", 400, "unsupported_parameter");
    expect_reply(&rig, tokenize, ASK "}", 400, "unsupported_parameter");
    rig_close(&rig);
}
