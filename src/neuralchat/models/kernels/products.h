// Products of a few rows with weights [outputs, inputs], and low-rank parts of another adapter for each row.
//
// With few rows a product is bound by reading its weights, so each is read once for all rows. A row's sums are formed in
// the same order whatever rows are computed beside it. Shapes: M rows, r rank.

#pragma once

#include "vectors.h"

// Outputs of one task, and of one tile of sums: ROWS x OUTS = LANES of them, as many as one vector holds.
#define TASK 64
#define OUTS 2
// Outputs that lie together in LoRA's B.
#define PANEL 16
// Bytes of weights that are asked for before they are needed: a core alone, waiting for each, reads half as fast.
#define AHEAD 8192
#define LINE 64

// `half`: the weights are bf16, otherwise fp32. bias: [outputs] or NULL.
typedef struct {
    const void *weight;
    const float *bias;
    int64_t inputs, outputs, half;
} matrix;

// scaling * B A of one adapter for one matrix; rank 0: none. A [r, inputs], B [outputs / PANEL, r, PANEL], r is even.
typedef struct {
    const float *a, *b;
    int64_t rank;
    float scaling;
} low_rank;

// Neighbouring rows of one adapter.
typedef struct {
    int64_t first, count, adapter;
} piece;

// Lane i of the result is the sum of part[i], halves added to halves.
static inline __attribute__((always_inline)) vec sums_of(vec *part) {
#define FOLD(step, low, high)                                                                                           \
    _Pragma("GCC unroll 16") for (int i = 0; i < (step); i++) part[i] =                                                 \
        __builtin_shuffle(part[2 * i], part[2 * i + 1], (lanes)low) +                                                   \
        __builtin_shuffle(part[2 * i], part[2 * i + 1], (lanes)high);
#define L(...) {__VA_ARGS__}
#if LANES == 16
    FOLD(8, L(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
         L(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
    FOLD(4, L(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27),
         L(4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31))
    FOLD(2, L(0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29),
         L(2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31))
    FOLD(1, L(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
         L(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31))
#else
    FOLD(4, L(0, 1, 2, 3, 8, 9, 10, 11), L(4, 5, 6, 7, 12, 13, 14, 15))
    FOLD(2, L(0, 1, 4, 5, 8, 9, 12, 13), L(2, 3, 6, 7, 10, 11, 14, 15))
    FOLD(1, L(0, 2, 4, 6, 8, 10, 12, 14), L(1, 3, 5, 7, 9, 11, 13, 15))
#endif
    return part[0];
}

// sums[r][o] = x[r] . weight[o] for `rows` rows and whether weights are `half`, both constants, and OUTS outputs.
static inline __attribute__((always_inline)) void tile(
    int rows, int half, const float *x, int64_t stride, const void *weight, int64_t inputs, float (*sums)[OUTS]) {
    vec part[ROWS * OUTS];
#pragma GCC unroll 16
    for (int i = 0; i < ROWS * OUTS; i++) part[i] = (vec){0};
    const int64_t whole = inputs / LANES * LANES;
    for (int64_t k = 0; k < whole; k += LANES) {
        vec w[OUTS];
#pragma GCC unroll 2
        for (int o = 0; o < OUTS; o++) {
            const int64_t place = o * inputs + k;
            w[o] = half ? load_half((const uint16_t *)weight + place) : load((const float *)weight + place);
            __builtin_prefetch((const char *)weight + place * (half ? 2 : 4) + AHEAD, 0, 2);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const vec value = load(x + r * stride + k);
#pragma GCC unroll 2
            for (int o = 0; o < OUTS; o++) part[r * OUTS + o] += value * w[o];
        }
    }
    store(sums[0], sums_of(part));
    for (int64_t k = whole; k < inputs; k++)
        for (int r = 0; r < rows; r++)
            for (int o = 0; o < OUTS; o++) {
                const int64_t place = o * inputs + k;
                const float w = half ? load_half((const uint16_t *)weight + place)[0] : ((const float *)weight)[place];
                sums[r][o] += x[r * stride + k] * w;
            }
}

static void tile_of_floats(int rows, const void *x, int64_t stride, const void *weight, int64_t inputs, float (*sums)[OUTS]) {
    OF_HEIGHT(rows, tile, 0, x, stride, weight, inputs, sums)
}

#if defined(__AVX512BF16__)
// Machines that multiply bf16 get activations in bf16, as torch has them for weights in bf16.
#include <immintrin.h>
#define STEP 32

static inline __attribute__((always_inline)) void tile_of_pairs(
    int rows, const uint16_t *x, int64_t stride, const uint16_t *weight, int64_t inputs, float (*sums)[OUTS]) {
    vec part[ROWS * OUTS];
#pragma GCC unroll 16
    for (int i = 0; i < ROWS * OUTS; i++) part[i] = (vec){0};
    for (int64_t k = 0; k < inputs; k += STEP) {
        const __mmask32 inside = inputs - k < STEP ? (1u << (inputs - k)) - 1 : ~0u;
        __m512i w[OUTS];
#pragma GCC unroll 2
        for (int o = 0; o < OUTS; o++) {
            w[o] = _mm512_maskz_loadu_epi16(inside, weight + o * inputs + k);
            __builtin_prefetch((const char *)(weight + o * inputs + k) + AHEAD, 0, 2);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const __m512i value = _mm512_loadu_si512(x + r * stride + k);
#pragma GCC unroll 2
            for (int o = 0; o < OUTS; o++)
                part[r * OUTS + o] =
                    (vec)_mm512_dpbf16_ps((__m512)part[r * OUTS + o], (__m512bh)value, (__m512bh)w[o]);
        }
    }
    store(sums[0], sums_of(part));
}

static void tile_of_halves(int rows, const void *x, int64_t stride, const void *weight, int64_t inputs, float (*sums)[OUTS]) {
    OF_HEIGHT(rows, tile_of_pairs, x, stride, weight, inputs, sums)
}

// Rows [rows, inputs] in bf16, [rows, stride], zeros beyond `inputs`.
static void round_inputs(const float *x, int64_t rows, int64_t inputs, uint16_t *to, int64_t stride) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < stride; k += LANES) {
            const __mmask16 inside = k + LANES <= inputs ? 0xffff : k < inputs ? (1u << (inputs - k)) - 1 : 0;
            const __m512 part = _mm512_maskz_loadu_ps(inside, x + r * inputs + k);
            _mm256_storeu_si256((__m256i *)(to + r * stride + k), (__m256i)_mm512_cvtneps_pbh(part));
        }
}
#else
static void tile_of_halves(int rows, const void *x, int64_t stride, const void *weight, int64_t inputs, float (*sums)[OUTS]) {
    OF_HEIGHT(rows, tile, 1, x, stride, weight, inputs, sums)
}
#endif

// to[m, o - first] (+)= x[m] . weight[o] + bias[o], for outputs [first, last) and all rows of x [rows, inputs].
static void product(
    const matrix *m, const float *x, int64_t rows, int64_t first, int64_t last, float *to, int64_t to_stride, int add) {
#if defined(__AVX512BF16__)
    const int64_t stride = m->half ? ROUND_UP(m->inputs, STEP) : m->inputs;
    uint16_t rounded[m->half ? ROWS * stride : 1];
#else
    const int64_t stride = m->inputs;
#endif
    for (int64_t row = 0; row < rows; row += ROWS) {
        const int height = rows - row < ROWS ? rows - row : ROWS;
        const void *from = x + row * m->inputs;
#if defined(__AVX512BF16__)
        if (m->half) {
            round_inputs(from, height, m->inputs, rounded, stride);
            from = rounded;
        }
#endif
        for (int64_t o = first; o < last; o += OUTS) {
            // A last tile that would reach beyond the matrix is laid earlier.
            const int64_t laid = o + OUTS <= m->outputs ? o : m->outputs - OUTS;
            const void *weight = (const char *)m->weight + laid * m->inputs * (m->half ? 2 : 4);
            float sums[ROWS][OUTS] __attribute__((aligned(64)));
            (m->half ? tile_of_halves : tile_of_floats)(height, from, stride, weight, m->inputs, sums);
            for (int64_t at = o; at < o + OUTS && at < last; at++) {
                const float bias = m->bias ? m->bias[at] : 0;
                for (int r = 0; r < height; r++) {
                    float *place = to + (row + r) * to_stride + at - first;
                    *place = (add ? *place : 0) + sums[r][at - laid] + bias;
                }
            }
        }
    }
}

// low[m, :] = scaling * A x[m] for the rows of a piece. low: [M, low_stride].
static void narrow(const low_rank *part, const piece *p, const float *x, int64_t inputs, float *low, int64_t low_stride) {
    for (int64_t m = p->first; m < p->first + p->count; m += ROWS) {
        const int64_t left = p->first + p->count - m, height = left < ROWS ? left : ROWS;
        for (int64_t k = 0; k < part->rank; k += OUTS) {
            float sums[ROWS][OUTS] __attribute__((aligned(64)));
            tile_of_floats(height, x + m * inputs, inputs, part->a + k * inputs, inputs, sums);
            for (int64_t r = 0; r < height; r++)
                for (int o = 0; o < OUTS; o++) low[(m + r) * low_stride + k + o] = part->scaling * sums[r][o];
        }
    }
}

// Asks for what `widen` needs of outputs [first, last).
static void ask_for_wide(const low_rank *part, int64_t first, int64_t last) {
    const char *from = (const char *)(part->b + first * part->rank);
    for (int64_t at = 0; at < (last - first) * part->rank * 4; at += LINE) __builtin_prefetch(from + at, 0, 2);
}

// to[m, o - first] += B low[m] for the rows of a piece and outputs [first, last); `first` is a multiple of PANEL.
static void widen(
    const low_rank *part, const piece *p, const float *low, int64_t low_stride, int64_t first, int64_t last, float *to,
    int64_t to_stride) {
    for (int64_t o = first; o < last; o += PANEL) {
        const float *panel = part->b + o * part->rank;
        for (int64_t m = p->first; m < p->first + p->count; m++) {
            vec sums[PANEL / LANES];
            for (int i = 0; i < PANEL / LANES; i++) sums[i] = (vec){0};
            for (int64_t k = 0; k < part->rank; k++)
                for (int i = 0; i < PANEL / LANES; i++)
                    sums[i] += low[m * low_stride + k] * load(panel + k * PANEL + i * LANES);
            float *place = to + m * to_stride + o - first;
            for (int i = 0; i < PANEL && o + i < last; i++) place[i] += sums[i / LANES][i % LANES];
        }
    }
}
