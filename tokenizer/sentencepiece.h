/* libsentencepiece behind C: load and encode, nothing else. No exception leaves it. The library trusts the
 * model that it is given (it reads out of bounds or ends the process on some malformed ones), so only bytes
 * that model_check_init accepted may come here. */
#ifndef TOKENIZER_SENTENCEPIECE_H
#define TOKENIZER_SENTENCEPIECE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct piece_encoder;

/* path is for messages only. The bytes are copied. */
enum status piece_encoder_open(struct piece_encoder **out, const void *bytes, size_t n_bytes,
                               const char *path, struct error *err);
void piece_encoder_close(struct piece_encoder *sp); /* accepts NULL */

/* *ids: malloc, with `n_reserved` unwritten places in front of the *n_ids ids (the caller's BOS).
 * Thread-safe. */
enum status piece_encoder_encode(const struct piece_encoder *sp, const char *text, size_t length,
                                 int32_t n_reserved, int32_t **ids, int32_t *n_ids, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
