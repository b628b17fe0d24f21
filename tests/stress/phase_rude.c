/* Clients that do not read, do not speak or speak too early, and the end of the server in the middle of work.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/clock.h"
#include "server/command.h"
#include "tests/stress/phases.h"

enum { N_SLOW = 6, N_IDLE = 200, N_PIPELINED = 6 };

void phases_block_signals(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
}

/* A long answer, one byte a second of it, then gone. */
static void *slow_main(void *context)
{
    struct rig *rig = context;
    uint64_t random = 77;
    struct client client;
    int small = 2048;
    char byte;
    if (!client_connect(&client, rig->port)) {
        complain("e: cannot connect");
        return NULL;
    }
    setsockopt(client.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    char *body = endless_request(&random, rig->vocab_size, 20, 600, 16, true);
    client_post(&client, body);
    free(body);
    for (int i = 0; i < 3; i++) {
        sleep(1);
        if (recv(client.fd, &byte, 1, 0) != 1) {
            complain("e: a slow reader was thrown out within 3 s");
        }
    }
    client_close(&client);
    return NULL;
}

/* Several requests in one write: answered one after the other, in order. */
static void pipeline(struct rig *rig, const struct settings *settings, struct sample *samples)
{
    struct buffer requests = {0};
    struct client client;
    int32_t n = settings->n_requests < N_PIPELINED ? settings->n_requests : N_PIPELINED;
    for (int32_t i = 0; i < n; i++) {
        client_write_post(&requests, samples[i].wire);
    }
    if (!client_connect(&client, rig->port) || !client_send(&client, requests.data, requests.length)) {
        complain("e: cannot send requests in a row");
    }
    for (int32_t i = 0; i < n; i++) {
        struct answer answer;
        const char *fault;
        client_read(&client, &answer, settings->patience);
        char *form = answer_form(&answer, &fault);
        if (!form || strcmp(form, samples[i].alone) != 0) {
            complain("e: pipelined request %d: %s", (int)i, form ? "another answer than alone" : fault);
        }
        free(form);
        answer_finish(&answer);
    }
    client_close(&client);
    buffer_finish(&requests);
}

void phase_rudeness(const struct settings *settings, struct sample *samples)
{
    struct rig rig;
    pthread_t slow[N_SLOW];
    static struct client idle[N_IDLE];
    int32_t n = settings->n_requests < 200 ? settings->n_requests : 200, n_kept = 0;
    rig_open(&rig, settings,
             (const char *const[]){"--threads=2", "--max-running=64", "--max-queue=1024",
                                   "--stream-interval-ms=20", NULL});
    for (int i = 0; i < N_IDLE; i++) {
        struct answer answer;
        const char *get = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
        if (!client_connect(&idle[i], rig.port) || !client_send(&idle[i], get, strlen(get)) ||
            !client_read(&idle[i], &answer, settings->patience) || answer.status != 200) {
            complain("e: a connection that will be idle was not served");
        }
        answer_finish(&answer);
    }
    for (int i = 0; i < N_SLOW; i++) {
        pthread_create(&slow[i], NULL, slow_main, &rig);
    }
    int64_t begin = clock_now_ns();
    struct crowd crowd = {.settings = settings,
                          .samples = samples,
                          .n_samples = n,
                          .port = rig.port,
                          .n_clients = settings->n_clients / 2};
    crowd_run(&crowd);
    pipeline(&rig, settings, samples);
    for (int i = 0; i < N_IDLE; i++) {
        char byte;
        n_kept += recv(idle[i].fd, &byte, 1, MSG_DONTWAIT) < 0; /* open and silent */
        client_close(&idle[i]);
    }
    if (n_kept != N_IDLE) {
        complain("e: %d of %d idle connections were closed", (int)(N_IDLE - n_kept), (int)N_IDLE);
    }
    for (int i = 0; i < N_SLOW; i++) {
        pthread_join(slow[i], NULL);
    }
    report("e: beside %d slow readers and %d idle connections %d requests exact in %.1f s, %d pipelined ones "
           "in order",
           (int)N_SLOW, (int)N_IDLE, atomic_load(&crowd.n_exact), clock_ms(clock_now_ns() - begin) * 1e-3,
           (int)N_PIPELINED);
    rig_expect_idle(&rig, "e");
    rig_close(&rig);
}

/* ---- shutting down ---- */

struct serving {
    struct config config;
    struct outcome outcome;
    enum status status;
    struct error err;
    char port_file[64];
    pthread_t thread;
    atomic_bool ended;
};

static void *serve_main(void *context)
{
    struct serving *s = context;
    s->status = command_serve(&s->config, &s->outcome, &s->err);
    atomic_store(&s->ended, true);
    return NULL;
}

/* `any4 serve` itself, on a thread; returns its port when it is ready. */
static int32_t serve_begin(struct serving *s, const struct settings *settings, const char *drain_timeout)
{
    char drain[64], port_file[96];
    int fd;
    *s = (struct serving){.port_file = "/tmp/stress_server_port.XXXXXX"};
    if ((fd = mkstemp(s->port_file)) < 0) {
        abort();
    }
    close(fd);
    unlink(s->port_file);
    snprintf(drain, sizeof drain, "--drain-timeout=%s", drain_timeout);
    snprintf(port_file, sizeof port_file, "--port-file=%s", s->port_file);
    char *argv[] = {(char *)(uintptr_t)settings->model,
                    (char *)"--port=0",
                    drain,
                    port_file,
                    (char *)"--max-running=64",
                    (char *)"--threads=2",
                    rig_cache_flag(),
                    (char *)"--log-file=/dev/null",
                    (char *)"--log-level=debug"};
    if (config_load(&s->config, CONFIG_FOR_SERVE, sizeof argv / sizeof *argv, argv, &s->err) ||
        pthread_create(&s->thread, NULL, serve_main, s)) {
        complain("drain: %s", s->err.message);
        return 0;
    }
    for (int64_t limit = clock_now_ns() + 120000000000; clock_now_ns() < limit && !atomic_load(&s->ended);
         usleep(5000)) {
        int port = 0;
        struct client client;
        struct answer answer = {0};
        FILE *file = fopen(s->port_file, "re");
        bool known = file && fscanf(file, "%d", &port) == 1;
        if (file) {
            fclose(file);
        }
        if (!known || !client_connect(&client, port)) {
            continue;
        }
        const char *get = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        client_send(&client, get, strlen(get));
        client_read(&client, &answer, 10);
        bool ready = answer.status == 200;
        answer_finish(&answer);
        client_close(&client);
        if (ready) {
            return port;
        }
    }
    complain("drain: the server did not get ready: %s", s->err.message);
    return 0;
}

static void drain_once(const struct settings *settings, struct sample *samples, const char *drain_timeout,
                       double most_seconds, bool all_end)
{
    struct serving s;
    pthread_t *threads = calloc((size_t)settings->n_clients, sizeof *threads);
    int32_t port = serve_begin(&s, settings, drain_timeout);
    struct crowd crowd = {.settings = settings,
                          .samples = samples,
                          .n_samples = settings->n_requests,
                          .port = port,
                          .n_clients = settings->n_clients,
                          .repeat = true,
                          .may_be_cut = true};
    if (!port || !threads) {
        free(threads);
        return;
    }
    crowd_start(&crowd, threads);
    usleep(500000);
    int n_before = atomic_load(&crowd.n_exact), n_busy = atomic_load(&crowd.n_streaming);
    int64_t begin = clock_now_ns();
    kill(getpid(), SIGTERM);
    pthread_join(s.thread, NULL);
    double seconds = clock_ms(clock_now_ns() - begin) * 1e-3;
    crowd_join(&crowd, threads);
    report("drain_timeout %s s: %d requests in the air at SIGTERM, ended after %.2f s with code %d; %d exact "
           "before it, "
           "%d exact after, %d cut or turned away",
           drain_timeout, n_busy, seconds, (int)s.outcome.code, n_before,
           atomic_load(&crowd.n_exact) - n_before, atomic_load(&crowd.n_cut));
    if (s.status || s.outcome.abandon || seconds > most_seconds ||
        (all_end && s.outcome.code != EXIT_CODE_DONE)) {
        complain("drain: status %d (%s), code %d, abandon %d after %.1f s", (int)s.status, s.err.message,
                 (int)s.outcome.code, (int)s.outcome.abandon, seconds);
    }
    free(threads);
    config_finish(&s.config);
}

void phase_drain(const struct settings *settings, struct sample *samples)
{
    double slack = settings->check_times ? 3 : 60;
    /* Three servers one after the other in one process: nothing of the last one may be left. */
    drain_once(settings, samples, "100", 100, true);
    drain_once(settings, samples, "0.05", 0.05 + slack, false);
    drain_once(settings, samples, "0", slack, false);
}
