/* config.json: defaults, real files, refusals by name, flips. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/model_config.h"
#include "tests/fixtures.h"

static struct model_config c;
static struct error err;

static enum status parse(const char *text)
{
    memset(&err, 0, sizeof err);
    return model_config_parse(&c, text, strlen(text), "dir/config.json", &err);
}

#define LLAMA(rest)   "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"" rest "}"
#define MISTRAL(rest) "{\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"mistral\"" rest "}"
#define MIXTRAL(rest) "{\"architectures\":[\"MixtralForCausalLM\"],\"model_type\":\"mixtral\"" rest "}"

Test(model_config, defaults_of_each_class)
{
    cr_assert_eq(parse(LLAMA("")), STATUS_OK, "%s", err.message);
    cr_assert(c.architecture == ARCH_LLAMA && c.dim == 4096 && c.ffn_dim == 11008 && c.n_layers == 32 &&
              c.n_heads == 32);
    cr_assert(c.n_kv_heads == 32 && c.head_dim == 128 && c.vocab_size == 32000 && c.max_positions == 2048);
    cr_assert(c.sliding_window == 0 && c.n_experts == 0 && !c.tied_head && !c.attention_bias && !c.mlp_bias);
    cr_assert(c.norm_eps == 1e-6f && c.rope_theta == 1e4 && c.rope_scaling == ROPE_PLAIN);
    cr_assert(c.bos_id == 1 && c.n_eos == 1 && c.eos_ids[0] == 2);
    cr_assert_eq(parse("{\"model_type\":\"mistral\"}"), STATUS_OK, "%s", err.message);
    cr_assert(c.ffn_dim == 14336 && c.n_kv_heads == 8 && c.max_positions == 131072 &&
              c.sliding_window == 4096);
    cr_assert(c.norm_eps == 1e-6f && c.rope_theta == 1e4);
    cr_assert_eq(parse("{\"architectures\":[\"MixtralForCausalLM\"]}"), STATUS_OK, "%s", err.message);
    cr_assert(c.n_kv_heads == 8 && c.sliding_window == 0 && c.n_experts == 8 && c.n_experts_used == 2);
    cr_assert(c.norm_eps == 1e-5f && c.rope_theta == 1e6 && c.max_positions == 131072);
}

Test(model_config, null_and_absent_differ)
{
    cr_assert_eq(parse(MISTRAL(",\"sliding_window\":null,\"num_key_value_heads\":null,\"head_dim\":null")),
                 STATUS_OK);
    cr_assert(c.sliding_window == 0 && c.n_kv_heads == 32 && c.head_dim == 128);
    cr_assert_eq(parse(LLAMA(",\"bos_token_id\":null,\"eos_token_id\":null,\"rope_scaling\":null")),
                 STATUS_OK);
    cr_assert(c.bos_id == -1 && c.n_eos == 0);
    cr_assert_eq(parse(LLAMA(",\"eos_token_id\":[3,4,5]")), STATUS_OK);
    cr_assert(c.n_eos == 3 && c.eos_ids[2] == 5);
}

/* The keys that published files carry (values shortened where they are long). */
Test(model_config, usual_files_pass)
{
    static const char *const texts[] = {
        /* Llama 2 7B */
        LLAMA(",\"_name_or_path\":\"meta-llama/"
              "Llama-2-7b-hf\",\"bos_token_id\":1,\"eos_token_id\":2,\"hidden_act\":\"silu\",\"hidden_size\":"
              "4096,"
              "\"initializer_range\":0.02,\"intermediate_size\":11008,\"max_position_embeddings\":4096,\"num_"
              "attention_heads\":32,"
              "\"num_hidden_layers\":32,\"num_key_value_heads\":32,\"pretraining_tp\":1,\"rms_norm_eps\":1e-"
              "05,\"rope_scaling\":null,"
              "\"tie_word_embeddings\":false,\"torch_dtype\":\"float16\",\"transformers_version\":\"4.31.0."
              "dev0\",\"use_cache\":true,\"vocab_size\":32000"),
        /* the first conversions */
        LLAMA(",\"max_sequence_length\":2048,\"pad_token_id\":-1,\"bos_token_id\":0,\"eos_token_id\":1,"
              "\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-06"),
        /* Llama 3.2 1B */
        LLAMA(",\"attention_bias\":false,\"attention_dropout\":0.0,\"bos_token_id\":128000,\"eos_token_id\":["
              "128001,128008,128009],\"head_dim\":64,"
              "\"hidden_act\":\"silu\",\"hidden_size\":2048,\"initializer_range\":0.02,\"intermediate_size\":"
              "8192,\"max_position_embeddings\":131072,"
              "\"mlp_bias\":false,\"num_attention_heads\":32,\"num_hidden_layers\":16,\"num_key_value_"
              "heads\":8,\"pretraining_tp\":1,"
              "\"rms_norm_eps\":1e-05,\"rope_scaling\":{\"factor\":32.0,\"high_freq_factor\":4.0,\"low_freq_"
              "factor\":1.0,"
              "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"},\"rope_theta\":500000.0,"
              "\"tie_word_embeddings\":true,"
              "\"torch_dtype\":\"bfloat16\",\"transformers_version\":\"4.45.0.dev0\",\"use_cache\":true,"
              "\"vocab_size\":128256"),
        /* re-saved by tools */
        LLAMA(",\"_attn_implementation_autoset\":true,\"unsloth_version\":\"2024.9\",\"rope_interleaved\":"
              "false,\"auto_map\":{\"AutoConfig\":\"x\"},"
              "\"id2label\":{\"0\":\"LABEL_0\"},\"label2id\":{\"LABEL_0\":0},\"return_dict\":true,\"task_"
              "specific_params\":null,\"pruned_heads\":{},"
              "\"is_decoder\":true,\"is_encoder_decoder\":false,\"quantization_config\":null,\"top_k\":50,"
              "\"dtype\":\"bfloat16\""),
        /* newest layout */
        LLAMA(",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000.0},\"num_hidden_layers\":"
              "2,\"layer_types\":[\"full_attention\",\"full_attention\"]"),
        MISTRAL(",\"bos_token_id\":1,\"eos_token_id\":2,\"hidden_act\":\"silu\",\"hidden_size\":4096,"
                "\"initializer_range\":0.02,\"intermediate_size\":14336,"
                "\"max_position_embeddings\":32768,\"num_attention_heads\":32,\"num_hidden_layers\":32,\"num_"
                "key_value_heads\":8,\"rms_norm_eps\":1e-05,"
                "\"rope_theta\":1000000.0,\"sliding_window\":null,\"tie_word_embeddings\":false,\"torch_"
                "dtype\":\"bfloat16\",\"vocab_size\":32768"),
        MIXTRAL(",\"attention_dropout\":0.0,\"max_position_embeddings\":32768,\"num_experts_per_tok\":2,"
                "\"num_local_experts\":8,\"output_router_logits\":false,"
                "\"router_aux_loss_coef\":0.02,\"router_jitter_noise\":0.0,\"rope_theta\":1000000.0,"
                "\"sliding_window\":null"),
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        cr_assert_eq(parse(texts[i]), STATUS_OK, "%s", err.message);
    }
}

Test(model_config, refusals_name_the_key)
{
    static const struct {
        const char *text, *named;
    } cases[] = {
        {"", "byte 0"},
        {"[]", "object"},
        {"{}", "model_type"},
        {"{\"a\":1,\"a\":2}", "duplicate"},
        {"{\"model_type\":\"gpt2\"}", "\"gpt2\""},
        {"{\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\"}", "Qwen2ForCausalLM"},
        {"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"mistral\"}", "model_type"},
        {"{\"architectures\":[\"LlamaForCausalLM\",\"LlamaForCausalLM\"]}", "architectures"},
        {"{\"architectures\":\"LlamaForCausalLM\"}", "architectures"},
        {LLAMA(",\"hidden_size\":0"), "hidden_size"},
        {LLAMA(",\"hidden_size\":4096.5"), "hidden_size"},
        {LLAMA(",\"hidden_size\":\"4096\""), "hidden_size"},
        {LLAMA(",\"hidden_size\":131073"), "hidden_size"},
        {LLAMA(",\"hidden_size\":18446744073709555712"), "hidden_size"},
        {LLAMA(",\"hidden_size\":null"), "hidden_size"},
        {LLAMA(",\"intermediate_size\":-1"), "intermediate_size"},
        {LLAMA(",\"num_hidden_layers\":1025"), "num_hidden_layers"},
        {LLAMA(",\"num_attention_heads\":2147483648"), "num_attention_heads"},
        {LLAMA(",\"num_attention_heads\":33"), "num_attention_heads"},
        {LLAMA(",\"num_key_value_heads\":5"), "num_key_value_heads"},
        {LLAMA(",\"num_key_value_heads\":64"), "num_key_value_heads"},
        {MISTRAL(",\"num_attention_heads\":4"), "num_"},
        {LLAMA(",\"head_dim\":63"), "head_dim"},
        {LLAMA(",\"head_dim\":1024"), "head_dim"},
        {LLAMA(",\"hidden_size\":96"), "head_dim"},
        {LLAMA(",\"vocab_size\":4194305"), "vocab_size"},
        {LLAMA(",\"max_position_embeddings\":16777217"), "max_position_embeddings"},
        {LLAMA(",\"hidden_act\":\"gelu\""), "hidden_act"},
        {LLAMA(",\"rms_norm_eps\":0"), "rms_norm_eps"},
        {LLAMA(",\"rms_norm_eps\":\"x\""), "rms_norm_eps"},
        {LLAMA(",\"rope_theta\":-1"), "rope_theta"},
        {LLAMA(",\"tie_word_embeddings\":1"), "tie_word_embeddings"},
        {LLAMA(",\"sliding_window\":4096"), "sliding_window"},
        {MISTRAL(",\"sliding_window\":0"), "sliding_window"},
        {MISTRAL(",\"attention_bias\":true"), "attention_bias"},
        {MIXTRAL(",\"mlp_bias\":true"), "mlp_bias"},
        {LLAMA(",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2}"), "\"yarn\""},
        {LLAMA(",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}"), "\"dynamic\""},
        {LLAMA(",\"rope_scaling\":{\"rope_type\":\"longrope\"}"), "\"longrope\""},
        {LLAMA(",\"rope_scaling\":{}"), "rope_type"},
        {LLAMA(",\"rope_scaling\":{\"type\":\"linear\"}"), "rope_scaling.factor"},
        {LLAMA(",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}"), "rope_scaling.factor"},
        {LLAMA(",\"rope_scaling\":{\"type\":\"linear\",\"rope_type\":\"llama3\",\"factor\":2}"),
         "rope_scaling"},
        {LLAMA(",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2,\"mscale\":1}"), "rope_scaling.mscale"},
        {LLAMA(",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}"), "low_freq_factor"},
        {LLAMA(",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_"
               "factor\":4,\"original_max_position_embeddings\":8192}"),
         "high_freq_factor"},
        {LLAMA(",\"rope_scaling\":[]"), "rope_scaling"},
        {LLAMA(",\"rope_scaling\":{\"type\":\"default\"},\"rope_parameters\":{\"rope_type\":\"default\"}"),
         "rope_scaling"},
        {LLAMA(",\"rope_theta\":5,\"rope_parameters\":{\"rope_theta\":6}"), "rope_theta"},
        {LLAMA(",\"rope_parameters\":{\"partial_rotary_factor\":0.5}"), "partial_rotary_factor"},
        {LLAMA(",\"quantization_config\":{\"bits\":4}"), "quantization_config"},
        {LLAMA(",\"pretraining_tp\":2"), "pretraining_tp"},
        {LLAMA(",\"partial_rotary_factor\":0.5"), "partial_rotary_factor"},
        {LLAMA(",\"logit_scale\":0.1"), "logit_scale"},
        {LLAMA(",\"attn_logit_softcapping\":50.0"), "attn_logit_softcapping"},
        {LLAMA(",\"use_qk_norm\":true"), "use_qk_norm"},
        {LLAMA(",\"layer_types\":[\"chunked_attention\"]"), "layer_types"},
        {LLAMA(",\"num_local_experts\":8"), "num_local_experts"},
        {LLAMA(",\"surprise\":{}"), "surprise"},
        {LLAMA(",\"pruned_heads\":{\"0\":[1]}"), "pruned_heads"},
        {MIXTRAL(",\"num_local_experts\":257"), "num_local_experts"},
        {MIXTRAL(",\"num_local_experts\":4,\"num_experts_per_tok\":5"), "num_experts_per_tok"},
        {LLAMA(",\"eos_token_id\":32000"), "eos_token_id"},
        {LLAMA(",\"eos_token_id\":[1,\"2\"]"), "eos_token_id"},
        {LLAMA(",\"eos_token_id\":-1"), "eos_token_id"},
        {LLAMA(",\"eos_token_id\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"), "eos_token_id"},
        {LLAMA(",\"bos_token_id\":32000"), "bos_token_id"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_assert_eq(parse(cases[i].text), STATUS_BAD_MODEL, "%s", cases[i].text);
        cr_assert(strstr(err.message, "dir/config.json") && strstr(err.message, cases[i].named), "%s -> %s",
                  cases[i].text, err.message);
    }
}

Test(model_config, rope_frequencies)
{
    double f[MODEL_MAX_HEAD_DIM / 2];
    cr_assert_eq(parse(LLAMA(",\"head_dim\":4,\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":4.0,"
                             "\"rope_theta\":100.0}")),
                 STATUS_OK);
    model_config_rope_frequencies(&c, f);
    cr_assert(fabs(f[0] - 0.25) < 1e-15 && fabs(f[1] - 0.025) < 1e-15);
    /* Llama 3.1's rule: wavelengths below 8192/4 stay, those above 8192/1 are stretched by 8, between them a
     * mixture. */
    cr_assert_eq(parse(LLAMA(",\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":"
                             "8.0,\"low_freq_factor\":1.0,"
                             "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}")),
                 STATUS_OK);
    model_config_rope_frequencies(&c, f);
    int n_kept = 0, n_mixed = 0, n_stretched = 0;
    for (int i = 0; i < 64; i++) {
        double plain = pow(500000.0, -i / 64.0), wavelength = 2 * acos(-1.0) / plain;
        double share = fmin(1, fmax(0, (8192 / wavelength - 1) / 3));
        cr_assert(fabs(f[i] - (share * plain + (1 - share) * plain / 8)) < 1e-14);
        n_kept += share == 1;
        n_mixed += share > 0 && share < 1;
        n_stretched += share == 0;
    }
    cr_assert(n_kept > 20 && n_mixed > 2 && n_stretched > 20);
}

static void write_text(const char *folder, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    cr_assert(file && fputs(text, file) >= 0);
    fclose(file);
}

Test(model_config, opens_a_folder)
{
    char folder[] = "/tmp/any4-config-XXXXXX", command[128];
    cr_assert(mkdtemp(folder));
    cr_assert_eq(model_config_open(&c, folder, NULL, &err), STATUS_BAD_MODEL); /* nothing there */
    cr_assert(strstr(err.message, "config.json"));
    write_text(folder, "config.json", LLAMA(",\"rope_theta\":100"));
    cr_assert_eq(model_config_open(&c, folder, NULL, &err), STATUS_OK, "%s", err.message);
    cr_assert(c.rope_theta == 100 && c.eos_ids[0] == 2);
    cr_assert_eq(model_config_open(&c, folder, "{\"rope_theta\":7,\"vocab_size\":99}", &err), STATUS_OK, "%s",
                 err.message);
    cr_assert(c.rope_theta == 7 && c.vocab_size == 99);
    cr_assert_eq(model_config_open(&c, folder, "[]", &err), STATUS_BAD_MODEL);
    cr_assert_eq(model_config_open(&c, folder, "{\"x\":1}", &err), STATUS_BAD_MODEL);
    write_text(folder, "generation_config.json", "{\"eos_token_id\":[5,6],\"temperature\":0.6}");
    cr_assert_eq(model_config_open(&c, folder, NULL, &err), STATUS_OK, "%s", err.message);
    cr_assert(c.n_eos == 2 && c.eos_ids[0] == 5 && c.eos_ids[1] == 6);
    write_text(folder, "generation_config.json", "{\"eos_token_id\":9}");
    cr_assert_eq(model_config_open(&c, folder, NULL, &err), STATUS_OK);
    cr_assert(c.n_eos == 1 && c.eos_ids[0] == 9);
    write_text(folder, "generation_config.json", "{\"eos_token_id\":32000}");
    cr_assert_eq(model_config_open(&c, folder, NULL, &err), STATUS_BAD_MODEL);
    cr_assert(strstr(err.message, "generation_config.json") && strstr(err.message, "eos_token_id"));
    write_text(folder, "generation_config.json", "{");
    cr_assert_eq(model_config_open(&c, folder, NULL, &err), STATUS_BAD_MODEL);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert_eq(system(command), 0);
}

Test(model_config, thousand_random_flips)
{
    char text[] = LLAMA(",\"hidden_size\":64,\"intermediate_size\":172,\"num_hidden_layers\":5,\"num_"
                        "attention_heads\":8,\"num_key_value_heads\":4,"
                        "\"vocab_size\":512,\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,\"tie_word_"
                        "embeddings\":true,\"eos_token_id\":[2]");
    uint32_t random_state = 11;
    for (int flip = 0; flip < 1000; flip++) {
        random_state = random_state * 1664525u + 1013904223u;
        size_t at = (random_state >> 8) % (sizeof text - 1);
        random_state = random_state * 1664525u + 1013904223u;
        char kept = text[at];
        text[at] = (char)((unsigned char)kept ^ (1 + (random_state >> 8) % 255));
        enum status status = model_config_parse(&c, text, sizeof text - 1, "dir/config.json", &err);
        if (status) {
            cr_assert(status == STATUS_BAD_MODEL && strstr(err.message, "dir/config.json"), "%s",
                      err.message);
        } else {
            cr_assert(c.dim >= 1 && c.n_heads >= 1 && c.head_dim % 2 == 0 && c.n_heads % c.n_kv_heads == 0);
        }
        text[at] = kept;
    }
}

Test(model_config, fixtures)
{
    static const char *const names[] = {"stories260K",         "stories260K-bf16",    "stories260K-mistral",
                                        "stories260K-wide",    "stories260K-mixtral", "random-tiny-llama",
                                        "random-tiny-mistral", "random-tiny-mixtral"};
    char path[1024];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (fixture_path(path, sizeof path, names[i])) {
            cr_assert_eq(model_config_open(&c, path, NULL, &err), STATUS_OK, "%s", err.message);
        }
    }
    if (fixture_path(path, sizeof path, "tokenizers/llama2/config-7b.json")) {
        static char text[1 << 16];
        FILE *file = fopen(path, "r");
        cr_assert(file);
        size_t n = fread(text, 1, sizeof text, file);
        fclose(file);
        cr_assert_eq(model_config_parse(&c, text, n, path, &err), STATUS_OK, "%s", err.message);
        cr_assert(c.dim == 4096 && c.n_kv_heads == 32 && c.norm_eps == 1e-5f && c.max_positions == 2048);
    }
}
