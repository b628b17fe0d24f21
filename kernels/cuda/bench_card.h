/* What a benchmark needs of CUDA: calls that are checked, memory that frees itself, and the time of a launch.
 * Part of bench.cc. Failures are thrown as card_failure; cuda_bench_kernels makes a status of them. */
#ifndef KERNELS_CUDA_BENCH_CARD_H
#define KERNELS_CUDA_BENCH_CARD_H

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/status.h"

struct card_failure {
    enum status status;
    std::string text;
};

/* The error is taken back: one that is not the end of the context shall not meet the next call. */
static void card_check(cudaError_t failed, const char *what)
{
    if (failed) {
        cudaGetLastError();
        throw card_failure{failed == cudaErrorMemoryAllocation ? STATUS_NO_MEMORY : STATUS_DEVICE,
                           std::string(what) + ": " + cudaGetErrorString(failed)};
    }
}

static void card_check(enum status status, const struct error &err)
{
    if (status) {
        throw card_failure{status, err.message};
    }
}

/* Copies, and is done when it returns: the timer's stream waits for no other, and CUDA's own promise for
 * copies is weaker. */
static void card_copy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    card_check(cudaMemcpy(to, from, bytes, kind), "copy");
    card_check(cudaDeviceSynchronize(), "copy");
}

class card_memory
{
    void *at = nullptr;

  public:
    size_t bytes = 0;

    card_memory() = default;
    explicit card_memory(size_t n) : bytes(n)
    {
        card_check(cudaMalloc(&at, n), "memory of the card");
    }
    card_memory(card_memory &&other) noexcept
        : at(std::exchange(other.at, nullptr)), bytes(std::exchange(other.bytes, 0))
    {
    }
    card_memory &operator=(card_memory &&other) noexcept
    {
        std::swap(at, other.at);
        std::swap(bytes, other.bytes);
        return *this;
    }
    ~card_memory()
    {
        cudaFree(at);
    }
    template <class T> T *as(void) const
    {
        return static_cast<T *>(at);
    }
    template <class T> void upload(const std::vector<T> &values)
    {
        card_copy(at, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice);
    }
    void zero(void)
    {
        card_check(cudaMemset(at, 0, bytes), "zeros on the card");
        card_check(cudaDeviceSynchronize(), "zeros on the card");
    }
};

template <class T> static card_memory card_array(const std::vector<T> &values)
{
    card_memory memory(values.size() * sizeof(T));
    memory.upload(values);
    return memory;
}

/* Launches number i = 0, 1, ... of a series into the timer's stream. */
using card_launch = std::function<void(int32_t i)>;

/* The time of one launch: the median over samples of several replays of a graph of launches. */
class card_timer
{
    static constexpr double GRAPH_US = 500, GRAPH_MAX_US = 30000, SAMPLE_US = 2500, WARM_US = 5000;
    static constexpr int32_t GRAPH_LAUNCHES = 64;
    cudaEvent_t begin = nullptr, end = nullptr;
    int32_t n_repeats;

    double elapsed_us(const std::function<void(void)> &work)
    {
        float ms;
        card_check(cudaEventRecord(begin, stream), "event");
        work();
        card_check(cudaEventRecord(end, stream), "event");
        card_check(cudaEventSynchronize(end), "kernels");
        card_check(cudaEventElapsedTime(&ms, begin, end), "event");
        return 1e3 * (double)ms;
    }

    cudaGraphExec_t record(const card_launch &launch, int32_t n)
    {
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t exec = nullptr;
        card_check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
        try {
            for (int32_t i = 0; i < n; i++) {
                launch(i);
            }
        } catch (...) {
            cudaStreamEndCapture(stream, &graph);
            cudaGraphDestroy(graph);
            cudaGetLastError();
            throw;
        }
        card_check(cudaStreamEndCapture(stream, &graph), "capture");
        cudaError_t failed = cudaGraphInstantiate(&exec, graph, 0);
        cudaGraphDestroy(graph);
        card_check(failed, "graph");
        return exec;
    }

  public:
    cudaStream_t stream = nullptr;

    explicit card_timer(int32_t repeats) : n_repeats(repeats)
    {
        card_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
        card_check(cudaEventCreate(&begin), "event");
        card_check(cudaEventCreate(&end), "event");
    }
    card_timer(const card_timer &) = delete;
    card_timer &operator=(const card_timer &) = delete;
    ~card_timer()
    {
        cudaEventDestroy(end);
        cudaEventDestroy(begin);
        cudaStreamDestroy(stream);
    }

    void wait(void)
    {
        card_check(cudaStreamSynchronize(stream), "kernels");
    }

    /* Microseconds a launch. Launch i works on copy i % n_copies of what it reads. */
    double us(int32_t n_copies, const card_launch &launch)
    {
        launch(0); /* loads the code, and finds what is refused outside the capture */
        wait();
        const double once = elapsed_us([&] {
                                for (int32_t i = 0; i < n_copies; i++) {
                                    launch(i);
                                }
                            }) /
                            n_copies;
        const double wanted = std::min<double>(GRAPH_LAUNCHES, GRAPH_US / std::max(once, 1.0));
        int32_t n = n_copies * std::max(1, (int32_t)std::ceil(wanted / n_copies));
        if (n * once > GRAPH_MAX_US) { /* so slow that few launches tell enough */
            n = std::min(n, std::max(2, (int32_t)(GRAPH_MAX_US / once)));
        }
        cudaGraphExec_t exec = record(launch, n);
        std::vector<double> samples;
        try {
            auto replay = [&](int32_t times) {
                for (int32_t i = 0; i < times; i++) {
                    card_check(cudaGraphLaunch(exec, stream), "graph");
                }
            };
            const double graph_us = elapsed_us([&] { replay(1); });
            elapsed_us([&] { replay((int32_t)std::min(WARM_US / graph_us, 100.0) + 1); });
            const int32_t times = (int32_t)std::min(SAMPLE_US / graph_us, 100.0) + 1;
            for (int32_t i = 0; i < n_repeats; i++) {
                samples.push_back(elapsed_us([&] { replay(times); }) / ((double)times * n));
            }
        } catch (...) {
            cudaGraphExecDestroy(exec);
            throw;
        }
        card_check(cudaGraphExecDestroy(exec), "graph");
        std::sort(samples.begin(), samples.end());
        return samples[samples.size() / 2];
    }
};

/* Numbers that only have to be there and finite. splitmix64. */
class card_random
{
    uint64_t state;

  public:
    explicit card_random(uint64_t seed) : state(seed)
    {
    }
    uint64_t bits(void)
    {
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
    /* Four numbers of 16 bits of random sign and mantissa, of three exponents from lowest on. */
    uint64_t words16(int32_t mantissa_bits, uint64_t lowest)
    {
        const uint64_t kept = (0x8000 | ((1u << mantissa_bits) - 1)) * (uint64_t)0x0001000100010001u;
        uint64_t z = bits();
        uint64_t exponents = 0;
        for (int32_t i = mantissa_bits; i < 64; i += 16) {
            exponents |= (lowest + (z >> i) % 3) << i;
        }
        return (z & kept) | exponents;
    }
};

/* n numbers of 16 bits on the card, as words16 makes them: a random stretch over and over. */
static card_memory card_words16(size_t n, uint64_t seed, int32_t mantissa_bits, uint64_t lowest)
{
    card_random random(seed);
    card_memory memory(n * sizeof(uint16_t));
    std::vector<uint64_t> words(std::min<size_t>((n + 3) / 4, 1 << 20));
    for (uint64_t &word : words) {
        word = random.words16(mantissa_bits, lowest);
    }
    for (size_t at = 0; at < n; at += words.size() * 4) {
        card_copy(memory.as<uint16_t>() + at, words.data(),
                  std::min(words.size() * 4, n - at) * sizeof(uint16_t), cudaMemcpyHostToDevice);
    }
    return memory;
}

static card_memory card_bf16(size_t n, uint64_t seed) /* magnitudes from 2^-2 to 2^1 */
{
    return card_words16(n, seed, 7, 125);
}

static card_memory card_f16(size_t n, uint64_t seed) /* magnitudes from 2^-3 to 1 */
{
    return card_words16(n, seed, 10, 12);
}

#endif
