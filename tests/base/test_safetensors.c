/* The safetensors reader on files built here: good ones, every malformed kind, random flips. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/float16.h"
#include "engine/base/safetensors.h"
#include "tests/fixtures.h"

static char folder[64], path[512];
static struct error err;

static void make_folder(void)
{
    strcpy(folder, "/tmp/any4-st-XXXXXX");
    cr_assert(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
}

static void remove_folder(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert_eq(system(command), 0);
}

static void write_bytes(const char *file, const void *bytes, size_t n)
{
    FILE *f = fopen(file, "wb");
    cr_assert(f && fwrite(bytes, 1, n, f) == n);
    fclose(f);
}

/* Length word, header, n_data bytes counting upward. */
static void write_file(const char *file, const char *header, size_t n_data)
{
    size_t n_header = strlen(header), n = 8 + n_header + n_data;
    unsigned char *bytes = malloc(n);
    for (int i = 0; i < 8; i++) {
        bytes[i] = (unsigned char)((uint64_t)n_header >> 8 * i);
    }
    memcpy(bytes + 8, header, n_header);
    for (size_t i = 0; i < n_data; i++) {
        bytes[8 + n_header + i] = (unsigned char)i;
    }
    write_bytes(file, bytes, n);
    free(bytes);
}

TestSuite(safetensors, .init = make_folder, .fini = remove_folder, .timeout = 120);

Test(safetensors, reads_tensors)
{
    struct safetensors *st;
    write_file(path,
               "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_"
               "offsets\":[1,9]},"
               "\"a\":{\"shape\":[1],\"data_offsets\":[0,1],\"dtype\":\"U8\"},"
               "\"c\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[9,9]},\"d\":{\"dtype\":\"F16\","
               "\"shape\":[],\"data_offsets\":[9,11]}}  ",
               11);
    cr_assert_eq(safetensors_open_folder(&st, folder, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(safetensors_n_tensors(st), 4);
    const struct tensor *b = safetensors_find(st, "b"), *c = safetensors_find(st, "c"),
                        *d = safetensors_find(st, "d");
    cr_assert(b && b == safetensors_at(st, 1) && b->n_dims == 2 && b->shape[0] == 2 && b->n_elements == 4 &&
              b->n_bytes == 8);
    cr_assert(b->dtype == DTYPE_BF16 && strcmp(b->path, path) == 0 && *(const unsigned char *)b->data == 1);
    cr_assert(c && c->n_elements == 0 && d && d->n_elements == 1 && d->n_dims == 0);
    cr_assert_eq(safetensors_at(st, 0)->dtype, DTYPE_OTHER);
    cr_assert_str_eq(safetensors_at(st, 0)->dtype_name, "U8");
    cr_assert_null(safetensors_find(st, "nothing"));
    float values[4];
    tensor_to_f32(values, b, 1, 3); /* unaligned: the data begin at an odd address or offset */
    cr_assert_eq(values[0], bf16_to_f32(0x0403));
    cr_assert_eq(values[2], bf16_to_f32(0x0807));
    tensor_to_f32(values, c, 0, 0);
    safetensors_close(st);
    safetensors_close(NULL);
}

Test(safetensors, converts_every_half_at_every_alignment)
{
    static unsigned char bytes[2 * 65536 + 8];
    static float out[65536];
    for (int shift = 0; shift < 4; shift++) {
        for (uint32_t h = 0; h < 65536; h++) {
            uint16_t half = (uint16_t)h;
            memcpy(bytes + shift + 2 * h, &half, 2);
        }
        struct tensor t = {.dtype = DTYPE_F16, .n_elements = 65536, .data = bytes + shift};
        tensor_to_f32(out, &t, 0, 65536);
        for (uint32_t h = 0; h < 65536; h++) {
            float expected = f16_to_f32((uint16_t)h);
            cr_assert(isnan(expected) ? isnan(out[h]) : memcmp(&expected, &out[h], 4) == 0, "%04x", h);
        }
        for (int n = 0; n < 20; n++) { /* tails, and nothing written behind them */
            out[n] = 12345;
            tensor_to_f32(out, &t, 1000 + n, n);
            cr_assert_eq(out[n], 12345);
        }
        t.dtype = DTYPE_BF16;
        tensor_to_f32(out, &t, 0, 65536);
        for (uint32_t h = 0; h < 65536; h++) {
            float expected = bf16_to_f32((uint16_t)h);
            cr_assert_eq(memcmp(&expected, &out[h], 4), 0);
        }
    }
}

Test(safetensors, dropped_pages_come_back)
{
    struct safetensors *st;
    write_file(path, "{\"w\":{\"dtype\":\"U8\",\"shape\":[100000],\"data_offsets\":[0,100000]}}", 100000);
    cr_assert_eq(safetensors_open_file(&st, path, &err), STATUS_OK, "%s", err.message);
    const struct tensor *w = safetensors_at(st, 0);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 100000; i++) {
            cr_assert_eq(((const unsigned char *)w->data)[i], (unsigned char)i);
        }
        safetensors_drop(st, w);
    }
    safetensors_close(st);
}

#define ENTRY(name, dtype, shape, offsets)                                                                   \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

Test(safetensors, refuses_malformed_headers)
{
    static const struct {
        const char *header;
        size_t n_data;
        const char *reason;
    } cases[] = {
        {"", 0, "header"},
        {"[]", 0, "object"},
        {"{} x", 0, "header"},
        {"{", 0, "header"},
        {"{" ENTRY("w", "F32", "[2]", "[0,8]") "}", 7, "data_offsets end at 8"},
        {"{" ENTRY("w", "F32", "[2]", "[0,8]") "}", 9, "the tensors of the header end at byte 8"},
        {"{}", 1, "end at byte 0"},
        {"{" ENTRY("w", "F32", "[2]", "[4,12]") "}", 12, "hole"},
        {"{" ENTRY("w", "F32", "[2]", "[0,8]") "," ENTRY("v", "F32", "[2]", "[4,12]") "}", 12, "overlaps"},
        {"{" ENTRY("w", "F32", "[2]", "[0,8]") "," ENTRY("v", "F32", "[2]", "[0,8]") "}", 8, "overlaps"},
        {"{" ENTRY("w", "F32", "[2]", "[0,8]") "," ENTRY("v", "F32", "[1]", "[9,13]") "}", 13, "hole"},
        {"{" ENTRY("w", "F32", "[2]", "[0,8]") "," ENTRY("w", "F32", "[2]", "[8,16]") "}", 16, "duplicate"},
        {"{" ENTRY("w", "F32", "[3]", "[0,8]") "}", 8, "\"w\""},
        {"{" ENTRY("w", "F32", "[2]", "[8,0]") "}", 8, "data_offsets"},
        {"{" ENTRY("w", "F32", "[2]", "[-8,0]") "}", 8, "data_offsets"},
        {"{" ENTRY("w", "F32", "[2]", "[0]") "}", 8, "data_offsets"},
        {"{" ENTRY("w", "F32", "[2]", "[0,8,8]") "}", 8, "data_offsets"},
        {"{" ENTRY("w", "F32", "[2]", "[0,8.5]") "}", 8, "data_offsets"},
        {"{" ENTRY("w", "F32", "[2]", "[0,18446744073709551624]") "}", 8, "data_offsets"},
        {"{" ENTRY("w", "F32", "[-2]", "[0,8]") "}", 8, "shape[0]"},
        {"{" ENTRY("w", "F32", "[2.5]", "[0,8]") "}", 8, "shape[0]"},
        {"{" ENTRY("w", "F32", "2", "[0,8]") "}", 8, "shape"},
        {"{" ENTRY("w", "F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]") "}", 8, "dimensions"},
        {"{" ENTRY("w", "F32", "[4294967296,4294967296]", "[0,0]") "}", 0, "overflows"},
        {"{" ENTRY("w", "F32", "[0,9223372036854775807,2]", "[0,0]") "}", 0, "overflows"},
        {"{" ENTRY("w", "F64", "[4611686018427387904]", "[0,0]") "}", 0, "\"w\""},
        {"{" ENTRY("w", "F4", "[2]", "[0,8]") "}", 8, "dtype is F4"},
        {"{" ENTRY("w", "f32", "[2]", "[0,8]") "}", 8, "dtype is f32"},
        {"{\"w\":{\"dtype\":1,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "dtype"},
        {"{\"w\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "dtype is missing"},
        {"{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "shape is missing"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "data_offsets is missing"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", 8, "unknown key \"x\""},
        {"{\"w\":[]}", 0, "no object"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__"},
        {"{\"__metadata__\":[]}", 0, "__metadata__"},
        {"{\"w\":{\"a\":{\"b\":{\"c\":{\"d\":{\"e\":{\"f\":{\"g\":{\"h\":1}}}}}}}}}", 0, "deep"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct safetensors *st;
        write_file(path, cases[i].header, cases[i].n_data);
        cr_assert_eq(safetensors_open_folder(&st, folder, &err), STATUS_BAD_MODEL, "%s", cases[i].header);
        cr_assert_null(st);
        cr_assert(strstr(err.message, path) && strstr(err.message, cases[i].reason), "%s", err.message);
    }
}

Test(safetensors, refuses_bad_lengths_and_files)
{
    static const unsigned char lengths[][8] = {{3},
                                               {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
                                               {1, 0xe1, 0xf5, 0x05},
                                               {0, 0, 0, 0, 0, 0, 0, 0x80}};
    struct safetensors *st;
    for (size_t i = 0; i < 4; i++) {
        unsigned char bytes[10];
        memcpy(bytes, lengths[i], 8);
        memcpy(bytes + 8, "{}", 2);
        write_bytes(path, bytes, sizeof bytes);
        cr_assert_eq(safetensors_open_file(&st, path, &err), STATUS_BAD_MODEL);
        cr_assert(strstr(err.message, "header length"), "%s", err.message);
    }
    for (size_t n = 0; n < 8; n++) {
        write_bytes(path, lengths[0], n);
        cr_assert_eq(safetensors_open_file(&st, path, &err), STATUS_BAD_MODEL);
    }
    cr_assert_eq(safetensors_open_file(&st, folder, &err), STATUS_BAD_MODEL); /* a folder */
    unlink(path);
    cr_assert_eq(safetensors_open_folder(&st, folder, &err), STATUS_BAD_MODEL); /* nothing there */
    cr_assert(strstr(err.message, folder));
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_assert_eq(safetensors_open_file(&st, path, &err), STATUS_BAD_MODEL);
}

static enum status open_index(const char *index)
{
    char file[512];
    struct safetensors *st;
    snprintf(file, sizeof file, "%s/model.safetensors.index.json", folder);
    write_bytes(file, index, strlen(index));
    enum status status = safetensors_open_folder(&st, folder, &err);
    cr_assert_eq(status == STATUS_OK, st != NULL);
    if (st) {
        cr_assert_eq(safetensors_n_tensors(st), 3);
    }
    safetensors_close(st);
    return status;
}

Test(safetensors, shards)
{
    char file[512];
    snprintf(file, sizeof file, "%s/one.safetensors", folder);
    write_file(file, "{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("b", "F32", "[1]", "[4,8]") "}", 8);
    snprintf(file, sizeof file, "%s/two.safetensors", folder);
    write_file(file, "{" ENTRY("c", "F32", "[1]", "[0,4]") "}", 4);
    snprintf(file, sizeof file, "%s/again.safetensors", folder);
    write_file(file, "{" ENTRY("c", "F32", "[1]", "[0,4]") "," ENTRY("d", "F32", "[1]", "[4,8]") "}", 8);
#define MAP(rest) "{\"metadata\":{\"total_size\":12},\"weight_map\":{" rest "}}"
#define AB        "\"a\":\"one.safetensors\",\"b\":\"one.safetensors\""
    cr_assert_eq(open_index(MAP(AB ",\"c\":\"two.safetensors\"")), STATUS_OK, "%s", err.message);
    static const struct {
        const char *index, *reason;
    } cases[] = {
        {"", "index"},
        {"[]", "object"},
        {"{}", "weight_map"},
        {"{\"weight_map\":[]}", "weight_map"},
        {MAP(""), "empty"},
        {MAP("\"a\":1"), "\"a\""},
        {MAP("\"a\":\"../one.safetensors\""), "plain file name"},
        {MAP("\"a\":\"/etc/passwd\""), "plain file name"},
        {MAP("\"a\":\"x/one.safetensors\""), "plain file name"},
        {MAP("\"a\":\"..\""), "plain file name"},
        {MAP("\"a\":\"\""), "plain file name"},
        {MAP("\"a\":\"missing.safetensors\""), "missing.safetensors"},
        {MAP(AB ",\"x\":\"two.safetensors\""), "\"x\" is listed"},
        {MAP(AB ",\"c\":\"one.safetensors\""), "\"c\" is listed"},
        {MAP("\"a\":\"one.safetensors\""), "\"b\" of"},
        {MAP("\"a\":\"two.safetensors\",\"b\":\"one.safetensors\""), "\"a\" is listed in two"},
        {MAP(AB ",\"c\":\"two.safetensors\",\"d\":\"again.safetensors\""), "too"},
        {MAP(AB ",\"a\":\"two.safetensors\""), "duplicate"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_assert_eq(open_index(cases[i].index), STATUS_BAD_MODEL, "%s", cases[i].index);
        cr_assert(strstr(err.message, folder) && strstr(err.message, cases[i].reason), "%s", err.message);
    }
}

/* Flips of one bit or byte anywhere in length word and header: refused with the path named, or a file that
 * still tiles. */
Test(safetensors, thousand_random_flips)
{
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"}," ENTRY("model.embed", "BF16", "[4,4]", "[0,32]") "," ENTRY(
            "model.norm", "F32", "[4]", "[32,48]") "," ENTRY("lm_head", "F16", "[2,4]", "[48,64]") "}   ";
    static unsigned char bytes[8 + sizeof header - 1 + 64];
    uint32_t random_state = 7;
    int n_loaded = 0;
    for (int flip = 0; flip < 1000; flip++) {
        struct safetensors *st;
        memset(bytes, 0, sizeof bytes);
        bytes[0] = (unsigned char)((sizeof header - 1) & 0xff);
        bytes[1] = (unsigned char)((sizeof header - 1) >> 8);
        memcpy(bytes + 8, header, sizeof header - 1);
        random_state = random_state * 1664525u + 1013904223u;
        size_t at = (random_state >> 8) % (8 + sizeof header - 1);
        random_state = random_state * 1664525u + 1013904223u;
        bytes[at] ^= (unsigned char)(1 + (random_state >> 8) % 255);
        write_bytes(path, bytes, sizeof bytes);
        enum status status = safetensors_open_folder(&st, folder, &err);
        if (status) {
            cr_assert(status == STATUS_BAD_MODEL && strstr(err.message, path), "%s", err.message);
            continue;
        }
        n_loaded++;
        size_t covered = 0;
        float values[16];
        for (int64_t i = 0; i < safetensors_n_tensors(st); i++) {
            const struct tensor *tensor = safetensors_at(st, i);
            covered += tensor->n_bytes;
            if (tensor->dtype != DTYPE_OTHER) {
                tensor_to_f32(values, tensor, 0, tensor->n_elements);
            }
        }
        cr_assert_eq(covered, 64);
        safetensors_close(st);
    }
    cr_assert(n_loaded > 0 && n_loaded < 600, "%d", n_loaded); /* names may change freely */
}

Test(safetensors, fixtures)
{
    static const char *const names[] = {"stories260K", "stories260K-mistral"};
    for (int i = 0; i < 2; i++) {
        char fixture[1024];
        struct safetensors *st;
        if (fixture_path(fixture, sizeof fixture, names[i])) {
            cr_assert_eq(safetensors_open_folder(&st, fixture, &err), STATUS_OK, "%s", err.message);
            const struct tensor *t = safetensors_find(st, "model.embed_tokens.weight");
            cr_assert(t && t->n_dims == 2 && t->shape[0] == 512 && t->shape[1] == 64);
            safetensors_close(st);
        }
    }
}

Test(safetensors, formats_what_it_reads)
{
    const struct safetensors_pair metadata[] = {{"format", "x"}, {"a \"key\"\n", "\xc3\xa9\\"}};
    struct tensor tensors[] = {
        {.name = "z\"", .dtype_name = "BF16", .n_dims = 2, .shape = {3, 5}, .n_bytes = 30},
        {.name = "b", .dtype_name = "F32", .n_dims = 0, .n_bytes = 4},
        {.name = "a",
         .dtype_name = "U8",
         .n_dims = 2,
         .shape = {1, (int64_t)1 << 60},
         .n_bytes = (size_t)1 << 60},
    };
    struct safetensors_header *header;
    char *text;
    size_t n;
    uint64_t word;
    cr_assert_eq(safetensors_header_format(&text, &n, tensors, 3, metadata, 2, 4096, &err), STATUS_OK);
    memcpy(&word, text, sizeof word);
    cr_assert(n % 4096 == 0 && word == n - 8);
    cr_assert_eq(safetensors_header_parse(&header, text + 8, n - 8, 34 + ((uint64_t)1 << 60), "f", &err),
                 STATUS_OK, "%s", err.message);
    cr_assert(header->n_tensors == 3 && header->n_metadata == 2);
    cr_assert_str_eq(safetensors_header_metadata(header, "a \"key\"\n"), "\xc3\xa9\\");
    cr_assert_null(safetensors_header_metadata(header, "z\""));
    const struct tensor *z = safetensors_header_find(header, "z\""),
                        *a = safetensors_header_find(header, "a");
    cr_assert(z && z->dtype == DTYPE_BF16 && z->shape[0] == 3 && z->shape[1] == 5 && !z->data);
    cr_assert(a && (uintptr_t)a->data == 34 && a->n_bytes == (size_t)1 << 60);
    cr_assert_null(safetensors_header_find(header, "c"));
    safetensors_header_close(header);
    free(text);
    cr_assert_eq(safetensors_header_format(&text, &n, NULL, 0, NULL, 0, 64, &err), STATUS_OK);
    cr_assert(n == 64 && !memcmp(text + 8, "{}      ", 8));
    free(text);
}

Test(safetensors, tells_a_changed_file)
{
    struct safetensors *st;
    struct timespec times[2] = {{.tv_sec = 1000000000, .tv_nsec = 123456789},
                                {.tv_sec = 1000000000, .tv_nsec = 5}};
    write_file(path, "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2);
    cr_assert_eq(utimensat(AT_FDCWD, path, times, 0), 0);
    cr_assert_eq(safetensors_open_file(&st, path, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(safetensors_n_files(st), 1);
    const struct safetensors_file *file = safetensors_file(st, 0);
    struct stat info;
    int fd = open(path, O_RDWR);
    cr_assert(fstat(fd, &info) == 0 && file->n_bytes == (size_t)info.st_size);
    cr_assert_str_eq(file->path, path);
    cr_assert_eq(file->mtime_ns, 1000000000 * (int64_t)1000000000 + 5);
    cr_assert(safetensors_file_unchanged(file, fd));
    times[1].tv_nsec++;
    cr_assert_eq(futimens(fd, times), 0);
    cr_assert(!safetensors_file_unchanged(file, fd));
    usleep(20000);      /* the system's clock for files may tick slowly */
    times[1].tv_nsec--; /* whoever sets the time back is found by the system's own */
    cr_assert_eq(futimens(fd, times), 0);
    cr_assert(!safetensors_file_unchanged(file, fd));
    close(fd);
    safetensors_close(st);
}
