/* Logits -> token: bias, penalties, temperature, top-k, top-p, min-p, draw, in this order. Random numbers are
 * a function of (seed, position) alone, so a sequence's tokens do not depend on what else runs or on
 * preemption. */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/engine.h"

/* Scratch of one thread. */
struct sampler;

enum status sampler_open(struct sampler **out, int32_t vocab_size, struct error *err);
void sampler_close(struct sampler *sampler); /* accepts NULL */

/* What a sequence's state contributes. */
struct sampler_context {
    const struct generate_params *params;
    const int32_t *prompt; /* n_prompt ids */
    int32_t n_prompt;
    const int32_t *output; /* n_output ids generated so far */
    int32_t n_output;
    const int32_t *banned; /* n_banned ids that must not be drawn now (end tokens before min_tokens) */
    int32_t n_banned;
};

/* Draws a token from logits (vocab_size f32, not changed). Position n_output keys the random number. -1 when
 * the logits are not usable: their largest is NaN or infinite. Bans that would leave nothing are ignored. */
int32_t sampler_draw(struct sampler *sampler, const float *logits, const struct sampler_context *context);

/* Log softmax of the raw logits (before bias, penalties, temperature and filters): *chosen gets token's, top
 * the n_top best (descending; ties to the lower id). False when the logits are not usable. */
bool sampler_logprobs(struct sampler *sampler, const float *logits, int32_t token,
                      struct token_logprob *chosen, struct token_logprob *top, int32_t n_top);

/* Uniform in [0, 1): 53 bits, a counter-based generator keyed by (seed, position). */
double sampler_uniform(uint64_t seed, uint64_t position);

#endif
