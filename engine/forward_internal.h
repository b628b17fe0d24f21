/* What forward.c shares with its two chapters, attention.c and moe.c, and with calibrate.c, which takes the
 * same step apart. */
#ifndef ENGINE_FORWARD_INTERNAL_H
#define ENGINE_FORWARD_INTERNAL_H

#include "engine/forward.h"

struct forward {
    struct device_forward *device; /* it does everything, and nothing below is used; NULL: the CPU */
    const struct model *model;
    const struct kernels *k;
    struct kv_cache *kv;
    struct thread_pool *pool;
    int32_t max_rows, max_logits;
    void *memory;
    double *rope_step;          /* (head_dim / 2) angle per position */
    float *rope_cos, *rope_sin; /* (max_rows, head_dim / 2) */
    float *x;                   /* (max_rows, dim) the residual stream */
    float *h;                   /* (max_rows, dim) normed input of the current linear */
    float *q, *attn;            /* (max_rows, n_heads * head_dim) */
    float *kx, *vx;             /* (max_rows, n_kv_heads * head_dim) */
    float *gate, *up;           /* (max_rows, ffn_dim), Mixtral: (max_rows * n_experts_used, ffn_dim) */
    float *logits;              /* (max_logits, vocab_size) */
    /* Mixtral only. A slot is one (row, rank) pair; slots are sorted by expert. */
    float *router;          /* (max_rows, n_experts) */
    int32_t *slot_of;       /* (max_rows, n_experts_used) slot of each (row, rank) */
    int32_t *expert_begin;  /* (n_experts + 1) first slot of each expert */
    int32_t *chosen;        /* (max_rows, n_experts_used) expert of each (row, rank) */
    float *chosen_weight;   /* (max_rows, n_experts_used) */
    float *slot_x, *slot_y; /* (max_rows * n_experts_used, dim) */
};

/* One product of a group that shares one pool run: y[t][row] for n_tokens rows of x. */
struct product {
    const struct linear *linear;
    const float *x;
    float *y;
    int64_t x_stride, y_stride;
    int32_t n_tokens;
};

/* Runs all products, splitting their rows over the pool in one go: one barrier for Q, K and V. */
void forward_products(struct forward *f, const struct product *products, int32_t n_products);

/* Runs fn over [0, n) rows on the pool, or inline where the work is too small to be worth a barrier. */
void forward_rows(struct forward *f, int32_t n, int64_t work_per_row, thread_pool_fn *fn, void *context);

/* RoPE on q and k, KV append, attention over the cache: fills f->attn from f->q, f->kx, f->vx. */
void attention_step(struct forward *f, const struct batch *batch, int32_t layer);

/* Mixtral (top-k of the softmax over the router, renormalised): moe_route sorts n_rows rows of h into the
 * slots of the experts that they chose, moe_ffn computes gate = silu(gate) * up of every slot, moe_output
 * adds the experts' weighted outputs to x. */
void moe_route(struct forward *f, const struct layer *layer, int32_t n_rows);
void moe_ffn(struct forward *f, const struct layer *layer);
void moe_output(struct forward *f, const struct layer *layer, int32_t n_rows);

/* A step in pieces, cut where the input of a linear stands ready; forward_step runs them all. A linear must
 * be loaded by the time that the piece which multiplies with it is called. */
void forward_embed(struct forward *f, const struct batch *batch);
void forward_attention_input(struct forward *f, const struct layer *layer,
                             int32_t n_rows); /* h for q, k, v */
void forward_attention(struct forward *f, const struct batch *batch, const struct layer *layer,
                       int32_t kv_layer);                                              /* attn for o */
void forward_ffn_input(struct forward *f, const struct layer *layer, int32_t n_rows);  /* h, or slot_x */
void forward_ffn(struct forward *f, const struct layer *layer, int32_t n_rows);        /* gate, for down */
void forward_ffn_output(struct forward *f, const struct layer *layer, int32_t n_rows); /* the layer's x */
void forward_head_input(struct forward *f, int32_t n_rows);                            /* h for the head */

#endif
