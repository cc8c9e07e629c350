// Weights of a base model in 8 and 4 bits: from `real` [O, I] and back, a row at a time; decision 023.
//
// Every number is computed by the same operations in the same order as by the twins in torch (models/quantization), and
// equals them to the bit.

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "numbers.h"

enum { BLOCK = 64, HALF = BLOCK / 2 };

static inline float largest(const real *from, int64_t count) {
    float found = 0;
    int broken = 0;
#pragma omp simd reduction(max : found) reduction(| : broken)
    for (int64_t j = 0; j < count; j++) {
        const float size = fabsf(get(from[j]));
        found = size > found ? size : found;
        broken |= size != size;
    }
    return broken ? NAN : found;
}

// codes[o, i] = round(weight / scale), scales[o] = max |weight[o]| / 127.
void quantize_int8(
    const real *weight, int8_t *codes, float *scales, int64_t outputs, int64_t inputs, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t o = 0; o < outputs; o++) {
        const real *from = weight + o * inputs;
        int8_t *to = codes + o * inputs;
        const float scale = largest(from, inputs) / 127.0f, divisor = scale > 0 ? scale : 1.0f;
        scales[o] = scale;
#pragma omp simd
        for (int64_t j = 0; j < inputs; j++) to[j] = (int8_t)(int32_t)rintf(get(from[j]) / divisor);
    }
}

void widen_int8(
    const int8_t *codes, const float *scales, real *weight, int64_t outputs, int64_t inputs, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t o = 0; o < outputs; o++) {
        const int8_t *from = codes + o * inputs;
        real *to = weight + o * inputs;
        const float scale = scales[o];
#pragma omp simd
        for (int64_t j = 0; j < inputs; j++) to[j] = put((float)from[j] * scale);
    }
}

// A block of 64 numbers of a row is 32 bytes: number j in the lower half of byte j, number 32 + j in its upper half.
// The last block of a row is filled up with zeros. scales [O, blocks]: max |weight| of each block.
void quantize_nf4(
    const real *weight, const float *middles, uint8_t zero, uint8_t *codes, float *scales, int64_t outputs,
    int64_t inputs, int threads) {
    const int64_t blocks = (inputs + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t o = 0; o < outputs; o++) {
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t left = inputs - b * BLOCK, count = left < BLOCK ? left : BLOCK;
            const real *from = weight + o * inputs + b * BLOCK;
            uint8_t *to = codes + (o * blocks + b) * HALF;
            const float scale = largest(from, count), divisor = scale > 0 ? scale : 1.0f;
            int32_t found[BLOCK];
            for (int64_t j = count; j < BLOCK; j++) found[j] = zero;
#pragma omp simd
            for (int64_t j = 0; j < count; j++) {
                const float x = get(from[j]) / divisor;
                int32_t level = 0;
                for (int m = 0; m < 15; m++) level += middles[m] < x;
                found[j] = level;
            }
            scales[o * blocks + b] = scale;
            for (int64_t j = 0; j < HALF; j++) to[j] = (uint8_t)(found[j] | found[HALF + j] << 4);
        }
    }
}

// The 64 numbers of a block in fp32.
static inline void widen_block(const uint8_t *from, const float *levels, float scale, float *to) {
#if defined(__AVX512F__)
    const __m512 table = _mm512_loadu_ps(levels), factor = _mm512_set1_ps(scale);
    for (int part = 0; part < 2; part++) {
        const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(from + 16 * part)));
        // Of an index into sixteen numbers the lowest four bits count.
        const __m512 low = _mm512_permutexvar_ps(bytes, table);
        const __m512 high = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), table);
        _mm512_storeu_ps(to + 16 * part, _mm512_mul_ps(low, factor));
        _mm512_storeu_ps(to + HALF + 16 * part, _mm512_mul_ps(high, factor));
    }
#else
    for (int j = 0; j < HALF; j++) {
        to[j] = levels[from[j] & 15] * scale;
        to[HALF + j] = levels[from[j] >> 4] * scale;
    }
#endif
}

void widen_nf4(
    const uint8_t *codes, const float *scales, const float *levels, real *weight, int64_t outputs, int64_t inputs,
    int threads) {
    const int64_t blocks = (inputs + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t o = 0; o < outputs; o++) {
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t left = inputs - b * BLOCK, count = left < BLOCK ? left : BLOCK;
            real *to = weight + o * inputs + b * BLOCK;
            float numbers[BLOCK];
            widen_block(codes + (o * blocks + b) * HALF, levels, scales[o * blocks + b], numbers);
            if (count == BLOCK) {
#pragma omp simd
                for (int j = 0; j < BLOCK; j++) to[j] = put(numbers[j]);
            } else {
                for (int64_t j = 0; j < count; j++) to[j] = put(numbers[j]);
            }
        }
    }
}
