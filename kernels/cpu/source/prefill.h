// Attention of a prompt's chunk: a tile of queries that share a key head against blocks of keys, with the running
// maximum and sum of online softmax (Dao et al. 2022, arXiv:2205.14135).
//
// Scores are computed transposed, a row a key and a column a query: keys then need no transposing, and maxima and sums
// run down the columns, many queries at a time, never across a vector.

// A register tile: ROWS x COLUMNS sums, COLUMNS / WIDTH vectors of one operand and one broadcast of the other.
constexpr int ROWS = WIDTH == 16 ? 12 : 6;
constexpr int COLUMNS = 2 * WIDTH;
constexpr int VECTORS = COLUMNS / WIDTH;

// Multiples of ROWS and COLUMNS for every width; a tile's working set stays in the second-level cache.
constexpr int64_t TILE_QUERIES = 96;
constexpr int64_t TILE_KEYS = 96;

// Keys are stored in slices of so many dimensions, [slices][TILE_KEYS][SLICE]: a register tile then reads its keys at
// offsets known when this is compiled.
constexpr int64_t SLICE = 16;

struct Prefill {
    int64_t slices, panels;  // of keys; of values, COLUMNS dimensions each
    float* query;  // [TILE_QUERIES / COLUMNS][slices x SLICE][COLUMNS]
    float* key;  // [slices][TILE_KEYS][SLICE]
    float* value;  // [panels][TILE_KEYS][COLUMNS]
    float* score;  // [TILE_KEYS][TILE_QUERIES]
    float* out;  // [panels][TILE_QUERIES][COLUMNS]
    float *largest, *sum, *fade;  // [TILE_QUERIES]
    int32_t* token;  // [TILE_QUERIES]: of the request's in this step

    explicit Prefill(int64_t head_dim, float* scratch)
        : slices((head_dim + SLICE - 1) / SLICE), panels((head_dim + COLUMNS - 1) / COLUMNS) {
        query = scratch;
        key = query + TILE_QUERIES * slices * SLICE;
        value = key + TILE_KEYS * slices * SLICE;
        score = value + TILE_KEYS * panels * COLUMNS;
        out = score + TILE_KEYS * TILE_QUERIES;
        largest = out + TILE_QUERIES * panels * COLUMNS;
        sum = largest + TILE_QUERIES;
        fade = sum + TILE_QUERIES;
        token = (int32_t*)(fade + TILE_QUERIES);
    }

    int64_t size() const { return token + TILE_QUERIES - (int32_t*)query; }
};

inline int64_t prefill_scratch(const Step& step) {
    for (int64_t request = 0; request < step.requests; ++request)
        if (step.counts[request] > 1) return Prefill(step.head_dim, nullptr).size();
    return 0;
}

using Sums = Floats[ROWS][VECTORS];

// Adds the product of a [depth][ROWS] and a [depth][COLUMNS] matrix; the first has any layout, the second is dense.
template <int row_step, int depth_step>
INLINE void multiply_tile(const float* left, const float* right, int64_t depth, Sums& sums) {
    for (int64_t k = 0; k < depth; ++k, left += depth_step, right += COLUMNS) {
        Floats columns[VECTORS];
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; ++v) columns[v] = load<Floats>(right + v * WIDTH);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
            const Floats value = broadcast(left[r * row_step]);
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; ++v) sums[r][v] += value * columns[v];
        }
    }
}

INLINE void score_tile(const Prefill& state, int64_t key, int64_t query) {
    Sums sums = {};
    const float* columns = state.query + query * state.slices * SLICE;
    for (int64_t slice = 0; slice < state.slices; ++slice)
        multiply_tile<SLICE, 1>(state.key + (slice * TILE_KEYS + key) * SLICE, columns + slice * SLICE * COLUMNS, SLICE,
                                sums);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; ++v) store(state.score + (key + r) * TILE_QUERIES + query + v * WIDTH, sums[r][v]);
}

INLINE void value_tile(const Prefill& state, int64_t query, int64_t panel, int64_t keys) {
    float* out = state.out + (panel * TILE_QUERIES + query) * COLUMNS;
    Sums sums;
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; ++v)
            sums[r][v] = load<Floats>(out + r * COLUMNS + v * WIDTH) * state.fade[query + r];
    multiply_tile<1, TILE_QUERIES>(state.score + query, state.value + panel * TILE_KEYS * COLUMNS, keys, sums);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; ++v) store(out + r * COLUMNS + v * WIDTH, sums[r][v]);
}

// Rows of queries go token by token, a token's heads side by side.
template <class Element>
void start_prefill(const Prefill& state, const Step& step, const Task& task) {
    const int64_t shared = queries_per_kv_head(step);
    std::fill_n(state.query, TILE_QUERIES * state.slices * SLICE, 0.0f);
    std::fill_n(state.out, TILE_QUERIES * state.panels * COLUMNS, 0.0f);
    std::fill_n(state.largest, TILE_QUERIES, LOWEST);
    std::fill_n(state.sum, TILE_QUERIES, 0.0f);
    for (int64_t row = 0; row < TILE_QUERIES; ++row) {
        const int64_t number = std::min(task.begin + row, task.end - 1), token = number / shared;
        state.token[row] = (int32_t)token;
        if (task.begin + row >= task.end) continue;
        const int64_t head = task.kv_head * shared + number % shared;
        const int64_t source = (task.first_token + token) * step.heads + head;
        const Element* from = (const Element*)step.query + source * step.head_dim;
        float* to = state.query + row / COLUMNS * COLUMNS * state.slices * SLICE + row % COLUMNS;
        for (int64_t i = 0; i < step.head_dim; ++i) to[i * COLUMNS] = to_float32(from[i]) * step.scale;
    }
}

// Keys past the end, up to a whole register tile, are zero: they are hidden, but 0 x NaN would not be.
template <class Element>
void pack_keys(const Prefill& state, const Cache<Element>& cache, int64_t begin, int64_t end, int64_t head_dim) {
    cache.for_keys(begin, end, [&](int64_t k, const Element* row) {
        float* to = state.key + k * SLICE;
        for (int64_t slice = 0; slice < head_dim / SLICE; ++slice)
            for (int64_t i = 0; i < SLICE; i += WIDTH)
                store(to + slice * TILE_KEYS * SLICE + i, read(row + slice * SLICE + i));
        if (const int64_t rest = head_dim % SLICE) {
            float* last = to + head_dim / SLICE * TILE_KEYS * SLICE;
            for (int64_t i = 0; i < SLICE; ++i) last[i] = i < rest ? to_float32(row[head_dim - rest + i]) : 0;
        }
    });
    for (int64_t k = end - begin; k % ROWS; ++k)
        for (int64_t slice = 0; slice < state.slices; ++slice)
            std::fill_n(state.key + (slice * TILE_KEYS + k) * SLICE, SLICE, 0.0f);
}

template <class Element>
void pack_values(const Prefill& state, const Cache<Element>& cache, int64_t begin, int64_t end, int64_t head_dim) {
    cache.for_keys(begin, end, [&](int64_t k, const Element* row) {
        float* to = state.value + k * COLUMNS;
        for (int64_t panel = 0; panel < head_dim / COLUMNS; ++panel)
            for (int64_t i = 0; i < COLUMNS; i += WIDTH)
                store(to + panel * TILE_KEYS * COLUMNS + i, read(row + panel * COLUMNS + i));
        if (const int64_t rest = head_dim % COLUMNS) {
            float* last = to + head_dim / COLUMNS * TILE_KEYS * COLUMNS;
            for (int64_t i = 0; i < COLUMNS; ++i) last[i] = i < rest ? to_float32(row[head_dim - rest + i]) : 0;
        }
    });
}

// Which keys of a block a column of queries may see. Positions count from the request's first token of this step.
struct Visibility {
    int64_t first_key, keys, window;

    // Whether some query from `first` to `last` may not see some key.
    bool hides(int64_t first, int64_t last) const {
        return first_key + keys - 1 > first || (window && first_key <= last - window);
    }

    Floats apply(Floats scores, Ints tokens, int64_t key) const {
        const int32_t position = (int32_t)(first_key + key);
        scores = tokens < position ? broadcast(HIDDEN) : scores;
        if (!window) return scores;
        return tokens - position >= (int32_t)std::min<int64_t>(window, INT32_MAX) ? broadcast(HIDDEN) : scores;
    }
};

// Caps and hides a column's scores and finds their maximum.
INLINE Floats finish_scores(const Prefill& state, const Visibility& visible, bool hides, int64_t column,
                            float soft_cap) {
    const Ints tokens = load<Ints>(state.token + column);
    Floats top = load<Floats>(state.largest + column);
    for (int64_t k = 0; k < visible.keys; ++k) {
        float* at = state.score + k * TILE_QUERIES + column;
        Floats scores = load<Floats>(at);
        if (soft_cap > 0) scores = capped(scores, soft_cap);
        if (hides) scores = visible.apply(scores, tokens, k);
        if (hides || soft_cap > 0) store(at, scores);
        top = larger(scores, top);
    }
    return top;
}

// Turns a column's scores into weights; `fade` is what brings earlier sums to the new maximum.
INLINE void soften_column(const Prefill& state, const Visibility& visible, int64_t column, float soft_cap) {
    const bool hides = visible.hides(state.token[column], state.token[column + WIDTH - 1]);
    const Floats top = finish_scores(state, visible, hides, column, soft_cap);
    Floats sum = {};
    for (int64_t k = 0; k < visible.keys; ++k) {
        float* at = state.score + k * TILE_QUERIES + column;
        const Floats weights = exponential(load<Floats>(at) - top);
        store(at, weights);
        sum += weights;
    }
    const Floats fade = exponential(load<Floats>(state.largest + column) - top);
    store(state.sum + column, load<Floats>(state.sum + column) * fade + sum);
    store(state.fade + column, fade);
    store(state.largest + column, top);
}

inline void attend_keys(const Prefill& state, const Visibility& visible, int64_t queries, float soft_cap) {
    for (int64_t query = 0; query < queries; query += COLUMNS) {
        for (int64_t key = 0; key < visible.keys; key += ROWS) score_tile(state, key, query);
        for (int64_t column = query; column < query + COLUMNS; column += WIDTH)
            soften_column(state, visible, column, soft_cap);
    }
    for (int64_t panel = 0; panel < state.panels; ++panel)
        for (int64_t query = 0; query < queries; query += ROWS) value_tile(state, query, panel, visible.keys);
}

template <class Element>
void finish_prefill(const Prefill& state, const Step& step, const Task& task) {
    const int64_t shared = queries_per_kv_head(step);
    for (int64_t row = 0; row < task.end - task.begin; ++row) {
        const int64_t number = task.begin + row, head = task.kv_head * shared + number % shared;
        Element* out = output_of<Element>(step, task.first_token + number / shared, head);
        for (int64_t panel = 0; panel < state.panels; ++panel)
            write_output(state.out + (panel * TILE_QUERIES + row) * COLUMNS, state.sum[row],
                         std::min<int64_t>(step.head_dim - panel * COLUMNS, COLUMNS), out + panel * COLUMNS);
    }
}

template <class Element>
void prefill(const Step& step, const Task& task, float* scratch) {
    const Prefill state(step.head_dim, scratch);
    const auto keys = cache_of<Element>(step, task, step.key_cache, step.key_page_step);
    const auto values = cache_of<Element>(step, task, step.value_cache, step.value_page_step);
    start_prefill<Element>(state, step, task);
    const int64_t start = step.starts[task.request], rows = task.end - task.begin;
    const int64_t end = start + state.token[rows - 1] + 1;
    for (int64_t key = first_visible(step, start + state.token[0]); key < end; key += TILE_KEYS) {
        const int64_t last = std::min(key + TILE_KEYS, end);
        pack_keys(state, keys, key, last, step.head_dim);
        pack_values(state, values, key, last, step.head_dim);
        attend_keys(state, {key - start, last - key, step.window}, round_up(rows, COLUMNS), step.soft_cap);
    }
    finish_prefill<Element>(state, step, task);
}
