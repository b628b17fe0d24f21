/* Exit codes, and the commands that are a few lines: version, plan, verify, tokenize. */
#include "server/command.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"
#include "server/api.h"
#include "server/calibration.h"
#include "server/version.h"

enum exit_code exit_code_of(enum status status)
{
    switch (status) {
    case STATUS_OK:
        return EXIT_CODE_DONE;
    case STATUS_INVALID:
    case STATUS_NOT_FOUND:
        return EXIT_CODE_USAGE;
    case STATUS_BAD_MODEL:
        return EXIT_CODE_MODEL;
    case STATUS_NO_MEMORY:
        return EXIT_CODE_MEMORY;
    case STATUS_QUANTIZE:
        return EXIT_CODE_QUANTIZE;
    case STATUS_CANNOT_LISTEN:
        return EXIT_CODE_LISTEN;
    case STATUS_DEVICE:
        return EXIT_CODE_DEVICE;
    case STATUS_IO:
    case STATUS_FULL:
    case STATUS_UNAVAILABLE:
        break;
    }
    return EXIT_CODE_INTERNAL;
}

enum status command_version(const struct config *config, struct outcome *outcome, struct error *err)
{
    struct buffer out = {0};
    struct kernels kernels;
    (void)outcome;
    (void)err;
    kernels_init_cpu(&kernels, CPU_ALL);
    if (config->json) {
        struct engine_info info = {.kernels = kernels.name};
        api_write_version(&out, &info);
        printf("%s\n", buffer_string(&out));
    } else {
        printf("any4 %s (%s), kernels %s\n", ANY4_VERSION, ANY4_COMMIT, kernels.name);
    }
    buffer_finish(&out);
    return STATUS_OK;
}

static enum status read_stdin(struct buffer *out, struct error *err)
{
    enum { LIMIT = 1 << 30 };
    char piece[65536];
    size_t n;
    while ((n = fread(piece, 1, sizeof piece, stdin))) {
        if (out->length + n > LIMIT) {
            return error_set(err, STATUS_INVALID, "standard input has more than %d bytes", (int)LIMIT);
        }
        buffer_append(out, piece, n);
    }
    return out->failed     ? error_set(err, STATUS_NO_MEMORY, "out of memory for standard input")
           : ferror(stdin) ? error_set(err, STATUS_IO, "standard input cannot be read")
                           : STATUS_OK;
}

enum status command_tokenize(const struct config *config, struct outcome *outcome, struct error *err)
{
    struct tokenizer *tokenizer = NULL;
    struct buffer text = {0}, out = {0};
    int32_t *ids = NULL, n_ids = 0;
    FILE *log_file = NULL;
    (void)outcome;
    enum status status = server_check_folder(config, err);
    if (!status && !config->text == !config->from_stdin) {
        status = error_set(err, STATUS_INVALID, "give either a text or --stdin");
    }
    if (status || (status = server_open_log(config, &log_file, err))) {
        return status;
    }
    if ((status = tokenizer_open(&tokenizer, config->model, err))) {
        status = status == STATUS_NOT_FOUND ? STATUS_BAD_MODEL : status;
        goto cleanup;
    }
    if (config->from_stdin) {
        status = read_stdin(&text, err);
    } else {
        buffer_text(&text, config->text);
    }
    bool bos = !config->no_bos && tokenizer_adds_bos(tokenizer);
    size_t valid = utf8_valid_bytes(buffer_string(&text), text.length);
    if (!status && valid < text.length) {
        status = error_set(err, STATUS_INVALID, "the text is not valid UTF-8 (byte %zu)", valid);
    }
    if (status ||
        (status = tokenizer_encode(tokenizer, buffer_string(&text), text.length, bos, &ids, &n_ids, err))) {
        goto cleanup;
    }
    if (config->json) {
        buffer_text(&out, "{\"tokens\":");
        buffer_json_ids(&out, ids, n_ids);
        buffer_printf(&out, ",\"count\":%d}", (int)n_ids);
    } else {
        for (int32_t i = 0; i < n_ids; i++) {
            buffer_printf(&out, i ? " %d" : "%d", (int)ids[i]);
        }
    }
    printf("%s\n", buffer_string(&out));
cleanup:
    free(ids);
    buffer_finish(&text);
    buffer_finish(&out);
    tokenizer_close(tokenizer);
    if (log_file) {
        fclose(log_file);
    }
    return status;
}

enum unit { UNIT_COUNT, UNIT_BYTES, UNIT_TOKENS, UNIT_BITS, UNIT_RATIO, UNIT_SECONDS };

/* A line of a report: key in JSON, label for people. */
struct figure {
    const char *key, *label;
    enum unit unit;
    double value;
};

static void print_value(struct buffer *out, const struct figure *f)
{
    static const char *const prefixes[] = {"bytes", "KiB", "MiB", "GiB"};
    double v = f->value;
    int32_t prefix = 0;
    switch (f->unit) {
    case UNIT_COUNT:
        if (v >= 1e9) {
            buffer_printf(out, "%.2f billion", v / 1e9);
        } else if (v >= 1e6) {
            buffer_printf(out, "%.2f million", v / 1e6);
        } else {
            buffer_printf(out, "%.0f", v);
        }
        break;
    case UNIT_BYTES:
        for (; v >= 1024 && prefix < 3; prefix++) {
            v /= 1024;
        }
        buffer_printf(out, prefix ? "%.2f %s" : "%.0f %s", v, prefixes[prefix]);
        break;
    case UNIT_TOKENS:
        buffer_printf(out, "%.0f tokens", v);
        break;
    case UNIT_BITS:
        buffer_printf(out, "%.3f", v);
        break;
    case UNIT_RATIO:
        buffer_printf(out, "%.2f %%", 100 * v);
        break;
    case UNIT_SECONDS:
        buffer_printf(out, "%.2f s", v);
        break;
    }
}

static void print_figures(struct buffer *out, const struct figure *figures, int32_t n, bool json)
{
    for (int32_t i = 0; i < n; i++) {
        const struct figure *f = &figures[i];
        if (json) {
            buffer_printf(out, "%s\"%s\":", i ? "," : "{", f->key);
            buffer_printf(out, f->value == (double)(int64_t)f->value ? "%.0f" : "%.9g", f->value);
        } else {
            buffer_printf(out, "%-28s ", f->label);
            print_value(out, f);
            buffer_text(out, "\n");
        }
    }
}

static void print_info(const struct engine_info *info, bool json)
{
    const struct figure figures[] = {
        {"n_params", "parameters", UNIT_COUNT, (double)info->n_params},
        {"weights_bytes", "weights", UNIT_BYTES, (double)info->weights_bytes},
        {"kv_bytes", "KV cache", UNIT_BYTES, (double)info->kv_bytes},
        {"kv_bytes_per_token", "KV cache per token", UNIT_BYTES, (double)info->kv_bytes_per_token},
        {"max_model_len", "longest context", UNIT_TOKENS, info->max_model_len},
        {"bits_per_weight", "bits per quantized weight", UNIT_BITS, info->bits_per_weight},
        {"quant_error_mean", "quantization error, mean", UNIT_RATIO, info->quant_error_mean},
        {"quant_error_p95", "quantization error, p95", UNIT_RATIO, info->quant_error_p95},
        {"quant_error_max", "quantization error, largest", UNIT_RATIO, info->quant_error_max},
        {"load_seconds", "loaded in", UNIT_SECONDS, info->load_seconds},
        {"quantize_seconds", "of that quantizing", UNIT_SECONDS, info->quantize_seconds},
        {"calibrate_seconds", "and calibrating", UNIT_SECONDS, info->calibrate_seconds},
    };
    struct buffer out = {0};
    print_figures(&out, figures, sizeof figures / sizeof figures[0], json);
    const char *method = quant_method_name(info->method);
    if (json) {
        buffer_printf(&out, ",\"quant\":\"%s\",\"kernels\":\"%s\",\"cache\":\"%s\"}\n", method, info->kernels,
                      info->quant_cache);
    } else {
        buffer_printf(&out, "%-28s %s\n%-28s %s\n%-28s %s\n", "format", method, "kernels", info->kernels,
                      "cache", info->quant_cache);
    }
    fputs(buffer_string(&out), stdout);
    buffer_finish(&out);
}

enum status command_verify(const struct config *config, struct outcome *outcome, struct error *err)
{
    struct engine *engine = NULL;
    struct tokenizer *tokenizer = NULL;
    FILE *log_file = NULL;
    (void)outcome;
    enum status status = server_check_folder(config, err);
    if (status || (status = server_open_log(config, &log_file, err))) {
        return status;
    }
    if (!(status = server_open_model(config, isatty(STDERR_FILENO), &engine, &tokenizer, err))) {
        print_info(engine_get_info(engine), config->json);
    }
    engine_close(engine);
    tokenizer_close(tokenizer);
    if (log_file) {
        fclose(log_file);
    }
    return status;
}

static void print_plan(const struct engine_plan *p, bool json)
{
    const struct figure figures[] = {
        {"n_params", "parameters", UNIT_COUNT, (double)p->n_params},
        {"stored_bytes", "weights in the folder", UNIT_BYTES, (double)p->stored_bytes},
        {"quantized_bytes", "weights quantized", UNIT_BYTES, (double)p->quantized_bytes},
        {"kept_bytes", "weights kept as stored", UNIT_BYTES, (double)p->kept_bytes},
        {"bits_per_weight", "bits per quantized weight", UNIT_BITS, p->bits_per_weight},
        {"largest_tensor_bytes", "largest tensor", UNIT_BYTES, (double)p->largest_tensor_bytes},
        {"peak_load_bytes", "peak while quantizing", UNIT_BYTES, (double)p->peak_load_bytes},
        {"step_bytes", "buffers of a step", UNIT_BYTES, (double)p->step_bytes},
        {"kv_bytes_per_token", "KV cache per token", UNIT_BYTES, (double)p->kv_bytes_per_token},
        {"kv_tokens", "KV cache holds", UNIT_TOKENS, (double)p->kv_tokens},
        {"kv_bytes", "KV cache", UNIT_BYTES, (double)p->kv_bytes},
        {"max_model_len", "longest context", UNIT_TOKENS, p->max_model_len},
        {"device_weights_bytes", "weights on the device", UNIT_BYTES, (double)p->device_weights_bytes},
        {"total_bytes", "all together, when serving", UNIT_BYTES, (double)p->total_bytes},
        {"memory_limit", "memory limit", UNIT_BYTES, (double)p->memory_limit},
    };
    struct buffer out = {0};
    print_figures(&out, figures, sizeof figures / sizeof figures[0], json);
    if (json) {
        buffer_printf(&out, ",\"fits\":%s,\"reason\":", p->fits ? "true" : "false");
        buffer_json_text(&out, p->fits ? NULL : p->reason);
        buffer_text(&out, "}\n");
    } else {
        buffer_printf(&out, "%-28s %s\n", "fits", p->fits ? "yes" : "no");
    }
    fputs(buffer_string(&out), stdout);
    buffer_finish(&out);
}

enum status command_plan(const struct config *config, struct outcome *outcome, struct error *err)
{
    struct engine_options options;
    struct engine_plan plan = {0};
    char *skip = NULL;
    int32_t *calib_ids = NULL;
    (void)outcome;
    enum status status = server_check_folder(config, err);
    if (!status && !(status = server_engine_options(&options, config, &skip, err)) &&
        !(status = calibration_encode(&options, &calib_ids, config, NULL, err)) &&
        !(status = engine_plan(&plan, &options, err))) {
        print_plan(&plan, config->json);
        if (!plan.fits) {
            fflush(stdout); /* the figures first, then what they say */
            status = error_set(err, STATUS_NO_MEMORY, "does not fit: %s", plan.reason);
        }
    }
    free(calib_ids);
    free(skip);
    return status == STATUS_NOT_FOUND ? STATUS_BAD_MODEL : status;
}
