/* The mixture-of-experts chapter of forward.c (Mixtral): router, top-k, one pass per expert over the rows
 * that chose it. */
#include <math.h>
#include <string.h>

#include "engine/forward_internal.h"

/* Softmax over all experts, the n_used largest (ties to the lower expert), renormalised to sum 1. */
static void choose(const float *logits, int32_t n_experts, int32_t n_used, int32_t *chosen, float *weight)
{
    double max = -INFINITY, sum = 0;
    for (int32_t e = 0; e < n_experts; e++) {
        max = logits[e] > max ? logits[e] : max;
    }
    for (int32_t r = 0; r < n_used; r++) {
        int32_t best = -1;
        for (int32_t e = 0; e < n_experts; e++) {
            int32_t taken = 0;
            for (int32_t s = 0; s < r; s++) {
                taken |= chosen[s] == e;
            }
            if (!taken && (best < 0 || logits[e] > logits[best])) {
                best = e;
            }
        }
        chosen[r] = best;
        /* The softmax denominator cancels in the renormalisation. */
        double p = exp((double)logits[best] - max);
        weight[r] = (float)p;
        sum += p;
    }
    for (int32_t r = 0; r < n_used; r++) {
        weight[r] = (float)(weight[r] / sum);
    }
}

struct moe_job {
    struct forward *f;
    int64_t n;
    int64_t first_slot;
};

static void swiglu_slots(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct moe_job *job = context;
    struct forward *f = job->f;
    (void)thread;
    for (int64_t slot = job->first_slot + begin; slot < job->first_slot + end; slot++) {
        f->k->swiglu(f->gate + slot * job->n, f->gate + slot * job->n, f->up + slot * job->n,
                     (int32_t)job->n);
    }
}

/* x[row] += sum over ranks, in rank order: the sum's order does not depend on who else chose the expert. */
static void combine_rows(void *context, int64_t begin, int64_t end, int32_t thread)
{
    const struct moe_job *job = context;
    struct forward *f = job->f;
    const struct model_config *c = &f->model->config;
    int32_t n_used = c->n_experts_used;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        float *y = f->h + t * c->dim; /* the experts' sum first, then the residual: as the reference adds */
        memset(y, 0, (size_t)c->dim * sizeof *y);
        for (int32_t r = 0; r < n_used; r++) {
            f->k->axpy(y, f->slot_y + (int64_t)f->slot_of[t * n_used + r] * c->dim,
                       f->chosen_weight[t * n_used + r], c->dim);
        }
        f->k->axpy(f->x + t * c->dim, y, 1.0f, c->dim);
    }
}

void moe_route(struct forward *f, const struct layer *layer, int32_t n_rows)
{
    const struct model_config *c = &f->model->config;
    int32_t n_used = c->n_experts_used, n_experts = c->n_experts;
    struct product route = {layer->router, f->h, f->router, c->dim, n_experts, n_rows};
    forward_products(f, &route, 1);

    memset(f->expert_begin, 0, ((size_t)n_experts + 1) * sizeof *f->expert_begin);
    for (int32_t t = 0; t < n_rows; t++) {
        int32_t *chosen = f->chosen + (int64_t)t * n_used;
        choose(f->router + (int64_t)t * n_experts, n_experts, n_used, chosen,
               f->chosen_weight + (int64_t)t * n_used);
        for (int32_t r = 0; r < n_used; r++) {
            f->expert_begin[chosen[r] + 1]++;
        }
    }
    for (int32_t e = 0; e < n_experts; e++) {
        f->expert_begin[e + 1] += f->expert_begin[e];
    }
    /* Counting sort: expert_begin[e] walks to the end of e's slots, then all entries move back by one. */
    for (int64_t i = 0; i < (int64_t)n_rows * n_used; i++) {
        int32_t slot = f->expert_begin[f->chosen[i]]++;
        f->slot_of[i] = slot;
        memcpy(f->slot_x + (int64_t)slot * c->dim, f->h + i / n_used * c->dim, (size_t)c->dim * sizeof *f->h);
    }
    memmove(f->expert_begin + 1, f->expert_begin, (size_t)n_experts * sizeof *f->expert_begin);
    f->expert_begin[0] = 0;
}

void moe_ffn(struct forward *f, const struct layer *layer)
{
    const struct model_config *c = &f->model->config;
    for (int32_t e = 0; e < c->n_experts; e++) {
        int64_t slot = f->expert_begin[e];
        int32_t n = f->expert_begin[e + 1] - f->expert_begin[e];
        const struct expert *expert = &layer->experts[e];
        struct product products[] = {
            {expert->w_gate, f->slot_x + slot * c->dim, f->gate + slot * c->ffn_dim, c->dim, c->ffn_dim, n},
            {expert->w_up, f->slot_x + slot * c->dim, f->up + slot * c->ffn_dim, c->dim, c->ffn_dim, n},
        };
        struct moe_job job = {f, c->ffn_dim, slot};
        if (n) {
            forward_products(f, products, 2);
            forward_rows(f, n, 8 * (int64_t)c->ffn_dim, swiglu_slots, &job);
        }
    }
}

void moe_output(struct forward *f, const struct layer *layer, int32_t n_rows)
{
    const struct model_config *c = &f->model->config;
    for (int32_t e = 0; e < c->n_experts; e++) {
        int64_t slot = f->expert_begin[e];
        int32_t n = f->expert_begin[e + 1] - f->expert_begin[e];
        struct product down = {layer->experts[e].w_down,
                               f->gate + slot * c->ffn_dim,
                               f->slot_y + slot * c->dim,
                               c->ffn_dim,
                               c->dim,
                               n};
        if (n) {
            forward_products(f, &down, 1);
        }
    }
    struct moe_job job = {.f = f};
    forward_rows(f, n_rows, (int64_t)c->dim * c->n_experts_used, combine_rows, &job);
}
