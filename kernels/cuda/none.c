/* Where there is no nvcc: the CPU alone. */
#include "kernels/cuda/device.h"

enum status kernels_init_cuda(struct cuda_kernels *k, struct cuda_device *device, int32_t index,
                              struct error *err)
{
    (void)k;
    (void)device;
    (void)index;
    return error_set(err, STATUS_NOT_FOUND, "this any4 was built without CUDA");
}
