/* 4-bit matrices and rows of x for the tests of the kernels that multiply them. */
#ifndef TESTS_CUDA_ANY4_DATA_H
#define TESTS_CUDA_ANY4_DATA_H

#include <memory>

#include "kernels/cuda/launch.h"
#include "tests/cuda/support.h"
#include "tests/cuda/x_rows.h"
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
    std::vector<uint8_t> packed;
    struct cuda_any4 device, arranged; /* the same on the host */
    std::unique_ptr<device_array<uint8_t>> block;

    linear(enum any4_kind kind, int32_t n_rows, int32_t n_cols, int32_t group_size, enum data_kind data,
           uint64_t seed)
        : host(test_matrix_build(format_of(kind, 4), n_rows, n_cols, group_size, data, seed)),
          tiles(tile_matrix_bytes(n_rows, n_cols, 4)), tiled(host.matrix)
    {
        repack_to_tiles(tiles.data(), host.matrix.codes, host.matrix.row_bytes, n_rows, n_cols, 4);
        tiled.layout = ANY4_LAYOUT_TILE_V1;
        tiled.codes = tiles.data();
        tiled.row_bytes = tile_row_bytes(n_cols, 4);
        place();
    }
    /* Again, where a test has changed tables or scales of the host's. */
    void place()
    {
        struct error err = {};
        size_t bytes;
        CHECK(!cuda_any4_bytes(&bytes, &tiled, &err), "%s", err.message);
        packed.assign(bytes, 0x55);
        cuda_any4_pack(packed.data(), &tiled);
        block = std::make_unique<device_array<uint8_t>>(packed);
        cuda_any4_place(&device, &tiled, block->data);
        cuda_any4_place(&arranged, &tiled, packed.data());
    }
    linear(const linear &) = delete;
    linear &operator=(const linear &) = delete;
    ~linear()
    {
        test_matrix_free(&host);
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

/* What stands in the arrangement of ANY4_LUT. */
static inline float lut_entry(const linear &m, int32_t row, int32_t code)
{
    const uint8_t *bytes =
        reinterpret_cast<const uint8_t *>(m.arranged.planes) + row * 2 * ANY4_MAX_TABLE + code;
    return f16_to_f32((uint16_t)(bytes[0] | bytes[ANY4_MAX_TABLE] << 8));
}

static inline float lut_scale(const linear &m, int32_t row, int32_t group)
{
    const int32_t groups_a_tile = ANY4_TILE_COLS / m.arranged.group_size;
    const int64_t tile = row / ANY4_TILE_ROW_PAD * m.arranged.n_tile_cols + group / groups_a_tile;
    const int64_t at =
        (tile * groups_a_tile + group % groups_a_tile) * ANY4_TILE_ROW_PAD + row % ANY4_TILE_ROW_PAD;
    return bf16_to_f32((uint16_t) static_cast<const uint32_t *>(m.arranged.scales)[at]);
}

struct inputs : x_rows {
    int64_t y_stride;
    std::vector<float> expected;

    inputs(const linear &m, int32_t tokens, enum data_kind data, struct rng *rng, bool with_scales = true,
           int32_t n_parts = 1)
        : x_rows(tokens, m.device.n_cols, with_scales, data, rng, n_parts), y_stride(m.device.n_rows + 3),
          expected((size_t)(tokens * y_stride))
    {
        scalar.any4_gemm(expected.data(), y_stride, &m.host.matrix, values.data(), m.device.n_cols, tokens, 0,
                         m.device.n_rows);
    }
};

#endif
