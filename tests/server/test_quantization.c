/* What the server tells about quantization: the route, the metrics, and the settings behind them. */
#include <cjson/cJSON.h>

#include "tests/server/support.h"

static cJSON *get(const struct rig *rig, const char *path)
{
    char *answer = ask(rig, "GET", path, "", NULL);
    cr_assert_eq(status_of(answer), 200, "%s: %s", path, answer);
    cJSON *root = cJSON_Parse(strstr(answer, "\r\n\r\n"));
    cr_assert(root, "%s: %s", path, answer);
    free(answer);
    return root;
}

static void expect(const struct rig *rig, const char *method, const char *path, const char *headers,
                   int status, const char *part)
{
    char *answer = ask(rig, method, path, headers, NULL);
    cr_assert_eq(status_of(answer), status, "%s %s: %s", method, path, answer);
    cr_assert(strstr(answer, part), "%s %s: no %s in %s", method, path, part, answer);
    free(answer);
}

static double number(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItem(object, key);
    cr_assert(cJSON_IsNumber(item), "%s", key);
    return item->valuedouble;
}

Test(quantization, route)
{
    static const char *const keys[] = {"object", "method", "bits",  "code_bits", "table_bits",  "group_size",
                                       "cache",  "times",  "bytes", "n_tensors", "n_quantized", "rel_error"};
    struct rig rig;
    rig_open(&rig, NULL);
    cJSON *root = get(&rig, "/v1/quantization");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        cr_assert(cJSON_GetObjectItem(root, keys[i]), "%s", keys[i]);
    }
    cr_assert_str_eq(cJSON_GetObjectItem(root, "cache")->valuestring, "off");
    cr_assert(!cJSON_GetObjectItem(root, "tensors"));
    const cJSON *error = cJSON_GetObjectItem(root, "rel_error"), *worst = cJSON_GetObjectItem(error, "worst");
    cr_assert_eq(number(error, "mean"), 0.25);
    cr_assert_eq(number(error, "p95"), 0.25);
    cr_assert_eq(number(error, "max"), 0.25);
    cr_assert_eq(cJSON_GetArraySize(worst), 1);
    cr_assert_str_eq(cJSON_GetObjectItem(worst->child, "name")->valuestring, "layers.0.\"q\"");
    cr_assert_eq(number(worst->child, "worst_row"), 7);
    cJSON_Delete(root);
    root = get(&rig, "/v1/quantization?x=2&full=1");
    const cJSON *tensors = cJSON_GetObjectItem(root, "tensors");
    cr_assert_eq(cJSON_GetArraySize(tensors), 2);
    cr_assert_eq(number(cJSON_GetArrayItem(tensors, 0), "rel_error"), 0.25);
    cr_assert(cJSON_IsNull(cJSON_GetObjectItem(cJSON_GetArrayItem(tensors, 1), "rel_error")));
    cr_assert_eq(number(cJSON_GetArrayItem(tensors, 1), "bits"), 16);
    cJSON_Delete(root);
    root = get(&rig, "/v1/quantization?full=0");
    cr_assert(!cJSON_GetObjectItem(root, "tensors"));
    cJSON_Delete(root);
    rig_close(&rig);
}

Test(quantization, route_refusals)
{
    static const char *const bad[] = {"?full",    "?full=",     "?full=2",
                                      "?full=10", "?full=true", "?full=1&full=x"};
    struct rig rig;
    rig_open(&rig, (const char *[]){"--api-key", "secret", NULL});
    expect(&rig, "GET", "/v1/quantization", "", 401, "missing_api_key");
    const char *key = "Authorization: Bearer secret\r\n";
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char path[64];
        snprintf(path, sizeof path, "/v1/quantization%s", bad[i]);
        expect(&rig, "GET", path, key, 400, "\"param\":\"full\",\"code\":\"invalid_value\"");
    }
    expect(&rig, "GET", "/v1/quantization?fully=2", key, 200, "\"rel_error\"");
    expect(&rig, "POST", "/v1/quantization", key, 405, "Allow: GET, HEAD, OPTIONS");
    expect(&rig, "OPTIONS", "/v1/quantization", key, 204, "Allow: GET, HEAD, OPTIONS");
    expect(&rig, "GET", "/v1/quantisation", key, 404, "did you mean /v1/quantization?");
    char *answer = ask(&rig, "HEAD", "/v1/quantization", key, NULL);
    cr_assert_eq(status_of(answer), 200);
    cr_assert(!strstr(answer, "rel_error") && strstr(answer, "Content-Length: "), "%s", answer);
    free(answer);
    atomic_store(&rig.server.ready, false);
    expect(&rig, "GET", "/v1/quantization", key, 503, "\"code\":\"loading\"");
    rig_close(&rig);
}

Test(quantization, metrics)
{
    struct rig rig;
    rig_open(&rig, NULL);
    expect(&rig, "GET", "/metrics", "", 200, "any4_quant_cache{model=\"tiny\",result=\"off\"} 1\n");
    expect(&rig, "GET", "/metrics", "", 200, "any4_quant_rel_error{model=\"tiny\",stat=\"p95\"}");
    rig_close(&rig);
}

Test(quantization, settings_reach_the_engine)
{
    char *argv[] = {(char *)"model", (char *)"--quant-seed", (char *)"18", (char *)"--quant-max-error",
                    (char *)"0.125", (char *)"--group-size", (char *)"64"};
    struct config config;
    struct engine_options options;
    struct error err = {0};
    char *skip;
    cr_assert_eq(config_load(&config, CONFIG_FOR_VERIFY, 7, argv, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(server_engine_options(&options, &config, &skip, &err), STATUS_OK, "%s", err.message);
    cr_assert(options.quant.seed == 18 && options.quant_max_error == 0.125 && options.quant.group_size == 64);
    cr_assert(options.quant_report == QUANT_REPORT_SUMMARY);
    free(skip);
    config_finish(&config);
    /* Commands that print results say nothing of themselves. */
    cr_assert_eq(config_load(&config, CONFIG_FOR_GENERATE, 7, argv, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(server_engine_options(&options, &config, &skip, &err), STATUS_OK, "%s", err.message);
    cr_assert(options.quant_max_error == 0.125 && options.quant_report == QUANT_REPORT_OFF);
    free(skip);
    config_finish(&config);
}
