/* Files of a model folder that may be missing. */
#include "tokenizer/folder_config.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/json.h"

enum { MAX_CONFIG_BYTES = 16 << 20 };

enum status folder_path(char *out, size_t size, const char *folder, const char *name, struct error *err)
{
    int length = snprintf(out, size, "%s/%s", folder, name);
    if (length < 0 || (size_t)length >= size) {
        return error_set(err, STATUS_INVALID, "%.200s...: path is too long", folder);
    }
    return STATUS_OK;
}

enum status folder_text_read(char **text, size_t *length, const char *folder, const char *name,
                             struct error *err)
{
    char path[PATH_MAX];
    *text = NULL;
    *length = 0;
    enum status status = folder_path(path, sizeof path, folder, name, err);
    if (status) {
        return status;
    }
    if (access(path, F_OK) != 0) {
        return errno == ENOENT ? STATUS_OK : error_set(err, STATUS_IO, "%s: %s", path, strerror(errno));
    }
    return file_read(text, length, path, MAX_CONFIG_BYTES, err);
}

enum status folder_config_read(cJSON **json, const char *folder, const char *name, struct error *err)
{
    char *text;
    char prefix[PATH_MAX];
    size_t length;
    struct json_limits limits = {.max_depth = 64, .max_nodes = 1 << 22};
    *json = NULL;
    enum status status = folder_text_read(&text, &length, folder, name, err);
    if (status || !text) {
        return status;
    }
    enum json_fault fault = json_parse(json, text, length, &limits, err);
    free(text);
    if (fault) {
        status = fault == JSON_OUT_OF_MEMORY ? STATUS_NO_MEMORY : STATUS_BAD_MODEL;
        if (!folder_path(prefix, sizeof prefix, folder, name, NULL)) {
            error_prefix(err, prefix);
        }
        if (err) {
            err->status = status;
        }
        return status;
    }
    if (!cJSON_IsObject(*json)) {
        cJSON_Delete(*json);
        *json = NULL;
        return error_set(err, STATUS_BAD_MODEL, "%s/%s: not a JSON object", folder, name);
    }
    return STATUS_OK;
}
