/* What `any4 bench serve` computes: latency samples, their summary, the random numbers of a run, the Poisson
 * schedule and service level objectives. Plain arithmetic: knows neither sockets nor JSON. */
#ifndef SERVER_BENCH_STATS_H
#define SERVER_BENCH_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

enum {
    SAMPLES_MAX =
        1 << 25, /* 32 Mi samples (256 MiB) a series: every sample is kept, so a run has a size limit */
    BENCH_REQUESTS_MAX = 1 << 22 /* 4 Mi requests a run */
};

/* Every sample of one series, exactly. Zeroed memory is an empty series. */
struct samples {
    double *values;
    int64_t n, capacity;
};

void samples_finish(struct samples *s); /* frees; s is empty and usable afterwards */
/* False when the series holds SAMPLES_MAX values or memory is out: nothing was added. */
bool samples_push(struct samples *s, double value);
bool samples_append(struct samples *s, const double *values, int64_t n);
void samples_sort(struct samples *s);
/* Nearest rank: the smallest sample such that at least `percent` per cent of the samples are not larger, that
 * is value number ceil(percent * n / 100) of the sorted series, counted from 1. Always a value that was
 * measured, never between two. percent in 1..100 (100 is the maximum); s is sorted. NaN when there are no
 * samples. */
double samples_percentile(const struct samples *s, int32_t percent);
double samples_mean(const struct samples *s); /* NaN when there are none */

struct summary {
    int64_t n;
    double mean, p50, p90, p95, p99, max; /* NaN when n is 0 */
};
void samples_summarize(struct samples *s, struct summary *out); /* sorts s */

/* splitmix64 (Steele, Lea and Flood 2014): 64 bits of state, every seed is good. */
uint64_t rng_next(uint64_t *state);
double rng_uniform(uint64_t *state);                             /* [0, 1), 53 bits */
int32_t rng_between(uint64_t *state, int32_t low, int32_t high); /* low..high, both included, without bias */
/* A generator of its own for thing number `index` of a run, whatever is drawn for the others. */
uint64_t rng_fork(uint64_t seed, uint64_t stream, uint64_t index);

/* Arrival times of a Poisson process of `rate` per second, in nanoseconds from the start, ascending: the
 * first max_requests (0: no such limit) of those before duration_s (0: none). The same seed gives the same
 * schedule. *at_ns is malloc'ed. Errors: STATUS_INVALID above BENCH_REQUESTS_MAX, STATUS_NO_MEMORY. */
enum status poisson_schedule(int64_t **at_ns, int64_t *n, double rate, int64_t max_requests,
                             double duration_s, uint64_t seed, struct error *err);

/* ---- service level objectives ---- */

enum slo_metric { SLO_TTFT, SLO_TPOT, SLO_ITL, SLO_E2E, N_SLO_METRICS };
enum { SLO_MEAN = 0, SLO_MAX = 100, SLO_TERMS_MAX = 16 };

struct slo_term {
    enum slo_metric metric;
    int32_t statistic; /* SLO_MEAN, or a percentile 1..100 */
    double limit_ms;
};

struct slo {
    struct slo_term terms[SLO_TERMS_MAX];
    int32_t n_terms;
};

/* "ttft_p99=500,itl_mean=50,e2e_max=2000": metric ttft, tpot, itl or e2e; statistic mean, max or p1..p99;
 * limit in milliseconds. An error names the term. */
enum status slo_parse(struct slo *slo, const char *text, struct error *err);
void slo_term_name(const struct slo_term *term, char *out, size_t size); /* "ttft_p99" */

/* One finished request. NaN where there is no such value (TPOT of a single token). */
struct request_times {
    double ttft_ms, tpot_ms, e2e_ms;
    const double *itl_ms; /* n_itl gaps in any order */
    int64_t n_itl;
};

/* Goodput asks each request by itself: its TTFT, TPOT and E2E against the limits, and for ITL the term's
 * statistic over its own gaps. A value that does not exist breaks nothing. */
bool slo_request_met(const struct slo *slo, const struct request_times *times);

/* The term's statistic over the run. n_failed requests count as infinitely slow ones, or a server that
 * refuses most of its load would look fast; a gap between tokens belongs to no failed request, so ITL counts
 * measured gaps alone. s is sorted. NaN when there is nothing to measure: such a term is missed. */
double slo_run_value(const struct slo_term *term, const struct samples *s, int64_t n_failed);

#endif
