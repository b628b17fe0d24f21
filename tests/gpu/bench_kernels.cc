/* The benchmark of kernels/cuda/bench.h as a program of its own, for machines on which `any4` is not built.
 *
 *     bench_kernels [--part linear|attention|elementwise] [--tokens N,N,...] [--shapes ROWSxCOLS,...]
 *                   [--contexts N,N,...] [--repeats N] [--seconds S] [--device N] [--json PATH]
 *
 * Exit: 0 done, 1 a kernel failed or is wrong, 2 usage, 77 no device. */
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "kernels/cuda/bench.h"

static const char *text_after(const char *flag, int *at, int n, char **arguments)
{
    if (strcmp(arguments[*at], flag) != 0 || *at + 1 == n) {
        return nullptr;
    }
    return arguments[++*at];
}

static bool read_numbers(std::vector<int32_t> &out, const char *text)
{
    char *end;
    for (;; text = end + 1) {
        out.push_back((int32_t)strtol(text, &end, 10));
        if (end == text || *end != ',') {
            return end != text && *end == 0;
        }
    }
}

static bool read_shapes(std::vector<struct cuda_bench_shape> &out, const char *text)
{
    for (;;) {
        char *cols, *end;
        const long n_rows = strtol(text, &cols, 10);
        if (*cols != 'x') {
            return false;
        }
        out.push_back({(int32_t)n_rows, (int32_t)strtol(cols + 1, &end, 10)});
        if (*end != ',') {
            return *end == 0;
        }
        text = end + 1;
    }
}

static unsigned part_of(const char *text)
{
    return !strcmp(text, "linear")        ? (unsigned)CUDA_BENCH_LINEAR
           : !strcmp(text, "attention")   ? (unsigned)CUDA_BENCH_ATTENTION
           : !strcmp(text, "elementwise") ? (unsigned)CUDA_BENCH_ELEMENTWISE
                                          : 0;
}

int main(int n, char **arguments)
{
    struct cuda_bench_options options = {};
    std::vector<int32_t> tokens, contexts;
    std::vector<struct cuda_bench_shape> shapes;
    struct error err = {};
    for (int i = 1; i < n; i++) {
        const char *text;
        bool good = true;
        if ((text = text_after("--part", &i, n, arguments))) {
            options.parts |= part_of(text);
            good = part_of(text) != 0;
        } else if ((text = text_after("--tokens", &i, n, arguments))) {
            good = read_numbers(tokens, text);
        } else if ((text = text_after("--contexts", &i, n, arguments))) {
            good = read_numbers(contexts, text);
        } else if ((text = text_after("--shapes", &i, n, arguments))) {
            good = read_shapes(shapes, text);
        } else if ((text = text_after("--repeats", &i, n, arguments))) {
            options.n_repeats = atoi(text);
        } else if ((text = text_after("--seconds", &i, n, arguments))) {
            options.seconds = atof(text);
        } else if ((text = text_after("--device", &i, n, arguments))) {
            options.device = atoi(text);
        } else if ((text = text_after("--json", &i, n, arguments))) {
            options.json_path = text;
        } else {
            good = false;
        }
        if (!good) {
            fprintf(stderr, "bench_kernels: \"%s\" is not understood; the file's head says what is\n",
                    arguments[i]);
            return 2;
        }
    }
    if (!tokens.empty()) {
        options.tokens = tokens.data();
        options.n_tokens = (int32_t)tokens.size();
    }
    if (!contexts.empty()) {
        options.contexts = contexts.data();
        options.n_contexts = (int32_t)contexts.size();
    }
    if (!shapes.empty()) {
        options.shapes = shapes.data();
        options.n_shapes = (int32_t)shapes.size();
    }
    const enum status status = cuda_bench_kernels(&options, stdout, &err);
    if (status) {
        fprintf(stderr, "bench_kernels: %s\n", err.message);
    }
    return status == STATUS_UNAVAILABLE ? 77 : status == STATUS_INVALID ? 2 : status ? 1 : 0;
}
