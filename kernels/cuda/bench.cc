/* The benchmark of the kernels: what the card can do, then each part. nvcc only, but for tests over a
 * pretended CUDA (tests/gpu/fake_cuda). */
#include "kernels/cuda/bench.h"

#include <time.h>

#include <exception>

#include "kernels/cuda/bench_attention.h"
#include "kernels/cuda/bench_linear.h"
#include "kernels/cuda/bench_small.h"
#include "kernels/cuda/simt.h"

static const int32_t DEFAULT_TOKENS[] = {1, 2, 4, 8, 16, 32, 64, 128, 512, 2048};
static const struct cuda_bench_shape DEFAULT_SHAPES[] = {{4096, 4096}, {14336, 4096}, {4096, 14336},
                                                         {2048, 8192}, {8192, 2048},  {128256, 4096}};
static const int32_t DEFAULT_CONTEXTS[] = {512, 4096, 32768}, DEFAULT_BATCHES[] = {1, 8, 64};
static const double DEFAULT_SECONDS = 240;
static const int32_t DEFAULT_REPEATS = 9;

/* -- what the card can do -- */

/* Reads and adds up; the sum is written where it could be, so that nothing is left out. */
SIMT_KERNEL(512, 1) read_kernel(const simt_words *from, int64_t n, uint32_t *out)
{
    const int64_t step = (int64_t)simt_n_blocks() * simt_n_threads();
    uint32_t sum = 0;
    int64_t i = (int64_t)simt_block() * simt_n_threads() + simt_thread();
    for (; i + 3 * step < n; i += 4 * step) {
        simt_words words[4];
        SIMT_UNROLL
        for (int32_t j = 0; j < 4; j++) {
            words[j] = simt_load_stream(from + i + j * step);
        }
        SIMT_UNROLL
        for (int32_t j = 0; j < 4; j++) {
            sum += words[j].word[0] ^ words[j].word[1] ^ words[j].word[2] ^ words[j].word[3];
        }
    }
    for (; i < n; i += step) {
        sum += simt_load_stream(from + i).word[0];
    }
    if (sum == 0x9e3779b9u) {
        *out = sum;
    }
}

static int attribute(enum cudaDeviceAttr which, int32_t device)
{
    int value = 0;
    card_check(cudaDeviceGetAttribute(&value, which, device), "device");
    return value;
}

/* Bytes a second: of a copy, where each byte counts twice, and of a kernel that only reads. */
static void measure_ceilings(bench_report &report, card_timer &timer, int32_t device, int32_t n_processors,
                             FILE *out)
{
    const size_t l2 = (size_t)attribute(cudaDevAttrL2CacheSize, device);
    const size_t bytes = std::min((size_t)1 << 30, 16 * l2) / 4096 * 4096;
    card_memory from = card_bf16(bytes / 2, 3), to(bytes);
    const double copy_us = timer.us(1, [&](int32_t) {
        card_check(
            cudaMemcpyAsync(to.as<void>(), from.as<void>(), bytes, cudaMemcpyDeviceToDevice, timer.stream),
            "copy on the card");
    });
    double read_us = INFINITY;
    for (int32_t blocks : {2, 4, 8}) {
        read_us = std::min(read_us, timer.us(1, [&](int32_t) {
            const char *wrong =
                simt_launch({"read", blocks * n_processors, 512, 0, timer.stream}, read_kernel,
                            from.as<simt_words>(), (int64_t)(bytes / sizeof(simt_words)), to.as<uint32_t>());
            if (wrong) {
                throw card_failure{STATUS_DEVICE, wrong};
            }
        }));
    }
    const double copy = 2e6 * (double)bytes / copy_us, read = 1e6 * (double)bytes / read_us;
    report.ceiling = std::max(copy, read);
    report.fact("copy_gb_s", json_number(1e-9 * copy));
    report.fact("read_gb_s", json_number(1e-9 * read));
    fprintf(out, "copy %.0f GB/s (read and written), read %.0f GB/s; 100 %% below is the larger\n",
            1e-9 * copy, 1e-9 * read);
}

/* Names the card; gives its processors. */
static int32_t describe(bench_report &report, int32_t device, FILE *out)
{
    struct cudaDeviceProp properties;
    int driver = 0, runtime = 0;
    char date[40], line[256];
    const time_t now = time(nullptr);
    struct tm utc;
    card_check(cudaGetDeviceProperties(&properties, device), "device");
    card_check(cudaDriverGetVersion(&driver), "driver");
    card_check(cudaRuntimeGetVersion(&runtime), "runtime");
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    const int clock = attribute(cudaDevAttrClockRate, device) / 1000;
    const int memory_clock = attribute(cudaDevAttrMemoryClockRate, device) / 1000;
    snprintf(line, sizeof line, "%d.%d", properties.major, properties.minor);
    report.fact("card", json_text(properties.name));
    report.fact("compute_capability", json_text(line));
    report.fact("processors", std::to_string(properties.multiProcessorCount));
    report.fact("memory_bytes", std::to_string(properties.totalGlobalMem));
    report.fact("l2_bytes", std::to_string(properties.l2CacheSize));
    report.fact("clock_mhz", std::to_string(clock));
    report.fact("memory_clock_mhz", std::to_string(memory_clock));
    report.fact("driver_cuda", std::to_string(driver));
    report.fact("runtime_cuda", std::to_string(runtime));
    report.fact("date", json_text(date));
    fprintf(
        out,
        "%s, compute capability %s, %d processors, %.0f GiB, L2 %.0f MiB, up to %d MHz, memory %d MHz, CUDA "
        "%d.%d of the driver, %d.%d of the runtime, %s\n",
        properties.name, line, properties.multiProcessorCount, (double)properties.totalGlobalMem / (1 << 30),
        (double)properties.l2CacheSize / (1 << 20), clock, memory_clock, driver / 1000, driver % 1000 / 10,
        runtime / 1000, runtime % 1000 / 10, date);
    return properties.multiProcessorCount;
}

/* -- all of it -- */

static void check_options(const struct cuda_bench_options *options)
{
    for (int32_t i = 0; options->tokens && i < options->n_tokens; i++) {
        if (options->tokens[i] < 1 || options->tokens[i] > 16384) {
            throw card_failure{STATUS_INVALID,
                               std::to_string(options->tokens[i]) + " tokens are out of range (1 to 16384)"};
        }
    }
    for (int32_t i = 0; options->contexts && i < options->n_contexts; i++) {
        if (options->contexts[i] < ATTENTION_KV_BLOCK || options->contexts[i] % ATTENTION_KV_BLOCK) {
            throw card_failure{STATUS_INVALID, "a context of " + std::to_string(options->contexts[i]) +
                                                   " is no multiple of " +
                                                   std::to_string(ATTENTION_KV_BLOCK)};
        }
    }
    for (int32_t i = 0; options->shapes && i < options->n_shapes; i++) {
        const struct cuda_bench_shape &shape = options->shapes[i];
        if (shape.n_rows < 1 || shape.n_cols < 1 || shape.n_rows % ANY4_TILE_ROW_PAD ||
            shape.n_cols % ANY4_TILE_COLS) {
            throw card_failure{STATUS_INVALID, std::to_string(shape.n_rows) + "x" +
                                                   std::to_string(shape.n_cols) +
                                                   " is no shape of whole tiles (32 rows, 128 columns)"};
        }
    }
}

/* What was asked for, or the default. */
template <class T, size_t N> static std::vector<T> list_of(const T *asked, int32_t n, const T (&standard)[N])
{
    return asked ? std::vector<T>(asked, asked + n) : std::vector<T>(standard, standard + N);
}

static void bench(const struct cuda_bench_options *options, bench_report &report, FILE *out)
{
    int n_devices = 0;
    check_options(options);
    if (cudaGetDeviceCount(&n_devices) || options->device < 0 || options->device >= n_devices) {
        throw card_failure{STATUS_UNAVAILABLE, "there is no CUDA device " + std::to_string(options->device)};
    }
    card_check(cudaSetDevice(options->device), "device");
    const std::vector<int32_t> tokens = list_of(options->tokens, options->n_tokens, DEFAULT_TOKENS);
    const std::vector<struct cuda_bench_shape> shapes =
        list_of(options->shapes, options->n_shapes, DEFAULT_SHAPES);
    const unsigned parts = options->parts ? options->parts : (unsigned)CUDA_BENCH_ALL;
    card_timer timer(options->n_repeats > 0 ? options->n_repeats : DEFAULT_REPEATS);
    const int32_t n_processors = describe(report, options->device, out);
    measure_ceilings(report, timer, options->device, n_processors, out);
    if (!tokens.empty() && (parts & CUDA_BENCH_ELEMENTWISE)) {
        bench_small(report, timer, tokens);
    }
    if (!tokens.empty() && !shapes.empty() && (parts & CUDA_BENCH_LINEAR)) {
        bench_linear(report, timer, shapes, tokens, n_processors);
    }
    if (parts & CUDA_BENCH_ATTENTION) {
        std::vector<int32_t> batches;
        std::copy_if(tokens.begin(), tokens.end(), std::back_inserter(batches),
                     [](int32_t n) { return n <= ATTENTION_MAX_BATCH; });
        bench_attention(report, timer, list_of(options->contexts, options->n_contexts, DEFAULT_CONTEXTS),
                        options->tokens ? batches : list_of<int32_t>(nullptr, 0, DEFAULT_BATCHES));
    }
}

enum status cuda_bench_kernels(const struct cuda_bench_options *options, FILE *out, struct error *err)
{
    try {
        bench_report report(out, options->seconds > 0 ? options->seconds : DEFAULT_SECONDS);
        try {
            bench(options, report, out);
        } catch (const card_failure &failure) {
            if (failure.status != STATUS_DEVICE && failure.status != STATUS_NO_MEMORY) {
                throw;
            }
            report.complain(failure.text); /* what has been measured is kept */
        }
        if (options->json_path) {
            report.write_json(options->json_path);
        }
        return report.n_complaints()
                   ? error_set(err, STATUS_DEVICE, "%zu kernels failed, see above", report.n_complaints())
                   : STATUS_OK;
    } catch (const card_failure &failure) {
        return error_set(err, failure.status, "%s", failure.text.c_str());
    } catch (const std::exception &other) {
        return error_set(err, STATUS_NO_MEMORY, "%s", other.what());
    }
}
