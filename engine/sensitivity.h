/* How much a model's answers change when something in it changes: mean KL divergence over the first tokens of
 * a text. The steps run on the fixed-order kernels. */
#ifndef ENGINE_SENSITIVITY_H
#define ENGINE_SENSITIVITY_H

#include "engine/base/thread_pool.h"
#include "engine/model.h"

enum { SENSITIVITY_TOKENS = 256 };

struct sensitivity;

/* Bytes that it takes. */
size_t sensitivity_bytes(const struct model_config *config, int32_t n_ids);

/* Remembers the answers of a loaded model as it stands. Of ids the first SENSITIVITY_TOKENS are used, fewer
 * where the context is shorter. Everything is borrowed; ids are below the vocabulary's size. */
enum status sensitivity_open(struct sensitivity **out, const struct model *model, const int32_t *ids,
                             int32_t n_ids, unsigned cpu_flags, struct thread_pool *pool, struct error *err);
void sensitivity_close(struct sensitivity *sensitivity); /* accepts NULL */

/* The divergence of the model as it stands now from what is remembered; infinite where logits are not
 * finite. */
double sensitivity_measure(struct sensitivity *sensitivity);

#endif
