/* One pass over the model: the inputs of a group of linears stand ready, their statistics are taken, the
 * linears are quantized, and the group's product is computed with the quantized weights. So the statistics
 * are those of the model that will serve, no float weight is read twice, and no more than one linear's stands
 * in memory.
 *
 * From a few hundred tokens, second moments need care:
 *   left out     position 0 of a sequence (BOS, where attention parks what it does not need) and tokens whose
 *                residual or input has more than OUTLIER_NORM times the median norm: such sinks have norms
 *                of hundreds of medians, and would be all that a moment shows; ordinary tokens stay within
 *                a factor of 3.
 *   winsorised   a square counts at most CLIP times its channel's mean: a normal channel never gets there
 *                (4 standard deviations), but one token of hundreds cannot speak for a whole channel.
 *   shrunk       as if PRIOR_TOKENS tokens more had been seen with the median channel's moment, which also
 *                keeps silent channels above zero. The median, because single channels are thousands of
 *                times larger. (On the stories260K fixtures KL is flat within 1 % from 4 to 64.)
 * An expert starts from PRIOR_TOKENS tokens of what the layer's experts see together: one that nobody chose
 * has exactly that. Its inner channels are its own, so that for them only the level is shared. Means are left
 * as they are, but for experts.
 *
 * For error feedback the second moments between all columns of an input are taken from the same rows as they
 * are: thousands of tokens speak there, and the damping of quant/feedback.h does what shrinking does. An
 * expert's are mixed with FEEDBACK_PRIOR_TOKENS tokens of what the layer's experts see together. */
#include "engine/calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forward_internal.h"

#define OUTLIER_NORM 10.0
#define CLIP         16.0
enum { PRIOR_TOKENS = 16, FEEDBACK_PRIOR_TOKENS = 256 };
/* Moments stay where f32 has room on both sides. */
#define MOMENT_MIN 1e-30
#define MOMENT_MAX 1e30

struct statistics {
    int32_t n;           /* rows that count */
    double *sum;         /* (n_cols) of x */
    double *mean_square; /* (n_cols), winsorised */
};

struct calibrator {
    const struct model *model;
    struct thread_pool *pool;
    calibrate_load_fn *load;
    calibrate_scale_fn *scale;
    void *context;
    struct kernels kernels;
    struct kv_cache kv; /* of one layer */
    struct forward *forward;
    struct batch batch;
    int32_t *blocks;            /* what the block tables point into: 0, 1, 2 ... */
    int32_t n_slots;            /* rows, or (row, expert) pairs */
    int32_t *rows, *slot_rows;  /* (n_rows) 0, 1, 2 ...; (n_slots) the row in each slot */
    double *norms;              /* (n_slots) squared */
    double *sorted;             /* (n_slots or the widest input) scratch of medians */
    bool *far_out;              /* (n_rows) by the residual */
    bool *counts;               /* (n_slots) for the current input */
    double *sums;               /* memory of the next two */
    struct statistics all, one; /* of the current input, of one expert's part of it */
    float *mean, *second, *expert_mean, *expert_second; /* (widest input) each, one block of memory */
    /* For error feedback, else NULL */
    float *products, *pooled; /* (widest input)^2; (dim)^2 of all experts together, or NULL */
    int32_t *counted;         /* (n_slots) */
    unsigned cpu_flags;
};

enum status calibrate_check(const struct model_config *config, const int32_t *ids, int32_t n_ids,
                            struct error *err)
{
    if (n_ids < 1 || n_ids > CALIBRATE_MAX_TOKENS) {
        return error_set(err, STATUS_INVALID, "a calibration text of %d tokens, expected 1 to %d", n_ids,
                         (int)CALIBRATE_MAX_TOKENS);
    }
    for (int32_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || ids[i] >= config->vocab_size) {
            return error_set(err, STATUS_INVALID, "calibration token %d is %d, expected 0 to %d", i, ids[i],
                             config->vocab_size - 1);
        }
    }
    return STATUS_OK;
}

/* ---- the batch ---- */

/* Sequences one behind the other; the second and later ones begin with the first one's BOS. Fills the batch
 * and its tables where given, and counts rows and blocks of the KV cache. */
struct layout {
    int64_t n_rows, n_blocks;
    int64_t first_block; /* of the current sequence */
};

static void add_row(struct layout *layout, struct batch *batch, const int32_t *blocks, int32_t id,
                    int32_t position)
{
    layout->first_block = position ? layout->first_block : layout->n_blocks;
    layout->n_blocks += position % KV_BLOCK_TOKENS == 0;
    if (batch) {
        batch->tokens[layout->n_rows] = id;
        batch->positions[layout->n_rows] = position;
        batch->block_tables[layout->n_rows] = blocks + layout->first_block;
    }
    layout->n_rows++;
}

static struct layout lay_out_text(struct batch *batch, const int32_t *blocks,
                                  const struct model_config *config, const int32_t *ids, int32_t n_ids)
{
    int32_t length =
        config->max_positions < CALIBRATE_MAX_SEQUENCE ? config->max_positions : CALIBRATE_MAX_SEQUENCE;
    bool repeats_bos = ids[0] == config->bos_id && length > 1;
    struct layout layout = {0};
    for (int32_t i = 0, position = 0; i < n_ids; i++) {
        if (position == length) {
            position = 0;
            if (repeats_bos) {
                add_row(&layout, batch, blocks, ids[0], position++);
            }
        }
        add_row(&layout, batch, blocks, ids[i], position++);
    }
    return layout;
}

static int64_t widest_input(const struct model_config *c)
{
    int64_t q_dim = (int64_t)c->n_heads * c->head_dim;
    int64_t widest = q_dim > c->dim ? q_dim : c->dim;
    return c->ffn_dim > widest ? c->ffn_dim : widest;
}

static int64_t slots_of(const struct model_config *c, int64_t n_rows)
{
    return n_rows * (c->n_experts ? c->n_experts_used : 1);
}

size_t calibrate_bytes(const struct model_config *config, const int32_t *ids, int32_t n_ids,
                       bool error_feedback, int32_t n_threads)
{
    struct layout layout = lay_out_text(NULL, NULL, config, ids, n_ids);
    struct model_config one_layer = *config;
    one_layer.n_layers = 1;
    size_t statistics = 6 * sizeof(double) * (size_t)widest_input(config) +
                        2 * sizeof(double) * (size_t)slots_of(config, layout.n_rows);
    if (error_feedback) {
        size_t widest = (size_t)widest_input(config), dim = (size_t)config->dim;
        statistics += (widest * widest + (config->n_experts ? dim * dim : 0)) * sizeof(float) +
                      (size_t)slots_of(config, layout.n_rows) * sizeof(int32_t) +
                      feedback_open_bytes((int32_t)widest) +
                      (size_t)n_threads * feedback_thread_bytes((int32_t)widest, ANY4_BLOCK_COLS);
    }
    return forward_bytes(config, (int32_t)layout.n_rows, 0) + statistics +
           kv_cache_bytes_per_token(&one_layer, KV_F32) * KV_BLOCK_TOKENS * (size_t)layout.n_blocks;
}

/* ---- statistics ---- */

struct rows_job {
    struct calibrator *cal;
    const float *x; /* (n, n_cols) */
    int64_t n_cols;
};

static void square_norms(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct rows_job *job = context;
    (void)thread;
    for (int64_t row = begin; row < end; row++) {
        const float *x = job->x + row * job->n_cols;
        double sum = 0;
        for (int64_t col = 0; col < job->n_cols; col++) {
            sum += (double)x[col] * x[col];
        }
        job->cal->norms[row] = sum;
    }
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int64_t n)
{
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return n ? values[n / 2] : 0;
}

/* far_out[i]: the norm of x[i] is no number or far above the median of all n but those at position 0, which
 * are never counted. rows: which row stands in i. */
static void find_far_out(struct calibrator *cal, bool *far_out, const float *x, int64_t n, int64_t n_cols,
                         const int32_t *rows)
{
    struct rows_job job = {cal, x, n_cols};
    int64_t n_finite = 0;
    thread_pool_run(cal->pool, n, 1, square_norms, &job);
    for (int64_t i = 0; i < n; i++) {
        if (cal->batch.positions[rows[i]] && isfinite(cal->norms[i])) {
            cal->sorted[n_finite++] = cal->norms[i];
        }
    }
    double limit = OUTLIER_NORM * OUTLIER_NORM * median(cal->sorted, n_finite);
    for (int64_t i = 0; i < n; i++) {
        far_out[i] = !isfinite(cal->norms[i]) || (limit > 0 && cal->norms[i] > limit);
    }
}

struct columns_job {
    const float *x; /* (n, n_cols) */
    const bool *counts;
    int64_t n, n_cols;
    struct statistics *out;
};

enum { COLUMN_BLOCK = 64 };

/* A block of columns: row after row for each, so that it does not matter which thread has which. */
static void block_statistics(const struct columns_job *job, int64_t first, int64_t n)
{
    double sum[COLUMN_BLOCK] = {0}, square[COLUMN_BLOCK] = {0}, cap[COLUMN_BLOCK],
           clipped[COLUMN_BLOCK] = {0};
    for (int64_t row = 0; row < job->n; row++) {
        const float *x = job->x + row * job->n_cols + first;
        for (int64_t col = 0; job->counts[row] && col < n; col++) {
            sum[col] += (double)x[col];
            square[col] += (double)x[col] * x[col];
        }
    }
    for (int64_t col = 0; col < n; col++) {
        cap[col] = job->out->n ? CLIP * square[col] / job->out->n : 0;
    }
    for (int64_t row = 0; row < job->n; row++) {
        const float *x = job->x + row * job->n_cols + first;
        for (int64_t col = 0; job->counts[row] && col < n; col++) {
            double s = (double)x[col] * x[col];
            clipped[col] += s < cap[col] ? s : cap[col];
        }
    }
    for (int64_t col = 0; col < n; col++) {
        job->out->sum[first + col] = sum[col];
        job->out->mean_square[first + col] = job->out->n ? clipped[col] / job->out->n : 0;
    }
}

static void column_statistics(void *context, int64_t begin, int64_t end, int32_t thread)
{
    (void)thread;
    for (int64_t col = begin; col < end; col += COLUMN_BLOCK) {
        block_statistics(context, col, end - col < COLUMN_BLOCK ? end - col : COLUMN_BLOCK);
    }
}

/* Of rows [0, n) of x that count. */
static void take_statistics(struct calibrator *cal, struct statistics *out, const float *x,
                            const bool *counts, int64_t n, int64_t n_cols)
{
    struct columns_job job = {x, counts, n, n_cols, out};
    out->n = 0;
    for (int64_t i = 0; i < n; i++) {
        out->n += counts[i];
    }
    thread_pool_run(cal->pool, n_cols, COLUMN_BLOCK, column_statistics, &job);
}

/* The level that columns are shrunk to: the median of their moments, their mean where most are silent, 1
 * where all are. */
static double typical_moment(struct calibrator *cal, const struct statistics *s, int64_t n_cols)
{
    double sum = 0;
    memcpy(cal->sorted, s->mean_square, (size_t)n_cols * sizeof *cal->sorted);
    for (int64_t col = 0; col < n_cols; col++) {
        sum += s->mean_square[col];
    }
    double middle = median(cal->sorted, n_cols);
    return middle > 0 ? middle : sum > 0 ? sum / (double)n_cols : 1;
}

static float bounded_moment(double moment)
{
    return (float)(moment < MOMENT_MIN ? MOMENT_MIN : moment > MOMENT_MAX ? MOMENT_MAX : moment);
}

/* Moments of a whole input: means as they are, squares shrunk to `level`. */
static void whole_moments(float *mean, float *second, const struct statistics *s, double level,
                          int64_t n_cols)
{
    for (int64_t col = 0; col < n_cols; col++) {
        mean[col] = s->n ? (float)(s->sum[col] / s->n) : (float)sqrt(level);
        second[col] =
            bounded_moment((s->n * s->mean_square[col] + PRIOR_TOKENS * level) / (s->n + PRIOR_TOKENS));
    }
}

/* Moments of an expert's part, from a prior given per column, or (mean NULL) as one level. */
static void expert_moments(float *mean, float *second, const struct statistics *s, const float *prior_mean,
                           const float *prior_second, double level, int64_t n_cols)
{
    double total = s->n + PRIOR_TOKENS;
    for (int64_t col = 0; col < n_cols; col++) {
        double prior = prior_second ? (double)prior_second[col] : level;
        second[col] = bounded_moment((s->n * s->mean_square[col] + PRIOR_TOKENS * prior) / total);
        if (prior_mean) {
            mean[col] = (float)((s->sum[col] + PRIOR_TOKENS * (double)prior_mean[col]) / total);
        } else {
            mean[col] = s->n ? (float)(s->sum[col] / s->n) : (float)sqrt(level);
        }
    }
}

/* ---- error feedback ---- */

/* The counted ones of rows [0, n) of x add to the products, which the caller has cleared; how many they are.
 */
static int32_t add_products(struct calibrator *cal, float *products, const float *x, const bool *counts,
                            int64_t n, int64_t n_cols)
{
    int32_t n_counted = 0;
    for (int64_t i = 0; i < n; i++) {
        if (counts[i]) {
            cal->counted[n_counted++] = (int32_t)i;
        }
    }
    feedback_sum(products, (int32_t)n_cols, x, cal->counted, n_counted, cal->cpu_flags, cal->pool);
    return n_counted;
}

/* Second moments of the first n rows of x that count, in `products`: with prior_tokens tokens of `prior`
 * (n_cols, n_cols), or of `level` on the diagonal where that is NULL. */
static void take_products(struct calibrator *cal, float *products, const float *x, const bool *counts,
                          int64_t n, int64_t n_cols, int32_t prior_tokens, const float *prior, double level)
{
    memset(products, 0, (size_t)n_cols * (size_t)n_cols * sizeof *products);
    double n_counted = add_products(cal, products, x, counts, n, n_cols);
    const float factor = (float)(1 / fmax(1, n_counted + prior_tokens)), share = factor * (float)prior_tokens;
    for (int64_t j = 0; j < n_cols; j++) {
        float *row = products + j * n_cols;
        for (int64_t k = 0; k <= j; k++) {
            row[k] = row[k] * factor + (prior ? prior[j * n_cols + k] * share : 0);
        }
        row[j] += prior ? 0 : share * (float)level;
    }
}

static bool any_quantized(struct linear *const *linears, int32_t n_linears)
{
    bool any = false;
    for (int32_t i = 0; i < n_linears; i++) {
        any |= linears[i]->quantize;
    }
    return any;
}

/* Hands linears with one input to load; its second moments stand in cal->products if feedback is wanted. */
static enum status load_linears(struct calibrator *cal, struct linear *const *linears, int32_t n_linears,
                                const struct quant_moments *moments, int64_t n_cols, bool wants_feedback,
                                struct error *err)
{
    struct feedback *feedback = NULL;
    enum status status = STATUS_OK;
    if (wants_feedback && (status = feedback_open(&feedback, cal->products, (int32_t)n_cols, FEEDBACK_DAMPING,
                                                  cal->cpu_flags, cal->pool, err))) {
        error_prefix(err, linears[0]->name);
        return error_prefix(err, "calibration");
    }
    for (int32_t i = 0; i < n_linears && !status; i++) {
        struct calibration input = {*moments, linears[i]->quantize ? feedback : NULL};
        status = cal->load(cal->context, linears[i], &input, err);
    }
    feedback_close(feedback);
    return status;
}

/* ---- the walk ---- */

/* Which of the n rows (or slots, where experts share the input out) of x count. */
static void choose_rows(struct calibrator *cal, const float *x, int64_t n, int64_t n_cols,
                        const int32_t *rows)
{
    const struct model_config *c = &cal->model->config;
    find_far_out(cal, cal->far_out, cal->forward->x, cal->batch.n_rows, c->dim, cal->rows);
    find_far_out(cal, cal->counts, x, n, n_cols, rows);
    for (int64_t i = 0; i < n; i++) {
        cal->counts[i] = !cal->counts[i] && !cal->far_out[rows[i]] && cal->batch.positions[rows[i]];
    }
}

/* Powers of two: the same bits as from the divided norm. */
static void divide_input(struct calibrator *cal, const float *scales)
{
    const int64_t dim = cal->model->config.dim, n = cal->batch.n_rows * dim;
    for (float *row = cal->forward->h; row < cal->forward->h + n; row += dim) {
        for (int64_t col = 0; col < dim; col++) {
            row[col] /= scales[col];
        }
    }
    for (int64_t col = 0; col < dim; col++) {
        cal->mean[col] /= scales[col];
        cal->second[col] /= scales[col] * scales[col];
    }
}

/* Takes the statistics of x (n_rows, n_cols) and loads the linears that it goes to; x that is forward->h
 * comes from a norm. */
static enum status load_group(struct calibrator *cal, const float *x, int64_t n_cols,
                              struct linear *const *linears, int32_t n_linears, struct error *err)
{
    struct quant_moments moments = {cal->mean, cal->second};
    const bool feedback = cal->products && any_quantized(linears, n_linears);
    const float *scales = NULL;
    choose_rows(cal, x, cal->batch.n_rows, n_cols, cal->rows);
    take_statistics(cal, &cal->all, x, cal->counts, cal->batch.n_rows, n_cols);
    whole_moments(cal->mean, cal->second, &cal->all, typical_moment(cal, &cal->all, n_cols), n_cols);
    if (cal->scale && x == cal->forward->h) {
        enum status status = cal->scale(cal->context, &scales, linears, n_linears, &moments, err);
        if (status) {
            return status;
        }
    }
    if (scales) {
        divide_input(cal, scales);
    }
    if (feedback) {
        take_products(cal, cal->products, x, cal->counts, cal->batch.n_rows, n_cols, 0, NULL, 0);
    }
    return load_linears(cal, linears, n_linears, &moments, n_cols, feedback, err);
}

/* The same for x (n_slots, n_cols), sorted by expert; aligned: column for column the experts see the same, as
 * gate and up do and down does not. */
static enum status load_experts(struct calibrator *cal, const struct layer *layer, const float *x,
                                int64_t n_cols, bool aligned, struct error *err)
{
    const struct forward *f = cal->forward;
    const struct model_config *c = &cal->model->config;
    struct quant_moments moments = {cal->expert_mean, cal->expert_second};
    enum status status = STATUS_OK;
    choose_rows(cal, x, cal->n_slots, n_cols, cal->slot_rows);
    take_statistics(cal, &cal->all, x, cal->counts, cal->n_slots, n_cols);
    double level = typical_moment(cal, &cal->all, n_cols);
    whole_moments(cal->mean, cal->second, &cal->all, level, n_cols);
    if (cal->products && aligned) {
        take_products(cal, cal->pooled, x, cal->counts, cal->n_slots, n_cols, 0, NULL, 0);
    }
    for (int32_t e = 0; e < c->n_experts && !status; e++) {
        int64_t slot = f->expert_begin[e];
        take_statistics(cal, &cal->one, x + slot * n_cols, cal->counts + slot, f->expert_begin[e + 1] - slot,
                        n_cols);
        expert_moments(cal->expert_mean, cal->expert_second, &cal->one, aligned ? cal->mean : NULL,
                       aligned ? cal->second : NULL, level, n_cols);
        const struct expert *expert = &layer->experts[e];
        struct linear *up[] = {expert->w_gate, expert->w_up}, *down[] = {expert->w_down};
        struct linear *const *linears = aligned ? up : down;
        const int32_t n_linears = aligned ? 2 : 1;
        const bool feedback = cal->products && any_quantized(linears, n_linears);
        if (feedback) {
            take_products(cal, cal->products, x + slot * n_cols, cal->counts + slot,
                          f->expert_begin[e + 1] - slot, n_cols, FEEDBACK_PRIOR_TOKENS,
                          aligned ? cal->pooled : NULL, level);
        }
        status = load_linears(cal, linears, n_linears, &moments, n_cols, feedback, err);
    }
    return status;
}

static enum status load_layer(struct calibrator *cal, const struct layer *layer, struct error *err)
{
    struct forward *f = cal->forward;
    const struct model_config *c = &cal->model->config;
    struct linear *qkv[] = {layer->wq, layer->wk, layer->wv}, *up[] = {layer->w_gate, layer->w_up};
    int32_t n_rows = cal->batch.n_rows;
    enum status status;
    forward_attention_input(f, layer, n_rows);
    if ((status = load_group(cal, f->h, c->dim, qkv, 3, err))) {
        return status;
    }
    forward_attention(f, &cal->batch, layer, 0);
    if ((status = load_group(cal, f->attn, (int64_t)c->n_heads * c->head_dim, &layer->wo, 1, err)) ||
        (layer->router && (status = cal->load(cal->context, layer->router, NULL, err)))) {
        return status;
    }
    forward_ffn_input(f, layer, n_rows);
    if (c->n_experts) {
        for (int32_t i = 0; i < cal->n_slots; i++) {
            cal->slot_rows[f->slot_of[i]] = i / c->n_experts_used;
        }
        status = load_experts(cal, layer, f->slot_x, c->dim, true, err);
    } else {
        status = load_group(cal, f->h, c->dim, up, 2, err);
    }
    if (status) {
        return status;
    }
    forward_ffn(f, layer, n_rows);
    status = c->n_experts ? load_experts(cal, layer, f->gate, c->ffn_dim, false, err)
                          : load_group(cal, f->gate, c->ffn_dim, &layer->w_down, 1, err);
    if (!status) {
        forward_ffn_output(f, layer, n_rows);
    }
    return status;
}

/* ---- from the outside ---- */

static enum status open_calibrator(struct calibrator *cal, const int32_t *ids, int32_t n_ids,
                                   bool error_feedback, struct error *err)
{
    const struct model_config *c = &cal->model->config;
    struct model_config one_layer = *c;
    struct layout layout = lay_out_text(NULL, NULL, c, ids, n_ids);
    one_layer.n_layers = 1;
    size_t n_rows = (size_t)layout.n_rows, n_slots = (size_t)slots_of(c, layout.n_rows);
    size_t widest = (size_t)widest_input(c);
    cal->n_slots = (int32_t)n_slots;
    cal->batch.tokens = calloc(n_rows, sizeof(int32_t));
    cal->batch.positions = calloc(n_rows, sizeof(int32_t));
    cal->batch.block_tables = calloc(n_rows, sizeof(int32_t *));
    cal->blocks = calloc((size_t)layout.n_blocks, sizeof(int32_t));
    cal->rows = calloc(n_rows, sizeof(int32_t));
    cal->slot_rows = calloc(n_slots, sizeof(int32_t));
    cal->norms = calloc(n_slots, sizeof(double));
    cal->sorted = calloc(widest > n_slots ? widest : n_slots, sizeof(double));
    cal->far_out = calloc(n_rows, sizeof(bool));
    cal->counts = calloc(n_slots, sizeof(bool));
    cal->sums = calloc(4 * widest, sizeof(double));
    cal->mean = calloc(4 * widest, sizeof(float));
    if (error_feedback) {
        size_t dim = (size_t)c->dim;
        cal->products = malloc(widest * widest * sizeof(float));
        cal->pooled = c->n_experts ? malloc(dim * dim * sizeof(float)) : NULL;
        cal->counted = calloc(n_slots, sizeof(int32_t));
    }
    if ((error_feedback && (!cal->products || !cal->counted || (c->n_experts && !cal->pooled))) ||
        !cal->batch.tokens || !cal->batch.positions || !cal->batch.block_tables || !cal->blocks ||
        !cal->rows || !cal->slot_rows || !cal->norms || !cal->sorted || !cal->far_out || !cal->counts ||
        !cal->sums || !cal->mean) {
        return error_set(err, STATUS_NO_MEMORY, "calibration: out of memory for %d tokens", n_ids);
    }
    cal->all = (struct statistics){.sum = cal->sums, .mean_square = cal->sums + widest};
    cal->one = (struct statistics){.sum = cal->sums + 2 * widest, .mean_square = cal->sums + 3 * widest};
    cal->second = cal->mean + widest;
    cal->expert_mean = cal->mean + 2 * widest;
    cal->expert_second = cal->mean + 3 * widest;
    for (int64_t i = 0; i < layout.n_blocks; i++) {
        cal->blocks[i] = (int32_t)i;
    }
    for (int64_t i = 0; i < layout.n_rows; i++) {
        cal->rows[i] = (int32_t)i;
    }
    cal->batch.n_rows = (int32_t)layout.n_rows;
    lay_out_text(&cal->batch, cal->blocks, c, ids, n_ids);
    kernels_init_fixed(&cal->kernels, cal->cpu_flags);
    enum status status = kv_cache_init(&cal->kv, &one_layer, KV_F32, (int32_t)layout.n_blocks, err);
    return status ? status
                  : forward_open(&cal->forward, cal->model, &cal->kernels, &cal->kv, cal->pool,
                                 cal->batch.n_rows, 0, err);
}

static void close_calibrator(struct calibrator *cal)
{
    forward_close(cal->forward);
    kv_cache_finish(&cal->kv);
    free(cal->batch.tokens);
    free(cal->batch.positions);
    free(cal->batch.block_tables);
    free(cal->blocks);
    free(cal->rows);
    free(cal->slot_rows);
    free(cal->norms);
    free(cal->sorted);
    free(cal->far_out);
    free(cal->counts);
    free(cal->sums);
    free(cal->mean);
    free(cal->products);
    free(cal->pooled);
    free(cal->counted);
}

enum status calibrate_run(const struct model *model, const int32_t *ids, int32_t n_ids, bool error_feedback,
                          unsigned cpu_flags, struct thread_pool *pool, calibrate_load_fn *load,
                          calibrate_scale_fn *scale, void *context, struct error *err)
{
    struct calibrator cal = {.model = model,
                             .pool = pool,
                             .load = load,
                             .scale = scale,
                             .context = context,
                             .cpu_flags = cpu_flags};
    const struct model_config *c = &model->config;
    enum status status = calibrate_check(c, ids, n_ids, err);
    if (!status && !(status = open_calibrator(&cal, ids, n_ids, error_feedback, err))) {
        forward_embed(cal.forward, &cal.batch);
    }
    for (int32_t l = 0; l < c->n_layers && !status; l++) {
        status = load_layer(&cal, &model->layers[l], err);
    }
    if (!status) {
        forward_head_input(cal.forward, cal.batch.n_rows);
        status = load_group(&cal, cal.forward->h, c->dim, &model->head, 1, err);
    }
    close_calibrator(&cal);
    return status;
}
