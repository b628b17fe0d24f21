#include "quant/pack.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "quant/any4.h"

enum {
    HALF = ANY4_BLOCK_COLS / 2,
    QUARTER = ANY4_BLOCK_COLS / 4,
    RUN = 8,                /* columns of a tile that stay together */
    SET_COLS = 32,          /* jj of quant/any4.h counts sets of four runs, */
    PARTS = SET_COLS / RUN, /* t the runs in a set */
    SETS = ANY4_TILE_COLS / SET_COLS,
};

/* Called with a constant number of bits, so that each width has loops of its own: the compiler turns them
 * into vector code, and packing is on the path of every load. */
static inline void pack_block(uint8_t *restrict out, const uint8_t *restrict codes, const int32_t code_bits)
{
    if (code_bits == 4) {
        for (int32_t i = 0; i < HALF; i++) {
            out[i] = (uint8_t)(codes[i] | codes[i + HALF] << 4);
        }
    } else if (code_bits == 8) {
        memcpy(out, codes, ANY4_BLOCK_COLS);
    } else {
        for (int32_t i = 0; i < QUARTER; i++) {
            out[i] = (uint8_t)((codes[i] & 3) | (codes[i + QUARTER] & 3) << 2 |
                               (codes[i + 2 * QUARTER] & 3) << 4 | (codes[i + 3 * QUARTER] & 3) << 6);
        }
        uint32_t high = 0;
        for (int32_t i = 0; code_bits == 3 && i < ANY4_BLOCK_COLS; i++) {
            high |= (uint32_t)codes[i] >> 2 << i;
        }
        for (int32_t byte = 0; code_bits == 3 && byte < 4; byte++) {
            out[QUARTER + byte] = (uint8_t)(high >> 8 * byte);
        }
    }
}

static inline void unpack_block(uint8_t *restrict codes, const uint8_t *restrict packed,
                                const int32_t code_bits)
{
    if (code_bits == 4) {
        for (int32_t i = 0; i < HALF; i++) {
            codes[i] = packed[i] & 15;
            codes[i + HALF] = packed[i] >> 4;
        }
    } else if (code_bits == 8) {
        memcpy(codes, packed, ANY4_BLOCK_COLS);
    } else {
        for (int32_t i = 0; i < QUARTER; i++) {
            codes[i] = packed[i] & 3;
            codes[i + QUARTER] = packed[i] >> 2 & 3;
            codes[i + 2 * QUARTER] = packed[i] >> 4 & 3;
            codes[i + 3 * QUARTER] = packed[i] >> 6;
        }
        for (int32_t i = 0; code_bits == 3 && i < ANY4_BLOCK_COLS; i++) {
            codes[i] |= (uint8_t)((packed[QUARTER + i / 8] >> i % 8 & 1) << 2);
        }
    }
}

static inline void pack_blocks(uint8_t *restrict out, const uint8_t *restrict codes, int32_t n_cols,
                               const int32_t code_bits)
{
    for (; n_cols >= ANY4_BLOCK_COLS; n_cols -= ANY4_BLOCK_COLS) {
        pack_block(out, codes, code_bits);
        out += any4_block_bytes(code_bits);
        codes += ANY4_BLOCK_COLS;
    }
    if (n_cols) {
        uint8_t last[ANY4_BLOCK_COLS] = {0};
        memcpy(last, codes, (size_t)n_cols);
        pack_block(out, last, code_bits);
    }
}

static inline void unpack_blocks(uint8_t *restrict codes, const uint8_t *restrict packed, int32_t n_cols,
                                 const int32_t code_bits)
{
    for (; n_cols >= ANY4_BLOCK_COLS; n_cols -= ANY4_BLOCK_COLS) {
        unpack_block(codes, packed, code_bits);
        packed += any4_block_bytes(code_bits);
        codes += ANY4_BLOCK_COLS;
    }
    if (n_cols) {
        uint8_t last[ANY4_BLOCK_COLS];
        unpack_block(last, packed, code_bits);
        memcpy(codes, last, (size_t)n_cols);
    }
}

size_t pack_row_bytes(int32_t n_cols, int32_t code_bits)
{
    return ((size_t)n_cols + ANY4_BLOCK_COLS - 1) / ANY4_BLOCK_COLS * any4_block_bytes(code_bits);
}

void pack_row(uint8_t *out, const uint8_t *codes, int32_t n_cols, int32_t code_bits)
{
    switch (code_bits) {
    case 2:
        pack_blocks(out, codes, n_cols, 2);
        break;
    case 3:
        pack_blocks(out, codes, n_cols, 3);
        break;
    case 4:
        pack_blocks(out, codes, n_cols, 4);
        break;
    case 8:
        pack_blocks(out, codes, n_cols, 8);
        break;
    default:
        assert(false);
    }
}

void unpack_row(uint8_t *codes, const uint8_t *packed, int32_t n_cols, int32_t code_bits)
{
    switch (code_bits) {
    case 2:
        unpack_blocks(codes, packed, n_cols, 2);
        break;
    case 3:
        unpack_blocks(codes, packed, n_cols, 3);
        break;
    case 4:
        unpack_blocks(codes, packed, n_cols, 4);
        break;
    case 8:
        unpack_blocks(codes, packed, n_cols, 8);
        break;
    default:
        assert(false);
    }
}

size_t tile_row_bytes(int32_t n_cols, int32_t code_bits)
{
    return ((size_t)n_cols + ANY4_TILE_COLS - 1) / ANY4_TILE_COLS * (ANY4_TILE_COLS / 8) * (size_t)code_bits;
}

size_t tile_matrix_bytes(int32_t n_rows, int32_t n_cols, int32_t code_bits)
{
    size_t n_padded = ((size_t)n_rows + ANY4_TILE_ROW_PAD - 1) / ANY4_TILE_ROW_PAD * ANY4_TILE_ROW_PAD;
    return n_padded * tile_row_bytes(n_cols, code_bits);
}

/* Part of a tile: `width` bits of each code (from bit `shift` up) of n_sets sets of 32 columns, in pieces
 * ordered [t][row] that hold one run a set. A run of 8 codes fills `width` bytes. */
struct plane {
    int32_t width, shift, first_set, n_sets;
};

static const struct plane PLANES[][3] = {
    [2] = {{2, 0, 0, SETS}},
    [3] = {{2, 0, 0, SETS}, {1, 2, 0, SETS}},
    [4] = {{4, 0, 0, SETS}},
    [8] = {{8, 0, 0, SETS / 2}, {8, 0, SETS / 2, SETS / 2}},
};

typedef uint8_t tile_codes[ANY4_TILE_ROWS][ANY4_TILE_COLS];

static void pack_tile(uint8_t *out, tile_codes codes, int32_t code_bits)
{
    for (const struct plane *p = PLANES[code_bits]; p->width; p++) {
        for (int32_t part = 0; part < PARTS; part++) {
            for (int32_t row = 0; row < ANY4_TILE_ROWS; row++) {
                for (int32_t set = p->first_set; set < p->first_set + p->n_sets; set++) {
                    const uint8_t *run = codes[row] + SET_COLS * set + RUN * part;
                    uint64_t word = 0;
                    for (int32_t i = 0; i < RUN; i++) {
                        word |= (uint64_t)(run[i] >> p->shift & ((1 << p->width) - 1)) << (p->width * i);
                    }
                    for (int32_t byte = 0; byte < p->width; byte++) {
                        *out++ = (uint8_t)(word >> 8 * byte);
                    }
                }
            }
        }
    }
}

static void unpack_tile(tile_codes codes, const uint8_t *packed, int32_t code_bits)
{
    memset(codes, 0, sizeof(tile_codes));
    for (const struct plane *p = PLANES[code_bits]; p->width; p++) {
        for (int32_t part = 0; part < PARTS; part++) {
            for (int32_t row = 0; row < ANY4_TILE_ROWS; row++) {
                for (int32_t set = p->first_set; set < p->first_set + p->n_sets; set++) {
                    uint8_t *run = codes[row] + SET_COLS * set + RUN * part;
                    uint64_t word = 0;
                    for (int32_t byte = 0; byte < p->width; byte++) {
                        word |= (uint64_t)*packed++ << 8 * byte;
                    }
                    for (int32_t i = 0; i < RUN; i++) {
                        run[i] |= (uint8_t)((word >> (p->width * i) & ((1u << p->width) - 1)) << p->shift);
                    }
                }
            }
        }
    }
}

static inline int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

void repack_to_tiles(uint8_t *tiles, const uint8_t *codes, size_t row_bytes, int32_t n_rows, int32_t n_cols,
                     int32_t code_bits)
{
    const size_t tile_bytes = ANY4_TILE_ROWS * tile_row_bytes(ANY4_TILE_COLS, code_bits);
    const int64_t n_tile_rows = (((int64_t)n_rows + ANY4_TILE_ROW_PAD - 1) / ANY4_TILE_ROW_PAD) *
                                (ANY4_TILE_ROW_PAD / ANY4_TILE_ROWS);
    for (int64_t row = 0; row < n_tile_rows * ANY4_TILE_ROWS; row += ANY4_TILE_ROWS) {
        for (int64_t col = 0; col < n_cols; col += ANY4_TILE_COLS, tiles += tile_bytes) {
            tile_codes tile = {{0}};
            const uint8_t *from = codes + pack_row_bytes((int32_t)col, code_bits);
            for (int64_t r = row; r < row + ANY4_TILE_ROWS && r < n_rows; r++) {
                unpack_row(tile[r - row], from + (size_t)r * row_bytes,
                           smaller(n_cols - (int32_t)col, ANY4_TILE_COLS), code_bits);
            }
            pack_tile(tiles, tile, code_bits);
        }
    }
}

void repack_from_tiles(uint8_t *codes, size_t row_bytes, const uint8_t *tiles, int32_t n_rows, int32_t n_cols,
                       int32_t code_bits)
{
    const size_t tile_bytes = ANY4_TILE_ROWS * tile_row_bytes(ANY4_TILE_COLS, code_bits);
    for (int64_t row = 0; row < n_rows; row += ANY4_TILE_ROWS) {
        for (int64_t col = 0; col < n_cols; col += ANY4_TILE_COLS, tiles += tile_bytes) {
            tile_codes tile;
            unpack_tile(tile, tiles, code_bits);
            uint8_t *to = codes + pack_row_bytes((int32_t)col, code_bits);
            for (int64_t r = row; r < row + ANY4_TILE_ROWS && r < n_rows; r++) {
                pack_row(to + (size_t)r * row_bytes, tile[r - row],
                         smaller(n_cols - (int32_t)col, ANY4_TILE_COLS), code_bits);
            }
        }
    }
}
