/* Log lines: built whole in memory, then written with one call, so that lines of several threads never mix.
 * Whatever a message holds (request text, file names of an attacker), one event stays one line of valid
 * UTF-8. */
#include "engine/base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"

enum { LINE_BYTES = 2048, MESSAGE_MAX_BYTES = 1 << 20, BAR_CELLS = 40 };

static const char *const level_names[] = {"error", "warning", "info", "debug"};

static _Atomic int current_level = LOG_INFO;
/* Guards all that follows and the write itself. */
static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
static enum log_format current_format = LOG_FORMAT_TEXT;
static FILE *current_file; /* NULL: stderr, which is no constant expression */
static struct {
    char label[64];
    double drawn_s; /* when the bar was drawn or a line written last, or the work began; monotonic */
    int tenth;      /* the last tenth that was logged; -1: none yet */
    bool bar_open;  /* the cursor stands behind a bar */
} progress = {.tenth = -1};

void log_configure(enum log_format format, enum log_level level, FILE *file)
{
    pthread_mutex_lock(&log_mutex);
    current_format = format;
    current_file = file;
    atomic_store(&current_level, (int)level);
    pthread_mutex_unlock(&log_mutex);
}

bool log_enabled(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&current_level, memory_order_relaxed);
}

/* A growing line; when memory runs out it is cut, for a log must not fail. */
struct line {
    char *bytes;
    size_t length, capacity;
    char fixed[LINE_BYTES];
};

static void line_append(struct line *line, const char *bytes, size_t n)
{
    if (n > line->capacity - line->length) {
        size_t capacity = line->capacity;
        while (capacity - line->length < n) {
            capacity *= 2;
        }
        char *grown = malloc(capacity);
        if (!grown) {
            return;
        }
        memcpy(grown, line->bytes, line->length);
        if (line->bytes != line->fixed) {
            free(line->bytes);
        }
        line->bytes = grown;
        line->capacity = capacity;
    }
    memcpy(line->bytes + line->length, bytes, n);
    line->length += n;
}

static void line_append_text(struct line *line, const char *text)
{
    line_append(line, text, strlen(text));
}

/* Length of the well-formed UTF-8 sequence at s (RFC 3629: no overlong form, no surrogate), 0 if there is
 * none. Safe on terminated text: a terminator is no continuation byte. */
static size_t utf8_length(const unsigned char *s)
{
    if (s[0] < 0x80) {
        return 1;
    }
    if (s[0] >= 0xc2 && s[0] <= 0xdf) {
        return (s[1] & 0xc0) == 0x80 ? 2 : 0;
    }
    if (s[0] >= 0xe0 && s[0] <= 0xef) {
        unsigned char low = s[0] == 0xe0 ? 0xa0 : 0x80;
        unsigned char high = s[0] == 0xed ? 0x9f : 0xbf;
        return s[1] >= low && s[1] <= high && (s[2] & 0xc0) == 0x80 ? 3 : 0;
    }
    if (s[0] >= 0xf0 && s[0] <= 0xf4) {
        unsigned char low = s[0] == 0xf0 ? 0x90 : 0x80;
        unsigned char high = s[0] == 0xf4 ? 0x8f : 0xbf;
        return s[1] >= low && s[1] <= high && (s[2] & 0xc0) == 0x80 && (s[3] & 0xc0) == 0x80 ? 4 : 0;
    }
    return 0;
}

/* Appends text so that it neither ends the line nor moves a terminal's cursor: C0, DEL and C1 controls and
 * the two Unicode line ends are escaped; a byte that is not UTF-8 becomes U+FFFD in JSON and \xNN in text. */
static void line_append_escaped(struct line *line, const char *text, enum log_format format)
{
    const unsigned char *s = (const unsigned char *)text;
    while (*s) {
        size_t n = utf8_length(s);
        char escape[8] = "";
        if (n == 0) {
            if (format == LOG_FORMAT_JSON) {
                strcpy(escape, "\xef\xbf\xbd");
            } else {
                snprintf(escape, sizeof escape, "\\x%02x", s[0]);
            }
            n = 1;
        } else if (s[0] == '\n') {
            strcpy(escape, "\\n");
        } else if (s[0] == '\r') {
            strcpy(escape, "\\r");
        } else if (s[0] == '\t') {
            strcpy(escape, "\\t");
        } else if (s[0] < 0x20 || s[0] == 0x7f) {
            snprintf(escape, sizeof escape, "\\u%04x", s[0]);
        } else if (s[0] == 0xc2 && s[1] < 0xa0) {
            snprintf(escape, sizeof escape, "\\u%04x", s[1]);
        } else if (s[0] == 0xe2 && s[1] == 0x80 && (s[2] == 0xa8 || s[2] == 0xa9)) {
            snprintf(escape, sizeof escape, "\\u20%02x", s[2] - 0x80);
        } else if (format == LOG_FORMAT_JSON && (s[0] == '"' || s[0] == '\\')) {
            snprintf(escape, sizeof escape, "\\%c", s[0]);
        }
        if (*escape) {
            line_append_text(line, escape);
        } else {
            line_append(line, (const char *)s, n);
        }
        s += n;
    }
}

static void line_begin(struct line *line, enum log_level level, enum log_format format)
{
    struct timespec now;
    struct tm tm;
    char stamp[96];
    line->bytes = line->fixed;
    line->length = 0;
    line->capacity = sizeof line->fixed;
    clock_gettime(CLOCK_REALTIME, &now);
    size_t length;
    if (format == LOG_FORMAT_JSON) {
        gmtime_r(&now.tv_sec, &tm);
        length = strftime(stamp, sizeof stamp, "{\"ts\":\"%Y-%m-%dT%H:%M:%S", &tm);
        length += (size_t)snprintf(stamp + length, sizeof stamp - length, ".%03dZ\",\"level\":\"%s\",",
                                   (int)(now.tv_nsec / 1000000), level_names[level]);
    } else {
        localtime_r(&now.tv_sec, &tm);
        length = strftime(stamp, sizeof stamp, "%H:%M:%S ", &tm);
        length += (size_t)snprintf(stamp + length, sizeof stamp - length, "%s ", level_names[level]);
    }
    line_append(line, stamp, length);
}

/* Ends the line, writes it and frees it. Holds log_mutex already. */
static void line_write(struct line *line)
{
    FILE *file = current_file ? current_file : stderr;
    line_append(line, "\n", 1);
    if (progress.bar_open) {
        fputs("\r\033[K", file);
        progress.bar_open = false;
    }
    fwrite(line->bytes, 1, line->length, file);
    fflush(file);
    if (line->bytes != line->fixed) {
        free(line->bytes);
    }
}

static void write_message(enum log_level level, const char *message)
{
    struct line line;
    line_begin(&line, level, current_format);
    if (current_format == LOG_FORMAT_JSON) {
        line_append_text(&line, "\"msg\":\"");
    }
    line_append_escaped(&line, message, current_format);
    if (current_format == LOG_FORMAT_JSON) {
        line_append_text(&line, "\"}");
    }
    line_write(&line);
}

void log_message(enum log_level level, const char *format, ...)
{
    if (!log_enabled(level)) {
        return;
    }
    char fixed[LINE_BYTES];
    char *message = fixed;
    va_list args;
    va_start(args, format);
    int needed = vsnprintf(fixed, sizeof fixed, format, args);
    va_end(args);
    if (needed >= (int)sizeof fixed) {
        size_t size = needed < MESSAGE_MAX_BYTES ? (size_t)needed + 1 : MESSAGE_MAX_BYTES;
        char *longer = malloc(size);
        if (longer) {
            va_start(args, format);
            vsnprintf(longer, size, format, args);
            va_end(args);
            message = longer;
        }
    }
    pthread_mutex_lock(&log_mutex);
    write_message(level, needed < 0 ? format : message);
    pthread_mutex_unlock(&log_mutex);
    if (message != fixed) {
        free(message);
    }
}

/* {"a":1,"b":"x y"} without its braces -> a=1 b="x y". Only keys and commas of the outer level change. */
static void append_plain_body(struct line *line, const char *body)
{
    int depth = 0;
    bool in_string = false, is_key = true;
    for (const char *s = body; *s; s++) {
        unsigned char c = (unsigned char)*s;
        bool outer = depth == 0;
        if (in_string) {
            if (c == '\\' && s[1]) {
                line_append(line, s, 2);
                s++;
                continue;
            }
            in_string = c != '"';
            if (c == '"' && outer && is_key) {
                continue;
            }
        } else if (c == '"') {
            in_string = true;
            if (outer && is_key) {
                continue;
            }
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            depth--;
        } else if (outer && c == ':' && is_key) {
            is_key = false;
            line_append(line, "=", 1);
            continue;
        } else if (outer && c == ',') {
            is_key = true;
            line_append(line, " ", 1);
            continue;
        }
        line_append(line, s, 1);
    }
}

void log_event(enum log_level level, const char *json_body)
{
    if (!log_enabled(level)) {
        return;
    }
    pthread_mutex_lock(&log_mutex);
    struct line line;
    line_begin(&line, level, current_format);
    size_t start = line.length;
    if (current_format == LOG_FORMAT_JSON) {
        line_append_text(&line, json_body);
        line_append(&line, "}", 1);
    } else {
        append_plain_body(&line, json_body);
    }
    /* Prepared JSON has no raw control characters; should a caller err, the line still stays one line. */
    for (size_t i = start; i < line.length; i++) {
        if ((unsigned char)line.bytes[i] < 0x20) {
            line.bytes[i] = ' ';
        }
    }
    line_write(&line);
    pthread_mutex_unlock(&log_mutex);
}

static void draw_bar(const char *label, double fraction, bool finished)
{
    double now_s = clock_seconds();
    if (!finished && progress.bar_open && now_s - progress.drawn_s < 0.1) {
        return;
    }
    progress.drawn_s = now_s;
    char cells[BAR_CELLS + 1];
    int filled = (int)(fraction * BAR_CELLS);
    memset(cells, '.', BAR_CELLS);
    memset(cells, '#', (size_t)filled);
    cells[BAR_CELLS] = '\0';
    FILE *file = current_file ? current_file : stderr;
    fprintf(file, "\r\033[K%s [%s] %3d %%%s", label, cells, (int)(100 * fraction), finished ? "\n" : "");
    fflush(file);
    progress.bar_open = !finished;
}

void log_progress(const char *label, double done, double total)
{
    if (!log_enabled(LOG_INFO)) {
        return;
    }
    double fraction = total > 0 && done < total ? done / total : 1;
    fraction = fraction > 0 ? fraction : 0;
    bool finished = fraction >= 1;
    pthread_mutex_lock(&log_mutex);
    if (strncmp(label, progress.label, sizeof progress.label - 1)) {
        snprintf(progress.label, sizeof progress.label, "%s", label);
        progress.tenth = -1;
        progress.drawn_s = clock_seconds();
    }
    FILE *file = current_file ? current_file : stderr;
    if (current_format == LOG_FORMAT_TEXT && isatty(fileno(file))) {
        draw_bar(label, fraction, finished);
    } else {
        /* At most a line a second, and none for work that is done before the first is due. */
        int tenth = (int)(fraction * 10);
        bool due = clock_seconds() - progress.drawn_s >= 1 || (finished && progress.tenth >= 0);
        if (tenth != progress.tenth && due) {
            progress.drawn_s = clock_seconds();
            char message[256];
            snprintf(message, sizeof message, "%.200s: %d %%", label, finished ? 100 : 10 * tenth);
            write_message(LOG_INFO, message);
            progress.tenth = tenth;
        }
    }
    if (finished) { /* the next run of the same label starts anew */
        progress.label[0] = '\0';
        progress.tenth = -1;
    }
    pthread_mutex_unlock(&log_mutex);
}
