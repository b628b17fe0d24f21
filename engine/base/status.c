/* Error records: formatting only. */
#include "engine/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum status error_set(struct error *err, enum status status, const char *format, ...)
{
    if (err) {
        /* Formatted aside first: callers may pass err->message itself as an argument. */
        char text[sizeof err->message];
        va_list args;
        va_start(args, format);
        vsnprintf(text, sizeof text, format, args);
        va_end(args);
        memcpy(err->message, text, sizeof text);
        err->status = status;
    }
    return status;
}

enum status error_prefix(struct error *err, const char *prefix)
{
    if (!err) {
        return STATUS_INVALID;
    }
    return error_set(err, err->status, "%s: %s", prefix, err->message);
}

const char *status_name(enum status status)
{
    switch (status) {
    case STATUS_OK:
        return "ok";
    case STATUS_INVALID:
        return "invalid argument";
    case STATUS_NOT_FOUND:
        return "not found";
    case STATUS_BAD_MODEL:
        return "bad model";
    case STATUS_NO_MEMORY:
        return "out of memory";
    case STATUS_IO:
        return "input/output error";
    case STATUS_QUANTIZE:
        return "quantization failed";
    case STATUS_FULL:
        return "queue full";
    case STATUS_UNAVAILABLE:
        return "unavailable";
    case STATUS_CANNOT_LISTEN:
        return "cannot listen";
    case STATUS_DEVICE:
        return "device unusable";
    }
    return "unknown";
}
