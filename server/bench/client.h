/* Many HTTP/1.1 requests in flight from one thread: non-blocking sockets, keep-alive, epoll. Knows requests
 * as bytes and answers as events or bodies; what they mean is bench_serve's. One thread owns a client. */
#ifndef SERVER_BENCH_CLIENT_H
#define SERVER_BENCH_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "server/buffer.h"

struct bench_client;

enum client_failure {
    CLIENT_OK = 0,  /* a complete response, whatever its status */
    CLIENT_CONNECT, /* no connection: refused, unreachable */
    CLIENT_CLOSED,  /* the connection broke before or inside the response */
    CLIENT_TIMEOUT,
    CLIENT_PROTOCOL, /* not HTTP, not SSE, or over a limit of ours */
};

struct client_outcome {
    enum client_failure failure;
    int32_t status; /* HTTP status, 0 if none came */
    bool event_stream;
    const char
        *body; /* what came of a response that is no 200 event stream; terminated; valid during the call */
    size_t body_length;
    const char *reason; /* text for a failure, else "" */
};

/* Both are called from client_poll only, and must not call into the client. now_ns was read right after the
 * bytes came out of the socket. */
struct client_handler {
    void *context;
    /* One event of a 200 text/event-stream response. False: the stream makes no sense (CLIENT_PROTOCOL). */
    bool (*event)(void *context, void *tag, int64_t now_ns, const char *data, size_t length);
    void (*done)(void *context, void *tag, int64_t now_ns, const struct client_outcome *outcome);
};

int64_t bench_clock_ns(void); /* CLOCK_MONOTONIC */

/* Resolves the host and opens nothing yet. max_connections is lowered to what RLIMIT_NOFILE allows (raised as
 * far as it may be). Errors: STATUS_NOT_FOUND for a host without address, STATUS_NO_MEMORY, STATUS_IO. */
enum status client_open(struct bench_client **out, const char *host, const char *port,
                        int32_t max_connections, struct error *err);
void client_close(struct bench_client *c); /* drops what is in flight without a call; accepts NULL */
int32_t client_capacity(const struct bench_client *c);
int32_t client_in_flight(const struct bench_client *c);

/* Sends a whole request on an idle connection, or a new one. The bytes move into the client (request is empty
 * afterwards). deadline_ns: CLOCK_MONOTONIC, 0 for none. max_body bounds what is kept of a body. The outcome
 * always comes through `done`, a refused connection too. STATUS_FULL when client_capacity requests are in
 * flight. */
enum status client_send(struct bench_client *c, struct buffer *request, void *tag, int64_t deadline_ns,
                        size_t max_body, struct error *err);

/* Waits until something happens or until_ns is reached, and handles what happened. */
enum status client_poll(struct bench_client *c, int64_t until_ns, const struct client_handler *handler,
                        struct error *err);

/* Time spent outside of waiting since client_open: against wall time it tells whether the client is
 * saturated. */
int64_t client_busy_ns(const struct bench_client *c);

#endif
