/* Where a request ends must not be a matter of opinion: a proxy before us could have another one, and smuggle
 * a request in (RFC 9112, sections 3.2, 6.1 and 6.3). */
#ifndef SERVER_FRAMING_H
#define SERVER_FRAMING_H

#include <microhttpd.h>

/* What is ambiguous about the headers, in words; NULL when all is well. version: "HTTP/1.1". */
const char *framing_fault(struct MHD_Connection *connection, const char *version);

#endif
