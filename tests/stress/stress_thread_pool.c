/* Thread pool under load, as a plain main because Criterion does not start under thread sanitizer: many short
 * jobs of both splits, with pauses that let the workers fall asleep, pools of several sizes opened and
 * closed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/thread_pool.h"

enum { MAX_ITEMS = 257, N_JOBS = 3000 };

/* Plain counters: the pool alone orders the accesses, and thread sanitizer must agree. */
static int32_t counts[MAX_ITEMS];

static void count_items(void *context, int64_t begin, int64_t end, int32_t thread)
{
    (void)thread;
    int32_t *target = context;
    for (int64_t i = begin; i < end; i++) {
        target[i]++;
    }
}

static int run_pool(int32_t n_threads)
{
    struct thread_pool *pool;
    struct error err;
    if (thread_pool_open(&pool, n_threads, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    uint32_t random_state = 1;
    for (int job = 0; job < N_JOBS; job++) {
        random_state = random_state * 1664525u + 1013904223u;
        int64_t n_items = random_state >> 8 & 0xff, grain = 1 + (random_state >> 16 & 7);
        memset(counts, 0, sizeof counts);
        if (job % 2) {
            thread_pool_run(pool, n_items, grain, count_items, counts);
        } else {
            thread_pool_run_dynamic(pool, n_items, grain, count_items, counts);
        }
        for (int64_t i = 0; i < MAX_ITEMS; i++) {
            if (counts[i] != (i < n_items)) {
                fprintf(stderr, "%d threads, job %d: item %d ran %d times\n", (int)n_threads, job, (int)i,
                        (int)counts[i]);
                return 1;
            }
        }
        if (job % 100 == 0) {
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
    }
    thread_pool_close(pool);
    return 0;
}

int main(void)
{
    static const int32_t sizes[] = {1, 2, 3, 8, 0};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (run_pool(sizes[i])) {
            return 1;
        }
    }
    for (int i = 0; i < 200; i++) { /* closed at once: workers may not even have started */
        struct thread_pool *pool;
        if (thread_pool_open(&pool, 4, NULL)) {
            return 1;
        }
        thread_pool_close(pool);
    }
    puts("thread pool: all items ran once");
    return 0;
}
