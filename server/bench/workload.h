/* What `any4 bench serve` sends and when: prompts drawn, read or replayed, and the arrival schedule. Request
 * number i of a seed is the same whatever the order, rate or concurrency. */
#ifndef SERVER_BENCH_WORKLOAD_H
#define SERVER_BENCH_WORKLOAD_H

#include <stdint.h>

#include "engine/base/status.h"
#include "server/bench/options.h"
#include "server/buffer.h"

struct workload_item {
    char *prompt;          /* its JSON, or NULL: random ids */
    int32_t input_tokens;  /* of random ids; 0: drawn */
    int32_t output_tokens; /* 0: drawn */
    double at_s;           /* replay */
};

struct workload {
    const struct bench_options *options;
    const char *model; /* NULL: the field is left out */
    int32_t vocab;
    struct workload_item *items; /* of a file; used in turn */
    int64_t n_items;
    int64_t *at_ns;                        /* planned moments from the start, NULL in a closed loop */
    int64_t n_requests;                    /* 0: until the duration is over (closed loop) */
    int64_t output_tokens_max;             /* upper bound over all requests together; 0 if open-ended */
    int32_t input_longest, output_longest; /* tokens of one request; input 0 where prompts are text */
};

/* Reads the files of the options (borrowed) and draws the schedule. model and vocab are what the server said;
 * options win. Errors name file and line. Refuses a run of more than SAMPLES_MAX tokens: every latency is
 * kept. */
enum status workload_open(struct workload *w, const struct bench_options *options, const char *model,
                          int32_t vocab, struct error *err);
void workload_close(struct workload *w); /* accepts zeroed memory */

/* Appends the whole HTTP request number `index` to out. Warm-up requests draw other prompts than the measured
 * ones (from a file: backwards from its end), so that a prefix cache does not know the measured prompts. */
void workload_write(const struct workload *w, int64_t index, bool warmup, struct buffer *out);

/* A GET of the same server. */
void workload_write_get(const struct bench_options *o, const char *path, struct buffer *out);

#endif
