/* What the 32 lanes of a warp do at once, for host_runtime.cc: nothing here knows of fibers. */
#ifndef KERNELS_CUDA_HOST_LANES_H
#define KERNELS_CUDA_HOST_LANES_H

#include "kernels/cuda/simt.h"

enum { SIMT_HOST_BANKS = 32 }; /* of shared memory, 4 bytes each */

/* Runs a warp operation on the arguments of every lane. Matrix products take their fragments apart element by
 * element, by the tables of the PTX ISA. */
void simt_host_collective(enum simt_host_op op, void *const lanes[SIMT_WARP]);

/* Passes over the banks that one read of a warp takes: lanes go together in parts that could read 128 bytes,
 * and a pass gives one word of each bank. */
int64_t simt_host_wavefronts(const uintptr_t *addresses, int32_t n_lanes, int32_t bytes);

#endif
