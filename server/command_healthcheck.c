/* `any4 healthcheck`: one GET, for containers that have no shell and no curl. */
#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "server/command.h"

struct address {
    char host[256], port[8], path[512];
};

/* http://host[:port][/path]; an IPv6 address in brackets. Without a path it is /readyz. */
static bool parse_url(struct address *out, const char *url)
{
    static const char scheme[] = "http://";
    if (strncmp(url, scheme, sizeof scheme - 1)) {
        return false;
    }
    const char *at = url + sizeof scheme - 1;
    size_t length = at[0] == '[' ? strcspn(++at, "]") : strcspn(at, ":/");
    if (!length || length >= sizeof out->host) {
        return false;
    }
    memcpy(out->host, at, length);
    out->host[length] = '\0';
    at += length + (at[length] == ']');
    snprintf(out->port, sizeof out->port, "80");
    if (*at == ':') {
        length = strcspn(++at, "/");
        if (!length || length > 5 || strspn(at, "0123456789") < length) {
            return false;
        }
        memcpy(out->port, at, length);
        out->port[length] = '\0';
        at += length;
    }
    return (*at == '/' || !*at) &&
           snprintf(out->path, sizeof out->path, "%s", *at && at[1] ? at : "/readyz") < (int)sizeof out->path;
}

/* What errno says, where a limit shows as "would block" or "in progress". */
static const char *reason_of(int number)
{
    return number == EAGAIN || number == EWOULDBLOCK || number == EINPROGRESS ? "no answer within 5 s"
                                                                              : strerror(number);
}

/* -1 and *reason when it cannot. */
static int connect_to(const struct address *address, const char **reason)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    struct timeval limit = {.tv_sec = 5};
    int fd = -1;
    int fault = getaddrinfo(address->host, address->port, &hints, &found);
    if (fault) {
        *reason = gai_strerror(fault);
        return -1;
    }
    for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0) {
            setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
            setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
            if (connect(fd, a->ai_addr, a->ai_addrlen)) {
                *reason = reason_of(errno);
                close(fd);
                fd = -1;
            }
        } else {
            *reason = strerror(errno);
        }
    }
    freeaddrinfo(found);
    return fd;
}

/* The HTTP status, or 0 and *reason. */
static int ask(const struct address *address, const char **reason)
{
    char request[1024], answer[64] = "";
    size_t got = 0;
    int status = 0, fd = connect_to(address, reason);
    if (fd < 0) {
        return 0;
    }
    int n = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
                     address->path, address->host);
    if (send(fd, request, (size_t)n, MSG_NOSIGNAL) == n) {
        ssize_t more = 0;
        while (got < 12 && (more = recv(fd, answer + got, sizeof answer - 1 - got, 0)) > 0) {
            got += (size_t)more;
        }
        if (sscanf(answer, "HTTP/1.%*d %d", &status) != 1) {
            status = 0;
            *reason = more < 0 ? reason_of(errno)
                      : got    ? "the answer is not HTTP"
                               : "closed without an answer";
        }
    } else {
        *reason = reason_of(errno);
    }
    close(fd);
    return status;
}

enum status command_healthcheck(const struct config *config, struct outcome *outcome, struct error *err)
{
    struct address address;
    char url[512];
    bool any = !strcmp(config->host, "0.0.0.0") || !strcmp(config->host, "::");
    snprintf(url, sizeof url,
             strchr(config->host, ':') && !any ? "http://[%s]:%d/readyz" : "http://%s:%d/readyz",
             any ? "127.0.0.1" : config->host, (int)config->port);
    const char *wanted = config->url ? config->url : url;
    if (!parse_url(&address, wanted)) {
        return error_set(err, STATUS_INVALID, "--url is \"%.200s\", must be http://host:port/path", wanted);
    }
    const char *reason = NULL;
    int status = ask(&address, &reason);
    outcome->code = status == 200 ? EXIT_CODE_DONE : EXIT_CODE_INTERNAL;
    if (config->json) {
        struct buffer out = {0};
        buffer_printf(&out, "{\"url\":\"http://%s:%s%s\",\"status\":%d,\"ok\":%s,\"error\":", address.host,
                      address.port, address.path, status, status == 200 ? "true" : "false");
        buffer_json_text(&out, status ? NULL : reason);
        printf("%s}\n", buffer_string(&out));
        buffer_finish(&out);
    } else if (!status) {
        fprintf(stderr, "any4 healthcheck: %s: %s\n", wanted, reason);
    } else if (status != 200) {
        fprintf(stderr, "any4 healthcheck: %s: answered %d\n", wanted, status);
    }
    return STATUS_OK;
}
