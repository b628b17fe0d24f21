/* What the tests of the CUDA kernels share: a check that counts and memory of the device, beside what
 * tests/kernels has. Plain mains without a framework: they run under thread sanitizer, and on machines with a
 * card and little else. */
#ifndef TESTS_CUDA_SUPPORT_H
#define TESTS_CUDA_SUPPORT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <vector>

#include "engine/base/float16.h"
#include "kernels/cuda/simt.h"
extern "C" {
#include "tests/kernels/support.h"
}

/* One seed and few shapes: for checkers that slow everything down a hundredfold. */
#if defined(SIMT_TSAN) && !defined(TEST_FEW_SHAPES)
#define TEST_FEW_SHAPES
#endif

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

/* On the host: kills a kernel that hangs. On the card: skips aloud where there is none. */
static inline void checks_begin(int32_t time_limit_seconds)
{
#ifdef __CUDACC__
    int n_devices = 0;
    (void)time_limit_seconds;
    if (cudaGetDeviceCount(&n_devices) || !n_devices) {
        fprintf(stderr, "*** SKIPPED: no CUDA device ***\n");
        exit(77);
    }
#else
    simt_host_time_limit(time_limit_seconds);
#endif
}

/* The order of threads and blocks, and with odd seeds asynchronous copies as early as they may be; the card
 * has its own. */
static inline void order_seed(uint64_t seed)
{
#ifdef __CUDACC__
    (void)seed;
#else
    simt_host_seed(seed);
    simt_host_copy_early(seed % 2);
#endif
}

static inline int checks_finish(const char *name)
{
    fprintf(stderr, "%s: %d checks, %d failures\n", name, n_checks, n_failures);
    return n_failures || !n_checks;
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
