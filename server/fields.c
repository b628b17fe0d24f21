/* Typed fields of a client's JSON object. */
#include "server/fields.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

const char *fields_type_name(const cJSON *item)
{
    return cJSON_IsNull(item)     ? "null"
           : cJSON_IsBool(item)   ? "a boolean"
           : cJSON_IsNumber(item) ? "a number"
           : cJSON_IsString(item) ? "a string"
           : cJSON_IsArray(item)  ? "a list"
                                  : "an object";
}

const cJSON *fields_get(const struct fields *f, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(f->object, name);
    return item && !cJSON_IsNull(item) ? item : NULL;
}

/* The field to read, or NULL when there is nothing to do. */
static const cJSON *fields_open(const struct fields *f, const char *name)
{
    return f->error->code ? NULL : fields_get(f, name);
}

bool fields_int(struct fields *f, const char *name, int64_t min, int64_t max, int64_t *out)
{
    const cJSON *item = fields_open(f, name);
    int64_t value;
    if (!item) {
        return false;
    }
    if (!cJSON_IsNumber(item)) {
        api_fail(f->error, API_INVALID_TYPE, name, "%s must be an integer, not %s", name,
                 fields_type_name(item));
        return false;
    }
    if (!json_int64(item, &value)) {
        bool whole = item->valuedouble == floor(item->valuedouble); /* too large for 64 bits, or infinite */
        api_fail(f->error, whole ? API_INVALID_VALUE : API_INVALID_TYPE, name,
                 whole ? "%s does not fit in 64 bits" : "%s must be an integer", name);
        return false;
    }
    if (value < min || value > max) {
        api_fail(f->error, API_INVALID_VALUE, name, "%s is %" PRId64 ", must be in %" PRId64 "..%" PRId64,
                 name, value, min, max);
        return false;
    }
    *out = value;
    return true;
}

bool fields_int32(struct fields *f, const char *name, int32_t min, int32_t max, int32_t *out)
{
    int64_t value;
    bool found = fields_int(f, name, min, max, &value);
    if (found) {
        *out = (int32_t)value;
    }
    return found;
}

bool fields_number(struct fields *f, const char *name, double min, double max, bool above_min, float *out)
{
    const cJSON *item = fields_open(f, name);
    if (!item) {
        return false;
    }
    if (!cJSON_IsNumber(item)) {
        api_fail(f->error, API_INVALID_TYPE, name, "%s must be a number, not %s", name,
                 fields_type_name(item));
        return false;
    }
    double value = item->valuedouble;
    if (!(value >= min && value <= max) || (above_min && (float)value <= (float)min)) {
        api_fail(f->error, API_INVALID_VALUE, name, "%s is %g, must be %s %g and at most %g", name, value,
                 above_min ? "above" : "at least", min, max);
        return false;
    }
    *out = (float)value;
    return true;
}

bool fields_bool(struct fields *f, const char *name, bool *out)
{
    const cJSON *item = fields_open(f, name);
    if (!item) {
        return false;
    }
    if (!cJSON_IsBool(item)) {
        api_fail(f->error, API_INVALID_TYPE, name, "%s must be true or false, not %s", name,
                 fields_type_name(item));
        return false;
    }
    *out = cJSON_IsTrue(item);
    return true;
}

bool fields_string(struct fields *f, const char *name, size_t max_bytes, const char **out)
{
    const cJSON *item = fields_open(f, name);
    if (!item) {
        return false;
    }
    if (!cJSON_IsString(item)) {
        api_fail(f->error, API_INVALID_TYPE, name, "%s must be a string, not %s", name,
                 fields_type_name(item));
        return false;
    }
    if (strlen(item->valuestring) > max_bytes) {
        api_fail(f->error, API_INVALID_VALUE, name, "%s has %zu bytes, at most %zu are allowed", name,
                 strlen(item->valuestring), max_bytes);
        return false;
    }
    *out = item->valuestring;
    return true;
}

bool fields_id(struct fields *f, const char *name, const cJSON *item, int32_t limit, int32_t *out)
{
    int64_t value;
    if (f->error->code) {
        return false;
    }
    if (!cJSON_IsNumber(item)) {
        api_fail(f->error, API_INVALID_TYPE, name, "%s must hold token ids, not %s", name,
                 fields_type_name(item));
        return false;
    }
    if (!json_int64(item, &value)) {
        api_fail(f->error, API_INVALID_TYPE, name, "%s holds %g, which is no integer id", name,
                 item->valuedouble);
        return false;
    }
    if (value < 0 || value >= limit) {
        api_fail(f->error, API_INVALID_VALUE, name, "%s holds id %" PRId64 ", the vocabulary has 0..%d", name,
                 value, (int)limit - 1);
        return false;
    }
    *out = (int32_t)value;
    return true;
}

void fields_check_known(struct fields *f, const char *const *known, bool strict, struct buffer *ignored)
{
    const cJSON *item;
    if (f->error->code) {
        return;
    }
    cJSON_ArrayForEach(item, f->object)
    {
        const char *const *name = known;
        while (*name && strcmp(*name, item->string)) {
            name++;
        }
        if (*name) {
            continue;
        }
        if (strict) {
            api_fail(f->error, API_UNKNOWN_FIELD, item->string, "%.100s is not a field of this request",
                     item->string);
            return;
        }
        /* The names go into a header line: what could break one is shown as '?', and the list stays short. */
        if (ignored->length > 1024) {
            buffer_text(ignored, ", ...");
            return;
        }
        buffer_text(ignored, ignored->length ? ", " : "");
        size_t n = 0;
        for (const char *c = item->string; *c && n < 64; c++, n++) {
            buffer_append(ignored, *c > ' ' && *c < 0x7f && *c != ',' ? c : "?", 1);
        }
    }
}
