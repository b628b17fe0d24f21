/* The per-row headers, read by a C++17 compiler. */
#include "quant/exact.h"
#include "quant/row.h"

void row_cxx_check(struct learn_row *row, struct row_scratch *scratch);
void row_cxx_check(struct learn_row *row, struct row_scratch *scratch)
{
    learn_peak_tile(row->scale, row->w, row->group_size);
    learn_start_table(row, learn_split_tile);
    row_sort(scratch, 1);
}
