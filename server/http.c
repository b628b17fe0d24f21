/* The life of a connection and its exchanges. libmicrohttpd calls from a small pool of threads, each with its
 * own epoll set; an exchange that waits for the engine is suspended, so no thread ever blocks on a token. */
#include "server/http.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/log.h"
#include "server/clock.h"
#include "server/framing.h"
#include "server/pacer.h"
#include "server/sse.h"
#include "server/watcher.h"
#include "server/worker.h"

/* A body from here on is left to the worker: 16 KiB of text are 17 ms of tokenizing. */
enum { LONG_BODY_BYTES = 16 << 10, DISCARD_LIMITS = 4 };

/* However many streams share: what is held longer is seen to stutter. */
#define SHARED_PACE_MAX_NS 250000000

/* What one HTTP thread has to resume. To resume a connection is a lock and a write to the thread's event
 * descriptor, 64 of them after a step of 64 sequences, all on the engine's thread while the others wait for
 * its next step. So only the first news resumes its connection; those that come before the thread has woken
 * up are left in a list, and the thread resumes them itself. */
struct lane {
    atomic_bool woken; /* a connection was resumed, and the thread has not taken the list yet */
    _Atomic(struct exchange *) ready; /* a stack */
    struct lane *next;                /* of all, for the end */
};

struct http {
    struct http_options options;
    _Atomic(struct lane *) lanes;
    struct MHD_Daemon *daemon;
    struct watcher *watcher;
    struct worker *worker;
    struct pacer *pacer;
    int32_t port;
    atomic_int n_connections;
    atomic_int n_sharing; /* streams that share what events may cost: news have come since they began */
    atomic_bool closing;  /* requests that become whole now are dropped */
};

/* Under the lock: on_completed, and with it the end of the daemon, waits until this has left libmicrohttpd.
 */
static void exchange_resume(struct exchange *x)
{
    pthread_mutex_lock(&x->lock);
    MHD_resume_connection(x->connection);
    pthread_mutex_unlock(&x->lock);
}

/* Resumes what is in the list. Each callback begins with this, and a resumed connection leads to one. */
static void lane_resume(struct lane *lane)
{
    if (!atomic_load(&lane->woken) && !atomic_load(&lane->ready)) {
        return;
    }
    atomic_store(&lane->woken, false); /* before the list is taken: see lane_add */
    struct exchange *oldest = NULL, *x = atomic_exchange(&lane->ready, NULL);
    while (x) { /* the first to have news is the first to be served */
        struct exchange *older = x->next_ready;
        x->next_ready = oldest;
        oldest = x;
        x = older;
    }
    while (oldest) {
        x = oldest;
        oldest = x->next_ready;
        exchange_resume(x);
    }
}

static void lane_add(struct lane *lane, struct exchange *x)
{
    if (!atomic_exchange(&lane->woken, true)) {
        exchange_resume(x);
        return;
    }
    x->next_ready = atomic_load(&lane->ready);
    while (!atomic_compare_exchange_weak(&lane->ready, &x->next_ready, x)) {
    }
    /* Either the thread finds x when it takes the list, or we see here that it has taken it before. */
    if (!atomic_load(&lane->woken)) {
        lane_resume(lane);
    }
}

/* Shares are counted in powers of two: ticks of one pace are then ticks of the shorter ones too, and a stream
 * more or less does not move them. */
static int64_t exchange_pace(struct exchange *x)
{
    if (!x->share_ns || !x->streaming) { /* what there is may be the first text */
        return x->pace_ns;
    }
    if (!x->shares) {
        x->shares = true;
        atomic_fetch_add(&x->http->n_sharing, 1);
    }
    int64_t n_streams = atomic_load(&x->http->n_sharing), pace_ns = x->share_ns;
    for (int64_t n = 1; n < n_streams && pace_ns <= SHARED_PACE_MAX_NS / 2; n *= 2) {
        pace_ns *= 2;
    }
    return pace_ns;
}

/* Until when news of now wait: all exchanges of one pace for the same tick, which wakes their thread once. 0:
 * not at all, as one that was last seen to longer ago than its pace, or whose news are urgent. */
static int64_t pace_until(struct exchange *x)
{
    int64_t pace_ns = x->urgent ? 0 : exchange_pace(x);
    if (!pace_ns) {
        return 0;
    }
    int64_t now = clock_now_ns();
    return now - x->served_ns < pace_ns ? (now / pace_ns + 1) * pace_ns : 0;
}

void exchange_notify(void *exchange, bool urgent)
{
    struct exchange *x = exchange;
    pthread_mutex_lock(&x->lock);
    x->signaled = true;
    x->urgent |= urgent;
    bool resume = x->suspended && !x->held;
    int64_t until = resume ? pace_until(x) : 0;
    resume &= !until;
    x->suspended &= !resume;
    pthread_mutex_unlock(&x->lock);
    if (resume) { /* nobody else does, and until then x stays */
        lane_add(x->lane, x);
    } else if (until) {
        pacer_hold(x->http->pacer, x, until);
    }
}

/* The pacer's wake: unless something urgent has come between. */
static void exchange_pace_over(struct exchange *x)
{
    pthread_mutex_lock(&x->lock);
    bool resume = x->suspended && !x->held && x->signaled;
    x->suspended &= !resume;
    pthread_mutex_unlock(&x->lock);
    if (resume) {
        lane_add(x->lane, x);
    }
}

/* Before looking at what there is: news from here on count again. */
static void exchange_arm(struct exchange *x)
{
    pthread_mutex_lock(&x->lock);
    x->signaled = x->urgent = false;
    x->served_ns = clock_now_ns();
    x->ping_due |= x->timer_fired;
    x->timer_fired = false;
    pthread_mutex_unlock(&x->lock);
}

/* Suspends the connection unless something has happened since exchange_arm that need not wait. Returns false
 * if so: look again. */
static bool exchange_suspend(struct exchange *x)
{
    watcher_watch(x->http->watcher, x);
    pthread_mutex_lock(&x->lock);
    int64_t until = x->signaled ? pace_until(x) : 0;
    bool suspend = (!x->signaled || until) && !atomic_load(&x->gone);
    if (suspend) {
        x->suspended = true;
        x->wake_at_ns = x->ping_ns ? x->last_write_ns + x->ping_ns : 0;
        MHD_suspend_connection(x->connection);
    }
    pthread_mutex_unlock(&x->lock);
    if (suspend && until) { /* resumed or not, x stays until this thread goes on with it */
        pacer_hold(x->http->pacer, x, until);
    }
    return suspend;
}

/* On the worker's thread, the connection suspended meanwhile. */
static void exchange_work(struct exchange *x)
{
    struct http *http = x->http;
    enum exchange_step step = EXCHANGE_WAIT;
    if (!atomic_load(&x->gone)) {
        step = http->options.callbacks.run(http->options.context, x);
    }
    pthread_mutex_lock(&x->lock);
    x->next_step = step;
    x->held = false;
    x->was_held = true;
    x->suspended = false;
    MHD_resume_connection(x->connection);
    pthread_mutex_unlock(&x->lock);
}

/* Leaves the run to the worker. False when it has too much to do already. */
static bool exchange_hand_over(struct exchange *x)
{
    watcher_watch(x->http->watcher, x);
    pthread_mutex_lock(&x->lock);
    bool added = worker_add(x->http->worker, x);
    if (added) {
        x->held = true;
        x->suspended = true;
        x->wake_at_ns = 0;
        MHD_suspend_connection(x->connection);
    }
    pthread_mutex_unlock(&x->lock);
    return added;
}

const char *exchange_header(const struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

void reply_header(struct reply *reply, const char *name, const char *value)
{
    assert(reply->n_headers < REPLY_MAX_HEADERS);
    char *copy = strndup(value, strcspn(value, "\r\n"));
    if (copy) {
        reply->headers[reply->n_headers].name = name;
        reply->headers[reply->n_headers++].value = copy;
    }
}

static void reply_finish(struct reply *reply)
{
    for (int32_t i = 0; i < reply->n_headers; i++) {
        free(reply->headers[i].value);
    }
    buffer_finish(&reply->body);
    *reply = (struct reply){0};
}

static struct peer *exchange_peer(const struct exchange *x)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static void peer_enter(struct peer *peer, enum peer_phase phase)
{
    atomic_store(&peer->since_ns, clock_now_ns());
    atomic_store(&peer->phase, (int)phase);
}

/* False when the watcher has given up on this client in the meantime. */
static bool peer_leave(struct peer *peer, enum peer_phase from, enum peer_phase to)
{
    int expected = (int)from;
    if (!atomic_compare_exchange_strong(&peer->phase, &expected, (int)to)) {
        return expected != PEER_CUT;
    }
    atomic_store(&peer->since_ns, clock_now_ns());
    return true;
}

static void exchange_address(struct exchange *x)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *address = info ? info->client_addr : NULL;
    if (address && address->sa_family == AF_INET) {
        inet_ntop(AF_INET, &((const struct sockaddr_in *)address)->sin_addr, x->client, sizeof x->client);
    } else if (address && address->sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)address)->sin6_addr, x->client, sizeof x->client);
    }
}

void request_id_make(char *out, size_t size)
{
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) {
        random = (uint64_t)clock_now_ns();
    }
    snprintf(out, size, "req-%016llx", (unsigned long long)random);
}

/* The client's own id if it is harmless in a header and a log line, else one of ours. */
static void exchange_name(struct exchange *x)
{
    const char *own = exchange_header(x, "X-Request-Id");
    size_t length = own ? strlen(own) : 0;
    if (length && length <= REQUEST_ID_BYTES &&
        strspn(own, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == length) {
        memcpy(x->request_id, own, length + 1);
        return;
    }
    request_id_make(x->request_id, sizeof x->request_id);
}

/* The calling HTTP thread's lane, made at its first request. NULL: out of memory. */
static struct lane *own_lane(struct http *http)
{
    static _Thread_local struct lane *own;
    if (!own && (own = calloc(1, sizeof *own))) {
        own->next = atomic_load(&http->lanes);
        while (!atomic_compare_exchange_weak(&http->lanes, &own->next, own)) {
        }
    }
    return own;
}

/* The request line has arrived. What is returned becomes *req_cls of the other callbacks. */
static void *on_uri(void *context, const char *uri, struct MHD_Connection *connection)
{
    struct http *http = context;
    struct exchange *x = calloc(1, sizeof *x);
    if (!x) {
        return NULL;
    }
    x->http = http;
    x->connection = connection;
    x->lane = own_lane(http);
    x->arrival_ns = x->last_write_ns = clock_now_ns();
    x->uri = strdup(uri);
    x->path = strndup(uri, strcspn(uri, "?"));
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    x->fd = info ? (int)info->connect_fd : -1;
    if (!x->uri || !x->path || !x->lane) {
        free(x->uri);
        free(x->path);
        free(x);
        return NULL;
    }
    pthread_mutex_init(&x->lock, NULL);
    struct peer *peer = exchange_peer(x);
    if (peer && atomic_load(&peer->phase) == PEER_IDLE) {
        peer_enter(peer, PEER_HEADERS);
    }
    watcher_add_exchange(http->watcher, x);
    return x;
}

static void on_completed(void *context, struct MHD_Connection *connection, void **req_cls,
                         enum MHD_RequestTerminationCode code)
{
    struct http *http = context;
    struct exchange *x = *req_cls;
    (void)connection;
    if (!x) {
        return;
    }
    lane_resume(x->lane);
    *req_cls = NULL;
    struct peer *peer = exchange_peer(x);
    if (x->begun) {
        x->cut_status = peer ? atomic_load(&peer->cut_status) : 0;
        bool complete = code == MHD_REQUEST_TERMINATED_COMPLETED_OK && x->answered &&
                        (!x->streaming || (x->stream_done && !x->stream.length));
        http->options.callbacks.done(http->options.context, x, complete);
    }
    if (x->close_job) {
        x->close_job(x); /* after this the engine does not notify any more */
    }
    pacer_remove(http->pacer, x);
    if (x->shares) {
        atomic_fetch_sub(&http->n_sharing, 1);
    }
    watcher_remove_exchange(http->watcher, x);
    if (peer && atomic_load(&peer->phase) != PEER_CUT) {
        atomic_store(&peer->received_before, peer_received(peer));
        peer_enter(peer, PEER_IDLE);
    }
    MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT,
                              (unsigned)http->options.keepalive_timeout);
    reply_finish(&x->reply);
    buffer_finish(&x->body);
    buffer_finish(&x->stream);
    /* The worker, which has woken us under the lock, may still be about to leave it. */
    pthread_mutex_lock(&x->lock);
    pthread_mutex_unlock(&x->lock);
    pthread_mutex_destroy(&x->lock);
    free(x->uri);
    free(x->path);
    free(x);
}

static void on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct http *http = context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        struct peer *peer = calloc(1, sizeof *peer);
        int on = 1;
        *socket_context = peer;
        atomic_fetch_add(&http->n_connections, 1);
        if (peer && info) {
            peer->fd = (int)info->connect_fd;
            setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &on,
                       sizeof on); /* an event is sent when it exists */
            peer_enter(peer, PEER_HEADERS);
            watcher_add_peer(http->watcher, peer);
        }
    } else {
        atomic_fetch_sub(&http->n_connections, 1);
        if (*socket_context) {
            watcher_remove_peer(http->watcher, *socket_context);
            free(*socket_context);
            *socket_context = NULL;
        }
    }
}

static void add_headers(struct MHD_Response *response, const struct exchange *x)
{
    MHD_add_response_header(response, "X-Request-Id", x->request_id);
    MHD_add_response_header(response, "Cache-Control", "no-store");
    if (x->reply.content_type) {
        MHD_add_response_header(response, "Content-Type", x->reply.content_type);
    }
    for (int32_t i = 0; i < x->reply.n_headers; i++) {
        MHD_add_response_header(response, x->reply.headers[i].name, x->reply.headers[i].value);
    }
    if (x->reply.close) {
        MHD_add_response_header(response, "Connection", "close");
    }
}

static enum MHD_Result queue_response(struct exchange *x, struct MHD_Response *response)
{
    if (!response) {
        return MHD_NO;
    }
    add_headers(response, x);
    MHD_set_connection_option(x->connection, MHD_CONNECTION_OPTION_TIMEOUT,
                              (unsigned)x->http->options.write_stall_timeout);
    enum MHD_Result result = MHD_queue_response(x->connection, (unsigned)x->reply.status, response);
    x->answered = result == MHD_YES;
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result send_reply(struct exchange *x)
{
    struct buffer *body = &x->reply.body;
    if (body->failed) {
        buffer_finish(body);
        x->reply.status = 500;
        buffer_text(body,
                    "{\"error\":{\"message\":\"out of memory for the answer\",\"type\":\"internal_error\","
                    "\"param\":null,\"code\":\"internal\"}}\n");
    }
    char *data = body->data;
    size_t length = body->length;
    *body = (struct buffer){0}; /* the response owns the bytes now */
    if (!data) {
        return queue_response(x, MHD_create_response_from_buffer(0, (char[]){0}, MHD_RESPMEM_PERSISTENT));
    }
    return queue_response(x, MHD_create_response_from_buffer(length, data, MHD_RESPMEM_MUST_FREE));
}

/* libmicrohttpd wants up to max bytes of a stream. Zero is only ever returned with the connection suspended.
 */
static ssize_t on_read(void *context, uint64_t position, char *out, size_t max)
{
    struct exchange *x = context;
    (void)position;
    lane_resume(x->lane);
    for (;;) {
        if (atomic_load(&x->gone)) {
            /* Not END_WITH_ERROR: libmicrohttpd 0.9.75 then closes the connection in its books, but keeps
             * socket and slot until something else wakes that thread. A write that fails is cleaned up at
             * once. */
            shutdown(x->fd, SHUT_RDWR);
            return MHD_CONTENT_READER_END_OF_STREAM;
        }
        if (x->stream.failed) {
            return MHD_CONTENT_READER_END_WITH_ERROR;
        }
        if (x->stream.length) {
            size_t n = sse_event_length(x->stream.data, x->stream.length);
            n = !n || n > max ? (x->stream.length < max ? x->stream.length : max) : n;
            memcpy(out, x->stream.data, n);
            buffer_consume(&x->stream, n);
            x->last_write_ns = clock_now_ns();
            return (ssize_t)n;
        }
        if (x->stream_done) {
            return MHD_CONTENT_READER_END_OF_STREAM;
        }
        exchange_arm(x);
        x->step(x);
        if (!x->stream.length && !x->stream_done && !x->stream.failed && exchange_suspend(x)) {
            return 0;
        }
    }
}

static enum MHD_Result start_stream(struct exchange *x)
{
    enum { BLOCK_BYTES = 16384 };
    x->streaming = true;
    buffer_finish(&x->reply.body);
    x->reply.status = 200;
    x->reply.content_type = "text/event-stream; charset=utf-8";
    reply_header(&x->reply, "X-Accel-Buffering", "no");
    return queue_response(x,
                          MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, on_read, x, NULL));
}

/* Goes on with an exchange whose request is complete until it has an answer or must wait. */
static enum MHD_Result exchange_go_on(struct exchange *x, enum exchange_step step)
{
    for (;;) {
        if (atomic_load(&x->gone)) {
            return MHD_NO;
        }
        if (step == EXCHANGE_REPLY) {
            return send_reply(x);
        }
        if (step == EXCHANGE_STREAM) {
            return start_stream(x);
        }
        if (exchange_suspend(x)) {
            return MHD_YES;
        }
        exchange_arm(x);
        step = x->step(x);
    }
}

static enum MHD_Result exchange_begin(struct http *http, struct exchange *x, const char *method,
                                      const char *version)
{
    x->begun = true;
    snprintf(x->method, sizeof x->method, "%s", method);
    exchange_name(x);
    exchange_address(x);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    x->header_bytes = info ? info->header_size : 0;
    struct peer *peer = exchange_peer(x);
    if (peer) {
        memcpy(peer->request_id, x->request_id, sizeof peer->request_id);
        if (!peer_leave(peer, PEER_HEADERS, PEER_BODY)) {
            return MHD_NO;
        }
    }
    const char *fault = framing_fault(x->connection, version);
    bool settled = fault != NULL, at_once = fault != NULL;
    if (fault) {
        http->options.callbacks.bad_framing(http->options.context, x, fault);
        x->reply.close = true;
    } else {
        settled = http->options.callbacks.begin(http->options.context, x);
        at_once = settled && x->reply.close;
    }
    if (!settled) {
        const char *declared = exchange_header(x, "Content-Length");
        char *end;
        errno = 0;
        unsigned long long n = declared ? strtoull(declared, &end, 10) : 0;
        if (n > http->options.max_body_bytes || errno) {
            http->options.callbacks.too_large(http->options.context, x);
            settled = true;
            /* An ordinary client looks for an answer when all is sent, and one that is cut off before sees a
             * broken connection alone: what is not much too large is read over. */
            at_once = n / DISCARD_LIMITS > http->options.max_body_bytes || errno;
        }
    }
    x->discard = settled;
    const char *expect = exchange_header(x, "Expect");
    if (settled && (at_once || (expect && !strcasecmp(expect, "100-continue")))) {
        if (peer) {
            peer_leave(peer, PEER_BODY, PEER_REPLY);
        }
        return send_reply(x);
    }
    return MHD_YES; /* a refusal waits for the end of the body, so that the connection stays usable */
}

static enum MHD_Result exchange_take(struct http *http, struct exchange *x, const char *data, size_t *length)
{
    size_t n = *length;
    *length = 0;
    if (!x->discard && n > http->options.max_body_bytes - x->body.length) {
        http->options.callbacks.too_large(http->options.context, x);
        buffer_finish(&x->body);
        x->discard = true;
    }
    if (x->discard) {
        x->discarded += n;
        return x->discarded / DISCARD_LIMITS > http->options.max_body_bytes ? MHD_NO : MHD_YES;
    }
    buffer_append(&x->body, data, n);
    return x->body.failed ? MHD_NO : MHD_YES;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data, size_t *length,
                                  void **req_cls)
{
    struct http *http = context;
    struct exchange *x = *req_cls;
    (void)connection;
    (void)url;
    if (!x) {
        return MHD_NO; /* out of memory when the request line came */
    }
    lane_resume(x->lane);
    if (!x->begun) {
        return exchange_begin(http, x, method, version);
    }
    if (*length) {
        return exchange_take(http, x, data, length);
    }
    if (x->discard) {
        return send_reply(x);
    }
    if (x->was_held) {
        x->was_held = false;
        return exchange_go_on(x, x->next_step);
    }
    if (x->step) { /* resumed */
        exchange_arm(x);
        return exchange_go_on(x, x->step(x));
    }
    struct peer *peer = exchange_peer(x);
    if ((peer && !peer_leave(peer, PEER_BODY, PEER_REPLY)) || atomic_load(&http->closing)) {
        return MHD_NO;
    }
    atomic_store(&x->working, true);
    exchange_arm(x);
    if (x->body.length > LONG_BODY_BYTES) {
        if (exchange_hand_over(x)) {
            return MHD_YES;
        }
        http->options.callbacks.too_busy(http->options.context, x);
        return send_reply(x);
    }
    return exchange_go_on(x, http->options.callbacks.run(http->options.context, x));
}

__attribute__((format(printf, 2, 0))) static void on_log(void *context, const char *format, va_list args)
{
    char line[512];
    (void)context;
    vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = '\0';
    log_debug("libmicrohttpd: %s", line);
}

static enum status open_socket(int *out, int *family, const struct http_options *options, struct error *err)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM},
                    *found = NULL;
    char port[16];
    int on = 1, fd = -1, cause = 0;
    snprintf(port, sizeof port, "%d", (int)options->port);
    int failure = getaddrinfo(options->host, port, &hints, &found);
    if (failure) {
        return error_set(err, STATUS_CANNOT_LISTEN, "cannot listen on %s: %s", options->host,
                         gai_strerror(failure));
    }
    for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            cause = errno;
            continue;
        }
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        *family = a->ai_family;
        if (bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, 1024)) {
            cause = errno;
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    *out = fd;
    return fd >= 0 ? STATUS_OK
                   : error_set(err, STATUS_CANNOT_LISTEN, "cannot listen on %s port %d: %s", options->host,
                               (int)options->port, strerror(cause));
}

static int32_t socket_port(int fd)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &length)) {
        return 0;
    }
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

enum status http_open(struct http **out, const struct http_options *options, struct error *err)
{
    int fd = -1, family = AF_INET;
    enum status status = STATUS_OK;
    *out = NULL;
    struct http *http = calloc(1, sizeof *http);
    if (!http) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for the HTTP server");
    }
    http->options = *options;
    if ((status = open_socket(&fd, &family, options, err)) ||
        (status = watcher_open(&http->watcher, &http->options, err)) ||
        (status = worker_open(&http->worker, exchange_work, err)) ||
        (status = pacer_open(&http->pacer, exchange_pace_over, err))) {
        goto cleanup;
    }
    http->port = socket_port(fd);
    /* Room for the headers twice: as they came, and as libmicrohttpd takes them apart. */
    size_t connection_memory = 2 * options->max_header_bytes + 32768;
    struct MHD_OptionItem items[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)on_log, NULL},
        {MHD_OPTION_LISTEN_SOCKET, fd, NULL},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)on_uri, http},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)on_completed, http},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)on_connection, http},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)connection_memory, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, options->max_connections, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, (intptr_t)options->keepalive_timeout, NULL},
        {MHD_OPTION_PER_IP_CONNECTION_LIMIT, options->max_connections_per_ip, NULL},
        {MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, NULL},
        {options->n_threads > 1 ? MHD_OPTION_THREAD_POOL_SIZE : MHD_OPTION_END, options->n_threads, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME |
                     MHD_USE_ERROR_LOG | (family == AF_INET6 ? MHD_USE_IPv6 : 0);
    http->daemon =
        MHD_start_daemon(flags, 0, NULL, NULL, on_request, http, MHD_OPTION_ARRAY, items, MHD_OPTION_END);
    if (!http->daemon) {
        status = error_set(err, STATUS_CANNOT_LISTEN, "cannot start the HTTP server on %s port %d",
                           options->host, (int)http->port);
        goto cleanup;
    }
    fd = -1; /* the daemon's now */
    *out = http;
cleanup:
    if (fd >= 0) {
        close(fd);
    }
    if (status) {
        if (http->worker) {
            worker_stop(http->worker);
        }
        pacer_close(http->pacer);
        worker_close(http->worker);
        watcher_close(http->watcher);
        free(http);
    }
    return status;
}

int32_t http_port(const struct http *http)
{
    return http->port;
}

int32_t http_n_connections(const struct http *http)
{
    return atomic_load(&http->n_connections);
}

int32_t http_n_exchanges(struct http *http)
{
    return watcher_n_exchanges(http->watcher);
}

int32_t http_n_working(struct http *http)
{
    return watcher_n_working(http->watcher);
}

void http_drain(struct http *http)
{
    watcher_drain(http->watcher);
}

static void cut_exchange(struct exchange *x)
{
    atomic_store(&x->cut, true);
    exchange_notify(x, true);
}

void http_cut(struct http *http)
{
    watcher_for_each(http->watcher, cut_exchange);
}

static void leave_exchange(struct exchange *x)
{
    atomic_store(&x->gone, true);
    exchange_notify(x, true);
}

/* One that the worker has not begun is left out by it. */
static void drop_queued(struct exchange *x)
{
    pthread_mutex_lock(&x->lock);
    if (x->held) {
        atomic_store(&x->gone, true);
    }
    pthread_mutex_unlock(&x->lock);
}

void http_close(struct http *http)
{
    if (!http) {
        return;
    }
    /* libmicrohttpd must not be stopped while a connection is suspended: each is woken, first to end with an
     * error, then, if its client does not read, to end without one. */
    atomic_store(&http->closing, true);
    http_cut(http);
    watcher_for_each(http->watcher, drop_queued);
    worker_stop(http->worker);
    for (int32_t i = 0; i < 100 && http_n_exchanges(http); i++) {
        if (i == 20) {
            watcher_for_each(http->watcher, leave_exchange);
        }
        usleep(10000);
    }
    MHD_stop_daemon(http->daemon);
    pacer_close(http->pacer);
    for (struct lane *lane = atomic_load(&http->lanes), *next; lane; lane = next) {
        next = lane->next;
        free(lane);
    }
    worker_close(http->worker);
    watcher_close(http->watcher);
    free(http);
}
