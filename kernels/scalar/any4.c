/* Matrix times vector(s), the reference: one row and one token at a time, columns in order, summed in double.
 */
#include "kernels/scalar/scalar.h"

#include <assert.h>
#include <string.h>

#include "engine/base/float16.h"

/* Stored weights are element-aligned at best (they lie in a mapped file): read them bytewise. */
static float stored_weight(enum any4_kind kind, const uint8_t *row, int32_t col)
{
    uint16_t half;
    float value;
    if (kind == ANY4_F32) {
        memcpy(&value, row + (size_t)col * sizeof value, sizeof value);
        return value;
    }
    memcpy(&half, row + (size_t)col * sizeof half, sizeof half);
    return kind == ANY4_F16 ? f16_to_f32(half) : bf16_to_f32(half);
}

static double stored_dot(const struct any4_matrix *w, const float *x, int32_t row)
{
    const uint8_t *weights = w->codes + (size_t)row * w->row_bytes;
    double sum = 0;
    for (int32_t col = 0; col < w->n_cols; col++) {
        sum += (double)stored_weight(w->kind, weights, col) * x[col];
    }
    return sum;
}

/* Code of column i of a block of 32. */
static int block_code(const uint8_t *block, int32_t i, int32_t bits)
{
    switch (bits) {
    case 8:
        return block[i];
    case 4:
        return block[i % 16] >> 4 * (i / 16) & 15;
    default: {
        int low = block[i % 8] >> 2 * (i / 8) & 3;
        return bits == 2 ? low : low | (block[8 + i / 8] >> i % 8 & 1) << 2;
    }
    }
}

/* What a code is worth in a group of a row; of ANY4_LUT_INT8 without the row's scale, an exact integer. */
static float group_weight(const struct any4_matrix *w, int32_t row, int32_t group, int code)
{
    size_t at = (size_t)row * (size_t)w->n_groups + (size_t)group;
    size_t entry = ((size_t)row << w->code_bits) + (size_t)code;
    if (w->kind == ANY4_LUT_INT8) {
        return (float)(w->group_scales[at] * w->table[entry]);
    }
    float value =
        w->kind == ANY4_LUT ? bf16_to_f32(w->lut[entry]) : (float)(code - (1 << (w->code_bits - 1)));
    return bf16_to_f32(w->scales[at]) * value + (w->zeros ? bf16_to_f32(w->zeros[at]) : 0.0f);
}

static double coded_dot(const struct any4_matrix *w, const float *x, int32_t row)
{
    const uint8_t *codes = w->codes + (size_t)row * w->row_bytes;
    double sum = 0;
    for (int32_t group = 0; group < w->n_groups; group++) {
        float values[ANY4_MAX_TABLE]; /* the weights that this group can hold */
        for (int code = 0; w->kind != ANY4_LINEAR && code < 1 << w->code_bits; code++) {
            values[code] = group_weight(w, row, group, code);
        }
        int32_t begin = group * w->group_size;
        int32_t end = w->n_cols - begin < w->group_size ? w->n_cols : begin + w->group_size;
        for (int32_t col = begin; col < end; col++) {
            const uint8_t *block = codes + (size_t)(col / ANY4_BLOCK_COLS) * any4_block_bytes(w->code_bits);
            int code = block_code(block, col % ANY4_BLOCK_COLS, w->code_bits);
            float weight = w->kind == ANY4_LINEAR ? group_weight(w, row, group, code) : values[code];
            sum += (double)weight * x[col];
        }
    }
    return w->kind == ANY4_LUT_INT8 ? w->row_scales[row] * sum : sum;
}

static double row_dot(const struct any4_matrix *w, const float *x, int32_t row)
{
    switch (w->kind) {
    case ANY4_F32:
    case ANY4_F16:
    case ANY4_BF16:
        return stored_dot(w, x, row);
    case ANY4_LUT:
    case ANY4_LUT_INT8:
    case ANY4_LINEAR:
        return coded_dot(w, x, row);
    }
    return 0;
}

void scalar_any4_gemv(float *y, const struct any4_matrix *w, const float *x, int32_t row_begin,
                      int32_t row_end)
{
    assert(!w->code_bits || w->layout == ANY4_LAYOUT_CPU_V1);
    for (int32_t row = row_begin; row < row_end; row++) {
        y[row] = (float)row_dot(w, x, row);
    }
}

void scalar_any4_gemm(float *y, int64_t y_stride, const struct any4_matrix *w, const float *x,
                      int64_t x_stride, int32_t n_tokens, int32_t row_begin, int32_t row_end)
{
    for (int32_t token = 0; token < n_tokens; token++) {
        scalar_any4_gemv(y + token * y_stride, w, x + token * x_stride, row_begin, row_end);
    }
}
