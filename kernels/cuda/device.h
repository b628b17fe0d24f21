/* A CUDA device and the table of what the engine calls on it. One symbol, kernels_init_cuda, has three
 * bodies: with nvcc that of the card (device.cc), in tests that of the host's runtime (the same file,
 * docs/cuda.md), and without nvcc one that says so (none.c). */
#ifndef KERNELS_CUDA_DEVICE_H
#define KERNELS_CUDA_DEVICE_H

#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/moe.h"
#include "kernels/cuda/sampling.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_device {
    int32_t index;
    char name[256];                 /* "NVIDIA H200" */
    int32_t major, minor;           /* of its compute capability */
    int32_t n_processors;           /* streaming multiprocessors */
    size_t free_bytes, total_bytes; /* of memory, when it was opened */
    void *stream;                   /* all work goes through this one, in order */
};

/* Failures are STATUS_DEVICE with CUDA's own text, or STATUS_NO_MEMORY with the number of bytes. Copies and
 * launches are queued on the device's stream: memory at the host's end of a copy must stay as it is until
 * `wait`. */
struct cuda_kernels {
    const char *name; /* "cuda"; "cuda-host": the host's runtime */
    /* Memory, 256-byte aligned. `what` names it in an error. */
    enum status (*alloc)(void **out, size_t bytes, const char *what, struct error *err);
    void (*free)(void *memory); /* accepts NULL */
    /* Host memory that copies go through without waiting. */
    enum status (*alloc_pinned)(void **out, size_t bytes, const char *what, struct error *err);
    void (*free_pinned)(void *memory);
    /* Makes the device the calling thread's: before the first call of a thread. */
    enum status (*enter)(const struct cuda_device *device, struct error *err);
    enum status (*upload)(const struct cuda_device *device, void *to, const void *from, size_t bytes,
                          struct error *err);
    enum status (*download)(const struct cuda_device *device, void *to, const void *from, size_t bytes,
                            struct error *err);
    enum status (*zero)(const struct cuda_device *device, void *at, size_t bytes, struct error *err);
    /* Until all that was queued is done: a fault of a kernel comes out here. */
    enum status (*wait)(const struct cuda_device *device, struct error *err);
    void (*close)(struct cuda_device *device);

    __typeof__(cuda_rmsnorm) *rmsnorm;
    __typeof__(cuda_swiglu) *swiglu;
    __typeof__(cuda_axpy) *axpy;
    __typeof__(cuda_embedding) *embedding;
    __typeof__(cuda_rope_kv_append) *rope_kv_append;
    __typeof__(cuda_attention_tiles) *attention_tiles;
    __typeof__(cuda_attention_partials) *attention_partials;
    __typeof__(cuda_attention) *attention;
    __typeof__(cuda_any4_linear) *any4_linear;
    __typeof__(cuda_linear_any) *linear_any;
    __typeof__(cuda_moe_logits) *moe_logits;
    __typeof__(cuda_moe_route) *moe_route;
    __typeof__(cuda_any4_grouped) *any4_grouped;
    __typeof__(cuda_linear_any_grouped) *linear_any_grouped;
    __typeof__(cuda_moe_combine) *moe_combine;
    __typeof__(cuda_sample) *sample;
};

/* Opens device `index` of those that CUDA lists; device is to be closed. STATUS_UNAVAILABLE with the reason:
 * no device, no driver; STATUS_NOT_FOUND: a program without CUDA. */
enum status kernels_init_cuda(struct cuda_kernels *k, struct cuda_device *device, int32_t index,
                              struct error *err);

#ifdef __cplusplus
}
#endif
#endif
