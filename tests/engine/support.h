/* What the engine's tests share: reading reference values, running sequences to their end, small models of
 * our own. */
#ifndef TESTS_ENGINE_SUPPORT_H
#define TESTS_ENGINE_SUPPORT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"

/* Parses a fixture file; NULL (said aloud) where it is not there. cJSON_Delete it. */
cJSON *fixture_json(const char *name);
/* The folder of a fixture model; false where it is not there. */
bool fixture_model(char *path, size_t size, const char *name);
/* *ids (malloc) gets the integers of a JSON array; returns how many. */
int32_t json_ids(const cJSON *array, int32_t **ids);

/* Opens an engine or fails the test with the error's message. */
struct engine *open_engine(const char *folder, enum quant_method method, int32_t group_size, const char *skip,
                           const char *config_override);

/* Runs one sequence to its end: writes the output ids to out (room for max_tokens), returns how many. */
int32_t run_sequence(struct engine *engine, const struct generate_params *params, const int32_t *ids,
                     int32_t n_ids, int32_t *out, enum finish_reason *reason);

/* Mean NLL by eval.rule of the fixtures: the first 4096 bytes of tinystories-valid.txt in chunks of 255 ids,
 * each alone behind BOS. logprobs (room for 255, may be NULL) gets those of the first chunk. NAN where the
 * text is not there. */
double evaluate(struct engine *engine, const char *folder, double *first_logprobs);

/* Writes a random model of a few layers into a new temporary folder (BF16 or F32), deterministic in seed; the
 * tokenizer is left out. remove_folder deletes it. architecture: "llama", "mistral" or "mixtral". */
void make_model(char *folder, size_t size, const char *architecture, uint64_t seed);
void remove_folder(const char *folder);
/* Of such a model; and n tokens for it: BOS, then always the same random ones. */
enum { MODEL_VOCAB = 64, MODEL_BOS = 1 };
void make_random_ids(int32_t *ids, int32_t n);

#endif
