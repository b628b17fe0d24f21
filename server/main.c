/* any4 COMMAND ...: finds the command, reads its settings, runs it, and turns the outcome into the exit code.
 * The only file that ends the process. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/bench/serve.h"
#include "server/command.h"

static const struct command {
    const char *name;
    unsigned bit;
    command_fn *run; /* NULL: a command with flags of its own, called by main */
    const char *usage, *about;
} commands[] = {
    {"serve", CONFIG_FOR_SERVE, command_serve, "any4 serve MODEL_DIR [flags]",
     "Quantizes a model at load and serves it over HTTP."},
    {"generate", CONFIG_FOR_GENERATE, command_generate, "any4 generate MODEL_DIR --prompt TEXT [flags]",
     "Completes one prompt, with the fields and defaults of POST /v1/completions."},
    {"eval", CONFIG_FOR_EVAL, command_eval, "any4 eval MODEL_DIR --text FILE [flags]",
     "Mean negative log-likelihood per token of a text."},
    {"tokenize", CONFIG_FOR_TOKENIZE, command_tokenize, "any4 tokenize MODEL_DIR [flags] [TEXT]",
     "Prints the token ids of a text."},
    {"quantize", CONFIG_FOR_QUANTIZE, command_quantize, "any4 quantize MODEL_DIR [flags]",
     "Fills the cache of quantized models, so that later starts are quick."},
    {"plan", CONFIG_FOR_PLAN, command_plan, "any4 plan MODEL_DIR [flags]",
     "Memory that a model will need, without loading it."},
    {"verify", CONFIG_FOR_VERIFY, command_verify, "any4 verify MODEL_DIR [flags]",
     "Loads and quantizes a model, reports, and exits."},
    {"healthcheck", CONFIG_FOR_HEALTHCHECK, command_healthcheck, "any4 healthcheck [--url URL]",
     "Asks a running server whether it is ready: exit 0 or 1."},
    {"bench decode", CONFIG_FOR_BENCH_DECODE, command_bench_decode, "any4 bench decode MODEL_DIR [flags]",
     "Decode speed by batch size, without HTTP."},
    {"bench kernels", CONFIG_FOR_BENCH_KERNELS, command_bench_kernels, "any4 bench kernels [flags]",
     "Speed of the CUDA kernels, beside the card's memory and cuBLAS."},
    {"bench quantize", CONFIG_FOR_BENCH_QUANTIZE, command_bench_quantize, "any4 bench quantize [flags]",
     "Quantizing speed by format and threads, on synthetic weights."},
    {"bench serve", 0, NULL, "any4 bench serve --url URL [flags]",
     "Load test of a running server over HTTP."},
    {"version", CONFIG_FOR_VERSION, command_version, "any4 version [--json]", "What this binary is."},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

/* Of all commands, or of those whose name begins with a word. */
static void print_usage(FILE *file, const char *word)
{
    const char *name = *word ? "bench NAME" : "COMMAND";
    fprintf(file, "usage: any4 %s [flags]\n\n", name);
    for (int i = 0; i < N_COMMANDS; i++) {
        if (!strncmp(commands[i].name, word, strlen(word))) {
            fprintf(file, "  %-14s %s\n", commands[i].name, commands[i].about);
        }
    }
    fprintf(file, "\nany4 %s --help lists its flags.\n", name);
}

static const struct command *find_command(const char *name)
{
    if (!strcmp(name, "--version")) {
        name = "version";
    }
    for (int i = 0; i < N_COMMANDS; i++) {
        if (commands[i].run && !strcmp(commands[i].name, name)) {
            return &commands[i];
        }
    }
    return NULL;
}

static int complain_about_command(const char *name)
{
    const char *names[N_COMMANDS];
    for (int i = 0; i < N_COMMANDS; i++) {
        names[i] = commands[i].name;
    }
    const char *near = nearest_name(name, names, N_COMMANDS);
    fprintf(stderr, "any4: there is no command \"%s\"%s%s%s (see any4 --help)\n", name,
            near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    return EXIT_CODE_USAGE;
}

static int run_command(const struct command *command, const struct config *config, struct outcome *outcome)
{
    struct error err = {0};
    if (config->help) {
        config_print_help(stdout, command->bit, command->usage, command->about);
        return EXIT_CODE_DONE;
    }
    if (config->print_config) {
        (config->json ? config_print_json : config_print)(stdout, config);
        return EXIT_CODE_DONE;
    }
    enum status status = command->run(config, outcome, &err);
    if (status) {
        fprintf(stderr, "any4 %s: %s\n", command->name, err.message);
        return exit_code_of(status);
    }
    if (fflush(stdout)) {
        fprintf(stderr, "any4 %s: standard output cannot be written\n", command->name);
        return EXIT_CODE_INTERNAL;
    }
    return outcome->code;
}

int main(int argc, char **argv)
{
    struct config config;
    struct error err = {0};
    struct outcome outcome = {.code = EXIT_CODE_DONE};
    /* A client that leaves, a closed pipe, a file that may not grow: errors of one write and not the end of
     * the process. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    if (argc < 2) {
        print_usage(stderr, "");
        return EXIT_CODE_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_usage(stdout, "");
        return EXIT_CODE_DONE;
    }
    int n_words = 2; /* of the command's own name, the program's counted */
    char bench[64];
    const char *name = argv[1];
    if (!strcmp(name, "bench")) {
        if (argc < 3 || !strcmp(argv[2], "--help") || !strcmp(argv[2], "-h")) {
            print_usage(argc < 3 ? stderr : stdout, "bench ");
            return argc < 3 ? EXIT_CODE_USAGE : EXIT_CODE_DONE;
        }
        if (!strcmp(argv[2], "serve")) {
            return bench_serve_main(argc - 2, argv + 2);
        }
        snprintf(bench, sizeof bench, "bench %.50s", argv[2]);
        name = bench;
        n_words = 3;
    }
    const struct command *command = find_command(name);
    if (!command) {
        return complain_about_command(name);
    }
    int code = EXIT_CODE_USAGE;
    if (config_load(&config, command->bit, argc - n_words, argv + n_words, &err)) {
        fprintf(stderr, "any4 %s: %s\n", command->name, err.message);
    } else {
        code = run_command(command, &config, &outcome);
    }
    if (outcome.abandon) {
        fflush(NULL);
        _exit(code);
    }
    config_finish(&config);
    return code;
}
