/* Two stages. The first turns token bytes into whole characters: up to 3 bytes of an unfinished one wait
 * here, bad subparts become U+FFFD. The second looks for stop strings in those characters with one
 * Knuth-Morris-Pratt automaton per string, so that a byte costs amortised constant time, and holds back what
 * may still belong to a match.
 *
 * After each character the automata know, for every stop string, its longest beginning that the text ends
 * with; the longest of all is where the text is not certain yet. A string found is not taken at once: one
 * that began earlier, or at the same place but longer, may still be on its way. It is decided when none such
 * is left. Since a stop string is whole UTF-8 (checked), every cut falls between characters. */
#include "tokenizer/detokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "tokenizer/token_text.h"
#include "tokenizer/utf8.h"

static const char REPLACEMENT[] = "\xef\xbf\xbd"; /* U+FFFD */
enum { REPLACEMENT_BYTES = sizeof REPLACEMENT - 1, MAX_CHARACTER_BYTES = 4 };

struct stop {
    char *bytes;
    uint16_t *fail; /* (length + 1) fail[k]: the longest proper border of the first k bytes */
    int32_t length;
    int32_t matched; /* the text ends with this many first bytes of the string */
};

struct detokenizer {
    const struct tokenizer *tokenizer;
    struct stop stops[DETOKENIZER_MAX_STOPS];
    int32_t n_stops;
    bool include_stop;

    bool at_begin; /* see token_text */
    struct utf8_state utf8;
    char character[MAX_CHARACTER_BYTES]; /* the unfinished one */
    size_t n_character;
    bool character_matches; /* none of its bytes came while stops were held off */

    bool stopped;
    int32_t stop_index;
    /* The string found that is not decided yet: text[found_begin, found_end). found_index < 0: none. */
    int32_t found_index;
    size_t found_begin, found_end;

    size_t n_out; /* given out by the last call; removed from text by the next one */
    size_t n_text;
    char text[]; /* not given out yet: at most 255 bytes between two calls, plus what one call adds */
};

static void stop_prepare(struct stop *stop)
{
    uint16_t border = 0;
    stop->fail[0] = stop->fail[1] = 0;
    for (int32_t k = 1; k < stop->length; k++) {
        while (border && stop->bytes[k] != stop->bytes[border]) {
            border = stop->fail[border];
        }
        border += stop->bytes[k] == stop->bytes[border];
        stop->fail[k + 1] = border;
    }
}

enum status detokenizer_open(struct detokenizer **out, const struct tokenizer *tokenizer,
                             const struct detokenizer_options *options, struct error *err)
{
    *out = NULL;
    if (options->n_stops < 0 || options->n_stops > DETOKENIZER_MAX_STOPS) {
        return error_set(err, STATUS_INVALID, "stop: %d strings; at most %d are allowed",
                         (int)options->n_stops, DETOKENIZER_MAX_STOPS);
    }
    for (int32_t i = 0; i < options->n_stops; i++) {
        if (options->stop_bytes[i] < 1 || options->stop_bytes[i] > DETOKENIZER_MAX_STOP_BYTES) {
            return error_set(err, STATUS_INVALID, "stop: string %d has %zu bytes; expected 1 to %d", (int)i,
                             options->stop_bytes[i], DETOKENIZER_MAX_STOP_BYTES);
        }
        if (!utf8_is_valid(options->stops[i], options->stop_bytes[i])) {
            return error_set(err, STATUS_INVALID, "stop: string %d is not valid UTF-8", (int)i);
        }
    }
    /* A token's every byte may become a U+FFFD; finishing adds one more character. */
    size_t capacity = DETOKENIZER_MAX_STOP_BYTES +
                      REPLACEMENT_BYTES * (token_text_max_bytes(tokenizer) + MAX_CHARACTER_BYTES);
    struct detokenizer *d = calloc(1, sizeof *d + capacity);
    if (!d) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    }
    d->tokenizer = tokenizer;
    d->include_stop = options->include_stop;
    d->at_begin = !options->after_prompt;
    d->character_matches = true;
    d->found_index = d->stop_index = -1;
    for (int32_t i = 0; i < options->n_stops; i++) {
        struct stop *stop = &d->stops[i];
        size_t n_bytes = options->stop_bytes[i];
        stop->length = (int32_t)n_bytes;
        stop->bytes = malloc(n_bytes);
        stop->fail = malloc((n_bytes + 1) * sizeof *stop->fail);
        d->n_stops = i + 1;
        if (!stop->bytes || !stop->fail) {
            detokenizer_close(d);
            return error_set(err, STATUS_NO_MEMORY, "out of memory");
        }
        memcpy(stop->bytes, options->stops[i], n_bytes);
        stop_prepare(stop);
    }
    *out = d;
    return STATUS_OK;
}

void detokenizer_close(struct detokenizer *d)
{
    if (d) {
        for (int32_t i = 0; i < d->n_stops; i++) {
            free(d->stops[i].bytes);
            free(d->stops[i].fail);
        }
        free(d);
    }
}

bool detokenizer_stopped(const struct detokenizer *d, int32_t *stop_index)
{
    if (stop_index) {
        *stop_index = d->stop_index;
    }
    return d->stopped;
}

/* ---- second stage: stop strings ---- */

static void found_decide(struct detokenizer *d)
{
    d->stopped = true;
    d->stop_index = d->found_index;
    d->n_text = d->include_stop ? d->found_end : d->found_begin;
}

/* The begin of the longest beginning of a stop string that the text ends with; n_text when there is none. */
static size_t uncertain_begin(const struct detokenizer *d)
{
    int32_t longest = 0;
    for (int32_t i = 0; i < d->n_stops; i++) {
        longest = d->stops[i].matched > longest ? d->stops[i].matched : longest;
    }
    return d->n_text - (size_t)longest;
}

/* Byte d->text[n_text] is new. */
static void byte_match(struct detokenizer *d)
{
    char byte = d->text[d->n_text++];
    for (int32_t i = 0; i < d->n_stops; i++) {
        struct stop *stop = &d->stops[i];
        while (stop->matched && stop->bytes[stop->matched] != byte) {
            stop->matched = stop->fail[stop->matched];
        }
        stop->matched += stop->bytes[stop->matched] == byte;
        if (stop->matched < stop->length) {
            continue;
        }
        size_t begin = d->n_text - (size_t)stop->length;
        if (d->found_index < 0 || begin < d->found_begin ||
            (begin == d->found_begin && d->n_text > d->found_end)) {
            d->found_index = i;
            d->found_begin = begin;
            d->found_end = d->n_text;
        }
        stop->matched = stop->fail[stop->length];
    }
}

/* One whole character goes into the text. */
static void character_add(struct detokenizer *d, const char *bytes, size_t n_bytes, bool matches)
{
    if (d->stopped) {
        return;
    }
    if (!matches) { /* no match goes on across it */
        if (d->found_index >= 0) {
            found_decide(d);
            return;
        }
        for (int32_t i = 0; i < d->n_stops; i++) {
            d->stops[i].matched = 0;
        }
        memcpy(d->text + d->n_text, bytes, n_bytes);
        d->n_text += n_bytes;
        return;
    }
    memcpy(d->text + d->n_text, bytes, n_bytes);
    for (size_t i = 0; i < n_bytes; i++) {
        byte_match(d);
    }
    if (d->found_index >= 0 && uncertain_begin(d) > d->found_begin) {
        found_decide(d);
    }
}

/* ---- first stage: whole characters ---- */

static void replacement_add(struct detokenizer *d, bool matches)
{
    character_add(d, REPLACEMENT, REPLACEMENT_BYTES, matches);
}

static void character_reset(struct detokenizer *d)
{
    d->n_character = 0;
    d->character_matches = true;
}

static void byte_add(struct detokenizer *d, char byte, bool matches)
{
    enum utf8_step step = utf8_feed(&d->utf8, (uint8_t)byte);
    if (step == UTF8_BROKEN) {
        replacement_add(d, d->character_matches);
        character_reset(d);
        step = utf8_feed(&d->utf8, (uint8_t)byte);
    }
    if (step == UTF8_BAD) {
        replacement_add(d, matches);
        return;
    }
    d->character[d->n_character++] = byte;
    d->character_matches &= matches;
    if (step == UTF8_WHOLE) {
        character_add(d, d->character, d->n_character, d->character_matches);
        character_reset(d);
    }
}

/* ---- calls ---- */

static void out_drop(struct detokenizer *d)
{
    memmove(d->text, d->text + d->n_out, d->n_text - d->n_out);
    d->n_text -= d->n_out;
    d->found_begin -= d->n_out; /* meaningless, and not used, while nothing is found */
    d->found_end -= d->n_out;
    d->n_out = 0;
}

static void out_give(struct detokenizer *d, size_t n_out, const char **text, size_t *length)
{
    d->n_out = n_out;
    *text = d->text;
    *length = n_out;
}

bool detokenizer_push(struct detokenizer *d, int32_t id, bool match_stops, const char **text, size_t *length,
                      int32_t *stop_index)
{
    out_drop(d);
    if (!d->stopped) {
        size_t n_bytes;
        const char *bytes = token_text(d->tokenizer, id, &d->at_begin, &n_bytes);
        for (size_t i = 0; i < n_bytes; i++) {
            byte_add(d, bytes[i], match_stops);
        }
    }
    /* A string found and not decided begins at the uncertain part's begin or later. */
    out_give(d, d->stopped ? d->n_text : uncertain_begin(d), text, length);
    return detokenizer_stopped(d, stop_index);
}

void detokenizer_finish(struct detokenizer *d, const char **text, size_t *length)
{
    out_drop(d);
    if (!d->stopped && d->n_character) {
        replacement_add(d, d->character_matches);
        character_reset(d);
        d->utf8 = (struct utf8_state){0, 0, 0};
    }
    if (!d->stopped && d->found_index >= 0) {
        found_decide(d);
    }
    for (int32_t i = 0; i < d->n_stops; i++) {
        d->stops[i].matched = 0;
    }
    out_give(d, d->n_text, text, length);
}
