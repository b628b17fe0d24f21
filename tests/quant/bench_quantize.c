/* Weights per second of every method at (512, 4096), normal weights, groups of 128; one thread and two. Best
 * of five. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/quant/rows.h"

enum { N_ROWS = 512, N_COLS = 4096, REPEATS = 5 };

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(void)
{
    float *w = malloc(sizeof(float) * N_ROWS * N_COLS);
    if (!w) {
        return 1;
    }
    rows_fill(w, N_ROWS * N_COLS, NORMAL, 1);
    printf("%-12s %8s %14s %20s %18s\n", "method", "threads", "M weights/s", "M weights/cpu s",
           "error / energy");
    for (int32_t n_threads = 1; n_threads <= 2; n_threads++) {
        struct thread_pool *pool = NULL;
        struct error err;
        if (thread_pool_open(&pool, n_threads, &err)) {
            fprintf(stderr, "%s\n", err.message);
            return 1;
        }
        for (int method = QUANT_ANY4; method <= QUANT_MX4; method++) {
            double best = 1e9, best_cpu = 1e9;
            struct quant_stats stats = {0};
            for (int repeat = 0; repeat < REPEATS; repeat++) {
                struct any4_matrix matrix;
                void *memory;
                double start = now(CLOCK_MONOTONIC), start_cpu = now(CLOCK_PROCESS_CPUTIME_ID);
                stats =
                    rows_quantize(&matrix, &memory, (enum quant_method)method, 0, w, N_ROWS, N_COLS, pool);
                double seconds = now(CLOCK_MONOTONIC) - start;
                double cpu_seconds = now(CLOCK_PROCESS_CPUTIME_ID) - start_cpu;
                best = seconds < best ? seconds : best;
                best_cpu = cpu_seconds < best_cpu ? cpu_seconds : best_cpu;
                free(memory);
            }
            printf("%-12s %8d %14.1f %20.1f %18.6e\n", quant_method_name((enum quant_method)method),
                   n_threads, N_ROWS * (double)N_COLS / best * 1e-6,
                   N_ROWS * (double)N_COLS / best_cpu * 1e-6, stats.error_energy / stats.weight_energy);
        }
        thread_pool_close(pool);
    }
    free(w);
    return 0;
}
