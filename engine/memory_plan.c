/* The memory plan: weights and step buffers first, the KV cache gets a share of what is left. */
#include "engine/memory_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "engine/base/cgroup.h"
#include "engine/base/log.h"
#include "engine/calibrate.h"
#include "engine/device_forward.h"
#include "engine/device_weights.h"
#include "engine/forward.h"
#include "engine/kv_cache.h"
#include "engine/loader.h"
#include "engine/sensitivity.h"

/* Logits of a step are kept small beside the model: 64 MiB, but never fewer rows than sequences. */
enum { LOGITS_BYTES = 64 << 20, LOAD_SCRATCH_BYTES = 8 << 20 };

enum kv_type memory_plan_kv_type(const struct engine_options *options)
{
    switch (options->kv_type) {
    case KV_CHOICE_F32:
        return KV_F32;
    case KV_CHOICE_F16:
        return KV_F16;
    case KV_CHOICE_BF16:
        return KV_BF16;
    case KV_CHOICE_AUTO:
        break;
    }
    return options->quant.method == QUANT_NONE ? KV_F32 : KV_BF16;
}

/* Activations on a device in two parts. */
bool memory_plan_exact(const struct engine_options *options, const struct model_config *config)
{
    return options->cuda_precision == CUDA_PRECISION_EXACT ||
           (options->cuda_precision == CUDA_PRECISION_AUTO && config->n_experts);
}

int32_t memory_plan_rows(const struct engine_options *options)
{
    return options->prefill_chunk > options->max_running ? options->prefill_chunk : options->max_running;
}

int32_t memory_plan_logits(const struct engine_options *options, const struct model_config *config)
{
    int64_t n = LOGITS_BYTES / ((int64_t)config->vocab_size * 4);
    int64_t max = memory_plan_rows(options);
    n = n > max ? max : n;
    return (int32_t)(n < options->max_running ? options->max_running : n);
}

/* MemAvailable in bytes, 0 where it cannot be read. */
static size_t meminfo_available(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    while (file && fgets(line, sizeof line, file) && sscanf(line, "MemAvailable: %llu", &kib) != 1) {
    }
    if (file) {
        fclose(file);
    }
    return (size_t)kib * 1024;
}

/* What this process may still take: the machine's available memory, or less where a control group says so. */
static size_t memory_available(void)
{
    size_t available = meminfo_available();
    struct sysinfo info;
    if (!available && sysinfo(&info) == 0) { /* no /proc, as in a bare chroot */
        available = (size_t)(info.freeram + info.bufferram) * info.mem_unit;
    }
    size_t left = cgroup_memory_left();
    available = left < available ? left : available;
    return available / 10 * 9;
}

/* "12.3 MiB": text for one message, in a buffer of the caller's. */
static const char *human(char text[32], size_t bytes)
{
    double value = (double)bytes;
    const char *unit = "bytes";
    if (value >= 1024.0 * 1024 * 1024) {
        value /= 1024.0 * 1024 * 1024;
        unit = "GiB";
    } else if (value >= 1024.0 * 1024) {
        value /= 1024.0 * 1024;
        unit = "MiB";
    } else if (value >= 1024.0) {
        value /= 1024.0;
        unit = "KiB";
    }
    snprintf(text, 32, bytes < 1024 ? "%.0f %s" : "%.1f %s", value, unit);
    return text;
}

/* Why a plan does not fit, in words and numbers; context_bytes is the KV cache of one whole context. */
static void explain(struct engine_plan *p, size_t load_limit, size_t context_bytes)
{
    char limit[32], weights[32], kept[32], step[32], kv[32], peak[32], tensor[32];
    human(limit, p->memory_limit);
    human(kept, p->kept_bytes);
    if (p->peak_load_bytes > load_limit) {
        human(limit, load_limit);
        snprintf(p->reason, sizeof p->reason,
                 "loading takes %s at its peak (quantized weights %s, weights kept as stored %s, "
                 "the largest tensor %s while it is quantized); the limit is %s",
                 human(peak, p->peak_load_bytes), human(weights, p->quantized_bytes), kept,
                 human(tensor, p->largest_tensor_bytes), limit);
    } else {
        snprintf(p->reason, sizeof p->reason,
                 "%sweights take %s, the buffers of a step %s, "
                 "and the KV cache of one context of %d tokens %s; the limit is %s%s",
                 p->on_device ? "on the device " : "",
                 human(weights, p->on_device ? p->device_weights_bytes : p->quantized_bytes + p->kept_bytes),
                 human(step, p->step_bytes), p->max_model_len, human(kv, context_bytes), limit,
                 p->kv_bytes < context_bytes
                     ? " (max_model_len, max_memory or kv_cache_tokens can change that)"
                     : "");
    }
}

/* What a device must hold beside the KV cache. */
static enum status plan_device(struct engine_plan *p, const struct model *model,
                               const struct engine_options *options, const struct device *device,
                               struct error *err)
{
    const struct model_config *config = &model->config;
    struct device_limits limits = {.max_rows = memory_plan_rows(options),
                                   .max_logits = memory_plan_logits(options, config),
                                   .max_sequences = options->max_running,
                                   .n_positions = p->max_model_len,
                                   .batch_invariant = options->batch_invariant,
                                   .exact = memory_plan_exact(options, config)};
    size_t staging = 0;
    if (config->n_experts && options->bits_per_weight > 0) {
        return error_set(err, STATUS_INVALID,
                         "bits_per_weight gives experts different widths, which have no CUDA kernel: use "
                         "--device cpu");
    }
    enum status status = device_forward_bytes(&p->step_bytes, device, config, &limits, err);
    if (status || (status = device_weights_bytes(&p->device_weights_bytes, &staging, model, options,
                                                 p->max_model_len, err))) {
        return status;
    }
    p->on_device = true;
    /* The rest is for the driver, and for what fragments. */
    p->memory_limit = options->max_memory ? options->max_memory : device->card.free_bytes / 20 * 19;
    /* Beside the loaded weights: what threads copy from, and the logits that the device leaves. */
    size_t n_threads = (size_t)(options->n_threads ? options->n_threads : thread_pool_usual_threads());
    size_t copying = p->quantized_bytes + p->kept_bytes + n_threads * staging +
                     (size_t)limits.max_logits * (size_t)config->vocab_size * sizeof(float);
    p->peak_load_bytes = p->peak_load_bytes > copying ? p->peak_load_bytes : copying;
    return STATUS_OK;
}

enum status memory_plan(struct engine_plan *out, const struct model *model,
                        const struct engine_options *options, const struct device *device, struct error *err)
{
    const struct model_config *config = &model->config;
    int64_t n_quantized = 0;
    *out = (struct engine_plan){
        .config = *config,
        .n_params = model->n_params,
        .stored_bytes = model->stored_bytes,
        .largest_tensor_bytes = model->largest_tensor_bytes,
        .max_model_len = options->max_model_len ? options->max_model_len : config->max_positions,
        .memory_limit = options->max_memory ? options->max_memory : memory_available(),
        .kv_bytes_per_token = kv_cache_bytes_per_token(config, memory_plan_kv_type(options)),
        .step_bytes = forward_bytes(config, memory_plan_rows(options), memory_plan_logits(options, config)),
    };
    if (out->max_model_len > config->max_positions || out->max_model_len < 1) {
        return error_set(err, STATUS_INVALID, "max_model_len %d: this model has positions for 1 to %d tokens",
                         options->max_model_len, config->max_positions);
    }
    if (options->error_feedback && !feedback_takes(options->quant.method)) {
        return error_set(err, STATUS_INVALID, "error_feedback works with any4, any3 and any2, not with %s",
                         quant_method_name(options->quant.method));
    }
    if (options->channel_scaling && quant_weighting_of(&options->quant) == QUANT_WEIGHTING_NONE) {
        return error_set(err, STATUS_INVALID,
                         "channel_scaling goes by moments, which %s with quant_weighting %s does not take",
                         quant_method_name(options->quant.method),
                         quant_weighting_name(options->quant.weighting));
    }
    if (options->channel_scaling && !options->n_calib_ids) {
        return error_set(err, STATUS_INVALID, "channel_scaling needs a calibration text");
    }
    if (options->error_feedback && !options->n_calib_ids) {
        return error_set(err, STATUS_INVALID, "error_feedback needs a calibration text");
    }
    loader_plan(model, options, &out->quantized_bytes, &out->kept_bytes);
    int64_t n_stored = 0, stored_bytes = 0;
    for (int64_t i = 0; i < model->n_linears; i++) {
        const struct linear *linear = &model->linears[i];
        n_quantized += linear->quantize ? linear->source->n_elements : 0;
        n_stored += linear->source->n_elements;
        stored_bytes += (int64_t)linear->source->n_bytes;
    }
    if (options->bits_per_weight > 0 && options->quant.method != QUANT_ANY4) {
        return error_set(err, STATUS_INVALID,
                         "bits_per_weight mixes widths of any4, with quant %s it means nothing",
                         quant_method_name(options->quant.method));
    }
    if (options->bits_per_weight > 0 && !options->n_calib_ids) {
        return error_set(err, STATUS_INVALID, "bits_per_weight needs a calibration text");
    }
    size_t measured_bytes = 0; /* while widths are chosen everything stands there as any4 */
    if (options->bits_per_weight > 0) {
        const double widest = 8.5; /* int8 with its scales and padding: more is not used */
        double bits = options->bits_per_weight < widest ? options->bits_per_weight : widest;
        size_t most = (size_t)(bits / 8 * (double)n_quantized);
        measured_bytes = (out->quantized_bytes > most ? out->quantized_bytes - most : 0) +
                         sensitivity_bytes(config, options->n_calib_ids);
        out->quantized_bytes = most;
    }
    out->bits_per_weight = n_quantized ? 8.0 * (double)out->quantized_bytes / (double)n_quantized
                                       : 8.0 * (double)stored_bytes / (double)n_stored;
    /* While one tensor is quantized its pages and scratch are resident beside everything that is done. */
    out->peak_load_bytes = measured_bytes + out->quantized_bytes + out->kept_bytes +
                           2 * out->largest_tensor_bytes + LOAD_SCRATCH_BYTES;
    if (options->rotation) { /* one tensor stands there in f32 at a time */
        out->peak_load_bytes += 2 * out->largest_tensor_bytes;
    }
    if (options->error_feedback && quant_weighting_of(&options->quant) == QUANT_WEIGHTING_NONE) {
        return error_set(err, STATUS_INVALID,
                         "error_feedback weighs columns: quant_weighting none turns it off");
    }
    if (options->n_calib_ids && options->quant.method != QUANT_NONE) {
        enum status status = calibrate_check(config, options->calib_ids, options->n_calib_ids, err);
        if (status) {
            return status;
        }
        out->peak_load_bytes +=
            calibrate_bytes(config, options->calib_ids, options->n_calib_ids, options->error_feedback,
                            options->n_threads ? options->n_threads : thread_pool_usual_threads());
    }

    const size_t load_limit = device ? memory_available() : out->memory_limit;
    size_t fixed = out->quantized_bytes + out->kept_bytes + out->step_bytes;
    if (device) {
        enum status status = plan_device(out, model, options, device, err);
        if (status) {
            return status;
        }
        fixed = out->device_weights_bytes + out->step_bytes;
    }
    size_t left = out->memory_limit > fixed ? out->memory_limit - fixed : 0;
    /* Without an order from outside, half of what is left stays free for others, but a device is ours. */
    size_t kv_limit = options->max_memory || device ? left : left / 2;
    int64_t block_bytes = (int64_t)out->kv_bytes_per_token * KV_BLOCK_TOKENS;
    int64_t blocks_per_sequence = (out->max_model_len + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    int64_t n_blocks = blocks_per_sequence * options->max_running;
    int64_t n_fitting = (int64_t)kv_limit / block_bytes;
    if (options->kv_cache_tokens) {
        n_blocks = (options->kv_cache_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
        if (options->max_model_len && n_blocks < blocks_per_sequence) {
            return error_set(err, STATUS_INVALID, "kv_cache_tokens %lld is less than max_model_len %d",
                             (long long)options->kv_cache_tokens, options->max_model_len);
        }
        if (n_blocks > n_fitting || n_blocks > INT32_MAX / KV_BLOCK_TOKENS) {
            out->kv_bytes = (size_t)n_blocks * (size_t)block_bytes;
            explain(out, load_limit, out->kv_bytes);
            return error_set(err, STATUS_NO_MEMORY, "%s: kv_cache_tokens %lld does not fit: %s",
                             options->model_dir, (long long)options->kv_cache_tokens, out->reason);
        }
    }
    n_blocks = n_blocks < n_fitting ? n_blocks : n_fitting;
    n_blocks = n_blocks < INT32_MAX / KV_BLOCK_TOKENS ? n_blocks : INT32_MAX / KV_BLOCK_TOKENS;
    bool loads = out->peak_load_bytes <= load_limit;
    if (loads && n_blocks < blocks_per_sequence && !options->max_model_len && n_blocks >= 1) {
        blocks_per_sequence = n_blocks;
        out->max_model_len = (int32_t)(n_blocks * KV_BLOCK_TOKENS);
        log_warning("room for %d tokens of KV cache only: max_model_len is cut from %d to %d",
                    out->max_model_len, config->max_positions, out->max_model_len);
    }
    out->fits = loads && n_blocks >= blocks_per_sequence;
    out->kv_tokens = n_blocks * KV_BLOCK_TOKENS;
    out->kv_bytes = (size_t)(n_blocks * block_bytes);
    out->total_bytes = fixed + out->kv_bytes;
    if (!out->fits) {
        explain(out, load_limit, (size_t)(blocks_per_sequence * block_bytes));
        return error_set(err, STATUS_NO_MEMORY, "%s does not fit: %s", options->model_dir, out->reason);
    }
    return STATUS_OK;
}

enum status memory_plan_on(struct engine_plan *out, struct device **device, const struct model *model,
                           const struct engine_options *options, struct error *err)
{
    struct error why = {0};
    enum status status = memory_plan(out, model, options, *device, &why);
    if ((status == STATUS_NO_MEMORY || status == STATUS_INVALID) && *device &&
        options->device == DEVICE_AUTO) {
        struct engine_plan plan;
        struct error fault;
        if (!memory_plan(&plan, model, options, NULL, &fault)) {
            log_warning("the CPU computes, not %s: %s", (*device)->card.name, why.message);
            device_close(*device);
            *device = NULL;
            *out = plan;
            return STATUS_OK;
        }
    }
    return status ? error_set(err, status, "%s", why.message) : STATUS_OK;
}
