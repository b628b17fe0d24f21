/* Readers of what a server sends: an HTTP/1.1 response in any split, and server-sent events in any split.
 * Pure: bytes in, callbacks out. Every length is bounded, for the bytes come from outside. */
#ifndef SERVER_BENCH_READER_H
#define SERVER_BENCH_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/buffer.h"

enum {
    HTTP_HEAD_MAX = 64 * 1024, /* status line and headers of a response, or its trailers */
    SSE_EVENT_MAX = 1024 * 1024,
};

/* ---- HTTP ---- */

enum http_result {
    HTTP_MORE, /* all bytes taken, the response goes on */
    HTTP_DONE, /* the response is complete; bytes behind it were not taken */
    HTTP_BAD,  /* not HTTP/1.x, or over a limit: reason says which */
    HTTP_STOP, /* the callback asked to stop */
};

/* A piece of the body. Returns false to stop. */
typedef bool http_body_fn(void *context, const char *bytes, size_t length);

struct http_reader {
    int32_t status;     /* 0 until the head is complete; 1xx heads are skipped */
    bool keep_alive;    /* the connection may serve another request after HTTP_DONE */
    bool event_stream;  /* Content-Type is text/event-stream */
    const char *reason; /* static text, after HTTP_BAD */
    /* private */
    int32_t state;
    struct buffer line; /* the line being read, without its end */
    size_t head_bytes;
    bool chunked, has_length, until_close;
    uint64_t left; /* body or chunk bytes still to come */
};

void http_reader_init(
    struct http_reader *r); /* for the first response; the line buffer must be zeroed or initialized */
void http_reader_finish(struct http_reader *r);
/* Feeds bytes; *taken says how many were used. */
enum http_result http_reader_feed(struct http_reader *r, const char *bytes, size_t length, size_t *taken,
                                  http_body_fn *body, void *context);
/* The peer closed: HTTP_DONE if that ends the body, else HTTP_BAD. */
enum http_result http_reader_close(struct http_reader *r);

/* ---- server-sent events ---- */

/* The data of one event, its lines joined by \n; terminated as well. Returns false to stop. */
typedef bool sse_event_fn(void *context, const char *data, size_t length);

struct sse_reader {
    struct buffer line, data;
    bool has_data;
    bool skip_lf; /* the last byte was a CR: a LF now belongs to it */
    bool begun;   /* the first line is over: no byte-order mark any more */
};

void sse_reader_finish(
    struct sse_reader *r); /* frees; usable for a new stream afterwards, as zeroed memory is */
void sse_reader_reset(struct sse_reader *r); /* for a new stream, keeping the memory */
/* False when an event exceeds SSE_EVENT_MAX, memory is out, or the callback stopped. Fields other than data,
 * and comments, are skipped; an event without data is none. */
bool sse_reader_feed(struct sse_reader *r, const char *bytes, size_t length, sse_event_fn *event,
                     void *context);

#endif
