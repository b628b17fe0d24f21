/* Which instruction sets may run: the only place that asks the processor. On the floor because both the
 * kernels and the quantizer are built once per set. */
#ifndef ENGINE_BASE_CPU_FEATURES_H
#define ENGINE_BASE_CPU_FEATURES_H

#include "engine/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum cpu_flag {
    CPU_AVX2 = 1 << 0,   /* AVX2, FMA and F16C */
    CPU_AVX512 = 1 << 1, /* AVX-512 F, BW, DQ and VL (and all of CPU_AVX2) */
    CPU_ALL = (1 << 2) - 1,
};

/* What this processor and operating system support. */
unsigned cpu_flags_detect(void);
/* The flags out of `allowed` that may run here. A set that this build lacks is never among them. */
unsigned cpu_flags_usable(unsigned allowed);
/* "all", "scalar", or a comma list of "avx2", "avx512"; STATUS_INVALID names the unknown word. */
enum status cpu_flags_parse(unsigned *out, const char *text, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
