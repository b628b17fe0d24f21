/* Statistics of `any4 bench serve` against plain definitions. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/bench/options.h"
#include "server/bench/probe.h"
#include "server/bench/report.h"
#include "server/bench/stats.h"
#include "server/bench/workload.h"

TestSuite(bench_stats, .timeout = 60);

/* ---- percentiles ---- */

/* The definition word by word: the smallest sample with at least percent per cent of all samples not larger.
 */
static double plain_percentile(const double *values, int64_t n, int32_t percent)
{
    double best = INFINITY;
    for (int64_t i = 0; i < n; i++) {
        int64_t not_larger = 0;
        for (int64_t j = 0; j < n; j++) {
            not_larger += values[j] <= values[i];
        }
        if (not_larger * 100 >= percent * n && values[i] < best) {
            best = values[i];
        }
    }
    return best;
}

Test(bench_stats, percentiles_follow_the_definition)
{
    uint64_t rng = 1;
    for (int64_t n = 1; n <= 120; n++) {
        struct samples s = {0};
        double values[120];
        for (int64_t i = 0; i < n; i++) {
            values[i] = rng_between(&rng, 0, 40) * 0.25; /* with many equal ones */
            cr_assert(samples_push(&s, values[i]));
        }
        samples_sort(&s);
        for (int32_t percent = 1; percent <= 100; percent++) {
            cr_assert_eq(samples_percentile(&s, percent), plain_percentile(values, n, percent), "n %d p%d",
                         (int)n, (int)percent);
        }
        samples_finish(&s);
    }
}

Test(bench_stats, known_summary)
{
    struct samples s = {0};
    for (int32_t i = 200; i >= 1; i--) {
        cr_assert(samples_push(&s, i));
    }
    struct summary sum;
    samples_summarize(&s, &sum);
    cr_assert_eq(sum.n, 200);
    cr_assert_eq(sum.mean, 100.5);
    cr_assert_eq(sum.p50, 100);
    cr_assert_eq(sum.p90, 180);
    cr_assert_eq(sum.p95, 190);
    cr_assert_eq(sum.p99, 198);
    cr_assert_eq(sum.max, 200);
    samples_finish(&s);
    samples_summarize(&s, &sum);
    cr_assert(sum.n == 0 && isnan(sum.mean) && isnan(sum.p50) && isnan(sum.max));
}

Test(bench_stats, samples_have_a_limit)
{
    struct samples s = {.n = SAMPLES_MAX}; /* as if full: must refuse before it touches memory */
    cr_assert_not(samples_push(&s, 1));
    double two[2] = {1, 2};
    s.n = SAMPLES_MAX - 1;
    cr_assert_not(samples_append(&s, two, 2));
    cr_assert_eq(s.n, SAMPLES_MAX - 1);
}

/* ---- random numbers and arrivals ---- */

Test(bench_stats, between_reaches_every_value_evenly)
{
    uint64_t rng = 7;
    int64_t counts[7] = {0};
    for (int32_t i = 0; i < 70000; i++) {
        int32_t v = rng_between(&rng, -3, 3);
        cr_assert(v >= -3 && v <= 3);
        counts[v + 3]++;
    }
    for (int32_t i = 0; i < 7; i++) { /* standard deviation is 93 */
        cr_assert(llabs(counts[i] - 10000) < 5 * 93, "%d: %lld", i - 3, (long long)counts[i]);
    }
    cr_assert_eq(rng_between(&rng, 5, 5), 5);
    int32_t wide = rng_between(&rng, INT32_MIN, INT32_MAX);
    (void)wide;
}

Test(bench_stats, poisson_schedule_has_the_rate_and_the_shape)
{
    int64_t *at, n;
    const int64_t wanted = 100000;
    const double rate = 250;
    cr_assert_eq(poisson_schedule(&at, &n, rate, wanted, 0, 42, NULL), STATUS_OK);
    cr_assert_eq(n, wanted);
    /* Gaps have mean and standard deviation 1 / rate, so their mean lies within 5 / (rate sqrt(n)). */
    double mean = (double)at[n - 1] / 1e9 / (double)n;
    cr_assert_lt(fabs(mean * rate - 1), 5 / sqrt((double)n));
    /* The share of gaps longer than x / rate is exp(-x). */
    for (double x = 0.5; x <= 4; x *= 2) {
        int64_t longer = 0;
        for (int64_t i = 0; i < n; i++) {
            int64_t gap = at[i] - (i ? at[i - 1] : 0);
            cr_assert_geq(gap, 0);
            longer += (double)gap > x / rate * 1e9;
        }
        double p = exp(-x), sigma = sqrt(p * (1 - p) / (double)n);
        cr_assert_lt(fabs((double)longer / (double)n - p), 5 * sigma);
    }
    free(at);
}

Test(bench_stats, poisson_schedule_is_the_seeds)
{
    int64_t *a, *b, *c, n_a, n_b, n_c;
    cr_assert_eq(poisson_schedule(&a, &n_a, 100, 0, 5, 1, NULL), STATUS_OK);
    cr_assert_eq(poisson_schedule(&b, &n_b, 100, 0, 5, 1, NULL), STATUS_OK);
    cr_assert_eq(poisson_schedule(&c, &n_c, 100, n_a, 0, 2, NULL), STATUS_OK);
    cr_assert_eq(n_a, n_b);
    cr_assert(n_a > 500 - 5 * 23 && n_a < 500 + 5 * 23); /* count is Poisson: deviation sqrt(500) */
    cr_assert_eq(memcmp(a, b, (size_t)n_a * sizeof *a), 0);
    cr_assert_neq(memcmp(a, c, (size_t)n_a * sizeof *a), 0);
    cr_assert_lt(a[n_a - 1], 5000000000);
    free(a);
    free(b);
    free(c);
    struct error err;
    cr_assert_eq(poisson_schedule(&a, &n_a, 1e6, 0, 1e4, 1, &err), STATUS_INVALID);
    cr_assert_null(a);
}

/* ---- objectives ---- */

Test(bench_stats, slo_terms)
{
    struct slo slo;
    struct error err;
    cr_assert_eq(slo_parse(&slo, "ttft_p99=500,itl_mean=50,e2e_max=2000.5,tpot_p5=1", &err), STATUS_OK);
    cr_assert_eq(slo.n_terms, 4);
    const char *names[] = {"ttft_p99", "itl_mean", "e2e_max", "tpot_p5"};
    for (int32_t i = 0; i < 4; i++) {
        char name[24];
        slo_term_name(&slo.terms[i], name, sizeof name);
        cr_assert_str_eq(name, names[i]);
    }
    cr_assert_eq(slo.terms[2].limit_ms, 2000.5);
    static const char *const BAD[] = {"",
                                      "ttft",
                                      "ttft_p99",
                                      "ttft_p99=",
                                      "ttft_p0=5",
                                      "ttft_p100=5",
                                      "ttft_p=5",
                                      "x_p99=5",
                                      "ttft_p99=5,",
                                      "ttft_p99=-5",
                                      "ttft_p99=0",
                                      "ttft_p99=5ms",
                                      "ttft_p99= 5",
                                      "=5",
                                      "_=5",
                                      "ttft=5_p",
                                      "ttft_p99=1.2.3",
                                      "ttft_p09=5",
                                      "ttft_median=5",
                                      "ttft_p99=5;itl_p99=5",
                                      "ttft_p99=99999999999999999999999999999999"};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        cr_assert_eq(slo_parse(&slo, BAD[i], &err), STATUS_INVALID, "%s", BAD[i]);
    }
    cr_assert_eq(slo_parse(&slo,
                           "e2e_p1=1,e2e_p1=1,e2e_p1=1,e2e_p1=1,e2e_p1=1,e2e_p1=1,e2e_p1=1,e2e_p1=1,e2e_p1=1,"
                           "e2e_p1=1,e2e_p1=1,e2e_p1=1,e2e_p1=1,e2e_p1=1,e2e_p1=1,e2e_p1=1,e2e_p1=1",
                           &err),
                 STATUS_INVALID);
}

Test(bench_stats, goodput_asks_each_request)
{
    struct slo slo;
    cr_assert_eq(slo_parse(&slo, "ttft_p99=100,itl_p50=10,itl_mean=20,tpot_p90=15,e2e_p50=1000", NULL),
                 STATUS_OK);
    double gaps[] = {30, 10, 5, 9};
    struct request_times t = {.ttft_ms = 100, .tpot_ms = 15, .e2e_ms = 1000, .itl_ms = gaps, .n_itl = 4};
    cr_assert(slo_request_met(&slo, &t));
    struct request_times bad = t;
    bad.ttft_ms = 100.001;
    cr_assert_not(slo_request_met(&slo, &bad));
    bad = t;
    bad.tpot_ms = 15.5;
    cr_assert_not(slo_request_met(&slo, &bad));
    bad.tpot_ms = NAN;
    cr_assert(slo_request_met(&slo, &bad));
    bad = t;
    bad.e2e_ms = 1001;
    cr_assert_not(slo_request_met(&slo, &bad));
    double slow[] = {11, 11, 5, 11}; /* median 11 */
    bad = t;
    bad.itl_ms = slow;
    cr_assert_not(slo_request_met(&slo, &bad));
    double jump[] = {60, 10, 5, 9}; /* mean 21, median 9 */
    bad.itl_ms = jump;
    cr_assert_not(slo_request_met(&slo, &bad));
    bad.n_itl = 0;
    cr_assert(slo_request_met(&slo, &bad));
}

Test(bench_stats, failures_count_as_infinitely_slow)
{
    struct bench_result r = {0};
    struct slo slo;
    for (int32_t i = 1; i <= 99; i++) {
        cr_assert(samples_push(&r.series[SLO_TTFT], i));
        cr_assert(samples_push(&r.series[SLO_ITL], 1));
    }
    slo_parse(&slo, "ttft_p99=99,itl_max=1", NULL);
    r.n_failed = 1; /* rank 99 of 100 is still a success */
    cr_assert(bench_slo_met(&r, &slo));
    r.n_failed = 2;
    cr_assert_not(bench_slo_met(&r, &slo));
    cr_assert(isinf(slo_run_value(&slo.terms[0], &r.series[SLO_TTFT], 2)));
    slo_parse(&slo, "ttft_mean=1000", NULL);
    cr_assert_not(bench_slo_met(&r, &slo));
    r.n_failed = 0;
    cr_assert(bench_slo_met(&r, &slo));
    bench_result_finish(&r);
    cr_assert_not(bench_slo_met(&r, &slo)); /* nothing measured is nothing met */
}

/* ---- flags ---- */

static enum status parse(struct bench_options *o, struct error *err, const char *line)
{
    char copy[512], *argv[32] = {"serve"};
    int argc = 1;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) {
        static char keep[32][128];
        snprintf(keep[argc], sizeof keep[argc], "%s", word);
        argv[argc] = keep[argc];
        argc++;
    }
    return bench_options_parse(o, argc, argv, err);
}

Test(bench_stats, flags)
{
    struct bench_options o;
    struct error err;
    cr_assert_eq(parse(&o, &err, ""), STATUS_OK);
    cr_assert(o.concurrency == 1 && o.n_requests == 100 && !(o.rate > 0));
    cr_assert_str_eq(o.host, "127.0.0.1");
    cr_assert_str_eq(o.port, "8080");
    cr_assert_eq(
        parse(&o, &err, "--url=http://[::1]:81/ --rate 2.5 --duration 3 --input-tokens 100,20 --ignore-eos"),
        STATUS_OK);
    cr_assert_str_eq(o.host, "::1");
    cr_assert_str_eq(o.port, "81");
    cr_assert(o.rate == 2.5 && o.concurrency == 0 && o.n_requests == 0 && o.input.low == 80 &&
              o.input.high == 120 && o.ignore_eos);
    static const struct {
        const char *line, *named;
    } BAD[] = {
        {"--foo", "--foo"},
        {"--foo=1", "--foo"},
        {"foo", "foo"},
        {"--rate", "--rate"},
        {"--rate 0", "--rate"},
        {"--rate nan", "--rate"},
        {"--rate 1x", "--rate"},
        {"--json=1", "--json"},
        {"--rate 1 --concurrency 1", "--concurrency"},
        {"--url https://x", "--url"},
        {"--url http://x:0", "--url"},
        {"--url http://x:65536", "--url"},
        {"--url http://x/v1", "--url"},
        {"--url http://", "--url"},
        {"--url http://[::1", "--url"},
        {"--requests 0", "--requests"},
        {"--requests 99999999999999999999", "--requests"},
        {"--input-tokens 5,5", "--input-tokens"},
        {"--input-tokens 5,", "--input-tokens"},
        {"--input-tokens ,5", "--input-tokens"},
        {"--endpoint embeddings", "--endpoint"},
        {"--slo x", "--slo"},
        {"--slo ttft_p99=5 --no-stream", "--no-stream"},
        {"--replay f --rate 1", "--rate"},
        {"--prompts f --input-tokens 5", "--input-tokens"},
        {"--concurrency 2 --max-in-flight 4", "--max-in-flight"},
        {"--seed -1", "--seed"},
        {"--vocab 3", "--vocab"},
        {"--temperature 2.5", "--temperature"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        cr_assert_eq(parse(&o, &err, BAD[i].line), STATUS_INVALID, "%s", BAD[i].line);
        cr_assert_not_null(strstr(err.message, BAD[i].named), "%s: %s", BAD[i].line, err.message);
    }
    char *secret[] = {"serve", "--api-key", "se cret"};
    cr_assert_eq(bench_options_parse(&o, 3, secret, &err), STATUS_INVALID);
    cr_assert_null(strstr(err.message, "cret"));
    cr_assert_eq(parse(&o, &err, "--help"), STATUS_OK);
    cr_assert(o.help);
}

/* ---- what is sent ---- */

static const char *write_file(const char *text)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/any4_bench_XXXXXX");
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    FILE *file = fdopen(fd, "w");
    fputs(text, file);
    fclose(file);
    return path;
}

static const char *body_of(struct buffer *b)
{
    const char *head_end = strstr(buffer_string(b), "\r\n\r\n");
    cr_assert_not_null(head_end);
    size_t announced = strtoul(strstr(b->data, "Content-Length: ") + 16, NULL, 10);
    cr_assert_eq(announced, strlen(head_end + 4));
    return head_end + 4;
}

Test(bench_stats, a_chat_request_is_a_message_of_words)
{
    struct bench_options o;
    struct workload w;
    struct buffer a = {0};
    cr_assert_eq(parse(&o, NULL, "--endpoint chat --input-tokens 20 --output-tokens 8 --requests 5"),
                 STATUS_OK);
    cr_assert_eq(workload_open(&w, &o, NULL, 0, NULL), STATUS_OK);
    workload_write(&w, 0, false, &a);
    cr_assert(strncmp(buffer_string(&a), "POST /v1/chat/completions ", 26) == 0);
    cJSON *json = cJSON_Parse(body_of(&a));
    const cJSON *message = cJSON_GetArrayItem(cJSON_GetObjectItem(json, "messages"), 0);
    cr_assert_str_eq(cJSON_GetObjectItem(message, "role")->valuestring, "user");
    int n_words = 1;
    for (const char *c = cJSON_GetObjectItem(message, "content")->valuestring; *c; c++) {
        n_words += *c == ' ';
    }
    cr_assert_eq(n_words, 20);
    cr_assert_null(cJSON_GetObjectItem(json, "prompt"));
    cJSON_Delete(json);
    buffer_finish(&a);
    workload_close(&w);
}

Test(bench_stats, a_request_is_the_seeds_and_its_numbers)
{
    struct bench_options o;
    struct workload w;
    cr_assert_eq(
        parse(&o, NULL, "--seed 5 --input-tokens 20,10 --output-tokens 8,4 --requests 500 --ignore-eos"),
        STATUS_OK);
    cr_assert_eq(workload_open(&w, &o, "m\"x", 12, NULL), STATUS_OK);
    bool seen_id[12] = {false}, seen_length[41] = {false};
    for (int64_t i = 0; i < 500; i++) {
        struct buffer a = {0}, b = {0}, c = {0};
        workload_write(&w, i, false, &a);
        workload_write(&w, i, false, &b);
        workload_write(&w, i, true, &c);
        cr_assert(a.length == b.length && memcmp(a.data, b.data, a.length) == 0);
        cr_assert_str_neq(buffer_string(&a), buffer_string(&c)); /* a warm-up draws its own */
        cJSON *json = cJSON_Parse(body_of(&a));
        cr_assert_not_null(json);
        cr_assert_str_eq(cJSON_GetObjectItem(json, "model")->valuestring, "m\"x");
        cr_assert(cJSON_IsTrue(cJSON_GetObjectItem(json, "stream")));
        cr_assert(cJSON_IsTrue(cJSON_GetObjectItem(json, "ignore_eos")));
        int length = cJSON_GetArraySize(cJSON_GetObjectItem(json, "prompt"));
        cr_assert(length >= 10 && length <= 30);
        seen_length[length] = true;
        cJSON *id;
        cJSON_ArrayForEach(id, cJSON_GetObjectItem(json, "prompt"))
        {
            cr_assert(id->valueint >= 3 && id->valueint < 12);
            seen_id[id->valueint] = true;
        }
        int output = cJSON_GetObjectItem(json, "max_tokens")->valueint;
        cr_assert(output >= 4 && output <= 12);
        cJSON_Delete(json);
        buffer_finish(&a);
        buffer_finish(&b);
        buffer_finish(&c);
    }
    for (int32_t i = 3; i < 12; i++) {
        cr_assert(seen_id[i]);
    }
    for (int32_t i = 10; i <= 30; i++) {
        cr_assert(seen_length[i]);
    }
    workload_close(&w);
}

Test(bench_stats, prompts_of_a_file)
{
    struct bench_options o;
    struct workload w;
    const char *path =
        write_file("plain \"text\"\r\n\n\"json \\u00e4\"\n{\"prompt\":[5,6],\"output_tokens\":3}\n"
                   "{\"prompt\":\"x\"}");
    char *argv[] = {"serve", "--prompts", (char *)path, "--output-tokens", "9"};
    cr_assert_eq(bench_options_parse(&o, 5, argv, NULL), STATUS_OK);
    cr_assert_eq(workload_open(&w, &o, NULL, 0, NULL), STATUS_OK);
    cr_assert_eq(w.n_items, 4);
    static const char *const WANT[] = {"{\"prompt\":\"plain \\\"text\\\"\",\"max_tokens\":9,",
                                       "{\"prompt\":\"json \u00e4\",\"max_tokens\":9,",
                                       "{\"prompt\":[5,6],\"max_tokens\":3,",
                                       "{\"prompt\":\"x\",\"max_tokens\":9,"};
    for (int64_t i = 0; i < 8; i++) {
        struct buffer b = {0};
        workload_write(&w, i, false, &b);
        cr_assert_eq(strncmp(body_of(&b), WANT[i % 4], strlen(WANT[i % 4])), 0, "%s", body_of(&b));
        buffer_finish(&b);
        workload_write(&w, i, true, &b);
        cr_assert_eq(strncmp(body_of(&b), WANT[3 - i % 4], strlen(WANT[3 - i % 4])), 0);
        buffer_finish(&b);
    }
    workload_close(&w);
    unlink(path);
    static const char *const BAD[] = {"",
                                      "\n\n",
                                      "{\"prompt\":1}",
                                      "{\"prompt\":[]}",
                                      "{\"prompt\":[-1]}",
                                      "{}",
                                      "\"open",
                                      "{\"prompt\":\"x\",\"other\":1}",
                                      "{\"prompt\":\"x\",\"output_tokens\":0}"};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        struct error err;
        o.prompts_path = write_file(BAD[i]);
        cr_assert_eq(workload_open(&w, &o, NULL, 0, &err), STATUS_INVALID, "%s", BAD[i]);
        cr_assert_not_null(strstr(err.message, o.prompts_path));
        unlink(o.prompts_path);
    }
}

Test(bench_stats, replay_keeps_its_times)
{
    struct bench_options o;
    struct workload w;
    const char *path =
        write_file("{\"at\":0.5,\"prompt\":\"a\",\"output_tokens\":2}\n"
                   "{\"at\":0.5,\"input_tokens\":7,\"output_tokens\":4}\n{\"at\":2,\"input_tokens\":1}\n");
    char *argv[] = {"serve", "--replay", (char *)path};
    cr_assert_eq(bench_options_parse(&o, 3, argv, NULL), STATUS_OK);
    cr_assert_eq(workload_open(&w, &o, NULL, 0, NULL), STATUS_OK);
    cr_assert(w.n_requests == 3 && w.at_ns[0] == 500000000 && w.at_ns[1] == 500000000 &&
              w.at_ns[2] == 2000000000);
    cr_assert_eq(w.output_tokens_max, 2 + 4 + 64);
    struct buffer b = {0};
    workload_write(&w, 1, false, &b);
    cJSON *json = cJSON_Parse(body_of(&b));
    cr_assert_eq(cJSON_GetArraySize(cJSON_GetObjectItem(json, "prompt")), 7);
    cr_assert_eq(cJSON_GetObjectItem(json, "max_tokens")->valueint, 4);
    cJSON_Delete(json);
    buffer_finish(&b);
    workload_close(&w);
    o.duration_s = 1;
    cr_assert_eq(workload_open(&w, &o, NULL, 0, NULL), STATUS_OK);
    cr_assert_eq(w.n_requests, 2);
    workload_close(&w);
    unlink(path);
    o.duration_s = 0;
    static const char *const BAD[] = {"{\"at\":2,\"prompt\":\"a\"}\n{\"at\":1,\"prompt\":\"a\"}",
                                      "{\"prompt\":\"a\"}",
                                      "{\"at\":1}",
                                      "{\"at\":-1,\"prompt\":\"a\"}",
                                      "text",
                                      "{\"at\":1,\"prompt\":\"a\",\"input_tokens\":3}"};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        o.replay_path = write_file(BAD[i]);
        cr_assert_eq(workload_open(&w, &o, NULL, 0, NULL), STATUS_INVALID, "%s", BAD[i]);
        unlink(o.replay_path);
    }
}

Test(bench_stats, a_run_too_large_is_refused_at_once)
{
    struct bench_options o;
    struct workload w;
    struct error err;
    cr_assert_eq(parse(&o, NULL, "--requests 1000000 --output-tokens 1000"), STATUS_OK);
    cr_assert_eq(workload_open(&w, &o, NULL, 0, &err), STATUS_INVALID);
    cr_assert_not_null(strstr(err.message, "every latency is kept"));
}

/* ---- the server's histograms ---- */

Test(bench_stats, histograms_are_differences_over_all_labels)
{
    char before_text[] = "# HELP any4_time_to_first_token_seconds_sum no\n"
                         "any4_time_to_first_token_seconds_sum{model=\"a}\\\"\"} 1.5\n"
                         "any4_time_to_first_token_seconds_count{model=\"a}\\\"\"} 3\n";
    char after_text[] = "any4_time_to_first_token_seconds_sum{model=\"a}\\\"\"} 2.0\n"
                        "any4_time_to_first_token_seconds_sum{model=\"b\"} 0.5\n"
                        "any4_time_to_first_token_seconds_sum_other 100\n"
                        "any4_time_to_first_token_seconds_count{model=\"a}\\\"\"} 5\n"
                        "any4_time_to_first_token_seconds_count{model=\"b\"} 2\n"
                        "any4_inter_token_latency_seconds_sum 0\nany4_inter_token_latency_seconds_count 0\n";
    struct server_counters before, after;
    server_counters_read(&before, before_text);
    server_counters_read(&after, after_text);
    struct server_mean ttft = server_mean_between(&before, &after, SERVER_TTFT);
    cr_assert_eq(ttft.n, 4);
    cr_assert_eq(ttft.mean_ms, 250);
    struct server_mean itl = server_mean_between(&before, &after, SERVER_ITL);
    cr_assert(itl.n == 0 && isnan(itl.mean_ms));
    cr_assert_eq(server_mean_between(&after, &before, SERVER_TTFT).n, -1); /* went backwards */
    cr_assert_eq(server_mean_between(&after, &before, SERVER_ITL).n, -1);  /* not there */
}
