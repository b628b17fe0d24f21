/* The safetensors reader: headers are checked completely before a tensor is handed out, so what comes behind
 * may trust every pointer. A file that shrinks while it is mapped is out of scope (as for every mapped file).
 */
#include "engine/base/safetensors.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "engine/base/float16.h"
#include "engine/base/json.h"

enum { LENGTH_WORD = 8, HEADER_DEPTH = 8, INDEX_DEPTH = 8, MAX_FILE_NAME = 255, PATH_BYTES = 4096 };
/* A tensor takes 2 nodes, its entry's 3 keys and values 6, offsets 2, at most 8 dimensions: 18; the rest for
 * __metadata__. */
static const int64_t header_nodes = (int64_t)SAFETENSORS_MAX_TENSORS * 18 + (1 << 16);
static const int64_t index_nodes = (int64_t)SAFETENSORS_MAX_TENSORS * 2 + (1 << 16);

struct mapping {
    struct safetensors_file file; /* its path is owned */
    unsigned char *bytes;
    struct safetensors_header *header;
};

struct safetensors {
    struct mapping *files;
    int32_t n_files;
    struct tensor *tensors; /* of all files, sorted by name */
    int64_t n_tensors;
};

static const struct {
    const char *name;
    int32_t bytes;
    enum dtype dtype;
} dtypes[] = {
    {"F32", 4, DTYPE_F32},           {"F16", 2, DTYPE_F16},       {"BF16", 2, DTYPE_BF16},
    {"F64", 8, DTYPE_OTHER},         {"I64", 8, DTYPE_OTHER},     {"U64", 8, DTYPE_OTHER},
    {"I32", 4, DTYPE_OTHER},         {"U32", 4, DTYPE_OTHER},     {"I16", 2, DTYPE_OTHER},
    {"U16", 2, DTYPE_OTHER},         {"I8", 1, DTYPE_OTHER},      {"U8", 1, DTYPE_OTHER},
    {"BOOL", 1, DTYPE_OTHER},        {"C64", 8, DTYPE_OTHER},     {"F8_E4M3", 1, DTYPE_OTHER},
    {"F8_E5M2", 1, DTYPE_OTHER},     {"F8_E8M0", 1, DTYPE_OTHER}, {"F8_E4M3FNUZ", 1, DTYPE_OTHER},
    {"F8_E5M2FNUZ", 1, DTYPE_OTHER},
};

/* ---- one header ---- */

static uint64_t tensor_begin(const struct tensor *tensor)
{
    return (uint64_t)(uintptr_t)tensor->data;
}

static enum status parse_dtype(struct tensor *tensor, int32_t *element_bytes, const cJSON *item,
                               const char *path, struct error *err)
{
    const char *found = cJSON_IsString(item) ? item->valuestring : "no string";
    for (size_t i = 0; cJSON_IsString(item) && i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(found, dtypes[i].name) == 0) {
            tensor->dtype = dtypes[i].dtype;
            tensor->dtype_name = dtypes[i].name;
            *element_bytes = dtypes[i].bytes;
            return STATUS_OK;
        }
    }
    return error_set(err, STATUS_BAD_MODEL,
                     "%s: tensor \"%.200s\": dtype is %.40s, expected F32, F16, BF16 or another "
                     "known type",
                     path, tensor->name, found);
}

static enum status parse_shape(struct tensor *tensor, const cJSON *shape, const char *path, struct error *err)
{
    if (!cJSON_IsArray(shape)) {
        return error_set(err, STATUS_BAD_MODEL, "%s: tensor \"%.200s\": shape is no array", path,
                         tensor->name);
    }
    int64_t product = 1;
    bool empty = false;
    for (const cJSON *dim = shape->child; dim; dim = dim->next) {
        int64_t n;
        if (tensor->n_dims == SAFETENSORS_MAX_DIMS) {
            return error_set(err, STATUS_BAD_MODEL,
                             "%s: tensor \"%.200s\": shape has more than %d dimensions", path, tensor->name,
                             (int)SAFETENSORS_MAX_DIMS);
        }
        if (!json_int64(dim, &n) || n < 0) {
            return error_set(err, STATUS_BAD_MODEL,
                             "%s: tensor \"%.200s\": shape[%d] is no integer of 0 or more in 64 bits", path,
                             tensor->name, (int)tensor->n_dims);
        }
        /* A zero beside it excuses no overflow: products of parts of the shape must be safe too. */
        if (n > 0 && __builtin_mul_overflow(product, n, &product)) {
            return error_set(err, STATUS_BAD_MODEL,
                             "%s: tensor \"%.200s\": the product of its shape overflows", path, tensor->name);
        }
        empty = empty || n == 0;
        tensor->shape[tensor->n_dims++] = n;
    }
    tensor->n_elements = empty ? 0 : product;
    return STATUS_OK;
}

static enum status parse_offsets(struct tensor *tensor, int32_t element_bytes, const cJSON *offsets,
                                 uint64_t data_bytes, const char *path, struct error *err)
{
    int64_t begin, end, expected;
    const cJSON *first = cJSON_IsArray(offsets) ? offsets->child : NULL;
    const cJSON *second = first ? first->next : NULL;
    if (!second || second->next || !json_int64(first, &begin) || !json_int64(second, &end) || begin < 0 ||
        end < begin) {
        return error_set(err, STATUS_BAD_MODEL,
                         "%s: tensor \"%.200s\": data_offsets is not [begin, end] with 0 <= begin <= end",
                         path, tensor->name);
    }
    if ((uint64_t)end > data_bytes) {
        return error_set(
            err, STATUS_BAD_MODEL,
            "%s: tensor \"%.200s\": data_offsets end at %lld, but the file has only %llu bytes of data", path,
            tensor->name, (long long)end, (unsigned long long)data_bytes);
    }
    if (__builtin_mul_overflow(tensor->n_elements, (int64_t)element_bytes, &expected) ||
        expected != end - begin) {
        return error_set(
            err, STATUS_BAD_MODEL,
            "%s: tensor \"%.200s\": data_offsets span %lld bytes, but %lld elements of %s do not take that",
            path, tensor->name, (long long)(end - begin), (long long)tensor->n_elements, tensor->dtype_name);
    }
    tensor->data = (const void *)(uintptr_t)begin;
    tensor->n_bytes = (size_t)expected;
    return STATUS_OK;
}

static enum status parse_entry(struct tensor *tensor, const cJSON *entry, uint64_t data_bytes,
                               const char *path, struct error *err)
{
    const cJSON *dtype = NULL, *shape = NULL, *offsets = NULL;
    if (!cJSON_IsObject(entry)) {
        return error_set(err, STATUS_BAD_MODEL, "%s: tensor \"%.200s\": its entry is no object", path,
                         tensor->name);
    }
    for (const cJSON *item = entry->child; item; item = item->next) {
        const cJSON **slot = strcmp(item->string, "dtype") == 0          ? &dtype
                             : strcmp(item->string, "shape") == 0        ? &shape
                             : strcmp(item->string, "data_offsets") == 0 ? &offsets
                                                                         : NULL;
        if (!slot) {
            return error_set(err, STATUS_BAD_MODEL, "%s: tensor \"%.200s\": unknown key \"%.60s\"", path,
                             tensor->name, item->string);
        }
        *slot = item;
    }
    if (!dtype || !shape || !offsets) {
        return error_set(err, STATUS_BAD_MODEL, "%s: tensor \"%.200s\": %s is missing", path, tensor->name,
                         !dtype   ? "dtype"
                         : !shape ? "shape"
                                  : "data_offsets");
    }
    int32_t element_bytes = 0;
    enum status status = parse_dtype(tensor, &element_bytes, dtype, path, err);
    if (!status) {
        status = parse_shape(tensor, shape, path, err);
    }
    if (!status) {
        status = parse_offsets(tensor, element_bytes, offsets, data_bytes, path, err);
    }
    return status;
}

/* Checks it and adds its size. */
static enum status measure_metadata(const cJSON *metadata, int64_t *n_pairs, size_t *n_bytes,
                                    const char *path, struct error *err)
{
    bool ok = cJSON_IsObject(metadata);
    for (const cJSON *item = ok ? metadata->child : NULL; ok && item; item = item->next) {
        if ((ok = cJSON_IsString(item))) {
            *n_bytes += strlen(item->string) + strlen(item->valuestring) + 2;
            ++*n_pairs;
        }
    }
    return ok ? STATUS_OK
              : error_set(err, STATUS_BAD_MODEL, "%s: __metadata__ is not an object of strings", path);
}

/* Copies text to *end and moves that behind it. */
static const char *keep(char **end, const char *text)
{
    size_t n = strlen(text) + 1;
    const char *copy = memcpy(*end, text, n);
    *end += n;
    return copy;
}

static int compare_begins(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;
    uint64_t x_begin = tensor_begin(x), y_begin = tensor_begin(y);
    if (x_begin != y_begin) {
        return x_begin < y_begin ? -1 : 1;
    }
    return (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes); /* empty tensors first */
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

/* Tensors sorted by begin must tile [0, data_bytes) exactly: no overlap, no hole, nothing behind. */
static enum status check_tiling(const struct safetensors_header *header, uint64_t data_bytes,
                                const char *path, struct error *err)
{
    uint64_t covered = 0;
    for (int64_t i = 0; i < header->n_tensors; i++) {
        const struct tensor *tensor = &header->tensors[i];
        if (tensor_begin(tensor) != covered) {
            return error_set(err, STATUS_BAD_MODEL,
                             "%s: tensor \"%.200s\" begins at %llu, expected %llu: it %s", path, tensor->name,
                             (unsigned long long)tensor_begin(tensor), (unsigned long long)covered,
                             tensor_begin(tensor) < covered ? "overlaps the tensor before it"
                                                            : "leaves a hole behind the tensor before it");
        }
        covered += tensor->n_bytes;
    }
    if (covered != data_bytes) {
        return error_set(err, STATUS_BAD_MODEL,
                         "%s: the tensors of the header end at byte %llu of the data, but the "
                         "file has %llu",
                         path, (unsigned long long)covered, (unsigned long long)data_bytes);
    }
    return STATUS_OK;
}

static enum status parse_entries(struct safetensors_header *header, const cJSON *root, uint64_t data_bytes,
                                 const char *path, struct error *err)
{
    int64_t n_tensors = 0, n_metadata = 0;
    size_t name_bytes = 0;
    enum status status;
    for (const cJSON *item = root->child; item; item = item->next) {
        if (strcmp(item->string, "__metadata__") != 0) {
            n_tensors++;
            name_bytes += strlen(item->string) + 1;
        } else if ((status = measure_metadata(item, &n_metadata, &name_bytes, path, err))) {
            return status;
        }
    }
    if (n_tensors > SAFETENSORS_MAX_TENSORS) {
        return error_set(err, STATUS_BAD_MODEL, "%s: %lld tensors, at most %d are accepted", path,
                         (long long)n_tensors, (int)SAFETENSORS_MAX_TENSORS);
    }
    header->tensors = calloc((size_t)n_tensors + 1, sizeof *header->tensors);
    header->metadata = calloc((size_t)n_metadata + 1, sizeof *header->metadata);
    header->names = malloc(name_bytes + 1);
    if (!header->tensors || !header->metadata || !header->names) {
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory for %lld tensors", path,
                         (long long)n_tensors);
    }
    char *end = header->names;
    for (const cJSON *item = root->child; item; item = item->next) {
        if (strcmp(item->string, "__metadata__") == 0) {
            for (const cJSON *pair = item->child; pair; pair = pair->next) {
                header->metadata[header->n_metadata++] =
                    (struct safetensors_pair){keep(&end, pair->string), keep(&end, pair->valuestring)};
            }
            continue;
        }
        struct tensor *tensor = &header->tensors[header->n_tensors++];
        tensor->name = keep(&end, item->string);
        if ((status = parse_entry(tensor, item, data_bytes, path, err))) {
            return status;
        }
    }
    qsort(header->tensors, (size_t)n_tensors, sizeof *header->tensors, compare_begins);
    status = check_tiling(header, data_bytes, path, err);
    qsort(header->tensors, (size_t)n_tensors, sizeof *header->tensors, compare_names);
    return status;
}

/* json_parse's faults as errors of a model file, path in front. */
static enum status parse_json_file(cJSON **root, const char *text, size_t length,
                                   const struct json_limits *limits, const char *path, const char *what,
                                   struct error *err)
{
    struct error why;
    enum json_fault fault = json_parse(root, text, length, limits, &why);
    if (fault == JSON_OUT_OF_MEMORY) {
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory for its %s", path, what);
    }
    if (fault) {
        return error_set(err, STATUS_BAD_MODEL, "%s: %s: %s", path, what, why.message);
    }
    if (!cJSON_IsObject(*root)) {
        cJSON_Delete(*root);
        *root = NULL;
        return error_set(err, STATUS_BAD_MODEL, "%s: its %s is no JSON object", path, what);
    }
    return STATUS_OK;
}

enum status safetensors_header_parse(struct safetensors_header **out, const char *header, size_t header_bytes,
                                     uint64_t data_bytes, const char *path, struct error *err)
{
    const struct json_limits limits = {.max_depth = HEADER_DEPTH, .max_nodes = header_nodes};
    struct safetensors_header *parsed = NULL;
    cJSON *root = NULL;
    enum status status;
    *out = NULL;
    if (header_bytes > SAFETENSORS_MAX_HEADER_BYTES || data_bytes > INT64_MAX) {
        return error_set(err, STATUS_BAD_MODEL, "%s: header of %zu bytes, at most %d are accepted", path,
                         header_bytes, (int)SAFETENSORS_MAX_HEADER_BYTES);
    }
    if ((status = parse_json_file(&root, header, header_bytes, &limits, path, "header", err))) {
        return status;
    }
    parsed = calloc(1, sizeof *parsed);
    status = parsed ? parse_entries(parsed, root, data_bytes, path, err)
                    : error_set(err, STATUS_NO_MEMORY, "%s: out of memory", path);
    cJSON_Delete(root);
    if (status) {
        safetensors_header_close(parsed);
        return status;
    }
    *out = parsed;
    return STATUS_OK;
}

void safetensors_header_close(struct safetensors_header *header)
{
    if (header) {
        free(header->tensors);
        free(header->metadata);
        free(header->names);
        free(header);
    }
}

const struct tensor *safetensors_header_find(const struct safetensors_header *header, const char *name)
{
    const struct tensor key = {.name = name};
    return bsearch(&key, header->tensors, (size_t)header->n_tensors, sizeof key, compare_names);
}

const char *safetensors_header_metadata(const struct safetensors_header *header, const char *key)
{
    for (int64_t i = 0; i < header->n_metadata; i++) {
        if (strcmp(header->metadata[i].key, key) == 0) {
            return header->metadata[i].value;
        }
    }
    return NULL;
}

/* ---- one file ---- */

static int64_t nanoseconds(struct timespec t)
{
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static enum status mapping_open(struct mapping *file, const char *path, struct error *err)
{
    enum status status = STATUS_OK;
    struct stat info;
    file->file.path = strdup(path);
    if (!file->file.path) {
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", path);
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &info) < 0) {
        status = error_set(err, STATUS_BAD_MODEL, "%s: %s", path, strerror(errno));
        goto cleanup;
    }
    if (!S_ISREG(info.st_mode)) {
        status = error_set(err, STATUS_BAD_MODEL, "%s: not a regular file", path);
        goto cleanup;
    }
    if (info.st_size < LENGTH_WORD) {
        status = error_set(err, STATUS_BAD_MODEL, "%s: %lld bytes, too short for a safetensors file", path,
                           (long long)info.st_size);
        goto cleanup;
    }
    size_t n_bytes = (size_t)info.st_size;
    void *bytes = mmap(NULL, n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED) {
        status = error_set(err, errno == ENOMEM ? STATUS_NO_MEMORY : STATUS_IO,
                           "%s: cannot map %zu bytes: %s", path, n_bytes, strerror(errno));
        goto cleanup;
    }
    file->bytes = bytes;
    file->file.n_bytes = n_bytes;
    file->file.mtime_ns = nanoseconds(info.st_mtim);
    file->file.ctime_ns = nanoseconds(info.st_ctim);
    uint64_t header_bytes = 0;
    for (int i = LENGTH_WORD - 1; i >= 0; i--) {
        header_bytes = header_bytes << 8 | file->bytes[i];
    }
    if (header_bytes > SAFETENSORS_MAX_HEADER_BYTES || header_bytes > n_bytes - LENGTH_WORD) {
        status =
            error_set(err, STATUS_BAD_MODEL,
                      "%s: header length is %llu, but the file has %zu bytes and at most %d are accepted",
                      path, (unsigned long long)header_bytes, n_bytes, (int)SAFETENSORS_MAX_HEADER_BYTES);
        goto cleanup;
    }
    const unsigned char *data = file->bytes + LENGTH_WORD + header_bytes;
    status = safetensors_header_parse(&file->header, (const char *)file->bytes + LENGTH_WORD,
                                      (size_t)header_bytes, n_bytes - LENGTH_WORD - header_bytes, path, err);
    for (int64_t i = 0; !status && i < file->header->n_tensors; i++) {
        struct tensor *tensor = &file->header->tensors[i];
        tensor->data = data + tensor_begin(tensor);
        tensor->path = file->file.path;
    }
cleanup:
    if (fd >= 0) {
        close(fd);
    }
    return status;
}

/* Opens n files and merges their tensors into one list; the paths must differ. */
static enum status open_files(struct safetensors **out, const char *const *paths, int32_t n,
                              struct error *err)
{
    enum status status = STATUS_OK;
    struct safetensors *st = calloc(1, sizeof *st);
    struct mapping *files = calloc((size_t)n + 1, sizeof *files);
    *out = NULL;
    if (!st || !files) {
        free(st);
        free(files);
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", paths[0]);
    }
    st->files = files;
    int64_t total = 0;
    while (!status && st->n_files < n) {
        struct mapping *file = &files[st->n_files];
        status = mapping_open(file, paths[st->n_files++], err);
        total += status ? 0 : file->header->n_tensors;
    }
    if (!status && total > SAFETENSORS_MAX_TENSORS) {
        status = error_set(err, STATUS_BAD_MODEL,
                           "%s: %lld tensors with its other shards, at most %d are accepted", paths[0],
                           (long long)total, (int)SAFETENSORS_MAX_TENSORS);
    }
    if (!status && !(st->tensors = calloc((size_t)total + 1, sizeof *st->tensors))) {
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory for %lld tensors", paths[0],
                           (long long)total);
    }
    for (int32_t f = 0; !status && f < n; f++) {
        const struct safetensors_header *header = files[f].header;
        memcpy(st->tensors + st->n_tensors, header->tensors, (size_t)header->n_tensors * sizeof *st->tensors);
        st->n_tensors += header->n_tensors;
    }
    if (!status) {
        qsort(st->tensors, (size_t)total, sizeof *st->tensors, compare_names);
    }
    for (int64_t i = 1; !status && i < total; i++) {
        const struct tensor *a = &st->tensors[i - 1], *b = &st->tensors[i];
        if (strcmp(a->name, b->name) == 0) {
            status = error_set(err, STATUS_BAD_MODEL, "%s: tensor \"%.200s\" stands in %s too", a->path,
                               a->name, b->path);
        }
    }
    if (status) {
        safetensors_close(st);
        st = NULL;
    }
    *out = st;
    return status;
}

enum status safetensors_open_file(struct safetensors **out, const char *path, struct error *err)
{
    return open_files(out, &path, 1, err);
}

void safetensors_close(struct safetensors *st)
{
    if (!st) {
        return;
    }
    for (int32_t f = 0; f < st->n_files; f++) {
        struct mapping *file = &st->files[f];
        safetensors_header_close(file->header);
        if (file->bytes) {
            munmap(file->bytes, file->file.n_bytes);
        }
        free((char *)file->file.path);
    }
    free(st->files);
    free(st->tensors);
    free(st);
}

/* ---- a folder ---- */

/* A plain name inside the folder: what the index names is outside data and must not lead elsewhere. */
static bool is_plain_name(const char *name)
{
    size_t n = strlen(name);
    return n > 0 && n <= MAX_FILE_NAME && name[0] != '.' && !strchr(name, '/') && !strstr(name, "..");
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct shard names of weight_map, sorted; they point into map. */
static enum status list_shards(const char ***out, int32_t *n_out, const cJSON *map, const char *index_path,
                               struct error *err)
{
    int64_t n = 0, n_distinct = 0;
    for (const cJSON *item = map->child; item; item = item->next) {
        if (!cJSON_IsString(item) || !is_plain_name(item->valuestring)) {
            return error_set(err, STATUS_BAD_MODEL,
                             "%s: weight_map[\"%.200s\"] is %.100s, expected a plain file name", index_path,
                             item->string, cJSON_IsString(item) ? item->valuestring : "no string");
        }
        n++;
    }
    if (n == 0) {
        return error_set(err, STATUS_BAD_MODEL, "%s: weight_map is empty", index_path);
    }
    const char **names = malloc((size_t)n * sizeof *names);
    if (!names) {
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory for %lld entries", index_path,
                         (long long)n);
    }
    n = 0;
    for (const cJSON *item = map->child; item; item = item->next) {
        names[n++] = item->valuestring;
    }
    qsort(names, (size_t)n, sizeof *names, compare_strings);
    for (int64_t i = 0; i < n; i++) {
        if (i == 0 || strcmp(names[i], names[n_distinct - 1]) != 0) {
            names[n_distinct++] = names[i];
        }
    }
    if (n_distinct > SAFETENSORS_MAX_SHARDS) {
        free(names);
        return error_set(err, STATUS_BAD_MODEL, "%s: %lld shards, at most %d are accepted", index_path,
                         (long long)n_distinct, (int)SAFETENSORS_MAX_SHARDS);
    }
    *out = names;
    *n_out = (int32_t)n_distinct;
    return STATUS_OK;
}

/* Every entry of the map must be found in the shard it names, and the shards must hold nothing else: then
 * index and files speak of the same model. */
static enum status check_map(const struct safetensors *st, const cJSON *map, const char *index_path,
                             struct error *err)
{
    enum status status = STATUS_OK;
    bool *listed = calloc((size_t)st->n_tensors + 1, sizeof *listed);
    if (!listed) {
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", index_path);
    }
    for (const cJSON *item = map->child; !status && item; item = item->next) {
        const struct tensor *tensor = safetensors_find(st, item->string);
        const char *file = tensor ? strrchr(tensor->path, '/') + 1 : NULL;
        if (!tensor) {
            status = error_set(err, STATUS_BAD_MODEL,
                               "%s: tensor \"%.200s\" is listed, but %.100s does not have it", index_path,
                               item->string, item->valuestring);
        } else if (strcmp(file, item->valuestring) != 0) {
            status = error_set(err, STATUS_BAD_MODEL,
                               "%s: tensor \"%.200s\" is listed in %.100s, but stands in %.100s", index_path,
                               item->string, item->valuestring, file);
        } else {
            listed[tensor - st->tensors] = true;
        }
    }
    for (int64_t i = 0; !status && i < st->n_tensors; i++) {
        if (!listed[i]) {
            status =
                error_set(err, STATUS_BAD_MODEL, "%s: tensor \"%.200s\" of %s is not listed in weight_map",
                          index_path, st->tensors[i].name, st->tensors[i].path);
        }
    }
    free(listed);
    return status;
}

static char *join_path(const char *folder, const char *name)
{
    size_t n_folder = strlen(folder), n_name = strlen(name);
    char *path = malloc(n_folder + n_name + 2);
    if (path) {
        memcpy(path, folder, n_folder);
        path[n_folder] = '/';
        memcpy(path + n_folder + 1, name, n_name + 1);
    }
    return path;
}

static enum status open_shards(struct safetensors **out, const char *folder, const char *index_path,
                               struct error *err)
{
    const struct json_limits limits = {.max_depth = INDEX_DEPTH, .max_nodes = index_nodes};
    enum status status;
    char *text = NULL;
    size_t length;
    cJSON *root = NULL;
    const char **names = NULL;
    char **paths = NULL;
    int32_t n_shards = 0;
    if ((status = file_read(&text, &length, index_path, SAFETENSORS_MAX_HEADER_BYTES, err))) {
        status = status == STATUS_NO_MEMORY ? status : STATUS_BAD_MODEL;
        if (err) {
            err->status = status;
        }
        goto cleanup;
    }
    if ((status = parse_json_file(&root, text, length, &limits, index_path, "index", err))) {
        goto cleanup;
    }
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(root, "weight_map");
    if (!cJSON_IsObject(map)) {
        status = error_set(err, STATUS_BAD_MODEL, "%s: weight_map is missing or no object", index_path);
        goto cleanup;
    }
    if ((status = list_shards(&names, &n_shards, map, index_path, err))) {
        goto cleanup;
    }
    paths = calloc((size_t)n_shards, sizeof *paths);
    for (int32_t i = 0; paths && i < n_shards; i++) {
        if (!(paths[i] = join_path(folder, names[i]))) {
            status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", index_path);
            goto cleanup;
        }
    }
    status = paths ? open_files(out, (const char *const *)paths, n_shards, err)
                   : error_set(err, STATUS_NO_MEMORY, "%s: out of memory", index_path);
    if (!status && (status = check_map(*out, map, index_path, err))) {
        safetensors_close(*out);
        *out = NULL;
    }
cleanup:
    for (int32_t i = 0; paths && i < n_shards; i++) {
        free(paths[i]);
    }
    free(paths);
    free(names);
    cJSON_Delete(root);
    free(text);
    return status;
}

enum status safetensors_open_folder(struct safetensors **out, const char *folder, struct error *err)
{
    char single[PATH_BYTES], index[PATH_BYTES];
    *out = NULL;
    int n = snprintf(index, sizeof index, "%s/model.safetensors.index.json", folder);
    if (n < 0 || (size_t)n >= sizeof index) {
        return error_set(err, STATUS_INVALID, "%.100s...: path too long", folder);
    }
    snprintf(single, sizeof single, "%s/model.safetensors", folder);
    /* One file goes before shards where a folder has both, as in transformers. */
    if (access(single, F_OK) == 0) {
        return safetensors_open_file(out, single, err);
    }
    if (access(index, F_OK) == 0) {
        return open_shards(out, folder, index, err);
    }
    return error_set(err, STATUS_BAD_MODEL,
                     "%s: neither model.safetensors nor model.safetensors.index.json found", folder);
}

/* ---- access ---- */

int64_t safetensors_n_tensors(const struct safetensors *st)
{
    return st->n_tensors;
}

const struct tensor *safetensors_at(const struct safetensors *st, int64_t index)
{
    assert(index >= 0 && index < st->n_tensors);
    return &st->tensors[index];
}

const struct tensor *safetensors_find(const struct safetensors *st, const char *name)
{
    const struct tensor key = {.name = name};
    return bsearch(&key, st->tensors, (size_t)st->n_tensors, sizeof key, compare_names);
}

int32_t safetensors_n_files(const struct safetensors *st)
{
    return st->n_files;
}

const struct safetensors_file *safetensors_file(const struct safetensors *st, int32_t index)
{
    assert(index >= 0 && index < st->n_files);
    return &st->files[index].file;
}

bool safetensors_file_unchanged(const struct safetensors_file *file, int fd)
{
    struct stat info;
    return fstat(fd, &info) == 0 && (size_t)info.st_size == file->n_bytes &&
           nanoseconds(info.st_mtim) == file->mtime_ns && nanoseconds(info.st_ctim) == file->ctime_ns;
}

void safetensors_drop(const struct safetensors *st, const struct tensor *tensor)
{
    (void)st;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)tensor->data + page - 1) / page * page;
    uintptr_t last = ((uintptr_t)tensor->data + tensor->n_bytes) / page * page;
    if (first < last) {
        /* Only advice: a refusal costs memory, nothing else. */
        (void)madvise((void *)first, last - first, MADV_DONTNEED);
    }
}

static void f32_from_bf16(float *out, const unsigned char *in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        out[i] = bf16_to_f32(half);
    }
}

static void f32_from_f16(float *out, const unsigned char *in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        out[i] = f16_to_f32(half);
    }
}

#ifdef __x86_64__
/* The same values: every half is exact in f32 (only a signalling NaN comes out quiet). */
__attribute__((target("avx,f16c"))) static void f32_from_f16_f16c(float *out, const unsigned char *in,
                                                                  int64_t n)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(out + i,
                         _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(in + 2 * i))));
    }
    f32_from_f16(out + i, in + 2 * i, n - i);
}
#endif

void tensor_to_f32(float *out, const struct tensor *tensor, int64_t first, int64_t n)
{
    assert(first >= 0 && n >= 0 && first <= tensor->n_elements && n <= tensor->n_elements - first);
    assert(tensor->dtype != DTYPE_OTHER);
    if (n == 0) {
        return;
    }
    const unsigned char *data = tensor->data;
    if (tensor->dtype == DTYPE_F32) {
        memcpy(out, data + 4 * first, (size_t)n * sizeof *out);
    } else if (tensor->dtype == DTYPE_BF16) {
        f32_from_bf16(out, data + 2 * first, n);
    } else {
#ifdef __x86_64__
        /* Every processor with AVX2 has F16C, and compilers know the one name longer than the other. */
        if (__builtin_cpu_supports("avx2")) {
            f32_from_f16_f16c(out, data + 2 * first, n);
            return;
        }
#endif
        f32_from_f16(out, data + 2 * first, n);
    }
}
