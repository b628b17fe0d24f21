/* A checked walk over the protobuf of a sentencepiece model (ModelProto), before libsentencepiece sees a byte
 * of it. The library aborts, throws or reads out of bounds on models that no trainer writes but that a file
 * may well hold; everything it takes on trust is checked here, and the walk leaves the piece table that
 * decoding needs. Stricter than protobuf where protobuf would merge or skip: what two readers could
 * understand differently is refused. */
#ifndef TOKENIZER_MODEL_CHECK_H
#define TOKENIZER_MODEL_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

enum {
    MODEL_MAX_PIECES = 1 << 20,
    MODEL_MAX_PIECE_BYTES = 1024,       /* also bounds the library's recursion over unused pieces */
    MODEL_MAX_CHARSMAP_BYTES = 4 << 20, /* nmt_nfkc, the largest in use, has 0.25 MB */
    MODEL_MAX_REPLACEMENT_BYTES = 256,  /* NFKC's longest replacement has 33 */
    MODEL_MAX_UNK_SURFACE_BYTES = 64,
    MODEL_MAX_SELF_TEST_BYTES = 64 << 10,
};

/* SentencePiece.Type of sentencepiece_model.proto. */
enum piece_type {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN = 2,
    PIECE_CONTROL = 3,
    PIECE_USER_DEFINED = 4,
    PIECE_UNUSED = 5,
    PIECE_BYTE = 6,
};

struct model_piece {
    const char *text; /* inside the model's bytes, not terminated; never empty, valid UTF-8, no NUL, unique */
    uint32_t n_bytes;
    uint8_t type; /* enum piece_type */
    uint8_t byte; /* of PIECE_BYTE */
};

struct model_check {
    struct model_piece *pieces;
    int32_t n_pieces;
    int32_t bos, eos;   /* ids of the control pieces of those names, -1: none */
    bool byte_fallback; /* then all 256 byte pieces are there */
    bool add_dummy_prefix;
    bool remove_extra_whitespaces;
    const char *unk_surface; /* what an unknown id decodes to; not terminated */
    size_t unk_surface_bytes;
    bool has_charsmap;            /* the normalizer has rules of its own */
    size_t max_replacement_bytes; /* of those rules, 0: none puts anything in */
};

/* Fills *check with pointers into bytes, which must outlive it. STATUS_BAD_MODEL with path and the offending
 * piece or field named. On failure nothing needs to be finished. */
enum status model_check_init(struct model_check *check, const void *bytes, size_t n_bytes, const char *path,
                             struct error *err);
void model_check_finish(struct model_check *check); /* accepts zeroed */

#endif
