/* A blocking HTTP/1.1 client for one thread each: what a patient or rude client of the server does, byte by
 * byte. Everything has a deadline: a server that hangs is a failure and not a hanging test. */
#ifndef TESTS_STRESS_CLIENT_H
#define TESTS_STRESS_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/buffer.h"

struct client {
    int fd;           /* -1: not connected */
    struct buffer in; /* what came and is not taken apart yet */
};

struct answer {
    int status;         /* 0: none came */
    bool complete;      /* the body ended as its framing says */
    bool closes;        /* Connection: close */
    struct buffer head; /* status line and headers */
    struct buffer body; /* chunks joined */
    const char *fault;  /* why it is not complete, else NULL */
};

bool client_connect(struct client *c, int32_t port);
void client_close(struct client *c);
/* Closes with a reset instead of an orderly end. */
void client_reset(struct client *c);
bool client_send(struct client *c, const char *data, size_t length);
/* The whole request for a completion of this body. */
bool client_post(struct client *c, const char *body);
void client_write_post(struct buffer *out, const char *body);
/* Reads one response, at most `seconds` long; answer needs answer_finish. False unless it is complete. */
bool client_read(struct client *c, struct answer *answer, double seconds);
/* Takes in more bytes: 1 some came, 0 the server closed, -1 nothing within `seconds`. */
int client_receive(struct client *c, double seconds);
/* A reply header's value up to the line's end, or NULL; names are compared without case. */
const char *answer_header(struct answer *answer, const char *name);
void answer_finish(struct answer *answer);

#endif
