/* Where there is no nvcc: nothing to time. */
#include "kernels/cuda/bench.h"

enum status cuda_bench_kernels(const struct cuda_bench_options *options, FILE *out, struct error *err)
{
    (void)options;
    (void)out;
    return error_set(err, STATUS_DEVICE, "this any4 was built without CUDA");
}
