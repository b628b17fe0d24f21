#include "engine/rotation.h"

#include <math.h>

/* +1 or -1 by a hash of the place: every channel has a sign of its own, the same everywhere. */
static float sign_of(int32_t i)
{
    uint64_t x = (uint64_t)i * 0x9e3779b97f4a7c15u + 0x51ed270b27a3d0c5u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x >> 63 ? -1.0f : 1.0f;
}

static int32_t block_of(int32_t n)
{
    return n & -n;
}

void rotation_apply(float *x, int32_t n)
{
    rotation_apply_columns(x, n, 1, 0, 1);
}

void rotation_apply_columns(float *matrix, int32_t n_rows, int64_t n_cols, int64_t begin, int64_t end)
{
    const int32_t block = block_of(n_rows);
    const float factor = 1.0f / sqrtf((float)block);
    for (int32_t i = 0; i < n_rows; i++) {
        const float scale = sign_of(i) * factor;
        for (int64_t j = begin; j < end; j++) {
            matrix[i * n_cols + j] *= scale;
        }
    }
    for (int32_t half = 1; half < block; half *= 2) {
        for (int32_t i = 0; i < n_rows; i++) {
            if (i & half) {
                continue;
            }
            float *low = matrix + i * n_cols, *high = low + half * n_cols;
            for (int64_t j = begin; j < end; j++) {
                float a = low[j], b = high[j];
                low[j] = a + b;
                high[j] = a - b;
            }
        }
    }
}
