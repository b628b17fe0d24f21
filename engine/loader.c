/* Loading: one linear at a time is read, quantized by all threads, and its pages are given back, so that the
 * peak is the quantized model plus about one tensor. */
#include "engine/loader.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/calibrate.h"
#include "engine/channel_scaling.h"
#include "engine/model_cache.h"
#include "engine/rotation.h"
#include "engine/sensitivity.h"
#include "engine/widths.h"

enum { HUGE_PAGE_BYTES = 2 << 20 };

static size_t dtype_bytes(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? 4 : 2;
}

/* The file's own pages serve where its elements are aligned: safetensors files written by others need not be.
 */
static bool served_in_place(const struct tensor *tensor)
{
    return (uintptr_t)tensor->data % dtype_bytes(tensor->dtype) == 0;
}

void loader_plan(const struct model *model, const struct engine_options *options, size_t *placed_bytes,
                 size_t *kept_bytes)
{
    *placed_bytes = 0;
    *kept_bytes = model->embedding->n_bytes;
    for (int64_t i = 0; i < model->n_linears; i++) {
        const struct linear *linear = &model->linears[i];
        if (linear->quantize) {
            *placed_bytes += quant_matrix_bytes(&options->quant, linear->w.n_rows, linear->w.n_cols);
        } else if (options->rotation) {
            *kept_bytes += (size_t)linear->source->n_elements * sizeof(float);
        } else if (linear->source != model->embedding) {
            *kept_bytes += linear->source->n_bytes;
        }
    }
}

/* Large blocks on huge pages: worth 1.3x and more in decode, where every weight is read once a token. */
static void *place(size_t bytes)
{
    size_t alignment = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 64;
    void *memory = NULL;
    if (posix_memalign(&memory, alignment, bytes)) {
        return NULL;
    }
    if (bytes >= HUGE_PAGE_BYTES) {
        madvise(memory, bytes, MADV_HUGEPAGE);
    }
    return memory;
}

/* Where the rows of a linear come from. */
struct row_source {
    const struct linear *linear;
    float *matrix; /* (n_rows, n_cols) of one that writes a rotated stream, else NULL */
};

static void read_rows(void *source, float *out, int32_t row_begin, int32_t row_end)
{
    const struct row_source *rows = source;
    const struct linear *linear = rows->linear;
    const int64_t n_cols = linear->w.n_cols, n = (row_end - row_begin) * n_cols;
    if (rows->matrix) {
        memcpy(out, rows->matrix + row_begin * n_cols, (size_t)n * sizeof *out);
        return;
    }
    tensor_to_f32(out, linear->source, row_begin * n_cols, n);
    for (float *row = out; linear->folded_norm && row < out + n; row += n_cols) {
        for (int64_t j = 0; j < n_cols; j++) {
            row[j] *= linear->folded_norm[j];
        }
        rotation_apply(row, (int32_t)n_cols);
    }
    for (float *row = out; linear->column_scales && row < out + n; row += n_cols) {
        for (int64_t j = 0; j < n_cols; j++) {
            row[j] *= linear->column_scales[j];
        }
    }
}

struct rotate_job {
    float *matrix;
    int32_t n_rows;
    int64_t n_cols;
};

static void rotate_columns(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct rotate_job *job = context;
    (void)thread;
    rotation_apply_columns(job->matrix, job->n_rows, job->n_cols, begin, end);
}

/* free() of rows->matrix is the caller's. */
static enum status open_rows(struct row_source *rows, const struct linear *linear, struct thread_pool *pool,
                             struct error *err)
{
    const struct tensor *tensor = linear->source;
    *rows = (struct row_source){.linear = linear};
    if (!linear->writes_stream) {
        return STATUS_OK;
    }
    float *matrix = place((size_t)tensor->n_elements * sizeof *matrix);
    if (!matrix) {
        return error_set(err, STATUS_NO_MEMORY, "%s: no memory to rotate tensor %s", tensor->path,
                         tensor->name);
    }
    read_rows(rows, matrix, 0, linear->w.n_rows);
    struct rotate_job job = {matrix, linear->w.n_rows, linear->w.n_cols};
    thread_pool_run(pool, job.n_cols, 64, rotate_columns, &job);
    rows->matrix = matrix;
    return STATUS_OK;
}

/* Kept as it is stored but for the rotation: f32. */
static enum status load_rotated(struct linear *linear, struct thread_pool *pool, struct error *err)
{
    const struct tensor *tensor = linear->source;
    struct row_source rows;
    enum status status = open_rows(&rows, linear, pool, err);
    if (status) {
        return status;
    }
    if (!(linear->memory = rows.matrix)) {
        if (!(linear->memory = place((size_t)tensor->n_elements * sizeof(float)))) {
            return error_set(err, STATUS_NO_MEMORY, "%s: no memory to rotate tensor %s", tensor->path,
                             tensor->name);
        }
        read_rows(&rows, linear->memory, 0, linear->w.n_rows);
    }
    linear->w.kind = ANY4_F32;
    linear->w.layout = ANY4_LAYOUT_ROW_MAJOR;
    linear->w.row_bytes = (size_t)linear->w.n_cols * sizeof(float);
    linear->w.codes = linear->memory;
    return STATUS_OK;
}

static enum status load_as_stored(struct linear *linear, struct error *err)
{
    const struct tensor *tensor = linear->source;
    const uint8_t *data = tensor->data;
    if (!served_in_place(tensor)) {
        if (!(linear->memory = place(tensor->n_bytes))) {
            return error_set(err, STATUS_NO_MEMORY, "%s: no memory for tensor %s (%zu bytes)", tensor->path,
                             tensor->name, tensor->n_bytes);
        }
        memcpy(linear->memory, tensor->data, tensor->n_bytes);
        data = linear->memory;
    }
    linear->w.kind = tensor->dtype == DTYPE_F32   ? ANY4_F32
                     : tensor->dtype == DTYPE_F16 ? ANY4_F16
                                                  : ANY4_BF16;
    linear->w.layout = ANY4_LAYOUT_ROW_MAJOR;
    linear->w.row_bytes = (size_t)linear->w.n_cols * dtype_bytes(tensor->dtype);
    linear->w.codes = data;
    return STATUS_OK;
}

/* Weights that are used as stored are looked through once, so that a damaged model is refused by name here
 * and not found out by its answers. */
struct finite_job {
    const struct tensor *tensor;
    _Atomic int64_t first_bad; /* index of the first element that is not finite */
};

static void check_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    enum { CHUNK = 1024 };
    struct finite_job *job = context;
    int64_t n_cols = job->tensor->shape[1];
    float values[CHUNK];
    (void)thread;
    for (int64_t at = begin * n_cols; at < end * n_cols && at < job->first_bad; at += CHUNK) {
        int64_t n = end * n_cols - at < CHUNK ? end * n_cols - at : CHUNK;
        float sum = 0; /* stays 0 unless a value times 0 is NaN: NaN and infinities alike */
        tensor_to_f32(values, job->tensor, at, n);
        for (int64_t i = 0; i < n; i++) {
            sum += values[i] * 0.0f;
        }
        for (int64_t i = 0; isnan(sum) && i < n; i++) {
            int64_t known = job->first_bad;
            while (!isfinite(values[i]) && at + i < known &&
                   !atomic_compare_exchange_weak(&job->first_bad, &known, at + i)) {
            }
        }
    }
}

static enum status check_finite(const struct tensor *tensor, struct thread_pool *pool, struct error *err)
{
    struct finite_job job = {tensor, INT64_MAX};
    thread_pool_run(pool, tensor->shape[0], 1, check_rows, &job);
    if (job.first_bad != INT64_MAX) {
        return error_set(err, STATUS_QUANTIZE, "%s: tensor %s is not finite at row %lld, column %lld",
                         tensor->path, tensor->name, (long long)(job.first_bad / tensor->shape[1]),
                         (long long)(job.first_bad % tensor->shape[1]));
    }
    return STATUS_OK;
}

/* What is handed along while linears are loaded. */
struct loading {
    struct model *model;
    const struct engine_options *options;
    struct thread_pool *pool;
    double done, total; /* weights */
    double linear_seconds;
    struct width_costs *costs; /* (n_linears) while widths are measured */
    bool keeps_scales;         /* channels have theirs from an earlier run */
};

/* Quantizes by a method of its own into memory of its own. */
static enum status quantize_linear(struct loading *loading, struct linear *linear, enum quant_method method,
                                   const struct quant_moments *moments, const struct feedback *feedback,
                                   struct error *err)
{
    const struct tensor *tensor = linear->source;
    struct quant_settings settings = loading->options->quant;
    struct row_source rows;
    double begin = clock_seconds();
    enum status status;
    settings.method = method;
    settings.cpu_flags = loading->options->cpu_flags;
    size_t bytes = quant_matrix_bytes(&settings, linear->w.n_rows, linear->w.n_cols);
    linear->memory = bytes == SIZE_MAX ? NULL : place(bytes);
    if (!linear->memory) {
        return error_set(err, STATUS_NO_MEMORY, "%s: no memory for tensor %s (%zu bytes quantized)",
                         tensor->path, tensor->name, bytes);
    }
    if ((status = open_rows(&rows, linear, loading->pool, err))) {
        return status;
    }
    if (feedback && feedback_takes(method)) {
        status = feedback_matrix(&linear->w, linear->memory, &linear->stats, feedback, &settings,
                                 linear->w.n_rows, read_rows, &rows, loading->pool, err);
    } else {
        status = quant_matrix(&linear->w, linear->memory, &linear->stats, &settings, linear->w.n_rows,
                              linear->w.n_cols, read_rows, &rows, moments, loading->pool, err);
    }
    free(rows.matrix);
    if (status) {
        char prefix[400];
        snprintf(prefix, sizeof prefix, "%s: tensor %s", tensor->path, tensor->name);
        return error_prefix(err, prefix);
    }
    loading->model->quantize_seconds += clock_seconds() - begin;
    return STATUS_OK;
}

/* What a linear was quantized to is forgotten. */
static void drop_linear(struct linear *linear)
{
    free(linear->memory);
    linear->memory = NULL;
    linear->w = (struct any4_matrix){.n_rows = linear->w.n_rows, .n_cols = linear->w.n_cols};
}

static double relative_loss(const struct quant_stats *stats)
{
    return stats->weighted_energy > 0 ? stats->weighted_error / stats->weighted_energy : 0;
}

/* Quantizes at every width; what is computed behind it sees the model's own method. */
static enum status measure_linear(struct loading *loading, struct linear *linear,
                                  const struct quant_moments *moments, struct error *err)
{
    struct width_costs *costs = &loading->costs[linear - loading->model->linears];
    for (int32_t k = 0; k < N_WIDTHS; k++) {
        enum status status = quantize_linear(loading, linear, widths[k], moments, NULL, err);
        if (status) {
            return status;
        }
        costs->bits[k] = (double)(linear->stats.code_bits + linear->stats.table_bits);
        costs->loss[k] = relative_loss(&linear->stats);
        drop_linear(linear);
    }
    return quantize_linear(loading, linear, linear->method, moments, NULL, err);
}

static enum status load_linear(struct loading *loading, struct linear *linear,
                               const struct calibration *input, struct error *err)
{
    const struct tensor *tensor = linear->source;
    const struct quant_moments *moments = input ? &input->moments : NULL;
    enum status status = STATUS_OK;
    if (linear->w.codes) {
        /* from the cache, or kept as stored while widths were measured */
    } else if (linear->quantize && loading->costs) {
        status = measure_linear(loading, linear, moments, err);
    } else if (linear->quantize) {
        status =
            quantize_linear(loading, linear, linear->method, moments, input ? input->feedback : NULL, err);
    } else if (!(status = check_finite(tensor, loading->pool, err))) {
        bool rotated = linear->folded_norm || linear->writes_stream;
        status = rotated ? load_rotated(linear, loading->pool, err) : load_as_stored(linear, err);
    }
    if (status) {
        return status;
    }
    if (linear->memory) {
        safetensors_drop(loading->model->tensors, tensor);
    }
    if (linear->bias_source && !linear->bias) {
        linear->bias = malloc((size_t)linear->w.n_rows * sizeof *linear->bias);
        if (!linear->bias) {
            return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", tensor->path);
        }
        tensor_to_f32(linear->bias, linear->bias_source, 0, linear->w.n_rows);
        if (linear->writes_stream) {
            rotation_apply(linear->bias, linear->w.n_rows);
        }
    }
    return STATUS_OK;
}

static enum status load_next(void *context, struct linear *linear, const struct calibration *input,
                             struct error *err)
{
    struct loading *loading = context;
    double begin = clock_seconds();
    enum status status = load_linear(loading, linear, input, err);
    loading->linear_seconds += clock_seconds() - begin;
    loading->done += (double)linear->source->n_elements;
    if (loading->options->show_progress) {
        log_progress(loading->options->quant.method == QUANT_NONE ? "loading" : "quantizing", loading->done,
                     loading->total);
    }
    return status;
}

/* ---- scales of channels ---- */

enum { SAMPLE_ROWS = 64 };

/* Rows from all over a linear: enough to compare scales by. */
struct row_sample {
    struct row_source rows;
    int32_t step;
};

static void read_sample(void *source, float *out, int32_t row_begin, int32_t row_end)
{
    struct row_sample *sample = source;
    for (int32_t i = row_begin; i < row_end; i++) {
        read_rows(&sample->rows, out, i * sample->step, i * sample->step + 1);
        out += sample->rows.linear->w.n_cols;
    }
}

struct scale_trial {
    struct loading *loading;
    struct linear *const *linears;
    int32_t n_linears;
};

/* Relative errors of outputs, added up. Weights that cannot be quantized are named when they are loaded. */
static enum status trial_loss(void *context, double *loss, const struct quant_moments *moments,
                              struct error *err)
{
    const struct scale_trial *trial = context;
    struct quant_settings settings = trial->loading->options->quant;
    settings.cpu_flags = trial->loading->options->cpu_flags;
    *loss = 0;
    for (int32_t i = 0; i < trial->n_linears; i++) {
        const struct linear *linear = trial->linears[i];
        const int32_t n_rows = linear->w.n_rows < SAMPLE_ROWS ? linear->w.n_rows : SAMPLE_ROWS;
        struct row_sample sample = {{.linear = linear}, linear->w.n_rows / n_rows};
        struct any4_matrix matrix;
        struct quant_stats stats;
        struct error fault;
        settings.method = linear->method;
        size_t bytes = quant_matrix_bytes(&settings, n_rows, linear->w.n_cols);
        void *memory = bytes == SIZE_MAX ? NULL : place(bytes);
        if (!memory) {
            return error_set(err, STATUS_NO_MEMORY, "no memory to scale channels of %s", linear->name);
        }
        enum status status = quant_matrix(&matrix, memory, &stats, &settings, n_rows, linear->w.n_cols,
                                          read_sample, &sample, moments, trial->loading->pool, &fault);
        free(memory);
        if (status == STATUS_QUANTIZE) {
            *loss = INFINITY;
        } else if (status) {
            return error_set(err, status, "%s", fault.message);
        } else {
            *loss += relative_loss(&stats);
        }
    }
    return STATUS_OK;
}

static void divide_norms(struct model *model, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        model->norms[i] /= model->channel_scales[i];
    }
}

static enum status scale_next(void *context, const float **scales, struct linear *const *linears,
                              int32_t n_linears, const struct quant_moments *moments, struct error *err)
{
    struct loading *loading = context;
    struct model *model = loading->model;
    struct scale_trial trial = {loading, linears, n_linears};
    *scales = NULL;
    if (!linears[0]->column_scales || loading->keeps_scales) {
        return STATUS_OK;
    }
    double begin = clock_seconds();
    const int64_t at = linears[0]->column_scales - model->channel_scales;
    enum status status = channel_scaling_choose(model->channel_scales + at, moments, linears[0]->w.n_cols,
                                                trial_loss, &trial, err);
    if (!status) {
        divide_norms(model, at, at + linears[0]->w.n_cols);
        *scales = linears[0]->column_scales;
    }
    loading->linear_seconds += clock_seconds() - begin;
    model->quantize_seconds += clock_seconds() - begin;
    return status;
}

static enum status load_calibrated(struct loading *loading, struct error *err)
{
    const struct engine_options *o = loading->options;
    double begin = clock_seconds();
    loading->linear_seconds = 0;
    enum status status =
        calibrate_run(loading->model, o->calib_ids, o->n_calib_ids, o->error_feedback, o->cpu_flags,
                      loading->pool, load_next, o->channel_scaling ? scale_next : NULL, loading, err);
    loading->model->calibrate_seconds = clock_seconds() - begin - loading->linear_seconds;
    if (!status) {
        log_info("calibrated on %d tokens in %.2f s", (int)o->n_calib_ids, loading->model->calibrate_seconds);
    }
    return status;
}

static enum status load_norms(struct model *model, struct error *err)
{
    int32_t dim = model->config.dim;
    for (int64_t n = 0; n < 2 * (int64_t)model->config.n_layers + 1; n++) {
        const struct tensor *tensor = model->norm_sources[n];
        float *norm = model->norms + n * dim;
        tensor_to_f32(norm, tensor, 0, dim);
        for (int32_t i = 0; i < dim; i++) {
            if (!isfinite(norm[i])) {
                return error_set(err, STATUS_QUANTIZE, "%s: tensor %s is not finite at index %d",
                                 tensor->path, tensor->name, i);
            }
        }
    }
    return STATUS_OK;
}

static void fold_norm(const float *norm, struct linear *const *linears, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        linears[i]->folded_norm = norm;
    }
}

/* Takes the gains out of the norms and says of every linear what is to be done with it. */
static enum status rotate_model(struct model *model, struct error *err)
{
    const struct model_config *c = &model->config;
    const int64_t n = (2 * (int64_t)c->n_layers + 1) * c->dim;
    if (!(model->folded_norms = malloc((size_t)n * sizeof *model->folded_norms))) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for norms");
    }
    memcpy(model->folded_norms, model->norms, (size_t)n * sizeof *model->norms);
    for (int64_t i = 0; i < n; i++) {
        model->norms[i] = 1;
    }
    for (int32_t l = 0; l < c->n_layers; l++) {
        const struct layer *layer = &model->layers[l];
        const float *attn_norm = model->folded_norms + 2 * (int64_t)l * c->dim,
                    *ffn_norm = attn_norm + c->dim;
        fold_norm(attn_norm, (struct linear *const[]){layer->wq, layer->wk, layer->wv}, 3);
        layer->wo->writes_stream = true;
        if (!c->n_experts) {
            fold_norm(ffn_norm, (struct linear *const[]){layer->w_gate, layer->w_up}, 2);
            layer->w_down->writes_stream = true;
        } else {
            fold_norm(ffn_norm, &layer->router, 1);
        }
        for (int32_t e = 0; e < c->n_experts; e++) {
            const struct expert *expert = &layer->experts[e];
            fold_norm(ffn_norm, (struct linear *const[]){expert->w_gate, expert->w_up}, 2);
            expert->w_down->writes_stream = true;
        }
    }
    fold_norm(model->folded_norms + n - c->dim, &model->head, 1);
    return STATUS_OK;
}

/* All that a norm feeds is scaled, or none of it: where a linear is kept as stored. */
static void scale_behind(const float *scales, struct linear *const *linears, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        if (!linears[i]->quantize) {
            return;
        }
    }
    for (int32_t i = 0; i < n; i++) {
        linears[i]->column_scales = scales;
    }
}

/* Scales of 1 for what can have others. Experts share their norm with a router, which is kept as stored. */
static enum status prepare_scales(struct model *model, struct error *err)
{
    const struct model_config *c = &model->config;
    const int64_t n = (2 * (int64_t)c->n_layers + 1) * c->dim;
    if (!(model->channel_scales = malloc((size_t)n * sizeof *model->channel_scales))) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for scales of channels");
    }
    for (int64_t i = 0; i < n; i++) {
        model->channel_scales[i] = 1;
    }
    for (int32_t l = 0; l < c->n_layers; l++) {
        const struct layer *layer = &model->layers[l];
        const float *scales = model->channel_scales + 2 * (int64_t)l * c->dim;
        scale_behind(scales, (struct linear *const[]){layer->wq, layer->wk, layer->wv}, 3);
        if (!c->n_experts) {
            scale_behind(scales + c->dim, (struct linear *const[]){layer->w_gate, layer->w_up}, 2);
        }
    }
    scale_behind(model->channel_scales + n - c->dim, &model->head, 1);
    return STATUS_OK;
}

static void log_scales(const struct model *model)
{
    const int32_t n = 2 * model->config.n_layers + 1, dim = model->config.dim;
    int32_t n_scaled = 0;
    for (int32_t l = 0; l < n; l++) {
        const float *scales = model->channel_scales + (int64_t)l * dim;
        bool scaled = false;
        for (int32_t i = 0; i < dim; i++) {
            scaled |= scales[i] < 1 || scales[i] > 1;
        }
        n_scaled += scaled;
    }
    log_info("channel_scaling: channels behind %d of %d norms are scaled", n_scaled, n);
}

static bool calibrates(const struct engine_options *options)
{
    return options->n_calib_ids && quant_weighting_of(&options->quant) != QUANT_WEIGHTING_NONE;
}

static enum status load_linears(struct loading *loading, bool calibrated, struct error *err)
{
    enum status status = STATUS_OK;
    loading->done = 0;
    if (calibrated) {
        return load_calibrated(loading, err);
    }
    for (int64_t i = 0; i < loading->model->n_linears && !status; i++) {
        status = load_next(loading, &loading->model->linears[i], NULL, err);
    }
    return status;
}

/* Relative errors of outputs become divergences of the model's answers: each linear in turn is exchanged for
 * one of REPLACEMENT's width, and what that does to the answers goes with the sum of both errors. (Shares of
 * the residual stream's energy, or no factors at all, chose up to 4 times worse on the demo model.) */
static enum status weigh_costs(struct loading *loading, struct error *err)
{
    enum { REPLACEMENT = 1 };
    const struct engine_options *o = loading->options;
    struct model *model = loading->model;
    struct sensitivity *sensitivity = NULL;
    enum status status =
        sensitivity_open(&sensitivity, model, o->calib_ids, o->n_calib_ids, o->cpu_flags, loading->pool, err);
    for (int64_t i = 0; i < model->n_linears && !status; i++) {
        struct linear *linear = &model->linears[i], own = *linear;
        struct width_costs *costs = &loading->costs[i];
        if (!linear->quantize) {
            continue;
        }
        double both = costs->loss[REPLACEMENT] + relative_loss(&own.stats);
        status = quantize_linear(loading, linear, widths[REPLACEMENT], NULL, NULL, err);
        double factor = !status && both > 0 ? sensitivity_measure(sensitivity) / both : 0;
        for (int32_t k = 0; k < N_WIDTHS; k++) {
            costs->loss[k] *= factor;
        }
        drop_linear(linear);
        *linear = own;
        if (o->show_progress) {
            log_progress("measuring", (double)i + 1, (double)model->n_linears);
        }
    }
    sensitivity_close(sensitivity);
    return status;
}

/* A run that measures, and the choice. */
static enum status choose_widths(struct loading *loading, struct error *err)
{
    struct model *model = loading->model;
    const double most = loading->options->bits_per_weight;
    double weights = 0, fewest = 0;
    int64_t n = 0, n_chosen[N_WIDTHS] = {0};
    int32_t *chosen = calloc((size_t)model->n_linears, sizeof *chosen);
    loading->costs = calloc((size_t)model->n_linears, sizeof *loading->costs);
    enum status status =
        chosen && loading->costs ? STATUS_OK : error_set(err, STATUS_NO_MEMORY, "out of memory for widths");
    status = status ? status : load_linears(loading, calibrates(loading->options), err);
    status = status ? status : weigh_costs(loading, err);
    for (int64_t i = 0; i < model->n_linears && !status; i++) {
        struct linear *linear = &model->linears[i];
        if (linear->quantize) {
            drop_linear(linear);
            weights += (double)linear->source->n_elements;
            fewest += loading->costs[i].bits[0];
            loading->costs[n++] = loading->costs[i];
        }
    }
    if (!status && !widths_choose(chosen, loading->costs, n, most * weights)) {
        status = error_set(err, STATUS_INVALID,
                           "bits_per_weight %g: the fewest bits that this model can have are %.3f a weight",
                           most, fewest / weights);
    }
    n = 0;
    for (int64_t i = 0; i < model->n_linears && !status; i++) {
        if (model->linears[i].quantize) {
            n_chosen[chosen[n]]++;
            model->linears[i].method = widths[chosen[n++]];
        }
    }
    if (!status) {
        log_info("bits_per_weight %g: %lld linears of 2 bits, %lld of 3, %lld of 4, %lld of 8", most,
                 (long long)n_chosen[0], (long long)n_chosen[1], (long long)n_chosen[2],
                 (long long)n_chosen[3]);
    }
    free(loading->costs);
    loading->costs = NULL;
    free(chosen);
    return status;
}

enum status loader_run(struct model *model, const struct engine_options *options, struct thread_pool *pool,
                       struct error *err)
{
    double begin = clock_seconds();
    struct loading loading = {.model = model, .options = options, .pool = pool};
    enum status status = load_norms(model, err);
    if (!status && options->rotation) {
        status = rotate_model(model, err);
    }
    if (!status && options->channel_scaling) {
        status = prepare_scales(model, err);
    }
    for (int64_t i = 0; i < model->n_linears; i++) {
        loading.total += (double)model->linears[i].source->n_elements;
    }
    if (!status) {
        /* Read here and there while serving: what was looked through need not stay resident. */
        status = check_finite(model->embedding, pool, err);
        safetensors_drop(model->tensors, model->embedding);
    }
    if (!status) {
        model->cache = model_cache_open(model, options, pool);
    }
    bool hit = !status && model_cache_is_hit(model->cache);
    if (!status && !hit && options->bits_per_weight > 0) {
        status = choose_widths(&loading, err);
        loading.keeps_scales = true;
    }
    if (hit && model->channel_scales) {
        divide_norms(model, 0, (2 * (int64_t)model->config.n_layers + 1) * model->config.dim);
    }
    status = status ? status : load_linears(&loading, calibrates(options) && !hit, err);
    if (!status && model->channel_scales) {
        log_scales(model);
    }
    model->load_seconds = clock_seconds() - begin;
    return status;
}
