/* The list is short, an exchange each that has news within one interval, and most are due at the same tick:
 * it is walked whole. */
#include "server/pacer.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "server/clock.h"

struct pacer {
    pthread_t thread;
    pthread_mutex_t lock; /* taken before an exchange's */
    pthread_cond_t changed;
    struct exchange *held;
    int64_t next_ns; /* when the thread wakes by itself; INT64_MAX: not */
    void (*wake)(struct exchange *x);
    bool stop;
};

static void unlink_held(struct pacer *p, struct exchange *x)
{
    *(x->previous_held ? &x->previous_held->next_held : &p->held) = x->next_held;
    if (x->next_held) {
        x->next_held->previous_held = x->previous_held;
    }
    x->held_until_ns = 0;
}

static void wake_due(struct pacer *p)
{
    int64_t now = clock_now_ns();
    p->next_ns = INT64_MAX;
    for (struct exchange *x = p->held, *next; x; x = next) {
        next = x->next_held;
        if (x->held_until_ns <= now) {
            unlink_held(p, x);
            p->wake(x);
        } else if (x->held_until_ns < p->next_ns) {
            p->next_ns = x->held_until_ns;
        }
    }
}

static void *pacer_run(void *context)
{
    struct pacer *p = context;
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        wake_due(p);
        if (p->next_ns == INT64_MAX) {
            pthread_cond_wait(&p->changed, &p->lock);
        } else {
            struct timespec until = {.tv_sec = p->next_ns / 1000000000, .tv_nsec = p->next_ns % 1000000000};
            pthread_cond_timedwait(&p->changed, &p->lock, &until);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

enum status pacer_open(struct pacer **out, void (*wake)(struct exchange *x), struct error *err)
{
    pthread_condattr_t attributes;
    struct pacer *p = calloc(1, sizeof *p);
    *out = NULL;
    if (!p) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for the pacer");
    }
    p->wake = wake;
    p->next_ns = INT64_MAX;
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&p->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    if (pthread_create(&p->thread, NULL, pacer_run, p)) {
        pthread_cond_destroy(&p->changed);
        pthread_mutex_destroy(&p->lock);
        free(p);
        return error_set(err, STATUS_IO, "cannot start the pacer's thread");
    }
    *out = p;
    return STATUS_OK;
}

void pacer_close(struct pacer *p)
{
    if (!p) {
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void pacer_hold(struct pacer *p, struct exchange *x, int64_t due_ns)
{
    pthread_mutex_lock(&p->lock);
    if (!x->held_until_ns) {
        x->held_until_ns = due_ns;
        x->previous_held = NULL;
        x->next_held = p->held;
        if (x->next_held) {
            x->next_held->previous_held = x;
        }
        p->held = x;
        if (due_ns < p->next_ns) {
            p->next_ns = due_ns;
            pthread_cond_signal(&p->changed);
        }
    }
    pthread_mutex_unlock(&p->lock);
}

void pacer_remove(struct pacer *p, struct exchange *x)
{
    pthread_mutex_lock(&p->lock);
    if (x->held_until_ns) {
        unlink_held(p, x);
    }
    pthread_mutex_unlock(&p->lock);
}
