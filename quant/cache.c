/* Reads a cache file. Its bytes are outside data: sizes come from the safetensors header, which is checked as
 * every other; a matrix is handed out only when its numbers, arrays and values are what quant/any4.h allows.
 */
#include "quant/cache.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/base/safetensors.h"
#include "quant/cache_format.h"

enum { LENGTH_WORD = 8, LIST_DEPTH = 3 };

struct cache {
    const char *path; /* for messages; borrowed while opening */
    const unsigned char *bytes;
    size_t n_bytes;
    bool mapped; /* bytes is ours to unmap */
    struct safetensors_header *header;
    const unsigned char *data; /* behind the header */
    const struct tensor *checksums;
    struct cache_entry *entries; /* sorted by name */
    int64_t n_entries;
    char *names; /* what the entries' names point into */
};

__attribute__((format(printf, 3, 4))) static enum status refuse(const struct cache *cache, struct error *err,
                                                                const char *format, ...)
{
    char text[sizeof err->message];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return error_set(err, STATUS_BAD_MODEL, "%s: %s", cache->path, text);
}

static enum status no_memory(const struct cache *cache, struct error *err)
{
    return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", cache->path);
}

static size_t tensor_begin(const struct tensor *tensor)
{
    return (size_t)(uintptr_t)tensor->data;
}

/* ---- header ---- */

static enum status parse_header(struct cache *cache, struct error *err)
{
    uint64_t header_bytes = 0;
    if (cache->n_bytes < LENGTH_WORD) {
        return refuse(cache, err, "%zu bytes, too short", cache->n_bytes);
    }
    for (int i = LENGTH_WORD - 1; i >= 0; i--) {
        header_bytes = header_bytes << 8 | cache->bytes[i];
    }
    if (header_bytes > cache->n_bytes - LENGTH_WORD) {
        return refuse(cache, err, "the header's %" PRIu64 " bytes exceed the file's %zu", header_bytes,
                      cache->n_bytes);
    }
    size_t data_bytes = cache->n_bytes - LENGTH_WORD - (size_t)header_bytes;
    cache->data = cache->bytes + LENGTH_WORD + header_bytes;
    enum status status = safetensors_header_parse(&cache->header, (const char *)cache->bytes + LENGTH_WORD,
                                                  (size_t)header_bytes, data_bytes, cache->path, err);
    if (status) {
        return status;
    }
    const struct tensor *sums = safetensors_header_find(cache->header, CACHE_CHECKSUMS);
    size_t payload = sums ? tensor_begin(sums) : 0;
    size_t n_blocks = payload / CACHE_BLOCK_BYTES + (payload % CACHE_BLOCK_BYTES > 0);
    if (!sums || payload + sums->n_bytes != data_bytes || sums->n_dims != 2 ||
        sums->shape[0] != (int64_t)n_blocks + 2 || sums->shape[1] != CACHE_HASH_BYTES ||
        strcmp(sums->dtype_name, "U8") != 0) {
        return refuse(cache, err, "its checksums are missing or do not cover it");
    }
    cache->checksums = sums;
    return STATUS_OK;
}

static enum status check_metadata(const struct cache *cache, const char *key, const char *expected,
                                  struct error *err)
{
    const char *found = safetensors_header_metadata(cache->header, key);
    if (!found || strcmp(found, expected) != 0) {
        return refuse(cache, err, "%s is %.40s, expected %s", key, found ? found : "missing", expected);
    }
    return STATUS_OK;
}

/* ---- checksums ---- */

struct sum_job {
    const unsigned char *data, *sums;
    size_t n_bytes;
    _Atomic int64_t first_bad;
};

static void lower(_Atomic int64_t *first, int64_t index)
{
    int64_t known = *first;
    while (index < known && !atomic_compare_exchange_weak(first, &known, index)) {
    }
}

static bool sum_matches(const void *bytes, size_t n, const unsigned char *expected)
{
    struct hash hash = hash_bytes(bytes, n);
    return memcmp(hash.bytes, expected, sizeof hash.bytes) == 0;
}

static void check_blocks(void *context, int64_t begin, int64_t end, int32_t thread)
{
    struct sum_job *job = context;
    (void)thread;
    for (int64_t block = begin; block < end; block++) {
        size_t at = (size_t)block * CACHE_BLOCK_BYTES, left = job->n_bytes - at;
        if (!sum_matches(job->data + at, left < CACHE_BLOCK_BYTES ? left : CACHE_BLOCK_BYTES,
                         job->sums + block * CACHE_HASH_BYTES)) {
            lower(&job->first_bad, block);
        }
    }
}

static enum status check_sums(const struct cache *cache, struct thread_pool *pool, struct error *err)
{
    const unsigned char *sums = cache->data + tensor_begin(cache->checksums);
    int64_t n_rows = cache->checksums->shape[0];
    size_t own_bytes = (size_t)(n_rows - 1) * CACHE_HASH_BYTES;
    if (!sum_matches(sums, own_bytes, sums + own_bytes)) {
        return refuse(cache, err, "damaged: the checksums have changed");
    }
    if (!sum_matches(cache->bytes, (size_t)(cache->data - cache->bytes), sums)) {
        return refuse(cache, err, "damaged: the header has changed");
    }
    struct sum_job job = {cache->data, sums + CACHE_HASH_BYTES, tensor_begin(cache->checksums), INT64_MAX};
    thread_pool_run_dynamic(pool, n_rows - 2, 1, check_blocks, &job);
    if (job.first_bad != INT64_MAX) {
        return refuse(cache, err, "damaged: MiB %" PRId64 " of the data has changed", (int64_t)job.first_bad);
    }
    return STATUS_OK;
}

/* ---- matrices ---- */

/* Fields of one object of the list; ok becomes false on the first that is missing or out of range. */
struct fields {
    const cJSON *object;
    bool ok;
};

static int64_t read_integer(struct fields *fields, const char *key, int64_t min, int64_t max)
{
    int64_t value = min;
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(fields->object, key);
    if (!json_int64(item, &value) || value < min || value > max) {
        fields->ok = false;
        return min;
    }
    return value;
}

/* All that stands in such a list is a sum of squares or a root of one. */
static double read_sum(struct fields *fields, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(fields->object, key);
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= DBL_MAX)) {
        fields->ok = false;
        return 0;
    }
    return item->valuedouble;
}

static int32_t read_choice(struct fields *fields, const char *key, const char *const *names)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(fields->object, key);
    for (int32_t i = 0; cJSON_IsString(item) && names[i]; i++) {
        if (strcmp(item->valuestring, names[i]) == 0) {
            return i;
        }
    }
    fields->ok = false;
    return 0;
}

static enum status read_entry(struct cache *cache, const cJSON *object, struct error *err)
{
    struct fields f = {object, true};
    struct cache_entry *entry = &cache->entries[cache->n_entries];
    struct any4_matrix *m = &entry->matrix;
    struct quant_stats *s = &entry->stats;
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(object, "name");
    m->kind = (enum any4_kind)read_choice(&f, "kind", cache_kinds);
    m->layout = (enum any4_layout)read_choice(&f, "layout", cache_layouts);
    m->n_rows = (int32_t)read_integer(&f, "n_rows", 1, INT32_MAX);
    m->n_cols = (int32_t)read_integer(&f, "n_cols", 1, INT32_MAX);
    m->code_bits = (int32_t)read_integer(&f, "code_bits", 0, 8);
    m->group_size = (int32_t)read_integer(&f, "group_size", 0, 128);
    s->weight_energy = read_sum(&f, "weight_energy");
    s->error_energy = read_sum(&f, "error_energy");
    s->weighted_energy = read_sum(&f, "weighted_energy");
    s->weighted_error = read_sum(&f, "weighted_error");
    s->max_row_error = read_sum(&f, "max_row_error");
    s->worst_row = (int32_t)read_integer(&f, "worst_row", 0, m->n_rows - 1);
    s->code_bits = read_integer(&f, "total_code_bits", 0, INT64_MAX);
    s->table_bits = read_integer(&f, "total_table_bits", 0, INT64_MAX);
    if (!f.ok || !cJSON_IsString(name)) {
        return refuse(cache, err, "matrix %" PRId64 " of any4.matrices is not described completely",
                      cache->n_entries);
    }
    m->n_groups = m->group_size ? (int32_t)(((int64_t)m->n_cols + m->group_size - 1) / m->group_size) : 0;
    entry->name = name->valuestring;
    cache->n_entries++;
    return STATUS_OK;
}

static const struct tensor *find_array(const struct cache *cache, const struct cache_entry *entry,
                                       const char *array)
{
    char name[CACHE_NAME_BYTES];
    int n = snprintf(name, sizeof name, "%s.%s", entry->name, array);
    return n > 0 && (size_t)n < sizeof name ? safetensors_header_find(cache->header, name) : NULL;
}

/* Points the matrix at its arrays, each of the one right type and shape. */
static enum status bind_arrays(const struct cache *cache, struct cache_entry *entry, int64_t *n_bound,
                               struct error *err)
{
    struct cache_array arrays[CACHE_MAX_ARRAYS];
    struct any4_matrix *m = &entry->matrix;
    const struct tensor *codes = find_array(cache, entry, "codes");
    m->row_bytes = codes && codes->n_dims == 2 ? (size_t)codes->shape[1] : cache_row_bytes(m);
    const char *fault = cache_shape_fault(m);
    if (fault) {
        return refuse(cache, err, "%.100s: %s", entry->name, fault);
    }
    int32_t n = cache_arrays(arrays, m, find_array(cache, entry, "zeros") != NULL);
    for (int32_t i = 0; i < n; i++) {
        const struct cache_array *array = &arrays[i];
        const struct tensor *tensor = find_array(cache, entry, array->name);
        if (!tensor || tensor->n_dims != 2 || tensor->shape[0] != m->n_rows ||
            tensor->shape[1] != array->n_cols || strcmp(tensor->dtype_name, array->dtype) != 0) {
            return refuse(cache, err, "%.100s.%s is missing, or no (%d, %" PRId64 ") of %s", entry->name,
                          array->name, (int)m->n_rows, array->n_cols, array->dtype);
        }
        const unsigned char *data = cache->data + tensor_begin(tensor);
        if ((size_t)(data - cache->bytes) % CACHE_ALIGNMENT) {
            return refuse(cache, err, "%.100s.%s is not aligned", entry->name, array->name);
        }
        memcpy((char *)m + array->offset, &data, sizeof data);
    }
    *n_bound += n;
    return STATUS_OK;
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const struct cache_entry *)a)->name, ((const struct cache_entry *)b)->name);
}

static enum status read_list(struct cache *cache, const cJSON *list, size_t text_bytes, struct error *err)
{
    enum status status;
    int64_t n = 0, n_bound = 0, n_padding = 0;
    for (const cJSON *item = list->child; item; item = item->next) {
        n++;
    }
    cache->entries = calloc((size_t)n + 1, sizeof *cache->entries);
    cache->names = malloc(text_bytes + 1); /* what the list has of names is less */
    if (!cache->entries || !cache->names) {
        return no_memory(cache, err);
    }
    char *end = cache->names;
    for (const cJSON *item = list->child; item; item = item->next) {
        struct cache_entry *entry = &cache->entries[cache->n_entries];
        if ((status = read_entry(cache, item, err))) {
            return status;
        }
        size_t length = strlen(entry->name) + 1;
        entry->name = memcpy(end, entry->name, length);
        end += length;
        if ((status = bind_arrays(cache, entry, &n_bound, err))) {
            return status;
        }
    }
    qsort(cache->entries, (size_t)n, sizeof *cache->entries, compare_entries);
    for (int64_t i = 1; i < n; i++) {
        if (!strcmp(cache->entries[i - 1].name, cache->entries[i].name)) {
            return refuse(cache, err, "%.100s is described twice", cache->entries[i].name);
        }
    }
    for (int64_t i = 0; i < cache->header->n_tensors; i++) {
        n_padding += !strncmp(cache->header->tensors[i].name, CACHE_PADDING, strlen(CACHE_PADDING));
    }
    if (n_bound + n_padding + 1 != cache->header->n_tensors) {
        return refuse(cache, err, "%" PRId64 " tensors, of which only %" PRId64 " have a role",
                      cache->header->n_tensors, n_bound + n_padding + 1);
    }
    return STATUS_OK;
}

static enum status read_matrices(struct cache *cache, struct error *err)
{
    const char *text = safetensors_header_metadata(cache->header, "any4.matrices");
    cJSON *list = NULL;
    struct error why;
    if (!text) {
        return refuse(cache, err, "any4.matrices is missing");
    }
    size_t length = strlen(text);
    struct json_limits limits = {.max_depth = LIST_DEPTH, .max_nodes = (int64_t)length};
    enum json_fault fault = json_parse(&list, text, length, &limits, &why);
    if (fault == JSON_OUT_OF_MEMORY) {
        return no_memory(cache, err);
    }
    if (fault || !cJSON_IsArray(list)) {
        cJSON_Delete(list);
        return refuse(cache, err, "any4.matrices: %.200s", fault ? why.message : "no array");
    }
    enum status status = read_list(cache, list, length, err);
    cJSON_Delete(list);
    return status;
}

/* ---- values ---- */

/* Codes may be anything: a code of n bits stays inside a table of 2^n. */

static bool halves_are_finite(const void *values, size_t n, uint16_t exponent)
{
    const uint16_t *halves = values;
    unsigned bad = 0;
    for (size_t i = 0; i < n; i++) {
        bad |= (halves[i] & exponent) == exponent;
    }
    return !bad;
}

static bool floats_are_within(const float *values, size_t n, float min)
{
    unsigned bad = 0;
    for (size_t i = 0; i < n; i++) {
        bad |= !(values[i] >= min && values[i] <= FLT_MAX);
    }
    return !bad;
}

static bool bytes_are_symmetric(const int8_t *values, size_t n)
{
    unsigned bad = 0;
    for (size_t i = 0; i < n; i++) {
        bad |= values[i] == INT8_MIN;
    }
    return !bad;
}

static bool values_are_sane(const struct any4_matrix *m)
{
    enum { BF16_EXPONENT = 0x7f80, F16_EXPONENT = 0x7c00 };
    size_t n_rows = (size_t)m->n_rows, n_scales = n_rows * (size_t)m->n_groups;
    size_t n_table = n_rows << m->code_bits, n_weights = n_rows * (size_t)m->n_cols;
    switch (m->kind) {
    case ANY4_F32:
        return floats_are_within((const float *)(const void *)m->codes, n_weights, -FLT_MAX);
    case ANY4_F16:
        return halves_are_finite(m->codes, n_weights, F16_EXPONENT);
    case ANY4_BF16:
        return halves_are_finite(m->codes, n_weights, BF16_EXPONENT);
    case ANY4_LUT:
    case ANY4_LINEAR:
        return halves_are_finite(m->scales, n_scales, BF16_EXPONENT) &&
               (!m->zeros || halves_are_finite(m->zeros, n_scales, BF16_EXPONENT)) &&
               (!m->lut || halves_are_finite(m->lut, n_table, BF16_EXPONENT));
    case ANY4_LUT_INT8:
        return bytes_are_symmetric(m->group_scales, n_scales) && bytes_are_symmetric(m->table, n_table) &&
               floats_are_within(m->row_scales, n_rows, 0);
    }
    return false;
}

struct value_job {
    const struct cache_entry *entries;
    _Atomic int64_t first_bad;
};

static void check_matrices(void *context, int64_t begin, int64_t end, int32_t thread)
{
    struct value_job *job = context;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        if (!values_are_sane(&job->entries[i].matrix)) {
            lower(&job->first_bad, i);
        }
    }
}

static enum status check_values(const struct cache *cache, struct thread_pool *pool, struct error *err)
{
    struct value_job job = {cache->entries, INT64_MAX};
    thread_pool_run_dynamic(pool, cache->n_entries, 1, check_matrices, &job);
    if (job.first_bad != INT64_MAX) {
        return refuse(cache, err, "%.100s has scales or values that no matrix may have",
                      cache->entries[job.first_bad].name);
    }
    return STATUS_OK;
}

/* ---- files ---- */

static enum status map_file(struct cache *cache, struct error *err)
{
    struct stat info;
    enum status status = STATUS_OK;
    int fd = open(cache->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &info) < 0) {
        status = error_set(err, fd < 0 && errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "%s: %s",
                           cache->path, strerror(errno));
    } else if (!S_ISREG(info.st_mode) || info.st_size == 0) {
        status = refuse(cache, err, "empty, or not a regular file");
    } else {
        void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED) {
            status = error_set(err, STATUS_IO, "%s: cannot map %lld bytes: %s", cache->path,
                               (long long)info.st_size, strerror(errno));
        } else {
            /* Where it is not in memory yet, it is read in huge pages if the file system has them. */
            (void)madvise(bytes, (size_t)info.st_size, MADV_HUGEPAGE);
            cache->bytes = bytes;
            cache->n_bytes = (size_t)info.st_size;
            cache->mapped = true;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return status;
}

enum status cache_open(struct cache **out, const char *path, const char *key, const char *content,
                       struct thread_pool *pool, struct error *err)
{
    char format[16];
    enum status status;
    struct cache *cache = calloc(1, sizeof *cache);
    *out = NULL;
    if (!cache) {
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", path);
    }
    cache->path = path;
    snprintf(format, sizeof format, "%d", (int)CACHE_FORMAT);
    /* What is damaged should be called so, and not by what its bytes happen to say. */
    if ((status = map_file(cache, err)) || (status = parse_header(cache, err)) ||
        (status = check_sums(cache, pool, err)) ||
        (status = check_metadata(cache, "any4.format", format, err)) ||
        (status = check_metadata(cache, "any4.key", key, err)) ||
        (status = check_metadata(cache, "any4.content", content, err)) ||
        (status = read_matrices(cache, err)) || (status = check_values(cache, pool, err))) {
        cache_close(cache);
        return status;
    }
    *out = cache;
    return STATUS_OK;
}

enum status cache_parse(struct cache **out, const unsigned char *bytes, size_t n_bytes, const char *path,
                        struct error *err)
{
    enum status status;
    struct cache *cache = calloc(1, sizeof *cache);
    *out = NULL;
    if (!cache) {
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", path);
    }
    *cache = (struct cache){.path = path, .bytes = bytes, .n_bytes = n_bytes};
    if ((status = parse_header(cache, err)) || (status = read_matrices(cache, err)) ||
        (status = check_values(cache, NULL, err))) {
        cache_close(cache);
        return status;
    }
    *out = cache;
    return STATUS_OK;
}

void cache_close(struct cache *cache)
{
    if (!cache) {
        return;
    }
    safetensors_header_close(cache->header);
    if (cache->mapped) {
        munmap((void *)(uintptr_t)cache->bytes, cache->n_bytes);
    }
    free(cache->entries);
    free(cache->names);
    free(cache);
}

const struct cache_entry *cache_find(const struct cache *cache, const char *name)
{
    const struct cache_entry key = {.name = name};
    return bsearch(&key, cache->entries, (size_t)cache->n_entries, sizeof key, compare_entries);
}

int64_t cache_n_entries(const struct cache *cache)
{
    return cache->n_entries;
}

const struct cache_entry *cache_at(const struct cache *cache, int64_t index)
{
    assert(index >= 0 && index < cache->n_entries);
    return &cache->entries[index];
}

size_t cache_bytes(const struct cache *cache)
{
    return cache->n_bytes;
}
