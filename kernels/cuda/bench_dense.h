/* The yardstick: the same products in f16 by cuBLAS. Part of bench.cc. */
#ifndef KERNELS_CUDA_BENCH_DENSE_H
#define KERNELS_CUDA_BENCH_DENSE_H

#include "kernels/cuda/bench_report.h"
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/linear.h"

/* One 4-bit matrix as dense f16, in copies; STATUS_UNAVAILABLE is thrown where there is no cuBLAS. */
class dense_weights
{
    static constexpr size_t WORKSPACE_BYTES = 32u << 20;
    card_memory workspace, memory;
    struct cublas *cublas = nullptr;
    int32_t n_copies;
    size_t copy_size; /* elements */

  public:
    dense_weights(const struct cuda_any4 *w, card_timer &timer)
        : workspace(WORKSPACE_BYTES), n_copies(0), copy_size((size_t)w->n_rows * (size_t)w->n_cols)
    {
        struct error err = {};
        const size_t bytes = copy_size * sizeof(uint16_t);
        n_copies = copies_beyond_cache(bytes);
        memory = card_memory(bytes * (size_t)n_copies);
        card_check(cuda_any4_dequantize(memory.as<uint16_t>(), w->n_cols, w, timer.stream, &err), err);
        timer.wait();
        for (int32_t i = 1; i < n_copies; i++) {
            card_copy(memory.as<uint16_t>() + copy_size * (size_t)i, memory.as<uint16_t>(), bytes,
                      cudaMemcpyDeviceToDevice);
        }
        card_check(cublas_open(&cublas, workspace.as<void>(), WORKSPACE_BYTES, &err), err);
    }
    dense_weights(const dense_weights &) = delete;
    dense_weights &operator=(const dense_weights &) = delete;
    ~dense_weights()
    {
        cublas_close(cublas);
    }

    /* args: of the 4-bit product. */
    void run(const struct cuda_linear &args, int32_t i) const
    {
        struct error err = {};
        const struct cuda_any4 *w = args.w;
        card_check(cublas_linear(cublas, args.y, args.y_stride,
                                 memory.as<uint16_t>() + copy_size * (size_t)(i % n_copies), w->n_cols,
                                 args.x.x, args.x.stride, w->n_rows, w->n_cols, args.n_tokens, args.stream,
                                 &err),
                   err);
    }

    int32_t copies(void) const
    {
        return n_copies;
    }
};

#endif
