/* Reads safetensors files: one file or the shards of a Hugging Face folder, memory-mapped. Every number in a
 * header is outside data: arithmetic is checked, limits come before allocation, and a tensor that is handed
 * out lies wholly inside its file. Also formats headers of files to be written. Format: u64 little-endian
 * header length, JSON header {name: {dtype, shape, data_offsets: [begin, end)}}, data. */
#ifndef ENGINE_BASE_SAFETENSORS_H
#define ENGINE_BASE_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_OTHER };

enum { SAFETENSORS_MAX_DIMS = 8 };
enum {
    SAFETENSORS_MAX_HEADER_BYTES = 100 * 1000 * 1000,
    SAFETENSORS_MAX_TENSORS = 1 << 18,
    SAFETENSORS_MAX_SHARDS = 4096
};

struct tensor {
    const char *name;
    enum dtype dtype;
    const char *dtype_name; /* as in the file, for messages */
    int32_t n_dims;
    int64_t shape[SAFETENSORS_MAX_DIMS];
    int64_t n_elements;
    const void *data; /* inside the mapping; aligned to nothing in particular */
    size_t n_bytes;
    const char *path; /* the file that it stands in, for messages */
};

struct safetensors;

/* Opens model.safetensors of the folder, or the shards that model.safetensors.index.json names (file names
 * there must be plain names inside the folder; each weight_map entry must be found in its shard, and no
 * tensor may stand in two shards). STATUS_BAD_MODEL with file and tensor or key named. */
enum status safetensors_open_folder(struct safetensors **out, const char *folder, struct error *err);
enum status safetensors_open_file(struct safetensors **out, const char *path, struct error *err);
void safetensors_close(struct safetensors *st); /* accepts NULL */

int64_t safetensors_n_tensors(const struct safetensors *st);
const struct tensor *safetensors_at(const struct safetensors *st, int64_t index);      /* sorted by name */
const struct tensor *safetensors_find(const struct safetensors *st, const char *name); /* NULL if absent */

/* The files behind it, shards in the order of their names, and what tells without reading whether one has
 * changed since it was opened. */
struct safetensors_file {
    const char *path;
    size_t n_bytes;
    int64_t mtime_ns; /* since 1970; set by whoever writes or copies the file */
    int64_t ctime_ns; /* set by the system alone */
};
int32_t safetensors_n_files(const struct safetensors *st);
const struct safetensors_file *safetensors_file(const struct safetensors *st, int32_t index);
bool safetensors_file_unchanged(const struct safetensors_file *file, int fd); /* fd: the file, opened again */

/* Tells the system that the pages of this tensor will not be read again: they leave this process's resident
 * set (whole pages inside the tensor only). The tensor stays readable: pages come back from the file. */
void safetensors_drop(const struct safetensors *st, const struct tensor *tensor);

/* Checks one file's header (without the length word) against the size of the data behind it: the fuzz
 * target's entry, and what open uses. Every byte of the data belongs to exactly one tensor. On success *out
 * has the tensors sorted by name; their data are offsets from NULL, their path is NULL. */
struct safetensors_pair {
    const char *key, *value;
};
struct safetensors_header {
    struct tensor *tensors;
    int64_t n_tensors;
    struct safetensors_pair *metadata; /* __metadata__ */
    int64_t n_metadata;
    char *names; /* what names and metadata point into */
};
enum status safetensors_header_parse(struct safetensors_header **out, const char *header, size_t header_bytes,
                                     uint64_t data_bytes, const char *path, struct error *err);
void safetensors_header_close(struct safetensors_header *header); /* accepts NULL */
const struct tensor *safetensors_header_find(const struct safetensors_header *header, const char *name);
const char *safetensors_header_metadata(const struct safetensors_header *header,
                                        const char *key); /* or NULL */

/* The other direction: length word and header of a file that holds these tensors densely in this order,
 * padded with blanks so that the data begin at a multiple of alignment. Of a tensor, name, dtype_name, shape
 * and n_bytes count. *out is to be freed. */
enum status safetensors_header_format(char **out, size_t *out_bytes, const struct tensor *tensors,
                                      int64_t n_tensors, const struct safetensors_pair *metadata,
                                      int64_t n_metadata, size_t alignment, struct error *err);

/* Converts n elements starting at element `first` of the tensor to f32. dtype must be F32, F16 or BF16. */
void tensor_to_f32(float *out, const struct tensor *tensor, int64_t first, int64_t n);

#endif
