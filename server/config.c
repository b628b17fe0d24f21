/* Merges the four sources of settings and checks them against the table. Knows nothing of what a setting
 * does. */
#include "server/config.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/log.h"

extern char **environ;

static int32_t find_key(const char *name)
{
    for (int32_t i = 0; i < config_n_keys; i++) {
        if (!strcmp(config_keys[i].name, name)) {
            return i;
        }
    }
    return -1;
}

const char *nearest_name(const char *name, const char *const *names, int32_t n_names)
{
    enum { LONGEST = 63 };
    size_t length = strlen(name);
    const char *best = NULL;
    size_t best_distance = length / 3 + 2; /* further away is no help */
    if (length > LONGEST) {
        return NULL;
    }
    for (int32_t k = 0; k < n_names; k++) {
        size_t other = strlen(names[k]), row[LONGEST + 1];
        if (other > LONGEST) {
            continue;
        }
        for (size_t j = 0; j <= length; j++) {
            row[j] = j;
        }
        for (size_t i = 1; i <= other; i++) { /* Levenshtein, one row at a time */
            size_t diagonal = row[0];
            row[0] = i;
            for (size_t j = 1; j <= length; j++) {
                size_t change = diagonal + (names[k][i - 1] != name[j - 1]);
                diagonal = row[j];
                size_t step = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
                row[j] = change < step ? change : step;
            }
        }
        if (row[length] < best_distance) {
            best_distance = row[length];
            best = names[k];
        }
    }
    return best;
}

int32_t split_list(const char *list, char **copy, const char **parts, int32_t max)
{
    int32_t n = 0;
    char *rest, *part;
    *copy = strdup(list ? list : "");
    if (!*copy) {
        return -1;
    }
    for (rest = *copy; (part = strsep(&rest, ","));) {
        while (isspace((unsigned char)*part)) {
            part++;
        }
        size_t length = strlen(part);
        while (length && isspace((unsigned char)part[length - 1])) {
            part[--length] = '\0';
        }
        if (length && n == max) {
            return -1;
        }
        if (length) {
            parts[n++] = part;
        }
    }
    return n;
}

/* How a key is called where it came from, for messages. */
static void key_spelling(char *out, size_t size, const char *name, enum config_origin origin)
{
    snprintf(out, size, "%s%s",
             origin == ORIGIN_FLAG          ? "--"
             : origin == ORIGIN_ENVIRONMENT ? "ANY4_"
                                            : "", /* the file is named before it */
             name);
    for (char *c = out; *c && origin != ORIGIN_FILE; c++) {
        *c = origin == ORIGIN_FLAG && *c == '_' ? '-'
             : origin == ORIGIN_ENVIRONMENT     ? (char)toupper((unsigned char)*c)
                                                : *c;
    }
}

static enum status unknown_key(const struct config *config, const char *name, enum config_origin origin,
                               struct error *err)
{
    const char *names[CONFIG_MAX_KEYS];
    int32_t n = 0;
    char spelling[128], near_spelling[128];
    for (int32_t i = 0; i < config_n_keys; i++) {
        if (config_keys[i].commands & config->command) {
            names[n++] = config_keys[i].name;
        }
    }
    const char *near = nearest_name(name, names, n);
    key_spelling(spelling, sizeof spelling, name, origin);
    if (!near && origin == ORIGIN_ENVIRONMENT) {
        /* Orchestrators put variables of their own there, such as ANY4_SERVICE_HOST for a service called
         * any4. */
        log_warning("environment variable %s is no setting of any4: left out", spelling);
        return STATUS_OK;
    }
    if (!near) {
        return error_set(err, STATUS_INVALID, "%s is unknown (see --help)", spelling);
    }
    key_spelling(near_spelling, sizeof near_spelling, near, origin);
    return error_set(err, STATUS_INVALID, "%s is unknown; did you mean %s?", spelling, near_spelling);
}

enum status config_set(struct config *config, const char *name, const char *value, enum config_origin origin,
                       struct error *err)
{
    int32_t i = find_key(name);
    /* A file or the environment may serve several commands: keys of other commands are read over. A flag may
     * not. */
    if (i < 0 || (origin == ORIGIN_FLAG && !(config_keys[i].commands & config->command))) {
        return unknown_key(config, name, origin, err);
    }
    if (!(config_keys[i].commands & config->command)) {
        return STATUS_OK;
    }
    char *text = NULL;
    bool joins = config_keys[i].type == CONFIG_FIELDS && config->values[i] && config->origins[i] == origin;
    if (joins ? asprintf(&text, "%s" CONFIG_SEPARATOR "%s", config->values[i], value) < 0
              : !(text = strdup(value))) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for setting %s", name);
    }
    free(config->values[i]);
    config->values[i] = text;
    config->origins[i] = origin;
    return STATUS_OK;
}

static bool parse_bool(const char *text, bool *out)
{
    static const char *const yes[] = {"on", "true", "1", "yes"}, *const no[] = {"off", "false", "0", "no"};
    for (int i = 0; i < 4; i++) {
        if (!strcmp(text, yes[i]) || !strcmp(text, no[i])) {
            *out = !strcmp(text, yes[i]);
            return true;
        }
    }
    return false;
}

static bool parse_int(const char *text, bool bytes, int64_t *out)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || errno || isspace((unsigned char)text[0])) {
        return false;
    }
    int shift = !bytes ? 0 : *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    end += shift > 0;
    if (shift && *end == 'i') {
        end++;
    }
    if (shift && *end == 'B') {
        end++;
    }
    if (*end || value < 0 - (INT64_MAX >> shift) || value > (INT64_MAX >> shift)) {
        return false;
    }
    *out = (int64_t)value * ((int64_t)1 << shift);
    return true;
}

static int32_t parse_choice(const char *text, const char *choices)
{
    int32_t index = 0;
    size_t length = strlen(text);
    for (const char *at = choices;; index++) {
        size_t n = strcspn(at, "|");
        if (n == length && !memcmp(at, text, n)) {
            return index;
        }
        if (!at[n]) {
            return -1;
        }
        at += n + 1;
    }
}

static enum status apply_one(struct config *config, int32_t i, const char *text, struct error *err)
{
    const struct config_key *key = &config_keys[i];
    char spelling[128];
    char *field = (char *)config + key->offset;
    key_spelling(spelling, sizeof spelling, key->name, config->origins[i] ? config->origins[i] : ORIGIN_FLAG);
    int64_t value = 0;
    double real = 0;
    bool flag = false, may_be_auto = key->default_text && !strcmp(key->default_text, "auto");
    switch (key->type) {
    case CONFIG_STRING:
    case CONFIG_FIELD:
    case CONFIG_FIELDS:
        memcpy(field, &text, sizeof text);
        return STATUS_OK;
    case CONFIG_INT:
    case CONFIG_BYTES:
        if (key->type == CONFIG_BYTES && key->min <= 0 && !strcmp(text, "auto")) {
            value = 0;
        } else if (may_be_auto && !strcmp(text, "auto")) {
            value = CONFIG_AUTO;
            memcpy(field, &value, sizeof value);
            return STATUS_OK;
        } else if (!parse_int(text, key->type == CONFIG_BYTES, &value)) {
            return error_set(err, STATUS_INVALID, "%s is \"%.80s\", must be an integer%s", spelling, text,
                             key->type == CONFIG_BYTES ? " (K, M or G may follow)"
                             : may_be_auto             ? " or auto"
                                                       : "");
        }
        if ((double)value < key->min || (double)value > key->max) {
            return error_set(err, STATUS_INVALID, "%s is %s, must be in %.0f..%.0f", spelling, text, key->min,
                             key->max);
        }
        memcpy(field, &value, sizeof value);
        return STATUS_OK;
    case CONFIG_SECONDS:
    case CONFIG_REAL: {
        char *end;
        real = strtod(text, &end);
        if (end == text || *end || !(real >= key->min && real <= key->max)) {
            return error_set(err, STATUS_INVALID, "%s is \"%.80s\", must be %s in %g..%g", spelling, text,
                             key->type == CONFIG_SECONDS ? "seconds" : "a number", key->min, key->max);
        }
        memcpy(field, &real, sizeof real);
        return STATUS_OK;
    }
    case CONFIG_BOOL:
        if (!parse_bool(text, &flag)) {
            return error_set(err, STATUS_INVALID, "%s is \"%.80s\", must be on or off", spelling, text);
        }
        memcpy(field, &flag, sizeof flag);
        return STATUS_OK;
    case CONFIG_CHOICE: {
        int32_t choice = parse_choice(text, key->choices);
        if (choice < 0) {
            return error_set(err, STATUS_INVALID, "%s is \"%.80s\", must be one of %s", spelling, text,
                             key->choices);
        }
        memcpy(field, &choice, sizeof choice);
        return STATUS_OK;
    }
    case CONFIG_LATER:
        if (!key->default_text || strcmp(text, key->default_text)) {
            return error_set(err, STATUS_INVALID, "%s is not supported yet%s%s%s", spelling,
                             key->default_text ? " (only \"" : "", key->default_text ? key->default_text : "",
                             key->default_text ? "\")" : "");
        }
        return STATUS_OK;
    }
    return STATUS_OK;
}

/* A folder below the one that a variable names; relative ones there mean nothing. NULL without it. */
static char *below(const char *variable, const char *rest)
{
    const char *base = getenv(variable);
    char *path = NULL;
    return base && *base == '/' && asprintf(&path, "%s/%s", base, rest) >= 0 ? path : NULL;
}

/* "~" is the shell's word, but a config file has none. */
static enum status find_cache_folder(struct config *config, struct error *err)
{
    const char *text = config->quant_cache;
    free(config->cache_folder);
    config->cache_folder = NULL;
    if (!*text) {
        return error_set(err, STATUS_INVALID, "quant_cache is empty, must be a folder, auto or off");
    }
    if (!strcmp(text, "auto")) {
        config->cache_folder = below("XDG_CACHE_HOME", "any4");
        if (!config->cache_folder) {
            config->cache_folder = below("HOME", ".cache/any4");
        }
    } else if (!strncmp(text, "~/", 2)) {
        config->cache_folder = below("HOME", text + 2);
    } else if (strcmp(text, "off") && !(config->cache_folder = strdup(text))) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for settings");
    }
    return STATUS_OK;
}

enum status config_apply(struct config *config, struct error *err)
{
    for (int32_t i = 0; i < config_n_keys; i++) {
        const char *text = config->values[i] ? config->values[i] : config_keys[i].default_text;
        enum status status = text ? apply_one(config, i, text, err) : STATUS_OK;
        if (status) {
            const char *path = config->values[find_key("config")];
            return config->origins[i] == ORIGIN_FILE && path ? error_prefix(err, path) : status;
        }
    }
    return find_cache_folder(config, err);
}

enum status config_read_json(struct config *config, const char *text, size_t length, struct error *err)
{
    static const struct json_limits limits = {.max_depth = 4, .max_nodes = 4096};
    cJSON *root = NULL;
    struct error why = {0};
    enum status status = STATUS_OK;
    if (json_parse(&root, text, length, &limits, &why)) {
        return error_set(err, STATUS_INVALID, "not JSON: %s", why.message);
    }
    if (!cJSON_IsObject(root)) {
        cJSON_Delete(root);
        return error_set(err, STATUS_INVALID, "must hold one JSON object");
    }
    const cJSON *item;
    cJSON_ArrayForEach(item, root)
    {
        char number[64];
        int64_t integer;
        struct buffer list = {0};
        const char *value = number;
        if (cJSON_IsNull(item)) {
            value = NULL;
        } else if (cJSON_IsString(item)) {
            value = item->valuestring;
        } else if (cJSON_IsBool(item)) {
            value = cJSON_IsTrue(item) ? "on" : "off";
        } else if (cJSON_IsNumber(item) && json_int64(item, &integer)) {
            snprintf(number, sizeof number, "%lld", (long long)integer);
        } else if (cJSON_IsNumber(item)) {
            snprintf(number, sizeof number, "%.17g", item->valuedouble);
        } else if (cJSON_IsArray(item)) {
            const cJSON *part;
            cJSON_ArrayForEach(part, item)
            {
                buffer_text(&list, list.length ? "," : "");
                buffer_text(&list, cJSON_IsString(part) ? part->valuestring : "");
            }
            value = buffer_string(&list);
        } else {
            status = error_set(err, STATUS_INVALID, "%s must not be an object", item->string);
            value = NULL;
        }
        if (value) {
            status = config_set(config, item->string, value, ORIGIN_FILE, err);
        } else if (!status && find_key(item->string) < 0) {
            status = unknown_key(config, item->string, ORIGIN_FILE, err);
        }
        buffer_finish(&list);
        if (status) {
            break;
        }
    }
    cJSON_Delete(root);
    return status;
}

static enum status read_file(struct config *config, const char *path, struct error *err)
{
    char *text = NULL;
    size_t length = 0;
    enum status status = file_read(&text, &length, path, 1 << 20, err);
    if (status) {
        return error_set(err, STATUS_INVALID, "config file: %s", err ? err->message : path);
    }
    if ((status = config_read_json(config, text, length, err))) {
        error_prefix(err, path);
    }
    free(text);
    return status;
}

static enum status read_environment(struct config *config, struct error *err)
{
    for (char **entry = environ; *entry; entry++) {
        char name[64];
        const char *equals = strchr(*entry, '=');
        size_t length = equals ? (size_t)(equals - *entry) : 0;
        if (length < 6 || strncmp(*entry, "ANY4_", 5) || length - 5 >= sizeof name) {
            continue;
        }
        for (size_t i = 5; i <= length; i++) {
            name[i - 5] = i < length ? (char)tolower((unsigned char)(*entry)[i]) : '\0';
        }
        /* Where tests and builds keep theirs. */
        if (!strcmp(name, "fixtures") || !strcmp(name, "source_root")) {
            continue;
        }
        /* What Kubernetes writes for a service called any4. */
        if (!strcmp(name, "port") && !strncmp(equals + 1, "tcp://", 6)) {
            log_warning("environment variable ANY4_PORT=%.80s is a service link, no setting: left out",
                        equals + 1);
            continue;
        }
        enum status status = config_set(config, name, equals + 1, ORIGIN_ENVIRONMENT, err);
        if (status) {
            return status;
        }
    }
    return STATUS_OK;
}

/* One "--name value", "--name=value" or, for booleans, "--name" and "--no-name"; *used says how many
 * arguments. */
static enum status read_flag(struct config *config, int argc, char **argv, int *used, struct error *err)
{
    char name[64];
    const char *flag = argv[0] + 2;
    const char *equals = strchr(flag, '=');
    size_t length = equals ? (size_t)(equals - flag) : strlen(flag);
    *used = 1;
    if (length >= sizeof name) {
        return error_set(err, STATUS_INVALID, "%.80s... is unknown", argv[0]);
    }
    memcpy(name, flag, length);
    name[length] = '\0';
    for (char *c = name; *c; c++) {
        *c = *c == '-' ? '_' : *c;
    }
    int32_t i = find_key(name);
    int32_t negated = i < 0 && !equals && !strncmp(name, "no_", 3) ? find_key(name + 3) : -1;
    if (negated >= 0 && config_keys[negated].type == CONFIG_BOOL) {
        return config_set(config, name + 3, "off", ORIGIN_FLAG, err);
    }
    if (i >= 0 && config_keys[i].type == CONFIG_BOOL && !equals) {
        bool ignored;
        if (argc > 1 && strlen(argv[1]) > 1 && parse_bool(argv[1], &ignored)) {
            *used = 2;
            return config_set(config, name, argv[1], ORIGIN_FLAG, err);
        }
        return config_set(config, name, "on", ORIGIN_FLAG, err);
    }
    if (i < 0 || equals) {
        return config_set(config, name, equals ? equals + 1 : "", ORIGIN_FLAG, err);
    }
    if (argc < 2) {
        return error_set(err, STATUS_INVALID, "%s needs a value", argv[0]);
    }
    *used = 2;
    return config_set(config, name, argv[1], ORIGIN_FLAG, err);
}

static enum status read_flags(struct config *config, int argc, char **argv, struct error *err)
{
    bool only_words = false;
    int n_words = 0;
    for (int i = 0; i < argc;) {
        enum status status = STATUS_OK;
        int used = 1;
        if (!only_words && !strcmp(argv[i], "--")) {
            only_words = true;
        } else if (!only_words && !strcmp(argv[i], "-h")) {
            status = config_set(config, "help", "on", ORIGIN_FLAG, err);
        } else if (!only_words && !strncmp(argv[i], "--", 2)) {
            status = read_flag(config, argc - i, argv + i, &used, err);
        } else if (!only_words && argv[i][0] == '-' && argv[i][1]) {
            status = error_set(err, STATUS_INVALID, "%.80s is unknown (see --help)%s", argv[i],
                               config->command == CONFIG_FOR_TOKENIZE ? "; -- goes before such a text" : "");
        } else if (n_words == 0 && (config->command & CONFIG_FOR_MODEL)) {
            status = config_set(config, "model", argv[i], ORIGIN_FLAG, err);
            n_words++;
        } else if (n_words == 1 && config->command == CONFIG_FOR_TOKENIZE) {
            config->text = argv[i];
            n_words++;
        } else {
            status = error_set(err, STATUS_INVALID, "argument \"%.80s\" is one too many", argv[i]);
        }
        if (status) {
            return status;
        }
        i += used;
    }
    return STATUS_OK;
}

enum status config_load(struct config *config, unsigned command, int argc, char **argv, struct error *err)
{
    *config = (struct config){.command = command};
    /* Flags are read twice: first for --config, then last, so that they win over everything. */
    enum status status = read_flags(config, argc, argv, err);
    if (status) {
        return status;
    }
    int32_t file_key = find_key("config");
    const char *path = config->values[file_key] ? config->values[file_key] : getenv("ANY4_CONFIG");
    char *file = path ? strdup(path) : NULL;
    for (int32_t i = 0; i < config_n_keys; i++) {
        free(config->values[i]);
        config->values[i] = NULL;
        config->origins[i] = ORIGIN_DEFAULT;
    }
    if (path && !file) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for settings");
    }
    status = file ? read_file(config, file, err) : STATUS_OK;
    free(file);
    if (!status) {
        status = read_environment(config, err);
    }
    if (!status) {
        status = read_flags(config, argc, argv, err);
    }
    return status ? status : config_apply(config, err);
}

enum config_origin config_origin(const struct config *config, const char *name)
{
    return config->origins[find_key(name)];
}

void config_finish(struct config *config)
{
    for (int32_t i = 0; i < config_n_keys; i++) {
        free(config->values[i]);
    }
    free(config->cache_folder);
    *config = (struct config){0};
}
