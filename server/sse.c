/* Framing of server-sent events. */
#include "server/sse.h"

#include <string.h>

void sse_begin_data(struct buffer *out)
{
    buffer_text(out, "data: ");
}

void sse_end_data(struct buffer *out)
{
    buffer_text(out, "\n\n");
}

void sse_write_data(struct buffer *out, const char *json, size_t length)
{
    sse_begin_data(out);
    buffer_append(out, json, length);
    sse_end_data(out);
}

void sse_write_ping(struct buffer *out)
{
    buffer_text(out, ": ping\n\n");
}

void sse_write_done(struct buffer *out)
{
    buffer_text(out, "data: [DONE]\n\n");
}

size_t sse_event_length(const char *data, size_t length)
{
    /* memchr, as a line is long and its end nearly always that of the event; memmem goes byte by byte. */
    const char *end = length ? memchr(data, '\n', length) : NULL;
    while (end) {
        size_t at = (size_t)(end - data) + 1;
        if (at == length) {
            break;
        }
        if (data[at] == '\n') {
            return at + 1;
        }
        end = memchr(data + at, '\n', length - at);
    }
    return 0;
}
