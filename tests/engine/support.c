#include "tests/engine/support.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "tests/fixtures.h"
#include "tokenizer/tokenizer.h"

cJSON *fixture_json(const char *name)
{
    char path[512];
    char *text;
    size_t length;
    cJSON *json;
    struct error err;
    struct json_limits limits = {64, 1 << 24};
    if (!fixture_path(path, sizeof path, name)) {
        return NULL;
    }
    cr_assert_eq(file_read(&text, &length, path, 64 << 20, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(json_parse(&json, text, length, &limits, &err), JSON_OK, "%s: %s", path, err.message);
    free(text);
    return json;
}

bool fixture_model(char *path, size_t size, const char *name)
{
    char config[128];
    snprintf(config, sizeof config, "%s/config.json", name);
    if (!fixture_path(path, size, config)) {
        return false;
    }
    *strrchr(path, '/') = '\0';
    return true;
}

int32_t json_ids(const cJSON *array, int32_t **ids)
{
    int32_t n = 0;
    const cJSON *item;
    *ids = malloc(((size_t)cJSON_GetArraySize(array) + 1) * sizeof **ids);
    cJSON_ArrayForEach(item, array)
    {
        (*ids)[n++] = item->valueint;
    }
    return n;
}

struct engine *open_engine(const char *folder, enum quant_method method, int32_t group_size, const char *skip,
                           const char *config_override)
{
    struct engine_options options;
    struct engine *engine;
    struct error err = {0};
    engine_options_init(&options);
    options.model_dir = folder;
    options.quant.method = method;
    options.quant.group_size = group_size;
    options.config_override = config_override;
    options.n_threads = 2;
    if (skip) {
        options.quant_skip[options.n_quant_skip++] = skip;
    }
    enum status status = engine_open(&engine, &options, &err);
    cr_assert_eq(status, STATUS_OK, "%s: %s", folder, err.message);
    return engine;
}

int32_t run_sequence(struct engine *engine, const struct generate_params *params, const int32_t *ids,
                     int32_t n_ids, int32_t *out, enum finish_reason *reason)
{
    struct request *request;
    struct token_event event;
    struct error err = {0};
    int32_t n = 0;
    cr_assert_eq(engine_submit(engine, params, ids, n_ids, NULL, NULL, &request, &err), STATUS_OK, "%s",
                 err.message);
    while (request_wait(request, &event, -1) && event.kind != EVENT_FINISHED) {
        if (event.kind == EVENT_TOKEN) {
            out[n++] = event.token;
        }
    }
    if (reason) {
        *reason = event.reason;
    }
    request_release(request);
    return n;
}

double evaluate(struct engine *engine, const char *folder, double *first_logprobs)
{
    enum { BYTES = 4096, CHUNK = 255 };
    char path[512], text[BYTES];
    struct tokenizer *tokenizer;
    struct error err = {0};
    int32_t *ids, n_ids, n_scored = 0;
    double sum = 0;
    if (!fixture_path(path, sizeof path, "text/tinystories-valid.txt")) {
        return NAN;
    }
    FILE *file = fopen(path, "rb");
    cr_assert(file && fread(text, 1, BYTES, file) == BYTES);
    fclose(file);
    cr_assert_eq(tokenizer_open(&tokenizer, folder, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(tokenizer_encode(tokenizer, text, BYTES, false, &ids, &n_ids, &err), STATUS_OK, "%s",
                 err.message);
    for (int32_t at = 0; at < n_ids; at += CHUNK) {
        int32_t n = n_ids - at < CHUNK ? n_ids - at : CHUNK, chunk[CHUNK + 1];
        struct generate_params params;
        struct request *request;
        struct token_event event;
        chunk[0] = tokenizer_bos(tokenizer);
        memcpy(chunk + 1, ids + at, (size_t)n * sizeof *ids);
        generate_params_init(&params);
        params.max_tokens = 0;
        params.logprobs = 0;
        params.prompt_logprobs = true;
        cr_assert_eq(engine_submit(engine, &params, chunk, n + 1, NULL, NULL, &request, &err), STATUS_OK,
                     "%s", err.message);
        for (int32_t i = 0; request_wait(request, &event, -1) && event.kind == EVENT_PROMPT_TOKEN; i++) {
            cr_assert_eq(event.token, chunk[i + 1]);
            sum -= (double)event.logprob.logprob;
            if (first_logprobs && at == 0) {
                first_logprobs[i] = (double)event.logprob.logprob;
            }
            n_scored++;
        }
        cr_assert_eq(event.reason, FINISH_LENGTH);
        request_release(request);
    }
    cr_assert_eq(n_scored, n_ids);
    free(ids);
    tokenizer_close(tokenizer);
    return sum / n_scored;
}

/* ---- random models ---- */

static float next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*state >> 40) / (double)(1 << 23) - 1.0);
}

struct writer {
    char header[1 << 16];
    size_t header_bytes;
    float *data;
    size_t n;
    uint64_t state;
};

static void add_tensor(struct writer *w, const char *name, int32_t rows, int32_t cols, float size,
                       float offset)
{
    size_t n = (size_t)rows * (size_t)(cols ? cols : 1);
    char shape[64];
    snprintf(shape, sizeof shape, cols ? "[%d,%d]" : "[%d]", rows, cols);
    w->header_bytes +=
        (size_t)snprintf(w->header + w->header_bytes, sizeof w->header - w->header_bytes,
                         "%s\"%s\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                         w->n ? "," : "{", name, shape, 4 * w->n, 4 * (w->n + n));
    cr_assert(w->header_bytes < sizeof w->header);
    w->data = realloc(w->data, (w->n + n) * sizeof *w->data);
    for (size_t i = 0; i < n; i++) {
        w->data[w->n++] = offset + size * next_random(&w->state);
    }
}

void make_model(char *folder, size_t size, const char *architecture, uint64_t seed)
{
    enum {
        DIM = 64,
        FFN = 96,
        LAYERS = 2,
        VOCAB = MODEL_VOCAB,
        HEADS = 4,
        KV_HEADS = 2,
        HEAD_DIM = 16,
        EXPERTS = 4
    };
    struct writer *w = calloc(1, sizeof *w);
    char path[512], name[128];
    bool moe = strcmp(architecture, "mixtral") == 0;
    snprintf(folder, size, "/tmp/any4-model-XXXXXX");
    cr_assert(mkdtemp(folder));
    w->state = seed * 2 + 1;
    add_tensor(w, "model.embed_tokens.weight", VOCAB, DIM, 1, 0);
    add_tensor(w, "lm_head.weight", VOCAB, DIM, 0.6f, 0);
    add_tensor(w, "model.norm.weight", DIM, 0, 0.1f, 1);
    for (int l = 0; l < LAYERS; l++) {
        static const char *const parts[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                            "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                            "mlp.down_proj"};
        static const int rows[] = {DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, DIM, FFN, FFN, DIM};
        static const int cols[] = {DIM, DIM, DIM, DIM, DIM, DIM, FFN};
        for (int i = 0; i < (moe ? 4 : 7); i++) {
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, parts[i]);
            add_tensor(w, name, rows[i], cols[i], 0.3f, 0);
        }
        for (int e = 0; moe && e < EXPERTS; e++) {
            for (int i = 1; i <= 3; i++) {
                snprintf(name, sizeof name, "model.layers.%d.block_sparse_moe.experts.%d.w%d.weight", l, e,
                         i);
                add_tensor(w, name, i == 2 ? DIM : FFN, i == 2 ? FFN : DIM, 0.3f, 0);
            }
        }
        if (moe) {
            snprintf(name, sizeof name, "model.layers.%d.block_sparse_moe.gate.weight", l);
            add_tensor(w, name, EXPERTS, DIM, 0.5f, 0);
        }
        snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", l);
        add_tensor(w, name, DIM, 0, 0.1f, 1);
        snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", l);
        add_tensor(w, name, DIM, 0, 0.1f, 1);
    }
    w->header[w->header_bytes++] = '}';
    while (w->header_bytes % 8) {
        w->header[w->header_bytes++] = ' ';
    }
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *file = fopen(path, "wb");
    uint64_t header_bytes = w->header_bytes;
    cr_assert(file);
    cr_assert_eq(fwrite(&header_bytes, 8, 1, file), 1);
    cr_assert_eq(fwrite(w->header, 1, w->header_bytes, file), w->header_bytes);
    cr_assert_eq(fwrite(w->data, 4, w->n, file), w->n);
    fclose(file);
    snprintf(path, sizeof path, "%s/config.json", folder);
    file = fopen(path, "w");
    cr_assert(file);
    fprintf(
        file,
        "{\"architectures\":[\"%s\"],\"model_type\":\"%s\",\"hidden_size\":%d,\"intermediate_size\":%d,"
        "\"num_hidden_layers\":%d,\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"vocab_size\":%d,"
        "\"max_position_embeddings\":256,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,"
        "\"tie_word_embeddings\":false,\"bos_token_id\":1,\"eos_token_id\":2%s%s}",
        moe                                    ? "MixtralForCausalLM"
        : strcmp(architecture, "mistral") == 0 ? "MistralForCausalLM"
                                               : "LlamaForCausalLM",
        architecture, DIM, FFN, LAYERS, HEADS, KV_HEADS, VOCAB,
        moe ? ",\"num_local_experts\":4,\"num_experts_per_tok\":2" : "",
        strcmp(architecture, "mistral") == 0 ? ",\"sliding_window\":24" : "");
    fclose(file);
    free(w->data);
    free(w);
}

void remove_folder(const char *folder)
{
    char path[512];
    struct dirent *entry;
    DIR *dir = opendir(folder);
    while (dir && (entry = readdir(dir))) {
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] != '.') {
            unlink(path);
        }
    }
    if (dir) {
        closedir(dir);
    }
    rmdir(folder);
}

void make_random_ids(int32_t *ids, int32_t n)
{
    unsigned state = 7;
    ids[0] = MODEL_BOS;
    for (int32_t i = 1; i < n; i++) {
        ids[i] = 3 + rand_r(&state) % (MODEL_VOCAB - 3);
    }
}
