#include "engine/sensitivity.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forward.h"

struct sensitivity {
    struct kernels kernels;
    struct kv_cache kv;
    struct forward *forward;
    struct thread_pool *pool;
    struct batch batch;
    int32_t *blocks;
    int32_t vocab_size;
    float *remembered; /* (n_rows, vocab_size) */
    double *rows;      /* (n_rows) */
    const float *logits;
};

static int32_t n_rows_of(const struct model_config *config, int32_t n_ids)
{
    int32_t n = n_ids < SENSITIVITY_TOKENS ? n_ids : SENSITIVITY_TOKENS;
    return n < config->max_positions ? n : config->max_positions;
}

size_t sensitivity_bytes(const struct model_config *config, int32_t n_ids)
{
    int32_t n = n_rows_of(config, n_ids);
    size_t n_blocks = ((size_t)n + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    return forward_bytes(config, n, n) + (size_t)n * (size_t)config->vocab_size * sizeof(float) +
           kv_cache_bytes_per_token(config, KV_F32) * KV_BLOCK_TOKENS * n_blocks;
}

static enum status prepare(struct sensitivity *s, const struct model *model, const int32_t *ids, int32_t n,
                           struct error *err)
{
    const struct model_config *config = &model->config;
    const int32_t n_blocks = (n + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    s->blocks = calloc((size_t)n_blocks, sizeof *s->blocks);
    s->batch.tokens = calloc((size_t)n, sizeof(int32_t));
    s->batch.positions = calloc((size_t)n, sizeof(int32_t));
    s->batch.logit_rows = calloc((size_t)n, sizeof(int32_t));
    s->batch.block_tables = calloc((size_t)n, sizeof(int32_t *));
    s->remembered = malloc((size_t)n * (size_t)config->vocab_size * sizeof *s->remembered);
    s->rows = calloc((size_t)n, sizeof *s->rows);
    if (!s->blocks || !s->batch.tokens || !s->batch.positions || !s->batch.logit_rows ||
        !s->batch.block_tables || !s->remembered || !s->rows) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for the answers to %d tokens", n);
    }
    for (int32_t i = 0; i < n_blocks; i++) {
        s->blocks[i] = i;
    }
    for (int32_t i = 0; i < n; i++) {
        s->batch.tokens[i] = ids[i];
        s->batch.positions[i] = s->batch.logit_rows[i] = i;
        s->batch.block_tables[i] = s->blocks;
    }
    s->batch.n_rows = s->batch.n_logits = n;
    enum status status = kv_cache_init(&s->kv, config, KV_F32, n_blocks, err);
    return status ? status : forward_open(&s->forward, model, &s->kernels, &s->kv, s->pool, n, n, err);
}

enum status sensitivity_open(struct sensitivity **out, const struct model *model, const int32_t *ids,
                             int32_t n_ids, unsigned cpu_flags, struct thread_pool *pool, struct error *err)
{
    struct sensitivity *s = calloc(1, sizeof *s);
    const int32_t n = n_rows_of(&model->config, n_ids);
    *out = NULL;
    assert(n_ids >= 1);
    if (!s) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for the answers to %d tokens", n);
    }
    s->pool = pool;
    s->vocab_size = model->config.vocab_size;
    kernels_init_fixed(&s->kernels, cpu_flags);
    enum status status = prepare(s, model, ids, n, err);
    if (status) {
        sensitivity_close(s);
        return status;
    }
    memcpy(s->remembered, forward_step(s->forward, &s->batch),
           (size_t)n * (size_t)s->vocab_size * sizeof *s->remembered);
    *out = s;
    return STATUS_OK;
}

void sensitivity_close(struct sensitivity *s)
{
    if (!s) {
        return;
    }
    forward_close(s->forward);
    kv_cache_finish(&s->kv);
    free(s->blocks);
    free(s->batch.tokens);
    free(s->batch.positions);
    free(s->batch.logit_rows);
    free(s->batch.block_tables);
    free(s->remembered);
    free(s->rows);
    free(s);
}

static void compare_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    struct sensitivity *s = context;
    (void)thread;
    for (int64_t row = begin; row < end; row++) {
        const float *p = s->remembered + row * s->vocab_size, *q = s->logits + row * s->vocab_size;
        double top_p = p[0], top_q = q[0], sum_p = 0, sum_q = 0, gap = 0;
        for (int32_t i = 1; i < s->vocab_size; i++) {
            top_p = fmax(top_p, p[i]);
            top_q = fmax(top_q, q[i]);
        }
        for (int32_t i = 0; i < s->vocab_size; i++) {
            double a = p[i] - top_p, b = q[i] - top_q, e = exp(a);
            sum_p += e;
            sum_q += exp(b);
            gap += e * (a - b);
        }
        s->rows[row] = gap / sum_p - log(sum_p) + log(sum_q);
    }
}

/* To 12 bits: exp and log of different processors differ in the last one, and widths are chosen by this. */
static double rounded(double x)
{
    int exponent;
    double mantissa = frexp(x, &exponent);
    return ldexp(floor(mantissa * 4096 + 0.5), exponent - 12);
}

double sensitivity_measure(struct sensitivity *s)
{
    const double unusable = 1e6; /* nats: what leaves no logits is worth more than anything that does */
    double sum = 0;
    s->logits = forward_step(s->forward, &s->batch);
    thread_pool_run_dynamic(s->pool, s->batch.n_rows, 1, compare_rows, s);
    for (int32_t row = 0; row < s->batch.n_rows; row++) {
        sum += s->rows[row];
    }
    return isfinite(sum) ? rounded(fmax(0, sum / s->batch.n_rows)) : unusable;
}
