/* Byte order of codes: layout ANY4_LAYOUT_CPU_V1 of quant/any4.h. Other layouts get their pair of functions
 * here. */
#ifndef QUANT_PACK_H
#define QUANT_PACK_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of one packed row: whole blocks of 32 columns. */
static inline size_t pack_row_bytes(int32_t n_cols)
{
    return ((size_t)n_cols + 31) / 32 * 16;
}

/* codes: (n_cols) one code 0..15 a byte. out: pack_row_bytes(n_cols), all written; codes behind the last
 * column are 0. */
void pack_row(uint8_t *out, const uint8_t *codes, int32_t n_cols);
void unpack_row(uint8_t *codes, const uint8_t *packed, int32_t n_cols);

#endif
