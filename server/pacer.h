/* Holds exchanges back for moments: one thread that wakes them at the time that each was given. */
#ifndef SERVER_PACER_H
#define SERVER_PACER_H

#include <stdint.h>

#include "engine/base/status.h"
#include "server/http.h"

struct pacer;

/* wake runs on the pacer's thread under its lock: it may take the exchange's, and must not call back. */
enum status pacer_open(struct pacer **out, void (*wake)(struct exchange *x), struct error *err);
void pacer_close(struct pacer *p); /* accepts NULL; what is held then is not woken any more */

/* Wakes x at due_ns (clock_now_ns). One that is held already keeps its time. */
void pacer_hold(struct pacer *p, struct exchange *x, int64_t due_ns);
/* Before x goes away: after this it is not woken. */
void pacer_remove(struct pacer *p, struct exchange *x);

#endif
