/* What is known of a model once it is loaded: its figures, and how well each of its tensors came out. */
#ifndef ENGINE_REPORT_H
#define ENGINE_REPORT_H

#include "engine/base/status.h"
#include "engine/engine.h"
#include "engine/model.h"

/* Fills the report; tensors point into the model. STATUS_QUANTIZE naming the worst tensor, its error and the
 * limit where one is over options->quant_max_error. Finish it whatever the outcome. */
enum status quant_report_init(struct quant_report *report, const struct model *model,
                              const struct engine_options *options, struct error *err);
void quant_report_finish(struct quant_report *report);

/* Says in the log what options->quant_report asks for; nothing where no tensor was quantized. */
void quant_report_log(const struct quant_report *report, const struct engine_info *info,
                      enum quant_report_level level);

/* What engine_info has of model, report and plan. */
void engine_info_fill(struct engine_info *info, const struct model *model, const struct quant_report *report,
                      const struct engine_options *options, const struct engine_plan *plan);

#endif
