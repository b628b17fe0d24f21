/* A device that fails: every allocation, copy, launch and wait of opening an engine and of its first tokens
 * in turn. Nothing may crash, leak (address sanitizer) or hang; opening gives an error that says something,
 * and an engine that runs ends its sequences with FINISH_ERROR, refuses others and says so. The table of
 * kernels goes through here by the linker's --wrap. */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/device.h"
#include "tests/cuda/check_count.h"
#include "tests/fixtures.h"

/* ---- the table that fails ---- */

static struct cuda_kernels real;
static atomic_int n_calls, fail_at; /* the call of that number, from 1; 0: none */

static bool fails(void)
{
    return atomic_fetch_add(&n_calls, 1) + 1 == atomic_load(&fail_at);
}

static enum status failure(struct error *err)
{
    return error_set(err, STATUS_DEVICE, "planted failure");
}

static enum status failing_alloc(void **out, size_t bytes, const char *what, struct error *err)
{
    *out = NULL;
    return fails() ? error_set(err, STATUS_NO_MEMORY, "%s: planted failure", what)
                   : real.alloc(out, bytes, what, err);
}

static enum status failing_alloc_pinned(void **out, size_t bytes, const char *what, struct error *err)
{
    *out = NULL;
    return fails() ? error_set(err, STATUS_NO_MEMORY, "%s: planted failure", what)
                   : real.alloc_pinned(out, bytes, what, err);
}

static enum status failing_upload(const struct cuda_device *device, void *to, const void *from, size_t bytes,
                                  struct error *err)
{
    return fails() ? failure(err) : real.upload(device, to, from, bytes, err);
}

static enum status failing_download(const struct cuda_device *device, void *to, const void *from,
                                    size_t bytes, struct error *err)
{
    return fails() ? failure(err) : real.download(device, to, from, bytes, err);
}

static enum status failing_wait(const struct cuda_device *device, struct error *err)
{
    return fails() ? failure(err) : real.wait(device, err);
}

static enum status failing_axpy(float *h, int64_t h_stride, const float *y, int64_t y_stride, float a,
                                int32_t n, int32_t n_tokens, void *stream, struct error *err)
{
    return fails() ? failure(err) : real.axpy(h, h_stride, y, y_stride, a, n, n_tokens, stream, err);
}

static enum status failing_sample(int32_t *tokens, const float *logits, int64_t logits_stride,
                                  int32_t n_vocab, const struct cuda_sample_row *rows, int32_t n_rows,
                                  void *stream, struct error *err)
{
    return fails() ? failure(err)
                   : real.sample(tokens, logits, logits_stride, n_vocab, rows, n_rows, stream, err);
}

enum status __real_kernels_init_cuda(struct cuda_kernels *k, struct cuda_device *device, int32_t index,
                                     struct error *err);
enum status __wrap_kernels_init_cuda(struct cuda_kernels *k, struct cuda_device *device, int32_t index,
                                     struct error *err);

enum status __wrap_kernels_init_cuda(struct cuda_kernels *k, struct cuda_device *device, int32_t index,
                                     struct error *err)
{
    enum status status = __real_kernels_init_cuda(k, device, index, err);
    real = *k;
    k->alloc = failing_alloc;
    k->alloc_pinned = failing_alloc_pinned;
    k->upload = failing_upload;
    k->download = failing_download;
    k->wait = failing_wait;
    k->axpy = failing_axpy;
    k->sample = failing_sample;
    return status;
}

/* ---- the checks ---- */

static struct engine *open_engine(const char *folder, enum device_choice device, struct error *err)
{
    struct engine_options options;
    struct engine *engine;
    engine_options_init(&options);
    options.model_dir = folder;
    options.device = device;
    options.n_threads = 2;
    options.max_running = 2;
    options.max_model_len = 64;
    options.prefill_chunk = 16;
    *err = (struct error){0};
    enum status status = engine_open(&engine, &options, err);
    CHECK(!status == (engine != NULL), "engine_open gives %d and an engine or none", (int)status);
    return engine;
}

/* Why a sequence of three tokens ended; FINISH_NONE: it was refused. */
static enum finish_reason run_one(struct engine *engine)
{
    static const int32_t ids[] = {1, 5, 9};
    struct generate_params params;
    struct request *request;
    struct token_event event = {.reason = FINISH_NONE};
    struct error err = {0};
    generate_params_init(&params);
    params.max_tokens = 3;
    params.ignore_eos = true;
    if (engine_submit(engine, &params, ids, 3, NULL, NULL, &request, &err)) {
        CHECK(err.status == STATUS_DEVICE && *err.message, "refused with %d: %s", (int)err.status,
              err.message);
        return FINISH_NONE;
    }
    while (request_wait(request, &event, -1) && event.kind != EVENT_FINISHED) {
    }
    request_release(request);
    return event.reason;
}

/* Whether the device was asked less often than fail_at says. */
static bool round_of(const char *folder, int call)
{
    struct error err;
    struct engine_stats stats;
    atomic_store(&n_calls, 0);
    atomic_store(&fail_at, call);
    struct engine *engine = open_engine(folder, DEVICE_CUDA, &err);
    if (!engine) {
        CHECK(err.status == STATUS_DEVICE || err.status == STATUS_NO_MEMORY, "call %d: status %d", call,
              (int)err.status);
        CHECK(strstr(err.message, "planted failure"), "call %d: %s", call, err.message);
        return false;
    }
    enum finish_reason first = run_one(engine);
    engine_get_stats(engine, &stats);
    const bool reached = atomic_load(&n_calls) >= call;
    CHECK(first == (reached ? FINISH_ERROR : FINISH_LENGTH), "call %d: ended with %d", call, (int)first);
    CHECK(stats.device_failed == reached, "call %d: the device has %s failed", call, reached ? "" : "not");
    atomic_store(&fail_at, 0);
    CHECK(run_one(engine) == (reached ? FINISH_NONE : FINISH_LENGTH), "call %d: the next sequence", call);
    engine_close(engine);
    return !reached;
}

int main(int argc, char **argv)
{
    char folder[4096];
    struct error err;
    if (!fixture_path(folder, sizeof folder, argc > 1 ? argv[1] : "stories260K")) {
        return EXIT_SKIPPED;
    }
    log_configure(LOG_FORMAT_TEXT, LOG_ERROR, fopen("/dev/null", "w"));
    int call = 1;
    while (call < 2000 && !n_failures && !round_of(folder, call)) {
        call++;
    }
    /* With auto a device that cannot be opened is none. */
    atomic_store(&n_calls, 0);
    atomic_store(&fail_at, 1);
    struct engine *engine = open_engine(folder, DEVICE_AUTO, &err);
    CHECK(engine && run_one(engine) == FINISH_LENGTH && !strcmp(engine_get_info(engine)->device, "cpu"), "%s",
          err.message);
    engine_close(engine);
    fprintf(stderr, "failures: %d calls of the device, %d checks, %d failures\n", call - 1, n_checks,
            n_failures);
    return n_failures > 0 || call < 20;
}
