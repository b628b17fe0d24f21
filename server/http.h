/* HTTP/1.1 over libmicrohttpd: connections, limits, bodies, suspend and resume, clients that leave. Knows
 * exchanges (one request and its answer), not what they are about: that comes in through struct
 * http_callbacks. A client that closes its sending side while it waits counts as one that left: until bytes
 * are written the system shows no difference between the two. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "server/buffer.h"

struct http;
struct exchange;

/* What to do with an exchange next. */
enum exchange_step {
    EXCHANGE_WAIT,   /* nothing yet: sleep until exchange_notify */
    EXCHANGE_REPLY,  /* the reply is complete */
    EXCHANGE_STREAM, /* `stream` has bytes, or more will come: answer with a stream from now on */
};

enum { REPLY_MAX_HEADERS = 16, REQUEST_ID_BYTES = 128 };

struct reply {
    int32_t status;
    const char *content_type; /* static; NULL: no body */
    struct buffer body;
    struct {
        const char *name; /* static */
        char *value;      /* owned */
    } headers[REPLY_MAX_HEADERS];
    int32_t n_headers;
    bool close; /* the connection ends with this answer */
};

struct exchange {
    struct http *http;
    struct MHD_Connection *connection;
    /* The request. */
    char *uri;  /* as it came, with its query */
    char *path; /* as it came, without the query */
    char method[16];
    char request_id[REQUEST_ID_BYTES + 1];
    char client[64]; /* address */
    struct buffer body;
    int64_t arrival_ns;
    size_t header_bytes;
    /* The answer. */
    struct reply reply;
    struct buffer stream; /* bytes that a stream still has to send */
    bool streaming, stream_done;
    bool answered; /* a response was queued */
    /* The handler's. */
    const void *route;
    void *job;
    enum exchange_step (*step)(struct exchange *x); /* again after each notify */
    void (*close_job)(struct exchange *x);
    int64_t pace_ns;    /* news that is not urgent comes no more often than this; 0: at once */
    int64_t share_ns;   /* of a stream instead of it, where not 0: this for each of all that send tokens */
    int64_t ping_ns;    /* silence after which ping_due is set; 0: never */
    bool ping_due;      /* for step: clear when served */
    atomic_bool gone;   /* the client left */
    atomic_bool cut;    /* the server stops: end now with an error */
    int32_t cut_status; /* of the answer that the watcher gave in our place; 0: none */
    /* http.c's own. */
    bool begun, discard;
    size_t discarded;
    atomic_bool working;  /* the request is complete: a shutdown waits for its answer */
    pthread_mutex_t lock; /* guards the eight below: "nothing there, so suspend" and "news, so resume" */
    bool suspended, signaled, timer_fired;
    bool urgent;       /* of what was signaled */
    bool shares;       /* is counted in http's n_sharing */
    int64_t served_ns; /* when it was last seen to */
    bool held;         /* the worker has it: not resumed until that is done */
    int64_t wake_at_ns;
    bool was_held; /* `next_step` is what came of the worker's run */
    enum exchange_step next_step;
    struct exchange *next_work;  /* in the worker's queue */
    struct lane *lane;           /* of the HTTP thread that serves it */
    struct exchange *next_ready; /* in the lane's list */
    int64_t held_until_ns;       /* the pacer's, as the next two; 0: not held */
    struct exchange *previous_held, *next_held;
    int64_t last_write_ns;
    bool watched; /* its socket is in the watcher's set */
    int fd;
    uint64_t serial;
    struct exchange *previous, *next; /* all exchanges, under the watcher's lock */
};

/* All are called on a thread of the HTTP pool, but for run and cut. */
struct http_callbacks {
    /* Headers are complete. Returns true when the reply is settled already (a refusal): the body is then read
     * over, or not read at all if reply.close. */
    bool (*begin)(void *context, struct exchange *x);
    /* The body is complete. A long one's run is on the worker's thread: nothing of MHD may be called on the
     * connection. */
    enum exchange_step (*run)(void *context, struct exchange *x);
    /* The request cannot be told apart from another, or too many long ones wait: settle the reply. */
    void (*bad_framing)(void *context, struct exchange *x, const char *why);
    void (*too_busy)(void *context, struct exchange *x);
    /* The watcher has answered a client with this status before its headers were whole (no exchange is done
     * then). On the watcher's thread. */
    void (*cut)(void *context, int32_t status);
    /* The declared body, or what came of an undeclared one, is over the limit: settle the reply. */
    void (*too_large)(void *context, struct exchange *x);
    /* The answer has left, or the client has. complete: all of it was handed to the system. */
    void (*done)(void *context, struct exchange *x, bool complete);
};

struct http_options {
    const char *host;
    int32_t port; /* 0: any */
    int32_t n_threads;
    int32_t max_connections, max_connections_per_ip;
    size_t max_body_bytes, max_header_bytes;
    double header_timeout, body_timeout, keepalive_timeout, write_stall_timeout;
    struct http_callbacks callbacks;
    void *context;
};

/* Listens from here on. STATUS_CANNOT_LISTEN with address and reason. */
enum status http_open(struct http **out, const struct http_options *options, struct error *err);
int32_t http_port(const struct http *http);
int32_t http_n_connections(const struct http *http);
int32_t http_n_exchanges(struct http *http);
int32_t http_n_working(struct http *http); /* those whose request has arrived */
/* From here on a client has no more than a moment for what is missing of its request. */
void http_drain(struct http *http);
/* Sets `cut` on every exchange and wakes it. */
void http_cut(struct http *http);
/* Stops serving. Exchanges that still wait are cut first. Accepts NULL. */
void http_close(struct http *http);

/* Wakes an exchange, within its pace when it is not urgent: any thread, never blocks for long. The engine's
 * notify. */
void exchange_notify(void *exchange, bool urgent);

/* A reply header; value is copied, line breaks in it end it. */
void reply_header(struct reply *reply, const char *name, const char *value);
/* 16 random hex digits behind "req-". */
void request_id_make(char *out, size_t size);
/* A header of the request, or NULL. */
const char *exchange_header(const struct exchange *x, const char *name);

#endif
