#include "engine/channel_scaling.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_POWER = 16 };

void channel_scales(float *scales, const float *second, int32_t n, double exponent)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += log2((double)second[i]);
    }
    for (int32_t i = 0; i < n; i++) {
        double power = round(exponent / 2 * (log2((double)second[i]) - sum / n));
        scales[i] = ldexpf(1, (int)fmin(fmax(power, -MAX_POWER), MAX_POWER));
    }
}

enum status channel_scaling_choose(float *scales, const struct quant_moments *moments, int32_t n,
                                   channel_loss_fn *loss, void *context, struct error *err)
{
    static const double exponents[] = {0, 0.25, 0.5, 0.75, 1};
    const size_t n_exponents = sizeof exponents / sizeof exponents[0];
    enum status status = STATUS_OK;
    double least = 0;
    size_t best = 0;
    float *mean = malloc(2 * (size_t)n * sizeof *mean), *second = mean + n;
    if (!mean) {
        return error_set(err, STATUS_NO_MEMORY, "out of memory for scales of %d channels", n);
    }
    for (size_t e = 0; e < n_exponents && !status; e++) {
        double found = 0;
        channel_scales(scales, moments->second, n, exponents[e]);
        for (int32_t i = 0; i < n; i++) {
            mean[i] = moments->mean[i] / scales[i];
            second[i] = moments->second[i] / (scales[i] * scales[i]);
        }
        status = loss(context, &found, &(struct quant_moments){mean, second}, err);
        if (e == 0 || found < least) {
            least = found;
            best = e;
        }
    }
    channel_scales(scales, moments->second, n, exponents[best]);
    free(mean);
    return status;
}
