/* Detection and the words of --cpu-flags. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/cpu_features.h"

Test(cpu_features, detection_is_consistent)
{
    unsigned flags = cpu_flags_detect();
    cr_assert_eq(flags & ~(unsigned)CPU_ALL, 0u);
    cr_assert(!(flags & CPU_AVX512) || (flags & CPU_AVX2), "AVX-512 without AVX2");
    fprintf(stderr, "this processor:%s%s\n", flags & CPU_AVX2 ? " avx2" : "",
            flags & CPU_AVX512 ? " avx512" : "");
}

Test(cpu_features, parse_knows_its_words)
{
    static const struct {
        const char *text;
        unsigned flags;
    } cases[] = {{"all", CPU_ALL},         {"scalar", 0},
                 {"avx2", CPU_AVX2},       {"avx512", CPU_AVX512},
                 {"avx2,avx512", CPU_ALL}, {"avx512,avx2", CPU_ALL}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned flags = 77;
        struct error err;
        cr_assert_eq(cpu_flags_parse(&flags, cases[i].text, &err), STATUS_OK, "%s", cases[i].text);
        cr_assert_eq(flags, cases[i].flags, "%s", cases[i].text);
    }
}

Test(cpu_features, parse_names_the_unknown_word)
{
    static const char *const cases[][2] = {{"avx2,sse9", "\"sse9\""}, {"", "\"\""},
                                           {"avx2,", "\"\""},         {"avx", "\"avx\""},
                                           {"AVX2", "\"AVX2\""},      {"all,avx2", "\"all\""}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned flags = 77;
        struct error err;
        cr_assert_eq(cpu_flags_parse(&flags, cases[i][0], &err), STATUS_INVALID, "%s", cases[i][0]);
        cr_assert(strstr(err.message, cases[i][1]), "%s: %s", cases[i][0], err.message);
        cr_assert_eq(cpu_flags_parse(&flags, cases[i][0], NULL), STATUS_INVALID);
    }
}
