/* Stands in for libFuzzer where that is not built: runs every seed of a folder, then a fixed number of
 * mutations of them, the same ones each time. Usage: driver SEED_FOLDER [COUNT] */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <string.h>

enum { MAX_SEEDS = 64, MAX_BYTES = 1 << 16 };

struct seed {
    uint8_t *bytes;
    size_t size;
};

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static size_t random_below(size_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return n ? (size_t)(random_state % n) : 0;
}

static int compare_names(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int read_seeds(struct seed *seeds, const char *folder)
{
    struct dirent **entries;
    int n = scandir(folder, &entries, NULL, compare_names), n_seeds = 0;
    for (int i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        FILE *file = entries[i]->d_name[0] != '.' && n_seeds < MAX_SEEDS ? fopen(path, "rb") : NULL;
        free(entries[i]);
        if (file) {
            struct seed *seed = &seeds[n_seeds++];
            seed->bytes = malloc(MAX_BYTES);
            FUZZ_CHECK(seed->bytes);
            seed->size = fread(seed->bytes, 1, MAX_BYTES, file);
            fclose(file);
        }
    }
    if (n >= 0) {
        free(entries);
    }
    return n_seeds;
}

/* One change in place; the size never exceeds MAX_BYTES. */
static size_t mutate(uint8_t *bytes, size_t size, const struct seed *other)
{
    static const char marks[] = "{}[]\",:0123456789.-+eE\\u \x00\x80\xff";
    size_t at = random_below(size + 1), n = 1 + random_below(16), from;
    switch (random_below(6)) {
    case 0: /* a bit */
        if (at < size) {
            bytes[at] ^= (uint8_t)(1u << random_below(8));
        }
        return size;
    case 1: /* a byte that means something */
        if (at < size) {
            bytes[at] = (uint8_t)marks[random_below(sizeof marks - 1)];
        }
        return size;
    case 2: /* bytes taken out */
        n = n < size - at ? n : size - at;
        memmove(bytes + at, bytes + at + n, size - at - n);
        return size - n;
    case 3: /* bytes of another seed put in */
        from = random_below(other->size);
        n = n < other->size - from ? n : other->size - from;
        n = n < MAX_BYTES - size ? n : MAX_BYTES - size;
        memmove(bytes + at + n, bytes + at, size - at);
        memcpy(bytes + at, other->bytes + from, n);
        return size + n;
    case 4: /* bytes of another seed put over */
        from = random_below(other->size);
        n = n < other->size - from ? n : other->size - from;
        n = n < size - at ? n : size - at;
        memcpy(bytes + at, other->bytes + from, n);
        return size;
    default: /* cut */
        return random_below(8) ? size : at;
    }
}

int main(int argc, char **argv)
{
    static struct seed seeds[MAX_SEEDS];
    long count = argc > 2 ? strtol(argv[2], NULL, 10) : 20000;
    int n_seeds = argc > 1 ? read_seeds(seeds, argv[1]) : 0;
    if (n_seeds == 0) {
        fprintf(stderr, "usage: %s SEED_FOLDER [COUNT] (no seeds found)\n", argv[0]);
        return 2;
    }
    for (int i = 0; i < n_seeds; i++) {
        LLVMFuzzerTestOneInput(seeds[i].bytes, seeds[i].size);
    }
    uint8_t *work = malloc(MAX_BYTES);
    FUZZ_CHECK(work);
    for (long i = 0; i < count; i++) {
        const struct seed *seed = &seeds[random_below((size_t)n_seeds)];
        size_t size = seed->size;
        memcpy(work, seed->bytes, size);
        for (size_t n = 1 + random_below(6); n > 0; n--) {
            size = mutate(work, size, &seeds[random_below((size_t)n_seeds)]);
        }
        /* A block of exactly this size, so that sanitizers see a read behind its end. */
        uint8_t *exact = malloc(size ? size : 1);
        FUZZ_CHECK(exact);
        memcpy(exact, work, size);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    free(work);
    for (int i = 0; i < n_seeds; i++) {
        free(seeds[i].bytes);
    }
    printf("%d seeds and %ld mutations\n", n_seeds, count);
    return 0;
}
