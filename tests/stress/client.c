/* The test's own end of the wire: shares nothing with the server but the protocol. */
#include "tests/stress/client.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/clock.h"

bool client_connect(struct client *c, int32_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *c = (struct client){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) {
        client_close(c);
        return false;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return true;
}

void client_close(struct client *c)
{
    if (c->fd >= 0) {
        close(c->fd);
    }
    c->fd = -1;
    buffer_finish(&c->in);
}

void client_reset(struct client *c)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    client_close(c);
}

bool client_send(struct client *c, const char *data, size_t length)
{
    while (length) {
        ssize_t n = send(c->fd, data, length, MSG_NOSIGNAL);
        if (n <= 0) {
            return false;
        }
        data += n;
        length -= (size_t)n;
    }
    return true;
}

void client_write_post(struct buffer *out, const char *body)
{
    buffer_printf(out, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n%s",
                  strlen(body), body);
}

bool client_post(struct client *c, const char *body)
{
    struct buffer request = {0};
    client_write_post(&request, body);
    bool sent = !request.failed && client_send(c, request.data, request.length);
    buffer_finish(&request);
    return sent;
}

int client_receive(struct client *c, double seconds)
{
    char piece[16384];
    struct pollfd wait = {.fd = c->fd, .events = POLLIN};
    if (seconds <= 0 || poll(&wait, 1, (int)(seconds * 1000) + 1) <= 0) {
        return -1;
    }
    ssize_t n = recv(c->fd, piece, sizeof piece, 0);
    if (n > 0) {
        buffer_append(&c->in, piece, (size_t)n);
    }
    return n > 0;
}

/* Makes at least n bytes of c->in available. */
static const char *need_bytes(struct client *c, size_t n, int64_t deadline)
{
    while (c->in.length < n) {
        int got = client_receive(c, (double)(deadline - clock_now_ns()) * 1e-9);
        if (got <= 0) {
            return got ? "nothing came in time" : "the connection was closed too early";
        }
    }
    return NULL;
}

/* Moves bytes up to and including the next `mark` to out. */
static const char *take_until(struct client *c, const char *mark, struct buffer *out, int64_t deadline)
{
    size_t length = strlen(mark);
    char *at;
    while (!(at = c->in.length ? memmem(c->in.data, c->in.length, mark, length) : NULL)) {
        const char *fault = need_bytes(c, c->in.length + 1, deadline);
        if (fault) {
            return fault;
        }
    }
    size_t n = (size_t)(at - c->in.data) + length;
    buffer_append(out, c->in.data, n);
    buffer_consume(&c->in, n);
    return NULL;
}

static const char *take_bytes(struct client *c, size_t n, struct buffer *out, int64_t deadline)
{
    const char *fault = need_bytes(c, n, deadline);
    size_t have = c->in.length < n ? c->in.length : n;
    if (have) {
        buffer_append(out, c->in.data, have);
        buffer_consume(&c->in, have);
    }
    return fault;
}

static const char *take_chunks(struct client *c, struct buffer *out, int64_t deadline)
{
    for (;;) {
        struct buffer line = {0}, end = {0};
        const char *fault = take_until(c, "\r\n", &line, deadline);
        size_t n = fault ? 0 : strtoul(buffer_string(&line), NULL, 16);
        if (!fault) {
            fault = take_bytes(c, n, out, deadline);
        }
        if (!fault) {
            fault = take_bytes(c, 2, &end, deadline);
        }
        if (!fault && memcmp(end.data, "\r\n", 2) != 0) {
            fault = "a chunk does not end with its line";
        }
        buffer_finish(&line);
        buffer_finish(&end);
        if (fault || !n) {
            return fault;
        }
    }
}

const char *answer_header(struct answer *answer, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = strstr(buffer_string(&answer->head), "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (!strncasecmp(line, name, length) && line[length] == ':') {
            return line + length + 1 + strspn(line + length + 1, " ");
        }
    }
    return NULL;
}

bool client_read(struct client *c, struct answer *answer, double seconds)
{
    int64_t deadline = clock_now_ns() + (int64_t)(seconds * 1e9);
    *answer = (struct answer){0};
    if ((answer->fault = take_until(c, "\r\n\r\n", &answer->head, deadline))) {
        return false;
    }
    const char *head = buffer_string(&answer->head);
    const char *coding = answer_header(answer, "Transfer-Encoding");
    const char *declared = answer_header(answer, "Content-Length");
    const char *connection = answer_header(answer, "Connection");
    if (strncmp(head, "HTTP/1.1 ", 9) != 0) {
        answer->fault = "the status line is not HTTP/1.1";
        return false;
    }
    answer->status = atoi(head + 9);
    answer->closes = connection && !strncasecmp(connection, "close", 5);
    answer->fault = coding && !strncasecmp(coding, "chunked", 7) ? take_chunks(c, &answer->body, deadline)
                    : declared ? take_bytes(c, strtoul(declared, NULL, 10), &answer->body, deadline)
                               : "the response has no framing";
    answer->complete = !answer->fault;
    return answer->complete;
}

void answer_finish(struct answer *answer)
{
    buffer_finish(&answer->head);
    buffer_finish(&answer->body);
}
