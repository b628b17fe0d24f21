/* Runs a text through the model while its linears are loaded: each one is quantized when the inputs that it
 * will see are known, and everything behind it is computed with what it became. quant/ only uses the
 * statistics that are taken here; they do not depend on thread count or instruction set. */
#ifndef ENGINE_CALIBRATE_H
#define ENGINE_CALIBRATE_H

#include "engine/base/thread_pool.h"
#include "engine/model.h"
#include "quant/feedback.h"

enum {
    CALIBRATE_MAX_SEQUENCE = 2048, /* a longer text is cut; the model's context where that is shorter */
    CALIBRATE_MAX_TOKENS = 1 << 20,
};

/* STATUS_INVALID: more ids than CALIBRATE_MAX_TOKENS or none, or one beyond the vocabulary. */
enum status calibrate_check(const struct model_config *config, const int32_t *ids, int32_t n_ids,
                            struct error *err);

/* Bytes of memory that a run over (checked) ids takes besides the model; error_feedback: with the matrices
 * that it needs, those of n_threads threads included. */
size_t calibrate_bytes(const struct model_config *config, const int32_t *ids, int32_t n_ids,
                       bool error_feedback, int32_t n_threads);

/* What the input of a linear looked like; borrowed. */
struct calibration {
    struct quant_moments moments;
    const struct feedback *feedback; /* NULL unless it was asked for and the linear is to be quantized */
};

/* Fills linear->w. input is NULL for a router, which is never quantized. */
typedef enum status calibrate_load_fn(void *context, struct linear *linear, const struct calibration *input,
                                      struct error *err);

/* Called before the linears behind one norm are loaded. *scales: (n_cols) powers of two that their columns
 * are multiplied by and the norm's gains are divided by from now on; NULL: nothing has changed. */
typedef enum status calibrate_scale_fn(void *context, const float **scales, struct linear *const *linears,
                                       int32_t n_linears, const struct quant_moments *moments,
                                       struct error *err);

/* Loads every linear of the model by `load`, in the order of computation; norms must be there already. ids:
 * the text with BOS in front, where the model has one; texts longer than a sequence are cut into several,
 * each behind BOS. error_feedback: second moments between columns are taken as well. cpu_flags change the
 * speed only. scale: NULL, or asked for the groups that a norm feeds alone (q, k and v; gate and up of dense
 * models; the head). An id beyond the vocabulary: STATUS_INVALID; failures of load and scale are handed
 * through. */
enum status calibrate_run(const struct model *model, const int32_t *ids, int32_t n_ids, bool error_feedback,
                          unsigned cpu_flags, struct thread_pool *pool, calibrate_load_fn *load,
                          calibrate_scale_fn *scale, void *context, struct error *err);

#endif
