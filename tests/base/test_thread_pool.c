/* Every item once, on the thread that the static split says. */
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <string.h>

#include "engine/base/thread_pool.h"

enum { MAX_ITEMS = 1000 };

struct record {
    _Atomic int32_t runs[MAX_ITEMS];
    int32_t thread[MAX_ITEMS];
    int64_t grain, n_items;
    _Atomic int32_t n_unaligned;
};

static void note(void *context, int64_t begin, int64_t end, int32_t thread)
{
    struct record *record = context;
    if (begin % record->grain || (end % record->grain && end != record->n_items)) {
        atomic_fetch_add(&record->n_unaligned, 1);
    }
    for (int64_t i = begin; i < end; i++) {
        atomic_fetch_add(&record->runs[i], 1);
        record->thread[i] = thread;
    }
}

static void check_once(struct thread_pool *pool, int64_t n_items, int64_t grain, bool dynamic,
                       struct record *record)
{
    memset(record, 0, sizeof *record);
    record->grain = grain;
    record->n_items = n_items;
    if (dynamic) {
        thread_pool_run_dynamic(pool, n_items, grain, note, record);
    } else {
        thread_pool_run(pool, n_items, grain, note, record);
    }
    cr_assert_eq(record->n_unaligned, 0);
    for (int64_t i = 0; i < MAX_ITEMS; i++) {
        cr_assert_eq(record->runs[i], i < n_items, "%d of %d, grain %d", (int)i, (int)n_items, (int)grain);
        cr_assert(record->thread[i] >= 0 && record->thread[i] < thread_pool_n_threads(pool));
    }
}

Test(thread_pool, every_item_runs_once)
{
    static struct record record;
    for (int32_t n_threads = 0; n_threads <= 9; n_threads += 3) {
        struct thread_pool *pool;
        cr_assert_eq(thread_pool_open(&pool, n_threads, NULL), STATUS_OK);
        cr_assert(n_threads == 0 ? thread_pool_n_threads(pool) >= 1
                                 : thread_pool_n_threads(pool) == n_threads);
        for (int64_t n_items = 0; n_items <= MAX_ITEMS; n_items += n_items < 20 ? 1 : 245) {
            for (int64_t grain = 1; grain <= 64; grain += 9) {
                check_once(pool, n_items, grain, false, &record);
                check_once(pool, n_items, grain, true, &record);
            }
        }
        thread_pool_close(pool);
    }
}

Test(thread_pool, the_static_split_is_the_same_each_time_and_contiguous)
{
    static struct record first, again;
    struct thread_pool *pool;
    cr_assert_eq(thread_pool_open(&pool, 4, NULL), STATUS_OK);
    for (int64_t grain = 1; grain <= 33; grain += 8) {
        check_once(pool, 997, grain, false, &first);
        for (int run = 0; run < 20; run++) {
            check_once(pool, 997, grain, false, &again);
            cr_assert_eq(memcmp(first.thread, again.thread, sizeof first.thread), 0);
        }
        for (int i = 1; i < 997; i++) {
            cr_assert(first.thread[i] == first.thread[i - 1] || first.thread[i] == first.thread[i - 1] + 1);
        }
        cr_assert_eq(first.thread[996], 3);
    }
    thread_pool_close(pool);
}

Test(thread_pool, many_short_jobs, .timeout = 60)
{
    static struct record record;
    struct thread_pool *pool;
    cr_assert_eq(thread_pool_open(&pool, 3, NULL), STATUS_OK);
    record.grain = 1;
    record.n_items = 3;
    for (int run = 0; run < 20000; run++) {
        thread_pool_run(pool, 3, 1, note, &record);
    }
    cr_assert(record.runs[0] == 20000 && record.runs[1] == 20000 && record.runs[2] == 20000);
    thread_pool_close(pool);
}

static void sum_range(void *context, int64_t begin, int64_t end, int32_t thread)
{
    (void)thread;
    atomic_fetch_add((_Atomic int64_t *)context, end - begin);
}

Test(thread_pool, edges)
{
    static struct record record;
    struct error err;
    struct thread_pool *pool;
    check_once(NULL, 100, 7, false, &record); /* no pool: inline */
    check_once(NULL, 100, 7, true, &record);
    cr_assert_eq(thread_pool_n_threads(NULL), 1);
    thread_pool_close(NULL);
    cr_assert_eq(thread_pool_open(&pool, -1, &err), STATUS_INVALID);
    cr_assert_null(pool);
    cr_assert_eq(thread_pool_open(&pool, 1 << 20, &err), STATUS_INVALID);
    /* Counts near the end of the type: no overflow in the split. */
    _Atomic int64_t sum = 0;
    cr_assert_eq(thread_pool_open(&pool, 3, NULL), STATUS_OK);
    thread_pool_run(pool, INT64_MAX, 1, sum_range, &sum);
    cr_assert_eq(sum, INT64_MAX);
    sum = 0;
    thread_pool_run_dynamic(pool, INT64_MAX, INT64_MAX / 2, sum_range, &sum);
    cr_assert_eq(sum, INT64_MAX);
    thread_pool_close(pool);
}
