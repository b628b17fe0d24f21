/* Rows of activations as the kernels read them: f16 with a scale of each token, or without. */
#ifndef TESTS_CUDA_X_ROWS_H
#define TESTS_CUDA_X_ROWS_H

#include "kernels/cuda/launch.h"
#include "tests/cuda/support.h"

struct x_rows {
    int32_t n_tokens;
    int64_t x_stride;
    bool scaled;
    std::vector<uint16_t> x;
    std::vector<float> scales;
    std::vector<float> values; /* (n_tokens, n_cols): what x and its scale are worth */

    /* Tokens differ in size by up to 2^12, so that another one's scale is seen; those without come near f16's
     * end, where sums of f16 would overflow. */
    x_rows(int32_t tokens, int32_t n_cols, bool with_scales, enum data_kind data, struct rng *rng)
        : n_tokens(tokens), x_stride(cuda_padded(n_cols) + 8), scaled(with_scales),
          x((size_t)(tokens * x_stride), 0), scales((size_t)tokens, 1),
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
                uint16_t *to = &x[(size_t)(token * x_stride + col)];
                if (col < n_cols) {
                    *to = f16_from_f32(fmaxf(-65504, fminf(65504, row[col] / *scale)));
                    row[col] = f16_to_f32(*to) * *scale;
                } else if (col >= cuda_padded(n_cols)) {
                    *to = 0x7e00; /* NaN: nobody may read it */
                }
            }
        }
    }
};

/* Scales in the device's memory; a kernel is given what pointer() says from `token` on. */
struct device_scales {
    bool scaled;
    device_array<float> array;

    explicit device_scales(const x_rows &rows) : scaled(rows.scaled), array(rows.scales)
    {
    }
    const float *pointer(int32_t token = 0) const
    {
        return scaled ? array.data + token : nullptr;
    }
};

#endif
