// Causal attention inside segments that may share a prefix: forward and backward on CPU.
//
// A task is one query head of one segment. Its keys are those that lead the whole row (virtual tokens that have no
// queries), those of the prefix and the segment's own, laid end to end: query i sees the first shared + i + 1 of them.
// Row blocks hold all their scores at once: softmax in two passes, no rescaling (the backward is that of
// https://arxiv.org/abs/2205.14135, appendix B). ALiBi adds slope * (key - query) to a score, by place among the keys
// (https://arxiv.org/abs/2108.12409).
//
// Shapes: T tokens of the row, L queries of the segment, N = shared + L keys, D = HEAD_SIZE, W = D rounded up to the
// register tile. Queries and outputs are [T, heads, D], keys and values [leading + T, kv_heads, D]; strides in
// elements, D dense. Compiled by models/compiled.py with -DHEAD_SIZE=...

#include "vectors.h"

#define COLS (2 * LANES)
#define BLOCK (8 * ROWS)
#define WIDTH ROUND_UP(HEAD_SIZE, COLS)

typedef struct {
    int64_t prefix_start, prefix_end, start, end;
} segment;

typedef struct {
    const real *data;
    int64_t token, head;
} view;

// The row: its segments, and what all tasks share. `slopes`: ALiBi's, by query head, or NULL.
typedef struct {
    view q, k, v;
    const segment *segments;
    int64_t count, tokens, heads, kv_heads, leading;
    const float *slopes;
    float scale;
} row_of;

// c[r, :] = (add ? c[r, :] : 0) + sum over k of a[r, k] b[k, :], for ROWS rows and COLS columns.
static inline __attribute__((always_inline)) void tile(
    const float *restrict a, int64_t a_row, int64_t a_k, const float *restrict b, int64_t b_k, int64_t size,
    float *restrict c, int64_t c_row, int add) {
    vec sums[ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < 2; j++) sums[r][j] = add ? load(c + r * c_row + j * LANES) : (vec){0};
    for (int64_t k = 0; k < size; k++) {
        const vec left = load(b + k * b_k), right = load(b + k * b_k + LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const float value = a[r * a_row + k * a_k];
            sums[r][0] += value * left;
            sums[r][1] += value * right;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < 2; j++) store(c + r * c_row + j * LANES, sums[r][j]);
}

// How many keys every query of the segment sees besides those of its own segment.
static inline int64_t shared_keys(const row_of *row, const segment *s) {
    return row->leading + s->prefix_end - s->prefix_start;
}

// Where key j of a segment lies among the keys of the row.
static inline int64_t key_token(const row_of *row, const segment *s, int64_t j) {
    if (j < row->leading) return j;
    const int64_t shared = shared_keys(row, s);
    return j < shared ? s->prefix_start + j : row->leading + s->start + j - shared;
}

// Rows of keys as they are, [rows, W], zeros beyond `count` and beyond D.
static void copy_keys(float *to, const row_of *row, view x, const segment *s, int64_t head, int64_t count, int64_t rows) {
    memset(to, 0, sizeof(float) * rows * WIDTH);
    for (int64_t j = 0; j < count; j++) {
        const real *from = x.data + key_token(row, s, j) * x.token + head * x.head;
        for (int d = 0; d < HEAD_SIZE; d++) to[j * WIDTH + d] = get(from[d]);
    }
}

// Keys transposed in panels of COLS keys, [panels, D, COLS], zeros beyond `count`.
static void transpose_keys(
    float *to, const row_of *row, view x, const segment *s, int64_t head, int64_t count, int64_t rows) {
    static const real nothing[HEAD_SIZE];
    for (int64_t first = 0; first < rows; first += COLS) {
        float *panel = to + first * HEAD_SIZE;
        const real *from[COLS];
        for (int j = 0; j < COLS; j++) {
            const int64_t key = first + j;
            from[j] = key < count ? x.data + key_token(row, s, key) * x.token + head * x.head : nothing;
        }
        for (int64_t d = 0; d < HEAD_SIZE; d++)
            for (int j = 0; j < COLS; j++) panel[d * COLS + j] = get(from[j][d]);
    }
}

// `rows` rows of the segment from `first` on, times `factor`, [rows, W], zeros beyond its end.
static void copy_queries(float *to, view x, const segment *s, int64_t head, int64_t first, int64_t rows, float factor) {
    memset(to, 0, sizeof(float) * rows * WIDTH);
    for (int64_t r = 0; r < rows && s->start + first + r < s->end; r++) {
        const real *from = x.data + (s->start + first + r) * x.token + head * x.head;
        for (int d = 0; d < HEAD_SIZE; d++) to[r * WIDTH + d] = get(from[d]) * factor;
    }
}

// Products of ROWS rows with the first `panels` panels of transposed keys.
static inline void products(const float *rows, const float *keys, int64_t panels, float *to, int64_t stride) {
    for (int64_t p = 0; p < panels; p++)
        tile(rows, WIDTH, 1, keys + p * COLS * HEAD_SIZE, COLS, HEAD_SIZE, to + p * COLS, stride, 0);
}

// Panels of keys that ROWS queries from `first` on see.
static int64_t panels_of(int64_t shared, int64_t first, int64_t keys) {
    const int64_t seen = shared + first + ROWS;
    return ((seen < keys ? seen : keys) + COLS - 1) / COLS;
}

// Adds ALiBi to the scores of one query, which is key number `query`.
static void add_alibi(float *scores, int64_t query, float slope) {
    for (int64_t j = 0; j <= query; j++) scores[j] += slope * (float)(j - query);
}

// What a task needs of memory, in floats.
static int64_t scratch_size(const row_of *row) {
    int64_t keys = 0;
    for (int64_t i = 0; i < row->count; i++) {
        const segment *s = row->segments + i;
        const int64_t n = shared_keys(row, s) + s->end - s->start;
        keys = n > keys ? n : keys;
    }
    keys = ROUND_UP(keys, COLS) + COLS;
    return keys * (3 * WIDTH + 2 * HEAD_SIZE) + 2 * BLOCK * keys + 4 * BLOCK * WIDTH;
}

static void forward_task(const row_of *row, const segment *s, int64_t head, real *out, float *lse, float *scratch) {
    const int64_t shared = shared_keys(row, s), queries = s->end - s->start, keys = shared + queries;
    const int64_t padded = ROUND_UP(keys, COLS), kv_head = head * row->kv_heads / row->heads;
    float *kt = scratch, *values = kt + padded * HEAD_SIZE, *weights = values + padded * WIDTH;
    float *rows = weights + ROWS * padded, *result = rows + ROWS * WIDTH;
    transpose_keys(kt, row, row->k, s, kv_head, keys, padded);
    copy_keys(values, row, row->v, s, kv_head, keys, padded);
    for (int64_t first = 0; first < queries; first += ROWS) {
        const int64_t panels = panels_of(shared, first, keys), columns = panels * COLS;
        float inverse[ROWS];
        copy_queries(rows, row->q, s, head, first, ROWS, row->scale);
        products(rows, kt, panels, weights, padded);
        for (int r = 0; r < ROWS && first + r < queries; r++) {
            float *weight = weights + r * padded;
            if (row->slopes) add_alibi(weight, shared + first + r, row->slopes[head]);
            for (int64_t j = shared + first + r + 1; j < columns; j++) weight[j] = -INFINITY;
            float peak = -INFINITY, total = 0;
#pragma omp simd reduction(max : peak)
            for (int64_t j = 0; j < columns; j++) peak = weight[j] > peak ? weight[j] : peak;
#pragma omp simd reduction(+ : total)
            for (int64_t j = 0; j < columns; j++) {
                weight[j] = exponential(weight[j] - peak);
                total += weight[j];
            }
            inverse[r] = 1.0f / total;
            lse[head * row->tokens + s->start + first + r] = peak - logf(inverse[r]);
        }
        for (int64_t d = 0; d < WIDTH; d += COLS)
            tile(weights, padded, 1, values + d, WIDTH, columns, result + d, WIDTH, 0);
        for (int r = 0; r < ROWS && first + r < queries; r++) {
            real *to = out + ((s->start + first + r) * row->heads + head) * HEAD_SIZE;
            for (int d = 0; d < HEAD_SIZE; d++) to[d] = put(result[r * WIDTH + d] * inverse[r]);
        }
    }
}

// One query's scores become weights, and the gradients of its weights become those of its scores.
static void slopes_of_query(
    const row_of *row, int64_t head, int64_t token, int64_t seen, const real *out, const float *grad, float lse,
    float *weight, float *slope) {
    float delta = 0;
    const real *o = out + (token * row->heads + head) * HEAD_SIZE;
    for (int d = 0; d < HEAD_SIZE; d++) delta += get(o[d]) * grad[d];
    if (row->slopes) add_alibi(weight, seen - 1, row->slopes[head]);
#pragma omp simd
    for (int64_t j = 0; j < seen; j++) {
        weight[j] = exponential(weight[j] - lse);
        slope[j] = weight[j] * (slope[j] - delta);
    }
}

// grad_keys, grad_values: [N rounded up, W] of this task alone.
static void backward_task(
    const row_of *row, const segment *s, int64_t head, view grad_out, const real *out, const float *lse,
    real *grad_q, float *grad_keys, float *grad_values, float *scratch) {
    const int64_t shared = shared_keys(row, s), queries = s->end - s->start, keys = shared + queries;
    const int64_t padded = ROUND_UP(keys, COLS), kv_head = head * row->kv_heads / row->heads;
    float *kt = scratch, *vt = kt + padded * HEAD_SIZE, *natural = vt + padded * HEAD_SIZE;
    float *weights = natural + padded * WIDTH, *slopes = weights + BLOCK * padded;
    float *rows = slopes + BLOCK * padded, *grads = rows + BLOCK * WIDTH, *result = grads + BLOCK * WIDTH;
    transpose_keys(kt, row, row->k, s, kv_head, keys, padded);
    transpose_keys(vt, row, row->v, s, kv_head, keys, padded);
    copy_keys(natural, row, row->k, s, kv_head, keys, padded);
    memset(grad_keys, 0, sizeof(float) * padded * WIDTH);
    memset(grad_values, 0, sizeof(float) * padded * WIDTH);
    for (int64_t block = 0; block < queries; block += BLOCK) {
        const int64_t left = ROUND_UP(queries - block, ROWS), height = left < BLOCK ? left : BLOCK;
        const int64_t block_columns = panels_of(shared, block + height - ROWS, keys) * COLS;
        copy_queries(rows, row->q, s, head, block, height, row->scale);
        copy_queries(grads, grad_out, s, head, block, height, 1.0f);
        for (int64_t r0 = 0; r0 < height; r0 += ROWS) {
            const int64_t panels = panels_of(shared, block + r0, keys);
            products(rows + r0 * WIDTH, kt, panels, weights + r0 * padded, padded);
            products(grads + r0 * WIDTH, vt, panels, slopes + r0 * padded, padded);
            for (int64_t r = r0; r < r0 + ROWS; r++) {
                const int64_t query = block + r, token = s->start + query;
                // Rows beyond the end and keys that a query does not see weigh nothing.
                const int64_t seen = query < queries ? shared + query + 1 : 0;
                float *weight = weights + r * padded, *slope = slopes + r * padded;
                if (seen)
                    slopes_of_query(row, head, token, seen, out, grads + r * WIDTH, lse[head * row->tokens + token],
                                    weight, slope);
                memset(weight + seen, 0, sizeof(float) * (block_columns - seen));
                memset(slope + seen, 0, sizeof(float) * (block_columns - seen));
            }
            for (int64_t d = 0; d < WIDTH; d += COLS)
                tile(slopes + r0 * padded, padded, 1, natural + d, WIDTH, panels * COLS, result + d, WIDTH, 0);
            for (int r = 0; r < ROWS && block + r0 + r < queries; r++) {
                real *to = grad_q + ((s->start + block + r0 + r) * row->heads + head) * HEAD_SIZE;
                for (int d = 0; d < HEAD_SIZE; d++) to[d] = put(result[r * WIDTH + d] * row->scale);
            }
        }
        for (int64_t j = 0; j < block_columns; j += ROWS) {
            // From the first row block that holds a query which sees key j.
            const int64_t before = j - shared - block, first = before > 0 ? before / ROWS * ROWS : 0;
            if (first >= height) break;
            for (int64_t d = 0; d < WIDTH; d += COLS) {
                tile(weights + first * padded + j, 1, padded, grads + first * WIDTH + d, WIDTH, height - first,
                     grad_values + j * WIDTH + d, WIDTH, 1);
                tile(slopes + first * padded + j, 1, padded, rows + first * WIDTH + d, WIDTH, height - first,
                     grad_keys + j * WIDTH + d, WIDTH, 1);
            }
        }
    }
}

// Sums the gradients of the keys of all tasks of one key head, in a fixed order, into to[leading + T, kv_heads, D].
static void gather_key_gradients(
    const row_of *row, int64_t kv_head, const float *from, const int64_t *places, float *to) {
    const int64_t group = row->heads / row->kv_heads;
    for (int64_t t = 0; t < row->leading + row->tokens; t++)
        memset(to + (t * row->kv_heads + kv_head) * HEAD_SIZE, 0, sizeof(float) * HEAD_SIZE);
    for (int64_t i = 0; i < row->count; i++) {
        const segment *s = row->segments + i;
        const int64_t stride = (places[i + 1] - places[i]) / row->heads;
        const float *first = from + places[i] + stride * kv_head * group;
        for (int64_t j = 0; j < shared_keys(row, s) + s->end - s->start; j++) {
            float *sum = to + (key_token(row, s, j) * row->kv_heads + kv_head) * HEAD_SIZE;
            for (int64_t member = 0; member < group; member++)
                for (int d = 0; d < HEAD_SIZE; d++) sum[d] += first[member * stride + j * WIDTH + d];
        }
    }
}

// Writes out [T, heads, D] and lse [heads, T]. Returns 0, or 1 if there is no memory.
int segment_attention_forward(const row_of *row, real *out, float *lse, int threads) {
    const int64_t size = scratch_size(row);
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        float *scratch = memory_of_thread(size, &failed);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < row->count * row->heads; task++)
            if (scratch) forward_task(row, row->segments + task / row->heads, task % row->heads, out, lse, scratch);
        free(scratch);
    }
    return failed;
}

// Writes grad_q [T, heads, D] and, always in fp32, grad_k and grad_v [leading + T, kv_heads, D]; the same numbers whatever the number of
// threads. `out` and `lse` are those of the forward pass. Returns 0, or 1 if there is no memory.
int segment_attention_backward(
    const row_of *row, const view *grad_out, const real *out, const float *lse, real *grad_q, float *grad_k,
    float *grad_v, int threads) {
    const int64_t size = scratch_size(row), heads = row->heads;
    // Where the gradients of each segment's keys begin; those of its heads follow each other.
    int64_t *places = malloc(sizeof(int64_t) * (row->count + 1));
    if (!places) return 1;
    places[0] = 0;
    for (int64_t i = 0; i < row->count; i++) {
        const segment *s = row->segments + i;
        places[i + 1] = places[i] + ROUND_UP(shared_keys(row, s) + s->end - s->start, COLS) * WIDTH * heads;
    }
    float *grad_keys = memory(2 * places[row->count]), *grad_values = grad_keys + places[row->count];
    int failed = grad_keys == NULL;
#pragma omp parallel num_threads(threads)
    {
        float *scratch = memory_of_thread(size, &failed);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < row->count * heads; task++) {
            const int64_t head = task % heads, i = task / heads;
            const int64_t place = places[i] + (places[i + 1] - places[i]) / heads * head;
            if (scratch && grad_keys)
                backward_task(row, row->segments + i, head, *grad_out, out, lse, grad_q, grad_keys + place,
                              grad_values + place, scratch);
        }
        free(scratch);
#pragma omp for schedule(static)
        for (int64_t part = 0; part < 2 * row->kv_heads; part++)
            if (grad_keys)
                gather_key_gradients(row, part / 2, part % 2 ? grad_values : grad_keys, places,
                                     part % 2 ? grad_v : grad_k);
    }
    free(grad_keys);
    free(places);
    return failed;
}
