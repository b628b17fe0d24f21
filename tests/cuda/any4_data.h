/* 4-bit matrices and rows of x for the tests of the kernels that multiply them. */
#ifndef TESTS_CUDA_ANY4_DATA_H
#define TESTS_CUDA_ANY4_DATA_H

#include "kernels/cuda/launch.h"
#include "tests/cuda/support.h"
extern "C" {
#include "quant/pack.h"
}

/* The reference; kernels_init_cpu(&scalar, 0) fills it. */
static struct kernels scalar;

/* A matrix on the host, its arrangement on the device, and what tolerances need of it. */
struct linear {
    struct test_matrix host;
    std::vector<uint8_t> tiles;
    struct any4_matrix tiled;
    struct cuda_any4 device;
    device_array<uint8_t> *block;

    linear(enum any4_kind kind, int32_t n_rows, int32_t n_cols, int32_t group_size, enum data_kind data,
           uint64_t seed)
        : host(test_matrix_build(format_of(kind, 4), n_rows, n_cols, group_size, data, seed)),
          tiles(tile_matrix_bytes(n_rows, n_cols, 4)), tiled(host.matrix)
    {
        struct error err = {};
        size_t bytes;
        repack_to_tiles(tiles.data(), host.matrix.codes, host.matrix.row_bytes, n_rows, n_cols, 4);
        tiled.layout = ANY4_LAYOUT_TILE_V1;
        tiled.codes = tiles.data();
        tiled.row_bytes = tile_row_bytes(n_cols, 4);
        CHECK(!cuda_any4_bytes(&bytes, &tiled, &err), "%s", err.message);
        std::vector<uint8_t> packed(bytes, 0x55);
        cuda_any4_pack(packed.data(), &tiled);
        block = new device_array<uint8_t>(packed);
        cuda_any4_place(&device, &tiled, block->data);
    }
    linear(const linear &) = delete;
    linear &operator=(const linear &) = delete;
    ~linear()
    {
        test_matrix_free(&host);
        delete block;
    }

    /* What a code's part in a sum is multiplied by, in magnitude: intermediate sums are of this size even
     * where a zero point cancels them. */
    double magnitude(int32_t row, int32_t col) const
    {
        const struct any4_matrix *w = &host.matrix;
        const double weight = host.dense[(size_t)row * (size_t)w->n_cols + (size_t)col];
        if (w->kind != ANY4_LUT || !w->zeros) {
            return fabs(weight);
        }
        const double zero = bf16_to_f32(w->zeros[row * w->n_groups + col / w->group_size]);
        return fabs(weight - zero) + 2 * fabs(zero);
    }
};

struct inputs {
    int32_t n_tokens;
    int64_t x_stride, y_stride;
    std::vector<uint16_t> x;
    std::vector<float> values; /* (n_tokens, n_cols): x as f32 */
    std::vector<float> expected;

    inputs(const linear &m, int32_t tokens, enum data_kind data, struct rng *rng)
        : n_tokens(tokens), x_stride(cuda_padded(m.device.n_cols) + 8), y_stride(m.device.n_rows + 3),
          x((size_t)(tokens * x_stride), 0), values((size_t)tokens * (size_t)m.device.n_cols),
          expected((size_t)(tokens * y_stride))
    {
        const int32_t n_cols = m.device.n_cols;
        data_fill(values.data(), values.size(), data, rng);
        for (int32_t token = 0; token < tokens; token++) {
            for (int32_t col = 0; col < x_stride; col++) {
                uint16_t *to = &x[(size_t)(token * x_stride + col)];
                if (col < n_cols) {
                    float *value = &values[(size_t)token * (size_t)n_cols + (size_t)col];
                    *to = bf16_from_f32(*value);
                    *value = bf16_to_f32(*to);
                } else if (col >= cuda_padded(n_cols)) {
                    *to = 0x7fc0; /* NaN: nobody may read it */
                }
            }
        }
        scalar.any4_gemm(expected.data(), y_stride, &m.host.matrix, values.data(), n_cols, tokens, 0,
                         m.device.n_rows);
    }
};

#endif
