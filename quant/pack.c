#include "quant/pack.h"

#include <string.h>

#include "quant/any4.h"

enum { HALF = ANY4_BLOCK_COLS / 2 };

void pack_row(uint8_t *out, const uint8_t *codes, int32_t n_cols)
{
    int32_t n_whole = n_cols / ANY4_BLOCK_COLS;
    for (int32_t block = 0; block < n_whole; block++) {
        for (int32_t i = 0; i < HALF; i++) {
            out[i] = (uint8_t)(codes[i] | codes[i + HALF] << 4);
        }
        out += any4_block_bytes(4);
        codes += ANY4_BLOCK_COLS;
    }
    int32_t rest = n_cols % ANY4_BLOCK_COLS;
    if (rest) {
        uint8_t last[ANY4_BLOCK_COLS] = {0};
        memcpy(last, codes, (size_t)rest);
        for (int32_t i = 0; i < HALF; i++) {
            out[i] = (uint8_t)(last[i] | last[i + HALF] << 4);
        }
    }
}

void unpack_row(uint8_t *codes, const uint8_t *packed, int32_t n_cols)
{
    int32_t n_whole = n_cols / ANY4_BLOCK_COLS;
    for (int32_t block = 0; block < n_whole; block++) {
        for (int32_t i = 0; i < HALF; i++) {
            codes[i] = packed[i] & 15;
            codes[i + HALF] = packed[i] >> 4;
        }
        packed += any4_block_bytes(4);
        codes += ANY4_BLOCK_COLS;
    }
    int32_t rest = n_cols % ANY4_BLOCK_COLS;
    for (int32_t i = 0; i < rest; i++) {
        codes[i] = i < HALF ? packed[i] & 15 : packed[i - HALF] >> 4;
    }
}
