/* Byte orders of codes: every width in both layouts against the words of quant/any4.h, there and back. */
#include <criterion/criterion.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "quant/any4.h"
#include "quant/pack.h"
#include "tests/quant/rows.h"

static const int32_t widths[] = {2, 3, 4, 8};
enum { N_WIDTHS = sizeof widths / sizeof widths[0], UNWRITTEN = 0xaa, MARGIN = 16 };

static uint8_t *bytes_alloc(size_t n)
{
    uint8_t *bytes = malloc(n);
    cr_assert(bytes);
    memset(bytes, UNWRITTEN, n);
    return bytes;
}

static void random_codes(uint8_t *codes, size_t n, int32_t code_bits, uint64_t seed)
{
    uint64_t state = seed;
    for (size_t i = 0; i < n; i++) {
        codes[i] = (uint8_t)(rows_random(&state) >> 32 & ((1u << code_bits) - 1));
    }
}

/* The code of a column in a row of ANY4_LAYOUT_CPU_V1, one bit at a time. */
static int code_in_row(const uint8_t *row, int32_t col, int32_t code_bits)
{
    const uint8_t *block = row + col / 32 * 4 * code_bits;
    int i = col % 32;
    switch (code_bits) {
    case 4:
        return block[i % 16] >> 4 * (i / 16) & 15;
    case 8:
        return block[i];
    default: {
        int low = block[i % 8] >> 2 * (i / 8) & 3;
        return code_bits == 2 ? low : low | (block[8 + i / 8] >> i % 8 & 1) << 2;
    }
    }
}

/* The code of an element of a matrix in ANY4_LAYOUT_TILE_V1. */
static int code_in_tiles(const uint8_t *tiles, int32_t n_cols, int32_t row, int32_t col, int32_t code_bits)
{
    size_t n_across = ((size_t)n_cols + 127) / 128;
    const uint8_t *tile = tiles + ((size_t)row / 8 * n_across + (size_t)col / 128) * 128 * (size_t)code_bits;
    int jj = col % 128 / 32, t = col % 32 / 8, i = col % 8, piece = t * 8 + row % 8;
    switch (code_bits) {
    case 4:
        return tile[piece * 16 + jj * 4 + i / 2] >> 4 * (i % 2) & 15;
    case 8:
        return tile[512 * (jj / 2) + piece * 16 + jj % 2 * 8 + i];
    default: {
        int low = tile[piece * 8 + jj * 2 + i / 4] >> 2 * (i % 4) & 3;
        return code_bits == 2 ? low : low | (tile[256 + piece * 4 + jj] >> i & 1) << 2;
    }
    }
}

Test(quant_pack, rows_follow_the_layout_and_return)
{
    for (int32_t w = 0; w < N_WIDTHS; w++) {
        for (int32_t n = 1; n <= 140; n++) {
            uint8_t codes[140], back[140 + MARGIN];
            size_t bytes = pack_row_bytes(n, widths[w]);
            uint8_t *packed = bytes_alloc(bytes + MARGIN);
            cr_assert_eq(bytes, (size_t)((n + 31) / 32 * 4 * widths[w]));
            random_codes(codes, (size_t)n, widths[w], (uint64_t)(n + 1000 * w));
            pack_row(packed, codes, n, widths[w]);
            for (int32_t col = 0; col < (n + 31) / 32 * 32; col++) {
                int found = code_in_row(packed, col, widths[w]);
                cr_assert_eq(found, col < n ? codes[col] : 0, "%d bits, n %d: column %d holds %d", widths[w],
                             n, col, found);
            }
            for (size_t i = bytes; i < bytes + MARGIN; i++) {
                cr_assert_eq(packed[i], UNWRITTEN, "%d bits, n %d: wrote behind the row", widths[w], n);
            }
            memset(back, UNWRITTEN, sizeof back);
            unpack_row(back, packed, n, widths[w]);
            cr_assert_arr_eq(codes, back, (size_t)n);
            cr_assert_eq(back[n], UNWRITTEN, "%d bits, n %d: wrote behind the codes", widths[w], n);
            free(packed);
        }
    }
}

/* Codes behind the last column are not the row's: whatever stands there, they are not returned. */
Test(quant_pack, unpacking_ignores_the_padding)
{
    for (int32_t w = 0; w < N_WIDTHS; w++) {
        for (int32_t n = 1; n < 32; n++) {
            uint8_t packed[32], codes[32 + MARGIN];
            memset(packed, 0xff, sizeof packed);
            memset(codes, UNWRITTEN, sizeof codes);
            unpack_row(codes, packed, n, widths[w]);
            for (int32_t i = 0; i < 32 + MARGIN; i++) {
                cr_assert_eq(codes[i], i < n ? (1 << widths[w]) - 1 : UNWRITTEN);
            }
        }
    }
}

static void check_tiles(int32_t n_rows, int32_t n_cols, int32_t code_bits, size_t gap)
{
    size_t row_bytes = pack_row_bytes(n_cols, code_bits), stride = row_bytes + gap;
    size_t tile_bytes = tile_matrix_bytes(n_rows, n_cols, code_bits);
    int32_t padded_rows = (n_rows + 31) / 32 * 32, padded_cols = (n_cols + 127) / 128 * 128;
    uint8_t *codes = bytes_alloc((size_t)n_cols);
    uint8_t *rows = bytes_alloc((size_t)n_rows * stride), *back = bytes_alloc((size_t)n_rows * stride);
    uint8_t *tiles = bytes_alloc(tile_bytes + MARGIN);
    cr_assert_eq(tile_bytes, (size_t)padded_rows * (size_t)padded_cols * (size_t)code_bits / 8);
    cr_assert_eq(tile_row_bytes(n_cols, code_bits) * (size_t)padded_rows, tile_bytes);
    for (int32_t row = 0; row < n_rows; row++) {
        random_codes(codes, (size_t)n_cols, code_bits, (uint64_t)row * 77 + (uint64_t)n_cols);
        pack_row(rows + (size_t)row * stride, codes, n_cols, code_bits);
    }
    repack_to_tiles(tiles, rows, stride, n_rows, n_cols, code_bits);
    for (int32_t row = 0; row < padded_rows; row++) {
        for (int32_t col = 0; col < padded_cols; col++) {
            bool inside = row < n_rows && col < n_cols;
            int expected = inside ? code_in_row(rows + (size_t)row * stride, col, code_bits) : 0;
            int found = code_in_tiles(tiles, n_cols, row, col, code_bits);
            cr_assert_eq(found, expected, "%d bits, %d x %d: row %d column %d holds %d, expected %d",
                         code_bits, n_rows, n_cols, row, col, found, expected);
        }
    }
    for (size_t i = tile_bytes; i < tile_bytes + MARGIN; i++) {
        cr_assert_eq(tiles[i], UNWRITTEN, "%d bits, %d x %d: wrote behind the tiles", code_bits, n_rows,
                     n_cols);
    }
    repack_from_tiles(back, stride, tiles, n_rows, n_cols, code_bits);
    cr_assert_arr_eq(back, rows, (size_t)n_rows * stride, "%d bits, %d x %d: the way back differs", code_bits,
                     n_rows, n_cols);
    /* And from the tiles' side: tiles -> rows -> tiles. */
    uint8_t *again = bytes_alloc(tile_bytes);
    repack_to_tiles(again, back, stride, n_rows, n_cols, code_bits);
    cr_assert_arr_eq(again, tiles, tile_bytes);
    free(again);
    free(tiles);
    free(back);
    free(rows);
    free(codes);
}

Test(quant_pack, repacking_to_tiles_is_an_identity)
{
    static const int32_t n_rows[] = {1, 7, 8, 9, 31, 32, 33, 96};
    static const int32_t n_cols[] = {1, 31, 32, 33, 64, 100, 127, 128, 129, 172, 384, 1408};
    for (size_t r = 0; r < sizeof n_rows / sizeof n_rows[0]; r++) {
        for (size_t c = 0; c < sizeof n_cols / sizeof n_cols[0]; c++) {
            for (int32_t w = 0; w < N_WIDTHS; w++) {
                check_tiles(n_rows[r], n_cols[c], widths[w], (r + c) % 2 * 20);
            }
        }
    }
}
