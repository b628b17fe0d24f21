/* Writes a cache file: under a name of its own first, so that no reader ever meets half a file, and no
 * failure harms the one that is there. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "engine/base/atomic_file.h"
#include "engine/base/safetensors.h"
#include "quant/cache.h"
#include "quant/cache_format.h"

/* Data is synced every so often: a writer that is cancelled never has more than that to wait for. */
enum { SYNC_BYTES = 256 << 20, BUFFER_BYTES = 2 << 20, NUMBER_TEXT = 40 };

/* Everything that the file holds, in order. */
struct plan {
    struct tensor *tensors;
    int64_t n_tensors;
    char *names;          /* CACHE_NAME_BYTES for each tensor */
    size_t payload_bytes; /* of all but the checksums */
    size_t n_blocks;
    char *list; /* any4.matrices */
};

struct writer {
    struct atomic_file file;
    unsigned char *buffer; /* BUFFER_BYTES, filled up to n_used */
    size_t n_used, n_written;
    struct hash_stream *stream; /* of the block that n_hashed bytes have come of */
    size_t n_hashed;
    struct hash *sums; /* header, blocks, the sums themselves */
    size_t n_sums;
    const atomic_bool *cancel;
};

/* ---- what to write ---- */

static bool add_integer(cJSON *object, const char *key, int64_t value)
{
    char text[NUMBER_TEXT];
    snprintf(text, sizeof text, "%" PRId64, value);
    return cJSON_AddRawToObject(object, key, text) != NULL;
}

/* 17 digits bring every double back as it was. */
static bool add_sum(cJSON *object, const char *key, double value)
{
    char text[NUMBER_TEXT];
    snprintf(text, sizeof text, "%.17g", value);
    return cJSON_AddRawToObject(object, key, text) != NULL;
}

static bool describe(cJSON *list, const struct cache_entry *entry)
{
    const struct any4_matrix *m = &entry->matrix;
    const struct quant_stats *s = &entry->stats;
    cJSON *object = cJSON_CreateObject();
    if (!object || !cJSON_AddItemToArray(list, object)) {
        cJSON_Delete(object);
        return false;
    }
    return cJSON_AddStringToObject(object, "name", entry->name) &&
           cJSON_AddStringToObject(object, "kind", cache_kinds[m->kind]) &&
           cJSON_AddStringToObject(object, "layout", cache_layouts[m->layout]) &&
           add_integer(object, "n_rows", m->n_rows) && add_integer(object, "n_cols", m->n_cols) &&
           add_integer(object, "code_bits", m->code_bits) &&
           add_integer(object, "group_size", m->group_size) &&
           add_sum(object, "weight_energy", s->weight_energy) &&
           add_sum(object, "error_energy", s->error_energy) &&
           add_sum(object, "weighted_energy", s->weighted_energy) &&
           add_sum(object, "weighted_error", s->weighted_error) &&
           add_sum(object, "max_row_error", s->max_row_error) &&
           add_integer(object, "worst_row", s->worst_row) &&
           add_integer(object, "total_code_bits", s->code_bits) &&
           add_integer(object, "total_table_bits", s->table_bits);
}

static char *describe_all(const struct cache_entry *entries, int64_t n)
{
    cJSON *list = cJSON_CreateArray();
    bool ok = list != NULL;
    for (int64_t i = 0; ok && i < n; i++) {
        ok = describe(list, &entries[i]);
    }
    char *text = ok ? cJSON_PrintUnformatted(list) : NULL;
    cJSON_Delete(list);
    return text;
}

static struct tensor *plan_tensor(struct plan *plan, const char *dtype, int64_t n_rows, int64_t n_cols,
                                  const void *data, size_t n_bytes)
{
    struct tensor *tensor = &plan->tensors[plan->n_tensors];
    *tensor = (struct tensor){.name = plan->names + plan->n_tensors * CACHE_NAME_BYTES,
                              .dtype_name = dtype,
                              .n_dims = 2,
                              .shape = {n_rows, n_cols},
                              .data = data,
                              .n_bytes = n_bytes};
    plan->n_tensors++;
    return tensor;
}

static enum status plan_entry(struct plan *plan, const struct cache_entry *entry, struct error *err)
{
    static const unsigned char zeros[CACHE_ALIGNMENT];
    struct cache_array arrays[CACHE_MAX_ARRAYS];
    const char *fault = cache_shape_fault(&entry->matrix);
    const struct quant_stats *s = &entry->stats;
    if (fault) {
        return error_set(err, STATUS_INVALID, "%s: %s", entry->name, fault);
    }
    if (!isfinite(s->weight_energy + s->error_energy + s->weighted_energy + s->weighted_error +
                  s->max_row_error)) {
        return error_set(err, STATUS_INVALID, "%s: its statistics are not finite", entry->name);
    }
    int32_t n = cache_arrays(arrays, &entry->matrix, entry->matrix.zeros != NULL);
    for (int32_t i = 0; i < n; i++) {
        const void *data;
        char *name = plan->names + plan->n_tensors * CACHE_NAME_BYTES;
        memcpy(&data, (const char *)&entry->matrix + arrays[i].offset, sizeof data);
        if (snprintf(name, CACHE_NAME_BYTES, "%s.%s", entry->name, arrays[i].name) >= CACHE_NAME_BYTES) {
            return error_set(err, STATUS_INVALID, "%.100s...: name too long", entry->name);
        }
        plan_tensor(plan, arrays[i].dtype, entry->matrix.n_rows, arrays[i].n_cols, data, arrays[i].n_bytes);
        plan->payload_bytes += arrays[i].n_bytes;
        size_t n_padding = cache_align(plan->payload_bytes) - plan->payload_bytes;
        if (n_padding) {
            name += CACHE_NAME_BYTES;
            snprintf(name, CACHE_NAME_BYTES, CACHE_PADDING ".%" PRId64, plan->n_tensors);
            plan_tensor(plan, "U8", 1, (int64_t)n_padding, zeros, n_padding);
            plan->payload_bytes += n_padding;
        }
    }
    return STATUS_OK;
}

static enum status plan_file(struct plan *plan, const struct cache_entry *entries, int64_t n_entries,
                             struct error *err)
{
    enum status status = STATUS_OK;
    size_t n_most = (size_t)n_entries * CACHE_MAX_ARRAYS * 2 + 1; /* each array with padding */
    if (n_entries > SAFETENSORS_MAX_TENSORS) {
        return error_set(err, STATUS_INVALID, "%" PRId64 " matrices, at most %d are cached", n_entries,
                         (int)SAFETENSORS_MAX_TENSORS);
    }
    plan->tensors = calloc(n_most, sizeof *plan->tensors);
    plan->names = calloc(n_most, CACHE_NAME_BYTES);
    if (!plan->tensors || !plan->names) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    }
    for (int64_t i = 0; !status && i < n_entries; i++) {
        status = plan_entry(plan, &entries[i], err);
    }
    if (status) {
        return status;
    }
    if (!(plan->list = describe_all(entries, n_entries))) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    }
    plan->n_blocks = plan->payload_bytes / CACHE_BLOCK_BYTES + (plan->payload_bytes % CACHE_BLOCK_BYTES > 0);
    if (plan->n_tensors >= SAFETENSORS_MAX_TENSORS) { /* what a reader would refuse */
        return error_set(err, STATUS_INVALID, "%" PRId64 " arrays, at most %d are cached", plan->n_tensors,
                         SAFETENSORS_MAX_TENSORS - 1);
    }
    snprintf(plan->names + plan->n_tensors * CACHE_NAME_BYTES, CACHE_NAME_BYTES, CACHE_CHECKSUMS);
    plan_tensor(plan, "U8", (int64_t)plan->n_blocks + 2, CACHE_HASH_BYTES, NULL,
                (plan->n_blocks + 2) * CACHE_HASH_BYTES);
    return status;
}

static void plan_finish(struct plan *plan)
{
    free(plan->tensors);
    free(plan->names);
    cJSON_free(plan->list);
}

static enum status format_header(char **out, size_t *n_bytes, const struct plan *plan,
                                 const struct cache_label *label, struct error *err)
{
    char format[16];
    snprintf(format, sizeof format, "%d", (int)CACHE_FORMAT);
    const struct safetensors_pair metadata[] = {
        {"any4.format", format},      {"any4.key", label->key},           {"any4.content", label->content},
        {"any4.model", label->model}, {"any4.settings", label->settings}, {"any4.matrices", plan->list},
    };
    return safetensors_header_format(out, n_bytes, plan->tensors, plan->n_tensors, metadata,
                                     sizeof metadata / sizeof *metadata, CACHE_ALIGNMENT, err);
}

/* ---- writing ---- */

static enum status write_error(const struct writer *w, struct error *err)
{
    return error_set(err, STATUS_IO, "%s: %s", w->file.temporary, strerror(errno));
}

/* Whole buffers at multiples of their size: file systems with large folios (ext4, XFS) keep such a file in
 * huge pages, and a map of it has them too. A gemv over 1.1 B parameters read from there takes what it takes
 * from huge pages of our own; it took 1.06 times that from a file written in pieces of 1 MiB. */
static enum status flush(struct writer *w, struct error *err)
{
    size_t before = w->n_written;
    if (w->cancel && atomic_load(w->cancel)) {
        return error_set(err, STATUS_UNAVAILABLE, "%s: stopped before it was complete", w->file.path);
    }
    enum status status = atomic_file_write(&w->file, w->buffer, w->n_used, err);
    w->n_written += w->n_used;
    w->n_used = 0;
    if (!status && before / SYNC_BYTES != w->n_written / SYNC_BYTES && fdatasync(w->file.fd)) {
        status = write_error(w, err);
    }
    return status;
}

static enum status write_bytes(struct writer *w, const void *bytes, size_t n, struct error *err)
{
    const unsigned char *at = bytes;
    enum status status = STATUS_OK;
    while (n && !status) {
        size_t room = BUFFER_BYTES - w->n_used, piece = n < room ? n : room;
        memcpy(w->buffer + w->n_used, at, piece);
        w->n_used += piece;
        at += piece;
        n -= piece;
        if (w->n_used == BUFFER_BYTES) {
            status = flush(w, err);
        }
    }
    return status;
}

static void end_block(struct writer *w)
{
    w->sums[w->n_sums++] = hash_stream_end(w->stream);
    w->n_hashed = 0;
}

/* The same for what stands under the checksums of blocks. */
static enum status write_data(struct writer *w, const void *bytes, size_t n, struct error *err)
{
    for (size_t done = 0; done < n;) {
        size_t room = CACHE_BLOCK_BYTES - w->n_hashed, piece = n - done < room ? n - done : room;
        hash_stream_add(w->stream, (const unsigned char *)bytes + done, piece);
        w->n_hashed += piece;
        done += piece;
        if (w->n_hashed == CACHE_BLOCK_BYTES) {
            end_block(w);
        }
    }
    return write_bytes(w, bytes, n, err);
}

static enum status write_file(struct writer *w, const struct plan *plan, const char *header,
                              size_t header_bytes, struct error *err)
{
    enum status status;
    const struct tensor *sums = &plan->tensors[plan->n_tensors - 1];
    off_t size = (off_t)(header_bytes + plan->payload_bytes + sums->n_bytes);
    /* A full disk is found before it is filled. Where a file system cannot tell, writing will. */
    if (fallocate(w->file.fd, 0, 0, size) && (errno == ENOSPC || errno == EFBIG || errno == EDQUOT)) {
        return write_error(w, err);
    }
    w->sums[w->n_sums++] = hash_bytes(header, header_bytes);
    status = write_bytes(w, header, header_bytes, err);
    for (int64_t i = 0; !status && i < plan->n_tensors - 1; i++) {
        status = write_data(w, plan->tensors[i].data, plan->tensors[i].n_bytes, err);
    }
    if (!status) {
        if (w->n_hashed) {
            end_block(w);
        }
        assert(w->n_sums == plan->n_blocks + 1);
        w->sums[w->n_sums] = hash_bytes(w->sums, w->n_sums * sizeof *w->sums);
        status = write_bytes(w, w->sums, sums->n_bytes, err);
    }
    return status ? status : flush(w, err);
}

enum status cache_file_bytes(size_t *out, const struct cache_label *label, const struct cache_entry *entries,
                             int64_t n_entries, struct error *err)
{
    struct plan plan = {0};
    char *header = NULL;
    size_t header_bytes = 0;
    enum status status = plan_file(&plan, entries, n_entries, err);
    *out = 0;
    if (!status && !(status = format_header(&header, &header_bytes, &plan, label, err))) {
        *out = header_bytes + plan.payload_bytes + plan.tensors[plan.n_tensors - 1].n_bytes;
    }
    free(header);
    plan_finish(&plan);
    return status;
}

enum status cache_write(const char *path, const struct cache_label *label, const struct cache_entry *entries,
                        int64_t n_entries, const atomic_bool *cancel, size_t *n_bytes, struct error *err)
{
    struct plan plan = {0};
    struct writer w = {.cancel = cancel};
    char *header = NULL;
    size_t header_bytes = 0;
    enum status status;
    *n_bytes = 0;
    if ((status = plan_file(&plan, entries, n_entries, err)) ||
        (status = format_header(&header, &header_bytes, &plan, label, err))) {
        goto cleanup;
    }
    w.buffer = malloc(BUFFER_BYTES);
    w.stream = hash_stream_open();
    w.sums = calloc(plan.n_blocks + 2, sizeof *w.sums);
    if (!w.buffer || !w.stream || !w.sums) {
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", path);
        goto cleanup;
    }
    if ((status = atomic_file_open(&w.file, path, err))) {
        goto cleanup;
    }
    if ((status = write_file(&w, &plan, header, header_bytes, err))) {
        atomic_file_abandon(&w.file);
    } else if (!(status = atomic_file_commit(&w.file, err))) {
        *n_bytes = w.n_written;
    }
cleanup:
    free(w.sums);
    free(w.buffer);
    hash_stream_close(w.stream);
    free(header);
    plan_finish(&plan);
    return status;
}
