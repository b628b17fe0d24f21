#include "engine/widths.h"

const enum quant_method widths[N_WIDTHS] = {QUANT_ANY2, QUANT_ANY3, QUANT_ANY4, QUANT_INT8};

bool widths_choose(int32_t *chosen, const struct width_costs *costs, int64_t n, double budget)
{
    double used = 0;
    for (int64_t i = 0; i < n; i++) {
        chosen[i] = 0;
        used += costs[i].bits[0];
    }
    if (used > budget) {
        return false;
    }
    for (;;) {
        double best = 0;
        int64_t at = -1;
        int32_t width = 0;
        for (int64_t i = 0; i < n; i++) {
            const struct width_costs *c = &costs[i];
            for (int32_t k = chosen[i] + 1; k < N_WIDTHS; k++) {
                double more = c->bits[k] - c->bits[chosen[i]];
                double gain = (c->loss[chosen[i]] - c->loss[k]) / more;
                if (more > 0 && used + more <= budget && gain > best) {
                    best = gain;
                    at = i;
                    width = k;
                }
            }
        }
        if (at < 0) {
            return true;
        }
        used += costs[at].bits[width] - costs[at].bits[chosen[at]];
        chosen[at] = width;
    }
}
