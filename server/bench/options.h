/* The flags of `any4 bench serve`. */
#ifndef SERVER_BENCH_OPTIONS_H
#define SERVER_BENCH_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/base/status.h"
#include "server/bench/stats.h"

struct length_range {
    int32_t low, high; /* uniform, both included */
};

/* Strings are borrowed from argv or the environment. */
struct bench_options {
    char host[256], port[6];
    bool ipv6_literal; /* the Host header needs brackets */
    const char *api_key, *model;
    double rate;         /* requests per second; 0: closed loop */
    int32_t concurrency; /* closed loop; 0: open loop */
    int64_t n_requests;  /* 0: no limit, duration_s decides */
    double duration_s;   /* 0: no limit */
    struct length_range input, output;
    const char *prompts_path, *replay_path;
    int32_t n_warmup;
    uint64_t seed;
    double temperature;
    bool ignore_eos;
    bool chat;      /* /v1/chat/completions instead of /v1/completions */
    bool no_stream; /* whole answers: no TTFT, ITL, TPOT */
    struct slo slo;
    bool json, help;
    double timeout_s; /* 0: none */
    int32_t vocab;    /* 0: ask the server */
    int32_t max_in_flight;
};

/* argv[1..argc-1] are flags. An error (STATUS_INVALID) names the flag. With --help nothing else is checked.
 */
enum status bench_options_parse(struct bench_options *o, int argc, char **argv, struct error *err);
void bench_options_help(FILE *file);

#endif
