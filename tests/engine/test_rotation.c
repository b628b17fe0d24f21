/* The rotated residual stream: an orthogonal matrix, and models that answer as before. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/rotation.h"
#include "engine/score.h"
#include "tests/engine/support.h"

enum { MAX_DIM = 192, N_IDS = 40 };

/* Rows of Q^T by its columns: what unit vectors become. */
static void make_matrix(float q[MAX_DIM][MAX_DIM], int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        memset(q[i], 0, sizeof q[i]);
        q[i][i] = 1;
        rotation_apply(q[i], n);
    }
}

Test(rotation, is_orthogonal_and_mixes_blocks_evenly)
{
    static const int32_t sizes[] = {1, 2, 7, 12, 64, 96, 160, 192};
    static float q[MAX_DIM][MAX_DIM];
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        int32_t n = sizes[s], block = n & -n, n_negative = 0;
        make_matrix(q, n);
        for (int32_t i = 0; i < n; i++) {
            for (int32_t j = 0; j < n; j++) {
                double dot = 0;
                for (int32_t k = 0; k < n; k++) {
                    dot += (double)q[i][k] * q[j][k];
                }
                cr_assert_float_eq(dot, i == j, 1e-5, "%d: %d, %d: %g", n, i, j, dot);
                double expected = i / block == j / block ? 1 / sqrt(block) : 0;
                cr_assert_float_eq(fabs(q[i][j]), expected, 1e-6);
                n_negative += q[i][j] < 0;
            }
        }
        cr_assert(n < 64 || (n_negative > n * block / 4 && n_negative < n * block * 3 / 4));
    }
}

Test(rotation, of_columns_is_that_of_each)
{
    enum { ROWS = 48, COLS = 5 };
    float matrix[ROWS * COLS], column[ROWS], before[ROWS * COLS];
    unsigned state = 3;
    for (int32_t i = 0; i < ROWS * COLS; i++) {
        before[i] = matrix[i] = (float)rand_r(&state) / RAND_MAX - 0.5f;
    }
    rotation_apply_columns(matrix, ROWS, COLS, 1, 4);
    for (int32_t j = 0; j < COLS; j++) {
        for (int32_t i = 0; i < ROWS; i++) {
            column[i] = before[i * COLS + j];
        }
        if (j >= 1 && j < 4) {
            rotation_apply(column, ROWS);
        }
        for (int32_t i = 0; i < ROWS; i++) {
            cr_assert_eq(matrix[i * COLS + j], column[i]);
        }
    }
}

static float *logits_of(const struct engine_options *options, const int32_t *ids, size_t *n)
{
    struct thread_pool *pool;
    struct scorer *scorer;
    struct error err = {0};
    cr_assert_eq(thread_pool_open(&pool, 2, &err), STATUS_OK);
    cr_assert_eq(scorer_open(&scorer, options, N_IDS, pool, &err), STATUS_OK, "%s", err.message);
    *n = N_IDS * (size_t)scorer_get_info(scorer)->config.vocab_size;
    float *out = malloc(*n * sizeof *out);
    cr_assert(out && scorer_max_step(scorer) >= N_IDS);
    memcpy(out, scorer_step(scorer, 0, ids, N_IDS), *n * sizeof *out);
    scorer_close(scorer);
    thread_pool_close(pool);
    return out;
}

/* Float models answer within rounding of fp32, with norms, routers and experts folded. */
static void check_folder(const char *folder, bool is_mine)
{
    struct engine_options options;
    int32_t ids[N_IDS];
    size_t n;
    double largest = 0, gap = 0, moved = 0;
    for (int32_t i = 0; i < N_IDS; i++) {
        ids[i] = i ? 3 + (i * 37 + i * i) % 60 : 1;
    }
    engine_options_init(&options);
    options.model_dir = folder;
    options.quant.method = QUANT_NONE;
    options.kv_type = KV_CHOICE_F32;
    float *plain = logits_of(&options, ids, &n);
    options.rotation = true;
    float *rotated = logits_of(&options, ids, &n);
    for (size_t i = 0; i < n; i++) {
        largest = fmax(largest, fabs(plain[i]));
        gap = fmax(gap, fabs((double)plain[i] - rotated[i]));
    }
    cr_assert_lt(gap, 2e-5 * largest, "%s: %g of %g", folder, gap, largest);
    options.quant.method = QUANT_INT4; /* and it is really another basis that is quantized */
    float *quantized = logits_of(&options, ids, &n);
    options.rotation = false;
    float *unrotated = logits_of(&options, ids, &n);
    for (size_t i = 0; i < n; i++) {
        moved = fmax(moved, fabs((double)quantized[i] - unrotated[i]));
    }
    cr_assert(!is_mine || moved > 10 * gap);
    free(plain);
    free(rotated);
    free(quantized);
    free(unrotated);
}

Test(rotation, answers_stay)
{
    static const char *const architectures[] = {"llama", "mistral", "mixtral"};
    static const char *const fixtures[] = {"stories260K", "stories260K-mixtral"};
    for (int a = 0; a < 3; a++) {
        char folder[64];
        make_model(folder, sizeof folder, architectures[a], 12);
        check_folder(folder, true);
        remove_folder(folder);
    }
    for (int a = 0; a < 2; a++) {
        char path[256];
        if (fixture_model(path, sizeof path, fixtures[a])) {
            check_folder(path, false);
        }
    }
}
