/* The pool: a job is published by raising a generation number; each worker runs its piece and counts itself
 * off.
 *
 * Two waits meet here, and both have the same shape: the waiter announces that it sleeps and then looks
 * again, the waker changes the condition and then looks for sleepers. With sequentially consistent atomics at
 * least one of them sees the other, so no wake-up is lost, and the mutex is taken only when somebody really
 * sleeps. */
#include "engine/base/thread_pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/cgroup.h"

/* SPINS pauses are some 50 us: longer than the gap between two kernels of one decode step, much shorter than
 * a scheduler's time slice. */
enum { MAX_THREADS = 1024, SPINS = 1200, MAX_CPUS = 8192, CACHE_LINE = 64 };

struct job {
    thread_pool_fn *fn;
    void *context;
    int64_t n_items, grain, n_units; /* a unit is grain items, the last one perhaps fewer */
    bool dynamic;
};

struct worker {
    struct thread_pool *pool;
    pthread_t handle;
    int32_t thread;
};

struct thread_pool {
    int32_t n_threads;
    int32_t n_started; /* workers that must be joined */
    int32_t spins;     /* 0 when threads outnumber processors: spinning would keep the others from working */
    struct worker *workers;
    struct job job; /* written by the caller while no worker runs, published by generation */
    pthread_mutex_t mutex;
    pthread_cond_t job_posted, job_done;
    /* Each on its own cache line: workers spin on one while others write the next. */
    _Alignas(CACHE_LINE) _Atomic uint64_t generation;
    _Alignas(CACHE_LINE) _Atomic int32_t n_running; /* workers that have not finished this job */
    _Alignas(CACHE_LINE) _Atomic int64_t next_unit; /* dynamic jobs */
    _Alignas(CACHE_LINE) _Atomic int32_t n_sleeping;
    _Atomic bool caller_sleeps, stop;
};

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void run_units(const struct job *job, int64_t first, int64_t last, int32_t thread)
{
    if (first < last) {
        int64_t end = last == job->n_units ? job->n_items : last * job->grain;
        job->fn(job->context, first * job->grain, end, thread);
    }
}

static void run_share(struct thread_pool *pool, int32_t thread)
{
    const struct job *job = &pool->job;
    if (job->dynamic) {
        int64_t unit;
        while ((unit = atomic_fetch_add_explicit(&pool->next_unit, 1, memory_order_relaxed)) < job->n_units) {
            run_units(job, unit, unit + 1, thread);
        }
        return;
    }
    /* The first n_units % n_threads threads get one unit more. */
    int64_t share = job->n_units / pool->n_threads, extra = job->n_units % pool->n_threads;
    int64_t first = thread * share + (thread < extra ? thread : extra);
    run_units(job, first, first + share + (thread < extra), thread);
}

static void wait_for_job(struct thread_pool *pool, uint64_t seen)
{
    for (int32_t spin = 0; spin < pool->spins; spin++) {
        if (atomic_load_explicit(&pool->generation, memory_order_acquire) != seen) {
            return;
        }
        cpu_relax();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->n_sleeping, 1);
    while (atomic_load(&pool->generation) == seen) {
        pthread_cond_wait(&pool->job_posted, &pool->mutex);
    }
    atomic_fetch_sub(&pool->n_sleeping, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void post_job(struct thread_pool *pool)
{
    atomic_fetch_add(&pool->generation, 1);
    if (atomic_load(&pool->n_sleeping) > 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->job_posted);
        pthread_mutex_unlock(&pool->mutex);
    }
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct thread_pool *pool = worker->pool;
    char name[16];
    snprintf(name, sizeof name, "pool-%d", (int)worker->thread);
    pthread_setname_np(pthread_self(), name);
    for (uint64_t seen = 0;; seen++) { /* every worker takes part in every generation */
        wait_for_job(pool, seen);
        if (atomic_load(&pool->stop)) {
            return NULL;
        }
        run_share(pool, worker->thread);
        if (atomic_fetch_sub(&pool->n_running, 1) == 1 && atomic_load(&pool->caller_sleeps)) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->job_done);
            pthread_mutex_unlock(&pool->mutex);
        }
    }
}

static void wait_for_workers(struct thread_pool *pool)
{
    for (int32_t spin = 0; spin < pool->spins; spin++) {
        if (atomic_load_explicit(&pool->n_running, memory_order_acquire) == 0) {
            return;
        }
        cpu_relax();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&pool->n_running) > 0) {
        pthread_cond_wait(&pool->job_done, &pool->mutex);
    }
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->mutex);
}

static void run(struct thread_pool *pool, struct job job)
{
    if (job.n_items <= 0) {
        return;
    }
    job.grain = job.grain < 1 ? 1 : job.grain;
    job.n_units = job.n_items / job.grain + (job.n_items % job.grain != 0);
    if (!pool || pool->n_threads == 1 || job.n_units == 1) {
        job.fn(job.context, 0, job.n_items, 0);
        return;
    }
    pool->job = job;
    atomic_store_explicit(&pool->next_unit, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->n_running, pool->n_threads - 1, memory_order_relaxed);
    post_job(pool);
    run_share(pool, 0);
    wait_for_workers(pool);
}

void thread_pool_run(struct thread_pool *pool, int64_t n_items, int64_t grain, thread_pool_fn *fn,
                     void *context)
{
    run(pool, (struct job){.fn = fn, .context = context, .n_items = n_items, .grain = grain});
}

void thread_pool_run_dynamic(struct thread_pool *pool, int64_t n_items, int64_t grain, thread_pool_fn *fn,
                             void *context)
{
    run(pool,
        (struct job){.fn = fn, .context = context, .n_items = n_items, .grain = grain, .dynamic = true});
}

/* Reads a small text file of the kernel; false if there is none. */
static bool read_line(char *out, size_t size, const char *path)
{
    FILE *file = fopen(path, "re");
    if (!file) {
        return false;
    }
    bool ok = fgets(out, (int)size, file) != NULL;
    fclose(file);
    return ok;
}

/* Processors that count: one for each physical core with at least one processor in the affinity mask. A
 * core's siblings share its multipliers and its cache, and these kernels keep both busy alone. */
static int32_t count_cores(int32_t *n_cpus)
{
    *n_cpus = 0;
    cpu_set_t *set = CPU_ALLOC(MAX_CPUS);
    unsigned char *seen = calloc(MAX_CPUS, 1); /* by the lowest processor of each core */
    int32_t n_cores = 0;
    if (set && seen && sched_getaffinity(0, CPU_ALLOC_SIZE(MAX_CPUS), set) == 0) {
        for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
            if (!CPU_ISSET_S((size_t)cpu, CPU_ALLOC_SIZE(MAX_CPUS), set)) {
                continue;
            }
            char path[96], line[256];
            snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
            long core = read_line(line, sizeof line, path) ? strtol(line, NULL, 10) : cpu;
            if (core < 0 || core >= MAX_CPUS) {
                core = cpu;
            }
            n_cores += !seen[core];
            seen[core] = 1;
            (*n_cpus)++;
        }
    }
    if (set) {
        CPU_FREE(set);
    }
    free(seen);
    if (n_cores == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        *n_cpus = n_cores = online > 0 && online < MAX_THREADS ? (int32_t)online : 1;
    }
    return n_cores;
}

/* The processors that control groups allow, in whole ones, rounded down, for a throttled thread holds up all
 * others; at least 1. */
static int32_t cpu_quota(void)
{
    double quota = cgroup_cpu_quota();
    return quota < 1 ? 1 : quota < INT32_MAX ? (int32_t)quota : INT32_MAX;
}

static int32_t usual_threads(int32_t *n_cpus, int32_t *quota)
{
    int32_t n_cores = count_cores(n_cpus);
    *quota = cpu_quota();
    int32_t n_threads = n_cores < *quota ? n_cores : *quota;
    return n_threads < MAX_THREADS ? n_threads : MAX_THREADS;
}

int32_t thread_pool_usual_threads(void)
{
    int32_t n_cpus, quota;
    return usual_threads(&n_cpus, &quota);
}

enum status thread_pool_open(struct thread_pool **out, int32_t n_threads, struct error *err)
{
    *out = NULL;
    if (n_threads < 0 || n_threads > MAX_THREADS) {
        return error_set(err, STATUS_INVALID, "threads: %d, expected 0 to %d", (int)n_threads,
                         (int)MAX_THREADS);
    }
    int32_t n_cpus, quota, usual = usual_threads(&n_cpus, &quota);
    n_threads = n_threads ? n_threads : usual;
    struct thread_pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
    struct worker *workers = calloc((size_t)n_threads, sizeof *workers);
    if (!pool || !workers) {
        free(pool);
        free(workers);
        return error_set(err, STATUS_NO_MEMORY, "thread pool: out of memory");
    }
    memset(pool, 0, sizeof *pool);
    pool->n_threads = n_threads;
    pool->spins = n_threads <= n_cpus && n_threads <= quota ? SPINS : 0;
    pool->workers = workers;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->job_posted, NULL);
    pthread_cond_init(&pool->job_done, NULL);
    /* Workers take no signals: the thread that waits for SIGTERM must get it. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failure = 0;
    for (int32_t t = 1; t < n_threads && !failure; t++) {
        workers[t] = (struct worker){.pool = pool, .thread = t};
        failure = pthread_create(&workers[t].handle, NULL, worker_main, &workers[t]);
        pool->n_started += !failure;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (failure) {
        int32_t n_started = pool->n_started;
        thread_pool_close(pool);
        return error_set(err, STATUS_NO_MEMORY, "thread pool: only %d of %d threads could start: %s",
                         (int)n_started + 1, (int)n_threads, strerror(failure));
    }
    *out = pool;
    return STATUS_OK;
}

void thread_pool_close(struct thread_pool *pool)
{
    if (!pool) {
        return;
    }
    atomic_store(&pool->stop, true);
    post_job(pool);
    for (int32_t t = 1; t <= pool->n_started; t++) {
        pthread_join(pool->workers[t].handle, NULL);
    }
    pthread_cond_destroy(&pool->job_posted);
    pthread_cond_destroy(&pool->job_done);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->workers);
    free(pool);
}

int32_t thread_pool_n_threads(const struct thread_pool *pool)
{
    return pool ? pool->n_threads : 1;
}
