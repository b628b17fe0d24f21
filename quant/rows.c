/* Every method for one row. Compiled once per instruction set with QUANT_ROWS naming the result. */
#include "quant/rows.h"

#include <float.h>

#include "quant/kmeans.h"
#ifdef __AVX2__
#include "quant/learn_simd.h"
#define TILE(step) learn_simd_##step##_tile
#else
#define TILE(step) learn_##step##_tile
#endif

enum { MEASURE_LANES = 8 };

static const float PAPER_MIN_RANGE = 1e-6f;

/* NF4 (Dettmers et al., QLoRA, 2023). */
static const float NF4_TABLE[ROW_LEVELS] = {
    -1.0f,      -0.6961928f, -0.5250731f, -0.3949175f, -0.2844414f, -0.1847734f, -0.0910500f, 0.0f,
    0.0795803f, 0.1609302f,  0.2461123f,  0.3379152f,  0.4407098f,  0.5626170f,  0.7229568f,  1.0f};
/* FP4 of bitsandbytes; both its zeros are +0 here. */
static const float FP4_TABLE[ROW_LEVELS] = {-1.0f,       -0.66667f, -0.5f,    -0.33333f,  -0.25f,   -0.16667f,
                                            -0.0052083f, 0.0f,      0.0f,     0.0052083f, 0.16667f, 0.25f,
                                            0.33333f,    0.5f,      0.66667f, 1.0f};
/* E2M1 of the OCP Microscaling formats (MXFP4, 2023), both zeros +0. */
static const float MX4_TABLE[ROW_LEVELS] = {-6, -4,   -3, -2,   -1.5f, -1, -0.5f, 0,
                                            0,  0.5f, 1,  1.5f, 2,     3,  4,     6};

/* ---- learned tables ---- */

static void fill_tile(float *tile, const struct quant_row *row, int32_t first, float factor)
{
#ifdef __AVX2__
    if (row->n_cols - first >= row->group_size * LEARN_LANES) {
        for (int32_t lane = 0; lane < LEARN_LANES; lane += 8) {
            for (int32_t j = 0; j < row->group_size; j += 8) {
                const float *w = row->w + first + lane * row->group_size + j;
                learn_simd_transpose_floats(tile + j * LEARN_LANES + lane, w, row->group_size, factor);
            }
        }
        return;
    }
#endif
    for (int32_t lane = 0; lane < LEARN_LANES; lane++) {
        int32_t begin = first + lane * row->group_size, j = 0;
        for (; j < row->group_size && begin + j < row->n_cols; j++) {
            tile[j * LEARN_LANES + lane] = row->w[begin + j] * factor;
        }
        for (; j < row->group_size; j++) {
            tile[j * LEARN_LANES + lane] = 0;
        }
    }
}

/* A tile's codes to their places in the row. */
static void store_codes(const struct quant_row *row, int32_t tile, const uint8_t *codes)
{
    int32_t tile_columns = row->group_size * LEARN_LANES, first = tile * tile_columns;
#ifdef __AVX2__
    if (row->n_cols - first >= tile_columns) {
        for (int32_t j = 0; j < row->group_size; j += LEARN_LANES) {
            learn_simd_transpose(row->codes + first + j, row->group_size, codes + j * LEARN_LANES);
        }
        return;
    }
#endif
    for (int32_t lane = 0; lane < LEARN_LANES; lane++) {
        int32_t begin = first + lane * row->group_size;
        for (int32_t j = 0; j < row->group_size && begin + j < row->n_cols; j++) {
            row->codes[begin + j] = codes[j * LEARN_LANES + lane];
        }
    }
}

static void quantize_learned(const struct quant_row *row, struct row_scratch *s)
{
    float min, max, inverse;
    row_range(&min, &max, row->w, row->n_cols);
    const float unit = learn_unit(max > -min ? max : -min, &inverse);
    struct learn_row r = {
        .w = s->tiles,
        .m = row->importance_tiles,
        .scale = s->tile_scales,
        .codes = s->tile_codes,
        .n_tiles = row_n_tiles(row->n_cols, row->group_size),
        .group_size = row->group_size,
        .n_levels = 1 << row->code_bits,
    };
    const int64_t stride = (int64_t)r.group_size * LEARN_LANES;
    for (int32_t tile = 0; tile < r.n_tiles; tile++) {
        fill_tile(s->tiles + tile * stride, row, (int32_t)(tile * stride), inverse);
        TILE(peak)(r.scale + tile * LEARN_LANES, r.w + tile * stride, r.group_size);
    }
    learn_start_table(&r, TILE(split));
    for (int32_t round = 0; round < LEARN_ROUNDS; round++) {
        struct learn_sums sums = {0};
        if (row->loss) {
            row->loss[round] = learn_loss(&r) * unit * unit;
        }
        for (int32_t tile = 0; tile < r.n_tiles; tile++) {
            const float *w = r.w + tile * stride, *m = r.m + tile * stride;
            float *scale = r.scale + tile * LEARN_LANES;
            uint8_t *codes = r.codes + tile * stride;
            TILE(search)
            (scale, &r.levels, w, m, r.group_size, LEARN_FACTORS,
             round < LEARN_SEARCH_ROUNDS ? LEARN_N_FACTORS : 0);
            if (round + 1 < LEARN_ROUNDS) {
                TILE(assign)(codes, &r.levels, scale, w, r.group_size);
                TILE(sum)(&sums, codes, scale, w, m, r.group_size);
            }
        }
        if (round + 1 < LEARN_ROUNDS) { /* the last table is the one that the last scales were fitted to */
            learn_fit_table(&r, &sums);
        }
    }
    if (row->loss) {
        row->loss[LEARN_ROUNDS] = learn_loss(&r) * unit * unit;
    }

    /* From here on levels are integers, and scales are in their units. */
    float level_unit = learn_round_table(row->table, &r.levels, r.n_levels) / LEARN_MAX_Q, largest = 0;
    for (int32_t g = 0; g < r.n_tiles * LEARN_LANES; g++) {
        r.scale[g] *= level_unit;
        float magnitude = r.scale[g] < 0 ? -r.scale[g] : r.scale[g];
        largest = magnitude > largest ? magnitude : largest;
    }
    float step = largest / LEARN_MAX_Q;
    *row->row_scale = step * unit;
    for (int32_t tile = 0; tile < r.n_tiles; tile++) {
        float q[LEARN_LANES];
        uint8_t *codes = r.codes + tile * stride;
        TILE(choose)
        (q, codes, &r.levels, r.scale + tile * LEARN_LANES, step, r.w + tile * stride, r.m + tile * stride,
         r.group_size);
        for (int32_t lane = 0; lane < LEARN_LANES; lane++) {
            int32_t group = tile * LEARN_LANES + lane;
            if (group < row->n_groups) {
                row->group_scales[group] = (int8_t)q[lane];
            }
        }
        store_codes(row, tile, codes);
    }
}

/* ---- the published formats ---- */

/* Scale (max - min) / steps, u = (w - min) / scale in [0, steps], zero point the value of the middle code:
 * asymmetric, as int4 and the paper have it. Rounded to bf16 last: u comes from the unrounded scale.
 * weight: (n_cols) or NULL, filled with the elements' weights over u: the paper's |mean| * scale, E[x^2] *
 * scale^2 where that is asked for, 1 without importance. */
static void scale_min_max(const struct quant_row *row, struct row_scratch *s, float min_range, float *weight)
{
    float steps = (float)((1 << row->code_bits) - 1), middle = (float)(1 << (row->code_bits - 1));
    for (int32_t begin = 0, group = 0; begin < row->n_cols; begin += row->group_size, group++) {
        int32_t n = row_group_columns(row, begin);
        float min, max;
        row_range(&min, &max, row->w + begin, n);
        float range = max - min > min_range ? max - min : min_range;
        float scale = range / steps;
        row_scale(s->u + begin, row->w + begin, n, min, scale);
        for (int32_t j = begin; weight && j < begin + n; j++) {
            float power = row->importance_is_moment ? scale * scale : scale;
            weight[j] = row->importance ? row->importance[j] * power : 1.0f;
        }
        row->scales[group] = bf16_from_f32(scale);
        row->zeros[group] = bf16_from_f32(min + middle * scale);
    }
}

/* The paper's procedure. Codes follow the unrounded centres. */
static void quantize_paper(const struct quant_row *row, struct row_scratch *s)
{
    double centres[ROW_LEVELS];
    int32_t bounds[ROW_LEVELS + 1];
    float limits[ROW_LEVELS - 1];
    const struct row_points *points = &s->points;
    scale_min_max(row, s, PAPER_MIN_RANGE, s->weight);
    row_sort(s, row->n_cols);
    kmeans_lloyd(centres, bounds, points, row->seed, s->kmeans);
    for (int32_t k = 0; k < ROW_LEVELS; k++) {
        row->lut[k] = bf16_from_f32((float)(centres[k] - 8));
    }
    for (int32_t k = 1; k < ROW_LEVELS;
         k++) { /* the last value of the runs below: codes follow the runs exactly */
        limits[k - 1] = bounds[k] > 0 ? points->value[bounds[k] - 1] : -FLT_MAX;
    }
    row_assign(row->codes, s->u, row->n_cols, limits);
}

static void quantize_integer(const struct quant_row *row, struct row_scratch *s)
{
    int32_t n_levels = 1 << row->code_bits;
    scale_min_max(row, s, 0, NULL);
    for (int32_t j = 0; j < row->n_cols; j++) {
        /* Rounds halves to even as everybody's int4 does: weights stored as bf16 lie on a coarse grid, and
         * 0.2 % of them fall on a half. */
        float rounded = learn_round(s->u[j]);
        row->codes[j] = (uint8_t)(rounded < (float)(n_levels - 1) ? rounded : (float)(n_levels - 1));
    }
    for (int32_t k = 0; row->lut && k < n_levels; k++) {
        row->lut[k] = bf16_from_f32((float)(k - n_levels / 2));
    }
}

/* A fixed table over w / scale. */
static void assign_fixed(const struct quant_row *row, const struct row_scratch *s,
                         const float table[ROW_LEVELS])
{
    float limits[ROW_LEVELS - 1];
    for (int32_t k = 0; k + 1 < ROW_LEVELS; k++) {
        limits[k] = 0.5f * (table[k] + table[k + 1]);
    }
    row_assign(row->codes, s->u, row->n_cols, limits);
    for (int32_t k = 0; k < ROW_LEVELS; k++) {
        row->lut[k] = bf16_from_f32(table[k]);
    }
}

static float largest_magnitude(const float *w, int32_t n)
{
    float min, max;
    row_range(&min, &max, w, n);
    return max > -min ? max : 0.0f - min; /* not -0 for a group of zeros */
}

static void quantize_absmax(const struct quant_row *row, struct row_scratch *s, const float *table)
{
    for (int32_t begin = 0, group = 0; begin < row->n_cols; begin += row->group_size, group++) {
        int32_t n = row_group_columns(row, begin);
        float scale = largest_magnitude(row->w + begin, n);
        row_scale(s->u + begin, row->w + begin, n, 0, scale);
        row->scales[group] = bf16_from_f32(scale);
    }
    assign_fixed(row, s, table);
}

static void quantize_nf4(const struct quant_row *row, struct row_scratch *s)
{
    quantize_absmax(row, s, NF4_TABLE);
}

static void quantize_fp4(const struct quant_row *row, struct row_scratch *s)
{
    quantize_absmax(row, s, FP4_TABLE);
}

/* Scale 2^(floor(log2 of the largest magnitude) - 2): a power of two, exact in bf16. */
static void quantize_mx4(const struct quant_row *row, struct row_scratch *s)
{
    for (int32_t begin = 0, group = 0; begin < row->n_cols; begin += row->group_size, group++) {
        int32_t n = row_group_columns(row, begin);
        float largest = largest_magnitude(row->w + begin, n), scale = 0;
        uint32_t bits;
        memcpy(&bits, &largest, sizeof bits);
        if (largest > 0) {
            uint32_t exponent = bits >> 23; /* E8M0 ends at 2^-127; ours at the smallest normal number */
            bits = (exponent > 3 ? exponent - 2 : 1) << 23;
            memcpy(&scale, &bits, sizeof scale);
        }
        row_scale(s->u + begin, row->w + begin, n, 0, scale);
        row->scales[group] = bf16_from_f32(scale);
    }
    assign_fixed(row, s, MX4_TABLE);
}

/* ---- what the stored row stands for, and how far that is off ---- */

/* out[j] = values[codes[j]] */
static inline void look_up(float *out, const float *values, const uint8_t *codes, int32_t n, int32_t n_levels)
{
    int32_t j = 0;
#ifdef __AVX2__
    if (n_levels <= LEARN_LEVELS) {
        j = learn_simd_look_up(out, values, codes, n);
    }
#endif
    (void)n_levels;
    for (; j < n; j++) {
        out[j] = values[codes[j]];
    }
}

static void dequantize(float *w_hat, const struct quant_row *row)
{
    int32_t n_levels = 1 << row->code_bits;
    for (int32_t begin = 0, group = 0; begin < row->n_cols; begin += row->group_size, group++) {
        int32_t n = row_group_columns(row, begin);
        float values[256];
        for (int32_t k = n_levels; k < LEARN_LEVELS; k++) { /* whole registers are read */
            values[k] = 0;
        }
        if (row->table && n_levels == LEARN_LEVELS) {
            const float row_scale = *row->row_scale;
            for (int32_t k = 0; k < LEARN_LEVELS; k++) { /* a count known here: one register */
                values[k] = row_scale * (float)(row->group_scales[group] * row->table[k]);
            }
        } else if (row->table) {
            for (int32_t k = 0; k < n_levels; k++) {
                values[k] = *row->row_scale * (float)(row->group_scales[group] * row->table[k]);
            }
        } else {
            float scale = bf16_to_f32(row->scales[group]);
            float zero = row->zeros ? bf16_to_f32(row->zeros[group]) : 0.0f;
            for (int32_t k = 0; k < n_levels; k++) {
                float level = row->lut ? bf16_to_f32(row->lut[k]) : (float)(k - n_levels / 2);
                values[k] = scale * level + zero;
            }
        }
        look_up(w_hat + begin, values, row->codes + begin, n, n_levels);
    }
}

typedef double measure_lanes __attribute__((vector_size(MEASURE_LANES * sizeof(double))));

/* Not a function: a vector as a result needs one calling convention per instruction set. */
#define LOAD_LANES(out, p)                                                                                   \
    do {                                                                                                     \
        typedef float floats __attribute__((vector_size(MEASURE_LANES * sizeof(float))));                    \
        floats loaded;                                                                                       \
        memcpy(&loaded, (p), sizeof loaded);                                                                 \
        (out) = __builtin_convertvector(loaded, measure_lanes);                                              \
    } while (0)

static void measure(double out[4], const float *w, const float *w_hat, const float *second, int32_t n_cols)
{
    measure_lanes energies = {0}, errors = {0}, weighted_energies = {0}, weighted_errors = {0};
    for (int32_t j = 0; j < n_cols; j += MEASURE_LANES) {
        float tail[3][MEASURE_LANES] = {{0}};
        const float *at[3] = {w + j, w_hat + j, second ? second + j : NULL};
        if (n_cols - j < MEASURE_LANES) {
            for (int32_t i = 0; i < 3; i++) {
                if (at[i]) {
                    memcpy(tail[i], at[i], (size_t)(n_cols - j) * sizeof(float));
                    at[i] = tail[i];
                }
            }
        }
        measure_lanes v, d, m;
        LOAD_LANES(v, at[0]);
        LOAD_LANES(d, at[1]);
        d -= v;
        measure_lanes energy = v * v, error = d * d;
        energies += energy;
        errors += error;
        if (second) {
            LOAD_LANES(m, at[2]);
            energy *= m;
            error *= m;
        }
        weighted_energies += energy;
        weighted_errors += error;
    }
    for (int32_t i = 0; i < 4; i++) {
        out[i] = 0;
    }
    for (int32_t l = 0; l < MEASURE_LANES; l++) {
        out[0] += energies[l];
        out[1] += errors[l];
        out[2] += weighted_energies[l];
        out[3] += weighted_errors[l];
    }
}

const struct quant_rows QUANT_ROWS = {
    .learned = quantize_learned,
    .paper = quantize_paper,
    .integer = quantize_integer,
    .nf4 = quantize_nf4,
    .fp4 = quantize_fp4,
    .mx4 = quantize_mx4,
    .dequantize = dequantize,
    .measure = measure,
};
