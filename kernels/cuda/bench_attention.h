/* Times of attention while decoding, one row a sequence, at the heads of a model of 8 billion weights. Part
 * of bench.cc. */
#ifndef KERNELS_CUDA_BENCH_ATTENTION_H
#define KERNELS_CUDA_BENCH_ATTENTION_H

#include "engine/base/float16.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/bench_report.h"
#include "kernels/cuda/launch.h"

enum {
    ATTENTION_HEADS = 32,
    ATTENTION_KV_HEADS = 8,
    ATTENTION_HEAD_DIM = 128,
    ATTENTION_KV_BLOCK = 32,
    ATTENTION_MAX_BATCH = 64
};

/* A batch of sequences of one length, with their cache: a copy a layer. */
class attention_bench
{
    static constexpr int64_t BLOCK_STRIDE =
        (int64_t)ATTENTION_KV_BLOCK * ATTENTION_KV_HEADS * ATTENTION_HEAD_DIM;
    card_timer &timer;
    int32_t context, batch, n_copies;
    size_t side; /* elements of the keys, or of the values, of a copy */
    card_memory kv, q, out, positions, sequences, tiles, tables, partials, counters;
    struct cuda_attention args = {};

    void run(int32_t i)
    {
        struct error err = {};
        struct cuda_attention here = args;
        here.k = kv.as<uint16_t>() + 2 * side * (size_t)(i % n_copies);
        here.v = kv.as<uint16_t>() + 2 * side * (size_t)(i % n_copies) + side;
        card_check(cuda_attention(&here, timer.stream, &err), err);
    }

    template <class T> std::vector<T> download(const T *from, size_t n)
    {
        std::vector<T> values(n);
        card_copy(values.data(), from, n * sizeof(T), cudaMemcpyDeviceToHost);
        return values;
    }

  public:
    attention_bench(card_timer &with, int32_t keys, int32_t n_sequences)
        : timer(with), context(keys), batch(n_sequences),
          side((size_t)keys * (size_t)n_sequences * ATTENTION_KV_HEADS * ATTENTION_HEAD_DIM)
    {
        const int32_t width = ATTENTION_HEADS * ATTENTION_HEAD_DIM, n_blocks = context / ATTENTION_KV_BLOCK;
        std::vector<int32_t> position((size_t)batch, context - 1), sequence, table;
        for (int32_t i = 0; i < batch; i++) {
            sequence.push_back(i);
        }
        for (int32_t i = 0; i < batch * n_blocks; i++) {
            table.push_back(i);
        }
        std::vector<struct cuda_attention_tile> cut((size_t)batch);
        args.n_tiles = cuda_attention_tiles(cut.data(), position.data(), sequence.data(), batch);
        n_copies = copies_beyond_cache(bytes());
        kv = card_bf16(2 * side * (size_t)n_copies, 21);
        q = card_bf16(2 * (size_t)(batch * width), 22); /* as f32 they are of the same size */
        out = card_memory((size_t)(2 * batch * width) * sizeof(uint16_t)); /* in two parts */
        positions = card_array(position);
        sequences = card_array(sequence);
        tables = card_array(table);
        tiles = card_array(cut);
        args.n_partials = cuda_attention_partials(ATTENTION_HEADS, ATTENTION_HEAD_DIM, batch, context - 1);
        partials = card_memory((size_t)std::max<int64_t>(args.n_partials, 1) * sizeof(float));
        args.n_counters = args.n_tiles * ATTENTION_KV_HEADS;
        counters = card_memory((size_t)args.n_counters * sizeof(uint32_t));
        counters.zero();
        args.out = {out.as<uint16_t>(), width, nullptr, 1};
        args.q_stride = width;
        args.q = q.as<float>();
        args.n_heads = ATTENTION_HEADS;
        args.n_kv_heads = ATTENTION_KV_HEADS;
        args.head_dim = ATTENTION_HEAD_DIM;
        args.positions = positions.as<int32_t>();
        args.sequences = sequences.as<int32_t>();
        args.tiles = tiles.as<struct cuda_attention_tile>();
        args.block_tables = tables.as<int32_t>();
        args.table_stride = n_blocks;
        args.block_size = ATTENTION_KV_BLOCK;
        args.block_stride = BLOCK_STRIDE;
        args.type = KV_BF16;
        args.scale = 0.05f;
        args.n_rows = batch;
        args.max_position = context - 1;
        args.partials = partials.as<float>();
        args.counters = counters.as<uint32_t>();
    }

    /* Of keys and values that a launch reads. */
    size_t bytes(void) const
    {
        return 2 * side * sizeof(uint16_t);
    }

    /* What results from now on consist of. */
    void set_parts(int32_t parts)
    {
        args.out.parts = parts;
    }

    /* The first head of the last sequence against sums of doubles. */
    void compare(void)
    {
        /* Of the largest |out|: f16, and the bf16 of weights; a second part that is missing is 2e-4. */
        const bool two = args.out.parts == 2;
        const double limit = two ? 5e-5 : 0.02;
        const size_t row = (size_t)batch - 1, first_block = row * (size_t)(context / ATTENTION_KV_BLOCK);
        card_check(cudaMemsetAsync(out.as<void>(), 0xff, out.bytes, timer.stream),
                   "NaN for what is not written");
        run(0);
        timer.wait();
        const size_t from = first_block * (size_t)BLOCK_STRIDE,
                     n = (size_t)(context / ATTENTION_KV_BLOCK) * (size_t)BLOCK_STRIDE;
        const std::vector<uint16_t> keys = download(kv.as<uint16_t>() + from, n);
        const std::vector<uint16_t> values = download(kv.as<uint16_t>() + side + from, n);
        const std::vector<float> query = download(args.q + row * (size_t)args.q_stride, ATTENTION_HEAD_DIM);
        const std::vector<uint16_t> got =
            download(args.out.x + row * (size_t)(args.out.parts * args.out.stride),
                     (size_t)args.out.stride + ATTENTION_HEAD_DIM);
        std::vector<double> score((size_t)context), sum(ATTENTION_HEAD_DIM, 0.0);
        auto at = [](int32_t p) {
            return (size_t)(p / ATTENTION_KV_BLOCK) * (size_t)BLOCK_STRIDE +
                   (size_t)(p % ATTENTION_KV_BLOCK) * ATTENTION_HEAD_DIM;
        };
        double most = -INFINITY, total = 0, largest = 0, worst = 0;
        for (int32_t p = 0; p < context; p++) {
            double dot = 0;
            for (size_t i = 0; i < ATTENTION_HEAD_DIM; i++) {
                dot += (double)query[i] * (double)bf16_to_f32(keys[at(p) + i]);
            }
            score[(size_t)p] = (double)args.scale * dot;
            most = std::max(most, score[(size_t)p]);
        }
        for (int32_t p = 0; p < context; p++) {
            const double weight = exp(score[(size_t)p] - most);
            total += weight;
            for (size_t i = 0; i < ATTENTION_HEAD_DIM; i++) {
                sum[i] += weight * (double)bf16_to_f32(values[at(p) + i]);
            }
        }
        for (size_t i = 0; i < ATTENTION_HEAD_DIM; i++) {
            const double rest = two ? (double)f16_to_f32(got[(size_t)args.out.stride + i]) / CUDA_REST : 0;
            const double difference = fabs(sum[i] / total - ((double)f16_to_f32(got[i]) + rest));
            largest = std::max(largest, fabs(sum[i] / total));
            worst = difference <= worst ? worst : difference; /* NaN stays */
            if (worst != worst) {
                break;
            }
        }
        if (!(worst <= limit * largest)) {
            char text[120];
            snprintf(text, sizeof text, "differs by %g from sums of doubles, largest %g", worst, largest);
            throw card_failure{STATUS_DEVICE, text};
        }
    }

    double us(void)
    {
        return timer.us(n_copies, [&](int32_t i) { run(i); });
    }
};

static void bench_attention(bench_report &report, card_timer &timer, const std::vector<int32_t> &contexts,
                            const std::vector<int32_t> &batches)
{
    report.table("attention",
                 "Attention while decoding: 32 heads on 8 of 128, keys and values bf16; rows are sequences",
                 {{"us", "us", 2},
                  {"two_parts_us", "2 parts", 2},
                  {"gb_s", "GB/s", 0},
                  {"ceiling_percent", "% of max", 1}});
    for (int32_t context : contexts) {
        for (int32_t batch : batches) {
            if (!report.in_time()) {
                return;
            }
            const std::string name = "context " + std::to_string(context);
            size_t bytes = 0;
            double us[2] = {NAN, NAN};
            report.attempt(name + ", batch " + std::to_string(batch), [&] {
                attention_bench bench(timer, context, batch);
                bytes = bench.bytes();
                for (int32_t parts = 1; parts <= 2; parts++) {
                    bench.set_parts(parts);
                    bench.compare();
                    us[parts - 1] = bench.us();
                }
                return 0.0;
            });
            const double rate = (double)bytes / us[0]; /* bytes a microsecond */
            report.row(name, "decode", batch, {us[0], us[1], rate / 1e3, 100 * rate * 1e6 / report.ceiling});
        }
    }
}

#endif
