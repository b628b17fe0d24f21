/* Routing and the checks before a handler, in the order that the API promises: URL, headers, Origin, key,
 * declared length, admission. Then the access line and the counters when an exchange is over. */
#include "server/api.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/base/log.h"
#include "server/clock.h"

static const struct route routes[] = {
    {"/v1/completions", "/v1/completions", METHOD_POST, true, true, true, false, api_completions},
    {"/v1/chat/completions", "/v1/chat/completions", METHOD_POST, true, true, true, false, api_chat},
    {"/v1/apply-template", "/v1/apply-template", METHOD_POST, true, true, false, false, api_apply_template},
    {"/v1/models", "/v1/models", METHOD_GET, true, true, false, false, api_models},
    {"/v1/models/", "/v1/models/{id}", METHOD_GET, true, true, false, false, api_model},
    {"/v1/quantization", "/v1/quantization", METHOD_GET, true, true, false, false, api_quantization},
    {"/v1/tokenize", "/v1/tokenize", METHOD_POST, true, true, false, false, api_tokenize},
    {"/tokenize", "/v1/tokenize", METHOD_POST, true, true, false, false, api_tokenize},
    {"/v1/detokenize", "/v1/detokenize", METHOD_POST, true, true, false, false, api_detokenize},
    {"/detokenize", "/v1/detokenize", METHOD_POST, true, true, false, false, api_detokenize},
    {"/health", "/health", METHOD_GET, false, false, false, true, api_health},
    {"/readyz", "/readyz", METHOD_GET, false, false, false, true, api_health},
    {"/livez", "/livez", METHOD_GET, false, false, false, true, api_livez},
    {"/metrics", "/metrics", METHOD_GET, false, false, false, true, api_metrics},
    {"/version", "/version", METHOD_GET, false, false, false, true, api_version},
};
enum { N_ROUTES = sizeof routes / sizeof routes[0] };

/* Label of what matched no route comes first, then each label once. */
static const char *const endpoints[] = {"other",
                                        "/v1/completions",
                                        "/v1/chat/completions",
                                        "/v1/apply-template",
                                        "/v1/models",
                                        "/v1/models/{id}",
                                        "/v1/quantization",
                                        "/v1/tokenize",
                                        "/v1/detokenize",
                                        "/health",
                                        "/readyz",
                                        "/livez",
                                        "/metrics",
                                        "/version"};
enum { N_ENDPOINTS = sizeof endpoints / sizeof endpoints[0] };
_Static_assert((int)N_ENDPOINTS <= (int)METRICS_MAX_ENDPOINTS, "the counters have room for every endpoint");

const char *const *api_endpoints(int32_t *n)
{
    *n = N_ENDPOINTS;
    return endpoints;
}

static int32_t endpoint_index(const struct route *route)
{
    for (int32_t i = 0; route && i < N_ENDPOINTS; i++) {
        if (!strcmp(route->endpoint, endpoints[i])) {
            return i;
        }
    }
    return 0;
}

enum exchange_step api_reply_json(struct exchange *x, int32_t status)
{
    x->reply.status = status;
    x->reply.content_type = "application/json";
    buffer_text(&x->reply.body, "\n"); /* for those who read it in a terminal */
    return EXCHANGE_REPLY;
}

/* Whole seconds until a place in the queue should be free, from how fast requests leave now. */
static int32_t retry_after_ms(const struct server *s)
{
    double seconds = 1;
    if (atomic_load(&s->ready)) {
        struct engine_stats stats;
        engine_get_stats(s->engine, &stats);
        seconds = stats.drain_seconds_per_request * (stats.waiting / 2.0 + 1);
    }
    seconds = seconds < 0.05 ? 0.05 : seconds > 60 ? 60 : seconds;
    return (int32_t)(seconds * 1000);
}

static void count_rejection(struct server *s, enum api_code code)
{
    enum metrics_reject reason = code == API_QUEUE_FULL ? REJECT_QUEUE_FULL
                                 : code == API_DRAINING ? REJECT_DRAINING
                                 : code == API_LOADING  ? REJECT_LOADING
                                                        : REJECT_LIMITS;
    bool counts = reason != REJECT_LIMITS || code == API_BODY_TOO_LARGE || code == API_HEADERS_TOO_LARGE ||
                  code == API_URL_TOO_LONG;
    if (counts) {
        atomic_fetch_add_explicit(&s->metrics.rejected[reason], 1, memory_order_relaxed);
    }
}

enum exchange_step api_reply_error(struct server *s, struct exchange *x, const struct api_error *error)
{
    char text[32];
    int32_t status = api_code_status(error->code);
    buffer_finish(&x->reply.body);
    api_error_write(&x->reply.body, error);
    count_rejection(s, error->code);
    if (status == 401) {
        reply_header(&x->reply, "WWW-Authenticate", "Bearer");
    }
    if (status == 429 || status == 503) {
        int32_t ms = status == 429 ? retry_after_ms(s) : 1000;
        snprintf(text, sizeof text, "%d", (int)((ms + 999) / 1000));
        reply_header(&x->reply, "Retry-After", text);
        snprintf(text, sizeof text, "%d", (int)ms);
        reply_header(&x->reply, "retry-after-ms", text);
    }
    x->reply.close |= status == 408 || status == 413 || status == 414 || status == 431;
    if (status == 500) {
        log_error("request %s failed: %s", x->request_id, error->message);
    }
    return api_reply_json(x, status);
}

bool api_parse_body(struct server *s, struct exchange *x, cJSON **root, struct api_error *error)
{
    struct json_limits limits = {.max_depth = (int32_t)s->config->max_json_depth,
                                 .max_nodes = s->config->max_json_nodes};
    struct error why = {0};
    *root = NULL;
    if (!x->body.length) {
        api_fail(error, API_INVALID_JSON, NULL, "the body is empty: it must be a JSON object");
        return false;
    }
    enum json_fault fault = json_parse(root, x->body.data, x->body.length, &limits, &why);
    buffer_finish(&x->body);
    if (fault) {
        api_fail_json(error, fault, &why);
        return false;
    }
    if (!cJSON_IsObject(*root)) {
        api_fail(error, API_INVALID_TYPE, NULL, "the body must be a JSON object");
        cJSON_Delete(*root);
        *root = NULL;
        return false;
    }
    return true;
}

static const struct route *find_route(const char *path)
{
    for (int32_t i = 0; i < N_ROUTES; i++) {
        size_t length = strlen(routes[i].path);
        bool prefix = routes[i].path[length - 1] == '/';
        if (prefix ? !strncmp(path, routes[i].path, length) && path[length] : !strcmp(path, routes[i].path)) {
            return &routes[i];
        }
    }
    return NULL;
}

char *api_route_argument(const struct exchange *x)
{
    const struct route *route = x->route;
    char *name = strdup(x->path + strlen(route->path));
    if (!name || MHD_http_unescape(name) != strlen(name)) { /* %00 in it */
        free(name);
        return NULL;
    }
    return name;
}

static unsigned method_bit(const char *method)
{
    return !strcmp(method, "GET") || !strcmp(method, "HEAD") ? METHOD_GET
           : !strcmp(method, "POST")                         ? METHOD_POST
           : !strcmp(method, "DELETE")                       ? METHOD_DELETE
                                                             : 0;
}

static const char *allowed_methods(const struct route *route)
{
    return route->methods & METHOD_POST     ? "POST, OPTIONS"
           : route->methods & METHOD_DELETE ? "GET, HEAD, DELETE, OPTIONS"
                                            : "GET, HEAD, OPTIONS";
}

static enum api_code check_url(struct server *s, struct exchange *x, struct api_error *error)
{
    if (strlen(x->uri) > (size_t)s->config->max_url_bytes) {
        return api_fail(error, API_URL_TOO_LONG, NULL,
                        "the URL has %zu bytes, at most %" PRId64 " are allowed", strlen(x->uri),
                        s->config->max_url_bytes);
    }
    const struct route *route = find_route(x->path);
    x->route = route;
    if (!route || (route->handle == api_metrics && !s->config->metrics)) {
        const char *names[N_ROUTES];
        int32_t n = 0;
        for (int32_t i = 0; i < N_ROUTES; i++) {
            if (routes[i].path[strlen(routes[i].path) - 1] != '/') {
                names[n++] = routes[i].path;
            }
        }
        const char *near = nearest_name(x->path, names, n);
        return api_fail(error, API_UNKNOWN_URL, NULL, "there is no %.128s here%s%s%s", x->path,
                        near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    }
    if (strcmp(x->method, "OPTIONS") && !(route->methods & method_bit(x->method))) {
        reply_header(&x->reply, "Allow", allowed_methods(route));
        return api_fail(error, API_METHOD_NOT_ALLOWED, NULL, "%s is not allowed on %s, only %s", x->method,
                        route->endpoint, allowed_methods(route));
    }
    return API_OK;
}

static bool list_has(const struct name_list *list, const char *name, size_t length)
{
    for (int32_t i = 0; i < list->n; i++) {
        if (!strcmp(list->parts[i], "*") ||
            (strlen(list->parts[i]) == length && !strncasecmp(list->parts[i], name, length))) {
            return true;
        }
    }
    return false;
}

static enum api_code check_headers(struct server *s, struct exchange *x, struct api_error *error)
{
    if (x->header_bytes > (size_t)s->config->max_header_bytes) {
        return api_fail(error, API_HEADERS_TOO_LARGE, NULL,
                        "the request line and headers have %zu bytes, at most %" PRId64 " are allowed",
                        x->header_bytes, s->config->max_header_bytes);
    }
    const char *host = exchange_header(x, "Host");
    if (s->hosts.n && host) {
        /* "[::1]:8080" and "name:8080" alike without the port */
        size_t length = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
        if (!list_has(&s->hosts, host, length)) {
            return api_fail(error, API_ORIGIN_NOT_ALLOWED, NULL, "this Host is not served here");
        }
    }
    const char *origin = exchange_header(x, "Origin");
    if (origin) {
        if (!list_has(&s->origins, origin, strlen(origin))) {
            return api_fail(error, API_ORIGIN_NOT_ALLOWED, NULL,
                            "pages of this Origin may not call this server");
        }
        reply_header(&x->reply, "Access-Control-Allow-Origin", origin);
        reply_header(&x->reply, "Vary", "Origin");
        reply_header(&x->reply, "Access-Control-Expose-Headers",
                     "X-Request-Id, X-Ignored-Fields, Retry-After");
    }
    return API_OK;
}

static enum api_code check_key(struct server *s, struct exchange *x, struct api_error *error)
{
    const struct route *route = x->route;
    bool needed = route->needs_key || (route->handle == api_metrics && s->config->metrics_auth);
    if (!s->n_keys || !needed) {
        return API_OK;
    }
    const char *header = exchange_header(x, "Authorization");
    if (!header || strncasecmp(header, "Bearer ", 7)) {
        return api_fail(error, API_MISSING_API_KEY, NULL, "send a key: Authorization: Bearer KEY");
    }
    header += 7;
    header += strspn(header, " ");
    if (!server_key_matches(s, header)) {
        return api_fail(error, API_INVALID_API_KEY, NULL, "this key is not valid here");
    }
    return API_OK;
}

/* A body is read as it came: one that is packed would only look like broken JSON. */
static enum api_code check_encoding(const struct exchange *x, struct api_error *error)
{
    const char *encoding = exchange_header(x, "Content-Encoding");
    if (encoding && *encoding && strcasecmp(encoding, "identity")) {
        return api_fail(error, API_UNSUPPORTED_PARAMETER, NULL, "Content-Encoding %.64s is not supported",
                        encoding);
    }
    return API_OK;
}

static enum api_code check_admission(struct server *s, const struct exchange *x, struct api_error *error)
{
    const struct route *route = x->route;
    if (route->adds_work && atomic_load(&s->draining)) {
        return api_fail(error, API_DRAINING, NULL, "the server is shutting down");
    }
    if (route->needs_model && !atomic_load(&s->ready)) {
        return api_fail(error, API_LOADING, NULL, "the model is still loading");
    }
    if (route->adds_work) {
        struct engine_stats stats;
        engine_get_stats(s->engine, &stats);
        if (stats.waiting >= s->config->max_queue) {
            return api_fail(error, API_QUEUE_FULL, NULL, "the queue is full: try again later");
        }
    }
    return API_OK;
}

static void reply_preflight(struct exchange *x)
{
    x->reply.status = 204;
    reply_header(&x->reply, "Allow", allowed_methods(x->route));
    if (exchange_header(x, "Origin")) {
        reply_header(&x->reply, "Access-Control-Allow-Methods", allowed_methods(x->route));
        reply_header(&x->reply, "Access-Control-Allow-Headers", "Authorization, Content-Type, X-Request-Id");
        reply_header(&x->reply, "Access-Control-Max-Age", "600");
    }
}

static bool api_begin(void *context, struct exchange *x)
{
    struct server *s = context;
    struct api_error error = {0};
    if (check_url(s, x, &error) || check_headers(s, x, &error)) {
        api_reply_error(s, x, &error);
        return true;
    }
    if (!strcmp(x->method, "OPTIONS")) { /* a preflight carries no key */
        reply_preflight(x);
        return true;
    }
    const char *declared = exchange_header(x, "Content-Length");
    if (check_key(s, x, &error) || check_encoding(x, &error)) {
        api_reply_error(s, x, &error);
        return true;
    }
    if (declared && strtoull(declared, NULL, 10) > (unsigned long long)s->config->max_body_bytes) {
        return false; /* http.c compares exactly, and refuses it before admission */
    }
    if (check_admission(s, x, &error)) {
        api_reply_error(s, x, &error);
        return true;
    }
    return false;
}

static void api_too_large(void *context, struct exchange *x)
{
    struct server *s = context;
    struct api_error error;
    api_fail(&error, API_BODY_TOO_LARGE, NULL, "the body has more than %" PRId64 " bytes",
             s->config->max_body_bytes);
    api_reply_error(s, x, &error);
}

static void api_bad_framing(void *context, struct exchange *x, const char *why)
{
    struct api_error error;
    api_fail(&error, API_INVALID_VALUE, NULL, "%s", why);
    api_reply_error(context, x, &error);
}

static void api_too_busy(void *context, struct exchange *x)
{
    struct api_error error;
    api_fail(&error, API_QUEUE_FULL, NULL, "too many long requests wait to be tokenized: try again later");
    api_reply_error(context, x, &error);
}

static void api_cut(void *context, int32_t status)
{
    struct server *s = context;
    metrics_count_request(&s->metrics, endpoint_index(NULL), status);
}

static enum exchange_step api_run(void *context, struct exchange *x)
{
    const struct route *route = x->route;
    return route->handle(context, x);
}

static void write_access_line(const struct server *s, const struct exchange *x, int32_t status)
{
    const struct route *route = x->route;
    enum log_level level = route && route->quiet ? LOG_DEBUG : LOG_INFO;
    struct api_log_figures f = {0};
    struct buffer line = {0};
    if (!s->config->access_log || !log_enabled(level)) {
        return;
    }
    buffer_text(&line, "\"request_id\":");
    buffer_json_text(&line, x->request_id);
    buffer_text(&line, ",\"endpoint\":");
    buffer_json_text(&line, route ? route->endpoint : "other");
    buffer_printf(&line, ",\"method\":");
    buffer_json_text(&line, x->method);
    buffer_printf(&line, ",\"status\":%d,\"client\":", (int)status);
    buffer_json_text(&line, x->client);
    if (api_completions_figures(x, &f)) {
        buffer_printf(&line,
                      ",\"prompt_tokens\":%" PRId64 ",\"cached_tokens\":%" PRId64
                      ",\"completion_tokens\":%" PRId64
                      ",\"n\":%d,\"stream\":%s,\"queue_ms\":%.3f,\"ttft_ms\":%.3f,\"itl_p99_ms\":%.3f",
                      f.prompt_tokens, f.cached_tokens, f.completion_tokens, (int)f.n,
                      f.stream ? "true" : "false", f.queue_ms, f.ttft_ms, f.itl_p99_ms);
        buffer_text(&line, ",\"finish\":");
        buffer_json_text(&line, f.finish);
    }
    buffer_printf(&line, ",\"total_ms\":%.3f", clock_ms(clock_now_ns() - x->arrival_ns));
    log_event(level, buffer_string(&line));
    buffer_finish(&line);
}

static void api_done(void *context, struct exchange *x, bool complete)
{
    struct server *s = context;
    int32_t status = x->cut_status ? x->cut_status : complete ? x->reply.status : 499;
    if (!complete && !x->cut_status) {
        enum metrics_phase phase = x->streaming             ? PHASE_STREAM
                                   : x->step || x->answered ? PHASE_WAITING
                                                            : PHASE_BODY;
        atomic_fetch_add_explicit(&s->metrics.disconnects[phase], 1, memory_order_relaxed);
    }
    metrics_count_request(&s->metrics, endpoint_index(x->route), status);
    struct api_log_figures f;
    if (api_completions_figures(x, &f)) {
        int64_t none = 0;
        metrics_observe(&s->metrics, HISTOGRAM_LATENCY, (double)(clock_now_ns() - x->arrival_ns) * 1e-9);
        metrics_observe(&s->metrics, HISTOGRAM_PROMPT_TOKENS, (double)f.prompt_tokens);
        metrics_observe(&s->metrics, HISTOGRAM_GENERATION_TOKENS, (double)f.completion_tokens);
        if (f.ttft_ms > 0) {
            atomic_compare_exchange_strong(&s->first_token_ns, &none,
                                           x->arrival_ns - s->start_ns + (int64_t)(f.ttft_ms * 1e6));
        }
    }
    write_access_line(s, x, status);
}

struct http_callbacks api_callbacks(void)
{
    return (struct http_callbacks){.begin = api_begin,
                                   .run = api_run,
                                   .too_large = api_too_large,
                                   .bad_framing = api_bad_framing,
                                   .too_busy = api_too_busy,
                                   .cut = api_cut,
                                   .done = api_done};
}
