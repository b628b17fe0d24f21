/* Reading typed fields of a JSON object that a client sent: each reader checks presence, type and range and
 * names the field in what it refuses. null counts as absent everywhere. After a failure further readers do
 * nothing, so that a parser can read all its fields in one run and look at the outcome once. */
#ifndef SERVER_FIELDS_H
#define SERVER_FIELDS_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "server/api_error.h"
#include "server/buffer.h"

struct fields {
    const cJSON *object;
    struct api_error *error; /* error->code says whether one failed */
};

/* The value, or NULL when absent or null. */
const cJSON *fields_get(const struct fields *f, const char *name);

/* Each leaves *out as it is when the field is absent; returns true when the field was there and good. */
bool fields_int(struct fields *f, const char *name, int64_t min, int64_t max, int64_t *out);
bool fields_int32(struct fields *f, const char *name, int32_t min, int32_t max, int32_t *out);
/* min and max inclusive; above_min refuses min itself. */
bool fields_number(struct fields *f, const char *name, double min, double max, bool above_min, float *out);
bool fields_bool(struct fields *f, const char *name, bool *out);
bool fields_string(struct fields *f, const char *name, size_t max_bytes, const char **out);

/* One element of an array as an id below limit; index is for the message. */
bool fields_id(struct fields *f, const char *name, const cJSON *item, int32_t limit, int32_t *out);

/* Names every member that is not in known (ends with NULL): into ignored as "a, b", or refused when strict.
 */
void fields_check_known(struct fields *f, const char *const *known, bool strict, struct buffer *ignored);

const char *fields_type_name(const cJSON *item); /* "a string", "an object" ... */

#endif
