/* The watcher thread. Lock order: the watcher's lock, then an exchange's. It sleeps without a timeout while
 * there is no connection at all, else it looks around ten times a second. */
#include "server/watcher.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/api_error.h"
#include "server/clock.h"

enum { TICK_MS = 100, MAX_EVENTS = 64, TICKS_PER_PEEK = 5, DRAIN_MS = 500, GRACE_MS = 1000 };

struct watcher {
    pthread_t thread;
    pthread_mutex_t lock;
    int epoll_fd, wake_fd;
    const struct http_options *options;
    int64_t header_ns, body_ns, idle_ns;
    struct peer *peers;
    struct exchange *exchanges;
    int32_t n_exchanges;
    uint64_t last_serial;
    int32_t n_ticks;
    bool stop, draining;
};

/* A client that is too slow with its request gets told so on the bare socket: libmicrohttpd cannot answer
 * before a request is complete, and writes nothing itself in these phases. */
static void cut_peer(struct watcher *w, struct peer *peer, int phase)
{
    char answer[1024], request_id[REQUEST_ID_BYTES + 1];
    struct buffer body = {0};
    struct api_error error;
    const char *what = phase == PEER_HEADERS ? "request line and headers" : "body";
    if (w->draining) {
        api_fail(&error, API_DRAINING, NULL, "the server is shutting down, and the %s did not arrive before",
                 what);
    } else {
        api_fail(&error, API_CLIENT_TOO_SLOW, NULL, "the %s did not arrive in time", what);
    }
    int32_t status = api_code_status(error.code);
    if (!atomic_compare_exchange_strong(&peer->phase, &phase, PEER_CUT)) {
        return; /* it arrived just now */
    }
    atomic_store(&peer->cut_status, status);
    if (phase == PEER_BODY) {
        memcpy(request_id, peer->request_id, sizeof request_id);
    } else {
        request_id_make(request_id, sizeof request_id);
    }
    api_error_write(&body, &error);
    const char *text = buffer_string(&body);
    int n = snprintf(answer, sizeof answer,
                     "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
                     "X-Request-Id: %s\r\n%sConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                     (int)status, status == 503 ? "Service Unavailable" : "Request Timeout", request_id,
                     status == 503 ? "Retry-After: 1\r\n" : "", body.length, text);
    if (n > 0 && (size_t)n < sizeof answer &&
        send(peer->fd, answer, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        /* the client will see the closed connection alone */
    }
    buffer_finish(&body);
    shutdown(peer->fd, SHUT_RDWR);
    if (phase == PEER_HEADERS) {
        w->options->callbacks.cut(w->options->context, status);
    }
}

uint64_t peer_received(const struct peer *peer)
{
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    bool told = !getsockopt(peer->fd, IPPROTO_TCP, TCP_INFO, &info, &length) &&
                length >= offsetof(struct tcp_info, tcpi_bytes_received) + sizeof info.tcpi_bytes_received;
    return told ? info.tcpi_bytes_received : 0;
}

static bool has_unread(const struct peer *peer)
{
    int n = 0;
    return !ioctl(peer->fd, FIONREAD, &n) && n > 0;
}

/* The limit has passed. If what is missing lies in the socket already it is the server that is late: then the
 * client has a moment more, counted from when that has been read. */
static void judge_peer(struct watcher *w, struct peer *peer, int phase, int64_t now, int64_t limit)
{
    int64_t grace = (int64_t)GRACE_MS * 1000000;
    if (has_unread(peer)) {
        atomic_store(&peer->since_ns, now - (limit > grace ? limit - grace : 0));
    } else if (phase != PEER_IDLE) {
        cut_peer(w, peer, phase);
    } else if (atomic_compare_exchange_strong(&peer->phase, &phase, PEER_CUT)) {
        shutdown(peer->fd, SHUT_RDWR);
    }
}

/* A request line that comes in drops is no request for libmicrohttpd yet, but it takes away the right to be
 * idle. */
static void see_beginning(struct peer *peer, int phase, int64_t now)
{
    if (phase == PEER_IDLE && peer_received(peer) != atomic_load(&peer->received_before)) {
        atomic_store(&peer->since_ns, now);
        atomic_compare_exchange_strong(&peer->phase, &phase, PEER_HEADERS);
    }
}

static int64_t phase_limit(const struct watcher *w, int phase)
{
    int64_t limit = phase == PEER_HEADERS ? w->header_ns
                    : phase == PEER_BODY  ? w->body_ns
                    : phase == PEER_IDLE  ? w->idle_ns
                                          : INT64_MAX;
    int64_t drain = (int64_t)DRAIN_MS * 1000000;
    return w->draining && phase != PEER_IDLE && limit != INT64_MAX && limit > drain ? drain : limit;
}

/* libmicrohttpd 0.9.75 does not see an end that arrives together with the last bytes: its epoll set is
 * edge-triggered, and after a read that was not full it waits for an edge that has passed. Such a connection
 * would stay until a timeout. A shutdown makes an edge of its own. While a reply is due the exchange's own
 * watch does this. */
static void see_lost_end(struct peer *peer, int phase)
{
    char byte;
    if (phase != PEER_REPLY && phase != PEER_CUT && recv(peer->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
        shutdown(peer->fd, SHUT_RDWR);
    }
}

static void look_around(struct watcher *w)
{
    int64_t now = clock_now_ns();
    bool peek = ++w->n_ticks % TICKS_PER_PEEK == 0;
    for (struct peer *peer = w->peers; peer; peer = peer->next) {
        int phase = atomic_load(&peer->phase);
        int64_t limit = phase_limit(w, phase);
        if (now - atomic_load(&peer->since_ns) > limit) {
            judge_peer(w, peer, phase, now, limit);
        } else if (peek) {
            see_lost_end(peer, phase);
            see_beginning(peer, phase, now);
        }
    }
    for (struct exchange *x = w->exchanges; x; x = x->next) {
        pthread_mutex_lock(&x->lock);
        bool due = x->suspended && x->wake_at_ns && now >= x->wake_at_ns;
        x->timer_fired |= due;
        pthread_mutex_unlock(&x->lock);
        if (due) {
            exchange_notify(x, true);
        }
    }
}

static void see_hangup(struct watcher *w, uint64_t serial)
{
    for (struct exchange *x = w->exchanges; x; x = x->next) {
        if (x->serial == serial) {
            atomic_store(&x->gone, true);
            exchange_notify(x, true);
            return;
        }
    }
}

static void *watcher_run(void *context)
{
    struct watcher *w = context;
    struct epoll_event events[MAX_EVENTS];
    pthread_mutex_lock(&w->lock);
    while (!w->stop) {
        int timeout = w->peers || w->exchanges ? TICK_MS : -1;
        pthread_mutex_unlock(&w->lock);
        int n = epoll_wait(w->epoll_fd, events, MAX_EVENTS, timeout);
        pthread_mutex_lock(&w->lock);
        for (int i = 0; i < n; i++) {
            uint64_t ignored;
            if (events[i].data.u64) {
                see_hangup(w, events[i].data.u64);
            } else if (read(w->wake_fd, &ignored, sizeof ignored) < 0) {
                continue; /* another round took it */
            }
        }
        look_around(w);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void watcher_wake(struct watcher *w)
{
    uint64_t one = 1;
    while (write(w->wake_fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

enum status watcher_open(struct watcher **out, const struct http_options *options, struct error *err)
{
    *out = NULL;
    struct watcher *w = calloc(1, sizeof *w);
    if (!w) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for the watcher");
    }
    w->options = options;
    w->header_ns = (int64_t)(options->header_timeout * 1e9);
    w->body_ns = (int64_t)(options->body_timeout * 1e9);
    w->idle_ns = (int64_t)(options->keepalive_timeout * 1e9);
    w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0};
    pthread_mutex_init(&w->lock, NULL);
    if (w->epoll_fd < 0 || w->wake_fd < 0 || epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, w->wake_fd, &event) ||
        pthread_create(&w->thread, NULL, watcher_run, w)) {
        enum status status = error_set(err, STATUS_IO, "cannot start the watcher: %s", strerror(errno));
        close(w->epoll_fd);
        close(w->wake_fd);
        pthread_mutex_destroy(&w->lock);
        free(w);
        return status;
    }
    *out = w;
    return STATUS_OK;
}

void watcher_close(struct watcher *w)
{
    if (!w) {
        return;
    }
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_mutex_unlock(&w->lock);
    watcher_wake(w);
    pthread_join(w->thread, NULL);
    close(w->epoll_fd);
    close(w->wake_fd);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

void watcher_add_peer(struct watcher *w, struct peer *peer)
{
    pthread_mutex_lock(&w->lock);
    bool first = !w->peers && !w->exchanges;
    peer->previous = NULL;
    peer->next = w->peers;
    if (peer->next) {
        peer->next->previous = peer;
    }
    w->peers = peer;
    pthread_mutex_unlock(&w->lock);
    if (first) {
        watcher_wake(w);
    }
}

void watcher_remove_peer(struct watcher *w, struct peer *peer)
{
    pthread_mutex_lock(&w->lock);
    *(peer->previous ? &peer->previous->next : &w->peers) = peer->next;
    if (peer->next) {
        peer->next->previous = peer->previous;
    }
    pthread_mutex_unlock(&w->lock);
}

void watcher_add_exchange(struct watcher *w, struct exchange *x)
{
    pthread_mutex_lock(&w->lock);
    x->serial = ++w->last_serial;
    x->previous = NULL;
    x->next = w->exchanges;
    if (x->next) {
        x->next->previous = x;
    }
    w->exchanges = x;
    w->n_exchanges++;
    pthread_mutex_unlock(&w->lock);
}

void watcher_remove_exchange(struct watcher *w, struct exchange *x)
{
    pthread_mutex_lock(&w->lock);
    *(x->previous ? &x->previous->next : &w->exchanges) = x->next;
    if (x->next) {
        x->next->previous = x->previous;
    }
    w->n_exchanges--;
    pthread_mutex_unlock(&w->lock);
    if (x->watched) {
        epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, x->fd, NULL);
    }
}

int32_t watcher_n_exchanges(struct watcher *w)
{
    pthread_mutex_lock(&w->lock);
    int32_t n = w->n_exchanges;
    pthread_mutex_unlock(&w->lock);
    return n;
}

int32_t watcher_n_working(struct watcher *w)
{
    int32_t n = 0;
    pthread_mutex_lock(&w->lock);
    for (const struct exchange *x = w->exchanges; x; x = x->next) {
        n += atomic_load(&x->working);
    }
    pthread_mutex_unlock(&w->lock);
    return n;
}

void watcher_drain(struct watcher *w)
{
    pthread_mutex_lock(&w->lock);
    w->draining = true;
    pthread_mutex_unlock(&w->lock);
}

void watcher_for_each(struct watcher *w, void (*fn)(struct exchange *x))
{
    pthread_mutex_lock(&w->lock);
    for (struct exchange *x = w->exchanges; x; x = x->next) {
        fn(x);
    }
    pthread_mutex_unlock(&w->lock);
}

void watcher_watch(struct watcher *w, struct exchange *x)
{
    /* EPOLLRDHUP alone, which a client that only closed its sending side shows too: see http.h.
     * One shot: a hang-up stays one, and level-triggered it would spin until the exchange is gone. */
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = x->serial};
    if (!x->watched) {
        x->watched = !epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, x->fd, &event);
    }
}
