/* `any4 eval`: mean negative log-likelihood of a text. The text is encoded once without BOS and cut into
 * chunks; each chunk is scored alone behind one BOS, so that chunks can run side by side and the result
 * depends on nothing but their ids. With --compare the same chunks go through several formats (compare.c). */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "server/command.h"
#include "server/compare.h"
#include "server/server.h"

struct eval {
    struct engine *engine;
    const int32_t *ids; /* n_ids */
    int32_t n_ids, chunk, bos;
    struct request **requests; /* n_chunks */
    int32_t n_chunks, n_submitted;
    double nll_sum;
    int64_t n_scored;
};

static enum status submit_chunk(struct eval *e, struct error *err)
{
    struct generate_params params;
    int32_t begin = e->n_submitted * e->chunk;
    int32_t n = e->n_ids - begin < e->chunk ? e->n_ids - begin : e->chunk;
    int32_t *ids = malloc(((size_t)n + 1) * sizeof *ids);
    if (!ids) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for a chunk of %d ids", (int)n);
    }
    ids[0] = e->bos;
    memcpy(ids + 1, e->ids + begin, (size_t)n * sizeof *ids);
    generate_params_init(&params);
    params.max_tokens = 0;
    params.logprobs = 0;
    params.prompt_logprobs = true;
    enum status status =
        engine_submit(e->engine, &params, ids, n + 1, NULL, NULL, &e->requests[e->n_submitted], err);
    free(ids);
    e->n_submitted += !status;
    return status;
}

static enum status score_chunk(struct eval *e, int32_t chunk, struct error *err)
{
    struct token_event event;
    while (request_wait(e->requests[chunk], &event, -1)) {
        if (event.kind == EVENT_PROMPT_TOKEN) {
            e->nll_sum -= (double)event.logprob.logprob;
            e->n_scored++;
        } else if (event.kind == EVENT_FINISHED) {
            request_release(e->requests[chunk]);
            e->requests[chunk] = NULL;
            return event.reason == FINISH_LENGTH || event.reason == FINISH_STOP
                       ? STATUS_OK
                       : error_set(err, STATUS_IO, "the engine failed on chunk %d", (int)chunk);
        }
    }
    return error_set(err, STATUS_IO, "the engine gave no more events for chunk %d", (int)chunk);
}

static enum status run_chunks(struct eval *e, int32_t n_in_flight, struct error *err)
{
    enum status status = STATUS_OK;
    for (int32_t done = 0; !status && done < e->n_chunks; done++) {
        while (!status && e->n_submitted < e->n_chunks && e->n_submitted - done < n_in_flight) {
            status = submit_chunk(e, err);
        }
        if (status == STATUS_FULL && e->n_submitted > done) {
            status = STATUS_OK; /* goes on when the next chunk is scored */
        }
        if (!status) {
            status = score_chunk(e, done, err);
        }
    }
    for (int32_t i = 0; i < e->n_submitted; i++) {
        request_release(e->requests[i]);
    }
    return status;
}

static void print_result(const struct eval *e, bool json)
{
    const struct engine_info *info = engine_get_info(e->engine);
    double nll = e->nll_sum / (double)e->n_scored;
    if (json) {
        printf("{\"tokens\":%" PRId64
               ",\"nll\":%.9f,\"perplexity\":%.9g,\"bits_per_weight\":%.6g,\"code_bits\":%" PRId64
               ",\"table_bits\":%" PRId64 ",\"quant\":\"%s\",\"group_size\":%d,\"load_seconds\":%.3f,"
               "\"quantize_seconds\":%.3f}\n",
               e->n_scored, nll, exp(nll), info->bits_per_weight, info->code_bits, info->table_bits,
               quant_method_name(info->method), (int)info->group_size, info->load_seconds,
               info->quantize_seconds);
    } else {
        printf("%" PRId64 " tokens, NLL %.6f, perplexity %.4f (%s, %.3f bits per weight)\n", e->n_scored, nll,
               exp(nll), quant_method_name(info->method), info->bits_per_weight);
    }
}

static enum status evaluate(const struct config *config, struct engine *engine,
                            const struct tokenizer *tokenizer, const char *text, size_t length,
                            struct error *err)
{
    struct eval e = {.engine = engine, .chunk = (int32_t)config->chunk, .bos = tokenizer_bos(tokenizer)};
    int32_t *ids = NULL, max_len = engine_get_info(engine)->max_model_len;
    enum status status = STATUS_OK;
    if (e.bos < 0) {
        return error_set(err, STATUS_INVALID, "%s: the tokenizer has no BOS, which every chunk begins with",
                         config->model);
    }
    if (e.chunk + 1 > max_len) {
        return error_set(err, STATUS_INVALID, "--chunk is %d: with BOS more than the context of %d",
                         (int)e.chunk, (int)max_len);
    }
    if ((status = tokenizer_encode(tokenizer, text, length, false, &ids, &e.n_ids, err))) {
        return status;
    }
    e.ids = ids;
    e.n_chunks = e.n_ids / e.chunk + (e.n_ids % e.chunk > 0);
    if (!e.n_chunks) {
        status = error_set(err, STATUS_INVALID, "%s holds no text", config->text_file);
    } else if (!(e.requests = calloc((size_t)e.n_chunks, sizeof(struct request *)))) {
        status = error_set(err, STATUS_NO_MEMORY, "out of memory for %d chunks", (int)e.n_chunks);
    } else if (!(status = run_chunks(&e, (int32_t)config->max_running, err))) {
        print_result(&e, config->json);
    }
    free(e.requests);
    free(ids);
    return status;
}

static enum status read_text(char **out, size_t *length, const struct config *config, struct error *err)
{
    enum { LIMIT = 1 << 30 };
    *out = NULL;
    if (!config->text_file) {
        return error_set(err, STATUS_INVALID, "--text FILE is missing");
    }
    enum status status = file_read(out, length, config->text_file, LIMIT, err);
    if (!status && config->max_bytes && (int64_t)*length > config->max_bytes) {
        *length = (size_t)config->max_bytes;
    }
    return status;
}

enum status command_eval(const struct config *config, struct outcome *outcome, struct error *err)
{
    struct engine *engine = NULL;
    struct tokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t length = 0;
    FILE *log_file = NULL;
    (void)outcome;
    enum status status = server_check_folder(config, err);
    if (status || (status = server_open_log(config, &log_file, err))) {
        return status;
    }
    if (!config->compare && config->plot) {
        status = error_set(err, STATUS_INVALID, "--plot draws a comparison: --compare is missing");
    } else if (!(status = read_text(&text, &length, config, err)) && config->compare) {
        status = compare_formats(config, text, length, err);
    } else if (!status &&
               !(status = server_open_model(config, isatty(STDERR_FILENO), &engine, &tokenizer, err))) {
        status = evaluate(config, engine, tokenizer, text, length, err);
    }
    engine_close(engine);
    tokenizer_close(tokenizer);
    free(text);
    if (log_file) {
        fclose(log_file);
    }
    return status;
}
