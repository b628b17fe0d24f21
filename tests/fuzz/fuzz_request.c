/* Any body through the JSON reader and the request parser: refused with a code and a message, or within every
 * range. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "server/completion_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"m"};
    const struct json_limits limits = {.max_depth = 64, .max_nodes = 4096};
    const struct request_rules rules = {.model_names = names,
                                        .n_model_names = 1,
                                        .max_model_len = 128,
                                        .vocab_size = 512,
                                        .max_n = 16,
                                        .max_best_of = 16,
                                        .max_logprobs = 20,
                                        .max_stops = 16,
                                        .max_timeout_ms = 1000,
                                        .strict_fields = size % 2 == 1};
    struct completion_request r;
    struct api_error error = {0};
    struct error why = {0};
    cJSON *root = NULL;
    if (json_parse(&root, (const char *)data, size, &limits, &why)) {
        return 0;
    }
    bool chat = size % 4 >= 2;
    enum api_code code = chat ? chat_request_parse(&r, root, &rules, &error)
                              : completion_request_parse(&r, root, &rules, &error);
    FUZZ_CHECK(code == error.code);
    if (code) {
        FUZZ_CHECK(error.message[0] && api_code_status(code) >= 400);
    } else {
        FUZZ_CHECK(r.n_prompts >= 1 && r.n_prompts <= REQUEST_MAX_PROMPTS);
        FUZZ_CHECK(r.n >= 1 && r.best_of >= r.n && r.best_of <= 16);
        FUZZ_CHECK(r.params.max_tokens >= 0 && r.params.max_tokens <= 128);
        FUZZ_CHECK(r.params.temperature >= 0 && r.params.temperature <= 2);
        FUZZ_CHECK(r.params.top_p > 0 && r.params.top_p <= 1);
        FUZZ_CHECK(r.params.repetition_penalty > 0);
        FUZZ_CHECK(r.n_stops + r.n_template_stops <= DETOKENIZER_MAX_STOPS &&
                   r.params.n_stop_ids <= ENGINE_MAX_STOP_IDS);
        FUZZ_CHECK(r.params.n_bias <= ENGINE_MAX_LOGIT_BIAS);
        for (int32_t i = 0; i < r.n_prompts; i++) {
            FUZZ_CHECK(chat || r.prompts[i].text || r.prompts[i].n_ids > 0);
        }
        FUZZ_CHECK((r.messages.n > 0) == chat);
        for (int32_t i = 0; i < r.messages.n; i++) {
            FUZZ_CHECK(r.messages.items[i].content && r.messages.items[i].role <= CHAT_ASSISTANT);
        }
    }
    completion_request_finish(&r);
    return 0;
}
