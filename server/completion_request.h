/* The body of POST /v1/completions or /v1/chat/completions, checked field by field into plain values; `any4
 * generate` goes through the same code, so all have one set of names, defaults and ranges. Knows JSON and
 * tokens, not HTTP. */
#ifndef SERVER_COMPLETION_REQUEST_H
#define SERVER_COMPLETION_REQUEST_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "server/api_error.h"
#include "server/buffer.h"
#include "server/chat_messages.h"
#include "tokenizer/detokenizer.h"
#include "tokenizer/tokenizer.h"

enum { REQUEST_MAX_PROMPTS = 64, REQUEST_MAX_N = 16, REQUEST_MAX_SALT = 256, REQUEST_MAX_STOPS = 16 };
_Static_assert((int)REQUEST_MAX_STOPS + (int)CHAT_TEMPLATE_MAX_STOPS <= (int)DETOKENIZER_MAX_STOPS,
               "a request's stop strings and its template's find room together");

/* What a request is judged against. */
struct request_rules {
    const char *const *model_names; /* n_model_names; the first is the name in answers */
    int32_t n_model_names;
    int32_t max_model_len;
    int32_t vocab_size;
    int32_t max_n, max_best_of, max_logprobs, max_stops;
    int64_t max_timeout_ms; /* 0: no limit */
    bool strict_fields;
    enum chat_template_kind chat_template;
    int32_t default_max_tokens; /* of chat; 0: the rest of the context */
    int32_t max_submitted;      /* sequences of one request in the engine at a time; 0: all */
};

struct completion_prompt {
    const char *text; /* borrowed from the JSON tree, NULL for a prompt of ids */
    size_t text_bytes;
    char *decoded; /* owned: text of an echoed prompt of ids */
    int32_t *ids;  /* owned */
    int32_t n_ids;
    int32_t n_truncated; /* ids cut off by truncate_prompt_tokens */
};

struct completion_request {
    cJSON *root; /* owned: strings below point into it */
    bool chat;   /* one prompt, made of messages; the answer is a message */
    struct chat_messages messages;
    enum chat_bos bos;
    struct completion_prompt *prompts; /* owned, n_prompts */
    int32_t n_prompts;
    struct generate_params params; /* its stop_ids and bias arrays are the ones below */
    int32_t stop_ids[ENGINE_MAX_STOP_IDS];
    int32_t *bias_ids;
    float *bias_values;
    const char *stops[DETOKENIZER_MAX_STOPS];
    size_t stop_bytes[DETOKENIZER_MAX_STOPS];
    int32_t n_stops;          /* the client's */
    int32_t n_template_stops; /* behind them in stops */
    bool include_stop;
    int32_t n, best_of;
    bool echo, stream, include_usage, continuous_usage;
    bool add_special_tokens;        /* completions; chat has bos */
    bool rest_of_context;           /* params.max_tokens is decided when the prompt's length is known */
    int32_t truncate_prompt_tokens; /* 0: off */
    bool hide_logprobs;             /* params.logprobs is there for best_of alone */
    bool return_token_ids, return_timings;
    int32_t max_submitted; /* as in the rules */
    int64_t timeout_ms;    /* 0: none */
    struct buffer ignored; /* names of unknown fields, "a, b" */
};

/* Takes root over (also on failure). Prompts of text and messages are not encoded yet. request needs
 * completion_request_finish whatever the outcome. */
enum api_code completion_request_parse(struct completion_request *request, cJSON *root,
                                       const struct request_rules *rules, struct api_error *error);
enum api_code chat_request_parse(struct completion_request *request, cJSON *root,
                                 const struct request_rules *rules, struct api_error *error);
/* Text -> ids, truncation, and whether prompt + max_tokens fits the context. */
enum api_code completion_request_encode(struct completion_request *request, const struct tokenizer *tokenizer,
                                        const struct request_rules *rules, struct api_error *error);
/* One text, as a prompt or for /v1/tokenize: BOS if it is wanted and the model's texts begin so, and for an
 * empty text if the model has one at all: a sequence cannot begin from nothing. */
enum api_code completion_text_encode(const struct tokenizer *tokenizer, const char *text, size_t n_bytes,
                                     bool add_special_tokens, int32_t **ids, int32_t *n_ids,
                                     struct api_error *error);
void completion_request_finish(struct completion_request *request); /* accepts zeroed memory */

#endif
