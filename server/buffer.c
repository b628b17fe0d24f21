/* Growable bytes and JSON output. Leaves reading JSON to engine/base/json. */
#include "server/buffer.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buffer_finish(struct buffer *b)
{
    free(b->data);
    *b = (struct buffer){0};
}

static bool buffer_reserve(struct buffer *b, size_t extra)
{
    if (b->failed) {
        return false;
    }
    if (extra > SIZE_MAX / 4 - b->length) {
        b->failed = true;
        return false;
    }
    size_t need = b->length + extra;
    if (need > b->capacity) {
        size_t capacity = b->capacity ? b->capacity * 2 : 256;
        if (capacity < need) {
            capacity = need;
        }
        char *data = realloc(b->data, capacity);
        if (!data) {
            b->failed = true;
            return false;
        }
        b->data = data;
        b->capacity = capacity;
    }
    return true;
}

void buffer_append(struct buffer *b, const void *data, size_t length)
{
    if (length && buffer_reserve(b, length)) {
        memcpy(b->data + b->length, data, length);
        b->length += length;
    }
}

void buffer_text(struct buffer *b, const char *text)
{
    buffer_append(b, text, strlen(text));
}

void buffer_printf(struct buffer *b, const char *format, ...)
{
    char small[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    if (n < 0) {
        b->failed = true;
    } else if ((size_t)n < sizeof small) {
        buffer_append(b, small, (size_t)n);
    } else if (buffer_reserve(b, (size_t)n + 1)) { /* vsnprintf writes its terminator too */
        va_start(args, format);
        vsnprintf(b->data + b->length, (size_t)n + 1, format, args);
        va_end(args);
        b->length += (size_t)n;
    }
}

const char *buffer_string(struct buffer *b)
{
    if (!buffer_reserve(b, 1)) {
        b->length = 0; /* who takes the length with this text must not read behind it */
        return "";
    }
    b->data[b->length] = '\0';
    return b->data;
}

void buffer_consume(struct buffer *b, size_t n)
{
    if (n >= b->length) {
        b->length = 0;
    } else if (n) {
        memmove(b->data, b->data + n, b->length - n);
        b->length -= n;
    }
}

size_t utf8_sequence(const char *text, size_t length)
{
    const unsigned char *s = (const unsigned char *)text;
    if (!length) {
        return 0;
    }
    if (s[0] < 0x80) {
        return 1;
    }
    /* The second byte's range excludes overlong forms, surrogates and values over U+10FFFF (Unicode table
     * 3-7). */
    size_t n = 0;
    unsigned char low = 0x80, high = 0xbf;
    if (s[0] >= 0xc2 && s[0] <= 0xdf) {
        n = 2;
    } else if (s[0] >= 0xe0 && s[0] <= 0xef) {
        n = 3;
        low = s[0] == 0xe0 ? 0xa0 : 0x80;
        high = s[0] == 0xed ? 0x9f : 0xbf;
    } else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
        n = 4;
        low = s[0] == 0xf0 ? 0x90 : 0x80;
        high = s[0] == 0xf4 ? 0x8f : 0xbf;
    }
    if (!n || length < n || s[1] < low || s[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return n;
}

size_t utf8_valid_bytes(const char *text, size_t length)
{
    size_t at = 0, n;
    while (at < length && (n = utf8_sequence(text + at, length - at))) {
        at += n;
    }
    return at;
}

void buffer_json_string(struct buffer *b, const char *text, size_t length)
{
    buffer_append(b, "\"", 1);
    size_t begin = 0;
    for (size_t i = 0; i < length;) {
        unsigned char c = (unsigned char)text[i];
        size_t n = utf8_sequence(text + i, length - i);
        if (n && c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) {
            i += n;
            continue;
        }
        buffer_append(b, text + begin, i - begin);
        if (!n) {
            buffer_text(b, "\xef\xbf\xbd");
        } else if (c == '"' || c == '\\') {
            char escape[2] = {'\\', (char)c};
            buffer_append(b, escape, 2);
        } else if (c == '\n') {
            buffer_append(b, "\\n", 2);
        } else {
            buffer_printf(b, "\\u%04x", c);
        }
        begin = ++i;
    }
    buffer_append(b, text + begin, length - begin);
    buffer_append(b, "\"", 1);
}

void buffer_json_text(struct buffer *b, const char *text)
{
    if (text) {
        buffer_json_string(b, text, strlen(text));
    } else {
        buffer_text(b, "null");
    }
}

static void buffer_number(struct buffer *b, double value, const char *digits)
{
    if (isnan(value) || (isinf(value) && value > 0)) {
        buffer_text(b, "null");
    } else if (isinf(value)) {
        buffer_text(b, "-9999.0");
    } else {
        /* A number that looks like an integer gets ".0": readers with typed numbers keep one type per key. */
        buffer_text(b, digits);
        if (!strpbrk(digits, ".e")) {
            buffer_text(b, ".0");
        }
    }
}

void buffer_json_float(struct buffer *b, float value)
{
    char digits[40];
    snprintf(digits, sizeof digits, "%.9g", (double)value);
    buffer_number(b, (double)value, digits);
}

void buffer_json_double(struct buffer *b, double value)
{
    char digits[40];
    snprintf(digits, sizeof digits, "%.9g", value);
    if (isfinite(value) && strtod(digits, NULL) != value) {
        snprintf(digits, sizeof digits, "%.17g", value);
    }
    buffer_number(b, value, digits);
}

void buffer_json_ids(struct buffer *b, const int32_t *ids, int64_t n_ids)
{
    buffer_text(b, "[");
    for (int64_t i = 0; i < n_ids; i++) {
        buffer_printf(b, i ? ",%d" : "%d", (int)ids[i]);
    }
    buffer_text(b, "]");
}
