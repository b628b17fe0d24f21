/* json_parse: whatever it accepts can be printed by cJSON and read again into an equal tree; what it refuses
 * leaves no tree and gives a reason. */
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <string.h>

#include "engine/base/json.h"

/* cJSON 1.7.15 prints numbers next to DBL_MAX with 15 digits, which may round up to infinity, and compares
 * within one epsilon: such numbers are left out of the comparison. Exact integers must come back exactly. */
static bool printable(const cJSON *item)
{
    if (cJSON_IsNumber(item) && fabs(item->valuedouble) > 1.7e308) {
        return false;
    }
    for (const cJSON *child = item->child; child; child = child->next) {
        if (!printable(child)) {
            return false;
        }
    }
    return true;
}

static void check_integers(const cJSON *item)
{
    int64_t value;
    if (cJSON_IsNumber(item) && json_int64(item, &value)) {
        FUZZ_CHECK((double)value == item->valuedouble);
    }
    for (const cJSON *child = item->child; child; child = child->next) {
        check_integers(child);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct json_limits limits = {.max_depth = 64, .max_nodes = 4096};
    struct error err = {0};
    cJSON *tree = NULL, *again = NULL;
    enum json_fault fault = json_parse(&tree, (const char *)data, size, &limits, &err);
    FUZZ_CHECK((fault == JSON_OK) == (tree != NULL));
    if (fault) {
        FUZZ_CHECK(err.status != STATUS_OK && err.message[0]);
        return 0;
    }
    check_integers(tree);
    if (printable(tree)) {
        char *text = cJSON_PrintUnformatted(tree);
        FUZZ_CHECK(text);
        FUZZ_CHECK(json_parse(&again, text, strlen(text), &limits, &err) == JSON_OK);
        FUZZ_CHECK(cJSON_Compare(tree, again, true));
        cJSON_free(text);
    }
    cJSON_Delete(again);
    cJSON_Delete(tree);
    return 0;
}
