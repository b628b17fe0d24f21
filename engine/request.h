/* One sequence: what was asked, its tokens, its place in the KV cache, and the events on the way to its
 * client. Fields belong to the side named; the crossing points are atomic. */
#ifndef ENGINE_REQUEST_H
#define ENGINE_REQUEST_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/clock.h"
#include "engine/engine.h"

enum { MAX_END_IDS = ENGINE_MAX_STOP_IDS + MODEL_MAX_EOS };

struct request {
    /* Fixed at submission. */
    struct generate_params params; /* its arrays are copies of our own */
    int32_t n_prompt;
    int32_t end_ids[MAX_END_IDS]; /* stop ids, then the model's end tokens unless ignored */
    int32_t n_end_ids, n_stop_ids;
    int64_t order;      /* scheduling key: arrival in ns plus one second per unit of priority */
    int64_t number;     /* arrival number: breaks ties */
    int32_t n_logprobs; /* entries per event in logprobs: 1 + alternatives, or 0 */

    /* The engine thread's. */
    struct request *next; /* in the inbox, then in the waiting list */
    int32_t *tokens;      /* (n_prompt + max_tokens) prompt, then output */
    int32_t n_tokens;
    int32_t n_computed; /* positions whose keys and values are in the cache */
    int32_t n_planned;  /* positions that join the step that is being built */
    int32_t n_scored;   /* prompt positions whose logprobs are published */
    int32_t *blocks;    /* (blocks of the longest it can get) */
    int32_t n_blocks;
    bool failed; /* its logits were not usable: it ends with FINISH_ERROR after the step */
    bool dirty;  /* events were published in this step: notify at its end */
    bool urgent; /* the first of all is among them, or the end */

    /* Events: single writer (engine), single reader (client). The event at index i is prompt position i + 1
     * for the first n_prompt - 1 where prompt logprobs are asked for, then the output tokens. */
    struct token_logprob *logprobs; /* (events, n_logprobs) */
    int64_t *times;                 /* (events) monotonic ns */
    _Atomic int32_t n_published;
    _Atomic int32_t reason; /* enum finish_reason; stored after the last n_published */
    int32_t stop_token;     /* written before reason */
    int32_t n_taken;        /* the client's */
    bool end_taken;

    _Atomic int32_t cancelled;  /* enum finish_reason that the client asked for, FINISH_NONE while it runs */
    _Atomic int32_t references; /* engine and client */
    pthread_mutex_t lock;       /* guards notify against release, and carries the wait */
    pthread_cond_t changed;
    request_notify_fn *notify;
    void *context;
    _Atomic int64_t submitted, started, first_token, last_token; /* monotonic ns */
};

/* Allocates all that the sequence will ever need: a step never does. */
enum status request_open(struct request **out, const struct generate_params *params, const int32_t *ids,
                         int32_t n_ids, const struct model_config *config, request_notify_fn *notify,
                         void *context, struct error *err);
/* Drops one reference; the last frees. */
void request_drop(struct request *request);

/* Engine side: makes one more event visible, which came at now_ns; request_flush notifies once a step. */
void request_publish(struct request *request, int64_t now_ns);
void request_finish(struct request *request, enum finish_reason reason, int32_t stop_token);
void request_flush(struct request *request);

/* Where the logprobs of the event that is published next go: (n_logprobs) entries. */
struct token_logprob *request_logprob_slot(struct request *request, int32_t event);

#endif
