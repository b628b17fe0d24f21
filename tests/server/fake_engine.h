/* engine/engine.h without a model: one thread that gives every sequence a deterministic token every token_us,
 * and faults on demand. Tokens are byte tokens of the tiny sentencepiece model of
 * tests/tokenizer/tiny_model.h. */
#ifndef TESTS_SERVER_FAKE_ENGINE_H
#define TESTS_SERVER_FAKE_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct fake_engine {
    /* Set before a request. */
    const char
        *script; /* its bytes are the tokens, then EOS; NULL: letters that begin at the seed, for ever */
    _Atomic int32_t token_us;     /* pause before each token; 0: none */
    atomic_bool full;             /* engine_submit answers STATUS_FULL */
    _Atomic int32_t room;         /* sequences that engine_submit takes at a time; 0: any number */
    _Atomic int32_t submit_us;    /* engine_submit takes so long: the HTTP thread stands still */
    _Atomic int32_t fail_at;      /* the token before which a sequence ends with FINISH_ERROR; -1: never */
    _Atomic int32_t device_bytes; /* of engine_info when it is opened: not 0, a card */
    atomic_bool cuda_exact;       /* the same */
    /* Seen. */
    _Atomic int32_t n_cancelled, n_live;
    _Atomic int32_t n_stopped; /* cancelled because their text was complete */
    _Atomic int32_t most_live; /* the greatest n_live */
};
extern struct fake_engine fake_engine;

#endif
