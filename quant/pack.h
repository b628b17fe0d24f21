/* Byte orders of codes (quant/any4.h): rows to and from ANY4_LAYOUT_CPU_V1, whole matrices from there to
 * ANY4_LAYOUT_TILE_V1 and back. code_bits is 2, 3, 4 or 8 everywhere; codes are one a byte, < 2^code_bits. */
#ifndef QUANT_PACK_H
#define QUANT_PACK_H

#include <stddef.h>
#include <stdint.h>

/* -- ANY4_LAYOUT_CPU_V1 -- */

/* Bytes of one packed row: whole blocks of 32 columns. */
size_t pack_row_bytes(int32_t n_cols, int32_t code_bits);

/* codes: (n_cols). out: pack_row_bytes, all written; codes behind the last column are 0. */
void pack_row(uint8_t *out, const uint8_t *codes, int32_t n_cols, int32_t code_bits);
void unpack_row(uint8_t *codes, const uint8_t *packed, int32_t n_cols, int32_t code_bits);

/* -- ANY4_LAYOUT_TILE_V1 -- */

/* any4_matrix.row_bytes in this layout: one row's share of its tiles. */
size_t tile_row_bytes(int32_t n_cols, int32_t code_bits);
/* Bytes of the codes of a whole matrix, padding included. */
size_t tile_matrix_bytes(int32_t n_rows, int32_t n_cols, int32_t code_bits);

/* codes: CPU_V1 rows, row_bytes >= pack_row_bytes apart. tiles: tile_matrix_bytes, all written; codes of the
 * padding are 0. The way back writes pack_row_bytes of every row. */
void repack_to_tiles(uint8_t *tiles, const uint8_t *codes, size_t row_bytes, int32_t n_rows, int32_t n_cols,
                     int32_t code_bits);
void repack_from_tiles(uint8_t *codes, size_t row_bytes, const uint8_t *tiles, int32_t n_rows, int32_t n_cols,
                       int32_t code_bits);

#endif
