/* The 16-bit formats, exhaustively where that is possible. */
#include <criterion/criterion.h>
#include <math.h>

#include "engine/base/float16.h"

Test(float16, every_half_survives_the_round_trip)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = f16_to_f32((uint16_t)h);
        if (isnan(f)) {
            cr_assert_eq(h & 0x7c00, 0x7c00);
            cr_assert(isnan(f16_to_f32(f16_from_f32(f))));
        } else {
            cr_assert_eq(f16_from_f32(f), h, "%04x", h);
            double expected = ldexp((h & 0x3ff) + ((h & 0x7c00) ? 0x400 : 0),
                                    (int)((h >> 10 & 0x1f) ? (h >> 10 & 0x1f) : 1) - 25);
            if ((h & 0x7c00) != 0x7c00) {
                cr_assert_eq((double)f, h & 0x8000 ? -expected : expected, "%04x", h);
            }
        }
        float b = bf16_to_f32((uint16_t)h);
        cr_assert(isnan(b) ? isnan(bf16_to_f32(bf16_from_f32(b))) : bf16_from_f32(b) == h, "%04x", h);
    }
}

/* Between two neighbours: the midpoint goes to the even one, a hair more or less to the nearer one. */
Test(float16, rounds_to_nearest_even)
{
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float low = f16_to_f32((uint16_t)h), high = f16_to_f32((uint16_t)(h + 1)), middle = (low + high) / 2;
        cr_assert_eq(f16_from_f32(middle), h & 1 ? h + 1 : h, "%04x", h);
        cr_assert_eq(f16_from_f32(nextafterf(middle, 0)), h);
        cr_assert_eq(f16_from_f32(-nextafterf(middle, INFINITY)), 0x8000 | (h + 1));
    }
    for (uint32_t h = 0; h < 0x7f7f; h++) {
        float low = bf16_to_f32((uint16_t)h), high = bf16_to_f32((uint16_t)(h + 1)),
              middle = low + (high - low) / 2;
        cr_assert_eq(bf16_from_f32(middle), h & 1 ? h + 1 : h, "%04x", h);
        cr_assert_eq(bf16_from_f32(nextafterf(middle, 0)), h);
        cr_assert_eq(bf16_from_f32(nextafterf(middle, INFINITY)), h + 1);
    }
}

Test(float16, edges)
{
    cr_assert_eq(f16_from_f32(65504.f), 0x7bff);
    cr_assert_eq(f16_from_f32(65519.996f), 0x7bff);
    cr_assert_eq(f16_from_f32(65520.f), 0x7c00);
    cr_assert_eq(f16_from_f32(-INFINITY), 0xfc00);
    cr_assert_eq(f16_from_f32(ldexpf(1, -25)), 0);
    cr_assert_eq(f16_from_f32(nextafterf(ldexpf(1, -25), 1)), 1);
    cr_assert_eq(f16_from_f32(-0.f), 0x8000);
    cr_assert_eq(bf16_from_f32(3.4028235e38f), 0x7f80);
    cr_assert_eq(bf16_from_f32(INFINITY), 0x7f80);
    cr_assert(isnan(bf16_to_f32(bf16_from_f32(NAN))));
}
