/* Formats safetensors headers. cJSON escapes the strings; numbers are written here, for cJSON's are doubles.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "engine/base/safetensors.h"

enum { LENGTH_WORD = 8, NUMBER_TEXT = 24 };

/* [1,2,3] */
static void format_list(char *out, const int64_t *numbers, int32_t n)
{
    char *end = out;
    *end++ = '[';
    for (int32_t i = 0; i < n; i++) {
        end += sprintf(end, i ? ",%" PRId64 : "%" PRId64, numbers[i]);
    }
    strcpy(end, "]");
}

static bool add_tensor(cJSON *root, const struct tensor *tensor, int64_t begin)
{
    char shape[SAFETENSORS_MAX_DIMS * NUMBER_TEXT + 2], offsets[2 * NUMBER_TEXT + 2];
    cJSON *entry = cJSON_AddObjectToObject(root, tensor->name);
    assert(tensor->n_dims <= SAFETENSORS_MAX_DIMS);
    format_list(shape, tensor->shape, tensor->n_dims);
    format_list(offsets, (const int64_t[]){begin, begin + (int64_t)tensor->n_bytes}, 2);
    return entry && cJSON_AddStringToObject(entry, "dtype", tensor->dtype_name) &&
           cJSON_AddRawToObject(entry, "shape", shape) &&
           cJSON_AddRawToObject(entry, "data_offsets", offsets);
}

static char *format_json(const struct tensor *tensors, int64_t n_tensors,
                         const struct safetensors_pair *metadata, int64_t n_metadata)
{
    cJSON *root = cJSON_CreateObject();
    char *text = NULL;
    int64_t begin = 0;
    bool ok = root != NULL;
    if (ok && n_metadata) {
        cJSON *object = cJSON_AddObjectToObject(root, "__metadata__");
        ok = object != NULL;
        for (int64_t i = 0; ok && i < n_metadata; i++) {
            ok = cJSON_AddStringToObject(object, metadata[i].key, metadata[i].value) != NULL;
        }
    }
    for (int64_t i = 0; ok && i < n_tensors; i++) {
        ok = add_tensor(root, &tensors[i], begin);
        begin += (int64_t)tensors[i].n_bytes;
    }
    if (ok) {
        text = cJSON_PrintUnformatted(root);
    }
    cJSON_Delete(root);
    return text;
}

enum status safetensors_header_format(char **out, size_t *out_bytes, const struct tensor *tensors,
                                      int64_t n_tensors, const struct safetensors_pair *metadata,
                                      int64_t n_metadata, size_t alignment, struct error *err)
{
    char *json = format_json(tensors, n_tensors, metadata, n_metadata), *header = NULL;
    size_t json_bytes = json ? strlen(json) : 0;
    size_t n_bytes = (LENGTH_WORD + json_bytes + alignment - 1) / alignment * alignment;
    *out = NULL;
    if (n_bytes - LENGTH_WORD > SAFETENSORS_MAX_HEADER_BYTES) {
        cJSON_free(json);
        return error_set(err, STATUS_INVALID, "a safetensors header of %zu bytes, at most %d are read",
                         n_bytes - LENGTH_WORD, (int)SAFETENSORS_MAX_HEADER_BYTES);
    }
    if (!json || !(header = malloc(n_bytes))) {
        cJSON_free(json);
        return error_set(err, STATUS_NO_MEMORY, "out of memory for a safetensors header");
    }
    for (int i = 0; i < LENGTH_WORD; i++) {
        header[i] = (char)(unsigned char)((uint64_t)(n_bytes - LENGTH_WORD) >> 8 * i);
    }
    memcpy(header + LENGTH_WORD, json, json_bytes);
    memset(header + LENGTH_WORD + json_bytes, ' ', n_bytes - LENGTH_WORD - json_bytes);
    cJSON_free(json);
    *out = header;
    *out_bytes = n_bytes;
    return STATUS_OK;
}
