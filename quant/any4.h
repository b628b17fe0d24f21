/* The format of one quantized (or stored-as-is) matrix: plain data that quant/ writes and kernels/ reads.
 * Includes nothing of ours; C11 and C++17.
 *
 * Values (ANY4_LUT4):
 *     w[row][col] = scale[row][G] * lut[row][code[row][col]] + zero[row][G],   G = col / group_size
 * with scale, zero and lut stored as bf16 and evaluated in f32. The last group of a row is just shorter where
 * group_size does not divide n_cols. Every 4-bit method of docs/quantization.md is such a table.
 *
 * Byte order of the CPU backend (layout ANY4_LAYOUT_CPU_V1): a row is cut in blocks of 32 columns of 16
 * bytes; byte i of a block holds the code of column i in its low nibble and of column i + 16 in its high
 * nibble. Codes behind the last column are 0 and must be met by x = 0 or not be used. Rows are row_bytes
 * apart (a multiple of 16). */
#ifndef QUANT_ANY4_H
#define QUANT_ANY4_H

#include <stddef.h>
#include <stdint.h>

enum any4_kind {
    ANY4_F32, /* weights as stored */
    ANY4_F16,
    ANY4_BF16,
    ANY4_LUT4, /* 4-bit codes and a table of 16 values per row */
};

enum any4_layout { ANY4_LAYOUT_ROW_MAJOR, ANY4_LAYOUT_CPU_V1 };

enum { ANY4_TABLE_SIZE = 16, ANY4_BLOCK_COLS = 32, ANY4_BLOCK_BYTES = 16 };

struct any4_matrix {
    enum any4_kind kind;
    enum any4_layout layout;
    int32_t n_rows;         /* out_features */
    int32_t n_cols;         /* in_features */
    int32_t group_size;     /* 32, 64 or 128; 0 for the 16/32-bit kinds */
    int32_t n_groups;       /* ceil(n_cols / group_size); 0 for the 16/32-bit kinds */
    size_t row_bytes;       /* distance between rows of codes (or of stored weights) in bytes */
    const uint8_t *codes;   /* (n_rows, row_bytes); for the 16/32-bit kinds the weights, element-aligned */
    const uint16_t *scales; /* (n_rows, n_groups) bf16 */
    const uint16_t *zeros;  /* (n_rows, n_groups) bf16, NULL where every zero point is 0 (nf4, fp4) */
    const uint16_t *lut;    /* (n_rows, 16) bf16, ascending in each row */
};

#endif
