/* 4-bit matrices in the arrangement of the CUDA kernels (launch.h). Plain C: no card is needed. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "engine/base/float16.h"
#include "kernels/cuda/launch.h"

enum {
    PART_ALIGNMENT = 128,
    LARGEST_EXPONENT = 15, /* of a table's largest entry as f16, which is below 2 to this */
    BYTE_OFFSET = 128,     /* of an int8 entry */
};

/* Of a row's table. */
static size_t table_bytes(const struct any4_matrix *w)
{
    return w->kind == ANY4_LUT_INT8 ? ANY4_MAX_TABLE : 2 * ANY4_MAX_TABLE;
}

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
    p.scales = p.planes + aligned(n_rows * table_bytes(w));
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

static int exponent_of(uint16_t bf16)
{
    int exponent;
    frexpf(bf16_to_f32(bf16), &exponent);
    return exponent;
}

/* By which power of two a row's bf16 table is multiplied, and its scales divided: such that the largest entry
 * comes to f16's upper end, but no scale becomes too small for all of its bits. A scale that becomes too
 * large has a product with that entry that f32 does not hold either. */
static int lut_shift(const struct any4_matrix *w, int32_t row)
{
    const uint16_t *lut = w->lut + (size_t)row * ANY4_MAX_TABLE;
    const uint16_t *scales = w->scales + (size_t)row * (size_t)w->n_groups;
    uint16_t largest = 0;
    for (int32_t code = 0; code < ANY4_MAX_TABLE; code++) {
        const uint16_t magnitude = lut[code] & 0x7fff;
        largest = magnitude > largest ? magnitude : largest;
    }
    if (!largest) {
        return 0;
    }
    int shift = LARGEST_EXPONENT - exponent_of(largest);
    for (int32_t group = 0; group < w->n_groups; group++) {
        if (scales[group] & 0x7fff) {
            const int exponent = exponent_of(scales[group]);
            const int most = exponent > -125 ? exponent + 125 : 0; /* the last of 8 bits at 2^-133 */
            shift = shift > most ? most : shift;
        }
    }
    return shift;
}

static void pack_planes(uint8_t *planes, const struct any4_matrix *w, int32_t row, int shift)
{
    for (int32_t code = 0; code < ANY4_MAX_TABLE; code++) {
        const size_t entry = (size_t)row * ANY4_MAX_TABLE + (size_t)code;
        if (w->kind == ANY4_LUT_INT8) {
            planes[code] = (uint8_t)(w->table[entry] + BYTE_OFFSET);
        } else {
            const uint16_t value = f16_from_f32(ldexpf(bf16_to_f32(w->lut[entry]), shift));
            planes[code] = (uint8_t)value;
            planes[ANY4_MAX_TABLE + code] = (uint8_t)(value >> 8);
        }
    }
}

static void pack_scales(uint8_t *scales, const struct any4_matrix *w, const struct parts *p, int32_t row,
                        int shift)
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
            const uint16_t scale = bf16_from_f32(ldexpf(bf16_to_f32(w->scales[from]), -shift));
            const uint32_t pair = scale | (w->zeros ? (uint32_t)w->zeros[from] << 16 : 0);
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
        const int shift = w->kind == ANY4_LUT ? lut_shift(w, row) : 0;
        pack_planes(bytes + p.planes + (size_t)row * table_bytes(w), w, row, shift);
        pack_scales(bytes + p.scales, w, &p, row, shift);
    }
    if (w->kind == ANY4_LUT_INT8) {
        const size_t n_padding = (size_t)p.n_row_blocks * ANY4_TILE_ROW_PAD - (size_t)w->n_rows;
        memset(bytes + p.planes + (size_t)w->n_rows * ANY4_MAX_TABLE, BYTE_OFFSET,
               n_padding * ANY4_MAX_TABLE);
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
