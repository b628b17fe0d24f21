/* A model opened for evaluation alone: no thread of its own, no scheduler, no sampler. The caller's thread
 * drives the steps and gets the logits of every position, so that two models can walk through a text side by
 * side. */
#ifndef ENGINE_SCORE_H
#define ENGINE_SCORE_H

#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/thread_pool.h"
#include "engine/engine.h"

struct scorer;

/* Loads and quantizes as engine_open does, with room for one text of at most max_ids ids at a time
 * (STATUS_INVALID where the model has fewer positions). Of options those about batches, queue and thread
 * count do not matter. pool is borrowed and may be shared by several scorers. */
enum status scorer_open(struct scorer **out, const struct engine_options *options, int32_t max_ids,
                        struct thread_pool *pool, struct error *err);
void scorer_close(struct scorer *scorer); /* accepts NULL */

const struct engine_info *scorer_get_info(const struct scorer *scorer);

/* Ids that a step takes at most: equal for models of one vocabulary, and small enough for its logits to stay
 * small (64 MiB, or one row). */
int32_t scorer_max_step(const struct scorer *scorer);

/* Goes on with the text by n_ids ids (1 to scorer_max_step, each below vocab_size) that stand at position and
 * behind; position 0 begins another text. Returns their logits (n_ids, vocab_size) f32, valid until the next
 * step: row i is about the id behind ids[i]. NULL when a device failed. The bits of a row do not depend on
 * how a text is cut in steps. */
const float *scorer_step(struct scorer *scorer, int32_t position, const int32_t *ids, int32_t n_ids);

#endif
