/* 4-bit matrices in the arrangement of the CUDA kernels (launch.h). Plain C: no card is needed. */
#include <assert.h>
#include <string.h>

#include "engine/base/float16.h"
#include "kernels/cuda/launch.h"

enum { PART_ALIGNMENT = 128, TABLE_BYTES = 2 * ANY4_MAX_TABLE };

/* Where the parts of a block lie. */
struct parts {
    size_t planes, scales, row_scales, total; /* codes come first */
    int64_t n_row_blocks, n_tile_cols, groups_a_tile;
};

static size_t aligned(size_t bytes)
{
    return (bytes + PART_ALIGNMENT - 1) / PART_ALIGNMENT * PART_ALIGNMENT;
}

static struct parts parts_of(const struct any4_matrix *w)
{
    struct parts p;
    p.n_row_blocks = ((int64_t)w->n_rows + ANY4_TILE_ROW_PAD - 1) / ANY4_TILE_ROW_PAD;
    p.n_tile_cols = ((int64_t)w->n_cols + ANY4_TILE_COLS - 1) / ANY4_TILE_COLS;
    p.groups_a_tile = ANY4_TILE_COLS / w->group_size;
    size_t n_rows = (size_t)p.n_row_blocks * ANY4_TILE_ROW_PAD;
    size_t n_scales = n_rows * (size_t)(p.n_tile_cols * p.groups_a_tile);
    p.planes = aligned(n_rows * (size_t)p.n_tile_cols * ANY4_TILE_COLS / 2);
    p.scales = p.planes + aligned(n_rows * TABLE_BYTES);
    p.row_scales = p.scales + aligned(n_scales * (w->kind == ANY4_LUT_INT8 ? 1 : 4));
    p.total = p.row_scales + (w->kind == ANY4_LUT_INT8 ? aligned(n_rows * sizeof(float)) : 0);
    return p;
}

enum status cuda_any4_bytes(size_t *out, const struct any4_matrix *w, struct error *err)
{
    *out = 0;
    if ((w->kind != ANY4_LUT && w->kind != ANY4_LUT_INT8) || w->code_bits != 4) {
        return error_set(err, STATUS_INVALID,
                         "a matrix of kind %d with codes of %d bits has no CUDA kernel here", (int)w->kind,
                         w->code_bits);
    }
    if (w->group_size != 32 && w->group_size != 64 && w->group_size != 128) {
        return error_set(err, STATUS_INVALID, "group size %d is not 32, 64 or 128", w->group_size);
    }
    if (w->n_rows < 1 || w->n_cols < 1 || w->n_cols > INT32_MAX - ANY4_TILE_COLS ||
        w->n_rows > INT32_MAX - ANY4_TILE_ROW_PAD) {
        return error_set(err, STATUS_INVALID, "a matrix of %d rows and %d columns is out of range", w->n_rows,
                         w->n_cols);
    }
    *out = parts_of(w).total;
    return STATUS_OK;
}

static void pack_planes(uint8_t *planes, const struct any4_matrix *w, int32_t row)
{
    for (int32_t code = 0; code < ANY4_MAX_TABLE; code++) {
        size_t entry = (size_t)row * ANY4_MAX_TABLE + (size_t)code;
        uint16_t value = w->kind == ANY4_LUT_INT8 ? bf16_from_f32(w->table[entry]) : w->lut[entry];
        planes[code] = (uint8_t)value;
        planes[ANY4_MAX_TABLE + code] = (uint8_t)(value >> 8);
    }
}

static void pack_scales(uint8_t *scales, const struct any4_matrix *w, const struct parts *p, int32_t row)
{
    const int64_t row_block = row / ANY4_TILE_ROW_PAD, in_block = row % ANY4_TILE_ROW_PAD;
    for (int32_t group = 0; group < w->n_groups; group++) {
        const int64_t tile = row_block * p->n_tile_cols + group / p->groups_a_tile;
        const int64_t in_tile = group % p->groups_a_tile;
        const size_t from = (size_t)row * (size_t)w->n_groups + (size_t)group;
        if (w->kind == ANY4_LUT_INT8) {
            const int64_t to = (tile * ANY4_TILE_ROW_PAD + in_block) * p->groups_a_tile + in_tile;
            scales[to] = (uint8_t)w->group_scales[from];
        } else {
            const int64_t to = (tile * p->groups_a_tile + in_tile) * ANY4_TILE_ROW_PAD + in_block;
            const uint32_t pair = w->scales[from] | (w->zeros ? (uint32_t)w->zeros[from] << 16 : 0);
            memcpy(scales + 4 * to, &pair, sizeof pair);
        }
    }
}

void cuda_any4_pack(void *block, const struct any4_matrix *w)
{
    const struct parts p = parts_of(w);
    uint8_t *bytes = block;
    assert(w->layout == ANY4_LAYOUT_TILE_V1);
    memset(bytes, 0, p.total);
    memcpy(bytes, w->codes, (size_t)p.n_row_blocks * ANY4_TILE_ROW_PAD * w->row_bytes);
    for (int32_t row = 0; row < w->n_rows; row++) {
        pack_planes(bytes + p.planes + (size_t)row * TABLE_BYTES, w, row);
        pack_scales(bytes + p.scales, w, &p, row);
    }
    if (w->kind == ANY4_LUT_INT8) {
        memcpy(bytes + p.row_scales, w->row_scales, (size_t)w->n_rows * sizeof *w->row_scales);
    }
}

void cuda_any4_place(struct cuda_any4 *out, const struct any4_matrix *w, const void *device)
{
    const struct parts p = parts_of(w);
    const uint8_t *bytes = device;
    *out = (struct cuda_any4){
        .kind = w->kind,
        .n_rows = w->n_rows,
        .n_cols = w->n_cols,
        .group_size = w->group_size,
        .n_row_blocks = (int32_t)p.n_row_blocks,
        .n_tile_cols = (int32_t)p.n_tile_cols,
        .codes = bytes,
        .planes = (const uint32_t *)(const void *)(bytes + p.planes),
        .scales = bytes + p.scales,
        .row_scales = w->kind == ANY4_LUT_INT8 ? (const float *)(const void *)(bytes + p.row_scales) : NULL,
    };
}
