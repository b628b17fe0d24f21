/* One thread for requests that take long before any token comes: a text of 1 MB takes seconds to tokenize,
 * and the HTTP threads must not stand still for it. In order of arrival, one at a time. */
#ifndef SERVER_WORKER_H
#define SERVER_WORKER_H

#include <stdbool.h>

#include "engine/base/status.h"

struct worker;
struct exchange;

enum { WORKER_MAX_QUEUED = 64 };

/* run is called on the thread, once for every exchange that was added. */
enum status worker_open(struct worker **out, void (*run)(struct exchange *x), struct error *err);
void worker_stop(
    struct worker *w); /* takes nothing more; returns when the queue is empty and the thread gone */
void worker_close(struct worker *w); /* after worker_stop; accepts NULL */

/* False when the queue is full or the worker has stopped. x must stay until run has returned. */
bool worker_add(struct worker *w, struct exchange *x);

#endif
