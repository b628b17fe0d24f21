/* Waiting and running sequences -> one batch a step: decode rows of everything that runs, then prefill chunks
 * in order of arrival, within a token budget. Admission, fairness, preemption. The engine thread alone calls
 * in. */
#ifndef ENGINE_SCHEDULER_H
#define ENGINE_SCHEDULER_H

#include <stdint.h>

#include "engine/forward.h"
#include "engine/kv_cache.h"
#include "engine/request.h"

/* One row whose logits are wanted: the draw of an output token, or the score of a prompt position. */
struct logit_row {
    struct request *request;
    int32_t position;
    bool is_draw;
};

struct scheduler {
    struct kv_cache *kv;
    int32_t max_running, max_rows, max_logits;
    struct request *waiting; /* list in scheduling order */
    int32_t n_waiting;
    struct request **running; /* (max_running) in order of admission */
    int32_t n_running;
    struct batch batch;           /* of the current step */
    struct logit_row *logit_rows; /* (max_logits) beside batch.logit_rows */
    int64_t n_preemptions;
};

enum status scheduler_init(struct scheduler *s, struct kv_cache *kv, int32_t max_running, int32_t max_rows,
                           int32_t max_logits, struct error *err);
void scheduler_finish(struct scheduler *s);

/* Puts a sequence in its place among the waiting: by order (priority and arrival), then by number. */
void scheduler_enqueue(struct scheduler *s, struct request *request);

/* Admits what fits and fills s->batch; n_rows may be 0 only when nothing runs. Positions in the batch count
 * as computed from here on. */
void scheduler_build(struct scheduler *s);

/* Takes a sequence out, wherever it is, and gives its blocks back. */
void scheduler_remove(struct scheduler *s, struct request *request);

#endif
