/* Bad bodies and what they are refused with; good ones and what they mean. */
#include "engine/base/json.h"
#include "server/completion_request.h"
#include "tests/server/support.h"

static const struct request_rules rules = {.model_names = (const char *const[]){"m", "alias"},
                                           .n_model_names = 2,
                                           .max_model_len = 64,
                                           .vocab_size = 270,
                                           .max_n = 16,
                                           .max_best_of = 16,
                                           .max_logprobs = 20,
                                           .max_stops = 16,
                                           .max_timeout_ms = 1000};

static enum api_code parse(struct completion_request *request, const char *text, struct api_error *error)
{
    const struct json_limits limits = {.max_depth = 64, .max_nodes = 100000};
    cJSON *root = NULL;
    struct error why = {0};
    enum json_fault fault = json_parse(&root, text, strlen(text), &limits, &why);
    *request = (struct completion_request){0};
    *error = (struct api_error){0};
    return fault ? api_fail_json(error, fault, &why) : completion_request_parse(request, root, &rules, error);
}

static const struct {
    const char *body;
    const char *code, *param;
} bad[] = {
    {"", "invalid_json", ""},
    {"{", "invalid_json", ""},
    {"{\"prompt\":\"a\",}", "invalid_json", ""},
    {"{\"prompt\":\"a\"} x", "invalid_json", ""},
    {"{\"prompt\":\"\xff\"}", "invalid_utf8", ""},
    {"{\"prompt\":\"\\ud800\"}", "invalid_utf8", ""},
    {"{\"prompt\":\"a\\u0000\"}", "invalid_value", ""},
    {"{\"prompt\":\"a\",\"prompt\":\"b\"}", "duplicate_field", "prompt"},
    {"{\"prompt\":\"a\",\"x\":{\"\\\" in the object that ends\":1,\"\\\" in the object that ends\":1}}",
     "duplicate_field", "\" in the object that ends"},
    {"{\"prompt\":\"a\",\"\":1,\"\":1}", "duplicate_field", ""},
    {"{\"prompt\":\"a\",\"tools\":[{}],\"tool_choice\":\"auto\"}", "unsupported_parameter", "tools"},
    {"[1]", "invalid_type", ""},
    {"{}", "missing_field", "prompt"},
    {"{\"prompt\":null}", "missing_field", "prompt"},
    {"{\"prompt\":3}", "invalid_type", "prompt"},
    {"{\"prompt\":[]}", "invalid_value", "prompt"},
    {"{\"prompt\":[[]]}", "invalid_value", "prompt"},
    {"{\"prompt\":[1,\"a\"]}", "invalid_type", "prompt"},
    {"{\"prompt\":[\"a\",1]}", "invalid_type", "prompt"},
    {"{\"prompt\":[[1],\"a\"]}", "invalid_type", "prompt"},
    {"{\"prompt\":[{}]}", "invalid_type", "prompt"},
    {"{\"prompt\":[270]}", "invalid_value", "prompt"},
    {"{\"prompt\":[-1]}", "invalid_value", "prompt"},
    {"{\"prompt\":[1.5]}", "invalid_type", "prompt"},
    {"{\"prompt\":[18446744073709551617]}", "invalid_type", "prompt"},
    {"{\"prompt\":\"a\",\"model\":\"x\"}", "model_not_found", "model"},
    {"{\"prompt\":\"a\",\"model\":1}", "invalid_type", "model"},
    {"{\"prompt\":\"a\",\"max_tokens\":\"9\"}", "invalid_type", "max_tokens"},
    {"{\"prompt\":\"a\",\"max_tokens\":1.5}", "invalid_type", "max_tokens"},
    {"{\"prompt\":\"a\",\"max_tokens\":true}", "invalid_type", "max_tokens"},
    {"{\"prompt\":\"a\",\"max_tokens\":-1}", "invalid_value", "max_tokens"},
    {"{\"prompt\":\"a\",\"max_tokens\":0}", "invalid_value", "max_tokens"},
    {"{\"prompt\":\"a\",\"max_tokens\":65}", "invalid_value", "max_tokens"},
    {"{\"prompt\":\"a\",\"max_tokens\":1e30}", "invalid_value", "max_tokens"},
    {"{\"prompt\":\"a\",\"max_tokens\":5,\"max_completion_tokens\":6}", "invalid_value",
     "max_completion_tokens"},
    {"{\"prompt\":\"a\",\"min_tokens\":17}", "invalid_value", "min_tokens"},
    {"{\"prompt\":\"a\",\"temperature\":2.1}", "invalid_value", "temperature"},
    {"{\"prompt\":\"a\",\"temperature\":-0.1}", "invalid_value", "temperature"},
    {"{\"prompt\":\"a\",\"temperature\":\"hot\"}", "invalid_type", "temperature"},
    {"{\"prompt\":\"a\",\"temperature\":1e999}", "too_complex", ""},
    {"{\"prompt\":\"a\",\"top_p\":0}", "invalid_value", "top_p"},
    {"{\"prompt\":\"a\",\"top_p\":1e-60}", "invalid_value", "top_p"},
    {"{\"prompt\":\"a\",\"top_p\":1.01}", "invalid_value", "top_p"},
    {"{\"prompt\":\"a\",\"top_k\":-2}", "invalid_value", "top_k"},
    {"{\"prompt\":\"a\",\"top_k\":271}", "invalid_value", "top_k"},
    {"{\"prompt\":\"a\",\"min_p\":1.5}", "invalid_value", "min_p"},
    {"{\"prompt\":\"a\",\"repetition_penalty\":0}", "invalid_value", "repetition_penalty"},
    {"{\"prompt\":\"a\",\"presence_penalty\":3}", "invalid_value", "presence_penalty"},
    {"{\"prompt\":\"a\",\"frequency_penalty\":-3}", "invalid_value", "frequency_penalty"},
    {"{\"prompt\":\"a\",\"seed\":9223372036854775808}", "invalid_value", "seed"},
    {"{\"prompt\":\"a\",\"seed\":\"1\"}", "invalid_type", "seed"},
    {"{\"prompt\":\"a\",\"stop\":\"\"}", "invalid_value", "stop"},
    {"{\"prompt\":\"a\",\"stop\":[1]}", "invalid_type", "stop"},
    {"{\"prompt\":\"a\",\"stop\":{}}", "invalid_type", "stop"},
    {"{\"prompt\":\"a\",\"stop\":[\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\","
     "\"a\","
     "\"a\",\"a\",\"a\",\"a\"]}",
     "invalid_value", "stop"},
    {"{\"prompt\":\"a\",\"stop_token_ids\":3}", "invalid_type", "stop_token_ids"},
    {"{\"prompt\":\"a\",\"stop_token_ids\":[270]}", "invalid_value", "stop_token_ids"},
    {"{\"prompt\":\"a\",\"ignore_eos\":1}", "invalid_type", "ignore_eos"},
    {"{\"prompt\":\"a\",\"logit_bias\":[]}", "invalid_type", "logit_bias"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}", "invalid_value", "logit_bias"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"01\":1}}", "invalid_value", "logit_bias"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"270\":1}}", "invalid_value", "logit_bias"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"1\":101}}", "invalid_value", "logit_bias"},
    {"{\"prompt\":\"a\",\"logit_bias\":{\"1\":\"x\"}}", "invalid_type", "logit_bias"},
    {"{\"prompt\":\"a\",\"logprobs\":21}", "invalid_value", "logprobs"},
    {"{\"prompt\":\"a\",\"logprobs\":true}", "invalid_type", "logprobs"},
    {"{\"prompt\":\"a\",\"n\":0}", "invalid_value", "n"},
    {"{\"prompt\":\"a\",\"n\":17}", "invalid_value", "n"},
    {"{\"prompt\":\"a\",\"n\":3,\"best_of\":2}", "invalid_value", "best_of"},
    {"{\"prompt\":\"a\",\"best_of\":2,\"stream\":true}", "invalid_value", "best_of"},
    {"{\"prompt\":\"a\",\"stream\":\"yes\"}", "invalid_type", "stream"},
    {"{\"prompt\":\"a\",\"stream_options\":{}}", "invalid_value", "stream_options"},
    {"{\"prompt\":\"a\",\"stream\":true,\"stream_options\":1}", "invalid_type", "stream_options"},
    {"{\"prompt\":\"a\",\"suffix\":\"x\"}", "unsupported_parameter", "suffix"},
    {"{\"prompt\":\"a\",\"response_format\":{\"type\":\"json_object\"}}", "unsupported_parameter",
     "response_format"},
    {"{\"prompt\":\"a\",\"grammar\":\"x\"}", "unsupported_parameter", "grammar"},
    {"{\"prompt\":\"a\",\"tools\":[{}]}", "unsupported_parameter", "tools"},
    {"{\"prompt\":\"a\",\"truncate_prompt_tokens\":0}", "invalid_value", "truncate_prompt_tokens"},
    {"{\"prompt\":\"a\",\"priority\":101}", "invalid_value", "priority"},
    {"{\"prompt\":\"a\",\"timeout_ms\":1001}", "invalid_value", "timeout_ms"},
    {"{\"prompt\":\"a\",\"timeout_ms\":0}", "invalid_value", "timeout_ms"},
    {"{\"prompt\":\"a\",\"cache_prompt\":\"x\"}", "invalid_type", "cache_prompt"},
    {"{\"prompt\":\"a\",\"return_token_ids\":3}", "invalid_type", "return_token_ids"},
};

Test(request, bad_bodies)
{
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct completion_request request;
        struct api_error error;
        cr_expect_neq(parse(&request, bad[i].body, &error), API_OK, "%s", bad[i].body);
        cr_expect_str_eq(api_code_name(error.code), bad[i].code, "%s: %s", bad[i].body, error.message);
        cr_expect_str_eq(error.param, bad[i].param, "%s", bad[i].body);
        cr_expect(error.message[0]);
        completion_request_finish(&request);
    }
}

static void expect_message(const char *body, const char *message)
{
    struct completion_request request;
    struct api_error error;
    cr_expect_neq(parse(&request, body, &error), API_OK, "%s", body);
    cr_expect_str_eq(error.message, message);
    completion_request_finish(&request);
}

Test(request, messages)
{
    expect_message("{\"prompt\":3}",
                   "prompt must be a string, a list of strings, a list of ids or a list of lists "
                   "of ids, not a number");
    expect_message("{\"prompt\":[{}]}",
                   "prompt must be a string, a list of strings, a list of ids or a list of "
                   "lists of ids, not a list with an object");
    expect_message("{\"prompt\":[1,\"a\"]}", "prompt must hold token ids, not a string");
    expect_message("{\"prompt\":[\"a\",1]}", "prompt holds both a string and a number");
    expect_message("{\"prompt\":\"a\",\"stop\":[1]}",
                   "stop must be a string or a list of strings, not a list with a number");
    expect_message("{\"prompt\":\"a\",\"max_tokens\":\"9\"}", "max_tokens must be an integer, not a string");
    expect_message("{\"a\":1,\"a\":2}",
                   "the body is not acceptable JSON: duplicate key \"a\" in the object that ends at byte 13");
}

Test(request, defaults_and_values)
{
    struct completion_request r;
    struct api_error error;
    cr_assert_eq(
        parse(&r, "{\"prompt\":\"a\",\"temperature\":null,\"user\":\"u\",\"metadata\":{\"k\":1}}", &error),
        API_OK);
    cr_assert_eq(r.params.max_tokens, 16);
    cr_assert_eq(r.params.temperature, 1);
    cr_assert_eq(r.params.logprobs, -1);
    cr_assert_eq(r.n, 1);
    cr_assert_eq(r.timeout_ms, 1000);
    cr_assert_eq(r.ignored.length, 0);
    completion_request_finish(&r);
    cr_assert_eq(
        parse(&r,
              "{\"model\":\"alias\",\"prompt\":[[1,2],[3]],\"max_tokens\":2.0,\"seed\":-9223372036854775808,"
              "\"stop\":[\"x\",\"yy\"],\"logit_bias\":{\"5\":-100,\"0\":1.5},\"n\":2,\"best_of\":3,"
              "\"un known\":1,\"stop_token_ids\":[7],\"tools\":[],\"tool_choice\":\"auto\",\"suffix\":\"\"}",
              &error),
        API_OK, "%s", error.message);
    cr_assert_eq(r.n_prompts, 2);
    cr_assert_eq(r.prompts[0].n_ids, 2);
    cr_assert_eq(r.params.max_tokens, 2);
    cr_assert_eq(r.params.seed, (uint64_t)1 << 63);
    cr_assert_eq(r.n_stops, 2);
    cr_assert_eq(r.stop_bytes[1], 2);
    cr_assert_eq(r.params.n_bias, 2);
    cr_assert_eq(r.params.bias_ids[1], 0);
    cr_assert_eq(r.best_of, 3);
    cr_assert(r.hide_logprobs && r.params.logprobs == 0);
    cr_assert_str_eq(buffer_string(&r.ignored), "un?known");
    completion_request_finish(&r);
}

Test(request, encoding)
{
    struct folder folder;
    struct tokenizer *tokenizer = tiny_tokenizer(&folder);
    struct completion_request r;
    struct api_error error;
    cr_assert_eq(parse(&r, "{\"prompt\":[\"\",\"ab\"]}", &error), API_OK);
    cr_assert_eq(completion_request_encode(&r, tokenizer, &rules, &error), API_OK);
    cr_assert_eq(r.prompts[0].n_ids, 1);
    cr_assert_eq(r.prompts[0].ids[0], 1);
    cr_assert_eq(r.prompts[1].ids[0], 1);
    completion_request_finish(&r);
    cr_assert_eq(parse(&r, "{\"prompt\":[1,2,3,4],\"max_tokens\":62,\"truncate_prompt_tokens\":2}", &error),
                 API_OK);
    cr_assert_eq(completion_request_encode(&r, tokenizer, &rules, &error), API_OK);
    cr_assert_eq(r.prompts[0].n_ids, 2);
    cr_assert_eq(r.prompts[0].ids[0], 3);
    cr_assert_eq(r.prompts[0].n_truncated, 2);
    completion_request_finish(&r);
    cr_assert_eq(parse(&r, "{\"prompt\":[1,2,3],\"max_tokens\":62}", &error), API_OK);
    cr_assert_eq(completion_request_encode(&r, tokenizer, &rules, &error), API_CONTEXT_LENGTH_EXCEEDED);
    cr_assert(strstr(error.message, "3 tokens") && strstr(error.message, "62") &&
              strstr(error.message, "64"));
    completion_request_finish(&r);
    tokenizer_close(tokenizer);
    folder_remove(&folder);
}
