/* GET /health, /readyz, /livez, /metrics and /version. They read counters only: nothing here waits for the
 * engine. */
#include "server/api.h"
#include "server/version.h"

/* Why the process is of no use any more, or NULL. */
static const char *fault_of(const struct server *s)
{
    struct engine_stats stats;
    if (!atomic_load(&s->ready)) {
        return NULL;
    }
    engine_get_stats(s->engine, &stats);
    return stats.device_failed                                      ? "device failed"
           : stats.last_step_age_seconds > s->config->stall_timeout ? "stalled"
                                                                    : NULL;
}

enum exchange_step api_health(struct server *s, struct exchange *x)
{
    const char *status = atomic_load(&s->draining) ? "draining"
                         : !atomic_load(&s->ready) ? "loading"
                                                   : fault_of(s);
    buffer_printf(&x->reply.body, "{\"status\":\"%s\"}", status ? status : "ok");
    if (status) {
        reply_header(&x->reply, "Retry-After", "1");
    }
    return api_reply_json(x, status ? 503 : 200);
}

enum exchange_step api_livez(struct server *s, struct exchange *x)
{
    const char *fault = fault_of(s);
    buffer_printf(&x->reply.body, "{\"status\":\"%s\"}", fault ? fault : "ok");
    return api_reply_json(x, fault ? 503 : 200);
}

enum exchange_step api_metrics(struct server *s, struct exchange *x)
{
    struct engine_stats stats;
    bool ready = atomic_load(&s->ready), draining = atomic_load(&s->draining);
    if (ready) {
        engine_get_stats(s->engine, &stats);
    }
    struct metrics_view view = {.model = s->model_names.parts[0],
                                .version = ANY4_VERSION,
                                .commit = ANY4_COMMIT,
                                .stats = ready ? &stats : NULL,
                                .info = ready ? engine_get_info(s->engine) : NULL,
                                .connections = s->http ? http_n_connections(s->http) : 0,
                                .ready = ready && !draining,
                                .draining = draining,
                                .load_seconds = s->load_seconds,
                                .first_token_seconds = (double)atomic_load(&s->first_token_ns) * 1e-9};
    view.endpoints = api_endpoints(&view.n_endpoints);
    metrics_write(&x->reply.body, &s->metrics, &view);
    x->reply.status = 200;
    x->reply.content_type = "text/plain; version=0.0.4; charset=utf-8";
    return EXCHANGE_REPLY;
}

void api_write_version(struct buffer *out, const struct engine_info *info)
{
    buffer_text(out, "{\"version\":\"" ANY4_VERSION "\",\"commit\":\"" ANY4_COMMIT "\",\"compiler\":");
    buffer_json_text(out, __VERSION__);
    buffer_text(out, ",\"kernels\":");
    buffer_json_text(out, info ? info->kernels : NULL);
    buffer_text(out, ",\"api_level\":1}");
}

enum exchange_step api_version(struct server *s, struct exchange *x)
{
    api_write_version(&x->reply.body, atomic_load(&s->ready) ? engine_get_info(s->engine) : NULL);
    return api_reply_json(x, 200);
}
