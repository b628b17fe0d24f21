/* `any4 serve`: listens first, so that /health can tell about loading, loads the model on a thread of its
 * own, and waits for signals. Shutdown order: refuse new work, let the old end, stop HTTP, then the engine,
 * then the tokenizer. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine/base/log.h"
#include "server/api.h"
#include "server/clock.h"
#include "server/command.h"
#include "server/version.h"

struct loader {
    const struct config *config;
    struct server *server;
    struct engine *engine;
    struct tokenizer *tokenizer;
    enum status status;
    struct error err;
    atomic_bool done;
    pthread_t thread;
};

/* What a client needs to know, in the last line of loading. */
static void log_address(const struct server *s, double seconds)
{
    const char *host = s->config->host;
    bool brackets = strchr(host, ':') != NULL;
    log_info("serving %s at http://%s%s%s:%d/v1 (%.1f s after start)", s->model_names.parts[0],
             brackets ? "[" : "", host, brackets ? "]" : "", (int)http_port(s->http), seconds);
}

static void *load_model(void *context)
{
    struct loader *loader = context;
    loader->status =
        server_open_model(loader->config, true, &loader->engine, &loader->tokenizer, &loader->err);
    enum chat_template_kind *template = &loader->server->rules.chat_template;
    if (!loader->status) {
        loader->status = chat_template_open(template, loader->config->model, &loader->err);
    }
    if (!loader->status) {
        const struct engine_info *info = engine_get_info(loader->engine);
        double seconds = (double)(clock_now_ns() - loader->server->start_ns) * 1e-9;
        server_publish(loader->server, loader->engine, loader->tokenizer, seconds);
        log_info(
            "ready: %s, %" PRId64 " parameters, %s, %.3f bits per weight, weights %.1f MiB, KV %.1f MiB, "
            "context %d, kernels %s on %s%s, %d threads, chat template %s, loaded in %.2f s",
            loader->server->model_names.parts[0], info->n_params, quant_method_name(info->method),
            info->bits_per_weight, (double)info->weights_bytes / 1048576, (double)info->kv_bytes / 1048576,
            (int)info->max_model_len, info->kernels, info->device, info->cuda_exact ? ", exact" : "",
            (int)info->n_threads, chat_template_name(*template), seconds);
        if (*template == CHAT_TEMPLATE_UNKNOWN) {
            log_warning("the model's chat template is not supported: /v1/chat/completions answers 400");
        }
        log_address(loader->server, seconds);
    }
    atomic_store(&loader->done, true);
    return NULL;
}

static enum status write_port_file(const char *path, int32_t port, struct error *err)
{
    char temporary[4096];
    if (!path) {
        return STATUS_OK;
    }
    /* Renamed into place: who waits for the file never reads half a number. */
    int n = snprintf(temporary, sizeof temporary, "%s.tmp", path);
    FILE *file = n > 0 && (size_t)n < sizeof temporary ? fopen(temporary, "we") : NULL;
    bool good = file && fprintf(file, "%d\n", (int)port) > 0;
    if (file && fclose(file)) {
        good = false;
    }
    return good && !rename(temporary, path)
               ? STATUS_OK
               : error_set(err, STATUS_INVALID, "port_file %s cannot be written: %s", path, strerror(errno));
}

static void remove_port_file(const char **path)
{
    if (*path) {
        unlink(*path);
        *path = NULL;
    }
}

/* Every connection takes a file descriptor; many systems give 1024 until one asks for more. */
static void raise_file_limit(int64_t max_connections)
{
    enum { OTHER_FILES = 64 }; /* model shards, log, epoll sets, the listening socket */
    struct rlimit limit;
    rlim_t needed = (rlim_t)max_connections + OTHER_FILES;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= needed) {
        return;
    }
    struct rlimit raised = {.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
    if (!setrlimit(RLIMIT_NOFILE, &raised)) {
        limit = raised;
    }
    if (limit.rlim_cur < needed) {
        log_warning("the limit of open files is %llu: too low for max_connections %" PRId64
                    ", which needs about %llu (ulimit -n)",
                    (unsigned long long)limit.rlim_cur, max_connections, (unsigned long long)needed);
    }
}

static void log_state(struct server *s)
{
    struct engine_stats stats = {0};
    if (atomic_load(&s->ready)) {
        engine_get_stats(s->engine, &stats);
    }
    log_info("state: %s%s, %d exchanges on %d connections, %d running, %d waiting, KV %" PRId64 " of %" PRId64
             " tokens, %" PRId64 " tokens generated in %" PRId64 " steps",
             atomic_load(&s->ready) ? "ready" : "loading", atomic_load(&s->draining) ? ", draining" : "",
             (int)http_n_exchanges(s->http), (int)http_n_connections(s->http), (int)stats.running,
             (int)stats.waiting, stats.kv_tokens_used, stats.kv_tokens_capacity, stats.generation_tokens,
             stats.steps);
}

/* Waits for a signal that ends the server (returned), or for a load that failed (0). */
static int wait_for_end(struct server *s, struct loader *loader, const sigset_t *signals)
{
    for (;;) {
        struct timespec tick = {.tv_nsec = 20000000};
        bool done = atomic_load(&loader->done);
        if (done && loader->status) {
            return 0;
        }
        int signal_number = done ? sigwaitinfo(signals, NULL) : sigtimedwait(signals, NULL, &tick);
        if (signal_number == SIGUSR1) {
            log_state(s);
        } else if (signal_number == SIGHUP) {
            log_warning("SIGHUP: reloading is not supported yet");
        } else if (signal_number > 0) {
            return signal_number;
        }
    }
}

/* True when everything ended by itself; false when the limit passed or a second signal came (*again). */
static bool drain(struct server *s, const sigset_t *signals, bool *again)
{
    int64_t deadline = clock_now_ns() + (int64_t)(s->config->drain_timeout * 1e9);
    int64_t refused = clock_now_ns() + 1000000000;
    struct timespec tick = {.tv_nsec = 10000000};
    *again = false;
    for (;;) {
        /* Requests that are not whole yet are not waited for, but each gets the moment it takes to refuse it.
         */
        int64_t now = clock_now_ns();
        if (!http_n_working(s->http) && engine_is_idle(s->engine) &&
            (now >= refused || !http_n_exchanges(s->http))) {
            return true;
        }
        if (now >= deadline) {
            return !http_n_working(s->http) && engine_is_idle(s->engine);
        }
        int signal_number = sigtimedwait(signals, NULL, &tick);
        if (signal_number == SIGTERM || signal_number == SIGINT) {
            *again = true;
            return false;
        }
    }
}

static enum status open_http(struct server *s, const struct config *config, struct error *err)
{
    enum status status = server_listen(s, err);
    if (!status && !(status = write_port_file(config->port_file, http_port(s->http), err))) {
        log_info("listening on %s port %d", config->host, (int)http_port(s->http));
    }
    return status;
}

/* From the first signal to the last request. */
static void shut_down(struct server *s, const sigset_t *signals, struct outcome *outcome)
{
    bool again = false;
    log_info("draining: %d exchanges, at most %g s", (int)http_n_exchanges(s->http),
             s->config->drain_timeout);
    atomic_store(&s->draining, true);
    http_drain(s->http);
    if (!drain(s, signals, &again)) {
        log_warning("cutting %d exchanges: %s", (int)http_n_working(s->http),
                    again ? "second signal" : "drain_timeout passed");
        outcome->code = EXIT_CODE_CUT;
        http_cut(s->http);
        /* Time for the error events to leave; then the process does not wait for anybody. */
        struct timespec tick = {.tv_nsec = 10000000};
        for (int32_t i = 0; i < 50 && (http_n_exchanges(s->http) || !engine_is_idle(s->engine)); i++) {
            nanosleep(&tick, NULL);
        }
        /* Nor for a device that does not answer. */
        outcome->abandon = again || http_n_exchanges(s->http) > 0 || !engine_is_idle(s->engine);
    }
}

enum status command_serve(const struct config *config, struct outcome *outcome, struct error *err)
{
    struct server server;
    struct loader loader = {.config = config, .server = &server};
    FILE *log_file = NULL;
    const char *port_file = NULL; /* one that we wrote */
    sigset_t signals;
    /* The folder before the port: a slip in its name needs no server to tell about it. */
    enum status status = server_check_folder(config, err);
    if (status || (status = server_open_log(config, &log_file, err))) {
        return status;
    }
    /* Before any thread exists: all inherit the mask, and only sigwaitinfo below takes these. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    log_info("any4 %s (%s)", ANY4_VERSION, ANY4_COMMIT);
    /* Forty keys: for a log that is searched, not for one that is read. */
    config_log(config, server_log_format(config, log_file) == LOG_FORMAT_JSON ? LOG_INFO : LOG_DEBUG);
    raise_file_limit(config->max_connections);
    if ((status = server_init(&server, config, err)) || (status = open_http(&server, config, err))) {
        goto cleanup;
    }
    port_file = config->port_file;
    if (pthread_create(&loader.thread, NULL, load_model, &loader)) {
        status = error_set(err, STATUS_NO_MEMORY, "cannot start the loading thread");
        goto cleanup;
    }
    int signal_number = wait_for_end(&server, &loader, &signals);
    if (!atomic_load(&loader.done)) {
        log_info("stopped by %s while loading", strsignal(signal_number));
        remove_port_file(&port_file);
        outcome->abandon = true; /* nothing was answered yet, and loading cannot be interrupted */
        return STATUS_OK;
    }
    pthread_join(loader.thread, NULL);
    if (loader.status) {
        status = loader.status;
        *err = loader.err;
        goto cleanup;
    }
    log_info("stopping: %s", strsignal(signal_number));
    shut_down(&server, &signals, outcome);
    remove_port_file(&port_file);
    if (outcome->abandon) {
        return STATUS_OK;
    }
    log_info("stopped");
cleanup:
    http_close(server.http);
    engine_close(loader.engine);
    tokenizer_close(loader.tokenizer);
    server_finish(&server);
    remove_port_file(&port_file);
    if (log_file) {
        log_configure(LOG_FORMAT_TEXT, LOG_INFO, stderr);
        fclose(log_file);
    }
    return status;
}
