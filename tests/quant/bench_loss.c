/* Loss of every method on synthetic weights, relative to any4-paper's: 512 rows of 4096, seeds 1 to 5. Each
 * method has the weighting of its own (any4-paper the means, ours the second moments). */
#include <stdio.h>

#include "engine/base/cpu_features.h"
#include "tests/quant/synthetic.h"

enum { N_ROWS = 512, N_COLS = 4096, N_SEEDS = 5 };

static const struct {
    enum quant_method method;
    int32_t group_size; /* 0: the method's default */
} methods[] = {{QUANT_ANY4_PAPER, 128}, {QUANT_ANY4, 0},   {QUANT_ANY3, 0},  {QUANT_ANY2, 0},
               {QUANT_INT4, 128},       {QUANT_NF4, 128},  {QUANT_FP4, 128}, {QUANT_MX4, 0},
               {QUANT_INT3, 128},       {QUANT_INT2, 128}, {QUANT_INT8, 128}};
enum { N_METHODS = sizeof methods / sizeof methods[0] };

int main(void)
{
    double ratio[N_METHODS][N_SYNTHETIC] = {{0}};
    struct quant_stats stats[N_METHODS];
    struct thread_pool *pool = NULL;
    struct error err;
    if (thread_pool_open(&pool, 0, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    for (int kind = 0; kind < N_SYNTHETIC; kind++) {
        for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
            struct synthetic s;
            double paper = 0;
            synthetic_init(&s, (enum synthetic_kind)kind, N_ROWS, N_COLS, seed);
            for (int32_t i = 0; i < N_METHODS; i++) {
                struct quant_settings settings = {
                    .method = methods[i].method, .group_size = methods[i].group_size, .cpu_flags = CPU_ALL};
                double loss = synthetic_loss(&s, &settings, &stats[i], pool);
                paper = i == 0 ? loss : paper;
                ratio[i][kind] += loss / paper / N_SEEDS;
            }
            synthetic_finish(&s);
        }
    }
    printf("loss / any4-paper's, (%d, %d), mean of seeds 1 to %d\n%-10s", N_ROWS, N_COLS, N_SEEDS, "method");
    for (int kind = 0; kind < N_SYNTHETIC; kind++) {
        printf(" %16s", synthetic_names[kind]);
    }
    printf(" %9s %13s %10s\n", "mean", "bits / weight", "table bits");
    for (int32_t i = 0; i < N_METHODS; i++) {
        const double weights = (double)N_ROWS * N_COLS;
        printf("%-10s", quant_method_name(methods[i].method));
        for (int kind = 0; kind < N_SYNTHETIC; kind++) {
            printf(" %16.4f", ratio[i][kind]);
        }
        printf(" %9.4f %13.4f %10.4f\n", (ratio[i][0] + ratio[i][1] + ratio[i][2]) / N_SYNTHETIC,
               (double)stats[i].code_bits / weights, (double)stats[i].table_bits / weights);
    }
    thread_pool_close(pool);
    return 0;
}
