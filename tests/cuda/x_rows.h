/* Rows of activations as the kernels read them: f16 with a scale of each token, or without, in one part or
 * two. */
#ifndef TESTS_CUDA_X_ROWS_H
#define TESTS_CUDA_X_ROWS_H

#include "kernels/cuda/launch.h"
#include "tests/cuda/support.h"

struct x_rows {
    int32_t n_tokens, parts;
    int64_t x_stride;
    bool scaled;
    std::vector<uint16_t> x;
    std::vector<float> scales;
    std::vector<float> values; /* (n_tokens, n_cols): what x and its scale are worth */

    /* Tokens differ in size by up to 2^12, so that another one's scale is seen; those without come near f16's
     * end, where sums of f16 would overflow. */
    x_rows(int32_t tokens, int32_t n_cols, bool with_scales, enum data_kind data, struct rng *rng,
           int32_t n_parts = 1)
        : n_tokens(tokens), parts(n_parts), x_stride(cuda_padded(n_cols) + 8), scaled(with_scales),
          x((size_t)(tokens * n_parts * x_stride), 0), scales((size_t)tokens, 1),
          values((size_t)tokens * (size_t)n_cols)
    {
        data_fill(values.data(), values.size(), data, rng);
        for (int32_t token = 0; token < tokens; token++) {
            float *row = &values[(size_t)token * (size_t)n_cols], *scale = &scales[(size_t)token], max = 0;
            const int32_t shift = rng_below(rng, 13) - (scaled ? 6 : -3);
            for (int32_t col = 0; col < n_cols; col++) {
                row[col] = ldexpf(row[col], shift);
                max = fmaxf(max, fabsf(row[col]));
            }
            if (scaled && max > 0) {
                *scale = ldexpf(1, ilogbf(max));
                *scale *= *scale < max ? 2.0f : 1.0f;
            }
            for (int32_t col = 0; col < x_stride; col++) {
                uint16_t *to = &x[(size_t)(token * parts * x_stride + col)], *rest = to + x_stride;
                if (col < n_cols) {
                    const float value = fmaxf(-65504, fminf(65504, row[col] / *scale));
                    *to = f16_from_f32(value);
                    float found = f16_to_f32(*to);
                    if (parts == 2) { /* what the two are worth has no more than 24 bits */
                        *rest = f16_from_f32((value - found) * CUDA_REST);
                        found += f16_to_f32(*rest) / CUDA_REST;
                    }
                    row[col] = found * *scale;
                } else if (col >= cuda_padded(n_cols)) {
                    *to = 0x7e00; /* NaN: nobody may read it */
                    if (parts == 2) {
                        *rest = 0x7e00;
                    }
                }
            }
        }
    }
};

/* Rows in the device's memory; a kernel is given those from `token` on. */
struct device_x {
    int64_t stride;
    int32_t parts;
    bool scaled;
    device_array<uint16_t> x;
    device_array<float> scales;

    explicit device_x(const x_rows &rows)
        : stride(rows.x_stride), parts(rows.parts), scaled(rows.scaled), x(rows.x), scales(rows.scales)
    {
    }
    struct cuda_rows rows(int32_t token = 0) const
    {
        return {x.data + token * parts * stride, stride, scaled ? scales.data + token : nullptr, parts};
    }
};

#endif
