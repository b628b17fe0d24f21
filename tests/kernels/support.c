#include "tests/kernels/support.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/base/float16.h"

const char *const data_names[DATA_KINDS] = {"random", "zero", "extreme", "alternating"};
const struct test_format formats[N_FORMATS] = {
    {"f32", ANY4_F32, 0},
    {"f16", ANY4_F16, 0},
    {"bf16", ANY4_BF16, 0},
    {"lut2", ANY4_LUT, 2},
    {"lut3", ANY4_LUT, 3},
    {"lut4", ANY4_LUT, 4},
    {"lut2-int8", ANY4_LUT_INT8, 2},
    {"lut3-int8", ANY4_LUT_INT8, 3},
    {"lut4-int8", ANY4_LUT_INT8, 4},
    {"linear8", ANY4_LINEAR, 8},
};
const struct variant variants[N_VARIANTS] = {{"scalar", 0}, {"avx2", CPU_AVX2}, {"avx512", CPU_ALL}};

enum { CANARIES = 64 };
static const uint32_t CANARY = 0x7fc0beef; /* a NaN that no operation here produces */

uint64_t rng_next(struct rng *rng)
{
    uint64_t z = (rng->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

int32_t rng_below(struct rng *rng, int32_t n)
{
    return (int32_t)(rng_next(rng) % (uint64_t)n);
}

float rng_float(struct rng *rng)
{
    return (float)(rng_next(rng) >> 40) * 0x1p-23f - 1.0f;
}

void data_fill(float *x, size_t n, enum data_kind kind, struct rng *rng)
{
    for (size_t i = 0; i < n; i++) {
        switch (kind) {
        case DATA_ZERO:
            x[i] = 0;
            break;
        case DATA_EXTREME:
            x[i] = ldexpf(rng_float(rng), rng_below(rng, 121) - 60);
            break;
        case DATA_ALTERNATING:
            x[i] = (i % 2 ? -1000.0f : 1000.0f) + rng_float(rng) * 0.01f;
            break;
        default:
            x[i] = rng_float(rng);
            break;
        }
    }
}

struct guarded guarded_alloc(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t inside = (bytes + page - 1) / page * page;
    struct guarded memory = {.mapping_bytes = inside + 2 * page};
    memory.mapping = mmap(NULL, memory.mapping_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory.mapping == MAP_FAILED ||
        (inside && mprotect((uint8_t *)memory.mapping + page, inside, PROT_READ | PROT_WRITE))) {
        perror("guarded_alloc");
        abort();
    }
    memory.data = (uint8_t *)memory.mapping + page + inside - bytes;
    return memory;
}

void guarded_free(struct guarded *memory)
{
    if (memory->mapping) {
        munmap(memory->mapping, memory->mapping_bytes);
    }
    *memory = (struct guarded){0};
}

struct guarded guarded_floats(size_t n, enum data_kind kind, struct rng *rng)
{
    struct guarded memory = guarded_alloc(n * sizeof(float));
    data_fill(memory.data, n, kind, rng);
    return memory;
}

struct output output_alloc(size_t n)
{
    struct output output = {.n = n, .memory = malloc((n + 2 * CANARIES) * sizeof(float))};
    assert(output.memory);
    for (size_t i = 0; i < n + 2 * CANARIES; i++) {
        memcpy(output.memory + i, &CANARY, sizeof CANARY);
    }
    output.data = output.memory + CANARIES;
    return output;
}

void output_free(struct output *output)
{
    free(output->memory);
    *output = (struct output){0};
}

bool output_untouched(const struct output *output, size_t at)
{
    return memcmp(output->data + at, &CANARY, sizeof CANARY) == 0;
}

bool output_canaries_hold(const struct output *output)
{
    for (size_t i = 0; i < CANARIES; i++) {
        if (memcmp(output->memory + i, &CANARY, sizeof CANARY) ||
            memcmp(output->data + output->n + i, &CANARY, sizeof CANARY)) {
            return false;
        }
    }
    return true;
}

static void build_stored(struct test_matrix *m, const float *values)
{
    struct any4_matrix *w = &m->matrix;
    size_t bytes = w->kind == ANY4_F32 ? 4 : 2, n = (size_t)w->n_rows * (size_t)w->n_cols;
    m->codes = guarded_alloc(n * bytes);
    w->row_bytes = (size_t)w->n_cols * bytes;
    for (size_t i = 0; i < n; i++) {
        uint8_t *at = (uint8_t *)m->codes.data + i * bytes;
        if (w->kind == ANY4_F32) {
            memcpy(at, &values[i], sizeof(float));
            m->dense[i] = (double)values[i];
            continue;
        }
        /* 2^60 is no half: keep the values of extreme data finite */
        float value = w->kind == ANY4_F16 ? fmaxf(-6e4f, fminf(6e4f, values[i])) : values[i];
        uint16_t half = w->kind == ANY4_F16 ? f16_from_f32(value) : bf16_from_f32(value);
        memcpy(at, &half, sizeof half);
        m->dense[i] = (double)(w->kind == ANY4_F16 ? f16_to_f32(half) : bf16_to_f32(half));
    }
}

/* Sets a code's bits as quant/any4.h places them in a row, one bit at a time. */
static void place_code(uint8_t *row, int32_t col, int32_t bits, int code)
{
    uint8_t *block = row + col / 32 * 4 * bits;
    int32_t i = col % 32;
    for (int32_t bit = 0; bit < bits; bit++) {
        int32_t byte, at;
        switch (bits) {
        case 4:
            byte = i % 16;
            at = 4 * (i / 16) + bit;
            break;
        case 8:
            byte = i;
            at = bit;
            break;
        default: /* 2 and 3: pairs of bits, then the plane of third bits */
            byte = bit < 2 ? i % 8 : 8 + i / 8;
            at = bit < 2 ? 2 * (i / 8) + bit : i % 8;
            break;
        }
        block[byte] = (uint8_t)((block[byte] & ~(1 << at)) | (code >> bit & 1) << at);
    }
}

static void build_table(struct test_matrix *m, int32_t row, enum data_kind data, struct rng *rng)
{
    int32_t n = 1 << m->matrix.code_bits;
    if (m->matrix.kind == ANY4_LUT) {
        uint16_t *lut = (uint16_t *)m->lut.data + (size_t)row * (size_t)n;
        float value = -8.0f + rng_float(rng);
        for (int32_t code = 0; code < n; code++) {
            lut[code] = data == DATA_ZERO ? 0 : bf16_from_f32(value);
            value += (1.01f + rng_float(rng)) * 16.0f / (float)n;
        }
    } else if (m->matrix.kind == ANY4_LUT_INT8) { /* from -127 to 127, both included */
        int8_t *table = (int8_t *)m->table.data + (size_t)row * (size_t)n;
        for (int32_t code = 0; code < n; code++) {
            int32_t step = 254 / (n - 1), jitter = code % (n - 1) ? rng_below(rng, step) : 0;
            int32_t value = code == n - 1 ? 127 : -127 + code * step + jitter;
            table[code] = (int8_t)(data == DATA_ZERO ? 0 : value);
        }
    }
}

/* Fills scales and zero points (or group scales and the row's scale) of a row. */
static void build_scales(struct test_matrix *m, int32_t row, enum data_kind data, struct rng *rng)
{
    const struct any4_matrix *w = &m->matrix;
    size_t first = (size_t)row * (size_t)w->n_groups;
    int exponent = data == DATA_EXTREME ? rng_below(rng, 61) - 30 : -6;
    if (w->kind == ANY4_LUT_INT8) {
        ((float *)m->row_scales.data)[row] = ldexpf(1.5f + 0.4f * rng_float(rng), exponent - 10);
    }
    for (size_t at = first; at < first + (size_t)w->n_groups; at++) {
        if (w->kind == ANY4_LUT_INT8) {
            int32_t scale =
                data == DATA_EXTREME ? (rng_below(rng, 2) ? 127 : -127) : rng_below(rng, 255) - 127;
            ((int8_t *)m->group_scales.data)[at] = (int8_t)scale;
            continue;
        }
        exponent = data == DATA_EXTREME ? rng_below(rng, 61) - 30 : -6;
        ((uint16_t *)m->scales.data)[at] = bf16_from_f32(ldexpf(1.5f + 0.4f * rng_float(rng), exponent));
        if (m->zeros.data) {
            ((uint16_t *)m->zeros.data)[at] = bf16_from_f32(ldexpf(rng_float(rng), exponent));
        }
    }
}

/* The formulas of quant/any4.h. */
static double coded_weight(const struct any4_matrix *w, int32_t row, int32_t col, int code)
{
    int32_t group = row * w->n_groups + col / w->group_size, entry = (row << w->code_bits) + code;
    if (w->kind == ANY4_LUT_INT8) {
        return (double)w->row_scales[row] * (w->group_scales[group] * w->table[entry]);
    }
    float scale = bf16_to_f32(w->scales[group]), zero = w->zeros ? bf16_to_f32(w->zeros[group]) : 0.0f;
    float value = w->kind == ANY4_LUT ? bf16_to_f32(w->lut[entry]) : (float)(code - (1 << w->code_bits) / 2);
    return (double)(scale * value + zero);
}

static void build_coded(struct test_matrix *m, int32_t group_size, enum data_kind data, uint64_t seed,
                        struct rng *rng)
{
    struct any4_matrix *w = &m->matrix;
    size_t block_bytes = 4 * (size_t)w->code_bits, table = (size_t)w->n_rows << w->code_bits;
    w->layout = ANY4_LAYOUT_CPU_V1;
    w->group_size = group_size;
    w->n_groups = (w->n_cols + group_size - 1) / group_size;
    w->row_bytes = (size_t)(w->n_cols + 31) / 32 * block_bytes + (seed % 2 ? block_bytes : 0);
    size_t n_scales = (size_t)w->n_rows * (size_t)w->n_groups;
    m->codes = guarded_alloc((size_t)w->n_rows * w->row_bytes);
    if (w->kind == ANY4_LUT_INT8) {
        m->group_scales = guarded_alloc(n_scales);
        m->table = guarded_alloc(table);
        m->row_scales = guarded_alloc((size_t)w->n_rows * sizeof(float));
    } else {
        m->scales = guarded_alloc(n_scales * sizeof(uint16_t));
        if (seed % 3) {
            m->zeros = guarded_alloc(n_scales * sizeof(uint16_t));
        }
        if (w->kind == ANY4_LUT) {
            m->lut = guarded_alloc(table * sizeof(uint16_t));
        }
    }
    w->scales = m->scales.data;
    w->zeros = m->zeros.data;
    w->lut = m->lut.data;
    w->group_scales = m->group_scales.data;
    w->table = m->table.data;
    w->row_scales = m->row_scales.data;
    memset(m->codes.data, 0xff, (size_t)w->n_rows * w->row_bytes);
    for (int32_t row = 0; row < w->n_rows; row++) {
        uint8_t *codes = (uint8_t *)m->codes.data + (size_t)row * w->row_bytes;
        build_table(m, row, data, rng);
        build_scales(m, row, data, rng);
        for (int32_t col = 0; col < w->n_cols; col++) {
            int code = rng_below(rng, 1 << w->code_bits);
            place_code(codes, col, w->code_bits, code);
            m->dense[(size_t)row * (size_t)w->n_cols + (size_t)col] = coded_weight(w, row, col, code);
        }
    }
}

const struct test_format *format_of(enum any4_kind kind, int32_t code_bits)
{
    const struct test_format *format = formats;
    while (format->kind != kind || format->code_bits != code_bits) {
        format++;
        assert(format < formats + N_FORMATS);
    }
    return format;
}

struct test_matrix test_matrix_build(const struct test_format *format, int32_t n_rows, int32_t n_cols,
                                     int32_t group_size, enum data_kind data, uint64_t seed)
{
    struct test_matrix m = {
        .matrix = {.kind = format->kind, .code_bits = format->code_bits, .n_rows = n_rows, .n_cols = n_cols}};
    struct rng rng = {seed};
    size_t n = (size_t)n_rows * (size_t)n_cols;
    m.dense = malloc(n * sizeof *m.dense);
    assert(m.dense);
    if (format->code_bits) {
        build_coded(&m, group_size, data, seed, &rng);
    } else {
        float *values = malloc(n * sizeof(float));
        assert(values);
        data_fill(values, n, data, &rng);
        build_stored(&m, values);
        free(values);
    }
    m.matrix.codes = m.codes.data;
    return m;
}

void test_matrix_free(struct test_matrix *m)
{
    guarded_free(&m->codes);
    guarded_free(&m->scales);
    guarded_free(&m->zeros);
    guarded_free(&m->lut);
    guarded_free(&m->group_scales);
    guarded_free(&m->table);
    guarded_free(&m->row_scales);
    free(m->dense);
    *m = (struct test_matrix){0};
}

bool variant_open(struct kernels *k, const struct variant *variant)
{
    kernels_init_cpu(k, variant->flags);
    if (strcmp(k->name, variant->name) == 0) {
        return true;
    }
    fprintf(stderr, "\n*** SKIPPED: this processor cannot run the %s kernels ***\n", variant->name);
    return false;
}

bool close_to(float value, float expected, double tolerance)
{
    if (isnan(value) || isnan(expected)) {
        return isnan(value) && isnan(expected);
    }
    return value == expected || fabs((double)value - expected) <= tolerance;
}
