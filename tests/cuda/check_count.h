/* A check that counts, for the C mains here (support.h has it for C++ and kernels). */
#ifndef TESTS_CUDA_CHECK_COUNT_H
#define TESTS_CUDA_CHECK_COUNT_H

#include <stdio.h>

enum { EXIT_SKIPPED = 77 };

static int n_checks, n_failures;

#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        n_checks++;                                                                                          \
        if (!(condition)) {                                                                                  \
            n_failures++;                                                                                    \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                                  \
            fprintf(stderr, __VA_ARGS__);                                                                    \
            fputc('\n', stderr);                                                                             \
        }                                                                                                    \
    } while (0)

#endif
