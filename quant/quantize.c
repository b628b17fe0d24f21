/* Methods, checks, threads and statistics around quant/rows.h. A row is one item of work; what it becomes
 * depends on it alone. */
#include "quant/quantize.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/cpu_features.h"
#include "engine/base/float16.h"
#include "quant/pack.h"
#include "quant/rows.h"

enum { ALIGNMENT = 64, ROWS_AT_ONCE = 4, N_SUMS = 4 };

/* The seed of any4-paper's k-means++ start where none is given: every row draws the same sequence. */
static const uint64_t PAPER_SEED = 2507;

struct method {
    const char *name;
    enum any4_kind kind;
    int32_t code_bits;  /* 0: weights stay as stored */
    int32_t group_size; /* where none is asked for */
    bool has_zeros;
    enum quant_weighting weighting; /* its own; NONE: takes no importance */
    size_t row_fn;                  /* of struct quant_rows */
};

#define ROW_FN(name) offsetof(struct quant_rows, name)
static const struct method METHODS[] = {
    [QUANT_NONE] = {"none", ANY4_F32, 0, 0, false, QUANT_WEIGHTING_NONE, 0},
    [QUANT_ANY4] = {"any4", ANY4_LUT_INT8, 4, 32, false, QUANT_WEIGHTING_MOMENT, ROW_FN(learned)},
    [QUANT_ANY3] = {"any3", ANY4_LUT_INT8, 3, 32, false, QUANT_WEIGHTING_MOMENT, ROW_FN(learned)},
    [QUANT_ANY2] = {"any2", ANY4_LUT_INT8, 2, 32, false, QUANT_WEIGHTING_MOMENT, ROW_FN(learned)},
    [QUANT_ANY4_PAPER] = {"any4-paper", ANY4_LUT, 4, 128, true, QUANT_WEIGHTING_MEAN, ROW_FN(paper)},
    [QUANT_INT8] = {"int8", ANY4_LINEAR, 8, 128, true, QUANT_WEIGHTING_NONE, ROW_FN(integer)},
    [QUANT_INT4] = {"int4", ANY4_LUT, 4, 128, true, QUANT_WEIGHTING_NONE, ROW_FN(integer)},
    [QUANT_INT3] = {"int3", ANY4_LUT, 3, 128, true, QUANT_WEIGHTING_NONE, ROW_FN(integer)},
    [QUANT_INT2] = {"int2", ANY4_LUT, 2, 128, true, QUANT_WEIGHTING_NONE, ROW_FN(integer)},
    [QUANT_NF4] = {"nf4", ANY4_LUT, 4, 128, false, QUANT_WEIGHTING_NONE, ROW_FN(nf4)},
    [QUANT_FP4] = {"fp4", ANY4_LUT, 4, 128, false, QUANT_WEIGHTING_NONE, ROW_FN(fp4)},
    [QUANT_MX4] = {"mx4", ANY4_LUT, 4, 32, false, QUANT_WEIGHTING_NONE, ROW_FN(mx4)},
};
enum { N_METHODS = sizeof METHODS / sizeof METHODS[0] };

static const char *const WEIGHTINGS[] = {
    [QUANT_WEIGHTING_AUTO] = "auto",
    [QUANT_WEIGHTING_NONE] = "none",
    [QUANT_WEIGHTING_MEAN] = "mean",
    [QUANT_WEIGHTING_MOMENT] = "moment",
};

/* The build of rows.c to use, and the method's function in it. */
static const struct quant_rows *choose_rows(unsigned cpu_flags)
{
#ifdef ANY4_X86
    unsigned usable = cpu_flags_usable(cpu_flags);
    if (usable & CPU_AVX512) {
        return &quant_rows_avx512;
    }
    if (usable & CPU_AVX2) {
        return &quant_rows_avx2;
    }
#else
    (void)cpu_flags;
#endif
    return &quant_rows_scalar;
}

static quant_row_fn *row_fn(const struct quant_rows *rows, const struct method *method)
{
    quant_row_fn *fn;
    memcpy(&fn, (const char *)rows + method->row_fn, sizeof fn);
    return fn;
}

enum status quant_method_parse(enum quant_method *out, const char *name, struct error *err)
{
    char names[192] = "";
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

enum quant_weighting quant_weighting_of(const struct quant_settings *settings)
{
    enum quant_weighting own = METHODS[settings->method].weighting;
    return own == QUANT_WEIGHTING_NONE || settings->weighting == QUANT_WEIGHTING_AUTO ? own
                                                                                      : settings->weighting;
}

const char *quant_weighting_name(enum quant_weighting weighting)
{
    return WEIGHTINGS[weighting];
}

enum status quant_weighting_parse(enum quant_weighting *out, const char *name, struct error *err)
{
    for (size_t i = 0; i < sizeof WEIGHTINGS / sizeof WEIGHTINGS[0]; i++) {
        if (!strcmp(name, WEIGHTINGS[i])) {
            *out = (enum quant_weighting)i;
            return STATUS_OK;
        }
    }
    return error_set(err, STATUS_INVALID, "unknown weighting \"%.64s\", expected auto, none, mean or moment",
                     name);
}

int32_t quant_group_size(const struct quant_settings *settings)
{
    return settings->group_size ? settings->group_size : METHODS[settings->method].group_size;
}

int32_t quant_code_bits(enum quant_method method)
{
    return METHODS[method].code_bits;
}

/* Where the parts of a quantized matrix stand in its one block of memory: the codes first, then what else the
 * kind has, each aligned. */
enum part { PART_CODES, PART_SCALES, PART_ZEROS, PART_TABLE, PART_ROW_SCALES, N_PARTS };

struct block {
    int32_t group_size, n_groups;
    size_t row_bytes;
    size_t size[N_PARTS]; /* without the gaps between the parts; 0 for what the kind lacks */
    size_t at[N_PARTS];
    size_t bytes;
};

static size_t align_up(size_t n)
{
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static bool block_init(struct block *b, const struct quant_settings *settings, int32_t n_rows, int32_t n_cols)
{
    const struct method *method = &METHODS[settings->method];
    int32_t group_size = quant_group_size(settings);
    if ((group_size != 32 && group_size != 64 && group_size != 128) || n_rows < 1 || n_cols < 1 ||
        !method->code_bits) {
        return false;
    }
    /* With 31-bit shapes every part stays below 2^62: nothing here can overflow 64 bits. */
    static_assert(sizeof(size_t) == 8, "sizes below count on 64 bits");
    size_t rows = (size_t)n_rows, levels = (size_t)1 << method->code_bits;
    size_t scale_bytes = method->kind == ANY4_LUT_INT8 ? sizeof(int8_t) : sizeof(uint16_t);
    *b = (struct block){.group_size = group_size};
    b->n_groups = (int32_t)(((int64_t)n_cols + group_size - 1) / group_size);
    b->row_bytes = pack_row_bytes(n_cols, method->code_bits);
    b->size[PART_CODES] = rows * b->row_bytes;
    b->size[PART_SCALES] = rows * (size_t)b->n_groups * scale_bytes;
    b->size[PART_ZEROS] = method->has_zeros ? b->size[PART_SCALES] : 0;
    b->size[PART_TABLE] =
        method->kind == ANY4_LINEAR ? 0 : rows * levels * scale_bytes; /* as wide as scales */
    b->size[PART_ROW_SCALES] = method->kind == ANY4_LUT_INT8 ? rows * sizeof(float) : 0;
    for (int32_t part = 0; part < N_PARTS; part++) {
        b->at[part] = b->bytes;
        b->bytes += align_up(b->size[part]);
    }
    return true;
}

size_t quant_matrix_bytes(const struct quant_settings *settings, int32_t n_rows, int32_t n_cols)
{
    struct block b;
    return block_init(&b, settings, n_rows, n_cols) ? b.bytes : SIZE_MAX;
}

void quant_matrix_shape(struct any4_matrix *out, const struct quant_settings *settings, int32_t n_rows,
                        int32_t n_cols)
{
    static const float something[1] = {0};
    const struct method *method = &METHODS[settings->method];
    const bool int8 = method->kind == ANY4_LUT_INT8;
    struct block b;
    bool sized = block_init(&b, settings, n_rows, n_cols);
    assert(sized);
    (void)sized;
    *out = (struct any4_matrix){
        .kind = method->kind,
        .layout = ANY4_LAYOUT_CPU_V1,
        .n_rows = n_rows,
        .n_cols = n_cols,
        .code_bits = method->code_bits,
        .group_size = b.group_size,
        .n_groups = b.n_groups,
        .row_bytes = b.row_bytes,
        .codes = (const void *)something,
        .scales = int8 ? NULL : (const void *)something,
        .zeros = b.size[PART_ZEROS] ? (const void *)something : NULL,
        .lut = int8 || !b.size[PART_TABLE] ? NULL : (const void *)something,
        .group_scales = int8 ? (const void *)something : NULL,
        .table = int8 ? (const void *)something : NULL,
        .row_scales = int8 ? something : NULL,
    };
}

/* What one thread needs: its own row of floats and codes, and the first bad weight that it met. */
struct worker {
    float *w, *w_hat;
    uint8_t *codes;
    struct row_scratch scratch;
    int32_t bad_row, bad_col; /* bad_row -1: none */
    float bad_weight;
};

struct job {
    const struct quant_rows *rows;
    quant_row_fn *quantize_row;
    const struct method *method;
    struct block block;
    struct any4_matrix matrix;
    uint8_t *part[N_PARTS]; /* NULL for what the kind lacks */
    quant_read_rows_fn *read_rows;
    void *source;
    uint64_t seed;
    float *importance;       /* (n_cols) or NULL */
    float *importance_tiles; /* as quant/learn.h lays rows out */
    bool importance_is_moment;
    const float *second; /* (n_cols) or NULL: for the statistics */
    struct worker *workers;
    double (*sums)[N_SUMS]; /* (n_rows) */
};

/* Column of the first weight that is NaN, Inf or beyond LEARN_MAX_WEIGHT; -1 if there is none. */
static int32_t find_bad_weight(const float *w, int32_t n)
{
    int32_t bad = 0;
    for (int32_t j = 0; j < n; j++) {
        bad += !(fabsf(w[j]) <= LEARN_MAX_WEIGHT);
    }
    for (int32_t j = 0; bad && j < n; j++) {
        if (!(fabsf(w[j]) <= LEARN_MAX_WEIGHT)) {
            return j;
        }
    }
    return -1;
}

/* Element i of a part of elements of the given size, or NULL where the kind lacks the part. */
static void *part_at(const struct job *job, enum part part, size_t i, size_t size)
{
    return job->part[part] ? job->part[part] + i * size : NULL;
}

static struct quant_row row_of(const struct job *job, const struct worker *worker, int32_t index)
{
    const struct any4_matrix *m = &job->matrix;
    size_t row = (size_t)index, group = row * (size_t)m->n_groups, entry = row << m->code_bits;
    bool int8 = m->kind == ANY4_LUT_INT8;
    return (struct quant_row){
        .w = worker->w,
        .n_cols = m->n_cols,
        .group_size = m->group_size,
        .n_groups = m->n_groups,
        .code_bits = m->code_bits,
        .importance = job->importance,
        .importance_tiles = job->importance_tiles,
        .importance_is_moment = job->importance_is_moment,
        .seed = job->seed,
        .codes = worker->codes,
        .scales = int8 ? NULL : part_at(job, PART_SCALES, group, sizeof(uint16_t)),
        .zeros = part_at(job, PART_ZEROS, group, sizeof(uint16_t)),
        .lut = int8 ? NULL : part_at(job, PART_TABLE, entry, sizeof(uint16_t)),
        .group_scales = int8 ? part_at(job, PART_SCALES, group, sizeof(int8_t)) : NULL,
        .table = int8 ? part_at(job, PART_TABLE, entry, sizeof(int8_t)) : NULL,
        .row_scale = part_at(job, PART_ROW_SCALES, row, sizeof(float)),
    };
}

static void quantize_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    struct job *job = context;
    struct worker *worker = &job->workers[thread];
    const struct any4_matrix *m = &job->matrix;
    for (int32_t index = (int32_t)begin; index < (int32_t)end; index++) {
        if (worker->bad_row >= 0 && worker->bad_row < index) {
            continue; /* the matrix is lost; only an earlier bad row would still matter */
        }
        job->read_rows(job->source, worker->w, index, index + 1);
        int32_t bad = find_bad_weight(worker->w, m->n_cols);
        if (bad >= 0) {
            worker->bad_row = index;
            worker->bad_col = bad;
            worker->bad_weight = worker->w[bad];
            continue;
        }
        struct quant_row row = row_of(job, worker, index);
        job->quantize_row(&row, &worker->scratch);
        job->rows->dequantize(worker->w_hat, &row);
        job->rows->measure(job->sums[index], worker->w, worker->w_hat, job->second, m->n_cols);
        pack_row(job->part[PART_CODES] + (size_t)index * m->row_bytes, worker->codes, m->n_cols,
                 m->code_bits);
    }
}

/* The one allocation of a call: workers, their scratch, importance, and the sums per row. NULL when memory is
 * short.
 */
static void *job_allocate(struct job *job, int32_t n_threads)
{
    struct row_scratch layout;
    const struct any4_matrix *m = &job->matrix;
    size_t n_cols = (size_t)m->n_cols, threads = (size_t)n_threads;
    size_t workers = align_up(threads * sizeof(struct worker));
    size_t sums = align_up((size_t)m->n_rows * sizeof *job->sums);
    size_t floats = align_up(n_cols * sizeof(float)), codes = align_up(n_cols);
    size_t tiles = align_up(row_tile_columns(m->n_cols, m->group_size) * sizeof(float));
    size_t scratch = row_scratch_init(&layout, NULL, m->n_cols, m->group_size);
    unsigned char *memory =
        aligned_alloc(ALIGNMENT, workers + sums + floats + tiles + threads * (2 * floats + codes + scratch));
    if (!memory) {
        return NULL;
    }
    unsigned char *at = memory + workers;
    job->workers = (struct worker *)memory;
    job->sums = (void *)at;
    at += sums;
    job->importance = (float *)at;
    at += floats;
    job->importance_tiles = (float *)at;
    at += tiles;
    for (int32_t thread = 0; thread < n_threads; thread++) {
        struct worker *worker = &job->workers[thread];
        worker->w = (float *)at;
        worker->w_hat = (float *)(at + floats);
        worker->codes = at + 2 * floats;
        at += 2 * floats + codes;
        row_scratch_init(&worker->scratch, at, m->n_cols, m->group_size);
        worker->bad_row = -1;
        at += scratch;
    }
    return memory;
}

/* How much each column's error counts, the most important one as 1 to 2, and the same laid out in tiles. */
static void prepare_importance(struct job *job, const struct quant_moments *moments,
                               enum quant_weighting weighting)
{
    const struct any4_matrix *m = &job->matrix;
    float largest = 0;
    for (int32_t j = 0; j < m->n_cols; j++) {
        float value = 1;
        if (moments && weighting != QUANT_WEIGHTING_NONE) {
            value = weighting == QUANT_WEIGHTING_MEAN ? fabsf(moments->mean[j]) : moments->second[j];
        }
        job->importance[j] = value;
        largest = value > largest ? value : largest;
    }
    for (int32_t j = 0; j < m->n_cols; j++) {
        job->importance[j] = learn_importance(job->importance[j], largest);
    }
    size_t n_tiled = row_tile_columns(m->n_cols, m->group_size);
    memset(job->importance_tiles, 0, n_tiled * sizeof(float));
    for (int32_t begin = 0, group = 0; begin < m->n_cols; begin += m->group_size, group++) {
        int32_t n = m->n_cols - begin < m->group_size ? m->n_cols - begin : m->group_size;
        float *lane = job->importance_tiles + (int64_t)(group / LEARN_LANES) * m->group_size * LEARN_LANES +
                      group % LEARN_LANES;
        for (int32_t j = 0; j < n; j++) {
            lane[j * LEARN_LANES] = job->importance[begin + j];
        }
    }
    if (!moments || weighting == QUANT_WEIGHTING_NONE) {
        job->importance = NULL;
    }
    job->importance_is_moment = weighting == QUANT_WEIGHTING_MOMENT;
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
                         "row %d, column %d: weight %g is beyond %g, what the quantized formats can scale",
                         first->bad_row, first->bad_col, (double)first->bad_weight, (double)LEARN_MAX_WEIGHT);
    }
    return error_set(err, STATUS_QUANTIZE, "row %d, column %d: weight is %s, expected a finite number",
                     first->bad_row, first->bad_col, isnan(first->bad_weight) ? "NaN" : "infinite");
}

static void stats_sum(struct quant_stats *stats, const struct job *job)
{
    const struct block *b = &job->block;
    *stats = (struct quant_stats){0};
    for (int32_t row = 0; row < job->matrix.n_rows; row++) {
        const double *sums = job->sums[row];
        double error = sums[2] > 0 ? sqrt(sums[3] / sums[2]) : 0;
        stats->weight_energy += sums[0];
        stats->error_energy += sums[1];
        stats->weighted_energy += sums[2];
        stats->weighted_error += sums[3];
        if (error > stats->max_row_error) {
            stats->max_row_error = error;
            stats->worst_row = row;
        }
    }
    stats->code_bits = (int64_t)(b->size[PART_CODES] + b->size[PART_SCALES] + b->size[PART_ZEROS]) * 8;
    stats->table_bits = (int64_t)(b->size[PART_TABLE] + b->size[PART_ROW_SCALES]) * 8;
}

enum status quant_matrix(struct any4_matrix *out, void *memory, struct quant_stats *stats,
                         const struct quant_settings *settings, int32_t n_rows, int32_t n_cols,
                         quant_read_rows_fn *read_rows, void *source, const struct quant_moments *moments,
                         struct thread_pool *pool, struct error *err)
{
    struct job job = {
        .read_rows = read_rows, .source = source, .seed = settings->seed ? settings->seed : PAPER_SEED};
    struct block *b = &job.block;
    unsigned char *at = memory;
    int32_t n_threads = thread_pool_n_threads(pool);
    if (!block_init(b, settings, n_rows, n_cols)) {
        return error_set(err, STATUS_INVALID,
                         "cannot quantize (%d, %d) by %s in groups of %d, expected groups of 32, 64 or 128",
                         n_rows, n_cols, quant_method_name(settings->method), settings->group_size);
    }
    job.method = &METHODS[settings->method];
    job.rows = choose_rows(settings->cpu_flags);
    job.quantize_row = row_fn(job.rows, job.method);
    for (int32_t part = 0; part < N_PARTS; part++) {
        job.part[part] = b->size[part] ? at + b->at[part] : NULL;
        /* The gaps between the parts: so that equal matrices are equal bytes. */
        memset(at + b->at[part] + b->size[part], 0, align_up(b->size[part]) - b->size[part]);
    }
    bool int8 = job.method->kind == ANY4_LUT_INT8;
    job.matrix = (struct any4_matrix){
        .kind = job.method->kind,
        .layout = ANY4_LAYOUT_CPU_V1,
        .n_rows = n_rows,
        .n_cols = n_cols,
        .code_bits = job.method->code_bits,
        .group_size = b->group_size,
        .n_groups = b->n_groups,
        .row_bytes = b->row_bytes,
        .codes = job.part[PART_CODES],
        .scales = int8 ? NULL : part_at(&job, PART_SCALES, 0, 1),
        .zeros = part_at(&job, PART_ZEROS, 0, 1),
        .lut = int8 ? NULL : part_at(&job, PART_TABLE, 0, 1),
        .group_scales = int8 ? part_at(&job, PART_SCALES, 0, 1) : NULL,
        .table = int8 ? part_at(&job, PART_TABLE, 0, 1) : NULL,
        .row_scales = part_at(&job, PART_ROW_SCALES, 0, 1),
    };
    void *allocated = job_allocate(&job, n_threads);
    if (!allocated) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory while quantizing (%d, %d)", n_rows, n_cols);
    }
    prepare_importance(&job, moments, quant_weighting_of(settings));
    job.second = moments ? moments->second : NULL;

    thread_pool_run_dynamic(pool, n_rows, ROWS_AT_ONCE, quantize_rows, &job);

    enum status status = check_weights(&job, n_threads, err);
    if (!status) {
        stats_sum(stats, &job);
        *out = job.matrix;
    }
    free(allocated);
    return status;
}

static void dequantize_row(float *out, const struct any4_matrix *m, int32_t index)
{
    const uint8_t *stored = m->codes + (size_t)index * m->row_bytes;
    size_t group = (size_t)index * (size_t)m->n_groups, entry = (size_t)index << m->code_bits;
    struct quant_row block = {.code_bits = m->code_bits, .group_size = ANY4_BLOCK_COLS};
    uint8_t codes[ANY4_BLOCK_COLS];
    uint16_t scale, zero;
    int8_t group_scale;
    float row_scale;
    block.codes = codes;
    for (int32_t begin = 0; begin < m->n_cols; begin += ANY4_BLOCK_COLS) { /* groups are whole blocks */
        size_t at = group + (size_t)(begin / m->group_size);
        block.n_cols = m->n_cols - begin < ANY4_BLOCK_COLS ? m->n_cols - begin : ANY4_BLOCK_COLS;
        if (m->kind == ANY4_LUT_INT8) {
            group_scale = m->group_scales[at];
            row_scale = m->row_scales[index];
            block.group_scales = &group_scale;
            block.row_scale = &row_scale;
            block.table = (int8_t *)(uintptr_t)(m->table + entry);
        } else {
            scale = m->scales[at];
            zero = m->zeros ? m->zeros[at] : 0;
            block.scales = &scale;
            block.zeros = m->zeros ? &zero : NULL;
            block.lut = m->lut ? (uint16_t *)(uintptr_t)(m->lut + entry) : NULL;
        }
        unpack_row(codes, stored + (size_t)(begin / ANY4_BLOCK_COLS) * any4_block_bytes(m->code_bits),
                   block.n_cols, m->code_bits);
        quant_rows_scalar.dequantize(out + begin, &block);
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
        case ANY4_LUT_INT8:
        case ANY4_LINEAR:
            assert(matrix->layout == ANY4_LAYOUT_CPU_V1);
            dequantize_row(out, matrix, row);
            break;
        }
    }
}
