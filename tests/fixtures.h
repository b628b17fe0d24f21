/* Where tests find data that is not in the repository: ANY4_FIXTURES, else ../shared/fixtures beside the
 * source root. Tests pass without it, and say loudly what they skipped. Plain header: usable with and without
 * Criterion. */
#ifndef TESTS_FIXTURES_H
#define TESTS_FIXTURES_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Writes the full path of a fixture (e.g. "stories260K/config.json") and tells whether it is there. */
static inline bool fixture_path(char *out, size_t size, const char *name)
{
    const char *base = getenv("ANY4_FIXTURES");
    const char *source = getenv("ANY4_SOURCE_ROOT");
    if (base && *base) {
        snprintf(out, size, "%s/%s", base, name);
    } else {
        snprintf(out, size, "%s/../shared/fixtures/%s", source && *source ? source : ".", name);
    }
    if (access(out, R_OK) == 0) {
        return true;
    }
    fprintf(stderr, "\n*** SKIPPED: fixture %s not found (set ANY4_FIXTURES) ***\n", out);
    return false;
}

#endif
