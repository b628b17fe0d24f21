/* Random completion requests, and their answers in one form whichever way they came: what must be equal alone
 * and in a crowd, as a body and as a stream. */
#ifndef TESTS_STRESS_SAMPLE_H
#define TESTS_STRESS_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/stress/client.h"

struct sample {
    char *plain;  /* body of the request with "stream": false */
    char *wire;   /* as it is sent in the crowd: the same or streamed */
    bool stream;  /* wire is streamed */
    bool matches; /* has stop strings: its sequences may end as cancelled */
    char *alone;  /* the answer alone, in one form */
};

/* A generator of its own per use: xorshift, the same everywhere. state must not be 0. */
uint64_t random_next(uint64_t *state);
int32_t random_between(uint64_t *state, int32_t low, int32_t high); /* both included */

void sample_make(struct sample *sample, uint64_t *random, int32_t vocab_size);
void sample_finish(struct sample *sample);

/* Body of a streamed request (or not) that goes on for max_tokens tokens whatever it says. */
char *endless_request(uint64_t *random, int32_t vocab_size, int32_t n_prompt, int32_t max_tokens, int32_t n,
                      bool stream);

/* Texts, ids, logprobs, reasons and usage of a complete answer of status 200 as text (malloc), from a body or
 * a stream. NULL and *fault (static) when it is malformed or holds an error. */
char *answer_form(struct answer *answer, const char **fault);
/* The "code" in the error of an answer (a body, or the last event of a stream), copied; "" when there is
 * none. */
void answer_error_code(struct answer *answer, char *code, size_t size);

#endif
