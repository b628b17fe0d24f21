/* `any4 bench quantize`: how fast weights are quantized, by format and thread count, without a model. The
 * matrix is synthetic: normal weights stored as bf16, as models store them, and the column moments that a
 * calibration would have given. Timed is quant_matrix alone, reading and measuring included: what loading a
 * tensor costs. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/base/cpu_features.h"
#include "engine/base/float16.h"
#include "server/command.h"
#include "server/quant_list.h"
#include "server/server.h"

enum { ALIGNMENT = 64, MAX_WEIGHTS = 1 << 30 };
static const double WEIGHT_SCALE = 0.02; /* as weights of language models are */

struct quantize_bench {
    const struct config *config;
    int32_t n_rows, n_cols;
    uint16_t *weights;    /* (n_rows, n_cols) bf16 */
    float *mean, *second; /* (n_cols) moments of the inputs */
    unsigned cpu_flags;
    uint64_t state; /* of the random numbers */
    double *times;  /* (repeat) seconds */
    int32_t n_printed;
};

struct result {
    double median, min, max; /* seconds */
    double cpu_median;       /* processor seconds of all threads */
    double bits_per_weight, rel_error;
    int32_t group_size;
};

static double uniform(struct quantize_bench *b) /* (0, 1) */
{
    b->state = b->state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(b->state >> 11) + 0.5) * 0x1p-53;
}

static double normal(struct quantize_bench *b)
{
    double radius = sqrt(-2 * log(uniform(b)));
    return radius * cos(6.283185307179586 * uniform(b));
}

static enum status make_matrix(struct quantize_bench *b, struct error *err)
{
    size_t n = (size_t)b->n_rows * (size_t)b->n_cols;
    b->weights = malloc(n * sizeof *b->weights);
    b->mean = malloc((size_t)b->n_cols * sizeof *b->mean);
    b->second = malloc((size_t)b->n_cols * sizeof *b->second);
    b->times = malloc(2 * (size_t)b->config->repeat * sizeof *b->times);
    if (!b->weights || !b->mean || !b->second || !b->times) {
        return error_set(err, STATUS_NO_MEMORY, "no memory for %d x %d weights", (int)b->n_rows,
                         (int)b->n_cols);
    }
    for (size_t i = 0; i < n; i++) {
        b->weights[i] = bf16_from_f32((float)(WEIGHT_SCALE * normal(b)));
    }
    for (int32_t j = 0; j < b->n_cols; j++) {
        double second = exp(normal(b));
        b->second[j] = (float)second;
        b->mean[j] = (float)(0.3 * sqrt(second) * normal(b));
    }
    return STATUS_OK;
}

static void read_rows(void *source, float *out, int32_t row_begin, int32_t row_end)
{
    const struct quantize_bench *b = source;
    const uint16_t *weights = b->weights + (size_t)row_begin * (size_t)b->n_cols;
    size_t n = (size_t)(row_end - row_begin) * (size_t)b->n_cols;
    for (size_t i = 0; i < n; i++) {
        out[i] = bf16_to_f32(weights[i]);
    }
}

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static enum status measure(struct quantize_bench *b, const struct quant_settings *settings,
                           struct thread_pool *pool, struct result *out, struct error *err)
{
    const struct quant_moments moments = {.mean = b->mean, .second = b->second};
    size_t repeat = (size_t)b->config->repeat;
    size_t bytes = quant_matrix_bytes(settings, b->n_rows, b->n_cols);
    double *cpu_times = b->times + repeat;
    struct any4_matrix matrix = {0};
    struct quant_stats stats = {0};
    void *memory = bytes < SIZE_MAX - ALIGNMENT
                       ? aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT)
                       : NULL;
    enum status status = STATUS_OK;
    if (!memory) {
        return error_set(err, STATUS_NO_MEMORY, "no memory for %d x %d quantized weights", (int)b->n_rows,
                         (int)b->n_cols);
    }
    for (size_t run = 0; !status && run <= repeat; run++) { /* the first warms up and does not count */
        double begin = seconds_of(CLOCK_MONOTONIC), cpu_begin = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
        status = quant_matrix(&matrix, memory, &stats, settings, b->n_rows, b->n_cols, read_rows, b, &moments,
                              pool, err);
        if (run) {
            b->times[run - 1] = seconds_of(CLOCK_MONOTONIC) - begin;
            cpu_times[run - 1] = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu_begin;
        }
    }
    free(memory);
    if (status) {
        return status;
    }
    qsort(b->times, repeat, sizeof *b->times, by_value);
    qsort(cpu_times, repeat, sizeof *cpu_times, by_value);
    double n = (double)b->n_rows * b->n_cols;
    *out = (struct result){.median = b->times[repeat / 2],
                           .min = b->times[0],
                           .max = b->times[repeat - 1],
                           .cpu_median = cpu_times[repeat / 2],
                           .bits_per_weight = (double)(stats.code_bits + stats.table_bits) / n,
                           .rel_error = sqrt(stats.weighted_error / stats.weighted_energy),
                           .group_size = matrix.group_size};
    return STATUS_OK;
}

static void print_result(struct quantize_bench *b, const char *label, int32_t n_threads,
                         const struct result *r)
{
    double n = (double)b->n_rows * b->n_cols, bytes = 2 * n;
    if (b->config->json) {
        printf(
            "%s{\"quant\":\"%s\",\"group_size\":%d,\"threads\":%d,\"weights_per_s\":%.9g,\"gb_per_s\":%.9g,"
            "\"min_seconds\":%.9g,\"median_seconds\":%.9g,\"max_seconds\":%.9g,\"weights_per_cpu_s\":%.9g,"
            "\"bits_per_weight\":%.9g,\"rel_error\":%.9g}",
            b->n_printed ? "," : "", label, (int)r->group_size, (int)n_threads, n / r->median,
            1e-9 * bytes / r->median, r->min, r->median, r->max, n / r->cpu_median, r->bits_per_weight,
            r->rel_error);
    } else {
        printf("%-14s %5d %8d %12.2f %10.3f %10.2f %10.2f %12.2f %10.3f %9.3f%%\n", label, (int)r->group_size,
               (int)n_threads, 1e-6 * n / r->median, 1e-9 * bytes / r->median, 1e3 * r->min, 1e3 * r->max,
               1e-6 * n / r->cpu_median, r->bits_per_weight, 100 * r->rel_error);
        fflush(stdout);
    }
    b->n_printed++;
}

static enum status run_formats(struct quantize_bench *b, const struct quant_list *list, int32_t group_size,
                               struct thread_pool *pool, struct error *err)
{
    enum status status = STATUS_OK;
    for (int32_t i = 0; !status && i < list->n; i++) {
        const struct quant_entry *entry = &list->entries[i];
        struct quant_settings settings = {.method = entry->method,
                                          .group_size = entry->group_size ? entry->group_size : group_size,
                                          .seed = (uint64_t)b->config->quant_seed,
                                          .cpu_flags = b->cpu_flags};
        struct result result = {0};
        if (entry->method == QUANT_NONE) {
            return error_set(err, STATUS_INVALID, "--quant: %s quantizes nothing", entry->label);
        }
        if (!(status = measure(b, &settings, pool, &result, err))) {
            print_result(b, entry->label, thread_pool_n_threads(pool), &result);
        }
    }
    return status;
}

/* One thread, then all cores; or as many as --threads says. */
static enum status run_threads(struct quantize_bench *b, const struct quant_list *list, struct error *err)
{
    int32_t group_size = server_group_size(b->config);
    int32_t counts[] = {b->config->threads ? (int32_t)b->config->threads : 1, 0};
    enum status status = STATUS_OK;
    for (int i = 0; !status && i < (b->config->threads ? 1 : 2); i++) {
        struct thread_pool *pool;
        if ((status = thread_pool_open(&pool, counts[i], err))) {
            return status;
        }
        if (counts[i] || thread_pool_n_threads(pool) > 1) {
            status = run_formats(b, list, group_size, pool, err);
        }
        thread_pool_close(pool);
    }
    return status;
}

enum status command_bench_quantize(const struct config *config, struct outcome *outcome, struct error *err)
{
    struct quantize_bench b = {
        .config = config, .n_rows = (int32_t)config->rows, .n_cols = (int32_t)config->cols, .state = 1};
    struct quant_list list;
    enum status status = quant_list_parse(&list, config->quant, "--quant", err);
    (void)outcome;
    for (int32_t i = 0; i < list.n && !status; i++) {
        if (list.entries[i].error_feedback || list.entries[i].rotation || list.entries[i].channel_scaling ||
            list.entries[i].bits_per_weight > 0) {
            status = error_set(err, STATUS_INVALID, "--quant: %s: there is no model to go through",
                               list.entries[i].label);
        }
    }
    if (status || (status = cpu_flags_parse(&b.cpu_flags, config->cpu_flags, err))) {
        return status;
    }
    if (config->rows * config->cols > MAX_WEIGHTS) {
        return error_set(err, STATUS_INVALID, "--rows %d and --cols %d: more than %d weights", (int)b.n_rows,
                         (int)b.n_cols, (int)MAX_WEIGHTS);
    }
    if (!(status = make_matrix(&b, err))) {
        if (config->json) {
            printf("{\"rows\":%d,\"cols\":%d,\"repeat\":%" PRId64 ",\"results\":[", (int)b.n_rows,
                   (int)b.n_cols, config->repeat);
        } else {
            printf("%d x %d normal weights, bf16, medians of %" PRId64 "\n", (int)b.n_rows, (int)b.n_cols,
                   config->repeat);
            printf("%-14s %5s %8s %12s %10s %10s %10s %12s %10s %10s\n", "quant", "group", "threads",
                   "M weights/s", "GB/s", "min ms", "max ms", "M/s per core", "bits", "error");
        }
        if (!(status = run_threads(&b, &list, err)) && config->json) {
            printf("]}\n");
        }
    }
    free(b.weights);
    free(b.mean);
    free(b.second);
    free(b.times);
    return status;
}
