/* A server over the fake engine and the tiny tokenizer, on a free port, and a client that speaks raw HTTP. */
#ifndef TESTS_SERVER_SUPPORT_H
#define TESTS_SERVER_SUPPORT_H

#include <criterion/criterion.h>

#include "server/api.h"
#include "tests/server/fake_engine.h"
#include "tests/tokenizer/folder.h"

struct rig {
    struct folder folder;
    struct config config;
    struct server server;
    struct engine *engine;
    struct tokenizer *tokenizer;
    int32_t port;
};

/* flags: further flags of `serve`, ends with NULL. */
void rig_open(struct rig *rig, const char *const *flags);
void rig_close(struct rig *rig);

/* Opens the tiny tokenizer alone. */
struct tokenizer *tiny_tokenizer(struct folder *folder);

int rig_connect(const struct rig *rig);
/* Sends bytes as they are. */
void send_text(int fd, const char *text);
/* Reads until the end of the connection or seconds of silence; terminated. Caller frees. */
char *read_all(int fd, double seconds);
/* One request on its own connection: the whole answer, status line and all. body NULL: none. headers: "A:
 * b\r\n" or "". */
char *ask(const struct rig *rig, const char *method, const char *path, const char *headers, const char *body);
char *complete(const struct rig *rig, const char *body); /* POST /v1/completions */
int status_of(const char *answer);

#endif
