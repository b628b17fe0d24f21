/* Server-sent events: framing only. LF line ends, `data:` lines and comments, nothing else. */
#ifndef SERVER_SSE_H
#define SERVER_SSE_H

#include <stddef.h>

#include "server/buffer.h"

/* "data: <json>\n\n". json must hold no line break (JSON strings escape theirs). */
void sse_write_data(struct buffer *out, const char *json, size_t length);
/* The same around JSON that is written in between. */
void sse_begin_data(struct buffer *out);
void sse_end_data(struct buffer *out);
void sse_write_ping(struct buffer *out); /* ": ping\n\n" */
void sse_write_done(struct buffer *out); /* "data: [DONE]\n\n" */

/* Length of the first whole event in data, or 0. What one write to the client may carry. */
size_t sse_event_length(const char *data, size_t length);

#endif
