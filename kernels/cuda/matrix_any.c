/* Matrices of every format in the arrangement of linear_any.cuh (linear.h). Plain C: no card is needed. */
#include <assert.h>
#include <string.h>

#include "kernels/cuda/linear.h"

enum { PART_ALIGNMENT = 128 };

/* Where the parts of a block lie, and what a row of each takes; 0 bytes where there is none. */
struct parts {
    size_t scales, zeros, table, row_scales, total; /* codes come first */
    size_t row_bytes, scale_row_bytes, zero_row_bytes, table_row_bytes;
    int32_t n_groups;
};

static size_t aligned(size_t bytes)
{
    return (bytes + PART_ALIGNMENT - 1) / PART_ALIGNMENT * PART_ALIGNMENT;
}

static struct parts parts_of(const struct any4_matrix *w)
{
    const size_t n_rows = (size_t)w->n_rows, n_padded = (size_t)cuda_padded(w->n_cols);
    struct parts p = {0};
    if (!w->code_bits) {
        p.row_bytes = n_padded * (w->kind == ANY4_F32 ? 4 : 2);
    } else {
        const size_t value_bytes = w->kind == ANY4_LUT_INT8 ? 1 : 2;
        p.n_groups = (int32_t)(n_padded / (size_t)w->group_size);
        p.row_bytes = n_padded / ANY4_BLOCK_COLS * any4_block_bytes(w->code_bits);
        p.scale_row_bytes = (size_t)p.n_groups * value_bytes;
        p.zero_row_bytes = w->kind != ANY4_LUT_INT8 && w->zeros ? (size_t)p.n_groups * 2 : 0;
        p.table_row_bytes = w->kind == ANY4_LINEAR ? 0 : value_bytes << w->code_bits;
    }
    p.scales = aligned(n_rows * p.row_bytes);
    p.zeros = p.scales + aligned(n_rows * p.scale_row_bytes);
    p.table = p.zeros + aligned(n_rows * p.zero_row_bytes);
    p.row_scales = p.table + aligned(n_rows * p.table_row_bytes);
    p.total = p.row_scales + (w->kind == ANY4_LUT_INT8 ? aligned(n_rows * sizeof(float)) : 0);
    return p;
}

static int has_width(const struct any4_matrix *w)
{
    switch (w->kind) {
    case ANY4_F32:
    case ANY4_F16:
    case ANY4_BF16:
        return w->code_bits == 0;
    case ANY4_LUT:
    case ANY4_LUT_INT8:
        return w->code_bits >= 2 && w->code_bits <= 4;
    case ANY4_LINEAR:
        return w->code_bits == 8;
    }
    return 0;
}

enum status cuda_matrix_bytes(size_t *out, const struct any4_matrix *w, struct error *err)
{
    *out = 0;
    if (!has_width(w)) {
        return error_set(err, STATUS_INVALID,
                         "a matrix of kind %d with codes of %d bits has no CUDA kernel here", (int)w->kind,
                         w->code_bits);
    }
    if (w->code_bits && w->group_size != 32 && w->group_size != 64 && w->group_size != 128) {
        return error_set(err, STATUS_INVALID, "group size %d is not 32, 64 or 128", w->group_size);
    }
    if (w->code_bits && w->layout != ANY4_LAYOUT_CPU_V1) {
        return error_set(err, STATUS_INVALID, "codes in layout %d, expected %d (ANY4_LAYOUT_CPU_V1)",
                         (int)w->layout, (int)ANY4_LAYOUT_CPU_V1);
    }
    if (w->n_rows < 1 || w->n_cols < 1 || w->n_cols > INT32_MAX - ANY4_TILE_COLS) {
        return error_set(err, STATUS_INVALID, "a matrix of %d rows and %d columns is out of range", w->n_rows,
                         w->n_cols);
    }
    *out = parts_of(w).total;
    return STATUS_OK;
}

/* Rows of n bytes, `from_stride` apart, to rows `to_stride` apart. */
static void copy_rows(uint8_t *to, size_t to_stride, const void *from, size_t from_stride, size_t n,
                      int32_t n_rows)
{
    for (size_t row = 0; row < (size_t)n_rows; row++) {
        memcpy(to + row * to_stride, (const uint8_t *)from + row * from_stride, n);
    }
}

void cuda_matrix_pack(void *block, const struct any4_matrix *w)
{
    const struct parts p = parts_of(w);
    uint8_t *bytes = block;
    memset(bytes, 0, p.total);
    if (!w->code_bits) {
        copy_rows(bytes, p.row_bytes, w->codes, w->row_bytes,
                  (size_t)w->n_cols * (w->kind == ANY4_F32 ? 4 : 2), w->n_rows);
        return;
    }
    assert(w->layout == ANY4_LAYOUT_CPU_V1);
    const size_t value_bytes = w->kind == ANY4_LUT_INT8 ? 1 : 2;
    const size_t n_blocks = ((size_t)w->n_cols + ANY4_BLOCK_COLS - 1) / ANY4_BLOCK_COLS;
    const size_t groups_bytes = (size_t)w->n_groups * value_bytes;
    copy_rows(bytes, p.row_bytes, w->codes, w->row_bytes, n_blocks * any4_block_bytes(w->code_bits),
              w->n_rows);
    const void *scales = w->kind == ANY4_LUT_INT8 ? (const void *)w->group_scales : w->scales;
    copy_rows(bytes + p.scales, p.scale_row_bytes, scales, groups_bytes, groups_bytes, w->n_rows);
    if (p.zero_row_bytes) {
        copy_rows(bytes + p.zeros, p.zero_row_bytes, w->zeros, groups_bytes, groups_bytes, w->n_rows);
    }
    if (p.table_row_bytes) {
        const void *table = w->kind == ANY4_LUT_INT8 ? (const void *)w->table : w->lut;
        memcpy(bytes + p.table, table, (size_t)w->n_rows * p.table_row_bytes);
    }
    if (w->kind == ANY4_LUT_INT8) {
        memcpy(bytes + p.row_scales, w->row_scales, (size_t)w->n_rows * sizeof *w->row_scales);
    }
}

void cuda_matrix_place(struct cuda_matrix *out, const struct any4_matrix *w, const void *device)
{
    const struct parts p = parts_of(w);
    const uint8_t *bytes = device;
    *out = (struct cuda_matrix){
        .kind = w->kind,
        .n_rows = w->n_rows,
        .n_cols = w->n_cols,
        .code_bits = w->code_bits,
        .group_size = w->code_bits ? w->group_size : 0,
        .n_groups = p.n_groups,
        .row_bytes = (int64_t)p.row_bytes,
        .codes = bytes,
        .scales = p.scale_row_bytes ? bytes + p.scales : NULL,
        .zeros = p.zero_row_bytes ? (const uint16_t *)(const void *)(bytes + p.zeros) : NULL,
        .table = p.table_row_bytes ? bytes + p.table : NULL,
        .row_scales = w->kind == ANY4_LUT_INT8 ? (const float *)(const void *)(bytes + p.row_scales) : NULL,
    };
}
