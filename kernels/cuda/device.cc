/* The device itself: memory, copies, the stream, and the table of kernels. Compiled by nvcc for the card and
 * by the host's compiler for its runtime, where device memory is plain memory and everything is done at once.
 */
#include "kernels/cuda/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/check.h"
#include "kernels/cuda/simt.h"

#ifdef __CUDACC__
static const char KERNELS_NAME[] = "cuda";

static const char *text_of(cudaError_t failed)
{
    return failed ? cudaGetErrorString(failed) : nullptr;
}

static const char *memory_alloc_pinned(void **out, size_t bytes)
{
    return text_of(cudaHostAlloc(out, bytes, cudaHostAllocDefault));
}

static void memory_free_pinned(void *memory)
{
    if (memory) {
        cudaFreeHost(memory);
    }
}

static const char *device_enter(const struct cuda_device *device)
{
    return text_of(cudaSetDevice(device->index));
}

static const char *copy_up(const struct cuda_device *device, void *to, const void *from, size_t bytes)
{
    return text_of(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, (cudaStream_t)device->stream));
}

static const char *copy_down(const struct cuda_device *device, void *to, const void *from, size_t bytes)
{
    return text_of(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, (cudaStream_t)device->stream));
}

static const char *memory_zero(const struct cuda_device *device, void *at, size_t bytes)
{
    return text_of(cudaMemsetAsync(at, 0, bytes, (cudaStream_t)device->stream));
}

static const char *stream_wait(const struct cuda_device *device)
{
    return text_of(cudaStreamSynchronize((cudaStream_t)device->stream));
}

static const char *device_open(struct cuda_device *device)
{
    int n_devices = 0, driver = 0;
    struct cudaDeviceProp properties;
    cudaStream_t stream = nullptr;
    cudaError_t failed = cudaGetDeviceCount(&n_devices);
    if (failed && !cudaDriverGetVersion(&driver) && !driver) {
        return "there is no driver";
    }
    if (failed) {
        return cudaGetErrorString(failed);
    }
    if (device->index >= n_devices) {
        return n_devices ? "there are fewer devices" : "there is no device";
    }
    if ((failed = cudaSetDevice(device->index)) ||
        (failed = cudaGetDeviceProperties(&properties, device->index)) ||
        (failed = cudaMemGetInfo(&device->free_bytes, &device->total_bytes)) ||
        (failed = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking))) {
        return cudaGetErrorString(failed);
    }
    if (properties.major < 8) {
        cudaStreamDestroy(stream);
        return "its compute capability is below 8.0";
    }
    snprintf(device->name, sizeof device->name, "%s", properties.name);
    device->major = properties.major;
    device->minor = properties.minor;
    device->n_processors = properties.multiProcessorCount;
    device->stream = stream;
    return nullptr;
}

static void device_close(struct cuda_device *device)
{
    if (device->stream) {
        cudaStreamDestroy((cudaStream_t)device->stream);
    }
    device->stream = nullptr;
}

#else
static const char KERNELS_NAME[] = "cuda-host";

static const char *memory_alloc_pinned(void **out, size_t bytes)
{
    return simt_memory_alloc(out, bytes);
}

static void memory_free_pinned(void *memory)
{
    free(memory);
}

static const char *device_enter(const struct cuda_device *)
{
    return nullptr;
}

static const char *copy_up(const struct cuda_device *, void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
    return nullptr;
}

static const char *copy_down(const struct cuda_device *, void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
    return nullptr;
}

static const char *memory_zero(const struct cuda_device *, void *at, size_t bytes)
{
    memset(at, 0, bytes);
    return nullptr;
}

static const char *stream_wait(const struct cuda_device *)
{
    return nullptr;
}

/* A small card: work is shared between blocks, and little memory is a model too large for it. */
static const char *device_open(struct cuda_device *device)
{
    const char *memory = getenv("ANY4_CUDA_HOST_BYTES"); /* tests of what does not fit */
    if (device->index != 0) {
        return "there are fewer devices";
    }
    snprintf(device->name, sizeof device->name, "the host's runtime");
    device->major = 8;
    device->n_processors = 3;
    device->total_bytes = device->free_bytes = memory ? strtoull(memory, nullptr, 10) : (size_t)1 << 30;
    return nullptr;
}

static void device_close(struct cuda_device *)
{
}
#endif

/* -- the table's entries -- */

static enum status no_memory(const char *wrong, size_t bytes, const char *what, struct error *err)
{
    return wrong ? error_set(err, STATUS_NO_MEMORY, "%s: no %zu bytes on the device: %s", what, bytes, wrong)
                 : STATUS_OK;
}

static enum status table_alloc(void **out, size_t bytes, const char *what, struct error *err)
{
    return no_memory(simt_memory_alloc(out, bytes), bytes, what, err);
}

static void table_free(void *memory)
{
    if (memory) {
        simt_memory_free(memory);
    }
}

static enum status table_alloc_pinned(void **out, size_t bytes, const char *what, struct error *err)
{
    const char *wrong = memory_alloc_pinned(out, bytes);
    return wrong
               ? error_set(err, STATUS_NO_MEMORY, "%s: no %zu bytes of pinned memory: %s", what, bytes, wrong)
               : STATUS_OK;
}

static enum status table_enter(const struct cuda_device *device, struct error *err)
{
    return launched(device_enter(device), "CUDA device", err);
}

static enum status table_upload(const struct cuda_device *device, void *to, const void *from, size_t bytes,
                                struct error *err)
{
    return launched(copy_up(device, to, from, bytes), "copy to the CUDA device", err);
}

static enum status table_download(const struct cuda_device *device, void *to, const void *from, size_t bytes,
                                  struct error *err)
{
    return launched(copy_down(device, to, from, bytes), "copy from the CUDA device", err);
}

static enum status table_zero(const struct cuda_device *device, void *at, size_t bytes, struct error *err)
{
    return launched(memory_zero(device, at, bytes), "memory of the CUDA device", err);
}

static enum status table_wait(const struct cuda_device *device, struct error *err)
{
    return launched(stream_wait(device), "CUDA device", err);
}

enum status kernels_init_cuda(struct cuda_kernels *k, struct cuda_device *device, int32_t index,
                              struct error *err)
{
    *device = {};
    device->index = index;
    const char *wrong = device_open(device);
    if (wrong) {
        return error_set(err, STATUS_UNAVAILABLE, "CUDA device %d: %s", index, wrong);
    }
    *k = {};
    k->name = KERNELS_NAME;
    k->alloc = table_alloc;
    k->free = table_free;
    k->alloc_pinned = table_alloc_pinned;
    k->free_pinned = memory_free_pinned;
    k->enter = table_enter;
    k->upload = table_upload;
    k->download = table_download;
    k->zero = table_zero;
    k->wait = table_wait;
    k->close = device_close;
    k->rmsnorm = cuda_rmsnorm;
    k->swiglu = cuda_swiglu;
    k->axpy = cuda_axpy;
    k->embedding = cuda_embedding;
    k->rope_kv_append = cuda_rope_kv_append;
    k->attention_tiles = cuda_attention_tiles;
    k->attention_partials = cuda_attention_partials;
    k->attention = cuda_attention;
    k->any4_linear = cuda_any4_linear;
    k->linear_any = cuda_linear_any;
    k->moe_logits = cuda_moe_logits;
    k->moe_route = cuda_moe_route;
    k->any4_grouped = cuda_any4_grouped;
    k->linear_any_grouped = cuda_linear_any_grouped;
    k->moe_combine = cuda_moe_combine;
    k->sample = cuda_sample;
    return STATUS_OK;
}
