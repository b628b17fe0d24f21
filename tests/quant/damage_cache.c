/* Harm done to cache files: cut, flipped bits, writers killed, disks full. A plain main with counts, for the
 * quick suite and the long one: a damaged file is never opened, a file that was there stays whole, and
 * writing works again afterwards. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/quant/cache_matrices.h"

enum { CUT_STEP = 4096, FULL_DISK = 77 };

static char folder[64], path[512];
static struct matrices versions[2]; /* of the seeds 1 and 2 */
static int n_faults;
static uint64_t random_state = 20240607;

__attribute__((format(printf, 1, 2))) static void fault(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("FAULT: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    n_faults++;
}

/* Takes the C library's place, so that a disk can also become full in the middle of writing. */
static bool without_fallocate;

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    if (without_fallocate) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

static void must(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(2);
    }
}

/* A file of about so many bytes of matrices. */
static void make_version(struct matrices *version, uint64_t seed, size_t n_bytes)
{
    make_matrices(version, seed);
    for (size_t left = n_bytes; left > 700000 && version->n < MAX_MATRICES; left -= 700000) {
        add_matrix(version, ANY4_LUT_INT8, 1024, 1100, 4, 32, false, seed + left);
    }
}

static enum status open_version(int version, struct error *err)
{
    struct cache_label label = make_label((uint64_t)version + 1);
    struct cache *cache;
    enum status status = cache_open(&cache, path, label.key, label.content, NULL, err);
    if (!status) {
        const char *different = find_difference(cache, &versions[version]);
        if (different) {
            fault("%s was opened with %s changed", path, different);
        }
        cache_close(cache);
    }
    return status;
}

static void write_version(int version)
{
    struct error err;
    if (write_matrices(path, &versions[version], (uint64_t)version + 1, &err)) {
        fault("cannot write: %s", err.message);
    }
}

static void expect_whole(int version, const char *after)
{
    struct error err;
    if (open_version(version, &err)) {
        fault("after %s: %s", after, err.message);
    }
}

static size_t file_size(void)
{
    struct stat info;
    must(stat(path, &info) == 0, path);
    return (size_t)info.st_size;
}

/* ---- cut ---- */

static void check_cuts(size_t step)
{
    struct error err;
    write_version(0);
    size_t whole = file_size(), n = 0;
    char *bytes = malloc(whole);
    FILE *file = fopen(path, "rb");
    must(bytes && file && fread(bytes, 1, whole, file) == whole, path);
    fclose(file);
    for (size_t at = 0; at < whole; at += step, n++) {
        file = fopen(path, "wb");
        must(file && fwrite(bytes, 1, at, file) == at && fclose(file) == 0, path);
        if (open_version(0, &err) != STATUS_BAD_MODEL) {
            fault("cut at %zu of %zu: not refused", at, whole);
        }
    }
    for (size_t more = 1; more < 200; more += 62) { /* and grown */
        file = fopen(path, "wb");
        must(file && fwrite(bytes, 1, whole, file) == whole && fwrite(bytes, 1, more, file) == more &&
                 fclose(file) == 0,
             path);
        if (open_version(0, &err) != STATUS_BAD_MODEL) {
            fault("%zu bytes too long: not refused", more);
        }
    }
    free(bytes);
    write_version(0);
    expect_whole(0, "cuts and a new write");
    printf("%zu cuts of a file of %zu bytes: all refused\n", n, whole);
}

/* ---- bits ---- */

static void flip(int fd, uint64_t bit)
{
    unsigned char byte;
    must(pread(fd, &byte, 1, (off_t)(bit / 8)) == 1, "pread");
    byte ^= (unsigned char)(1u << bit % 8);
    must(pwrite(fd, &byte, 1, (off_t)(bit / 8)) == 1, "pwrite");
}

static void check_flip(int fd, uint64_t bit)
{
    struct error err;
    flip(fd, bit);
    if (open_version(0, &err) != STATUS_BAD_MODEL) {
        fault("bit %llu flipped: not refused", (unsigned long long)bit);
    }
    flip(fd, bit);
}

static void check_flips(long count)
{
    write_version(0);
    size_t size = file_size();
    int fd = open(path, O_RDWR);
    must(fd >= 0, path);
    /* The header is a small part of the file and its most delicate: a tenth of the flips go there. */
    for (long i = 0; i < count; i++) {
        uint64_t range = i % 10 ? size : 4096;
        check_flip(fd, rows_random(&random_state) % (8 * range));
    }
    for (uint64_t bit = 0; bit < 64; bit++) { /* the length, and the last checksum */
        check_flip(fd, bit);
        check_flip(fd, 8 * (uint64_t)size - 1 - bit);
    }
    close(fd);
    expect_whole(0, "flips taken back");
    printf("%ld random bits and 128 chosen ones flipped in %zu bytes: all refused\n", count, size);
}

/* ---- kill ---- */

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int count_whole(void)
{
    struct error err;
    for (int version = 0; version < 2; version++) {
        if (!open_version(version, &err)) {
            return 1;
        }
    }
    return 0;
}

/* A child that writes the two versions in turn is killed at a random moment. The file that stood there, or
 * the one that took its place, is whole. */
static void check_kills(long count)
{
    int n_leftovers = 0;
    write_version(0);
    double begin = seconds();
    write_version(1);
    double period = seconds() - begin;
    for (long i = 0; i < count; i++) {
        pid_t child = fork();
        must(child >= 0, "fork");
        if (child == 0) {
            for (int version = 0;; version = !version) {
                write_version(version);
            }
        }
        usleep((useconds_t)(1e6 * 3 * period * (double)(rows_random(&random_state) % 4096) / 4096));
        kill(child, SIGKILL);
        must(waitpid(child, NULL, 0) == child, "waitpid");
        n_leftovers += count_others(folder, "model.safetensors");
        if (!count_whole()) {
            fault("kill %ld: no whole file", i);
        }
        if (i % 10 == 9) {
            write_version((int)(i / 10 % 2));
            expect_whole((int)(i / 10 % 2), "a kill and a new write");
            if (count_others(folder, "model.safetensors")) {
                fault("kill %ld: a leftover stayed after a new write", i);
            }
        }
    }
    printf("%ld kills within 3 x %.1f ms: a whole file after each; %d leftovers met, removed by the next "
           "write\n",
           count, 1e3 * period, n_leftovers);
}

/* ---- full ---- */

/* In a child: the write fails, names the reason, leaves nothing, and the old file is whole. */
static void expect_no_room(const char *where, size_t limit, int reason)
{
    struct error err;
    enum status status = write_matrices(path, &versions[1], 2, &err);
    if (status != STATUS_IO || !strstr(err.message, strerror(reason))) {
        fault("%s of %zu bytes: status %d, %s", where, limit, (int)status, status ? err.message : "");
    }
    if (count_others(folder, "model.safetensors")) {
        fault("%s of %zu bytes: a leftover", where, limit);
    }
    expect_whole(0, where);
}

static int in_child(void (*run)(size_t), size_t argument)
{
    int code = 0;
    fflush(NULL);
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        n_faults = 0;
        run(argument);
        exit(n_faults ? 1 : 0);
    }
    must(waitpid(child, &code, 0) == child, "waitpid");
    return WIFEXITED(code) ? WEXITSTATUS(code) : 1;
}

static void write_under_limit(size_t limit)
{
    struct rlimit file_size_limit = {limit, limit};
    signal(SIGXFSZ, SIG_IGN); /* as the program does: the write's error tells */
    must(setrlimit(RLIMIT_FSIZE, &file_size_limit) == 0, "setrlimit");
    expect_no_room("a file size limit", limit, EFBIG);
}

/* A file system of our own that has room for the old file and so many bytes more. */
static void write_to_full_disk(size_t room)
{
    char options[64], command[2048];
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
        exit(FULL_DISK);
    }
    size_t old = (file_size() + 4095) / 4096 * 4096;
    snprintf(options, sizeof options, "size=%zu", old + room);
    snprintf(command, sizeof command,
             "cp %s %s/../any4-old && mount -t tmpfs -o %s none %s && mv %s/../any4-old %s", path, folder,
             options, folder, folder, path);
    if (system(command)) {
        exit(FULL_DISK);
    }
    expect_no_room("a full disk", room, ENOSPC);
}

static void check_full(void)
{
    int n_limits = 0, n_disks = 0;
    write_version(0);
    size_t size = file_size();
    const size_t limits[] = {0, 1, 4096, size / 3, size - 17};
    for (size_t i = 0; i < 2 * sizeof limits / sizeof *limits; i++) {
        size_t limit = limits[i / 2], room = limit > 8192 ? limit - 8192 : limit;
        without_fallocate = i % 2;
        n_faults += in_child(write_under_limit, limit) != 0;
        n_limits++;
        int code = n_disks < 0 ? 0 : in_child(write_to_full_disk, room);
        if (code == FULL_DISK) {
            fprintf(stderr, "\n*** SKIPPED: full disks (needs root and mounts) ***\n");
            n_disks = -1;
        } else if (n_disks >= 0) {
            n_faults += code != 0;
            n_disks++;
        }
    }
    without_fallocate = false;
    write_version(1);
    expect_whole(1, "full disks");
    printf("%d file size limits, %d full disks: nothing left behind, the old file whole\n", n_limits,
           n_disks);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"n-flips", required_argument, NULL, 'f'},
                                            {"n-kills", required_argument, NULL, 'k'},
                                            {"bytes", required_argument, NULL, 'b'},
                                            {NULL, 0, NULL, 0}};
    long n_flips = 500, n_kills = 5, n_bytes = 700001;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        long *count = option == 'f' ? &n_flips : option == 'k' ? &n_kills : option == 'b' ? &n_bytes : NULL;
        if (!count) {
            fprintf(stderr, "usage: %s [--n-flips N] [--n-kills N] [--bytes N]\n", argv[0]);
            return 2;
        }
        *count = strtol(optarg, NULL, 10);
    }
    strcpy(folder, "/tmp/any4-damage-XXXXXX");
    must(mkdtemp(folder) != NULL, folder);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    for (int version = 0; version < 2; version++) {
        make_version(&versions[version], (uint64_t)version + 1, (size_t)n_bytes);
    }
    check_cuts(CUT_STEP);
    check_flips(n_flips);
    check_full();
    check_kills(n_kills);
    for (int version = 0; version < 2; version++) {
        free_matrices(&versions[version]);
    }
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    must(system(command) == 0, command);
    return n_faults ? 1 : 0;
}
