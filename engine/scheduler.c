/* Scheduling: who takes part in the next step. */
#include "engine/scheduler.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum status scheduler_init(struct scheduler *s, struct kv_cache *kv, int32_t max_running, int32_t max_rows,
                           int32_t max_logits, struct error *err)
{
    *s = (struct scheduler){
        .kv = kv, .max_running = max_running, .max_rows = max_rows, .max_logits = max_logits};
    s->running = calloc((size_t)max_running, sizeof *s->running);
    s->logit_rows = calloc((size_t)max_logits, sizeof *s->logit_rows);
    s->batch.tokens = calloc((size_t)max_rows, sizeof *s->batch.tokens);
    s->batch.positions = calloc((size_t)max_rows, sizeof *s->batch.positions);
    s->batch.block_tables = calloc((size_t)max_rows, sizeof *s->batch.block_tables);
    s->batch.logit_rows = calloc((size_t)max_logits, sizeof *s->batch.logit_rows);
    if (!s->running || !s->logit_rows || !s->batch.tokens || !s->batch.positions || !s->batch.block_tables ||
        !s->batch.logit_rows) {
        scheduler_finish(s);
        return error_set(err, STATUS_NO_MEMORY, "scheduler: out of memory");
    }
    return STATUS_OK;
}

void scheduler_finish(struct scheduler *s)
{
    free(s->running);
    free(s->logit_rows);
    free(s->batch.tokens);
    free(s->batch.positions);
    free(s->batch.block_tables);
    free(s->batch.logit_rows);
    memset(s, 0, sizeof *s);
}

static bool comes_before(const struct request *a, const struct request *b)
{
    return a->order < b->order || (a->order == b->order && a->number < b->number);
}

void scheduler_enqueue(struct scheduler *s, struct request *request)
{
    struct request **at = &s->waiting;
    while (*at && comes_before(*at, request)) {
        at = &(*at)->next;
    }
    request->next = *at;
    *at = request;
    s->n_waiting++;
}

/* Positions to compute before the sequence can go on. One that only scores its prompt never needs its last
 * token. */
static int32_t n_needed(const struct request *r)
{
    return r->n_tokens - (r->params.max_tokens == 0);
}

static void stop_running(struct scheduler *s, int32_t index)
{
    struct request *r = s->running[index];
    kv_cache_release(s->kv, r->blocks, &r->n_blocks);
    r->n_computed = 0;
    r->n_planned = 0;
    memmove(s->running + index, s->running + index + 1,
            (size_t)(s->n_running - index - 1) * sizeof(struct request *));
    s->n_running--;
}

void scheduler_remove(struct scheduler *s, struct request *request)
{
    for (int32_t i = 0; i < s->n_running; i++) {
        if (s->running[i] == request) {
            stop_running(s, i);
            return;
        }
    }
    for (struct request **at = &s->waiting; *at; at = &(*at)->next) {
        if (*at == request) {
            *at = request->next;
            s->n_waiting--;
            return;
        }
    }
    assert(!"a request that is neither waiting nor running");
}

/* Makes room for n_tokens positions of running[*index] by sending the last in scheduling order back to wait;
 * its tokens are kept and computed again. The first in order is never sent back by others and fits alone, so
 * something always moves. *index follows the sequence as the array closes up. Returns false when the sequence
 * itself went. */
static bool reserve_or_preempt(struct scheduler *s, int32_t *index, int32_t n_tokens)
{
    struct request *request = s->running[*index];
    while (!kv_cache_reserve(s->kv, request->blocks, &request->n_blocks, n_tokens)) {
        int32_t last = 0;
        for (int32_t i = 1; i < s->n_running; i++) {
            if (comes_before(s->running[last], s->running[i])) {
                last = i;
            }
        }
        struct request *victim = s->running[last];
        stop_running(s, last);
        scheduler_enqueue(s, victim);
        s->n_preemptions++;
        if (victim == request) {
            return false;
        }
        *index -= last < *index;
    }
    return true;
}

static bool is_scored(const struct request *r, int32_t position)
{
    return r->params.prompt_logprobs && position >= r->n_scored && position < r->n_prompt - 1;
}

/* What is left of the step's budgets while it is planned. */
struct budget {
    int32_t n_rows, n_logits;
};

/* Plans the sequence's next positions, as many as fit. */
static void plan(struct request *r, struct budget *left)
{
    int32_t n = 0, n_logits = 0, n_wanted = n_needed(r) - r->n_computed;
    while (n < n_wanted && n < left->n_rows) {
        int32_t position = r->n_computed + n;
        bool wants_logits = position == r->n_tokens - 1 || is_scored(r, position);
        if (wants_logits && n_logits == left->n_logits) {
            break;
        }
        n_logits += wants_logits;
        n++;
    }
    r->n_planned = n;
    left->n_rows -= n;
    left->n_logits -= n_logits;
}

/* Plans every running sequence of one kind: those that decode (one row) or those in prefill. */
static void plan_running(struct scheduler *s, bool decoding, struct budget *left)
{
    for (int32_t i = 0; i < s->n_running; i++) {
        struct request *r = s->running[i];
        bool decodes = n_needed(r) - r->n_computed == 1 && r->n_tokens > r->n_prompt;
        if (decodes != decoding) {
            continue;
        }
        plan(r, left);
        if (!reserve_or_preempt(s, &i, r->n_computed + r->n_planned)) {
            i--; /* the array closed up over it */
        }
    }
}

static void add_rows(struct scheduler *s, struct request *r)
{
    struct batch *b = &s->batch;
    for (int32_t i = 0; i < r->n_planned; i++) {
        int32_t position = r->n_computed + i;
        bool is_draw = position == r->n_tokens - 1;
        b->tokens[b->n_rows] = r->tokens[position];
        b->positions[b->n_rows] = position;
        b->block_tables[b->n_rows] = r->blocks;
        if (is_draw || is_scored(r, position)) {
            s->logit_rows[b->n_logits] = (struct logit_row){r, position, is_draw};
            b->logit_rows[b->n_logits++] = b->n_rows;
        }
        b->n_rows++;
    }
    r->n_computed += r->n_planned;
    r->n_planned = 0;
}

static void admit(struct scheduler *s, struct budget *left)
{
    while (s->waiting && s->n_running < s->max_running && left->n_rows > 0 && left->n_logits > 0) {
        struct request *r = s->waiting;
        /* Room for all that it has so far and one more, or it would only push others out. */
        if (n_needed(r) / KV_BLOCK_TOKENS + 1 > s->kv->n_free && s->n_running > 0) {
            break;
        }
        s->waiting = r->next;
        r->next = NULL;
        s->n_waiting--;
        int32_t index = s->n_running++;
        s->running[index] = r;
        if (!r->started) {
            r->started = clock_ns();
        }
        plan(r, left);
        reserve_or_preempt(s, &index, r->n_computed + r->n_planned);
    }
}

void scheduler_build(struct scheduler *s)
{
    struct budget left = {s->max_rows, s->max_logits};
    s->batch.n_rows = 0;
    s->batch.n_logits = 0;
    plan_running(s, true, &left);
    plan_running(s, false, &left);
    admit(s, &left);
    /* Rows are added when all room is made: a sequence that was sent back takes no part. */
    for (int32_t i = 0; i < s->n_running; i++) {
        add_rows(s, s->running[i]);
    }
}
