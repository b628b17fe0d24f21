/* Sampling on the card: what engine/sampler.c draws for requests without bias, penalties and bans; see
 * launch.h for what holds for every kernel. */
#ifndef KERNELS_CUDA_SAMPLING_H
#define KERNELS_CUDA_SAMPLING_H

#include <stdint.h>

#include "engine/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { CUDA_SAMPLE_MAX_VOCAB = 1 << 22 };

struct cuda_sample_row {
    int32_t logit_row;       /* negative: a dead row, its token is -1 */
    float temperature;       /* 0: greedy, the lowest id wins ties */
    float top_p, min_p;      /* 1, 0: off */
    int32_t top_k;           /* <= 0: off */
    uint64_t seed, position; /* what the random number is drawn from (kernels/random.h) */
};

/* tokens[i]: the token that rows[i] draws from row logit_row of logits (n_vocab f32, logits_stride apart); -1
 * where the largest logit is NaN or infinite. The same as sampler_draw gives, but for cuts and random numbers
 * that lie within rounding (1e-6 of the sum of weights) of the boundary between two tokens. */
enum status cuda_sample(int32_t *tokens, const float *logits, int64_t logits_stride, int32_t n_vocab,
                        const struct cuda_sample_row *rows, int32_t n_rows, void *stream, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
