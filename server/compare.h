/* Formats side by side on one text: `any4 eval --compare`. */
#ifndef SERVER_COMPARE_H
#define SERVER_COMPARE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "server/config.h"
#include "server/quant_list.h"

/* One format against the float model. Means are over the scored ids; natural logarithms, whole vocabulary. */
struct compare_row {
    struct quant_entry entry;
    int32_t group_size;                            /* that was used; 0: none */
    double bits_per_weight, code_bits, table_bits; /* per quantized weight; tables apart from all the rest */
    double nll;
    double perplexity; /* exp(nll): per id of this tokenizer */
    double kl;         /* sum over the vocabulary of p_float * (log p_float - log p) */
    double top1;       /* how often the likeliest id is that of the float model */
    double quantize_seconds;
};

/* Compares the formats of config->compare on a text, prints the table or the JSON object, draws config->plot.
 */
enum status compare_formats(const struct config *config, const char *text, size_t length, struct error *err);

/* Draws perplexity against bits per weight into an SVG file; a format of method none, if there is one, as a
 * line across. */
enum status compare_plot(const char *path, const char *title, const struct compare_row *rows, int32_t n_rows,
                         struct error *err);

#endif
