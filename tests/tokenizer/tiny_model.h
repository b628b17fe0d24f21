/* A sentencepiece model made by hand, for tests that must run without any file: BPE, byte fallback, a handful
 * of pieces. Also the little protobuf writer that malformed models are made with. */
#ifndef TESTS_TOKENIZER_TINY_MODEL_H
#define TESTS_TOKENIZER_TINY_MODEL_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { TINY_MODEL_BYTES = 1 << 15 };

/* Ids: 0 <unk>, 1 <s>, 2 </s>, 3 + b for byte b, then TINY_PIECES in their order. */
enum { TINY_UNK = 0, TINY_BOS = 1, TINY_EOS = 2, TINY_BYTES = 3, TINY_TEXT = 259 };
static const char *const TINY_PIECES[] = {
    "\u2581",       "a",      "b",      "c",          "d",   "ab", "abc", "\u2581a",
    "\u2581\u2581", "\u00e9", "\u20ac", "\U0001f600", "cab", "dd"};
enum { TINY_N_PIECES = sizeof TINY_PIECES / sizeof *TINY_PIECES, TINY_N_TOKENS = TINY_TEXT + TINY_N_PIECES };

struct proto {
    uint8_t bytes[TINY_MODEL_BYTES];
    size_t n_bytes;
};

static inline void proto_varint(struct proto *p, uint64_t value)
{
    do {
        p->bytes[p->n_bytes++] = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        value >>= 7;
    } while (value);
}

static inline void proto_int(struct proto *p, uint32_t number, uint64_t value)
{
    proto_varint(p, (uint64_t)number << 3);
    proto_varint(p, value);
}

static inline void proto_bytes(struct proto *p, uint32_t number, const void *bytes, size_t n_bytes)
{
    proto_varint(p, (uint64_t)number << 3 | 2);
    proto_varint(p, n_bytes);
    memcpy(p->bytes + p->n_bytes, bytes, n_bytes);
    p->n_bytes += n_bytes;
}

static inline void proto_piece(struct proto *p, const char *text, size_t n_bytes, float score, int type)
{
    struct proto piece = {.n_bytes = 0};
    proto_bytes(&piece, 1, text, n_bytes);
    proto_varint(&piece, 2 << 3 | 5);
    memcpy(piece.bytes + piece.n_bytes, &score, 4);
    piece.n_bytes += 4;
    if (type != 1) {
        proto_int(&piece, 3, (uint64_t)type);
    }
    proto_bytes(p, 1, piece.bytes, piece.n_bytes);
}

static inline void tiny_special_pieces(struct proto *p)
{
    proto_piece(p, "<unk>", 5, 0, 2);
    proto_piece(p, "<s>", 3, 0, 3);
    proto_piece(p, "</s>", 4, 0, 3);
}

static inline void tiny_byte_pieces(struct proto *p)
{
    for (int byte = 0; byte < 256; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)byte);
        proto_piece(p, text, 6, 0, 6);
    }
}

static inline void tiny_text_pieces(struct proto *p)
{
    for (int i = 0; i < TINY_N_PIECES; i++) {
        proto_piece(p, TINY_PIECES[i], strlen(TINY_PIECES[i]), -(float)i, 1);
    }
}

/* trainer_spec and normalizer_spec of a Llama-like model. */
static inline void tiny_specs(struct proto *p)
{
    struct proto trainer = {.n_bytes = 0}, normalizer = {.n_bytes = 0};
    proto_int(&trainer, 3, 2);  /* BPE */
    proto_int(&trainer, 35, 1); /* byte_fallback */
    proto_int(&normalizer, 3, 1);
    proto_int(&normalizer, 4, 0);
    proto_bytes(p, 2, trainer.bytes, trainer.n_bytes);
    proto_bytes(p, 3, normalizer.bytes, normalizer.n_bytes);
}

static inline void tiny_model(struct proto *p)
{
    p->n_bytes = 0;
    tiny_special_pieces(p);
    tiny_byte_pieces(p);
    tiny_text_pieces(p);
    tiny_specs(p);
}

#endif
