/* The launch of sampling.cuh. Compiled by nvcc for the card and by the host's compiler for its runtime. */
#include "kernels/cuda/sampling.h"

#include "kernels/cuda/check.h"
#include "kernels/cuda/sampling.cuh"

enum status cuda_sample(int32_t *tokens, const float *logits, int64_t logits_stride, int32_t n_vocab,
                        const struct cuda_sample_row *rows, int32_t n_rows, void *stream, struct error *err)
{
    if (n_vocab < 1 || n_vocab > CUDA_SAMPLE_MAX_VOCAB || n_rows < 1 || logits_stride < n_vocab) {
        return error_set(err, STATUS_INVALID,
                         "sample: %d rows of %d logits, %lld apart, expected at most %d, and not to overlap",
                         n_rows, n_vocab, (long long)logits_stride, (int)CUDA_SAMPLE_MAX_VOCAB);
    }
    /* The order of sums depends on the threads, so their number depends on the vocabulary alone. */
    const int32_t n_threads = n_vocab <= 8192 ? 256 : SAMPLE_MAX_THREADS;
    return launched(simt_launch({"sample", n_rows, n_threads, 0, stream}, sample_kernel, tokens, logits,
                                logits_stride, n_vocab, rows),
                    "sample", err);
}
