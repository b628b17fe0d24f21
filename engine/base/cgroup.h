/* What this process's control groups allow: the smallest limit on the way from its group to the root (v2), or
 * in the v1 hierarchies as containers see them. Without /proc and /sys there are no limits. */
#ifndef ENGINE_BASE_CGROUP_H
#define ENGINE_BASE_CGROUP_H

#include <stddef.h>

/* Processors' worth of time, such as 1.5; a very large number: no limit. */
double cgroup_cpu_quota(void);

/* Bytes that may still be taken before the memory limit, page cache that can be dropped not counted as taken;
 * SIZE_MAX: no limit. */
size_t cgroup_memory_left(void);

#endif
