/* Reading, checking and encoding of the calibration text. */
#include "server/calibration.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/log.h"
#include "server/buffer.h"

const char calibration_sample[] =
    "The ferry was late again, so Mara counted gulls until the harbour bell rang twice. \"You could have "
    "walked,\" said her brother, laughing.\n"
    "OSLO, 3 May - The city council approved a 4.2 million euro plan on Tuesday to repair two bridges before "
    "winter; critics doubt the date.\n"
    "def mean(xs):\n"
    "    total = 0.0\n"
    "    for x in xs:\n"
    "        total += x\n"
    "    return total / max(len(xs), 1)\n"
    "17 * 6 = 102, and 102 - 45 = 57. A third of 57 is 19.\n"
    "Water boils at 100 °C at sea level; Jupiter has the shortest day of all planets.\n"
    "{\"id\": 8, \"tags\": [\"new\", null]}\n"
    "Le train part à midi, mais la gare est déjà pleine. Der Bäcker öffnet um sechs. El río crece cuando "
    "llueve. Снег тает весной. 春天来了。\n";

static enum status read_text(char **text, size_t *length, const struct config *config, struct error *err)
{
    if (file_read(text, length, config->calib, (size_t)config->calib_max_bytes, err)) {
        struct error reason = err ? *err : (struct error){0};
        return error_set(err, STATUS_INVALID, "calib: %s", reason.message);
    }
    size_t valid = utf8_valid_bytes(*text, *length);
    if (valid < *length) {
        return error_set(err, STATUS_INVALID, "calib: %s is not valid UTF-8 (byte %zu)", config->calib,
                         valid);
    }
    return STATUS_OK;
}

/* Encodes no more of the text than max_tokens need: a large file takes seconds, and its end is not used. */
static enum status encode(const struct tokenizer *tokenizer, const char *text, size_t length,
                          int64_t max_tokens, int32_t **ids, int32_t *n_ids, struct error *err)
{
    enum { USUAL_BYTES = 16, SPARE_TOKENS = 16 }; /* of a token; at the cut, where tokens may be others */
    size_t taken = USUAL_BYTES * (size_t)(max_tokens + SPARE_TOKENS);
    for (;; taken *= 4) {
        size_t cut = taken < length ? utf8_valid_bytes(text, taken) : length;
        enum status status = tokenizer_encode(tokenizer, text, cut, true, ids, n_ids, err);
        if (status || cut == length || *n_ids > max_tokens + SPARE_TOKENS) {
            return status;
        }
        free(*ids);
        *ids = NULL;
    }
}

/* Tables and scales are learned from a page of text, second moments between columns from a short book. */
static int64_t max_tokens_of(const struct config *config, const struct engine_options *options)
{
    return config->calib_tokens ? config->calib_tokens : options->error_feedback ? 8192 : 256;
}

enum status calibration_encode(struct engine_options *options, int32_t **ids, const struct config *config,
                               const struct tokenizer *tokenizer, struct error *err)
{
    struct tokenizer *own = NULL;
    char *text = NULL;
    size_t length = 0;
    int32_t n_ids = 0;
    const int64_t max_tokens = max_tokens_of(config, options);
    enum status status = STATUS_OK;
    *ids = NULL;
    if (quant_weighting_of(&options->quant) == QUANT_WEIGHTING_NONE) {
        log_debug("quant %s: nothing to calibrate", quant_method_name(options->quant.method));
        return STATUS_OK;
    }
    if (!tokenizer && (status = tokenizer_open(&own, config->model, err))) {
        if (!config->calib) {
            log_warning("quantizing without calibration, for want of a tokenizer: %s",
                        err ? err->message : "");
            return STATUS_OK;
        }
        return error_prefix(err, "calib needs a tokenizer");
    }
    tokenizer = tokenizer ? tokenizer : own;
    if (config->calib) {
        status = read_text(&text, &length, config, err);
    }
    const char *name = config->calib ? config->calib : "the built-in text";
    if (!status &&
        !(status = encode(tokenizer, text ? text : calibration_sample,
                          text ? length : strlen(calibration_sample), max_tokens, ids, &n_ids, err))) {
        int32_t n_bos = n_ids && (*ids)[0] == tokenizer_bos(tokenizer);
        if (n_ids == n_bos) {
            status = error_set(err, STATUS_INVALID, "calib: %s holds no text", name);
        } else if (n_ids - n_bos > max_tokens) {
            log_info("calibration: the first %" PRId64 " tokens of %s are used (calib_tokens)", max_tokens,
                     name);
            n_ids = n_bos + (int32_t)max_tokens;
        }
    }
    tokenizer_close(own);
    free(text);
    if (status) {
        free(*ids);
        *ids = NULL;
        return status;
    }
    options->calib_ids = *ids;
    options->n_calib_ids = n_ids;
    return STATUS_OK;
}
