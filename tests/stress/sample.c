/* Requests that reach every branch of sampling, and answers in one form. */
#include "tests/stress/sample.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CHOICES = 16 };

uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state >> 11;
}

int32_t random_between(uint64_t *state, int32_t low, int32_t high)
{
    return low + (int32_t)(random_next(state) % (uint64_t)(high - low + 1));
}

static bool happens(uint64_t *random, int32_t percent)
{
    return random_between(random, 1, 100) <= percent;
}

#define PICK(random, list) list[random_between(random, 0, (int32_t)(sizeof list / sizeof *list) - 1)]

static void write_ids(struct buffer *out, uint64_t *random, int32_t vocab_size, int32_t n)
{
    buffer_text(out, "[");
    for (int32_t i = 0; i < n; i++) {
        buffer_printf(out, i ? ",%d" : "%d", (int)random_between(random, 1, vocab_size - 1));
    }
    buffer_text(out, "]");
}

/* Short prompts are the most frequent, long ones make the chunks of several steps. */
static int32_t random_length(uint64_t *random)
{
    int32_t kind = random_between(random, 1, 100);
    return kind <= 70   ? random_between(random, 1, 64)
           : kind <= 92 ? random_between(random, 65, 256)
                        : random_between(random, 257, 600);
}

static void write_text(struct buffer *out, uint64_t *random)
{
    static const char *const words[] = {"Once", "upon",    "a",     "time", "there",         "was",
                                        "the",  "dog",     "Lily",  "and",  "ran",           "to",
                                        "her",  "mom",     "big",   "\\n",  "said,",         ".",
                                        "\\\"", "\\u00e9", "zebra", "1945", "\\ud83d\\ude00"};
    int32_t n = random_length(random) / 4;
    buffer_text(out, "\"");
    for (int32_t i = 0; i < n; i++) {
        buffer_printf(out, i ? " %s" : "%s", PICK(random, words));
    }
    buffer_text(out, "\"");
}

static void write_prompt(struct buffer *out, uint64_t *random, int32_t vocab_size)
{
    if (happens(random, 6)) {
        buffer_text(out, "[");
        write_ids(out, random, vocab_size, random_between(random, 1, 40));
        buffer_text(out, ",");
        write_ids(out, random, vocab_size, random_between(random, 1, 40));
        buffer_text(out, "]");
    } else if (happens(random, 50)) {
        write_ids(out, random, vocab_size, random_length(random));
    } else {
        write_text(out, random);
    }
}

static void write_sampling(struct buffer *out, uint64_t *random)
{
    static const char *const temperatures[] = {"0", "0.8", "1.2"};
    static const char *const top_ps[] = {"1", "0.9", "0.5"};
    static const int top_ks[] = {0, 0, 1, 5, 40};
    static const char *const penalties[] = {"0.5", "-0.5", "1.5"};
    buffer_printf(out, ",\"temperature\":%s,\"seed\":%d", PICK(random, temperatures),
                  (int)random_between(random, 0, 1 << 30));
    if (happens(random, 40)) {
        buffer_printf(out, ",\"top_p\":%s", PICK(random, top_ps));
    }
    if (happens(random, 40)) {
        buffer_printf(out, ",\"top_k\":%d", PICK(random, top_ks));
    }
    if (happens(random, 20)) {
        buffer_text(out, ",\"min_p\":0.05");
    }
    if (happens(random, 20)) {
        buffer_text(out, ",\"repetition_penalty\":1.15");
    }
    if (happens(random, 20)) {
        buffer_printf(out, ",\"presence_penalty\":%s", PICK(random, penalties));
    }
    if (happens(random, 20)) {
        buffer_printf(out, ",\"frequency_penalty\":%s", PICK(random, penalties));
    }
    if (happens(random, 10)) {
        buffer_printf(out, ",\"logit_bias\":{\"%d\":-100,\"%d\":3.5}", (int)random_between(random, 3, 100),
                      (int)random_between(random, 101, 200));
    }
}

static bool write_ends(struct buffer *out, uint64_t *random, int32_t max_tokens)
{
    static const char *const stops[] = {"\"e\"",      "\" the\"", "\".\"",   "[\"th\",\"ing\",\"q\"]",
                                        "[\" a b\"]", "\"\\n\"",  "[\"zz\"]"};
    bool matches = happens(random, 35);
    if (matches) {
        buffer_printf(out, ",\"stop\":%s,\"include_stop_str_in_output\":%s", PICK(random, stops),
                      happens(random, 30) ? "true" : "false");
    }
    if (happens(random, 10)) {
        buffer_printf(out, ",\"stop_token_ids\":[%d,%d]", (int)random_between(random, 3, 400),
                      (int)random_between(random, 3, 400));
    }
    if (happens(random, 30)) {
        buffer_text(out, ",\"ignore_eos\":true");
    }
    if (happens(random, 10)) {
        buffer_printf(out, ",\"min_tokens\":%d", (int)random_between(random, 0, max_tokens));
    }
    return matches;
}

void sample_make(struct sample *sample, uint64_t *random, int32_t vocab_size)
{
    struct buffer body = {0};
    int32_t max_tokens =
        happens(random, 70) ? random_between(random, 1, 32) : random_between(random, 33, 100);
    int32_t n = happens(random, 70) ? 1 : random_between(random, 2, 3);
    *sample = (struct sample){.stream = happens(random, 55)};
    buffer_text(&body, "{\"prompt\":");
    write_prompt(&body, random, vocab_size);
    buffer_printf(&body, ",\"max_tokens\":%d,\"n\":%d,\"return_token_ids\":true", (int)max_tokens, (int)n);
    write_sampling(&body, random);
    sample->matches = write_ends(&body, random, max_tokens);
    if (happens(random, 40)) {
        buffer_printf(&body, ",\"logprobs\":%d", (int)random_between(random, 0, 5));
    }
    if (happens(random, 15)) {
        buffer_text(&body, ",\"echo\":true");
    }
    if (happens(random, 15)) {
        buffer_printf(&body, ",\"priority\":%d", (int)random_between(random, -3, 3));
    }
    if (!sample->stream && happens(random, 8)) {
        buffer_printf(&body, ",\"best_of\":%d", (int)n + 1);
    }
    const char *common = buffer_string(&body);
    if (asprintf(&sample->plain, "%s}", common) < 0 ||
        asprintf(&sample->wire,
                 sample->stream ? "%s,\"stream\":true,\"stream_options\":{\"include_usage\":true}}" : "%s}",
                 common) < 0) {
        abort();
    }
    buffer_finish(&body);
}

void sample_finish(struct sample *sample)
{
    free(sample->plain);
    free(sample->wire);
    free(sample->alone);
}

char *endless_request(uint64_t *random, int32_t vocab_size, int32_t n_prompt, int32_t max_tokens, int32_t n,
                      bool stream)
{
    struct buffer body = {0};
    buffer_text(&body, "{\"prompt\":");
    write_ids(&body, random, vocab_size, n_prompt);
    buffer_printf(
        &body, ",\"max_tokens\":%d,\"n\":%d,\"ignore_eos\":true,\"temperature\":1,\"seed\":1,\"stream\":%s}",
        (int)max_tokens, (int)n, stream ? "true" : "false");
    char *copy = strdup(buffer_string(&body));
    buffer_finish(&body);
    return copy;
}

/* ---- answers ---- */

struct choice_form {
    struct buffer text;
    cJSON *ids, *prompt_ids, *finish, *stop, *logprobs[4]; /* owned */
};
static const char *const logprob_keys[4] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};

struct form {
    struct choice_form choices[MAX_CHOICES];
    int32_t n_choices;
    cJSON *usage; /* owned */
    bool done;    /* [DONE] has come */
};

/* Moves the elements of an array (or a value) behind what is there. */
static void join(cJSON **all, cJSON *object, const char *key)
{
    cJSON *more = cJSON_DetachItemFromObjectCaseSensitive(object, key);
    if (!more || cJSON_IsNull(more)) {
        cJSON_Delete(more);
    } else if (!*all || !cJSON_IsArray(more)) {
        cJSON_Delete(*all);
        *all = more;
    } else {
        for (cJSON *item; (item = cJSON_DetachItemFromArray(more, 0));) {
            cJSON_AddItemToArray(*all, item);
        }
        cJSON_Delete(more);
    }
}

static const char *join_choice(struct form *form, cJSON *choice)
{
    cJSON *index = cJSON_GetObjectItemCaseSensitive(choice, "index");
    cJSON *text = cJSON_GetObjectItemCaseSensitive(choice, "text");
    cJSON *logprobs = cJSON_GetObjectItemCaseSensitive(choice, "logprobs");
    if (!cJSON_IsNumber(index) || index->valueint < 0 || index->valueint >= MAX_CHOICES ||
        !cJSON_IsString(text)) {
        return "a choice without index or text";
    }
    struct choice_form *to = &form->choices[index->valueint];
    if (to->finish) {
        return "a choice goes on after its end";
    }
    form->n_choices = index->valueint >= form->n_choices ? index->valueint + 1 : form->n_choices;
    buffer_text(&to->text, text->valuestring);
    join(&to->ids, choice, "token_ids");
    join(&to->prompt_ids, choice, "prompt_token_ids");
    join(&to->finish, choice, "finish_reason");
    join(&to->stop, choice, "stop_reason");
    for (int i = 0; i < 4; i++) {
        join(&to->logprobs[i], logprobs, logprob_keys[i]);
    }
    return NULL;
}

static const char *join_object(struct form *form, const char *text, size_t length)
{
    static const char nul[] = "\\u0000";
    const char *fault = NULL;
    char *copy = strndup(text, length);
    /* cJSON ends a text at a zero byte, which a model may well produce. */
    for (char *at = copy; at && (at = strstr(at, nul));) {
        memcpy(at, "\\u2400", sizeof nul - 1);
    }
    cJSON *root = cJSON_Parse(copy);
    free(copy);
    cJSON *choices = cJSON_GetObjectItemCaseSensitive(root, "choices"), *choice;
    if (cJSON_GetObjectItemCaseSensitive(root, "error")) {
        fault = "an error";
    } else if (!cJSON_IsArray(choices)) {
        fault = "no choices";
    }
    if (!fault) {
        cJSON_ArrayForEach(choice, choices)
        {
            fault = fault ? fault : join_choice(form, choice);
        }
        join(&form->usage, root, "usage");
    }
    cJSON_Delete(root);
    return fault;
}

static const char *join_events(struct form *form, const char *text)
{
    while (*text) {
        const char *end = strstr(text, "\n\n");
        if (!end) {
            return "an event without its end";
        }
        if (form->done) {
            return "an event after [DONE]";
        }
        if (!strncmp(text, "data: [DONE]", 12)) {
            form->done = true;
        } else if (!strncmp(text, "data: ", 6)) {
            const char *fault = join_object(form, text + 6, (size_t)(end - text) - 6);
            if (fault) {
                return fault;
            }
        } else if (strncmp(text, ": ping\n\n", 8) != 0) {
            return "an event that is neither data nor ping";
        }
        text = end + 2;
    }
    return form->done ? NULL : "a stream without [DONE]";
}

static void print_value(struct buffer *out, const char *name, const cJSON *value)
{
    char *text = value ? cJSON_PrintUnformatted(value) : NULL;
    buffer_printf(out, " %s %s\n", name, text ? text : "-");
    free(text);
}

static bool is_event_stream(struct answer *answer)
{
    const char *type = answer_header(answer, "Content-Type");
    return type && !strncmp(type, "text/event-stream", 17);
}

char *answer_form(struct answer *answer, const char **fault)
{
    struct form form = {0};
    struct buffer out = {0};
    const char *body = buffer_string(&answer->body);
    char *copy = NULL;
    *fault = !answer->complete         ? answer->fault ? answer->fault : "not complete"
             : answer->status != 200   ? "a status that is not 200"
             : is_event_stream(answer) ? join_events(&form, body)
                                       : join_object(&form, body, answer->body.length);
    if (!*fault && !form.usage) {
        *fault = "no usage";
    }
    for (int32_t i = 0; i < form.n_choices; i++) {
        struct choice_form *c = &form.choices[i];
        if (!c->finish && !*fault) {
            *fault = "a choice without its end";
        }
        buffer_printf(&out, "%d: ", (int)i);
        buffer_json_string(&out, c->text.length ? c->text.data : "", c->text.length);
        print_value(&out, "prompt", c->prompt_ids);
        print_value(&out, "ids", c->ids);
        print_value(&out, "finish", c->finish);
        print_value(&out, "stop", c->stop);
        for (int k = 0; k < 4; k++) {
            print_value(&out, logprob_keys[k], c->logprobs[k]);
            cJSON_Delete(c->logprobs[k]);
        }
        buffer_finish(&c->text);
        cJSON_Delete(c->ids);
        cJSON_Delete(c->prompt_ids);
        cJSON_Delete(c->finish);
        cJSON_Delete(c->stop);
    }
    print_value(&out, "usage", form.usage);
    cJSON_Delete(form.usage);
    if (!*fault) {
        copy = strdup(buffer_string(&out));
    }
    buffer_finish(&out);
    return copy;
}

void answer_error_code(struct answer *answer, char *code, size_t size)
{
    const char *body = buffer_string(&answer->body), *last = body;
    for (const char *at = body; (at = strstr(at, "{\"error\":")); at++) {
        last = at;
    }
    cJSON *root = cJSON_ParseWithOpts(last, NULL, false);
    cJSON *error = cJSON_GetObjectItemCaseSensitive(root, "error");
    cJSON *value = cJSON_GetObjectItemCaseSensitive(error, "code");
    snprintf(code, size, "%s", cJSON_IsString(value) ? value->valuestring : "");
    cJSON_Delete(root);
}
