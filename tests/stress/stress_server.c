/* The whole server under 64 clients over real sockets, as a plain main because Criterion does not start under
 * thread sanitizer. Every answer in a crowd must be, byte for byte, the one that the request gets alone:
 * beside other requests, beside clients that leave, with a KV cache that is too small for all, with a queue
 * that is full, and while the server shuts down. Alone is not only "one at a time" but another engine: one
 * thread, one sequence in a batch, other chunks. */
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "server/clock.h"
#include "tests/stress/phases.h"

static void make_samples(struct sample **out, const struct settings *settings)
{
    uint64_t random = settings->seed * 2654435769u + 1;
    struct rig rig;
    /* Sizes that no other server of this run has: alone must not depend on them either. */
    rig_open(&rig, settings,
             (const char *const[]){"--threads=1", "--max-running=1", "--prefill-chunk=512",
                                   "--http-threads=1", NULL});
    struct sample *samples = calloc((size_t)settings->n_requests, sizeof *samples);
    if (!samples) {
        abort();
    }
    for (int32_t i = 0; i < settings->n_requests; i++) {
        sample_make(&samples[i], &random, rig.vocab_size);
    }
    struct crowd crowd = {
        .settings = settings, .samples = samples, .n_samples = settings->n_requests, .port = rig.port};
    int64_t begin = clock_now_ns();
    crowd_alone(&crowd);
    struct engine_stats stats;
    engine_get_stats(rig.engine, &stats);
    report("alone: %d requests one at a time in %.1f s, %lld prompt and %lld generated tokens",
           (int)settings->n_requests, clock_ms(clock_now_ns() - begin) * 1e-3, (long long)stats.prompt_tokens,
           (long long)stats.generation_tokens);
    rig_expect_idle(&rig, "alone");
    rig_close(&rig);
    *out = samples;
}

static int usage(void)
{
    fprintf(stderr,
            "stress_server [--n-requests N] [--n-disconnects N] [--clients N] [--phases abcde] [--seed N]\n"
            "              [--model FOLDER] [--no-time-limits]\n");
    return 2;
}

static bool read_settings(struct settings *settings, const char **phases, int argc, char **argv)
{
    static const struct option options[] = {
        {"n-requests", required_argument, NULL, 'n'}, {"n-disconnects", required_argument, NULL, 'd'},
        {"clients", required_argument, NULL, 'c'},    {"phases", required_argument, NULL, 'p'},
        {"seed", required_argument, NULL, 's'},       {"model", required_argument, NULL, 'm'},
        {"no-time-limits", no_argument, NULL, 't'},   {0}};
    int which;
    while ((which = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (which) {
        case 'n':
            settings->n_requests = atoi(optarg);
            break;
        case 'd':
            settings->n_disconnects = atoi(optarg);
            break;
        case 'c':
            settings->n_clients = atoi(optarg);
            break;
        case 'p':
            *phases = optarg;
            break;
        case 's':
            settings->seed = strtoull(optarg, NULL, 10);
            break;
        case 'm':
            settings->model = optarg;
            break;
        case 't':
            settings->check_times = false;
            break;
        default:
            return false;
        }
    }
    return optind == argc && settings->n_requests > 0 && settings->n_clients > 0 &&
           settings->n_disconnects >= 0;
}

int main(int argc, char **argv)
{
    static char folder[4096];
    const char *phases = "abcde", *root = getenv("ANY4_SOURCE_ROOT");
    struct settings settings = {.model = folder,
                                .n_requests = 200,
                                .n_disconnects = 200,
                                .n_clients = 64,
                                .seed = 1,
                                .check_times = true,
                                .patience = 120};
    struct rlimit files;
    snprintf(folder, sizeof folder, "%s/configs/demo-model", root && *root ? root : ".");
    if (!read_settings(&settings, &phases, argc, argv)) {
        return usage();
    }
    signal(SIGPIPE, SIG_IGN);
    phases_block_signals(); /* before any thread exists: the drain is by real signals */
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max; /* both ends of every connection are in this process */
        setrlimit(RLIMIT_NOFILE, &files);
    }
    struct sample *samples;
    make_samples(&samples, &settings);
    struct {
        char name;
        phase_fn *run;
    } all[] = {{'a', phase_crowd},      {'b', phase_disconnects}, {'c', phase_small_cache},
               {'d', phase_full_queue}, {'e', phase_rudeness},    {'e', phase_drain}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (strchr(phases, all[i].name)) {
            all[i].run(&settings, samples);
        }
    }
    for (int32_t i = 0; i < settings.n_requests; i++) {
        sample_finish(&samples[i]);
    }
    free(samples);
    report(n_complaints() ? "FAILED: %d faults" : "stress_server: clean, %d faults", (int)n_complaints());
    return n_complaints() != 0;
}
