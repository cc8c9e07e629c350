// Attention of tokens of many texts over keys and values that lie in pages.
//
// A task is a few queries of one text that share a key head: their scores over all its keys at once, softmax in two
// passes. A query's numbers are formed in the same order whatever is computed beside it. Pages of keys are transposed, so
// that few queries and many are products of the same form.
//
// Shapes: M rows (queries), H query heads, K key/value heads (H a multiple of K), D = HEAD_SIZE. Pages of a layer: keys
// [pages, K, D, PAGE], values [pages, K, PAGE, D]. Compiled with -DHEAD_SIZE=... -DPAGE=...

#pragma once

#include "vectors.h"

#define COLS (2 * LANES)

// Rows [starts[i], starts[i + 1]) are the last tokens of text i, which has ends[i]; its token t lies in page
// tables[i, t / PAGE] at place t % PAGE.
typedef struct {
    const int32_t *tables, *starts, *ends;
    int64_t count, table_size;
} texts;

// `scale`: of scores.
typedef struct {
    real *keys, *values;
    int64_t heads, kv_heads;
    float scale;
} paged_layer;

static inline const int32_t *table_of(const texts *t, int64_t i) { return t->tables + i * t->table_size; }
static inline int64_t rows_of(const texts *t, int64_t i) { return t->starts[i + 1] - t->starts[i]; }
static inline int64_t page_place(const paged_layer *l, int32_t page, int64_t head) {
    return ((int64_t)page * l->kv_heads + head) * PAGE * HEAD_SIZE;
}

static int64_t longest(const texts *t) {
    int64_t most = 0;
    for (int64_t i = 0; i < t->count; i++) most = t->ends[i] > most ? t->ends[i] : most;
    return most;
}

// What a task needs of memory, in floats: queries, their scores, and what becomes of them.
static int64_t attention_scratch(const texts *t) { return ROWS * (2 * HEAD_SIZE + ROUND_UP(longest(t), PAGE) + COLS); }

// Key and value [D] of row `row` of text i go to their place.
static void keep(const paged_layer *l, const texts *t, int64_t i, int64_t row, int64_t head, const float *key, const float *value) {
    const int64_t token = t->ends[i] - t->starts[i + 1] + row, place = token % PAGE;
    const int64_t page = page_place(l, table_of(t, i)[token / PAGE], head);
    for (int d = 0; d < HEAD_SIZE; d++) {
        l->keys[page + d * PAGE + place] = put(key[d]);
        l->values[page + place * HEAD_SIZE + d] = put(value[d]);
    }
}

// to[r, 0 .. COLS) = q[r] times the transposed keys at `left` and `right`, LANES of them each. `rows`: a constant.
static inline __attribute__((always_inline)) void scores_tile(
    int rows, const float *q, const real *left, const real *right, float *to, int64_t stride) {
    vec sums[ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = (vec){0};
    for (int d = 0; d < HEAD_SIZE; d++) {
        const vec one = load_real(left + d * PAGE), other = load_real(right + d * PAGE);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const float value = q[r * HEAD_SIZE + d];
            sums[r][0] += value * one;
            sums[r][1] += value * other;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        store(to + r * stride, sums[r][0]);
        store(to + r * stride + LANES, sums[r][1]);
    }
}

// Scores [rows, stride] of the first `length` keys of a text.
static inline __attribute__((always_inline)) void scores_of(
    int rows, const float *q, const paged_layer *l, const int32_t *table, int64_t head, int64_t length, float *to,
    int64_t stride) {
    for (int64_t t = 0; t < length; t += COLS) {
        const real *at[2];
        for (int i = 0; i < 2; i++) {
            // Behind the last page, that one again: nobody looks at its scores.
            const int64_t token = t + i * LANES < length ? t + i * LANES : t;
            at[i] = l->keys + page_place(l, table[token / PAGE], head) + token % PAGE;
        }
        scores_tile(rows, q, at[0], at[1], to + t, stride);
    }
}

// out [rows, D] = weights [rows, stride] times the first `length` values of a text.
static inline __attribute__((always_inline)) void mix_values(
    int rows, const float *weights, int64_t stride, const paged_layer *l, const int32_t *table, int64_t head,
    int64_t length, float *out) {
    int d = 0;
    for (; d + COLS <= HEAD_SIZE; d += COLS) {
        vec sums[ROWS][2];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = (vec){0};
        for (int64_t page = 0; page * PAGE < length; page++) {
            const real *value = l->values + page_place(l, table[page], head) + d;
            const float *weight = weights + page * PAGE;
            const int64_t left = length - page * PAGE, tokens = left < PAGE ? left : PAGE;
            for (int64_t t = 0; t < tokens; t++) {
                const vec one = load_real(value + t * HEAD_SIZE), other = load_real(value + t * HEAD_SIZE + LANES);
#pragma GCC unroll 8
                for (int r = 0; r < rows; r++) {
                    sums[r][0] += weight[r * stride + t] * one;
                    sums[r][1] += weight[r * stride + t] * other;
                }
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            store(out + r * HEAD_SIZE + d, sums[r][0]);
            store(out + r * HEAD_SIZE + d + LANES, sums[r][1]);
        }
    }
    for (int r = 0; r < rows && d < HEAD_SIZE; r++) {
        for (int e = d; e < HEAD_SIZE; e++) out[r * HEAD_SIZE + e] = 0;
        for (int64_t t = 0; t < length; t++) {
            const real *value = l->values + page_place(l, table[t / PAGE], head) + t % PAGE * HEAD_SIZE;
            for (int e = d; e < HEAD_SIZE; e++) out[r * HEAD_SIZE + e] += weights[r * stride + t] * get(value[e]);
        }
    }
}

// Scores of the first `seen` keys become e^(score - peak), those behind them up to `columns` nothing; 1 / their sum.
static float weights_of(float *score, int64_t seen, int64_t columns) {
    float peak = -INFINITY, total = 0;
#pragma omp simd reduction(max : peak)
    for (int64_t t = 0; t < seen; t++) peak = score[t] > peak ? score[t] : peak;
#pragma omp simd reduction(+ : total)
    for (int64_t t = 0; t < seen; t++) {
        score[t] = exponential(score[t] - peak);
        total += score[t];
    }
    memset(score + seen, 0, sizeof(float) * (columns - seen));
    return 1.0f / total;
}

// Queries [first, first + rows) of text i and one key head: those of its first row, then those of its second, and so
// on. `rows`: a constant.
static inline __attribute__((always_inline)) void attend_rows(
    int rows, const paged_layer *l, const texts *t, int64_t i, int64_t head, int64_t first, const float *q, float *scratch,
    float *out) {
    const int64_t group = l->heads / l->kv_heads, before = t->ends[i] - rows_of(t, i);
    const int64_t length = before + (first + rows - 1) / group + 1, stride = ROUND_UP(length, COLS);
    float *queries = scratch, *result = queries + ROWS * HEAD_SIZE, *scores = result + ROWS * HEAD_SIZE, inverse[ROWS];
    int64_t places[ROWS];
    for (int r = 0; r < rows; r++) {
        const int64_t row = (first + r) / group;
        places[r] = ((t->starts[i] + row) * l->heads + head * group + (first + r) % group) * HEAD_SIZE;
        for (int d = 0; d < HEAD_SIZE; d++) queries[r * HEAD_SIZE + d] = q[places[r] + d] * l->scale;
    }
    scores_of(rows, queries, l, table_of(t, i), head, length, scores, stride);
    for (int r = 0; r < rows; r++)
        inverse[r] = weights_of(scores + r * stride, before + (first + r) / group + 1, length);
    mix_values(rows, scores, stride, l, table_of(t, i), head, length, result);
    for (int r = 0; r < rows; r++)
        for (int d = 0; d < HEAD_SIZE; d++) out[places[r] + d] = result[r * HEAD_SIZE + d] * inverse[r];
}

static int64_t blocks_of(const paged_layer *l, const texts *t, int64_t i) {
    return (rows_of(t, i) * (l->heads / l->kv_heads) + ROWS - 1) / ROWS;
}

static int64_t attention_tasks(const paged_layer *l, const texts *t) {
    int64_t tasks = 0;
    for (int64_t i = 0; i < t->count; i++) tasks += blocks_of(l, t, i) * l->kv_heads;
    return tasks;
}

// One task of `attention_tasks`: q [M, H, D] -> out [M, H, D].
static void attend(const paged_layer *l, const texts *t, int64_t task, const float *q, float *scratch, float *out) {
    int64_t i = 0, tasks;
    for (; task >= (tasks = blocks_of(l, t, i) * l->kv_heads); i++) task -= tasks;
    const int64_t blocks = blocks_of(l, t, i), head = task / blocks, first = task % blocks * ROWS;
    const int64_t left = rows_of(t, i) * (l->heads / l->kv_heads) - first;
    OF_HEIGHT(left, attend_rows, l, t, i, head, first, q, scratch, out)
}
