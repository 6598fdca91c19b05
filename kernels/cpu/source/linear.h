// y = x @ weight^T * scales + bias, over packed panels or over rows as a checkpoint holds them.
//
// One product is cut into tasks of one strip of outputs by one range of rows. A task walks the inputs in blocks; in a
// block it walks the rows a tile at a time, past the strip's panels.

// Outputs of a task. At two bytes each they fill a cache line, so no two threads write to one.
constexpr long STRIP = 32;
constexpr int PANELS = STRIP / PANEL;

// Inputs of a block: a strip of them stays in the first-level cache while the rows go by.
constexpr long BLOCK = 256;

// Most rows of a task: their x stays in the second-level cache while the strips go by.
constexpr long RANGE_ROWS = 192;

// With so few rows a panel's sums are too few to hide the latency of a multiply-add: its neighbours join in.
constexpr int FEW_ROWS = 2;

// Up to so many elements of x one thread packs alone: waking the others would take longer.
constexpr long PACKED_ALONE = 1 << 15;

// Ranges are made shorter until every thread has this many tasks, so that they end together.
constexpr long TASKS_A_THREAD = 8;

constexpr long divide_up(long value, long by) { return (value + by - 1) / by; }

// Element `index` of the cut of `size` things into `parts` parts that differ by one at most.
constexpr long cut(long size, long parts, long index) { return size * index / parts; }

template <class Element>
void pack_rows(const Element* x, long step, long rows, long inputs, float* to) {
    for (long k = 0; k < inputs; ++k)
        for (long r = 0; r < rows; ++r) *to++ = to_float32(x[r * step + k]);
}

// v[i][j] becomes v[j][i] by swaps of off-diagonal squares of 1, 2, 4, ... elements.
template <int size, int... lanes>
INLINE void transpose(Floats (&v)[WIDTH], std::integer_sequence<int, lanes...> all) {
    if constexpr (size < WIDTH) {
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; ++i) {
            if (i & size) continue;
            const Floats upper = v[i], lower = v[i + size];
            v[i] = SHUFFLE(upper, lower, (lanes & size ? WIDTH + lanes - size : lanes)...);
            v[i + size] = SHUFFLE(upper, lower, (lanes & size ? WIDTH + lanes : lanes + size)...);
        }
        transpose<2 * size>(v, all);
    }
}

// How rows of a weight become columns of panels: a lane a row, as float32 ...
template <class Element>
struct Singly {
    using Storage = Float32Storage;
    static constexpr long OUTPUTS = WIDTH;

    static Floats read(const Element* const* rows, int lane, long k) { return VARIANT::read(rows[lane] + k); }
    static void copy(const Element* const* rows, int lane, long k, float* to) { to[lane] = to_float32(rows[lane][k]); }
};

// ... or a lane for two rows of bfloat16, WIDTH apart, as `Bfloat16Storage` pairs them: half the squares to transpose.
struct InPairs {
    using Storage = Bfloat16Storage;
    static constexpr long OUTPUTS = PANEL;

    static Floats read(const uint16_t* const* rows, int lane, long k) {
        const Words low = widened(load<Halves>(rows[lane] + k)), high = widened(load<Halves>(rows[lane + WIDTH] + k));
        return (Floats)(low >> 16 | high);
    }
    static void copy(const uint16_t* const* rows, int lane, long k, uint16_t* to) {
        to[2 * lane] = rows[lane][k];
        to[2 * lane + 1] = rows[lane + WIDTH][k];
    }
};

// Without rounding, and in the fewest bytes.
template <class Element>
using AsStored = std::conditional_t<std::is_same_v<Element, uint16_t>, InPairs, Singly<Element>>;

// Inputs [begin, begin + depth) of a strip of rows as panels [depth][PANEL], `panel_step` elements apart. Past the last
// output its last row repeats.
template <class Columns, class Element>
void transpose_strip(const Weight& weight, long strip, long begin, long depth, typename Columns::Storage::Element* to,
                     long panel_step) {
    const Element* rows[Columns::OUTPUTS];
    for (long column = 0; column < STRIP; column += Columns::OUTPUTS) {
        for (long row = 0; row < Columns::OUTPUTS; ++row) {
            const long output = std::min(strip * STRIP + column + row, weight.outputs - 1);
            rows[row] = (const Element*)weight.data + output * weight.inputs + begin;
        }
        auto* panel = to + column / PANEL * panel_step + column % PANEL;
        long k = 0;
        for (; k + WIDTH <= depth; k += WIDTH) {
            Floats square[WIDTH];
#pragma GCC unroll 16
            for (int lane = 0; lane < WIDTH; ++lane) square[lane] = Columns::read(rows, lane, k);
            transpose<1>(square, std::make_integer_sequence<int, WIDTH>());
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; ++i) store(panel + (k + i) * PANEL, square[i]);
        }
        for (; k < depth; ++k)
            for (int lane = 0; lane < WIDTH; ++lane) Columns::copy(rows, lane, k, panel + k * PANEL);
    }
}

// Where a block of a strip comes from: packed panels serve as they lie ...
template <class Format>
struct Panels {
    using Storage = Format;
    static constexpr long scratch_size = 1;

    static const typename Storage::Element* block(const Weight& weight, long strip, long begin, long,
                                                  typename Storage::Element*) {
        return (const typename Storage::Element*)weight.data + strip * STRIP * weight.inputs + begin * PANEL;
    }

    static long panel_step(const Weight& weight, long) { return weight.inputs * PANEL; }

    // Each panel's block from input `begin` on, or at the end of the inputs its next strip's first, fetched while `tiles`
    // tiles of rows are multiplied. Many hide the wait for memory: for them this only costs (measured).
    static Ahead next(const Weight& weight, long strip, long begin, long panel, long tiles) {
        using Element = typename Storage::Element;
        if (tiles > 8) return {};
        if (begin == weight.inputs) begin = 0, ++strip;
        const Element* at = (const Element*)weight.data + (strip * STRIP + panel * PANEL) * weight.inputs + begin * PANEL;
        return {(const char*)at, divide_up(Ahead::ROUND * PANEL * (long)sizeof(Element), 64 * tiles)};
    }
};

// ... rows are brought into that order first.
template <class Element>
struct Rows {
    using Columns = AsStored<Element>;
    using Storage = typename Columns::Storage;
    static constexpr long scratch_size = STRIP * BLOCK;

    static const typename Storage::Element* block(const Weight& weight, long strip, long begin, long depth,
                                                  typename Storage::Element* scratch) {
        transpose_strip<Columns, Element>(weight, strip, begin, depth, scratch, depth * PANEL);
        return scratch;
    }

    static long panel_step(const Weight&, long depth) { return depth * PANEL; }

    static Ahead next(const Weight&, long, long, long, long) { return {}; }
};

template <class Element>
struct Product {
    const Weight& weight;
    const Element* x;
    long x_step, rows;
    Element* y;

    long strips = divide_up(weight.outputs, STRIP);
    long tiles = divide_up(rows, TILE_ROWS);

    long tile_start(long tile) const { return cut(rows, tiles, tile); }

    void pack_tile(long tile, float* packed) const {
        const long start = tile_start(tile);
        pack_rows(x + start * x_step, x_step, tile_start(tile + 1) - start, weight.inputs, packed + start * weight.inputs);
    }

    // The sums of a strip for the rows of some tiles, [PANELS][rows][PANEL].
    template <class Source>
    void sum(const float* packed, long strip, long first_tile, long last_tile, float* sums) const {
        alignas(64) typename Source::Storage::Element scratch[Source::scratch_size];
        const long first = tile_start(first_tile), count = tile_start(last_tile) - first;
        std::memset(sums, 0, PANELS * count * PANEL * sizeof(float));
        for (long begin = 0; begin < weight.inputs; begin += BLOCK) {
            const long depth = std::min(BLOCK, weight.inputs - begin);
            const auto* panels = Source::block(weight, strip, begin, depth, scratch);
            const long step = Source::panel_step(weight, depth);
            Ahead ahead[PANELS];
            for (int panel = 0; panel < PANELS; ++panel)
                ahead[panel] = Source::next(weight, strip, begin + depth, panel, last_tile - first_tile);
            for (long tile = first_tile; tile < last_tile; ++tile) {
                const long start = tile_start(tile), height = tile_start(tile + 1) - start;
                multiply_strip<typename Source::Storage>(height, packed + start * weight.inputs + begin * height, panels,
                                                         step, depth, sums + (start - first) * PANEL, count * PANEL, ahead);
            }
        }
    }

    template <class Storage>
    static void multiply_strip(long height, const float* x, const typename Storage::Element* panels, long step, long depth,
                               float* sums, long sums_step, Ahead* ahead) {
        if (height <= FEW_ROWS)
            return multiply_rows<Storage, PANELS>(height, std::make_integer_sequence<int, FEW_ROWS>())(
                x, panels, step, depth, sums, sums_step, ahead);
        const auto multiply_one = multiply_rows<Storage, 1>(height, std::make_integer_sequence<int, TILE_ROWS>());
        for (int panel = 0; panel < PANELS; ++panel)
            multiply_one(x, panels + panel * step, step, depth, sums + panel * sums_step, sums_step, ahead + panel);
    }

    void finish(const float* sums, long strip, long first, long last) const {
        for (long panel = 0; panel < PANELS; ++panel) {
            const long start = strip * STRIP + panel * PANEL, columns = std::min(PANEL, weight.outputs - start);
            for (long row = first; row < last; ++row) {
                for_vectors(columns, [&](long i, auto part) {
                    part.write(y + row * weight.outputs + start + i, scaled(load<Floats>(sums + i), start + i));
                });
                sums += PANEL;
            }
        }
    }

    Floats scaled(Floats sum, long output) const {
        if (weight.scales) sum *= load<Floats>(weight.scales + output);
        if (weight.bias) sum += load<Floats>(weight.bias + output);
        return sum;
    }

    template <class Source>
    void run(float* packed, int threads) const {
        const long enough = divide_up(rows, RANGE_ROWS), busy = divide_up(TASKS_A_THREAD * threads, strips);
        const long ranges = std::min(tiles, std::max(enough, busy));
        share_out(rows * weight.inputs > PACKED_ALONE ? threads : 1, tiles, [&](long tile, int) { pack_tile(tile, packed); });
        share_out(threads, ranges * strips, [&](long task, int) {
            // A range is cut between tiles, and so may be longer by a part of one at either end.
            alignas(64) float sums[STRIP * (RANGE_ROWS + 2 * TILE_ROWS)];
            const long range = task / strips, strip = task % strips;
            const long first = cut(tiles, ranges, range), last = cut(tiles, ranges, range + 1);
            sum<Source>(packed, strip, first, last, sums);
            finish(sums, strip, tile_start(first), tile_start(last));
        });
    }
};

template <class Element>
void multiply_weight(const Weight& weight, const void* x, long x_step, long rows, void* y, float* packed, int threads) {
    const Product<Element> product{weight, (const Element*)x, x_step, rows, (Element*)y};
    switch (weight.layout) {
        case FLOAT32_ROWS: return product.template run<Rows<float>>(packed, threads);
        case BFLOAT16_ROWS: return product.template run<Rows<uint16_t>>(packed, threads);
        case INT8_ROWS: return product.template run<Rows<int8_t>>(packed, threads);
        case FLOAT32_PANELS: return product.template run<Panels<Float32Storage>>(packed, threads);
        case BFLOAT16_PANELS: return product.template run<Panels<Bfloat16Storage>>(packed, threads);
        case INT8_PANELS: return product.template run<Panels<Int8Storage>>(packed, threads);
    }
}

void linear(const Weight* weight, int32_t dtype, int32_t threads, int64_t rows, const void* x, int64_t x_step, void* y,
            float* scratch) {
    if (dtype == BFLOAT16)
        multiply_weight<uint16_t>(*weight, x, x_step, rows, y, scratch, threads);
    else
        multiply_weight<float>(*weight, x, x_step, rows, y, scratch, threads);
}

// The int8 scales of a strip: its largest weights become 127. Not finite where a weight is not. Of a weight that is int8
// already a step is a step.
template <class Element>
void measure_scales(const Weight& weight, long strip, float* scales) {
    if (std::is_same_v<Element, int8_t>) {
        std::fill_n(scales, STRIP, 1.0f);
        return;
    }
    for (long column = 0; column < STRIP; ++column) {
        const long output = std::min(strip * STRIP + column, weight.outputs - 1);
        const Element* row = (const Element*)weight.data + output * weight.inputs;
        float largest = 0, poison = 0;
        for (long k = 0; k < weight.inputs; ++k) {
            const float size = std::fabs(to_float32(row[k]));
            largest = size > largest ? size : largest;
            poison += size * 0;
        }
        scales[column] = largest / 127 + poison;
    }
}

template <class Storage, class Element>
void encode_strip(const Weight& from, long strip, const float* scales, typename Storage::Element* to) {
    alignas(64) float scratch[STRIP * BLOCK];
    for (long begin = 0; begin < from.inputs; begin += BLOCK) {
        const long depth = std::min(BLOCK, from.inputs - begin);
        transpose_strip<Singly<Element>, Element>(from, strip, begin, depth, scratch, depth * PANEL);
        for (long panel = 0; panel < PANELS; ++panel)
            for (long k = 0; k < depth; ++k)
                Storage::encode(scratch + (panel * depth + k) * PANEL, scales + panel * PANEL,
                                to + (panel * from.inputs + begin + k) * PANEL);
    }
}

template <class Storage, class Element>
void pack_weight(const Weight& from, void* to, float* scales, int threads) {
    share_out(threads, divide_up(from.outputs, STRIP), [&](long strip, int) {
        float* strip_scales = scales + strip * STRIP;
        if (std::is_same_v<Storage, Int8Storage>) measure_scales<Element>(from, strip, strip_scales);
        auto* panels = (typename Storage::Element*)to + strip * STRIP * from.inputs;
        if constexpr (std::is_same_v<Storage, typename AsStored<Element>::Storage>)
            transpose_strip<AsStored<Element>, Element>(from, strip, 0, from.inputs, panels, from.inputs * PANEL);
        else
            encode_strip<Storage, Element>(from, strip, strip_scales, panels);
    });
}

template <class Element>
void pack_as(const Weight& from, int layout, void* to, float* scales, int threads) {
    switch (layout) {
        case FLOAT32_PANELS: return pack_weight<Float32Storage, Element>(from, to, scales, threads);
        case BFLOAT16_PANELS: return pack_weight<Bfloat16Storage, Element>(from, to, scales, threads);
        case INT8_PANELS: return pack_weight<Int8Storage, Element>(from, to, scales, threads);
    }
}

void pack_linear(const Weight* from, int32_t threads, int32_t layout, void* panels, float* scales) {
    if (from->layout == BFLOAT16_ROWS)
        pack_as<uint16_t>(*from, layout, panels, scales, threads);
    else if (from->layout == INT8_ROWS)
        pack_weight<Int8Storage, int8_t>(*from, panels, scales, threads);
    else
        pack_as<float>(*from, layout, panels, scales, threads);
}
