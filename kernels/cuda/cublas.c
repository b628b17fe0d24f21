/* cuBLASLt by dlopen: a binary that runs where the library is missing. ANY4_CUBLASLT says that its headers
 * are there. */
#include "kernels/cuda/cublas.h"

#ifdef ANY4_CUBLASLT

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* Every function of the library that is used. */
#define CUBLAS_FUNCTIONS(X)                                                                                  \
    X(cublasLtCreate)                                                                                        \
    X(cublasLtDestroy)                                                                                       \
    X(cublasLtGetStatusString)                                                                               \
    X(cublasLtMatmul)                                                                                        \
    X(cublasLtMatmulAlgoGetHeuristic)                                                                        \
    X(cublasLtMatmulDescCreate)                                                                              \
    X(cublasLtMatmulDescDestroy)                                                                             \
    X(cublasLtMatmulDescSetAttribute)                                                                        \
    X(cublasLtMatmulPreferenceCreate)                                                                        \
    X(cublasLtMatmulPreferenceDestroy)                                                                       \
    X(cublasLtMatmulPreferenceSetAttribute)                                                                  \
    X(cublasLtMatrixLayoutCreate)                                                                            \
    X(cublasLtMatrixLayoutDestroy)

#define DECLARE(name) __typeof__(&name) name##_;
struct cublas {
    void *library;
    CUBLAS_FUNCTIONS(DECLARE)
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t transposed; /* y^T = w x^T in columns: w is stored by rows, so it comes transposed */
    cublasLtMatmulPreference_t preference;
    void *workspace;
    size_t workspace_bytes;
};

static enum status check(const struct cublas *c, cublasStatus_t failed, const char *what, struct error *err)
{
    return failed ? error_set(err, STATUS_DEVICE, "%s: %s", what, c->cublasLtGetStatusString_(failed))
                  : STATUS_OK;
}

static enum status library_open(struct cublas *c, struct error *err)
{
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11",
                                        "libcublasLt.so"};
    for (size_t i = 0; i < sizeof names / sizeof *names && !c->library; i++) {
        c->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    }
    if (!c->library) {
        return error_set(err, STATUS_UNAVAILABLE, "cuBLASLt: %s", dlerror());
    }
    /* POSIX promises that a pointer to a function fits; ISO C has no cast for it. */
#define LOAD(name)                                                                                           \
    do {                                                                                                     \
        void *symbol = dlsym(c->library, #name);                                                             \
        if (!symbol) {                                                                                       \
            return error_set(err, STATUS_UNAVAILABLE, "cuBLASLt: no function %s", #name);                    \
        }                                                                                                    \
        memcpy(&c->name##_, &symbol, sizeof symbol);                                                         \
    } while (0);
    CUBLAS_FUNCTIONS(LOAD)
    return STATUS_OK;
}

static enum status handle_open(struct cublas *c, struct error *err)
{
    const cublasOperation_t transpose = CUBLAS_OP_T;
    const uint64_t workspace_bytes = c->workspace_bytes;
    enum status status = check(c, c->cublasLtCreate_(&c->handle), "cublasLtCreate", err);
    if (status) {
        return status;
    }
    status = check(c, c->cublasLtMatmulDescCreate_(&c->transposed, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                   "cublasLtMatmulDescCreate", err);
    if (status) {
        return status;
    }
    status = check(c,
                   c->cublasLtMatmulDescSetAttribute_(c->transposed, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                                      sizeof transpose),
                   "cublasLtMatmulDescSetAttribute", err);
    if (status) {
        return status;
    }
    status =
        check(c, c->cublasLtMatmulPreferenceCreate_(&c->preference), "cublasLtMatmulPreferenceCreate", err);
    if (status) {
        return status;
    }
    status = check(c,
                   c->cublasLtMatmulPreferenceSetAttribute_(c->preference,
                                                            CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                            &workspace_bytes, sizeof workspace_bytes),
                   "cublasLtMatmulPreferenceSetAttribute", err);
    if (status) {
        return status;
    }
    const uint32_t alignment = sizeof(float); /* rows of y start anywhere */
    status =
        check(c,
              c->cublasLtMatmulPreferenceSetAttribute_(
                  c->preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &alignment, sizeof alignment),
              "cublasLtMatmulPreferenceSetAttribute", err);
    return status ? status
                  : check(c,
                          c->cublasLtMatmulPreferenceSetAttribute_(c->preference,
                                                                   CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                                                                   &alignment, sizeof alignment),
                          "cublasLtMatmulPreferenceSetAttribute", err);
}

enum status cublas_open(struct cublas **out, void *workspace, size_t workspace_bytes, struct error *err)
{
    struct cublas *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c) {
        return error_set(err, STATUS_NO_MEMORY, "cuBLASLt: out of memory");
    }
    c->workspace = workspace;
    c->workspace_bytes = workspace_bytes;
    enum status status = library_open(c, err);
    if (!status) {
        status = handle_open(c, err);
    }
    if (status) {
        cublas_close(c);
        return status;
    }
    *out = c;
    return STATUS_OK;
}

void cublas_close(struct cublas *c)
{
    if (!c) {
        return;
    }
    if (c->preference) {
        c->cublasLtMatmulPreferenceDestroy_(c->preference);
    }
    if (c->transposed) {
        c->cublasLtMatmulDescDestroy_(c->transposed);
    }
    if (c->handle) {
        c->cublasLtDestroy_(c->handle);
    }
    free(c); /* the library stays loaded: it keeps memory and threads of its own */
}

/* The layouts of one call: what is stored by rows of `cols` elements are columns here. */
struct layouts {
    cublasLtMatrixLayout_t w, x, y;
};

static enum status layouts_create(struct cublas *c, struct layouts *layouts, int64_t y_stride,
                                  int64_t w_stride, int64_t x_stride, int32_t n_rows, int32_t n_cols,
                                  int32_t n_tokens, struct error *err)
{
    const struct {
        cublasLtMatrixLayout_t *out;
        cudaDataType type;
        int32_t rows, cols;
        int64_t stride;
    } wanted[] = {
        {&layouts->w, CUDA_R_16F, n_cols, n_rows, w_stride},
        {&layouts->x, CUDA_R_16F, n_cols, n_tokens, x_stride},
        {&layouts->y, CUDA_R_32F, n_rows, n_tokens, y_stride},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        enum status status =
            check(c,
                  c->cublasLtMatrixLayoutCreate_(wanted[i].out, wanted[i].type, (uint64_t)wanted[i].rows,
                                                 (uint64_t)wanted[i].cols, wanted[i].stride),
                  "cublasLtMatrixLayoutCreate", err);
        if (status) {
            return status;
        }
    }
    return STATUS_OK;
}

static void layouts_destroy(const struct cublas *c, const struct layouts *layouts)
{
    const cublasLtMatrixLayout_t all[] = {layouts->w, layouts->x, layouts->y};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i]) {
            c->cublasLtMatrixLayoutDestroy_(all[i]);
        }
    }
}

enum status cublas_linear(struct cublas *c, float *y, int64_t y_stride, const uint16_t *w, int64_t w_stride,
                          const uint16_t *x, int64_t x_stride, int32_t n_rows, int32_t n_cols,
                          int32_t n_tokens, void *stream, struct error *err)
{
    const float one = 1, zero = 0;
    cublasLtMatmulHeuristicResult_t found;
    int n_found = 0;
    struct layouts layouts = {0};
    enum status status =
        layouts_create(c, &layouts, y_stride, w_stride, x_stride, n_rows, n_cols, n_tokens, err);
    if (!status) {
        status = check(c,
                       c->cublasLtMatmulAlgoGetHeuristic_(c->handle, c->transposed, layouts.w, layouts.x,
                                                          layouts.y, layouts.y, c->preference, 1, &found,
                                                          &n_found),
                       "cublasLtMatmulAlgoGetHeuristic", err);
    }
    if (!status && !n_found) {
        status = error_set(err, STATUS_DEVICE, "cuBLASLt: nothing for %d x %d and %d tokens", n_rows, n_cols,
                           n_tokens);
    }
    if (!status) {
        status = check(c,
                       c->cublasLtMatmul_(c->handle, c->transposed, &one, w, layouts.w, x, layouts.x, &zero,
                                          y, layouts.y, y, layouts.y, &found.algo, c->workspace,
                                          c->workspace_bytes, stream),
                       "cublasLtMatmul", err);
    }
    layouts_destroy(c, &layouts);
    return status;
}

#else

enum status cublas_open(struct cublas **out, void *workspace, size_t workspace_bytes, struct error *err)
{
    (void)workspace;
    (void)workspace_bytes;
    *out = NULL;
    return error_set(err, STATUS_UNAVAILABLE, "cuBLASLt: this build has no CUDA");
}

void cublas_close(struct cublas *cublas)
{
    (void)cublas;
}

enum status cublas_linear(struct cublas *cublas, float *y, int64_t y_stride, const uint16_t *w,
                          int64_t w_stride, const uint16_t *x, int64_t x_stride, int32_t n_rows,
                          int32_t n_cols, int32_t n_tokens, void *stream, struct error *err)
{
    (void)cublas, (void)y, (void)y_stride, (void)w, (void)w_stride, (void)x, (void)x_stride;
    (void)n_rows, (void)n_cols, (void)n_tokens, (void)stream;
    return error_set(err, STATUS_UNAVAILABLE, "cuBLASLt: this build has no CUDA");
}

#endif
