// Layers that only pass over memory: each in one pass forward and one backward, on CPU.
//
// Shapes: T tokens, E hidden size, I inner size, V vocabulary; arrays are dense unless strides are given.

#include "numbers.h"

// y = x / rms(x) * weight; inverse[t] = 1 / rms(x[t]).
void rms_norm_forward(
    const real *x, const real *weight, float epsilon, real *y, float *inverse, int64_t tokens, int64_t size,
    int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t t = 0; t < tokens; t++) {
        const real *from = x + t * size;
        real *to = y + t * size;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t j = 0; j < size; j++) squares += get(from[j]) * get(from[j]);
        // Squares that overflow would give a norm of zeros, and a loss that looks sound: better not a number.
        const float factor = squares <= FLT_MAX ? 1.0f / sqrtf(squares / size + epsilon) : NAN;
        inverse[t] = factor;
#pragma omp simd
        for (int64_t j = 0; j < size; j++) to[j] = put(get(from[j]) * factor * get(weight[j]));
    }
}

// grad_x = (g - x * mean(g x) / rms^2) / rms with g = grad * weight.
void rms_norm_backward(
    const real *grad, const real *x, const real *weight, const float *inverse, real *grad_x, int64_t tokens,
    int64_t size, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t t = 0; t < tokens; t++) {
        const real *g = grad + t * size, *from = x + t * size;
        real *to = grad_x + t * size;
        float dots = 0;
#pragma omp simd reduction(+ : dots)
        for (int64_t j = 0; j < size; j++) dots += get(g[j]) * get(weight[j]) * get(from[j]);
        const float factor = inverse[t], along = dots / size * factor * factor * factor;
#pragma omp simd
        for (int64_t j = 0; j < size; j++) to[j] = put(get(g[j]) * get(weight[j]) * factor - get(from[j]) * along);
    }
}

// y = gate * sigmoid(gate) * up, `count` numbers.
void swiglu_forward(const real *gate, const real *up, real *y, int64_t count, int threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t j = 0; j < count; j++) {
        const float x = get(gate[j]);
        y[j] = put(x / (1.0f + exponential(-x)) * get(up[j]));
    }
}

// grad_up = grad * silu(gate); grad_gate = grad * up * sigmoid(gate) * (1 + gate * (1 - sigmoid(gate))).
void swiglu_backward(
    const real *grad, const real *gate, const real *up, real *grad_gate, real *grad_up, int64_t count,
    int threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t j = 0; j < count; j++) {
        const float x = get(gate[j]), slope = get(grad[j]), sigmoid = 1.0f / (1.0f + exponential(-x));
        grad_up[j] = put(slope * x * sigmoid);
        grad_gate[j] = put(slope * get(up[j]) * sigmoid * (1.0f + x * (1.0f - sigmoid)));
    }
}

// Rotary positions on x [T, heads, D] of given strides, D dense and even, into y [T, heads, D]:
// y = x * cos + rotate_half(x) * sin (https://arxiv.org/abs/2104.09864, as transformers lays it out). With
// `transposed` the gradient: grad_x of grad_y. cos, sin: [T, D].
void rotary(
    const real *x, int64_t token_stride, int64_t head_stride, const real *cosine, const real *sine, int transposed,
    real *y, int64_t tokens, int64_t heads, int64_t size, int threads) {
    const int64_t half = size / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t t = 0; t < tokens; t++) {
        const real *c = cosine + t * size, *s = sine + t * size;
        // y1 = x1 c1 - x2 s1, y2 = x2 c2 + x1 s2; the gradient takes s2 for -s1 and -s1 for s2.
        const real *first = transposed ? s + half : s, *second = transposed ? s : s + half;
        const float sign = transposed ? -1.0f : 1.0f;
        for (int64_t h = 0; h < heads; h++) {
            const real *from = x + t * token_stride + h * head_stride;
            real *to = y + (t * heads + h) * size;
#pragma omp simd
            for (int64_t j = 0; j < half; j++) {
                const float a = get(from[j]), b = get(from[half + j]);
                to[j] = put(a * get(c[j]) - sign * b * get(first[j]));
                to[half + j] = put(b * get(c[half + j]) + sign * a * get(second[j]));
            }
        }
    }
}

// Each row of logits [rows, V] becomes softmax(row) - one_hot(target); losses[row] = -log softmax(row)[target].
void cross_entropy(
    real *logits, const int64_t *targets, float *losses, int64_t rows, int64_t vocabulary, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        real *row = logits + r * vocabulary;
        const float wanted = get(row[targets[r]]);
        float peak = -INFINITY, total = 0;
        int broken = 0;
#pragma omp simd reduction(max : peak) reduction(| : broken)
        for (int64_t j = 0; j < vocabulary; j++) {
            const float x = get(row[j]);
            peak = x > peak ? x : peak;
            broken |= x != x;
        }
#pragma omp simd reduction(+ : total)
        for (int64_t j = 0; j < vocabulary; j++) total += exponential(get(row[j]) - peak);
        const float lse = logf(total) + peak;
        losses[r] = broken ? NAN : lse - wanted;
#pragma omp simd
        for (int64_t j = 0; j < vocabulary; j++) row[j] = put(exponential(get(row[j]) - lse));
        // Rounded once: softmax - 1 of the target from its own number, not from the rounded one.
        row[targets[r]] = put(exponential(wanted - lse) - 1.0f);
    }
}
