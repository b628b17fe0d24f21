/* Times any4_gemm of each variant on one thread, every format against the paper's (ANY4_LUT, 4 bits, group
 * 128): median microseconds of processor time, code bytes per second, multiply-adds per second (one counts as
 * two operations) and the median over the rounds of (time of the paper's / time of this). The formats of a
 * round run one after the other, so that a ratio compares the same moment of a shared machine; for the same
 * reason it is the thread's own time that counts. The scalar reference runs for one token and for two formats
 * only: it is there to be right. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/kernels/support.h"

enum { ROUNDS = 15 };
static const double MIN_SECONDS = 0.005;

struct candidate {
    enum any4_kind kind;
    int32_t code_bits, group_size;
};
static const struct candidate candidates[] = {
    {ANY4_LUT, 4, 128},    {ANY4_LUT_INT8, 4, 32}, {ANY4_LUT_INT8, 4, 128}, {ANY4_LUT, 4, 32},
    {ANY4_LUT, 3, 128},    {ANY4_LUT, 2, 128},     {ANY4_LUT_INT8, 3, 32},  {ANY4_LUT_INT8, 2, 32},
    {ANY4_LINEAR, 8, 128}, {ANY4_BF16, 0, 0},
};
enum { N_CANDIDATES = sizeof candidates / sizeof candidates[0] };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof values[0], compare);
    return values[n / 2];
}

/* Seconds of one call. */
static double measure(const struct kernels *k, const struct any4_matrix *w, const float *x, float *y,
                      int32_t n_tokens)
{
    int32_t calls = 0;
    double start = now(), elapsed;
    do {
        k->any4_gemm(y, w->n_rows, w, x, w->n_cols, n_tokens, 0, w->n_rows);
        calls++;
        elapsed = now() - start;
    } while (elapsed < MIN_SECONDS);
    return elapsed / calls;
}

static void bench(const struct kernels *k, const struct test_matrix *matrices, int32_t n_candidates,
                  int32_t n_tokens)
{
    static double seconds[N_CANDIDATES][ROUNDS], ratios[N_CANDIDATES][ROUNDS];
    const struct any4_matrix *first = &matrices[0].matrix;
    struct rng rng = {1};
    struct guarded x = guarded_floats((size_t)n_tokens * (size_t)first->n_cols, DATA_RANDOM, &rng);
    struct output y = output_alloc((size_t)n_tokens * (size_t)first->n_rows);
    for (int32_t round = -1; round < ROUNDS; round++) { /* the first warms up */
        for (int32_t c = 0; c < n_candidates; c++) {
            double time = measure(k, &matrices[c].matrix, x.data, y.data, n_tokens);
            if (round >= 0) {
                seconds[c][round] = time;
                ratios[c][round] = seconds[0][round] / time;
            }
        }
    }
    for (int32_t c = 0; c < n_candidates; c++) {
        const struct any4_matrix *w = &matrices[c].matrix;
        double time = median(seconds[c], ROUNDS), bytes = (double)w->n_rows * (double)w->row_bytes;
        printf(
            "%-7s %5d x %-5d %3d tokens %-9s g%-3d: %10.1f us %7.2f GB/s of codes %7.2f Gop/s, ratio %5.2f\n",
            k->name, w->n_rows, w->n_cols, n_tokens,
            format_of(candidates[c].kind, candidates[c].code_bits)->name, w->group_size, time * 1e6,
            bytes / time * 1e-9, 2.0 * w->n_rows * (double)w->n_cols * n_tokens / time * 1e-9,
            median(ratios[c], ROUNDS));
    }
    fflush(stdout);
    guarded_free(&x);
    output_free(&y);
}

int main(void)
{
    static const int32_t shapes[][2] = {{4096, 4096}, {2048, 5632}};
    static const int32_t tokens[] = {1, 4, 16, 64};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        struct test_matrix matrices[N_CANDIDATES];
        for (int32_t c = 0; c < N_CANDIDATES; c++) {
            const struct test_format *format = format_of(candidates[c].kind, candidates[c].code_bits);
            matrices[c] = test_matrix_build(format, shapes[s][0], shapes[s][1], candidates[c].group_size,
                                            DATA_RANDOM, 2);
        }
        for (size_t t = 0; t < sizeof tokens / sizeof tokens[0]; t++) {
            for (int32_t v = 0; v < N_VARIANTS; v++) {
                struct kernels k;
                if ((variants[v].flags || tokens[t] == 1) && variant_open(&k, &variants[v])) {
                    bench(&k, matrices, variants[v].flags ? N_CANDIDATES : 2, tokens[t]);
                }
            }
        }
        for (int32_t c = 0; c < N_CANDIDATES; c++) {
            test_matrix_free(&matrices[c]);
        }
    }
    return 0;
}
