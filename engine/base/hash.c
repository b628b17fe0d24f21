/* XXH3 of libxxhash: checks a mapped file at the speed of memory. */
#include "engine/base/hash.h"

#include <stdint.h>
#include <string.h>
#include <xxhash.h>

static struct hash canonical(XXH128_hash_t value)
{
    XXH128_canonical_t digits;
    struct hash hash;
    XXH128_canonicalFromHash(&digits, value);
    memcpy(hash.bytes, digits.digest, sizeof hash.bytes);
    return hash;
}

struct hash hash_bytes(const void *bytes, size_t n)
{
    return canonical(XXH3_128bits(bytes, n));
}

/* The library's own state under our name: its functions fail on NULL alone. */
struct hash_stream *hash_stream_open(void)
{
    XXH3_state_t *state = XXH3_createState();
    if (state) {
        XXH3_128bits_reset(state);
    }
    return (struct hash_stream *)state;
}

void hash_stream_add(struct hash_stream *stream, const void *bytes, size_t n)
{
    XXH3_128bits_update((XXH3_state_t *)stream, bytes, n);
}

struct hash hash_stream_end(struct hash_stream *stream)
{
    struct hash hash = canonical(XXH3_128bits_digest((XXH3_state_t *)stream));
    XXH3_128bits_reset((XXH3_state_t *)stream);
    return hash;
}

void hash_stream_close(struct hash_stream *stream)
{
    XXH3_freeState((XXH3_state_t *)stream);
}

void hash_add(struct hash *hash, const void *bytes, size_t n)
{
    struct hash part = hash_bytes(bytes, n);
    unsigned char joined[sizeof hash->bytes + 8 + sizeof part.bytes];
    memcpy(joined, hash->bytes, sizeof hash->bytes);
    for (int i = 0; i < 8; i++) {
        joined[sizeof hash->bytes + i] = (unsigned char)((uint64_t)n >> 8 * i);
    }
    memcpy(joined + sizeof hash->bytes + 8, part.bytes, sizeof part.bytes);
    *hash = hash_bytes(joined, sizeof joined);
}

void hash_add_text(struct hash *hash, const char *text)
{
    hash_add(hash, text, strlen(text));
}

void hash_text(char out[HASH_TEXT_BYTES], const struct hash *hash)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < sizeof hash->bytes; i++) {
        out[2 * i] = digits[hash->bytes[i] >> 4];
        out[2 * i + 1] = digits[hash->bytes[i] & 15];
    }
    out[HASH_TEXT_BYTES - 1] = '\0';
}
