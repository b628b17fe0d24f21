/* Exit codes, and the commands that are a few lines: version, plan, verify, tokenize. */
#include "server/command.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"
#include "server/api.h"
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

static enum status need_model(const struct config *config, struct error *err)
{
    return config->model && *config->model
               ? STATUS_OK
               : error_set(err, STATUS_INVALID, "the model folder is missing: give it as the first argument");
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
    enum status status = need_model(config, err);
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

static void print_pair(struct buffer *out, bool json, const char *key, double value, const char *unit)
{
    if (json) {
        buffer_printf(out, "%s\"%s\":", out->length > 1 ? "," : "", key);
        buffer_printf(out, value == (double)(int64_t)value ? "%.0f" : "%.9g", value);
    } else {
        buffer_printf(out, "%-24s %.10g %s\n", key, value, unit);
    }
}

static enum status print_info(const struct engine_info *info, bool json)
{
    struct buffer out = {0};
    buffer_text(&out, json ? "{" : "");
    print_pair(&out, json, "n_params", (double)info->n_params, "");
    print_pair(&out, json, "weights_bytes", (double)info->weights_bytes, "bytes");
    print_pair(&out, json, "kv_bytes", (double)info->kv_bytes, "bytes");
    print_pair(&out, json, "kv_bytes_per_token", (double)info->kv_bytes_per_token, "bytes");
    print_pair(&out, json, "max_model_len", info->max_model_len, "tokens");
    print_pair(&out, json, "bits_per_weight", info->bits_per_weight, "bits");
    print_pair(&out, json, "quant_error_mean", info->quant_error_mean, "relative");
    print_pair(&out, json, "quant_error_max", info->quant_error_max, "relative");
    print_pair(&out, json, "load_seconds", info->load_seconds, "s");
    print_pair(&out, json, "quantize_seconds", info->quantize_seconds, "s");
    if (json) {
        buffer_printf(&out, ",\"quant\":\"%s\",\"kernels\":\"%s\"}\n", quant_method_name(info->method),
                      info->kernels);
    } else {
        buffer_printf(&out, "%-24s %s\n%-24s %s\n", "quant", quant_method_name(info->method), "kernels",
                      info->kernels);
    }
    fputs(buffer_string(&out), stdout);
    buffer_finish(&out);
    return STATUS_OK;
}

enum status command_verify(const struct config *config, struct outcome *outcome, struct error *err)
{
    struct engine *engine = NULL;
    struct tokenizer *tokenizer = NULL;
    FILE *log_file = NULL;
    (void)outcome;
    enum status status = need_model(config, err);
    if (status || (status = server_open_log(config, &log_file, err))) {
        return status;
    }
    if (!(status = server_open_model(config, isatty(STDERR_FILENO), &engine, &tokenizer, err))) {
        status = print_info(engine_get_info(engine), config->json);
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
    struct buffer out = {0};
    buffer_text(&out, json ? "{" : "");
    print_pair(&out, json, "n_params", (double)p->n_params, "");
    print_pair(&out, json, "stored_bytes", (double)p->stored_bytes, "bytes in the folder");
    print_pair(&out, json, "quantized_bytes", (double)p->quantized_bytes, "bytes of quantized linears");
    print_pair(&out, json, "kept_bytes", (double)p->kept_bytes, "bytes kept as stored");
    print_pair(&out, json, "bits_per_weight", p->bits_per_weight, "bits of quantized linears");
    print_pair(&out, json, "largest_tensor_bytes", (double)p->largest_tensor_bytes, "bytes");
    print_pair(&out, json, "peak_load_bytes", (double)p->peak_load_bytes, "bytes while quantizing");
    print_pair(&out, json, "step_bytes", (double)p->step_bytes, "bytes of one step");
    print_pair(&out, json, "kv_bytes_per_token", (double)p->kv_bytes_per_token, "bytes");
    print_pair(&out, json, "kv_tokens", (double)p->kv_tokens, "tokens");
    print_pair(&out, json, "kv_bytes", (double)p->kv_bytes, "bytes");
    print_pair(&out, json, "max_model_len", p->max_model_len, "tokens");
    print_pair(&out, json, "total_bytes", (double)p->total_bytes, "bytes");
    print_pair(&out, json, "memory_limit", (double)p->memory_limit, "bytes");
    if (json) {
        buffer_printf(&out, ",\"fits\":%s}\n", p->fits ? "true" : "false");
    } else {
        buffer_printf(&out, "%-24s %s\n", "fits", p->fits ? "yes" : "no");
    }
    fputs(buffer_string(&out), stdout);
    buffer_finish(&out);
}

enum status command_plan(const struct config *config, struct outcome *outcome, struct error *err)
{
    struct engine_options options;
    struct engine_plan plan = {0};
    char *skip = NULL;
    (void)outcome;
    enum status status = need_model(config, err);
    if (!status && !(status = server_engine_options(&options, config, &skip, err))) {
        status = engine_plan(&plan, &options, err);
        if (!status || status == STATUS_NO_MEMORY) {
            print_plan(&plan,
                       config->json); /* also when it does not fit: these are the numbers that tell why */
        }
        status = status == STATUS_NOT_FOUND ? STATUS_BAD_MODEL : status;
    }
    free(skip);
    return status;
}
