/* A fixed set of threads that run one job at a time over an index range; the caller works too. Made for short
 * jobs many times a second: workers spin briefly before they sleep. */
#ifndef ENGINE_BASE_THREAD_POOL_H
#define ENGINE_BASE_THREAD_POOL_H

#include <stdint.h>

#include "engine/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct thread_pool;

/* Runs items [begin, end) on thread number `thread` (0 is the caller). */
typedef void thread_pool_fn(void *context, int64_t begin, int64_t end, int32_t thread);

/* The number of physical cores this process may use. */
int32_t thread_pool_usual_threads(void);

/* n_threads counts the caller; 0: the usual number. */
enum status thread_pool_open(struct thread_pool **out, int32_t n_threads, struct error *err);
void thread_pool_close(struct thread_pool *pool);              /* accepts NULL */
int32_t thread_pool_n_threads(const struct thread_pool *pool); /* NULL counts as 1 */

/* Static split: thread t gets one contiguous piece, rounded to multiples of `grain` (>= 1). The same split
 * for the same (n_items, grain, n_threads) every time, so that threads stay on their rows. Returns when all
 * is done. pool may be NULL: runs inline. Not reentrant; one caller at a time. Allocates nothing. */
void thread_pool_run(struct thread_pool *pool, int64_t n_items, int64_t grain, thread_pool_fn *fn,
                     void *context);

/* Dynamic split: threads take `grain` items at a time until none is left (uneven work, such as quantizing).
 */
void thread_pool_run_dynamic(struct thread_pool *pool, int64_t n_items, int64_t grain, thread_pool_fn *fn,
                             void *context);

#ifdef __cplusplus
}
#endif
#endif
