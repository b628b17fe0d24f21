/* What the processor can run: the only place that asks. The public half (cpu_flags_detect, cpu_flags_parse)
 * is declared in kernels.h. */
#ifndef KERNELS_CPU_FEATURES_H
#define KERNELS_CPU_FEATURES_H

#include "kernels/kernels.h"

/* The flags out of `allowed` that may run here. A set whose kernels this build lacks is never among them. */
unsigned cpu_flags_usable(unsigned allowed);

#endif
