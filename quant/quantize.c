/* Methods, checks, threads and statistics around quant/row.h. A row is one item of work; what it becomes
 * depends on it alone. */
#include "quant/quantize.h"

#include <assert.h>
#include <stdbool.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/float16.h"
#include "quant/kmeans.h"
#include "quant/pack.h"
#include "quant/row.h"

enum { DEFAULT_GROUP_SIZE = 128, ALIGNMENT = 64, ROWS_AT_ONCE = 4, ERROR_LANES = 8 };

/* The one seed of any4-paper's k-means++ start: every row draws the same sequence. */
static const uint64_t PAPER_SEED = 2507;
static const float PAPER_MIN_RANGE = 1e-6f;

/* NF4 (Dettmers et al., QLoRA, 2023). */
static const float NF4_TABLE[ROW_LEVELS] = {
    -1.0f,      -0.6961928f, -0.5250731f, -0.3949175f, -0.2844414f, -0.1847734f, -0.0910500f, 0.0f,
    0.0795803f, 0.1609302f,  0.2461123f,  0.3379152f,  0.4407098f,  0.5626170f,  0.7229568f,  1.0f};
/* FP4 of bitsandbytes; both its zeros are +0 here. */
static const float FP4_TABLE[ROW_LEVELS] = {-1.0f,       -0.66667f, -0.5f,    -0.33333f,  -0.25f,   -0.16667f,
                                            -0.0052083f, 0.0f,      0.0f,     0.0052083f, 0.16667f, 0.25f,
                                            0.33333f,    0.5f,      0.66667f, 1.0f};

typedef void quantize_row_fn(const struct quant_row *row, struct row_scratch *scratch, const float *table);

static int32_t group_columns(const struct quant_row *row, int32_t begin)
{
    return row->n_cols - begin < row->group_size ? row->n_cols - begin : row->group_size;
}

/* Scale (max - min) / 15, u = (w - min) / scale in [0, 15], zero point the value of code 8: asymmetric, as
 * int4 and the paper have it. Rounded to bf16 last: u comes from the unrounded scale. */
static void scale_min_max(const struct quant_row *row, struct row_scratch *scratch, float min_range)
{
    for (int32_t begin = 0, group = 0; begin < row->n_cols; begin += row->group_size, group++) {
        int32_t n = group_columns(row, begin);
        float min, max;
        row_range(&min, &max, row->w + begin, n);
        float range = max - min > min_range ? max - min : min_range;
        float scale = range / (ROW_LEVELS - 1);
        row_scale(scratch->u + begin, row->w + begin, n, min, scale);
        scratch->weight[group] = 1;
        row->scales[group] = bf16_from_f32(scale);
        row->zeros[group] = bf16_from_f32(min + 8 * scale);
    }
}

static void quantize_row_any4(const struct quant_row *row, struct row_scratch *scratch, const float *table)
{
    (void)table;
    row_quantize_any4(row, scratch);
}

/* The paper's procedure without calibration: every element has weight 1. Codes follow the unrounded centres.
 */
static void quantize_row_paper(const struct quant_row *row, struct row_scratch *scratch, const float *table)
{
    (void)table;
    double centres[ROW_LEVELS];
    int32_t bounds[ROW_LEVELS + 1];
    float stored[ROW_LEVELS], limits[ROW_LEVELS - 1];
    const struct row_points *points = &scratch->points;
    scale_min_max(row, scratch, PAPER_MIN_RANGE);
    row_sort(scratch, row->n_cols, row->group_size);
    kmeans_lloyd(centres, bounds, points, PAPER_SEED, scratch->kmeans);
    for (int32_t k = 0; k < ROW_LEVELS; k++) {
        stored[k] = (float)(centres[k] - 8);
    }
    for (int32_t k = 1; k < ROW_LEVELS;
         k++) { /* the last value of the runs below: codes follow the runs exactly */
        limits[k - 1] = bounds[k] > 0 ? points->value[bounds[k] - 1] : -FLT_MAX;
    }
    row_assign(row->codes, scratch->u, row->n_cols, limits);
    row_store_table(row->lut, stored);
}

static void quantize_row_int4(const struct quant_row *row, struct row_scratch *scratch, const float *table)
{
    (void)table;
    float stored[ROW_LEVELS];
    scale_min_max(row, scratch, 0);
    for (int32_t k = 0; k < ROW_LEVELS; k++) {
        stored[k] = (float)(k - 8);
    }
    for (int32_t j = 0; j < row->n_cols; j++) {
        /* Adding 1.5 * 2^23 rounds to an integer, halves to even as everybody's int4 does: weights stored as
         * bf16 lie on a coarse grid, and 0.2 % of them fall on a half. */
        float rounded = (scratch->u[j] + 12582912.0f) - 12582912.0f;
        row->codes[j] = (uint8_t)(rounded < 15 ? rounded : 15);
    }
    row_store_table(row->lut, stored);
}

/* A fixed table over w / max |w| of the group; no zero point. */
static void quantize_row_absmax(const struct quant_row *row, struct row_scratch *scratch, const float *table)
{
    float limits[ROW_LEVELS - 1];
    for (int32_t begin = 0, group = 0; begin < row->n_cols; begin += row->group_size, group++) {
        int32_t n = group_columns(row, begin);
        float min, max;
        row_range(&min, &max, row->w + begin, n);
        float scale = max > -min ? max : -min;
        row_scale(scratch->u + begin, row->w + begin, n, 0, scale);
        row->scales[group] = bf16_from_f32(scale);
    }
    row_limits(limits, table);
    row_assign(row->codes, scratch->u, row->n_cols, limits);
    row_store_table(row->lut, table);
}

struct method {
    const char *name;
    quantize_row_fn *quantize_row; /* NULL: weights stay as stored */
    bool has_zeros;
    const float *table; /* of the methods whose table is fixed and not learned */
};

static const struct method METHODS[] = {
    [QUANT_NONE] = {"none", NULL, false, NULL},
    [QUANT_ANY4] = {"any4", quantize_row_any4, true, NULL},
    [QUANT_ANY4_PAPER] = {"any4-paper", quantize_row_paper, true, NULL},
    [QUANT_INT4] = {"int4", quantize_row_int4, true, NULL},
    [QUANT_NF4] = {"nf4", quantize_row_absmax, false, NF4_TABLE},
    [QUANT_FP4] = {"fp4", quantize_row_absmax, false, FP4_TABLE},
};
enum { N_METHODS = sizeof METHODS / sizeof METHODS[0] };

enum status quant_method_parse(enum quant_method *out, const char *name, struct error *err)
{
    char names[128] = "";
    size_t used = 0;
    for (int32_t i = 0; i < N_METHODS; i++) {
        if (!strcmp(name, METHODS[i].name)) {
            *out = (enum quant_method)i;
            return STATUS_OK;
        }
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", METHODS[i].name);
    }
    return error_set(err, STATUS_INVALID, "unknown quantization method \"%.64s\", expected one of %s", name,
                     names);
}

const char *quant_method_name(enum quant_method method)
{
    assert((int)method >= 0 && (int)method < N_METHODS);
    return METHODS[method].name;
}

/* Where the parts of a quantized matrix stand in its one block of memory. */
struct block {
    int32_t group_size, n_groups;
    size_t row_bytes;
    size_t scales_at, zeros_at, lut_at, bytes;                /* offsets; the codes stand at 0 */
    size_t codes_bytes, scales_bytes, zeros_bytes, lut_bytes; /* without the gaps between the parts */
};

static size_t align_up(size_t n)
{
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static bool block_init(struct block *b, const struct quant_settings *settings, int32_t n_rows, int32_t n_cols)
{
    int32_t group_size = settings->group_size ? settings->group_size : DEFAULT_GROUP_SIZE;
    if ((group_size != 32 && group_size != 64 && group_size != 128) || n_rows < 1 || n_cols < 1 ||
        settings->method == QUANT_NONE) {
        return false;
    }
    /* With 31-bit shapes every part stays below 2^62: nothing here can overflow 64 bits. */
    static_assert(sizeof(size_t) == 8, "sizes below count on 64 bits");
    b->group_size = group_size;
    b->n_groups = (int32_t)(((int64_t)n_cols + group_size - 1) / group_size);
    b->row_bytes = pack_row_bytes(n_cols, 4);
    b->codes_bytes = (size_t)n_rows * b->row_bytes;
    b->scales_bytes = (size_t)n_rows * (size_t)b->n_groups * sizeof(uint16_t);
    b->zeros_bytes = METHODS[settings->method].has_zeros ? b->scales_bytes : 0;
    b->lut_bytes = (size_t)n_rows * ROW_LEVELS * sizeof(uint16_t);
    b->scales_at = align_up(b->codes_bytes);
    b->zeros_at = b->scales_at + align_up(b->scales_bytes);
    b->lut_at = b->zeros_at + align_up(b->zeros_bytes);
    b->bytes = b->lut_at + align_up(b->lut_bytes);
    return true;
}

size_t quant_matrix_bytes(const struct quant_settings *settings, int32_t n_rows, int32_t n_cols)
{
    struct block b;
    return block_init(&b, settings, n_rows, n_cols) ? b.bytes : SIZE_MAX;
}

/* What one thread needs: its own row of floats and codes, and the first bad weight that it met. */
struct worker {
    float *w;
    uint8_t *codes;
    struct row_scratch scratch;
    int32_t bad_row, bad_col; /* bad_row -1: none */
    float bad_weight;
};

struct job {
    const struct method *method;
    struct block block;
    int32_t n_cols;
    uint8_t *codes;
    uint16_t *scales, *zeros, *lut;
    quant_read_rows_fn *read_rows;
    void *source;
    struct worker *workers;
    double *energy, *error; /* (n_rows) each */
};

/* Column of the first weight that is NaN, Inf or beyond ROW_MAX_WEIGHT; -1 if there is none. */
static int32_t find_bad_weight(const float *w, int32_t n)
{
    int32_t bad = 0;
    for (int32_t j = 0; j < n; j++) {
        bad += !(fabsf(w[j]) <= ROW_MAX_WEIGHT);
    }
    for (int32_t j = 0; bad && j < n; j++) {
        if (!(fabsf(w[j]) <= ROW_MAX_WEIGHT)) {
            return j;
        }
    }
    return -1;
}

/* Sums of w^2 and (w_hat - w)^2 over a row, in eight lanes whose order is fixed. */
static void measure_row(double *energy, double *error, const struct quant_row *row)
{
    double energies[ERROR_LANES] = {0}, errors[ERROR_LANES] = {0};
    float table[ROW_LEVELS];
    for (int32_t k = 0; k < ROW_LEVELS; k++) {
        table[k] = bf16_to_f32(row->lut[k]);
    }
    for (int32_t begin = 0, group = 0; begin < row->n_cols; begin += row->group_size, group++) {
        int32_t n = group_columns(row, begin);
        const float *w = row->w + begin;
        const uint8_t *codes = row->codes + begin;
        float scale = bf16_to_f32(row->scales[group]);
        float zero = row->zeros ? bf16_to_f32(row->zeros[group]) : 0;
        for (int32_t j = 0; j < n; j += ERROR_LANES) {
            int32_t lanes = n - j < ERROR_LANES ? n - j : ERROR_LANES;
            for (int32_t l = 0; l < lanes; l++) {
                double d = (double)(scale * table[codes[j + l]] + zero) - w[j + l];
                energies[l] += (double)w[j + l] * w[j + l];
                errors[l] += d * d;
            }
        }
    }
    *energy = *error = 0;
    for (int32_t l = 0; l < ERROR_LANES; l++) {
        *energy += energies[l];
        *error += errors[l];
    }
}

static void quantize_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    struct job *job = context;
    struct worker *worker = &job->workers[thread];
    for (int32_t index = (int32_t)begin; index < (int32_t)end; index++) {
        size_t groups_at = (size_t)index * (size_t)job->block.n_groups;
        struct quant_row row = {
            .w = worker->w,
            .n_cols = job->n_cols,
            .group_size = job->block.group_size,
            .codes = worker->codes,
            .scales = job->scales + groups_at,
            .zeros = job->zeros ? job->zeros + groups_at : NULL,
            .lut = job->lut + (size_t)index * ROW_LEVELS,
        };
        if (worker->bad_row >= 0 && worker->bad_row < index) {
            continue; /* the matrix is lost; only an earlier bad row would still matter */
        }
        job->read_rows(job->source, worker->w, index, index + 1);
        int32_t bad = find_bad_weight(worker->w, job->n_cols);
        if (bad >= 0) {
            worker->bad_row = index;
            worker->bad_col = bad;
            worker->bad_weight = worker->w[bad];
            continue;
        }
        job->method->quantize_row(&row, &worker->scratch, job->method->table);
        measure_row(&job->energy[index], &job->error[index], &row);
        pack_row(job->codes + (size_t)index * job->block.row_bytes, worker->codes, job->n_cols, 4);
    }
}

/* The one allocation of a call: workers, their scratch, and the sums per row. NULL when memory is short. */
static void *job_allocate(struct job *job, int32_t n_rows, int32_t n_threads)
{
    struct row_scratch layout;
    size_t n_cols = (size_t)job->n_cols, threads = (size_t)n_threads;
    size_t workers = align_up(threads * sizeof(struct worker));
    size_t sums = align_up((size_t)n_rows * sizeof(double));
    size_t floats = align_up(n_cols * sizeof(float)), codes = align_up(n_cols);
    size_t scratch = row_scratch_init(&layout, NULL, job->n_cols, job->block.group_size);
    unsigned char *memory =
        aligned_alloc(ALIGNMENT, workers + 2 * sums + threads * (floats + codes + scratch));
    if (!memory) {
        return NULL;
    }
    unsigned char *at = memory + workers;
    job->workers = (struct worker *)memory;
    job->energy = (double *)at;
    job->error = (double *)(at + sums);
    at += 2 * sums;
    for (int32_t thread = 0; thread < n_threads; thread++) {
        struct worker *worker = &job->workers[thread];
        worker->w = (float *)at;
        worker->codes = at + floats;
        row_scratch_init(&worker->scratch, at + floats + codes, job->n_cols, job->block.group_size);
        worker->bad_row = -1;
        at += floats + codes + scratch;
    }
    return memory;
}

static enum status check_weights(const struct job *job, int32_t n_threads, struct error *err)
{
    const struct worker *first = NULL;
    for (int32_t thread = 0; thread < n_threads; thread++) {
        const struct worker *worker = &job->workers[thread];
        if (worker->bad_row >= 0 && (!first || worker->bad_row < first->bad_row)) {
            first = worker;
        }
    }
    if (!first) {
        return STATUS_OK;
    }
    if (isfinite(first->bad_weight)) {
        return error_set(err, STATUS_QUANTIZE,
                         "row %d, column %d: weight %g is beyond %g, what the 4-bit formats can scale",
                         first->bad_row, first->bad_col, (double)first->bad_weight, (double)ROW_MAX_WEIGHT);
    }
    return error_set(err, STATUS_QUANTIZE, "row %d, column %d: weight is %s, expected a finite number",
                     first->bad_row, first->bad_col, isnan(first->bad_weight) ? "NaN" : "infinite");
}

static void stats_sum(struct quant_stats *stats, const struct job *job, int32_t n_rows)
{
    const struct block *b = &job->block;
    *stats = (struct quant_stats){0};
    for (int32_t row = 0; row < n_rows; row++) {
        stats->weight_energy += job->energy[row];
        stats->error_energy += job->error[row];
        if (job->energy[row] > 0 && sqrt(job->error[row] / job->energy[row]) > stats->max_row_error) {
            stats->max_row_error = sqrt(job->error[row] / job->energy[row]);
            stats->worst_row = row;
        }
    }
    stats->weighted_energy = stats->weight_energy; /* every column alike */
    stats->weighted_error = stats->error_energy;
    stats->code_bits = (int64_t)(b->codes_bytes + b->scales_bytes + b->zeros_bytes) * 8;
    stats->table_bits = (int64_t)b->lut_bytes * 8;
}

enum status quant_matrix(struct any4_matrix *out, void *memory, struct quant_stats *stats,
                         const struct quant_settings *settings, int32_t n_rows, int32_t n_cols,
                         quant_read_rows_fn *read_rows, void *source, const struct quant_moments *moments,
                         struct thread_pool *pool, struct error *err)
{
    (void)moments;
    struct job job = {.n_cols = n_cols, .read_rows = read_rows, .source = source};
    struct block *b = &job.block;
    unsigned char *at = memory;
    int32_t n_threads = thread_pool_n_threads(pool);
    if (!block_init(b, settings, n_rows, n_cols)) {
        return error_set(
            err, STATUS_INVALID,
            "cannot quantize (%d, %d) by %s in groups of %d, expected 4-bit method and 32, 64 or 128", n_rows,
            n_cols, quant_method_name(settings->method), settings->group_size);
    }
    void *allocated = job_allocate(&job, n_rows, n_threads);
    if (!allocated) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory while quantizing (%d, %d)", n_rows, n_cols);
    }
    job.method = &METHODS[settings->method];
    job.codes = at;
    job.scales = (uint16_t *)(at + b->scales_at);
    job.zeros = b->zeros_bytes ? (uint16_t *)(at + b->zeros_at) : NULL;
    job.lut = (uint16_t *)(at + b->lut_at);
    /* The gaps between the parts: so that equal matrices are equal bytes. */
    memset(at + b->codes_bytes, 0, b->scales_at - b->codes_bytes);
    memset(at + b->scales_at + b->scales_bytes, 0, b->zeros_at - b->scales_at - b->scales_bytes);
    memset(at + b->zeros_at + b->zeros_bytes, 0, b->lut_at - b->zeros_at - b->zeros_bytes);
    memset(at + b->lut_at + b->lut_bytes, 0, b->bytes - b->lut_at - b->lut_bytes);

    thread_pool_run_dynamic(pool, n_rows, ROWS_AT_ONCE, quantize_rows, &job);

    enum status status = check_weights(&job, n_threads, err);
    if (!status) {
        stats_sum(stats, &job, n_rows);
        *out = (struct any4_matrix){
            .kind = ANY4_LUT,
            .layout = ANY4_LAYOUT_CPU_V1,
            .n_rows = n_rows,
            .n_cols = n_cols,
            .code_bits = 4,
            .group_size = b->group_size,
            .n_groups = b->n_groups,
            .row_bytes = b->row_bytes,
            .codes = job.codes,
            .scales = job.scales,
            .zeros = job.zeros,
            .lut = job.lut,
        };
    }
    free(allocated);
    return status;
}

static void dequantize_row(float *out, const struct any4_matrix *m, int32_t row)
{
    const uint8_t *stored = m->codes + (size_t)row * m->row_bytes;
    const uint16_t *scales = m->scales + (size_t)row * (size_t)m->n_groups;
    const uint16_t *zeros = m->zeros ? m->zeros + (size_t)row * (size_t)m->n_groups : NULL;
    float table[ROW_LEVELS];
    for (int32_t k = 0; k < ROW_LEVELS; k++) {
        table[k] = bf16_to_f32(m->lut[(size_t)row * ROW_LEVELS + (size_t)k]);
    }
    for (int32_t begin = 0; begin < m->n_cols; begin += ANY4_BLOCK_COLS) { /* groups are whole blocks */
        int32_t n = m->n_cols - begin < ANY4_BLOCK_COLS ? m->n_cols - begin : ANY4_BLOCK_COLS;
        uint8_t codes[ANY4_BLOCK_COLS];
        float scale = bf16_to_f32(scales[begin / m->group_size]);
        float zero = zeros ? bf16_to_f32(zeros[begin / m->group_size]) : 0;
        unpack_row(codes, stored + begin / 2, n, 4);
        for (int32_t j = 0; j < n; j++) {
            out[begin + j] = scale * table[codes[j]] + zero;
        }
    }
}

void quant_dequantize(float *out, const struct any4_matrix *matrix, int32_t row_begin, int32_t row_end)
{
    assert(0 <= row_begin && row_begin <= row_end && row_end <= matrix->n_rows);
    for (int32_t row = row_begin; row < row_end; row++, out += matrix->n_cols) {
        const uint8_t *stored = matrix->codes + (size_t)row * matrix->row_bytes;
        switch (matrix->kind) {
        case ANY4_F32:
            memcpy(out, stored, (size_t)matrix->n_cols * sizeof(float));
            break;
        case ANY4_F16:
            for (int32_t j = 0; j < matrix->n_cols; j++) {
                out[j] = f16_to_f32(((const uint16_t *)(const void *)stored)[j]);
            }
            break;
        case ANY4_BF16:
            for (int32_t j = 0; j < matrix->n_cols; j++) {
                out[j] = bf16_to_f32(((const uint16_t *)(const void *)stored)[j]);
            }
            break;
        case ANY4_LUT:
            assert(matrix->layout == ANY4_LAYOUT_CPU_V1);
            dequantize_row(out, matrix, row);
            break;
        case ANY4_LUT_INT8:
        case ANY4_LINEAR:
            assert(false); /* no quantizer makes them yet */
            break;
        }
    }
}
