/* The server as `any4 serve` puts it together, and the clients that compare. */
#include "tests/stress/rig.h"

#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/log.h"
#include "server/clock.h"

static atomic_int complaints;

void complain(const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (atomic_fetch_add(&complaints, 1) < 50) {
        fprintf(stderr, "FAULT: %s\n", line);
    }
}

int32_t n_complaints(void)
{
    return atomic_load(&complaints);
}

void report(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

static void give_up(const struct error *err)
{
    fprintf(stderr, "cannot start a server: %s\n", err->message);
    exit(1);
}

static char cache_flag[64];

static void remove_cache(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", strchr(cache_flag, '/'));
    if (system(command)) {
        fprintf(stderr, "%s failed\n", command);
    }
}

char *rig_cache_flag(void)
{
    if (!cache_flag[0]) {
        strcpy(cache_flag, "--quant-cache=/tmp/any4-stress-cache-XXXXXX");
        if (!mkdtemp(strchr(cache_flag, '/')) || atexit(remove_cache)) {
            give_up(&(struct error){.message = "no folder for a cache"});
        }
    }
    return cache_flag;
}

void rig_open(struct rig *rig, const struct settings *settings, const char *const *flags)
{
    enum { N_OWN = 4 };
    char *argv[48] = {(char *)(uintptr_t)settings->model, (char *)"--port=0", (char *)"--log-level=warning",
                      rig_cache_flag()};
    int argc = N_OWN;
    struct error err = {0};
    memset(rig, 0, sizeof *rig);
    while (flags[argc - N_OWN]) {
        argv[argc] = (char *)(uintptr_t)flags[argc - N_OWN];
        argc++;
    }
    if (config_load(&rig->config, CONFIG_FOR_SERVE, argc, argv, &err) ||
        server_init(&rig->server, &rig->config, &err)) {
        give_up(&err);
    }
    log_configure(LOG_FORMAT_TEXT, LOG_WARNING, stderr);
    if (server_listen(&rig->server, &err) ||
        server_open_model(&rig->config, false, &rig->engine, &rig->tokenizer, &err)) {
        give_up(&err);
    }
    server_publish(&rig->server, rig->engine, rig->tokenizer, 0);
    rig->port = http_port(rig->server.http);
    rig->vocab_size = engine_get_info(rig->engine)->config.vocab_size;
}

void rig_expect_idle(struct rig *rig, const char *phase)
{
    struct engine_stats stats;
    int64_t limit = clock_now_ns() + 2000000000;
    for (;;) {
        engine_get_stats(rig->engine, &stats);
        int32_t n_connections = http_n_connections(rig->server.http);
        int32_t n_exchanges = http_n_exchanges(rig->server.http);
        bool idle = engine_is_idle(rig->engine) && !stats.running && !stats.waiting &&
                    !stats.kv_tokens_used && !n_connections && !n_exchanges;
        if (idle) {
            return;
        }
        if (clock_now_ns() > limit) {
            complain(
                "%s: not idle after it: %d running, %d waiting, %lld KV tokens, %d connections, %d exchanges",
                phase, (int)stats.running, (int)stats.waiting, (long long)stats.kv_tokens_used,
                (int)n_connections, (int)n_exchanges);
            return;
        }
        usleep(1000);
    }
}

void rig_close(struct rig *rig)
{
    http_close(rig->server.http);
    engine_close(rig->engine);
    tokenizer_close(rig->tokenizer);
    server_finish(&rig->server);
    config_finish(&rig->config);
}

/* ---- the crowd ---- */

static void complain_difference(const struct sample *sample, const char *got)
{
    size_t at = 0;
    while (got[at] && got[at] == sample->alone[at]) {
        at++;
    }
    size_t from = at > 60 ? at - 60 : 0;
    complain("an answer differs from the one alone at byte %zu\n  alone: %.160s\n  now:   %.160s\n  request: "
             "%.300s",
             at, sample->alone + from, got + from, sample->wire);
}

/* Waits as the server asks, but the test is in a hurry. */
static void heed_refusal(struct answer *answer)
{
    char code[64];
    const char *seconds = answer_header(answer, "Retry-After"), *ms = answer_header(answer, "retry-after-ms");
    answer_error_code(answer, code, sizeof code);
    if (!seconds || atoi(seconds) < 1 || atoi(seconds) > 60 || !ms || atoi(ms) < 1 ||
        strcmp(code, "queue_full") != 0 || !strstr(buffer_string(&answer->body), "\"overloaded_error\"")) {
        complain("a refusal without its headers or error: %.400s %.300s", buffer_string(&answer->head),
                 buffer_string(&answer->body));
    }
    int wait_ms = ms ? atoi(ms) : 100;
    usleep((useconds_t)(wait_ms < 100 ? wait_ms : 100) * 1000);
}

enum verdict { EXACT, REFUSED, CUT, WRONG };

static enum verdict judge(struct crowd *crowd, struct sample *sample, struct answer *answer, char **form)
{
    const char *fault;
    char code[64];
    *form = answer_form(answer, &fault);
    if (*form) {
        if (!sample->alone || !strcmp(*form, sample->alone)) {
            return EXACT;
        }
        complain_difference(sample, *form);
        return WRONG;
    }
    if (answer->status == 429 && crowd->refusals) {
        return REFUSED;
    }
    answer_error_code(answer, code, sizeof code);
    /* A cut stream has its headers and ends well-formed, with an error and [DONE]. */
    if (crowd->may_be_cut && answer->complete && !strcmp(code, "draining")) {
        return CUT;
    }
    if (crowd->may_be_cut && !answer->status && !answer->head.length) {
        return CUT; /* it came after the door was closed */
    }
    complain("%s: status %d, code %s, request %.300s\n  answer %.500s", fault, answer->status, code,
             sample->wire, buffer_string(&answer->body));
    return WRONG;
}

/* One request; the connection is kept for the next one where both sides want that. */
static enum verdict ask(struct crowd *crowd, struct client *client, struct sample *sample, const char *body,
                        char **form)
{
    struct answer answer = {0};
    enum verdict verdict = WRONG;
    *form = NULL;
    if (client->fd < 0 && !client_connect(client, crowd->port)) {
        if (crowd->may_be_cut) {
            return CUT;
        }
        complain("cannot connect");
        return WRONG;
    }
    if (!client_post(client, body) && !crowd->may_be_cut) {
        complain("cannot send a request");
    } else {
        atomic_fetch_add(&crowd->n_streaming, 1);
        client_read(client, &answer, crowd->settings->patience);
        atomic_fetch_sub(&crowd->n_streaming, 1);
        verdict = judge(crowd, sample, &answer, form);
        if (verdict == REFUSED) {
            heed_refusal(&answer);
        }
    }
    if (!answer.complete || answer.closes) {
        client_close(client);
    }
    answer_finish(&answer);
    return verdict;
}

static struct sample *next_sample(struct crowd *crowd)
{
    while (!atomic_load(&crowd->stop)) {
        int at = atomic_fetch_add(&crowd->next, 1);
        if (at >= crowd->n_samples && !crowd->repeat) {
            return NULL;
        }
        struct sample *sample = &crowd->samples[at % crowd->n_samples];
        if (!crowd->skip_matches || !sample->matches) {
            return sample;
        }
    }
    return NULL;
}

static void *crowd_main(void *context)
{
    struct crowd *crowd = context;
    struct client client = {.fd = -1};
    struct sample *sample;
    uint64_t random = crowd->settings->seed + (uint64_t)(uintptr_t)&client;
    while ((sample = next_sample(crowd))) {
        enum verdict verdict;
        do {
            char *form;
            verdict = ask(crowd, &client, sample, sample->wire, &form);
            free(form);
            atomic_fetch_add(verdict == EXACT     ? &crowd->n_exact
                             : verdict == REFUSED ? &crowd->n_refused
                                                  : &crowd->n_cut,
                             1);
        } while (verdict == REFUSED);
        if (verdict == CUT) {
            break;
        }
        if (client.fd >= 0 && random_between(&random, 1, 4) == 1) {
            client_close(&client); /* keep-alive and fresh connections, mixed */
        }
    }
    client_close(&client);
    return NULL;
}

void crowd_start(struct crowd *crowd, pthread_t *threads)
{
    for (int32_t i = 0; i < crowd->n_clients; i++) {
        if (pthread_create(&threads[i], NULL, crowd_main, crowd)) {
            give_up(&(struct error){.message = "no thread for a client"});
        }
    }
}

void crowd_join(struct crowd *crowd, const pthread_t *threads)
{
    for (int32_t i = 0; i < crowd->n_clients; i++) {
        pthread_join(threads[i], NULL);
    }
}

void crowd_run(struct crowd *crowd)
{
    pthread_t *threads = calloc((size_t)crowd->n_clients, sizeof *threads);
    if (!threads) {
        abort();
    }
    crowd_start(crowd, threads);
    crowd_join(crowd, threads);
    free(threads);
}

void crowd_alone(struct crowd *crowd)
{
    struct client client = {.fd = -1};
    for (int32_t i = 0; i < crowd->n_samples; i++) {
        struct sample *sample = &crowd->samples[i];
        if (ask(crowd, &client, sample, sample->plain, &sample->alone) != EXACT) {
            fprintf(stderr, "a request fails even alone: %s\n", sample->plain);
            exit(1);
        }
    }
    client_close(&client);
}
