/* The quantized linears of a model on disk: which file they would be in, whether that file is theirs, and
 * writing it behind the server's back. quant/cache.h knows the file; here is what it depends on.
 *
 * A file's name is METHOD-KEY-CONTENT.safetensors. KEY: config.json, names, types and shapes of the tensors,
 * sizes of the shards, settings, calibration ids, versions. CONTENT: the shards' bytes. So that those need
 * not be read at every start, a note per model folder (HASH.source) says what content its shards had at which
 * times; when a time has changed, the bytes decide. */
#ifndef ENGINE_MODEL_CACHE_H
#define ENGINE_MODEL_CACHE_H

#include "engine/base/thread_pool.h"
#include "engine/model.h"

struct model_cache;

/* Looks for the linears of a bound model that are to be quantized; on a hit w and stats of all of them are
 * filled in and point into the cache. Cannot fail: what goes wrong is a line in the log and no hit. NULL: no
 * cache is wanted (options->quant_cache is NULL, or nothing is to be quantized). */
struct model_cache *model_cache_open(struct model *model, const struct engine_options *options,
                                     struct thread_pool *pool);
bool model_cache_is_hit(const struct model_cache *cache); /* NULL: no */

/* Starts a thread that writes what the cache did not have. The model must be loaded, and stay until close. */
void model_cache_start_write(struct model_cache *cache);
/* Waits for that thread. Also without one: tells what is there. NULL: STATUS_UNAVAILABLE. */
void model_cache_wait(struct model_cache *cache, struct engine_cache_result *out);

/* Nobody reads the linears' weights on the host any more: model_free_weights, as soon as they are written.
 * NULL or without a thread: at once. At most one call. */
void model_cache_release_weights(struct model_cache *cache, struct model *model);

/* State and path for reports; NULL: off. */
void model_cache_describe(const struct model_cache *cache, struct engine_info *info);

/* Stops a writing thread; the linears of a hit are gone then. Accepts NULL. */
void model_cache_close(struct model_cache *cache);

#endif
