/* A 4-bit matrix to rows of f16: for a product by a library, the oracle of the kernels that decode. */
#ifndef KERNELS_CUDA_ANY4_DEQUANTIZE_CUH
#define KERNELS_CUDA_ANY4_DEQUANTIZE_CUH

#include "kernels/cuda/any4_gemm.cuh"

enum { DEQUANTIZE_WARPS = 8, DEQUANTIZE_THREADS = DEQUANTIZE_WARPS * SIMT_WARP };

/* A warp takes a tile, a lane a piece: four runs of 8 columns of one row, 16 bytes each. */
template <int GROUP, bool INT8>
SIMT_KERNEL(DEQUANTIZE_THREADS, 1)
any4_dequantize_kernel(uint16_t *out, int64_t stride, struct cuda_any4 w)
{
    const int64_t tile = (int64_t)simt_block() * DEQUANTIZE_WARPS + simt_warp();
    const int32_t tile_row = (int32_t)(tile / w.n_tile_cols), tile_col = (int32_t)(tile % w.n_tile_cols);
    const int32_t in_tile = simt_lane() % ANY4_TILE_ROWS, t = simt_lane() / ANY4_TILE_ROWS;
    const int64_t row = (int64_t)tile_row * ANY4_TILE_ROWS + in_tile;
    simt_dependency_wait();
    if (row >= w.n_rows) {
        return;
    }
    const table_planes<INT8> planes = planes_load<INT8>(w, row);
    const simt_words piece =
        simt_load_stream(static_cast<const simt_words *>(w.codes) + tile * TILE_PIECES + simt_lane());
    const tile_scales<GROUP, INT8> scales = scales_load<GROUP, INT8>(
        w, tile_row / UNIT_TILES, tile_col, tile_row % UNIT_TILES * ANY4_TILE_ROWS + in_tile);
    const float row_scale = INT8 ? w.row_scales[row] : 1.0f;
    SIMT_UNROLL
    for (int32_t jj = 0; jj < RUNS; jj++) {
        const int32_t col = tile_col * ANY4_TILE_COLS + 32 * jj + 8 * t, group = jj * 32 / GROUP;
        const float scale = scale_of(scales, group);
        uint32_t values[4];
        decode_run(values, piece.word[jj], planes);
        simt_words result;
        SIMT_UNROLL
        for (int32_t i = 0; i < 4; i++) {
            float low = simt_f16_low(values[i]), high = simt_f16_high(values[i]);
            if constexpr (INT8) { /* the inner product is an exact integer */
                low = row_scale * (scale * low);
                high = row_scale * (scale * high);
            } else {
                low = fmaf(scale, low, zero_of(scales, group));
                high = fmaf(scale, high, zero_of(scales, group));
            }
            result.word[i] =
                simt_f16_pair(col + 2 * i < w.n_cols ? low : 0.0f, col + 2 * i + 1 < w.n_cols ? high : 0.0f);
        }
        *reinterpret_cast<simt_words *>(out + row * stride + col) = result;
    }
}

#endif
