/* The HTTP and SSE readers of `any4 bench serve`, under every split of what they read. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "server/bench/reader.h"
#include "server/bench/stats.h"
#include "server/buffer.h"

TestSuite(bench_reader, .timeout = 120);

static bool keep_body(void *context, const char *bytes, size_t length)
{
    buffer_append(context, bytes, length);
    return true;
}

static bool keep_event(void *context, const char *data, size_t length)
{
    buffer_printf(context, "[%zu:%s]", length, data);
    return true;
}

struct outcome {
    enum http_result result;
    int32_t status;
    bool keep_alive, event_stream;
    size_t taken;
    struct buffer body;
};

/* Feeds text cut at the given places (ascending), and the end of the connection if it goes on. */
static struct outcome read_http(const char *text, size_t length, const size_t *cuts, size_t n_cuts)
{
    struct http_reader r = {0};
    struct outcome o = {.result = HTTP_MORE};
    http_reader_init(&r);
    size_t at = 0;
    for (size_t i = 0; i <= n_cuts && o.result == HTTP_MORE; i++) {
        size_t end = i < n_cuts ? cuts[i] : length, taken;
        char *piece = malloc(end - at + 1); /* of its own, so that the sanitizer sees a read beyond it */
        memcpy(piece, text + at, end - at);
        o.result = http_reader_feed(&r, piece, end - at, &taken, keep_body, &o.body);
        free(piece);
        cr_assert(o.result != HTTP_MORE || taken == end - at);
        o.taken += taken;
        at = end;
    }
    if (o.result == HTTP_MORE) {
        o.result = http_reader_close(&r);
    }
    o.status = r.status;
    o.keep_alive = r.keep_alive;
    o.event_stream = r.event_stream;
    cr_assert(o.result != HTTP_BAD || r.reason);
    http_reader_finish(&r);
    return o;
}

static const struct {
    const char *text, *body; /* body NULL: must be refused */
    int32_t status;
    bool keep_alive, event_stream;
    size_t extra; /* bytes behind the response */
} RESPONSES[] = {
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", 200, true, false, 0},
    {"HTTP/1.1 200\r\ncontent-length:5  \r\nConnection: Close\r\n\r\nhelloX", "hello", 200, false, false, 1},
    {"HTTP/1.1 204 No\r\n\r\n", "", 204, true, false, 0},
    {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP", "", 200, true, false, 4},
    {"HTTP/1.0 200 OK\r\n\r\nuntil close", "until close", 200, false, false, 0},
    {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", "x", 200, true, false, 0},
    {"HTTP/1.1 100 Continue\r\nA: b\r\n\r\nHTTP/1.1 200 OK\nContent-Length: 2\n\nab", "ab", 200, true, false,
     0},
    {"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
     "5\r\nhello\r\n1;ext=\"x\"\r\n \r\nA \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
     "hello 0123456789", 200, true, true, 0},
    {"HTTP/1.1 429 Too Many\r\nTransfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n0\r\n\r\nrest", "",
     429, true, false, 4},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n", NULL, 0, 0, 0, 0},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", NULL, 0, 0, 0, 0},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", NULL, 0, 0, 0, 0},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n", NULL, 0, 0, 0, 0},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n", NULL, 0, 0, 0, 0},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", NULL, 0, 0, 0, 0},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", NULL, 0, 0, 0, 0},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\nhello", NULL, 0, 0, 0, 0},
    {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999999\r\n\r\nhello", NULL, 0, 0, 0, 0},
    {"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", NULL, 0, 0, 0, 0},
    {"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", NULL, 0, 0, 0, 0},
    {"HTTP/1.1 101 Switching\r\n\r\n", NULL, 0, 0, 0, 0},
    {"HTTP/2 200\r\n\r\n", NULL, 0, 0, 0, 0},
    {"HTTP/1.1 20\r\n\r\n", NULL, 0, 0, 0, 0},
    {"HTTP/1.1 2000\r\n\r\n", NULL, 0, 0, 0, 0},
    {"SSH-2.0-OpenSSH\r\n", NULL, 0, 0, 0, 0},
    {"HTTP/1.", NULL, 0, 0, 0, 0},
    {"\r\n", NULL, 0, 0, 0, 0},
    {"", NULL, 0, 0, 0, 0},
};

static void check_response(size_t which, const size_t *cuts, size_t n_cuts)
{
    const char *text = RESPONSES[which].text;
    size_t length = strlen(text);
    struct outcome o = read_http(text, length, cuts, n_cuts);
    if (!RESPONSES[which].body) {
        cr_assert_eq(o.result, HTTP_BAD, "response %zu", which);
    } else {
        cr_assert_eq(o.result, HTTP_DONE, "response %zu", which);
        cr_assert_eq(o.status, RESPONSES[which].status);
        cr_assert_eq(o.keep_alive, RESPONSES[which].keep_alive, "response %zu", which);
        cr_assert_eq(o.event_stream, RESPONSES[which].event_stream);
        cr_assert_str_eq(buffer_string(&o.body), RESPONSES[which].body);
        if (!n_cuts) {
            cr_assert_eq(o.taken, length - RESPONSES[which].extra);
        }
    }
    buffer_finish(&o.body);
}

Test(bench_reader, responses_at_every_split)
{
    for (size_t which = 0; which < sizeof RESPONSES / sizeof *RESPONSES; which++) {
        size_t length = strlen(RESPONSES[which].text);
        size_t each[512];
        check_response(which, NULL, 0);
        for (size_t i = 0; i <= length; i++) {
            each[i] = i;
            for (size_t j = i; j <= length; j++) {
                check_response(which, (size_t[]){i, j}, 2);
            }
        }
        check_response(which, each, length);
    }
}

Test(bench_reader, heads_are_bounded)
{
    struct buffer endless = {0};
    buffer_text(&endless, "HTTP/1.1 200 OK\r\n");
    while (endless.length <= HTTP_HEAD_MAX) {
        buffer_text(&endless, "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n");
    }
    struct outcome o = read_http(endless.data, endless.length, NULL, 0);
    cr_assert_eq(o.result, HTTP_BAD);
    struct buffer line = {0};
    buffer_text(&line, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;");
    while (line.length <= 2 * HTTP_HEAD_MAX) {
        buffer_text(&line, "extension-without-end");
    }
    o = read_http(line.data, line.length, NULL, 0);
    cr_assert_eq(o.result, HTTP_BAD);
    static const char NUL[] = "HTTP/1.1 200 OK\r\nContent-Length\0: 5\r\n\r\nhello";
    o = read_http(NUL, sizeof NUL - 1, NULL, 0);
    cr_assert_eq(o.result, HTTP_BAD);
    buffer_finish(&endless);
    buffer_finish(&line);
}

static void check_events(const char *text, const char *want, const size_t *cuts, size_t n_cuts)
{
    struct sse_reader r = {0};
    struct buffer seen = {0};
    size_t at = 0;
    for (size_t i = 0; i <= n_cuts; i++) {
        size_t end = i < n_cuts ? cuts[i] : strlen(text);
        char *piece = malloc(end - at + 1);
        memcpy(piece, text + at, end - at);
        cr_assert(sse_reader_feed(&r, piece, end - at, keep_event, &seen));
        free(piece);
        at = end;
    }
    cr_assert_str_eq(buffer_string(&seen), want);
    buffer_finish(&seen);
    sse_reader_finish(&r);
}

Test(bench_reader, events_at_every_split)
{
    static const struct {
        const char *text, *want;
    } STREAMS[] = {
        {"data: {\"a\":1}\n\ndata: [DONE]\n\n", "[7:{\"a\":1}][6:[DONE]]"},
        {": ping\n\ndata:x\r\n\r\ndata: y\r\rid: 4\nevent: z\n\n", "[1:x][1:y]"},
        {"data: a\ndata: b\ndata\ndata:\n\n", "[5:a\nb\n\n]"},
        {"\xef\xbb\xbf"
         "data: a\n\n\n\n\r\n\ndatax: b\n\ndata:  c\n\ndata: not ended\n",
         "[1:a][2: c]"},
        {"retry: 5\n: data: no\n\n data: no\n\ndata: \xc3\xa4\n\n", "[2:\xc3\xa4]"},
        {"data: a\r\n\ndata: b\n\r\n", "[1:a][1:b]"},
        {"data: a\r\ndata: b\r\n\r\ndata: c\rdata: d\r\r", "[3:a\nb][3:c\nd]"},
    };
    for (size_t s = 0; s < sizeof STREAMS / sizeof *STREAMS; s++) {
        size_t length = strlen(STREAMS[s].text), each[256];
        check_events(STREAMS[s].text, STREAMS[s].want, NULL, 0);
        for (size_t i = 0; i <= length; i++) {
            each[i] = i;
            for (size_t j = i; j <= length; j++) {
                check_events(STREAMS[s].text, STREAMS[s].want, (size_t[]){i, j}, 2);
            }
        }
        check_events(STREAMS[s].text, STREAMS[s].want, each, length);
    }
}

Test(bench_reader, events_are_bounded)
{
    static char block[65536];
    memset(block, 'x', sizeof block);
    for (int32_t many_lines = 0; many_lines < 2; many_lines++) {
        struct sse_reader r = {0};
        struct buffer seen = {0};
        bool ok = sse_reader_feed(&r, "data: ", 6, keep_event, &seen);
        size_t fed = 0;
        while (ok && fed < 4 * (size_t)SSE_EVENT_MAX) {
            ok = sse_reader_feed(&r, block, sizeof block, keep_event, &seen);
            if (ok && many_lines) {
                ok = sse_reader_feed(&r, "\ndata: ", 7, keep_event, &seen);
            }
            fed += sizeof block;
        }
        cr_assert_not(ok);
        cr_assert_leq(fed, (size_t)SSE_EVENT_MAX + 2 * sizeof block);
        cr_assert_eq(seen.length, 0);
        sse_reader_finish(&r);
        buffer_finish(&seen);
    }
}

/* Random bytes and random damage: no crash, no hang, and every byte is accounted for. */
Test(bench_reader, garbage_is_survived)
{
    uint64_t rng = 3;
    for (int32_t round = 0; round < 20000; round++) {
        char text[512];
        const char *base = RESPONSES[(size_t)rng_between(&rng, 0, 8)].text;
        size_t length = strlen(base);
        memcpy(text, base, length);
        for (int32_t hits = rng_between(&rng, 1, 4); hits > 0; hits--) {
            text[rng_between(&rng, 0, (int32_t)length - 1)] = (char)rng_between(&rng, 0, 255);
        }
        size_t cut = (size_t)rng_between(&rng, 0, (int32_t)length);
        struct outcome o = read_http(text, length, &cut, 1);
        cr_assert(o.result == HTTP_DONE || o.result == HTTP_BAD);
        struct sse_reader r = {0};
        struct buffer seen = {0};
        cr_assert(sse_reader_feed(&r, text, length, keep_event, &seen));
        sse_reader_finish(&r);
        buffer_finish(&seen);
        buffer_finish(&o.body);
    }
}
