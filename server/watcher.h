/* One thread that sees what libmicrohttpd does not: clients that leave while their connection is suspended,
 * headers and bodies that take too long, streams that were silent for too long. */
#ifndef SERVER_WATCHER_H
#define SERVER_WATCHER_H

#include <stdatomic.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "server/http.h"

struct watcher;

/* A connection and how far its current request is. */
enum peer_phase { PEER_HEADERS, PEER_BODY, PEER_REPLY, PEER_IDLE, PEER_CUT };
struct peer {
    int fd;
    atomic_int phase;
    _Atomic int64_t since_ns;
    _Atomic uint64_t received_before;      /* bytes on this connection when it became idle */
    _Atomic int32_t cut_status;            /* what PEER_CUT was answered with */
    char request_id[REQUEST_ID_BYTES + 1]; /* of the request whose body is due */
    struct peer *previous, *next;
};

/* Takes time limits and the callback `cut` from options, which must outlive it. */
enum status watcher_open(struct watcher **out, const struct http_options *options, struct error *err);
void watcher_close(struct watcher *w); /* accepts NULL */

void watcher_add_peer(struct watcher *w, struct peer *peer);
void watcher_remove_peer(struct watcher *w, struct peer *peer);

void watcher_add_exchange(struct watcher *w, struct exchange *x);
void watcher_remove_exchange(struct watcher *w, struct exchange *x);
int32_t watcher_n_exchanges(struct watcher *w);
int32_t watcher_n_working(struct watcher *w); /* those whose request has arrived */
/* Requests that are not whole within DRAIN_MS are answered with 503 from here on. */
void watcher_drain(struct watcher *w);
/* Calls fn for every exchange, none of which goes away meanwhile. */
void watcher_for_each(struct watcher *w, void (*fn)(struct exchange *x));

/* Bytes that ever came in on the connection; 0 where the system does not tell. */
uint64_t peer_received(const struct peer *peer);

/* Begins to look for a hang-up on the exchange's socket, until it is removed. */
void watcher_watch(struct watcher *w, struct exchange *x);

#endif
