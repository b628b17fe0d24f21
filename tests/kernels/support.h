/* What the kernel tests share: seeded random data of four kinds, inputs that end at a guard page, outputs
 * between canaries, random matrices packed here (independent of quant/), and the comparison. */
#ifndef TESTS_KERNELS_SUPPORT_H
#define TESTS_KERNELS_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

/* The largest relative error of one rounding in f32. */
#define UNIT_ROUNDOFF 0x1p-24
/* The largest number of roundings between a sum's terms: one lane of the narrowest set (8), plus folding the
 * lanes (3), the product or the row's scale (a kernel that fuses the product may still scale the sum), and
 * the rounding of the reference itself. */
static inline double sum_chain(int32_t n)
{
    return (double)(n + 7) / 8 + 5;
}

/* -- random numbers (splitmix64) -- */
struct rng {
    uint64_t state;
};
uint64_t rng_next(struct rng *rng);
int32_t rng_below(struct rng *rng, int32_t n); /* 0 .. n - 1 */
float rng_float(struct rng *rng);              /* [-1, 1) */

enum data_kind { DATA_RANDOM, DATA_ZERO, DATA_EXTREME, DATA_ALTERNATING, DATA_KINDS };
extern const char *const data_names[DATA_KINDS];
/* random: [-1, 1); extreme: signs and exponents 2^-60 .. 2^60; alternating: +-1000, nearly cancelling. */
void data_fill(float *x, size_t n, enum data_kind kind, struct rng *rng);

/* -- memory -- */
struct guarded {
    void *data; /* its last byte is the last one before an inaccessible page; another page stands in front */
    void *mapping;
    size_t mapping_bytes;
};
struct guarded guarded_alloc(size_t bytes);
void guarded_free(struct guarded *memory); /* accepts zeroed input */
/* n floats ending at a guard page, filled. */
struct guarded guarded_floats(size_t n, enum data_kind kind, struct rng *rng);

/* An output of n floats between canaries, itself filled with them. */
struct output {
    float *data;
    float *memory;
    size_t n;
};
struct output output_alloc(size_t n);
void output_free(struct output *output);
bool output_untouched(const struct output *output, size_t at); /* element still holds the canary */
bool output_canaries_hold(const struct output *output);        /* in front of and behind the data */

/* -- matrices -- */
struct test_format {
    const char *name;
    enum any4_kind kind;
    int32_t code_bits;
};
enum { N_FORMATS = 10 };
extern const struct test_format formats[N_FORMATS]; /* every kind and width of quant/any4.h */
const struct test_format *format_of(enum any4_kind kind, int32_t code_bits);

struct test_matrix {
    struct any4_matrix matrix;
    double *dense; /* (n_rows, n_cols): what every weight is worth, from the format's definition, exactly */
    struct guarded codes, scales, zeros, lut, group_scales, table, row_scales;
};
/* Coded kinds: random codes, an ascending table, random scales; zero points absent in every third seed, a gap
 * between rows in every second; the bits of codes behind the last column are 1 (a kernel that used them would
 * be seen). group_size is 0 for the others: tight rows of n_cols elements. */
struct test_matrix test_matrix_build(const struct test_format *format, int32_t n_rows, int32_t n_cols,
                                     int32_t group_size, enum data_kind data, uint64_t seed);
void test_matrix_free(struct test_matrix *m);

/* -- variants -- */
struct variant {
    const char *name;
    unsigned flags;
};
enum { N_VARIANTS = 3 }; /* scalar, avx2, avx512 */
extern const struct variant variants[N_VARIANTS];
/* Fills k with this variant; false, said on standard error, where this processor cannot run it. */
bool variant_open(struct kernels *k, const struct variant *variant);

/* Equal within tolerance; NaN equals NaN, an infinity itself. */
bool close_to(float value, float expected, double tolerance);

#endif
