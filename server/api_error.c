/* The table of API failures and their JSON. */
#include "server/api_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    int32_t status;
    const char *type, *name;
} codes[API_N_CODES] = {
    [API_OK] = {200, "", "ok"},
    [API_INVALID_JSON] = {400, "invalid_request_error", "invalid_json"},
    [API_INVALID_UTF8] = {400, "invalid_request_error", "invalid_utf8"},
    [API_INVALID_TYPE] = {400, "invalid_request_error", "invalid_type"},
    [API_INVALID_VALUE] = {400, "invalid_request_error", "invalid_value"},
    [API_MISSING_FIELD] = {400, "invalid_request_error", "missing_field"},
    [API_DUPLICATE_FIELD] = {400, "invalid_request_error", "duplicate_field"},
    [API_UNSUPPORTED_PARAMETER] = {400, "invalid_request_error", "unsupported_parameter"},
    [API_UNKNOWN_FIELD] = {400, "invalid_request_error", "unknown_field"},
    [API_CONTEXT_LENGTH_EXCEEDED] = {400, "invalid_request_error", "context_length_exceeded"},
    [API_TOO_COMPLEX] = {400, "invalid_request_error", "too_complex"},
    [API_MISSING_API_KEY] = {401, "authentication_error", "missing_api_key"},
    [API_INVALID_API_KEY] = {401, "authentication_error", "invalid_api_key"},
    [API_ORIGIN_NOT_ALLOWED] = {403, "permission_error", "origin_not_allowed"},
    [API_UNKNOWN_URL] = {404, "not_found_error", "unknown_url"},
    [API_MODEL_NOT_FOUND] = {404, "not_found_error", "model_not_found"},
    [API_METHOD_NOT_ALLOWED] = {405, "invalid_request_error", "method_not_allowed"},
    [API_CLIENT_TOO_SLOW] = {408, "invalid_request_error", "client_too_slow"},
    [API_BODY_TOO_LARGE] = {413, "invalid_request_error", "body_too_large"},
    [API_URL_TOO_LONG] = {414, "invalid_request_error", "url_too_long"},
    [API_HEADERS_TOO_LARGE] = {431, "invalid_request_error", "headers_too_large"},
    [API_QUEUE_FULL] = {429, "overloaded_error", "queue_full"},
    [API_INTERNAL] = {500, "internal_error", "internal"},
    [API_LOADING] = {503, "unavailable_error", "loading"},
    [API_DRAINING] = {503, "unavailable_error", "draining"},
    [API_STALLED] = {503, "unavailable_error", "stalled"},
    [API_OUT_OF_MEMORY] = {503, "unavailable_error", "out_of_memory"},
    [API_REQUEST_TIMEOUT] = {504, "timeout_error", "request_timeout"},
};

enum api_code api_fail(struct api_error *error, enum api_code code, const char *param, const char *format,
                       ...)
{
    va_list args;
    error->code = code;
    snprintf(error->param, sizeof error->param, "%s", param ? param : "");
    va_start(args, format);
    vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    return code;
}

/* json_parse tells the key in its message only: JSON: duplicate key "..." in the object that ends at ... */
static void duplicate_key(char *out, size_t size, const char *message)
{
    static const char after[] = "\" in the object that ends";
    const char *begin = strchr(message, '"'), *end = NULL, *at = begin ? begin : "";
    while ((at = strstr(at, after))) { /* the last one: a key may hold anything */
        end = at++;
    }
    snprintf(out, size, "%.*s", end ? (int)(end - begin - 1) : 0, begin ? begin + 1 : "");
}

enum api_code api_fail_json(struct api_error *error, enum json_fault fault, const struct error *why)
{
    enum api_code code = API_INVALID_JSON;
    char key[sizeof error->param] = "";
    const char *reason = why->message;
    switch (fault) {
    case JSON_UTF8:
        code = API_INVALID_UTF8;
        break;
    case JSON_NUL:
        code = API_INVALID_VALUE;
        break;
    case JSON_DUPLICATE:
        code = API_DUPLICATE_FIELD;
        duplicate_key(key, sizeof key, why->message);
        break;
    case JSON_TOO_COMPLEX:
        code = API_TOO_COMPLEX;
        break;
    case JSON_OUT_OF_MEMORY:
        code = API_OUT_OF_MEMORY;
        break;
    case JSON_SYNTAX:
    case JSON_OK:
        break;
    }
    /* json_parse begins with "JSON" as well: once is enough. */
    reason += strncmp(reason, "JSON", 4) ? 0 : 4 + strspn(reason + 4, ",: ");
    return api_fail(error, code, key, "the body is not acceptable JSON: %s", reason);
}

int32_t api_code_status(enum api_code code)
{
    return codes[code].status;
}

const char *api_code_name(enum api_code code)
{
    return codes[code].name;
}

const char *api_code_type(enum api_code code)
{
    return codes[code].type;
}

void api_error_write(struct buffer *out, const struct api_error *error)
{
    buffer_text(out, "{\"error\":{\"message\":");
    buffer_json_text(out, error->message);
    buffer_text(out, ",\"type\":");
    buffer_json_text(out, api_code_type(error->code));
    buffer_text(out, ",\"param\":");
    buffer_json_text(out, error->param[0] ? error->param : NULL);
    buffer_text(out, ",\"code\":");
    buffer_json_text(out, api_code_name(error->code));
    buffer_text(out, "}}");
}
