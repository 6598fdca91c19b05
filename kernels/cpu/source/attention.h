// One step's attention: which tasks there are, who does them, and how the parts of a long context come together.
//
// A prompt's chunk is cut into tiles of queries (prefill.h), a single token's context into spans of keys (decode.h).
// The cuts depend on nothing but the request, so its result is the same in any batch and on any number of threads.

struct Task {
    int64_t request;
    int64_t kv_head, kv_heads;  // prefill: one; decode: several, one after the other
    int64_t first_token;  // of the request, in the step's queries
    int64_t begin, end;  // prefill: rows of queries, token by token; decode: keys
    float* partial = nullptr;  // decode: where the result of a part of the context goes, of the step's first key head;
    int64_t parts = 1;         // the next head's is so many parts further
};

struct Merge {
    int64_t first_token, kv_head, parts;
    const float* partial;
};

// Keys of one part of a decode token's context: long enough that merging costs little, short enough to keep many
// threads busy with one request.
constexpr int64_t SPAN = 512;

INLINE int64_t queries_per_kv_head(const Step& step) { return step.heads / step.kv_heads; }
INLINE int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
INLINE int64_t partial_size(const Step& step) { return queries_per_kv_head(step) * (step.head_dim + 2); }

INLINE int64_t first_visible(const Step& step, int64_t position) {
    return step.window && position >= step.window ? position + 1 - step.window : 0;
}

INLINE int64_t parts_of(const Step& step, int64_t request) {
    const int64_t position = step.starts[request];
    return (position + 1 - first_visible(step, position) + SPAN - 1) / SPAN;
}

// Where keys or values of one request and head lie.
template <class Element>
struct Cache {
    const Element* base;
    const int64_t* pages;
    int64_t page_size, page_step, token_step;

    // Calls body(index, row) for the keys [begin, end); index counts from 0.
    template <class Body>
    INLINE void for_keys(int64_t begin, int64_t end, Body body) const {
        int64_t page = begin / page_size, offset = begin % page_size;
        const Element* row = base + pages[page] * page_step + offset * token_step;
        for (int64_t index = 0; index < end - begin; ++index, row += token_step) {
            if (offset++ == page_size) {
                offset = 1;
                row = base + pages[++page] * page_step;
            }
            body(index, row);
        }
    }
};

// Of the task's first head.
template <class Element>
INLINE Cache<Element> cache_of(const Step& step, const Task& task, const void* cache, int64_t page_step) {
    return {(const Element*)cache + task.kv_head * step.head_dim, step.page_tables + task.request * step.table_step,
            step.page_size, page_step, step.kv_heads * step.head_dim};
}

INLINE Floats capped(Floats scores, float soft_cap) {
    return soft_cap > 0 ? soft_cap * hyperbolic_tangent(scores * (1.0f / soft_cap)) : scores;
}

// Stands for "nothing seen yet": finite, so that a hidden score (minus infinity) less this is not NaN.
constexpr float LOWEST = -1e30f;
constexpr float HIDDEN = -INFINITY;

#include "decode.h"
#include "prefill.h"

// A step's tasks, the longest first, and what is left to do after them.
struct Plan {
    std::vector<Task> tasks;
    std::vector<Merge> merges;

    Plan(const Step& step, float* partials) {
        int64_t first = 0;
        for (int64_t request = 0; request < step.requests; first += step.counts[request++])
            if (step.counts[request] > 1) add_prefill(step, request, first);
        const int64_t heads = heads_of_decode_task(step);
        first = 0;
        for (int64_t request = 0; request < step.requests; first += step.counts[request++])
            if (step.counts[request] == 1) add_decode(step, request, first, heads, partials);
    }

    // All key heads of a token lie side by side: taken together, memory is read in order. With few requests there would
    // be too few tasks. Heads do not touch each other, so the choice changes no result.
    static int64_t heads_of_decode_task(const Step& step) {
        int64_t parts = 0;
        for (int64_t request = 0; request < step.requests; ++request)
            if (step.counts[request] == 1) parts += parts_of(step, request);
        return parts >= 4 * step.threads ? step.kv_heads : 1;
    }

    void add_prefill(const Step& step, int64_t request, int64_t first) {
        const int64_t rows = step.counts[request] * queries_per_kv_head(step);
        for (int64_t begin = (rows - 1) / TILE_QUERIES * TILE_QUERIES; begin >= 0; begin -= TILE_QUERIES)
            for (int64_t head = 0; head < step.kv_heads; ++head)
                tasks.push_back({request, head, 1, first, begin, std::min(begin + TILE_QUERIES, rows)});
    }

    void add_decode(const Step& step, int64_t request, int64_t first, int64_t heads, float*& partials) {
        const int64_t parts = parts_of(step, request), end = step.starts[request] + 1;
        const int64_t begin = first_visible(step, end - 1), size = partial_size(step);
        for (int64_t part = 0; part < parts; ++part) {
            const int64_t from = begin + (end - begin) * part / parts, to = begin + (end - begin) * (part + 1) / parts;
            float* partial = parts > 1 ? partials + part * size : nullptr;
            for (int64_t head = 0; head < step.kv_heads; head += heads)
                tasks.push_back({request, head, heads, first, from, to, partial, parts});
        }
        if (parts == 1) return;
        for (int64_t head = 0; head < step.kv_heads; ++head, partials += parts * size)
            merges.push_back({first, head, parts, partials});
    }
};

// Floats of working memory for one thread; a multiple of a cache line.
inline int64_t scratch_of_thread(const Step& step) {
    return round_up(std::max(decode_scratch(step), prefill_scratch(step)), 16);
}

int64_t attention_scratch(const Step* step) {
    int64_t parts = 0;
    for (int64_t request = 0; request < step->requests; ++request)
        if (step->counts[request] == 1) parts += parts_of(*step, request);
    return 4 * (step->threads * scratch_of_thread(*step) + parts * step->kv_heads * partial_size(*step));
}

template <class Element>
void do_task(const Step& step, const Task& task, float* scratch) {
    if (step.counts[task.request] == 1) decode<Element>(step, task, scratch);
    else prefill<Element>(step, task, scratch);
}

template <class Element>
void attend_with(const Step& step) {
    float* scratch = (float*)step.scratch;
    const int64_t own = scratch_of_thread(step);
    const Plan plan(step, scratch + step.threads * own);
    const int64_t tasks = plan.tasks.size(), merges = plan.merges.size();
    share_out(step.threads, tasks, [&](int64_t task, int worker) {
        do_task<Element>(step, plan.tasks[task], scratch + worker * own);
    });
    share_out(step.threads, merges, [&](int64_t merge, int) { merge_parts<Element>(step, plan.merges[merge]); });
}

void attend(const Step* step) {
    with_dtype(step->dtype, [=](auto* type) { attend_with<std::remove_pointer_t<decltype(type)>>(*step); });
}
