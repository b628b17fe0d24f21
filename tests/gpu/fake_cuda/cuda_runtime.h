/* As much of CUDA's runtime as kernels/cuda/bench_*.h call, for the host: a card of three processors whose
 * memory is plain memory. With it the benchmark's own logic, its comparisons, tables and JSON, run in tests;
 * its times mean nothing there. Kernels run where they are launched, also while a graph is recorded; a replay
 * does nothing. */
#ifndef TESTS_GPU_FAKE_CUDA_H
#define TESTS_GPU_FAKE_CUDA_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <chrono>

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation = 2 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaDeviceAttr { cudaDevAttrClockRate, cudaDevAttrMemoryClockRate, cudaDevAttrL2CacheSize };
enum { cudaStreamNonBlocking = 1, cudaStreamCaptureModeThreadLocal = 1 };
typedef struct fake_stream *cudaStream_t;
typedef struct fake_graph *cudaGraph_t;
typedef struct fake_exec *cudaGraphExec_t;
typedef struct fake_event {
    std::chrono::steady_clock::time_point at;
} * cudaEvent_t;
struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount, l2CacheSize;
    size_t totalGlobalMem;
};
enum { FAKE_L2_BYTES = 1 << 16, FAKE_PROCESSORS = 3 };

static inline const char *cudaGetErrorString(cudaError_t failed)
{
    return failed ? "out of memory" : "no error";
}
static inline cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}
static inline cudaError_t cudaDeviceSynchronize(void)
{
    return cudaSuccess;
}
static inline cudaError_t cudaMalloc(void **out, size_t bytes)
{
    return posix_memalign(out, 256, bytes ? bytes : 1) ? cudaErrorMemoryAllocation : cudaSuccess;
}
static inline cudaError_t cudaFree(void *memory)
{
    free(memory);
    return cudaSuccess;
}
static inline cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind)
{
    memmove(to, from, bytes);
    return cudaSuccess;
}
static inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                                          cudaStream_t)
{
    return cudaMemcpy(to, from, bytes, kind);
}
static inline cudaError_t cudaMemset(void *at, int value, size_t bytes)
{
    memset(at, value, bytes);
    return cudaSuccess;
}
static inline cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t)
{
    return cudaMemset(at, value, bytes);
}
static inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned)
{
    *out = nullptr;
    return cudaSuccess;
}
static inline cudaError_t cudaStreamDestroy(cudaStream_t)
{
    return cudaSuccess;
}
static inline cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return cudaSuccess;
}
static inline cudaError_t cudaStreamBeginCapture(cudaStream_t, int)
{
    return cudaSuccess;
}
static inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *)
{
    return cudaSuccess;
}
static inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *, cudaGraph_t, unsigned long long)
{
    return cudaSuccess;
}
static inline cudaError_t cudaGraphDestroy(cudaGraph_t)
{
    return cudaSuccess;
}
static inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t)
{
    return cudaSuccess;
}
static inline cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t)
{
    return cudaSuccess;
}
static inline cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    *out = new fake_event;
    return cudaSuccess;
}
static inline cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}
static inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t)
{
    event->at = std::chrono::steady_clock::now();
    return cudaSuccess;
}
static inline cudaError_t cudaEventSynchronize(cudaEvent_t)
{
    return cudaSuccess;
}
static inline cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    *ms = std::chrono::duration<float, std::milli>(end->at - begin->at).count();
    return cudaSuccess;
}
static inline cudaError_t cudaGetDeviceCount(int *out)
{
    *out = 1;
    return cudaSuccess;
}
static inline cudaError_t cudaSetDevice(int)
{
    return cudaSuccess;
}
static inline cudaError_t cudaGetDevice(int *out)
{
    *out = 0;
    return cudaSuccess;
}
static inline cudaError_t cudaDeviceGetAttribute(int *out, cudaDeviceAttr which, int)
{
    *out = which == cudaDevAttrL2CacheSize ? FAKE_L2_BYTES : 1000000;
    return cudaSuccess;
}
static inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int)
{
    *out = {};
    snprintf(out->name, sizeof out->name, "the host's runtime");
    out->multiProcessorCount = FAKE_PROCESSORS;
    out->l2CacheSize = FAKE_L2_BYTES;
    out->totalGlobalMem = (size_t)1 << 30;
    return cudaSuccess;
}
static inline cudaError_t cudaDriverGetVersion(int *out)
{
    *out = 0;
    return cudaSuccess;
}
static inline cudaError_t cudaRuntimeGetVersion(int *out)
{
    *out = 0;
    return cudaSuccess;
}

#endif
