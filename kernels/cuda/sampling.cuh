/* Logits to a token, a block a row. Without top-k and top-p tokens are drawn in the order of their ids: sums
 * of a warp's stretch each, then within one stretch. With them the order is descending (ties: lower id
 * first), as far as it is needed: batches of the next best are selected by counting digits, sorted and
 * walked, once to find the end of what is kept and its sum, once to draw. Every order is fixed by the logits
 * and the vocabulary's size, so the same token comes out on every run. */
#ifndef KERNELS_CUDA_SAMPLING_CUH
#define KERNELS_CUDA_SAMPLING_CUH

#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/simt.h"
#include "kernels/random.h"

enum {
    SAMPLE_MAX_THREADS = 512,
    SAMPLE_BATCH = 512, /* candidates that are sorted at a time */
    SAMPLE_BINS = 2048, /* of a digit of 11 bits */
    SAMPLE_LOADS = 16, /* logits that a thread loads at a time: a pass waits for memory and for little else */
    SAMPLE_LEVELS = 5, /* digits of 11, 11 and 10 bits of the logit and twice 11 bits of the id */
};

/* Shared memory of a block. */
struct sample_shared {
    uint64_t found[SAMPLE_BATCH], sorted[SAMPLE_BATCH];
    double warps[REDUCE_MAX_WARPS], sum;
    uint32_t bins[SAMPLE_BINS], words[REDUCE_MAX_WARPS], n_found, digit, left, exact;
};

/* A row's logits, and how many candidates (logits above -infinity) it has. */
struct sample_logits {
    const float *logits;
    int32_t n, n_candidates;
    float inverse; /* of the temperature */
    float max;     /* largest logit times inverse */
};

/* Larger is better: by value, then by lower id; 0 is no candidate. -0 is 0. */
SIMT_DEVICE uint64_t sample_key(float value, int32_t id)
{
    const uint32_t bits = simt_float_bits(value + 0.0f);
    const uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (uint64_t)ordered << 32 | (uint32_t)~id;
}

SIMT_DEVICE float sample_key_value(uint64_t key)
{
    const uint32_t ordered = (uint32_t)(key >> 32);
    return simt_bits_float(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
}

SIMT_DEVICE int32_t sample_key_id(uint64_t key)
{
    return (int32_t) ~(uint32_t)key;
}

/* Logits begin, begin + step, ...; NaN, which is no candidate, from `end` on. */
struct sample_loads {
    float logit[SAMPLE_LOADS];
};

SIMT_DEVICE sample_loads sample_load(const sample_logits &row, int32_t begin, int32_t step, int32_t end)
{
    sample_loads loads;
    SIMT_UNROLL
    for (int32_t i = 0; i < SAMPLE_LOADS; i++) {
        loads.logit[i] = begin + i * step < end ? row.logits[begin + i * step] : NAN;
    }
    return loads;
}

/* The key of a token at the row's temperature; 0 for NaN and -infinity, which are no candidates. */
SIMT_DEVICE uint64_t sample_key_of(const sample_logits &row, float logit, int32_t id)
{
    return logit > -INFINITY ? sample_key(simt_product(logit, row.inverse), id) : 0;
}

/* In f32: 2e-7 of the sum at most, and fast on every card. */
SIMT_DEVICE double sample_weight(const sample_logits &row, float logit, double floor)
{
    const float value = simt_product(logit, row.inverse);
    return logit > -INFINITY && (double)value >= floor ? (double)expf(value - row.max) : 0.0;
}

/* The sum of weights of begin, begin + step, ... below end. */
SIMT_DEVICE double sample_sum(const sample_logits &row, int32_t begin, int32_t step, int32_t end,
                              double floor)
{
    double sum = 0;
    for (int32_t at = begin; at < end; at += SAMPLE_LOADS * step) {
        const sample_loads loads = sample_load(row, at, step, end);
        SIMT_UNROLL
        for (int32_t i = 0; i < SAMPLE_LOADS; i++) {
            sum += sample_weight(row, loads.logit[i], floor);
        }
    }
    return sum;
}

SIMT_DEVICE double sample_shuffle(double value, int32_t lane)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t low = simt_shuffle((uint32_t)bits, lane),
                   high = simt_shuffle((uint32_t)(bits >> 32), lane);
    bits = (uint64_t)high << 32 | low;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The sum of the values of the threads before this one, and of all. Its end is a barrier. */
SIMT_DEVICE double block_scan(double value, double *total, double *shared)
{
    const int32_t lane = simt_lane(), n_warps = simt_n_threads() / SIMT_WARP;
    double sum = value;
    SIMT_UNROLL
    for (int32_t step = 1; step < SIMT_WARP; step *= 2) {
        const double before = sample_shuffle(sum, lane >= step ? lane - step : lane);
        sum += lane >= step ? before : 0;
    }
    const double before = sample_shuffle(sum, lane ? lane - 1 : 0);
    if (lane == SIMT_WARP - 1) {
        shared[simt_warp()] = sum;
    }
    simt_barrier();
    double base = 0, all = 0;
    for (int32_t warp = 0; warp < n_warps; warp++) {
        base = warp == simt_warp() ? all : base;
        all += shared[warp];
    }
    simt_barrier();
    *total = all;
    return base + (lane ? before : 0);
}

SIMT_DEVICE uint32_t sample_max(uint32_t value, sample_shared &shared)
{
    const uint32_t max = block_max(value, shared.words);
    simt_barrier();
    return max;
}

/* -- the next best -- */

/* The lowest key of the `want` best candidates below `upper`, all of them if there are not so many: digit by
 * digit, the counts of digits tell in which the last one lies. */
SIMT_DEVICE uint64_t sample_select(const sample_logits &row, uint64_t upper, uint32_t want,
                                   sample_shared &shared)
{
    const int32_t shifts[SAMPLE_LEVELS + 1] = {64, 53, 42,
                                               32, 11, 0}; /* 22 bits of the id: all others are ones */
    const int32_t per_thread = SAMPLE_BINS / simt_n_threads();
    uint64_t prefix = 0;
    SIMT_UNROLL
    for (int32_t level = 0; level < SAMPLE_LEVELS; level++) {
        const int32_t above = level == 3 ? 22 : shifts[level], shift = shifts[level + 1];
        const uint32_t mask = (1u << (above - shift)) - 1;
        for (int32_t i = simt_thread(); i < SAMPLE_BINS; i += simt_n_threads()) {
            shared.bins[i] = 0;
        }
        simt_barrier();
        for (int32_t at = simt_thread(); at < row.n; at += SAMPLE_LOADS * simt_n_threads()) {
            const sample_loads loads = sample_load(row, at, simt_n_threads(), row.n);
            SIMT_UNROLL
            for (int32_t i = 0; i < SAMPLE_LOADS; i++) {
                const uint64_t key = sample_key_of(row, loads.logit[i], at + i * simt_n_threads());
                if (key && key < upper && (level == 0 || key >> shifts[level] == prefix)) {
                    const uint32_t digit = (uint32_t)(key >> shift) & mask;
                    simt_atomic_add(&shared.bins[mask - digit], 1); /* the best first */
                }
            }
        }
        simt_barrier();
        uint32_t mine = 0;
        for (int32_t i = 0; i < per_thread; i++) {
            mine += shared.bins[simt_thread() * per_thread + i];
        }
        double total;
        uint32_t before = (uint32_t)block_scan(mine, &total, shared.warps);
        if (total < want) {
            return 1; /* at the first level only */
        }
        if (before < want && before + mine >= want) {
            uint32_t bin = (uint32_t)(simt_thread() * per_thread);
            while (before + shared.bins[bin] < want) {
                before += shared.bins[bin++];
            }
            shared.digit = mask - bin;
            shared.left = want - before;
            shared.exact = shared.bins[bin] == shared.left;
        }
        simt_barrier();
        const uint32_t all_ones = level == 3 ? 0x3ff : 0;
        prefix = level == 0   ? shared.digit
                 : level == 3 ? (prefix << 10 | all_ones) << 11 | shared.digit
                              : prefix << (above - shift) | shared.digit;
        want = shared.left;
        const bool exact = shared.exact;
        simt_barrier();
        if (exact || level == SAMPLE_LEVELS - 1) {
            return prefix << shift;
        }
    }
    return 1;
}

/* The candidates with keys in [lower, upper), at most SAMPLE_BATCH, in descending order. */
SIMT_DEVICE int32_t sample_gather(const sample_logits &row, uint64_t lower, uint64_t upper,
                                  sample_shared &shared)
{
    if (simt_thread() == 0) {
        shared.n_found = 0;
    }
    simt_barrier();
    for (int32_t at = simt_thread(); at < row.n; at += SAMPLE_LOADS * simt_n_threads()) {
        const sample_loads loads = sample_load(row, at, simt_n_threads(), row.n);
        SIMT_UNROLL
        for (int32_t i = 0; i < SAMPLE_LOADS; i++) {
            const uint64_t key = sample_key_of(row, loads.logit[i], at + i * simt_n_threads());
            if (key && key >= lower && key < upper) {
                shared.found[simt_atomic_add(&shared.n_found, 1)] = key; /* in any order */
            }
        }
    }
    simt_barrier();
    const int32_t n = (int32_t)shared.n_found;
    for (int32_t i = simt_thread(); i < n; i += simt_n_threads()) {
        int32_t rank = 0;
        for (int32_t j = 0; j < n; j++) {
            rank += shared.found[j] > shared.found[i];
        }
        shared.sorted[rank] = shared.found[i];
    }
    simt_barrier();
    return n;
}

/* -- the walk from the best candidate on -- */

struct sample_limits {
    int32_t n;    /* candidates at most */
    double sum;   /* ends behind the candidate with which the sum of weights reaches it */
    bool strict;  /* ... exceeds it */
    double floor; /* ends in front of the first candidate below it */
};

struct sample_walk {
    int32_t n;       /* candidates taken */
    double sum;      /* of their weights */
    int32_t id;      /* the last one whose weight is not 0 */
    int32_t n_first; /* how many of the first batch stand in shared.sorted; 0: others do */
};

/* n_first: of the walk before. */
SIMT_DEVICE sample_walk sample_take(const sample_logits &row, const sample_limits &limits, int32_t n_first,
                                    sample_shared &shared)
{
    const int32_t per_thread = SAMPLE_BATCH > simt_n_threads() ? SAMPLE_BATCH / simt_n_threads() : 1;
    sample_walk walk = {0, 0, -1, n_first};
    uint64_t upper = ~(uint64_t)0;
    while (walk.n < limits.n) {
        const int32_t left = limits.n - walk.n, want = left < SAMPLE_BATCH ? left : SAMPLE_BATCH;
        int32_t n = walk.n_first < want ? walk.n_first : want;
        if (walk.n > 0 || n < want) {
            const uint64_t lower = sample_select(row, upper, (uint32_t)want, shared);
            n = sample_gather(row, lower, upper, shared);
            walk.n_first = walk.n ? 0 : n;
        }
        const int32_t begin = simt_thread() * per_thread;
        double mine = 0, all;
        uint32_t n_positive = 0;
        for (int32_t i = begin; i < begin + per_thread && i < n; i++) {
            const double weight = exp((double)sample_key_value(shared.sorted[i]) - (double)row.max);
            mine += weight;
            n_positive = weight > 0 ? (uint32_t)i + 1 : n_positive;
        }
        double sum = walk.sum + block_scan(mine, &all, shared.warps);
        /* Twice the number of candidates taken, and 1 where the limit was reached: the least of all counts.
         */
        uint32_t stop = 0;
        double stop_sum = 0;
        for (int32_t i = begin; i < begin + per_thread && i < n && !stop; i++) {
            const double value = (double)sample_key_value(shared.sorted[i]);
            const double with = sum + exp(value - (double)row.max);
            if (value < limits.floor) {
                stop = ~(uint32_t)(2 * i);
                stop_sum = sum;
            } else if (with > limits.sum || (!limits.strict && with >= limits.sum)) {
                stop = ~(uint32_t)(2 * i + 1);
                stop_sum = with;
            }
            sum = with;
        }
        const uint32_t first = sample_max(stop, shared);
        if (first && stop == first) {
            shared.sum = stop_sum;
        }
        const int32_t n_taken = first ? (int32_t)(~first + 1) / 2 : n;
        n_positive = sample_max(n_positive, shared); /* its barriers: the sum is there */
        n_positive = n_positive < (uint32_t)n_taken ? n_positive : (uint32_t)n_taken;
        walk.id = n_positive ? sample_key_id(shared.sorted[n_positive - 1]) : walk.id;
        walk.n += n_taken;
        walk.sum = first ? shared.sum : walk.sum + all;
        upper = n ? shared.sorted[n - 1] : 0;
        simt_barrier(); /* all have read */
        if (first || n < want) {
            break;
        }
    }
    return walk;
}

/* -- in the order of ids -- */

/* The tokens from the first whose sum, base included, exceeds the target; else the last with a weight. */
SIMT_DEVICE int32_t sample_by_id(const sample_logits &row, double floor, double uniform,
                                 sample_shared &shared)
{
    const int32_t n_warps = simt_n_threads() / SIMT_WARP;
    const int32_t stretch = (row.n + n_warps * SIMT_WARP - 1) / (n_warps * SIMT_WARP) * SIMT_WARP;
    const int32_t from = simt_warp() * stretch, to = from + stretch < row.n ? from + stretch : row.n;
    double mine = sample_sum(row, from + simt_lane(), SIMT_WARP, to, floor), all;
    SIMT_UNROLL
    for (int32_t step = SIMT_WARP / 2; step; step /= 2) {
        mine += sample_shuffle(mine, simt_lane() ^ step);
    }
    if (simt_lane() == 0) {
        shared.warps[simt_warp()] = mine;
    }
    simt_barrier();
    double total = 0, base = 0;
    for (int32_t warp = 0; warp < n_warps; warp++) {
        total += shared.warps[warp];
    }
    const double target = uniform * total;
    int32_t chosen = 0;
    double chosen_base = 0;
    for (int32_t warp = 0; warp < n_warps; warp++) {
        if (shared.warps[warp] >
            0) { /* the last one with a weight, if rounding leaves the target above all */
            chosen = warp;
            chosen_base = base;
        }
        base += shared.warps[warp];
        if (base > target) {
            break;
        }
    }
    simt_barrier();
    const int32_t per_thread = (stretch + simt_n_threads() - 1) / simt_n_threads();
    const int32_t begin = chosen * stretch + simt_thread() * per_thread;
    int32_t end = (chosen + 1) * stretch < row.n ? (chosen + 1) * stretch : row.n;
    end = begin + per_thread < end ? begin + per_thread : end;
    mine = sample_sum(row, begin, 1, end, floor);
    double sum = chosen_base + block_scan(mine, &all, shared.warps);
    uint32_t first = 0, last = 0; /* the complement of the first that exceeds, the last with a weight and 1 */
    for (int32_t id = begin; id < end; id++) {
        const double weight = sample_weight(row, row.logits[id], floor);
        sum += weight;
        first = !first && sum > target ? ~(uint32_t)id : first;
        last = weight > 0 ? (uint32_t)id + 1 : last;
    }
    first = sample_max(first, shared);
    last = sample_max(last, shared);
    return first ? (int32_t)~first : (int32_t)last - 1;
}

/* -- a row -- */

/* Index of the largest logit, ties to the lower; -1: none is a number. Counts candidates. */
SIMT_DEVICE int32_t sample_argmax(sample_logits &row, sample_shared &shared)
{
    uint64_t best = 0;
    int32_t n_candidates = 0;
    double all;
    for (int32_t at = simt_thread(); at < row.n; at += SAMPLE_LOADS * simt_n_threads()) {
        const sample_loads loads = sample_load(row, at, simt_n_threads(), row.n);
        SIMT_UNROLL
        for (int32_t i = 0; i < SAMPLE_LOADS; i++) {
            const float logit = loads.logit[i];
            const uint64_t key = logit == logit ? sample_key(logit, at + i * simt_n_threads()) : 0;
            best = key > best ? key : best;
            n_candidates += logit > -INFINITY;
        }
    }
    const uint32_t high = sample_max((uint32_t)(best >> 32), shared);
    const uint32_t low = sample_max((uint32_t)(best >> 32) == high ? (uint32_t)best : 0, shared);
    block_scan(n_candidates, &all, shared.warps);
    row.n_candidates = (int32_t)all;
    return high ? sample_key_id((uint64_t)high << 32 | low) : -1;
}

SIMT_DEVICE int32_t sample_draw(sample_logits &row, const struct cuda_sample_row &how, sample_shared &shared)
{
    const int32_t best = sample_argmax(row, shared);
    if (best < 0 || !(fabsf(row.logits[best]) < INFINITY)) {
        return -1;
    }
    row.inverse = how.temperature == 0 ? 0.0f : 1.0f / how.temperature;
    row.max = simt_product(row.logits[best], row.inverse);
    if (how.temperature == 0 || !(fabsf(row.max) < INFINITY)) {
        return best; /* a temperature so small that dividing overflows is greedy */
    }
    const double uniform = random_uniform(how.seed, how.position);
    const double floor = how.min_p > 0 ? (double)row.max + log((double)how.min_p) : -(double)INFINITY;
    const bool top_k = how.top_k > 0 && how.top_k < row.n_candidates;
    if (!top_k && !(how.top_p < 1)) {
        return sample_by_id(row, floor, uniform, shared);
    }
    sample_limits limits = {top_k ? how.top_k : row.n_candidates, (double)INFINITY, false, -(double)INFINITY};
    sample_walk walk = {};
    if (how.top_p < 1) {
        double total = 0;
        if (top_k) {
            walk = sample_take(row, limits, 0, shared);
            total = walk.sum;
        } else {
            const double mine = sample_sum(row, simt_thread(), simt_n_threads(), row.n, -(double)INFINITY);
            block_scan(mine, &total, shared.warps);
        }
        limits.sum = (double)how.top_p * total;
    }
    limits.floor = floor;
    walk = sample_take(row, limits, walk.n_first, shared);
    limits = {walk.n, uniform * walk.sum, true, -(double)INFINITY};
    return sample_take(row, limits, walk.n_first, shared).id;
}

SIMT_KERNEL(SAMPLE_MAX_THREADS, 1)
sample_kernel(int32_t *tokens, const float *logits, int64_t logits_stride, int32_t n_vocab,
              const struct cuda_sample_row *rows)
{
    SIMT_SHARED(sample_shared, shared, [1]);
    simt_dependency_wait();
    const struct cuda_sample_row how = rows[simt_block()];
    int32_t token = -1;
    if (how.logit_row >= 0) {
        sample_logits row = {logits + how.logit_row * logits_stride, n_vocab, 0, 0, 0};
        token = sample_draw(row, how, shared[0]);
    }
    if (simt_thread() == 0) {
        tokens[simt_block()] = token;
    }
}

#endif
