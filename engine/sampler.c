/* Sampling on the CPU. Sums run in double over ids in ascending order or over candidates in descending order:
 * both are fixed by the logits alone. */
#include "engine/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/random.h"

struct candidate {
    float logit;
    int32_t id;
};

struct sampler {
    int32_t vocab_size;
    float *logits;                /* (vocab_size) after bias, penalties, temperature */
    struct candidate *candidates; /* (vocab_size) */
    int32_t *count;               /* (vocab_size) occurrences in the output, zeroed after use */
    uint8_t *seen;                /* (vocab_size) in prompt or output, zeroed after use */
};

enum status sampler_open(struct sampler **out, int32_t vocab_size, struct error *err)
{
    struct sampler *s = calloc(1, sizeof *s);
    *out = NULL;
    if (s) {
        s->vocab_size = vocab_size;
        s->logits = malloc((size_t)vocab_size * sizeof *s->logits);
        s->candidates = malloc((size_t)vocab_size * sizeof *s->candidates);
        s->count = calloc((size_t)vocab_size, sizeof *s->count);
        s->seen = calloc((size_t)vocab_size, sizeof *s->seen);
    }
    if (!s || !s->logits || !s->candidates || !s->count || !s->seen) {
        sampler_close(s);
        return error_set(err, STATUS_NO_MEMORY, "sampler: out of memory");
    }
    *out = s;
    return STATUS_OK;
}

void sampler_close(struct sampler *sampler)
{
    if (sampler) {
        free(sampler->logits);
        free(sampler->candidates);
        free(sampler->count);
        free(sampler->seen);
        free(sampler);
    }
}

double sampler_uniform(uint64_t seed, uint64_t position)
{
    return random_uniform(seed, position);
}

/* Better: higher logit, ties to the lower id. */
static bool better(struct candidate a, struct candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift_down(struct candidate *heap, int32_t n, int32_t i)
{
    struct candidate moving = heap[i];
    for (;;) {
        int32_t child = 2 * i + 1;
        if (child >= n) {
            break;
        }
        if (child + 1 < n && better(heap[child + 1], heap[child])) {
            child++;
        }
        if (!better(heap[child], moving)) {
            break;
        }
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moving;
}

static void make_heap(struct candidate *heap, int32_t n)
{
    for (int32_t i = n / 2 - 1; i >= 0; i--) {
        sift_down(heap, n, i);
    }
}

/* Takes the best off the heap; it comes to stand at heap[n - 1]. */
static struct candidate pop(struct candidate *heap, int32_t n)
{
    struct candidate best = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = best;
    if (n > 1) {
        sift_down(heap, n - 1, 0);
    }
    return best;
}

static int32_t argmax(const float *logits, int32_t n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++) {
        if (logits[i] > logits[best] || (isnan(logits[best]) && !isnan(logits[i]))) {
            best = i;
        }
    }
    return best;
}

static void apply_bias(float *logits, int32_t vocab_size, const struct generate_params *p)
{
    bool only = false;
    for (int32_t i = 0; i < p->n_bias; i++) {
        only |= p->bias_values[i] >= 100;
    }
    if (only) { /* 100 = only among the 100s: everything else is out, their own logits decide among them */
        float kept[ENGINE_MAX_LOGIT_BIAS];
        for (int32_t i = 0; i < p->n_bias; i++) {
            kept[i] = logits[p->bias_ids[i]];
        }
        for (int32_t i = 0; i < vocab_size; i++) {
            logits[i] = -INFINITY;
        }
        for (int32_t i = 0; i < p->n_bias; i++) {
            if (p->bias_values[i] >= 100) {
                logits[p->bias_ids[i]] = kept[i];
            }
        }
        return;
    }
    for (int32_t i = 0; i < p->n_bias; i++) {
        float *logit = &logits[p->bias_ids[i]];
        *logit = p->bias_values[i] <= -100 ? -INFINITY : *logit + p->bias_values[i];
    }
}

/* Repetition: Keskar et al. (CTRL, 2019), over prompt and output; presence and frequency: over the output. */
static void apply_penalties(struct sampler *s, const struct sampler_context *c)
{
    const struct generate_params *p = c->params;
    if (p->repetition_penalty == 1 && p->presence_penalty == 0 && p->frequency_penalty == 0) {
        return;
    }
    for (int32_t i = 0; i < c->n_output; i++) {
        s->count[c->output[i]]++;
    }
    for (int32_t part = 0; part < 2; part++) {
        const int32_t *ids = part ? c->output : c->prompt;
        int32_t n = part ? c->n_output : c->n_prompt;
        for (int32_t i = 0; i < n; i++) {
            int32_t id = ids[i];
            float *logit = &s->logits[id];
            if (s->seen[id]) {
                continue;
            }
            s->seen[id] = 1;
            if (p->repetition_penalty != 1) {
                *logit = *logit > 0 ? *logit / p->repetition_penalty : *logit * p->repetition_penalty;
            }
            if (s->count[id]) {
                *logit -= p->presence_penalty + p->frequency_penalty * (float)s->count[id];
            }
        }
    }
    for (int32_t i = 0; i < c->n_prompt; i++) {
        s->seen[c->prompt[i]] = 0;
    }
    for (int32_t i = 0; i < c->n_output; i++) {
        s->seen[c->output[i]] = 0;
        s->count[c->output[i]] = 0;
    }
}

/* Draws from candidates[0..n) with weight exp(logit - max), in the order in which they stand. */
static int32_t draw(const struct candidate *candidates, int32_t n, double max, double total, double uniform)
{
    double target = uniform * total, sum = 0;
    int32_t last = candidates[0].id;
    for (int32_t i = 0; i < n; i++) {
        double weight = exp(candidates[i].logit - max);
        if (weight > 0) {
            last = candidates[i].id;
        }
        sum += weight;
        if (sum > target) {
            return candidates[i].id;
        }
    }
    return last; /* rounding left the target a hair above the sum */
}

int32_t sampler_draw(struct sampler *s, const float *logits, const struct sampler_context *c)
{
    const struct generate_params *p = c->params;
    int32_t n = s->vocab_size;
    bool plain = !p->n_bias && p->repetition_penalty == 1 && p->presence_penalty == 0 &&
                 p->frequency_penalty == 0 && !c->n_banned;
    int32_t largest = argmax(logits, n);
    if (!isfinite(logits[largest])) {
        return -1;
    }
    if (plain && p->temperature == 0) {
        return largest;
    }
    memcpy(s->logits, logits, (size_t)n * sizeof *logits);
    if (p->n_bias) {
        apply_bias(s->logits, n, p);
    }
    apply_penalties(s, c);
    for (int32_t i = 0; i < c->n_banned; i++) {
        s->logits[c->banned[i]] = -INFINITY;
    }
    int32_t best = argmax(s->logits, n);
    if (!isfinite(s->logits[best])) {
        if (!c->n_banned) { /* biases forbid everything: the model's own choice is the least surprising one */
            return largest;
        }
        struct sampler_context unbanned = *c;
        unbanned.n_banned = 0;
        return sampler_draw(s, logits, &unbanned);
    }
    if (p->temperature == 0) {
        return best;
    }
    float inverse = 1.0f / p->temperature;
    int32_t n_candidates = 0;
    for (int32_t i = 0; i < n; i++) {
        if (s->logits[i] > -INFINITY) { /* NaN is dropped as well */
            s->candidates[n_candidates++] = (struct candidate){s->logits[i] * inverse, i};
        }
    }
    double max = (double)(s->logits[best] * inverse);
    if (!isfinite(max)) { /* a temperature so small that dividing overflows is greedy */
        return best;
    }
    double uniform = sampler_uniform(p->seed, (uint64_t)c->n_output);
    struct candidate *kept = s->candidates;
    bool top_k = p->top_k > 0 && p->top_k < n_candidates;
    if (top_k || p->top_p < 1) {
        /* The best stand at the end of the array in ascending order as they are taken off the heap. */
        int32_t limit = top_k ? p->top_k : n_candidates;
        double total = 0, sum = 0;
        if (!top_k) {
            for (int32_t i = 0; i < n_candidates; i++) {
                total += exp(s->candidates[i].logit - max);
            }
        }
        make_heap(s->candidates, n_candidates);
        int32_t taken = 0;
        while (taken < limit && (top_k || taken == 0 || sum < p->top_p * total)) {
            sum += exp(pop(s->candidates, n_candidates - taken).logit - max);
            taken++;
        }
        kept = s->candidates + n_candidates - taken;
        for (int32_t i = 0; i < taken / 2; i++) { /* descending */
            struct candidate swap = kept[i];
            kept[i] = kept[taken - 1 - i];
            kept[taken - 1 - i] = swap;
        }
        n_candidates = taken;
        if (top_k && p->top_p < 1) {
            double nucleus = 0;
            int32_t i = 0;
            while (i < n_candidates && (i == 0 || nucleus < p->top_p * sum)) {
                nucleus += exp(kept[i++].logit - max);
            }
            n_candidates = i;
        }
    }
    if (p->min_p > 0) {
        double floor_logit = max + log((double)p->min_p);
        int32_t n_kept = 0;
        for (int32_t i = 0; i < n_candidates; i++) {
            if ((double)kept[i].logit >= floor_logit) {
                kept[n_kept++] = kept[i];
            }
        }
        n_candidates = n_kept;
    }
    double total = 0;
    for (int32_t i = 0; i < n_candidates; i++) {
        total += exp(kept[i].logit - max);
    }
    return draw(kept, n_candidates, max, total, uniform);
}

bool sampler_logprobs(struct sampler *s, const float *logits, int32_t token, struct token_logprob *chosen,
                      struct token_logprob *top, int32_t n_top)
{
    int32_t n = s->vocab_size;
    double max = (double)logits[argmax(logits, n)], sum = 0;
    if (!isfinite(max)) {
        return false;
    }
    for (int32_t i = 0; i < n; i++) {
        sum += exp(logits[i] - max);
    }
    double log_sum = max + log(sum);
    chosen->id = token;
    chosen->logprob = (float)(logits[token] - log_sum);
    /* Insertion into a short sorted list: n_top is at most 20. */
    int32_t n_found = 0;
    for (int32_t i = 0; i < n && n_top > 0; i++) {
        if (n_found == n_top && !(logits[i] > top[n_found - 1].logprob)) {
            continue;
        }
        int32_t at = n_found < n_top ? n_found++ : n_top - 1;
        while (at > 0 && logits[i] > top[at - 1].logprob) {
            top[at] = top[at - 1];
            at--;
        }
        top[at] = (struct token_logprob){i, logits[i]};
    }
    for (int32_t i = 0; i < n_found; i++) {
        top[i].logprob = (float)(top[i].logprob - log_sum);
    }
    for (int32_t i = n_found; i < n_top; i++) { /* a vocabulary smaller than the request */
        top[i] = (struct token_logprob){-1, -INFINITY};
    }
    return true;
}
