/* Scaling of channels (AWQ: Lin et al., 2023): columns of linears behind one norm are multiplied by powers of
 * two, the norm's gains divided by them. The model's answers stay as they are, bit for bit in floats;
 * channels with large inputs get finer weights at the cost of others. Which powers: the second moments of the
 * inputs to an exponent, the one of a few that loses least. */
#ifndef ENGINE_CHANNEL_SCALING_H
#define ENGINE_CHANNEL_SCALING_H

#include <stdint.h>

#include "engine/base/status.h"
#include "quant/quantize.h"

/* second^(exponent / 2), all of them divided by their geometric mean, rounded to powers of two from 2^-16 to
 * 2^16. */
void channel_scales(float *scales, const float *second, int32_t n, double exponent);

/* *loss when columns are multiplied by the scales that stand in channel_scaling_choose's array; moments: of
 * inputs divided by them. */
typedef enum status channel_loss_fn(void *context, double *loss, const struct quant_moments *moments,
                                    struct error *err);

/* Fills scales (n) by the exponent of 0 (all 1), 0.25, 0.5, 0.75 and 1 with the smallest loss, the first of
 * equals. Failures of the loss are handed through. */
enum status channel_scaling_choose(float *scales, const struct quant_moments *moments, int32_t n,
                                   channel_loss_fn *loss, void *context, struct error *err);

#endif
