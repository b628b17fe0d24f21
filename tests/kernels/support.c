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
const char *const any4_kind_names[4] = {"f32", "f16", "bf16", "lut4"};
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
            m->dense[i] = values[i];
            continue;
        }
        /* 2^60 is no half: keep the values of extreme data finite */
        float value = w->kind == ANY4_F16 ? fmaxf(-6e4f, fminf(6e4f, values[i])) : values[i];
        uint16_t half = w->kind == ANY4_F16 ? f16_from_f32(value) : bf16_from_f32(value);
        memcpy(at, &half, sizeof half);
        m->dense[i] = w->kind == ANY4_F16 ? f16_to_f32(half) : bf16_to_f32(half);
    }
}

static void build_lut4_row(struct test_matrix *m, int32_t row, enum data_kind data, struct rng *rng)
{
    const struct any4_matrix *w = &m->matrix;
    uint8_t *codes = (uint8_t *)m->codes.data + (size_t)row * w->row_bytes;
    uint16_t *lut = (uint16_t *)m->lut.data + (size_t)row * ANY4_MAX_TABLE;
    uint16_t *scales = (uint16_t *)m->scales.data + (size_t)row * (size_t)w->n_groups;
    uint16_t *zeros = m->zeros.data ? (uint16_t *)m->zeros.data + (size_t)row * (size_t)w->n_groups : NULL;
    float value = -8.0f + rng_float(rng);
    for (int32_t code = 0; code < ANY4_MAX_TABLE; code++) {
        lut[code] = data == DATA_ZERO ? 0 : bf16_from_f32(value);
        value += 1.01f + rng_float(rng);
    }
    for (int32_t group = 0; group < w->n_groups; group++) {
        int exponent = data == DATA_EXTREME ? rng_below(rng, 61) - 30 : -6;
        scales[group] = bf16_from_f32(ldexpf(1.5f + 0.4f * rng_float(rng), exponent));
        if (zeros) {
            zeros[group] = bf16_from_f32(ldexpf(rng_float(rng), exponent));
        }
    }
    memset(codes, 0xff, w->row_bytes);
    for (int32_t col = 0; col < w->n_cols; col++) {
        int32_t group = col / w->group_size, block = col / 32, i = col % 16;
        int code = rng_below(rng, 16), shift = col % 32 < 16 ? 0 : 4;
        uint8_t *byte = codes + block * 16 + i;
        *byte = (uint8_t)((*byte & ~(15 << shift)) | (code << shift));
        float zero = zeros ? bf16_to_f32(zeros[group]) : 0.0f;
        m->dense[(size_t)row * (size_t)w->n_cols + (size_t)col] =
            bf16_to_f32(scales[group]) * bf16_to_f32(lut[code]) + zero;
    }
}

struct test_matrix test_matrix_build(enum any4_kind kind, int32_t n_rows, int32_t n_cols, int32_t group_size,
                                     enum data_kind data, uint64_t seed)
{
    struct test_matrix m = {.matrix = {.kind = kind, .n_rows = n_rows, .n_cols = n_cols}};
    struct any4_matrix *w = &m.matrix;
    struct rng rng = {seed};
    size_t n = (size_t)n_rows * (size_t)n_cols;
    m.dense = malloc(n * sizeof(float));
    assert(m.dense);
    if (kind != ANY4_LUT) {
        float *values = malloc(n * sizeof(float));
        assert(values);
        data_fill(values, n, data, &rng);
        build_stored(&m, values);
        free(values);
    } else {
        w->layout = ANY4_LAYOUT_CPU_V1;
        w->code_bits = 4;
        w->group_size = group_size;
        w->n_groups = (n_cols + group_size - 1) / group_size;
        w->row_bytes = (size_t)(n_cols + 31) / 32 * 16 + (seed % 2 ? 16 : 0);
        size_t n_scales = (size_t)n_rows * (size_t)w->n_groups;
        m.codes = guarded_alloc((size_t)n_rows * w->row_bytes);
        m.scales = guarded_alloc(n_scales * sizeof(uint16_t));
        m.lut = guarded_alloc((size_t)n_rows * ANY4_MAX_TABLE * sizeof(uint16_t));
        if (seed % 3) {
            m.zeros = guarded_alloc(n_scales * sizeof(uint16_t));
        }
        for (int32_t row = 0; row < n_rows; row++) {
            build_lut4_row(&m, row, data, &rng);
        }
        w->scales = m.scales.data;
        w->zeros = m.zeros.data;
        w->lut = m.lut.data;
    }
    w->codes = m.codes.data;
    return m;
}

void test_matrix_free(struct test_matrix *m)
{
    guarded_free(&m->codes);
    guarded_free(&m->scales);
    guarded_free(&m->zeros);
    guarded_free(&m->lut);
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
