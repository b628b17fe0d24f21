/* Dense products by cuBLASLt, opened at run time: the oracle of the kernels that decode, and a way to run
 * without them. Its sums go in an order of its own, which depends on the number of tokens. Where the library
 * is not there, or this build knows nothing of CUDA, cublas_open gives STATUS_UNAVAILABLE and the fused
 * kernels serve alone. Plain C. */
#ifndef KERNELS_CUDA_CUBLAS_H
#define KERNELS_CUDA_CUBLAS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cublas;

/* For the current device. workspace: device memory, 256-byte aligned, of workspace_bytes (32 MiB are what the
 * library asks for on Hopper, 4 MiB elsewhere); it stays the caller's and must outlive the handle. A handle
 * serves one stream at a time. */
enum status cublas_open(struct cublas **out, void *workspace, size_t workspace_bytes, struct error *err);
void cublas_close(struct cublas *cublas); /* accepts NULL */

/* y[t][row] = sum over col of w[row][col] * x[t][col]; w, x: f16 rows of n_cols elements, y: f32, strides in
 * elements; f32 sums. The scales of tokens (launch.h) are the caller's to apply. w and x 16-byte aligned,
 * n_cols and their strides multiples of 8. */
enum status cublas_linear(struct cublas *cublas, float *y, int64_t y_stride, const uint16_t *w,
                          int64_t w_stride, const uint16_t *x, int64_t x_stride, int32_t n_rows,
                          int32_t n_cols, int32_t n_tokens, void *stream, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
