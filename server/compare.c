/* Two models walk through the text step by step, the float one and a quantized one, and their logits meet row
 * by row: at no time is more in memory than both models and the logits of one step of each. Every row's sums
 * have a fixed order and rows are added in order, so that neither threads nor steps change a digit. The KV
 * cache is f32 for all (unless --kv-cache-type says otherwise): only weights differ. */
#include "server/compare.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/log.h"
#include "engine/score.h"
#include "quant/feedback.h"
#include "server/calibration.h"
#include "server/server.h"

struct row_score {
    double nll, kl;
    bool agrees;
};

struct comparison {
    const struct config *config;
    struct engine_options options;
    struct thread_pool *pool;
    struct scorer *reference;
    int32_t *ids; /* n_ids of the text, without BOS */
    int32_t n_ids, chunk, bos, vocab_size, max_step;
    int32_t *input;           /* (chunk) ids that the models read: BOS and all of the chunk's but the last */
    struct row_score *scores; /* (max_step) */
};

struct score_job {
    const float *reference, *logits; /* (n_rows, vocab_size); the same for the float model itself */
    const int32_t *targets;          /* (n_rows) */
    int32_t vocab_size;
    struct row_score *scores;
};

static struct row_score score_row(const float *f, const float *q, int32_t n, int32_t target)
{
    int32_t top_f = 0, top_q = 0;
    double sum_f = 0, sum_q = 0, gap = 0;
    for (int32_t i = 1; i < n; i++) {
        top_f = f[i] > f[top_f] ? i : top_f;
        top_q = q[i] > q[top_q] ? i : top_q;
    }
    for (int32_t i = 0; i < n; i++) {
        double a = (double)f[i] - f[top_f], b = (double)q[i] - q[top_q];
        double e = exp(a);
        sum_f += e;
        sum_q += exp(b);
        gap += e * (a - b);
    }
    return (struct row_score){.nll = log(sum_q) - ((double)q[target] - q[top_q]),
                              .kl = gap / sum_f - (log(sum_f) - log(sum_q)),
                              .agrees = top_f == top_q};
}

static void score_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct score_job *job = context;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        int64_t at = i * job->vocab_size;
        job->scores[i] = score_row(job->reference + at, job->logits + at, job->vocab_size, job->targets[i]);
    }
}

struct sums {
    double nll, kl;
    int64_t n, n_agreeing;
};

/* One chunk behind BOS, in steps. */
static enum status score_chunk(struct comparison *c, struct scorer *scorer, const int32_t *ids, int32_t n,
                               struct sums *sums, struct error *err)
{
    c->input[0] = c->bos;
    memcpy(c->input + 1, ids, (size_t)(n - 1) * sizeof *ids);
    for (int32_t at = 0; at < n; at += c->max_step) {
        int32_t n_rows = n - at < c->max_step ? n - at : c->max_step;
        struct score_job job = {.targets = ids + at, .vocab_size = c->vocab_size, .scores = c->scores};
        job.logits = scorer_step(scorer, at, c->input + at, n_rows);
        job.reference =
            scorer == c->reference ? job.logits : scorer_step(c->reference, at, c->input + at, n_rows);
        if (!job.logits || !job.reference) {
            return error_set(err, STATUS_DEVICE, "the device failed: the log says how");
        }
        thread_pool_run_dynamic(c->pool, n_rows, 1, score_rows, &job);
        for (int32_t i = 0; i < n_rows; i++) {
            const struct row_score *score = &c->scores[i];
            if (!isfinite(score->nll) || !isfinite(score->kl)) {
                return error_set(err, STATUS_IO,
                                 "the logits of id %" PRId64 " of the text are NaN or infinite", sums->n);
            }
            sums->nll += score->nll;
            sums->kl += score->kl;
            sums->n_agreeing += score->agrees;
            sums->n++;
        }
    }
    return STATUS_OK;
}

static enum status score_text(struct comparison *c, struct scorer *scorer, struct compare_row *row,
                              struct error *err)
{
    struct sums sums = {0};
    enum status status = STATUS_OK;
    for (int32_t at = 0; !status && at < c->n_ids; at += c->chunk) {
        int32_t n = c->n_ids - at < c->chunk ? c->n_ids - at : c->chunk;
        status = score_chunk(c, scorer, c->ids + at, n, &sums, err);
        if (c->options.show_progress) {
            log_progress(row->entry.label, at + n, c->n_ids);
        }
    }
    double n = (double)sums.n;
    row->nll = sums.nll / n;
    row->perplexity = exp(row->nll);
    row->kl = sums.kl / n;
    row->top1 = (double)sums.n_agreeing / n;
    return status;
}

static enum status open_format(struct comparison *c, const struct quant_entry *entry, struct scorer **out,
                               struct error *err)
{
    struct engine_options options = c->options;
    options.quant.method = entry->method;
    options.rotation = entry->rotation || (c->options.rotation && entry->method != QUANT_NONE);
    options.channel_scaling =
        entry->channel_scaling ||
        (c->options.channel_scaling && quant_weighting_of(&options.quant) != QUANT_WEIGHTING_NONE);
    options.bits_per_weight = entry->bits_per_weight > 0    ? entry->bits_per_weight
                              : entry->method == QUANT_ANY4 ? c->options.bits_per_weight
                                                            : 0;
    options.error_feedback =
        entry->error_feedback || (c->config->error_feedback && feedback_takes(entry->method));
    options.quant.group_size = entry->method == QUANT_NONE ? 0
                               : entry->group_size         ? entry->group_size
                                                           : c->options.quant.group_size;
    return scorer_open(out, &options, c->chunk, c->pool, err);
}

static enum status compare_one(struct comparison *c, struct compare_row *row, struct error *err)
{
    bool is_float = row->entry.method == QUANT_NONE && !row->entry.rotation;
    struct scorer *scorer = c->reference;
    enum status status = is_float ? STATUS_OK : open_format(c, &row->entry, &scorer, err);
    if (status) {
        return status;
    }
    const struct engine_info *info = scorer_get_info(scorer);
    row->group_size = info->group_size;
    row->bits_per_weight = row->code_bits = info->bits_per_weight;
    row->quantize_seconds = info->quantize_seconds;
    if (info->quantized_weights) {
        row->code_bits = (double)info->code_bits / (double)info->quantized_weights;
        row->table_bits = (double)info->table_bits / (double)info->quantized_weights;
    }
    if ((status = score_text(c, scorer, row, err))) {
        error_prefix(err, row->entry.label);
    }
    if (!is_float) {
        scorer_close(scorer);
    }
    return status;
}

static void print_head(const struct comparison *c)
{
    static const char *const kv_names[] = {[KV_F32] = "f32", [KV_F16] = "f16", [KV_BF16] = "bf16"};
    printf("%d tokens in chunks of %d, KV cache %s, against the weights as stored\n", (int)c->n_ids,
           (int)c->chunk, kv_names[scorer_get_info(c->reference)->kv_type]);
    printf("%-24s %11s %7s %7s %10s %12s %12s %8s\n", "quant", "bits/weight", "codes", "tables", "NLL",
           "perplexity", "KL", "top-1");
    fflush(stdout);
}

static void print_row(const struct compare_row *row)
{
    printf("%-24s %11.3f %7.3f %7.3f %10.6f %12.4f %12.4e %7.2f%%\n", row->entry.label, row->bits_per_weight,
           row->code_bits, row->table_bits, row->nll, row->perplexity, row->kl, 100 * row->top1);
    fflush(stdout);
}

static enum status print_json(const struct comparison *c, const struct compare_row *rows, int32_t n,
                              struct error *err)
{
    struct buffer out = {0};
    buffer_printf(&out, "{\"tokens\":%d,\"chunk\":%d,\"rows\":[", (int)c->n_ids, (int)c->chunk);
    for (int32_t i = 0; i < n; i++) {
        const struct compare_row *row = &rows[i];
        const struct {
            const char *key;
            double value;
        } figures[] = {{"bits_per_weight", row->bits_per_weight},
                       {"code_bits", row->code_bits},
                       {"table_bits", row->table_bits},
                       {"nll", row->nll},
                       {"perplexity", row->perplexity},
                       {"kl", row->kl},
                       {"top1", row->top1},
                       {"group_size", row->group_size},
                       {"quantize_seconds", row->quantize_seconds}};
        buffer_text(&out, i ? ",{\"quant\":" : "{\"quant\":");
        buffer_json_text(&out, row->entry.label);
        for (size_t k = 0; k < sizeof figures / sizeof *figures; k++) {
            buffer_printf(&out, ",\"%s\":", figures[k].key);
            buffer_json_double(&out, figures[k].value);
        }
        buffer_text(&out, "}");
    }
    buffer_text(&out, "]}\n");
    enum status status =
        out.failed ? error_set(err, STATUS_NO_MEMORY, "out of memory for the result") : STATUS_OK;
    fputs(buffer_string(&out), stdout);
    buffer_finish(&out);
    return status;
}

/* The text as ids, and the float model. */
static enum status prepare(struct comparison *c, const struct tokenizer *tokenizer, const char *text,
                           size_t length, struct error *err)
{
    static const struct quant_entry as_stored = {.method = QUANT_NONE, .label = "none"};
    const struct config *config = c->config;
    enum status status = tokenizer_encode(tokenizer, text, length, false, &c->ids, &c->n_ids, err);
    if (status) {
        return status;
    }
    if (!c->n_ids) {
        return error_set(err, STATUS_INVALID, "%s holds no text", config->text_file);
    }
    if ((c->bos = tokenizer_bos(tokenizer)) < 0) {
        return error_set(err, STATUS_INVALID, "%s: the tokenizer has no BOS, which every chunk begins with",
                         config->model);
    }
    c->chunk = c->n_ids < config->chunk ? c->n_ids : (int32_t)config->chunk;
    if ((status = open_format(c, &as_stored, &c->reference, err))) {
        return status;
    }
    c->vocab_size = scorer_get_info(c->reference)->config.vocab_size;
    if (tokenizer_n_tokens(tokenizer) > c->vocab_size) {
        return error_set(err, STATUS_BAD_MODEL, "%s: the tokenizer has %d tokens, the model's vocabulary %d",
                         config->model, (int)tokenizer_n_tokens(tokenizer), (int)c->vocab_size);
    }
    c->max_step = scorer_max_step(c->reference);
    c->input = malloc((size_t)c->chunk * sizeof *c->input);
    c->scores = malloc((size_t)c->max_step * sizeof *c->scores);
    return c->input && c->scores
               ? STATUS_OK
               : error_set(err, STATUS_NO_MEMORY, "out of memory for chunks of %d ids", (int)c->chunk);
}

static enum status compare_all(struct comparison *c, const struct quant_list *list, struct error *err)
{
    static struct compare_row rows[QUANT_LIST_MAX];
    char title[600], model[256], file[256];
    enum status status = STATUS_OK;
    if (!c->config->json) {
        print_head(c);
    }
    for (int32_t i = 0; !status && i < list->n; i++) {
        rows[i] = (struct compare_row){.entry = list->entries[i]};
        status = compare_one(c, &rows[i], err);
        if (!status && !c->config->json) {
            print_row(&rows[i]);
        }
    }
    if (!status && c->config->json) {
        status = print_json(c, rows, list->n, err);
    }
    if (!status && c->config->plot) {
        snprintf(title, sizeof title, "%s, %d tokens of %s",
                 server_path_name(c->config->model, model, sizeof model), (int)c->n_ids,
                 server_path_name(c->config->text_file, file, sizeof file));
        status = compare_plot(c->config->plot, title, rows, list->n, err);
    }
    return status;
}

enum status compare_formats(const struct config *config, const char *text, size_t length, struct error *err)
{
    struct comparison c = {.config = config};
    struct quant_list list;
    struct tokenizer *tokenizer = NULL;
    char *skip = NULL;
    int32_t *calib_ids = NULL;
    enum status status = quant_list_parse(&list, config->compare, "--compare", err);
    if (!status && config_origin(config, "quant") == ORIGIN_FLAG) {
        status = error_set(err, STATUS_INVALID, "--compare names the formats: leave --quant out");
    }
    if (status || (status = server_engine_options(&c.options, config, &skip, err))) {
        return status;
    }
    for (int32_t i = 0; i < list.n; i++) { /* all formats see the same text: as much as one of them needs */
        c.options.error_feedback |= list.entries[i].error_feedback;
    }
    if (c.options.error_feedback && !config->calib) {
        free(skip);
        return error_set(err, STATUS_INVALID, "error feedback needs --calib, a text of some thousand tokens");
    }
    c.options.show_progress = isatty(STDERR_FILENO);
    if (c.options.kv_type == KV_CHOICE_AUTO) {
        c.options.kv_type = KV_CHOICE_F32;
    }
    if (!(status = tokenizer_open(&tokenizer, config->model, err)) &&
        !(status = calibration_encode(&c.options, &calib_ids, config, tokenizer, err)) &&
        !(status = thread_pool_open(&c.pool, c.options.n_threads, err)) &&
        !(status = prepare(&c, tokenizer, text, length, err))) {
        status = compare_all(&c, &list, err);
    }
    scorer_close(c.reference);
    free(c.ids);
    free(c.input);
    free(c.scores);
    thread_pool_close(c.pool);
    tokenizer_close(tokenizer);
    free(calib_ids);
    free(skip);
    return status == STATUS_NOT_FOUND ? STATUS_BAD_MODEL : status; /* a fault of the model folder */
}
