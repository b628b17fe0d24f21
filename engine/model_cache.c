/* Key, content, note, hit, write. Whatever fails here costs a start its speed and nothing else. */
#include "engine/model_cache.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/atomic_file.h"
#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/cache_folder.h"
#include "quant/cache.h"

enum { PATH_BYTES = ATOMIC_FILE_PATH_BYTES, BLOCK_BYTES = 1 << 20, CONFIG_LIMIT = 64 << 20 };

/* "any4-source 1 STAMPS CONTENT CHECKSUM\n", the last of all before it. */
static const char note_head[] = "any4-source 1 ";
enum {
    NOTE_CHECKED = sizeof note_head - 1 + 2 * HASH_TEXT_BYTES,
    NOTE_BYTES = NOTE_CHECKED + HASH_TEXT_BYTES
};

struct model_cache {
    const struct model *model;
    struct cache *file;                              /* of a hit */
    const char *state;                               /* as in struct engine_info */
    char reason[sizeof((struct error *)0)->message]; /* why it is rebuilt */
    const char *method;
    char key[HASH_TEXT_BYTES];
    char stamps[HASH_TEXT_BYTES];  /* sizes and times of the shards */
    char content[HASH_TEXT_BYTES]; /* "" until it is known */
    char noted[HASH_TEXT_BYTES];   /* what the folder had when its last note was written, "" without one */
    char settings[256];
    char folder[PATH_BYTES]; /* of the cache */
    char source[PATH_BYTES]; /* the model's folder, absolute */
    char note[PATH_BYTES];
    char path[PATH_BYTES]; /* "" until content is known */
    size_t max_bytes;      /* of all cached models; 0: no limit */

    pthread_t thread;
    bool started, joined;
    atomic_bool cancel;
    atomic_int n_done_with_weights; /* of the writing thread and whoever has called release_weights */
    struct model *to_free;          /* what the latter gave */
    struct engine_cache_result result;
};

/* Whole or, when it is too long, empty: a cut path would name another file. */
__attribute__((format(printf, 2, 3))) static bool format_path(char out[PATH_BYTES], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(out, PATH_BYTES, format, args);
    va_end(args);
    if (n < 0 || n >= PATH_BYTES) {
        out[0] = '\0';
        return false;
    }
    return true;
}

static bool file_path(char out[PATH_BYTES], const struct model_cache *cache, const char *content)
{
    return format_path(out, "%s/%s-%s-%s.safetensors", cache->folder, cache->method, cache->key, content);
}

/* ---- key and stamps ---- */

static void add_integer(struct hash *hash, int64_t value)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++) {
        bytes[i] = (unsigned char)((uint64_t)value >> 8 * i);
    }
    hash_add(hash, bytes, sizeof bytes);
}

static void add_tensors(struct hash *hash, const struct safetensors *st)
{
    add_integer(hash, safetensors_n_tensors(st));
    for (int64_t i = 0; i < safetensors_n_tensors(st); i++) {
        const struct tensor *tensor = safetensors_at(st, i);
        hash_add_text(hash, tensor->name);
        hash_add_text(hash, tensor->dtype_name);
        hash_add(hash, tensor->shape, (size_t)tensor->n_dims * sizeof tensor->shape[0]);
    }
    add_integer(hash, safetensors_n_files(st));
    for (int32_t i = 0; i < safetensors_n_files(st); i++) {
        add_integer(hash, (int64_t)safetensors_file(st, i)->n_bytes);
    }
}

static enum status make_key(struct model_cache *cache, const struct engine_options *options,
                            struct error *err)
{
    const struct model *model = cache->model;
    const struct quant_settings *quant = &options->quant;
    struct hash hash = {{0}};
    char path[PATH_BYTES], *config = NULL;
    size_t config_bytes = 0;
    if (!format_path(path, "%s/config.json", options->model_dir)) {
        return error_set(err, STATUS_INVALID, "%.200s...: path too long", options->model_dir);
    }
    enum status status = file_read(&config, &config_bytes, path, CONFIG_LIMIT, err);
    if (status) {
        return status;
    }
    hash_add_text(&hash, "any4 quantized model");
    add_integer(&hash, CACHE_FORMAT);
    add_integer(&hash, QUANT_VERSION);
    hash_add(&hash, config, config_bytes);
    hash_add_text(&hash, options->config_override ? options->config_override : "");
    add_tensors(&hash, model->tensors);
    hash_add_text(&hash, cache->method);
    add_integer(&hash, quant_group_size(quant));
    hash_add_text(&hash, quant_weighting_name(quant_weighting_of(quant)));
    add_integer(&hash,
                quant->method == QUANT_ANY4_PAPER ? (int64_t)quant->seed : 0); /* others draw nothing */
    add_integer(&hash, options->error_feedback);
    add_integer(&hash, options->rotation);
    add_integer(&hash, options->channel_scaling);
    hash_add(&hash, &options->bits_per_weight, sizeof options->bits_per_weight);
    for (int64_t i = 0; i < model->n_linears; i++) {
        hash_add_text(&hash, model->linears[i].quantize ? model->linears[i].name : "");
    }
    hash_add(&hash, options->calib_ids, (size_t)options->n_calib_ids * sizeof *options->calib_ids);
    hash_text(cache->key, &hash);
    free(config);
    return STATUS_OK;
}

static void make_stamps(struct model_cache *cache)
{
    const struct safetensors *st = cache->model->tensors;
    struct hash hash = {{0}};
    for (int32_t i = 0; i < safetensors_n_files(st); i++) {
        const struct safetensors_file *file = safetensors_file(st, i);
        add_integer(&hash, (int64_t)file->n_bytes);
        add_integer(&hash, file->mtime_ns);
        add_integer(&hash, file->ctime_ns);
    }
    hash_text(cache->stamps, &hash);
}

/* ---- content ---- */

/* Read and not mapped: gigabytes of the source would count as this process's memory. */
struct content_job {
    const struct safetensors_file *file;
    int fd;
    unsigned char *buffers; /* BLOCK_BYTES for each thread */
    struct hash *sums;      /* one for each block */
    const atomic_bool *cancel;
    atomic_bool failed;
};

static bool read_block(const struct content_job *job, unsigned char *out, size_t n, off_t at)
{
    while (n) {
        ssize_t got = pread(job->fd, out, n, at);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return false;
        }
        out += got;
        at += got;
        n -= (size_t)got;
    }
    return true;
}

static void hash_blocks(void *context, int64_t begin, int64_t end, int32_t thread)
{
    struct content_job *job = context;
    unsigned char *buffer = job->buffers + (size_t)thread * BLOCK_BYTES;
    for (int64_t block = begin; block < end; block++) {
        size_t at = (size_t)block * BLOCK_BYTES, left = job->file->n_bytes - at;
        size_t n = left < BLOCK_BYTES ? left : BLOCK_BYTES;
        if (atomic_load(job->cancel) || atomic_load(&job->failed) || !read_block(job, buffer, n, (off_t)at)) {
            atomic_store(&job->failed, true);
            return;
        }
        job->sums[block] = hash_bytes(buffer, n);
    }
}

static enum status hash_file(struct hash *hash, struct content_job *job, struct thread_pool *pool,
                             struct error *err)
{
    enum status status = STATUS_OK;
    size_t n_blocks = job->file->n_bytes / BLOCK_BYTES + (job->file->n_bytes % BLOCK_BYTES > 0);
    job->sums = calloc(n_blocks + 1, sizeof *job->sums);
    job->fd = open(job->file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (!job->sums) {
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", job->file->path);
    } else if (job->fd < 0) {
        status = error_set(err, STATUS_IO, "%s: %s", job->file->path, strerror(errno));
    } else {
        thread_pool_run_dynamic(pool, (int64_t)n_blocks, 1, hash_blocks, job);
        if (atomic_load(job->cancel)) {
            status = error_set(err, STATUS_UNAVAILABLE, "stopped before it was complete");
        } else if (atomic_load(&job->failed) || !safetensors_file_unchanged(job->file, job->fd)) {
            /* What was quantized is the file that was opened. */
            status = error_set(err, STATUS_IO, "%s has changed since it was opened", job->file->path);
        }
        add_integer(hash, (int64_t)job->file->n_bytes);
        hash_add(hash, job->sums, n_blocks * sizeof *job->sums);
    }
    if (job->fd >= 0) {
        close(job->fd);
    }
    free(job->sums);
    return status;
}

static enum status find_content(struct model_cache *cache, struct thread_pool *pool, struct error *err)
{
    const struct safetensors *st = cache->model->tensors;
    struct content_job job = {.cancel = &cache->cancel};
    struct hash hash = {{0}};
    enum status status = STATUS_OK;
    job.buffers = malloc((size_t)thread_pool_n_threads(pool) * BLOCK_BYTES);
    if (!job.buffers) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    }
    for (int32_t i = 0; !status && i < safetensors_n_files(st); i++) {
        job.file = safetensors_file(st, i);
        status = hash_file(&hash, &job, pool, err);
    }
    free(job.buffers);
    if (!status) {
        hash_text(cache->content, &hash);
        if (!file_path(cache->path, cache, cache->content)) {
            status = error_set(err, STATUS_INVALID, "%.200s...: path too long", cache->folder);
        }
    }
    return status;
}

/* ---- the note ---- */

static void format_note(char out[NOTE_BYTES + 1], const char *stamps, const char *content)
{
    char check[HASH_TEXT_BYTES];
    snprintf(out, NOTE_BYTES + 1, "%s%s %s ", note_head, stamps, content);
    struct hash hash = hash_bytes(out, NOTE_CHECKED);
    hash_text(check, &hash);
    snprintf(out + NOTE_CHECKED, HASH_TEXT_BYTES + 1, "%s\n", check);
}

/* A note that is not exactly as we write it is none. */
static bool parse_note(char stamps[HASH_TEXT_BYTES], char content[HASH_TEXT_BYTES], const char *path)
{
    static const char digits[] = "0123456789abcdef";
    char *text = NULL, expected[NOTE_BYTES + 1];
    size_t n = 0;
    bool whole = false;
    if (!file_read(&text, &n, path, NOTE_BYTES, NULL) && n == NOTE_BYTES) {
        const char *first = text + strlen(note_head);
        snprintf(stamps, HASH_TEXT_BYTES, "%.*s", HASH_TEXT_BYTES - 1, first);
        snprintf(content, HASH_TEXT_BYTES, "%.*s", HASH_TEXT_BYTES - 1, first + HASH_TEXT_BYTES);
        format_note(expected, stamps, content);
        whole = !memcmp(text, expected, NOTE_BYTES) && strspn(content, digits) == HASH_TEXT_BYTES - 1;
    }
    free(text);
    return whole;
}

static bool note_content(char *out, const char *path)
{
    char stamps[HASH_TEXT_BYTES];
    return parse_note(stamps, out, path);
}

/* A note's content counts while the stamps are the same. */
static void read_note(struct model_cache *cache, bool trust)
{
    char stamps[HASH_TEXT_BYTES], content[HASH_TEXT_BYTES];
    if (parse_note(stamps, content, cache->note)) {
        memcpy(cache->noted, content, sizeof content);
        if (trust && !strcmp(stamps, cache->stamps) && file_path(cache->path, cache, content)) {
            memcpy(cache->content, content, sizeof content);
        }
    }
}

/* Costs the next start a reading of the shards when it fails. */
static void write_note(const struct model_cache *cache)
{
    char text[NOTE_BYTES + 1];
    struct atomic_file file;
    format_note(text, cache->stamps, cache->content);
    if (atomic_file_open(&file, cache->note, NULL)) {
        return;
    }
    if (atomic_file_write(&file, text, NOTE_BYTES, NULL)) {
        atomic_file_abandon(&file);
    } else {
        (void)atomic_file_commit(&file, NULL);
    }
}

/* ---- looking ---- */

/* Whether the folder has any file of the key: without one the content does not matter yet. */
static bool key_is_there(const struct model_cache *cache)
{
    char prefix[PATH_BYTES];
    bool found = false;
    DIR *dir = opendir(cache->folder);
    format_path(prefix, "%s-%s-", cache->method, cache->key);
    for (struct dirent *entry; dir && !found && (entry = readdir(dir));) {
        found = !strncmp(entry->d_name, prefix, strlen(prefix));
    }
    if (dir) {
        closedir(dir);
    }
    return found;
}

/* Scales of channels are kept beside the linears that were multiplied by them. */
static const char scales_name[] = "channel_scales";

static struct any4_matrix scales_matrix(const struct model *model)
{
    const struct model_config *c = &model->config;
    return (struct any4_matrix){.kind = ANY4_F32,
                                .layout = ANY4_LAYOUT_ROW_MAJOR,
                                .n_rows = 2 * c->n_layers + 1,
                                .n_cols = c->dim,
                                .row_bytes = (size_t)c->dim * sizeof(float),
                                .codes = (const uint8_t *)model->channel_scales};
}

static enum status fill_scales(struct model *model, const struct cache *file, const char *path,
                               struct error *err)
{
    const struct any4_matrix expected = scales_matrix(model);
    const struct cache_entry *entry = cache_find(file, scales_name);
    bool ok = entry && entry->matrix.kind == expected.kind && entry->matrix.n_rows == expected.n_rows &&
              entry->matrix.n_cols == expected.n_cols;
    const float *scales = ok ? (const float *)entry->matrix.codes : NULL;
    const int64_t n = (int64_t)expected.n_rows * expected.n_cols;
    for (int64_t i = 0; ok && i < n; i++) {
        ok = scales[i] > 0 && isfinite(scales[i]);
    }
    if (!ok) {
        return error_set(err, STATUS_BAD_MODEL, "%s: no %s of the model's shape (%d, %d), positive", path,
                         scales_name, (int)expected.n_rows, (int)expected.n_cols);
    }
    memcpy(model->channel_scales, scales, (size_t)n * sizeof *scales);
    return STATUS_OK;
}

static enum status fill_linears(struct model *model, const struct cache *file, const char *path,
                                struct error *err)
{
    for (int64_t i = 0; i < model->n_linears; i++) {
        const struct linear *linear = &model->linears[i];
        const struct cache_entry *entry = linear->quantize ? cache_find(file, linear->name) : NULL;
        if (linear->quantize && (!entry || entry->matrix.n_rows != linear->w.n_rows ||
                                 entry->matrix.n_cols != linear->w.n_cols)) {
            return error_set(err, STATUS_BAD_MODEL, "%s: no %s of the model's shape (%d, %d)", path,
                             linear->name, (int)linear->w.n_rows, (int)linear->w.n_cols);
        }
    }
    enum status status = model->channel_scales ? fill_scales(model, file, path, err) : STATUS_OK;
    for (int64_t i = 0; i < model->n_linears && !status; i++) {
        struct linear *linear = &model->linears[i];
        if (linear->quantize) {
            const struct cache_entry *entry = cache_find(file, linear->name);
            linear->w = entry->matrix;
            linear->stats = entry->stats;
        }
    }
    return status;
}

static enum status open_file(struct model_cache *cache, struct model *model, struct thread_pool *pool,
                             struct error *err)
{
    enum status status = cache_open(&cache->file, cache->path, cache->key, cache->content, pool, err);
    if (!status && (status = fill_linears(model, cache->file, cache->path, err))) {
        cache_close(cache->file);
        cache->file = NULL;
    }
    return status;
}

static void set_rebuilt(struct model_cache *cache, const char *reason)
{
    cache->state = "rebuilt";
    snprintf(cache->reason, sizeof cache->reason, "%s", reason);
    log_warning("quant cache: rebuilt because %s", reason);
}

static void look(struct model_cache *cache, struct model *model, bool verify, struct thread_pool *pool)
{
    struct error err = {0};
    char superseded[PATH_BYTES];
    double begin = clock_seconds();
    cache->state = "miss";
    read_note(cache, !verify);
    if (!key_is_there(cache)) {
        log_info("quant cache: miss, nothing for this model and these settings in %s", cache->folder);
        return;
    }
    bool known = cache->content[0];
    if (!known) {
        log_info("quant cache: reading the model's files: %s", verify            ? "verify_cache is on"
                                                               : cache->noted[0] ? "their times have changed"
                                                                                 : "this folder is new here");
        if (find_content(cache, pool, &err)) {
            set_rebuilt(cache, err.message);
            return;
        }
    }
    enum status status = open_file(cache, model, pool, &err);
    if (!status) {
        if (!known) { /* the next start knows it by the new times */
            write_note(cache);
        }
        cache_folder_touch(cache->path);
        cache->state = "hit";
        cache->result = (struct engine_cache_result){
            .path = cache->path, .n_bytes = cache_bytes(cache->file), .seconds = clock_seconds() - begin};
        log_info("quant cache: hit, %s (%.1f MB in %.2f s)", cache->path,
                 1e-6 * (double)cache->result.n_bytes, cache->result.seconds);
    } else if (status != STATUS_NOT_FOUND) {
        set_rebuilt(cache, err.message);
    } else if (cache->noted[0] && strcmp(cache->noted, cache->content) &&
               file_path(superseded, cache, cache->noted) && access(superseded, F_OK) == 0) {
        set_rebuilt(cache, "the model's files have changed");
    } else {
        log_info("quant cache: miss, nothing for these weights in %s", cache->folder);
    }
}

struct model_cache *model_cache_open(struct model *model, const struct engine_options *options,
                                     struct thread_pool *pool)
{
    struct error err = {0};
    bool any = false;
    for (int64_t i = 0; i < model->n_linears; i++) {
        any = any || model->linears[i].quantize;
    }
    if (!options->quant_cache || !any) {
        return NULL;
    }
    struct model_cache *cache = calloc(1, sizeof *cache);
    char *source = realpath(options->model_dir, NULL);
    if (!cache || !source) {
        log_warning("quant cache: going on without: %s", strerror(errno));
        free(source);
        free(cache);
        return NULL;
    }
    cache->model = model;
    cache->method = quant_method_name(options->quant.method);
    cache->max_bytes = options->quant_cache_max_bytes;
    snprintf(
        cache->settings, sizeof cache->settings,
        "quant %s, group_size %d, quant_weighting %s, quant_seed %" PRIu64
        ", %d calibration tokens, rotation %s, channel_scaling %s, error_feedback %s, bits_per_weight %g",
        cache->method, (int)quant_group_size(&options->quant),
        quant_weighting_name(quant_weighting_of(&options->quant)), options->quant.seed,
        (int)options->n_calib_ids, options->rotation ? "on" : "off", options->channel_scaling ? "on" : "off",
        options->error_feedback ? "on" : "off", options->bits_per_weight);
    struct hash hash = hash_bytes(source, strlen(source));
    char name[HASH_TEXT_BYTES];
    hash_text(name, &hash);
    make_stamps(cache);
    if (!format_path(cache->source, "%s", source) ||
        !format_path(cache->folder, "%s", options->quant_cache) ||
        !format_path(cache->note, "%s/%s.source", cache->folder, name)) {
        error_set(&err, STATUS_INVALID, "%.200s...: path too long", options->quant_cache);
    } else {
        make_key(cache, options, &err);
    }
    free(source);
    if (err.status) {
        log_warning("quant cache: going on without: %s", err.message);
        free(cache);
        return NULL;
    }
    look(cache, model, options->verify_cache, pool);
    return cache;
}

bool model_cache_is_hit(const struct model_cache *cache)
{
    return cache && cache->file;
}

/* ---- writing ---- */

/* As mkdir -p; folders that did not exist are for this user alone. */
static enum status make_folder(const char *path, struct error *err)
{
    char part[PATH_BYTES];
    for (const char *at = path; *at;) {
        at += strspn(at, "/");
        at += strcspn(at, "/");
        snprintf(part, sizeof part, "%.*s", (int)(at - path), path);
        if (mkdir(part, 0700) && errno != EEXIST) {
            return error_set(err, STATUS_IO, "%s: %s", part, strerror(errno));
        }
    }
    return STATUS_OK;
}

/* A path for people, in a file that holds UTF-8 only: bytes that are no printable ASCII as %XX. */
static void spell_path(char *out, size_t size, const char *path)
{
    size_t used = 0;
    for (; *path && used + 4 < size; path++) {
        unsigned char byte = (unsigned char)*path;
        used += (size_t)snprintf(out + used, size - used, byte > 0x20 && byte < 0x7f ? "%c" : "%%%02X", byte);
    }
    out[used] = 0;
}

static enum status write_file(struct model_cache *cache, struct error *err)
{
    const struct model *model = cache->model;
    char spelled[PATH_BYTES];
    spell_path(spelled, sizeof spelled, cache->source);
    struct cache_label label = {.model = spelled, .settings = cache->settings};
    struct cache_entry *entries = calloc((size_t)model->n_linears + 1, sizeof *entries);
    int64_t n = 0;
    if (!entries) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    }
    for (int64_t i = 0; i < model->n_linears; i++) {
        const struct linear *linear = &model->linears[i];
        if (linear->quantize) {
            entries[n++] = (struct cache_entry){linear->name, linear->w, linear->stats};
        }
    }
    if (model->channel_scales) {
        entries[n++] = (struct cache_entry){.name = scales_name, .matrix = scales_matrix(model)};
    }
    memcpy(label.key, cache->key, sizeof label.key);
    memcpy(label.content, cache->content, sizeof label.content);
    enum status status = STATUS_OK;
    size_t n_bytes = 0;
    if (cache->max_bytes && !(status = cache_file_bytes(&n_bytes, &label, entries, n, err)) &&
        n_bytes > cache->max_bytes) {
        status = error_set(err, STATUS_INVALID,
                           "this model takes %zu bytes, quant_cache_max_bytes allows %zu for all", n_bytes,
                           cache->max_bytes);
    }
    status = status
                 ? status
                 : cache_write(cache->path, &label, entries, n, &cache->cancel, &cache->result.n_bytes, err);
    free(entries);
    return status;
}

/* What this folder had before: its shards are gone. A copy of it may have them still, as far as notes tell,
 * which nobody removes with their folders. */
static void remove_superseded(const struct model_cache *cache)
{
    char superseded[PATH_BYTES];
    if (cache->noted[0] && strcmp(cache->noted, cache->content) &&
        file_path(superseded, cache, cache->noted) &&
        !cache_folder_has_note(cache->folder, cache->noted, cache->note, note_content)) {
        (void)unlink(superseded);
    }
}

/* The second of two frees. */
static void done_with_weights(struct model_cache *cache)
{
    if (atomic_fetch_add(&cache->n_done_with_weights, 1) == 1) {
        model_free_weights(cache->to_free);
    }
}

static void *write_main(void *argument)
{
    struct model_cache *cache = argument;
    struct engine_cache_result *result = &cache->result;
    struct error err = {0};
    double begin = clock_seconds();
    enum status status = make_folder(cache->folder, &err);
    if (!status && !cache->content[0]) {
        status = find_content(cache, NULL, &err);
    }
    if (!status && !(status = write_file(cache, &err))) {
        write_note(cache);
        remove_superseded(cache);
        if (cache->max_bytes && cache_folder_trim(cache->folder, cache->path, cache->max_bytes, &err)) {
            log_warning("quant cache: larger than quant_cache_max_bytes: %s", err.message);
        }
    }
    result->status = status;
    result->seconds = clock_seconds() - begin;
    if (status) {
        snprintf(result->message, sizeof result->message, "%s", err.message);
        log_message(status == STATUS_UNAVAILABLE ? LOG_INFO : LOG_WARNING,
                    "quant cache: going on without: %s", err.message);
    } else {
        result->path = cache->path;
        log_info("quant cache: wrote %s (%.1f MB in %.2f s)", cache->path, 1e-6 * (double)result->n_bytes,
                 result->seconds);
    }
    done_with_weights(cache);
    return NULL;
}

void model_cache_start_write(struct model_cache *cache)
{
    if (!cache || cache->file) {
        return;
    }
    cache->started = pthread_create(&cache->thread, NULL, write_main, cache) == 0;
    if (!cache->started) {
        cache->result.status = STATUS_IO;
        snprintf(cache->result.message, sizeof cache->result.message, "cannot start a thread");
        log_warning("quant cache: going on without: cannot start a thread");
    }
}

void model_cache_release_weights(struct model_cache *cache, struct model *model)
{
    if (!cache || !cache->started) {
        model_free_weights(model);
        return;
    }
    assert(!cache->to_free);
    cache->to_free = model;
    done_with_weights(cache);
}

static void join(struct model_cache *cache)
{
    if (cache->started && !cache->joined) {
        pthread_join(cache->thread, NULL);
        cache->joined = true;
    }
}

void model_cache_wait(struct model_cache *cache, struct engine_cache_result *out)
{
    struct engine_cache_result unread;
    out = out ? out : &unread;
    if (!cache) {
        *out = (struct engine_cache_result){.status = STATUS_UNAVAILABLE, .message = "there is no cache"};
        return;
    }
    join(cache);
    *out = cache->result;
}

void model_cache_describe(const struct model_cache *cache, struct engine_info *info)
{
    info->quant_cache = cache ? cache->state : "off";
    info->cache_reason = cache ? cache->reason : "";
    info->cache_path = model_cache_is_hit(cache) ? cache->path : "";
}

void model_cache_close(struct model_cache *cache)
{
    if (cache) {
        atomic_store(&cache->cancel, true);
        join(cache);
        cache_close(cache->file);
        free(cache);
    }
}
