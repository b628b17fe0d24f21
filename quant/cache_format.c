/* The arrays of each kind of matrix, and which numbers a matrix may have. */
#include "quant/cache_format.h"

const char *const cache_kinds[] = {[ANY4_F32] = "f32",
                                   [ANY4_F16] = "f16",
                                   [ANY4_BF16] = "bf16",
                                   [ANY4_LUT] = "lut",
                                   [ANY4_LUT_INT8] = "lut_int8",
                                   [ANY4_LINEAR] = "linear",
                                   NULL};
const char *const cache_layouts[] = {
    [ANY4_LAYOUT_ROW_MAJOR] = "row_major", [ANY4_LAYOUT_CPU_V1] = "cpu_v1", NULL};

static bool is_stored(enum any4_kind kind)
{
    return kind == ANY4_F32 || kind == ANY4_F16 || kind == ANY4_BF16;
}

size_t cache_row_bytes(const struct any4_matrix *m)
{
    if (is_stored(m->kind)) {
        return (size_t)m->n_cols * (m->kind == ANY4_F32 ? 4 : 2);
    }
    size_t n_blocks = ((size_t)m->n_cols + ANY4_BLOCK_COLS - 1) / ANY4_BLOCK_COLS;
    return n_blocks * any4_block_bytes(m->code_bits);
}

static void add(struct cache_array *out, int32_t *n, const struct any4_matrix *m, const char *name,
                const char *dtype, size_t element_bytes, int64_t n_cols, size_t offset)
{
    out[(*n)++] =
        (struct cache_array){name, dtype, n_cols, (size_t)m->n_rows * (size_t)n_cols * element_bytes, offset};
}

int32_t cache_arrays(struct cache_array out[CACHE_MAX_ARRAYS], const struct any4_matrix *m, bool with_zeros)
{
    int64_t n_table = (int64_t)1 << m->code_bits;
    int32_t n = 0;
    if (is_stored(m->kind)) {
        add(out, &n, m, "weight",
            m->kind == ANY4_F32   ? "F32"
            : m->kind == ANY4_F16 ? "F16"
                                  : "BF16",
            m->kind == ANY4_F32 ? 4 : 2, m->n_cols, offsetof(struct any4_matrix, codes));
        return n;
    }
    add(out, &n, m, "codes", "U8", 1, (int64_t)m->row_bytes, offsetof(struct any4_matrix, codes));
    if (m->kind == ANY4_LUT_INT8) {
        add(out, &n, m, "group_scales", "I8", 1, m->n_groups, offsetof(struct any4_matrix, group_scales));
        add(out, &n, m, "table", "I8", 1, n_table, offsetof(struct any4_matrix, table));
        add(out, &n, m, "row_scales", "F32", 4, 1, offsetof(struct any4_matrix, row_scales));
        return n;
    }
    add(out, &n, m, "scales", "BF16", 2, m->n_groups, offsetof(struct any4_matrix, scales));
    if (with_zeros) {
        add(out, &n, m, "zeros", "BF16", 2, m->n_groups, offsetof(struct any4_matrix, zeros));
    }
    if (m->kind == ANY4_LUT) {
        add(out, &n, m, "lut", "BF16", 2, n_table, offsetof(struct any4_matrix, lut));
    }
    return n;
}

const char *cache_shape_fault(const struct any4_matrix *m)
{
    enum { WIDEST_TABLE = 4, LINEAR_BITS = 8 };
    if (m->n_rows < 1 || m->n_cols < 1) {
        return "it is empty";
    }
    if (is_stored(m->kind)) {
        return m->layout != ANY4_LAYOUT_ROW_MAJOR             ? "stored weights are row by row"
               : m->code_bits || m->group_size || m->n_groups ? "stored weights have no codes"
               : m->row_bytes != cache_row_bytes(m)           ? "its rows are not dense"
                                                              : NULL;
    }
    if (m->layout != ANY4_LAYOUT_CPU_V1) {
        return "codes are kept in the layout of the CPU";
    }
    if (m->kind == ANY4_LINEAR ? m->code_bits != LINEAR_BITS
                               : m->code_bits < 2 || m->code_bits > WIDEST_TABLE) {
        return "its codes have an impossible width";
    }
    if (m->group_size != 32 && m->group_size != 64 && m->group_size != 128) {
        return "its group size is none of 32, 64, 128";
    }
    if (m->n_groups != ((int64_t)m->n_cols + m->group_size - 1) / m->group_size) {
        return "its groups do not cover its columns";
    }
    return m->row_bytes < cache_row_bytes(m) ? "its rows of codes are too short" : NULL;
}
