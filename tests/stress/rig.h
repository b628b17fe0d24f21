/* A whole server in this process, and a crowd of clients for it. */
#ifndef TESTS_STRESS_RIG_H
#define TESTS_STRESS_RIG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "server/server.h"
#include "tests/stress/sample.h"

/* What the command line says. */
struct settings {
    const char *model;
    int32_t n_requests, n_disconnects, n_clients;
    uint64_t seed;
    bool check_times; /* off where a sanitizer makes everything slow */
    double patience;  /* seconds that one request may take */
};

/* Prints a line and counts it; the program's exit status is whether there was one. Any thread. */
__attribute__((format(printf, 1, 2))) void complain(const char *format, ...);
int32_t n_complaints(void);
/* One line of results. */
__attribute__((format(printf, 1, 2))) void report(const char *format, ...);

/* ---- the server, with its parts in view ---- */

struct rig {
    struct config config;
    struct server server;
    struct engine *engine;
    struct tokenizer *tokenizer;
    int32_t port, vocab_size;
};

/* A folder of this run for quantized models: the first server writes it while it serves, the others start
 * from it, and all must answer the same. "--quant-cache=FOLDER"; the folder goes when the process exits. */
char *rig_cache_flag(void);
/* flags: of `any4 serve`, ends with NULL. Exits the test when it cannot start. */
void rig_open(struct rig *rig, const struct settings *settings, const char *const *flags);
/* Waits until nothing runs, no connection is open and no KV block is used, at most two seconds; complains
 * else. */
void rig_expect_idle(struct rig *rig, const char *phase);
void rig_close(struct rig *rig);

/* ---- many clients ---- */

struct crowd {
    const struct settings *settings;
    struct sample *samples;
    int32_t n_samples, port;
    int32_t n_clients;
    bool repeat;       /* start over until stop is set */
    bool skip_matches; /* leave out samples with stop strings */
    bool refusals;     /* 429 is expected: the request is sent again after retry-after-ms */
    bool may_be_cut;   /* a drain: errors with code draining, refusals and closed connections are counted */
    atomic_bool stop;
    atomic_int next, n_exact, n_refused, n_cut, n_streaming;
};

/* Each sample once (or until stop) by n_clients threads; answers must be those that samples hold. */
void crowd_run(struct crowd *crowd);
/* The same in the background. */
void crowd_start(struct crowd *crowd, pthread_t *threads);
void crowd_join(struct crowd *crowd, const pthread_t *threads);
/* Fills in samples[].alone, one request at a time. */
void crowd_alone(struct crowd *crowd);

#endif
