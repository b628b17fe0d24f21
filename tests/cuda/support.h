/* What the tests of the CUDA kernels share: a check that counts, random numbers, memory of the device. Plain
 * mains without a framework: they run under thread sanitizer, and on machines with a card and little else. */
#ifndef TESTS_CUDA_SUPPORT_H
#define TESTS_CUDA_SUPPORT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <vector>

#include "kernels/cuda/simt.h"

static int n_checks, n_failures;

/* Checks a condition; the message says what was tested with which shape and seed. */
#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        n_checks++;                                                                                          \
        if (!(condition)) {                                                                                  \
            if (n_failures++ < 20) {                                                                         \
                fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                              \
                fprintf(stderr, __VA_ARGS__);                                                                \
                fputc('\n', stderr);                                                                         \
            }                                                                                                \
        }                                                                                                    \
    } while (0)

/* A call that gives NULL or what went wrong. */
#define CHECK_RUN(call)                                                                                      \
    do {                                                                                                     \
        const char *wrong_ = (call);                                                                         \
        CHECK(!wrong_, "%s", wrong_);                                                                        \
    } while (0)

static inline int checks_finish(const char *name)
{
    fprintf(stderr, "%s: %d checks, %d failures\n", name, n_checks, n_failures);
    return n_failures || !n_checks;
}

struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *rng) /* splitmix64 */
{
    uint64_t z = (rng->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline int32_t rng_below(struct rng *rng, int32_t n)
{
    return (int32_t)(rng_next(rng) % (uint64_t)n);
}

static inline float rng_float(struct rng *rng) /* [-1, 1) */
{
    return (float)(rng_next(rng) >> 40) * 0x1p-23f - 1.0f;
}

/* Memory of the device, filled from the host. It ends where its bytes end: the address sanitizer sees a step
 * beyond. */
template <class T> struct device_array {
    T *data = nullptr;
    size_t n;

    explicit device_array(size_t count) : n(count)
    {
        void *memory = nullptr;
        const char *wrong = simt_memory_alloc(&memory, count * sizeof(T));
        if (wrong) {
            fprintf(stderr, "device memory: %s\n", wrong);
            exit(1);
        }
        data = static_cast<T *>(memory);
    }
    explicit device_array(const std::vector<T> &values) : device_array(values.size())
    {
        CHECK_RUN(simt_memory_upload(data, values.data(), n * sizeof(T)));
    }
    device_array(const device_array &) = delete;
    device_array &operator=(const device_array &) = delete;
    ~device_array()
    {
        simt_memory_free(data);
    }
    std::vector<T> download() const
    {
        std::vector<T> values(n);
        CHECK_RUN(simt_memory_download(values.data(), data, n * sizeof(T)));
        return values;
    }
};

#endif
