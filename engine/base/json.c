/* A strict RFC 8259 reader that builds cJSON trees itself: cJSON's own parser accepts a byte-order mark,
 * control characters in strings, numbers such as 01 or 1.e5, duplicate keys and broken UTF-8, and cuts
 * numbers at 63 characters. What is taken from cJSON is the tree, its access functions and its printer. */
#include "engine/base/json.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The parser, cJSON_Delete and cJSON_Print recurse once a level; no caller's limit may exceed what a stack
 * bears. */
enum { MAX_DEPTH = 1000, MAX_NUMBER_BYTES = 1023, FEW_KEYS = 8 };

struct reader {
    const unsigned char *text;
    size_t length, at;
    int64_t nodes_left;
    int32_t depth_left;
    enum json_fault fault;
    const char *reason;
    char key[64]; /* of a duplicate, for the message */
};

static bool fail(struct reader *r, enum json_fault fault, const char *reason)
{
    r->fault = fault;
    r->reason = reason;
    return false;
}

/* The byte at the read position, -1 at the end. */
static int peek(const struct reader *r)
{
    return r->at < r->length ? r->text[r->at] : -1;
}

static bool skip_if(struct reader *r, int c)
{
    bool hit = peek(r) == c;
    r->at += hit;
    return hit;
}

static void skip_space(struct reader *r)
{
    while (r->at < r->length && (r->text[r->at] == ' ' || r->text[r->at] == '\t' || r->text[r->at] == '\n' ||
                                 r->text[r->at] == '\r')) {
        r->at++;
    }
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static bool count_node(struct reader *r)
{
    return r->nodes_left-- > 0 || fail(r, JSON_TOO_COMPLEX, "too many values");
}

static cJSON *new_item(struct reader *r, int type)
{
    cJSON *item = cJSON_CreateNull();
    if (!item) {
        fail(r, JSON_OUT_OF_MEMORY, "out of memory");
        return NULL;
    }
    item->type = type;
    return item;
}

/* Four hex digits at the read position, -1 if they are not. */
static int32_t read_hex4(struct reader *r)
{
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        int c = peek(r);
        int digit = is_digit(c)              ? c - '0'
                    : (c >= 'a' && c <= 'f') ? c - 'a' + 10
                    : (c >= 'A' && c <= 'F') ? c - 'A' + 10
                                             : -1;
        if (digit < 0) {
            return -1;
        }
        value = value * 16 + digit;
        r->at++;
    }
    return value;
}

static char *put_utf8(char *out, uint32_t code)
{
    if (code < 0x80) {
        *out++ = (char)code;
    } else if (code < 0x800) {
        *out++ = (char)(0xc0 | code >> 6);
        *out++ = (char)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        *out++ = (char)(0xe0 | code >> 12);
        *out++ = (char)(0x80 | (code >> 6 & 0x3f));
        *out++ = (char)(0x80 | (code & 0x3f));
    } else {
        *out++ = (char)(0xf0 | code >> 18);
        *out++ = (char)(0x80 | (code >> 12 & 0x3f));
        *out++ = (char)(0x80 | (code >> 6 & 0x3f));
        *out++ = (char)(0x80 | (code & 0x3f));
    }
    return out;
}

/* Behind a backslash: writes what it stands for and moves on; NULL on a fault. */
static char *read_escape(struct reader *r, char *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    int c = peek(r);
    const char *simple = c > 0 ? strchr(from, c) : NULL;
    if (simple) {
        r->at++;
        *out++ = to[simple - from];
        return out;
    }
    if (!skip_if(r, 'u')) {
        fail(r, JSON_SYNTAX, "unknown escape in a string");
        return NULL;
    }
    int32_t code = read_hex4(r);
    if (code < 0) {
        fail(r, JSON_SYNTAX, "\\u without four hex digits");
        return NULL;
    }
    if (code == 0) {
        fail(r, JSON_NUL, "\\u0000 is not accepted");
        return NULL;
    }
    if (code >= 0xd800 && code <= 0xdfff) {
        int32_t low = -1;
        if (code <= 0xdbff && skip_if(r, '\\') && skip_if(r, 'u')) {
            low = read_hex4(r);
        }
        if (low < 0xdc00 || low > 0xdfff) {
            fail(r, JSON_UTF8, "lone surrogate escape");
            return NULL;
        }
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    return put_utf8(out, (uint32_t)code);
}

/* Copies the multi-byte sequence at the read position (RFC 3629: shortest form, no surrogates, at most
 * U+10FFFF). */
static char *read_utf8(struct reader *r, char *out)
{
    const unsigned char *s = r->text + r->at;
    size_t left = r->length - r->at;
    int n = s[0] >= 0xc2 && s[0] <= 0xdf   ? 2
            : s[0] >= 0xe0 && s[0] <= 0xef ? 3
            : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4
                                           : 0;
    bool ok = n && left >= (size_t)n;
    for (int i = 1; ok && i < n; i++) {
        ok = (s[i] & 0xc0) == 0x80;
    }
    if (!ok || (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f)) {
        fail(r, JSON_UTF8, "not valid UTF-8");
        return NULL;
    }
    memcpy(out, s, (size_t)n);
    r->at += (size_t)n;
    return out + n;
}

/* Reads a string at its opening quote; the caller frees it with cJSON_free. NULL on a fault. */
static char *read_string(struct reader *r)
{
    size_t end = ++r->at;
    while (end < r->length && r->text[end] != '"') {
        end += r->text[end] == '\\' ? 2 : 1;
    }
    if (end >= r->length) {
        r->at = r->length;
        fail(r, JSON_SYNTAX, "string without end");
        return NULL;
    }
    char *string =
        cJSON_malloc(end - r->at + 1); /* what an escape stands for is never longer than the escape */
    if (!string) {
        fail(r, JSON_OUT_OF_MEMORY, "out of memory");
        return NULL;
    }
    char *out = string;
    while (out && r->at < end) {
        unsigned char c = r->text[r->at];
        if (c == '\\') {
            r->at++;
            out = read_escape(r, out);
        } else if (c >= 0x80) {
            out = read_utf8(r, out);
        } else if (c < 0x20) {
            fail(r, JSON_SYNTAX, "control character in a string");
            out = NULL;
        } else {
            *out++ = (char)c;
            r->at++;
        }
    }
    if (!out) {
        cJSON_free(string);
        return NULL;
    }
    *out = '\0';
    r->at = end + 1;
    return string;
}

static cJSON *read_number(struct reader *r)
{
    size_t start = r->at;
    bool plain = true; /* only digits: its double has a fraction never */
    skip_if(r, '-');
    bool ok = is_digit(peek(r));
    if (ok && !skip_if(r, '0')) {
        while (is_digit(peek(r))) {
            r->at++;
        }
    }
    if (ok && skip_if(r, '.')) {
        plain = false;
        ok = is_digit(peek(r));
        while (is_digit(peek(r))) {
            r->at++;
        }
    }
    if (ok && (peek(r) == 'e' || peek(r) == 'E')) {
        plain = false;
        r->at++;
        if (!skip_if(r, '+')) {
            skip_if(r, '-');
        }
        ok = is_digit(peek(r));
        while (is_digit(peek(r))) {
            r->at++;
        }
    }
    if (!ok) {
        fail(r, JSON_SYNTAX, "malformed number");
        return NULL;
    }
    size_t n_bytes = r->at - start;
    char digits[MAX_NUMBER_BYTES + 1];
    if (n_bytes > MAX_NUMBER_BYTES) {
        fail(r, JSON_TOO_COMPLEX, "number with too many digits");
        return NULL;
    }
    memcpy(digits, r->text + start, n_bytes);
    digits[n_bytes] = '\0';
    /* The program never leaves the C locale for numbers, so strtod knows the point. */
    double value = strtod(digits, NULL);
    if (!isfinite(value)) {
        fail(r, JSON_TOO_COMPLEX, "number out of range");
        return NULL;
    }
    cJSON *item = cJSON_CreateNumber(value);
    /* Where the double alone cannot say whether this is an integer and which, the digits are kept. */
    if (item && value == floor(value) && (!plain || fabs(value) >= 9007199254740992.0)) {
        item->valuestring = cJSON_malloc(n_bytes + 1);
        if (!item->valuestring) {
            cJSON_Delete(item);
            item = NULL;
        } else {
            memcpy(item->valuestring, digits, n_bytes + 1);
        }
    }
    if (!item) {
        fail(r, JSON_OUT_OF_MEMORY, "out of memory");
    }
    return item;
}

static cJSON *read_word(struct reader *r, const char *word, int type)
{
    size_t n = strlen(word);
    if (r->length - r->at < n || memcmp(r->text + r->at, word, n)) {
        fail(r, JSON_SYNTAX, "unknown word");
        return NULL;
    }
    r->at += n;
    cJSON *item = new_item(r, type);
    if (item && type == cJSON_True) {
        item->valueint = 1;
    }
    return item;
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool duplicate(struct reader *r, const char *key)
{
    size_t n = 0;
    while (n < sizeof r->key - 1 && key[n]) {
        r->key[n] = key[n];
        n++;
    }
    r->key[n] = '\0';
    return fail(r, JSON_DUPLICATE, "duplicate key");
}

/* Sorting keeps an object of hundreds of thousands of keys cheap: the bytes compared are at most the text's
 * length times the logarithm of the count. */
static bool check_duplicates(struct reader *r, const cJSON *object, int64_t n_keys)
{
    if (n_keys <= FEW_KEYS) {
        for (const cJSON *a = object->child; a; a = a->next) {
            for (const cJSON *b = a->next; b; b = b->next) {
                if (strcmp(a->string, b->string) == 0) {
                    return duplicate(r, a->string);
                }
            }
        }
        return true;
    }
    const char **keys = malloc((size_t)n_keys * sizeof *keys);
    if (!keys) {
        return fail(r, JSON_OUT_OF_MEMORY, "out of memory");
    }
    int64_t n = 0;
    for (const cJSON *item = object->child; item; item = item->next) {
        keys[n++] = item->string;
    }
    qsort(keys, (size_t)n, sizeof *keys, compare_keys);
    bool ok = true;
    for (int64_t i = 1; ok && i < n; i++) {
        ok = strcmp(keys[i - 1], keys[i]) != 0 || duplicate(r, keys[i]);
    }
    free(keys);
    return ok;
}

static cJSON *read_value(struct reader *r);

/* Reads an array or object at its opening bracket. */
static cJSON *read_container(struct reader *r, bool is_object)
{
    int close = is_object ? '}' : ']';
    if (r->depth_left-- <= 0) {
        fail(r, JSON_TOO_COMPLEX, "nested too deep");
        return NULL;
    }
    cJSON *container = new_item(r, is_object ? cJSON_Object : cJSON_Array);
    cJSON *last = NULL;
    int64_t n = 0;
    if (!container) {
        return NULL;
    }
    r->at++;
    skip_space(r);
    bool done = skip_if(r, close);
    while (!done) {
        char *key = NULL;
        if (is_object) {
            skip_space(r);
            if (peek(r) != '"') {
                fail(r, JSON_SYNTAX, "expected a key");
                goto failed;
            }
            if (!count_node(r) || !(key = read_string(r))) {
                goto failed;
            }
            skip_space(r);
            if (!skip_if(r, ':')) {
                cJSON_free(key);
                fail(r, JSON_SYNTAX, "expected ':'");
                goto failed;
            }
        }
        cJSON *item = read_value(r);
        if (!item) {
            cJSON_free(key);
            goto failed;
        }
        item->string = key;
        /* cJSON's own list: next ends with NULL, prev of the first is the last. */
        if (last) {
            last->next = item;
            item->prev = last;
        } else {
            container->child = item;
        }
        container->child->prev = item;
        last = item;
        n++;
        skip_space(r);
        done = skip_if(r, close);
        if (!done && !skip_if(r, ',')) {
            fail(r, JSON_SYNTAX, is_object ? "expected ',' or '}'" : "expected ',' or ']'");
            goto failed;
        }
    }
    r->depth_left++;
    if (is_object && !check_duplicates(r, container, n)) {
        goto failed;
    }
    return container;
failed:
    cJSON_Delete(container);
    return NULL;
}

static cJSON *read_value(struct reader *r)
{
    skip_space(r);
    if (!count_node(r)) {
        return NULL;
    }
    switch (peek(r)) {
    case '{':
        return read_container(r, true);
    case '[':
        return read_container(r, false);
    case '"': {
        char *string = read_string(r);
        cJSON *item = string ? new_item(r, cJSON_String) : NULL;
        if (item) {
            item->valuestring = string;
        } else {
            cJSON_free(string);
        }
        return item;
    }
    case 't':
        return read_word(r, "true", cJSON_True);
    case 'f':
        return read_word(r, "false", cJSON_False);
    case 'n':
        return read_word(r, "null", cJSON_NULL);
    case -1:
        fail(r, JSON_SYNTAX, "text ends where a value is expected");
        return NULL;
    default:
        if (peek(r) == '-' || is_digit(peek(r))) {
            return read_number(r);
        }
        fail(r, JSON_SYNTAX, "expected a value");
        return NULL;
    }
}

enum json_fault json_parse(cJSON **out, const char *text, size_t length, const struct json_limits *limits,
                           struct error *err)
{
    struct reader r = {
        .text = (const unsigned char *)text, .length = length, .nodes_left = limits->max_nodes};
    r.depth_left = limits->max_depth < MAX_DEPTH ? limits->max_depth : MAX_DEPTH;
    *out = NULL;
    cJSON *root = read_value(&r);
    if (root) {
        skip_space(&r);
        if (r.at < r.length) {
            fail(&r, JSON_SYNTAX, "text behind the value");
        }
    }
    if (r.fault) {
        cJSON_Delete(root);
        enum status status = r.fault == JSON_OUT_OF_MEMORY ? STATUS_NO_MEMORY : STATUS_INVALID;
        if (r.fault == JSON_DUPLICATE) {
            error_set(err, status, "JSON: duplicate key \"%s\" in the object that ends at byte %zu", r.key,
                      r.at);
        } else {
            error_set(err, status, "JSON, byte %zu: %s", r.at, r.reason);
        }
        return r.fault;
    }
    *out = root;
    return JSON_OK;
}

/* The exact value of RFC 8259 number text, if it is an integer of 64 bits: digits are gathered without their
 * zeros at the end, which count into the exponent instead. */
static bool decimal_int64(const char *text, int64_t *value)
{
    bool negative = *text == '-';
    const char *s = text + negative;
    uint64_t magnitude = 0;
    int64_t zeros = 0;    /* seen behind the last digit that is not 0 */
    int64_t exponent = 0; /* of the last digit seen */
    bool fraction = false;
    for (; is_digit(*s) || *s == '.'; s++) {
        if (*s == '.') {
            fraction = true;
            continue;
        }
        exponent -= fraction;
        if (*s == '0') {
            zeros += magnitude != 0;
            continue;
        }
        for (; zeros >= 0; zeros--) { /* the zeros before it, then its own place */
            if (__builtin_mul_overflow(magnitude, (uint64_t)10, &magnitude)) {
                return false;
            }
        }
        zeros = 0;
        if (__builtin_add_overflow(magnitude, (uint64_t)(*s - '0'), &magnitude)) {
            return false;
        }
    }
    if (magnitude == 0) {
        *value = 0;
        return true;
    }
    if (*s == 'e' || *s == 'E') {
        errno = 0;
        long given = strtol(s + 1, NULL, 10);
        if (errno || given > 100000 || given < -100000) {
            return false;
        }
        exponent += given;
    }
    exponent += zeros;
    if (exponent < 0) {
        return false; /* its last digit, not 0, stands behind the point */
    }
    for (; exponent > 0; exponent--) {
        if (__builtin_mul_overflow(magnitude, (uint64_t)10, &magnitude)) {
            return false;
        }
    }
    if (magnitude > (uint64_t)INT64_MAX + negative) {
        return false;
    }
    *value = negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    return true;
}

bool json_int64(const cJSON *item, int64_t *value)
{
    if (!cJSON_IsNumber(item)) {
        return false;
    }
    if (item->valuestring) {
        return decimal_int64(item->valuestring, value);
    }
    double d = item->valuedouble;
    if (d != floor(d) || d < -0x1p63 || d >= 0x1p63) {
        return false;
    }
    *value = (int64_t)d;
    return true;
}

enum status file_read(char **text, size_t *length, const char *path, size_t max_bytes, struct error *err)
{
    enum status status = STATUS_OK;
    char *bytes = NULL;
    struct stat info;
    *text = NULL;
    *length = 0;
    /* Non-blocking, so that a FIFO in the place of a file is refused below and not waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &info) < 0) {
        status = error_set(err, errno == ENOENT || errno == ENOTDIR ? STATUS_NOT_FOUND : STATUS_IO, "%s: %s",
                           path, strerror(errno));
        goto cleanup;
    }
    if (!S_ISREG(info.st_mode)) {
        status = error_set(err, STATUS_INVALID, "%s: not a regular file", path);
        goto cleanup;
    }
    if (info.st_size < 0 || (uint64_t)info.st_size > max_bytes) {
        status = error_set(err, STATUS_INVALID, "%s: %lld bytes, at most %zu are accepted", path,
                           (long long)info.st_size, max_bytes);
        goto cleanup;
    }
    size_t size = (size_t)info.st_size, at = 0;
    bytes = malloc(size + 1);
    if (!bytes) {
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory for %zu bytes", path, size);
        goto cleanup;
    }
    while (at < size) {
        ssize_t n = read(fd, bytes + at, size - at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            status = error_set(err, STATUS_IO, "%s: %s", path, strerror(errno));
            goto cleanup;
        }
        if (n == 0) {
            break; /* cut while it was read: what is there decides */
        }
        at += (size_t)n;
    }
    bytes[at] = '\0';
    *text = bytes;
    *length = at;
    bytes = NULL;
cleanup:
    free(bytes);
    if (fd >= 0) {
        close(fd);
    }
    return status;
}
