#include "server/quant_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/feedback.h"
#include "server/config.h"

static enum status parse_entry(struct quant_entry *out, const char *text, const char *flag, struct error *err)
{
    static const struct {
        const char *text;
        int32_t size;
    } groups[] = {{"g32", 32}, {"g64", 64}, {"g128", 128}};
    char copy[sizeof out->label], *rest = copy;
    *out = (struct quant_entry){0};
    if (strlen(text) >= sizeof out->label) {
        return error_set(err, STATUS_INVALID, "%s: \"%.64s\" is too long for a format", flag, text);
    }
    strcpy(copy, text);
    strcpy(out->label, text);
    enum status status = quant_method_parse(&out->method, strsep(&rest, ":"), err);
    if (status) {
        return error_prefix(err, flag);
    }
    while (rest) {
        const char *option = strsep(&rest, ":");
        bool feedback = !strcmp(option, "feedback"), rotation = !strcmp(option, "rotation"),
             scaling = !strcmp(option, "scaling"), known = feedback || rotation || scaling;
        out->error_feedback |= feedback;
        out->rotation |= rotation;
        out->channel_scaling |= scaling;
        if (*option == 'b' && option[1] >= '0' && option[1] <= '9') {
            char *end;
            out->bits_per_weight = strtod(option + 1, &end);
            known = !*end && out->bits_per_weight > 0 && out->bits_per_weight <= 16;
        }
        for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
            if (!strcmp(option, groups[i].text)) {
                out->group_size = groups[i].size;
                known = true;
            }
        }
        if (!known) {
            return error_set(
                err, STATUS_INVALID,
                "%s: \"%s\": g32, g64, g128, feedback, rotation, scaling or b and a number of bits must "
                "follow the colon",
                flag, text);
        }
    }
    if (out->method == QUANT_NONE && out->group_size) {
        return error_set(err, STATUS_INVALID, "%s: \"%s\": weights as stored have no groups", flag, text);
    }
    if (out->error_feedback && !feedback_takes(out->method)) {
        return error_set(err, STATUS_INVALID, "%s: \"%s\": error feedback works with any4, any3 and any2",
                         flag, text);
    }
    const struct quant_settings settings = {.method = out->method};
    if (out->channel_scaling && quant_weighting_of(&settings) == QUANT_WEIGHTING_NONE) {
        return error_set(
            err, STATUS_INVALID,
            "%s: \"%s\": channels are scaled for formats that take moments: any4, any3, any2 and "
            "any4-paper",
            flag, text);
    }
    if (out->bits_per_weight > 0 && out->method != QUANT_ANY4) {
        return error_set(err, STATUS_INVALID, "%s: \"%s\": widths are mixed of any4's", flag, text);
    }
    return STATUS_OK;
}

enum status quant_list_parse(struct quant_list *out, const char *text, const char *flag, struct error *err)
{
    const char *parts[QUANT_LIST_MAX];
    char *copy = NULL;
    enum status status = STATUS_OK;
    out->n = split_list(text, &copy, parts, QUANT_LIST_MAX);
    if (out->n < 1) {
        out->n = 0;
        status = error_set(err, STATUS_INVALID, "%s: a comma list of 1 to %d formats is expected", flag,
                           (int)QUANT_LIST_MAX);
    }
    for (int32_t i = 0; !status && i < out->n; i++) {
        status = parse_entry(&out->entries[i], parts[i], flag, err);
    }
    free(copy);
    return status;
}
