/* Whole runs of `any4 bench serve` against a server in a thread of the test. Delays of that server are lower
 * bounds (a sleep is never shorter), so what is asserted about time holds on any machine. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "server/bench/serve.h"
#include "server/bench/stats.h"
#include "server/buffer.h"

TestSuite(bench_client, .timeout = 120);

/* ---- a server in a thread ---- */

enum fake_mode {
    FAKE_GOOD,
    FAKE_MIXED,     /* one failure of each kind in turn */
    FAKE_BYTEWISE,  /* every byte a segment of its own */
    FAKE_BARRIER,   /* answers nobody before `expected` requests are there */
    FAKE_SLOW_FIRST /* the first request is held for 300 ms; a single thread serves, so others wait behind it
                     */
};

static struct fake {
    int listen_fd;
    char port[8];
    enum fake_mode mode;
    bool serial;              /* one request at a time over all connections */
    int32_t first_ms, gap_ms; /* delays before the first and each further token */
    bool no_usage;
    int32_t expected;
    atomic_int n_connections, n_requests, n_metrics;
    atomic_bool authorized;
    pthread_mutex_t one, count_lock;
    pthread_cond_t all_there;
    int32_t n_there;
} fake;

static void sleep_ms(int32_t ms)
{
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
}

static bool put(int fd, const char *text)
{
    size_t length = strlen(text), step = fake.mode == FAKE_BYTEWISE ? 1 : length;
    for (size_t at = 0; at < length; at += step) {
        size_t sent = 0;
        while (sent < step) {
            ssize_t n = send(fd, text + at + sent, step - sent, MSG_NOSIGNAL);
            if (n <= 0) {
                return false;
            }
            sent += (size_t)n;
        }
    }
    return true;
}

static bool put_chunk(int fd, const char *text)
{
    char chunk[600];
    snprintf(chunk, sizeof chunk, "%zx\r\n%s\r\n", strlen(text), text);
    return put(fd, chunk);
}

static bool put_answer(int fd, const char *status, const char *body)
{
    char answer[1024];
    snprintf(answer, sizeof answer,
             "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", status,
             strlen(body), body);
    return put(fd, answer);
}

/* Returns whether the connection goes on. */
static bool fake_complete(int fd, const char *body)
{
    int number = atomic_fetch_add(&fake.n_requests, 1);
    int kind = fake.mode == FAKE_MIXED ? number % 6 : 0;
    int n_tokens = atoi(strstr(body, "\"max_tokens\":") + 13);
    if (kind == 1) {
        return put_answer(fd, "429 Too Many Requests",
                          "{\"error\":{\"message\":\"m\",\"code\":\"queue_full\"}}");
    }
    if (kind == 5) {
        return put_answer(fd, "200 OK", "{}");
    }
    if (fake.mode == FAKE_BARRIER) {
        pthread_mutex_lock(&fake.count_lock);
        fake.n_there++;
        pthread_cond_broadcast(&fake.all_there);
        while (fake.n_there < fake.expected) {
            pthread_cond_wait(&fake.all_there, &fake.count_lock);
        }
        pthread_mutex_unlock(&fake.count_lock);
    }
    sleep_ms(fake.mode == FAKE_SLOW_FIRST && number == 0 ? 300 : fake.first_ms);
    bool ok =
        put(fd, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; ok && i < n_tokens; i++) {
        char event[256];
        if (i) {
            sleep_ms(fake.gap_ms);
        }
        if (i == 1 && kind == 2) {
            return false; /* in the middle of the stream */
        }
        if (i == 1 && kind == 3) {
            return put_chunk(fd, "data: {\"error\":{\"code\":\"request_timeout\"}}\n\n") &&
                   put_chunk(fd, "data: [DONE]\n\n") && put(fd, "0\r\n\r\n");
        }
        snprintf(event, sizeof event,
                 "data: "
                 "{\"id\":\"c\",\"choices\":[{\"index\":0,\"text\":\"%s\",\"finish_reason\":%s}],\"usage\":"
                 "null}\n\n",
                 i % 7 == 3 ? "\\u00e4" : "ab", i + 1 == n_tokens ? "\"length\"" : "null");
        ok = put_chunk(fd, event) && (i || put_chunk(fd, ": ping\n\n"));
    }
    if (ok && !fake.no_usage) {
        char event[256];
        snprintf(event, sizeof event,
                 "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":%d}}\n\n",
                 n_tokens);
        ok = put_chunk(fd, event);
    }
    return ok && (kind == 4 || put_chunk(fd, "data: [DONE]\n\n")) && put(fd, "0\r\n\r\n");
}

static bool fake_answer(int fd, const char *head, const char *body)
{
    if (strstr(head, "Authorization: Bearer key\r\n")) {
        atomic_store(&fake.authorized, true);
    }
    if (strncmp(head, "GET /v1/models ", 15) == 0) {
        return put_answer(
            fd, "200 OK",
            "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"vocab_size\":50,\"max_model_len\":4096}]}");
    }
    if (strncmp(head, "GET /metrics ", 13) == 0) {
        char text[256];
        int n = atomic_fetch_add(&fake.n_metrics, 1);
        snprintf(text, sizeof text,
                 "any4_time_to_first_token_seconds_sum{model=\"m\"} "
                 "%d\nany4_time_to_first_token_seconds_count{model=\"m\"} %d\n",
                 10 + n * 2, 100 + n * 8);
        return put_answer(fd, "200 OK", text);
    }
    if (fake.serial) {
        pthread_mutex_lock(&fake.one);
    }
    bool go_on = fake_complete(fd, body);
    if (fake.serial) {
        pthread_mutex_unlock(&fake.one);
    }
    return go_on;
}

static void *fake_connection(void *argument)
{
    int fd = (int)(intptr_t)argument, one = 1;
    struct buffer in = {0};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (bool go_on = true; go_on;) {
        char *head_end;
        size_t body_length = 0;
        while (!(head_end = strstr(buffer_string(&in), "\r\n\r\n")) ||
               in.length < (size_t)(head_end + 4 - in.data) + body_length) {
            char piece[4096];
            ssize_t n = recv(fd, piece, sizeof piece, 0);
            if (n <= 0) {
                goto end;
            }
            buffer_append(&in, piece, (size_t)n);
            const char *length = strstr(buffer_string(&in), "Content-Length: ");
            body_length = length ? strtoul(length + 16, NULL, 10) : 0;
        }
        head_end[2] = '\0'; /* the head keeps the end of its last line */
        go_on = fake_answer(fd, in.data, head_end + 4);
        buffer_consume(&in, (size_t)(head_end + 4 - in.data) + body_length);
    }
end:
    buffer_finish(&in);
    close(fd);
    return NULL;
}

static void *fake_accept(void *argument)
{
    (void)argument;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    for (;;) {
        int fd = accept(fake.listen_fd, NULL, NULL);
        pthread_t thread;
        if (fd < 0) {
            return NULL;
        }
        atomic_fetch_add(&fake.n_connections, 1);
        if (pthread_create(&thread, &attributes, fake_connection, (void *)(intptr_t)fd) != 0) {
            close(fd);
        }
    }
}

static void fake_start(enum fake_mode mode)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    pthread_t thread;
    fake.mode = mode;
    pthread_mutex_init(&fake.one, NULL);
    pthread_mutex_init(&fake.count_lock, NULL);
    pthread_cond_init(&fake.all_there, NULL);
    fake.listen_fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(bind(fake.listen_fd, (struct sockaddr *)&address, size), 0);
    cr_assert_eq(listen(fake.listen_fd, 2048), 0);
    cr_assert_eq(getsockname(fake.listen_fd, (struct sockaddr *)&address, &size), 0);
    snprintf(fake.port, sizeof fake.port, "%d", ntohs(address.sin_port));
    cr_assert_eq(pthread_create(&thread, NULL, fake_accept, NULL), 0);
}

/* Runs the load test with the flags; its standard output comes back as text. */
static int bench(struct buffer *out, const char *flags)
{
    char copy[512], url[64], *argv[40] = {"serve", "--url", url};
    int argc = 3;
    snprintf(url, sizeof url, "http://127.0.0.1:%s", fake.port);
    snprintf(copy, sizeof copy, "%s", flags);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) {
        argv[argc++] = word;
    }
    char path[] = "/tmp/any4_bench_XXXXXX";
    int file = mkstemp(path), saved = dup(STDOUT_FILENO);
    cr_assert(file >= 0 && saved >= 0);
    fflush(stdout);
    dup2(file, STDOUT_FILENO);
    int code = bench_serve_main(argc, argv);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    lseek(file, 0, SEEK_SET);
    char piece[4096];
    for (ssize_t n; (n = read(file, piece, sizeof piece)) > 0;) {
        buffer_append(out, piece, (size_t)n);
    }
    close(file);
    unlink(path);
    buffer_string(out);
    return code;
}

static double number(const cJSON *root, const char *path)
{
    char copy[128];
    snprintf(copy, sizeof copy, "%s", path);
    for (char *name = strtok(copy, "."); name; name = strtok(NULL, ".")) {
        root = cJSON_GetObjectItemCaseSensitive(root, name);
    }
    return cJSON_IsNumber(root) ? root->valuedouble : NAN;
}

static cJSON *bench_json(int want_code, const char *flags)
{
    struct buffer out = {0};
    char line[512];
    snprintf(line, sizeof line, "%s --json", flags);
    int code = bench(&out, line);
    cr_assert_eq(code, want_code, "%s: exit %d\n%s", flags, code, out.data);
    cJSON *json = cJSON_Parse(out.data);
    cr_assert_not_null(json, "%s", out.data);
    buffer_finish(&out);
    return json;
}

Test(bench_client, closed_loop_counts_and_lower_bounds)
{
    fake.first_ms = 20;
    fake.gap_ms = 5;
    fake_start(FAKE_GOOD);
    cJSON *r = bench_json(0, "--concurrency 4 --requests 24 --output-tokens 6 --warmup 5 --api-key key");
    cr_assert_eq(number(r, "requests.started"), 24);
    cr_assert_eq(number(r, "requests.succeeded"), 24);
    cr_assert_eq(number(r, "requests.good"), 24);
    cr_assert_eq(number(r, "requests.warmup"), 5);
    cr_assert_eq(number(r, "statuses.200"), 24);
    cr_assert_eq(number(r, "completion_tokens"), 24 * 6);
    cr_assert_eq(number(r, "prompt_tokens"), 24 * 10);
    cr_assert_eq(number(r, "ttft_ms.n"), 24);
    cr_assert_eq(number(r, "itl_ms.n"), 24 * 5);
    cr_assert_eq(number(r, "tpot_ms.n"), 24);
    cr_assert_eq(number(r, "e2e_ms.n"), 24);
    cr_assert_eq(atomic_load(&fake.n_requests), 29);
    cr_assert_leq(atomic_load(&fake.n_connections), 5); /* kept alive: one each, and the questions' */
    cr_assert(atomic_load(&fake.authorized));
    /* The server sleeps 20 ms, then five times 5 ms. */
    cr_assert_geq(number(r, "ttft_ms.p50"), 20);
    cr_assert_geq(number(r, "e2e_ms.p50"), 45);
    cr_assert_geq(number(r, "e2e_ms.mean"), number(r, "ttft_ms.mean") + number(r, "itl_ms.mean") * 5 - 1e-6);
    cr_assert_lt(fabs(number(r, "tpot_ms.mean") - number(r, "itl_ms.mean")),
                 1e-6); /* a chunk a token: the same */
    cr_assert_geq(number(r, "window_s"), 6 * 0.045);
    cr_assert_leq(number(r, "ttft_ms.p50"), number(r, "ttft_ms.p99"));
    /* The server said 10 s / 100 before and 12 s / 108 after. */
    cr_assert_eq(number(r, "server.ttft_ms.n"), 8);
    cr_assert_eq(number(r, "server.ttft_ms.mean"), 250);
    cr_assert(cJSON_IsNull(cJSON_GetObjectItem(cJSON_GetObjectItem(r, "server"), "itl_ms")));
    cJSON_Delete(r);
}

Test(bench_client, the_table)
{
    fake_start(FAKE_MIXED);
    struct buffer out = {0};
    cr_assert_eq(bench(&out, "--requests 12 --output-tokens 4 --slo ttft_p1=100000"), 0);
    cr_assert_not_null(strstr(out.data, "queue_full"));
    cr_assert_not_null(strstr(out.data, "TTFT"));
    cr_assert_not_null(strstr(out.data, "met"));
    buffer_finish(&out);
}

Test(bench_client, open_loop_follows_the_schedule)
{
    fake.first_ms = 30;
    fake_start(FAKE_GOOD);
    cJSON *r = bench_json(0, "--rate 200 --requests 60 --output-tokens 3 --seed 9");
    int64_t *at, n;
    cr_assert_eq(poisson_schedule(&at, &n, 200, 60, 0, rng_fork(9, 0, 0), NULL), STATUS_OK);
    cr_assert_eq(number(r, "requests.succeeded"), 60);
    cr_assert_eq(number(r, "client.late_ms.n"), 60);
    cr_assert_geq(number(r, "client.late_ms.p50"), 0); /* never early */
    cr_assert_geq(number(r, "window_s"), (double)at[59] / 1e9 + 0.03);
    cr_assert_geq(number(r, "ttft_ms.p50"), 30);
    free(at);
    cJSON_Delete(r);
}

/* A stall must show in every request that was planned during it, whether or not it could be sent. */
Test(bench_client, no_coordinated_omission)
{
    fake.serial = true;
    fake_start(FAKE_SLOW_FIRST);
    cJSON *r = bench_json(0, "--rate 500 --requests 50 --output-tokens 2 --seed 3 --max-in-flight 2");
    int64_t *at, n, during = 0;
    cr_assert_eq(poisson_schedule(&at, &n, 500, 50, 0, rng_fork(3, 0, 0), NULL), STATUS_OK);
    for (int64_t i = 0; i < n; i++) {
        during += at[i] < at[0] + 200000000; /* these wait at least 100 ms */
    }
    cr_assert_gt(during, 25); /* so the median has waited too */
    cr_assert_geq(number(r, "ttft_ms.p50"), 100);
    cr_assert_geq(number(r, "ttft_ms.max"), 300);
    cr_assert_gt(number(r, "client.waited_for_connection"), 0);
    cr_assert_geq(number(r, "client.late_ms.max"), 100);
    free(at);
    cJSON_Delete(r);
}

Test(bench_client, failures_are_counted_by_kind)
{
    fake_start(FAKE_MIXED);
    cJSON *r = bench_json(10, "--requests 60 --output-tokens 4 --slo ttft_p99=100000");
    cr_assert_eq(number(r, "requests.started"), 60);
    cr_assert_eq(number(r, "requests.succeeded"), 10);
    cr_assert_eq(number(r, "requests.failed"), 50);
    cr_assert_eq(number(r, "statuses.429"), 10);
    cr_assert_eq(number(r, "statuses.200"), 50);
    static const char *const WANT[][2] = {{"http", "queue_full"},
                                          {"closed", "closed inside the response"},
                                          {"stream", "request_timeout"},
                                          {"truncated", "no [DONE]"},
                                          {"protocol", "the answer is no event stream"}};
    const cJSON *errors = cJSON_GetObjectItem(r, "errors"), *row;
    cr_assert_eq(cJSON_GetArraySize(errors), 5);
    for (size_t i = 0; i < 5; i++) {
        bool found = false;
        cJSON_ArrayForEach(row, errors)
        {
            found = found || (strcmp(cJSON_GetObjectItem(row, "class")->valuestring, WANT[i][0]) == 0 &&
                              strcmp(cJSON_GetObjectItem(row, "detail")->valuestring, WANT[i][1]) == 0 &&
                              cJSON_GetObjectItem(row, "count")->valueint == 10);
        }
        cr_assert(found, "%s", WANT[i][0]);
    }
    cr_assert_eq(number(r, "ttft_ms.n"), 10); /* failures leave no samples */
    cr_assert_eq(number(r, "itl_ms.n"), 30);
    cJSON_Delete(r);
}

Test(bench_client, streams_in_single_bytes)
{
    fake_start(FAKE_BYTEWISE);
    cJSON *r = bench_json(0, "--requests 3 --output-tokens 10");
    cr_assert_eq(number(r, "requests.succeeded"), 3);
    cr_assert_eq(number(r, "itl_ms.n"), 27);
    cJSON_Delete(r);
}

Test(bench_client, without_usage_rates_are_unknown)
{
    fake.no_usage = true;
    fake_start(FAKE_GOOD);
    cJSON *r = bench_json(0, "--requests 4 --output-tokens 3");
    cr_assert_eq(number(r, "requests.without_usage"), 4);
    cr_assert_eq(number(r, "tpot_ms.n"), 0);
    cr_assert(cJSON_IsNull(cJSON_GetObjectItem(r, "output_tokens_per_s")));
    cJSON_Delete(r);
}

Test(bench_client, slo_missed_is_exit_10)
{
    fake.first_ms = 20;
    fake_start(FAKE_GOOD);
    cJSON *r = bench_json(10, "--requests 4 --output-tokens 2 --slo ttft_p50=19");
    cr_assert_eq(number(r, "requests.good"), 0);
    cr_assert_eq(number(r, "goodput"), 0);
    cJSON_Delete(r);
}

Test(bench_client, a_duration_ends_and_the_last_ones_finish)
{
    fake.first_ms = 10;
    fake_start(FAKE_GOOD);
    cJSON *r = bench_json(0, "--duration 0.2 --concurrency 3 --output-tokens 2");
    cr_assert_eq(number(r, "requests.started"), number(r, "requests.succeeded"));
    cr_assert_geq(number(r, "requests.started"), 3);
    cr_assert_leq(number(r, "requests.started"), 3 * 21);
    cJSON_Delete(r);
}

Test(bench_client, timeouts)
{
    fake.first_ms = 5000;
    fake_start(FAKE_GOOD);
    cJSON *r = bench_json(1, "--requests 3 --concurrency 3 --timeout 0.1");
    const cJSON *row = cJSON_GetArrayItem(cJSON_GetObjectItem(r, "errors"), 0);
    cr_assert_str_eq(cJSON_GetObjectItem(row, "class")->valuestring, "timeout");
    cr_assert_eq(number(r, "statuses.none"), 3);
    cJSON_Delete(r);
}

Test(bench_client, a_thousand_in_flight)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
    /* Both ends live in this process. */
    fake.expected = limit.rlim_cur >= 2 * 1024 + 128 ? 1024 : (int32_t)(limit.rlim_cur - 128) / 2;
    if (fake.expected < 1024) {
        fprintf(stderr, "\n*** only %d connections: the limit of open files is low ***\n",
                (int)fake.expected);
    }
    fake_start(FAKE_BARRIER); /* answers only when all are in flight at once */
    char flags[128];
    snprintf(flags, sizeof flags, "--concurrency %d --requests %d --output-tokens 4 --input-tokens 32",
             (int)fake.expected, 2 * (int)fake.expected);
    cJSON *r = bench_json(0, flags);
    cr_assert_eq(number(r, "requests.succeeded"), 2 * fake.expected);
    cr_assert_eq(number(r, "itl_ms.n"), 2 * fake.expected * 3);
    cr_assert_leq(atomic_load(&fake.n_connections), fake.expected);
    cJSON_Delete(r);
}

Test(bench_client, nobody_listens)
{
    fake_start(FAKE_GOOD);
    shutdown(fake.listen_fd, SHUT_RDWR);
    close(fake.listen_fd);
    struct buffer out = {0};
    cr_assert_eq(bench(&out, "--requests 3"), 1);
    cr_assert_eq(out.length, 0);
    buffer_finish(&out);
}

static void *interrupt_soon(void *argument)
{
    (void)argument;
    while (atomic_load(&fake.n_requests) < 2) {
        sleep_ms(5);
    }
    kill(getpid(), SIGINT);
    return NULL;
}

Test(bench_client, interrupted_runs_report_what_they_have)
{
    fake.first_ms = 1;
    fake.gap_ms = 20;
    pthread_t thread;
    fake_start(FAKE_GOOD);
    pthread_create(&thread, NULL, interrupt_soon, NULL);
    cJSON *r = bench_json(1, "--requests 100000 --concurrency 2 --output-tokens 100");
    cr_assert_str_eq(cJSON_GetObjectItem(r, "stopped")->valuestring, "interrupted");
    cr_assert_eq(number(r, "requests.started"), number(r, "requests.succeeded") +
                                                    number(r, "requests.failed") +
                                                    number(r, "requests.cancelled"));
    pthread_join(thread, NULL);
    cJSON_Delete(r);
}

Test(bench_client, contexts_too_long_are_refused)
{
    fake_start(FAKE_GOOD);
    struct buffer out = {0};
    cr_assert_eq(bench(&out, "--requests 1 --input-tokens 4000 --output-tokens 97"), 2);
    buffer_finish(&out);
    cJSON_Delete(bench_json(0, "--requests 1 --input-tokens 4000 --output-tokens 96"));
}
