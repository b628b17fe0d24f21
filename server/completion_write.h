/* The JSON of completions: the whole answer, and the chunks of a stream. */
#ifndef SERVER_COMPLETION_WRITE_H
#define SERVER_COMPLETION_WRITE_H

#include "server/completion.h"

struct completion_style {
    const char *model; /* the served name */
    const char *system_fingerprint;
};

/* The answer of a finished completion. */
void completion_write(struct buffer *out, const struct completion *c, const struct completion_style *style);

/* Its array of choices alone. */
void completion_write_choices(struct buffer *out, const struct completion *c);

/* A text as a JSON string; null where there is no tokenizer. */
void completion_write_text(struct buffer *out, const struct completion *c, const char *text, size_t length);

/* Appends one SSE event per choice that has something new, then, when all have ended, the usage chunk if
 * asked for. Ends of choices are sent with their last text. Does not write [DONE]. */
void completion_write_chunks(struct buffer *out, struct completion *c, const struct completion_style *style);

/* {"queue_ms", "prefill_ms", "ttft_ms", "decode_ms", "tokens_per_s", "seed"} */
void completion_write_timings(struct buffer *out, const struct completion *c);

const char *finish_reason_name(enum finish_reason reason);

#endif
