/* The failures that a client may see: one code, its HTTP status and type in one table (API: section
 * "Errors"). */
#ifndef SERVER_API_ERROR_H
#define SERVER_API_ERROR_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/json.h"
#include "server/buffer.h"

enum api_code {
    API_OK = 0,
    API_INVALID_JSON,
    API_INVALID_UTF8,
    API_INVALID_TYPE,
    API_INVALID_VALUE,
    API_MISSING_FIELD,
    API_DUPLICATE_FIELD,
    API_UNSUPPORTED_PARAMETER,
    API_UNKNOWN_FIELD,
    API_CONTEXT_LENGTH_EXCEEDED,
    API_TOO_COMPLEX,
    API_MISSING_API_KEY,
    API_INVALID_API_KEY,
    API_ORIGIN_NOT_ALLOWED,
    API_UNKNOWN_URL,
    API_MODEL_NOT_FOUND,
    API_METHOD_NOT_ALLOWED,
    API_CLIENT_TOO_SLOW,
    API_BODY_TOO_LARGE,
    API_URL_TOO_LONG,
    API_HEADERS_TOO_LARGE,
    API_QUEUE_FULL,
    API_INTERNAL,
    API_LOADING,
    API_DRAINING,
    API_STALLED,
    API_OUT_OF_MEMORY,
    API_REQUEST_TIMEOUT,
    API_N_CODES,
};

struct api_error {
    enum api_code code;
    char param[64];    /* the field, "" for none */
    char message[512]; /* never has text of a prompt */
};

/* Fills error and returns code, so that checks read `return api_fail(...)`. param may be NULL. */
__attribute__((format(printf, 4, 5))) enum api_code api_fail(struct api_error *error, enum api_code code,
                                                             const char *param, const char *format, ...);

/* What json_parse found, as an API error. param is null, or the key that stands twice. */
enum api_code api_fail_json(struct api_error *error, enum json_fault fault, const struct error *why);

int32_t api_code_status(enum api_code code);   /* HTTP status */
const char *api_code_name(enum api_code code); /* "invalid_json" */
const char *api_code_type(enum api_code code); /* "invalid_request_error" */

/* {"error":{"message","type","param","code"}} */
void api_error_write(struct buffer *out, const struct api_error *error);

#endif
