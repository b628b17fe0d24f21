/* Times the kernels on a card, each launch with weights that are not in the card's cache, beside what the
 * card can copy and read. Needs CUDA and a device: the body is bench.cc, or bench_none.c in a program without
 * CUDA. */
#ifndef KERNELS_CUDA_BENCH_H
#define KERNELS_CUDA_BENCH_H

#include <stdint.h>
#include <stdio.h>

#include "engine/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum cuda_bench_part {
    CUDA_BENCH_LINEAR = 1,      /* products with 4-bit matrices, beside cuBLAS where it is found */
    CUDA_BENCH_ATTENTION = 2,   /* decode at several contexts and batches */
    CUDA_BENCH_ELEMENTWISE = 4, /* RMSNorm, SwiGLU, rope with the KV cache's append */
    CUDA_BENCH_ALL = 7,
};

struct cuda_bench_shape {
    int32_t n_rows, n_cols; /* multiples of 32 and 128 */
};

struct cuda_bench_options {
    int32_t device;
    const int32_t *tokens; /* NULL: 1 2 4 8 16 32 64 128 512 2048 */
    int32_t n_tokens;
    const struct cuda_bench_shape *shapes; /* NULL: those of models of 1 to 8 billion weights */
    int32_t n_shapes;
    const int32_t *contexts; /* of attention, multiples of 32; NULL: 512 4096 32768. Batches are the tokens up
                                to 64, by default 1 8 64 */
    int32_t n_contexts;
    unsigned parts;        /* of enum cuda_bench_part; 0: all */
    int32_t n_repeats;     /* samples of a median; 0: 9 */
    double seconds;        /* what has not been started by then is left out, aloud; 0: 240 */
    const char *json_path; /* NULL: none */
};

/* Prints tables to out. Before a kernel is timed its result is compared with another kernel's: a kernel that
 * fails or disagrees is named, the others go on, and the call gives STATUS_DEVICE at the end.
 * STATUS_UNAVAILABLE: no device; STATUS_DEVICE too: a program without CUDA. */
enum status cuda_bench_kernels(const struct cuda_bench_options *options, FILE *out, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
