/* Restricted CUDA C: everything that a kernel file (.cuh) may use of CUDA. nvcc takes the first half and
 * compiles the kernels for the card; any other C++17 compiler takes the second half, in which every CUDA
 * thread is a fiber of host_runtime.cc, and runs the same files on the processor (docs/cuda.md).
 *
 * Rules for kernel files: nothing of CUDA but through this header; no spin on another block; no reliance on
 * lockstep; block sizes are multiples of 32 where a warp operation is used, and a warp operation is reached
 * by all 32 lanes at the same call. Shuffles and matrix products pass values and order no memory: whoever
 * reads what another thread wrote needs a barrier (simt_warp_barrier within a warp).
 *
 * 16-bit pairs are uint32_t, the element of the lower index in the low half. */
#ifndef KERNELS_CUDA_SIMT_H
#define KERNELS_CUDA_SIMT_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { SIMT_WARP = 32 };

/* How a kernel is started. `name` appears in errors. */
struct simt_grid {
    const char *name;
    int32_t n_blocks;
    int32_t n_threads;   /* of a block */
    size_t shared_bytes; /* dynamic shared memory */
    void *stream;        /* NULL: the default stream; the host has none */
};

/* 16 bytes, aligned, moved by one instruction. */
struct alignas(16) simt_words {
    uint32_t word[4];
};

#ifdef __CUDACC__
/* ---------------------------------------------------------------- the card */

#include <cuda_runtime.h>

#define SIMT_DEVICE                          static __device__ __forceinline__
#define SIMT_DEVICE_MEMBER                   __device__ __forceinline__
#define SIMT_KERNEL(max_threads, min_blocks) static __global__ void __launch_bounds__(max_threads, min_blocks)
#define SIMT_UNROLL                          _Pragma("unroll")
#define SIMT_UNROLL_BY(n)                    SIMT_PRAGMA(unroll n)
#define SIMT_PRAGMA(text)                    _Pragma(#text)
/* An array of a block's shared memory: SIMT_SHARED(float, sums, [8]). */
#define SIMT_SHARED(type, name, extent) __shared__ __align__(128) type name extent
#define SIMT_DYNAMIC_SHARED(name)                                                                            \
    extern __shared__ __align__(128) uint8_t simt_dynamic_shared[];                                          \
    uint8_t *const name = simt_dynamic_shared

/* Starts a kernel; NULL, or what is wrong. */
template <class... Parameters, class... Arguments>
static inline const char *simt_launch(const struct simt_grid &grid, void (*kernel)(Parameters...),
                                      Arguments... arguments)
{
    if (grid.shared_bytes > 48 * 1024) {
        cudaError_t failed = cudaFuncSetAttribute(
            (const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)grid.shared_bytes);
        if (failed) {
            return cudaGetErrorString(failed);
        }
    }
    kernel<<<(unsigned)grid.n_blocks, (unsigned)grid.n_threads, grid.shared_bytes,
             (cudaStream_t)grid.stream>>>(Parameters(arguments)...);
    cudaError_t failed = cudaGetLastError();
    return failed ? cudaGetErrorString(failed) : nullptr;
}

/* Memory of the card; each gives NULL or what is wrong. */
static inline const char *simt_error_text(cudaError_t failed)
{
    return failed ? cudaGetErrorString(failed) : nullptr;
}

static inline const char *simt_memory_alloc(void **out, size_t bytes)
{
    return simt_error_text(cudaMalloc(out, bytes));
}

static inline const char *simt_memory_free(void *memory)
{
    return simt_error_text(cudaFree(memory));
}

static inline const char *simt_memory_upload(void *device, const void *host, size_t bytes)
{
    return simt_error_text(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
}

static inline const char *simt_memory_download(void *host, const void *device, size_t bytes)
{
    return simt_error_text(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
}

/* -- who am I -- */
SIMT_DEVICE int32_t simt_thread(void)
{
    return (int32_t)threadIdx.x;
}

SIMT_DEVICE int32_t simt_n_threads(void)
{
    return (int32_t)blockDim.x;
}

SIMT_DEVICE int32_t simt_block(void)
{
    return (int32_t)blockIdx.x;
}

SIMT_DEVICE int32_t simt_n_blocks(void)
{
    return (int32_t)gridDim.x;
}

/* -- barriers, fences, atomics -- */
SIMT_DEVICE void simt_barrier(void)
{
    __syncthreads();
}

SIMT_DEVICE void simt_warp_barrier(void)
{
    __syncwarp();
}

/* Waits until what the kernel before this one in the stream wrote can be read, where the launch let this one
 * start early. */
SIMT_DEVICE void simt_dependency_wait(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

SIMT_DEVICE void simt_fence(void)
{
    __threadfence();
}

SIMT_DEVICE uint32_t simt_atomic_add(uint32_t *at, uint32_t value)
{
    return atomicAdd(at, value);
}

SIMT_DEVICE uint32_t simt_atomic_max(uint32_t *at, uint32_t value)
{
    return atomicMax(at, value);
}

SIMT_DEVICE uint64_t simt_atomic_min(uint64_t *at, uint64_t value)
{
    static_assert(sizeof(unsigned long long) == sizeof(uint64_t), "CUDA's type for it");
    return atomicMin(reinterpret_cast<unsigned long long *>(at), (unsigned long long)value);
}

/* -- warp operations -- */
SIMT_DEVICE uint32_t simt_shuffle(uint32_t value, int32_t lane)
{
    return __shfl_sync(0xffffffffu, value, lane);
}

SIMT_DEVICE uint32_t simt_shuffle_xor(uint32_t value, int32_t mask)
{
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

SIMT_DEVICE uint32_t simt_ballot(bool predicate)
{
    return __ballot_sync(0xffffffffu, predicate);
}

SIMT_DEVICE int32_t simt_popcount(uint32_t bits)
{
    return __popc(bits);
}

/* d += a b, one 16 x 8 tile a warp, k = 16 (32 for int8): fragments as in the PTX ISA, "Matrix Fragments for
 * mma.m16n8k16" and "mma.m16n8k32". */
SIMT_DEVICE void simt_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

SIMT_DEVICE void simt_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

SIMT_DEVICE void simt_mma_s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* -- bits and 16-bit pairs -- */
/* Four bytes of the eight of (high, low), chosen by the low four nibbles of the selector; bit 3 of a nibble
 * replaces the byte by eight copies of its sign. */
SIMT_DEVICE uint32_t simt_prmt(uint32_t low, uint32_t high, uint32_t selector)
{
    uint32_t out;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(low), "r"(high), "r"(selector));
    return out;
}

/* Place of the lowest bit that is set; bits is not 0. */
SIMT_DEVICE int32_t simt_lowest_bit(uint32_t bits)
{
    return __ffs((int)bits) - 1;
}

/* (a & b) | c in one instruction. */
SIMT_DEVICE uint32_t simt_and_or(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t out;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
    return out;
}

SIMT_DEVICE uint32_t simt_float_bits(float value)
{
    return __float_as_uint(value);
}

SIMT_DEVICE float simt_bits_float(uint32_t bits)
{
    return __uint_as_float(bits);
}

/* a * b rounded by itself: compilers make of a product and a sum one operation where they see both, which two
 * kernels that must agree bit for bit cannot leave to them. */
SIMT_DEVICE float simt_product(float a, float b)
{
    return __fmul_rn(a, b);
}

SIMT_DEVICE uint32_t simt_f16_pair(float low, float high)
{
    uint32_t out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

SIMT_DEVICE uint32_t simt_bf16_pair(float low, float high)
{
    uint32_t out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

SIMT_DEVICE float simt_f16_low(uint32_t pair)
{
    float out;
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l; }" : "=f"(out) : "r"(pair));
    return out;
}

SIMT_DEVICE float simt_f16_high(uint32_t pair)
{
    float out;
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h; }" : "=f"(out) : "r"(pair));
    return out;
}

/* a * b + c of both halves, each rounded once. */
SIMT_DEVICE uint32_t simt_f16_pair_fma(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t out;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
    return out;
}

/* a - b of both halves, each rounded once. */
SIMT_DEVICE uint32_t simt_f16_pair_sub(uint32_t a, uint32_t b)
{
    uint32_t out;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
}

/* -- memory -- */
/* 16 bytes to shared memory in the background, or 16 zero bytes where `valid` is false (`from` is then not
 * read). Both ends are 16-byte aligned. */
SIMT_DEVICE void simt_copy_async(void *shared, const void *from, bool valid)
{
    uint32_t to = (uint32_t)__cvta_generic_to_shared(shared), bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

/* Closes a group of copies; a wait leaves at most N_GROUPS of this thread's youngest groups under way. */
SIMT_DEVICE void simt_copy_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N_GROUPS> SIMT_DEVICE void simt_copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N_GROUPS) : "memory");
}

/* Global memory that is read once: weights. */
SIMT_DEVICE simt_words simt_load_stream(const simt_words *from)
{
    uint4 value = __ldcs((const uint4 *)from);
    return {{value.x, value.y, value.z, value.w}};
}

SIMT_DEVICE uint32_t simt_load_stream(const uint32_t *from)
{
    return __ldcs(from);
}

/* Reads of shared memory whose bank conflicts count: tables and operands. */
SIMT_DEVICE uint32_t simt_load_shared(const uint32_t *from)
{
    return *from;
}

SIMT_DEVICE simt_words simt_load_shared(const simt_words *from)
{
    uint4 value = *(const uint4 *)from;
    return {{value.x, value.y, value.z, value.w}};
}

/* Four 8 x 8 matrices of 16-bit elements, transposed: row r of matrix i are the 16 bytes of shared memory
 * that lane 8 i + r points to; word i of lane 4 g + t is elements (2 t, g) and (2 t + 1, g) of matrix i. Two
 * of them are a B fragment of m16n8k16 whose k runs down the rows. */
SIMT_DEVICE simt_words simt_load_matrices(const simt_words *row)
{
    simt_words out;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out.word[0]), "=r"(out.word[1]), "=r"(out.word[2]), "=r"(out.word[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
    return out;
}

#else
/* ---------------------------------------------------------------- the host */

#define SIMT_DEVICE                          static inline
#define SIMT_DEVICE_MEMBER                   inline
#define SIMT_KERNEL(max_threads, min_blocks) static void
#define SIMT_UNROLL
#define SIMT_UNROLL_BY(n)
#define SIMT_SHARED(type, name, extent)                                                                      \
    static const char name##_key = 0;                                                                        \
    using name##_type = type extent;                                                                         \
    name##_type &name = *static_cast<name##_type *>(simt_host_shared(&name##_key, sizeof(name##_type)))
#define SIMT_DYNAMIC_SHARED(name) uint8_t *const name = static_cast<uint8_t *>(simt_host_dynamic_shared())

/* Where an operation stands in the source: defaulted by every call. */
#define SIMT_SITE                 const char *file = __builtin_FILE(), int line = __builtin_LINE()

/* -- the runtime's own controls -- */
/* What the order of fibers, and of blocks, is drawn from. */
void simt_host_seed(uint64_t seed);
/* A kernel that runs longer than this between two points of synchronisation ends the process with a message;
 * 0: never. */
void simt_host_time_limit(int32_t seconds);
/* Copies of simt_copy_async are made when a wait demands them. With `early` they are made at once as well, as
 * a card may: who still reads what stood there before then reads what comes. */
void simt_host_copy_early(bool early);
/* Reads of shared memory through simt_load_shared since the last reset: how many of a warp's reads, how many
 * wavefronts (passes over the banks) they took and how many they would take without conflicts. */
struct simt_host_loads {
    int64_t loads, wavefronts, ideal;
};
struct simt_host_loads simt_host_loads_get(void);
void simt_host_loads_reset(void);

/* -- called by what stands below -- */
struct simt_host_ids {
    int32_t thread, n_threads, block, n_blocks;
};
extern struct simt_host_ids simt_host_ids;
struct simt_host_copy {
    void *to;
    const void *from; /* NULL: zeros */
};
/* Argument blocks of the warp operations; one a lane. */
struct simt_host_shuffle {
    uint32_t value, out;
    int32_t lane;
};
struct simt_host_mma {
    void *d;
    const uint32_t *a, *b;
};
struct simt_host_rows {
    const simt_words *row, *rows[8]; /* this lane's; those of which it gets elements, two a matrix */
};
enum simt_host_op {
    SIMT_HOST_SHUFFLE,
    SIMT_HOST_SHUFFLE_XOR,
    SIMT_HOST_BALLOT,
    SIMT_HOST_MMA_BF16,
    SIMT_HOST_MMA_F16,
    SIMT_HOST_MMA_S8,
    SIMT_HOST_ROWS,
};

const char *simt_host_run(const struct simt_grid *grid, void (*body)(void *context), void *context);
void *simt_host_shared(const void *key, size_t bytes);
void *simt_host_dynamic_shared(void);
void simt_host_barrier(const char *file, int line);
void simt_host_warp_barrier(const char *file, int line);
void simt_host_collective(enum simt_host_op op, void *lane_arguments, const char *file, int line);
void simt_host_fence(void);
/* True: to be made now, too. */
bool simt_host_copy_queue(void *to, const void *from, const char *file, int line);
void simt_host_copy_commit(void);
/* The next copy that a wait for all but n_groups makes; false when it is done. */
bool simt_host_copy_next(int32_t n_groups, struct simt_host_copy *out);
void simt_host_load(const void *from, int32_t bytes, const char *file, int line);
uint32_t simt_host_prmt(uint32_t low, uint32_t high, uint32_t selector);
uint32_t simt_host_f16_pair(float low, float high);
uint32_t simt_host_bf16_pair(float low, float high);
float simt_host_f16(uint16_t half);
uint32_t simt_host_f16_pair_fma(uint32_t a, uint32_t b, uint32_t c);
const char *simt_memory_alloc(void **out, size_t bytes);
const char *simt_memory_free(void *memory);
const char *simt_memory_upload(void *device, const void *host, size_t bytes);
const char *simt_memory_download(void *host, const void *device, size_t bytes);

template <class... Parameters, class... Arguments>
static inline const char *simt_launch(const struct simt_grid &grid, void (*kernel)(Parameters...),
                                      Arguments... arguments)
{
    auto body = [&] { kernel(Parameters(arguments)...); };
    return simt_host_run(
        &grid, [](void *context) { (*static_cast<decltype(body) *>(context))(); }, &body);
}

SIMT_DEVICE int32_t simt_thread(void)
{
    return simt_host_ids.thread;
}

SIMT_DEVICE int32_t simt_n_threads(void)
{
    return simt_host_ids.n_threads;
}

SIMT_DEVICE int32_t simt_block(void)
{
    return simt_host_ids.block;
}

SIMT_DEVICE int32_t simt_n_blocks(void)
{
    return simt_host_ids.n_blocks;
}

SIMT_DEVICE void simt_barrier(SIMT_SITE)
{
    simt_host_barrier(file, line);
}

SIMT_DEVICE void simt_warp_barrier(SIMT_SITE)
{
    simt_host_warp_barrier(file, line);
}

SIMT_DEVICE void simt_dependency_wait(void)
{
}

SIMT_DEVICE void simt_fence(void)
{
    simt_host_fence();
}

SIMT_DEVICE uint32_t simt_atomic_add(uint32_t *at, uint32_t value)
{
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

SIMT_DEVICE uint32_t simt_atomic_max(uint32_t *at, uint32_t value)
{
    uint32_t old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (old < value &&
           !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

SIMT_DEVICE uint64_t simt_atomic_min(uint64_t *at, uint64_t value)
{
    uint64_t old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (old > value &&
           !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

SIMT_DEVICE uint32_t simt_shuffle(uint32_t value, int32_t lane, SIMT_SITE)
{
    struct simt_host_shuffle mine = {value, 0, lane};
    simt_host_collective(SIMT_HOST_SHUFFLE, &mine, file, line);
    return mine.out;
}

SIMT_DEVICE uint32_t simt_shuffle_xor(uint32_t value, int32_t mask, SIMT_SITE)
{
    struct simt_host_shuffle mine = {value, 0, mask};
    simt_host_collective(SIMT_HOST_SHUFFLE_XOR, &mine, file, line);
    return mine.out;
}

SIMT_DEVICE uint32_t simt_ballot(bool predicate, SIMT_SITE)
{
    struct simt_host_shuffle mine = {predicate, 0, 0};
    simt_host_collective(SIMT_HOST_BALLOT, &mine, file, line);
    return mine.out;
}

SIMT_DEVICE int32_t simt_popcount(uint32_t bits)
{
    return __builtin_popcount(bits);
}

SIMT_DEVICE void simt_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], SIMT_SITE)
{
    struct simt_host_mma mine = {d, a, b};
    simt_host_collective(SIMT_HOST_MMA_BF16, &mine, file, line);
}

SIMT_DEVICE void simt_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2], SIMT_SITE)
{
    struct simt_host_mma mine = {d, a, b};
    simt_host_collective(SIMT_HOST_MMA_F16, &mine, file, line);
}

SIMT_DEVICE void simt_mma_s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2], SIMT_SITE)
{
    struct simt_host_mma mine = {d, a, b};
    simt_host_collective(SIMT_HOST_MMA_S8, &mine, file, line);
}

SIMT_DEVICE uint32_t simt_prmt(uint32_t low, uint32_t high, uint32_t selector)
{
    return simt_host_prmt(low, high, selector);
}

SIMT_DEVICE int32_t simt_lowest_bit(uint32_t bits)
{
    return __builtin_ctz(bits);
}

SIMT_DEVICE uint32_t simt_and_or(uint32_t a, uint32_t b, uint32_t c)
{
    return (a & b) | c;
}

SIMT_DEVICE uint32_t simt_float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

SIMT_DEVICE float simt_bits_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

SIMT_DEVICE float simt_product(float a, float b)
{
    const volatile float rounded = a * b;
    return rounded;
}

SIMT_DEVICE uint32_t simt_f16_pair(float low, float high)
{
    return simt_host_f16_pair(low, high);
}

SIMT_DEVICE uint32_t simt_bf16_pair(float low, float high)
{
    return simt_host_bf16_pair(low, high);
}

SIMT_DEVICE float simt_f16_low(uint32_t pair)
{
    return simt_host_f16((uint16_t)pair);
}

SIMT_DEVICE float simt_f16_high(uint32_t pair)
{
    return simt_host_f16((uint16_t)(pair >> 16));
}

SIMT_DEVICE uint32_t simt_f16_pair_fma(uint32_t a, uint32_t b, uint32_t c)
{
    return simt_host_f16_pair_fma(a, b, c);
}

SIMT_DEVICE uint32_t simt_f16_pair_sub(uint32_t a, uint32_t b)
{
    return simt_host_f16_pair_fma(b, 0xbc00bc00u, a); /* -1 times b: exact */
}

/* The copying happens here, in the kernel's own translation unit, so that sanitizers see it. */
SIMT_DEVICE void simt_copy_make(const struct simt_host_copy &copy)
{
    simt_words *to = static_cast<simt_words *>(copy.to);
    *to = copy.from ? *static_cast<const simt_words *>(copy.from) : simt_words{};
}

SIMT_DEVICE void simt_copy_async(void *shared, const void *from, bool valid, SIMT_SITE)
{
    const struct simt_host_copy copy = {shared, valid ? from : nullptr};
    if (simt_host_copy_queue(copy.to, copy.from, file, line)) {
        simt_copy_make(copy);
    }
}

SIMT_DEVICE void simt_copy_commit(void)
{
    simt_host_copy_commit();
}

template <int N_GROUPS> SIMT_DEVICE void simt_copy_wait(void)
{
    struct simt_host_copy copy;
    while (simt_host_copy_next(N_GROUPS, &copy)) {
        simt_copy_make(copy);
    }
}

SIMT_DEVICE simt_words simt_load_stream(const simt_words *from)
{
    return *from;
}

SIMT_DEVICE uint32_t simt_load_stream(const uint32_t *from)
{
    return *from;
}

SIMT_DEVICE uint32_t simt_load_shared(const uint32_t *from, SIMT_SITE)
{
    simt_host_load(from, 4, file, line);
    return *from;
}

SIMT_DEVICE simt_words simt_load_shared(const simt_words *from, SIMT_SITE)
{
    simt_host_load(from, 16, file, line);
    return *from;
}

/* Each lane reads for itself, so that sanitizers see who read what. */
SIMT_DEVICE simt_words simt_load_matrices(const simt_words *row, SIMT_SITE)
{
    struct simt_host_rows mine = {row, {}};
    simt_host_load(row, 16, file, line);
    simt_host_collective(SIMT_HOST_ROWS, &mine, file, line);
    simt_words out;
    const int32_t g = simt_host_ids.thread % SIMT_WARP / 4;
    for (int32_t i = 0; i < 4; i++) {
        const uint32_t low = mine.rows[2 * i]->word[g / 2] >> 16 * (g % 2) & 0xffff;
        out.word[i] = low | mine.rows[2 * i + 1]->word[g / 2] >> 16 * (g % 2) << 16;
    }
    return out;
}
#endif

/* ---------------------------------------------------------------- made of the above */

SIMT_DEVICE int32_t simt_lane(void)
{
    return simt_thread() % SIMT_WARP;
}

SIMT_DEVICE int32_t simt_warp(void)
{
    return simt_thread() / SIMT_WARP;
}

SIMT_DEVICE float simt_bf16_low(uint32_t pair)
{
    return simt_bits_float(pair << 16);
}

SIMT_DEVICE float simt_bf16_high(uint32_t pair)
{
    return simt_bits_float(pair & 0xffff0000u);
}

/* Signals that this block's share of something is done and tells how many had done so before. Called by one
 * thread behind a barrier of its block: all that the block wrote is then seen by whoever counts later, and
 * behind a barrier by that one's block. */
SIMT_DEVICE uint32_t simt_arrive(uint32_t *counter)
{
    simt_fence();
    uint32_t before = simt_atomic_add(counter, 1);
    simt_fence();
    return before;
}

#endif
