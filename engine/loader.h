/* Walks a bound model's tensors, quantizes the linears, places them, gives the consumed pages back. */
#ifndef ENGINE_LOADER_H
#define ENGINE_LOADER_H

#include "engine/base/thread_pool.h"
#include "engine/model.h"

/* Bytes that the loaded weights will take in memory (quantized and copied ones), and those read in the file's
 * pages. */
void loader_plan(const struct model *model, const struct engine_options *options, size_t *placed_bytes,
                 size_t *kept_bytes);

/* Fills every linear and norm. NaN or Inf in a weight to quantize: STATUS_QUANTIZE naming tensor, row and
 * column. */
enum status loader_run(struct model *model, const struct engine_options *options, struct thread_pool *pool,
                       struct error *err);

#endif
