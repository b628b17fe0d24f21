// Compiles the per-row algorithm as C++17; nothing runs.
#include "quant/row.h"

void row_cxx_check(const struct quant_row *row, struct row_scratch *scratch);
void row_cxx_check(const struct quant_row *row, struct row_scratch *scratch)
{
    row_quantize_any4(row, scratch);
}
