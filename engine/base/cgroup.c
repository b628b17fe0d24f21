/* Control groups: reads limits, sets nothing. */
#include "engine/base/cgroup.h"

#include <float.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 1200 };

static bool read_line(char *line, size_t size, const char *folder, const char *name)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    bool found = file && fgets(line, (int)size, file);
    if (file) {
        fclose(file);
    }
    return found;
}

/* A number of bytes in a file of its own; UINT64_MAX for "max", or where it cannot be read. */
static uint64_t read_bytes(const char *folder, const char *name)
{
    char line[64];
    unsigned long long value;
    return read_line(line, sizeof line, folder, name) && sscanf(line, "%llu", &value) == 1 ? value
                                                                                           : UINT64_MAX;
}

/* The value behind a key of memory.stat, 0 where it is missing. */
static uint64_t read_stat(const char *folder, const char *key)
{
    char path[PATH_BYTES], line[128];
    unsigned long long value = 0;
    size_t length = strlen(key);
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) == 0 && line[length] == ' ') {
            value = strtoull(line + length, NULL, 10);
            break;
        }
    }
    if (file) {
        fclose(file);
    }
    return value;
}

/* This process's v2 group below the mount point, such as "/a/b"; "" for the root. */
static void own_group(char *group, size_t size)
{
    char line[1024];
    FILE *file = fopen("/proc/self/cgroup", "re");
    group[0] = '\0';
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, "0::/", 4) == 0) {
            line[strcspn(line, "\n")] = '\0';
            snprintf(group, size, "%s", strcmp(line + 3, "/") == 0 ? "" : line + 3);
        }
    }
    if (file) {
        fclose(file);
    }
}

/* Calls visit with the folder of each v2 group from this process's own to the root. */
static void walk_groups(void (*visit)(const char *folder, void *context), void *context)
{
    char group[1024], folder[1100];
    own_group(group, sizeof group);
    for (;;) {
        snprintf(folder, sizeof folder, "/sys/fs/cgroup%s", group);
        visit(folder, context);
        char *slash = strrchr(group, '/');
        if (!slash) {
            return;
        }
        *slash = '\0';
    }
}

static void visit_cpu(const char *folder, void *context)
{
    double quota, period, *smallest = context;
    char line[128];
    if (read_line(line, sizeof line, folder, "cpu.max") && sscanf(line, "%lf %lf", &quota, &period) == 2 &&
        period > 0 && quota / period < *smallest) {
        *smallest = quota / period;
    }
}

double cgroup_cpu_quota(void)
{
    double smallest = DBL_MAX;
    char quota_line[64], period_line[64];
    walk_groups(visit_cpu, &smallest);
    if (read_line(quota_line, sizeof quota_line, "/sys/fs/cgroup/cpu", "cpu.cfs_quota_us") &&
        read_line(period_line, sizeof period_line, "/sys/fs/cgroup/cpu", "cpu.cfs_period_us")) {
        double quota = strtod(quota_line, NULL), period = strtod(period_line, NULL);
        if (quota > 0 && period > 0 && quota / period < smallest) {
            smallest = quota / period;
        }
    }
    return smallest;
}

static void take_smaller(size_t *left, uint64_t limit, uint64_t used, uint64_t droppable)
{
    if (limit == UINT64_MAX) {
        return;
    }
    used = used == UINT64_MAX ? 0 : used;
    used -= droppable < used ? droppable : used;
    uint64_t here = limit > used ? limit - used : 0;
    *left = here < *left ? (size_t)here : *left;
}

static void visit_memory(const char *folder, void *context)
{
    take_smaller(context, read_bytes(folder, "memory.max"), read_bytes(folder, "memory.current"),
                 read_stat(folder, "inactive_file") + read_stat(folder, "active_file"));
}

size_t cgroup_memory_left(void)
{
    static const char v1[] = "/sys/fs/cgroup/memory";
    size_t left = SIZE_MAX;
    walk_groups(visit_memory, &left);
    take_smaller(&left, read_bytes(v1, "memory.limit_in_bytes"), read_bytes(v1, "memory.usage_in_bytes"),
                 read_stat(v1, "total_inactive_file") + read_stat(v1, "total_active_file"));
    return left;
}
