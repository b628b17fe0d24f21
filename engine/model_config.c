/* config.json of Llama, Mistral and Mixtral. Keys fall into three groups: those read here, those known to
 * leave the function alone (a list), and all others, which are refused unless they are null or false, for a
 * key that nobody here knows may well change what the model computes. Defaults are those of transformers'
 * LlamaConfig, MistralConfig and MixtralConfig. */
#include "engine/model_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"

static const double pi = 3.14159265358979323846;
static const struct json_limits limits = {.max_depth = 32, .max_nodes = 1 << 17};

/* What each architecture is called, and the defaults in which they differ. */
static const struct family {
    const char *class_name, *model_type;
    int32_t ffn_dim, n_kv_heads /* 0: as n_heads */, max_positions, sliding_window;
    double norm_eps, rope_theta;
} families[] = {
    [ARCH_LLAMA] = {"LlamaForCausalLM", "llama", 11008, 0, 2048, 0, 1e-6, 1e4},
    [ARCH_MISTRAL] = {"MistralForCausalLM", "mistral", 14336, 8, 4096 * 32, 4096, 1e-6, 1e4},
    [ARCH_MIXTRAL] = {"MixtralForCausalLM", "mixtral", 14336, 8, 4096 * 32, 0, 1e-5, 1e6},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* Keys that are read below. */
static const char *const read_keys[] = {
    "architectures",
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "hidden_act",
    "rms_norm_eps",
    "max_position_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "layer_types",
    "bos_token_id",
    "eos_token_id",
};
static const char *const moe_keys[] = {"num_local_experts", "num_experts_per_tok"};

/* Keys that leave the function of an inference pass alone: training, bookkeeping, and the generation and
 * classification settings that every PretrainedConfig may carry. */
static const char *const ignored_keys[] = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_from_model_config",
    "_name_or_path",
    "_experts_implementation",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "base_model_pp_plan",
    "base_model_tp_plan",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "keys_to_ignore_at_inference",
    "label2id",
    "length_penalty",
    "max_length",
    "max_sequence_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "router_z_loss_coef",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
};

/* Factors that leave the function alone at 1, and only there. */
static const char *const one_keys[] = {
    "attention_multiplier",  "embedding_multiplier", "logit_scale",         "logits_scaling",
    "partial_rotary_factor", "pretraining_tp",       "residual_multiplier", "rope_scale",
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

struct reader {
    struct model_config *out;
    const struct family *family;
    const cJSON *root;
    const char *path;
    struct error *err;
};

static bool is_in(const char *key, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(key, list[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* A value as it stands in the file, cut to what a message bears. */
static void describe(char out[64], const cJSON *item)
{
    char *text = item ? cJSON_PrintUnformatted(item) : NULL;
    snprintf(out, 64, "%.60s", text ? text : "?");
    cJSON_free(text);
}

static enum status refuse(const struct reader *r, const char *key, const cJSON *found, const char *expected)
{
    char text[64];
    describe(text, found);
    return error_set(r->err, STATUS_BAD_MODEL, "%s: key \"%.80s\" is %s, expected %s", r->path, key, text,
                     expected);
}

static const cJSON *get(const struct reader *r, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(r->root, key);
}

/* An integer in [low, high]; an absent key leaves *out as it is. */
static enum status read_int(const struct reader *r, const char *key, int64_t low, int64_t high, int32_t *out)
{
    const cJSON *item = get(r, key);
    int64_t value;
    if (!item) {
        return STATUS_OK;
    }
    if (!json_int64(item, &value) || value < low || value > high) {
        char expected[80];
        snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)low, (long long)high);
        return refuse(r, key, item, expected);
    }
    *out = (int32_t)value;
    return STATUS_OK;
}

static enum status read_bool(const struct reader *r, const char *key, bool *out)
{
    const cJSON *item = get(r, key);
    if (!item) {
        return STATUS_OK;
    }
    if (!cJSON_IsBool(item)) {
        return refuse(r, key, item, "true or false");
    }
    *out = cJSON_IsTrue(item);
    return STATUS_OK;
}

/* A number in [low, high] of object; label names it in messages. An absent key leaves *out as it is, unless
 * required. */
static enum status read_number(const struct reader *r, const cJSON *object, const char *key,
                               const char *label, double low, double high, bool required, double *out)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    if (!item && !required) {
        return STATUS_OK;
    }
    if (!item) {
        return error_set(r->err, STATUS_BAD_MODEL, "%s: key \"%s\" is missing", r->path, label);
    }
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= low && item->valuedouble <= high)) {
        char expected[80];
        snprintf(expected, sizeof expected, "a number from %g to %g", low, high);
        return refuse(r, label, item, expected);
    }
    *out = item->valuedouble;
    return STATUS_OK;
}

/* architectures and model_type, where both are given, must name the same one. */
static enum status read_architecture(struct reader *r)
{
    const cJSON *classes = get(r, "architectures"), *type = get(r, "model_type");
    static const char expected[] =
        "LlamaForCausalLM (llama), MistralForCausalLM (mistral) or MixtralForCausalLM (mixtral)";
    int by_class = -1, by_type = -1;
    if (classes && !cJSON_IsNull(classes)) {
        const cJSON *name = cJSON_IsArray(classes) ? classes->child : NULL;
        for (int i = 0; name && !name->next && cJSON_IsString(name) && i < N_FAMILIES; i++) {
            by_class = strcmp(name->valuestring, families[i].class_name) == 0 ? i : by_class;
        }
        if (by_class < 0) {
            return refuse(r, "architectures", classes, expected);
        }
    }
    if (type && !cJSON_IsNull(type)) {
        for (int i = 0; cJSON_IsString(type) && i < N_FAMILIES; i++) {
            by_type = strcmp(type->valuestring, families[i].model_type) == 0 ? i : by_type;
        }
        if (by_type < 0) {
            return refuse(r, "model_type", type, expected);
        }
    }
    if (by_class < 0 && by_type < 0) {
        return error_set(r->err, STATUS_BAD_MODEL,
                         "%s: neither \"architectures\" nor \"model_type\" is given", r->path);
    }
    if (by_class >= 0 && by_type >= 0 && by_class != by_type) {
        return refuse(r, "model_type", type, families[by_class].model_type);
    }
    r->out->architecture = (enum architecture)(by_class >= 0 ? by_class : by_type);
    r->family = &families[r->out->architecture];
    return STATUS_OK;
}

static enum status check_keys(const struct reader *r)
{
    for (const cJSON *item = r->root->child; item; item = item->next) {
        const char *key = item->string;
        if (is_in(key, read_keys, COUNT(read_keys)) || is_in(key, ignored_keys, COUNT(ignored_keys)) ||
            (r->out->architecture == ARCH_MIXTRAL && is_in(key, moe_keys, COUNT(moe_keys))) ||
            cJSON_IsNull(item) || cJSON_IsFalse(item)) {
            continue;
        }
        if (is_in(key, one_keys, COUNT(one_keys))) {
            if (!cJSON_IsNumber(item) || item->valuedouble != 1) {
                return refuse(r, key, item, "1: other values are not supported");
            }
            continue;
        }
        if (strcmp(key, "is_decoder") == 0 && cJSON_IsTrue(item)) {
            continue; /* what these models are anyway */
        }
        if (strcmp(key, "pruned_heads") == 0 && cJSON_IsObject(item) && !item->child) {
            continue;
        }
        if (strcmp(key, "quantization_config") == 0) {
            return error_set(
                r->err, STATUS_BAD_MODEL,
                "%s: key \"quantization_config\": a checkpoint that is quantized already is not supported",
                r->path);
        }
        char text[64];
        describe(text, item);
        return error_set(r->err, STATUS_BAD_MODEL,
                         "%s: key \"%.80s\" (%s) is unknown for %s and may change what the model computes",
                         r->path, key, text, r->family->model_type);
    }
    return STATUS_OK;
}

static enum status read_shape(const struct reader *r)
{
    struct model_config *c = r->out;
    enum status status;
    *c = (struct model_config){
        .architecture = c->architecture,
        .dim = 4096,
        .ffn_dim = r->family->ffn_dim,
        .n_layers = 32,
        .n_heads = 32,
        .vocab_size = 32000,
        .max_positions = r->family->max_positions,
        .sliding_window = r->family->sliding_window,
        .rope_theta = r->family->rope_theta,
        .bos_id = 1,
    };
    if ((status = read_int(r, "hidden_size", 1, MODEL_MAX_DIM, &c->dim)) ||
        (status = read_int(r, "intermediate_size", 1, MODEL_MAX_FFN_DIM, &c->ffn_dim)) ||
        (status = read_int(r, "num_hidden_layers", 1, MODEL_MAX_LAYERS, &c->n_layers)) ||
        (status = read_int(r, "num_attention_heads", 1, MODEL_MAX_HEADS, &c->n_heads)) ||
        (status = read_int(r, "vocab_size", 1, MODEL_MAX_VOCAB, &c->vocab_size)) ||
        (status = read_int(r, "max_position_embeddings", 1, MODEL_MAX_POSITIONS, &c->max_positions))) {
        return status;
    }
    /* Absent takes the class's default; null means one KV head for each head, in every class. */
    const cJSON *kv = get(r, "num_key_value_heads");
    c->n_kv_heads = r->family->n_kv_heads && !kv ? r->family->n_kv_heads : c->n_heads;
    if (kv && !cJSON_IsNull(kv) &&
        (status = read_int(r, "num_key_value_heads", 1, c->n_heads, &c->n_kv_heads))) {
        return status;
    }
    if (c->n_kv_heads > c->n_heads || c->n_heads % c->n_kv_heads) {
        return error_set(
            r->err, STATUS_BAD_MODEL,
            "%s: key \"num_key_value_heads\" is %d, expected a divisor of num_attention_heads, %d", r->path,
            (int)c->n_kv_heads, (int)c->n_heads);
    }
    const cJSON *head_dim = get(r, "head_dim");
    if (head_dim && !cJSON_IsNull(head_dim)) {
        status = read_int(r, "head_dim", 2, MODEL_MAX_HEAD_DIM, &c->head_dim);
        if (status) {
            return status;
        }
    } else if (c->dim % c->n_heads || c->dim / c->n_heads > MODEL_MAX_HEAD_DIM) {
        return error_set(
            r->err, STATUS_BAD_MODEL,
            "%s: key \"num_attention_heads\" is %d, expected a divisor of hidden_size, %d, with at most %d "
            "dimensions a head",
            r->path, (int)c->n_heads, (int)c->dim, (int)MODEL_MAX_HEAD_DIM);
    } else {
        c->head_dim = c->dim / c->n_heads;
    }
    if (c->head_dim % 2) {
        return error_set(r->err, STATUS_BAD_MODEL,
                         "%s: key \"head_dim\" is %d (given, or hidden_size / "
                         "num_attention_heads), expected an even number",
                         r->path, (int)c->head_dim);
    }
    if (c->architecture == ARCH_MIXTRAL) {
        c->n_experts = 8;
        c->n_experts_used = 2;
        if ((status = read_int(r, "num_local_experts", 1, MODEL_MAX_EXPERTS, &c->n_experts)) ||
            (status = read_int(r, "num_experts_per_tok", 1, MODEL_MAX_EXPERTS, &c->n_experts_used))) {
            return status;
        }
        if (c->n_experts_used > c->n_experts) {
            return error_set(r->err, STATUS_BAD_MODEL,
                             "%s: key \"num_experts_per_tok\" is %d, but num_local_experts is %d", r->path,
                             (int)c->n_experts_used, (int)c->n_experts);
        }
    }
    return STATUS_OK;
}

/* layer_types (newer files) may only say again what sliding_window says. */
static enum status check_layer_types(const struct reader *r)
{
    const cJSON *types = get(r, "layer_types");
    const char *expected = r->out->sliding_window ? "sliding_attention" : "full_attention";
    int32_t n = 0;
    if (!types || cJSON_IsNull(types)) {
        return STATUS_OK;
    }
    bool ok = cJSON_IsArray(types);
    for (const cJSON *type = ok ? types->child : NULL; ok && type; type = type->next) {
        ok = cJSON_IsString(type) && strcmp(type->valuestring, expected) == 0;
        n++;
    }
    if (!ok || n != r->out->n_layers) {
        char text[80];
        snprintf(text, sizeof text, "num_hidden_layers times \"%s\"", expected);
        return refuse(r, "layer_types", types, text);
    }
    return STATUS_OK;
}

static enum status read_details(const struct reader *r)
{
    struct model_config *c = r->out;
    enum status status;
    double norm_eps = r->family->norm_eps;
    const cJSON *act = get(r, "hidden_act");
    if (act && (!cJSON_IsString(act) ||
                (strcmp(act->valuestring, "silu") != 0 && strcmp(act->valuestring, "swish") != 0))) {
        return refuse(r, "hidden_act", act, "\"silu\"");
    }
    if ((status = read_number(r, r->root, "rms_norm_eps", "rms_norm_eps", 1e-30, 1, false, &norm_eps)) ||
        (status = read_bool(r, "tie_word_embeddings", &c->tied_head)) ||
        (status = read_bool(r, "attention_bias", &c->attention_bias)) ||
        (status = read_bool(r, "mlp_bias", &c->mlp_bias))) {
        return status;
    }
    c->norm_eps = (float)norm_eps;
    if (c->architecture != ARCH_LLAMA && (c->attention_bias || c->mlp_bias)) {
        const char *key = c->attention_bias ? "attention_bias" : "mlp_bias";
        return refuse(r, key, get(r, key), "false: only llama has biases");
    }
    const cJSON *window = get(r, "sliding_window");
    if (window && cJSON_IsNull(window)) {
        c->sliding_window = 0;
    } else if (window && c->architecture == ARCH_LLAMA) {
        return refuse(r, "sliding_window", window, "null for llama");
    } else if ((status = read_int(r, "sliding_window", 1, INT32_MAX, &c->sliding_window))) {
        return status;
    }
    return check_layer_types(r);
}

static enum status read_llama3(const struct reader *r, const cJSON *rope)
{
    struct model_config *c = r->out;
    enum status status;
    if ((status = read_number(r, rope, "low_freq_factor", "rope_scaling.low_freq_factor", 1e-3, 1e6, true,
                              &c->rope_low_freq_factor)) ||
        (status = read_number(r, rope, "high_freq_factor", "rope_scaling.high_freq_factor", 1e-3, 1e6, true,
                              &c->rope_high_freq_factor)) ||
        (status = read_number(r, rope, "original_max_position_embeddings",
                              "rope_scaling.original_max_position_embeddings", 1, MODEL_MAX_POSITIONS, true,
                              &c->rope_original_positions))) {
        return status;
    }
    if (c->rope_high_freq_factor <= c->rope_low_freq_factor) {
        return refuse(r, "rope_scaling.high_freq_factor",
                      cJSON_GetObjectItemCaseSensitive(rope, "high_freq_factor"),
                      "more than low_freq_factor");
    }
    return STATUS_OK;
}

/* rope_scaling, or the newer rope_parameters, which holds rope_theta too. */
static enum status read_rope_object(const struct reader *r, const char *name, const cJSON *rope)
{
    static const char *const plain[] = {"type", "rope_type", "rope_theta"};
    static const char *const scaled[] = {"factor"};
    static const char *const llama3[] = {"low_freq_factor", "high_freq_factor",
                                         "original_max_position_embeddings"};
    struct model_config *c = r->out;
    enum status status;
    if (!cJSON_IsObject(rope)) {
        return refuse(r, name, rope, "an object or null");
    }
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(rope, "rope_type");
    const cJSON *old_type = cJSON_GetObjectItemCaseSensitive(rope, "type");
    if (type && old_type && !cJSON_Compare(type, old_type, true)) {
        return refuse(r, name, rope, "rope_type and type to agree");
    }
    type = type ? type : old_type;
    const char *text = !type ? "default" : cJSON_IsString(type) ? type->valuestring : "";
    if (!type && strcmp(name, "rope_scaling") == 0) {
        return error_set(r->err, STATUS_BAD_MODEL, "%s: key \"rope_scaling.rope_type\" is missing", r->path);
    }
    if (strcmp(text, "default") == 0) {
        c->rope_scaling = ROPE_PLAIN;
    } else if (strcmp(text, "linear") == 0) {
        c->rope_scaling = ROPE_LINEAR;
    } else if (strcmp(text, "llama3") == 0) {
        c->rope_scaling = ROPE_LLAMA3;
    } else {
        char label[64];
        snprintf(label, sizeof label, "%s.rope_type", name);
        return refuse(r, label, type, "default, linear or llama3: other RoPE scalings are not supported");
    }
    for (const cJSON *item = rope->child; item; item = item->next) {
        bool known =
            is_in(item->string, plain, COUNT(plain)) ||
            (c->rope_scaling != ROPE_PLAIN && is_in(item->string, scaled, COUNT(scaled))) ||
            (c->rope_scaling == ROPE_LLAMA3 && is_in(item->string, llama3, COUNT(llama3))) ||
            ((strcmp(item->string, "partial_rotary_factor") == 0 || strcmp(item->string, "factor") == 0) &&
             cJSON_IsNumber(item) && item->valuedouble == 1);
        if (!known && !cJSON_IsNull(item)) {
            char label[128];
            snprintf(label, sizeof label, "%s.%.80s", name, item->string);
            return refuse(r, label, item, "no such key with this rope_type");
        }
    }
    if (c->rope_scaling != ROPE_PLAIN &&
        (status = read_number(r, rope, "factor", "rope_scaling.factor", 1, 1e6, true, &c->rope_factor))) {
        return status;
    }
    if (c->rope_scaling == ROPE_LLAMA3 && (status = read_llama3(r, rope))) {
        return status;
    }
    const cJSON *outer = get(r, "rope_theta"), *inner = cJSON_GetObjectItemCaseSensitive(rope, "rope_theta");
    if (outer && inner && !cJSON_Compare(outer, inner, true)) {
        return refuse(r, "rope_theta", outer, "the same value as inside the RoPE settings");
    }
    return read_number(r, rope, "rope_theta", "rope_parameters.rope_theta", 1, 1e12, false, &c->rope_theta);
}

static enum status read_rope(const struct reader *r)
{
    enum status status =
        read_number(r, r->root, "rope_theta", "rope_theta", 1, 1e12, false, &r->out->rope_theta);
    const cJSON *scaling = get(r, "rope_scaling"), *parameters = get(r, "rope_parameters");
    bool has_scaling = scaling && !cJSON_IsNull(scaling),
         has_parameters = parameters && !cJSON_IsNull(parameters);
    if (status) {
        return status;
    }
    if (has_scaling && has_parameters) {
        return refuse(r, "rope_scaling", scaling, "null beside rope_parameters");
    }
    if (has_scaling) {
        return read_rope_object(r, "rope_scaling", scaling);
    }
    return has_parameters ? read_rope_object(r, "rope_parameters", parameters) : STATUS_OK;
}

/* eos_token_id: an integer or a list of them. Ids that the vocabulary does not have are refused. */
static enum status read_eos(const struct reader *r, const cJSON *item)
{
    struct model_config *c = r->out;
    const cJSON *first = cJSON_IsArray(item) ? item->child : item;
    c->n_eos = 0;
    for (const cJSON *id = first; id; id = cJSON_IsArray(item) ? id->next : NULL) {
        int64_t value;
        if (!json_int64(id, &value) || value < 0 || value >= c->vocab_size || c->n_eos == MODEL_MAX_EOS) {
            char expected[96];
            snprintf(expected, sizeof expected, "at most %d token ids below vocab_size, %d",
                     (int)MODEL_MAX_EOS, (int)c->vocab_size);
            return refuse(r, "eos_token_id", item, expected);
        }
        c->eos_ids[c->n_eos++] = (int32_t)value;
    }
    return STATUS_OK;
}

static enum status read_special_ids(const struct reader *r)
{
    struct model_config *c = r->out;
    const cJSON *bos = get(r, "bos_token_id"), *eos = get(r, "eos_token_id");
    enum status status = STATUS_OK;
    if (bos && cJSON_IsNull(bos)) {
        c->bos_id = -1;
    } else {
        c->bos_id = c->vocab_size > 1 ? 1 : -1; /* a default must not point outside */
        status = read_int(r, "bos_token_id", 0, c->vocab_size - 1, &c->bos_id);
    }
    if (!status && !eos && c->vocab_size > 2) {
        c->eos_ids[c->n_eos++] = 2;
    }
    return !status && eos && !cJSON_IsNull(eos) ? read_eos(r, eos) : status;
}

static enum status read_config(struct model_config *out, const cJSON *root, const char *path,
                               struct error *err)
{
    struct model_config config = {0};
    struct reader r = {.out = &config, .root = root, .path = path, .err = err};
    enum status status;
    if (!cJSON_IsObject(root)) {
        return error_set(err, STATUS_BAD_MODEL, "%s: not a JSON object", path);
    }
    if ((status = read_architecture(&r)) || (status = check_keys(&r)) || (status = read_shape(&r)) ||
        (status = read_details(&r)) || (status = read_rope(&r)) || (status = read_special_ids(&r))) {
        return status;
    }
    *out = config;
    return STATUS_OK;
}

static enum status parse_json(cJSON **out, const char *text, size_t length, const char *path,
                              struct error *err)
{
    struct error why;
    if (length > MODEL_CONFIG_MAX_BYTES) {
        return error_set(err, STATUS_BAD_MODEL, "%s: %zu bytes, at most %d are accepted", path, length,
                         (int)MODEL_CONFIG_MAX_BYTES);
    }
    enum json_fault fault = json_parse(out, text, length, &limits, &why);
    return fault ? error_set(err, fault == JSON_OUT_OF_MEMORY ? STATUS_NO_MEMORY : STATUS_BAD_MODEL, "%s: %s",
                             path, why.message)
                 : STATUS_OK;
}

enum status model_config_parse(struct model_config *out, const char *text, size_t length, const char *path,
                               struct error *err)
{
    cJSON *root = NULL;
    enum status status = parse_json(&root, text, length, path, err);
    if (!status) {
        status = read_config(out, root, path, err);
    }
    cJSON_Delete(root);
    return status;
}

/* Reads and parses one file of the folder; a missing or unreadable one makes the model bad. */
static enum status read_json_file(cJSON **out, const char *path, struct error *err)
{
    char *text;
    size_t length;
    *out = NULL;
    struct error why;
    enum status status = file_read(&text, &length, path, MODEL_CONFIG_MAX_BYTES, &why);
    if (status) {
        status = status == STATUS_INVALID || status == STATUS_IO ? STATUS_BAD_MODEL : status;
        return error_set(err, status, "%s", why.message);
    }
    status = parse_json(out, text, length, path, err);
    free(text);
    return status;
}

/* The keys of patch replace those of root. */
static enum status apply_override(cJSON *root, const char *override_json, struct error *err)
{
    cJSON *patch = NULL;
    enum status status = parse_json(&patch, override_json, strlen(override_json), "config override", err);
    if (!status && (!cJSON_IsObject(patch) || !cJSON_IsObject(root))) {
        status =
            error_set(err, STATUS_BAD_MODEL, "config override: not a JSON object, or the config is none");
    }
    while (!status && patch->child) {
        cJSON *item = cJSON_DetachItemViaPointer(patch, patch->child);
        cJSON_DeleteItemFromObjectCaseSensitive(root, item->string);
        cJSON_AddItemToArray(root, item); /* keeps the key that the item has */
    }
    cJSON_Delete(patch);
    return status;
}

enum status model_config_open(struct model_config *out, const char *folder, const char *override_json,
                              struct error *err)
{
    char path[4096];
    cJSON *root = NULL, *generation = NULL;
    struct model_config config;
    enum status status;
    int n = snprintf(path, sizeof path, "%s/generation_config.json", folder);
    if (n < 0 || (size_t)n >= sizeof path) {
        return error_set(err, STATUS_INVALID, "%.100s...: path too long", folder);
    }
    snprintf(path, sizeof path, "%s/config.json", folder);
    if ((status = read_json_file(&root, path, err))) {
        status =
            status == STATUS_NOT_FOUND ? error_set(err, STATUS_BAD_MODEL, "%s: not found", path) : status;
        goto cleanup;
    }
    if ((override_json && (status = apply_override(root, override_json, err))) ||
        (status = read_config(&config, root, path, err))) {
        goto cleanup;
    }
    snprintf(path, sizeof path, "%s/generation_config.json", folder);
    struct error why;
    status = read_json_file(&generation, path, &why);
    if (status == STATUS_NOT_FOUND) {
        status = STATUS_OK; /* it is optional */
    } else if (status) {
        status = error_set(err, status, "%s", why.message);
    } else {
        struct reader r = {.out = &config, .root = generation, .path = path, .err = err};
        const cJSON *eos = get(&r, "eos_token_id");
        if (!cJSON_IsObject(generation)) {
            status = error_set(err, STATUS_BAD_MODEL, "%s: not a JSON object", path);
        } else if (eos && !cJSON_IsNull(eos)) {
            status = read_eos(&r, eos);
        }
    }
cleanup:
    if (!status) {
        *out = config;
    }
    cJSON_Delete(generation);
    cJSON_Delete(root);
    return status;
}

void model_config_rope_frequencies(const struct model_config *config, double *out)
{
    double low_wavelength = 0, high_wavelength = 0;
    if (config->rope_scaling == ROPE_LLAMA3) {
        low_wavelength = config->rope_original_positions / config->rope_low_freq_factor;
        high_wavelength = config->rope_original_positions / config->rope_high_freq_factor;
    }
    for (int32_t i = 0; i < config->head_dim / 2; i++) {
        double frequency = pow(config->rope_theta, -2.0 * i / config->head_dim);
        double wavelength = 2 * pi / frequency;
        if (config->rope_scaling == ROPE_LINEAR) {
            frequency /= config->rope_factor;
        } else if (config->rope_scaling == ROPE_LLAMA3 && wavelength > low_wavelength) {
            frequency /= config->rope_factor;
        } else if (config->rope_scaling == ROPE_LLAMA3 && wavelength >= high_wavelength) {
            /* Between the two wavelengths the factor fades in. */
            double keep = (config->rope_original_positions / wavelength - config->rope_low_freq_factor) /
                          (config->rope_high_freq_factor - config->rope_low_freq_factor);
            frequency *= keep + (1 - keep) / config->rope_factor;
        }
        out[i] = frequency;
    }
}
