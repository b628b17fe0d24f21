/* A folder's tokenizer: which file, which special ids, and the bytes of every token. The encoder is
 * libsentencepiece's (sentencepiece.h); decoding is here, from the checked piece table. */
#include "tokenizer/tokenizer.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "tokenizer/folder_config.h"
#include "tokenizer/model_check.h"
#include "tokenizer/sentencepiece.h"
#include "tokenizer/token_text.h"

enum { MAX_EXPANDED_BYTES = 640 << 20 };

/* U+2581, which stands for a space inside pieces. */
static const char SPACE_SYMBOL[] = "\xe2\x96\x81";
enum { SPACE_SYMBOL_BYTES = sizeof SPACE_SYMBOL - 1 };

struct token {
    const char *spelling; /* terminated */
    const char *bytes;    /* what it adds to a text that goes on, terminated */
    uint32_t n_bytes;
    bool begins_with_space_symbol;
};

struct tokenizer {
    struct piece_encoder *sp;
    struct token *tokens; /* (n_tokens) */
    int32_t n_tokens;
    char *texts; /* spellings and bytes of all tokens, each terminated */
    size_t max_token_bytes;
    size_t max_text_bytes; /* longer texts are refused */
    bool strips_begin;     /* decode removes the space symbol that encode puts in front */
    bool strips_all;       /* ... and every further one at the beginning */
    bool keeps_bytes;      /* encode loses nothing of a text but spaces */
    bool adds_bos;
    int32_t bos;
    int32_t eos[TOKENIZER_MAX_EOS];
    int32_t n_eos;
};

/* ---- reading the folder ---- */

/* An id may lie beyond the sentencepiece vocabulary: fine-tuned models add tokens there. */
static bool id_read(const cJSON *item, int32_t *id)
{
    int64_t value;
    if (!json_int64(item, &value) || value < 0 || value > INT32_MAX) {
        return false;
    }
    *id = (int32_t)value;
    return true;
}

static enum status id_bad(const char *folder, const char *name, const char *key, struct error *err)
{
    return error_set(err, STATUS_BAD_MODEL, "%s/%s: %s: expected a token id%s", folder, name, key,
                     strcmp(key, "eos_token_id") ? "" : " or a list of at most 16");
}

/* The ids that one config file names win over what was known before; null and absent change nothing. */
static enum status ids_take(struct tokenizer *t, const cJSON *json, const char *folder, const char *name,
                            struct error *err)
{
    const cJSON *bos = cJSON_GetObjectItemCaseSensitive(json, "bos_token_id");
    const cJSON *eos = cJSON_GetObjectItemCaseSensitive(json, "eos_token_id");
    if (bos && !cJSON_IsNull(bos) && !id_read(bos, &t->bos)) {
        return id_bad(folder, name, "bos_token_id", err);
    }
    if (!eos || cJSON_IsNull(eos)) {
        return STATUS_OK;
    }
    if (!cJSON_IsArray(eos)) {
        t->n_eos = 1;
        return id_read(eos, &t->eos[0]) ? STATUS_OK : id_bad(folder, name, "eos_token_id", err);
    }
    t->n_eos = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, eos)
    {
        if (t->n_eos == TOKENIZER_MAX_EOS || !id_read(item, &t->eos[t->n_eos])) {
            return id_bad(folder, name, "eos_token_id", err);
        }
        t->n_eos++;
    }
    return STATUS_OK;
}

static enum status configs_read(struct tokenizer *t, const char *folder, struct error *err)
{
    static const char *const names[] = {"config.json", "generation_config.json"}; /* the later one wins */
    cJSON *json;
    enum status status;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if ((status = folder_config_read(&json, folder, names[i], err))) {
            return status;
        }
        status = json ? ids_take(t, json, folder, names[i], err) : STATUS_OK;
        cJSON_Delete(json);
        if (status) {
            return status;
        }
    }
    if ((status = folder_config_read(&json, folder, "tokenizer_config.json", err))) {
        return status;
    }
    const cJSON *adds_bos = json ? cJSON_GetObjectItemCaseSensitive(json, "add_bos_token") : NULL;
    if (adds_bos && !cJSON_IsNull(adds_bos)) {
        if (cJSON_IsBool(adds_bos)) {
            t->adds_bos = cJSON_IsTrue(adds_bos);
        } else {
            status = error_set(err, STATUS_BAD_MODEL,
                               "%s/tokenizer_config.json: add_bos_token: expected true or false", folder);
        }
    }
    cJSON_Delete(json);
    return status;
}

/* Llama 3's tokenizer.model: lines of base64, a space, a rank. A sentencepiece model begins with a byte 0x0A.
 */
static bool looks_like_tiktoken(const char *bytes, size_t n_bytes)
{
    size_t i = 0, first_digit;
    while (i < n_bytes &&
           ((bytes[i] >= 'A' && bytes[i] <= 'Z') || (bytes[i] >= 'a' && bytes[i] <= 'z') ||
            (bytes[i] >= '0' && bytes[i] <= '9') || strchr("+/=", bytes[i] ? bytes[i] : ' '))) {
        i++;
    }
    if (i == 0 || i == n_bytes || bytes[i] != ' ') {
        return false;
    }
    first_digit = ++i;
    while (i < n_bytes && bytes[i] >= '0' && bytes[i] <= '9') {
        i++;
    }
    return i > first_digit && i < n_bytes && (bytes[i] == '\n' || bytes[i] == '\r');
}

/* *bytes (free it): the whole of folder/tokenizer.model, whose path is written to path. */
static enum status model_read(char **bytes, size_t *n_bytes, char *path, size_t path_size, const char *folder,
                              struct error *err)
{
    char other[PATH_MAX];
    enum status status = folder_path(path, path_size, folder, "tokenizer.model", err);
    status = status ? status : folder_path(other, sizeof other, folder, "tokenizer.json", err);
    if (status) {
        return status;
    }
    if (access(path, F_OK) != 0) {
        if (errno != ENOENT && errno != ENOTDIR) {
            return error_set(err, STATUS_IO, "%s: %s", path, strerror(errno));
        }
        if (access(other, F_OK) == 0) {
            return error_set(err, STATUS_BAD_MODEL,
                             "%s: tokenizer.json is not supported yet: put tokenizer.model beside it", other);
        }
        return error_set(err, STATUS_NOT_FOUND, "%s: no such file (the model needs its tokenizer)", path);
    }
    if ((status = file_read(bytes, n_bytes, path, TOKENIZER_MAX_MODEL_BYTES, err))) {
        return status;
    }
    if (looks_like_tiktoken(*bytes, *n_bytes)) {
        return error_set(
            err, STATUS_BAD_MODEL,
            "%s: this is a tiktoken vocabulary (Llama 3), not a sentencepiece model: not supported yet",
            path);
    }
    return STATUS_OK;
}

/* ---- the token table ---- */

/* Every token's spelling and its bytes, in one block: both terminated. The bytes are never longer than the
 * spelling, but for the unknown token, whose bytes are the model's unk_surface. */
static enum status tokens_build(struct tokenizer *t, const struct model_check *check, struct error *err)
{
    size_t n_text_bytes = 0;
    for (int32_t id = 0; id < check->n_pieces; id++) {
        n_text_bytes += 2 * ((size_t)check->pieces[id].n_bytes + 1);
    }
    n_text_bytes += check->unk_surface_bytes; /* one piece is unknown: the check made sure */
    t->tokens = calloc((size_t)check->n_pieces, sizeof *t->tokens);
    t->texts = malloc(n_text_bytes);
    if (!t->tokens || !t->texts) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for %d tokens", (int)check->n_pieces);
    }
    t->n_tokens = check->n_pieces;
    char *end = t->texts;
    for (int32_t id = 0; id < check->n_pieces; id++) {
        const struct model_piece *piece = &check->pieces[id];
        struct token *token = &t->tokens[id];
        token->spelling = end;
        memcpy(end, piece->text, piece->n_bytes);
        end += piece->n_bytes;
        *end++ = 0;
        token->bytes = end;
        switch (piece->type) {
        case PIECE_CONTROL:
            break;
        case PIECE_BYTE:
            *end++ = (char)piece->byte;
            break;
        case PIECE_UNKNOWN:
            memcpy(end, check->unk_surface, check->unk_surface_bytes);
            end += check->unk_surface_bytes;
            break;
        default:
            for (uint32_t i = 0; i < piece->n_bytes;) {
                if (piece->n_bytes - i >= SPACE_SYMBOL_BYTES &&
                    !memcmp(piece->text + i, SPACE_SYMBOL, SPACE_SYMBOL_BYTES)) {
                    token->begins_with_space_symbol |= i == 0;
                    *end++ = ' ';
                    i += SPACE_SYMBOL_BYTES;
                } else {
                    *end++ = piece->text[i++];
                }
            }
        }
        token->n_bytes = (uint32_t)(end - token->bytes);
        *end++ = 0;
        if (token->n_bytes > t->max_token_bytes) {
            t->max_token_bytes = token->n_bytes;
        }
    }
    return STATUS_OK;
}

/* The normalizer may make a text longer, spaces count threefold then, and the library counts in int. Without
 * byte fallback it joins runs of unknown characters in quadratic time. */
static size_t text_limit(const struct model_check *check)
{
    size_t limit = check->byte_fallback ? (size_t)TOKENIZER_MAX_TEXT_BYTES
                                        : (size_t)TOKENIZER_MAX_TEXT_BYTES_NO_FALLBACK;
    size_t expansion = check->max_replacement_bytes > 3 ? check->max_replacement_bytes : 3;
    return limit < MAX_EXPANDED_BYTES / expansion ? limit : MAX_EXPANDED_BYTES / expansion;
}

enum status tokenizer_open_model(struct tokenizer **out, const void *bytes, size_t n_bytes, const char *path,
                                 struct error *err)
{
    struct model_check check = {0};
    struct tokenizer *t = calloc(1, sizeof *t);
    enum status status = STATUS_OK;
    *out = NULL;
    if (!t) {
        return error_set(err, STATUS_NO_MEMORY, "%s: out of memory", path);
    }
    if ((status = model_check_init(&check, bytes, n_bytes, path, err)) ||
        (status = piece_encoder_open(&t->sp, bytes, n_bytes, path, err)) ||
        (status = tokens_build(t, &check, err))) {
        goto cleanup;
    }
    t->strips_begin = check.add_dummy_prefix || check.remove_extra_whitespaces;
    t->strips_all = check.remove_extra_whitespaces;
    /* Without byte fallback a run of unknown characters is one token, however long. */
    t->keeps_bytes = check.byte_fallback && !check.has_charsmap;
    t->max_text_bytes = text_limit(&check);
    t->adds_bos = true;
    t->bos = check.bos;
    t->eos[0] = check.eos;
    t->n_eos = check.eos >= 0;
cleanup:
    model_check_finish(&check);
    if (status) {
        tokenizer_close(t);
        t = NULL;
    }
    *out = t;
    return status;
}

enum status tokenizer_open(struct tokenizer **out, const char *folder, struct error *err)
{
    char path[PATH_MAX];
    char *bytes = NULL;
    size_t n_bytes = 0;
    struct tokenizer *t = NULL;
    enum status status = model_read(&bytes, &n_bytes, path, sizeof path, folder, err);
    status = status ? status : tokenizer_open_model(&t, bytes, n_bytes, path, err);
    status = status ? status : configs_read(t, folder, err);
    free(bytes);
    if (status) {
        tokenizer_close(t);
        t = NULL;
    }
    *out = t;
    return status;
}

void tokenizer_close(struct tokenizer *tokenizer)
{
    if (tokenizer) {
        piece_encoder_close(tokenizer->sp);
        free(tokenizer->tokens);
        free(tokenizer->texts);
        free(tokenizer);
    }
}

/* ---- questions ---- */

int32_t tokenizer_n_tokens(const struct tokenizer *tokenizer)
{
    return tokenizer->n_tokens;
}

int32_t tokenizer_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->bos;
}

bool tokenizer_adds_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->adds_bos && tokenizer->bos >= 0;
}

bool tokenizer_is_eos(const struct tokenizer *tokenizer, int32_t id)
{
    for (int32_t i = 0; i < tokenizer->n_eos; i++) {
        if (tokenizer->eos[i] == id) {
            return true;
        }
    }
    return false;
}

const int32_t *tokenizer_eos_ids(const struct tokenizer *tokenizer, int32_t *n)
{
    *n = tokenizer->n_eos;
    return tokenizer->eos;
}

static const struct token *token_find(const struct tokenizer *t, int32_t id)
{
    static const struct token none = {.spelling = "", .bytes = ""};
    return id >= 0 && id < t->n_tokens ? &t->tokens[id] : &none;
}

const char *tokenizer_piece_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *length)
{
    const struct token *token = token_find(tokenizer, id);
    *length = token->n_bytes;
    return token->bytes;
}

const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id)
{
    return token_find(tokenizer, id)->spelling;
}

size_t token_text_max_bytes(const struct tokenizer *tokenizer)
{
    return tokenizer->max_token_bytes;
}

const char *token_text(const struct tokenizer *tokenizer, int32_t id, bool *at_begin, size_t *length)
{
    const struct token *token = token_find(tokenizer, id);
    bool strips = *at_begin && tokenizer->strips_begin && token->begins_with_space_symbol;
    *length = token->n_bytes - strips;
    if (*length || (strips && !tokenizer->strips_all)) {
        *at_begin = false;
    }
    return token->bytes + strips;
}

/* ---- encode and decode ---- */

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length, bool add_bos,
                             int32_t **ids, int32_t *n_ids, struct error *err)
{
    int32_t n_reserved = add_bos && tokenizer->bos >= 0;
    *ids = NULL;
    *n_ids = 0;
    if (length > tokenizer->max_text_bytes) {
        return error_set(err, STATUS_INVALID, "text to tokenize has %zu bytes; at most %zu are allowed",
                         length, tokenizer->max_text_bytes);
    }
    enum status status = piece_encoder_encode(tokenizer->sp, text, length, n_reserved, ids, n_ids, err);
    if (!status && n_reserved) {
        (*ids)[0] = tokenizer->bos;
        *n_ids += 1;
    }
    return status;
}

int64_t tokenizer_min_tokens(const struct tokenizer *t, const char *text, size_t length)
{
    size_t n = 0;
    if (!t->keeps_bytes || !t->max_token_bytes) {
        return 0;
    }
    while (length && is_space(text[length - 1])) {
        length--;
    }
    while (length && is_space(*text)) {
        text++;
        length--;
    }
    for (size_t i = 0; i < length; i++) {
        if (length - i >= SPACE_SYMBOL_BYTES && !memcmp(text + i, SPACE_SYMBOL, SPACE_SYMBOL_BYTES)) {
            n += !t->strips_all; /* stands for a space, which counts as one byte in a token */
            i += SPACE_SYMBOL_BYTES - 1;
        } else {
            n += text[i] != ' ' || !t->strips_all;
        }
    }
    return (int64_t)(n / t->max_token_bytes);
}

enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, int32_t n_ids,
                             char **text, size_t *length, struct error *err)
{
    size_t n_bytes = 0, n_token_bytes;
    bool at_begin = true;
    *text = NULL;
    *length = 0;
    for (int32_t i = 0; i < n_ids; i++) { /* cannot overflow: at most 2^31 tokens of about 1 KiB */
        token_text(tokenizer, ids[i], &at_begin, &n_token_bytes);
        n_bytes += n_token_bytes;
    }
    char *out = malloc(n_bytes + 1);
    if (!out) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for %zu bytes of text", n_bytes);
    }
    char *end = out;
    at_begin = true;
    for (int32_t i = 0; i < n_ids; i++) {
        const char *bytes = token_text(tokenizer, ids[i], &at_begin, &n_token_bytes);
        memcpy(end, bytes, n_token_bytes);
        end += n_token_bytes;
    }
    *end = 0;
    *text = out;
    *length = n_bytes;
    return STATUS_OK;
}
