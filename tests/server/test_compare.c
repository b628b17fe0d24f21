/* Comparing formats: lists on the command line, the plot. */
#include <math.h>

#include "server/compare.h"
#include "tests/server/support.h"

Test(compare, lists_of_formats)
{
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"", "--compare: a comma list of 1 to 32 formats"},
        {" , ", "--compare: a comma list of 1 to 32 formats"},
        {"any5", "--compare: unknown quantization method \"any5\""},
        {"any4,int4:",
         "\"int4:\": g32, g64, g128, feedback, rotation, scaling or b and a number of bits must follow"},
        {"int4:64", "\"int4:64\": g32, g64, g128"},
        {"int4:g16", "\"int4:g16\": g32"},
        {"int4:g064", "\"int4:g064\": g32"},
        {"int4:g64:", "\"int4:g64:\": g32"},
        {"any4:b", "\"any4:b\": g32"},
        {"any4:b0", "\"any4:b0\": g32"},
        {"any4:b17", "\"any4:b17\": g32"},
        {"any4:b3x", "\"any4:b3x\": g32"},
        {"int4:b3", "\"int4:b3\": widths are mixed of any4's"},
        {"int4:scaling", "\"int4:scaling\": channels are scaled for formats that take moments"},
        {"none:scaling", "\"none:scaling\": channels are scaled for"},
        {"int4:feedback", "\"int4:feedback\": error feedback works with"},
        {"none:g64", "\"none:g64\": weights as stored have no groups"},
        {"any4-and-then-something-very-long-indeed-and-more", "too long"}};
    struct quant_list list;
    struct error err;
    cr_assert_eq(quant_list_parse(&list, "none, any4-paper:g128 ,int4:g32,any4", "--compare", &err),
                 STATUS_OK);
    cr_assert_eq(list.n, 4);
    cr_assert(list.entries[0].method == QUANT_NONE && !list.entries[0].group_size);
    cr_assert(list.entries[1].method == QUANT_ANY4_PAPER && list.entries[1].group_size == 128);
    cr_assert_str_eq(list.entries[1].label, "any4-paper:g128");
    cr_assert(list.entries[2].method == QUANT_INT4 && list.entries[2].group_size == 32);
    cr_assert(list.entries[3].method == QUANT_ANY4 && !list.entries[3].group_size);
    cr_assert_eq(
        quant_list_parse(&list, "any3:g64:feedback,any4:feedback:b3.5:scaling,any4", "--compare", &err),
        STATUS_OK);
    cr_assert(list.entries[0].error_feedback && list.entries[0].group_size == 64);
    cr_assert(list.entries[1].bits_per_weight == 3.5 && !(list.entries[2].bits_per_weight > 0));
    cr_assert(list.entries[1].channel_scaling && !list.entries[0].channel_scaling);
    cr_assert(list.entries[1].error_feedback && !list.entries[2].error_feedback);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_assert_eq(quant_list_parse(&list, bad[i].text, "--compare", &err), STATUS_INVALID, "%s",
                     bad[i].text);
        cr_assert(strstr(err.message, bad[i].message), "%s: %s", bad[i].text, err.message);
    }
    struct buffer many = {0};
    for (int i = 0; i < 33; i++) {
        buffer_text(&many, "int4,");
    }
    cr_assert_eq(quant_list_parse(&list, buffer_string(&many), "--compare", &err), STATUS_INVALID);
    buffer_finish(&many);
}

struct label {
    double x0, y0, x1, y1;
};

/* The boxes of an SVG's labels, letters taken as 7 units wide: returns how many. */
static int read_labels(const char *svg, struct label labels[64])
{
    int n = 0;
    for (const char *at = svg; (at = strstr(at, "<text class=\"label\"")) && n < 64; at++) {
        double x, y;
        char anchor[16];
        cr_assert_eq(
            sscanf(at, "<text class=\"label\" x=\"%lf\" y=\"%lf\" text-anchor=\"%15[a-z]\"", &x, &y, anchor),
            3);
        const char *text = strchr(at, '>') + 1;
        double width = 7.0 * (double)strcspn(text, "<");
        double x1 = strcmp(anchor, "end") ? x + width / 2 : x;
        labels[n++] = (struct label){x1 - width, y - 10, x1, y + 2};
    }
    return n;
}

static char *plot(const struct folder *folder, const char *title, const struct compare_row *rows, int32_t n)
{
    char path[512];
    struct error err = {0};
    char *text = calloc(1, 1 << 16);
    snprintf(path, sizeof path, "%s/plot.svg", folder->path);
    cr_assert_eq(compare_plot(path, title, rows, n, &err), STATUS_OK, "%s", err.message);
    FILE *file = fopen(path, "r");
    cr_assert(file && text && fread(text, 1, (1 << 16) - 1, file) > 0);
    fclose(file);
    return text;
}

Test(compare, plot_labels_do_not_collide)
{
    static const double spreads[] = {0, 1e-6, 0.01, 1, 1000};
    static const char *const names[] = {"any4", "any4-paper", "int4:g32", "nf4", "fp4:g128"};
    struct folder folder = folder_make();
    for (size_t s = 0; s < sizeof spreads / sizeof *spreads; s++) {
        struct compare_row rows[13] = {0};
        struct label labels[64];
        for (int i = 0; i < 13; i++) {
            snprintf(rows[i].entry.label, sizeof rows[i].entry.label, "%s", i ? names[i % 5] : "none");
            rows[i].entry.method = i ? QUANT_INT4 : QUANT_NONE;
            rows[i].bits_per_weight = i ? 4.25 + 0.01 * (i * 7 % 13) * spreads[s] : 16;
            rows[i].perplexity = 5 + spreads[s] * (i * 5 % 13);
        }
        char *svg = plot(&folder, "title", rows, 13);
        int n = read_labels(svg, labels);
        cr_assert_eq(n, 13);
        for (int i = 0; i < n; i++) {
            for (int j = 0; j < i; j++) {
                cr_assert(labels[i].x1 <= labels[j].x0 || labels[j].x1 <= labels[i].x0 ||
                              labels[i].y1 <= labels[j].y0 || labels[j].y1 <= labels[i].y0,
                          "spread %g: labels %d and %d collide in %s", spreads[s], i, j, svg);
            }
        }
        cr_assert(!strstr(svg, "nan") && !strstr(svg, "inf"), "%s", svg);
        free(svg);
    }
    folder_remove(&folder);
}

Test(compare, plot_edges)
{
    struct folder folder = folder_make();
    struct error err = {0};
    struct compare_row row = {
        .entry = {.method = QUANT_NONE, .label = "none"}, .bits_per_weight = 16, .perplexity = 1};
    char *svg = plot(&folder, "a<b>&\"c\"\x01\xff\xef\xbf\xbf \xc3\xa4", &row, 1); /* the float model alone */
    cr_assert(strstr(svg, ">a&lt;b&gt;&amp;&quot;c&quot;??? \xc3\xa4</text>"), "%s", svg);
    cr_assert(!strstr(svg, "nan") && strstr(svg, "</svg>\n"), "%s", svg);
    free(svg);
    row.entry.method = QUANT_ANY4; /* no float model */
    svg = plot(&folder, "", &row, 1);
    cr_assert(strstr(svg, "<circle"), "%s", svg);
    free(svg);
    row.perplexity = INFINITY;
    cr_assert_eq(compare_plot("/nonexistent/x.svg", "", &row, 1, &err), STATUS_INVALID);
    cr_assert(strstr(err.message, "no perplexity that can be drawn"), "%s", err.message);
    row.perplexity = 2;
    cr_assert_eq(compare_plot("/nonexistent/x.svg", "", &row, 1, &err), STATUS_INVALID);
    cr_assert(strstr(err.message, "/nonexistent/x.svg cannot be written: No such file"), "%s", err.message);
    folder_remove(&folder);
}
