/* The format of one quantized (or stored-as-is) matrix: plain data that quant/ writes and kernels/ reads.
 * Includes nothing of ours; C11 and C++17. One set of values serves every backend; the byte order of the
 * codes is each backend's own and tagged.
 *
 * Values, with n = code_bits, T = 2^n table entries a row and G = col / group_size. The last group of a row
 * is just shorter where group_size does not divide n_cols.
 *     ANY4_LUT_INT8   w = row_scales[row] * (group_scales[row][G] * table[row][code])
 *                     the product of the two int8 is exact, the row's f32 is applied last (kernels apply it
 *                     to a row's sum);
 *     ANY4_LUT        w = scales[row][G] * lut[row][code] + zeros[row][G]
 *                     all three bf16, evaluated in f32; zeros may be absent;
 *     ANY4_LINEAR     w = scales[row][G] * (code - 2^(n-1)) + zeros[row][G]
 *                     for widths whose table would be a ramp of 256 entries (n = 8).
 *
 * Byte order of the CPU backend (ANY4_LAYOUT_CPU_V1): a row is cut in blocks of 32 columns, 4 * code_bits
 * bytes each. Rows are row_bytes apart. Codes behind the last column are 0 and must be met by x = 0 or not be
 * used. With i the column within its block:
 *     4 bits  byte i (i < 16) holds the code of column i in its low nibble, of column i + 16 in the high one;
 *     2 bits  byte i (i < 8) holds columns i, i + 8, i + 16, i + 24 from its low bits up;
 *     3 bits  the low two bits of each code as above, then 4 bytes (little endian) whose bit i is bit 2 of
 *             column i's code;
 *     8 bits  byte i is the code of column i.
 *
 * Byte order of the GPU backend (ANY4_LAYOUT_TILE_V1): rows are padded to a multiple of 32 and columns to one
 * of 128, with code 0 that x = 0 must meet. A tile is 8 rows x 128 columns, 128 * code_bits bytes; tiles
 * follow each other along the columns first, then down the rows. A piece (t, row) of a tile, t 0..3, holds
 * four runs of 8 columns, 32 * jj + 8 * t .. + 7 for jj 0..3; pieces are ordered [t][row], so that lanes that
 * take a piece each read one stretch of memory. A run of 8 codes fills code_bits bytes, from the low bits of
 * the first one up (little endian):
 *     4 bits  32 pieces of 16 bytes; word jj of a piece is run jj;
 *     2 bits  32 pieces of 8 bytes; half-word jj is run jj;
 *     3 bits  the low two bits of each code as above, then 32 pieces of 4 bytes: byte jj holds bit 2 of each
 *             code of run jj;
 *     8 bits  32 pieces of 16 bytes for jj 0 and 1, then 32 for jj 2 and 3. */
#ifndef QUANT_ANY4_H
#define QUANT_ANY4_H

#include <stddef.h>
#include <stdint.h>

enum any4_kind {
    ANY4_F32, /* weights as stored */
    ANY4_F16,
    ANY4_BF16,
    ANY4_LUT,      /* the paper's and the fixed tables: bf16 scale, zero point and table */
    ANY4_LUT_INT8, /* learned tables of ours: int8 table and group scales, no zero points */
    ANY4_LINEAR,   /* int8: bf16 scale and zero point, no table */
};

enum any4_layout { ANY4_LAYOUT_ROW_MAJOR, ANY4_LAYOUT_CPU_V1, ANY4_LAYOUT_TILE_V1 };

enum {
    ANY4_MAX_TABLE = 16,  /* entries of the largest table: 4-bit codes */
    ANY4_BLOCK_COLS = 32, /* columns of a block of codes; every group size is a multiple */
    ANY4_TILE_ROWS = 8,
    ANY4_TILE_COLS = 128,
    ANY4_TILE_ROW_PAD = 32, /* rows are padded to whole warps */
};

struct any4_matrix {
    enum any4_kind kind;
    enum any4_layout layout;
    int32_t n_rows;       /* out_features */
    int32_t n_cols;       /* in_features */
    int32_t code_bits;    /* 2, 3, 4 or 8; 0 for the 16/32-bit kinds, as are the next two */
    int32_t group_size;   /* 32, 64 or 128 */
    int32_t n_groups;     /* ceil(n_cols / group_size) */
    size_t row_bytes;     /* distance between rows of codes (or of stored weights) in bytes; in TILE_V1 a
                             row's share: 8 rows, one row of tiles, take 8 * row_bytes */
    const uint8_t *codes; /* (n_rows, row_bytes); for the 16/32-bit kinds the weights, element-aligned */
    /* ANY4_LUT and ANY4_LINEAR */
    const uint16_t *scales; /* (n_rows, n_groups) bf16 */
    const uint16_t *zeros;  /* (n_rows, n_groups) bf16, NULL where every zero point is 0 */
    const uint16_t *lut;    /* (n_rows, 2^code_bits) bf16, ascending in each row; NULL for ANY4_LINEAR */
    /* ANY4_LUT_INT8 */
    const int8_t *group_scales; /* (n_rows, n_groups), -127..127; 0 only where the group is all zeros */
    const int8_t *table;        /* (n_rows, 2^code_bits), -127..127, ascending in each row */
    const float *row_scales;    /* (n_rows), finite, >= 0 */
};

/* Bytes of a block of 32 columns of codes. */
static inline size_t any4_block_bytes(int32_t code_bits)
{
    return 4 * (size_t)code_bits;
}

#endif
