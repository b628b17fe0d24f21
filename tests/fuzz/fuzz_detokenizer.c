/* Random ids, stop strings and options: the stream must equal a naive pass over the whole text. The input is
 * read as choices from small sets, so that bytes of one character and parts of stop strings come in every
 * order. */
#include <stdio.h>

#include "tests/tokenizer/stream_reference.h"
#include "tests/tokenizer/tiny_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_IDS = 512, MAX_STOP_PARTS = 32 };

static const struct tokenizer *tokenizer_once(void)
{
    static struct tokenizer *tokenizer;
    if (!tokenizer) {
        static struct proto model;
        struct error err;
        tiny_model(&model);
        if (tokenizer_open_model(&tokenizer, model.bytes, model.n_bytes, "tiny", &err)) {
            fprintf(stderr, "%s\n", err.message);
            abort();
        }
    }
    return tokenizer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const parts[] = {
        "a", "b", "c", " ", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xef\xbf\xbd"};
    static const uint8_t bytes[] = {0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80, 0xc3,
                                    0xa9, 0xff, 0xed, 0xef, 0xbf, 0xbd, 'a',  0};
    static char stop_text[DETOKENIZER_MAX_STOPS][MAX_STOP_PARTS * 4 + 1];
    const char *stops[DETOKENIZER_MAX_STOPS];
    size_t stop_bytes[DETOKENIZER_MAX_STOPS];
    int32_t ids[MAX_IDS];
    bool match[MAX_IDS], matches = true;
    size_t at = 1;
    if (!size) {
        return 0;
    }
    struct stream_case c = {.ids = ids,
                            .match = match,
                            .stops = stops,
                            .stop_bytes = stop_bytes,
                            .n_stops = (data[0] >> 2) % (DETOKENIZER_MAX_STOPS + 1),
                            .include_stop = data[0] & 1,
                            .after_prompt = data[0] & 2};
    for (int32_t s = 0; s < c.n_stops; s++) {
        size_t n_parts = at < size ? 1 + data[at++] % MAX_STOP_PARTS : 1;
        stop_text[s][0] = 0;
        for (size_t k = 0; k < n_parts; k++) {
            strcat(stop_text[s], parts[at < size ? data[at++] % 8 : 0]);
        }
        stops[s] = stop_text[s];
        stop_bytes[s] = strlen(stop_text[s]);
    }
    for (; at < size && c.n_ids < MAX_IDS; at++) {
        uint8_t choice = data[at];
        if (choice >= 0xf0) { /* stops on and off */
            matches = choice & 1;
            continue;
        }
        match[c.n_ids] = matches;
        ids[c.n_ids++] = choice < 0x80   ? TINY_TEXT + choice % TINY_N_PIECES
                         : choice < 0xe0 ? TINY_BYTES + bytes[choice % 16]
                                         : (int32_t)(choice % 4) - 1 + (choice & 8 ? TINY_N_TOKENS : 0);
    }
    const char *fault = stream_check(tokenizer_once(), &c);
    if (fault) {
        fprintf(stderr, "%s\n", fault);
        abort();
    }
    return 0;
}
