/* The result of a load test, as a table for people or one JSON object. */
#ifndef SERVER_BENCH_REPORT_H
#define SERVER_BENCH_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "server/bench/options.h"
#include "server/bench/stats.h"
#include "server/buffer.h"

enum { TALLIES_MAX = 64 };

/* Failed requests of one kind. */
struct bench_tally {
    int32_t status;    /* HTTP status, 0: none came */
    const char *class; /* connect, closed, timeout, protocol, http, stream, truncated; "other" once the table
                          is full */
    char detail[96];   /* the error code of the server, or what the system said */
    int64_t count;
};

/* Mean of a server histogram over the window. */
struct server_mean {
    int64_t n;      /* -1: not available */
    double mean_ms; /* NaN when n is not positive */
};

struct bench_result {
    const char *model; /* may be NULL */
    int64_t n_warmup, n_warmup_failed;
    int64_t n_started, n_ok, n_failed, n_cancelled, n_good;
    int64_t n_without_usage;                  /* successes whose token counts the server did not tell */
    int64_t prompt_tokens, completion_tokens; /* of successes */
    double window_s;                          /* start of the measurement to the end of the last request */
    struct samples series[N_SLO_METRICS];     /* ms */
    struct samples late_ms;                   /* actual minus planned send moment */
    int64_t n_waited;                         /* requests that found no free connection at their moment */
    double busy; /* share of the window in which the client's thread was working */
    struct bench_tally tallies[TALLIES_MAX];
    int32_t n_tallies;
    struct server_mean server_ttft, server_itl;
    const char *stopped; /* why the run ended early, else NULL */
};

void bench_result_finish(struct bench_result *result);

/* Both sort the samples. The objectives of o are judged by bench_slo_met. */
void bench_report_table(struct bench_result *result, const struct bench_options *o, struct buffer *out);
void bench_report_json(struct bench_result *result, const struct bench_options *o, struct buffer *out);
bool bench_slo_met(struct bench_result *result, const struct slo *slo);

#endif
