/* What a model takes in memory and what is left for the KV cache: decided once, before anything is loaded. */
#ifndef ENGINE_MEMORY_PLAN_H
#define ENGINE_MEMORY_PLAN_H

#include "engine/device.h"
#include "engine/engine.h"
#include "engine/model.h"

/* Fills the plan; device NULL: for the CPU. STATUS_NO_MEMORY with all numbers when it does not fit (the plan
 * is filled all the same), STATUS_INVALID when max_model_len is more than the model has positions. */
enum status memory_plan(struct engine_plan *out, const struct model *model,
                        const struct engine_options *options, const struct device *device, struct error *err);

/* The same for *device, or, where device auto found one that the model cannot use or does not fit, for the
 * CPU: then *device is closed and NULL, and the log says why. */
enum status memory_plan_on(struct engine_plan *out, struct device **device, const struct model *model,
                           const struct engine_options *options, struct error *err);

enum kv_type memory_plan_kv_type(const struct engine_options *options);
bool memory_plan_exact(const struct engine_options *options, const struct model_config *config);
int32_t memory_plan_rows(const struct engine_options *options); /* of the largest step */
int32_t memory_plan_logits(const struct engine_options *options, const struct model_config *config);

#endif
