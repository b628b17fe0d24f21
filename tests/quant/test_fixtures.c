/* Trained weights: any4 against any4-paper on every linear of the small models, and the other formats beside
 * them. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/safetensors.h"
#include "tests/fixtures.h"
#include "tests/quant/rows.h"

enum { N_METHODS = QUANT_FP4 + 1 };

struct source {
    const struct tensor *tensor;
    int32_t n_cols;
};

static void read_tensor(void *context, float *out, int32_t row_begin, int32_t row_end)
{
    struct source *source = context;
    tensor_to_f32(out, source->tensor, (int64_t)row_begin * source->n_cols,
                  (int64_t)(row_end - row_begin) * source->n_cols);
}

/* Linear layers: matrices but for the embedding (which is tied to the head here) and the routers. */
static bool is_linear(const struct tensor *tensor)
{
    return tensor->n_dims == 2 && !strstr(tensor->name, "embed_tokens") &&
           !strstr(tensor->name, "block_sparse_moe.gate.weight");
}

static double tensor_error(const struct tensor *tensor, enum quant_method method, int32_t group_size)
{
    struct quant_settings settings = {.method = method, .group_size = group_size, .cpu_flags = CPU_ALL};
    int32_t n_rows = (int32_t)tensor->shape[0], n_cols = (int32_t)tensor->shape[1];
    struct source source = {tensor, n_cols};
    struct any4_matrix matrix;
    struct quant_stats stats;
    struct error err;
    void *memory = aligned_alloc(64, quant_matrix_bytes(&settings, n_rows, n_cols));
    cr_assert_eq(quant_matrix(&matrix, memory, &stats, &settings, n_rows, n_cols, read_tensor, &source, NULL,
                              NULL, &err),
                 STATUS_OK);
    free(memory);
    return stats.error_energy;
}

static void compare(const char *model)
{
    char path[4096];
    struct safetensors *st;
    struct error err;
    if (!fixture_path(path, sizeof path, model)) {
        return;
    }
    cr_assert_eq(safetensors_open_folder(&st, path, &err), STATUS_OK);
    for (int32_t group_size = 32; group_size <= 128; group_size *= 2) {
        double sums[N_METHODS] = {0}, worst = 0;
        const char *worst_name = "";
        int32_t n_linears = 0;
        for (int64_t i = 0; i < safetensors_n_tensors(st); i++) {
            const struct tensor *tensor = safetensors_at(st, i);
            double errors[N_METHODS];
            if (!is_linear(tensor)) {
                continue;
            }
            n_linears++;
            for (int method = QUANT_ANY4; method < N_METHODS; method++) {
                errors[method] = tensor_error(tensor, (enum quant_method)method, group_size);
                sums[method] += errors[method];
            }
            double ratio = errors[QUANT_ANY4] / errors[QUANT_ANY4_PAPER];
            cr_expect(ratio < 1, "%s, %s, g %d: any4 %g, paper %g", model, tensor->name, group_size,
                      errors[QUANT_ANY4], errors[QUANT_ANY4_PAPER]);
            if (ratio > worst) {
                worst = ratio;
                worst_name = tensor->name;
            }
            if (getenv("ANY4_TEST_VERBOSE")) {
                fprintf(stderr, "%s g%d %-60s paper %.6e any4 %.6e ratio %.4f\n", model, group_size,
                        tensor->name, errors[QUANT_ANY4_PAPER], errors[QUANT_ANY4], ratio);
            }
        }
        cr_assert_gt(n_linears, 0);
        fprintf(stderr,
                "%s g%d, %d tensors, squared error / any4-paper: any4 %.4f, int4 %.4f, nf4 %.4f, fp4 %.4f; "
                "any4's worst "
                "tensor %.4f (%s)\n",
                model, group_size, n_linears, sums[QUANT_ANY4] / sums[QUANT_ANY4_PAPER],
                sums[QUANT_INT4] / sums[QUANT_ANY4_PAPER], sums[QUANT_NF4] / sums[QUANT_ANY4_PAPER],
                sums[QUANT_FP4] / sums[QUANT_ANY4_PAPER], worst, worst_name);
    }
    safetensors_close(st);
}

Test(quant_fixtures, any4_beats_the_paper_on_stories260K)
{
    compare("stories260K");
}

Test(quant_fixtures, any4_beats_the_paper_on_stories260K_wide)
{
    compare("stories260K-wide");
}

Test(quant_fixtures, any4_beats_the_paper_on_stories260K_mixtral)
{
    compare("stories260K-mixtral");
}
