#include "tests/server/support.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include "engine/base/log.h"
#include "tests/tokenizer/tiny_model.h"

struct tokenizer *tiny_tokenizer(struct folder *folder)
{
    static struct proto model;
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    *folder = folder_make();
    tiny_model(&model);
    folder_put(folder, "tokenizer.model", model.bytes, model.n_bytes);
    cr_assert_eq(tokenizer_open(&tokenizer, folder->path, &err), STATUS_OK, "%s", err.message);
    return tokenizer;
}

void rig_open(struct rig *rig, const char *const *flags)
{
    char *argv[32] = {(char *)"tiny", (char *)"--port", (char *)"0"};
    int argc = 3;
    struct error err = {0};
    signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_FORMAT_TEXT, LOG_ERROR, stderr);
    while (flags && flags[argc - 3]) {
        argv[argc] = (char *)flags[argc - 3];
        argc++;
    }
    rig->tokenizer = tiny_tokenizer(&rig->folder);
    cr_assert_eq(config_load(&rig->config, CONFIG_FOR_SERVE, argc, argv, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(server_init(&rig->server, &rig->config, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(engine_open(&rig->engine, NULL, &err), STATUS_OK);
    const struct config *c = &rig->config;
    struct http_options options = {.host = c->host,
                                   .n_threads = (int32_t)c->http_threads,
                                   .max_connections = (int32_t)c->max_connections,
                                   .max_body_bytes = (size_t)c->max_body_bytes,
                                   .max_header_bytes = (size_t)c->max_header_bytes,
                                   .header_timeout = c->header_timeout,
                                   .body_timeout = c->body_timeout,
                                   .keepalive_timeout = c->keepalive_timeout,
                                   .write_stall_timeout = c->write_stall_timeout,
                                   .callbacks = api_callbacks(),
                                   .context = &rig->server};
    cr_assert_eq(http_open(&rig->server.http, &options, &err), STATUS_OK, "%s", err.message);
    rig->port = http_port(rig->server.http);
    server_publish(&rig->server, rig->engine, rig->tokenizer, 0);
}

void rig_close(struct rig *rig)
{
    http_close(rig->server.http);
    engine_close(rig->engine);
    tokenizer_close(rig->tokenizer);
    server_finish(&rig->server);
    config_finish(&rig->config);
    folder_remove(&rig->folder);
}

int rig_connect(const struct rig *rig)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)rig->port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

void send_text(int fd, const char *text)
{
    size_t length = strlen(text);
    while (length) {
        ssize_t n = send(fd, text, length, MSG_NOSIGNAL);
        if (n <= 0) {
            return;
        }
        text += n;
        length -= (size_t)n;
    }
}

char *read_all(int fd, double seconds)
{
    struct buffer out = {0};
    char piece[4096];
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    while (poll(&wait, 1, (int)(seconds * 1000)) > 0) {
        ssize_t n = recv(fd, piece, sizeof piece, 0);
        if (n <= 0) {
            break;
        }
        buffer_append(&out, piece, (size_t)n);
    }
    char *text = strdup(buffer_string(&out));
    buffer_finish(&out);
    return text;
}

char *ask(const struct rig *rig, const char *method, const char *path, const char *headers, const char *body)
{
    struct buffer request = {0};
    int fd = rig_connect(rig);
    buffer_printf(&request, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s", method, path, headers);
    if (body) {
        buffer_printf(&request, "Content-Length: %zu\r\n", strlen(body));
    }
    buffer_printf(&request, "\r\n%s", body ? body : "");
    send_text(fd, buffer_string(&request));
    buffer_finish(&request);
    char *answer = read_all(fd, 10);
    close(fd);
    return answer;
}

char *complete(const struct rig *rig, const char *body)
{
    return ask(rig, "POST", "/v1/completions", "", body);
}

int status_of(const char *answer)
{
    int status = 0;
    return sscanf(answer, "HTTP/1.1 %d", &status) == 1 ? status : 0;
}
