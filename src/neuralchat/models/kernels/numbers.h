#pragma once

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// What activations are stored as: fp32, or with -DBF16=1 bfloat16, its upper half. Arithmetic is fp32 either way.
#if BF16
typedef uint16_t real;
static inline float get(real x) {
    union {
        uint32_t bits;
        float number;
    } wide = {(uint32_t)x << 16};
    return wide.number;
}
static inline real put(float x) {
    union {
        float number;
        uint32_t bits;
    } wide = {x};
    // To nearest, ties to even; what is not a number stays so.
    const uint32_t rounded = wide.bits + 0x7fff + ((wide.bits >> 16) & 1);
    return (real)((x != x ? 0x7fc00000 : rounded) >> 16);
}
#else
typedef float real;
static inline float get(real x) { return x; }
static inline real put(float x) { return x; }
#endif

// e^x by the polynomial of Cephes (expf.c), relative error below 2e-7; exactly 0 below -87, inf above 88. Without
// branches, so that loops over it become vector code.
static inline float exponential(float x) {
    const float magic = 12582912.0f, inside = x > 88.0f ? 88.0f : x < -87.0f ? -87.0f : x;
    const float n = (inside * 1.44269504088896341f + magic) - magic;
    const float r = (inside - n * 0.693359375f) + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = (y * (r * r) + r) + 1.0f;
    union {
        int32_t bits;
        float number;
    } power = {((int32_t)n + 127) << 23};
    const float found = y * power.number;
    return x > 88.0f ? INFINITY : x < -87.0f ? 0.0f : found;
}
