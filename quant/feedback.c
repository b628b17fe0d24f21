/* Checks, factorization, threads and statistics around quant/feedback_rows.h. A tile of rows is one item of
 * work; what it becomes depends on it alone. */
#include "quant/feedback.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/cpu_features.h"
#include "quant/feedback_rows.h"
#include "quant/pack.h"

enum { ALIGNMENT = 64, N_SUMS = 4, COPY_BLOCK = 32 };

/* A damping beyond this much of the mean diagonal means that the moments are not a second moment at all. */
static const float MAX_DAMPING = 1e20f;

struct feedback {
    struct feedback_factor factor;
    const struct feedback_rows *rows;
    float *transposed; /* (FEEDBACK_BLOCK, n_cols) */
    float damping;     /* in units */
    float unit;        /* a power of two: what A is divided by, so that its mean diagonal is about 1 */
};

static const struct feedback_rows *choose_rows(unsigned cpu_flags)
{
#ifdef ANY4_X86
    unsigned usable = cpu_flags_usable(cpu_flags);
    if (usable & CPU_AVX512) {
        return &feedback_rows_avx512;
    }
    if (usable & CPU_AVX2) {
        return &feedback_rows_avx2;
    }
#else
    (void)cpu_flags;
#endif
    return &feedback_rows_scalar;
}

bool feedback_takes(enum quant_method method)
{
    return method == QUANT_ANY4 || method == QUANT_ANY3 || method == QUANT_ANY2;
}

static void *carve(unsigned char *memory, size_t *used, size_t n, size_t size)
{
    void *at = memory ? memory + *used : NULL;
    *used += (n * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return at;
}

/* ---- the second moment ---- */

struct sum_job {
    const struct feedback_rows *isa;
    float *moments;
    int32_t n_cols, n_rows;
    const float *x;
    const int32_t *rows;
};

static void sum_columns(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct sum_job *job = context;
    (void)thread;
    for (int64_t block = begin; block < end; block++) {
        job->isa->sum_products(job->moments, job->n_cols, (int32_t)block * FEEDBACK_SUM_COLUMNS, job->x,
                               job->rows, job->n_rows);
    }
}

void feedback_sum(float *moments, int32_t n_cols, const float *x, const int32_t *rows, int32_t n_rows,
                  unsigned cpu_flags, struct thread_pool *pool)
{
    struct sum_job job = {choose_rows(cpu_flags), moments, n_cols, n_rows, x, rows};
    thread_pool_run_dynamic(pool, ((int64_t)n_cols + FEEDBACK_SUM_COLUMNS - 1) / FEEDBACK_SUM_COLUMNS, 1,
                            sum_columns, &job);
}

/* ---- the factorization ---- */

static size_t lay_out(struct feedback *f, unsigned char *memory, int32_t n_cols)
{
    size_t used = 0, n = (size_t)n_cols;
    carve(memory, &used, 1, sizeof *f);
    f->factor.diagonal = carve(memory, &used, n, sizeof(float));
    f->factor.pivots = carve(memory, &used, n, sizeof(float));
    f->transposed = carve(memory, &used, FEEDBACK_BLOCK * n, sizeof(float));
    return used;
}

size_t feedback_open_bytes(int32_t n_cols)
{
    struct feedback layout;
    return lay_out(&layout, NULL, n_cols);
}

static enum status check_moments(const float *moments, int32_t n_cols, struct error *err)
{
    for (int64_t j = 0; j < n_cols; j++) {
        const float *row = moments + j * n_cols;
        for (int64_t k = 0; k <= j; k++) {
            if (!isfinite(row[k]) || (k == j && row[k] < 0)) {
                return error_set(err, STATUS_INVALID,
                                 "second moment of columns %lld and %lld is %g, expected %s", (long long)j,
                                 (long long)k, (double)row[k], k == j ? "a number >= 0" : "a finite number");
            }
        }
    }
    return STATUS_OK;
}

struct factor_job {
    struct feedback *f;
    int32_t begin, end;
};

static void scale_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct factor_job *job = context;
    const struct feedback_factor *factor = &job->f->factor;
    const float inverse = 1.0f / job->f->unit;
    (void)thread;
    for (int64_t j = begin; j < end; j++) {
        for (int64_t k = 0; k <= j; k++) {
            factor->matrix[j * factor->n_cols + k] *= inverse;
        }
    }
}

/* Puts A above the diagonal again, blocks of rows at a time. */
static void mirror_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct factor_job *job = context;
    const struct feedback_factor *factor = &job->f->factor;
    const int64_t n_cols = factor->n_cols;
    (void)thread;
    for (int64_t first = begin * COPY_BLOCK; first < end * COPY_BLOCK && first < n_cols;
         first += COPY_BLOCK) {
        int64_t last = first + COPY_BLOCK < n_cols ? first + COPY_BLOCK : n_cols;
        for (int64_t k = first; k < n_cols; k++) {
            const float *below = factor->matrix + k * n_cols;
            for (int64_t j = first; j < last && j < k; j++) {
                factor->matrix[j * n_cols + k] = below[j];
            }
        }
    }
}

static void panel_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct factor_job *job = context;
    (void)thread;
    for (int64_t row = begin; row < end; row++) {
        job->f->rows->factor_panel(&job->f->factor, job->begin, job->end, (int32_t)row, job->f->transposed);
    }
}

static void update_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct factor_job *job = context;
    (void)thread;
    for (int64_t row = begin; row < end; row++) {
        job->f->rows->factor_update(&job->f->factor, job->begin, job->end, (int32_t)row, job->f->transposed);
    }
}

static void normalize_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct factor_job *job = context;
    const struct feedback_factor *factor = &job->f->factor;
    (void)thread;
    for (int64_t j = begin; j < end; j++) {
        for (int64_t k = j + 1; k < factor->n_cols; k++) {
            factor->matrix[j * factor->n_cols + k] /= factor->pivots[k];
        }
    }
}

/* Whether A with this damping has a factorization. */
static bool factorize(struct feedback *f, float damping, struct thread_pool *pool)
{
    struct feedback_factor *factor = &f->factor;
    const int64_t n_cols = factor->n_cols;
    struct factor_job job = {.f = f};
    thread_pool_run_dynamic(pool, (n_cols + COPY_BLOCK - 1) / COPY_BLOCK, 1, mirror_rows, &job);
    for (int64_t j = 0; j < n_cols; j++) {
        factor->diagonal[j] = factor->pivots[j] = factor->matrix[j * (n_cols + 1)] + damping;
    }
    for (job.end = factor->n_cols; job.end > 0; job.end = job.begin) {
        job.begin = job.end > FEEDBACK_BLOCK ? job.end - FEEDBACK_BLOCK : 0;
        if (!f->rows->factor_block(factor, job.begin, job.end)) {
            return false;
        }
        thread_pool_run_dynamic(pool, job.begin, 8, panel_rows, &job);
        thread_pool_run_dynamic(pool, job.begin, 8, update_rows, &job);
    }
    thread_pool_run_dynamic(pool, n_cols, 8, normalize_rows, &job);
    for (int64_t j = 0; j < n_cols; j++) {
        factor->pivots[j] *= factor->pivots[j];
    }
    return true;
}

enum status feedback_open(struct feedback **out, float *moments, int32_t n_cols, float damping,
                          unsigned cpu_flags, struct thread_pool *pool, struct error *err)
{
    double mean = 0;
    int exponent = 0;
    struct feedback *f = NULL;
    enum status status = check_moments(moments, n_cols, err);
    assert(n_cols >= 1 && damping > 0);
    *out = NULL;
    if (status) {
        return status;
    }
    f = aligned_alloc(ALIGNMENT, feedback_open_bytes(n_cols));
    if (!f) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for the second moments of %d columns", n_cols);
    }
    lay_out(f, (unsigned char *)f, n_cols);
    f->factor.n_cols = n_cols;
    f->factor.matrix = moments;
    f->rows = choose_rows(cpu_flags);
    for (int64_t j = 0; j < n_cols; j++) {
        mean += moments[j * n_cols + j];
    }
    mean /= n_cols;
    frexp(mean, &exponent);
    exponent = exponent < -125 ? -125 : exponent > 126 ? 126 : exponent;
    f->unit = ldexpf(1, exponent);
    mean = mean > 0 ? ldexp(mean, -exponent) : 1;
    struct factor_job job = {.f = f};
    thread_pool_run_dynamic(pool, n_cols, 8, scale_rows, &job);

    f->damping = damping * (float)mean;
    while (!factorize(f, f->damping, pool)) {
        f->damping *= 10;
        if (!(f->damping < MAX_DAMPING)) {
            free(f);
            return error_set(err, STATUS_INVALID, "the second moments of %d columns belong to no inputs",
                             n_cols);
        }
    }
    *out = f;
    return STATUS_OK;
}

void feedback_close(struct feedback *feedback)
{
    free(feedback);
}

float feedback_damping(const struct feedback *feedback)
{
    return feedback->damping * feedback->unit;
}

/* ---- the matrix ---- */

/* What one thread needs. */
struct worker {
    struct feedback_tile *tile;
    float *row;
    uint8_t *codes; /* (n_cols) */
};

struct job {
    const struct feedback *f;
    const struct any4_matrix *matrix;
    uint8_t *codes; /* the matrix's own, to be rewritten, as are the group scales */
    int8_t *group_scales;
    quant_read_rows_fn *read_rows;
    void *source;
    struct worker *workers;
    double (*sums)[N_SUMS]; /* (n_rows) */
};

static size_t worker_init(struct worker *worker, unsigned char *memory, int32_t n_cols, int32_t group_size)
{
    size_t n = (size_t)n_cols, used = 0;
    int32_t n_groups = (int32_t)(((int64_t)n_cols + group_size - 1) / group_size);
    struct feedback_tile layout, *tile = carve(memory, &used, 1, sizeof *tile);
    worker->tile = tile;
    tile = tile ? tile : &layout;
    tile->n_cols = n_cols;
    tile->group_size = group_size;
    tile->n_groups = n_groups;
    tile->w = carve(memory, &used, n * FEEDBACK_ROWS, sizeof(float));
    tile->e = carve(memory, &used, n * FEEDBACK_ROWS, sizeof(float));
    tile->codes = carve(memory, &used, n * FEEDBACK_ROWS, 1);
    tile->scales = carve(memory, &used, (size_t)n_groups * FEEDBACK_ROWS, sizeof(float));
    worker->row = carve(memory, &used, n, sizeof(float));
    worker->codes = carve(memory, &used, n, 1);
    return used;
}

size_t feedback_thread_bytes(int32_t n_cols, int32_t group_size)
{
    struct worker layout;
    return worker_init(&layout, NULL, n_cols, group_size);
}

/* Row `index` of the matrix into a lane, or zeros for a lane behind the last row. */
static void load_lane(struct worker *worker, const struct job *job, int32_t index, int32_t lane)
{
    const struct any4_matrix *m = job->matrix;
    struct feedback_tile *tile = worker->tile;
    const bool used = index < m->n_rows;
    const int8_t *table = used ? m->table + ((size_t)index << m->code_bits) : NULL;
    const int8_t *scales = used ? job->group_scales + (size_t)index * (size_t)m->n_groups : NULL;
    const double row_scale = used ? m->row_scales[index] : 0, inverse = row_scale > 0 ? 1 / row_scale : 0;
    if (used) {
        job->read_rows(job->source, worker->row, index, index + 1);
    }
    for (int64_t j = 0; j < m->n_cols; j++) {
        tile->w[j * FEEDBACK_ROWS + lane] = used ? (float)(worker->row[j] * inverse) : 0;
    }
    for (int64_t g = 0; g < m->n_groups; g++) {
        tile->scales[g * FEEDBACK_ROWS + lane] = used ? scales[g] : 0;
    }
    tile->base[lane] = used ? table[0] : 0;
    for (int32_t k = 0; k < FEEDBACK_LIMITS; k++) {
        bool level = used && k + 1 < tile->n_levels;
        tile->limits[k][lane] = level ? 0.5f * (float)(table[k] + table[k + 1]) : INFINITY;
        tile->steps[k][lane] = level ? (float)(table[k + 1] - table[k]) : 0;
    }
}

/* Codes and scales of a lane back into the matrix, and the row's plain sums. */
static void store_lane(struct worker *worker, const struct job *job, int32_t index, int32_t lane)
{
    const struct any4_matrix *m = job->matrix;
    const struct feedback_tile *tile = worker->tile;
    double energy = 0, error = 0;
    for (int64_t j = 0; j < m->n_cols; j++) {
        double w = tile->w[j * FEEDBACK_ROWS + lane], e = tile->e[j * FEEDBACK_ROWS + lane];
        energy += w * w;
        error += e * e;
        worker->codes[j] = tile->codes[j * FEEDBACK_ROWS + lane];
    }
    pack_row(job->codes + (size_t)index * m->row_bytes, worker->codes, m->n_cols, m->code_bits);
    for (int64_t g = 0; g < m->n_groups; g++) {
        job->group_scales[(size_t)index * (size_t)m->n_groups + (size_t)g] =
            (int8_t)tile->scales[g * FEEDBACK_ROWS + lane];
    }
    job->sums[index][0] = energy;
    job->sums[index][1] = error;
}

static void quantize_tiles(void *context, int64_t begin, int64_t end, int32_t thread)
{
    struct job *job = context;
    struct worker *worker = &job->workers[thread];
    struct feedback_tile *tile = worker->tile;
    const struct any4_matrix *m = job->matrix;
    const struct feedback *f = job->f;
    for (int64_t index = begin; index < end; index++) {
        const int32_t first = (int32_t)index * FEEDBACK_ROWS;
        double energy[FEEDBACK_ROWS], error[FEEDBACK_ROWS];
        for (int32_t lane = 0; lane < FEEDBACK_ROWS; lane++) {
            load_lane(worker, job, first + lane, lane);
        }
        f->rows->quantize(tile, &f->factor);
        f->rows->quadratic(energy, tile->w, &f->factor);
        f->rows->quadratic(error, tile->e, &f->factor);
        for (int32_t lane = 0; lane < FEEDBACK_ROWS && first + lane < m->n_rows; lane++) {
            double *sums = job->sums[first + lane];
            double squared = (double)m->row_scales[first + lane] * m->row_scales[first + lane];
            store_lane(worker, job, first + lane, lane);
            sums[0] *= squared;
            sums[1] *= squared;
            sums[2] = energy[lane] * f->unit * squared;
            sums[3] = error[lane] * f->unit * squared;
        }
    }
}

static void stats_sum(struct quant_stats *stats, const struct job *job)
{
    stats->weight_energy = stats->error_energy = stats->weighted_energy = stats->weighted_error = 0;
    stats->max_row_error = 0;
    stats->worst_row = 0;
    for (int32_t row = 0; row < job->matrix->n_rows; row++) {
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
}

enum status feedback_matrix(struct any4_matrix *out, void *memory, struct quant_stats *stats,
                            const struct feedback *feedback, const struct quant_settings *settings,
                            int32_t n_rows, quant_read_rows_fn *read_rows, void *source,
                            struct thread_pool *pool, struct error *err)
{
    const struct feedback_factor *factor = &feedback->factor;
    const int32_t n_cols = factor->n_cols, n_threads = thread_pool_n_threads(pool);
    const struct quant_moments moments = {factor->diagonal, factor->diagonal};
    struct quant_settings learned = *settings;
    if (!feedback_takes(settings->method)) {
        return error_set(err, STATUS_INVALID, "error feedback works with any4, any3 and any2, not with %s",
                         quant_method_name(settings->method));
    }
    learned.weighting = QUANT_WEIGHTING_MOMENT;
    enum status status =
        quant_matrix(out, memory, stats, &learned, n_rows, n_cols, read_rows, source, &moments, pool, err);
    if (status) {
        return status;
    }

    struct worker layout;
    unsigned char *bytes = memory;
    size_t per_thread = worker_init(&layout, NULL, n_cols, out->group_size), used = 0;
    carve(NULL, &used, (size_t)n_threads, sizeof(struct worker));
    carve(NULL, &used, (size_t)n_rows, N_SUMS * sizeof(double));
    unsigned char *allocated = aligned_alloc(ALIGNMENT, used + (size_t)n_threads * per_thread);
    if (!allocated) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory while quantizing (%d, %d)", n_rows, n_cols);
    }
    struct job job = {
        .f = feedback,
        .matrix = out,
        .codes = bytes + (out->codes - bytes),
        .group_scales = (int8_t *)(bytes + ((const uint8_t *)out->group_scales - bytes)),
        .read_rows = read_rows,
        .source = source,
    };
    used = 0;
    job.workers = carve(allocated, &used, (size_t)n_threads, sizeof(struct worker));
    job.sums = carve(allocated, &used, (size_t)n_rows, N_SUMS * sizeof(double));
    for (int32_t thread = 0; thread < n_threads; thread++) {
        worker_init(&job.workers[thread], allocated + used + (size_t)thread * per_thread, n_cols,
                    out->group_size);
        job.workers[thread].tile->n_levels = 1 << out->code_bits;
    }
    thread_pool_run_dynamic(pool, ((int64_t)n_rows + FEEDBACK_ROWS - 1) / FEEDBACK_ROWS, 1, quantize_tiles,
                            &job);
    stats_sum(stats, &job);
    free(allocated);
    return STATUS_OK;
}
