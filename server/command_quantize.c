/* `any4 quantize`: loads a model so that it stands in the cache, and says where. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/command.h"
#include "server/server.h"

static void print_result(const struct engine_info *info, const struct engine_cache_result *result, bool json)
{
    struct buffer out = {0};
    if (json) {
        buffer_text(&out, "{\"path\":");
        buffer_json_text(&out, result->path);
        buffer_printf(&out,
                      ",\"bytes\":%zu,\"cache\":\"%s\",\"load_seconds\":%.3f,\"quantize_seconds\":%.3f,"
                      "\"cache_seconds\":%.3f,\"quant\":\"%s\",\"bits_per_weight\":%.6g}\n",
                      result->n_bytes, info->quant_cache, info->load_seconds, info->quantize_seconds,
                      result->seconds, quant_method_name(info->method), info->bits_per_weight);
    } else if (!strcmp(info->quant_cache, "hit")) {
        buffer_printf(&out, "%s: %zu bytes, was there already, read in %.2f s\n", result->path,
                      result->n_bytes, result->seconds);
    } else {
        buffer_printf(&out, "%s: %zu bytes, loaded in %.2f s, written in %.2f s\n", result->path,
                      result->n_bytes, info->load_seconds, result->seconds);
    }
    fputs(buffer_string(&out), stdout);
    buffer_finish(&out);
}

static enum status fill_cache(const struct config *config, struct error *err)
{
    struct engine *engine = NULL;
    struct tokenizer *tokenizer = NULL;
    struct engine_cache_result result;
    struct config own = *config;
    own.device = "cpu"; /* the file is all that is wanted */
    enum status status = server_open_model(&own, isatty(STDERR_FILENO), &engine, &tokenizer, err);
    if (!status) {
        engine_wait_cache(engine, &result);
        if (result.status) {
            status = error_set(err, STATUS_IO, "not cached: %s", result.message);
        } else {
            print_result(engine_get_info(engine), &result, config->json);
        }
    }
    engine_close(engine);
    tokenizer_close(tokenizer);
    return status;
}

enum status command_quantize(const struct config *config, struct outcome *outcome, struct error *err)
{
    FILE *log_file = NULL;
    (void)outcome;
    enum status status = server_check_folder(config, err);
    if (!status && !config->cache_folder) {
        status =
            error_set(err, STATUS_INVALID, "quant_cache is %s%s: there is nothing to fill",
                      config->quant_cache, strcmp(config->quant_cache, "off") ? " and HOME is not set" : "");
    } else if (!status && !strcmp(config->quant, "none")) {
        status = error_set(err, STATUS_INVALID, "quant is none: there is nothing to fill the cache with");
    }
    if (status || (status = server_open_log(config, &log_file, err))) {
        return status;
    }
    status = fill_cache(config, err);
    if (log_file) {
        fclose(log_file);
    }
    return status;
}
