/* The engine as its users see it: the same tokens whatever else runs, limits, cancellation, deadlines. Runs
 * on random models of its own, so it needs no fixtures. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/request.h"
#include "tests/engine/support.h"

enum { VOCAB = 64, MAX_TOKENS = 60, SEQUENCES = 24 };

struct sequence {
    struct generate_params params;
    int32_t ids[80], n_ids;
    int32_t tokens[MAX_TOKENS], n_tokens;
    float logprobs[MAX_TOKENS];
};

static void make_sequence(struct sequence *q, unsigned *state)
{
    generate_params_init(&q->params);
    q->n_ids = 1 + rand_r(state) % 80;
    for (int32_t i = 0; i < q->n_ids; i++) {
        q->ids[i] = rand_r(state) % VOCAB;
    }
    q->params.max_tokens = 1 + rand_r(state) % MAX_TOKENS;
    q->params.temperature = rand_r(state) % 3 ? 0.8f : 0;
    q->params.top_k = rand_r(state) % 2 ? 10 : 0;
    q->params.top_p = rand_r(state) % 2 ? 0.9f : 1;
    q->params.seed = (uint64_t)rand_r(state);
    q->params.logprobs = 2;
    q->params.frequency_penalty = rand_r(state) % 3 ? 0 : 0.5f;
}

static void take_all(struct request *request, struct sequence *q)
{
    struct token_event event;
    q->n_tokens = 0;
    while (request_wait(request, &event, -1) && event.kind != EVENT_FINISHED) {
        q->logprobs[q->n_tokens] = event.logprob.logprob;
        q->tokens[q->n_tokens++] = event.token;
    }
}

static struct engine *open_with(const char *folder, const struct engine_options *changes)
{
    struct engine_options options;
    struct engine *engine;
    struct error err = {0};
    engine_options_init(&options);
    options.model_dir = folder;
    options.quant = changes->quant;
    options.n_threads = changes->n_threads;
    options.prefill_chunk = changes->prefill_chunk ? changes->prefill_chunk : options.prefill_chunk;
    options.max_running = changes->max_running ? changes->max_running : options.max_running;
    options.kv_cache_tokens = changes->kv_cache_tokens;
    options.max_model_len = changes->max_model_len;
    options.kv_type = changes->kv_type;
    options.max_queue = changes->max_queue ? changes->max_queue : options.max_queue;
    cr_assert_eq(engine_open(&engine, &options, &err), STATUS_OK, "%s", err.message);
    return engine;
}

/* Tokens and logprob bits alone equal those in company, for other chunkings, thread counts and a cache that
 * is too small. */
Test(engine, batch_invariance)
{
    static const char *const architectures[] = {"llama", "mistral", "mixtral"};
    static struct sequence alone[SEQUENCES], together[SEQUENCES];
    for (int a = 0; a < 3; a++) {
        char folder[64];
        unsigned state = 11;
        int64_t n_preemptions = 0;
        make_model(folder, sizeof folder, architectures[a], 5);
        struct engine_options options = {.quant = {QUANT_ANY4, 32}, .n_threads = 1, .max_running = 1};
        struct engine *engine = open_with(folder, &options);
        struct error err;
        for (int i = 0; i < SEQUENCES; i++) {
            struct request *request;
            make_sequence(&alone[i], &state);
            cr_assert_eq(engine_submit(engine, &alone[i].params, alone[i].ids, alone[i].n_ids, NULL, NULL,
                                       &request, &err),
                         STATUS_OK, "%s", err.message);
            take_all(request, &alone[i]);
            request_release(request);
        }
        engine_close(engine);
        for (int variant = 0; variant < 4; variant++) {
            struct request *requests[SEQUENCES];
            options.n_threads = 1 + variant % 3;
            options.max_running = variant == 3 ? 12 : 16;
            options.prefill_chunk = variant == 1 ? 7 : 64;
            options.kv_cache_tokens = variant == 3 ? 160 : 0; /* one whole sequence and a bit */
            options.max_model_len = variant == 3 ? 140 : 0;
            engine = open_with(folder, &options);
            memcpy(together, alone, sizeof alone);
            for (int i = 0; i < SEQUENCES; i++) {
                cr_assert_eq(engine_submit(engine, &together[i].params, together[i].ids, together[i].n_ids,
                                           NULL, NULL, &requests[i], &err),
                             STATUS_OK, "%s", err.message);
            }
            for (int i = 0; i < SEQUENCES; i++) {
                take_all(requests[i], &together[i]);
                request_release(requests[i]);
                cr_assert_eq(together[i].n_tokens, alone[i].n_tokens, "%s variant %d sequence %d",
                             architectures[a], variant, i);
                cr_assert_arr_eq(together[i].tokens, alone[i].tokens, (size_t)alone[i].n_tokens * 4);
                cr_assert_arr_eq(together[i].logprobs, alone[i].logprobs, (size_t)alone[i].n_tokens * 4);
            }
            struct engine_stats stats;
            engine_get_stats(engine, &stats);
            n_preemptions += stats.preemptions;
            cr_assert_eq(stats.waiting, 0);
            engine_close(engine);
        }
        remove_folder(folder);
        cr_assert(n_preemptions > 0, "the small cache should have caused preemptions");
    }
}

Test(engine, stops_and_lengths)
{
    char folder[64];
    struct generate_params params;
    struct request *request;
    struct token_event event;
    struct error err = {0};
    int32_t ids[] = {1, 5, 9}, out[100];
    enum finish_reason reason;
    make_model(folder, sizeof folder, "llama", 3);
    struct engine_options options = {.quant = {QUANT_NONE, 0}, .n_threads = 2};
    struct engine *engine = open_with(folder, &options);
    generate_params_init(&params);
    params.temperature = 0;
    params.max_tokens = 20;
    params.ignore_eos = true;
    cr_assert_eq(run_sequence(engine, &params, ids, 3, out, &reason), 20);
    cr_assert_eq(reason, FINISH_LENGTH);

    /* The fourth greedy token as a stop id: it comes last, marked, and is named. */
    int32_t stop = out[3], first = 0;
    while (out[first] != stop) {
        first++;
    }
    params.stop_ids = &stop;
    params.n_stop_ids = 1;
    cr_assert_eq(engine_submit(engine, &params, ids, 3, NULL, NULL, &request, &err), STATUS_OK);
    int32_t n = 0;
    while (request_wait(request, &event, -1) && event.kind != EVENT_FINISHED) {
        cr_assert_eq(event.is_stop, n == first);
        n++;
    }
    cr_assert_eq(n, first + 1);
    cr_assert_eq(event.reason, FINISH_STOP);
    cr_assert_eq(event.stop_token, stop);
    cr_assert(!request_next(request, &event));
    request_release(request);

    /* Held off until min_tokens. */
    params.min_tokens = 12;
    n = run_sequence(engine, &params, ids, 3, out, &reason);
    for (int32_t i = 0; i < n && i < 12; i++) {
        cr_assert_neq(out[i], stop);
    }
    cr_assert(n >= 12);

    /* Limits, each named. */
    params.max_tokens = 254;
    cr_assert_eq(engine_submit(engine, &params, ids, 3, NULL, NULL, &request, &err), STATUS_INVALID);
    cr_assert(strstr(err.message, "254") && strstr(err.message, "256"), "%s", err.message);
    params.max_tokens = 2;
    ids[1] = VOCAB;
    cr_assert_eq(engine_submit(engine, &params, ids, 3, NULL, NULL, &request, &err), STATUS_INVALID);
    cr_assert(strstr(err.message, "64"), "%s", err.message);
    cr_assert_eq(engine_submit(engine, &params, ids, 0, NULL, NULL, &request, &err), STATUS_INVALID);
    engine_close(engine);
    remove_folder(folder);
}

Test(engine, cancel_deadline_and_queue)
{
    enum { WAITING = 4 };
    char folder[64];
    struct generate_params params;
    struct request *running, *requests[WAITING];
    struct token_event event;
    struct error err = {0};
    int32_t ids[] = {1, 5, 9};
    make_model(folder, sizeof folder, "llama", 3);
    struct engine_options options = {
        .quant = {QUANT_NONE, 0}, .n_threads = 1, .max_running = 1, .max_queue = WAITING};
    struct engine *engine = open_with(folder, &options);
    struct engine_stats stats;
    generate_params_init(&params);
    params.max_tokens = 250;
    params.ignore_eos = true;
    cr_assert_eq(engine_submit(engine, &params, ids, 3, NULL, NULL, &running, &err), STATUS_OK);
    cr_assert(request_wait(running, &event, -1)); /* it runs: the queue is empty */
    int n_queued = 0;
    enum status status = STATUS_OK;
    for (; n_queued < WAITING; n_queued++) {
        params.deadline_ms = n_queued == 1 ? clock_ns() / 1000000 + 1 : 0;
        if ((status = engine_submit(engine, &params, ids, 3, NULL, NULL, &requests[n_queued], &err))) {
            break;
        }
    }
    cr_assert_eq(n_queued, WAITING, "%s", err.message);
    request_cancel(requests[0]);
    while (request_wait(requests[0], &event, -1) && event.kind != EVENT_FINISHED) {
    }
    cr_expect_eq(event.reason, FINISH_CANCELLED);
    while (request_wait(requests[1], &event, -1) && event.kind != EVENT_FINISHED) {
    }
    cr_expect_eq(event.reason, FINISH_TIMEOUT);
    for (int i = 0; i < WAITING; i++) {
        request_release(requests[i]); /* releasing cancels */
    }
    request_release(running);
    for (int i = 0; i < 1000 && !engine_is_idle(engine); i++) {
        usleep(1000);
    }
    cr_assert(engine_is_idle(engine));
    engine_get_stats(engine, &stats);
    cr_expect_eq(stats.running, 0);
    cr_expect_eq(stats.waiting, 0);
    cr_expect_eq(stats.kv_tokens_used, 0);
    engine_close(engine);
    remove_folder(folder);
}

Test(engine, does_not_fit)
{
    char folder[64];
    struct engine_options options;
    struct engine *engine;
    struct error err = {0};
    make_model(folder, sizeof folder, "llama", 3);
    engine_options_init(&options);
    options.model_dir = folder;
    options.max_memory = 1 << 20;
    cr_assert_eq(engine_open(&engine, &options, &err), STATUS_NO_MEMORY);
    cr_assert(strstr(err.message, "limit is 1.0 MiB"), "%s", err.message);
    options.quant_skip[options.n_quant_skip++] = "lm_haed";
    cr_assert_eq(engine_open(&engine, &options, &err), STATUS_INVALID);
    cr_assert(strstr(err.message, "lm_haed"), "%s", err.message);
    options.n_quant_skip = 0;
    options.max_memory = 0;
    options.max_model_len = 257;
    cr_assert_eq(engine_open(&engine, &options, &err), STATUS_INVALID);
    remove_folder(folder);
}
