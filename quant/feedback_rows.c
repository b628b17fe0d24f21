/* Error feedback on 32 rows at once. Compiled once per instruction set with FEEDBACK_ROWS_NAME naming the
 * result; lanes never meet, and every lane's operations have one order, so that all builds give the same
 * bits.
 */
#include "quant/feedback_rows.h"

#include <math.h>
#include <string.h>

#include "quant/learn.h"

#if defined __AVX512F__
enum { WIDTH = 16 };
#elif defined __AVX2__
enum { WIDTH = 8 };
#else
enum { WIDTH = 4 };
#endif
typedef float vec __attribute__((vector_size(4 * WIDTH)));
typedef int32_t mask __attribute__((vector_size(4 * WIDTH))); /* 0 or -1 */

enum { LANES = FEEDBACK_ROWS, COLUMNS_AT_ONCE = 8 };

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p)
{
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store(float *p, vec v)
{
    memcpy(p, &v, sizeof v);
}
INLINE vec set(float x)
{
    return x - (vec){0};
}
INLINE vec keep(mask m, vec a)
{
    return (vec)(m & (mask)a);
}
INLINE vec choose(mask m, vec a, vec b)
{
    return (vec)((m & (mask)a) | (~m & (mask)b));
}
INLINE vec inverse_of(vec scale) /* 0 for 0 */
{
    mask zero = scale == 0;
    return keep(~zero, 1.0f / choose(zero, set(1), scale));
}
INLINE vec clamp_scale(vec q)
{
    const vec most = set(LEARN_MAX_Q);
    q = choose(q > most, most, q);
    return choose(q < -most, -most, q);
}

/* The level nearest to u; a value halfway belongs to the lower one. */
INLINE vec nearest(const struct feedback_tile *tile, int32_t lane, vec u)
{
    vec level = load(tile->base + lane);
    for (int32_t k = 0; k + 1 < tile->n_levels; k++) {
        level += keep(u > load(tile->limits[k] + lane), load(tile->steps[k] + lane));
    }
    return level;
}

INLINE void store_codes(uint8_t *codes, const struct feedback_tile *tile, int32_t lane, vec u)
{
    mask code = {0};
    for (int32_t k = 0; k + 1 < tile->n_levels; k++) {
        code -= u > load(tile->limits[k] + lane);
    }
    for (int32_t i = 0; i < WIDTH; i++) {
        codes[i] = (uint8_t)code[i];
    }
}

/* sums[c] += sum over k < n of x[k] * a(k, c), for n_columns <= COLUMNS_AT_ONCE columns, with a(k, c) at
 * k * k_stride + c * c_stride. */
INLINE void accumulate_columns(float *sums, const float *x, const float *a, int64_t k_stride,
                               int64_t c_stride, int32_t n, int32_t n_columns)
{
    for (int32_t lane = 0; lane < LANES; lane += WIDTH) {
        vec sum[COLUMNS_AT_ONCE];
        for (int32_t c = 0; c < n_columns; c++) {
            sum[c] = load(sums + c * LANES + lane);
        }
        for (int32_t k = 0; k < n; k++) {
            vec v = load(x + (int64_t)k * LANES + lane);
            const float *row = a + k * k_stride;
            for (int32_t c = 0; c < n_columns; c++) {
                sum[c] += v * row[c * c_stride];
            }
        }
        for (int32_t c = 0; c < n_columns; c++) {
            store(sums + c * LANES + lane, sum[c]);
        }
    }
}

static void accumulate(float *sums, const float *x, const float *a, int64_t k_stride, int64_t c_stride,
                       int32_t n, int32_t n_columns)
{
    int32_t c = 0;
    for (; c + COLUMNS_AT_ONCE <= n_columns; c += COLUMNS_AT_ONCE) {
        accumulate_columns(sums + c * LANES, x, a + c * c_stride, k_stride, c_stride, n, COLUMNS_AT_ONCE);
    }
    for (; c < n_columns; c++) {
        accumulate_columns(sums + c * LANES, x, a + c * c_stride, k_stride, c_stride, n, 1);
    }
}

/* A group of columns at work, for the lanes from `lane` on: part of a tile. */
struct group {
    const struct feedback_tile *tile;
    const float *w; /* (n) lanes */
    float *e;       /* (n) lanes */
    uint8_t *codes; /* (n) lanes */
    int32_t n;
    const float *sums;  /* (n) lanes: what the columns outside the group add */
    const float *a;     /* (n, n): U within the group, or A */
    const float *scale; /* (n): D, or A's diagonal */
};

/* Quantizes the group with scale q, feeding errors forward, and gives the group's share of the loss. e: (n)
 * lanes of scratch or the group's own; codes may be NULL. */
INLINE vec feed_forward(const struct group *g, int32_t lane, vec q, float *e, uint8_t *codes)
{
    const vec inverse = inverse_of(q);
    vec loss = set(0);
    for (int32_t k = 0; k < g->n; k++) {
        vec w = load(g->w + k * LANES + lane), sum = load(g->sums + k * LANES + lane);
        for (int32_t j = 0; j < k; j++) {
            sum += load(e + j * LANES + lane) * g->a[j * g->n + k];
        }
        vec target = w - sum, u = target * inverse;
        vec value = q * nearest(g->tile, lane, u), d = value - target;
        loss += d * d * g->scale[k];
        store(e + k * LANES + lane, value - w);
        if (codes) {
            store_codes(codes + k * LANES + lane, g->tile, lane, u);
        }
    }
    return loss;
}

/* Moves the group to scale q, each column to the level that is best given all the others as they stand, and
 * gives by how much the loss changes. e: (n) lanes, what the group's errors are before; then after. */
INLINE vec move_columns(const struct group *g, int32_t lane, vec q, float *e, uint8_t *codes)
{
    const vec inverse = inverse_of(q);
    vec change = set(0);
    for (int32_t k = 0; k < g->n; k++) {
        vec w = load(g->w + k * LANES + lane), sum = load(g->sums + k * LANES + lane);
        const float *a = g->a + k * g->n;
        for (int32_t j = 0; j < g->n; j++) { /* a[k] is 0 */
            sum += load(e + j * LANES + lane) * a[j];
        }
        vec pull = sum / g->scale[k], u = (w - pull) * inverse;
        vec before = load(e + k * LANES + lane), after = q * nearest(g->tile, lane, u) - w;
        vec d_before = before + pull, d_after = after + pull;
        change += (d_after * d_after - d_before * d_before) * g->scale[k];
        store(e + k * LANES + lane, after);
        if (codes) {
            store_codes(codes + k * LANES + lane, g->tile, lane, u);
        }
    }
    return change;
}

/* The scale that fits the group's targets best by least squares, among those that the factors of
 * quant/learn.h lead to: the errors within the group left out. */
INLINE vec fit_scale(const struct group *g, int32_t lane, vec q)
{
    vec best = q, best_gain = set(-1);
    for (int32_t f = -1; f < LEARN_N_FACTORS; f++) {
        vec tried = f < 0 ? q : q * LEARN_FACTORS[f], inverse = inverse_of(tried);
        vec wt = set(0), tt = set(0);
        for (int32_t k = 0; k < g->n; k++) {
            vec target = load(g->w + k * LANES + lane) - load(g->sums + k * LANES + lane);
            vec t = nearest(g->tile, lane, target * inverse), mt = t * g->scale[k];
            wt += mt * target;
            tt += mt * t;
        }
        vec fitted = wt * inverse_of(tt), gain = wt * fitted;
        mask better = gain > best_gain;
        best = choose(better, fitted, best);
        best_gain = choose(better, gain, best_gain);
    }
    const vec magic = set(12582912.0f); /* rounds, halves to even */
    return (clamp_scale(best) + magic) - magic;
}

static void feed_group(const struct group *g, float *scales)
{
    float e[FEEDBACK_MAX_GROUP * LANES];
    for (int32_t lane = 0; lane < LANES; lane += WIDTH) {
        const vec given = load(scales + lane), middle = fit_scale(g, lane, given);
        vec best = given, least = feed_forward(g, lane, given, e, NULL);
        for (int32_t step = -2; step <= 2; step++) {
            vec q = clamp_scale(middle + (float)step), loss = feed_forward(g, lane, q, e, NULL);
            mask better = loss < least;
            least = choose(better, loss, least);
            best = choose(better, q, best);
        }
        store(scales + lane, best);
        feed_forward(g, lane, best, g->e, g->codes);
    }
}

static void move_group(const struct group *g, float *scales)
{
    float e[FEEDBACK_MAX_GROUP * LANES];
    const size_t e_bytes = (size_t)g->n * LANES * sizeof(float);
    for (int32_t lane = 0; lane < LANES; lane += WIDTH) {
        const vec given = load(scales + lane);
        memcpy(e, g->e, e_bytes);
        vec best = given, least = move_columns(g, lane, given, e, NULL);
        for (int32_t step = -1; step <= 1; step += 2) {
            vec q = clamp_scale(given + (float)step);
            memcpy(e, g->e, e_bytes);
            vec change = move_columns(g, lane, q, e, NULL);
            mask better = change < least;
            least = choose(better, change, least);
            best = choose(better, q, best);
        }
        store(scales + lane, best);
        move_columns(g, lane, best, g->e, g->codes);
    }
}

/* Columns begin .. begin + n of the tile; what the step itself needs is left to it. */
static struct group group_of(struct feedback_tile *tile, int32_t begin)
{
    int32_t left = tile->n_cols - begin;
    return (struct group){
        .tile = tile,
        .w = tile->w + (int64_t)begin * LANES,
        .e = tile->e + (int64_t)begin * LANES,
        .codes = tile->codes + (int64_t)begin * LANES,
        .n = left < tile->group_size ? left : tile->group_size,
    };
}

static void quantize(struct feedback_tile *tile, const struct feedback_factor *factor)
{
    const int64_t n_cols = tile->n_cols;
    float sums[FEEDBACK_MAX_GROUP * LANES], a[FEEDBACK_MAX_GROUP * FEEDBACK_MAX_GROUP];
    for (int32_t begin = 0, index = 0; begin < n_cols; begin += tile->group_size, index++) {
        struct group g = group_of(tile, begin);
        const float *above = factor->matrix + begin; /* U's rows, from column begin on */
        memset(sums, 0, (size_t)g.n * LANES * sizeof *sums);
        accumulate(sums, tile->e, above, n_cols, 1, begin, g.n);
        for (int32_t j = 0; j < g.n; j++) {
            memcpy(a + j * g.n, above + (begin + j) * n_cols, (size_t)g.n * sizeof *a);
        }
        g.sums = sums;
        g.a = a;
        g.scale = factor->pivots + begin;
        feed_group(&g, tile->scales + index * LANES);
    }
    for (int32_t round = 0; round < FEEDBACK_ROUNDS; round++) {
        for (int32_t begin = 0, index = 0; begin < n_cols; begin += tile->group_size, index++) {
            struct group g = group_of(tile, begin);
            int32_t end = begin + g.n;
            const float *rows = factor->matrix + begin * n_cols; /* A's, left of the group */
            memset(sums, 0, (size_t)g.n * LANES * sizeof *sums);
            accumulate(sums, tile->e, rows, 1, n_cols, begin, g.n);
            accumulate(sums, tile->e + (int64_t)end * LANES, factor->matrix + end * n_cols + begin, n_cols, 1,
                       (int32_t)n_cols - end, g.n);
            for (int32_t j = 0; j < g.n; j++) {
                a[j * g.n + j] = 0;
                for (int32_t k = 0; k < j; k++) {
                    a[j * g.n + k] = a[k * g.n + j] = rows[j * n_cols + begin + k];
                }
            }
            g.sums = sums;
            g.a = a;
            g.scale = factor->diagonal + begin;
            move_group(&g, tile->scales + index * LANES);
        }
    }
}

static void quadratic(double out[FEEDBACK_ROWS], const float *x, const struct feedback_factor *factor)
{
    const int32_t n_cols = factor->n_cols;
    float sums[COLUMNS_AT_ONCE * LANES];
    memset(out, 0, LANES * sizeof *out);
    for (int32_t begin = 0; begin < n_cols; begin += COLUMNS_AT_ONCE) {
        int32_t n = n_cols - begin < COLUMNS_AT_ONCE ? n_cols - begin : COLUMNS_AT_ONCE;
        const float *above = factor->matrix + begin;
        memcpy(sums, x + (int64_t)begin * LANES, (size_t)n * LANES * sizeof *sums);
        accumulate(sums, x, above, n_cols, 1, begin, n);
        for (int32_t k = 0; k < n; k++) {
            for (int32_t j = 0; j < k; j++) {
                float u = above[(int64_t)(begin + j) * n_cols + k];
                for (int32_t lane = 0; lane < LANES; lane++) {
                    sums[k * LANES + lane] += x[(int64_t)(begin + j) * LANES + lane] * u;
                }
            }
            for (int32_t lane = 0; lane < LANES; lane++) {
                double d = sums[k * LANES + lane];
                out[lane] += d * d * factor->pivots[begin + k];
            }
        }
    }
}

/* ---- the second moment ---- */

enum {
    SUM_ROWS = 256
}; /* whose products are added up before they meet what is there: rounding, and caches */

/* Columns k .. k + WIDTH of n columns j, for at most SUM_ROWS rows. */
INLINE void sum_block(float *matrix, int64_t n_cols, int32_t first, int32_t n, int32_t k, const float *x,
                      const int32_t *rows, int32_t n_rows)
{
    vec sum[FEEDBACK_SUM_COLUMNS];
    for (int32_t j = 0; j < n; j++) {
        sum[j] = set(0);
    }
    for (int32_t i = 0; i < n_rows; i++) {
        const float *row = x + rows[i] * n_cols;
        vec v = load(row + k);
        for (int32_t j = 0; j < n; j++) {
            sum[j] += v * row[first + j];
        }
    }
    for (int32_t j = 0; j < n; j++) {
        float *at = matrix + (first + j) * n_cols + k;
        store(at, load(at) + sum[j]);
    }
}

static void sum_products(float *matrix, int32_t n_cols, int32_t first, const float *x, const int32_t *rows,
                         int32_t n_rows)
{
    const int32_t n = n_cols - first < FEEDBACK_SUM_COLUMNS ? n_cols - first : FEEDBACK_SUM_COLUMNS;
    for (int32_t done = 0; done < n_rows; done += SUM_ROWS) {
        const int32_t n_now = n_rows - done < SUM_ROWS ? n_rows - done : SUM_ROWS;
        int32_t k = 0;
        for (; k + WIDTH <= first && n == FEEDBACK_SUM_COLUMNS; k += WIDTH) {
            sum_block(matrix, n_cols, first, FEEDBACK_SUM_COLUMNS, k, x, rows + done, n_now);
        }
        for (int32_t j = first; j < first + n; j++) {
            for (int32_t at = k; at <= j; at++) {
                float sum = 0;
                for (int32_t i = 0; i < n_now; i++) {
                    const float *row = x + rows[done + i] * (int64_t)n_cols;
                    sum += row[at] * row[j];
                }
                matrix[(int64_t)j * n_cols + at] += sum;
            }
        }
    }
}

/* ---- the factorization: A = V V^T, V upper triangular, from the last column to the first ---- */

static int32_t factor_block(struct feedback_factor *factor, int32_t begin, int32_t end)
{
    const int64_t n_cols = factor->n_cols;
    for (int32_t k = end - 1; k >= begin; k--) {
        const float *row_k = factor->matrix + k * n_cols;
        float pivot = factor->pivots[k];
        for (int32_t m = k + 1; m < end; m++) {
            pivot -= row_k[m] * row_k[m];
        }
        if (!(pivot > 0 && pivot <= 1e30f)) {
            return 0;
        }
        float root = sqrtf(pivot);
        factor->pivots[k] = root;
        for (int32_t j = begin; j < k; j++) {
            float *row = factor->matrix + j * n_cols, sum = row[k];
            for (int32_t m = k + 1; m < end; m++) {
                sum -= row[m] * row_k[m];
            }
            row[k] = sum / root;
        }
    }
    return 1;
}

static void factor_panel(struct feedback_factor *factor, int32_t begin, int32_t end, int32_t index,
                         float *transposed)
{
    const int64_t n_cols = factor->n_cols;
    float *row = factor->matrix + index * n_cols;
    for (int32_t k = end - 1; k >= begin; k--) {
        const float *row_k = factor->matrix + k * n_cols;
        float sum = row[k];
        for (int32_t m = k + 1; m < end; m++) {
            sum -= row[m] * row_k[m];
        }
        row[k] = sum / factor->pivots[k];
        transposed[(int64_t)(k - begin) * begin + index] = row[k];
        factor->pivots[index] -= row[k] * row[k];
    }
}

static void factor_update(struct feedback_factor *factor, int32_t begin, int32_t end, int32_t index,
                          const float *transposed)
{
    enum { AT_ONCE = 4 };
    float *row = factor->matrix + index * (int64_t)factor->n_cols;
    const float *v = row + begin;
    int32_t k = index + 1, n = end - begin;
    for (; k + AT_ONCE * WIDTH <= begin; k += AT_ONCE * WIDTH) {
        vec sum[AT_ONCE];
        for (int32_t i = 0; i < AT_ONCE; i++) {
            sum[i] = load(row + k + i * WIDTH);
        }
        for (int32_t m = 0; m < n; m++) {
            const float *column = transposed + (int64_t)m * begin + k;
            for (int32_t i = 0; i < AT_ONCE; i++) {
                sum[i] -= load(column + i * WIDTH) * v[m];
            }
        }
        for (int32_t i = 0; i < AT_ONCE; i++) {
            store(row + k + i * WIDTH, sum[i]);
        }
    }
    for (; k < begin; k++) {
        float sum = row[k];
        for (int32_t m = 0; m < n; m++) {
            sum -= transposed[(int64_t)m * begin + k] * v[m];
        }
        row[k] = sum;
    }
}

const struct feedback_rows FEEDBACK_ROWS_NAME = {
    .sum_products = sum_products,
    .quantize = quantize,
    .quadratic = quadratic,
    .factor_block = factor_block,
    .factor_panel = factor_panel,
    .factor_update = factor_update,
};
