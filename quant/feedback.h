/* Error feedback: the learned table of quant/learn.h, with codes and group scales chosen so that the error of
 * one column is made good by the columns behind it (GPTQ: Frantar et al., 2022; in the form of QuIP's LDLQ,
 * Chee et al., 2023, which gives the same result without inverting a matrix).
 *
 * Minimised per row is the expected squared error of the product, e A e^T with e = w_hat - w and
 * A = E[x x^T] + damping: the whole second moment of the inputs, where quant_matrix knows its diagonal only.
 * With A = U D U^T, U upper triangular with ones on its diagonal,
 *     e A e^T = sum over k of D_k (w_hat_k - t_k)^2,  t_k = w_k - sum over j < k of e_j U_jk:
 * going through the columns in order and taking the level nearest to t_k each time is the feedback. Then
 * rounds over the columns take the level that is best given all the others, before and behind: the loss never
 * rises. Group scales are tried with the feedback inside the group at work. The row's table and scale stay as
 * quant_matrix learns them with the diagonal of A. */
#ifndef QUANT_FEEDBACK_H
#define QUANT_FEEDBACK_H

#include "quant/quantize.h"

/* Of the mean of E[x x^T]'s diagonal, added to the diagonal. */
#define FEEDBACK_DAMPING 0.01f

struct feedback;

/* Whether a method's tables can be fed back into: those of any4, any3 and any2. */
bool feedback_takes(enum quant_method method);

/* Bytes that feedback_matrix allocates per thread, and feedback_open in all beside moments. */
size_t feedback_thread_bytes(int32_t n_cols, int32_t group_size);
size_t feedback_open_bytes(int32_t n_cols);

/* moments[j][k] += sum over rows of x[row][j] * x[row][k] for k <= j; x: (.., n_cols), rows: (n_rows) which
 * of x's. moments: (n_cols, n_cols). In f32, in one order. */
void feedback_sum(float *moments, int32_t n_cols, const float *x, const int32_t *rows, int32_t n_rows,
                  unsigned cpu_flags, struct thread_pool *pool);

/* Factors A for all matrices with the same input. moments: (n_cols, n_cols) E[x x^T], of which the diagonal
 * and what is below it are read; overwritten, and borrowed until feedback_close. damping > 0; where rounding
 * or a singular matrix needs more, it is raised tenfold until it is enough. A column that is never used (all
 * zeros) has the damping only. NaN, infinity or a negative value on the diagonal: STATUS_INVALID naming row
 * and column. */
enum status feedback_open(struct feedback **out, float *moments, int32_t n_cols, float damping,
                          unsigned cpu_flags, struct thread_pool *pool, struct error *err);
void feedback_close(struct feedback *feedback); /* accepts NULL */

/* What A's diagonal has got beyond E[x x^T]'s. */
float feedback_damping(const struct feedback *feedback);

/* As quant_matrix, for the methods any4, any3 and any2 (else STATUS_INVALID); memory is
 * quant_matrix_bytes. The weighted figures of stats are with all of A: energy w A w^T, error e A e^T. The
 * result depends on weights, moments and settings only. */
enum status feedback_matrix(struct any4_matrix *out, void *memory, struct quant_stats *stats,
                            const struct feedback *feedback, const struct quant_settings *settings,
                            int32_t n_rows, quant_read_rows_fn *read_rows, void *source,
                            struct thread_pool *pool, struct error *err);

#endif
