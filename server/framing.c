/* Headers that decide where a request ends and whom it is for. libmicrohttpd takes the first of several. */
#include "server/framing.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

struct framing {
    int32_t n_lengths, n_encodings, n_hosts;
    bool strange;
};

static enum MHD_Result look_at_header(void *context, enum MHD_ValueKind kind, const char *name,
                                      const char *value)
{
    struct framing *f = context;
    (void)kind;
    value = value ? value : "";
    if (!strcasecmp(name, "Content-Length")) {
        f->n_lengths++;
        f->strange |= !*value || value[strspn(value, "0123456789")];
    } else if (!strcasecmp(name, "Transfer-Encoding")) {
        f->n_encodings++;
        f->strange |= strcasecmp(value, "chunked") != 0;
    } else if (!strcasecmp(name, "Host")) {
        f->n_hosts++;
    }
    return MHD_YES;
}

const char *framing_fault(struct MHD_Connection *connection, const char *version)
{
    struct framing f = {0};
    MHD_get_connection_values(connection, MHD_HEADER_KIND, look_at_header, &f);
    if (f.n_lengths > 1) {
        return "Content-Length is given more than once";
    }
    if (f.n_lengths && f.n_encodings) {
        return "Content-Length and Transfer-Encoding exclude each other";
    }
    if (f.n_encodings > 1 || f.strange) {
        return f.n_encodings ? "Transfer-Encoding can only be chunked" : "Content-Length is not a number";
    }
    if (f.n_hosts > 1 || (!f.n_hosts && !strcmp(version, MHD_HTTP_VERSION_1_1))) {
        return f.n_hosts ? "Host is given more than once" : "Host is missing";
    }
    return NULL;
}
