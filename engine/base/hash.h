/* 128-bit checksums (XXH3): against damage and for names of content, not against an adversary. */
#ifndef ENGINE_BASE_HASH_H
#define ENGINE_BASE_HASH_H

#include <stddef.h>

struct hash {
    unsigned char bytes[16]; /* the same on every machine */
};

enum { HASH_TEXT_BYTES = 33 }; /* as hexadecimal digits, terminated */

struct hash hash_bytes(const void *bytes, size_t n);

/* The same hash of bytes that come piece by piece. open returns NULL when out of memory; end gives the hash
 * of what was added since it was opened or ended, and begins anew. */
struct hash_stream;
struct hash_stream *hash_stream_open(void);
void hash_stream_add(struct hash_stream *stream, const void *bytes, size_t n);
struct hash hash_stream_end(struct hash_stream *stream);
void hash_stream_close(struct hash_stream *stream); /* accepts NULL */

/* *hash becomes the hash of itself, n and the bytes: what is added part by part differs from the same bytes
 * cut elsewhere. Begin with a zeroed one. */
void hash_add(struct hash *hash, const void *bytes, size_t n);
void hash_add_text(struct hash *hash, const char *text);

void hash_text(char out[HASH_TEXT_BYTES], const struct hash *hash);

#endif
