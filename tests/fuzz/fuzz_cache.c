/* cache_parse: the input is a whole file; checksums are not looked at, or no mutation would come far. A file
 * is refused with its path named, or every array that quant/any4.h promises lies inside it and holds what it
 * may. */
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <string.h>

#include "engine/base/float16.h"
#include "quant/cache.h"
#include "quant/cache_format.h"

static void check_matrix(const struct any4_matrix *m, const uint8_t *file, size_t size)
{
    struct cache_array arrays[CACHE_MAX_ARRAYS];
    FUZZ_CHECK(!cache_shape_fault(m));
    int32_t n = cache_arrays(arrays, m, m->zeros != NULL);
    for (int32_t i = 0; i < n; i++) {
        const uint8_t *data;
        memcpy(&data, (const char *)m + arrays[i].offset, sizeof data);
        FUZZ_CHECK(data >= file && data <= file + size && arrays[i].n_bytes <= (size_t)(file + size - data));
        FUZZ_CHECK((uintptr_t)data % CACHE_ALIGNMENT == 0);
    }
    int32_t row = m->n_rows - 1, group = m->n_groups - 1;
    size_t last_scale = (size_t)row * (size_t)m->n_groups + (size_t)group;
    if (m->kind == ANY4_LUT_INT8) {
        FUZZ_CHECK(isfinite(m->row_scales[row]) && m->row_scales[row] >= 0);
        FUZZ_CHECK(m->group_scales[last_scale] >= -127 && m->table[(size_t)row << m->code_bits] >= -127);
    } else if (m->scales) {
        FUZZ_CHECK(isfinite(bf16_to_f32(m->scales[last_scale])));
        FUZZ_CHECK(!m->zeros || isfinite(bf16_to_f32(m->zeros[last_scale])));
        FUZZ_CHECK(!m->lut || isfinite(bf16_to_f32(m->lut[(size_t)row << m->code_bits])));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cache *cache;
    struct error err = {0};
    /* Aligned as a mapped file, and nothing behind its end that could be read. */
    uint8_t *file = NULL;
    FUZZ_CHECK(posix_memalign((void **)&file, CACHE_ALIGNMENT, size + 1) == 0);
    memcpy(file, data, size);
    enum status status = cache_parse(&cache, file, size, "cache/model.safetensors", &err);
    FUZZ_CHECK((status == STATUS_OK) == (cache != NULL));
    if (status) {
        FUZZ_CHECK(status == STATUS_BAD_MODEL && strstr(err.message, "cache/model.safetensors"));
    } else {
        for (int64_t i = 0; i < cache_n_entries(cache); i++) {
            const struct cache_entry *entry = cache_at(cache, i);
            FUZZ_CHECK(cache_find(cache, entry->name) == entry);
            check_matrix(&entry->matrix, file, size);
        }
        cache_close(cache);
    }
    free(file);
    return 0;
}
