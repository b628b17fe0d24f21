/* `any4 bench kernels`: the CUDA kernels by themselves, on the first device; kernels/cuda/bench.h does it. */
#include "kernels/cuda/bench.h"

#include "server/command.h"

enum status command_bench_kernels(const struct config *config, struct outcome *outcome, struct error *err)
{
    /* The tables are for people; the object goes to standard output alone. */
    const struct cuda_bench_options options = {
        .n_repeats = (int32_t)config->repeat,
        .json_path = config->json ? "/dev/stdout" : NULL,
    };
    (void)outcome;
    const enum status status = cuda_bench_kernels(&options, config->json ? stderr : stdout, err);
    return status == STATUS_UNAVAILABLE ? STATUS_DEVICE : status; /* no device: nothing that passes */
}
