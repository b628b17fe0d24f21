/* Errors per tensor, their sums, the limit on them, and the figures of a loaded model. */
#include "engine/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/log.h"
#include "engine/memory_plan.h"
#include "engine/model_cache.h"

static const char *kind_name(enum any4_kind kind)
{
    switch (kind) {
    case ANY4_F32:
        return "f32";
    case ANY4_F16:
        return "f16";
    case ANY4_BF16:
        return "bf16";
    case ANY4_LUT:
        return "lut";
    case ANY4_LUT_INT8:
        return "lut-int8";
    case ANY4_LINEAR:
        return "linear";
    }
    return "unknown";
}

static struct quant_tensor describe(const struct linear *linear)
{
    const struct quant_stats *s = &linear->stats;
    struct quant_tensor tensor = {.name = linear->name,
                                  .n_rows = linear->w.n_rows,
                                  .n_cols = linear->w.n_cols,
                                  .kind = kind_name(linear->w.kind)};
    double bits = 8.0 * (double)linear->w.n_rows * (double)linear->w.row_bytes;
    if (linear->quantize) {
        bits = (double)(s->code_bits + s->table_bits);
        tensor.code_bits = linear->w.code_bits;
        tensor.group_size = linear->w.group_size;
        tensor.rel_error = s->weighted_energy > 0 ? sqrt(s->weighted_error / s->weighted_energy) : 0;
        tensor.worst_row = s->worst_row;
        tensor.worst_row_error = s->max_row_error;
    }
    tensor.bits_per_weight = bits / (double)linear->source->n_elements;
    return tensor;
}

/* Largest error first; of equal ones the earlier tensor, so that the order is the same in every run. */
static int by_error(const void *a, const void *b)
{
    const struct quant_tensor *x = *(const struct quant_tensor *const *)a;
    const struct quant_tensor *y = *(const struct quant_tensor *const *)b;
    return x->rel_error > y->rel_error ? -1 : x->rel_error < y->rel_error ? 1 : x < y ? -1 : x > y;
}

static void summarize(struct quant_report *report, const struct quant_tensor **order)
{
    int64_t n = report->n_quantized;
    double sum = 0;
    if (!n) {
        return;
    }
    qsort(order, (size_t)n, sizeof(const struct quant_tensor *), by_error);
    for (int64_t i = n - 1; i >= 0; i--) {
        sum += order[i]->rel_error;
    }
    report->mean = sum / (double)n;
    report->max = order[0]->rel_error;
    /* Nearest rank: the smallest error that 95 % of the tensors do not exceed. */
    report->p95 = order[n - (95 * n + 99) / 100]->rel_error;
    report->n_worst = n < QUANT_REPORT_WORST ? (int32_t)n : QUANT_REPORT_WORST;
    for (int32_t i = 0; i < report->n_worst; i++) {
        report->worst[i] = order[i];
    }
}

static enum status check_limit(const struct quant_report *report, const struct engine_options *options,
                               struct error *err)
{
    int64_t n_over = 0;
    for (int64_t i = 0; i < report->n_tensors; i++) {
        n_over += report->tensors[i].rel_error > options->quant_max_error;
    }
    if (!(options->quant_max_error > 0) || !n_over) {
        return STATUS_OK;
    }
    return error_set(err, STATUS_QUANTIZE,
                     "%s: quantized by %s, tensor %s has a relative error of %.6g, over quant_max_error %g "
                     "(%lld of %lld tensors are)",
                     options->model_dir, quant_method_name(options->quant.method), report->worst[0]->name,
                     report->worst[0]->rel_error, options->quant_max_error, (long long)n_over,
                     (long long)report->n_quantized);
}

enum status quant_report_init(struct quant_report *report, const struct model *model,
                              const struct engine_options *options, struct error *err)
{
    size_t n = (size_t)model->n_linears;
    struct quant_tensor *tensors = calloc(n, sizeof *tensors);
    const struct quant_tensor **order = calloc(n, sizeof(const struct quant_tensor *));
    *report = (struct quant_report){.tensors = tensors, .n_tensors = model->n_linears};
    if (!tensors || !order) {
        free(order);
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory for the report on %zu tensors",
                         options->model_dir, n);
    }
    for (int64_t i = 0; i < model->n_linears; i++) {
        tensors[i] = describe(&model->linears[i]);
        if (model->linears[i].quantize) {
            order[report->n_quantized++] = &tensors[i];
        }
    }
    summarize(report, order);
    free(order);
    return check_limit(report, options, err);
}

void quant_report_finish(struct quant_report *report)
{
    free((void *)(uintptr_t)report->tensors);
    *report = (struct quant_report){0};
}

static void log_worst(const struct quant_report *report)
{
    enum { SHOWN = 3 };
    char text[1024];
    int used = 0;
    for (int32_t i = 0; i < report->n_worst && i < SHOWN; i++) {
        const struct quant_tensor *t = report->worst[i];
        used += snprintf(text + used, sizeof text - (size_t)used, "%s%s %.2f %% (row %d: %.2f %%)",
                         i ? ", " : "", t->name, 100 * t->rel_error, t->worst_row, 100 * t->worst_row_error);
    }
    log_info("largest errors: %s", text);
}

void quant_report_log(const struct quant_report *report, const struct engine_info *info,
                      enum quant_report_level level)
{
    if (level == QUANT_REPORT_OFF || !report->n_quantized) {
        return;
    }
    double weights = (double)info->quantized_weights;
    log_info("%s: %lld of %lld linear layers quantized, relative error mean %.2f %%, p95 %.2f %%, largest "
             "%.2f %%; %.3f bits per weight (codes and scales %.3f, tables %.3f)",
             quant_method_name(info->method), (long long)report->n_quantized, (long long)report->n_tensors,
             100 * report->mean, 100 * report->p95, 100 * report->max, info->bits_per_weight,
             (double)info->code_bits / weights, (double)info->table_bits / weights);
    log_worst(report);
    for (int64_t i = 0; level == QUANT_REPORT_FULL && i < report->n_tensors; i++) {
        const struct quant_tensor *t = &report->tensors[i];
        if (t->code_bits) {
            log_info(
                "%-48s %6d x %-6d %-8s %d-bit g%-3d %7.3f bits/weight, error %6.2f %%, row %-5d %6.2f %%",
                t->name, t->n_rows, t->n_cols, t->kind, t->code_bits, t->group_size, t->bits_per_weight,
                100 * t->rel_error, t->worst_row, 100 * t->worst_row_error);
        } else {
            log_info("%-48s %6d x %-6d %-8s as stored", t->name, t->n_rows, t->n_cols, t->kind);
        }
    }
}

void engine_info_fill(struct engine_info *info, const struct model *model, const struct quant_report *report,
                      const struct engine_options *options, const struct engine_plan *plan)
{
    int64_t stored_weights = 0;
    double stored_bits = 0;
    *info = (struct engine_info){
        .config = model->config,
        .max_model_len = plan->max_model_len,
        .n_params = model->n_params,
        .weights_bytes = plan->quantized_bytes + plan->kept_bytes,
        .kv_bytes_per_token = plan->kv_bytes_per_token,
        .method = options->quant.method,
        .group_size = options->quant.group_size,
        .kv_type = memory_plan_kv_type(options),
        .cuda_exact = plan->on_device && memory_plan_exact(options, &model->config),
        .load_seconds = model->load_seconds,
        .quantize_seconds = model->quantize_seconds,
        .quant_error_mean = report->mean,
        .quant_error_p95 = report->p95,
        .quant_error_max = report->max,
    };
    model_cache_describe(model->cache, info);
    for (int64_t i = 0; i < model->n_linears; i++) {
        const struct linear *linear = &model->linears[i];
        if (!linear->quantize) {
            stored_weights += linear->source->n_elements;
            stored_bits += 8.0 * (double)linear->w.n_rows * (double)linear->w.row_bytes;
            continue;
        }
        info->code_bits += linear->stats.code_bits;
        info->table_bits += linear->stats.table_bits;
        info->quantized_weights += linear->source->n_elements;
        info->group_size = linear->w.group_size;
    }
    if (options->bits_per_weight > 0) { /* the plan knew the budget, not what was made of it */
        info->weights_bytes = plan->kept_bytes + (size_t)(info->code_bits + info->table_bits) / 8;
    }
    info->bits_per_weight = info->quantized_weights ? (double)(info->code_bits + info->table_bits) /
                                                          (double)info->quantized_weights
                                                    : stored_bits / (double)stored_weights;
}
