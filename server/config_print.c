/* --help, --print-config and the settings in the log, all from the table. */
#include <ctype.h>
#include <string.h>

#include "server/config.h"

static const char *const origin_names[] = {"default", "file", "environment", "flag"};

static const char *shown_value(const struct config *config, int32_t i)
{
    const char *text = config->values[i] ? config->values[i] : config_keys[i].default_text;
    return text && config_keys[i].secret ? "***" : text;
}

/* Prints and exits: no setting of what runs. */
static bool is_question(const struct config_key *key)
{
    return !strcmp(key->name, "print_config") || !strcmp(key->name, "help");
}

static bool is_asked_for(const struct config *config, int32_t i)
{
    return (config_keys[i].commands & config->command) && !is_question(&config_keys[i]) &&
           config_keys[i].type != CONFIG_LATER;
}

void config_print(FILE *file, const struct config *config)
{
    for (int32_t i = 0; i < config_n_keys; i++) {
        if (is_asked_for(config, i)) {
            const char *value = shown_value(config, i);
            fprintf(file, "%-24s %-32s %s\n", config_keys[i].name, value ? value : "-",
                    origin_names[config->origins[i]]);
        }
    }
}

static void write_json(struct buffer *out, const struct config *config)
{
    buffer_text(out, "{");
    for (int32_t i = 0; i < config_n_keys; i++) {
        if (is_asked_for(config, i)) {
            buffer_text(out, out->length > 1 ? "," : "");
            buffer_json_text(out, config_keys[i].name);
            buffer_text(out, ":{\"value\":");
            buffer_json_text(out, shown_value(config, i));
            buffer_printf(out, ",\"origin\":\"%s\"}", origin_names[config->origins[i]]);
        }
    }
    buffer_text(out, "}");
}

void config_print_json(FILE *file, const struct config *config)
{
    struct buffer out = {0};
    write_json(&out, config);
    fprintf(file, "%s\n", buffer_string(&out));
    buffer_finish(&out);
}

void config_log(const struct config *config, enum log_level level)
{
    struct buffer out = {0};
    buffer_text(&out, "\"msg\":\"settings\"");
    for (int32_t i = 0; i < config_n_keys; i++) {
        /* Limits are always named: an operator who reads the log should see what the server will refuse. */
        bool limit = !strncmp(config_keys[i].name, "max_", 4) || strstr(config_keys[i].name, "_timeout");
        const char *value = shown_value(config, i);
        if (is_asked_for(config, i) && value && (config->origins[i] != ORIGIN_DEFAULT || limit)) {
            buffer_printf(&out, ",\"%s\":", config_keys[i].name);
            buffer_json_text(&out, value);
        }
    }
    log_event(level, buffer_string(&out));
    buffer_finish(&out);
}

void config_print_help(FILE *file, unsigned command, const char *usage, const char *about)
{
    fprintf(file, "usage: %s\n\n%s\n\n", usage, about);
    for (int32_t i = 0; i < config_n_keys; i++) {
        const struct config_key *key = &config_keys[i];
        char flag[64];
        if (!(key->commands & command) || key->type == CONFIG_LATER) {
            continue;
        }
        snprintf(flag, sizeof flag, "--%s", key->name);
        for (char *c = flag; *c; c++) {
            *c = *c == '_' ? '-' : *c;
        }
        fprintf(file, "  %-26s %s", flag, key->help);
        if (key->choices || (key->type == CONFIG_BOOL && !is_question(key))) {
            fprintf(file, " (%s)", key->choices ? key->choices : "on|off");
        } else if ((key->type == CONFIG_INT || key->type == CONFIG_SECONDS) && key->max > key->min) {
            fprintf(file, " (%.10g..%.10g)", key->min, key->max);
        }
        if (key->default_text && !is_question(key)) {
            fprintf(file, " [%s]", key->default_text);
        }
        fprintf(file, "\n");
    }
    fprintf(
        file,
        "\nA flag wins over the environment (ANY4_ and the name in capitals), that over --config FILE.\n");
}
