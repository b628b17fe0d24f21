/* The thread behind worker.h and its queue, a list through the exchanges. */
#include "server/worker.h"

#include <pthread.h>
#include <stdlib.h>

#include "server/http.h"

struct worker {
    pthread_t thread;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    void (*run)(struct exchange *x);
    struct exchange *first, **end;
    int32_t n_queued;
    bool stop;
};

static void *worker_main(void *context)
{
    struct worker *w = context;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        struct exchange *x = w->first;
        if (x) {
            w->first = x->next_work;
            w->end = w->first ? w->end : &w->first;
            w->n_queued--;
            pthread_mutex_unlock(&w->lock);
            w->run(x);
            pthread_mutex_lock(&w->lock);
        } else if (w->stop) {
            break;
        } else {
            pthread_cond_wait(&w->changed, &w->lock);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

enum status worker_open(struct worker **out, void (*run)(struct exchange *x), struct error *err)
{
    struct worker *w = calloc(1, sizeof *w);
    *out = NULL;
    if (!w) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for the worker");
    }
    w->run = run;
    w->end = &w->first;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    if (pthread_create(&w->thread, NULL, worker_main, w)) {
        pthread_cond_destroy(&w->changed);
        pthread_mutex_destroy(&w->lock);
        free(w);
        return error_set(err, STATUS_NO_MEMORY, "cannot start the worker");
    }
    *out = w;
    return STATUS_OK;
}

void worker_stop(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
}

void worker_close(struct worker *w)
{
    if (w) {
        pthread_cond_destroy(&w->changed);
        pthread_mutex_destroy(&w->lock);
        free(w);
    }
}

bool worker_add(struct worker *w, struct exchange *x)
{
    pthread_mutex_lock(&w->lock);
    bool room = !w->stop && w->n_queued < WORKER_MAX_QUEUED;
    if (room) {
        x->next_work = NULL;
        *w->end = x;
        w->end = &x->next_work;
        w->n_queued++;
        pthread_cond_signal(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return room;
}
