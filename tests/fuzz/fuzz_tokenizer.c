/* Any bytes as tokenizer.model: refused with a reason, or a tokenizer that encodes and decodes anything. The
 * model check must let nothing through on which libsentencepiece reads out of bounds, throws or ends the
 * process. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/tokenizer/tiny_model.h"
#include "tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool truth)
{
    if (!truth) {
        abort();
    }
}

static void text_try(const struct tokenizer *tokenizer, const char *text, size_t length)
{
    int32_t *ids, n_ids;
    char *decoded;
    size_t n_bytes;
    if (tokenizer_encode(tokenizer, text, length, true, &ids, &n_ids, NULL)) {
        check(!ids);
        return;
    }
    for (int32_t i = 0; i < n_ids; i++) {
        check(ids[i] >= 0 && ids[i] < tokenizer_n_tokens(tokenizer));
    }
    check(tokenizer_decode(tokenizer, ids, n_ids, &decoded, &n_bytes, NULL) == STATUS_OK);
    check(decoded[n_bytes] == 0);
    free(decoded);
    free(ids);
}

/* Always well-formed protobuf; whether it is a sound model is for the check to say. */
static void model_build(struct proto *model, const uint8_t *data, size_t size)
{
    enum {
        BPE = 1,
        FALLBACK = 2,
        DUMMY_PREFIX = 4,
        REMOVE_SPACES = 8,
        NO_ESCAPE = 16,
        CHARSMAP = 32,
        MAX_PIECES = 128,
        MAX_MAP_BYTES = 8000
    };
    char texts[MAX_PIECES][64];
    struct proto trainer = {.n_bytes = 0}, normalizer = {.n_bytes = 0};
    uint8_t flags = size ? data[0] : 0;
    size_t at = 1;
    model->n_bytes = 0;
    tiny_special_pieces(model);
    if (flags & FALLBACK) {
        tiny_byte_pieces(model);
    }
    for (int n_pieces = 0; at < size && data[at] && n_pieces < MAX_PIECES; n_pieces++) {
        /* Low bits: the type; high bits: the length. Mostly few letters, so that pieces nest and merge. */
        static const char *const letters[] = {"a", "b", "l", "o", " ", "\u2581", "\u00e9", "x"};
        char *text = texts[n_pieces];
        text[0] = 0;
        uint8_t head = data[at++];
        for (unsigned n = 1 + head / 16; n && at < size; n--) {
            strcat(text, letters[data[at++] % 8]);
        }
        int32_t first = 0;
        while (strcmp(texts[first], text) != 0) {
            first++;
        }
        if (text[0] && first == n_pieces) { /* a piece that stands there twice would be refused */
            proto_piece(model, text, strlen(text), -(float)(head % 32), 1 + head % 16 % 6);
        }
    }
    at++;
    proto_int(&trainer, 3, flags & BPE ? 2 : 1);
    proto_int(&trainer, 35, (flags & FALLBACK) != 0);
    proto_bytes(model, 2, trainer.bytes, trainer.n_bytes);
    if (flags & CHARSMAP && at < size) {
        size_t n_bytes = size - at < MAX_MAP_BYTES ? size - at : MAX_MAP_BYTES;
        proto_bytes(&normalizer, 2, data + at, n_bytes);
    }
    proto_int(&normalizer, 3, (flags & DUMMY_PREFIX) != 0);
    proto_int(&normalizer, 4, (flags & REMOVE_SPACES) != 0);
    proto_int(&normalizer, 5, (flags & NO_ESCAPE) == 0);
    proto_bytes(model, 3, normalizer.bytes, normalizer.n_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char texts[][48] = {"",
                                     "Hello, world 123",
                                     "  <s> a</s>\n\t <0x0A> [INST]",
                                     "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 \xe2\x96\x81\xe2\x96\x81x",
                                     "\xff\xc3\xe2\x82 \x80\xf0\x9f",
                                     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                                     "abolxblo aabblloo  \u2581xxoa\u00e9\u00e9 "};
    static struct proto built;
    struct tokenizer *tokenizer;
    struct error err;
    if (size && data[0] == 0xff) {
        model_build(&built, data + 1, size - 1);
        data = built.bytes;
        size = built.n_bytes;
    }
    err.message[0] = 0;
    enum status status = tokenizer_open_model(&tokenizer, data, size, "input", &err);
    if (status) {
        check(!tokenizer && strstr(err.message, "input"));
        return 0;
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        text_try(tokenizer, texts[i], strlen(texts[i]));
    }
    text_try(tokenizer, "a\0b", 3);
    /* The model's own bytes as text: they hold its pieces, and the keys of its normalizer. */
    text_try(tokenizer, (const char *)data, size < 2048 ? size : 2048);
    for (int32_t id = -1; id <= tokenizer_n_tokens(tokenizer); id += id < 300 ? 1 : 97) {
        size_t length;
        check(strlen(tokenizer_piece_bytes(tokenizer, id, &length)) <= length);
        check(tokenizer_piece(tokenizer, id) != NULL);
    }
    tokenizer_close(tokenizer);
    return 0;
}
