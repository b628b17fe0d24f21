/* The cache file: what is written is read back, what does not fit is refused by name, nothing is left behind.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/base/safetensors.h"
#include "tests/quant/cache_matrices.h"

static char folder[64], path[512];
static struct matrices all;
static struct error err;

static void set_up(void)
{
    strcpy(folder, "/tmp/any4-cache-XXXXXX");
    cr_assert(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    make_matrices(&all, 1);
}

static void tear_down(void)
{
    char command[128];
    free_matrices(&all);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(quant_cache, .init = set_up, .fini = tear_down, .timeout = 120);

static enum status open_cache(struct cache **cache, struct thread_pool *pool)
{
    struct cache_label label = make_label(1);
    return cache_open(cache, path, label.key, label.content, pool, &err);
}

static void expect_refused(const char *why)
{
    struct cache *cache;
    cr_assert_eq(open_cache(&cache, NULL), STATUS_BAD_MODEL, "expected: %s", why);
    cr_assert_null(cache);
    cr_assert(strstr(err.message, path) && strstr(err.message, why), "%s, expected: %s", err.message, why);
}

Test(quant_cache, comes_back_as_it_was_written)
{
    struct cache *cache;
    struct thread_pool *pool;
    cr_assert_eq(write_matrices(path, &all, 1, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(thread_pool_open(&pool, 3, &err), STATUS_OK);
    for (int round = 0; round < 2; round++) {
        cr_assert_eq(open_cache(&cache, round ? pool : NULL), STATUS_OK, "%s", err.message);
        const char *different = find_difference(cache, &all);
        cr_assert_null(different, "%s differs", different);
        cr_assert_null(cache_find(cache, "layers.0"));
        cr_assert_null(cache_find(cache, "layers.0.linear.codes"));
        struct stat info;
        cr_assert(stat(path, &info) == 0 && (size_t)info.st_size == cache_bytes(cache));
        cache_close(cache);
    }
    cache_close(NULL);
    thread_pool_close(pool);
    cr_assert_eq(count_others(folder, "model.safetensors"), 0);
}

Test(quant_cache, others_can_read_it)
{
    struct safetensors *st;
    cr_assert_eq(write_matrices(path, &all, 1, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(safetensors_open_file(&st, path, &err), STATUS_OK, "%s", err.message);
    const struct any4_matrix *m = &all.entries[4].matrix;
    const struct tensor *lut = safetensors_find(st, "layers.4.linear.lut");
    cr_assert(lut && lut->dtype == DTYPE_BF16 && lut->shape[0] == m->n_rows && lut->shape[1] == 4);
    cr_assert_eq(memcmp(lut->data, m->lut, lut->n_bytes), 0);
    safetensors_close(st);
}

Test(quant_cache, an_empty_list_is_a_file_too)
{
    struct cache *cache;
    all.n = 0;
    cr_assert_eq(write_matrices(path, &all, 1, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(open_cache(&cache, NULL), STATUS_OK, "%s", err.message);
    cr_assert_eq(cache_n_entries(cache), 0);
    cache_close(cache);
}

Test(quant_cache, other_labels_and_files_are_refused)
{
    struct cache *cache;
    struct cache_label label = make_label(1);
    cr_assert_eq(open_cache(&cache, NULL), STATUS_NOT_FOUND);
    cr_assert(strstr(err.message, path));
    cr_assert_eq(write_matrices(path, &all, 1, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(cache_open(&cache, path, "other", label.content, NULL, &err), STATUS_BAD_MODEL);
    cr_assert(strstr(err.message, "any4.key"), "%s", err.message);
    cr_assert_eq(cache_open(&cache, path, label.key, "other", NULL, &err), STATUS_BAD_MODEL);
    cr_assert(strstr(err.message, "any4.content"), "%s", err.message);
    cr_assert(truncate(path, 5) == 0);
    expect_refused("too short");
    cr_assert(truncate(path, 0) == 0);
    expect_refused("empty");
    cr_assert(unlink(path) == 0 && mkdir(path, 0700) == 0);
    expect_refused("not a regular file");
    cr_assert(rmdir(path) == 0 && mkfifo(path, 0600) == 0);
    expect_refused("not a regular file");
}

/* The whole file in 64-byte aligned memory. */
static unsigned char *read_file(size_t *n)
{
    char *text;
    cr_assert_eq(file_read(&text, n, path, 64 << 20, &err), STATUS_OK, "%s", err.message);
    unsigned char *bytes = aligned_alloc(64, (*n + 63) / 64 * 64);
    memcpy(bytes, text, *n);
    free(text);
    return bytes;
}

/* Replaces a text in the header by one of the same length, past the checksums: what a file says that was made
 * with bad intent. */
static void expect_parse_refused(const char *from, const char *to, const char *why)
{
    size_t n;
    unsigned char *bytes = read_file(&n);
    struct cache *cache;
    unsigned char *at = memmem(bytes, n, from, strlen(from));
    cr_assert(at && strlen(from) == strlen(to), "%s", from);
    memcpy(at, to, strlen(to));
    cr_assert_eq(cache_parse(&cache, bytes, n, path, &err), STATUS_BAD_MODEL, "%s", to);
    cr_assert(strstr(err.message, why), "%s, expected: %s", err.message, why);
    free(bytes);
}

Test(quant_cache, lies_about_matrices_are_refused)
{
    struct cache *cache;
    size_t n;
    cr_assert_eq(write_matrices(path, &all, 1, &err), STATUS_OK, "%s", err.message);
    unsigned char *bytes = read_file(&n);
    cr_assert_eq(cache_parse(&cache, bytes, n, path, &err), STATUS_OK, "%s", err.message);
    cr_assert_null(find_difference(cache, &all));
    cache_close(cache);
    free(bytes);
    expect_parse_refused("\\\"kind\\\":\\\"lut_int8\\\"", "\\\"kind\\\":\\\"lut_int9\\\"", "not described");
    expect_parse_refused("\\\"kind\\\":\\\"lut_int8\\\"", "\\\"kind\\\":\\\"lut\\\"     ",
                         "scales is missing");
    expect_parse_refused("\\\"kind\\\":\\\"bf16\\\"", "\\\"kind\\\":\\\"f16\\\" ", "weight is missing");
    expect_parse_refused("\\\"layout\\\":\\\"row_major\\\"", "\\\"layout\\\":\\\"cpu_v1\\\"   ",
                         "row by row");
    expect_parse_refused("\\\"n_rows\\\":64", "\\\"n_rows\\\":65", "is missing, or no (65");
    expect_parse_refused("\\\"n_rows\\\":64", "\\\"n_rows\\\":-1", "not described");
    expect_parse_refused("\\\"n_rows\\\":5,", "\\\"n_rows\\\":4,", "not described"); /* worst_row is 4 */
    expect_parse_refused("\\\"n_cols\\\":172", "\\\"n_cols\\\":512", "too short");
    expect_parse_refused("\\\"n_cols\\\":172", "\\\"n_cols\\\":100", "is missing, or no (5, 1) of BF16");
    expect_parse_refused("\\\"code_bits\\\":3", "\\\"code_bits\\\":4", "too short");
    expect_parse_refused("\\\"code_bits\\\":4", "\\\"code_bits\\\":1", "impossible width");
    expect_parse_refused("\\\"code_bits\\\":8", "\\\"code_bits\\\":4", "impossible width");
    expect_parse_refused("\\\"group_size\\\":64", "\\\"group_size\\\":16", "group size");
    expect_parse_refused("\\\"name\\\":\\\"layers.3.", "\\\"name\\\":\\\"layers.4.", "too short");
    expect_parse_refused("\\\"name\\\":\\\"layers.3.", "\\\"name\\\":\\\"layers.x.", "is missing, or no");
    expect_parse_refused("\\\"worst_row\\\":", "\\\"w0rst_row\\\":", "not described");
    expect_parse_refused("\\\"max_row_error\\\":0", "\\\"max_row_error\\\":-", "");
    expect_parse_refused("\"layers.3.linear.lut\"", "\"layers.3.linear.lux\"", "lut is missing");
    expect_parse_refused("\"__padding__.1\"", "\"__podding__.1\"", "have a role");
    expect_parse_refused("\"__checksums__\"", "\"__checksumz__\"", "checksums are missing");
    expect_parse_refused("any4.matrices", "any4.matrixes", "any4.matrices is missing");
    expect_parse_refused("\"dtype\":\"I8\"", "\"dtype\":\"U8\"", "of I8");
    expect_parse_refused("\"any4.matrices\":\"[{", "\"any4.matrices\":\"[[", "");
}

/* Values are written into memory, not through the writer, which trusts its caller. */
static void expect_value_refused(const char *tensor, size_t at, const void *value, size_t n_value)
{
    size_t n;
    unsigned char *bytes = read_file(&n);
    struct safetensors *st;
    struct cache *cache;
    uint64_t header_bytes;
    memcpy(&header_bytes, bytes, sizeof header_bytes);
    cr_assert_eq(safetensors_open_file(&st, path, &err), STATUS_OK, "%s", err.message);
    const struct tensor *first = safetensors_find(st, "layers.0.linear.weight");
    const struct tensor *t = safetensors_find(st, tensor);
    cr_assert(first && t, "%s", tensor);
    size_t offset = (size_t)((const char *)t->data - (const char *)first->data);
    memcpy(bytes + 8 + header_bytes + offset + at, value, n_value);
    safetensors_close(st);
    cr_assert_eq(cache_parse(&cache, bytes, n, path, &err), STATUS_BAD_MODEL, "%s", tensor);
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(strrchr(tensor, '.') - tensor), tensor);
    cr_assert(strstr(err.message, name), "%s", err.message);
    free(bytes);
}

Test(quant_cache, values_that_no_matrix_may_have_are_refused)
{
    const uint16_t infinite = 0xff80, nan = 0x7fc1, half_infinite = 0x7c00;
    const float bad[] = {-1.0f, INFINITY, -INFINITY, NAN};
    const int8_t lowest = -128;
    cr_assert_eq(write_matrices(path, &all, 1, &err), STATUS_OK, "%s", err.message);
    for (int i = 0; i < 4; i++) {
        expect_value_refused("layers.6.linear.row_scales", 4 * 63, &bad[i], 4);
        if (i) { /* weights may be negative */
            expect_value_refused("layers.0.linear.weight", 0, &bad[i], 4);
        }
    }
    expect_value_refused("layers.6.linear.table", 3, &lowest, 1);
    expect_value_refused("layers.6.linear.group_scales", 64 * 8 - 1, &lowest, 1);
    expect_value_refused("layers.3.linear.scales", 2, &infinite, 2);
    expect_value_refused("layers.3.linear.zeros", 4, &nan, 2);
    expect_value_refused("layers.3.linear.lut", 38, &infinite, 2);
    expect_value_refused("layers.15.linear.scales", 0, &nan, 2);
    expect_value_refused("layers.1.linear.weight", 40, &half_infinite, 2);
    expect_value_refused("layers.2.linear.weight", 0, &infinite, 2);
}

Test(quant_cache, what_cannot_be_stored_is_refused_by_name)
{
    struct matrices bad = all;
    char *slash = strrchr(path, '/');
    bad.entries[4].matrix.group_size = 17;
    cr_assert_eq(write_matrices(path, &bad, 1, &err), STATUS_INVALID);
    cr_assert(strstr(err.message, "layers.4.linear"), "%s", err.message);
    bad = all;
    bad.entries[3].stats.error_energy = NAN;
    cr_assert_eq(write_matrices(path, &bad, 1, &err), STATUS_INVALID);
    cr_assert(strstr(err.message, "layers.3.linear"), "%s", err.message);
    strcpy(slash, "/no/such/model.safetensors");
    cr_assert_eq(write_matrices(path, &all, 1, &err), STATUS_IO);
    cr_assert(strstr(err.message, "/no/such"), "%s", err.message);
    cr_assert_eq(count_others(folder, "model.safetensors"), 0);
}

Test(quant_cache, a_later_file_takes_the_place_under_an_open_one)
{
    struct matrices later;
    struct cache *cache, *second;
    struct cache_label label = make_label(2);
    make_matrices(&later, 2);
    cr_assert_eq(write_matrices(path, &all, 1, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(open_cache(&cache, NULL), STATUS_OK, "%s", err.message);
    cr_assert_eq(write_matrices(path, &later, 2, &err), STATUS_OK, "%s", err.message);
    cr_assert_null(find_difference(cache, &all));
    cr_assert_eq(cache_open(&second, path, label.key, label.content, NULL, &err), STATUS_OK);
    cr_assert_null(find_difference(second, &later));
    cache_close(cache);
    cache_close(second);
    free_matrices(&later);
}

Test(quant_cache, a_cancelled_write_leaves_nothing)
{
    struct cache *cache;
    struct cache_label label = make_label(1);
    atomic_bool cancel = true;
    size_t n_bytes;
    cr_assert_eq(write_matrices(path, &all, 1, &err), STATUS_OK, "%s", err.message);
    cr_assert_eq(cache_write(path, &label, all.entries, 1, &cancel, &n_bytes, &err), STATUS_UNAVAILABLE);
    cr_assert_eq(count_others(folder, "model.safetensors"), 0);
    cr_assert_eq(open_cache(&cache, NULL), STATUS_OK, "%s", err.message);
    cr_assert_null(find_difference(cache, &all));
    cache_close(cache);
}

static bool exists(const char *name)
{
    char full[600];
    snprintf(full, sizeof full, "%s/%s", folder, name);
    return access(full, F_OK) == 0;
}

static int make_file(const char *name)
{
    char full[600];
    snprintf(full, sizeof full, "%s/%s", folder, name);
    int fd = open(full, O_CREAT | O_WRONLY, 0600);
    cr_assert(fd >= 0);
    return fd;
}

Test(quant_cache, only_leftovers_of_the_dead_are_removed)
{
    close(make_file(".any4-0123456789abcdef.tmp"));
    close(make_file(".any4-0123456789abcdeg.tmp")); /* no name of ours */
    close(make_file("any4-0123456789abcdef.tmp"));
    close(make_file(".any4-0123456789abcdef.tmp.safetensors"));
    int living = make_file(".any4-fedcba9876543210.tmp");
    cr_assert_eq(flock(living, LOCK_EX), 0);
    cr_assert_eq(write_matrices(path, &all, 1, &err), STATUS_OK, "%s", err.message);
    cr_assert(!exists(".any4-0123456789abcdef.tmp"));
    cr_assert(exists(".any4-0123456789abcdeg.tmp") && exists("any4-0123456789abcdef.tmp") &&
              exists(".any4-0123456789abcdef.tmp.safetensors") && exists(".any4-fedcba9876543210.tmp"));
    close(living);
    cr_assert_eq(write_matrices(path, &all, 1, &err), STATUS_OK, "%s", err.message);
    cr_assert(!exists(".any4-fedcba9876543210.tmp"));
}

Test(quant_cache, writers_at_once_do_not_meet)
{
    enum { N_WRITERS = 4, N_ROUNDS = 10 };
    pid_t writers[N_WRITERS];
    struct cache *cache;
    int n_seen[N_WRITERS] = {0}, left = N_WRITERS;
    struct matrices versions[N_WRITERS];
    for (int i = 0; i < N_WRITERS; i++) {
        make_matrices(&versions[i], (uint64_t)i + 1);
        writers[i] = fork();
        cr_assert(writers[i] >= 0);
        if (writers[i] == 0) {
            for (int round = 0; round < N_ROUNDS; round++) {
                if (write_matrices(path, &versions[i], (uint64_t)i + 1, &err)) {
                    fprintf(stderr, "%s\n", err.message);
                    _exit(1);
                }
            }
            _exit(0);
        }
    }
    while (left) {
        int code;
        /* Whoever was last: the file is whole and of one of them. */
        for (int i = 0; i < N_WRITERS; i++) {
            struct cache_label label = make_label((uint64_t)i + 1);
            if (cache_open(&cache, path, label.key, label.content, NULL, &err) == STATUS_OK) {
                cr_assert_null(find_difference(cache, &versions[i]));
                n_seen[i]++;
                cache_close(cache);
            } else {
                cr_assert(strstr(err.message, "any4.content") || strstr(err.message, "No such file"), "%s",
                          err.message);
            }
        }
        if (waitpid(-1, &code, WNOHANG) > 0) {
            cr_assert(WIFEXITED(code) && WEXITSTATUS(code) == 0);
            left--;
        }
    }
    cr_assert_gt(n_seen[0] + n_seen[1] + n_seen[2] + n_seen[3], 0);
    cr_assert_eq(count_others(folder, "model.safetensors"), 0);
    for (int i = 0; i < N_WRITERS; i++) {
        free_matrices(&versions[i]);
    }
}

/* The fuzz target's seeds are files of the present format: ANY4_WRITE_SEEDS=tests/fuzz/corpus/cache makes
 * them anew. One matrix each, for libFuzzer's sake small. */
Test(quant_cache, seeds_of_the_fuzz_target_are_valid)
{
    const char *source = getenv("ANY4_SOURCE_ROOT"), *out = getenv("ANY4_WRITE_SEEDS");
    char seeds[512];
    struct cache *cache;
    int n_seeds = 0;
    snprintf(seeds, sizeof seeds, "%s/tests/fuzz/corpus/cache", source ? source : ".");
    if (out) {
        static const int32_t shown[] = {0, 2, 3, 5, 9, 15};
        for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
            struct cache_label label = make_label(1);
            size_t n_bytes;
            snprintf(path, sizeof path, "%s/matrix%d.bin", out, (int)shown[i]);
            cr_assert_eq(cache_write(path, &label, &all.entries[shown[i]], 1, NULL, &n_bytes, &err),
                         STATUS_OK, "%s", err.message);
        }
    }
    DIR *dir = opendir(seeds);
    cr_assert(dir, "%s", seeds);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] != '.') {
            size_t n;
            snprintf(path, sizeof path, "%.250s/%.250s", seeds, entry->d_name);
            unsigned char *bytes = read_file(&n);
            cr_assert_eq(cache_parse(&cache, bytes, n, path, &err), STATUS_OK, "%s", err.message);
            cache_close(cache);
            free(bytes);
            n_seeds++;
        }
    }
    closedir(dir);
    cr_assert_gt(n_seeds, 0);
}
