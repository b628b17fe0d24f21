/* Times of what stands between the matrices, at the sizes of a model of 8 billion weights. Part of bench.cc.
 */
#ifndef KERNELS_CUDA_BENCH_SMALL_H
#define KERNELS_CUDA_BENCH_SMALL_H

#include "kernels/cuda/bench_report.h"
#include "kernels/cuda/launch.h"

enum {
    SMALL_DIM = 4096,
    SMALL_FFN_DIM = 14336,
    SMALL_HEADS = 32,
    SMALL_KV_HEADS = 8,
    SMALL_HEAD_DIM = 128,
    SMALL_KV_BLOCK = 32,
    SMALL_QKV_DIM = (SMALL_HEADS + 2 * SMALL_KV_HEADS) * SMALL_HEAD_DIM,
};

/* Activations lie in the cache as they do between kernels: no copies. */
static void bench_small(bench_report &report, card_timer &timer, const std::vector<int32_t> &tokens)
{
    report.table(
        "elementwise", "Between the matrices, microseconds a launch (data in the cache where it fits)",
        {{"rmsnorm_us", "rmsnorm", 2}, {"swiglu_us", "swiglu", 2}, {"rope_append_us", "rope+kv", 2}});
    const int32_t most = *std::max_element(tokens.begin(), tokens.end());
    const size_t n = (size_t)most;
    /* bf16 patterns of both halves: as f32 they are of the same size. */
    card_memory wide = card_bf16(2 * n * 2 * SMALL_FFN_DIM, 11);
    card_memory x(n * SMALL_FFN_DIM * sizeof(uint16_t)), x_scales(n * sizeof(float));
    card_memory weight = card_bf16(2 * SMALL_DIM, 12);
    const size_t kv_bytes = (n + SMALL_KV_BLOCK) * SMALL_KV_HEADS * SMALL_HEAD_DIM * sizeof(uint16_t);
    card_memory k(kv_bytes), v(kv_bytes);
    std::vector<int32_t> counting(n), none(n, 0);
    const size_t n_angles = n * SMALL_HEAD_DIM / 2;
    std::vector<float> cos_sin(2 *
                               n_angles); /* true ones, or rows that are turned again and again would grow */
    for (size_t i = 0; i < n; i++) {
        counting[i] = (int32_t)i;
    }
    for (size_t i = 0; i < n_angles; i++) {
        cos_sin[i] = cosf((float)i);
        cos_sin[n_angles + i] = sinf((float)i);
    }
    card_memory angles = card_array(cos_sin);
    card_memory positions = card_array(counting), sequences = card_array(none);
    struct cuda_rope_append rope = {};
    rope.qkv = wide.as<float>();
    rope.qkv_stride = SMALL_QKV_DIM;
    rope.n_heads = SMALL_HEADS;
    rope.n_kv_heads = SMALL_KV_HEADS;
    rope.head_dim = SMALL_HEAD_DIM;
    rope.cos = angles.as<float>();
    rope.sin = angles.as<float>() + n_angles;
    rope.positions = rope.block_tables = positions.as<int32_t>(); /* block i holds positions 32 i and on */
    rope.sequences = sequences.as<int32_t>();
    rope.table_stride = most;
    rope.block_size = SMALL_KV_BLOCK;
    rope.block_stride = SMALL_KV_BLOCK * SMALL_KV_HEADS * SMALL_HEAD_DIM;
    rope.type = KV_BF16;
    rope.k = k.as<void>();
    rope.v = v.as<void>();
    for (int32_t n_tokens : tokens) {
        if (!report.in_time()) {
            return;
        }
        auto timed = [&](const char *what, const std::function<enum status(struct error *)> &run) {
            return report.attempt(std::string(what) + ", " + std::to_string(n_tokens), [&] {
                return timer.us(1, [&](int32_t) {
                    struct error err = {};
                    card_check(run(&err), err);
                });
            });
        };
        const double rmsnorm = timed("rmsnorm", [&](struct error *err) {
            const struct cuda_rows rows = {x.as<uint16_t>(), SMALL_DIM, x_scales.as<float>(), 1};
            return cuda_rmsnorm(&rows, wide.as<float>(), SMALL_DIM, weight.as<float>(), SMALL_DIM, n_tokens,
                                1e-5f, timer.stream, err);
        });
        const double swiglu = timed("swiglu", [&](struct error *err) {
            const struct cuda_rows rows = {x.as<uint16_t>(), SMALL_FFN_DIM, x_scales.as<float>(), 1};
            return cuda_swiglu(&rows, wide.as<float>(), wide.as<float>() + SMALL_FFN_DIM, 2 * SMALL_FFN_DIM,
                               SMALL_FFN_DIM, n_tokens, timer.stream, err);
        });
        const double rope_us = timed("rope", [&](struct error *err) {
            return cuda_rope_kv_append(&rope, n_tokens, timer.stream, err);
        });
        report.row("4096/14336", "f32, f16", n_tokens, {rmsnorm, swiglu, rope_us});
    }
}

#endif
