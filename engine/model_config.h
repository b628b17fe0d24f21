/* The shape and constants of a model, from a Hugging Face config.json. An absent key takes transformers'
 * documented default; an unknown key or value that changes the function is refused by name, one that does not
 * is ignored. */
#ifndef ENGINE_MODEL_CONFIG_H
#define ENGINE_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

enum architecture { ARCH_LLAMA, ARCH_MISTRAL, ARCH_MIXTRAL };
enum rope_scaling { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3 };

/* Limits that come before any allocation; generous against every published model. */
enum {
    MODEL_MAX_DIM = 1 << 17,
    MODEL_MAX_FFN_DIM = 1 << 19,
    MODEL_MAX_LAYERS = 1024,
    MODEL_MAX_HEADS = 1024,
    MODEL_MAX_HEAD_DIM = 512,
    MODEL_MAX_VOCAB = 1 << 22,
    MODEL_MAX_POSITIONS = 1 << 24,
    MODEL_MAX_EXPERTS = 256,
    MODEL_MAX_EOS = 16,
    MODEL_CONFIG_MAX_BYTES = 1 << 20,
};

struct model_config {
    enum architecture architecture;
    int32_t dim;     /* hidden_size */
    int32_t ffn_dim; /* intermediate_size */
    int32_t n_layers;
    int32_t n_heads;
    int32_t n_kv_heads; /* divides n_heads */
    int32_t head_dim;   /* even */
    int32_t vocab_size;
    int32_t max_positions;  /* max_position_embeddings */
    int32_t sliding_window; /* position i sees j with 0 <= i - j < window; 0 = all */
    int32_t n_experts;      /* 0: dense */
    int32_t n_experts_used;
    bool tied_head;      /* the head is the embedding matrix */
    bool attention_bias; /* q, k, v and o have biases (Llama only) */
    bool mlp_bias;
    float norm_eps;
    double rope_theta;
    enum rope_scaling rope_scaling;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor, rope_original_positions;
    int32_t bos_id; /* -1: none */
    int32_t eos_ids[MODEL_MAX_EOS];
    int32_t n_eos;
};

/* Parses text (length bytes); path is for messages. STATUS_BAD_MODEL with path and key named. */
enum status model_config_parse(struct model_config *out, const char *text, size_t length, const char *path,
                               struct error *err);
/* Reads folder/config.json, with the keys of override_json (a JSON object or NULL; tests only) replacing the
 * file's, and eos ids of generation_config.json where that file exists. */
enum status model_config_open(struct model_config *out, const char *folder, const char *override_json,
                              struct error *err);

/* The angle step of each pair, (head_dim / 2) doubles: theta^(-2i/head_dim) with the scaling applied. (Su et
 * al. 2021; llama3: the wavelength rule of Llama 3.1's release.) */
void model_config_rope_frequencies(const struct model_config *config, double *out);

#endif
