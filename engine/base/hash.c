/* XXH3 of libxxhash: checks a mapped file at the speed of memory. */
#include "engine/base/hash.h"

#include <stdint.h>
#include <string.h>
#include <xxhash.h>

struct hash hash_bytes(const void *bytes, size_t n)
{
    XXH128_canonical_t canonical;
    struct hash hash;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, n));
    memcpy(hash.bytes, canonical.digest, sizeof hash.bytes);
    return hash;
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
