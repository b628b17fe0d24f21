/* The subcommands of `any4`. Each reads its settings from struct config, does its work and says how it went;
 * main.c turns that into the exit code. */
#ifndef SERVER_COMMAND_H
#define SERVER_COMMAND_H

#include <stdbool.h>

#include "engine/base/status.h"
#include "server/config.h"

enum exit_code {
    EXIT_CODE_DONE = 0,
    EXIT_CODE_INTERNAL = 1,
    EXIT_CODE_USAGE = 2,
    EXIT_CODE_MODEL = 3,
    EXIT_CODE_MEMORY = 4,
    EXIT_CODE_LISTEN = 5,
    EXIT_CODE_QUANTIZE = 6,
    EXIT_CODE_DEVICE = 7,
    EXIT_CODE_CUT = 8, /* the drain limit passed: requests were cut */
};

struct outcome {
    enum exit_code code; /* when the command returned STATUS_OK */
    bool abandon;        /* threads are still at work: leave without cleaning up */
};

typedef enum status command_fn(const struct config *config, struct outcome *outcome, struct error *err);

command_fn command_serve, command_generate, command_eval, command_tokenize, command_plan, command_verify,
    command_healthcheck, command_version, command_bench_decode, command_bench_kernels, command_bench_quantize,
    command_quantize;

/* The exit code of a failure. */
enum exit_code exit_code_of(enum status status);

#endif
