// Vectors of the widest registers, and the size of the register tiles that all products are made of.

#pragma once

#include "numbers.h"

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8
#else
#define LANES 8
#define ROWS 4
#endif
// Calls `f` with the number of rows as a constant, so that a tile of that height stays in registers.
#if ROWS == 8
#define OF_HEIGHT(rows, f, ...)                                                                                         \
    switch (rows) {                                                                                                     \
    case 1: f(1, __VA_ARGS__); break;                                                                                   \
    case 2: f(2, __VA_ARGS__); break;                                                                                   \
    case 3: f(3, __VA_ARGS__); break;                                                                                   \
    case 4: f(4, __VA_ARGS__); break;                                                                                   \
    case 5: f(5, __VA_ARGS__); break;                                                                                   \
    case 6: f(6, __VA_ARGS__); break;                                                                                   \
    case 7: f(7, __VA_ARGS__); break;                                                                                   \
    default: f(8, __VA_ARGS__);                                                                                         \
    }
#else
#define OF_HEIGHT(rows, f, ...)                                                                                         \
    switch (rows) {                                                                                                     \
    case 1: f(1, __VA_ARGS__); break;                                                                                   \
    case 2: f(2, __VA_ARGS__); break;                                                                                   \
    case 3: f(3, __VA_ARGS__); break;                                                                                   \
    default: f(4, __VA_ARGS__);                                                                                         \
    }
#endif
#define ROUND_UP(x, unit) (((x) + (unit)-1) / (unit) * (unit))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t bits_vec __attribute__((vector_size(4 * LANES)));
typedef uint16_t half_vec __attribute__((vector_size(2 * LANES), aligned(2)));

static inline vec load(const float *p) { return *(const vec *)p; }
static inline void store(float *p, vec x) { *(vec *)p = x; }
// bfloat16 is the upper half of fp32.
static inline vec load_half(const uint16_t *p) {
    return (vec)(__builtin_convertvector(*(const half_vec *)p, bits_vec) << 16);
}
#if BF16
static inline vec load_real(const real *p) { return load_half(p); }
#else
static inline vec load_real(const real *p) { return load(p); }
#endif

static inline float *memory(int64_t floats) { return aligned_alloc(64, ROUND_UP(sizeof(float) * floats + 1, 64)); }

// The same for one of several threads; where there is none, `failed` of all of them becomes 1.
static inline float *memory_of_thread(int64_t floats, int *failed) {
    float *own = memory(floats);
    if (!own) {
#pragma omp atomic write
        *failed = 1;
    }
    return own;
}
