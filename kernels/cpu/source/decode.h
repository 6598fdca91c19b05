// Attention of one token: the queries that share a key head against a span of keys, 64 at a time, with the running
// maximum and sum of online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867).

constexpr int64_t DECODE_KEYS = 64;
constexpr int KEYS_AT_ONCE = 4;

// Queries at once: KEYS_AT_ONCE times as many sums, the queries and one key must fit the registers.
constexpr int QUERIES_AT_ONCE = WIDTH == 16 ? 5 : 3;

// State of one key head. Everything is [queries][...] and lies in the thread's scratch.
struct Decode {
    int64_t queries, head_dim;
    float *query, *out, *score, *largest, *sum;

    Decode(const Step& step, float* scratch) : queries(queries_per_kv_head(step)), head_dim(step.head_dim) {
        query = scratch;
        out = query + queries * head_dim;
        score = out + queries * head_dim;
        largest = score + queries * DECODE_KEYS;
        sum = largest + queries;
    }
};

INLINE int64_t decode_scratch_of_head(const Step& step) {
    return queries_per_kv_head(step) * (2 * step.head_dim + DECODE_KEYS + 2);
}

inline int64_t decode_scratch(const Step& step) {
    return step.kv_heads * decode_scratch_of_head(step);
}

// To the second-level cache, which has room for more open misses than the first (8 ms instead of 14 for 14 requests).
template <class Element>
INLINE void prefetch(const Element* row, int64_t size) {
    for (int64_t i = 0; i < size; i += 64 / sizeof(Element)) __builtin_prefetch(row + i, 0, 2);
}

// Sums of four vectors: pairs are added lane by lane, which leaves one vector to take apart instead of four.
INLINE void store_sums(Floats a, Floats b, Floats c, Floats d, float* to) {
#if WIDTH == 4
    const Floats ab = SHUFFLE(a, b, 0, 4, 1, 5) + SHUFFLE(a, b, 2, 6, 3, 7);
    const Floats cd = SHUFFLE(c, d, 0, 4, 1, 5) + SHUFFLE(c, d, 2, 6, 3, 7);
    store(to, SHUFFLE(ab, cd, 0, 1, 4, 5) + SHUFFLE(ab, cd, 2, 3, 6, 7));
#elif WIDTH == 8
    const Floats ab = SHUFFLE(a, b, 0, 8, 1, 9, 4, 12, 5, 13) + SHUFFLE(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    const Floats cd = SHUFFLE(c, d, 0, 8, 1, 9, 4, 12, 5, 13) + SHUFFLE(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
    const Floats all = SHUFFLE(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) + SHUFFLE(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
    float lanes[WIDTH];
    store(lanes, all);
    store(to, load<Quad>(lanes) + load<Quad>(lanes + 4));
#else
    const Floats ab = SHUFFLE(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
                      SHUFFLE(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    const Floats cd = SHUFFLE(c, d, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
                      SHUFFLE(c, d, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    const Floats all = SHUFFLE(ab, cd, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
                       SHUFFLE(ab, cd, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    float lanes[WIDTH];
    store(lanes, all);
    store(to, (load<Quad>(lanes) + load<Quad>(lanes + 4)) + (load<Quad>(lanes + 8) + load<Quad>(lanes + 12)));
#endif
}

template <class Element>
struct DecodeBlock {
    const Element *keys[DECODE_KEYS + KEYS_AT_ONCE], *values[DECODE_KEYS];
    int64_t count = 0;

    void find(const Cache<Element>& key_cache, const Cache<Element>& value_cache, int64_t begin, int64_t end) {
        count = std::min(end - begin, DECODE_KEYS);
        if (count <= 0) return;
        key_cache.for_keys(begin, begin + count, [&](int64_t k, const Element* row) { keys[k] = row; });
        value_cache.for_keys(begin, begin + count, [&](int64_t k, const Element* row) { values[k] = row; });
        // The last group of keys is filled up with one that exists; its scores are hidden later.
        for (int64_t k = count; k % KEYS_AT_ONCE; ++k) keys[k] = keys[count - 1];
    }
};

// A head's share of a block: its rows are `offset` elements further than the first head's.
template <class Element>
struct HeadBlock {
    const DecodeBlock<Element>& block;
    int64_t offset;
};

// Scores of `count` queries against KEYS_AT_ONCE keys.
template <int count, class Element>
INLINE void score_keys(const Decode& state, int64_t first, const Element* const* keys, int64_t offset, float* score) {
    const float* query = state.query + first * state.head_dim;
    Floats sums[count][KEYS_AT_ONCE] = {};
    for_vectors(state.head_dim, [&](long i, auto part) {
        Floats queries[count];
#pragma GCC unroll 8
        for (int q = 0; q < count; ++q) queries[q] = part.read(query + q * state.head_dim + i);
#pragma GCC unroll 8
        for (int k = 0; k < KEYS_AT_ONCE; ++k) {
            const Floats key = part.read(keys[k] + offset + i);
#pragma GCC unroll 8
            for (int q = 0; q < count; ++q) sums[q][k] += queries[q] * key;
        }
    });
#pragma GCC unroll 8
    for (int q = 0; q < count; ++q)
        store_sums(sums[q][0], sums[q][1], sums[q][2], sums[q][3], score + (first + q) * DECODE_KEYS);
}

// Adds the weighted values of a block to `vectors` vectors of `count` queries' outputs.
// On the way it fetches the keys that come next: a few at a time, so that memory is busy while this computes.
template <int count, int vectors, class Element, class Part>
INLINE void add_values(const Decode& state, int64_t first, HeadBlock<Element> here, HeadBlock<Element> next, long i,
                       Part part) {
    float* out = state.out + first * state.head_dim + i;
    const float* weight = state.score + first * DECODE_KEYS;
    Floats sums[count][vectors];
#pragma GCC unroll 8
    for (int q = 0; q < count; ++q)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sums[q][v] = part.read(out + q * state.head_dim + v * WIDTH);
    const Element* const* values = here.block.values;
    for (int64_t k = 0; k < here.block.count; ++k) {
        if (k < next.block.count) prefetch(next.block.keys[k] + next.offset + i, vectors * WIDTH);
        Floats weights[count];
#pragma GCC unroll 8
        for (int q = 0; q < count; ++q) weights[q] = broadcast(weight[q * DECODE_KEYS + k]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
            const Floats value = part.read(values[k] + here.offset + i + v * WIDTH);
#pragma GCC unroll 8
            for (int q = 0; q < count; ++q) sums[q][v] += weights[q] * value;
        }
    }
#pragma GCC unroll 8
    for (int q = 0; q < count; ++q)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) part.write(out + q * state.head_dim + v * WIDTH, sums[q][v]);
}

template <int count, class Element>
INLINE void add_block(const Decode& state, int64_t first, HeadBlock<Element> here, HeadBlock<Element> next) {
    constexpr int vectors = 4;
    long i = 0;
    for (; i + vectors * WIDTH <= state.head_dim; i += vectors * WIDTH)
        add_values<count, vectors>(state, first, here, next, i, Whole{});
    for (; i + WIDTH <= state.head_dim; i += WIDTH) add_values<count, 1>(state, first, here, next, i, Whole{});
    if (i < state.head_dim) add_values<count, 1>(state, first, here, next, i, Partial{state.head_dim - i});
}

// Calls body(first, count) for groups of queries of nearly equal size; count is a compile-time constant.
template <class Body>
INLINE void for_query_groups(int64_t queries, Body body) {
    const int64_t groups = (queries + QUERIES_AT_ONCE - 1) / QUERIES_AT_ONCE;
    for (int64_t group = 0; group < groups; ++group) {
        const int64_t first = queries * group / groups;
        switch (queries * (group + 1) / groups - first) {
            case 1: body(first, std::integral_constant<int, 1>{}); break;
            case 2: body(first, std::integral_constant<int, 2>{}); break;
            case 3: body(first, std::integral_constant<int, 3>{}); break;
#if WIDTH == 16
            case 4: body(first, std::integral_constant<int, 4>{}); break;
            case 5: body(first, std::integral_constant<int, 5>{}); break;
#endif
        }
    }
}

// Turns a query's scores into weights and brings what is summed so far to the new maximum.
inline void soften(const Decode& state, int64_t query, int64_t keys, float soft_cap) {
    float* score = state.score + query * DECODE_KEYS;
    for (int64_t k = keys; k < round_up(keys, WIDTH); ++k) score[k] = HIDDEN;
    Floats tops = broadcast(state.largest[query]);
    for (int64_t k = 0; k < keys; k += WIDTH) {
        Floats scores = load<Floats>(score + k);
        if (soft_cap > 0) {
            // Capping would turn minus infinity into a finite score.
            scores = scores == HIDDEN ? scores : capped(scores, soft_cap);
            store(score + k, scores);
        }
        tops = larger(scores, tops);
    }
    const float top = largest_of(tops);
    Floats sums = {};
    for (int64_t k = 0; k < keys; k += WIDTH) {
        const Floats weights = exponential(load<Floats>(score + k) - top);
        store(score + k, weights);
        sums += weights;
    }
    const float fade = exponential(broadcast(state.largest[query] - top))[0];
    state.sum[query] = state.sum[query] * fade + sum_of(sums);
    state.largest[query] = top;
    if (fade == 1) return;
    float* out = state.out + query * state.head_dim;
    for_vectors(state.head_dim, [=](long i, auto part) { part.write(out + i, part.read(out + i) * fade); });
}

template <class Element>
void attend_block(const Decode& state, HeadBlock<Element> here, HeadBlock<Element> next, float soft_cap) {
    const DecodeBlock<Element>& block = here.block;
    const int64_t offset = here.offset;
    for (int64_t k = 0; k < block.count; k += KEYS_AT_ONCE) {
        for (int64_t i = k; i < std::min(k + KEYS_AT_ONCE, block.count); ++i)
            prefetch(block.values[i] + offset, state.head_dim);
        for_query_groups(state.queries, [&](int64_t first, auto count) {
            score_keys<decltype(count)::value>(state, first, block.keys + k, offset, state.score + k);
        });
    }
    for (int64_t query = 0; query < state.queries; ++query) soften(state, query, block.count, soft_cap);
    for_query_groups(state.queries, [&](int64_t first, auto count) {
        add_block<decltype(count)::value>(state, first, here, next);
    });
}

template <class Element>
void start_decode(const Decode& state, const Step& step, const Task& task, int64_t kv_head) {
    const int64_t size = state.queries * state.head_dim;
    const int64_t head = task.first_token * step.heads + kv_head * state.queries;
    const Element* query = (const Element*)step.query + head * step.head_dim;
    for (int64_t i = 0; i < size; ++i) state.query[i] = to_float32(query[i]) * step.scale;
    std::fill_n(state.out, size, 0.0f);
    std::fill_n(state.largest, state.queries, LOWEST);
    std::fill_n(state.sum, state.queries, 0.0f);
}

// Divides by the sum of weights and writes a query's output.
template <class Element>
INLINE void write_output(const float* from, float sum, int64_t head_dim, Element* out) {
    const float scale = 1.0f / sum;
    for_vectors(head_dim, [=](long i, auto part) { part.write(out + i, part.read(from + i) * scale); });
}

template <class Element>
INLINE Element* output_of(const Step& step, int64_t token, int64_t head) {
    return (Element*)step.out + (token * step.heads + head) * step.head_dim;
}

template <class Element>
void finish_decode(const Decode& state, const Step& step, const Task& task, int64_t kv_head) {
    for (int64_t query = 0; query < state.queries; ++query) {
        const float* out = state.out + query * state.head_dim;
        if (task.partial) {
            float* partial = task.partial + kv_head * task.parts * partial_size(step) + query * (state.head_dim + 2);
            partial[0] = state.largest[query];
            partial[1] = state.sum[query];
            std::memcpy(partial + 2, out, state.head_dim * sizeof(float));
        } else {
            const int64_t head = kv_head * state.queries + query;
            write_output(out, state.sum[query], state.head_dim, output_of<Element>(step, task.first_token, head));
        }
    }
}

template <class Element>
void decode(const Step& step, const Task& task, float* scratch) {
    const auto keys = cache_of<Element>(step, task, step.key_cache, step.key_page_step);
    const auto values = cache_of<Element>(step, task, step.value_cache, step.value_page_step);
    const auto state = [&](int64_t head) { return Decode(step, scratch + head * decode_scratch_of_head(step)); };
    for (int64_t head = 0; head < task.kv_heads; ++head)
        start_decode<Element>(state(head), step, task, task.kv_head + head);
    DecodeBlock<Element> blocks[2];
    int turn = 0;
    blocks[0].find(keys, values, task.begin, task.end);
    for (int64_t begin = task.begin; begin < task.end; begin += DECODE_KEYS, turn ^= 1) {
        blocks[turn ^ 1].find(keys, values, begin + DECODE_KEYS, task.end);
        for (int64_t head = 0; head < task.kv_heads; ++head) {
            const HeadBlock<Element> here{blocks[turn], head * step.head_dim};
            const bool last = head + 1 == task.kv_heads;
            const HeadBlock<Element> next{blocks[turn ^ last], last ? 0 : here.offset + step.head_dim};
            attend_block(state(head), here, next, step.soft_cap);
        }
    }
    for (int64_t head = 0; head < task.kv_heads; ++head)
        finish_decode<Element>(state(head), step, task, task.kv_head + head);
}

// Brings the parts of a context together: each counts by its sum of weights, at the largest maximum.
template <class Element>
void merge_parts(const Step& step, const Merge& merge) {
    const int64_t size = step.head_dim, queries = queries_per_kv_head(step);
    for (int64_t query = 0; query < queries; ++query) {
        float* total = const_cast<float*>(merge.partial) + query * (size + 2);
        for (int64_t part = 1; part < merge.parts; ++part) {
            const float* other = total + part * partial_size(step);
            const float top = other[0] > total[0] ? other[0] : total[0];
            const float mine = exponential(broadcast(total[0] - top))[0];
            const float its = exponential(broadcast(other[0] - top))[0];
            total[0] = top;
            total[1] = total[1] * mine + other[1] * its;
            for_vectors(size, [=](long i, auto lanes) {
                lanes.write(total + 2 + i, lanes.read(total + 2 + i) * mine + lanes.read(other + 2 + i) * its);
            });
        }
        const int64_t head = merge.kv_head * queries + query;
        write_output(total + 2, total[1], size, output_of<Element>(step, merge.first_token, head));
    }
}
