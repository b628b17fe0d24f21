/* Binding: names and shapes of a Hugging Face folder onto struct model. */
#include "engine/model.h"

#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model_cache.h"

/* State of one binding: the flat array of linears is filled in loading order. */
struct binder {
    struct model *model;
    const struct engine_options *options;
    int64_t n_bound;   /* linears so far */
    int64_t n_matched; /* tensors of the folder that have found a role */
    const struct tensor **matched;
};

static void match(struct binder *b, const struct tensor *tensor)
{
    b->matched[b->n_matched++] = tensor;
}

static const struct tensor *find(struct binder *b, struct error *err, const char *name)
{
    const struct tensor *tensor = safetensors_find(b->model->tensors, name);
    if (!tensor) {
        error_set(err, STATUS_BAD_MODEL, "%s: tensor %s is missing", b->options->model_dir, name);
    }
    return tensor;
}

static enum status check_shape(const struct tensor *tensor, int64_t rows, int64_t cols, struct error *err)
{
    int32_t n_dims = cols ? 2 : 1;
    if (tensor->n_dims != n_dims || tensor->shape[0] != rows || (cols && tensor->shape[1] != cols)) {
        char found[128] = "";
        size_t used = 0;
        for (int32_t i = 0; i < tensor->n_dims && used + 24 < sizeof found; i++) {
            used += (size_t)snprintf(found + used, sizeof found - used, "%s%lld", i ? ", " : "",
                                     (long long)tensor->shape[i]);
        }
        if (cols) {
            return error_set(err, STATUS_BAD_MODEL, "%s: tensor %s is (%s), expected (%lld, %lld)",
                             tensor->path, tensor->name, found, (long long)rows, (long long)cols);
        }
        return error_set(err, STATUS_BAD_MODEL, "%s: tensor %s is (%s), expected (%lld)", tensor->path,
                         tensor->name, found, (long long)rows);
    }
    if (tensor->dtype == DTYPE_OTHER) {
        return error_set(err, STATUS_BAD_MODEL, "%s: tensor %s has dtype %s, expected F32, F16 or BF16",
                         tensor->path, tensor->name, tensor->dtype_name);
    }
    return STATUS_OK;
}

static bool skipped(const struct engine_options *options, const char *name)
{
    for (int32_t i = 0; i < options->n_quant_skip; i++) {
        if (fnmatch(options->quant_skip[i], name, 0) == 0) {
            return true;
        }
    }
    return false;
}

/* Binds the linear called `name` (without ".weight"). quantize says whether its role allows it. */
static enum status bind_linear(struct binder *b, struct linear **out, int64_t rows, int64_t cols,
                               bool has_bias, bool quantize, struct error *err, const char *format, ...)
    __attribute__((format(printf, 8, 9)));

static enum status bind_linear(struct binder *b, struct linear **out, int64_t rows, int64_t cols,
                               bool has_bias, bool quantize, struct error *err, const char *format, ...)
{
    struct linear *linear = &b->model->linears[b->n_bound++];
    char tensor_name[sizeof linear->name + 8];
    enum status status;
    va_list args;
    va_start(args, format);
    vsnprintf(linear->name, sizeof linear->name, format, args);
    va_end(args);
    snprintf(tensor_name, sizeof tensor_name, "%s.weight", linear->name);
    if (!(linear->source = find(b, err, tensor_name))) {
        return STATUS_BAD_MODEL;
    }
    if ((status = check_shape(linear->source, rows, cols, err))) {
        return status;
    }
    match(b, linear->source);
    if (has_bias) {
        snprintf(tensor_name, sizeof tensor_name, "%s.bias", linear->name);
        if (!(linear->bias_source = find(b, err, tensor_name))) {
            return STATUS_BAD_MODEL;
        }
        if ((status = check_shape(linear->bias_source, rows, 0, err))) {
            return status;
        }
        match(b, linear->bias_source);
    }
    linear->w.n_rows = (int32_t)rows;
    linear->w.n_cols = (int32_t)cols;
    linear->method = b->options->quant.method;
    linear->quantize =
        quantize && b->options->quant.method != QUANT_NONE && !skipped(b->options, linear->name);
    *out = linear;
    return STATUS_OK;
}

static enum status bind_norm(struct binder *b, int64_t index, struct error *err, const char *name)
{
    const struct tensor *tensor = find(b, err, name);
    if (!tensor) {
        return STATUS_BAD_MODEL;
    }
    b->model->norm_sources[index] = tensor;
    match(b, tensor);
    return check_shape(tensor, b->model->config.dim, 0, err);
}

static enum status bind_layer(struct binder *b, int32_t index, struct error *err)
{
    const struct model_config *c = &b->model->config;
    struct layer *layer = &b->model->layers[index];
    int64_t q_dim = (int64_t)c->n_heads * c->head_dim;
    int64_t kv_dim = (int64_t)c->n_kv_heads * c->head_dim;
    char prefix[48], name[96];
    enum status status;

    snprintf(prefix, sizeof prefix, "model.layers.%d", index);
    snprintf(name, sizeof name, "%s.input_layernorm.weight", prefix);
    if ((status = bind_norm(b, 2 * (int64_t)index, err, name))) {
        return status;
    }
    snprintf(name, sizeof name, "%s.post_attention_layernorm.weight", prefix);
    if ((status = bind_norm(b, 2 * (int64_t)index + 1, err, name))) {
        return status;
    }
    layer->attn_norm = b->model->norms + 2 * (int64_t)index * c->dim;
    layer->ffn_norm = layer->attn_norm + c->dim;

    bool bias = c->attention_bias;
    if ((status =
             bind_linear(b, &layer->wq, q_dim, c->dim, bias, true, err, "%s.self_attn.q_proj", prefix)) ||
        (status =
             bind_linear(b, &layer->wk, kv_dim, c->dim, bias, true, err, "%s.self_attn.k_proj", prefix)) ||
        (status =
             bind_linear(b, &layer->wv, kv_dim, c->dim, bias, true, err, "%s.self_attn.v_proj", prefix)) ||
        (status =
             bind_linear(b, &layer->wo, c->dim, q_dim, bias, true, err, "%s.self_attn.o_proj", prefix))) {
        return status;
    }
    if (!c->n_experts) {
        bias = c->mlp_bias;
        if ((status = bind_linear(b, &layer->w_gate, c->ffn_dim, c->dim, bias, true, err, "%s.mlp.gate_proj",
                                  prefix)) ||
            (status = bind_linear(b, &layer->w_up, c->ffn_dim, c->dim, bias, true, err, "%s.mlp.up_proj",
                                  prefix)) ||
            (status = bind_linear(b, &layer->w_down, c->dim, c->ffn_dim, bias, true, err, "%s.mlp.down_proj",
                                  prefix))) {
            return status;
        }
        return STATUS_OK;
    }
    layer->experts = b->model->experts + (int64_t)index * c->n_experts;
    if ((status = bind_linear(b, &layer->router, c->n_experts, c->dim, false, false, err,
                              "%s.block_sparse_moe.gate", prefix))) {
        return status;
    }
    for (int32_t e = 0; e < c->n_experts; e++) {
        struct expert *expert = &layer->experts[e];
        if ((status = bind_linear(b, &expert->w_gate, c->ffn_dim, c->dim, false, true, err,
                                  "%s.block_sparse_moe.experts.%d.w1", prefix, e)) ||
            (status = bind_linear(b, &expert->w_up, c->ffn_dim, c->dim, false, true, err,
                                  "%s.block_sparse_moe.experts.%d.w3", prefix, e)) ||
            (status = bind_linear(b, &expert->w_down, c->dim, c->ffn_dim, false, true, err,
                                  "%s.block_sparse_moe.experts.%d.w2", prefix, e))) {
            return status;
        }
    }
    return STATUS_OK;
}

static enum status bind_head(struct binder *b, struct error *err)
{
    struct model *model = b->model;
    const struct model_config *c = &model->config;
    /* The published method leaves the head at 16 bits; ours quantizes it like any other linear. */
    bool quantize = b->options->quant.method != QUANT_ANY4_PAPER;
    if (!c->tied_head) {
        return bind_linear(b, &model->head, c->vocab_size, c->dim, false, quantize, err, "lm_head");
    }
    struct linear *head = &model->linears[b->n_bound++];
    snprintf(head->name, sizeof head->name, "lm_head");
    head->source = model->embedding;
    head->w.n_rows = c->vocab_size;
    head->w.n_cols = c->dim;
    head->method = b->options->quant.method;
    head->quantize = quantize && b->options->quant.method != QUANT_NONE && !skipped(b->options, head->name);
    model->head = head;
    const struct tensor *copy = safetensors_find(model->tensors, "lm_head.weight");
    if (copy) {
        match(b, copy); /* some exporters store the tied copy as well: the config decides */
    }
    return STATUS_OK;
}

static int compare_pointers(const void *a, const void *b)
{
    const struct tensor *x = *(const struct tensor *const *)a, *y = *(const struct tensor *const *)b;
    return x < y ? -1 : x > y;
}

static const char *architecture_name(enum architecture architecture)
{
    return architecture == ARCH_MIXTRAL ? "Mixtral" : architecture == ARCH_MISTRAL ? "Mistral" : "Llama";
}

/* A tensor without a role would mean that the folder computes something we do not: refuse it by name. */
static enum status check_no_strangers(struct binder *b, struct error *err)
{
    static const char inv_freq[] = ".rotary_emb.inv_freq"; /* a buffer that old exporters stored */
    const struct model *model = b->model;
    qsort(b->matched, (size_t)b->n_matched, sizeof *b->matched, compare_pointers);
    for (int64_t i = 0; i < safetensors_n_tensors(model->tensors); i++) {
        const struct tensor *tensor = safetensors_at(model->tensors, i);
        size_t length = strlen(tensor->name), suffix = sizeof inv_freq - 1;
        if (length >= suffix && strcmp(tensor->name + length - suffix, inv_freq) == 0) {
            continue;
        }
        if (!bsearch(&tensor, b->matched, (size_t)b->n_matched, sizeof *b->matched, compare_pointers)) {
            return error_set(err, STATUS_BAD_MODEL, "%s: tensor %s has no place in a %s model", tensor->path,
                             tensor->name, architecture_name(model->config.architecture));
        }
    }
    return STATUS_OK;
}

/* A pattern that matches nothing is a slip of the hand, and would quantize what was to be kept. */
static enum status check_skips(const struct binder *b, struct error *err)
{
    for (int32_t i = 0; i < b->options->n_quant_skip; i++) {
        bool used = false;
        for (int64_t n = 0; n < b->model->n_linears && !used; n++) {
            used = fnmatch(b->options->quant_skip[i], b->model->linears[n].name, 0) == 0;
        }
        if (!used) {
            return error_set(err, STATUS_INVALID,
                             "quant_skip: \"%s\" matches no linear layer (they are called like %s)",
                             b->options->quant_skip[i], b->model->linears[0].name);
        }
    }
    return STATUS_OK;
}

enum status model_bind(struct model **out, const struct engine_options *options, struct error *err)
{
    enum status status;
    struct binder b = {.options = options};
    struct model *model = calloc(1, sizeof *model);
    *out = NULL;
    if (options->quant.method == QUANT_NONE && options->quant.group_size) {
        free(model);
        return error_set(err, STATUS_INVALID, "group_size %d: quant none has no groups",
                         options->quant.group_size);
    }
    if (!model) {
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", options->model_dir);
    }
    b.model = model;
    struct model_config *c = &model->config;
    if ((status = model_config_open(c, options->model_dir, options->config_override, err)) ||
        (status = safetensors_open_folder(&model->tensors, options->model_dir, err))) {
        goto cleanup;
    }
    int64_t per_layer = c->n_experts ? 5 + 3 * (int64_t)c->n_experts : 7;
    model->n_linears = c->n_layers * per_layer + 1;
    if (model->n_linears > SAFETENSORS_MAX_TENSORS) {
        status = error_set(err, STATUS_BAD_MODEL,
                           "%s: config.json asks for %lld linear layers, at most %d are supported",
                           options->model_dir, (long long)model->n_linears, SAFETENSORS_MAX_TENSORS);
        goto cleanup;
    }
    /* The config alone must not decide an allocation: a lying n_layers fails here on the first missing
     * tensor. */
    int64_t n_norms = 2 * (int64_t)c->n_layers + 1;
    if (safetensors_n_tensors(model->tensors) < n_norms) {
        status = error_set(err, STATUS_BAD_MODEL,
                           "%s: %lld tensors found, but config.json has num_hidden_layers %d",
                           options->model_dir, (long long)safetensors_n_tensors(model->tensors), c->n_layers);
        goto cleanup;
    }
    const char *embedding_name = "model.embed_tokens.weight";
    if (!(model->embedding = find(&b, err, embedding_name))) {
        status = STATUS_BAD_MODEL;
        goto cleanup;
    }
    if ((status = check_shape(model->embedding, c->vocab_size, c->dim, err))) {
        goto cleanup;
    }
    model->norms = calloc((size_t)n_norms * (size_t)c->dim, sizeof *model->norms);
    model->norm_sources = calloc((size_t)n_norms, sizeof *model->norm_sources);
    model->layers = calloc((size_t)c->n_layers, sizeof *model->layers);
    model->linears = calloc((size_t)model->n_linears, sizeof *model->linears);
    model->experts = calloc((size_t)c->n_layers * (size_t)c->n_experts + 1, sizeof *model->experts);
    b.matched = calloc(2 * (size_t)model->n_linears + (size_t)n_norms + 2, sizeof *b.matched);
    if (!b.matched || !model->norms || !model->norm_sources || !model->layers || !model->linears ||
        !model->experts) {
        status = error_set(err, STATUS_NO_MEMORY, "%s: out of memory", options->model_dir);
        goto cleanup;
    }
    match(&b, model->embedding);
    for (int32_t i = 0; i < c->n_layers; i++) {
        if ((status = bind_layer(&b, i, err))) {
            goto cleanup;
        }
    }
    model->final_norm = model->norms + (n_norms - 1) * c->dim;
    if ((status = bind_norm(&b, n_norms - 1, err, "model.norm.weight")) || (status = bind_head(&b, err))) {
        goto cleanup;
    }
    if ((status = check_no_strangers(&b, err)) || (status = check_skips(&b, err))) {
        goto cleanup;
    }
    for (int64_t i = 0; i < safetensors_n_tensors(model->tensors); i++) {
        const struct tensor *tensor = safetensors_at(model->tensors, i);
        model->n_params += tensor->n_elements;
        model->stored_bytes += tensor->n_bytes;
        if (tensor->n_bytes > model->largest_tensor_bytes) {
            model->largest_tensor_bytes = tensor->n_bytes;
        }
    }
cleanup:
    free(b.matched);
    if (status) {
        model_close(model);
        model = NULL;
    }
    *out = model;
    return status;
}

void model_free_weights(struct model *model)
{
    for (int64_t i = 0; i < model->n_linears; i++) {
        struct linear *linear = &model->linears[i];
        if (linear->memory) {
            free(linear->memory);
            linear->memory = NULL;
            linear->w.codes = NULL;
            linear->w.scales = NULL;
            linear->w.zeros = NULL;
            linear->w.lut = NULL;
            linear->w.group_scales = NULL;
            linear->w.table = NULL;
            linear->w.row_scales = NULL;
        }
    }
}

void model_close(struct model *model)
{
    if (!model) {
        return;
    }
    model_cache_close(model->cache); /* first: its writer reads what is freed here */
    for (int64_t i = 0; model->linears && i < model->n_linears; i++) {
        free(model->linears[i].memory);
        free(model->linears[i].bias);
    }
    free(model->linears);
    free(model->experts);
    free(model->layers);
    free(model->norm_sources);
    free(model->norms);
    free(model->folded_norms);
    free(model->channel_scales);
    safetensors_close(model->tensors);
    free(model);
}
