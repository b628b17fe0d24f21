/* Tables and JSON of the benchmark. Part of bench.cc. */
#ifndef KERNELS_CUDA_BENCH_REPORT_H
#define KERNELS_CUDA_BENCH_REPORT_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include <chrono>
#include <string>
#include <vector>

#include "kernels/cuda/bench_card.h"

/* A column: its key in JSON, its title, and the digits behind the point. */
struct report_column {
    const char *key, *title;
    int decimals;
};

static std::string json_text(const std::string &text)
{
    std::string out = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
        }
        out += (unsigned char)c < ' ' ? ' ' : c;
    }
    return out + "\"";
}

static std::string json_number(double value)
{
    char text[40];
    snprintf(text, sizeof text, "%.6g", value);
    return isfinite(value) ? text : "null";
}

class bench_report
{
    FILE *out;
    std::chrono::steady_clock::time_point until;
    std::string rows, facts;
    std::vector<std::string> complaints;
    std::vector<report_column> columns;
    std::string part;
    bool over = false;

  public:
    double ceiling = 0; /* bytes per second */

    bench_report(FILE *file, double seconds)
        : out(file),
          until(std::chrono::steady_clock::now() + std::chrono::milliseconds((int64_t)(1e3 * seconds)))
    {
    }

    /* Whether there is time for more; says so once where there is none. */
    bool in_time(void)
    {
        if (std::chrono::steady_clock::now() < until) {
            return true;
        }
        if (!over) {
            fprintf(out, "out of time: the rest is left out\n");
        }
        over = true;
        return false;
    }

    void fact(const char *key, const std::string &json)
    {
        facts += (facts.empty() ? "" : ",") + json_text(key) + ":" + json;
    }

    void complain(const std::string &text)
    {
        complaints.push_back(text);
        fprintf(out, "FAILED %s\n", text.c_str());
        fflush(out);
    }

    /* Begins a table. A row has three labels: shape, kind and tokens, or what stands for them. */
    void table(const char *name, const char *title, const std::vector<report_column> &of)
    {
        part = name;
        columns = of;
        fprintf(out, "\n%s\n%-14s %-10s %6s", title, "shape", "kind", "rows");
        for (const report_column &column : columns) {
            fprintf(out, " %9s", column.title);
        }
        fputc('\n', out);
    }

    /* NaN: not measured. */
    void row(const std::string &shape, const std::string &kind, int32_t tokens,
             const std::vector<double> &values)
    {
        fprintf(out, "%-14s %-10s %6d", shape.c_str(), kind.c_str(), tokens);
        rows += std::string(rows.empty() ? "\n" : ",\n") + "{\"part\":" + json_text(part) +
                ",\"shape\":" + json_text(shape) + ",\"kind\":" + json_text(kind) +
                ",\"rows\":" + std::to_string(tokens);
        for (size_t i = 0; i < columns.size(); i++) {
            const double value = i < values.size() ? values[i] : NAN;
            if (isfinite(value)) {
                fprintf(out, " %9.*f", columns[i].decimals, value);
            } else {
                fprintf(out, " %9s", "-");
            }
            rows += "," + json_text(columns[i].key) + ":" + json_number(value);
        }
        rows += "}";
        fputc('\n', out);
        fflush(out);
    }

    /* Gives what the work gives, or NaN with a complaint; what the card has no memory for, or what is not
     * installed, is only left out.
     * After a fault of a kernel nothing works any more, so then it throws on. */
    double attempt(const std::string &what, const std::function<double(void)> &work)
    {
        try {
            return work();
        } catch (const card_failure &failure) {
            if (failure.status == STATUS_NO_MEMORY || failure.status == STATUS_UNAVAILABLE) {
                fprintf(out, "left out: %s: %s\n", what.c_str(), failure.text.c_str());
                return NAN;
            }
            complain(what + ": " + failure.text);
            if (cudaDeviceSynchronize()) {
                throw card_failure{STATUS_DEVICE, "the card is lost to this process after " + what};
            }
            return NAN;
        }
    }

    size_t n_complaints(void) const
    {
        return complaints.size();
    }

    void write_json(const char *path) const
    {
        FILE *file = fopen(path, "w");
        if (!file) {
            throw card_failure{STATUS_IO, std::string(path) + ": cannot be written"};
        }
        std::string failures;
        for (const std::string &text : complaints) {
            failures += (failures.empty() ? "" : ",") + json_text(text);
        }
        fprintf(file, "{%s%s\"failures\":[%s],\n\"rows\":[%s\n]}\n", facts.c_str(),
                facts.empty() ? "" : ",\n", failures.c_str(), rows.c_str());
        if (fclose(file)) {
            throw card_failure{STATUS_IO, std::string(path) + ": cannot be written"};
        }
    }
};

/* Copies that together are more than twice the cache, so that none is found in it again. */
static int32_t copies_beyond_cache(size_t bytes)
{
    int device, l2 = 0;
    card_check(cudaGetDevice(&device), "device");
    card_check(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device), "device");
    return (int32_t)(2 * (size_t)l2 / bytes) + 1;
}

#endif
