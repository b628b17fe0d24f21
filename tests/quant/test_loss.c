/* Loss on synthetic weights whose inputs have known second moments: ours against what is published, at no
 * more bits. The bars are the project's; bench_loss prints the whole table. */
#include <criterion/criterion.h>

#include "engine/base/cpu_features.h"
#include "tests/quant/synthetic.h"

enum { N_ROWS = 32, N_COLS = 4096, N_SEEDS = 3 };

struct contender {
    enum quant_method method;
    int32_t group_size; /* 0: the method's default */
};

static double loss_of(const struct synthetic *s, const struct contender *contender, struct quant_stats *stats)
{
    struct quant_settings settings = {
        .method = contender->method, .group_size = contender->group_size, .cpu_flags = CPU_ALL};
    return synthetic_loss(s, &settings, stats, NULL);
}

/* Mean over seeds of ours / theirs, for each distribution and for all. Ours may not take more bits. */
static void compare(double ratios[N_SYNTHETIC], double *mean, const struct contender *ours,
                    const struct contender *theirs)
{
    *mean = 0;
    for (int kind = 0; kind < N_SYNTHETIC; kind++) {
        ratios[kind] = 0;
        for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
            struct synthetic s;
            struct quant_stats our_stats, their_stats;
            synthetic_init(&s, (enum synthetic_kind)kind, N_ROWS, N_COLS, seed);
            double our_loss = loss_of(&s, ours, &our_stats), their_loss = loss_of(&s, theirs, &their_stats);
            ratios[kind] += our_loss / their_loss / N_SEEDS;
            cr_assert_leq(our_stats.code_bits, their_stats.code_bits);
            cr_assert_leq(our_stats.table_bits, their_stats.table_bits);
            synthetic_finish(&s);
        }
        *mean += ratios[kind] / N_SYNTHETIC;
    }
    fprintf(stderr, "loss, %s / %s: %.4f %.4f %.4f, mean %.4f\n", quant_method_name(ours->method),
            quant_method_name(theirs->method), ratios[0], ratios[1], ratios[2], *mean);
}

Test(quant_loss, any4_beats_the_paper_by_the_bar)
{
    double ratios[N_SYNTHETIC], mean;
    compare(ratios, &mean, &(struct contender){QUANT_ANY4, 0}, &(struct contender){QUANT_ANY4_PAPER, 128});
    for (int kind = 0; kind < N_SYNTHETIC; kind++) {
        cr_expect_leq(ratios[kind], 0.65, "%s: %.4f", synthetic_names[kind], ratios[kind]);
    }
    cr_expect_leq(mean, 0.58, "%.4f", mean);
}

/* A learned table against the fixed one of its width. */
Test(quant_loss, learned_tables_beat_fixed_ones)
{
    static const struct contender pairs[][2] = {
        {{QUANT_ANY3, 0}, {QUANT_INT3, 128}},
        {{QUANT_ANY2, 0}, {QUANT_INT2, 128}},
        {{QUANT_ANY4, 0}, {QUANT_INT4, 128}},
        {{QUANT_ANY4_PAPER, 128}, {QUANT_INT4, 128}},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        double ratios[N_SYNTHETIC], mean;
        compare(ratios, &mean, &pairs[i][0], &pairs[i][1]);
        for (int kind = 0; kind < N_SYNTHETIC; kind++) {
            cr_expect_lt(ratios[kind], 1, "%s against %s, %s: %.4f", quant_method_name(pairs[i][0].method),
                         quant_method_name(pairs[i][1].method), synthetic_names[kind], ratios[kind]);
        }
    }
}
