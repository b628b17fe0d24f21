/* Malformed models: each refused with file and reason, and none of them reaches libsentencepiece. What a
 * comment calls "ends the process" or "reads outside" is what libsentencepiece 0.1.97 does with that model.
 */
#include <criterion/criterion.h>
#include <math.h>

#include "tests/tokenizer/folder.h"
#include "tests/tokenizer/tiny_model.h"
#include "tokenizer/tokenizer.h"

static struct proto *proto_new(void)
{
    struct proto *p = calloc(1, sizeof *p);
    cr_assert_not_null(p);
    return p;
}

/* Takes p. words NULL: must be accepted. */
static void expect(struct proto *p, const char *words)
{
    struct tokenizer *t;
    struct error err = {0};
    enum status status = tokenizer_open_model(&t, p->bytes, p->n_bytes, "some/tokenizer.model", &err);
    if (words) {
        cr_expect_eq(status, STATUS_BAD_MODEL, "expected '%s', got '%s'", words, err.message);
        cr_expect(strstr(err.message, words) && strstr(err.message, "some/tokenizer.model"),
                  "'%s' lacks '%s'", err.message, words);
        cr_expect_null(t);
    } else {
        cr_expect_eq(status, STATUS_OK, "%s", err.message);
    }
    tokenizer_close(t);
    free(p);
}

static struct proto *tiny_and_piece(const char *text, size_t n_bytes, float score, int type)
{
    struct proto *p = proto_new();
    tiny_model(p);
    proto_piece(p, text, n_bytes, score, type);
    return p;
}

Test(model_check, pieces)
{
    static char longest[1025];
    memset(longest, 'x', sizeof longest);
    expect(tiny_and_piece("new", 3, -1, 1), NULL);
    expect(tiny_and_piece(longest, 1024, -1, 1), NULL);
    expect(tiny_and_piece(longest, 1025, -1, 1), "piece 273 is longer than 1024");
    expect(tiny_and_piece("", 0, -1, 1), "piece 273 is empty");
    expect(tiny_and_piece("abc", 3, -1, 1), "piece 273 stands in the vocabulary twice");
    expect(tiny_and_piece("<s>", 3, -1, 1), "in the vocabulary twice");
    expect(tiny_and_piece("a\0b", 3, -1, 1), "not UTF-8 text without NUL"); /* throws inside the library */
    expect(tiny_and_piece("\xff", 1, -1, 1), "not UTF-8");
    expect(tiny_and_piece("\xe2\x96", 2, -1, 1), "not UTF-8");
    expect(tiny_and_piece("new", 3, NAN, 1), "score");
    expect(tiny_and_piece("new", 3, -INFINITY, 1), "score");
    expect(tiny_and_piece("new", 3, 3e38f, 1), "score");
    expect(tiny_and_piece("new", 3, 0, 2), "more than one piece of type UNKNOWN");
    expect(tiny_and_piece("new", 3, 0, 7), "unknown type");
    expect(tiny_and_piece("new", 3, 0, 0), "unknown type");
    expect(tiny_and_piece("<0xg0>", 6, 0, 6), "of type BYTE but not spelled");
}

Test(model_check, vocabulary)
{
    struct proto *p = proto_new();
    expect(p, "no pieces");
    p = proto_new();
    proto_piece(p, "a", 1, 0, 1);
    expect(p, "no piece of type UNKNOWN");
    p = proto_new();
    tiny_special_pieces(p);
    expect(p, "no text pieces");
    p = proto_new();
    tiny_special_pieces(p);
    tiny_text_pieces(p);
    expect(p, NULL); /* unigram, no byte fallback: the defaults of the format */
    p = proto_new();
    tiny_special_pieces(p);
    tiny_text_pieces(p);
    tiny_specs(p);
    expect(p, "256 byte pieces are not there");
    p = proto_new();
    tiny_special_pieces(p);
    tiny_text_pieces(p);
    tiny_byte_pieces(p);
    expect(p, "byte pieces without byte_fallback");
}

/* With 65 user-defined symbols that begin one another the library reads outside a table of 64. */
Test(model_check, nested_user_symbols)
{
    char text[66];
    memset(text, 'x', sizeof text);
    for (int n_symbols = 64; n_symbols <= 65; n_symbols++) {
        struct proto *p = proto_new();
        tiny_model(p);
        for (int i = 1; i <= n_symbols; i++) {
            proto_piece(p, text, (size_t)i, 0, 4);
        }
        expect(p, n_symbols == 64 ? NULL : "other user-defined symbols");
    }
}

Test(model_check, wire)
{
    struct proto *p = proto_new();
    tiny_model(p);
    proto_int(p, 1, 5);
    expect(p, "ModelProto field 1 is not a message");
    p = proto_new();
    tiny_model(p);
    proto_varint(p, 9 << 3 | 3); /* a group */
    expect(p, "field 9");
    p = proto_new();
    tiny_model(p);
    proto_varint(p, 0);
    expect(p, "broken field tag");
    p = proto_new();
    tiny_model(p);
    memset(p->bytes + p->n_bytes, 0xff, 11);
    p->n_bytes += 11;
    expect(p, "broken field tag");
    p = proto_new();
    tiny_model(p);
    proto_varint(p, 1 << 3 | 2);
    proto_varint(p, UINT64_MAX); /* a length that would overflow a pointer */
    expect(p, "field 1 is cut off");
    p = proto_new();
    tiny_model(p);
    tiny_specs(p);
    expect(p, "trainer_spec stands twice");
    p = proto_new();
    tiny_model(p);
    proto_int(p, 77, 1); /* unknown fields are the format's way to grow */
    proto_bytes(p, 200, "x", 1);
    expect(p, NULL);
}

static struct proto *model_with(uint32_t number, const struct proto *message)
{
    struct proto *p = proto_new();
    tiny_special_pieces(p);
    tiny_text_pieces(p);
    proto_bytes(p, number, message->bytes, message->n_bytes);
    return p;
}

static void expect_int(uint32_t message_number, uint32_t number, uint64_t value, const char *words)
{
    struct proto *message = proto_new();
    proto_int(message, number, value);
    expect(model_with(message_number, message), words);
    free(message);
}

static void expect_bytes(uint32_t message_number, uint32_t number, const void *bytes, size_t n_bytes,
                         const char *words)
{
    struct proto *message = proto_new();
    proto_bytes(message, number, bytes, n_bytes);
    expect(model_with(message_number, message), words);
    free(message);
}

Test(model_check, specs)
{
    static const char zeros[1000];
    expect_int(2, 3, 1, NULL);
    expect_int(2, 3, 3, "model_type is neither UNIGRAM nor BPE");
    expect_int(2, 3, 1u << 20, "model_type");
    expect_int(2, 24, 1, "treat_whitespace_as_suffix");
    expect_int(2, 44, 1, "TrainerSpec field 44 is not a string");
    expect_bytes(2, 3, "", 0, "TrainerSpec field 3 is not an integer");
    expect_bytes(2, 44, zeros, 65, "TrainerSpec field 44 is too long");
    expect_bytes(2, 46, "\xff", 1, "TrainerSpec field 46 is not UTF-8");
    expect_int(3, 2, 1, "NormalizerSpec field 2 is of a wrong type");
    expect_bytes(5, 2, "x", 1, "denormalizer");
    expect_int(4, 1, 1, "self_test_data field 1");
    expect_bytes(4, 1, zeros, sizeof zeros, "broken field tag");
}

/* ---- the normalizer's double array: the library checks nothing in it ---- */

struct charsmap {
    uint32_t trie_bytes;
    uint32_t units[512];
    char replacements[300];
};

enum { LEAF = 1 << 8 };

/* One rule, 'a' -> "b". Unit 0 has offset 256, so its children lie at 256 ^ byte; the unit of 'a' has offset
 * 256 too: its value lies at (256 ^ 'a') ^ 256 = 'a', and its children at 'a' ^ byte. */
static struct charsmap charsmap_one_rule(void)
{
    struct charsmap map = {.trie_bytes = sizeof map.units};
    for (uint32_t i = 0; i < sizeof map.units / sizeof *map.units; i++) {
        map.units[i] = 1u << 31; /* no label: fits nowhere */
    }
    map.units[0] = 256u << 10;
    map.units[256 ^ 'a'] = 256u << 10 | LEAF | 'a';
    memcpy(map.replacements, "b", 2);
    return map;
}

static void expect_charsmap(const struct charsmap *map, size_t n_bytes, const char *words)
{
    expect_bytes(3, 2, map, n_bytes, words);
}

Test(model_check, charsmap)
{
    struct charsmap map = charsmap_one_rule();
    expect_charsmap(&map, sizeof map, NULL);
    for (size_t n_bytes = 1; n_bytes < 5; n_bytes++) {
        expect_charsmap(&map, n_bytes, "is cut off");
    }
    expect_charsmap(&map, 4 + sizeof map.units, "is cut off");
    map.trie_bytes = UINT32_MAX;
    expect_charsmap(&map, sizeof map, "is cut off");
    map.trie_bytes = sizeof map - 4;
    expect_charsmap(&map, sizeof map, "is cut off");
    map = charsmap_one_rule();
    map.replacements[sizeof map.replacements - 1] = 'x';
    expect_charsmap(&map, sizeof map, "is cut off"); /* no NUL at the end */
    map = charsmap_one_rule();
    map.units[0] = 512u << 10;
    expect_charsmap(&map, sizeof map, "leads outside its trie");
    map = charsmap_one_rule();
    map.units[256 ^ 'a'] = 0x1fffffu << 10 | 1u << 9 | 'a';
    expect_charsmap(&map, sizeof map, "leads outside its trie");
    map = charsmap_one_rule();
    map.units['a'] = 1u << 31 | 300;
    expect_charsmap(&map, sizeof map, "points outside its replacements");
    map = charsmap_one_rule();
    memset(map.replacements, 'b', 257);
    expect_charsmap(&map, sizeof map, "longer than 256 bytes");
    map = charsmap_one_rule();
    map.units['a' ^ 'b'] = ('a' ^ 'b' ^ 256u) << 10 | 'b'; /* "ab": back to the first unit's children */
    expect_charsmap(&map, sizeof map, "cycle");
}

Test(model_check, charsmap_is_used)
{
    struct charsmap map = charsmap_one_rule();
    struct proto *message = proto_new(), *p;
    struct tokenizer *t;
    char *text;
    int32_t *ids, n_ids;
    size_t length;
    proto_bytes(message, 2, &map, sizeof map);
    p = model_with(3, message);
    cr_assert_eq(tokenizer_open_model(&t, p->bytes, p->n_bytes, "tiny", NULL), STATUS_OK);
    cr_assert_eq(tokenizer_encode(t, "ca", 2, false, &ids, &n_ids, NULL), STATUS_OK);
    cr_assert_eq(tokenizer_decode(t, ids, n_ids, &text, &length, NULL), STATUS_OK);
    cr_expect_str_eq(text, "cb");
    free(text);
    free(ids);
    tokenizer_close(t);
    free(p);
    free(message);
}

/* Every truncation and many byte flips of a whole model: refused with the path named, or a tokenizer that
 * works. */
Test(model_check, damaged, .timeout = 120)
{
    struct proto *model = proto_new();
    tiny_model(model);
    struct error err = {0};
    struct tokenizer *t;
    int n_accepted = 0;
    for (size_t n_bytes = 0; n_bytes < model->n_bytes; n_bytes += n_bytes < model->n_bytes - 600 ? 7 : 1) {
        enum status status = tokenizer_open_model(&t, model->bytes, n_bytes, "cut", &err);
        cr_expect(!status == !!t && (!status || strstr(err.message, "cut")));
        tokenizer_close(t);
    }
    uint32_t random = 1;
    for (int run = 0; run < 3000; run++) {
        random = random * 1664525u + 1013904223u;
        size_t at = (random >> 8) % model->n_bytes;
        uint8_t old = model->bytes[at];
        model->bytes[at] = (uint8_t)(old ^ (1u << (random & 7)));
        enum status status = tokenizer_open_model(&t, model->bytes, model->n_bytes, "flipped", &err);
        cr_expect(!status == !!t && (!status || strstr(err.message, "flipped")));
        if (t) {
            int32_t *ids, n_ids;
            n_accepted++;
            cr_expect_eq(tokenizer_encode(t, "abc cab \xc3\xa9", 10, true, &ids, &n_ids, NULL), STATUS_OK);
            free(ids);
        }
        tokenizer_close(t);
        model->bytes[at] = old;
    }
    cr_expect_gt(n_accepted, 0);
    free(model);
}
