/* HTTP/1.1 responses (RFC 9112) and server-sent events (WHATWG HTML, section 9.2.6), read incrementally. */
#include "server/bench/reader.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    STATE_STATUS_LINE,
    STATE_HEADER,
    STATE_BODY, /* `left` bytes, or until close */
    STATE_CHUNK_SIZE,
    STATE_CHUNK_DATA,
    STATE_CHUNK_END, /* the line end behind a chunk's data */
    STATE_TRAILER,
    STATE_DONE,
};

/* More than any body that is worth reading; keeps sums of lengths far from overflow. */
static const uint64_t LENGTH_MAX = UINT64_C(1) << 50;

/* ---- HTTP ---- */

void http_reader_init(struct http_reader *r)
{
    struct buffer line = r->line;
    line.length = 0;
    line.failed = false;
    *r = (struct http_reader){.line = line, .state = STATE_STATUS_LINE};
}

void http_reader_finish(struct http_reader *r)
{
    buffer_finish(&r->line);
}

static enum http_result bad(struct http_reader *r, const char *reason)
{
    r->reason = reason;
    return HTTP_BAD;
}

/* Digits of the given base, all of them and at least one. */
static bool parse_length(const char *text, size_t length, unsigned base, uint64_t *value)
{
    *value = 0;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A' + 10)
                                                : base;
        if (digit >= base || *value > LENGTH_MAX) {
            return false;
        }
        *value = *value * base + digit;
    }
    return length > 0 && *value <= LENGTH_MAX;
}

static enum http_result read_status_line(struct http_reader *r, const char *line)
{
    /* HTTP/1.x SP 3DIGIT [SP reason] */
    if (strncmp(line, "HTTP/1.", 7) != 0 || (line[7] != '0' && line[7] != '1') || line[8] != ' ' ||
        strspn(line + 9, "0123456789") != 3 || (line[12] != ' ' && line[12] != '\0') || line[9] == '0') {
        return bad(r, "not an HTTP/1.x status line");
    }
    r->status = atoi(line + 9);
    r->keep_alive = line[7] == '1';
    r->chunked = r->has_length = r->event_stream = false;
    r->state = STATE_HEADER;
    return HTTP_MORE;
}

/* Whether the comma-separated list has the word, whatever the case. */
static bool list_has(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (;;) {
        list += strspn(list, " \t,");
        size_t length = strcspn(list, ", \t");
        if (!length) {
            return false;
        }
        if (length == n && strncasecmp(list, word, n) == 0) {
            return true;
        }
        list += length;
    }
}

static enum http_result read_header(struct http_reader *r, const char *line)
{
    const char *colon = strchr(line, ':');
    if (!colon || colon == line) {
        return bad(r, "header line without a name");
    }
    size_t name = (size_t)(colon - line);
    const char *value = colon + 1 + strspn(colon + 1, " \t");
    if (name == 14 && strncasecmp(line, "Content-Length", name) == 0) {
        uint64_t length;
        if (!parse_length(value, strcspn(value, " \t"), 10, &length) ||
            (r->has_length && length != r->left)) {
            return bad(r, "bad Content-Length");
        }
        r->has_length = true;
        r->left = length;
    } else if (name == 17 && strncasecmp(line, "Transfer-Encoding", name) == 0) {
        if (strncasecmp(value, "chunked", 7) != 0 || value[7 + strspn(value + 7, " \t")] != '\0') {
            return bad(r, "Transfer-Encoding other than chunked");
        }
        r->chunked = true;
    } else if (name == 10 && strncasecmp(line, "Connection", name) == 0) {
        if (list_has(value, "close")) {
            r->keep_alive = false;
        } else if (list_has(value, "keep-alive")) {
            r->keep_alive = true;
        }
    } else if (name == 12 && strncasecmp(line, "Content-Type", name) == 0) {
        r->event_stream = strncasecmp(value, "text/event-stream", 17) == 0;
    }
    return HTTP_MORE;
}

static enum http_result end_of_head(struct http_reader *r)
{
    if (r->status < 200) { /* 100 Continue and the like: the real head follows */
        if (r->status == 101) {
            return bad(r, "switched protocols unasked");
        }
        r->status = 0;
        r->state = STATE_STATUS_LINE;
        return HTTP_MORE;
    }
    r->head_bytes = 0; /* counts the trailers from here */
    if (r->status == 204 || r->status == 304) {
        r->state = STATE_DONE;
    } else if (r->chunked) {
        r->state = STATE_CHUNK_SIZE;
    } else if (r->has_length) {
        r->state = r->left ? STATE_BODY : STATE_DONE;
    } else {
        r->until_close = true;
        r->keep_alive = false;
        r->left = LENGTH_MAX;
        r->state = STATE_BODY;
    }
    return HTTP_MORE;
}

static enum http_result read_line(struct http_reader *r, const char *line, size_t length)
{
    switch (r->state) {
    case STATE_STATUS_LINE:
        return read_status_line(r, line);
    case STATE_HEADER:
        return length ? read_header(r, line) : end_of_head(r);
    case STATE_CHUNK_SIZE:
        /* An extension may follow behind a semicolon. */
        if (!parse_length(line, strcspn(line, "; \t"), 16, &r->left)) {
            return bad(r, "bad chunk size");
        }
        r->state = r->left ? STATE_CHUNK_DATA : STATE_TRAILER;
        r->head_bytes = 0;
        return HTTP_MORE;
    case STATE_CHUNK_END:
        if (length) {
            return bad(r, "chunk longer than its size");
        }
        r->state = STATE_CHUNK_SIZE;
        return HTTP_MORE;
    default:
        if (!length) {
            r->state = STATE_DONE;
        }
        return HTTP_MORE;
    }
}

/* Collects a line up to LF; a CR before it is dropped. */
static enum http_result feed_line(struct http_reader *r, const char *bytes, size_t length, size_t *taken)
{
    const char *lf = memchr(bytes, '\n', length);
    *taken = lf ? (size_t)(lf - bytes) + 1 : length;
    r->head_bytes += *taken;
    if (r->head_bytes > HTTP_HEAD_MAX) {
        return bad(r, "headers too large");
    }
    buffer_append(&r->line, bytes, lf ? *taken - 1 : length);
    if (!lf) {
        return r->line.failed ? bad(r, "out of memory") : HTTP_MORE;
    }
    if (r->line.length && r->line.data[r->line.length - 1] == '\r') {
        r->line.length--;
    }
    const char *line = buffer_string(&r->line);
    if (r->line.failed) {
        return bad(r, "out of memory");
    }
    if (strlen(line) != r->line.length) {
        return bad(r, "NUL byte in a header");
    }
    enum http_result result = read_line(r, line, r->line.length);
    r->line.length = 0;
    return result;
}

enum http_result http_reader_feed(struct http_reader *r, const char *bytes, size_t length, size_t *taken,
                                  http_body_fn *body, void *context)
{
    *taken = 0;
    while (r->state != STATE_DONE && *taken < length) {
        size_t n = length - *taken;
        enum http_result result = HTTP_MORE;
        if (r->state == STATE_BODY || r->state == STATE_CHUNK_DATA) {
            n = r->left < n ? (size_t)r->left : n;
            r->left -= n;
            if (!body(context, bytes + *taken, n)) {
                result = HTTP_STOP;
            }
            if (!r->left) {
                r->state = r->state == STATE_BODY ? STATE_DONE : STATE_CHUNK_END;
            }
        } else {
            result = feed_line(r, bytes + *taken, n, &n);
        }
        *taken += n;
        if (result != HTTP_MORE) {
            return result;
        }
    }
    return r->state == STATE_DONE ? HTTP_DONE : HTTP_MORE;
}

enum http_result http_reader_close(struct http_reader *r)
{
    if (r->state == STATE_DONE || (r->state == STATE_BODY && r->until_close)) {
        r->state = STATE_DONE;
        return HTTP_DONE;
    }
    return bad(r, r->status ? "closed inside the response" : "closed before a response");
}

/* ---- server-sent events ---- */

void sse_reader_finish(struct sse_reader *r)
{
    buffer_finish(&r->line);
    buffer_finish(&r->data);
    *r = (struct sse_reader){0};
}

void sse_reader_reset(struct sse_reader *r)
{
    struct buffer line = r->line, data = r->data;
    line.length = data.length = 0;
    line.failed = data.failed = false;
    *r = (struct sse_reader){.line = line, .data = data};
}

static bool sse_line(struct sse_reader *r, sse_event_fn *event, void *context)
{
    const char *line = r->line.data;
    size_t length = r->line.length;
    if (!r->begun && length >= 3 && memcmp(line, "\xef\xbb\xbf", 3) == 0) {
        line += 3;
        length -= 3;
    }
    r->begun = true;
    bool go_on = true;
    if (length == 0) {
        if (r->has_data) {
            const char *data = buffer_string(&r->data);
            go_on = !r->data.failed && event(context, data, r->data.length);
            r->data.length = 0;
            r->has_data = false;
        }
    } else if (length >= 4 && memcmp(line, "data", 4) == 0 && (length == 4 || line[4] == ':')) {
        size_t skip = length == 4 ? 4 : length > 5 && line[5] == ' ' ? 6 : 5;
        if (r->has_data) {
            buffer_append(&r->data, "\n", 1);
        }
        buffer_append(&r->data, line + skip, length - skip);
        r->has_data = true;
        go_on = !r->data.failed && r->data.length <= SSE_EVENT_MAX;
    }
    r->line.length = 0;
    return go_on;
}

bool sse_reader_feed(struct sse_reader *r, const char *bytes, size_t length, sse_event_fn *event,
                     void *context)
{
    for (size_t i = 0; i < length;) {
        if (r->skip_lf && bytes[i] == '\n') {
            r->skip_lf = false;
            i++;
            continue;
        }
        r->skip_lf = false;
        size_t end = i;
        while (end < length && bytes[end] != '\n' && bytes[end] != '\r') {
            end++;
        }
        buffer_append(&r->line, bytes + i, end - i);
        if (r->line.failed || r->line.length > SSE_EVENT_MAX) {
            return false;
        }
        i = end;
        if (end < length) {
            r->skip_lf = bytes[end] == '\r';
            i++;
            if (!sse_line(r, event, context)) {
                return false;
            }
        }
    }
    return true;
}
