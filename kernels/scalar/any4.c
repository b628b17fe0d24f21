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

static double lut4_dot(const struct any4_matrix *w, const float *x, int32_t row)
{
    const uint8_t *codes = w->codes + (size_t)row * w->row_bytes;
    const uint16_t *lut = w->lut + (size_t)row * ANY4_MAX_TABLE;
    double sum = 0;
    for (int32_t group = 0; group < w->n_groups; group++) {
        size_t at = (size_t)row * (size_t)w->n_groups + (size_t)group;
        float scale = bf16_to_f32(w->scales[at]);
        float zero = w->zeros ? bf16_to_f32(w->zeros[at]) : 0.0f;
        float table[ANY4_MAX_TABLE]; /* the 16 weights that this group can hold */
        for (int32_t code = 0; code < ANY4_MAX_TABLE; code++) {
            table[code] = scale * bf16_to_f32(lut[code]) + zero;
        }
        int32_t begin = group * w->group_size;
        int32_t end = w->n_cols - begin < w->group_size ? w->n_cols : begin + w->group_size;
        for (int32_t col = begin; col < end; col++) {
            int32_t in_block = col % ANY4_BLOCK_COLS;
            const uint8_t *block = codes + (size_t)(col / ANY4_BLOCK_COLS) * any4_block_bytes(4);
            int code = in_block < 16 ? block[in_block] & 15 : block[in_block - 16] >> 4;
            sum += (double)table[code] * x[col];
        }
    }
    return sum;
}

void scalar_any4_gemv(float *y, const struct any4_matrix *w, const float *x, int32_t row_begin,
                      int32_t row_end)
{
    assert(w->kind != ANY4_LUT || w->layout == ANY4_LAYOUT_CPU_V1);
    for (int32_t row = row_begin; row < row_end; row++) {
        y[row] = (float)(w->kind == ANY4_LUT ? lut4_dot(w, x, row) : stored_dot(w, x, row));
    }
}

void scalar_any4_gemm(float *y, int64_t y_stride, const struct any4_matrix *w, const float *x,
                      int64_t x_stride, int32_t n_tokens, int32_t row_begin, int32_t row_end)
{
    for (int32_t token = 0; token < n_tokens; token++) {
        scalar_any4_gemv(y + token * y_stride, w, x + token * x_stride, row_begin, row_end);
    }
}
