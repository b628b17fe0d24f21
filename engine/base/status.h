/* What can fail in service returns an enum status, zero for success, and fills a struct error that names the
 * thing, what was found and what was expected. assert is for our own mistakes, status for the world's. */
#ifndef ENGINE_BASE_STATUS_H
#define ENGINE_BASE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

enum status {
    STATUS_OK = 0,
    STATUS_INVALID,       /* an argument, a flag or a field is wrong */
    STATUS_NOT_FOUND,     /* a file or a thing is missing */
    STATUS_BAD_MODEL,     /* a model file is malformed, inconsistent or not supported (exit code 3) */
    STATUS_NO_MEMORY,     /* does not fit, or the system refused memory (exit code 4) */
    STATUS_IO,            /* the operating system reported an error */
    STATUS_QUANTIZE,      /* NaN or Inf in a weight, or over the error limit (exit code 6) */
    STATUS_FULL,          /* a bounded queue has no room: try later */
    STATUS_UNAVAILABLE,   /* shutting down, or not started yet */
    STATUS_CANNOT_LISTEN, /* the address is taken or not allowed (exit code 5) */
    STATUS_DEVICE,        /* device or driver unusable (exit code 7) */
};

struct error {
    enum status status;
    char message[512]; /* always terminated; cut if longer */
};

/* Fills err (which may be NULL) printf-style and returns status, so that callers write
 * `return error_set(err, STATUS_INVALID, ...)`. */
#ifdef __GNUC__
__attribute__((format(printf, 3, 4)))
#endif
enum status
error_set(struct error *err, enum status status, const char *format, ...);

/* Puts "prefix: " before the message that err holds already. */
enum status error_prefix(struct error *err, const char *prefix);

/* "not found", "bad model" ...: static text for logs. */
const char *status_name(enum status status);

#ifdef __cplusplus
}
#endif
#endif
