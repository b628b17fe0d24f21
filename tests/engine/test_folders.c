/* Malformed folders: each is refused with file and tensor or key named, or loads as a valid model; never a
 * crash. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/loader.h"
#include "tests/engine/support.h"

static char folder[64];

static void set_up(void)
{
    make_model(folder, sizeof folder, "llama", 1);
}

static void tear_down(void)
{
    remove_folder(folder);
}

TestSuite(folders, .init = set_up, .fini = tear_down);

static enum status load(struct error *err)
{
    struct engine_options options;
    struct model *model;
    engine_options_init(&options);
    options.model_dir = folder;
    enum status status = model_bind(&model, &options, err);
    if (!status) {
        status = loader_run(model, &options, NULL, err);
        model_close(model);
    }
    return status;
}

static char *read_all(const char *name, size_t *length)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    cr_assert(file);
    fseek(file, 0, SEEK_END);
    *length = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*length + 1);
    cr_assert_eq(fread(bytes, 1, *length, file), *length);
    bytes[*length] = '\0';
    fclose(file);
    return bytes;
}

static void write_all(const char *name, const char *bytes, size_t length)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    cr_assert(file);
    cr_assert_eq(fwrite(bytes, 1, length, file), length);
    fclose(file);
}

static void expect_refused(const char *what, const char *first, const char *second)
{
    struct error err = {0};
    enum status status = load(&err);
    cr_expect(status == STATUS_BAD_MODEL || status == STATUS_NOT_FOUND, "%s: %s (%s)", what,
              status_name(status), err.message);
    cr_expect(strstr(err.message, first), "%s: \"%s\" does not name %s", what, err.message, first);
    cr_expect(strstr(err.message, second), "%s: \"%s\" does not name %s", what, err.message, second);
}

/* Replaces the first occurrence in a text file by something of the same or another length. */
static void edit_config(const char *from, const char *to)
{
    size_t length;
    char *text = read_all("config.json", &length), *at = strstr(text, from);
    char *edited = malloc(length + strlen(to) + 1);
    cr_assert(at, "%s", from);
    size_t before = (size_t)(at - text);
    memcpy(edited, text, before);
    strcpy(edited + before, to);
    strcat(edited, at + strlen(from));
    write_all("config.json", edited, strlen(edited));
    free(text);
    free(edited);
}

/* The header of a safetensors file stays as long as it is: from and to have the same length. */
static void edit_header(const char *from, const char *to)
{
    size_t length;
    char *bytes = read_all("model.safetensors", &length), *at = memmem(bytes, length, from, strlen(from));
    cr_assert(at, "%s", from);
    cr_assert_eq(strlen(from), strlen(to));
    memcpy(at, to, strlen(to));
    write_all("model.safetensors", bytes, length);
    free(bytes);
}

Test(folders, valid)
{
    struct error err = {0};
    cr_assert_eq(load(&err), STATUS_OK, "%s", err.message);
}

Test(folders, wrong_shape_names_tensor)
{
    edit_config("\"intermediate_size\":96", "\"intermediate_size\":92");
    expect_refused("ffn", "model.layers.0.mlp.gate_proj.weight", "expected (92, 64)");
}

Test(folders, too_many_layers)
{
    edit_config("\"num_hidden_layers\":2", "\"num_hidden_layers\":3");
    expect_refused("layers", "model.layers.2.", "missing");
}

Test(folders, too_few_layers)
{
    edit_config("\"num_hidden_layers\":2", "\"num_hidden_layers\":1");
    expect_refused("layers", "model.layers.1.", "no place");
}

Test(folders, overflowing_products)
{
    edit_config("\"hidden_size\":64", "\"hidden_size\":1073741824");
    expect_refused("hidden", "config.json", "hidden_size");
}

Test(folders, renamed_tensor)
{
    edit_header("model.layers.1.self_attn.k_proj", "model.layers.1.self_attn.x_proj");
    expect_refused("renamed", "model.layers.1.self_attn.k_proj", "missing");
}

Test(folders, wrong_dtype)
{
    edit_header("\"model.norm.weight\":{\"dtype\":\"F32\"", "\"model.norm.weight\":{\"dtype\":\"I32\"");
    expect_refused("dtype", "model.norm.weight", "I32");
}

Test(folders, nan_weight_names_tensor_row_and_column)
{
    struct error err = {0};
    size_t length;
    char *bytes = read_all("model.safetensors", &length);
    float nan = NAN;
    uint64_t header_bytes;
    memcpy(&header_bytes, bytes, 8);
    /* The second tensor is lm_head (64, 64): row 3, column 5. */
    memcpy(bytes + 8 + header_bytes + 4 * (64 * 64 + 3 * 64 + 5), &nan, 4);
    write_all("model.safetensors", bytes, length);
    cr_expect_eq(load(&err), STATUS_QUANTIZE);
    cr_expect(strstr(err.message, "lm_head.weight") && strstr(err.message, "row 3") &&
                  strstr(err.message, "column 5"),
              "%s", err.message);
    free(bytes);
}

/* The embedding is used as stored. */
Test(folders, nan_in_a_stored_tensor)
{
    struct error err = {0};
    size_t length;
    char *bytes = read_all("model.safetensors", &length);
    float infinity = INFINITY;
    uint64_t header_bytes;
    memcpy(&header_bytes, bytes, 8);
    memcpy(bytes + 8 + header_bytes + 4 * (7 * 64 + 9), &infinity, 4);
    write_all("model.safetensors", bytes, length);
    cr_expect_eq(load(&err), STATUS_QUANTIZE);
    cr_expect(strstr(err.message, "embed_tokens.weight") && strstr(err.message, "row 7, column 9"), "%s",
              err.message);
    free(bytes);
}

Test(folders, missing_files)
{
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", folder);
    size_t length;
    char *config = read_all("config.json", &length);
    unlink(path);
    expect_refused("config", "config.json", folder);
    write_all("config.json", config, length);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unlink(path);
    expect_refused("weights", "model.safetensors", folder);
    free(config);
}

Test(folders, cut_anywhere)
{
    size_t length;
    char *bytes = read_all("model.safetensors", &length);
    for (size_t cut = 0; cut < length; cut += cut < 64 ? 1 : 1021) {
        write_all("model.safetensors", bytes, cut);
        expect_refused("cut", "model.safetensors", folder);
    }
    free(bytes);
}

/* Single-byte changes of header and config: refused in a way that names the file, or a model that still
 * loads. */
Test(folders, random_byte_flips)
{
    size_t length, config_length;
    char *bytes = read_all("model.safetensors", &length), *config = read_all("config.json", &config_length);
    uint64_t header_bytes;
    unsigned state = 3;
    int n_loaded = 0, n_refused = 0;
    memcpy(&header_bytes, bytes, 8);
    for (int i = 0; i < 1000; i++) {
        bool in_config = i % 2;
        char *target = in_config ? config : bytes;
        size_t at = (size_t)rand_r(&state) % (in_config ? config_length : 8 + header_bytes);
        char old = target[at];
        struct error err = {0};
        target[at] = (char)(old ^ (1 + rand_r(&state) % 255));
        write_all(in_config ? "config.json" : "model.safetensors", target,
                  in_config ? config_length : length);
        enum status status = load(&err);
        if (status == STATUS_OK) {
            n_loaded++;
        } else {
            n_refused++;
            cr_expect(status == STATUS_BAD_MODEL || status == STATUS_NOT_FOUND || status == STATUS_QUANTIZE,
                      "flip %d at %zu: %s (%s)", i, at, status_name(status), err.message);
            cr_expect(strstr(err.message, folder), "flip %d at %zu: \"%s\" names no file", i, at,
                      err.message);
        }
        target[at] = old;
        write_all(in_config ? "config.json" : "model.safetensors", target,
                  in_config ? config_length : length);
    }
    fprintf(stderr, "1000 flips: %d refused, %d loaded\n", n_refused, n_loaded);
    cr_expect(n_refused > 300);
    free(bytes);
    free(config);
}
