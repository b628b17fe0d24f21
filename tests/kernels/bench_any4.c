/* Times any4_gemm of each variant on one thread: median microseconds, code bytes per second, multiply-adds
 * per second (one multiply-add counts as two operations). */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/kernels/support.h"

enum { RUNS = 9 };
static const double MIN_SECONDS = 0.02;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void bench(const struct kernels *k, const struct test_matrix *m, int32_t n_tokens)
{
    const struct any4_matrix *w = &m->matrix;
    struct rng rng = {1};
    struct guarded x = guarded_floats((size_t)n_tokens * (size_t)w->n_cols, DATA_RANDOM, &rng);
    struct output y = output_alloc((size_t)n_tokens * (size_t)w->n_rows);
    double seconds[RUNS];
    int32_t n_runs = RUNS;
    for (int32_t run = -1; run < n_runs; run++) { /* the first warms up */
        int32_t calls = 0;
        double start = now(), elapsed;
        do {
            k->any4_gemm(y.data, w->n_rows, w, x.data, w->n_cols, n_tokens, 0, w->n_rows);
            calls++;
            elapsed = now() - start;
        } while (elapsed < MIN_SECONDS);
        if (run >= 0) {
            seconds[run] = elapsed / calls;
        }
        if (elapsed > 0.5) { /* the reference: one run tells enough */
            seconds[0] = elapsed / calls;
            n_runs = 1;
            break;
        }
    }
    qsort(seconds, (size_t)n_runs, sizeof seconds[0], compare);
    double median = seconds[n_runs / 2], bytes = (double)w->n_rows * (double)w->row_bytes;
    printf("%-7s %5d x %-5d %3d tokens: %10.1f us %7.2f GB/s of codes %7.2f Gop/s\n", k->name, w->n_rows,
           w->n_cols, n_tokens, median * 1e6, bytes / median * 1e-9,
           2.0 * w->n_rows * (double)w->n_cols * n_tokens / median * 1e-9);
    fflush(stdout);
    guarded_free(&x);
    output_free(&y);
}

int main(void)
{
    static const int32_t shapes[][2] = {{4096, 4096}, {2048, 5632}};
    static const int32_t tokens[] = {1, 4, 16, 64};
    for (size_t s = 0; s < 2; s++) {
        struct test_matrix m = test_matrix_build(ANY4_LUT, shapes[s][0], shapes[s][1], 128, DATA_RANDOM, 1);
        for (size_t t = 0; t < sizeof tokens / sizeof tokens[0]; t++) {
            for (int32_t v = 0; v < N_VARIANTS; v++) {
                struct kernels k;
                if (variant_open(&k, &variants[v])) {
                    bench(&k, &m, tokens[t]);
                }
            }
        }
        test_matrix_free(&m);
    }
    return 0;
}
