/* Which width each linear gets so that all together stay within a budget of bits. */
#ifndef ENGINE_WIDTHS_H
#define ENGINE_WIDTHS_H

#include <stdbool.h>
#include <stdint.h>

#include "quant/quantize.h"

enum { N_WIDTHS = 4 };
extern const enum quant_method widths[N_WIDTHS]; /* from few bits to many */

/* What a linear costs and loses at each width. */
struct width_costs {
    double bits[N_WIDTHS]; /* all of them, ascending */
    double loss[N_WIDTHS]; /* to be added up over linears */
};

/* Starts with everything at the fewest bits and raises, again and again, what loses the most per bit that is
 * still within the budget. chosen: (n) indices of widths. False: the fewest bits are too many. The result
 * depends on the arguments alone; of equally good steps the first linear's is taken. */
bool widths_choose(int32_t *chosen, const struct width_costs *costs, int64_t n, double budget);

#endif
