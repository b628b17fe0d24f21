/* Counters and histograms of the HTTP side, and their text in Prometheus format 0.0.4 together with the
 * engine's own counters. Everything is atomic: writers never wait, a scrape takes no lock. */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "server/buffer.h"

enum {
    METRICS_TIME_BUCKETS = 19,  /* 1-2-5 steps from 0.0001 to 100 s */
    METRICS_TOKEN_BUCKETS = 18, /* powers of 2 from 1 to 131072 */
    METRICS_MAX_BUCKETS = 19,
    METRICS_N_STATUSES = 17,
    METRICS_MAX_ENDPOINTS = 16,
};

enum metrics_histogram {
    HISTOGRAM_TTFT,
    HISTOGRAM_ITL,
    HISTOGRAM_TPOT,
    HISTOGRAM_LATENCY,
    HISTOGRAM_QUEUE,
    HISTOGRAM_PREFILL,
    HISTOGRAM_DECODE,
    HISTOGRAM_TOKENIZE,
    HISTOGRAM_PROMPT_TOKENS, /* from here on buckets of tokens */
    HISTOGRAM_GENERATION_TOKENS,
    N_HISTOGRAMS,
};

enum metrics_phase { PHASE_BODY, PHASE_WAITING, PHASE_STREAM, N_PHASES }; /* where a client left */
enum metrics_reject { REJECT_QUEUE_FULL, REJECT_DRAINING, REJECT_LOADING, REJECT_LIMITS, N_REJECTS };

struct histogram {
    atomic_uint_fast64_t counts[METRICS_MAX_BUCKETS + 1];
    atomic_uint_fast64_t sum_micro; /* sum in millionths: exact addition without a lock */
};

struct metrics {
    atomic_uint_fast64_t requests[METRICS_MAX_ENDPOINTS][METRICS_N_STATUSES];
    atomic_uint_fast64_t bad_requests[METRICS_N_STATUSES];
    atomic_uint_fast64_t rejected[N_REJECTS];
    atomic_uint_fast64_t disconnects[N_PHASES];
    struct histogram histograms[N_HISTOGRAMS];
    double start_time; /* seconds since 1970 */
};

void metrics_init(struct metrics *m);
void metrics_count_request(struct metrics *m, int32_t endpoint, int32_t status);
void metrics_observe(struct metrics *m, enum metrics_histogram which, double value);

/* For one request's own figures: the bucket of a time, and the upper bound of the bucket that holds quantile
 * q. */
int32_t metrics_time_bucket(double seconds);
double metrics_quantile(const uint32_t counts[METRICS_TIME_BUCKETS + 1], double q);

struct metrics_view {
    const char *model;            /* label of every series */
    const char *const *endpoints; /* n_endpoints names */
    int32_t n_endpoints;
    const char *version, *commit;
    const struct engine_stats *stats; /* NULL while loading */
    const struct engine_info *info;   /* NULL while loading */
    int32_t connections;
    bool ready, draining;
    double load_seconds, first_token_seconds; /* since the start of the process; 0: not yet */
};
void metrics_write(struct buffer *out, struct metrics *m, const struct metrics_view *view);

#endif
