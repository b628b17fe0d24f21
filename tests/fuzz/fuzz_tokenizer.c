/* Any bytes as tokenizer.model: refused with a reason, or a tokenizer that encodes and decodes anything. The
 * model check must let nothing through on which libsentencepiece reads out of bounds, throws or ends the
 * process. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char texts[][48] = {"",
                                     "Hello, world 123",
                                     "  <s> a</s>\n\t <0x0A> [INST]",
                                     "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 \xe2\x96\x81\xe2\x96\x81x",
                                     "\xff\xc3\xe2\x82 \x80\xf0\x9f",
                                     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    struct tokenizer *tokenizer;
    struct error err;
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
