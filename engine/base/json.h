/* Strict reading of JSON that came from outside, on top of cJSON: one scan checks UTF-8, depth, node count,
 * escapes and duplicate keys before cJSON sees a byte, so that cJSON's leniencies never decide anything. */
#ifndef ENGINE_BASE_JSON_H
#define ENGINE_BASE_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

/* Why a text was refused, for callers that map it to an error code of their own. */
enum json_fault {
    JSON_OK = 0,
    JSON_SYNTAX,      /* not RFC 8259 JSON (comments, trailing commas, NaN, garbage behind the value ...) */
    JSON_UTF8,        /* not valid UTF-8, or a lone surrogate escape */
    JSON_NUL,         /* the escape \u0000 */
    JSON_DUPLICATE,   /* a key stands twice in one object */
    JSON_TOO_COMPLEX, /* deeper or larger than the limits */
    JSON_OUT_OF_MEMORY,
};

struct json_limits {
    int32_t max_depth; /* nesting of arrays and objects */
    int64_t max_nodes; /* values and keys together */
};

/* Parses text (length bytes, need not be terminated). On success *out is the tree: cJSON_Delete it. On
 * failure *out is NULL, the fault is returned, and err (may be NULL) has offset and reason. Integers outside
 * +-2^53 keep their exact digits: read them with json_int64. */
enum json_fault json_parse(cJSON **out, const char *text, size_t length, const struct json_limits *limits,
                           struct error *err);

/* The exact value of a number that is an integer (1 and 1.0 and 1e3 alike) and fits in 64 bits; else false.
 */
bool json_int64(const cJSON *item, int64_t *value);

/* Reads a whole regular file of at most max_bytes into *text (malloc, terminated; free it). Errors name the
 * path. */
enum status file_read(char **text, size_t *length, const char *path, size_t max_bytes, struct error *err);

#endif
