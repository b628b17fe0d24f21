/* Block pool and scheduler: nothing is lost, nothing is given twice, everybody finishes. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "engine/scheduler.h"

static const struct model_config config = {.n_layers = 1, .n_kv_heads = 1, .head_dim = 2, .vocab_size = 10};

Test(kv_cache, blocks_are_given_once_and_come_back)
{
    struct kv_cache kv;
    struct error err;
    int32_t a[8], b[8], n_a = 0, n_b = 0;
    cr_assert_eq(kv_cache_init(&kv, &config, KV_F16, 8, &err), STATUS_OK);
    cr_assert(kv_cache_reserve(&kv, a, &n_a, 3 * KV_BLOCK_TOKENS + 1));
    cr_assert_eq(n_a, 4);
    cr_assert(!kv_cache_reserve(&kv, b, &n_b, 5 * KV_BLOCK_TOKENS));
    cr_assert_eq(n_b, 0);
    cr_assert(kv_cache_reserve(&kv, b, &n_b, 4 * KV_BLOCK_TOKENS));
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            cr_assert_neq(a[i], b[j]);
        }
    }
    cr_assert_eq(kv.n_free, 0);
    kv_cache_release(&kv, a, &n_a);
    cr_assert_eq(kv.n_free, 4);
    kv_cache_release(&kv, b, &n_b);
    cr_assert_eq(kv.n_free, 8);
    kv_cache_finish(&kv);
}

/* Drives the scheduler with random requests in a cache that is too small for all, checking every batch. */
Test(scheduler, everybody_finishes_in_a_small_cache)
{
    enum { REQUESTS = 60, BLOCKS = 6, MAX_LEN = BLOCKS * KV_BLOCK_TOKENS };
    struct kv_cache kv;
    struct scheduler s;
    struct error err;
    struct request *requests[REQUESTS];
    int64_t n_steps = 0;
    int n_done = 0;
    unsigned state = 7;
    cr_assert_eq(kv_cache_init(&kv, &config, KV_F32, BLOCKS, &err), STATUS_OK);
    cr_assert_eq(scheduler_init(&s, &kv, 5, 24, 8, &err), STATUS_OK);
    for (int i = 0; i < REQUESTS; i++) {
        int32_t ids[MAX_LEN] = {0};
        struct generate_params params;
        generate_params_init(&params);
        int32_t n_ids = 1 + rand_r(&state) % 100;
        params.max_tokens = rand_r(&state) % (MAX_LEN - n_ids);
        params.prompt_logprobs = rand_r(&state) % 3 == 0;
        cr_assert_eq(request_open(&requests[i], &params, ids, n_ids, &config, NULL, NULL, &err), STATUS_OK);
        requests[i]->order = i % 7;
        requests[i]->number = i;
        scheduler_enqueue(&s, requests[i]);
    }
    while (n_done < REQUESTS) {
        cr_assert(++n_steps < 100000, "no progress");
        scheduler_build(&s);
        cr_assert(s.batch.n_rows <= 24 && s.batch.n_logits <= 8 && s.n_running <= 5);
        int32_t owner[BLOCKS];
        memset(owner, -1, sizeof owner);
        for (int32_t i = 0; i < s.n_running; i++) {
            struct request *r = s.running[i];
            cr_assert(r->n_computed <= r->n_blocks * KV_BLOCK_TOKENS);
            for (int32_t b = 0; b < r->n_blocks; b++) {
                cr_assert_eq(owner[r->blocks[b]], -1, "block %d has two owners", r->blocks[b]);
                owner[r->blocks[b]] = i;
            }
        }
        for (int32_t i = 0; i < s.batch.n_rows; i++) {
            cr_assert(i == 0 || s.batch.block_tables[i] != s.batch.block_tables[i - 1] ||
                      s.batch.positions[i] == s.batch.positions[i - 1] + 1);
        }
        for (int32_t i = 0; i < s.batch.n_logits; i++) {
            struct logit_row row = s.logit_rows[i];
            if (!row.is_draw) {
                cr_assert_eq(row.position, row.request->n_scored);
                row.request->n_scored = row.position + 1;
            } else if (row.request->params.max_tokens) {
                row.request->tokens[row.request->n_tokens++] = 3;
            }
        }
        for (int32_t i = s.n_running - 1; i >= 0; i--) {
            struct request *r = s.running[i];
            bool scoring = r->params.max_tokens == 0;
            if (scoring ? r->n_computed >= r->n_tokens - 1
                        : r->n_tokens == r->n_prompt + r->params.max_tokens) {
                cr_assert(!r->params.prompt_logprobs || r->n_scored == r->n_prompt - 1);
                scheduler_remove(&s, r);
                n_done++;
            }
        }
    }
    cr_assert_eq(kv.n_free, BLOCKS);
    cr_assert(s.n_preemptions > 0, "the test should have been tight enough to preempt");
    cr_assert(!s.waiting && !s.n_running && !s.n_waiting);
    for (int i = 0; i < REQUESTS; i++) {
        request_release(requests[i]);
        request_drop(requests[i]);
    }
    scheduler_finish(&s);
    kv_cache_finish(&kv);
}

Test(scheduler, waiting_is_in_order_of_priority_then_arrival)
{
    struct kv_cache kv;
    struct scheduler s;
    struct error err;
    struct request *r[4];
    static const int64_t order[] = {5, 3, 5, 1};
    static const int expected[] = {3, 1, 0, 2};
    int32_t id = 0;
    struct generate_params params;
    generate_params_init(&params);
    cr_assert_eq(kv_cache_init(&kv, &config, KV_F32, 4, &err), STATUS_OK);
    cr_assert_eq(scheduler_init(&s, &kv, 1, 8, 8, &err), STATUS_OK);
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(request_open(&r[i], &params, &id, 1, &config, NULL, NULL, &err), STATUS_OK);
        r[i]->order = order[i];
        r[i]->number = i;
        scheduler_enqueue(&s, r[i]);
    }
    struct request *at = s.waiting;
    for (int i = 0; i < 4; i++, at = at->next) {
        cr_expect_eq(at, r[expected[i]]);
    }
    for (int i = 0; i < 4; i++) {
        scheduler_remove(&s, r[i]);
        request_release(r[i]);
        request_drop(r[i]);
    }
    scheduler_finish(&s);
    kv_cache_finish(&kv);
}
