/* Perplexity against bits per weight as a small SVG, written by hand. Axes begin where the data does: formats
 * differ by percents. The float model's perplexity is a line across, for its 16 or 32 bits would squeeze all
 * others together. Labels stand beside their points, or farther off with a line where others are in the way.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "server/compare.h"

/* User units, one a pixel at the natural size. */
enum {
    WIDTH = 760,
    HEIGHT = 500,
    LEFT = 76,
    TITLE_PX = 15,
    RIGHT = 24,
    TOP = 52,
    BOTTOM = 58,
    TEXT_PX = 13,
    POINT_RADIUS = 4,
    MAX_TICKS = 16,
    MAX_BOXES = 2 * QUANT_LIST_MAX + 1,
};
static const double LETTER_PX = 7.8; /* of the widest usual sans-serif at TEXT_PX */
/* Where perplexities differ by more than this factor equal steps are equal factors. */
static const double LOG_FROM = 4;

struct axis {
    double low, high; /* of the data, with some room */
    double from, to;  /* where they stand on the page */
    bool is_log;
};

struct box {
    double x0, y0, x1, y1;
};

struct plot {
    struct buffer out;
    struct axis x, y;
    struct box boxes[MAX_BOXES]; /* taken places */
    int32_t n_boxes;
};

static double place(const struct axis *a, double value)
{
    double low = a->low, high = a->high;
    if (a->is_log) {
        low = log(low);
        high = log(high);
        value = log(value);
    }
    return a->from + (value - low) / (high - low) * (a->to - a->from);
}

static void axis_init(struct axis *a, double min, double max, double from, double to, bool may_be_log)
{
    *a = (struct axis){.from = from, .to = to, .is_log = may_be_log && min > 0 && max > LOG_FROM * min};
    if (a->is_log) {
        double room = pow(max / min, 0.08);
        a->low = min / room;
        a->high = max * room;
    } else {
        double room = max > min ? 0.08 * (max - min) : max > 0 ? 0.05 * max : 1;
        a->low = min - room;
        a->high = max + room;
    }
}

static const double STEPS[] = {1, 2, 5};

/* Ticks at 1, 2 and 5 times every power of ten; over many decades at single powers. */
static int32_t log_ticks(const struct axis *a, double ticks[MAX_TICKS])
{
    int32_t n = 0;
    int power = (int)floor(log10(a->low)), decades = (int)ceil(log10(a->high)) - power;
    int stride = (decades + MAX_TICKS - 1) / MAX_TICKS;
    for (; n < MAX_TICKS && pow(10, power) <= a->high; power += stride) {
        for (int i = 0; i < (3 * decades <= MAX_TICKS ? 3 : 1) && n < MAX_TICKS; i++) {
            double value = STEPS[i] * pow(10, power);
            if (value >= a->low && value <= a->high) {
                ticks[n++] = value;
            }
        }
    }
    return n;
}

/* Ticks at 1, 2 or 5 times a power of ten. Returns their number; *digits is how many they need behind the
 * point. */
static int32_t axis_ticks(const struct axis *a, double ticks[MAX_TICKS], int *digits)
{
    int32_t n = 0;
    if (a->is_log) {
        *digits = a->low < 1 ? (int)ceil(-log10(a->low)) : 0;
        return log_ticks(a, ticks);
    }
    int power = (int)floor(log10((a->high - a->low) / MAX_TICKS));
    double step = 0;
    for (int i = 0; !(step > 0); i++) {
        double candidate = STEPS[i % 3] * pow(10, power + i / 3);
        if ((a->high - a->low) / candidate <= 8) {
            step = candidate;
            power += i / 3;
        }
    }
    *digits = power < 0 ? -power : 0;
    for (double k = ceil(a->low / step); n < MAX_TICKS && k * step <= a->high; k++) {
        ticks[n++] = k * step;
    }
    return n;
}

/* Text of others (a folder's name) as XML: what has a meaning there is escaped, what XML forbids becomes "?".
 */
static void write_escaped(struct buffer *out, const char *text, int32_t max_letters)
{
    size_t length = strlen(text);
    for (size_t i = 0; i < length; max_letters--) {
        if (!max_letters) {
            buffer_text(out, "...");
            return;
        }
        size_t n = utf8_sequence(text + i, length - i);
        const char *escape = !n || (unsigned char)text[i] < 0x20                                   ? "?"
                             : n == 3 && !memcmp(text + i, "\xef\xbf", 2) && text[i + 2] >= '\xbe' ? "?"
                             : text[i] == '&'                                                      ? "&amp;"
                             : text[i] == '<'                                                      ? "&lt;"
                             : text[i] == '>'                                                      ? "&gt;"
                             : text[i] == '"'                                                      ? "&quot;"
                                                                                                   : NULL;
        if (escape) {
            buffer_text(out, escape);
        } else {
            buffer_append(out, text + i, n);
        }
        i += n ? n : 1;
    }
}

static void take(struct plot *p, struct box box)
{
    p->boxes[p->n_boxes++] = box;
}

static bool is_free(const struct plot *p, const struct box *b)
{
    if (b->x0 < LEFT || b->x1 > WIDTH - RIGHT || b->y0 < TOP || b->y1 > HEIGHT - BOTTOM) {
        return false;
    }
    for (int32_t i = 0; i < p->n_boxes; i++) {
        const struct box *o = &p->boxes[i];
        if (b->x0 < o->x1 && o->x0 < b->x1 && b->y0 < o->y1 && o->y0 < b->y1) {
            return false;
        }
    }
    return true;
}

/* A label's box with its middle left, right, above or below a point, and between them, at a distance. */
static struct box label_box(double x, double y, double width, int32_t direction, double distance)
{
    static const double dx[] = {1, -1, 0, 0, 1, 1, -1, -1}, dy[] = {0, 0, -1, 1, -1, 1, -1, 1};
    double height = TEXT_PX + 3;
    double middle_x = x + dx[direction] * (width / 2 + distance);
    double middle_y = y + dy[direction] * (height / 2 + distance);
    return (struct box){middle_x - width / 2, middle_y - height / 2, middle_x + width / 2,
                        middle_y + height / 2};
}

static void write_label(struct plot *p, const char *text, double x, double y)
{
    enum { N_DIRECTIONS = 8, BESIDE = POINT_RADIUS + 3, MAX_DISTANCE = 200 };
    double width = LETTER_PX * (double)strlen(text);
    struct box box = label_box(x, y, width, 0, BESIDE);
    bool found = false;
    for (int32_t distance = BESIDE; !found && distance < MAX_DISTANCE; distance += 8) {
        for (int32_t direction = 0; !found && direction < N_DIRECTIONS; direction++) {
            struct box candidate = label_box(x, y, width, direction, distance);
            if ((found = is_free(p, &candidate))) {
                box = candidate;
                if (distance > BESIDE) {
                    double to_x = x < box.x0 ? box.x0 : x > box.x1 ? box.x1 : x;
                    double to_y = y < box.y0 ? box.y0 : y > box.y1 ? box.y1 : y;
                    buffer_printf(&p->out,
                                  "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#999\"/>\n",
                                  x, y, to_x, to_y);
                }
            }
        }
    }
    take(p, box);
    buffer_printf(&p->out, "<text class=\"label\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">",
                  (box.x0 + box.x1) / 2, box.y1 - 4);
    write_escaped(&p->out, text, INT32_MAX);
    buffer_text(&p->out, "</text>\n");
}

static void write_axes(struct plot *p)
{
    double ticks[MAX_TICKS];
    int digits;
    double x0 = p->x.from, x1 = p->x.to, y0 = p->y.from, y1 = p->y.to;
    int32_t n = axis_ticks(&p->x, ticks, &digits);
    for (int32_t i = 0; i < n; i++) {
        double x = place(&p->x, ticks[i]);
        buffer_printf(&p->out,
                      "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#e4e4e4\"/>\n"
                      "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.*f</text>\n",
                      x, y0, x, y1, x, y0 + 18, digits, ticks[i]);
    }
    n = axis_ticks(&p->y, ticks, &digits);
    for (int32_t i = 0; i < n; i++) {
        double y = place(&p->y, ticks[i]);
        buffer_printf(&p->out,
                      "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#e4e4e4\"/>\n"
                      "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.*f</text>\n",
                      x0, y, x1, y, x0 - 8, y + 4.5, digits, ticks[i]);
    }
    buffer_printf(
        &p->out,
        "<path d=\"M%.1f %.1fV%.1fH%.1f\" fill=\"none\" stroke=\"#333\"/>\n"
        "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">bits per weight, tables included</text>\n"
        "<text transform=\"translate(20 %.1f) rotate(-90)\" text-anchor=\"middle\">perplexity%s</text>\n",
        x0, y1, y0, x1, (x0 + x1) / 2, HEIGHT - 16, (y0 + y1) / 2, p->y.is_log ? " (logarithmic)" : "");
}

static void write_float_line(struct plot *p, const struct compare_row *row)
{
    char text[96];
    double y = place(&p->y, row->perplexity);
    snprintf(text, sizeof text, "%s: %.4g at %.3g bits", row->entry.label, row->perplexity,
             row->bits_per_weight);
    double width = LETTER_PX * (double)strlen(text);
    buffer_printf(
        &p->out,
        "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#2a7f3f\" "
        "stroke-dasharray=\"6 4\"/>\n"
        "<text class=\"label\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\" fill=\"#2a7f3f\">%s</text>\n",
        p->x.from, y, p->x.to, y, p->x.to - 4, y + TEXT_PX + 4, text);
    take(p, (struct box){p->x.from, y - 2, p->x.to, y + 2});
    take(p, (struct box){p->x.to - 4 - width, y + 3, p->x.to - 4, y + TEXT_PX + 8});
}

static void range(double *min, double *max, double value)
{
    *min = value < *min ? value : *min;
    *max = value > *max ? value : *max;
}

static void draw(struct plot *p, const char *title, const struct compare_row *rows, int32_t n_rows)
{
    double min_x = INFINITY, max_x = -INFINITY, min_y = INFINITY, max_y = -INFINITY;
    const struct compare_row *as_stored = NULL;
    for (int32_t i = 0; i < n_rows; i++) {
        bool is_float = rows[i].entry.method == QUANT_NONE;
        as_stored = is_float ? &rows[i] : as_stored;
        range(&min_y, &max_y, rows[i].perplexity);
        if (!is_float) {
            range(&min_x, &max_x, rows[i].bits_per_weight);
        }
    }
    if (min_x > max_x) { /* the float model alone */
        min_x = max_x = as_stored->bits_per_weight;
    }
    axis_init(&p->x, min_x, max_x, LEFT, WIDTH - RIGHT, false);
    axis_init(&p->y, min_y, max_y, HEIGHT - BOTTOM, TOP, true);
    /* Room below the float model's line for what it says. */
    if (as_stored && !p->y.is_log) {
        p->y.low -= 0.04 * (p->y.high - p->y.low);
    }
    buffer_printf(
        &p->out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
        "font-family=\"sans-serif\" font-size=\"%d\" fill=\"#222\">\n"
        "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n"
        "<text x=\"%d\" y=\"28\" font-size=\"15\">",
        WIDTH, HEIGHT, WIDTH, HEIGHT, TEXT_PX, WIDTH, HEIGHT, LEFT);
    write_escaped(&p->out, title, (int32_t)((WIDTH - LEFT - RIGHT) * TEXT_PX / (LETTER_PX * TITLE_PX)) - 3);
    buffer_text(&p->out, "</text>\n");
    write_axes(p);
    if (as_stored) {
        write_float_line(p, as_stored);
    }
    /* All points first: a label must not cover a later one. */
    for (int32_t i = 0; i < n_rows; i++) {
        if (rows[i].entry.method != QUANT_NONE) {
            double x = place(&p->x, rows[i].bits_per_weight), y = place(&p->y, rows[i].perplexity);
            take(p, (struct box){x - POINT_RADIUS, y - POINT_RADIUS, x + POINT_RADIUS, y + POINT_RADIUS});
        }
    }
    for (int32_t i = 0; i < n_rows; i++) {
        if (rows[i].entry.method != QUANT_NONE) {
            double x = place(&p->x, rows[i].bits_per_weight), y = place(&p->y, rows[i].perplexity);
            write_label(p, rows[i].entry.label, x, y);
            buffer_printf(
                &p->out,
                "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%d\" fill=\"#1f5fa8\"><title>%s: perplexity %.6g, "
                "%.4g bits per weight, KL %.4g</title></circle>\n",
                x, y, POINT_RADIUS, rows[i].entry.label, rows[i].perplexity, rows[i].bits_per_weight,
                rows[i].kl);
        }
    }
    buffer_text(&p->out, "</svg>\n");
}

enum status compare_plot(const char *path, const char *title, const struct compare_row *rows, int32_t n_rows,
                         struct error *err)
{
    struct plot plot = {0};
    enum status status = STATUS_OK;
    for (int32_t i = 0; i < n_rows; i++) {
        if (!isfinite(rows[i].perplexity)) {
            return error_set(err, STATUS_INVALID, "--plot: %s has no perplexity that can be drawn (NLL %g)",
                             rows[i].entry.label, rows[i].nll);
        }
    }
    draw(&plot, title, rows, n_rows);
    const char *text = buffer_string(&plot.out);
    FILE *file = plot.out.failed ? NULL : fopen(path, "we");
    if (plot.out.failed) {
        status = error_set(err, STATUS_NO_MEMORY, "out of memory for the plot");
    } else if (!file) {
        status = error_set(err, STATUS_INVALID, "--plot %s cannot be written: %s", path, strerror(errno));
    } else {
        bool good = fwrite(text, 1, plot.out.length, file) == plot.out.length;
        if (fclose(file) || !good) {
            status = error_set(err, STATUS_IO, "--plot %s cannot be written: %s", path, strerror(errno));
        }
    }
    buffer_finish(&plot.out);
    return status;
}
