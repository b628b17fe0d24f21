/* See charsmap_check.h. The unit format is that of Darts-clone (double-array trie): a search stands at unit p
 * with base b = p ^ offset(unit[p]); byte c leads to unit[b ^ c] if its label is c; a unit with the leaf bit
 * has its value in unit[b]. So every base in reach must have all of b ^ 0..255 inside the array, every value
 * must point at a terminated replacement, and no path may meet more leaves than the library's table of 32
 * results holds: it trusts the number that the search returns. A builder makes an array without cycles; one
 * with a cycle is refused. */
#include "tokenizer/charsmap_check.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/model_check.h"

enum { MAX_LEAVES_ON_PATH = 32 };

struct map {
    const unsigned char *units;
    uint32_t n_units;
    const char *replacements;
    size_t n_replacement_bytes;
    size_t max_replacement_bytes;
    const char *reason;
};

struct frame {
    uint32_t unit, base;
    uint16_t label;  /* the next one to try, 256: done */
    uint8_t n_below; /* the most leaves on a path that begins at a child */
    bool is_leaf;
};

static uint32_t unit_at(const struct map *map, uint32_t index)
{
    const unsigned char *p = map->units + 4 * (size_t)index;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Steps onto a unit: its base in range, its value sound. */
static bool unit_enter(struct map *map, uint32_t index, struct frame *frame)
{
    uint32_t unit = unit_at(map, index);
    uint32_t base = index ^ (unit >> 10) << ((unit & (1u << 9)) >> 6);
    *frame = (struct frame){.unit = index, .base = base, .is_leaf = (unit >> 8 & 1u) != 0};
    if ((base | 0xffu) >= map->n_units) {
        map->reason = "leads outside its trie";
        return false;
    }
    if (frame->is_leaf) {
        uint32_t value = unit_at(map, base) & 0x7fffffffu;
        if (value >= map->n_replacement_bytes) {
            map->reason = "points outside its replacements";
            return false;
        }
        size_t length = strlen(map->replacements + value); /* the last byte is NUL */
        if (length > MODEL_MAX_REPLACEMENT_BYTES) {
            map->reason = "has a replacement longer than 256 bytes";
            return false;
        }
        if (length > map->max_replacement_bytes) {
            map->max_replacement_bytes = length;
        }
    }
    return true;
}

/* Depth first over the units in reach, each entered once. leaves[unit]: 0 not seen, OPEN on the way down to
 * here, else 1 + the most leaves on any path that begins there. stack has a place for every unit. */
static bool units_walk(struct map *map, uint8_t *leaves, struct frame *stack)
{
    enum { OPEN = 255, N_LABELS = 256 };
    size_t depth = 1;
    if (!unit_enter(map, 0, &stack[0])) {
        return false;
    }
    leaves[0] = OPEN;
    while (depth) {
        struct frame *top = &stack[depth - 1];
        if (top->label == N_LABELS) {
            unsigned n_leaves = top->n_below + (unsigned)top->is_leaf;
            if (n_leaves > MAX_LEAVES_ON_PATH) {
                map->reason = "has more than 32 rules that begin one another";
                return false;
            }
            leaves[top->unit] = (uint8_t)(n_leaves + 1);
            depth--;
            if (depth && stack[depth - 1].n_below < n_leaves) {
                stack[depth - 1].n_below = (uint8_t)n_leaves;
            }
            continue;
        }
        uint32_t label = top->label++;
        uint32_t child = top->base ^ label;
        if ((unit_at(map, child) & (0x80000000u | 0xffu)) != label) {
            continue;
        }
        if (leaves[child] == OPEN) {
            map->reason = "has a cycle in its trie";
            return false;
        }
        if (leaves[child]) {
            if (top->n_below < leaves[child] - 1) {
                top->n_below = (uint8_t)(leaves[child] - 1);
            }
            continue;
        }
        if (!unit_enter(map, child, &stack[depth])) {
            return false;
        }
        leaves[child] = OPEN;
        depth++;
    }
    return true;
}

enum status charsmap_check(const unsigned char *bytes, size_t n_bytes, size_t *max_replacement_bytes,
                           const char **reason)
{
    *max_replacement_bytes = 0;
    if (!n_bytes) {
        return STATUS_OK;
    }
    if (n_bytes > MODEL_MAX_CHARSMAP_BYTES) {
        *reason = "is larger than 4 MiB";
        return STATUS_BAD_MODEL;
    }
    uint32_t trie_bytes = 0;
    for (size_t i = 0; i < 4 && n_bytes >= 4; i++) {
        trie_bytes |= (uint32_t)bytes[i] << (8 * i);
    }
    if (n_bytes < 4 || trie_bytes % 4 || trie_bytes < 4 || trie_bytes >= n_bytes - 4 || bytes[n_bytes - 1]) {
        *reason = "is cut off";
        return STATUS_BAD_MODEL;
    }
    struct map map = {.units = bytes + 4,
                      .n_units = trie_bytes / 4,
                      .replacements = (const char *)bytes + 4 + trie_bytes,
                      .n_replacement_bytes = n_bytes - 4 - trie_bytes};
    uint8_t *leaves = calloc(map.n_units, sizeof *leaves);
    struct frame *stack = malloc(map.n_units * sizeof *stack);
    enum status status = STATUS_OK;
    if (!leaves || !stack) {
        status = STATUS_NO_MEMORY;
    } else if (!units_walk(&map, leaves, stack)) {
        status = STATUS_BAD_MODEL;
        *reason = map.reason;
    }
    free(leaves);
    free(stack);
    *max_replacement_bytes = map.max_replacement_bytes;
    return status;
}
