/* The watcher thread. Lock order: the watcher's lock, then an exchange's. It sleeps without a timeout while
 * there is no connection at all, else it looks around ten times a second. */
#include "server/watcher.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/api_error.h"
#include "server/clock.h"

enum { TICK_MS = 100, MAX_EVENTS = 64, TICKS_PER_PEEK = 5 };

struct watcher {
    pthread_t thread;
    pthread_mutex_t lock;
    int epoll_fd, wake_fd;
    int64_t header_ns, body_ns;
    struct peer *peers;
    struct exchange *exchanges;
    int32_t n_exchanges;
    uint64_t last_serial;
    int32_t n_ticks;
    bool stop;
};

/* A client that is too slow with its request gets told so on the bare socket: libmicrohttpd cannot answer
 * before a request is complete, and writes nothing itself in these phases. */
static void cut_peer(struct peer *peer, int phase)
{
    char answer[512];
    struct buffer body = {0};
    struct api_error error;
    api_fail(&error, API_CLIENT_TOO_SLOW, NULL, "the %s did not arrive in time",
             phase == PEER_HEADERS ? "request line and headers" : "body");
    if (!atomic_compare_exchange_strong(&peer->phase, &phase, PEER_CUT)) {
        return; /* it arrived just now */
    }
    api_error_write(&body, &error);
    int n = snprintf(
        answer, sizeof answer,
        "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
        "Connection: close\r\nContent-Length: %zu\r\n\r\n%s",
        body.length, buffer_string(&body));
    buffer_finish(&body);
    if (n > 0 && (size_t)n < sizeof answer &&
        send(peer->fd, answer, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        /* the client will see the closed connection alone */
    }
    shutdown(peer->fd, SHUT_RDWR);
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
        int64_t limit = phase == PEER_HEADERS ? w->header_ns : phase == PEER_BODY ? w->body_ns : INT64_MAX;
        if (now - atomic_load(&peer->since_ns) > limit) {
            cut_peer(peer, phase);
        } else if (peek) {
            see_lost_end(peer, phase);
        }
    }
    for (struct exchange *x = w->exchanges; x; x = x->next) {
        pthread_mutex_lock(&x->lock);
        bool due = x->suspended && x->wake_at_ns && now >= x->wake_at_ns;
        x->timer_fired |= due;
        pthread_mutex_unlock(&x->lock);
        if (due) {
            exchange_notify(x);
        }
    }
}

static void see_hangup(struct watcher *w, uint64_t serial)
{
    for (struct exchange *x = w->exchanges; x; x = x->next) {
        if (x->serial == serial) {
            atomic_store(&x->gone, true);
            exchange_notify(x);
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

enum status watcher_open(struct watcher **out, double header_timeout, double body_timeout, struct error *err)
{
    *out = NULL;
    struct watcher *w = calloc(1, sizeof *w);
    if (!w) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for the watcher");
    }
    w->header_ns = (int64_t)(header_timeout * 1e9);
    w->body_ns = (int64_t)(body_timeout * 1e9);
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
    /* One shot: a hang-up stays one, and level-triggered it would spin until the exchange is gone. */
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = x->serial};
    if (!x->watched) {
        x->watched = !epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, x->fd, &event);
    }
}
