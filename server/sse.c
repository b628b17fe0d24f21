/* Framing of server-sent events. */
#include "server/sse.h"

#include <string.h>

void sse_write_data(struct buffer *out, const char *json, size_t length)
{
    buffer_text(out, "data: ");
    buffer_append(out, json, length);
    buffer_text(out, "\n\n");
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
    const char *end = length ? memmem(data, length, "\n\n", 2) : NULL;
    return end ? (size_t)(end - data) + 2 : 0;
}
