/* Asks the processor (cpuid) and the operating system (xgetbv: does it save the wide registers?) which
 * instruction sets may run, and reads the user's mask. Source: Intel SDM vol. 1, sections 14.3, 14.5, 15.2
 * and 15.3. */
#include "engine/base/cpu_features.h"

#include <stdint.h>
#include <string.h>

#ifdef ANY4_X86
#include <cpuid.h>

enum {
    LEAF1_ECX_FMA = 1 << 12,
    LEAF1_ECX_OSXSAVE = 1 << 27,
    LEAF1_ECX_AVX = 1 << 28,
    LEAF1_ECX_F16C = 1 << 29,
    LEAF7_EBX_AVX2 = 1 << 5,
    LEAF7_EBX_AVX512F = 1 << 16,
    LEAF7_EBX_AVX512DQ = 1 << 17,
    LEAF7_EBX_AVX512BW = 1 << 30,
    XCR0_SSE_AVX = 0x6, /* xmm and upper halves of ymm */
    XCR0_AVX512 = 0xe0, /* mask registers, upper halves of zmm0-15, zmm16-31 */
};
#define LEAF7_EBX_AVX512VL (1u << 31)

static uint32_t xcr0_read(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    (void)high;
    return low;
}

unsigned cpu_flags_detect(void)
{
    const uint32_t leaf1 = LEAF1_ECX_FMA | LEAF1_ECX_OSXSAVE | LEAF1_ECX_AVX | LEAF1_ECX_F16C;
    const uint32_t leaf7 = LEAF7_EBX_AVX512F | LEAF7_EBX_AVX512DQ | LEAF7_EBX_AVX512BW | LEAF7_EBX_AVX512VL;
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & leaf1) != leaf1) {
        return 0;
    }
    uint32_t xcr0 = xcr0_read(); /* allowed only behind the OSXSAVE check above */
    if ((xcr0 & XCR0_SSE_AVX) != XCR0_SSE_AVX || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) ||
        !(ebx & LEAF7_EBX_AVX2)) {
        return 0;
    }
    unsigned flags = CPU_AVX2;
    if ((ebx & leaf7) == leaf7 && (xcr0 & XCR0_AVX512) == XCR0_AVX512) {
        flags |= CPU_AVX512;
    }
    return flags;
}
#else
unsigned cpu_flags_detect(void)
{
    return 0;
}
#endif

unsigned cpu_flags_usable(unsigned allowed)
{
    return allowed & cpu_flags_detect();
}

enum status cpu_flags_parse(unsigned *out, const char *text, struct error *err)
{
    static const struct {
        const char *name;
        unsigned flags;
    } words[] = {{"avx2", CPU_AVX2}, {"avx512", CPU_AVX512}};
    *out = 0;
    if (strcmp(text, "all") == 0) {
        *out = CPU_ALL;
        return STATUS_OK;
    }
    if (strcmp(text, "scalar") == 0) {
        return STATUS_OK;
    }
    unsigned flags = 0;
    for (const char *word = text;; word++) {
        size_t length = strcspn(word, ",");
        unsigned found = 0;
        for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
            if (strlen(words[i].name) == length && memcmp(words[i].name, word, length) == 0) {
                found = words[i].flags;
            }
        }
        if (!found) {
            int shown = length < 64 ? (int)length : 64;
            return error_set(
                err, STATUS_INVALID,
                "cpu flags: unknown word \"%.*s\", expected \"all\", \"scalar\", or a comma list of "
                "avx2 and avx512",
                shown, word);
        }
        flags |= found;
        word += length;
        if (!*word) {
            break;
        }
    }
    *out = flags;
    return STATUS_OK;
}
