/* What the streaming decode must give, worked out naively on the whole text. Used by the unit test and the
 * fuzz target. */
#ifndef TESTS_TOKENIZER_STREAM_REFERENCE_H
#define TESTS_TOKENIZER_STREAM_REFERENCE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/detokenizer.h"

struct stream_case {
    const int32_t *ids;
    const bool *match; /* match_stops of each id */
    int32_t n_ids;
    const char *const *stops;
    const size_t *stop_bytes;
    int32_t n_stops;
    bool include_stop, after_prompt;
};

struct stream_result {
    char *text; /* malloc */
    size_t n_bytes;
    bool stopped;
    int32_t stop_index;
};

/* Length of the character or of the maximal bad subpart at p (table 3-7 of the Unicode standard). */
static inline size_t reference_character(const uint8_t *p, size_t n, bool *good)
{
    static const struct {
        uint8_t first_low, first_high, second_low, second_high, length;
    } rows[] = {{0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
                {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
                {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        if (p[0] < rows[r].first_low || p[0] > rows[r].first_high) {
            continue;
        }
        size_t length = 1;
        while (length < rows[r].length && length < n &&
               p[length] >= (length == 1 ? rows[r].second_low : 0x80) &&
               p[length] <= (length == 1 ? rows[r].second_high : 0xbf)) {
            length++;
        }
        *good = length == rows[r].length;
        return length;
    }
    *good = false;
    return 1;
}

static inline struct stream_result stream_reference(const struct tokenizer *tokenizer,
                                                    const struct stream_case *c)
{
    size_t n_raw = 0, n_decoded, n_text = 0, length;
    for (int32_t i = 0; i < c->n_ids; i++) {
        tokenizer_piece_bytes(tokenizer, c->ids[i], &length);
        n_raw += length;
    }
    uint8_t *raw = malloc(n_raw + 1);
    bool *raw_match = malloc(n_raw + 1), *match = malloc(3 * n_raw + 1);
    char *text = malloc(3 * n_raw + 1), *decoded;
    n_raw = 0;
    for (int32_t i = 0; i < c->n_ids; i++) {
        const char *bytes = tokenizer_piece_bytes(tokenizer, c->ids[i], &length);
        memcpy(raw + n_raw, bytes, length);
        memset(raw_match + n_raw, c->match[i], length);
        n_raw += length;
    }
    size_t begin = 0;
    if (!c->after_prompt) { /* what the whole decode leaves out stands at the beginning */
        if (tokenizer_decode(tokenizer, c->ids, c->n_ids, &decoded, &n_decoded, NULL) == STATUS_OK) {
            begin = n_raw - n_decoded;
            free(decoded);
        }
    }
    for (size_t i = begin; i < n_raw; i += length) {
        bool good, all = true;
        length = reference_character(raw + i, n_raw - i, &good);
        for (size_t k = i; k < i + length; k++) {
            all = all && raw_match[k];
        }
        size_t n_out = good ? length : 3;
        memcpy(text + n_text, good ? (const char *)raw + i : "\xef\xbf\xbd", n_out);
        memset(match + n_text, all, n_out);
        n_text += n_out;
    }
    struct stream_result result = {text, n_text, false, -1};
    for (size_t at = 0; at < n_text && !result.stopped; at++) {
        size_t longest = 0;
        for (int32_t s = 0; s < c->n_stops; s++) {
            size_t n = c->stop_bytes[s];
            if (n <= longest || n > n_text - at || memcmp(text + at, c->stops[s], n) != 0 ||
                memchr(match + at, 0, n)) {
                continue;
            }
            longest = n;
            result = (struct stream_result){text, at + (c->include_stop ? n : 0), true, s};
        }
    }
    free(raw);
    free(raw_match);
    free(match);
    return result;
}

static inline bool text_is_whole(const char *text, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes;) {
        bool good;
        i += reference_character((const uint8_t *)text + i, n_bytes - i, &good);
        if (!good) {
            return false;
        }
    }
    return true;
}

/* Streams the case and compares; NULL when all is as it should be, else what is not. */
static inline const char *stream_check(const struct tokenizer *tokenizer, const struct stream_case *c)
{
    struct stream_result expected = stream_reference(tokenizer, c);
    struct detokenizer_options options = {.stops = c->stops,
                                          .stop_bytes = c->stop_bytes,
                                          .n_stops = c->n_stops,
                                          .include_stop = c->include_stop,
                                          .after_prompt = c->after_prompt};
    struct detokenizer *d;
    const char *text, *fault = NULL;
    size_t length, n_given = 0;
    bool stopped = false;
    int32_t index = -1;
    if (detokenizer_open(&d, tokenizer, &options, NULL)) {
        free(expected.text);
        return "detokenizer_open refused";
    }
    for (int32_t i = 0; i <= c->n_ids && !fault; i++) {
        if (i < c->n_ids) {
            bool now = detokenizer_push(d, c->ids[i], c->match[i], &text, &length, &index);
            fault = now < stopped       ? "the stop was forgotten"
                    : stopped && length ? "text after the stop"
                                        : NULL;
            stopped = now;
        } else {
            detokenizer_finish(d, &text, &length);
            stopped = detokenizer_stopped(d, &index);
        }
        if (length > expected.n_bytes - n_given || memcmp(expected.text + n_given, text, length) != 0) {
            fault = "text given out that is not the reference's";
        } else if (!text_is_whole(text, length)) {
            fault = "a character was cut";
        }
        n_given += length;
    }
    if (!fault && (n_given != expected.n_bytes || stopped != expected.stopped)) {
        fault = stopped != expected.stopped ? "stopped differs" : "text is missing";
    }
    if (!fault && index != expected.stop_index) {
        fault = "another stop string";
    }
    detokenizer_close(d);
    free(expected.text);
    return fault;
}

#endif
