/* The HTTP layer over the fake engine: routing, errors, streams, faults, clients that leave. */
#include <sys/socket.h>

#include "server/clock.h"
#include "tests/server/support.h"

static void expect(const struct rig *rig, const char *method, const char *path, const char *headers,
                   const char *body, int status, const char *part)
{
    char *answer = ask(rig, method, path, headers, body);
    cr_assert_eq(status_of(answer), status, "%s %s: %s", method, path, answer);
    cr_assert(strstr(answer, part), "%s %s: no %s in %s", method, path, part, answer);
    cr_assert(strstr(answer, "X-Request-Id: "), "%s", answer);
    cr_assert(strstr(answer, "Cache-Control: no-store"), "%s", answer);
    free(answer);
}

Test(http, routes)
{
    struct rig rig;
    rig_open(&rig, NULL);
    expect(&rig, "GET", "/health", "", NULL, 200, "\r\n\r\n{\"status\":\"ok\"}\n");
    expect(&rig, "GET", "/readyz", "", NULL, 200, "ok");
    expect(&rig, "GET", "/livez", "", NULL, 200, "ok");
    expect(&rig, "GET", "/version", "", NULL, 200, "\"version\"");
    expect(&rig, "GET", "/metrics", "", NULL, 200, "any4_requests_total{");
    expect(&rig, "GET", "/v1/models", "", NULL, 200, "\"id\":\"tiny\"");
    expect(&rig, "GET", "/v1/models/tiny", "", NULL, 200, "\"max_model_len\":256");
    expect(&rig, "GET", "/v1/models/t%69ny", "", NULL, 200, "\"object\":\"model\"");
    expect(&rig, "GET", "/v1/models/other", "", NULL, 404, "model_not_found");
    expect(&rig, "GET", "/v1/models/", "", NULL, 404, "did you mean /v1/models?");
    expect(&rig, "GET", "/v1/modles", "", NULL, 404, "did you mean /v1/models?");
    expect(&rig, "GET", "/v1%2fmodels", "", NULL, 404, "unknown_url");
    expect(&rig, "GET", "//health", "", NULL, 404, "unknown_url");
    expect(&rig, "GET", "/../etc/passwd", "", NULL, 404, "unknown_url");
    expect(&rig, "POST", "/v1/chat/completions", "", "{}", 400, "missing_field");
    expect(&rig, "GET", "/v1/completions", "", NULL, 405, "Allow: POST, OPTIONS");
    expect(&rig, "DELETE", "/health", "", NULL, 405, "Allow: GET, HEAD, OPTIONS");
    expect(&rig, "OPTIONS", "/v1/completions", "", NULL, 204, "Allow: POST, OPTIONS");
    expect(&rig, "POST", "/tokenize", "", "{\"prompt\":\"abc\"}", 200, "\"count\":");
    expect(&rig, "POST", "/tokenize", "", "", 400, "the body is empty");
    expect(&rig, "POST", "/tokenize", "", "{", 400, "the body is not acceptable JSON: byte 1: ");
    expect(&rig, "POST", "/tokenize", "Content-Encoding: identity\r\n", "{\"prompt\":\"a\"}", 200,
           "\"count\":");
    expect(&rig, "POST", "/tokenize", "Content-Encoding: gzip\r\n", "{\"prompt\":\"a\"}", 400,
           "{\"error\":{\"message\":\"Content-Encoding gzip is not "
           "supported\",\"type\":\"invalid_request_error\","
           "\"param\":null,\"code\":\"unsupported_parameter\"}}\n");
    expect(&rig, "POST", "/v1/detokenize", "", "{\"tokens\":[100,101]}", 200,
           "{\"prompt\":\"ab\",\"bytes_b64\":\"YWI=\"}");
    expect(&rig, "POST", "/v1/detokenize", "", "{\"tokens\":[258]}", 200, "\"bytes_b64\":\"/w==\"");
    expect(&rig, "GET", "/health", "X-Request-Id: mine-1\r\n", NULL, 200, "X-Request-Id: mine-1");
    expect(&rig, "GET", "/health", "X-Request-Id: bad id\r\n", NULL, 200, "X-Request-Id: req-");
    char *answer = ask(&rig, "HEAD", "/v1/models", "", NULL);
    cr_assert_eq(status_of(answer), 200);
    cr_assert(!strstr(answer, "tiny") && strstr(answer, "Content-Length: "), "%s", answer);
    free(answer);
    rig_close(&rig);
}

Test(http, keys_origins_and_hosts)
{
    struct rig rig;
    rig_open(&rig, (const char *[]){"--api-key", "secret", "--cors-origin", "http://good", "--allowed-host",
                                    "x", "--metrics-auth", NULL});
    expect(&rig, "GET", "/health", "", NULL, 200, "ok");
    expect(&rig, "GET", "/v1/models", "", NULL, 401, "missing_api_key");
    expect(&rig, "GET", "/v1/models", "", NULL, 401, "WWW-Authenticate: Bearer");
    expect(&rig, "GET", "/v1/models", "Authorization: Bearer secre\r\n", NULL, 401, "invalid_api_key");
    expect(&rig, "GET", "/v1/models", "Authorization: Bearer secrets\r\n", NULL, 401, "invalid_api_key");
    expect(&rig, "GET", "/v1/models", "Authorization: Bearer secret\r\n", NULL, 200, "tiny");
    expect(&rig, "GET", "/metrics", "", NULL, 401, "missing_api_key");
    expect(&rig, "POST", "/v1/completions", "", "{\"prompt\":\"a\"}", 401, "missing_api_key");
    expect(&rig, "GET", "/health", "Origin: http://evil\r\n", NULL, 403, "origin_not_allowed");
    expect(&rig, "GET", "/health", "Origin: http://good\r\n", NULL, 200,
           "Access-Control-Allow-Origin: http://good");
    expect(&rig, "OPTIONS", "/v1/completions", "Origin: http://good\r\n", NULL, 204,
           "Access-Control-Allow-Headers");
    expect(&rig, "GET", "/v1/modelz", "Origin: http://evil\r\n", NULL, 404,
           "unknown_url"); /* the URL comes first */
    rig_close(&rig);
}

Test(http, limits)
{
    struct rig rig;
    char long_path[512], long_header[2048];
    rig_open(&rig, (const char *[]){"--max-body-bytes", "100", "--max-url-bytes", "200", "--max-header-bytes",
                                    "1K", NULL});
    memset(long_path, 'a', sizeof long_path);
    long_path[0] = '/';
    long_path[400] = '\0';
    expect(&rig, "GET", long_path, "", NULL, 414, "url_too_long");
    memset(long_header, 'a', sizeof long_header);
    memcpy(long_header, "X: ", 3);
    memcpy(long_header + 1500, "\r\n", 3);
    expect(&rig, "GET", "/health", long_header, NULL, 431, "headers_too_large");
    expect(&rig, "POST", "/v1/completions", "Content-Length: 99999999\r\n", NULL, 413, "body_too_large");
    expect(&rig, "POST", "/v1/completions", "Content-Length: 101\r\nExpect: 100-continue\r\n", NULL, 413,
           "Connection: close");
    /* What is only a little too large is read first: who sends it all before looking sees the answer too. */
    char large[381];
    memset(large, 'a', sizeof large - 1);
    large[380] = '\0';
    expect(&rig, "POST", "/v1/completions", "", large, 413, "Connection: close");
    /* A chunked body tells its length only by arriving. */
    struct buffer chunked = {0};
    buffer_text(&chunked,
                "POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n96\r\n");
    for (int i = 0; i < 0x96; i++) {
        buffer_text(&chunked, "a");
    }
    buffer_text(&chunked, "\r\n0\r\n\r\n");
    int fd = rig_connect(&rig);
    send_text(fd, buffer_string(&chunked));
    buffer_finish(&chunked);
    char *answer = read_all(fd, 2);
    cr_assert_eq(status_of(answer), 413, "%s", answer);
    free(answer);
    close(fd);
    rig_close(&rig);
}

/* Sends text as it is and expects an answer after which the connection is closed. */
static void expect_closed(const struct rig *rig, const char *text, int status, const char *part)
{
    int fd = rig_connect(rig);
    send_text(fd, text);
    char *answer = read_all(fd, 5);
    cr_assert_eq(status_of(answer), status, "%s -> %s", text, answer);
    cr_assert(strstr(answer, part), "%s -> %s", text, answer);
    char byte;
    cr_assert_eq(recv(fd, &byte, 1, MSG_DONTWAIT), 0, "%s: the connection stays open", text);
    free(answer);
    close(fd);
}

Test(http, ambiguous_framing)
{
    struct rig rig;
    rig_open(&rig, NULL);
#define POST "POST /v1/tokenize HTTP/1.1\r\n"
    expect_closed(&rig, POST "Host: x\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}", 400,
                  "more than once");
    expect_closed(&rig, POST "Host: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400,
                  "more than once");
    expect_closed(
        &rig, POST "Host: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        400, "exclude each other");
    expect_closed(&rig, POST "Host: x\r\nTransfer-Encoding: gzip\r\n\r\n{}", 400, "can only be chunked");
    expect_closed(&rig, POST "Content-Length: 2\r\n\r\n{}", 400, "Host is missing");
    expect_closed(&rig, POST "Host: x\r\nHost: y\r\nContent-Length: 2\r\n\r\n{}", 400, "Host is given");
    expect_closed(&rig, "GET /livez HTTP/1.0\r\n\r\n", 200, "ok");
    expect(&rig, "POST", "/v1/tokenize", "", "{\"prompt\":\"\"}", 200, "{\"tokens\":[1],\"count\":1,");
    expect(&rig, "POST", "/v1/tokenize", "", "{\"prompt\":\"\",\"add_special_tokens\":false}", 200,
           "{\"tokens\":[1],\"count\":1,");
#undef POST
    rig_close(&rig);
}

/* {"prompt":"aaa...","more"}: n letters. Caller frees. */
static char *long_prompt(size_t n, const char *more)
{
    struct buffer body = {0};
    buffer_text(&body, "{\"prompt\":\"");
    for (size_t i = 0; i < n; i++) {
        buffer_append(&body, i % 7 ? "x" : "y", 1);
    }
    buffer_printf(&body, "\"%s}", more);
    char *text = strdup(buffer_string(&body));
    buffer_finish(&body);
    return text;
}

Test(http, long_texts)
{
    enum { N_LONG = 4, N_BYTES = 2000000 };
    struct rig rig;
    int fds[N_LONG];
    fake_engine.script = "hello";
    rig_open(&rig, (const char *[]){"--http-threads", "1", NULL});
    char *body = long_prompt(N_BYTES, "");
    /* What cannot fit is refused without tokenizing. */
    expect(&rig, "POST", "/v1/completions", "", body, 400, "the prompt has at least ");
    /* Others do not wait for those that are tokenized, one after the other. */
    struct buffer request = {0};
    buffer_printf(
        &request,
        "POST /v1/tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
        strlen(body), body);
    for (int i = 0; i < N_LONG; i++) {
        fds[i] = rig_connect(&rig);
        send_text(fds[i], buffer_string(&request));
    }
    buffer_finish(&request);
    expect(&rig, "GET", "/health", "", NULL, 200, "ok");
    char byte;
    cr_assert_lt(recv(fds[N_LONG - 1], &byte, 1, MSG_DONTWAIT), 0, "health was later than all tokenizing");
    close(fds[1]); /* leaves while it waits or is worked on */
    for (int i = 0; i < N_LONG; i++) {
        if (i != 1) {
            char *answer = read_all(fds[i], 60);
            cr_assert_eq(status_of(answer), 200);
            cr_assert(strstr(answer, "\"count\":"), "%.200s", answer);
            free(answer);
            close(fds[i]);
        }
        expect(&rig, "GET", "/health", "", NULL, 200, "ok");
    }
    free(body);
    body = long_prompt(30000, ",\"truncate_prompt_tokens\":9,\"stream\":true,\"max_tokens\":20");
    expect(&rig, "POST", "/v1/completions", "", body, 200, "data: [DONE]");
    expect(&rig, "POST", "/v1/completions", "", body, 200, "\"finish_reason\":\"stop\"");
    free(body);
    body = long_prompt(30000, ",\"truncate_prompt_tokens\":9,\"top_p\":7");
    expect(&rig, "POST", "/v1/completions", "", body, 400, "\"param\":\"top_p\"");
    free(body);
    rig_close(&rig);
}

Test(http, server_that_ends_with_long_texts_waiting)
{
    struct rig rig;
    int fds[6];
    rig_open(&rig, NULL);
    char *body = long_prompt(500000, "");
    struct buffer request = {0};
    buffer_printf(&request, "POST /v1/tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
                  strlen(body), body);
    for (int i = 0; i < 6; i++) {
        fds[i] = rig_connect(&rig);
        send_text(fds[i], buffer_string(&request));
    }
    buffer_finish(&request);
    free(body);
    rig_close(&rig);
    for (int i = 0; i < 6; i++) {
        close(fds[i]);
    }
}

/* The missing part lies in the socket, but the server does not come to read it: no fault of the client. */
Test(http, late_server_does_not_blame_clients)
{
    struct rig rig;
    fake_engine.script = "hello";
    rig_open(&rig, (const char *[]){"--http-threads", "1", "--header-timeout", "0.3", "--body-timeout", "0.3",
                                    NULL});
    int one = rig_connect(&rig), two = rig_connect(&rig);
    send_text(two, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"pro");
    usleep(50000);
    atomic_store(&fake_engine.submit_us, 1000000);
    send_text(one,
              "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"a\"}");
    usleep(50000);
    send_text(two, "mpt\":\"a\"}");
    usleep(700000);
    atomic_store(&fake_engine.submit_us, 0);
    char *first = read_all(one, 2), *second = read_all(two, 2);
    cr_assert_eq(status_of(first), 200, "%s", first);
    cr_assert_eq(status_of(second), 200, "%s", second);
    free(first);
    free(second);
    close(one);
    close(two);
    rig_close(&rig);
}

Test(http, draining_refuses_what_is_not_whole)
{
    struct rig rig;
    rig_open(&rig, NULL);
    int head = rig_connect(&rig), body = rig_connect(&rig);
    send_text(head, "GET /health HTTP/1.1\r\nHo");
    send_text(
        body,
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\nContent-Length: 50\r\n\r\n{");
    usleep(100000);
    cr_assert_eq(http_n_exchanges(rig.server.http), 2);
    cr_assert_eq(http_n_working(rig.server.http), 0);
    http_drain(rig.server.http);
    char *one = read_all(head, 5), *two = read_all(body, 5);
    cr_assert_eq(status_of(one), 503, "%s", one);
    cr_assert(strstr(two, "503") && strstr(two, "\"code\":\"draining\"") &&
                  strstr(two, "X-Request-Id: mine\r\n"),
              "%s", two);
    free(one);
    free(two);
    close(head);
    close(body);
    rig_close(&rig);
}

Test(http, slow_clients_are_cut)
{
    struct rig rig;
    rig_open(&rig, (const char *[]){"--header-timeout", "0.3", "--body-timeout", "0.3", NULL});
    int head = rig_connect(&rig), body = rig_connect(&rig), kept = rig_connect(&rig);
    send_text(head, "GET /health HT");
    /* A second request in drops on a kept connection is under the same limit. */
    send_text(kept, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    usleep(20000);
    send_text(kept, "GET /he");
    send_text(body, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{\"pro");
    char *one = read_all(head, 3), *two = read_all(body, 3);
    char *three = read_all(kept, 3);
    cr_assert(strstr(three, "HTTP/1.1 200") && strstr(three, "HTTP/1.1 408"), "%s", three);
    free(three);
    close(kept);
    char *metrics = ask(&rig, "GET", "/metrics", "", NULL);
    cr_assert(strstr(metrics, "any4_http_bad_requests_total{model=\"tiny\",code=\"408\"} 3\n"), "%s",
              metrics);
    cr_assert(!strstr(metrics, "code=\"499\"} 1"), "%s", metrics);
    free(metrics);
    cr_assert(strstr(one, "X-Request-Id: req-") && strstr(two, "X-Request-Id: req-"), "%s\n%s", one, two);
    cr_assert(strstr(one, "408") && strstr(one, "client_too_slow"), "%s", one);
    cr_assert(strstr(two, "408") && strstr(two, "client_too_slow"), "%s", two);
    free(one);
    free(two);
    close(head);
    close(body);
    rig_close(&rig);
}

Test(http, loading_and_draining)
{
    struct rig rig;
    rig_open(&rig, NULL);
    atomic_store(&rig.server.ready, false);
    expect(&rig, "GET", "/health", "", NULL, 503, "loading");
    expect(&rig, "GET", "/livez", "", NULL, 200, "ok");
    expect(&rig, "POST", "/v1/completions", "", "{\"prompt\":\"a\"}", 503, "Retry-After: 1");
    atomic_store(&rig.server.ready, true);
    atomic_store(&rig.server.draining, true);
    expect(&rig, "GET", "/readyz", "", NULL, 503, "draining");
    expect(&rig, "POST", "/v1/completions", "", "{\"prompt\":\"a\"}", 503, "\"code\":\"draining\"");
    rig_close(&rig);
}

Test(http, completion)
{
    struct rig rig;
    fake_engine.script = "hello world";
    rig_open(&rig, NULL);
    char *answer = complete(&rig, "{\"prompt\":\"ab\",\"max_tokens\":50,\"odd\":1,\"n\":2}");
    cr_assert_eq(status_of(answer), 200, "%s", answer);
    cr_assert(strstr(answer, "\"text\":\"hello world\""), "%s", answer);
    cr_assert(strstr(answer, "\"index\":1,\"text\":\"hello world\""), "%s", answer);
    cr_assert(strstr(answer, "\"finish_reason\":\"stop\""), "%s", answer);
    cr_assert(strstr(answer, "\"completion_tokens\":24,"), "EOS is counted: %s", answer);
    cr_assert(strstr(answer, "X-Ignored-Fields: odd"), "%s", answer);
    cr_assert(strstr(answer, "X-Generated-Tokens: 24"), "%s", answer);
    free(answer);
    answer = complete(&rig, "{\"prompt\":\"ab\",\"stop\":[\"o w\"],\"max_tokens\":50,\"logprobs\":1}");
    cr_assert(strstr(answer, "\"text\":\"hell\""), "%s", answer);
    cr_assert(strstr(answer, "\"tokens\":[\"h\",\"e\",\"l\",\"l\"]"), "no token of the stop string: %s",
              answer);
    cr_assert(strstr(answer, "\"stop_reason\":\"o w\""), "%s", answer);
    free(answer);
    cr_assert_eq(atomic_load(&fake_engine.n_stopped) + atomic_load(&fake_engine.n_cancelled),
                 atomic_load(&fake_engine.n_stopped), "a stop string's end counts as a client's that left");
    answer = complete(&rig, "{\"prompt\":\"ab\",\"max_tokens\":0,\"echo\":true,\"logprobs\":0}");
    cr_assert(strstr(answer, "\"text\":\"ab\""), "%s", answer);
    cr_assert(strstr(answer, "\"token_logprobs\":[null,"), "%s", answer);
    free(answer);
    rig_close(&rig);
}

/* The texts of a stream's chunks, joined. */
static char *joined_text(const char *answer)
{
    struct buffer out = {0};
    for (const char *at = answer; (at = strstr(at, "\"text\":\""));) {
        at += 8;
        size_t n = strcspn(at, "\"");
        buffer_append(&out, at, n);
        at += n;
    }
    char *text = strdup(buffer_string(&out));
    buffer_finish(&out);
    return text;
}

Test(http, stream_equals_answer)
{
    struct rig rig;
    fake_engine.token_us = 500;
    rig_open(&rig, NULL);
    char *whole = complete(&rig, "{\"prompt\":\"ab\",\"seed\":3,\"max_tokens\":40}");
    char *stream = complete(&rig, "{\"prompt\":\"ab\",\"seed\":3,\"max_tokens\":40,\"stream\":true,"
                                  "\"stream_options\":{\"include_usage\":true}}");
    char *a = joined_text(whole), *b = joined_text(stream);
    cr_assert_str_eq(a, b);
    cr_assert_eq(strlen(a), 40);
    cr_assert(strstr(stream, "Content-Type: text/event-stream; charset=utf-8\r\n"), "%s", stream);
    cr_assert(strstr(stream, "X-Accel-Buffering: no\r\n"), "%s", stream);
    cr_assert(strstr(stream, "\"finish_reason\":\"length\""), "%s", stream);
    cr_assert(strstr(stream, "\"choices\":[],\"usage\":{\"prompt_tokens\""), "%s", stream);
    cr_assert(strstr(stream, "data: [DONE]\n\n"), "%s", stream);
    cr_assert(!strstr(stream, "ping"), "%s", stream);
    free(whole);
    free(stream);
    free(a);
    free(b);
    rig_close(&rig);
}

static int32_t n_chunks(const char *stream)
{
    int32_t n = 0;
    for (const char *at = stream; (at = strstr(at, "\"text\":\"")); at++) {
        n++;
    }
    return n;
}

/* With an interval fast tokens share events, the first one goes out alone, and slow ones do not wait. */
Test(http, stream_interval)
{
    struct rig rig;
    const char *body = "{\"prompt\":\"ab\",\"seed\":3,\"max_tokens\":100,\"stream\":true}";
    rig_open(&rig, (const char *[]){"--stream-interval-ms", "100", NULL});
    fake_engine.token_us = 2000;
    char *whole = complete(&rig, "{\"prompt\":\"ab\",\"seed\":3,\"max_tokens\":100}");
    char *stream = complete(&rig, body);
    char *a = joined_text(whole), *b = joined_text(stream);
    cr_assert_str_eq(a, b);
    cr_assert_eq(strlen(a), 100);
    cr_assert_leq(n_chunks(stream), 50, "%d events for 100 tokens", n_chunks(stream));
    const char *first = strstr(stream, "\"text\":\"");
    cr_assert(first && first[8] != '"' && first[9] == '"', "the first token waits for others: %s", stream);
    free(whole);
    free(stream);
    free(a);
    free(b);
    rig_close(&rig);

    rig_open(&rig, (const char *[]){"--stream-interval-ms", "10", NULL});
    fake_engine.token_us = 60000;
    stream = complete(&rig, "{\"prompt\":\"ab\",\"seed\":3,\"max_tokens\":8,\"stream\":true}");
    cr_assert_geq(n_chunks(stream), 7, "%d events for 8 slow tokens: %s", n_chunks(stream), stream);
    free(stream);
    rig_close(&rig);
}

/* Events of a stream of 40 tokens, 5 ms each, beside 31 others. */
static int32_t n_shared_chunks(const struct rig *rig)
{
    enum { N_OTHERS = 31 };
    const char *body = "{\"prompt\":\"ab\",\"seed\":3,\"max_tokens\":200,\"stream\":true}";
    int fds[N_OTHERS];
    char request[256], first[256];
    snprintf(request, sizeof request,
             "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    for (int i = 0; i < N_OTHERS; i++) {
        fds[i] = rig_connect(rig);
        send_text(fds[i], request);
    }
    for (int i = 0; i < N_OTHERS; i++) {
        cr_assert_gt(recv(fds[i], first, sizeof first, 0), 0); /* now it is a stream */
    }
    char *stream = complete(rig, "{\"prompt\":\"ab\",\"seed\":3,\"max_tokens\":40,\"stream\":true}");
    cr_assert(strstr(stream, "[DONE]"), "%s", stream);
    int32_t n = n_chunks(stream);
    free(stream);
    for (int i = 0; i < N_OTHERS; i++) {
        close(fds[i]);
    }
    return n;
}

/* By itself: 32 streams on one thread of a CPU have ticks of 64 ms, on a card none. */
Test(http, stream_interval_auto)
{
    struct rig rig;
    fake_engine.token_us = 5000;
    rig_open(&rig, NULL);
    int32_t n_cpu = n_shared_chunks(&rig);
    while (http_n_exchanges(rig.server.http)) {
        usleep(1000);
    }
    char *alone = complete(&rig, "{\"prompt\":\"ab\",\"seed\":3,\"max_tokens\":40,\"stream\":true}");
    cr_assert_gt(n_chunks(alone), 2 * n_cpu, "%d events alone, %d beside others", n_chunks(alone), n_cpu);
    free(alone);
    rig_close(&rig);
    fake_engine.device_bytes = 1 << 20;
    rig_open(&rig, NULL);
    int32_t n_card = n_shared_chunks(&rig);
    cr_assert_gt(n_card, 2 * n_cpu, "%d events on a card, %d on a CPU", n_card, n_cpu);
    rig_close(&rig);
}

/* Answers of one precision are no answers of another. */
Test(http, fingerprint_tells_the_precision)
{
    for (int exact = 0; exact < 2; exact++) {
        struct rig rig;
        atomic_store(&fake_engine.cuda_exact, exact);
        rig_open(&rig, NULL);
        char *answer = complete(&rig, "{\"prompt\":\"ab\",\"max_tokens\":2}");
        cr_assert(strstr(answer, "\"system_fingerprint\":\"any4-"), "%s", answer);
        cr_assert_eq(strstr(answer, "-fake-none-exact\"") != NULL, exact, "%s", answer);
        cr_assert_eq(strstr(answer, "-fake-none\"") != NULL, !exact, "%s", answer);
        free(answer);
        rig_close(&rig);
    }
}

Test(http, pings_while_nothing_comes)
{
    struct rig rig;
    fake_engine.token_us = 700000;
    rig_open(&rig, (const char *[]){"--sse-ping-interval", "0.2", NULL});
    char *stream = complete(&rig, "{\"prompt\":\"ab\",\"max_tokens\":2,\"stream\":true}");
    cr_assert_eq(status_of(stream), 200);
    cr_assert(strstr(stream, ": ping\n\n"), "%s", stream);
    cr_assert(strstr(stream, "data: [DONE]\n\n"), "%s", stream);
    free(stream);
    rig_close(&rig);
}

Test(http, faults_of_the_engine)
{
    struct rig rig;
    rig_open(&rig, NULL);
    atomic_store(&fake_engine.full, true);
    expect(&rig, "POST", "/v1/completions", "", "{\"prompt\":\"a\"}", 429, "queue_full");
    expect(&rig, "POST", "/v1/completions", "", "{\"prompt\":\"a\"}", 429,
           "Retry-After: 3\r\nretry-after-ms: 2500");
    atomic_store(&fake_engine.full, false);
    atomic_store(&fake_engine.fail_at, 0);
    expect(&rig, "POST", "/v1/completions", "", "{\"prompt\":\"a\"}", 500, "\"code\":\"internal\"");
    expect(&rig, "POST", "/v1/completions", "", "{\"prompt\":\"a\",\"stream\":true}", 500,
           "\"code\":\"internal\"");
    atomic_store(&fake_engine.fail_at, 2);
    fake_engine.token_us = 20000;
    expect(&rig, "POST", "/v1/completions", "", "{\"prompt\":\"a\",\"stream\":true}", 200,
           "data: {\"error\":{");
    expect(&rig, "POST", "/v1/completions", "", "{\"prompt\":\"a\",\"stream\":true}", 200, "data: [DONE]");
    atomic_store(&fake_engine.fail_at, -1);
    expect(&rig, "POST", "/v1/completions", "", "{\"prompt\":\"a\",\"timeout_ms\":50,\"max_tokens\":90}", 504,
           "request_timeout");
    rig_close(&rig);
}

/* More sequences than the queue holds go through it one after the other. */
Test(http, many_prompts_through_a_small_queue)
{
    struct rig rig;
    fake_engine.room = 2;
    rig_open(&rig, NULL);
    char *answer =
        complete(&rig, "{\"prompt\":[\"a\",\"b\",\"c\",\"d\",\"a b\"],\"n\":2,\"seed\":0,\"max_tokens\":5}");
    cr_assert_eq(status_of(answer), 200, "%s", answer);
    cr_assert(strstr(answer, "\"index\":9,\"text\":\"bcdef\""), "%s", answer);
    cr_assert(strstr(answer, "\"completion_tokens\":50,"), "%s", answer);
    free(answer);
    rig_close(&rig);
}

/* One request does not take more places than can run together. */
Test(http, share_of_one_request)
{
    struct rig rig;
    fake_engine.token_us = 1000;
    rig_open(&rig, (const char *[]){"--max-running", "3", NULL});
    char *answer =
        complete(&rig, "{\"prompt\":[\"a\",\"b\",\"c\",\"d\",\"a b\"],\"n\":2,\"seed\":0,\"max_tokens\":5}");
    cr_assert_eq(status_of(answer), 200, "%s", answer);
    cr_assert(strstr(answer, "\"completion_tokens\":50,"), "%s", answer);
    cr_assert_eq(atomic_load(&fake_engine.most_live), 3);
    free(answer);
    rig_close(&rig);
}

/* Offsets count characters of the whole text, in every chunk. */
Test(http, text_offsets_of_a_stream)
{
    struct rig rig;
    char joined[2][256] = {"", ""};
    fake_engine.token_us = 1000;
    fake_engine.script = "h\xc3\xa9llo \xe2\x82\xac, all of it";
    rig_open(&rig, NULL);
    for (int i = 0; i < 2; i++) {
        char *answer = complete(
            &rig, i ? "{\"prompt\":\"a b\",\"echo\":true,\"logprobs\":0,\"max_tokens\":60,\"stream\":true}"
                    : "{\"prompt\":\"a b\",\"echo\":true,\"logprobs\":0,\"max_tokens\":60}");
        for (const char *at = answer; (at = strstr(at, "\"text_offset\":["));) {
            at += 15;
            int n = (int)strcspn(at, "]");
            size_t used = strlen(joined[i]);
            if (n) {
                snprintf(joined[i] + used, sizeof joined[i] - used, "%s%.*s", used ? "," : "", n, at);
            }
        }
        free(answer);
    }
    cr_assert_str_eq(joined[0], joined[1]);
    cr_assert(strstr(joined[0], ",4,4,5,6,7,8,9,9,9,10,"), "%s", joined[0]);
    rig_close(&rig);
}

static void leave(const struct rig *rig, const char *body, const char *phase)
{
    char series[128];
    struct buffer request = {0};
    int32_t before = atomic_load(&fake_engine.n_cancelled);
    int fd = rig_connect(rig);
    buffer_printf(&request, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
                  strlen(body), body);
    send_text(fd, buffer_string(&request));
    buffer_finish(&request);
    usleep(150000);
    cr_assert_eq(atomic_load(&fake_engine.n_live), 1);
    close(fd);
    int64_t begin = clock_now_ns();
    while (atomic_load(&fake_engine.n_live) && clock_now_ns() - begin < 2000000000) {
        usleep(1000);
    }
    cr_assert_eq(atomic_load(&fake_engine.n_live), 0, "the sequence goes on without its client");
    cr_assert_eq(atomic_load(&fake_engine.n_cancelled), before + 1);
    usleep(20000);
    char *metrics = ask(rig, "GET", "/metrics", "", NULL);
    snprintf(series, sizeof series, "phase=\"%s\"} 1", phase);
    cr_assert(strstr(metrics, series), "%s", metrics);
    cr_assert(strstr(metrics, "code=\"499\"}"), "%s", metrics);
    free(metrics);
}

Test(http, client_that_leaves_is_noticed)
{
    struct rig rig;
    fake_engine.token_us = 100000;
    rig_open(&rig, NULL);
    leave(&rig, "{\"prompt\":\"a\",\"max_tokens\":200}", "waiting");
    leave(&rig, "{\"prompt\":\"a\",\"max_tokens\":200,\"stream\":true}", "stream");
    fake_engine.token_us = 1500000; /* suspended all the time, no token to fail on */
    rig_close(&rig);
}

Test(http, cut_ends_streams_with_an_error)
{
    struct rig rig;
    fake_engine.token_us = 50000;
    rig_open(&rig, NULL);
    const char *body = "{\"prompt\":\"a\",\"max_tokens\":200,\"stream\":true}";
    struct buffer request = {0};
    int fd = rig_connect(&rig);
    buffer_printf(&request, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
                  strlen(body), body);
    send_text(fd, buffer_string(&request));
    buffer_finish(&request);
    usleep(200000);
    http_cut(rig.server.http);
    char *stream = read_all(fd, 0.5);
    cr_assert(strstr(stream, "\"code\":\"draining\""), "%s", stream);
    cr_assert(strstr(stream, "data: [DONE]"), "%s", stream);
    free(stream);
    close(fd);
    rig_close(&rig);
}
