/* Latency samples, random numbers, Poisson arrivals and objectives of `any4 bench serve`. */
#include "server/bench/stats.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- samples ---- */

void samples_finish(struct samples *s)
{
    free(s->values);
    *s = (struct samples){0};
}

bool samples_append(struct samples *s, const double *values, int64_t n)
{
    if (n > SAMPLES_MAX - s->n) {
        return false;
    }
    if (s->n + n > s->capacity) {
        int64_t capacity = s->capacity ? s->capacity : 16;
        while (capacity < s->n + n) {
            capacity *= 2;
        }
        double *grown = realloc(s->values, (size_t)capacity * sizeof *grown);
        if (!grown) {
            return false;
        }
        s->values = grown;
        s->capacity = capacity;
    }
    if (n) {
        memcpy(s->values + s->n, values, (size_t)n * sizeof *values);
        s->n += n;
    }
    return true;
}

bool samples_push(struct samples *s, double value)
{
    return samples_append(s, &value, 1);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void samples_sort(struct samples *s)
{
    if (s->n) {
        qsort(s->values, (size_t)s->n, sizeof *s->values, compare_doubles);
    }
}

/* ceil(percent * n / 100) in integers: in floating point 0.07 * 100 already rounds up to rank 8. */
static int64_t nearest_rank(int32_t percent, int64_t n)
{
    assert(percent >= 1 && percent <= 100);
    return (percent * n + 99) / 100;
}

double samples_percentile(const struct samples *s, int32_t percent)
{
    return s->n ? s->values[nearest_rank(percent, s->n) - 1] : NAN;
}

double samples_mean(const struct samples *s)
{
    double sum = 0;
    for (int64_t i = 0; i < s->n; i++) {
        sum += s->values[i];
    }
    return s->n ? sum / (double)s->n : NAN;
}

void samples_summarize(struct samples *s, struct summary *out)
{
    samples_sort(s);
    *out = (struct summary){
        .n = s->n,
        .mean = samples_mean(s),
        .p50 = samples_percentile(s, 50),
        .p90 = samples_percentile(s, 90),
        .p95 = samples_percentile(s, 95),
        .p99 = samples_percentile(s, 99),
        .max = samples_percentile(s, 100),
    };
}

/* ---- random numbers ---- */

uint64_t rng_next(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

double rng_uniform(uint64_t *state)
{
    return (double)(rng_next(state) >> 11) * 0x1p-53;
}

int32_t rng_between(uint64_t *state, int32_t low, int32_t high)
{
    assert(low <= high);
    uint64_t span = (uint64_t)((int64_t)high - low) + 1;
    uint64_t rest =
        (UINT64_MAX % span + 1) % span; /* 2^64 mod span: the values that would favour small results */
    uint64_t value;
    do {
        value = rng_next(state);
    } while (value > UINT64_MAX - rest);
    return (int32_t)(low + (int64_t)(value % span));
}

uint64_t rng_fork(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint64_t state = seed;
    state = rng_next(&state) ^ stream;
    state = rng_next(&state) ^ index;
    return rng_next(&state);
}

enum status poisson_schedule(int64_t **at_ns, int64_t *n, double rate, int64_t max_requests,
                             double duration_s, uint64_t seed, struct error *err)
{
    int64_t capacity = 0;
    uint64_t state = seed;
    double at_s = 0;
    *at_ns = NULL;
    *n = 0;
    assert(rate > 0 && (max_requests > 0 || duration_s > 0));
    for (;;) {
        at_s += -log1p(-rng_uniform(&state)) /
                rate; /* gaps of a Poisson process are exponential with mean 1 / rate */
        if ((max_requests && *n == max_requests) || (duration_s > 0 && at_s >= duration_s)) {
            return STATUS_OK;
        }
        if (*n == BENCH_REQUESTS_MAX || at_s > 1e9) {
            free(*at_ns);
            *at_ns = NULL;
            return error_set(err, STATUS_INVALID, "the schedule would exceed %d requests or 30 years",
                             (int)BENCH_REQUESTS_MAX);
        }
        if (*n == capacity) {
            capacity = capacity ? capacity * 2 : 1024;
            int64_t *grown = realloc(*at_ns, (size_t)capacity * sizeof *grown);
            if (!grown) {
                free(*at_ns);
                *at_ns = NULL;
                return error_set(err, STATUS_NO_MEMORY, "schedule of %lld requests: out of memory",
                                 (long long)capacity);
            }
            *at_ns = grown;
        }
        (*at_ns)[(*n)++] = (int64_t)(at_s * 1e9);
    }
}

/* ---- objectives ---- */

static const char *const METRIC_NAMES[N_SLO_METRICS] = {"ttft", "tpot", "itl", "e2e"};

static bool parse_statistic(const char *text, size_t length, int32_t *statistic)
{
    if (length == 4 && memcmp(text, "mean", 4) == 0) {
        *statistic = SLO_MEAN;
        return true;
    }
    if (length == 3 && memcmp(text, "max", 3) == 0) {
        *statistic = SLO_MAX;
        return true;
    }
    *statistic = 0;
    for (size_t i = 1; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
        *statistic = *statistic * 10 + (text[i] - '0');
    }
    return (length == 2 || length == 3) && text[0] == 'p' && text[1] != '0';
}

static bool parse_term(const char *text, size_t length, struct slo_term *term)
{
    const char *underscore = memchr(text, '_', length);
    const char *equals = memchr(text, '=', length);
    if (!underscore || !equals || equals < underscore) {
        return false;
    }
    size_t name_length = (size_t)(underscore - text);
    int32_t metric = 0;
    while (metric < N_SLO_METRICS && (strlen(METRIC_NAMES[metric]) != name_length ||
                                      memcmp(METRIC_NAMES[metric], text, name_length) != 0)) {
        metric++;
    }
    char number[32];
    size_t number_length = length - (size_t)(equals + 1 - text);
    if (metric == N_SLO_METRICS || number_length == 0 || number_length >= sizeof number ||
        strspn(equals + 1, "0123456789.") < number_length ||
        !parse_statistic(underscore + 1, (size_t)(equals - underscore - 1), &term->statistic)) {
        return false;
    }
    memcpy(number, equals + 1, number_length);
    number[number_length] = '\0';
    char *end;
    term->limit_ms = strtod(number, &end);
    term->metric = (enum slo_metric)metric;
    return *end == '\0' && term->limit_ms > 0 && isfinite(term->limit_ms);
}

enum status slo_parse(struct slo *slo, const char *text, struct error *err)
{
    *slo = (struct slo){0};
    for (;;) {
        size_t length = strcspn(text, ",");
        if (slo->n_terms == SLO_TERMS_MAX) {
            return error_set(err, STATUS_INVALID, "more than %d terms", (int)SLO_TERMS_MAX);
        }
        if (!parse_term(text, length, &slo->terms[slo->n_terms++])) {
            return error_set(
                err, STATUS_INVALID,
                "\"%.*s\" is no objective: expected (ttft|tpot|itl|e2e)_(mean|max|p1..p99)=MILLISECONDS",
                (int)(length > 60 ? 60 : length), text);
        }
        if (text[length] == '\0') {
            return STATUS_OK;
        }
        text += length + 1;
    }
}

void slo_term_name(const struct slo_term *term, char *out, size_t size)
{
    const char *metric = METRIC_NAMES[term->metric];
    if (term->statistic == SLO_MEAN || term->statistic == SLO_MAX) {
        snprintf(out, size, "%s_%s", metric, term->statistic == SLO_MEAN ? "mean" : "max");
    } else {
        snprintf(out, size, "%s_p%d", metric, (int)term->statistic);
    }
}

/* Whether the statistic of these gaps is within the limit. A percentile needs no sorting: nearest rank r is
 * within the limit exactly when at least r gaps are. */
static bool gaps_met(const struct slo_term *term, const struct request_times *times)
{
    double sum = 0;
    int64_t n_within = 0;
    for (int64_t i = 0; i < times->n_itl; i++) {
        sum += times->itl_ms[i];
        n_within += times->itl_ms[i] <= term->limit_ms;
    }
    return times->n_itl == 0 ||
           (term->statistic == SLO_MEAN ? sum / (double)times->n_itl <= term->limit_ms
                                        : n_within >= nearest_rank(term->statistic, times->n_itl));
}

bool slo_request_met(const struct slo *slo, const struct request_times *times)
{
    for (int32_t i = 0; i < slo->n_terms; i++) {
        const struct slo_term *term = &slo->terms[i];
        double value = term->metric == SLO_TTFT   ? times->ttft_ms
                       : term->metric == SLO_TPOT ? times->tpot_ms
                       : term->metric == SLO_E2E  ? times->e2e_ms
                                                  : NAN;
        if (value > term->limit_ms || (term->metric == SLO_ITL && !gaps_met(term, times))) {
            return false;
        }
    }
    return true;
}

double slo_run_value(const struct slo_term *term, const struct samples *s, int64_t n_failed)
{
    if (term->metric == SLO_ITL) {
        n_failed = 0;
    }
    if (s->n + n_failed == 0) {
        return NAN;
    }
    if (term->statistic == SLO_MEAN) {
        return n_failed ? INFINITY : samples_mean(s);
    }
    int64_t rank = nearest_rank(term->statistic, s->n + n_failed);
    return rank > s->n ? INFINITY : s->values[rank - 1];
}
