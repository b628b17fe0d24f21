/* One step of a UTF-8 decoder, a byte at a time: for text that arrives in pieces. Follows table 3-7 of the
 * Unicode standard (well-formed byte sequences), so that an ill-formed sequence ends where the standard's
 * "maximal subpart" ends: E2 82 41 is one bad subpart of two bytes and then 'A'. */
#ifndef TOKENIZER_UTF8_H
#define TOKENIZER_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct utf8_state {    /* zero is the state between characters */
    uint8_t n_needed;  /* continuation bytes that are still missing */
    uint8_t low, high; /* range of the next one */
};

enum utf8_step {
    UTF8_MORE,   /* the byte was taken, the character goes on */
    UTF8_WHOLE,  /* the byte was taken and ends a character */
    UTF8_BAD,    /* the byte was taken and can begin nothing: a bad subpart of its own */
    UTF8_BROKEN, /* the byte was NOT taken: what stood before it is a bad subpart; feed it again */
};

static inline enum utf8_step utf8_feed(struct utf8_state *state, uint8_t byte)
{
    if (state->n_needed) {
        if (byte < state->low || byte > state->high) {
            state->n_needed = 0;
            return UTF8_BROKEN;
        }
        state->low = 0x80;
        state->high = 0xbf;
        state->n_needed--;
        return state->n_needed ? UTF8_MORE : UTF8_WHOLE;
    }
    if (byte < 0x80) {
        return UTF8_WHOLE;
    }
    if (byte < 0xc2 || byte > 0xf4) {
        return UTF8_BAD;
    }
    state->n_needed = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
    state->low = byte == 0xe0 ? 0xa0 : byte == 0xf0 ? 0x90 : 0x80;
    state->high = byte == 0xed ? 0x9f : byte == 0xf4 ? 0x8f : 0xbf;
    return UTF8_MORE;
}

static inline bool utf8_is_valid(const char *text, size_t length)
{
    struct utf8_state state = {0, 0, 0};
    for (size_t i = 0; i < length; i++) {
        enum utf8_step step = utf8_feed(&state, (uint8_t)text[i]);
        if (step == UTF8_BAD || step == UTF8_BROKEN) {
            return false;
        }
    }
    return !state.n_needed;
}

#endif
