/* Calibration against a plain computation in double, written here once more: the whole model, whole rows, and
 * the rules of the statistics. The models are random and small, their linears stored here in f32, coarsely
 * rounded as they are loaded, so that a statistic that was computed from other weights is seen. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/calibrate.h"
#include "engine/channel_scaling.h"
#include "engine/loader.h"
#include "tests/engine/support.h"

enum { MAX_LINEARS = 64, N_IDS = 60 };

/* ---- a run that records ---- */

struct record {
    const struct linear *linear;
    float *mean, *second; /* (n_cols), NULL where there were no moments */
    double mean_square;   /* over all columns, as error feedback has it; 0: none */
};

struct run {
    struct model *model;
    struct record records[MAX_LINEARS];
    int32_t n_records;
    float factor;  /* weights are multiplied by it */
    float *scales; /* as norms; NULL: channels are not scaled */
};

static enum status load_rounded(void *context, struct linear *linear, const struct calibration *input,
                                struct error *err)
{
    struct run *run = context;
    int64_t n = linear->source->n_elements;
    size_t bytes = (size_t)linear->w.n_cols * sizeof(float);
    float *weights = malloc((size_t)n * sizeof *weights);
    struct record *record = &run->records[run->n_records++];
    (void)err;
    cr_assert(weights && run->n_records <= MAX_LINEARS && !linear->memory);
    tensor_to_f32(weights, linear->source, 0, n);
    for (int64_t i = 0; i < n; i++) {
        float scale = linear->column_scales ? linear->column_scales[i % linear->w.n_cols] : 1;
        weights[i] = roundf(weights[i] * 16) / 16 * run->factor * scale;
    }
    linear->memory = weights;
    linear->w.kind = ANY4_F32;
    linear->w.row_bytes = bytes;
    linear->w.codes = (const uint8_t *)weights;
    *record = (struct record){.linear = linear};
    if (input) {
        record->mean = malloc(bytes);
        record->second = malloc(bytes);
        cr_assert(record->mean && record->second);
        memcpy(record->mean, input->moments.mean, bytes);
        memcpy(record->second, input->moments.second, bytes);
        record->mean_square = input->feedback ? feedback_damping(input->feedback) / FEEDBACK_DAMPING : 0;
    }
    return STATUS_OK;
}

/* As the loader does, but far: channels of random models differ little. */
static enum status scale_by_moments(void *context, const float **scales, struct linear *const *linears,
                                    int32_t n_linears, const struct quant_moments *moments, struct error *err)
{
    struct run *run = context;
    struct model *model = run->model;
    int32_t dim = linears[0]->w.n_cols, norm = 2 * model->config.n_layers;
    (void)err;
    for (int32_t l = 0; l < model->config.n_layers; l++) {
        norm = linears[0] == model->layers[l].wq       ? 2 * l
               : linears[0] == model->layers[l].w_gate ? 2 * l + 1
                                                       : norm;
    }
    cr_assert_eq(dim, model->config.dim);
    channel_scales(run->scales + norm * dim, moments->second, dim, 8);
    for (int32_t i = 0; i < dim; i++) {
        model->norms[norm * dim + i] /= run->scales[norm * dim + i];
    }
    for (int32_t i = 0; i < n_linears; i++) {
        linears[i]->column_scales = run->scales + norm * dim;
    }
    *scales = linears[0]->column_scales;
    return STATUS_OK;
}

static void run_open(struct run *run, const char *folder, const char *override, const int32_t *ids,
                     int32_t n_ids, unsigned cpu_flags, int32_t n_threads, float factor, bool scaled)
{
    struct engine_options options;
    struct thread_pool *pool;
    struct error err = {0};
    *run = (struct run){.factor = factor};
    engine_options_init(&options);
    options.model_dir = folder;
    options.config_override = override;
    cr_assert_eq(model_bind(&run->model, &options, &err), STATUS_OK, "%s", err.message);
    int32_t dim = run->model->config.dim, n_norms = 2 * run->model->config.n_layers + 1;
    run->scales = scaled ? calloc((size_t)n_norms * (size_t)dim, sizeof *run->scales) : NULL;
    for (int64_t n = 0; n < n_norms; n++) {
        tensor_to_f32(run->model->norms + n * dim, run->model->norm_sources[n], 0, dim);
    }
    cr_assert_eq(thread_pool_open(&pool, n_threads, &err), STATUS_OK, "%s", err.message);
    /* Error feedback refuses inputs whose squares are beyond f32; the moments of columns are bounded. */
    bool error_feedback = factor == 1;
    enum status status = calibrate_run(run->model, ids, n_ids, error_feedback, cpu_flags, pool, load_rounded,
                                       run->scales ? scale_by_moments : NULL, run, &err);
    cr_assert_eq(status, STATUS_OK, "%s", err.message);
    cr_assert_eq(run->n_records, run->model->n_linears);
    thread_pool_close(pool);
}

static void run_close(struct run *run)
{
    for (int32_t i = 0; i < run->n_records; i++) {
        free(run->records[i].mean);
        free(run->records[i].second);
    }
    free(run->scales);
    model_close(run->model);
}

static const struct record *record_of(const struct run *run, const struct linear *linear)
{
    int32_t i = 0;
    while (i < run->n_records && run->records[i].linear != linear) {
        i++;
    }
    cr_assert_lt(i, run->n_records, "%s was never loaded", linear->name);
    return &run->records[i];
}

/* ---- the same in double ---- */

enum { MAX_ROWS = 128, MAX_DIM = 128 };

struct plain {
    const struct run *run;
    int32_t n_rows;
    int32_t tokens[MAX_ROWS], positions[MAX_ROWS], first[MAX_ROWS]; /* row of the sequence's position 0 */
    double x[MAX_ROWS][MAX_DIM], h[MAX_ROWS][MAX_DIM];
    double q[MAX_ROWS][MAX_DIM], k[MAX_ROWS][MAX_DIM], v[MAX_ROWS][MAX_DIM], attn[MAX_ROWS][MAX_DIM];
    double gate[MAX_ROWS][MAX_DIM], up[MAX_ROWS][MAX_DIM];
    int32_t n_unvisited; /* experts that no row chose */
};

static double weight(const struct linear *linear, int32_t row, int32_t col)
{
    return (double)((const float *)linear->memory)[(int64_t)row * linear->w.n_cols + col];
}

static void multiply(double *y, const struct linear *linear, const double *x)
{
    for (int32_t row = 0; row < linear->w.n_rows; row++) {
        y[row] = 0;
        for (int32_t col = 0; col < linear->w.n_cols; col++) {
            y[row] += weight(linear, row, col) * x[col];
        }
    }
}

static void normalise(double *y, const double *x, const float *norm, const struct model_config *c)
{
    double sum = 0;
    for (int32_t i = 0; i < c->dim; i++) {
        sum += x[i] * x[i];
    }
    for (int32_t i = 0; i < c->dim; i++) {
        y[i] = x[i] / sqrt(sum / c->dim + (double)c->norm_eps) * (double)norm[i];
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double square_norm(const double *x, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += x[i] * x[i];
    }
    return sum;
}

/* A list of inputs: vectors, and the row of each. */
struct inputs {
    const double *x[4 * MAX_ROWS];
    int32_t rows[4 * MAX_ROWS], n, n_cols;
};

static double median_norm(const struct plain *p, const struct inputs *in)
{
    double norms[4 * MAX_ROWS];
    int32_t n = 0;
    for (int32_t i = 0; i < in->n; i++) {
        if (p->positions[in->rows[i]]) {
            norms[n++] = square_norm(in->x[i], in->n_cols);
        }
    }
    qsort(norms, (size_t)n, sizeof *norms, compare);
    return n ? norms[n / 2] : 0;
}

static struct inputs rows_of(const struct plain *p, const double (*x)[MAX_DIM], int32_t n_cols)
{
    struct inputs in = {.n = p->n_rows, .n_cols = n_cols};
    for (int32_t i = 0; i < p->n_rows; i++) {
        in.x[i] = x[i];
        in.rows[i] = i;
    }
    return in;
}

/* What is left after sinks and first positions. */
static struct inputs choose_inputs(const struct plain *p, const struct inputs *in)
{
    struct inputs residual = rows_of(p, p->x, p->run->model->config.dim), out = {.n_cols = in->n_cols};
    double limit = 100 * median_norm(p, &residual), input_limit = 100 * median_norm(p, in);
    for (int32_t i = 0; i < in->n; i++) {
        int32_t row = in->rows[i];
        if (p->positions[row] && square_norm(p->x[row], residual.n_cols) <= limit &&
            square_norm(in->x[i], in->n_cols) <= input_limit) {
            out.x[out.n] = in->x[i];
            out.rows[out.n++] = row;
        }
    }
    return out;
}

static void raw_moments(double *mean, double *second, const struct inputs *in)
{
    for (int32_t col = 0; col < in->n_cols; col++) {
        mean[col] = second[col] = 0;
        for (int32_t i = 0; i < in->n; i++) {
            mean[col] += in->x[i][col] / in->n;
            second[col] += in->x[i][col] * in->x[i][col] / in->n;
        }
        double cap = 16 * second[col];
        second[col] = 0;
        for (int32_t i = 0; i < in->n; i++) {
            second[col] += fmin(cap, in->x[i][col] * in->x[i][col]) / in->n;
        }
    }
}

static double level_of(const double *second, int32_t n)
{
    double sorted[MAX_DIM];
    memcpy(sorted, second, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, compare);
    cr_assert_gt(sorted[n / 2], 0);
    return sorted[n / 2];
}

static void expect_moments(const struct plain *p, const struct linear *linear, const double *mean,
                           const double *second)
{
    const struct record *found = record_of(p->run, linear);
    double scale = 0; /* means may cancel: they are as exact as their terms are large */
    for (int32_t col = 0; col < linear->w.n_cols; col++) {
        scale = fmax(scale, sqrt(second[col]));
    }
    for (int32_t col = 0; col < linear->w.n_cols; col++) {
        cr_assert_float_eq(found->second[col], second[col], 1e-4 * second[col],
                           "%s: column %d has a second moment of %.9g, expected %.9g", linear->name, col,
                           (double)found->second[col], second[col]);
        cr_assert_float_eq(found->mean[col], mean[col], 1e-5 * scale,
                           "%s: column %d has a mean of %.9g, expected %.9g", linear->name, col,
                           (double)found->mean[col], mean[col]);
    }
}

/* Error feedback's second moments are neither clipped nor shrunk; quant/feedback's tests look at all of them.
 */
static double plain_mean_square(const struct inputs *in)
{
    double sum = 0;
    for (int32_t i = 0; i < in->n; i++) {
        sum += square_norm(in->x[i], in->n_cols) / in->n_cols / in->n;
    }
    return sum;
}

static void expect_mean_square(const struct plain *p, const struct linear *linear, double expected)
{
    double found = record_of(p->run, linear)->mean_square;
    cr_assert_float_eq(found, expected, 1e-4 * expected, "%s: mean square %.9g, expected %.9g", linear->name,
                       found, expected);
}

static void whole(const struct plain *p, double *mean, double *second, const struct inputs *in)
{
    struct inputs chosen = choose_inputs(p, in);
    raw_moments(mean, second, &chosen);
    double level = level_of(second, in->n_cols);
    for (int32_t col = 0; col < in->n_cols; col++) {
        second[col] = (chosen.n * second[col] + 16 * level) / (chosen.n + 16);
    }
}

static void check_input(const struct plain *p, const double (*x)[MAX_DIM], struct linear *const *linears,
                        int32_t n_linears)
{
    double mean[MAX_DIM], second[MAX_DIM];
    struct inputs in = rows_of(p, x, linears[0]->w.n_cols);
    struct inputs chosen = choose_inputs(p, &in);
    whole(p, mean, second, &in);
    for (int32_t i = 0; i < n_linears; i++) {
        expect_moments(p, linears[i], mean, second);
        expect_mean_square(p, linears[i], plain_mean_square(&chosen));
    }
}

static void rotate(double *v, int32_t n_heads, int32_t position, const struct model_config *c)
{
    int32_t half = c->head_dim / 2;
    for (int32_t head = 0; head < n_heads; head++) {
        double *at = v + head * c->head_dim;
        for (int32_t i = 0; i < half; i++) {
            double angle = position * pow(c->rope_theta, -2.0 * i / c->head_dim), a = at[i], b = at[i + half];
            at[i] = a * cos(angle) - b * sin(angle);
            at[i + half] = b * cos(angle) + a * sin(angle);
        }
    }
}

static void attend(struct plain *p, int32_t row)
{
    const struct model_config *c = &p->run->model->config;
    int32_t begin = p->first[row];
    if (c->sliding_window && row - begin >= c->sliding_window) {
        begin = row - c->sliding_window + 1;
    }
    for (int32_t head = 0; head < c->n_heads; head++) {
        int32_t at = head * c->head_dim, kv_at = head / (c->n_heads / c->n_kv_heads) * c->head_dim;
        double total = 0, *out = p->attn[row] + at;
        memset(out, 0, (size_t)c->head_dim * sizeof *out);
        for (int32_t other = begin; other <= row; other++) {
            double score = 0;
            for (int32_t d = 0; d < c->head_dim; d++) {
                score += p->q[row][at + d] * p->k[other][kv_at + d];
            }
            double e = exp(score / sqrt(c->head_dim));
            total += e;
            for (int32_t d = 0; d < c->head_dim; d++) {
                out[d] += e * p->v[other][kv_at + d];
            }
        }
        for (int32_t d = 0; d < c->head_dim; d++) {
            out[d] /= total;
        }
    }
}

static void swiglu(double *gate, const double *up, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    }
}

/* From gate and up of every (row, expert) to the output in y, checking as it goes. */
static void mixture(struct plain *p, const struct layer *layer, double (*y)[MAX_DIM])
{
    const struct model_config *c = &p->run->model->config;
    enum { EXPERTS = 4 };
    static double hidden[EXPERTS][MAX_ROWS][MAX_DIM], share[MAX_ROWS][EXPERTS];
    static struct inputs in[EXPERTS], mid[EXPERTS], all, all_mid;
    double pool_mean[MAX_DIM], pool[MAX_DIM], mid_mean[MAX_DIM], mid_pool[MAX_DIM];
    cr_assert_eq(c->n_experts, EXPERTS);
    all = (struct inputs){.n_cols = c->dim};
    all_mid = (struct inputs){.n_cols = c->ffn_dim};
    for (int32_t e = 0; e < EXPERTS; e++) {
        in[e] = (struct inputs){.n_cols = c->dim};
        mid[e] = (struct inputs){.n_cols = c->ffn_dim};
    }
    for (int32_t row = 0; row < p->n_rows; row++) {
        double logits[EXPERTS], total = 0;
        multiply(logits, layer->router, p->h[row]);
        for (int32_t e = 0; e < EXPERTS; e++) {
            int32_t n_better = 0;
            for (int32_t other = 0; other < EXPERTS; other++) {
                n_better += logits[other] > logits[e];
            }
            share[row][e] = n_better < c->n_experts_used ? exp(logits[e]) : 0;
            total += share[row][e];
        }
        for (int32_t e = 0; e < EXPERTS; e++) {
            share[row][e] /= total;
        }
    }
    for (int32_t e = 0; e < EXPERTS; e++) {
        for (int32_t row = 0; row < p->n_rows; row++) {
            if (share[row][e] > 0) {
                in[e].x[in[e].n] = all.x[all.n] = p->h[row];
                in[e].rows[in[e].n++] = all.rows[all.n++] = row;
                multiply(hidden[e][row], layer->experts[e].w_gate, p->h[row]);
                multiply(p->up[row], layer->experts[e].w_up, p->h[row]);
                swiglu(hidden[e][row], p->up[row], c->ffn_dim);
                mid[e].x[mid[e].n] = all_mid.x[all_mid.n] = hidden[e][row];
                mid[e].rows[mid[e].n++] = all_mid.rows[all_mid.n++] = row;
            }
        }
        p->n_unvisited += in[e].n == 0;
    }
    whole(p, pool_mean, pool, &all);
    struct inputs chosen_mid = choose_inputs(p, &all_mid);
    raw_moments(mid_mean, mid_pool, &chosen_mid);
    double level = level_of(mid_pool, c->ffn_dim);
    struct inputs chosen_all = choose_inputs(p, &all);
    double pooled_square = plain_mean_square(&chosen_all);
    for (int32_t e = 0; e < EXPERTS; e++) {
        double mean[MAX_DIM], second[MAX_DIM];
        struct inputs chosen = choose_inputs(p, &in[e]);
        raw_moments(mean, second, &chosen);
        for (int32_t col = 0; col < c->dim; col++) {
            second[col] = ((chosen.n ? chosen.n * second[col] : 0) + 16 * pool[col]) / (chosen.n + 16);
            mean[col] = ((chosen.n ? chosen.n * mean[col] : 0) + 16 * pool_mean[col]) / (chosen.n + 16);
        }
        expect_moments(p, layer->experts[e].w_gate, mean, second);
        expect_moments(p, layer->experts[e].w_up, mean, second);
        double square = (chosen.n * plain_mean_square(&chosen) + 256 * pooled_square) / (chosen.n + 256);
        expect_mean_square(p, layer->experts[e].w_gate, square);
        expect_mean_square(p, layer->experts[e].w_up, square);
        chosen = choose_inputs(p, &mid[e]);
        raw_moments(mean, second, &chosen);
        for (int32_t col = 0; col < c->ffn_dim; col++) {
            second[col] = ((chosen.n ? chosen.n * second[col] : 0) + 16 * level) / (chosen.n + 16);
            mean[col] = chosen.n ? mean[col] : sqrt(level);
        }
        expect_moments(p, layer->experts[e].w_down, mean, second);
        expect_mean_square(p, layer->experts[e].w_down,
                           (chosen.n * plain_mean_square(&chosen) + 256 * level) / (chosen.n + 256));
    }
    for (int32_t row = 0; row < p->n_rows; row++) {
        memset(y[row], 0, sizeof y[row]);
        for (int32_t e = 0; e < EXPERTS; e++) {
            double part[MAX_DIM];
            if (share[row][e] > 0) {
                multiply(part, layer->experts[e].w_down, hidden[e][row]);
                for (int32_t i = 0; i < c->dim; i++) {
                    y[row][i] += share[row][e] * part[i];
                }
            }
        }
    }
}

static void check_layer(struct plain *p, const struct layer *layer)
{
    const struct model_config *c = &p->run->model->config;
    struct linear *qkv[] = {layer->wq, layer->wk, layer->wv}, *up[] = {layer->w_gate, layer->w_up};
    static double y[MAX_ROWS][MAX_DIM];
    for (int32_t row = 0; row < p->n_rows; row++) {
        normalise(p->h[row], p->x[row], layer->attn_norm, c);
        multiply(p->q[row], layer->wq, p->h[row]);
        multiply(p->k[row], layer->wk, p->h[row]);
        multiply(p->v[row], layer->wv, p->h[row]);
        rotate(p->q[row], c->n_heads, p->positions[row], c);
        rotate(p->k[row], c->n_kv_heads, p->positions[row], c);
        attend(p, row);
        multiply(y[row], layer->wo, p->attn[row]);
    }
    check_input(p, p->h, qkv, 3);
    check_input(p, p->attn, &layer->wo, 1);
    for (int32_t row = 0; row < p->n_rows; row++) {
        for (int32_t i = 0; i < c->dim; i++) {
            p->x[row][i] += y[row][i];
        }
        normalise(p->h[row], p->x[row], layer->ffn_norm, c);
    }
    if (c->n_experts) {
        cr_assert_null(record_of(p->run, layer->router)->second);
        mixture(p, layer, y);
    } else {
        check_input(p, p->h, up, 2);
        for (int32_t row = 0; row < p->n_rows; row++) {
            multiply(p->gate[row], layer->w_gate, p->h[row]);
            multiply(p->up[row], layer->w_up, p->h[row]);
            swiglu(p->gate[row], p->up[row], c->ffn_dim);
            multiply(y[row], layer->w_down, p->gate[row]);
        }
        check_input(p, p->gate, &layer->w_down, 1);
    }
    for (int32_t row = 0; row < p->n_rows; row++) {
        for (int32_t i = 0; i < c->dim; i++) {
            p->x[row][i] += y[row][i];
        }
    }
}

/* Compares a run with the plain computation over sequences of `length` tokens; returns how many experts were
 * not visited. */
static int32_t check_run(const struct run *run, const int32_t *ids, int32_t n_ids, int32_t length)
{
    struct plain *p = calloc(1, sizeof *p);
    const struct model_config *c = &run->model->config;
    float embedding[MAX_DIM];
    cr_assert(p && c->dim <= MAX_DIM && c->ffn_dim <= MAX_DIM);
    p->run = run;
    for (int32_t i = 0, position = 0; i < n_ids; position++) {
        bool is_new = position == length;
        position = is_new ? 0 : position;
        p->tokens[p->n_rows] = is_new ? ids[0] : ids[i++];
        p->positions[p->n_rows] = position;
        p->first[p->n_rows] = p->n_rows - position;
        p->n_rows++;
    }
    for (int32_t row = 0; row < p->n_rows; row++) {
        tensor_to_f32(embedding, run->model->embedding, (int64_t)p->tokens[row] * c->dim, c->dim);
        for (int32_t i = 0; i < c->dim; i++) {
            p->x[row][i] = (double)embedding[i];
        }
    }
    for (int32_t l = 0; l < c->n_layers; l++) {
        check_layer(p, &run->model->layers[l]);
    }
    for (int32_t row = 0; row < p->n_rows; row++) {
        normalise(p->h[row], p->x[row], run->model->final_norm, c);
    }
    check_input(p, p->h, &run->model->head, 1);
    int32_t n_unvisited = p->n_unvisited;
    free(p);
    return n_unvisited;
}

/* ---- tests ---- */

static const char *const architectures[] = {"llama", "mistral", "mixtral"};

Test(calibrate, equals_a_plain_double_computation)
{
    int32_t ids[N_IDS];
    make_random_ids(ids, N_IDS);
    for (int a = 0; a < 3; a++) {
        char folder[64];
        struct run run;
        make_model(folder, sizeof folder, architectures[a], 5);
        run_open(&run, folder, NULL, ids, N_IDS, CPU_ALL, 2, 1, false);
        check_run(&run, ids, N_IDS, N_IDS);
        run_close(&run);
        remove_folder(folder);
    }
}

/* The text is cut into sequences, each behind BOS, whose positions are left out like the first. */
Test(calibrate, context_shorter_than_the_text)
{
    int32_t ids[N_IDS];
    make_random_ids(ids, N_IDS);
    for (int a = 0; a < 3; a++) {
        char folder[64];
        struct run run;
        make_model(folder, sizeof folder, architectures[a], 6);
        run_open(&run, folder, "{\"max_position_embeddings\":16}", ids, N_IDS, CPU_ALL, 2, 1, false);
        check_run(&run, ids, N_IDS, 16);
        run_close(&run);
        remove_folder(folder);
    }
}

/* Few tokens leave experts without any: they have what the layer's experts see together. */
Test(calibrate, unvisited_experts_fall_back)
{
    int32_t ids[N_IDS], n_unvisited = 0;
    make_random_ids(ids, N_IDS);
    for (uint64_t seed = 1; seed <= 4; seed++) {
        char folder[64];
        struct run run;
        make_model(folder, sizeof folder, "mixtral", seed);
        run_open(&run, folder, NULL, ids, 3, CPU_ALL, 2, 1, false);
        n_unvisited += check_run(&run, ids, 3, 3);
        run_close(&run);
        remove_folder(folder);
    }
    cr_assert_gt(n_unvisited, 0);
}

static void expect_same(const struct run *a, const struct run *b, const char *what)
{
    cr_assert_eq(a->n_records, b->n_records);
    for (int32_t i = 0; i < a->n_records; i++) {
        const struct record *x = &a->records[i], *y = &b->records[i];
        size_t bytes = (size_t)x->linear->w.n_cols * sizeof(float);
        cr_assert_str_eq(x->linear->name, y->linear->name);
        cr_assert(!x->mean || (!memcmp(x->mean, y->mean, bytes) && !memcmp(x->second, y->second, bytes)),
                  "%s: %s has other moments", what, x->linear->name);
        cr_assert_eq(x->mean_square, y->mean_square, "%s: %s has another mean square", what, x->linear->name);
    }
}

Test(calibrate, same_bits_for_every_set_and_thread_count)
{
    static const unsigned flags[] = {0, CPU_AVX2, CPU_ALL};
    int32_t ids[N_IDS];
    make_random_ids(ids, N_IDS);
    for (int a = 0; a < 3; a++) {
        char folder[64];
        struct run first;
        make_model(folder, sizeof folder, architectures[a], 9);
        run_open(&first, folder, NULL, ids, N_IDS, CPU_ALL, 1, 1, false);
        for (int f = 0; f < 3; f++) {
            for (int32_t n_threads = 1; n_threads <= 4; n_threads *= 2) {
                char what[64];
                struct run other;
                snprintf(what, sizeof what, "%s, flags %u, %d threads", architectures[a], flags[f],
                         n_threads);
                run_open(&other, folder, NULL, ids, N_IDS, flags[f], n_threads, 1, false);
                expect_same(&first, &other, what);
                run_close(&other);
            }
        }
        run_close(&first);
        remove_folder(folder);
    }
}

/* Scales of channels leave floats as they are, bit for bit: what lies behind them has the same moments, and
 * their own inputs the same divided. */
Test(calibrate, scaled_channels_change_no_bit_behind_them)
{
    int32_t ids[N_IDS];
    make_random_ids(ids, N_IDS);
    for (int a = 0; a < 3; a++) {
        char folder[64];
        struct run plain, scaled;
        int32_t n_scaled = 0, n_changed = 0;
        make_model(folder, sizeof folder, architectures[a], 9);
        run_open(&plain, folder, NULL, ids, N_IDS, CPU_ALL, 2, 1, false);
        run_open(&scaled, folder, NULL, ids, N_IDS, CPU_ALL, 2, 1, true);
        for (int32_t i = 0; i < plain.n_records; i++) {
            const struct record *x = &plain.records[i], *y = &scaled.records[i];
            n_scaled += y->linear->column_scales != NULL;
            for (int32_t j = 0; x->mean && j < x->linear->w.n_cols; j++) {
                float scale = y->linear->column_scales ? y->linear->column_scales[j] : 1;
                cr_assert_eq(x->mean[j], y->mean[j] * scale, "%s", x->linear->name);
                cr_assert_eq(x->second[j], y->second[j] * scale * scale, "%s", x->linear->name);
                n_changed += scale < 1 || scale > 1;
            }
        }
        const struct model_config *c = &plain.model->config;
        cr_assert_eq(n_scaled, c->n_layers * (c->n_experts ? 3 : 5) + 1);
        cr_assert_gt(n_changed, 0);
        run_close(&plain);
        run_close(&scaled);
        remove_folder(folder);
    }
}

/* The first layer's input is the embedding alone: who stands at position 0 does not show. */
Test(calibrate, the_first_position_is_left_out)
{
    int32_t ids[N_IDS];
    char folder[64];
    struct run with_bos, other;
    make_random_ids(ids, N_IDS);
    make_model(folder, sizeof folder, "llama", 3);
    run_open(&with_bos, folder, NULL, ids, N_IDS, CPU_ALL, 2, 1, false);
    ids[0] = 40;
    run_open(&other, folder, NULL, ids, N_IDS, CPU_ALL, 2, 1, false);
    size_t bytes = 64 * sizeof(float);
    cr_assert_eq(memcmp(with_bos.records[0].second, other.records[0].second, bytes), 0);
    cr_assert_eq(memcmp(with_bos.records[0].mean, other.records[0].mean, bytes), 0);
    cr_assert_neq(memcmp(with_bos.records[3].second, other.records[3].second, bytes),
                  0); /* attention sees it */
    run_close(&with_bos);
    run_close(&other);
    remove_folder(folder);
}

/* Multiplies the embedding of one token, in the folder's file: the embedding is its first tensor. */
static void scale_embedding(const char *folder, int32_t token, float factor)
{
    char path[128];
    uint64_t header_bytes;
    float row[64];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *file = fopen(path, "r+b");
    cr_assert(file && fread(&header_bytes, 8, 1, file) == 1);
    long at = (long)(8 + header_bytes + (size_t)token * sizeof row);
    cr_assert(!fseek(file, at, SEEK_SET) && fread(row, sizeof row, 1, file) == 1);
    for (int32_t i = 0; i < 64; i++) {
        row[i] *= factor;
    }
    cr_assert(!fseek(file, at, SEEK_SET) && fwrite(row, sizeof row, 1, file) == 1);
    fclose(file);
}

/* A token whose residual is 1000 times larger than the others' leaves no trace in the first layer's input. */
Test(calibrate, sinks_are_left_out)
{
    enum { SINK = 2, AT = 20 };
    int32_t ids[N_IDS], with_sink[N_IDS + 1];
    char folder[64];
    struct run without, with;
    make_random_ids(ids, N_IDS);
    memcpy(with_sink, ids, AT * sizeof *ids);
    with_sink[AT] = SINK;
    memcpy(with_sink + AT + 1, ids + AT, (N_IDS - AT) * sizeof *ids);
    make_model(folder, sizeof folder, "llama", 3);
    scale_embedding(folder, SINK, 1000);
    run_open(&without, folder, NULL, ids, N_IDS, CPU_ALL, 2, 1, false);
    run_open(&with, folder, NULL, with_sink, N_IDS + 1, CPU_ALL, 2, 1, false);
    cr_assert_eq(memcmp(without.records[0].second, with.records[0].second, 64 * sizeof(float)), 0);
    check_run(&with, with_sink, N_IDS + 1, N_IDS + 1);
    run_close(&without);
    run_close(&with);
    remove_folder(folder);
}

static void expect_usable(const struct run *run)
{
    for (int32_t i = 0; i < run->n_records; i++) {
        const struct record *r = &run->records[i];
        for (int32_t col = 0; r->mean && col < r->linear->w.n_cols; col++) {
            cr_assert(isfinite(r->mean[col]) && isfinite(r->second[col]) && r->second[col] > 0,
                      "%s: column %d has mean %g, second moment %g", r->linear->name, col,
                      (double)r->mean[col], (double)r->second[col]);
        }
    }
}

/* Weights so large that activations overflow, so small that they vanish, and texts that leave nothing to
 * count: moments stay finite and above zero. */
Test(calibrate, moments_are_finite_and_positive)
{
    static const float factors[] = {1, 0, 1e-30f, 1e15f, 1e36f};
    static const int32_t lengths[] = {1, 2, N_IDS};
    int32_t ids[N_IDS];
    make_random_ids(ids, N_IDS);
    for (int a = 0; a < 3; a++) {
        char folder[64];
        make_model(folder, sizeof folder, architectures[a], 4);
        for (size_t f = 0; f < sizeof factors / sizeof *factors; f++) {
            for (int n = 0; n < 3; n++) {
                struct run run;
                run_open(&run, folder, NULL, ids, lengths[n], CPU_ALL, 2, factors[f], false);
                expect_usable(&run);
                run_close(&run);
            }
        }
        remove_folder(folder);
    }
}
