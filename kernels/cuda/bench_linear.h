/* Times of products with 4-bit matrices. Part of bench.cc. */
#ifndef KERNELS_CUDA_BENCH_LINEAR_H
#define KERNELS_CUDA_BENCH_LINEAR_H

#include <iterator>

#include "engine/base/float16.h"
#include "kernels/cuda/bench.h"
#include "kernels/cuda/bench_dense.h"
#include "kernels/cuda/bench_report.h"
#include "kernels/cuda/linear.h"

struct linear_kernel {
    const char *key, *title;
    int32_t min_tokens, max_tokens, parts; /* of x */
    bool int8_only;
    enum status (*run)(const struct cuda_linear *args, struct error *err);
};

/* Those of single kernels first, then the engine's choices: for models with experts, for others, and without
 * invariance. */
static const linear_kernel LINEAR_KERNELS[] = {
    {"gemv_us", "gemv", 1, CUDA_MAX_TOKENS_GEMV, 1, true,
     [](const struct cuda_linear *args, struct error *err) { return cuda_any4_gemv(args, false, err); }},
    {"gemv_exact_us", "exact", 1, CUDA_MAX_TOKENS_GEMV, 1, false,
     [](const struct cuda_linear *args, struct error *err) { return cuda_any4_gemv(args, true, err); }},
    {"gemm_us", "gemm", 1, CUDA_MAX_TOKENS_SMALL, 1, false, cuda_any4_gemm_small},
    {"prefill_us", "prefill", 32, INT32_MAX, 1, false, cuda_any4_prefill},
    {"two_parts_us", "2 parts", 1, INT32_MAX, 2, false,
     [](const struct cuda_linear *args, struct error *err) { return cuda_any4_linear(args, true, err); }},
    {"invariant_us", "invariant", 1, INT32_MAX, 1, false,
     [](const struct cuda_linear *args, struct error *err) { return cuda_any4_linear(args, true, err); }},
    {"fastest_us", "fastest", 1, INT32_MAX, 1, false,
     [](const struct cuda_linear *args, struct error *err) { return cuda_any4_linear(args, false, err); }},
};
enum {
    LINEAR_EXACT = 1,
    N_LINEAR_KERNELS = sizeof LINEAR_KERNELS / sizeof *LINEAR_KERNELS,
    LINEAR_INVARIANT = N_LINEAR_KERNELS - 2,
    LINEAR_FASTEST = N_LINEAR_KERNELS - 1,
    LOGITS_ROWS = 65536,     /* a matrix with more rows makes logits: */
    LOGITS_MAX_TOKENS = 128, /* of the last token of a sequence only */
    BLOCKS_A_PROCESSOR = 2,  /* as the engine has it */
};

struct linear_kind {
    const char *name;
    enum any4_kind kind;
    int32_t group_size;
};
static const linear_kind LINEAR_KINDS[] = {{"any4 g32", ANY4_LUT_INT8, 32}, {"paper g128", ANY4_LUT, 128}};

/* A matrix of random codes, scales and tables, copied as often as asked. */
class linear_weights
{
    card_memory memory;
    size_t copy_bytes;
    struct any4_matrix matrix = {};

  public:
    size_t bytes = 0;
    std::vector<struct cuda_any4> copies;

    linear_weights(const linear_kind &kind, const struct cuda_bench_shape &shape, uint64_t seed)
    {
        struct error err = {};
        card_random random(seed);
        const int32_t n_groups = shape.n_cols / kind.group_size;
        const size_t n_rows = (size_t)shape.n_rows, n_scales = n_rows * (size_t)n_groups;
        std::vector<uint64_t> codes(n_rows * (size_t)shape.n_cols / 16);
        std::vector<int8_t> table(n_rows * ANY4_MAX_TABLE), group_scales(n_scales);
        std::vector<float> row_scales(n_rows, 0x1p-14f);
        std::vector<uint16_t> lut(n_rows * ANY4_MAX_TABLE), scales(n_scales), zeros(n_scales);
        for (uint64_t &word : codes) {
            word = random.bits();
        }
        for (size_t i = 0; i < table.size(); i++) {
            table[i] = (int8_t)((int32_t)(random.bits() % 255) - 127);
            lut[i] = bf16_from_f32((float)table[i] / 127);
        }
        for (size_t i = 0; i < n_scales; i++) {
            group_scales[i] = (int8_t)(1 + random.bits() % 127);
            scales[i] = bf16_from_f32((float)group_scales[i] / 127);
            zeros[i] = bf16_from_f32((float)group_scales[i] / 1024);
        }
        matrix.kind = kind.kind;
        matrix.layout = ANY4_LAYOUT_TILE_V1;
        matrix.n_rows = shape.n_rows;
        matrix.n_cols = shape.n_cols;
        matrix.code_bits = 4;
        matrix.group_size = kind.group_size;
        matrix.n_groups = n_groups;
        matrix.row_bytes = (size_t)shape.n_cols / 2;
        matrix.codes = reinterpret_cast<const uint8_t *>(codes.data());
        matrix.scales = scales.data();
        matrix.zeros = zeros.data();
        matrix.lut = lut.data();
        matrix.group_scales = group_scales.data();
        matrix.table = table.data();
        matrix.row_scales = row_scales.data();
        card_check(cuda_any4_bytes(&bytes, &matrix, &err), err);
        std::vector<uint8_t> block(bytes);
        cuda_any4_pack(block.data(), &matrix);
        const int32_t n_copies = copies_beyond_cache(bytes);
        copy_bytes = (bytes + 255) / 256 * 256;
        memory = card_memory(copy_bytes * (size_t)n_copies);
        for (int32_t i = 0; i < n_copies; i++) {
            uint8_t *at = memory.as<uint8_t>() + copy_bytes * (size_t)i;
            struct cuda_any4 copy;
            card_copy(at, i ? memory.as<uint8_t>() : block.data(), bytes,
                      i ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice);
            cuda_any4_place(&copy, &matrix, at);
            copies.push_back(copy);
        }
    }
};

/* What all products share. */
struct linear_space {
    card_memory x, x_scales, y, y_other, partials, counters;
    struct cuda_workspace workspace = {};

    linear_space(const std::vector<struct cuda_bench_shape> &shapes, int32_t max_tokens, int32_t n_processors)
    {
        size_t x_size = 0, y_size = 0;
        int32_t n_rows = 0, n_cols = 0;
        for (const struct cuda_bench_shape &shape : shapes) {
            const int32_t tokens =
                shape.n_rows > LOGITS_ROWS ? std::min<int32_t>(max_tokens, LOGITS_MAX_TOKENS) : max_tokens;
            x_size = std::max(x_size, (size_t)shape.n_cols * (size_t)tokens);
            y_size = std::max(y_size, (size_t)shape.n_rows * (size_t)tokens);
            n_rows = std::max(n_rows, shape.n_rows);
            n_cols = std::max(n_cols, shape.n_cols);
        }
        workspace.n_blocks = BLOCKS_A_PROCESSOR * n_processors;
        workspace.max_tokens = CUDA_MAX_TOKENS_SMALL;
        workspace.n_counters = n_rows / ANY4_TILE_ROW_PAD;
        x = card_f16(2 * x_size, 1);                                         /* in two parts */
        x_scales = card_array(std::vector<float>((size_t)max_tokens, 1.0f)); /* cuBLAS knows none */
        y = card_memory(y_size * sizeof(float));
        y_other = card_memory((size_t)n_rows * sizeof(float));
        partials =
            card_memory((size_t)cuda_partials(workspace.n_blocks, workspace.max_tokens) * sizeof(float));
        counters = card_memory((size_t)workspace.n_counters * sizeof(uint32_t));
        counters.zero();
        workspace.partials = partials.as<float>();
        workspace.counters = counters.as<uint32_t>();
    }
};

class linear_bench
{
    bench_report &report;
    card_timer &timer;
    const linear_space &space;
    const linear_weights &weights;
    std::string shape_name, kind_name;

    struct cuda_linear args_of(int32_t copy, int32_t n_tokens, int32_t parts = 1) const
    {
        const struct cuda_any4 *w = &weights.copies[(size_t)copy];
        return {w,           space.y.as<float>(),
                w->n_rows,   {space.x.as<uint16_t>(), w->n_cols, space.x_scales.as<float>(), parts},
                n_tokens,    &space.workspace,
                timer.stream};
    }

    void run(const linear_kernel &kernel, const struct cuda_linear &args) const
    {
        struct error err = {};
        card_check(kernel.run(&args, &err), err);
    }

    std::vector<float> download(const float *from, int32_t n) const
    {
        std::vector<float> values((size_t)n);
        timer.wait();
        card_copy(values.data(), from, values.size() * sizeof(float), cudaMemcpyDeviceToHost);
        return values;
    }

    /* Against another kernel, which takes the token alone: gemv with exact sums, gemv itself against gemm. */
    void compare(const std::function<void(const struct cuda_linear &)> &product, bool is_exact_gemv,
                 int32_t n_tokens, int32_t parts = 1) const
    {
        /* Of the root mean square; sums of f16 lose 0.002, a second part that is missing 0.0002 or more. */
        const double limit = parts == 2 ? 1e-4 : 0.02;
        struct cuda_linear args = args_of(0, n_tokens, parts);
        const int32_t n_rows = args.w->n_rows;
        card_check(
            cudaMemsetAsync(args.y, 0xff, (size_t)n_rows * (size_t)n_tokens * sizeof(float), timer.stream),
            "NaN for what is not written");
        product(args);
        for (int32_t token : {0, n_tokens / 2, n_tokens - 1}) {
            struct cuda_linear alone = args_of(0, 1, parts);
            alone.x.x += token * parts * alone.x.stride;
            alone.x.scales += token;
            alone.y = space.y_other.as<float>();
            struct error err = {};
            card_check(
                is_exact_gemv ? cuda_any4_gemm_small(&alone, &err) : cuda_any4_gemv(&alone, true, &err), err);
            const std::vector<float> expected = download(alone.y, n_rows);
            const std::vector<float> got = download(args.y + token * args.y_stride, n_rows);
            double squares = 0, worst = 0;
            for (size_t row = 0; row < got.size() && worst == worst; row++) {
                const double difference = fabs((double)got[row] - (double)expected[row]);
                squares += (double)expected[row] * (double)expected[row];
                worst = difference <= worst ? worst : difference; /* NaN stays */
            }
            const double rms = sqrt(squares / n_rows);
            if (!(worst <= limit * rms) || !(rms > 0)) {
                char text[120];
                snprintf(text, sizeof text, "token %d of %d differs by %g from another kernel, rms %g", token,
                         n_tokens, worst, rms);
                throw card_failure{STATUS_DEVICE, text};
            }
        }
    }

    std::string label(const char *what, int32_t n_tokens) const
    {
        return std::string(what) + ", " + shape_name + ", " + kind_name + ", " + std::to_string(n_tokens);
    }

    double time(const linear_kernel &kernel, int32_t n_tokens)
    {
        const struct cuda_any4 *w = &weights.copies[0];
        const bool served = n_tokens >= kernel.min_tokens && n_tokens <= kernel.max_tokens &&
                            (!kernel.int8_only || w->kind == ANY4_LUT_INT8);
        if (!served) {
            return NAN;
        }
        return report.attempt(label(kernel.title, n_tokens), [&] {
            compare([&](const struct cuda_linear &args) { run(kernel, args); },
                    &kernel == &LINEAR_KERNELS[LINEAR_EXACT], n_tokens, kernel.parts);
            const int32_t n_copies = (int32_t)weights.copies.size();
            return timer.us(n_copies,
                            [&](int32_t i) { run(kernel, args_of(i % n_copies, n_tokens, kernel.parts)); });
        });
    }

  public:
    linear_bench(bench_report &to, card_timer &with, const linear_space &in, const linear_weights &of,
                 const std::string &shape, const char *kind)
        : report(to), timer(with), space(in), weights(of), shape_name(shape), kind_name(kind)
    {
    }

    /* The same products in f16 by cuBLAS, NaN where there are none; `tokens` as for row. */
    std::vector<double> dense(const std::vector<int32_t> &tokens)
    {
        std::vector<double> times(tokens.size(), NAN);
        report.attempt("cuBLAS, " + shape_name, [&] {
            dense_weights matrix(&weights.copies[0], timer);
            for (size_t i = 0; i < tokens.size(); i++) {
                times[i] = report.attempt(label("cuBLAS", tokens[i]), [&] {
                    compare([&](const struct cuda_linear &args) { matrix.run(args, 0); }, false, tokens[i]);
                    return timer.us(matrix.copies(),
                                    [&](int32_t copy) { matrix.run(args_of(0, tokens[i]), copy); });
                });
            }
            return 0.0;
        });
        return times;
    }

    /* dense_us: what dense gave. */
    void row(int32_t n_tokens, double dense_us)
    {
        std::vector<double> values;
        for (const linear_kernel &kernel : LINEAR_KERNELS) {
            values.push_back(time(kernel, n_tokens));
        }
        const double us = values[LINEAR_INVARIANT];
        const double rate = (double)weights.bytes / us; /* bytes a microsecond: MB/s */
        const struct cuda_any4 *w = &weights.copies[0];
        values.push_back(dense_us);
        values.push_back(rate / 1e3);
        values.push_back(100 * rate * 1e6 / report.ceiling);
        values.push_back(2e-6 * w->n_rows * (double)w->n_cols * n_tokens / us);
        values.push_back(dense_us / us);
        values.push_back(dense_us / values[LINEAR_FASTEST]);
        report.row(shape_name, kind_name, n_tokens, values);
    }
};

static void bench_linear(bench_report &report, card_timer &timer,
                         const std::vector<struct cuda_bench_shape> &shapes,
                         const std::vector<int32_t> &tokens, int32_t n_processors)
{
    std::vector<report_column> columns;
    for (const linear_kernel &kernel : LINEAR_KERNELS) {
        columns.push_back({kernel.key, kernel.title, 2});
    }
    for (const report_column &column : {report_column{"cublas_us", "cublas", 2},
                                        {"gb_s", "GB/s", 0},
                                        {"ceiling_percent", "% of max", 1},
                                        {"tflop_s", "TFLOP/s", 1},
                                        {"invariant_ratio", "x cublas", 2},
                                        {"fastest_ratio", "x fastest", 2}}) {
        columns.push_back(column);
    }
    report.table(
        "linear",
        "Products, microseconds a launch. Rates and the first ratio are those of `invariant`; ratios are "
        "cuBLAS f16 over ours.",
        columns);
    linear_space space(shapes, *std::max_element(tokens.begin(), tokens.end()), n_processors);
    for (const struct cuda_bench_shape &shape : shapes) {
        const std::string name = std::to_string(shape.n_rows) + "x" + std::to_string(shape.n_cols);
        std::vector<int32_t> counts;
        std::copy_if(tokens.begin(), tokens.end(), std::back_inserter(counts), [&](int32_t n_tokens) {
            return shape.n_rows <= LOGITS_ROWS || n_tokens <= LOGITS_MAX_TOKENS;
        });
        std::vector<double> dense_us;
        for (const linear_kind &kind : LINEAR_KINDS) {
            if (!report.in_time()) {
                return;
            }
            report.attempt(name + ", " + kind.name, [&] {
                linear_weights weights(kind, shape, 7);
                linear_bench bench(report, timer, space, weights, name, kind.name);
                if (dense_us.empty()) {
                    dense_us = bench.dense(counts);
                }
                for (size_t i = 0; i < counts.size() && report.in_time(); i++) {
                    bench.row(counts[i], dense_us[i]);
                }
                return 0.0;
            });
        }
    }
}

#endif
