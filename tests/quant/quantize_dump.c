/* Quantizes the rows on standard input and writes what quant_matrix made of them to standard output, as it is
 * stored: the C side of tests/reference.
 *     quantize_dump METHOD GROUP_SIZE WEIGHTING SEED REPEATS
 * Input, little endian: "any4rows", then as u32 n_rows, n_cols and has_moments (0 or 1), then as f32 the rows
 * (n_rows, n_cols) and, with moments, mean (n_cols) and second (n_cols). Output: one line of JSON, then the
 * arrays that it lists, in that order and without gaps. REPEATS > 0 quantizes that often again and reports
 * the median seconds of processor time, on one thread. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/cpu_features.h"
#include "tests/quant/rows.h"

enum { MAX_SIDE = 1 << 20, MAX_WEIGHTS = 1 << 28, MAX_REPEATS = 1000 };

static const char MAGIC[8] = {'a', 'n', 'y', '4', 'r', 'o', 'w', 's'};

struct input {
    uint32_t n_rows, n_cols, has_moments;
    float *w, *mean, *second; /* one allocation, at w */
};

struct output {
    struct any4_matrix matrix;
    struct quant_stats stats;
    void *memory;
    float *values; /* (n_rows, n_cols) */
    double median_seconds;
};

static enum status parse_number(uint64_t *out, const char *name, const char *text, uint64_t max,
                                struct error *err)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value > max) {
        return error_set(err, STATUS_INVALID, "%s: \"%.64s\", expected a number up to %llu", name, text,
                         (unsigned long long)max);
    }
    *out = value;
    return STATUS_OK;
}

static enum status parse_arguments(struct quant_settings *settings, uint64_t *n_repeats, char **argv,
                                   struct error *err)
{
    enum status status;
    uint64_t group_size;
    *settings = (struct quant_settings){.cpu_flags = CPU_ALL};
    if ((status = quant_method_parse(&settings->method, argv[1], err)) ||
        (status = parse_number(&group_size, "group size", argv[2], INT32_MAX, err)) ||
        (status = quant_weighting_parse(&settings->weighting, argv[3], err)) ||
        (status = parse_number(&settings->seed, "seed", argv[4], UINT64_MAX, err)) ||
        (status = parse_number(n_repeats, "repeats", argv[5], MAX_REPEATS, err))) {
        return status;
    }
    settings->group_size = (int32_t)group_size;
    return STATUS_OK;
}

static enum status read_exactly(void *out, size_t bytes, const char *what, struct error *err)
{
    size_t got = fread(out, 1, bytes, stdin);
    return got == bytes
               ? STATUS_OK
               : error_set(err, STATUS_IO, "%s: input ends after %zu of %zu bytes", what, got, bytes);
}

static enum status read_input(struct input *in, struct error *err)
{
    enum status status;
    char magic[sizeof MAGIC];
    uint32_t head[3];
    if ((status = read_exactly(magic, sizeof magic, "magic", err)) ||
        (status = read_exactly(head, sizeof head, "header", err))) {
        return status;
    }
    if (memcmp(magic, MAGIC, sizeof MAGIC) != 0) {
        return error_set(err, STATUS_INVALID, "input does not begin with \"any4rows\"");
    }
    if (head[0] < 1 || head[0] > MAX_SIDE || head[1] < 1 || head[1] > MAX_SIDE ||
        (uint64_t)head[0] * head[1] > MAX_WEIGHTS || head[2] > 1) {
        return error_set(err, STATUS_INVALID,
                         "(%u, %u) with moments %u, expected sides of 1 to %d, at most %d weights, 0 or 1",
                         head[0], head[1], head[2], MAX_SIDE, MAX_WEIGHTS);
    }
    size_t n_weights = (size_t)head[0] * head[1], n_moments = 2 * (size_t)head[1] * head[2];
    *in = (struct input){.n_rows = head[0], .n_cols = head[1], .has_moments = head[2]};
    in->w = malloc((n_weights + n_moments) * sizeof(float));
    if (!in->w) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for (%u, %u)", head[0], head[1]);
    }
    in->mean = in->has_moments ? in->w + n_weights : NULL;
    in->second = in->has_moments ? in->mean + in->n_cols : NULL;
    if ((status = read_exactly(in->w, (n_weights + n_moments) * sizeof(float), "rows and moments", err))) {
        return status;
    }
    for (uint32_t j = 0; j < in->n_cols * in->has_moments; j++) {
        if (!isfinite(in->mean[j]) || !isfinite(in->second[j]) || !(in->second[j] > 0)) {
            return error_set(err, STATUS_INVALID, "column %u: mean %g, second moment %g", j,
                             (double)in->mean[j], (double)in->second[j]);
        }
    }
    return fgetc(stdin) == EOF ? STATUS_OK : error_set(err, STATUS_INVALID, "input goes on after its arrays");
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static enum status quantize(struct output *out, const struct input *in, const struct quant_settings *settings,
                            uint64_t n_repeats, struct error *err)
{
    enum status status;
    int32_t n_rows = (int32_t)in->n_rows, n_cols = (int32_t)in->n_cols;
    struct rows rows = {in->w, n_cols};
    struct quant_moments moments = {in->mean, in->second};
    size_t bytes = quant_matrix_bytes(settings, n_rows, n_cols);
    double seconds[MAX_REPEATS];
    if (bytes == SIZE_MAX) {
        return error_set(err, STATUS_INVALID, "cannot quantize (%d, %d) by %s in groups of %d", n_rows,
                         n_cols, quant_method_name(settings->method), settings->group_size);
    }
    out->memory = aligned_alloc(64, bytes);
    out->values = malloc((size_t)n_rows * (size_t)n_cols * sizeof(float));
    if (!out->memory || !out->values) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for (%d, %d)", n_rows, n_cols);
    }
    for (uint64_t run = 0; run <= n_repeats; run++) { /* the first is not timed */
        struct timespec begin, end;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
        if ((status = quant_matrix(&out->matrix, out->memory, &out->stats, settings, n_rows, n_cols,
                                   rows_read, &rows, in->has_moments ? &moments : NULL, NULL, err))) {
            return status;
        }
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
        if (run > 0) {
            seconds[run - 1] =
                (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
        }
    }
    qsort(seconds, n_repeats, sizeof seconds[0], compare_doubles);
    out->median_seconds = n_repeats ? seconds[n_repeats / 2] : 0;
    quant_dequantize(out->values, &out->matrix, 0, n_rows);
    return STATUS_OK;
}

static enum status write_output(const struct output *out, struct error *err)
{
    static const char *const kinds[] = {
        [ANY4_LUT] = "lut", [ANY4_LUT_INT8] = "lut_int8", [ANY4_LINEAR] = "linear"};
    const struct any4_matrix *m = &out->matrix;
    size_t n_rows = (size_t)m->n_rows, n_groups = (size_t)m->n_groups, n_table = (size_t)1 << m->code_bits;
    const struct {
        const char *name, *type; /* NumPy's name of the type */
        const void *data;
        size_t n_cols, item_bytes;
    } arrays[] = {
        {"codes", "<u1", m->codes, m->row_bytes, 1},
        {"scales", "<u2", m->scales, n_groups, 2},
        {"zeros", "<u2", m->zeros, n_groups, 2},
        {"lut", "<u2", m->lut, n_table, 2},
        {"group_scales", "<i1", m->group_scales, n_groups, 1},
        {"table", "<i1", m->table, n_table, 1},
        {"row_scales", "<f4", m->row_scales, 1, 4},
        {"values", "<f4", out->values, (size_t)m->n_cols, 4},
    };
    const char *comma = "";
    printf("{\"kind\": \"%s\", \"n_rows\": %d, \"n_cols\": %d, \"code_bits\": %d, \"group_size\": %d, ",
           kinds[m->kind], m->n_rows, m->n_cols, m->code_bits, m->group_size);
    printf("\"stored_code_bits\": %lld, \"stored_table_bits\": %lld, \"error_energy\": %.17g, ",
           (long long)out->stats.code_bits, (long long)out->stats.table_bits, out->stats.error_energy);
    printf("\"median_seconds\": %.9g, \"arrays\": [", out->median_seconds);
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        if (arrays[i].data) {
            printf("%s[\"%s\", \"%s\", %zu, %zu]", comma, arrays[i].name, arrays[i].type, n_rows,
                   arrays[i].n_cols);
            comma = ", ";
        }
    }
    printf("]}\n");
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        if (arrays[i].data) {
            fwrite(arrays[i].data, arrays[i].item_bytes, n_rows * arrays[i].n_cols, stdout);
        }
    }
    return fflush(stdout) || ferror(stdout) ? error_set(err, STATUS_IO, "output: %s", strerror(errno))
                                            : STATUS_OK;
}

int main(int argc, char **argv)
{
    enum status status;
    struct error err = {0};
    struct quant_settings settings;
    struct input in = {0};
    struct output out = {0};
    uint64_t n_repeats;
    if (argc != 6) {
        fprintf(stderr, "usage: quantize_dump METHOD GROUP_SIZE WEIGHTING SEED REPEATS <ROWS >MATRIX\n");
        return 2;
    }
    if (!(status = parse_arguments(&settings, &n_repeats, argv, &err)) && !(status = read_input(&in, &err)) &&
        !(status = quantize(&out, &in, &settings, n_repeats, &err))) {
        status = write_output(&out, &err);
    }
    if (status) {
        fprintf(stderr, "quantize_dump: %s\n", err.message);
    }
    free(in.w);
    free(out.memory);
    free(out.values);
    return status ? 1 : 0;
}
