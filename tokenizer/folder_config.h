/* Inside the room: files of a model folder. */
#ifndef TOKENIZER_FOLDER_CONFIG_H
#define TOKENIZER_FOLDER_CONFIG_H

#include <cjson/cJSON.h>
#include <stddef.h>

#include "engine/base/status.h"

/* folder/name into out. */
enum status folder_path(char *out, size_t size, const char *folder, const char *name, struct error *err);

/* *text: the contents of folder/name (terminated; free it), NULL when there is no such file. */
enum status folder_text_read(char **text, size_t *length, const char *folder, const char *name,
                             struct error *err);

/* *json: the object in folder/name (cJSON_Delete it), NULL when there is no such file. STATUS_BAD_MODEL names
 * the file. */
enum status folder_config_read(cJSON **json, const char *folder, const char *name, struct error *err);

#endif
