/* The calibration text: our own sample, built in, or the user's file, as token ids for the engine. */
#ifndef SERVER_CALIBRATION_H
#define SERVER_CALIBRATION_H

#include "engine/engine.h"
#include "server/config.h"
#include "tokenizer/tokenizer.h"

/* A few lines each of prose, news, code, arithmetic, facts and other languages than English, written for this
 * purpose: 242 tokens for Llama's tokenizer. UTF-8. */
extern const char calibration_sample[];

/* Encodes the text that config names into options->calib_ids, with BOS first where the tokenizer has one, if
 * options make use of it. tokenizer NULL: the model folder's, opened for this; a folder without one is
 * quantized without calibration, said in the log, unless the text is the user's. *ids is what options
 * borrows, or NULL: free it after opening. Errors (STATUS_INVALID) name the file. */
enum status calibration_encode(struct engine_options *options, int32_t **ids, const struct config *config,
                               const struct tokenizer *tokenizer, struct error *err);

#endif
