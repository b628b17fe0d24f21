/* The model and its clock: open, submit, take tokens, cancel. Knows tokens, never text or HTTP. One engine
 * thread owns the weights, the KV cache and every live sequence; everything here may be called from any other
 * thread. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/model_config.h"
#include "kernels/kernels.h"
#include "quant/quantize.h"

struct engine;
struct request;

enum {
    ENGINE_MAX_STOP_IDS = 64,
    ENGINE_MAX_LOGIT_BIAS = 1024,
    ENGINE_MAX_LOGPROBS = 20,
    ENGINE_MAX_SKIP = 64
};

enum kv_cache_choice { KV_CHOICE_AUTO, KV_CHOICE_F32, KV_CHOICE_F16, KV_CHOICE_BF16 };

/* What the log says about errors: nothing; sums and the worst tensors; a line per tensor. */
enum quant_report_level { QUANT_REPORT_OFF, QUANT_REPORT_SUMMARY, QUANT_REPORT_FULL };

enum device_choice { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA };

/* Activations on CUDA: fast, in f16; exact, each the sum of two f16, about as near to the CPU's f32 as the
 * order of additions allows. Auto: exact for models with experts, whose routers may choose other experts
 * after a rounding. */
enum cuda_precision { CUDA_PRECISION_AUTO, CUDA_PRECISION_FAST, CUDA_PRECISION_EXACT };

/* Whatever here changes quantized bits is part of the key of cached models: engine/model_cache.c. */
struct engine_options {
    const char *model_dir;
    const char *config_override; /* JSON object over config.json's keys, or NULL (tests only) */
    struct quant_settings quant;
    const char
        *quant_skip[ENGINE_MAX_SKIP]; /* fnmatch patterns of linear names to keep as stored, e.g. "lm_head" */
    int32_t n_quant_skip;
    const int32_t *calib_ids; /* (n_calib_ids) tokens of the calibration text, BOS first; NULL: none. Read
                                 while opening. */
    int32_t n_calib_ids;
    const char
        *quant_cache; /* folder of quantized models, made when needed; NULL: off. Read while opening. */
    size_t quant_cache_max_bytes; /* of all models in it, once one has been written; 0: no limit */
    bool verify_cache;            /* read the model's files whole to know them, whatever their times say */
    double bits_per_weight; /* 0: every linear as quant says; else widths are mixed so that all bits of the
                               quantized ones stay below so many a weight (engine/widths.h); quant is any4 */
    bool rotation;          /* turn the residual stream into a basis without outliers (engine/rotation.h) */
    bool channel_scaling;   /* scale the channels behind norms (engine/channel_scaling.h): methods that take
                               moments, needs calib_ids */
    bool error_feedback;    /* quantize with the second moments between columns (quant/feedback.h): any4, any3
                               and any2, needs calib_ids, thousands of them */
    enum quant_report_level quant_report; /* default off */
    double quant_max_error; /* relative weighted error of a tensor that is refused when exceeded; 0: none */
    enum device_choice device; /* auto, the default: a CUDA device where one can be used */
    int32_t device_index;      /* of DEVICE_CUDA, and of auto: 0 */
    /* Default true: a token's bits do not depend on the batch. False: the fastest kernel for each batch, with
     * fast activations on CUDA; all others are invariant as they are. */
    bool batch_invariant;
    enum cuda_precision cuda_precision; /* default auto */
    int32_t n_threads;                  /* 0: physical cores */
    unsigned cpu_flags;                 /* CPU_ALL: what the processor has */
    enum kv_cache_choice kv_type;       /* auto: f32 with quant none, else bf16 */
    int32_t max_model_len;              /* 0: from the model's config */
    int32_t max_running;                /* sequences in a batch, default 32 */
    int32_t max_queue;                  /* waiting requests, default 256 */
    int32_t prefill_chunk;              /* tokens per step, default 512 */
    size_t max_memory;                  /* bytes, of the device where there is one; 0: what is free */
    int64_t kv_cache_tokens;            /* room in the KV cache; 0: by the memory plan */
    bool show_progress;
};
void engine_options_init(struct engine_options *options);

/* Loads and quantizes the model, plans memory and starts the engine thread. */
enum status engine_open(struct engine **out, const struct engine_options *options, struct error *err);
/* Cancels what is left, joins the thread, frees all. Every request must have been released before. */
void engine_close(struct engine *engine);

/* Sampling of one sequence (names and ranges of the HTTP API). */
struct generate_params {
    int32_t max_tokens; /* >= 0; 0 scores the prompt alone (prompt_logprobs) */
    int32_t min_tokens;
    float temperature; /* 0: greedy, lowest id wins ties */
    float top_p;       /* (0, 1] */
    int32_t top_k;     /* <= 0: off */
    float min_p;
    float repetition_penalty, presence_penalty, frequency_penalty;
    uint64_t seed;
    bool ignore_eos;
    int32_t logprobs;        /* -1: none; else the number of alternatives, 0..20 */
    bool prompt_logprobs;    /* also for prompt positions 1.. (echo) */
    const int32_t *stop_ids; /* n_stop_ids, copied */
    int32_t n_stop_ids;
    const int32_t *bias_ids; /* n_bias pairs, copied */
    const float *bias_values;
    int32_t n_bias;
    int32_t priority; /* lower first */
    bool admitted;    /* goes on with work that the queue took before: not refused because it is full now */
    int64_t deadline_ms; /* monotonic clock, 0: none */
};
void generate_params_init(struct generate_params *params); /* the API's defaults, max_tokens 16, seed 0 */

enum finish_reason {
    FINISH_NONE,
    FINISH_STOP,
    FINISH_LENGTH,
    FINISH_CANCELLED,
    FINISH_TIMEOUT,
    FINISH_ERROR
};

struct token_logprob {
    int32_t id;
    float logprob; /* natural log of the softmax before temperature and filters */
};

struct token_event {
    enum { EVENT_TOKEN, EVENT_PROMPT_TOKEN, EVENT_FINISHED } kind;
    int32_t token;   /* EVENT_TOKEN; for an end by EOS or a stop id the token comes first, then FINISHED */
    bool is_stop;    /* this token ends the sequence (EOS or stop id): it is counted, not shown */
    int64_t time_ns; /* monotonic: when the engine had it */
    struct token_logprob logprob; /* of token itself, when asked for */
    int32_t n_top;                /* alternatives, best first */
    struct token_logprob top[ENGINE_MAX_LOGPROBS];
    enum finish_reason reason; /* EVENT_FINISHED */
    int32_t stop_token;        /* EVENT_FINISHED with FINISH_STOP by a stop_ids entry: the id, else -1 */
};

struct request_timings { /* monotonic nanoseconds; 0: not reached */
    int64_t submitted, started, first_token, last_token;
    int32_t cached_tokens;
};

/* Called on the engine thread after events became available or the request ended: must not block nor call
 * back. urgent: the first event is among them, or the end. It runs under the request's lock, which
 * request_release takes too: never call request_release while holding a lock that notify takes. request_next
 * takes no lock. */
typedef void request_notify_fn(void *context, bool urgent);

/* Queues a sequence over prompt ids (copied; 1 <= n_ids, ids < vocab, n_ids + max_tokens <= max_model_len,
 * else STATUS_INVALID). STATUS_FULL when the queue is full, On success *out
 * must be released. notify may be NULL. */
enum status engine_submit(struct engine *engine, const struct generate_params *params, const int32_t *ids,
                          int32_t n_ids, request_notify_fn *notify, void *context, struct request **out,
                          struct error *err);

/* Takes the next event if there is one (returns true). After EVENT_FINISHED nothing more comes. */
bool request_next(struct request *request, struct token_event *event);
/* The same, but waits up to timeout_ms (-1: for ever). */
bool request_wait(struct request *request, struct token_event *event, int32_t timeout_ms);
/* Sets a flag: the sequence leaves the batch at the next step and finishes for this reason (FINISH_STOP when
 * its text reached a stop string). Never blocks; of several calls the first counts. */
void request_cancel_as(struct request *request, enum finish_reason reason);
void request_cancel(struct request *request); /* as FINISH_CANCELLED */
/* Cancels if need be and gives the handle back; after this returns notify is not called any more and context
 * may go. */
void request_release(struct request *request); /* accepts NULL */
void request_get_timings(const struct request *request, struct request_timings *out);

/* True when nothing runs and nothing waits. */
bool engine_is_idle(const struct engine *engine);

/* Counters, read without any lock of the engine thread. */
struct engine_stats {
    int32_t running, waiting, batch_size;
    int64_t kv_tokens_used, kv_tokens_capacity;
    int64_t prompt_tokens, generation_tokens, prompt_tokens_cached, preemptions, steps;
    int64_t finished[FINISH_ERROR + 1]; /* by reason */
    double last_step_age_seconds;       /* since the last step ended while work is running; 0 when idle */
    double drain_seconds_per_request;   /* smoothed: for Retry-After */
    bool device_failed; /* for good: sequences ended with FINISH_ERROR, others are refused (STATUS_DEVICE) */
};
void engine_get_stats(const struct engine *engine, struct engine_stats *out);

struct engine_info {
    struct model_config config;
    int32_t max_model_len;
    int64_t n_params;
    size_t weights_bytes, kv_bytes, kv_bytes_per_token;
    enum quant_method method;
    int32_t group_size;
    enum kv_type kv_type;
    const char *kernels;
    const char *device;  /* "cpu" or the card's name */
    size_t device_bytes; /* of its memory: weights, step, KV cache; 0: the CPU */
    bool cuda_exact;     /* on a device whose activations are in two parts */
    int32_t n_threads;
    double bits_per_weight; /* of the quantized linears: codes, scales, zeros, tables, padding; of all as
                             * stored when none is quantized */
    int64_t code_bits, table_bits, quantized_weights;
    double quant_error_mean, quant_error_p95, quant_error_max; /* as in struct quant_report */
    const char *quant_cache;  /* what became of the cache of quantized models: "off", "hit", "miss", or
                                 "rebuilt":  there was a file, damaged or of other weights */
    const char *cache_path;   /* of a hit, else "" */
    const char *cache_reason; /* why it is rebuilt, else "" */
    double load_seconds, quantize_seconds;
    double calibrate_seconds; /* 0: not calibrated */
};
const struct engine_info *engine_get_info(const struct engine *engine);

/* What a start without a hit writes for the next one is written while requests are served already; closing
 * stops that. This waits until it is done, and tells how it went or, after a hit, what was found. */
struct engine_cache_result {
    enum status status; /* STATUS_UNAVAILABLE: there is no cache, or it was stopped */
    char message[512];  /* why it could not be written */
    const char *path;   /* until the engine is closed */
    size_t n_bytes;     /* of the file */
    double seconds;     /* that it took to read or write */
};
void engine_wait_cache(struct engine *engine, struct engine_cache_result *out); /* out may be NULL */

/* How one linear layer came out. Errors are relative: sqrt(sum of squared errors / sum of squares), for the
 * tensor with each column weighted as it was for quantizing. */
struct quant_tensor {
    const char *name; /* the tensor's, without ".weight" */
    int32_t n_rows, n_cols;
    const char *kind;              /* "lut", "lut-int8", "linear", or "f32", "f16", "bf16": kept as stored */
    int32_t code_bits, group_size; /* 0: kept as stored, and so are the errors */
    double bits_per_weight;        /* of everything: codes, scales, tables, padding */
    double rel_error;
    int32_t worst_row;
    double worst_row_error;
};

enum { QUANT_REPORT_WORST = 10 };

struct quant_report {
    const struct quant_tensor *tensors; /* n_tensors, in the order of loading, head last */
    int64_t n_tensors, n_quantized;
    double mean, p95, max; /* rel_error over the quantized tensors; 0 where there is none */
    const struct quant_tensor *worst[QUANT_REPORT_WORST]; /* n_worst, largest rel_error first */
    int32_t n_worst;
};
/* Never changes once the engine is open. */
const struct quant_report *engine_get_quantization(const struct engine *engine);

/* What loading would take, from headers alone: nothing is loaded. Bytes unless named otherwise. */
struct engine_plan {
    struct model_config config;
    int64_t n_params;
    size_t stored_bytes;    /* of all tensors in the folder */
    size_t quantized_bytes; /* codes, scales, zeros, tables of the quantized linears */
    size_t kept_bytes;      /* read as stored: embedding, norms, routers, skipped linears */
    size_t largest_tensor_bytes;
    size_t peak_load_bytes; /* while quantizing */
    size_t step_bytes;      /* activations and logits */
    size_t kv_bytes_per_token;
    size_t kv_bytes; /* of the cache that would be opened */
    int64_t kv_tokens;
    int32_t max_model_len; /* after the memory plan */
    size_t memory_limit;   /* --max-memory or what the machine, or the device, has available */
    size_t total_bytes;    /* weights, KV cache, step */
    bool on_device;        /* the next is 0 else; step and kv are of the device, and so is memory_limit */
    size_t device_weights_bytes; /* the device's copies of all weights */
    double bits_per_weight;      /* of the quantized linears, or of all as stored when none is */
    bool fits;
    char reason[512]; /* why it does not fit, in words; empty when it does */
};
enum status engine_plan(struct engine_plan *out, const struct engine_options *options, struct error *err);

#endif
