// The next tokens of a few texts through a whole decoder: RMS norms, rotary positions by halves, grouped queries over
// keys and values in pages, gated MLPs with SiLU, LoRA of another adapter for each row. Activations are fp32, whatever
// weights are stored as.
//
// Shapes: M rows, one for each token; E hidden size, H query heads, K key/value heads (H a multiple of K), D = HEAD_SIZE,
// V vocabulary. Compiled with -DHEAD_SIZE=... -DPAGE=...

#include "paged_attention.h"
#include "products.h"

enum { Q, K, V, O, GATE, UP, DOWN, MATRICES };

typedef struct {
    matrix matrices[MATRICES];
    const float *attention_norm, *mlp_norm, *q_norm, *k_norm;
    real *keys, *values;
} layer;

typedef struct {
    const layer *layers;
    int64_t count, hidden, heads, kv_heads, inner, most_rank;
    float epsilon, scale;
    const float *norm;
    matrix head;
} decoder;

// `lora`: [layers, MATRICES, `adapters`]. `pieces`: the rows that have an adapter. `x` [M, E]: embeddings. `cosine`,
// `sine`: [M, D]. `wanted`: the rows whose logits are asked for.
typedef struct {
    texts texts;
    const low_rank *lora;
    const piece *pieces;
    const int32_t *wanted;
    int64_t adapters, piece_count, wanted_count, rows;
    float *x;
    const float *cosine, *sine;
} batch;

// Buffers of one pass, each [M, its size]. `low`: scaling * A x of up to three matrices with one input.
typedef struct {
    float *normed, *q, *k, *v, *attended, *act, *low[3];
} buffers;

static const low_rank *part_of(const batch *b, int64_t index, int which, const piece *p) {
    const low_rank *part = b->lora + (index * MATRICES + which) * b->adapters + p->adapter;
    return part->rank ? part : NULL;
}

static inline float square_sum(const float *x, int64_t size) {
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < size; i++) total += x[i] * x[i];
    return total;
}

static void rms_norm(const float *x, const float *weight, int64_t size, float epsilon, float *to) {
    const float inverse = 1.0f / sqrtf(square_sum(x, size) / size + epsilon);
    for (int64_t i = 0; i < size; i++) to[i] = x[i] * inverse * weight[i];
}

// Turns one head by its position, after its norm where it has one.
static void turn(float *x, const float *norm, float epsilon, const float *cosine, const float *sine) {
    float before[HEAD_SIZE];
    if (norm) rms_norm(x, norm, HEAD_SIZE, epsilon, x);
    memcpy(before, x, sizeof before);
    for (int d = 0; d < HEAD_SIZE / 2; d++) {
        const int other = d + HEAD_SIZE / 2;
        x[d] = before[d] * cosine[d] - before[other] * sine[d];
        x[other] = before[other] * cosine[other] + before[d] * sine[other];
    }
}

static void norm_rows(const decoder *d, const batch *b, const buffers *w, const float *norm) {
#pragma omp for schedule(static)
    for (int64_t m = 0; m < b->rows; m++)
        rms_norm(b->x + m * d->hidden, norm, d->hidden, d->epsilon, w->normed + m * d->hidden);
}

// What the adapters make narrow of x [M, inputs] for `count` matrices from `first` on.
static void narrow_rows(const decoder *d, const batch *b, const buffers *w, int64_t index, int first, int count, const float *x) {
    if (!b->piece_count) return;
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < b->piece_count * count; task++) {
        const piece *p = b->pieces + task / count;
        const int which = task % count;
        const low_rank *part = part_of(b, index, first + which, p);
        if (part) narrow(part, p, x, d->layers[index].matrices[first + which].inputs, w->low[which], d->most_rank);
    }
}

// to[m, o - first] (+)= outputs [first, last) of one matrix with what the adapters add. `low`: which buffer holds it.
static void adapted_product(
    const decoder *d, const batch *b, const buffers *w, int64_t index, int which, int low, const float *x, int64_t first,
    int64_t last, float *to, int64_t to_stride, int add) {
    const matrix *m = d->layers[index].matrices + which;
    for (int64_t i = 0; i < b->piece_count; i++) {
        const low_rank *part = part_of(b, index, which, b->pieces + i);
        if (part && (!i || b->pieces[i].adapter != b->pieces[i - 1].adapter)) ask_for_wide(part, first, last);
    }
    product(m, x, b->rows, first, last, to, to_stride, add);
    for (int64_t i = 0; i < b->piece_count; i++) {
        const low_rank *part = part_of(b, index, which, b->pieces + i);
        if (part) widen(part, b->pieces + i, w->low[low], d->most_rank, first, last, to, to_stride);
    }
}

static inline int64_t end_of(int64_t first, int64_t size) { return first + TASK < size ? first + TASK : size; }

// x += matrix of `from` [M, inputs].
static void add_product(const decoder *d, const batch *b, const buffers *w, int64_t index, int which, const float *from) {
#pragma omp for schedule(dynamic, 1)
    for (int64_t first = 0; first < d->hidden; first += TASK)
        adapted_product(d, b, w, index, which, 0, from, first, end_of(first, d->hidden), b->x + first, d->hidden, 1);
}

// Queries, keys and values: tasks of all three in one loop.
static void project(const decoder *d, const batch *b, const buffers *w, int64_t index) {
    const layer *l = d->layers + index;
    const int64_t q_tasks = (l->matrices[Q].outputs + TASK - 1) / TASK, k_tasks = (l->matrices[K].outputs + TASK - 1) / TASK;
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < q_tasks + 2 * k_tasks; task++) {
        const int which = task < q_tasks ? Q : task < q_tasks + k_tasks ? K : V;
        float *to = which == Q ? w->q : which == K ? w->k : w->v;
        const int64_t first = (task - (which == Q ? 0 : which == K ? q_tasks : q_tasks + k_tasks)) * TASK;
        const int64_t size = l->matrices[which].outputs;
        adapted_product(d, b, w, index, which, which, w->normed, first, end_of(first, size), to + first, size, 0);
    }
}

// Queries and keys are turned, keys and values go to their pages, then every query attends.
static void attend_all(const decoder *d, const batch *b, const buffers *w, int64_t index, float *scratch) {
    const layer *l = d->layers + index;
    const int64_t group = d->heads / d->kv_heads;
    const paged_layer pages = {l->keys, l->values, d->heads, d->kv_heads, d->scale};
#pragma omp for schedule(static)
    for (int64_t task = 0; task < b->rows * d->kv_heads; task++) {
        const int64_t m = task / d->kv_heads, head = task % d->kv_heads;
        const float *cosine = b->cosine + m * HEAD_SIZE, *sine = b->sine + m * HEAD_SIZE;
        float *key = w->k + task * HEAD_SIZE;
        int64_t i = 0;
        while (m >= b->texts.starts[i + 1]) i++;
        turn(key, l->k_norm, d->epsilon, cosine, sine);
        for (int64_t g = 0; g < group; g++) turn(w->q + (task * group + g) * HEAD_SIZE, l->q_norm, d->epsilon, cosine, sine);
        keep(&pages, &b->texts, i, m, head, key, w->v + task * HEAD_SIZE);
    }
    const int64_t tasks = attention_tasks(&pages, &b->texts);
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; task++) attend(&pages, &b->texts, task, w->q, scratch, w->attended);
}

// silu(gate) * up.
static void gate_and_up(const decoder *d, const batch *b, const buffers *w, int64_t index, float *part) {
#pragma omp for schedule(dynamic, 1)
    for (int64_t first = 0; first < d->inner; first += TASK) {
        const int64_t last = end_of(first, d->inner);
        adapted_product(d, b, w, index, GATE, 0, w->normed, first, last, part, TASK, 0);
        adapted_product(d, b, w, index, UP, 1, w->normed, first, last, w->act + first, d->inner, 0);
        for (int64_t m = 0; m < b->rows; m++)
#pragma omp simd
            for (int64_t i = 0; i < last - first; i++) {
                const float gate = part[m * TASK + i];
                w->act[m * d->inner + first + i] *= gate / (1.0f + exponential(-gate));
            }
    }
}

static void run_layer(const decoder *d, const batch *b, const buffers *w, int64_t index, float *scratch) {
    const layer *l = d->layers + index;
    norm_rows(d, b, w, l->attention_norm);
    narrow_rows(d, b, w, index, Q, 3, w->normed);
    project(d, b, w, index);
    attend_all(d, b, w, index, scratch);
    narrow_rows(d, b, w, index, O, 1, w->attended);
    add_product(d, b, w, index, O, w->attended);
    norm_rows(d, b, w, l->mlp_norm);
    narrow_rows(d, b, w, index, GATE, 2, w->normed);
    gate_and_up(d, b, w, index, scratch);
    narrow_rows(d, b, w, index, DOWN, 1, w->act);
    add_product(d, b, w, index, DOWN, w->act);
}

// logits [wanted, V] of the wanted rows.
static void head_of_rows(const decoder *d, const batch *b, const buffers *w, float *logits) {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < b->wanted_count; i++)
        rms_norm(b->x + b->wanted[i] * d->hidden, d->norm, d->hidden, d->epsilon, w->normed + i * d->hidden);
    const int64_t size = d->head.outputs;
#pragma omp for schedule(dynamic, 1)
    for (int64_t first = 0; first < size; first += TASK)
        product(&d->head, w->normed, b->wanted_count, first, end_of(first, size), logits + first, size, 0);
}

// logits [wanted, V] of the tokens after those of `b`, whose keys and values are in their pages afterwards. Returns 0,
// or 1 if there is no memory.
int decode(const decoder *d, const batch *b, float *logits, int threads) {
    const int64_t m = b->rows, query = d->heads * HEAD_SIZE, key = d->kv_heads * HEAD_SIZE, rank = d->most_rank;
    const int64_t attention = attention_scratch(&b->texts), scratch_size = attention > m * TASK ? attention : m * TASK;
    float *all = memory(m * (d->hidden + 2 * query + 2 * key + d->inner + 3 * rank));
    int failed = all == NULL;
    buffers w = {.normed = all};
    w.q = w.normed + m * d->hidden, w.attended = w.q + m * query, w.k = w.attended + m * query, w.v = w.k + m * key;
    w.act = w.v + m * key;
    for (int i = 0; i < 3; i++) w.low[i] = w.act + m * d->inner + i * m * rank;
#pragma omp parallel num_threads(threads)
    {
        float *scratch = memory_of_thread(scratch_size, &failed);
#pragma omp barrier
        if (!failed) {
            for (int64_t i = 0; i < d->count; i++) run_layer(d, b, &w, i, scratch);
            head_of_rows(d, b, &w, logits);
        }
        free(scratch);
    }
    free(all);
    return failed;
}

// Attention alone, for layers that are computed elsewhere and have put the rows' keys and values in their pages: queries
// q [M, H, D] -> out [M, H, D]. 0, or 1 without memory.
int paged_attention(const paged_layer *l, const texts *t, const float *q, float *out, int threads) {
    const int64_t size = attention_scratch(t), tasks = attention_tasks(l, t);
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        float *scratch = memory_of_thread(size, &failed);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < tasks; task++)
            if (scratch) attend(l, t, task, q, scratch, out);
        free(scratch);
    }
    return failed;
}
