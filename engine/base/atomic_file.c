/* Temporary names, locks, leftovers. */
#include "engine/base/atomic_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NUMBER_DIGITS = 16, TRIES = 16 };

#define PREFIX ".any4-"
#define SUFFIX ".tmp"

/* The folder of a path, "." where it has none; false when it is too long. */
static bool folder_of(char out[ATOMIC_FILE_PATH_BYTES], const char *path)
{
    const char *slash = strrchr(path, '/');
    int n = !slash          ? snprintf(out, ATOMIC_FILE_PATH_BYTES, ".")
            : slash == path ? snprintf(out, ATOMIC_FILE_PATH_BYTES, "/")
                            : snprintf(out, ATOMIC_FILE_PATH_BYTES, "%.*s", (int)(slash - path), path);
    return n > 0 && n < ATOMIC_FILE_PATH_BYTES;
}

static bool is_temporary(const char *name)
{
    const char *number = name + strlen(PREFIX);
    return strlen(name) == strlen(PREFIX) + NUMBER_DIGITS + strlen(SUFFIX) &&
           !strncmp(name, PREFIX, strlen(PREFIX)) && strspn(number, "0123456789abcdef") == NUMBER_DIGITS &&
           !strcmp(number + NUMBER_DIGITS, SUFFIX);
}

/* A temporary belongs to whoever holds its lock, and the system drops the lock with the process: one that can
 * be locked was left behind. Process ids would not do: containers share folders, not ids. */
static void remove_leftovers(const char *folder)
{
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (!is_temporary(entry->d_name)) {
            continue;
        }
        int fd = openat(dirfd(dir), entry->d_name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) {
            (void)unlinkat(dirfd(dir), entry->d_name, 0); /* tidiness only */
        }
        if (fd >= 0) {
            close(fd);
        }
    }
    if (dir) {
        closedir(dir);
    }
}

enum status atomic_file_open(struct atomic_file *file, const char *path, struct error *err)
{
    char folder[ATOMIC_FILE_PATH_BYTES];
    file->path = path;
    file->fd = -1;
    if (!folder_of(folder, path)) {
        return error_set(err, STATUS_INVALID, "%.200s...: path too long", path);
    }
    remove_leftovers(folder);
    for (int i = 0; i < TRIES; i++) {
        uint64_t number;
        struct stat info;
        if (getrandom(&number, sizeof number, 0) != sizeof number) {
            return error_set(err, STATUS_IO, "no random number for a file name: %s", strerror(errno));
        }
        int n = snprintf(file->temporary, sizeof file->temporary, "%s/" PREFIX "%0*" PRIx64 SUFFIX, folder,
                         (int)NUMBER_DIGITS, number);
        if (n < 0 || (size_t)n >= sizeof file->temporary) {
            return error_set(err, STATUS_INVALID, "%.200s...: path too long", folder);
        }
        file->fd = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (file->fd < 0 && errno != EEXIST) {
            return error_set(err, STATUS_IO, "%s: %s", folder, strerror(errno));
        }
        if (file->fd >= 0) {
            /* Before the lock another process may have taken it for a leftover: then it has no name any more.
             * Where there are no locks, nobody removes leftovers either. */
            (void)flock(file->fd, LOCK_EX);
            if (fstat(file->fd, &info) == 0 && info.st_nlink > 0) {
                return STATUS_OK;
            }
            close(file->fd);
            file->fd = -1;
        }
    }
    return error_set(err, STATUS_IO, "%s: no new file name found", folder);
}

void atomic_file_abandon(struct atomic_file *file)
{
    unlink(file->temporary);
    close(file->fd);
    file->fd = -1;
}

enum status atomic_file_write(struct atomic_file *file, const void *bytes, size_t n, struct error *err)
{
    const unsigned char *at = bytes;
    while (n) {
        ssize_t written = write(file->fd, at, n);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            return error_set(err, STATUS_IO, "%s: %s", file->temporary,
                             written ? strerror(errno) : "cannot be written");
        }
        at += written;
        n -= (size_t)written;
    }
    return STATUS_OK;
}

enum status atomic_file_commit(struct atomic_file *file, struct error *err)
{
    enum status status = STATUS_OK;
    char folder[ATOMIC_FILE_PATH_BYTES];
    if (fsync(file->fd)) {
        status = error_set(err, STATUS_IO, "%s: %s", file->temporary, strerror(errno));
    } else if (rename(file->temporary, file->path)) {
        status = error_set(err, STATUS_IO, "%s: %s", file->path, strerror(errno));
    }
    if (status) {
        atomic_file_abandon(file);
        return status;
    }
    close(file->fd);
    file->fd = -1;
    /* The name is safe with its folder only. Where a file system cannot sync one, the name may be lost with
     * the power, never the content behind it. */
    int fd = folder_of(folder, file->path) ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    return STATUS_OK;
}
