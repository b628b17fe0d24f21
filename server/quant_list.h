/* Lists of formats on the command line: "none,int4:g32,any4". */
#ifndef SERVER_QUANT_LIST_H
#define SERVER_QUANT_LIST_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "quant/quantize.h"

enum { QUANT_LIST_MAX = 32 };

struct quant_entry {
    enum quant_method method;
    int32_t group_size; /* 0: nothing was said */
    bool error_feedback, rotation, channel_scaling;
    double bits_per_weight; /* 0: nothing was said */
    char label[48];         /* as it was given */
};

struct quant_list {
    struct quant_entry entries[QUANT_LIST_MAX];
    int32_t n;
};

/* 1 to QUANT_LIST_MAX entries NAME, followed by any of :gSIZE, SIZE 32, 64 or 128, and, after formats that
 * take them, :feedback, :rotation, :scaling and :bBITS. Else STATUS_INVALID: flag ("--compare") and the entry
 * named. */
enum status quant_list_parse(struct quant_list *out, const char *text, const char *flag, struct error *err);

#endif
