/* A completion on its way: the sequences of one request (prompts times choices) in the engine, and their
 * text. Driven by whoever owns it, one thread at a time: HTTP polls after each notify, `any4 generate` waits
 * between polls. */
#ifndef SERVER_COMPLETION_H
#define SERVER_COMPLETION_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "server/completion_request.h"
#include "server/metrics.h"
#include "server/text_stream.h"

struct choice {
    struct request *handle; /* NULL before submission */
    struct text_stream stream;
    int32_t prompt; /* index of its prompt */
    bool submitted, finished;
    enum finish_reason reason; /* FINISH_STOP or FINISH_LENGTH when finished */
    int32_t stop_token;        /* the stop id that ended it, else -1 */
    double logprob_sum;        /* of the generated tokens, for best_of */
    int64_t last_token_ns;
    struct request_timings timings;
    /* What a stream has sent: */
    size_t text_sent;
    struct text_cursor cursor;
    int64_t tokens_sent, ids_sent;
    int32_t chunks_sent;
    bool end_sent;
};

struct completion {
    struct completion_request request;
    struct engine *engine;
    const struct tokenizer *tokenizer; /* NULL: ids alone, without any text */
    struct metrics *metrics;           /* NULL: not counted */
    request_notify_fn *notify;
    void *context;
    int64_t arrival_ns, submitted_ns, deadline_ms;
    struct choice *choices; /* n_choices: prompt * best_of + choice */
    int32_t n_choices, n_submitted, n_finished;
    bool any_output; /* an event has come: headers may go out */
    uint32_t itl_counts[METRICS_TIME_BUCKETS + 1];
    char id[40];              /* "cmpl-..." or "chatcmpl-..." */
    int64_t created;          /* seconds since 1970 */
    struct buffer chunk_head; /* completion_write.c's: how each chunk of a stream begins */
};

/* Takes request over (it is zeroed), also on failure. Submits what the engine's queue takes; the rest follows
 * as sequences end. Fails with queue_full when not even the first was taken. notify and context as
 * engine_submit. */
enum api_code completion_open(struct completion **out, struct completion_request *request,
                              struct engine *engine, const struct tokenizer *tokenizer,
                              struct metrics *metrics, int64_t arrival_ns, request_notify_fn *notify,
                              void *context, struct api_error *error);
/* Takes what the engine has, without waiting. A failure of any sequence fails the whole completion. */
enum api_code completion_poll(struct completion *c, struct api_error *error);
bool completion_is_finished(const struct completion *c);
void completion_close(struct completion *c); /* cancels what still runs; accepts NULL */

/* Sums over the request, for usage and logs. */
struct completion_usage {
    int64_t prompt_tokens, cached_tokens, completion_tokens, truncated_tokens;
};
void completion_get_usage(const struct completion *c, struct completion_usage *out);

/* Times in ms from arrival; 0 where not reached. decode covers the tokens after the first. */
struct completion_times {
    double queue_ms, prefill_ms, ttft_ms, decode_ms, total_ms, tokens_per_s;
};
void completion_get_times(const struct completion *c, struct completion_times *out);

/* Which choice is answered at `index` (prompt * n + rank): with best_of the rank-th best by mean logprob. */
int32_t completion_pick(const struct completion *c, int32_t index);

#endif
