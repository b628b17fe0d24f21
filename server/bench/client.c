/* Requests in flight over epoll. A slot is one connection: closed, idle (open, kept alive) or active. The two
 * kinds of free slots are stacks, so that the warmest connection is used first and no more are opened than
 * needed. */
#include "server/bench/client.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "server/bench/reader.h"

enum {
    READ_BYTES = 64 * 1024,
    EVENTS_A_POLL = 256,
    SPARE_DESCRIPTORS = 32, /* standard streams, epoll, timer, files of the run */
    TIMEOUT_SCAN_NS = 50 * 1000 * 1000,
};

enum slot_state { SLOT_CLOSED, SLOT_IDLE, SLOT_CONNECTING, SLOT_ACTIVE };

struct slot {
    struct bench_client *client;
    int fd;
    enum slot_state state;
    bool want_write; /* EPOLLOUT is armed */
    struct buffer request;
    size_t sent;
    void *tag;
    int64_t deadline_ns, now_ns;
    size_t max_body;
    struct http_reader http;
    struct sse_reader sse;
    struct buffer body;
    const char *fault; /* why the body callback stopped */
};

struct bench_client {
    struct sockaddr_storage address;
    socklen_t address_length;
    int epoll_fd, timer_fd;
    int64_t timer_ns; /* what timer_fd is set to */
    struct slot *slots;
    int32_t n_slots, n_idle, n_closed;
    int32_t *idle, *closed; /* stacks of slot numbers */
    int64_t next_scan_ns, busy_ns, busy_since_ns;
    const struct client_handler *handler;
    char *read_buffer;
};

int64_t bench_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int32_t client_capacity(const struct bench_client *c)
{
    return c->n_slots;
}

int32_t client_in_flight(const struct bench_client *c)
{
    return c->n_slots - c->n_idle - c->n_closed;
}

int64_t client_busy_ns(const struct bench_client *c)
{
    return c->busy_ns + bench_clock_ns() - c->busy_since_ns;
}

/* ---- open and close ---- */

static int32_t descriptor_limit(int32_t wanted)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return wanted;
    }
    rlim_t need = (rlim_t)wanted + SPARE_DESCRIPTORS;
    if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < need) {
        limit.rlim_cur = limit.rlim_max != RLIM_INFINITY && limit.rlim_max < need ? limit.rlim_max : need;
        setrlimit(RLIMIT_NOFILE, &limit);
        getrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < need) {
        return limit.rlim_cur > SPARE_DESCRIPTORS ? (int32_t)(limit.rlim_cur - SPARE_DESCRIPTORS) : 1;
    }
    return wanted;
}

/* Takes the first address that accepts a connection ("localhost" may stand for ::1 and 127.0.0.1, and a
 * server often listens on one); the first of all when none does, so that the requests report the failure. */
static enum status resolve(struct bench_client *c, const char *host, const char *port, struct error *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list;
    int rc = getaddrinfo(host, port, &hints, &list);
    if (rc != 0) {
        return error_set(err, STATUS_NOT_FOUND, "%s: %s", host, gai_strerror(rc));
    }
    const struct addrinfo *chosen = list;
    for (const struct addrinfo *a = list; a && list->ai_next; a = a->ai_next) {
        int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bool reached = fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0;
        if (fd >= 0) {
            close(fd);
        }
        if (reached) {
            chosen = a;
            break;
        }
    }
    assert(chosen->ai_addrlen <= sizeof c->address);
    memcpy(&c->address, chosen->ai_addr, chosen->ai_addrlen);
    c->address_length = chosen->ai_addrlen;
    freeaddrinfo(list);
    return STATUS_OK;
}

enum status client_open(struct bench_client **out, const char *host, const char *port,
                        int32_t max_connections, struct error *err)
{
    enum status status;
    struct bench_client *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c) {
        return error_set(err, STATUS_NO_MEMORY, "client: out of memory");
    }
    c->epoll_fd = c->timer_fd = -1;
    c->busy_since_ns = bench_clock_ns();
    if ((status = resolve(c, host, port, err))) {
        goto fail;
    }
    c->n_slots = descriptor_limit(max_connections);
    c->slots = calloc((size_t)c->n_slots, sizeof *c->slots);
    c->idle = calloc((size_t)c->n_slots, sizeof *c->idle);
    c->closed = calloc((size_t)c->n_slots, sizeof *c->closed);
    c->read_buffer = malloc(READ_BYTES);
    if (!c->slots || !c->idle || !c->closed || !c->read_buffer) {
        c->n_slots = c->slots ? c->n_slots : 0;
        status = error_set(err, STATUS_NO_MEMORY, "%d connections: out of memory", (int)max_connections);
        goto fail;
    }
    for (int32_t i = 0; i < c->n_slots; i++) {
        c->slots[i].client = c;
        c->slots[i].fd = -1;
        c->closed[i] = c->n_slots - 1 - i;
    }
    c->n_closed = c->n_slots;
    c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (c->epoll_fd < 0 || c->timer_fd < 0 ||
        epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->timer_fd, &event) != 0) {
        status = error_set(err, STATUS_IO, "epoll: %s", strerror(errno));
        goto fail;
    }
    *out = c;
    return STATUS_OK;
fail:
    client_close(c);
    return status;
}

void client_close(struct bench_client *c)
{
    if (!c) {
        return;
    }
    for (int32_t i = 0; i < c->n_slots; i++) {
        struct slot *s = &c->slots[i];
        if (s->client && s->fd >= 0) {
            close(s->fd);
        }
        buffer_finish(&s->request);
        buffer_finish(&s->body);
        http_reader_finish(&s->http);
        sse_reader_finish(&s->sse);
    }
    if (c->epoll_fd >= 0) {
        close(c->epoll_fd);
    }
    if (c->timer_fd >= 0) {
        close(c->timer_fd);
    }
    free(c->slots);
    free(c->idle);
    free(c->closed);
    free(c->read_buffer);
    free(c);
}

/* ---- slots ---- */

static int32_t slot_number(const struct slot *s)
{
    return (int32_t)(s - s->client->slots);
}

/* Ends the connection of a slot that is on no stack and puts it on the closed one. */
static void slot_close(struct slot *s)
{
    struct bench_client *c = s->client;
    if (s->fd >= 0) {
        close(s->fd); /* leaves the epoll set by itself: the descriptor was never duplicated */
        s->fd = -1;
    }
    s->state = SLOT_CLOSED;
    c->closed[c->n_closed++] = slot_number(s);
}

static void idle_remove(struct slot *s)
{
    struct bench_client *c = s->client;
    for (int32_t i = c->n_idle - 1; i >= 0; i--) {
        if (c->idle[i] == slot_number(s)) {
            memmove(&c->idle[i], &c->idle[i + 1], (size_t)(c->n_idle - 1 - i) * sizeof *c->idle);
            c->n_idle--;
            return;
        }
    }
    assert(!"an idle slot stands on the stack");
}

static void slot_arm(struct slot *s, bool want_write)
{
    if (s->want_write != want_write) {
        struct epoll_event event = {.events = want_write ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = s};
        epoll_ctl(s->client->epoll_fd, EPOLL_CTL_MOD, s->fd, &event);
        s->want_write = want_write;
    }
}

/* The request of the slot is over; the connection stays if it may. */
static void slot_done(struct slot *s, enum client_failure failure, const char *reason)
{
    struct client_outcome outcome = {
        .failure = failure,
        .status = s->http.status,
        .event_stream = s->http.event_stream,
        .body_length = s->body.length,
        .body = buffer_string(&s->body),
        .reason = reason,
    };
    if (s->body.failed) {
        outcome.body_length = 0;
    }
    void *tag = s->tag;
    bool reusable = failure == CLIENT_OK && s->http.keep_alive && s->sent == s->request.length;
    s->client->handler->done(s->client->handler->context, tag, s->now_ns, &outcome);
    s->tag = NULL;
    buffer_finish(&s->request);
    buffer_finish(&s->body);
    if (reusable) {
        slot_arm(s, false);
        s->state = SLOT_IDLE;
        s->client->idle[s->client->n_idle++] = slot_number(s);
    } else {
        slot_close(s);
    }
}

/* ---- sending ---- */

/* Sends what the socket takes. A failed send is not the end: the server may have answered early (413) and
 * closed; reading finds the answer or the failure. */
static void slot_write(struct slot *s)
{
    while (s->sent < s->request.length) {
        ssize_t n = send(s->fd, s->request.data + s->sent, s->request.length - s->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            slot_arm(s, errno == EAGAIN);
            return;
        }
        s->sent += (size_t)n;
    }
    slot_arm(s, false);
}

/* Whether an idle connection is still there: a server may have closed it since, with the news still in the
 * socket. */
static bool idle_alive(const struct slot *s)
{
    char byte;
    return recv(s->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static struct slot *take_slot(struct bench_client *c)
{
    while (c->n_idle) {
        struct slot *s = &c->slots[c->idle[--c->n_idle]];
        if (idle_alive(s)) {
            return s;
        }
        slot_close(s);
    }
    return c->n_closed ? &c->slots[c->closed[--c->n_closed]] : NULL;
}

/* Starts a connection; an error of connect() itself is left to the socket, for epoll to report. */
static bool slot_connect(struct slot *s)
{
    struct bench_client *c = s->client;
    s->fd = socket(c->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0) {
        return false;
    }
    int one = 1;
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = s};
    s->want_write = true;
    s->state = SLOT_CONNECTING;
    return (connect(s->fd, (struct sockaddr *)&c->address, c->address_length) == 0 || errno == EINPROGRESS) &&
           epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, s->fd, &event) == 0;
}

enum status client_send(struct bench_client *c, struct buffer *request, void *tag, int64_t deadline_ns,
                        size_t max_body, struct error *err)
{
    struct slot *s = take_slot(c);
    if (!s) {
        return error_set(err, STATUS_FULL, "%d requests in flight", (int)c->n_slots);
    }
    s->request = *request;
    *request = (struct buffer){0};
    s->sent = 0;
    s->tag = tag;
    s->deadline_ns = deadline_ns;
    s->max_body = max_body;
    s->fault = "";
    http_reader_init(&s->http);
    sse_reader_reset(&s->sse);
    if (s->state == SLOT_IDLE) {
        s->state = SLOT_ACTIVE;
        slot_write(s);
    } else if (!slot_connect(s)) {
        /* Reported by the next poll, as outcomes come from nowhere else. */
        s->fault = strerror(errno);
        if (s->fd >= 0) {
            close(s->fd);
            s->fd = -1;
        }
        s->state = SLOT_CONNECTING;
        s->deadline_ns = -1;
        c->next_scan_ns = 0;
    }
    return STATUS_OK;
}

/* ---- receiving ---- */

static bool on_event(void *context, const char *data, size_t length)
{
    struct slot *s = context;
    const struct client_handler *handler = s->client->handler;
    if (!handler->event || !handler->event(handler->context, s->tag, s->now_ns, data, length)) {
        s->fault = "an event that is no chunk of a completion";
        return false;
    }
    return true;
}

static bool on_body(void *context, const char *bytes, size_t length)
{
    struct slot *s = context;
    if (s->http.status == 200 && s->http.event_stream) {
        if (!sse_reader_feed(&s->sse, bytes, length, on_event, s)) {
            s->fault = *s->fault ? s->fault : "event too large";
            return false;
        }
        return true;
    }
    if (length > s->max_body - s->body.length) {
        s->fault = "body too large";
        return false;
    }
    buffer_append(&s->body, bytes, length);
    return true;
}

static void slot_read(struct slot *s)
{
    ssize_t n = recv(s->fd, s->client->read_buffer, READ_BYTES, 0);
    int error = errno;
    s->now_ns = bench_clock_ns();
    if (n < 0 && (error == EAGAIN || error == EINTR)) {
        return;
    }
    if (n < 0) {
        slot_done(s, CLIENT_CLOSED, strerror(error));
        return;
    }
    enum http_result result;
    size_t taken = 0;
    if (n == 0) {
        result = http_reader_close(&s->http);
    } else {
        result = http_reader_feed(&s->http, s->client->read_buffer, (size_t)n, &taken, on_body, s);
    }
    switch (result) {
    case HTTP_MORE:
        return;
    case HTTP_DONE:
        if (taken < (size_t)n) {
            s->http.keep_alive = false; /* bytes of no request: this connection is not trusted again */
        }
        slot_done(s, CLIENT_OK, "");
        return;
    case HTTP_STOP:
        slot_done(s, CLIENT_PROTOCOL, s->fault);
        return;
    case HTTP_BAD:
        slot_done(s, n == 0 ? CLIENT_CLOSED : CLIENT_PROTOCOL, s->http.reason);
        return;
    }
}

static void slot_handle(struct slot *s, uint32_t events)
{
    if (s->state == SLOT_CLOSED) {
        return; /* closed by an earlier event of this round */
    }
    if (s->state == SLOT_IDLE) { /* a server that closes, or talks unasked */
        idle_remove(s);
        slot_close(s);
        return;
    }
    if (s->state == SLOT_CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error || !(events & (EPOLLOUT | EPOLLIN))) {
            s->now_ns = bench_clock_ns();
            slot_done(s, CLIENT_CONNECT, strerror(error ? error : ECONNABORTED));
            return;
        }
        s->state = SLOT_ACTIVE;
    }
    if (events & EPOLLOUT) {
        slot_write(s);
    }
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
        slot_read(s);
    }
}

/* Ends requests whose time is over, and those that never got a socket. */
static void scan_deadlines(struct bench_client *c, int64_t now_ns)
{
    if (now_ns < c->next_scan_ns) {
        return;
    }
    c->next_scan_ns = now_ns + TIMEOUT_SCAN_NS;
    for (int32_t i = 0; i < c->n_slots; i++) {
        struct slot *s = &c->slots[i];
        if ((s->state == SLOT_CONNECTING || s->state == SLOT_ACTIVE) && s->deadline_ns &&
            now_ns >= s->deadline_ns) {
            s->now_ns = now_ns;
            bool no_socket = s->fd < 0;
            slot_done(s, no_socket ? CLIENT_CONNECT : CLIENT_TIMEOUT, no_socket ? s->fault : "timeout");
        }
    }
}

/* epoll's own timeout counts milliseconds; a timer descriptor keeps planned moments to microseconds. */
static void set_timer(struct bench_client *c, int64_t at_ns)
{
    if (c->timer_ns != at_ns) {
        struct itimerspec spec = {.it_value = {.tv_sec = at_ns / 1000000000, .tv_nsec = at_ns % 1000000000}};
        timerfd_settime(c->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
        c->timer_ns = at_ns;
    }
}

enum status client_poll(struct bench_client *c, int64_t until_ns, const struct client_handler *handler,
                        struct error *err)
{
    struct epoll_event events[EVENTS_A_POLL];
    int64_t now_ns = bench_clock_ns();
    int64_t wake_ns = until_ns;
    if (client_in_flight(c) && c->next_scan_ns < wake_ns) {
        wake_ns = c->next_scan_ns;
    }
    int wait = -1;
    if (wake_ns <= now_ns) {
        wait = 0;
    } else {
        set_timer(c, wake_ns);
    }
    c->busy_ns += now_ns - c->busy_since_ns;
    int n = epoll_wait(c->epoll_fd, events, EVENTS_A_POLL, wait);
    int error = errno;
    c->busy_since_ns = bench_clock_ns();
    if (n < 0 && error != EINTR) {
        return error_set(err, STATUS_IO, "epoll_wait: %s", strerror(error));
    }
    c->handler = handler;
    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr) {
            slot_handle(events[i].data.ptr, events[i].events);
        } else {
            uint64_t expirations;
            (void)!read(c->timer_fd, &expirations, sizeof expirations); /* only to make it quiet */
            c->timer_ns = 0;
        }
    }
    scan_deadlines(c, bench_clock_ns());
    c->handler = NULL;
    return STATUS_OK;
}
