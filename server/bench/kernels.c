/* `any4 bench kernels`: the CUDA kernels by themselves; kernels/cuda/bench.h does it. */
#include "kernels/cuda/bench.h"

#include "server/command.h"
#include "server/server.h"

enum status command_bench_kernels(const struct config *config, struct outcome *outcome, struct error *err)
{
    struct engine_options engine;
    enum status status = server_read_device(&engine, config->device, err);
    (void)outcome;
    if (status) {
        return status;
    }
    if (engine.device == DEVICE_CPU) {
        return error_set(err, STATUS_INVALID,
                         "device: these are CUDA's kernels; the CPU's are in bench decode");
    }
    /* The tables are for people; the object goes to standard output alone. */
    const struct cuda_bench_options options = {
        .device = engine.device == DEVICE_CUDA ? engine.device_index : 0,
        .n_repeats = (int32_t)config->repeat,
        .json_path = config->json ? "/dev/stdout" : NULL,
    };
    status = cuda_bench_kernels(&options, config->json ? stderr : stdout, err);
    return status == STATUS_UNAVAILABLE ? STATUS_DEVICE : status; /* no device: nothing that passes */
}
