/* Many requests at once: enough room, too little KV cache, too short a queue. */
#include "server/clock.h"
#include "tests/stress/phases.h"

static double run_timed(struct crowd *crowd)
{
    int64_t begin = clock_now_ns();
    crowd_run(crowd);
    return clock_ms(clock_now_ns() - begin) * 1e-3;
}

void phase_crowd(const struct settings *settings, struct sample *samples)
{
    struct rig rig;
    struct engine_stats stats;
    rig_open(&rig, settings,
             (const char *const[]){"--threads=2", "--max-running=64", "--prefill-chunk=96",
                                   "--http-threads=2", NULL});
    struct crowd crowd = {.settings = settings,
                          .samples = samples,
                          .n_samples = settings->n_requests,
                          .port = rig.port,
                          .n_clients = settings->n_clients};
    double seconds = run_timed(&crowd);
    engine_get_stats(rig.engine, &stats);
    report("a: %d requests by %d clients in %.1f s: %d exact; %lld steps, %.1f generated tokens a step",
           (int)settings->n_requests, (int)settings->n_clients, seconds, atomic_load(&crowd.n_exact),
           (long long)stats.steps, (double)stats.generation_tokens / (double)stats.steps);
    rig_expect_idle(&rig, "a");
    rig_close(&rig);
}

void phase_small_cache(const struct settings *settings, struct sample *samples)
{
    struct rig rig;
    struct engine_stats stats;
    int32_t n = settings->n_requests < 400 ? settings->n_requests : 400;
    /* One longest sequence and a half: what 64 clients ask for is many times as much. */
    rig_open(&rig, settings,
             (const char *const[]){"--threads=2", "--max-running=64", "--prefill-chunk=160",
                                   "--max-model-len=800", "--kv-cache-tokens=1184", "--stream-interval-ms=5",
                                   NULL});
    struct crowd crowd = {.settings = settings,
                          .samples = samples,
                          .n_samples = n,
                          .port = rig.port,
                          .n_clients = settings->n_clients};
    double seconds = run_timed(&crowd);
    engine_get_stats(rig.engine, &stats);
    report("c: KV cache of %lld tokens: %d requests in %.1f s: %d exact, %lld preemptions",
           (long long)stats.kv_tokens_capacity, (int)n, seconds, atomic_load(&crowd.n_exact),
           (long long)stats.preemptions);
    if (!stats.preemptions) {
        complain("c: the cache was never too small");
    }
    rig_expect_idle(&rig, "c");
    rig_close(&rig);
}

void phase_full_queue(const struct settings *settings, struct sample *samples)
{
    struct rig rig;
    int32_t n = settings->n_requests < 400 ? settings->n_requests : 400;
    rig_open(&rig, settings, (const char *const[]){"--threads=2", "--max-running=4", "--max-queue=4", NULL});
    struct crowd crowd = {.settings = settings,
                          .samples = samples,
                          .n_samples = n,
                          .port = rig.port,
                          .n_clients = settings->n_clients,
                          .refusals = true};
    double seconds = run_timed(&crowd);
    report("d: queue of 4, batch of 4: %d requests in %.1f s: %d exact, 429 was answered %d times", (int)n,
           seconds, atomic_load(&crowd.n_exact), atomic_load(&crowd.n_refused));
    if (!atomic_load(&crowd.n_refused)) {
        complain("d: the queue was never full");
    }
    rig_expect_idle(&rig, "d");
    rig_close(&rig);
}
