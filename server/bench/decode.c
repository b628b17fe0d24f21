/* `any4 bench decode`: the engine's own decode speed by batch size, without HTTP. For each batch size as many
 * sequences with random prompts of one length decode side by side; each one's rate counts from its first
 * token to its last, and their sum is the batch's. Medians over repeats, smallest and largest beside them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/calibration.h"
#include "server/command.h"
#include "server/server.h"

enum { MAX_BATCHES = 32 };

struct decode_bench {
    struct engine *engine;
    int32_t vocab_size, n_input, n_output;
    uint64_t state; /* of the prompts' random ids */
};

struct sample {
    double tokens_per_s; /* decode, whole batch */
    double first_ms;     /* submission to the last sequence's first token: the prefill of all */
};

static int32_t random_id(struct decode_bench *bench)
{
    bench->state = bench->state * 6364136223846793005u + 1442695040888963407u;
    /* Not the special ids at the beginning of the vocabulary, where there is room behind them. */
    int32_t first = bench->vocab_size > 16 ? 3 : 0;
    return first + (int32_t)((bench->state >> 33) % (uint64_t)(bench->vocab_size - first));
}

static enum status submit(struct decode_bench *bench, int32_t *ids, struct request **request,
                          struct error *err)
{
    struct generate_params params;
    for (int32_t i = 0; i < bench->n_input; i++) {
        ids[i] = random_id(bench);
    }
    generate_params_init(&params);
    params.temperature = 0;
    params.ignore_eos = true;
    params.max_tokens = bench->n_output;
    return engine_submit(bench->engine, &params, ids, bench->n_input, NULL, NULL, request, err);
}

/* One batch from submission to end. ids: room for n_input; requests: room for batch, all NULL. */
static enum status run_batch(struct decode_bench *bench, int32_t batch, int32_t *ids,
                             struct request **requests, struct sample *out, struct error *err)
{
    enum status status = STATUS_OK;
    int64_t submitted = 0;
    *out = (struct sample){0};
    for (int32_t i = 0; !status && i < batch; i++) {
        status = submit(bench, ids, &requests[i], err);
    }
    for (int32_t i = 0; !status && i < batch; i++) {
        struct token_event event;
        struct request_timings t;
        while (request_wait(requests[i], &event, -1) && event.kind != EVENT_FINISHED) {
        }
        if (event.reason != FINISH_LENGTH) {
            status = error_set(err, STATUS_IO, "sequence %d of the batch was cut short", i);
        }
        request_get_timings(requests[i], &t);
        submitted = i ? submitted : t.submitted;
        double first_ms = 1e-6 * (double)(t.first_token - submitted);
        out->first_ms = first_ms > out->first_ms ? first_ms : out->first_ms;
        out->tokens_per_s += (bench->n_output - 1) / (1e-9 * (double)(t.last_token - t.first_token));
    }
    for (int32_t i = 0; i < batch; i++) {
        request_release(requests[i]);
        requests[i] = NULL;
    }
    return status;
}

static int by_rate(const void *a, const void *b)
{
    double x = ((const struct sample *)a)->tokens_per_s, y = ((const struct sample *)b)->tokens_per_s;
    return x < y ? -1 : x > y;
}

static enum status run_all(const struct config *config, struct decode_bench *bench, const int32_t *batches,
                           int32_t n_batches, int32_t largest, struct error *err)
{
    int32_t *ids = malloc((size_t)bench->n_input * sizeof *ids);
    struct request **requests = calloc((size_t)largest, sizeof(struct request *));
    struct sample *samples = calloc((size_t)config->repeat, sizeof *samples);
    const struct engine_info *info = engine_get_info(bench->engine);
    enum status status =
        ids && requests && samples ? STATUS_OK : error_set(err, STATUS_NO_MEMORY, "out of memory");
    if (!status && config->json) {
        printf(
            "{\"kernels\":\"%s\",\"threads\":%d,\"quant\":\"%s\",\"weights_bytes\":%zu,\"input_tokens\":%d,"
            "\"output_tokens\":%d,\"rows\":[",
            info->kernels, info->n_threads, quant_method_name(info->method), info->weights_bytes,
            bench->n_input, bench->n_output);
    } else if (!status) {
        printf("%s kernels, %d threads, quant %s, %d tokens in, %d out, medians of %" PRId64 "\n",
               info->kernels, info->n_threads, quant_method_name(info->method), bench->n_input,
               bench->n_output, config->repeat);
        printf("%6s %12s %10s %10s %12s %14s\n", "batch", "tokens/s", "min", "max", "ms/step",
               "first token ms");
    }
    for (int32_t b = 0; !status && b < n_batches; b++) {
        struct sample warm_up;
        status = run_batch(bench, batches[b], ids, requests, &warm_up, err);
        for (int64_t r = 0; !status && r < config->repeat; r++) {
            status = run_batch(bench, batches[b], ids, requests, &samples[r], err);
        }
        if (status) {
            break;
        }
        qsort(samples, (size_t)config->repeat, sizeof *samples, by_rate);
        struct sample median = samples[config->repeat / 2];
        double min = samples[0].tokens_per_s, max = samples[config->repeat - 1].tokens_per_s;
        if (config->json) {
            printf("%s{\"batch\":%d,\"tokens_per_s\":%.3f,\"min\":%.3f,\"max\":%.3f,\"step_ms\":%.4f,\"first_"
                   "token_ms\":%.3f}",
                   b ? "," : "", batches[b], median.tokens_per_s, min, max,
                   1e3 * batches[b] / median.tokens_per_s, median.first_ms);
        } else {
            printf("%6d %12.1f %10.1f %10.1f %12.3f %14.1f\n", batches[b], median.tokens_per_s, min, max,
                   1e3 * batches[b] / median.tokens_per_s, median.first_ms);
            fflush(stdout);
        }
    }
    if (config->json && !status) {
        printf("]}\n");
    }
    free(samples);
    free(requests);
    free(ids);
    return status;
}

static enum status parse_batches(const char *list, int32_t *batches, int32_t *n, int32_t *largest,
                                 struct error *err)
{
    const char *parts[MAX_BATCHES];
    char *copy;
    enum status status = STATUS_OK;
    *n = split_list(list, &copy, parts, MAX_BATCHES);
    *largest = 0;
    if (*n < 1) {
        return error_set(err, STATUS_INVALID, "batch: a comma list of 1 to %d batch sizes is expected",
                         MAX_BATCHES);
    }
    for (int32_t i = 0; i < *n && !status; i++) {
        char *end;
        long value = strtol(parts[i], &end, 10);
        if (*end || value < 1 || value > 4096) {
            status = error_set(err, STATUS_INVALID, "batch: \"%s\" is no batch size (1 to 4096)", parts[i]);
        }
        batches[i] = (int32_t)value;
        *largest = batches[i] > *largest ? batches[i] : *largest;
    }
    free(copy);
    return status;
}

enum status command_bench_decode(const struct config *config, struct outcome *outcome, struct error *err)
{
    int32_t batches[MAX_BATCHES], n_batches, largest;
    struct engine_options options;
    struct decode_bench bench = {.state = 1};
    char *skip = NULL;
    int32_t *calib_ids = NULL;
    enum status status = parse_batches(config->batch, batches, &n_batches, &largest, err);
    (void)outcome;
    if (status || (status = server_check_folder(config, err)) ||
        (status = server_engine_options(&options, config, &skip, err)) ||
        (status = calibration_encode(&options, &calib_ids, config, NULL, err))) {
        free(skip);
        return status;
    }
    options.max_running = options.max_running < largest ? largest : options.max_running;
    options.max_queue = options.max_queue < largest ? largest : options.max_queue;
    /* All prompts in one step: a second step of prefill would count as the first sequences' decoding. */
    int64_t prompts = config->input_tokens * largest;
    options.prefill_chunk =
        prompts > options.prefill_chunk && prompts < 65536 ? (int32_t)prompts : options.prefill_chunk;
    options.show_progress = true;
    status = engine_open(&bench.engine, &options, err);
    free(calib_ids);
    free(skip);
    if (status) {
        return status;
    }
    engine_wait_cache(bench.engine, NULL); /* nothing else may run */
    const struct engine_info *info = engine_get_info(bench.engine);
    bench.vocab_size = info->config.vocab_size;
    bench.n_input = (int32_t)config->input_tokens;
    bench.n_output = (int32_t)config->output_tokens;
    if (bench.n_input + bench.n_output > info->max_model_len) {
        status = error_set(err, STATUS_INVALID,
                           "--input-tokens %d and --output-tokens %d are more than the context of %d",
                           bench.n_input, bench.n_output, info->max_model_len);
        engine_close(bench.engine);
        return status;
    }
    status = run_all(config, &bench, batches, n_batches, largest, err);
    engine_close(bench.engine);
    return status;
}
