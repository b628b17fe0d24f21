/* Checksums: the published value, and parts that do not run into each other. */
#include <criterion/criterion.h>
#include <string.h>

#include "engine/base/hash.h"

static bool equal(struct hash a, struct hash b)
{
    return memcmp(a.bytes, b.bytes, sizeof a.bytes) == 0;
}

Test(hash, is_xxh3_of_128_bits)
{
    char text[HASH_TEXT_BYTES];
    struct hash hash = hash_bytes("", 0);
    hash_text(text, &hash);
    cr_assert_str_eq(text, "99aa06d3014798d86001c324468d497f"); /* as `xxhsum -H2` prints it */
}

Test(hash, depends_on_order_and_limits_of_parts)
{
    struct hash a = {{0}}, b = {{0}}, c = {{0}}, d = {{0}};
    hash_add(&a, "ab", 2);
    hash_add(&a, "c", 1);
    hash_add_text(&b, "a");
    hash_add_text(&b, "bc");
    hash_add_text(&c, "c");
    hash_add_text(&c, "ab");
    hash_add_text(&d, "ab");
    cr_assert(!equal(a, b) && !equal(a, c) && !equal(a, d));
    hash_add_text(&d, "c");
    cr_assert(equal(a, d));
    hash_add(&d, NULL, 0);
    cr_assert(!equal(a, d));
}

Test(hash, streams_give_the_same)
{
    static unsigned char bytes[5000];
    struct hash_stream *stream = hash_stream_open();
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(i * 7);
    }
    cr_assert(equal(hash_stream_end(stream), hash_bytes("", 0)));
    for (size_t n = 0; n <= sizeof bytes; n += 499) {
        for (size_t at = 0; at < n; at += 313) {
            hash_stream_add(stream, bytes + at, n - at < 313 ? n - at : 313);
        }
        cr_assert(equal(hash_stream_end(stream), hash_bytes(bytes, n)), "%zu", n);
    }
    hash_stream_close(stream);
    hash_stream_close(NULL);
}
