/* Clients that leave, in every state, beside others that do not: what they held is free soon, and nobody else
 * sees a difference. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/clock.h"
#include "tests/stress/phases.h"

enum { N_LEAVERS = 8, N_STAYERS = 24, MAX_STEPS = 200000 };

enum manner { BEFORE_FIRST_TOKEN, MID_STREAM, WAITING, HALF_BODY, HALF_CLOSED, RESET, N_MANNERS };

struct leaving {
    const struct settings *settings;
    struct rig *rig;
    pthread_mutex_t lock; /* one leaves at a time, so that its end can be told from others' */
    atomic_int next, n_freed, n_unborn;
    double *latency_ms; /* n_freed */
    atomic_bool stop;
    double *step_ms; /* of every step while it lasted */
    int32_t n_steps;
};

/* How long steps take, seen from outside. */
static void *steps_main(void *context)
{
    struct leaving *l = context;
    struct engine_stats stats;
    int64_t last = 0, since = 0;
    while (!atomic_load(&l->stop)) {
        engine_get_stats(l->rig->engine, &stats);
        int64_t now = clock_now_ns();
        if (stats.steps != last) {
            if (since && stats.steps == last + 1 && l->n_steps < MAX_STEPS) {
                l->step_ms[l->n_steps++] = clock_ms(now - since);
            }
            last = stats.steps;
            since = now;
        }
        usleep(200);
    }
    return NULL;
}

/* Brings a request into the state in which its client leaves. */
static bool get_there(struct client *client, enum manner manner, const char *body, uint64_t *random)
{
    struct buffer request = {0};
    client_write_post(&request, body);
    size_t length = manner == HALF_BODY ? request.length - strlen(body) / 2 - 1 : request.length;
    bool good = client_send(client, request.data, length);
    buffer_finish(&request);
    if (manner == MID_STREAM || manner == HALF_CLOSED || manner == RESET) {
        size_t wanted = (size_t)random_between(random, 1, 4000);
        while (good && client->in.length < wanted) {
            good = client_receive(client, 30) == 1;
        }
    } else {
        usleep((useconds_t)random_between(random, 0, 60000));
    }
    return good;
}

/* Leaves, and waits until the engine has let go of all n sequences. */
static void leave(struct leaving *l, struct client *client, enum manner manner, int32_t n)
{
    struct engine_stats stats;
    struct metrics *metrics = &l->rig->server.metrics;
    engine_get_stats(l->rig->engine, &stats);
    int64_t cancelled = stats.finished[FINISH_CANCELLED];
    uint_fast64_t unborn = atomic_load(&metrics->disconnects[PHASE_BODY]);
    int64_t begin = clock_now_ns();
    if (manner == HALF_CLOSED) {
        shutdown(client->fd, SHUT_WR);
    } else if (manner == RESET) {
        client_reset(client);
    } else {
        client_close(client);
    }
    for (;;) {
        engine_get_stats(l->rig->engine, &stats);
        int64_t now = clock_now_ns();
        if (stats.finished[FINISH_CANCELLED] - cancelled >= n) {
            l->latency_ms[atomic_fetch_add(&l->n_freed, 1)] = clock_ms(now - begin);
            return;
        }
        if (atomic_load(&metrics->disconnects[PHASE_BODY]) != unborn) {
            atomic_fetch_add(&l->n_unborn, 1); /* it had not got as far as the engine */
            return;
        }
        if (now - begin > 3000000000) {
            complain(
                "b: a client that left (manner %d) is not gone after 3 s: %d of its %d sequences cancelled; "
                "%d connections, %d exchanges, left while sending %d, waiting %d, streaming %d",
                (int)manner, (int)(stats.finished[FINISH_CANCELLED] - cancelled), (int)n,
                (int)http_n_connections(l->rig->server.http), (int)http_n_exchanges(l->rig->server.http),
                (int)atomic_load(&metrics->disconnects[PHASE_BODY]),
                (int)atomic_load(&metrics->disconnects[PHASE_WAITING]),
                (int)atomic_load(&metrics->disconnects[PHASE_STREAM]));
            return;
        }
        usleep(100);
    }
}

static void *leaver_main(void *context)
{
    struct leaving *l = context;
    int which;
    while ((which = atomic_fetch_add(&l->next, 1)) < l->settings->n_disconnects) {
        uint64_t random = l->settings->seed * 1000003 + (uint64_t)which * 7919 + 1;
        random_next(&random);
        enum manner manner = (enum manner)(which % N_MANNERS);
        int32_t n = random_between(&random, 1, 3);
        char *body = endless_request(&random, l->rig->vocab_size, random_between(&random, 1, 500), 500, n,
                                     manner != WAITING);
        struct client client;
        if (!client_connect(&client, l->rig->port)) {
            complain("b: cannot connect");
        } else {
            if (!get_there(&client, manner, body, &random)) {
                complain("b: a stream broke before its client left (manner %d)", (int)manner);
            }
            pthread_mutex_lock(&l->lock);
            leave(l, &client, manner, n);
            pthread_mutex_unlock(&l->lock);
            client_close(&client);
        }
        free(body);
    }
    return NULL;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const double *sorted, int32_t n, double q)
{
    return n ? sorted[(int32_t)(q * (n - 1) + 0.5)] : 0;
}

static void judge_times(struct leaving *l)
{
    int32_t n = atomic_load(&l->n_freed);
    qsort(l->latency_ms, (size_t)n, sizeof *l->latency_ms, compare_doubles);
    qsort(l->step_ms, (size_t)l->n_steps, sizeof *l->step_ms, compare_doubles);
    double worst = percentile(l->latency_ms, n, 1), longest_step = percentile(l->step_ms, l->n_steps, 1);
    report("b: %d of %d left with sequences in the engine: free after p50 %.1f, p99 %.1f, max %.1f ms; "
           "step p50 %.1f, p99 %.1f, max %.1f ms",
           (int)n, (int)l->settings->n_disconnects, percentile(l->latency_ms, n, 0.5),
           percentile(l->latency_ms, n, 0.99), worst, percentile(l->step_ms, l->n_steps, 0.5),
           percentile(l->step_ms, l->n_steps, 0.99), longest_step);
    if (l->settings->check_times && worst > longest_step + 50) {
        complain("b: not free within one step + 50 ms");
    }
}

void phase_disconnects(const struct settings *settings, struct sample *samples)
{
    struct rig rig;
    pthread_t stayers[N_STAYERS], leavers[N_LEAVERS], steps;
    rig_open(&rig, settings,
             (const char *const[]){"--threads=2", "--max-running=64", "--prefill-chunk=128",
                                   "--http-threads=2", NULL});
    struct crowd crowd = {.settings = settings,
                          .samples = samples,
                          .n_samples = settings->n_requests,
                          .port = rig.port,
                          .n_clients = N_STAYERS,
                          .repeat = true,
                          .skip_matches = true};
    struct leaving l = {.settings = settings,
                        .rig = &rig,
                        .lock = PTHREAD_MUTEX_INITIALIZER,
                        .latency_ms = calloc((size_t)settings->n_disconnects + 1, sizeof(double)),
                        .step_ms = calloc(MAX_STEPS, sizeof(double))};
    if (!l.latency_ms || !l.step_ms) {
        abort();
    }
    int64_t begin = clock_now_ns();
    crowd_start(&crowd, stayers);
    pthread_create(&steps, NULL, steps_main, &l);
    for (int i = 0; i < N_LEAVERS; i++) {
        pthread_create(&leavers[i], NULL, leaver_main, &l);
    }
    for (int i = 0; i < N_LEAVERS; i++) {
        pthread_join(leavers[i], NULL);
    }
    atomic_store(&crowd.stop, true);
    crowd_join(&crowd, stayers);
    atomic_store(&l.stop, true);
    pthread_join(steps, NULL);
    report("b: %d clients left within %.1f s (%d before their request was whole), %d others exact",
           (int)settings->n_disconnects, clock_ms(clock_now_ns() - begin) * 1e-3, atomic_load(&l.n_unborn),
           atomic_load(&crowd.n_exact));
    judge_times(&l);
    rig_expect_idle(&rig, "b");
    rig_close(&rig);
    free(l.latency_ms);
    free(l.step_ms);
}
