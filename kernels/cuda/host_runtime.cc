/* The host's half of simt.h: blocks run one after another, the threads of a block as fibers of one system
 * thread. A pass runs every fiber that can go on, in an order drawn anew, up to its next barrier or warp
 * operation; so what one thread may see of another without a barrier changes from pass to pass. Shared memory
 * starts as NaN bytes and copies in the background happen as late as they may.
 *
 * Under thread sanitizer each fiber is a thread of its own and only barriers and fences order them; this file
 * itself must then be compiled without it (-fno-sanitize=thread -DSIMT_TSAN). What a kernel does wrong ends
 * the launch with a message; fibers that wait are abandoned where they stand. */
#include "kernels/cuda/host_lanes.h"
#include "kernels/cuda/simt.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "engine/base/float16.h"

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif
#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SIMT_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#if !defined(__x86_64__) || defined(SIMT_UCONTEXT)
#define SIMT_USES_UCONTEXT 1
#include <ucontext.h>
#endif

struct simt_host_ids simt_host_ids;

namespace
{

enum {
    MAX_THREADS = 1024, /* of a block; the limits of every card that is built for */
    MAX_STATIC_SHARED = 48 * 1024,
    MAX_DYNAMIC_SHARED = 227 * 1024,
    STATIC_GAP = 128, /* between static arrays, which start at such boundaries too */
    MAX_COPIES = 512, /* of one thread under way */
    STACK_BYTES = 256 * 1024,
    MESSAGE_BYTES = 2048,
};

enum fiber_state { READY, AT_BARRIER, AT_WARP, DONE };

/* A call in the source. */
struct site {
    const char *what, *file;
    int line;
};

bool same_site(const site &a, const site &b)
{
    return a.line == b.line && strcmp(a.what, b.what) == 0 && strcmp(a.file, b.file) == 0;
}

#ifdef SIMT_USES_UCONTEXT
typedef ucontext_t machine_context;
#else
typedef void *machine_context; /* the stack pointer; the registers lie on the stack */
#endif

struct queued_copy {
    struct simt_host_copy copy;
    int64_t group;
};

struct fiber {
    machine_context context;
    uint8_t *stack; /* STACK_BYTES; kept from block to block, but for thread sanitizer */
    fiber_state state;
    site waits_at;
    void *lane_arguments;
    std::vector<queued_copy> copies; /* oldest first; memory reserved once */
    size_t next_copy;
    int64_t group; /* the open one */
    void *tsan;
    void *fake_stack;
};

/* A barrier of a block or a warp, or an operation of a warp: whoever comes first says where. Consecutive ones
 * use two sanitizer objects in turn, so that a thread that leaves late does not learn of what others did
 * since. */
struct meeting {
    site where;
    int32_t n_arrived;
    unsigned turn;
    uint64_t *sync; /* two; only their addresses count */
};

typedef std::map<std::pair<const char *, int>, std::vector<uintptr_t>[SIMT_WARP]> load_map;

struct warp {
    struct meeting meeting;
    load_map loads, wide_loads; /* addresses in the order of each lane's reads at a call, by width */
};

struct runtime {
    uint64_t random;
    const struct simt_grid *grid;
    void (*body)(void *);
    void *body_context;
    std::vector<fiber> fibers; /* made once, as many as the largest block had */
    std::vector<struct warp> warps;
    struct meeting barrier;
    fiber *running; /* NULL: the scheduler */
    machine_context scheduler;
    uint8_t *static_shared, *dynamic_shared;
    uint64_t *sync;                                             /* two for the block, two a warp */
    std::vector<std::pair<const void *, size_t>> static_arrays; /* key, where */
    size_t static_used;
    bool failed;
    char message[MESSAGE_BYTES];
    struct simt_host_loads loads;
    bool copy_early;
    int32_t time_limit;
    volatile sig_atomic_t quiet_seconds;
    void *scheduler_tsan;
    void *janitor_tsan; /* frees what blocks used, see block_finish */
    void *scheduler_fake_stack;
    const void *scheduler_stack;
    size_t scheduler_stack_bytes;
    uint64_t finish_sync, fence_sync;
} rt = {};

uint64_t random_next(void)
{
    uint64_t z = (rt.random += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

template <class T> void shuffle(std::vector<T> &items)
{
    for (size_t i = items.size(); i > 1; i--) {
        std::swap(items[i - 1], items[random_next() % i]);
    }
}

/* -- sanitizers: nothing where they are off -- */

void sync_release(uint64_t *object)
{
#ifdef SIMT_TSAN
    __tsan_release(object);
#endif
    (void)object;
}

void sync_acquire(uint64_t *object)
{
#ifdef SIMT_TSAN
    __tsan_acquire(object);
#endif
    (void)object;
}

void poison(const void *memory, size_t bytes)
{
#ifdef SIMT_ASAN
    __asan_poison_memory_region(memory, bytes);
#endif
    (void)memory;
    (void)bytes;
}

void unpoison(const void *memory, size_t bytes)
{
#ifdef SIMT_ASAN
    __asan_unpoison_memory_region(memory, bytes);
#endif
    (void)memory;
    (void)bytes;
}

/* -- fibers -- */

#ifndef SIMT_USES_UCONTEXT
extern "C" void simt_host_switch(void **save, void *resume);
/* Saves what a call must keep on this stack and goes on on the other one. */
asm(R"(
    .pushsection .text
    .globl simt_host_switch
    .type simt_host_switch, @function
simt_host_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_host_switch, .-simt_host_switch
    .popsection
)");
#endif

void context_switch(machine_context *save, machine_context *resume)
{
#ifdef SIMT_USES_UCONTEXT
    swapcontext(save, resume);
#else
    simt_host_switch(save, *resume);
#endif
}

void to_scheduler(fiber *self)
{
    sync_release(&rt.finish_sync); /* it may be the last time */
#ifdef SIMT_ASAN
    __sanitizer_start_switch_fiber(self->state == DONE ? nullptr : &self->fake_stack, rt.scheduler_stack,
                                   rt.scheduler_stack_bytes);
#endif
#ifdef SIMT_TSAN
    __tsan_switch_to_fiber(rt.scheduler_tsan, __tsan_switch_to_fiber_no_sync);
#endif
    context_switch(&self->context, &rt.scheduler);
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(self->fake_stack, nullptr, nullptr);
#endif
}

void to_fiber(fiber *next)
{
    int32_t thread = (int32_t)(next - rt.fibers.data());
    rt.running = next;
    rt.quiet_seconds = 0;
    simt_host_ids.thread = thread;
#ifdef SIMT_ASAN
    __sanitizer_start_switch_fiber(&rt.scheduler_fake_stack, next->stack, STACK_BYTES);
#endif
#ifdef SIMT_TSAN
    __tsan_switch_to_fiber(next->tsan, __tsan_switch_to_fiber_no_sync);
#endif
    context_switch(&rt.scheduler, &next->context);
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(rt.scheduler_fake_stack, nullptr, nullptr);
#endif
    rt.running = nullptr;
}

/* Ends the launch: the first message stays. */
__attribute__((format(printf, 1, 2))) void fail(const char *format, ...)
{
    if (!rt.failed) {
        char text[MESSAGE_BYTES - 256];
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        if (rt.running) {
            snprintf(rt.message, sizeof rt.message, "%s: block %d, thread %d: %s", rt.grid->name,
                     simt_host_ids.block, simt_host_ids.thread, text);
        } else {
            snprintf(rt.message, sizeof rt.message, "%s: block %d: %s", rt.grid->name, simt_host_ids.block,
                     text);
        }
        rt.failed = true;
    }
    if (rt.running) {
        for (;;) { /* the scheduler does not come back */
            to_scheduler(rt.running);
        }
    }
}

void fiber_main(void)
{
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &rt.scheduler_stack, &rt.scheduler_stack_bytes);
#endif
    fiber *self = rt.running;
    rt.body(rt.body_context);
    if (self->next_copy < self->copies.size()) {
        fail("ends with %zu asynchronous copies that were never waited for",
             self->copies.size() - self->next_copy);
    }
    self->state = DONE;
    to_scheduler(self);
    abort(); /* nobody resumes a fiber that is done */
}

/* A stack behind a page that faults; NULL without memory. */
uint8_t *stack_make(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *memory = mmap(nullptr, page + STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        return nullptr;
    }
    if (mprotect(memory, page, PROT_NONE)) {
        munmap(memory, page + STACK_BYTES);
        return nullptr;
    }
    return (uint8_t *)memory + page;
}

void fiber_start(fiber *f)
{
    unpoison(f->stack, STACK_BYTES);
    f->copies.reserve(MAX_COPIES);
    f->state = READY;
    f->copies.clear();
    f->next_copy = 0;
    f->group = 0;
    f->fake_stack = nullptr;
#ifdef SIMT_TSAN
    f->tsan = __tsan_create_fiber(0);
#endif
#ifdef SIMT_USES_UCONTEXT
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK_BYTES;
    f->context.uc_link = nullptr;
    makecontext(&f->context, fiber_main, 0);
#else
    /* As simt_host_switch left it, ready to return into fiber_main with the stack as behind a call. */
    void **top = (void **)(f->stack + STACK_BYTES);
    *--top = nullptr; /* what fiber_main sees as its return address */
    *--top = (void *)fiber_main;
    for (int i = 0; i < 6; i++) {
        *--top = nullptr;
    }
    f->context = top;
#endif
}

void fiber_finish(fiber *f)
{
#ifdef SIMT_TSAN
    if (f->tsan) {
        __tsan_destroy_fiber(f->tsan);
    }
#endif
    f->tsan = nullptr;
}

/* -- meetings -- */

/* True for the one that completes the meeting; everybody still has to wait_at. */
bool arrive(struct meeting *m, int32_t n_expected, const site &where, const char *who)
{
    if (m->n_arrived && !same_site(m->where, where)) {
        fail("divergent %s: it is at %s (%s:%d) while others of its %s are at %s (%s:%d)", where.what,
             where.what, where.file, where.line, who, m->where.what, m->where.file, m->where.line);
    }
    m->where = where;
    return ++m->n_arrived == n_expected;
}

/* Lets [begin, end) go on, all of whom wait except the one who says so. */
void release(struct meeting *m, int32_t begin, int32_t end)
{
    m->n_arrived = 0;
    for (int32_t i = begin; i < end; i++) {
        rt.fibers[(size_t)i].state = READY;
    }
}

void meet(struct meeting *m, int32_t begin, int32_t end, fiber_state state, const site &where,
          const char *who)
{
    bool last = arrive(m, end - begin, where, who);
    fiber *self = rt.running;
    unsigned turn = m->turn & 1;
    sync_release(m->sync + turn);
    if (last) {
        release(m, begin, end);
        m->turn++;
    } else {
        self->state = state;
        self->waits_at = where;
    }
    to_scheduler(self);
    sync_acquire(m->sync + turn);
}

/* The warp of the running thread, which must be whole. */
struct warp *own_warp(const site &where, int32_t *first_thread)
{
    int32_t index = simt_host_ids.thread / SIMT_WARP;
    *first_thread = index * SIMT_WARP;
    if (*first_thread + SIMT_WARP > simt_host_ids.n_threads) {
        fail("%s (%s:%d) needs 32 lanes, its warp has %d", where.what, where.file, where.line,
             simt_host_ids.n_threads - *first_thread);
    }
    return &rt.warps[(size_t)index];
}

void collective_run(enum simt_host_op op, const fiber *first)
{
    void *lanes[SIMT_WARP];
    for (int lane = 0; lane < SIMT_WARP; lane++) {
        lanes[lane] = first[lane].lane_arguments;
    }
    simt_host_collective(op, lanes);
}

/* -- bank conflicts -- */

void count_loads(const load_map &loads, int32_t bytes)
{
    for (const auto &entry : loads) {
        for (size_t i = 0;; i++) {
            uintptr_t addresses[SIMT_WARP];
            int32_t n = 0;
            for (const std::vector<uintptr_t> &lane : entry.second) {
                if (i < lane.size()) {
                    addresses[n++] = lane[i];
                }
            }
            if (n == 0) {
                break;
            }
            rt.loads.loads++;
            rt.loads.wavefronts += simt_host_wavefronts(addresses, n, bytes);
            rt.loads.ideal += (n * bytes + SIMT_HOST_BANKS * 4 - 1) / (SIMT_HOST_BANKS * 4);
        }
    }
}

/* -- blocks -- */

/* "3-7, 9" */
void print_threads(char *out, size_t size, const std::vector<int32_t> &threads)
{
    size_t used = 0;
    for (size_t i = 0; i < threads.size();) {
        size_t end = i + 1;
        while (end < threads.size() && threads[end] == threads[end - 1] + 1) {
            end++;
        }
        int n = end - i == 1 ? snprintf(out + used, size - used, "%s%d", i ? ", " : "", threads[i])
                             : snprintf(out + used, size - used, "%s%d-%d", i ? ", " : "", threads[i],
                                        threads[end - 1]);
        used += (size_t)n;
        if (used >= size) {
            return;
        }
        i = end;
    }
}

/* Nobody can go on: says who waits where. */
void report_deadlock(int32_t n_threads)
{
    char text[1024] = "deadlock:";
    std::vector<bool> told((size_t)n_threads);
    for (int32_t first = 0; first < n_threads; first++) {
        const fiber &f = rt.fibers[(size_t)first];
        std::vector<int32_t> alike;
        for (int32_t i = first; i < n_threads && !told[(size_t)first]; i++) {
            const fiber &other = rt.fibers[(size_t)i];
            if (other.state == f.state && (f.state == DONE || same_site(other.waits_at, f.waits_at))) {
                told[(size_t)i] = i != first;
                alike.push_back(i);
            }
        }
        if (alike.empty()) {
            continue;
        }
        char threads[256];
        size_t used = strlen(text);
        print_threads(threads, sizeof threads, alike);
        if (f.state == DONE) {
            snprintf(text + used, sizeof text - used, " threads %s have ended;", threads);
        } else {
            snprintf(text + used, sizeof text - used, " threads %s wait in %s at %s:%d;", threads,
                     f.waits_at.what, f.waits_at.file, f.waits_at.line);
        }
    }
    fail("%s", text);
}

void *shared_alloc(size_t bytes)
{
    void *memory = nullptr;
    if (posix_memalign(&memory, STATIC_GAP, bytes ? bytes : 1)) {
        return nullptr;
    }
    memset(memory, 0xff, bytes);
    return memory;
}

/* Memory that the fibers know was there before them: allocated by the scheduler, which made them later, and
 * freed by one who saw them end but never tells anybody: the next block must not count as ordered behind
 * this one. */
bool block_begin(void)
{
    rt.static_shared = (uint8_t *)shared_alloc(MAX_STATIC_SHARED);
    rt.dynamic_shared = (uint8_t *)shared_alloc(rt.grid->shared_bytes);
    rt.sync = (uint64_t *)calloc(2 + 2 * rt.warps.size(), sizeof *rt.sync);
    rt.static_arrays.clear();
    rt.static_used = 0;
    if (!rt.static_shared || !rt.dynamic_shared || !rt.sync) {
        fail("out of memory");
        return false;
    }
    rt.barrier = {};
    rt.barrier.sync = rt.sync;
    for (size_t i = 0; i < rt.warps.size(); i++) {
        rt.warps[i].meeting.sync = rt.sync + 2 + 2 * i;
    }
    poison(rt.static_shared, MAX_STATIC_SHARED);
    for (int32_t i = 0; i < rt.grid->n_threads; i++) {
        fiber *f = &rt.fibers[(size_t)i];
        f->stack = f->stack ? f->stack : stack_make();
        if (!f->stack) {
            fail("no memory for %d stacks", rt.grid->n_threads);
            return false;
        }
        fiber_start(f);
    }
    return true;
}

void block_finish(void)
{
    for (struct warp &warp : rt.warps) {
        count_loads(warp.loads, 4);
        count_loads(warp.wide_loads, 16);
        warp = {};
    }
    for (int32_t i = 0; i < rt.grid->n_threads; i++) {
        fiber_finish(&rt.fibers[(size_t)i]);
    }
    sync_release(&rt.finish_sync);
#ifdef SIMT_TSAN
    __tsan_switch_to_fiber(rt.janitor_tsan, __tsan_switch_to_fiber_no_sync);
    sync_acquire(&rt.finish_sync);
#endif
    if (rt.static_shared) {
        unpoison(rt.static_shared, MAX_STATIC_SHARED);
    }
    free(rt.static_shared);
    free(rt.dynamic_shared);
    free(rt.sync);
#ifdef SIMT_TSAN
    for (fiber &f : rt.fibers) {
        if (f.stack) {
            munmap(f.stack - sysconf(_SC_PAGESIZE), (size_t)sysconf(_SC_PAGESIZE) + STACK_BYTES);
        }
        f.stack = nullptr;
    }
    __tsan_switch_to_fiber(rt.scheduler_tsan, __tsan_switch_to_fiber_no_sync);
#endif
    rt.static_shared = rt.dynamic_shared = nullptr;
}

void block_run(void)
{
    const int32_t n_threads = rt.grid->n_threads;
    std::vector<fiber *> ready;
    while (!rt.failed) {
        bool all_done = true;
        ready.clear();
        for (int32_t i = 0; i < n_threads; i++) {
            fiber *f = &rt.fibers[(size_t)i];
            all_done = all_done && f->state == DONE;
            if (f->state == READY) {
                ready.push_back(f);
            }
        }
        if (all_done) {
            return;
        }
        if (ready.empty()) {
            report_deadlock(n_threads);
            return;
        }
        shuffle(ready);
        for (size_t i = 0; i < ready.size() && !rt.failed; i++) {
            to_fiber(ready[i]);
        }
    }
}

void on_alarm(int)
{
    if (!rt.running || ++rt.quiet_seconds <= rt.time_limit) {
        return;
    }
    char text[256]; /* snprintf of integers and a string: the process ends here, whatever it interrupted */
    int n = snprintf(text, sizeof text, "%s: block %d, thread %d: no barrier or end in %d seconds\n",
                     rt.grid->name, simt_host_ids.block, simt_host_ids.thread, rt.time_limit);
    (void)!write(STDERR_FILENO, text, (size_t)n);
    _exit(3);
}

} // namespace

void simt_host_seed(uint64_t seed)
{
    rt.random = seed;
}

void simt_host_time_limit(int32_t seconds)
{
    struct sigaction action = {};
    struct itimerval every = {};
    rt.time_limit = seconds;
    action.sa_handler = seconds ? on_alarm : SIG_DFL;
    action.sa_flags = SA_RESTART;
    every.it_interval.tv_sec = every.it_value.tv_sec = seconds ? 1 : 0;
    sigaction(SIGALRM, &action, nullptr);
    setitimer(ITIMER_REAL, &every, nullptr);
}

void simt_host_copy_early(bool early)
{
    rt.copy_early = early;
}

struct simt_host_loads simt_host_loads_get(void)
{
    return rt.loads;
}

void simt_host_loads_reset(void)
{
    rt.loads = {};
}

const char *simt_host_run(const struct simt_grid *grid, void (*body)(void *), void *context)
{
    rt.failed = false;
    rt.message[0] = 0;
    rt.grid = grid;
    rt.body = body;
    rt.body_context = context;
    simt_host_ids = {0, grid->n_threads, 0, grid->n_blocks};
    if (grid->n_blocks < 1 || grid->n_threads < 1 || grid->n_threads > MAX_THREADS ||
        grid->shared_bytes > MAX_DYNAMIC_SHARED) {
        fail("a launch of %d blocks of %d threads with %zu bytes of shared memory is beyond the limits (1, 1 "
             "to "
             "%d, %d)",
             grid->n_blocks, grid->n_threads, grid->shared_bytes, MAX_THREADS, MAX_DYNAMIC_SHARED);
        return rt.message;
    }
    if (rt.fibers.size() < (size_t)grid->n_threads) {
        rt.fibers.resize((size_t)grid->n_threads);
    }
    rt.warps.resize((size_t)(grid->n_threads + SIMT_WARP - 1) / SIMT_WARP);
#ifdef SIMT_TSAN
    rt.scheduler_tsan = __tsan_get_current_fiber();
    rt.janitor_tsan = __tsan_create_fiber(0);
#endif
    std::vector<int32_t> blocks((size_t)grid->n_blocks);
    for (int32_t i = 0; i < grid->n_blocks; i++) {
        blocks[(size_t)i] = i;
    }
    shuffle(blocks);
    for (size_t i = 0; i < blocks.size() && !rt.failed; i++) {
        simt_host_ids.block = blocks[i];
        if (block_begin()) {
            block_run();
        }
        block_finish();
    }
    sync_acquire(&rt.finish_sync);
#ifdef SIMT_TSAN
    __tsan_destroy_fiber(rt.janitor_tsan);
#endif
    return rt.failed ? rt.message : nullptr;
}

void *simt_host_shared(const void *key, size_t bytes)
{
    for (const auto &array : rt.static_arrays) {
        if (array.first == key) {
            return rt.static_shared + array.second;
        }
    }
    size_t at = rt.static_used;
    if (bytes > MAX_STATIC_SHARED - at) {
        fail("more than %d bytes of static shared memory", MAX_STATIC_SHARED);
    }
    unpoison(rt.static_shared + at, bytes);
    rt.static_arrays.push_back({key, at});
    rt.static_used = std::min<size_t>(MAX_STATIC_SHARED, (at + bytes + STATIC_GAP) / STATIC_GAP * STATIC_GAP);
    return rt.static_shared + at;
}

void *simt_host_dynamic_shared(void)
{
    return rt.dynamic_shared;
}

void simt_host_barrier(const char *file, int line)
{
    meet(&rt.barrier, 0, simt_host_ids.n_threads, AT_BARRIER, {"barrier", file, line}, "block");
}

void simt_host_warp_barrier(const char *file, int line)
{
    site where = {"warp barrier", file, line};
    int32_t first;
    struct warp *warp = own_warp(where, &first);
    meet(&warp->meeting, first, first + SIMT_WARP, AT_WARP, where, "warp");
}

/* Values pass through the lanes' argument blocks; memory is not ordered, as on the card. */
void simt_host_collective(enum simt_host_op op, void *lane_arguments, const char *file, int line)
{
    static const char *const names[] = {"shuffle", "shuffle_xor", "ballot",       "mma_bf16",
                                        "mma_f16", "mma_s8",      "load_matrices"};
    site where = {names[op], file, line};
    int32_t first;
    struct warp *warp = own_warp(where, &first);
    fiber *self = rt.running;
    self->lane_arguments = lane_arguments;
    if (arrive(&warp->meeting, SIMT_WARP, where, "warp")) {
        collective_run(op, &rt.fibers[(size_t)first]);
        release(&warp->meeting, first, first + SIMT_WARP);
    } else {
        self->state = AT_WARP;
        self->waits_at = where;
    }
    to_scheduler(self);
}

/* Every fence is ordered with every other: more than the card promises, so a missing pair of fences is found
 * and a wrong pairing is not. */
void simt_host_fence(void)
{
    sync_acquire(&rt.fence_sync);
    sync_release(&rt.fence_sync);
}

bool simt_host_copy_queue(void *to, const void *from, const char *file, int line)
{
    fiber *self = rt.running;
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16) {
        fail("an asynchronous copy of 16 bytes from %p to %p is not aligned (%s:%d)", from, to, file, line);
    }
    if (self->next_copy == self->copies.size()) {
        self->copies.clear();
        self->next_copy = 0;
    }
    if (self->copies.size() == MAX_COPIES) {
        fail("more than %d asynchronous copies under way (%s:%d)", MAX_COPIES, file, line);
    }
    self->copies.push_back({{to, from}, self->group});
    return rt.copy_early;
}

void simt_host_copy_commit(void)
{
    rt.running->group++;
}

bool simt_host_copy_next(int32_t n_groups, struct simt_host_copy *out)
{
    fiber *self = rt.running;
    if (self->next_copy == self->copies.size() ||
        self->copies[self->next_copy].group >= self->group - n_groups) {
        return false;
    }
    *out = self->copies[self->next_copy++].copy;
    return true;
}

/* Not counted under thread sanitizer: the lists grow on fibers and are freed by the scheduler. */
void simt_host_load(const void *from, int32_t bytes, const char *file, int line)
{
#ifndef SIMT_TSAN
    struct warp &warp = rt.warps[(size_t)(simt_host_ids.thread / SIMT_WARP)];
    load_map &loads = bytes == 4 ? warp.loads : warp.wide_loads;
    loads[{file, line}][simt_host_ids.thread % SIMT_WARP].push_back((uintptr_t)from);
#endif
    if ((uintptr_t)from % (uintptr_t)bytes) {
        fail("a read of %d bytes of shared memory is not aligned (%s:%d)", bytes, file, line);
    }
}

uint32_t simt_host_prmt(uint32_t low, uint32_t high, uint32_t selector)
{
    uint64_t bytes = (uint64_t)high << 32 | low;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t choice = selector >> 4 * i & 15;
        uint32_t byte = (uint32_t)(bytes >> 8 * (choice & 7)) & 0xff;
        if (choice & 8) {
            byte = byte & 0x80 ? 0xff : 0;
        }
        out |= byte << 8 * i;
    }
    return out;
}

uint32_t simt_host_f16_pair(float low, float high)
{
    return f16_from_f32(low) | (uint32_t)f16_from_f32(high) << 16;
}

uint32_t simt_host_bf16_pair(float low, float high)
{
    return bf16_from_f32(low) | (uint32_t)bf16_from_f32(high) << 16;
}

float simt_host_f16(uint16_t half)
{
    return f16_to_f32(half);
}

/* value + error, where the error is below value's last place, as an f32 that rounds to f16 as the exact sum
 * does: cut to 24 bits with the last one set where anything was cut (rounding to odd keeps which side of a
 * tie the sum is on). */
static float odd_float(double value, double error)
{
    float cut = (float)value;
    if (!(fabs(value) < HUGE_VAL) || ((double)cut == value && error == 0)) {
        return cut;
    }
    double rest = (value - (double)cut) + error; /* exact enough: only its sign counts */
    uint32_t bits = simt_float_bits(cut);
    if (rest != 0 && !(bits & 1)) {
        bool away = cut == 0 || (rest > 0) == (cut > 0);
        if (cut == 0) {
            bits = rest > 0 ? 1 : 0x80000001u;
        } else {
            bits += away ? 1 : (uint32_t)-1;
        }
    }
    return simt_bits_float(bits);
}

static uint16_t f16_fma(uint16_t a, uint16_t b, uint16_t c)
{
    double product = (double)f16_to_f32(a) * f16_to_f32(b), add = f16_to_f32(c); /* exact */
    double sum = product + add;
    double part = sum - product;
    double error = (product - (sum - part)) + (add - part);
    return f16_from_f32(odd_float(sum, error == error ? error : 0));
}

uint32_t simt_host_f16_pair_fma(uint32_t a, uint32_t b, uint32_t c)
{
    return f16_fma((uint16_t)a, (uint16_t)b, (uint16_t)c) |
           (uint32_t)f16_fma((uint16_t)(a >> 16), (uint16_t)(b >> 16), (uint16_t)(c >> 16)) << 16;
}

const char *simt_memory_alloc(void **out, size_t bytes)
{
    *out = nullptr;
    return posix_memalign(out, 256, bytes ? bytes : 1) ? "out of memory" : nullptr;
}

const char *simt_memory_free(void *memory)
{
    free(memory);
    return nullptr;
}

const char *simt_memory_upload(void *device, const void *host, size_t bytes)
{
    memcpy(device, host, bytes);
    return nullptr;
}

const char *simt_memory_download(void *host, const void *device, size_t bytes)
{
    memcpy(host, device, bytes);
    return nullptr;
}
