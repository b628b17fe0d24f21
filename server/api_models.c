/* GET /v1/models and /v1/models/{id}. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "server/api.h"

static void write_model(struct buffer *out, const struct server *s, const char *name)
{
    const struct engine_info *info = engine_get_info(s->engine);
    buffer_text(out, "{\"id\":");
    buffer_json_text(out, name);
    buffer_printf(out,
                  ",\"object\":\"model\",\"created\":%" PRId64 ",\"owned_by\":\"any4\",\"max_model_len\":%d,"
                  "\"n_params\":%" PRId64 ",\"vocab_size\":%d,\"quantization\":",
                  s->created, (int)info->max_model_len, info->n_params, (int)info->config.vocab_size);
    buffer_json_text(out, quant_method_name(info->method));
    buffer_text(out, "}");
}

enum exchange_step api_models(struct server *s, struct exchange *x)
{
    buffer_text(&x->reply.body, "{\"object\":\"list\",\"data\":[");
    for (int32_t i = 0; i < s->model_names.n; i++) {
        buffer_text(&x->reply.body, i ? "," : "");
        write_model(&x->reply.body, s, s->model_names.parts[i]);
    }
    buffer_text(&x->reply.body, "]}");
    return api_reply_json(x, 200);
}

enum exchange_step api_model(struct server *s, struct exchange *x)
{
    struct api_error error;
    char *name = api_route_argument(x);
    for (int32_t i = 0; name && i < s->model_names.n; i++) {
        if (!strcmp(name, s->model_names.parts[i])) {
            write_model(&x->reply.body, s, s->model_names.parts[i]);
            free(name);
            return api_reply_json(x, 200);
        }
    }
    api_fail(&error, API_MODEL_NOT_FOUND, "model",
             "model \"%.200s\" is not served here; this server has \"%.200s\"", name ? name : "",
             s->model_names.parts[0]);
    free(name);
    return api_reply_error(s, x, &error);
}
