/* A growable run of bytes and the JSON that the server writes into it. A failed allocation sets `failed` and
 * drops what follows: callers write freely and check once at the end. */
#ifndef SERVER_BUFFER_H
#define SERVER_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer {
    char *data; /* not terminated, NULL while empty */
    size_t length, capacity;
    bool failed;
};

void buffer_finish(struct buffer *b); /* frees; b is empty and usable afterwards */
void buffer_append(struct buffer *b, const void *data, size_t length);
void buffer_text(struct buffer *b, const char *text);
__attribute__((format(printf, 2, 3))) void buffer_printf(struct buffer *b, const char *format, ...);
/* Terminates the bytes with a NUL that is not counted and returns them; "" when out of memory. */
const char *buffer_string(struct buffer *b);
/* Removes the first n bytes. */
void buffer_consume(struct buffer *b, size_t n);

/* A JSON string with its quotes. Bytes that are not UTF-8 become U+FFFD, so that the output is always valid.
 */
void buffer_json_string(struct buffer *b, const char *text, size_t length);
void buffer_json_text(struct buffer *b, const char *text); /* terminated; NULL gives null */
/* A finite number in the fewest of 9 or 17 digits that read back as the same value; -inf is -9999.0, NaN and
 * +inf null. */
void buffer_json_float(struct buffer *b, float value);
void buffer_json_double(struct buffer *b, double value);
void buffer_json_ids(struct buffer *b, const int32_t *ids, int64_t n_ids);

/* Length of the well-formed UTF-8 sequence at text (1..4), or 0 when there is none within length bytes. */
size_t utf8_sequence(const char *text, size_t length);
/* Bytes before the first that is not UTF-8; length when all is. */
size_t utf8_valid_bytes(const char *text, size_t length);

#endif
