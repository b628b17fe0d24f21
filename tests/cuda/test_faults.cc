/* Planted mistakes, each of which the host's runtime must catch: by wrong numbers, by an error of its own, or
 * under thread sanitizer by a report, which then must name the line. What is caught by numbers may come out
 * right for one order of threads; it must be seen within a few seeds. */
#include <string>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/cuda/support.h"

#ifdef SIMT_TSAN
static const bool under_tsan = true;
#else
static const bool under_tsan = false;
#endif

/* Every kernel here adds up over 64 threads what the right one would find, in a way of its own. */

static const uint32_t SUM = 64 * 63 / 2;

static uint32_t sum_of(const uint32_t *values)
{
    uint32_t sum = 0;
    for (int32_t i = 0; i < 64; i++) {
        sum += values[i];
    }
    return sum;
}

SIMT_KERNEL(64, 1) missing_barrier(uint32_t *out)
{
    SIMT_SHARED(uint32_t, values, [64]);
    const int32_t thread = simt_thread();
    values[thread] = (uint32_t)thread;
    out[thread] = values[63 - thread]; /* planted: no barrier in front */
}

SIMT_KERNEL(64, 1) missing_barrier_before_reuse(uint32_t *out)
{
    SIMT_SHARED(uint32_t, values, [64]);
    const int32_t thread = simt_thread();
    values[thread] = (uint32_t)thread;
    simt_barrier();
    out[thread] = values[63 - thread];
    values[thread] = 1000; /* planted: others may still read */
    simt_barrier();
}

/* Lanes of a warp in lockstep would get this right. */
SIMT_KERNEL(64, 1) missing_warp_barrier(uint32_t *out)
{
    SIMT_SHARED(uint32_t, values, [64]);
    const int32_t thread = simt_thread();
    values[thread] = (uint32_t)thread;
    out[thread] = values[thread ^ 1]; /* planted */
}

/* Right in any order that the runtime can choose: only who looks at the order itself sees it. */
SIMT_KERNEL(64, 1) missing_barrier_right_numbers(uint32_t *out)
{
    SIMT_SHARED(uint32_t, same, [1]);
    same[0] = 7; /* planted: everybody writes it */
    out[simt_thread()] = (uint32_t)simt_thread() + same[0] - 7;
}

/* A shuffle passes its value and orders no memory. */
SIMT_KERNEL(64, 1) shuffle_for_a_barrier(uint32_t *out)
{
    SIMT_SHARED(uint32_t, values, [64]);
    const int32_t thread = simt_thread();
    values[thread] = (uint32_t)thread;
    uint32_t zero = simt_shuffle(0, 0);
    out[thread] = values[thread ^ 1] + zero; /* planted */
}

SIMT_KERNEL(64, 1) missing_fence(uint32_t *out, uint32_t *parts, uint32_t *counter)
{
    if (simt_thread() == 0) {
        parts[simt_block()] = SUM / 2;
        if (simt_atomic_add(counter, 1) == 1) { /* planted: not simt_arrive */
            out[0] = parts[0] + parts[1];
        }
    }
}

SIMT_KERNEL(64, 1) blocks_in_order(uint32_t *out)
{
    if (simt_thread() == 0) { /* planted: the second block counts on the first */
        out[0] = simt_block() == 0 ? SUM / 2 : out[0] + SUM / 2;
    }
}

SIMT_KERNEL(64, 1) missing_wait(uint32_t *out, const uint32_t *in)
{
    SIMT_DYNAMIC_SHARED(memory);
    uint32_t *values = reinterpret_cast<uint32_t *>(memory);
    const int32_t thread = simt_thread();
    if (thread < 16) {
        simt_copy_async(values + 4 * thread, in + 4 * thread, true);
    }
    simt_copy_commit();
    simt_copy_wait<1>(); /* planted: one group is too many */
    simt_barrier();
    out[thread] = values[63 - thread];
    simt_copy_wait<0>();
}

SIMT_KERNEL(64, 1) copy_left_behind(uint32_t *out, const uint32_t *in)
{
    SIMT_DYNAMIC_SHARED(memory);
    if (simt_thread() == 5) {
        simt_copy_async(memory, in, true); /* planted: nobody waits */
    }
    out[simt_thread()] = (uint32_t)simt_thread();
}

SIMT_KERNEL(32, 1) fragments(uint32_t *out, const uint32_t *in, bool swapped)
{
    const int32_t lane = simt_lane(), g = lane / 4, t = lane % 4;
    uint32_t a[4], b[2];
    float d[4] = {0, 0, 0, 0};
    for (int32_t i = 0; i < 4; i++) { /* row of a, weighed by the column */
        const int32_t row = g + 8 * (i & 1), col = 2 * t + 8 * (i >> 1);
        a[swapped && i % 3 ? 3 - i : i] =
            simt_bf16_pair((float)in[row] * (float)col, (float)in[row] * (float)(col + 1));
    }
    for (int32_t i = 0; i < 2; i++) { /* picks column g + 3 */
        const int32_t row = 2 * t + 8 * i;
        b[i] = simt_bf16_pair(row == g + 3 ? 1.0f : 0.0f, row + 1 == g + 3 ? 1.0f : 0.0f);
    }
    simt_mma_bf16(d, a, b);
    for (int32_t i = 0; i < 4; i++) {
        out[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = (uint32_t)d[i];
    }
}

/* Table of 16 bytes looked up by four codes of 4 bits: out = table[code]. */
SIMT_KERNEL(64, 1) selector(uint32_t *out, bool masked)
{
    const uint32_t thread = (uint32_t)simt_thread(), code = thread % 16;
    const uint32_t codes = code * 0x1111, mask = masked ? 0x7777 : 0xffff; /* planted where not masked */
    const uint32_t low = simt_prmt(0x83828180u, 0x87868584u, codes & mask);
    const uint32_t high = simt_prmt(0x8b8a8988u, 0x8f8e8d8cu, codes & mask);
    const uint32_t byte = simt_prmt(low, high, 0x3210u | (codes >> 1 & 0x4444)) & 0xff;
    out[thread] = byte - 0x80 - code + thread;
}

SIMT_KERNEL(64, 1) divergent_barrier(uint32_t *out)
{
    if (simt_thread() < 32) {
        simt_barrier();
    } else {
        simt_barrier(); /* planted: another barrier */
    }
    out[simt_thread()] = (uint32_t)simt_thread();
}

SIMT_KERNEL(64, 1) left_before_barrier(uint32_t *out)
{
    out[simt_thread()] = (uint32_t)simt_thread();
    if (simt_thread() < 5 || simt_thread() == 40) {
        return; /* planted */
    }
    simt_barrier();
}

SIMT_KERNEL(64, 1) half_a_warp_shuffles(uint32_t *out)
{
    const int32_t thread = simt_thread();
    out[thread] = (uint32_t)thread;
    if (thread % 32 < 16) {
        out[thread] = simt_shuffle((uint32_t)thread, thread); /* planted */
    }
}

SIMT_KERNEL(64, 1) two_shuffles(uint32_t *out)
{
    const int32_t thread = simt_thread();
    if (thread % 2) {
        out[thread] = simt_shuffle((uint32_t)thread, thread);
    } else {
        out[thread] = simt_shuffle_xor((uint32_t)thread, 0); /* planted */
    }
}

SIMT_KERNEL(48, 1) part_of_a_warp(uint32_t *out)
{
    out[simt_thread()] = simt_shuffle_xor((uint32_t)simt_thread(), 0);
}

SIMT_KERNEL(64, 1) unaligned_copy(uint32_t *out, const uint32_t *in)
{
    SIMT_DYNAMIC_SHARED(memory);
    simt_copy_async(memory, in + 1, true); /* planted */
    simt_copy_commit();
    simt_copy_wait<0>();
    out[simt_thread()] = (uint32_t)simt_thread();
}

SIMT_KERNEL(64, 1) spin(uint32_t *flag)
{
    if (simt_thread() == 0) {
        while (__atomic_load_n(flag, __ATOMIC_RELAXED) == 0) { /* planted: waits for another thread */
        }
    }
    __atomic_store_n(flag, 1, __ATOMIC_RELAXED);
}

struct outcome {
    const char *error; /* NULL: it ran */
    bool right;        /* and the numbers are right */
};

struct memory {
    device_array<uint32_t> out{std::vector<uint32_t>(128, 0)}, in, scratch{std::vector<uint32_t>(8, 0)};
    memory() : in(numbers())
    {
    }
    static std::vector<uint32_t> numbers()
    {
        std::vector<uint32_t> values(64);
        for (uint32_t i = 0; i < 64; i++) {
            values[i] = i;
        }
        return values;
    }
};

enum caught { BY_NUMBERS, BY_ERROR, BY_TSAN_ONLY, NOT_AT_ALL };

struct fault {
    const char *name;
    caught how;
    bool race;           /* thread sanitizer reports it as well */
    const char *message; /* part of the error, or of what the sanitizer prints */
    outcome (*run)(memory &m);
};

static outcome judge(const char *error, memory &m)
{
    return {error, sum_of(m.out.data) == SUM};
}

static const simt_grid ONE = {"planted", 1, 64, 1024, nullptr}, TWO = {"planted", 2, 64, 0, nullptr};

static bool fragments_right(memory &m)
{
    for (uint32_t row = 0; row < 16; row++) {
        for (uint32_t col = 0; col < 8; col++) {
            if (m.out.data[row * 8 + col] != row * (col + 3)) {
                return false;
            }
        }
    }
    return true;
}

static outcome run_fragments(memory &m, bool swapped)
{
    const char *error =
        simt_launch({"planted", 1, 32, 0, nullptr}, fragments, m.out.data, m.in.data, swapped);
    return {error, fragments_right(m)};
}

static const fault faults[] = {
    {"missing barrier", BY_NUMBERS, true, "missing_barrier",
     [](memory &m) { return judge(simt_launch(ONE, missing_barrier, m.out.data), m); }},
    {"missing barrier before reuse", BY_NUMBERS, true, "missing_barrier_before_reuse",
     [](memory &m) { return judge(simt_launch(ONE, missing_barrier_before_reuse, m.out.data), m); }},
    {"missing warp barrier", BY_NUMBERS, true, "missing_warp_barrier",
     [](memory &m) { return judge(simt_launch(ONE, missing_warp_barrier, m.out.data), m); }},
    {"missing barrier, right numbers", BY_TSAN_ONLY, true, "missing_barrier_right_numbers",
     [](memory &m) { return judge(simt_launch(ONE, missing_barrier_right_numbers, m.out.data), m); }},
    {"shuffle for a barrier", BY_TSAN_ONLY, true, "shuffle_for_a_barrier",
     [](memory &m) { return judge(simt_launch(ONE, shuffle_for_a_barrier, m.out.data), m); }},
    {"missing fence", BY_TSAN_ONLY, true, "missing_fence",
     [](memory &m) {
         return judge(simt_launch(TWO, missing_fence, m.out.data, m.scratch.data, m.scratch.data + 4), m);
     }},
    {"blocks in order", BY_NUMBERS, true, "blocks_in_order",
     [](memory &m) { return judge(simt_launch(TWO, blocks_in_order, m.out.data), m); }},
    {"missing wait", BY_NUMBERS, true, "missing_wait",
     [](memory &m) { return judge(simt_launch(ONE, missing_wait, m.out.data, m.in.data), m); }},
    {"copy left behind", BY_ERROR, false,
     "thread 5: ends with 1 asynchronous copies that were never waited for",
     [](memory &m) { return judge(simt_launch(ONE, copy_left_behind, m.out.data, m.in.data), m); }},
    {"swapped fragments", BY_NUMBERS, false, "", [](memory &m) { return run_fragments(m, true); }},
    {"fragments as they should be", NOT_AT_ALL, false, "", [](memory &m) { return run_fragments(m, false); }},
    {"selector bit 3 kept", BY_NUMBERS, false, "",
     [](memory &m) { return judge(simt_launch(ONE, selector, m.out.data, false), m); }},
    {"selector masked", NOT_AT_ALL, false, "",
     [](memory &m) { return judge(simt_launch(ONE, selector, m.out.data, true), m); }},
    {"divergent barrier", BY_ERROR, false, "divergent barrier: it is at barrier (",
     [](memory &m) { return judge(simt_launch(ONE, divergent_barrier, m.out.data), m); }},
    {"left before the barrier", BY_ERROR, false,
     "deadlock: threads 0-4, 40 have ended; threads 5-39, 41-63 wait in barrier at ",
     [](memory &m) { return judge(simt_launch(ONE, left_before_barrier, m.out.data), m); }},
    {"half a warp shuffles", BY_ERROR, false, "threads 0-15, 32-47 wait in shuffle at ",
     [](memory &m) { return judge(simt_launch(ONE, half_a_warp_shuffles, m.out.data), m); }},
    {"two shuffles", BY_ERROR, false, "divergent shuffle",
     [](memory &m) { return judge(simt_launch(ONE, two_shuffles, m.out.data), m); }},
    {"part of a warp", BY_ERROR, false, "needs 32 lanes, its warp has 16",
     [](memory &m) {
         return judge(simt_launch({"planted", 1, 48, 0, nullptr}, part_of_a_warp, m.out.data), m);
     }},
    {"unaligned copy", BY_ERROR, false, "is not aligned",
     [](memory &m) { return judge(simt_launch(ONE, unaligned_copy, m.out.data, m.in.data), m); }},
    {"too many threads", BY_ERROR, false, "beyond the limits",
     [](memory &m) {
         return judge(simt_launch({"planted", 1, 1056, 0, nullptr}, missing_barrier, m.out.data), m);
     }},
    {"too much shared memory", BY_ERROR, false, "beyond the limits",
     [](memory &m) {
         return judge(simt_launch({"planted", 1, 64, 1 << 20, nullptr}, missing_barrier, m.out.data), m);
     }},
};

static const uint64_t N_SEEDS = 16;

static void test_fault(const fault &f)
{
    int32_t n_wrong = 0;
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
        memory m;
        simt_host_seed(seed);
        outcome out = f.run(m);
        if (f.how == BY_ERROR) {
            CHECK(out.error && strstr(out.error, f.message), "%s, seed %d: \"%s\" is not \"%s\"", f.name,
                  (int)seed, out.error ? out.error : "no error", f.message);
        } else {
            CHECK(!out.error, "%s, seed %d: %s", f.name, (int)seed, out.error);
        }
        n_wrong += !out.right;
    }
    if (f.how == BY_NUMBERS) {
        CHECK(n_wrong > 0, "%s: the numbers are right with %d seeds", f.name, (int)N_SEEDS);
    } else if (f.how == NOT_AT_ALL) {
        CHECK(n_wrong == 0, "%s: the numbers are wrong", f.name);
    }
}

/* Runs this program again with one fault; its output and exit code. */
static std::string run_again(const std::string &arguments, int *code)
{
    char self[4096];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    std::string text;
    *code = -1;
    if (length <= 0) {
        return text;
    }
    self[length] = 0;
    FILE *child = popen(("'" + std::string(self) + "' " + arguments + " 2>&1").c_str(), "r");
    if (!child) {
        return text;
    }
    for (int c; (c = fgetc(child)) != EOF;) {
        text += (char)c;
    }
    int status = pclose(child);
    *code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return text;
}

static void test_spin(void)
{
    int code;
    std::string text = run_again("spin", &code);
    CHECK(code == 3 && text.find("planted: block 0, thread 0: no barrier or end in 1 seconds") != text.npos,
          "code %d: %s", code, text.c_str());
}

static void test_under_tsan(size_t index)
{
    const fault &f = faults[index];
    int code;
    std::string text = run_again(std::to_string(index), &code);
    bool reported = text.find("WARNING: ThreadSanitizer: data race") != text.npos;
    CHECK(reported == f.race, "%s: %s\n%s", f.name, f.race ? "no report" : "a report", text.c_str());
    const std::string name =
        std::string(" ") + f.message; /* with its arguments from one compiler, without from another */
    CHECK(!f.race || text.find(name + " ") != text.npos || text.find(name + "(") != text.npos,
          "%s is not named in\n%s", f.message, text.c_str());
}

int main(int n_arguments, char **arguments)
{
    simt_host_time_limit(60);
    if (n_arguments > 1 && strcmp(arguments[1], "spin") == 0) {
        memory m;
        simt_host_time_limit(1);
        for (uint64_t seed = 1;; seed++) { /* until thread 0 comes first */
            simt_host_seed(seed);
            m.scratch.data[0] = 0;
            simt_launch({"planted", 1, 64, 0, nullptr}, spin, m.scratch.data);
        }
    }
    if (n_arguments > 1) {
        size_t index = (size_t)atoi(arguments[1]);
        for (uint64_t seed = 1; seed <= 4; seed++) {
            memory m;
            simt_host_seed(seed);
            faults[index].run(m);
        }
        return 0;
    }
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        if (under_tsan) {
            test_under_tsan(i);
        } else {
            test_fault(faults[i]);
        }
    }
    test_spin();
    return checks_finish(under_tsan ? "cuda_faults under thread sanitizer" : "cuda_faults");
}
