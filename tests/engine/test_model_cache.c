/* The cache of quantized models as the engine uses it: what counts as the same model, what is found to be
 * damaged or stale, and that the answers are the same bit by bit either way. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/log.h"
#include "engine/engine.h"
#include "engine/loader.h"
#include "engine/model_cache.h"
#include "quant/cache.h"
#include "tests/engine/support.h"

static const char OFF[] = "off", HIT[] = "hit", MISS[] = "miss", REBUILT[] = "rebuilt";
enum { N_TOKENS = 24, N_IDS = 40 };

static char root[64], model[64], folder[128];
static struct engine_options options;
static struct error err;

/* What a start looked like from outside. */
struct start {
    const char *state;
    char reason[512], path[512];
    enum status status;
    int32_t tokens[N_TOKENS];
    float logprobs[N_TOKENS];
    double error_mean, error_max, bits_per_weight;
};

static void set_up(void)
{
    log_configure(LOG_FORMAT_TEXT, LOG_ERROR, stderr);
    strcpy(root, "/tmp/any4-model-cache-XXXXXX");
    cr_assert(mkdtemp(root));
    snprintf(folder, sizeof folder, "%s/new/cache", root);
    make_model(model, sizeof model, "mixtral", 5);
    engine_options_init(&options);
    options.model_dir = model;
    options.quant_cache = folder;
    options.n_threads = 2;
}

__attribute__((format(printf, 1, 2))) static void run(const char *format, ...)
{
    char command[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    cr_assert_eq(system(command), 0, "%s", command);
}

static void tear_down(void)
{
    run("rm -rf '%s'", root);
    remove_folder(model);
}

TestSuite(model_cache, .init = set_up, .fini = tear_down, .timeout = 120);

static struct start start(void)
{
    static const int32_t ids[] = {1, 2, 3, 4, 5, 6, 7};
    struct start s = {.state = "off"};
    struct engine *engine;
    struct engine_cache_result result;
    struct generate_params params;
    struct request *request;
    struct token_event event;
    cr_assert_eq(engine_open(&engine, &options, &err), STATUS_OK, "%s", err.message);
    engine_wait_cache(engine, &result);
    const struct engine_info *info = engine_get_info(engine);
    s.state = info->quant_cache;
    s.status = result.status;
    s.error_mean = info->quant_error_mean;
    s.error_max = info->quant_error_max;
    s.bits_per_weight = info->bits_per_weight;
    snprintf(s.reason, sizeof s.reason, "%s", result.status ? result.message : info->cache_reason);
    snprintf(s.path, sizeof s.path, "%s", result.path ? result.path : "");
    if (!strcmp(s.state, HIT)) {
        cr_assert_str_eq(info->cache_path, s.path);
        cr_assert_eq(info->quantize_seconds, 0);
    }
    generate_params_init(&params);
    params.temperature = 0;
    params.max_tokens = N_TOKENS;
    params.ignore_eos = true;
    params.logprobs = 0;
    cr_assert_eq(engine_submit(engine, &params, ids, 7, NULL, NULL, &request, &err), STATUS_OK);
    for (int i = 0; request_wait(request, &event, -1) && event.kind != EVENT_FINISHED; i++) {
        s.tokens[i] = event.token;
        s.logprobs[i] = event.logprob.logprob;
    }
    request_release(request);
    engine_close(engine);
    return s;
}

/* A start in this state, with these answers where they are given. */
static struct start expect(const char *state, const struct start *same)
{
    struct start s = start();
    cr_assert_str_eq(s.state, state, "%s, expected %s: %s", s.state, state, s.reason);
    cr_assert_eq(s.status, STATUS_OK, "%s", s.reason);
    cr_assert_eq(!strcmp(s.state, REBUILT), s.reason[0] != '\0');
    cr_assert(access(s.path, R_OK) == 0, "%s", s.path);
    if (same) {
        cr_assert_arr_eq(s.tokens, same->tokens, sizeof s.tokens);
        cr_assert_arr_eq(s.logprobs, same->logprobs, sizeof s.logprobs);
        cr_assert(s.error_mean == same->error_mean && s.error_max == same->error_max &&
                  s.bits_per_weight == same->bits_per_weight);
    }
    return s;
}

/* Files of the cache whose name ends so. */
static int count_files(const char *suffix)
{
    int n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        size_t length = strlen(entry->d_name), end = strlen(suffix);
        n += length >= end && !strcmp(entry->d_name + length - end, suffix);
    }
    if (dir) {
        closedir(dir);
    }
    return n;
}

static void flip_bit(const char *path, off_t at)
{
    unsigned char byte;
    int fd = open(path, O_RDWR);
    cr_assert(fd >= 0 && pread(fd, &byte, 1, at) == 1, "%s", path);
    byte ^= 1;
    cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static const char *weights(void)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/model.safetensors", model);
    return path;
}

static off_t size_of(const char *path)
{
    struct stat info;
    cr_assert_eq(stat(path, &info), 0, "%s", path);
    return info.st_size;
}

Test(model_cache, every_format_comes_back)
{
    static const enum quant_method methods[] = {QUANT_ANY4, QUANT_ANY3, QUANT_ANY2, QUANT_ANY4_PAPER,
                                                QUANT_INT8, QUANT_INT4, QUANT_INT3, QUANT_INT2,
                                                QUANT_NF4,  QUANT_FP4,  QUANT_MX4};
    enum { N_METHODS = sizeof methods / sizeof *methods };
    for (int i = 0; i < N_METHODS; i++) {
        options.quant.method = methods[i];
        struct start first = expect(MISS, NULL);
        options.n_threads = 1;
        expect(HIT, &first);
        options.n_threads = 2;
    }
    cr_assert_eq(count_files(".safetensors"), N_METHODS);
    cr_assert_eq(count_files(".source"), 1);
    cr_assert_eq(count_files(".tmp"), 0);
    struct stat info;
    cr_assert(stat(folder, &info) == 0 && (info.st_mode & 0777) == 0700);
}

Test(model_cache, is_off_where_nothing_is_quantized_or_none_is_wanted)
{
    options.quant.method = QUANT_NONE;
    struct start s = start();
    cr_assert(!strcmp(s.state, OFF) && s.status == STATUS_UNAVAILABLE);
    options.quant.method = QUANT_ANY4;
    options.quant_cache = NULL;
    s = start();
    cr_assert(!strcmp(s.state, OFF) && s.status == STATUS_UNAVAILABLE);
    cr_assert(access(folder, F_OK) != 0);
}

Test(model_cache, settings_that_change_bits_are_kept_apart)
{
    int32_t ids[N_IDS];
    for (int i = 0; i < N_IDS; i++) {
        ids[i] = 1 + i % 20;
    }
    struct start plain = expect(MISS, NULL);
    options.quant.group_size = 64;
    expect(MISS, NULL);
    options.quant.group_size = 32; /* what 0 means */
    expect(HIT, &plain);
    options.quant.seed = 3; /* any4 draws nothing */
    expect(HIT, &plain);
    options.quant.method = QUANT_ANY4_PAPER;
    expect(MISS, NULL);
    options.quant.seed = 0;
    expect(MISS, NULL);
    options.quant.method = QUANT_ANY4;
    options.quant_skip[options.n_quant_skip++] = "*.q_proj";
    expect(MISS, NULL);
    expect(HIT, NULL);
    options.n_quant_skip = 0;
    options.calib_ids = ids;
    options.n_calib_ids = N_IDS;
    struct start calibrated = expect(MISS, NULL);
    expect(HIT, &calibrated);
    ids[7]++;
    expect(MISS, NULL);
    ids[7]--;
    options.channel_scaling = true;
    struct start scaled = expect(MISS, NULL);
    expect(HIT, &scaled);
    options.channel_scaling = false;
    options.error_feedback = true;
    struct start fed = expect(MISS, NULL);
    expect(HIT, &fed);
    options.error_feedback = false;
    expect(HIT, &calibrated);
    options.quant.weighting = QUANT_WEIGHTING_MEAN;
    expect(MISS, NULL);
    options.quant.weighting = QUANT_WEIGHTING_MOMENT; /* what auto means */
    expect(HIT, &calibrated);
    options.config_override = "{\"rope_theta\": 5000}";
    expect(MISS, NULL);
    options.config_override = NULL;
    run("sed -i 's/{/{ /' %s/config.json", model);
    expect(MISS, NULL);
}

Test(model_cache, times_alone_do_not_make_it_stale)
{
    struct start first = expect(MISS, NULL);
    run("touch -d '2001-02-03 04:05:06.7' %s", weights());
    expect(HIT, &first);
    expect(HIT, &first);
    options.verify_cache = true;
    expect(HIT, &first);
    cr_assert_eq(count_files(".safetensors"), 1);
    cr_assert_eq(count_files(".source"), 1);
}

Test(model_cache, changed_weights_are_found_and_their_file_goes)
{
    struct start first = expect(MISS, NULL);
    run("touch -r %s %s/times", weights(), root);
    flip_bit(weights(), size_of(weights()) - 400); /* the low bits of some weight */
    struct start second = expect(REBUILT, NULL);
    cr_assert(strstr(second.reason, "have changed"), "%s", second.reason);
    cr_assert_str_neq(second.path, first.path);
    cr_assert(access(first.path, F_OK) != 0);
    expect(HIT, &second);
    /* Whoever sets the time back is found by the system's own time. */
    usleep(20000);
    flip_bit(weights(), size_of(weights()) - 400);
    run("touch -r %s/times %s", root, weights());
    expect(REBUILT, &first);
    expect(HIT, &first);
    cr_assert_eq(count_files(".safetensors"), 1);
}

Test(model_cache, a_copy_of_the_folder_is_the_same_model)
{
    struct start first = expect(MISS, NULL);
    run("cp -r %s %s/copy", model, root);
    char copy[128], link[128];
    snprintf(copy, sizeof copy, "%s/copy", root);
    options.model_dir = copy;
    struct start second = expect(HIT, &first);
    cr_assert_str_eq(first.path, second.path);
    run("ln -s copy %s/link", root);
    snprintf(link, sizeof link, "%s/link/", root);
    options.model_dir = link;
    expect(HIT, &first);
    cr_assert_eq(count_files(".source"), 2);
    /* Two models of one shape do not drive each other out. */
    options.model_dir = copy;
    run("cd %s/copy && printf '\\001' | dd of=model.safetensors bs=1 seek=$(($(stat -c %%s "
        "model.safetensors) - 400)) "
        "conv=notrunc status=none",
        root);
    start();
    expect(HIT, NULL);
    options.model_dir = model;
    expect(HIT, &first); /* the copy's old content is gone there, not here */
    options.model_dir = copy;
    expect(HIT, NULL);
    cr_assert_eq(count_files(".safetensors"), 2);
    /* What another folder has as well stays when this one gets others. */
    run("cp %s %s/copy/", weights(), root);
    expect(HIT, &first);
    run("printf '\\001' | dd of=%s/copy/model.safetensors bs=1 seek=%d conv=notrunc status=none", root,
        (int)size_of(weights()) - 600);
    expect(REBUILT, NULL);
    cr_assert(access(first.path, F_OK) == 0);
    cr_assert_eq(count_files(".safetensors"), 3);
}

/* A model with a format's settings of its own. */
static struct start start_with_seed(const char *state, uint64_t seed)
{
    options.quant.seed = seed;
    return expect(state, NULL);
}

Test(model_cache, a_limit_removes_what_was_used_longest_ago)
{
    options.quant.method = QUANT_ANY4_PAPER;
    const struct start first = start_with_seed(MISS, 1), second = start_with_seed(MISS, 2);
    const size_t n_bytes = (size_t)size_of(first.path);
    run("touch -d '2001-02-03' %s && touch -d '2002-03-04' %s", first.path, second.path);
    const char *hashes = strrchr(first.path, '/') + 1 + strlen("any4-paper-"); /* KEY-CONTENT.safetensors */
    run("cd %s && touch -d '2000-01-01' mine.safetensors any4-short-name.safetensors backup-%s", folder,
        hashes);
    start_with_seed(HIT, 1); /* so it is the second that has not been used for longer */
    options.quant_cache_max_bytes = 2 * n_bytes + n_bytes / 2;
    const struct start third = start_with_seed(MISS, 3);
    cr_assert(access(first.path, F_OK) == 0 && access(second.path, F_OK) != 0 &&
              access(third.path, F_OK) == 0);
    cr_assert_eq(count_files(".safetensors"), 5, "files that are not the cache's are left alone");
    start_with_seed(HIT, 1);
    /* Exactly one, the newest; a file that is there already is not its own competitor. */
    options.quant_cache_max_bytes = n_bytes;
    start_with_seed(MISS, 2);
    cr_assert_eq(count_files(".safetensors"), 4);
    flip_bit(second.path, (off_t)n_bytes / 2);
    start_with_seed(REBUILT, 2);
    start_with_seed(HIT, 2);
}

/* What a folder's new weights replace goes first: nobody else has to. */
Test(model_cache, new_weights_under_a_limit_take_the_place_of_the_old)
{
    options.quant.method = QUANT_ANY4_PAPER;
    const struct start other = start_with_seed(MISS, 1), old = start_with_seed(MISS, 2);
    options.quant_cache_max_bytes = 2 * (size_t)size_of(old.path);
    run("touch -d '2001-02-03' %s", other.path);
    flip_bit(weights(), size_of(weights()) - 400);
    start_with_seed(REBUILT, 2);
    cr_assert(access(other.path, F_OK) == 0 && access(old.path, F_OK) != 0);
    cr_assert_eq(count_files(".safetensors"), 2);
}

/* No start costs a cached model unless it leaves one. */
Test(model_cache, a_write_that_fails_or_is_stopped_removes_nothing)
{
    options.quant.method = QUANT_ANY4_PAPER;
    const struct start second = start_with_seed(MISS, 2), first = start_with_seed(MISS, 1);
    options.quant_cache_max_bytes = (size_t)size_of(first.path);
    run("rm %s && mkdir %s", second.path, second.path); /* no file takes a folder's place */
    options.quant.seed = 2;
    cr_assert_neq(start().status, STATUS_OK);
    cr_assert(access(first.path, F_OK) == 0);
    run("rmdir %s", second.path);
    for (uint64_t seed = 3; seed < 23; seed++) {
        struct engine *engine;
        options.quant.seed = seed;
        cr_assert_eq(engine_open(&engine, &options, &err), STATUS_OK, "%s", err.message);
        engine_close(engine); /* stops the writer where it is */
        cr_assert_eq(count_files(".safetensors"), 1);
    }
}

Test(model_cache, a_model_above_the_limit_is_served_without)
{
    struct start first = expect(MISS, NULL);
    options.quant.method = QUANT_INT8;
    options.quant_cache_max_bytes = 1000;
    struct start s = start();
    cr_assert_str_eq(s.state, MISS);
    cr_assert_eq(s.status, STATUS_INVALID);
    cr_assert(strstr(s.reason, "quant_cache_max_bytes allows 1000"), "%s", s.reason);
    cr_assert_eq(count_files(".safetensors"), 1); /* nothing had to go for what does not fit anyway */
    cr_assert(access(first.path, F_OK) == 0);
}

Test(model_cache, damage_is_found_and_mended)
{
    struct start first = expect(MISS, NULL);
    off_t size = size_of(first.path);
    const off_t places[] = {3, 100, size / 2, size - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        flip_bit(first.path, places[i]);
        struct start again = expect(REBUILT, &first);
        cr_assert(strstr(again.reason, first.path), "%s", again.reason);
        expect(HIT, &first);
    }
    cr_assert_eq(truncate(first.path, size - 4096), 0);
    expect(REBUILT, &first);
    cr_assert_eq(truncate(first.path, 0), 0);
    expect(REBUILT, &first);
    run("rm %s", first.path);
    expect(MISS, &first);
    expect(HIT, &first);
    cr_assert_eq(count_files(".safetensors"), 1);
}

Test(model_cache, a_damaged_note_is_none)
{
    char note[300];
    struct start first = expect(MISS, NULL);
    DIR *dir = opendir(folder);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (strstr(entry->d_name, ".source")) {
            snprintf(note, sizeof note, "%s/%.100s", folder, entry->d_name);
        }
    }
    closedir(dir);
    for (off_t at = 0, size = size_of(note); at < size; at += 5) {
        flip_bit(note, at);
        expect(HIT, &first);
        cr_assert_eq(size_of(note), size);
    }
    cr_assert_eq(truncate(note, 50), 0);
    expect(HIT, &first);
    run("echo >> %s", note);
    expect(HIT, &first);
}

Test(model_cache, a_well_made_file_of_another_shape_is_refused)
{
    struct start first = expect(MISS, NULL);
    struct cache_label label = {.model = "", .settings = ""};
    const char *key = strchr(strrchr(first.path, '/'), '-') + 1;
    snprintf(label.key, sizeof label.key, "%.32s", key);
    snprintf(label.content, sizeof label.content, "%.32s", key + 33);
    for (int change = 0; change < 2; change++) {
        struct cache *cache;
        struct cache_entry entries[200];
        size_t n_bytes;
        cr_assert_eq(cache_open(&cache, first.path, label.key, label.content, NULL, &err), STATUS_OK, "%s",
                     err.message);
        int64_t n = cache_n_entries(cache);
        cr_assert(n > 3 && n < 200);
        for (int64_t i = 0; i < n; i++) {
            entries[i] = *cache_at(cache, i);
        }
        entries[2].matrix.n_rows -= change; /* one row short, or one matrix missing */
        entries[2].stats.worst_row = 0;
        cr_assert_eq(cache_write(first.path, &label, entries, change ? n : n - 1, NULL, &n_bytes, &err),
                     STATUS_OK, "%s", err.message);
        cache_close(cache);
        struct start again = expect(REBUILT, &first);
        cr_assert(strstr(again.reason, "of the model's shape"), "%s", again.reason);
        expect(HIT, &first);
    }
}

Test(model_cache, serves_without_where_it_cannot_write)
{
    static char in_file[200], long_path[5000];
    run("touch %s/file", root);
    snprintf(in_file, sizeof in_file, "%s/file/cache", root);
    options.quant_cache = in_file;
    struct start s = start();
    cr_assert(!strcmp(s.state, MISS) && s.status == STATUS_IO);
    cr_assert(strstr(s.reason, "/file"), "%s", s.reason);
    memset(long_path, 'x', sizeof long_path - 1);
    options.quant_cache = long_path;
    s = start();
    cr_assert(!strcmp(s.state, OFF));
}

Test(model_cache, closing_at_once_stops_the_writer)
{
    struct engine *engine;
    for (int i = 0; i < 20; i++) {
        cr_assert_eq(engine_open(&engine, &options, &err), STATUS_OK, "%s", err.message);
        usleep((useconds_t)(i * 200));
        engine_close(engine);
        cr_assert_eq(count_files(".tmp"), 0);
    }
    struct start s = start();
    cr_assert(!strcmp(s.state, MISS) || !strcmp(s.state, HIT));
    expect(HIT, &s);
}

/* A device has its own copy: here the weights go when the file has them, whichever comes first. */
Test(model_cache, weights_are_freed_once_they_are_written)
{
    for (int late = 0; late < 2; late++) {
        struct model *loaded;
        struct engine_cache_result result;
        options.quant.seed = (uint64_t)late;
        options.quant.method = QUANT_ANY4_PAPER;
        cr_assert_eq(model_bind(&loaded, &options, &err), STATUS_OK, "%s", err.message);
        cr_assert_eq(loader_run(loaded, &options, NULL, &err), STATUS_OK, "%s", err.message);
        model_cache_start_write(loaded->cache);
        if (late) {
            model_cache_wait(loaded->cache, NULL);
        }
        cr_assert(!late || loaded->linears[0].memory);
        model_cache_release_weights(loaded->cache, loaded);
        model_cache_wait(loaded->cache, &result);
        cr_assert_eq(result.status, STATUS_OK, "%s", result.message);
        for (int64_t i = 0; i < loaded->n_linears; i++) {
            const struct linear *linear = &loaded->linears[i];
            cr_assert(!linear->memory && (!linear->quantize || !linear->w.codes), "%s", linear->name);
            cr_assert_gt(linear->w.n_rows, 0);
        }
        model_close(loaded);
        expect(HIT, NULL);
    }
}

/* Freed as well when nothing comes of the file, when there is none to write, and when the model goes first.
 */
Test(model_cache, weights_are_freed_whatever_becomes_of_the_file)
{
    struct start first = expect(MISS, NULL);
    for (int how = 0; how < 4; how++) {
        struct model *loaded;
        options.quant.seed = (uint64_t)how;
        options.quant.method = how ? QUANT_ANY4_PAPER : QUANT_ANY4; /* 0: a hit */
        options.quant_cache_max_bytes = how == 1 ? 1000 : 0;        /* too little */
        options.quant_cache = how == 2 ? NULL : folder;             /* off */
        cr_assert_eq(model_bind(&loaded, &options, &err), STATUS_OK, "%s", err.message);
        cr_assert_eq(loader_run(loaded, &options, NULL, &err), STATUS_OK, "%s", err.message);
        model_cache_start_write(loaded->cache);
        model_cache_release_weights(loaded->cache, loaded);
        if (how < 3) { /* 3: closed while it is written */
            model_cache_wait(loaded->cache, NULL);
            for (int64_t i = 0; i < loaded->n_linears; i++) {
                cr_assert(!loaded->linears[i].memory, "%d: %s", how, loaded->linears[i].name);
            }
        }
        model_close(loaded);
    }
    options.quant.seed = 0;
    options.quant.method = QUANT_ANY4;
    options.quant_cache = folder;
    expect(HIT, &first);
}
