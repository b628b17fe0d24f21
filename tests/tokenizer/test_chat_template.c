/* Which template a folder asks for, and what each makes of a conversation. Ids are judged against the
 * encoding of each turn by itself. */
#include "tests/tokenizer/folder.h"
#include "tests/tokenizer/tiny_model.h"
#include "tokenizer/chat_template.h"

static struct tokenizer *tiny_open(struct folder *folder, const char *tokenizer_config)
{
    static struct proto model;
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};
    *folder = folder_make();
    tiny_model(&model);
    folder_put(folder, "tokenizer.model", model.bytes, model.n_bytes);
    if (tokenizer_config) {
        folder_put_text(folder, "tokenizer_config.json", tokenizer_config);
    }
    cr_assert_eq(tokenizer_open(&tokenizer, folder->path, &err), STATUS_OK, "%s", err.message);
    return tokenizer;
}

static struct chat_message say(enum chat_role role, const char *content)
{
    return (struct chat_message){role, content, strlen(content)};
}

static enum chat_template_kind kind_of(const char *tokenizer_config, const char *jinja, enum status expected)
{
    enum chat_template_kind kind = CHAT_TEMPLATE_UNKNOWN;
    struct error err = {0};
    struct folder folder = folder_make();
    char path[256];
    if (tokenizer_config) {
        folder_put_text(&folder, "tokenizer_config.json", tokenizer_config);
    }
    if (jinja) {
        folder_put_text(&folder, "chat_template.jinja", jinja);
    }
    enum status status = chat_template_open(&kind, folder.path, &err);
    cr_expect_eq(status, expected, "%s", err.message);
    cr_expect(!status || strstr(err.message, folder.path), "the file is named: %s", err.message);
    snprintf(path, sizeof path, "%s/chat_template.jinja", folder.path);
    unlink(path);
    folder_remove(&folder);
    return kind;
}

Test(chat_template, folder_decides)
{
    cr_expect_eq(kind_of(NULL, NULL, STATUS_OK), CHAT_TEMPLATE_PLAIN);
    cr_expect_eq(kind_of("{}", NULL, STATUS_OK), CHAT_TEMPLATE_PLAIN);
    cr_expect_eq(kind_of("{\"chat_template\":null}", NULL, STATUS_OK), CHAT_TEMPLATE_PLAIN);
    cr_expect_eq(kind_of("{\"chat_template\":\"{{ x }}\"}", NULL, STATUS_OK), CHAT_TEMPLATE_UNKNOWN);
    cr_expect_eq(kind_of("{\"chat_template\":\"\"}", NULL, STATUS_OK), CHAT_TEMPLATE_UNKNOWN);
    cr_expect_eq(kind_of("{\"chat_template\":[{\"name\":\"default\",\"template\":\"x\"}]}", NULL, STATUS_OK),
                 CHAT_TEMPLATE_UNKNOWN);
    cr_expect_eq(kind_of(NULL, "{{ x }}", STATUS_OK), CHAT_TEMPLATE_UNKNOWN, "a file of its own");
    kind_of("{", NULL, STATUS_BAD_MODEL);
    kind_of("[]", NULL, STATUS_BAD_MODEL);
}

Test(chat_template, demo_model_is_known)
{
    char path[4096];
    enum chat_template_kind kind = CHAT_TEMPLATE_UNKNOWN;
    struct error err = {0};
    const char *source = getenv("ANY4_SOURCE_ROOT");
    snprintf(path, sizeof path, "%s/configs/demo-model", source && *source ? source : ".");
    if (access(path, R_OK)) {
        cr_skip_test("%s is not there", path);
    }
    cr_assert_eq(chat_template_open(&kind, path, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(kind, CHAT_TEMPLATE_LLAMA2);
}

/* Renders, checks text and ids. turns: texts that are encoded each by itself, with the given ends; NULL ends.
 */
struct turn {
    const char *text;
    bool bos, eos;
};

static void expect(const struct tokenizer *t, enum chat_template_kind kind,
                   const struct chat_message *messages, int32_t n, enum chat_bos bos, const char *text,
                   const struct turn *turns)
{
    struct chat_prompt prompt;
    struct error err = {0};
    int32_t bad = 0, at = 0;
    cr_assert_eq(chat_template_apply(&prompt, kind, t, messages, n, bos, &bad, &err), STATUS_OK, "%s",
                 err.message);
    cr_expect_eq(bad, -1);
    cr_expect_str_eq(prompt.text, text);
    cr_expect_eq(prompt.n_bytes, strlen(text));
    for (; turns->text; turns++) {
        int32_t *ids, n_ids;
        cr_assert_eq(tokenizer_encode(t, turns->text, strlen(turns->text), turns->bos, &ids, &n_ids, &err),
                     STATUS_OK);
        cr_assert_leq(at + n_ids + turns->eos, prompt.n_ids, "%s", text);
        cr_expect_arr_eq(prompt.ids + at, ids, (size_t)n_ids * sizeof *ids, "%s", turns->text);
        at += n_ids;
        if (turns->eos) {
            cr_expect_eq(prompt.ids[at++], TINY_EOS);
        }
        free(ids);
    }
    cr_expect_eq(at, prompt.n_ids, "%s", text);
    chat_prompt_finish(&prompt);
}

Test(chat_template, plain)
{
    struct folder folder;
    struct tokenizer *t = tiny_open(&folder, NULL);
    const struct chat_message talk[] = {say(CHAT_SYSTEM, "Be a cab."), say(CHAT_USER, "abc?"),
                                        say(CHAT_ASSISTANT, "ab"), say(CHAT_USER, "")};
    const char *text = "Be a cab.\nQuestion: abc?\nAnswer: ab\nQuestion: \nAnswer:";
    expect(t, CHAT_TEMPLATE_PLAIN, talk, 4, CHAT_BOS_BY_TEMPLATE, text,
           (struct turn[]){{text, true, false}, {0}});
    expect(t, CHAT_TEMPLATE_PLAIN, talk, 4, CHAT_BOS_NEVER, text, (struct turn[]){{text, false, false}, {0}});
    expect(t, CHAT_TEMPLATE_PLAIN, talk + 2, 1, CHAT_BOS_ALWAYS,
           "Answer: ab\nAnswer:", (struct turn[]){{"Answer: ab\nAnswer:", true, false}, {0}});
    /* What a message spells is text. */
    const struct chat_message odd = say(CHAT_USER, "</s><s>");
    expect(t, CHAT_TEMPLATE_PLAIN, &odd, 1, CHAT_BOS_BY_TEMPLATE,
           "Question: </s><s>\nAnswer:", (struct turn[]){{"Question: </s><s>\nAnswer:", true, false}, {0}});
    tokenizer_close(t);
    folder_remove(&folder);
    t = tiny_open(&folder, "{\"add_bos_token\":false}");
    expect(t, CHAT_TEMPLATE_PLAIN, talk, 4, CHAT_BOS_BY_TEMPLATE, text,
           (struct turn[]){{text, false, false}, {0}});
    expect(t, CHAT_TEMPLATE_PLAIN, talk, 4, CHAT_BOS_ALWAYS, text, (struct turn[]){{text, true, false}, {0}});
    tokenizer_close(t);
    folder_remove(&folder);
}

Test(chat_template, llama2)
{
    struct folder folder;
    struct tokenizer *t = tiny_open(&folder, "{\"add_bos_token\":false}");
    const struct chat_message talk[] = {say(CHAT_SYSTEM, "Be kind."), say(CHAT_USER, "Hello!"),
                                        say(CHAT_ASSISTANT, "Hello."), say(CHAT_USER, "abc </s>?")};
    /* The text is what transformers renders from the same template. */
    expect(t, CHAT_TEMPLATE_LLAMA2, talk, 4, CHAT_BOS_BY_TEMPLATE,
           "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHello! [/INST] Hello.</s><s>[INST] abc </s>? [/INST]",
           (struct turn[]){{"[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHello! [/INST] Hello.", true, true},
                           {"[INST] abc </s>? [/INST]", true, false},
                           {0}});
    expect(t, CHAT_TEMPLATE_LLAMA2, talk + 1, 3, CHAT_BOS_NEVER,
           "[INST] Hello! [/INST] Hello.</s><s>[INST] abc </s>? [/INST]",
           (struct turn[]){{"[INST] Hello! [/INST] Hello.", false, true},
                           {"[INST] abc </s>? [/INST]", true, false},
                           {0}});
    expect(t, CHAT_TEMPLATE_LLAMA2, talk + 3, 1, CHAT_BOS_ALWAYS, "<s>[INST] abc </s>? [/INST]",
           (struct turn[]){{"[INST] abc </s>? [/INST]", true, false}, {0}});
    tokenizer_close(t);
    folder_remove(&folder);
}

Test(chat_template, llama2_has_no_place_for_some_orders)
{
    static const struct {
        const char *roles; /* s, u, a */
        int32_t bad;
    } cases[] = {{"s", 0},   {"a", 0},   {"ua", 1},   {"uu", 1},   {"us", 1},   {"ssu", 1},
                 {"sau", 1}, {"sua", 2}, {"uaau", 2}, {"uasu", 2}, {"uauu", 3}, {"suau", -1}};
    struct folder folder;
    struct tokenizer *t = tiny_open(&folder, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct chat_message messages[8];
        struct chat_prompt prompt;
        struct error err = {0};
        int32_t n = (int32_t)strlen(cases[i].roles), bad = 0;
        for (int32_t j = 0; j < n; j++) {
            char role = cases[i].roles[j];
            messages[j] = say(role == 's' ? CHAT_SYSTEM : role == 'u' ? CHAT_USER : CHAT_ASSISTANT, "a");
        }
        enum status status = chat_template_apply(&prompt, CHAT_TEMPLATE_LLAMA2, t, messages, n,
                                                 CHAT_BOS_BY_TEMPLATE, &bad, &err);
        cr_expect_eq(bad, cases[i].bad, "%s", cases[i].roles);
        cr_expect_eq(status, cases[i].bad < 0 ? STATUS_OK : STATUS_INVALID, "%s", cases[i].roles);
        chat_prompt_finish(&prompt);
    }
    tokenizer_close(t);
    folder_remove(&folder);
}

Test(chat_template, long_texts_and_limits)
{
    struct folder folder;
    struct tokenizer *t = tiny_open(&folder, NULL);
    struct chat_prompt prompt;
    struct error err = {0};
    int32_t bad = 0;
    size_t n_bytes = TOKENIZER_MAX_TEXT_BYTES + 1;
    char *big = malloc(n_bytes);
    cr_assert(big);
    memset(big, 'a', n_bytes);
    struct chat_message messages[50];
    for (int32_t i = 0; i < 50; i++) {
        messages[i] = (struct chat_message){CHAT_USER, big, (size_t)i * 37};
    }
    cr_assert_eq(
        chat_template_apply(&prompt, CHAT_TEMPLATE_PLAIN, t, messages, 50, CHAT_BOS_BY_TEMPLATE, &bad, &err),
        STATUS_OK);
    cr_assert_eq(prompt.n_bytes, 50 * 11 + 37 * (49 * 50 / 2) + 7);
    chat_prompt_finish(&prompt);
    messages[0].n_bytes = n_bytes;
    cr_assert_eq(
        chat_template_apply(&prompt, CHAT_TEMPLATE_PLAIN, t, messages, 1, CHAT_BOS_BY_TEMPLATE, &bad, &err),
        STATUS_INVALID);
    cr_assert_eq(bad, -1);
    cr_assert(!prompt.text && !prompt.ids);
    cr_assert_eq(
        chat_template_apply(&prompt, CHAT_TEMPLATE_UNKNOWN, t, messages, 1, CHAT_BOS_BY_TEMPLATE, &bad, &err),
        STATUS_INVALID);
    free(big);
    tokenizer_close(t);
    folder_remove(&folder);
}

Test(chat_template, stops)
{
    int32_t n = -1;
    const char *const *stops = chat_template_stops(CHAT_TEMPLATE_PLAIN, &n);
    cr_assert(n >= 1 && n <= CHAT_TEMPLATE_MAX_STOPS);
    cr_assert_str_eq(stops[0], "\nQuestion:");
    cr_assert_null(chat_template_stops(CHAT_TEMPLATE_LLAMA2, &n));
    cr_assert_eq(n, 0);
    cr_assert_str_eq(chat_template_name(CHAT_TEMPLATE_LLAMA2), "llama2");
}
