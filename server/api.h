/* The endpoints: one table of routes, the checks that come before any handler, and what handlers share. */
#ifndef SERVER_API_H
#define SERVER_API_H

#include "server/api_error.h"
#include "server/http.h"
#include "server/server.h"

enum {
    METHOD_GET = 1 << 0, /* HEAD with it */
    METHOD_POST = 1 << 1,
    METHOD_DELETE = 1 << 2,
};

struct route {
    const char *path;     /* ends in '/' when a name follows: /v1/models/ */
    const char *endpoint; /* label of metrics and logs */
    unsigned methods;
    bool needs_key;
    bool needs_model; /* 503 while loading */
    bool adds_work;   /* 503 while draining, 429 when the queue is full */
    bool quiet;       /* logged at debug */
    enum exchange_step (*handle)(struct server *s, struct exchange *x);
};

/* The callbacks for http_options; their context is the server. */
struct http_callbacks api_callbacks(void);

/* Settle the reply. */
enum exchange_step api_reply_error(struct server *s, struct exchange *x, const struct api_error *error);
enum exchange_step api_reply_json(struct exchange *x, int32_t status); /* the body is written already */

/* The body as a JSON tree, or an error reply (false). Caller deletes *root. */
bool api_parse_body(struct server *s, struct exchange *x, cJSON **root, struct api_error *error);

/* Endpoint labels in the order of metrics. */
const char *const *api_endpoints(int32_t *n);

/* Figures of a completion for the access line; kept in the exchange's job. */
struct api_log_figures {
    int64_t prompt_tokens, cached_tokens, completion_tokens;
    int32_t n;
    bool stream;
    double queue_ms, ttft_ms, itl_p99_ms;
    const char *finish;
};
bool api_completions_figures(const struct exchange *x, struct api_log_figures *out);

/* Answers with what a request, read by parse, makes the engine generate. */
typedef enum api_code request_parse_fn(struct completion_request *request, cJSON *root,
                                       const struct request_rules *rules, struct api_error *error);
enum exchange_step api_start_completion(struct server *s, struct exchange *x, request_parse_fn *parse);

/* For endpoints that answer at once: the model field of a request, and the reply when error is settled. */
struct fields;
void api_check_model(struct fields *f, const struct server *s);
enum exchange_step api_reply_with(struct server *s, struct exchange *x, struct api_error *error,
                                  struct buffer *ignored);

/* Handlers, by file. */
enum exchange_step api_completions(struct server *s, struct exchange *x);
enum exchange_step api_chat(struct server *s, struct exchange *x);
enum exchange_step api_apply_template(struct server *s, struct exchange *x);
enum exchange_step api_models(struct server *s, struct exchange *x);
enum exchange_step api_model(struct server *s, struct exchange *x);
enum exchange_step api_quantization(struct server *s, struct exchange *x);
enum exchange_step api_tokenize(struct server *s, struct exchange *x);
enum exchange_step api_detokenize(struct server *s, struct exchange *x);
enum exchange_step api_health(struct server *s, struct exchange *x);
enum exchange_step api_livez(struct server *s, struct exchange *x);
enum exchange_step api_metrics(struct server *s, struct exchange *x);
enum exchange_step api_version(struct server *s, struct exchange *x);

/* What follows the route's path, unescaped; NULL when that is no text. Caller frees. */
char *api_route_argument(const struct exchange *x);

void api_write_version(struct buffer *out, const struct engine_info *info); /* info may be NULL */

#endif
