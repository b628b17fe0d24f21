/* GET /v1/quantization: how the model was quantized and how well that went; ?full=1 tells of every tensor. */
#include <string.h>

#include "server/api.h"

/* The value of `full` in the query: 0, 1, or -1 for anything else. */
static int asks_for_all(const struct exchange *x)
{
    const char *at = strchr(x->uri, '?');
    int full = 0;
    while (at) {
        size_t length = strcspn(++at, "&");
        if (length >= 4 && !memcmp(at, "full", 4) && (length == 4 || at[4] == '=')) {
            full = length == 6 && (at[5] == '0' || at[5] == '1') ? at[5] - '0' : -1;
        }
        at = at[length] ? at + length : NULL;
    }
    return full;
}

static void write_number(struct buffer *out, const char *key, double value)
{
    buffer_printf(out, "\"%s\":", key);
    buffer_json_double(out, value);
}

static void write_tensor(struct buffer *out, const struct quant_tensor *t)
{
    buffer_text(out, "{\"name\":");
    buffer_json_text(out, t->name);
    buffer_printf(out, ",\"rows\":%d,\"cols\":%d,\"kind\":\"%s\",", (int)t->n_rows, (int)t->n_cols, t->kind);
    write_number(out, "bits", t->bits_per_weight);
    if (t->code_bits) {
        buffer_printf(out, ",\"code_bits\":%d,\"group_size\":%d,", (int)t->code_bits, (int)t->group_size);
        write_number(out, "rel_error", t->rel_error);
        buffer_printf(out, ",\"worst_row\":%d,", (int)t->worst_row);
        write_number(out, "worst_row_error", t->worst_row_error);
        buffer_text(out, "}");
    } else {
        buffer_text(out, ",\"code_bits\":null,\"group_size\":null,\"rel_error\":null,\"worst_row\":null,"
                         "\"worst_row_error\":null}");
    }
}

static void write_errors(struct buffer *out, const struct quant_report *report)
{
    if (!report->n_quantized) {
        buffer_text(out, ",\"rel_error\":{\"mean\":null,\"p95\":null,\"max\":null,\"worst\":[]}");
        return;
    }
    buffer_text(out, ",\"rel_error\":{");
    write_number(out, "mean", report->mean);
    buffer_text(out, ",");
    write_number(out, "p95", report->p95);
    buffer_text(out, ",");
    write_number(out, "max", report->max);
    buffer_text(out, ",\"worst\":[");
    for (int32_t i = 0; i < report->n_worst; i++) {
        buffer_text(out, i ? "," : "");
        write_tensor(out, report->worst[i]);
    }
    buffer_text(out, "]}");
}

enum exchange_step api_quantization(struct server *s, struct exchange *x)
{
    const struct engine_info *info = engine_get_info(s->engine);
    const struct quant_report *report = engine_get_quantization(s->engine);
    struct buffer *out = &x->reply.body;
    int full = asks_for_all(x);
    if (full < 0) {
        struct api_error error;
        api_fail(&error, API_INVALID_VALUE, "full", "full must be 0 or 1");
        return api_reply_error(s, x, &error);
    }
    double weights = info->quantized_weights ? (double)info->quantized_weights : 1;
    buffer_printf(out, "{\"object\":\"quantization\",\"method\":\"%s\",", quant_method_name(info->method));
    write_number(out, "bits", info->bits_per_weight);
    buffer_text(out, ",");
    write_number(out, "code_bits", (double)info->code_bits / weights);
    buffer_text(out, ",");
    write_number(out, "table_bits", (double)info->table_bits / weights);
    buffer_printf(out, info->group_size ? ",\"group_size\":%d" : ",\"group_size\":null",
                  (int)info->group_size);
    buffer_text(out, ",\"cache\":");
    buffer_json_text(out, info->quant_cache);
    buffer_text(out, ",\"times\":{");
    write_number(out, "load_seconds", info->load_seconds);
    buffer_text(out, ",");
    write_number(out, "quantize_seconds", info->quantize_seconds);
    buffer_printf(out, "},\"bytes\":{\"weights\":%zu,\"quantized\":%lld}", info->weights_bytes,
                  (long long)(info->code_bits + info->table_bits) / 8);
    buffer_printf(out, ",\"n_tensors\":%lld,\"n_quantized\":%lld", (long long)report->n_tensors,
                  (long long)report->n_quantized);
    write_errors(out, report);
    if (full) {
        buffer_text(out, ",\"tensors\":[");
        for (int64_t i = 0; i < report->n_tensors; i++) {
            buffer_text(out, i ? "," : "");
            write_tensor(out, &report->tensors[i]);
        }
        buffer_text(out, "]");
    }
    buffer_text(out, "}");
    return api_reply_json(x, 200);
}
