// One token of each of a few answers through a whole decoder: RMS norms, rotary positions by halves, grouped queries over
// keys and values in pages, gated MLPs with SiLU, LoRA of another adapter for each row.
//
// With few rows a product is bound by reading its weights, so each weight is read once for all rows. Activations are fp32,
// whatever weights are stored as.
//
// Shapes: M rows, E hidden size, H query heads, K key/value heads (H a multiple of K), D = HEAD_SIZE, V vocabulary. Pages
// of a layer are [pages, K, PAGE, D]: row m's token t lies in page tables[m, t / PAGE] at place t % PAGE. Weights are
// [outputs, inputs], LoRA's A [rank, inputs] and B [outputs, rank] in fp32. Compiled with -DHEAD_SIZE=... -DPAGE=...

#include "numbers.h"

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8
#else
#define LANES 8
#define ROWS 4
#endif
// Outputs of one task, and of one tile of sums: ROWS x OUTS of them are what registers hold.
#define TASK 64
#define OUTS 2
// Bytes of weights that are asked for before they are needed: a core alone, waiting for each, reads half as fast.
#define AHEAD 8192

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t half_vec __attribute__((vector_size(2 * LANES), aligned(2)));
typedef uint32_t bits_vec __attribute__((vector_size(4 * LANES)));

typedef struct {
    const real *weight, *bias;
    int64_t inputs, outputs;
} matrix;

// scaling * B A of one adapter for one matrix; rank 0: none.
typedef struct {
    const float *a, *b;
    int64_t rank;
    float scaling;
} low_rank;

enum { Q, K, V, O, GATE, UP, DOWN, MATRICES };

typedef struct {
    matrix matrices[MATRICES];
    const real *attention_norm, *mlp_norm, *q_norm, *k_norm;
    real *keys, *values;
} layer;

typedef struct {
    const layer *layers;
    int64_t count, hidden, heads, kv_heads, inner, most_rank;
    float epsilon, scale;
    const real *norm;
    matrix head;
} decoder;

// `lora`: [layers, MATRICES, adapters]; `adapters`: of each row, -1 for none. `lengths`: tokens of each row, this one
// included. `x` [M, E]: embeddings. `cosine`, `sine`: [M, D].
typedef struct {
    const low_rank *lora;
    const int32_t *adapters, *tables, *lengths;
    int64_t rows, table_size;
    float *x;
    const float *cosine, *sine;
} batch;

static inline vec load(const float *p) { return *(const vec *)p; }
#if BF16
static inline vec load_real(const real *p) { return (vec)(__builtin_convertvector(*(const half_vec *)p, bits_vec) << 16); }
#else
static inline vec load_real(const real *p) { return load(p); }
#endif

static inline float sum_of(vec x) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
}

static inline float dot(const float *a, const float *b, int64_t size) {
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < size; i++) total += a[i] * b[i];
    return total;
}

// sums[r][o] = x[r] . weight[o] for `rows` rows, a constant, and OUTS outputs.
static inline __attribute__((always_inline)) void tile(
    int rows, const float *x, int64_t stride, const real *weight, int64_t inputs, float (*sums)[OUTS]) {
    vec part[ROWS][OUTS];
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < OUTS; o++) part[r][o] = (vec){0};
    const int64_t whole = inputs / LANES * LANES;
    for (int64_t k = 0; k < whole; k += LANES) {
        vec w[OUTS];
        for (int o = 0; o < OUTS; o++) {
            const real *place = weight + o * inputs + k;
            w[o] = load_real(place);
            __builtin_prefetch((const char *)place + AHEAD, 0, 2);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const vec value = load(x + r * stride + k);
            for (int o = 0; o < OUTS; o++) part[r][o] += value * w[o];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < OUTS; o++) {
            float total = sum_of(part[r][o]);
            for (int64_t k = whole; k < inputs; k++) total += x[r * stride + k] * get(weight[o * inputs + k]);
            sums[r][o] = total;
        }
}

static void tile_of(int rows, const float *x, int64_t stride, const real *weight, int64_t inputs, float (*sums)[OUTS]) {
    switch (rows) {
    case 1: tile(1, x, stride, weight, inputs, sums); break;
    case 2: tile(2, x, stride, weight, inputs, sums); break;
    case 3: tile(3, x, stride, weight, inputs, sums); break;
#if ROWS == 8
    case 4: tile(4, x, stride, weight, inputs, sums); break;
    case 5: tile(5, x, stride, weight, inputs, sums); break;
    case 6: tile(6, x, stride, weight, inputs, sums); break;
    case 7: tile(7, x, stride, weight, inputs, sums); break;
#endif
    default: tile(ROWS, x, stride, weight, inputs, sums);
    }
}

// What one matrix needs of an adapter in one pass: its parts for each row, and `low` [M, most_rank], scaling * A x.
typedef struct {
    const batch *b;
    int64_t layer_place, most_rank;
    float *low;
} adapted;

static inline const low_rank *part_of(const adapted *lora, int64_t row) {
    const int32_t adapter = lora->b->adapters[row];
    const low_rank *part = adapter < 0 ? NULL : lora->b->lora + lora->layer_place + adapter;
    return part && part->rank ? part : NULL;
}

// low = scaling * A x of one row.
static void narrow(const adapted *lora, int64_t row, const float *x, int64_t inputs) {
    const low_rank *part = part_of(lora, row);
    if (!part) return;
    for (int64_t r = 0; r < part->rank; r++)
        lora->low[row * lora->most_rank + r] = part->scaling * dot(part->a + r * inputs, x, inputs);
}

// to[m, o - first] (+)= x[m] . weight[o] + bias[o] + LoRA, for outputs [first, last) and all rows.
static void product(
    const matrix *m, const adapted *lora, const float *x, int64_t stride, int64_t rows, int64_t first, int64_t last,
    float *to, int64_t to_stride, int add) {
    for (int64_t row = 0; row < rows; row += ROWS) {
        const int height = rows - row < ROWS ? rows - row : ROWS;
        for (int64_t o = first; o < last; o += OUTS) {
            // A last tile that would reach beyond the matrix is laid earlier.
            const int64_t from = o + OUTS <= m->outputs ? o : m->outputs - OUTS;
            float sums[ROWS][OUTS];
            tile_of(height, x + row * stride, stride, m->weight + from * m->inputs, m->inputs, sums);
            for (int r = 0; r < height; r++)
                for (int64_t at = o; at < o + OUTS && at < last; at++) {
                    float total = sums[r][at - from] + (m->bias ? get(m->bias[at]) : 0);
                    const low_rank *part = lora ? part_of(lora, row + r) : NULL;
                    if (part)
                        total += dot(part->b + at * part->rank, lora->low + (row + r) * lora->most_rank, part->rank);
                    float *place = to + (row + r) * to_stride + at - first;
                    *place = add ? *place + total : total;
                }
        }
    }
}

static void rms_norm(const float *x, const real *weight, int64_t size, float epsilon, float *to) {
    const float inverse = 1.0f / sqrtf(dot(x, x, size) / size + epsilon);
    for (int64_t i = 0; i < size; i++) to[i] = x[i] * inverse * get(weight[i]);
}

// Turns one head by its position, after its norm where it has one.
static void turn(float *x, const real *norm, float epsilon, const float *cosine, const float *sine) {
    float before[HEAD_SIZE];
    if (norm) rms_norm(x, norm, HEAD_SIZE, epsilon, x);
    memcpy(before, x, sizeof before);
    for (int d = 0; d < HEAD_SIZE / 2; d++) {
        const int other = d + HEAD_SIZE / 2;
        x[d] = before[d] * cosine[d] - before[other] * sine[d];
        x[other] = before[other] * cosine[other] + before[d] * sine[other];
    }
}

// Attention of `group` query heads [group, D] of one row over `length` keys of one key head. scores: [group, length].
static void attend(
    const float *q, int64_t group, float scale, const real *keys, const real *values, const int32_t *table,
    int64_t length, int64_t kv_heads, int64_t kv_head, float *scores, float *out) {
    for (int64_t t = 0; t < length; t++) {
        const real *key = keys + (((int64_t)table[t / PAGE] * kv_heads + kv_head) * PAGE + t % PAGE) * HEAD_SIZE;
        for (int64_t g = 0; g < group; g++) {
            float total = 0;
#pragma omp simd reduction(+ : total)
            for (int d = 0; d < HEAD_SIZE; d++) total += q[g * HEAD_SIZE + d] * get(key[d]);
            scores[g * length + t] = total * scale;
        }
    }
    for (int64_t g = 0; g < group; g++) {
        float *score = scores + g * length, peak = -INFINITY, total = 0;
#pragma omp simd reduction(max : peak)
        for (int64_t t = 0; t < length; t++) peak = score[t] > peak ? score[t] : peak;
#pragma omp simd reduction(+ : total)
        for (int64_t t = 0; t < length; t++) {
            score[t] = exponential(score[t] - peak);
            total += score[t];
        }
        const float inverse = 1.0f / total;
        for (int64_t t = 0; t < length; t++) score[t] *= inverse;
    }
    memset(out, 0, sizeof(float) * group * HEAD_SIZE);
    for (int64_t t = 0; t < length; t++) {
        const real *value = values + (((int64_t)table[t / PAGE] * kv_heads + kv_head) * PAGE + t % PAGE) * HEAD_SIZE;
        for (int64_t g = 0; g < group; g++) {
            const float weight = scores[g * length + t];
#pragma omp simd
            for (int d = 0; d < HEAD_SIZE; d++) out[g * HEAD_SIZE + d] += weight * get(value[d]);
        }
    }
}

static int64_t longest(const int32_t *lengths, int64_t rows) {
    int64_t most = 0;
    for (int64_t m = 0; m < rows; m++) most = lengths[m] > most ? lengths[m] : most;
    return most;
}

static float *memory(int64_t floats) { return aligned_alloc(64, (sizeof(float) * floats + 64) / 64 * 64); }

// Attention of one query of each row, q [M, H, D], over the pages that hold its keys: out [M, H, D]. 0, or 1 without
// memory.
int paged_attention(
    const float *q, const real *keys, const real *values, const int32_t *tables, const int32_t *lengths, int64_t rows,
    int64_t table_size, int64_t heads, int64_t kv_heads, float scale, float *out, int threads) {
    const int64_t group = heads / kv_heads, size = group * longest(lengths, rows);
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        float *scores = memory(size);
        if (!scores) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < rows * kv_heads; task++) {
            const int64_t m = task / kv_heads, head = task % kv_heads, place = (m * heads + head * group) * HEAD_SIZE;
            if (scores)
                attend(q + place, group, scale, keys, values, tables + m * table_size, lengths[m], kv_heads, head,
                       scores, out + place);
        }
        free(scores);
    }
    return failed;
}

// Buffers of one pass, each [M, its size].
typedef struct {
    float *normed, *q, *k, *v, *attended, *act, *low[3];
} buffers;

// One key head of one row: its key and value go to their page, its query heads attend.
static void attention_task(const decoder *d, const layer *l, const batch *b, const buffers *w, int64_t m, int64_t head,
                           float *scores) {
    const int64_t group = d->heads / d->kv_heads, length = b->lengths[m], t = length - 1;
    const int32_t *table = b->tables + m * b->table_size;
    const float *cosine = b->cosine + m * HEAD_SIZE, *sine = b->sine + m * HEAD_SIZE;
    float *q = w->q + (m * d->heads + head * group) * HEAD_SIZE, *k = w->k + (m * d->kv_heads + head) * HEAD_SIZE;
    const float *v = w->v + (m * d->kv_heads + head) * HEAD_SIZE;
    const int64_t place = (((int64_t)table[t / PAGE] * d->kv_heads + head) * PAGE + t % PAGE) * HEAD_SIZE;
    turn(k, l->k_norm, d->epsilon, cosine, sine);
    for (int64_t g = 0; g < group; g++) turn(q + g * HEAD_SIZE, l->q_norm, d->epsilon, cosine, sine);
    for (int i = 0; i < HEAD_SIZE; i++) {
        l->keys[place + i] = put(k[i]);
        l->values[place + i] = put(v[i]);
    }
    attend(q, group, d->scale, l->keys, l->values, table, length, d->kv_heads, head, scores,
           w->attended + (m * d->heads + head * group) * HEAD_SIZE);
}

// Norm of every row, and what the adapters make narrow of it for `count` matrices from `first` on.
static void norm_rows(const decoder *d, const batch *b, const buffers *w, const real *norm, const adapted *lora, int count) {
#pragma omp for schedule(static)
    for (int64_t m = 0; m < b->rows; m++) {
        float *to = w->normed + m * d->hidden;
        rms_norm(b->x + m * d->hidden, norm, d->hidden, d->epsilon, to);
        for (int i = 0; i < count; i++) narrow(lora + i, m, to, d->hidden);
    }
}

static void narrow_rows(const adapted *lora, const batch *b, const float *x, int64_t inputs) {
#pragma omp for schedule(static)
    for (int64_t m = 0; m < b->rows; m++) narrow(lora, m, x + m * inputs, inputs);
}

// x += matrix of `from` [M, inputs].
static void add_product(const decoder *d, const batch *b, const matrix *m, const adapted *lora, const float *from) {
#pragma omp for schedule(dynamic, 1)
    for (int64_t first = 0; first < m->outputs; first += TASK) {
        const int64_t last = first + TASK < m->outputs ? first + TASK : m->outputs;
        product(m, lora, from, m->inputs, b->rows, first, last, b->x + first, d->hidden, 1);
    }
}

// Queries, keys and values: tasks of all three in one loop.
static void project(const decoder *d, const layer *l, const batch *b, const buffers *w, const adapted *lora) {
    const int64_t q_tasks = (l->matrices[Q].outputs + TASK - 1) / TASK, k_tasks = (l->matrices[K].outputs + TASK - 1) / TASK;
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < q_tasks + 2 * k_tasks; task++) {
        const int which = task < q_tasks ? Q : task < q_tasks + k_tasks ? K : V;
        const matrix *m = l->matrices + which;
        float *to = which == Q ? w->q : which == K ? w->k : w->v;
        const int64_t first = (task - (which == Q ? 0 : which == K ? q_tasks : q_tasks + k_tasks)) * TASK;
        const int64_t last = first + TASK < m->outputs ? first + TASK : m->outputs;
        product(m, lora + which, w->normed, d->hidden, b->rows, first, last, to + first, m->outputs, 0);
    }
}

// silu(gate) * up.
static void gate_and_up(const decoder *d, const layer *l, const batch *b, const buffers *w, const adapted *lora, float *part) {
#pragma omp for schedule(dynamic, 1)
    for (int64_t first = 0; first < d->inner; first += TASK) {
        const int64_t last = first + TASK < d->inner ? first + TASK : d->inner;
        product(l->matrices + GATE, lora, w->normed, d->hidden, b->rows, first, last, part, TASK, 0);
        product(l->matrices + UP, lora + 1, w->normed, d->hidden, b->rows, first, last, w->act + first, d->inner, 0);
        for (int64_t m = 0; m < b->rows; m++)
#pragma omp simd
            for (int64_t i = 0; i < last - first; i++) {
                const float gate = part[m * TASK + i];
                w->act[m * d->inner + first + i] *= gate / (1.0f + exponential(-gate));
            }
    }
}

static void run_layer(const decoder *d, const batch *b, const buffers *w, int64_t index, int64_t adapters, float *scores,
                      float *part) {
    const layer *l = d->layers + index;
    adapted lora[MATRICES];
    for (int i = 0; i < MATRICES; i++)
        lora[i] = (adapted){b, (index * MATRICES + i) * adapters, d->most_rank, w->low[i == O || i == GATE || i == DOWN ? 0 : i == UP ? 1 : i]};
    norm_rows(d, b, w, l->attention_norm, lora + Q, adapters ? 3 : 0);
    project(d, l, b, w, lora);
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < b->rows * d->kv_heads; task++)
        attention_task(d, l, b, w, task / d->kv_heads, task % d->kv_heads, scores);
    if (adapters) narrow_rows(lora + O, b, w->attended, l->matrices[O].inputs);
    add_product(d, b, l->matrices + O, lora + O, w->attended);
    norm_rows(d, b, w, l->mlp_norm, lora + GATE, adapters ? 2 : 0);
    gate_and_up(d, l, b, w, lora + GATE, part);
    if (adapters) narrow_rows(lora + DOWN, b, w->act, d->inner);
    add_product(d, b, l->matrices + DOWN, lora + DOWN, w->act);
}

// logits [M, V] of the tokens after those of `b`, whose keys and values are in their pages afterwards. `adapters`: how
// many the table of LoRA holds. Returns 0, or 1 if there is no memory.
int decode(const decoder *d, const batch *b, int64_t adapters, float *logits, int threads) {
    const int64_t m = b->rows, query = d->heads * HEAD_SIZE, key = d->kv_heads * HEAD_SIZE;
    const int64_t scores_size = d->heads / d->kv_heads * longest(b->lengths, m), rank = d->most_rank;
    float *all = memory(m * (d->hidden + 2 * query + 2 * key + d->inner + 3 * rank));
    int failed = all == NULL;
    buffers w = {.normed = all};
    w.q = w.normed + m * d->hidden, w.attended = w.q + m * query, w.k = w.attended + m * query, w.v = w.k + m * key;
    w.act = w.v + m * key;
    for (int i = 0; i < 3; i++) w.low[i] = w.act + m * d->inner + i * m * rank;
#pragma omp parallel num_threads(threads)
    {
        float *scores = memory(scores_size + m * TASK);
        if (!scores) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        if (!failed) {
            for (int64_t i = 0; i < d->count; i++) run_layer(d, b, &w, i, adapters, scores, scores + scores_size);
            norm_rows(d, b, &w, d->norm, NULL, 0);
#pragma omp for schedule(dynamic, 1)
            for (int64_t first = 0; first < d->head.outputs; first += TASK) {
                const int64_t last = first + TASK < d->head.outputs ? first + TASK : d->head.outputs;
                product(&d->head, NULL, w.normed, d->hidden, m, first, last, logits + first, d->head.outputs, 0);
            }
        }
        free(scores);
    }
    free(all);
    return failed;
}
