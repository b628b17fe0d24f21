/* What is done to the server, one file a chapter. */
#ifndef TESTS_STRESS_PHASES_H
#define TESTS_STRESS_PHASES_H

#include "tests/stress/rig.h"

/* samples: settings->n_requests with the answers that they get alone. */
typedef void phase_fn(const struct settings *settings, struct sample *samples);
phase_fn phase_crowd, phase_small_cache, phase_full_queue; /* phase_load.c */
phase_fn phase_disconnects;                                /* phase_leave.c */
phase_fn phase_rudeness, phase_drain;                      /* phase_rude.c */

/* The signals that `any4 serve` waits for; must be blocked in every thread. */
void phases_block_signals(void);

#endif
