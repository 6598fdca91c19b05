// The innermost product of the linear layers: a few rows of x by one or more panels of weight.
//
// A panel is 2 * WIDTH outputs, stored input by input: [inputs][PANEL]. Every output is one chain of multiply-adds over
// the inputs in order, however many rows, panels, blocks or threads there are, so a row's result depends on nothing
// but the row and the weight. (Blocking after Goto and van de Geijn, "Anatomy of High-Performance Matrix
// Multiplication", 2008.)

constexpr long PANEL = 2 * WIDTH;

// Rows whose sums fill the registers: two vectors a row, less one column of weights and one broadcast.
constexpr int TILE_ROWS = WIDTH == 16 ? 14 : WIDTH == 8 ? 6 : 4;

struct Column {
    Floats low, high;
};

// How each storage type holds one input's weights for the outputs of a panel.

struct Float32Storage {
    using Element = float;
    static Column decode(const float* at) { return {load<Floats>(at), load<Floats>(at + WIDTH)}; }
    static void encode(const float* column, const float*, float* at) { std::memcpy(at, column, PANEL * sizeof(float)); }
};

// A 32-bit lane pairs two outputs WIDTH apart, so that one shift and one mask decode a column.
struct Bfloat16Storage {
    using Element = uint16_t;

    static Column decode(const uint16_t* at) {
        const Ints pairs = load<Ints>(at);
        return {(Floats)(pairs << 16), (Floats)(pairs & ~0xffff)};
    }

    static void encode(const float* column, const float*, uint16_t* at) {
        const Words low = __builtin_convertvector(to_bfloat16(load<Floats>(column)), Words);
        const Words high = __builtin_convertvector(to_bfloat16(load<Floats>(column + WIDTH)), Words);
        store(at, low | high << 16);
    }
};

// Symmetric: a weight is its element times the output's scale, which is applied to the finished sum.
struct Int8Storage {
    using Element = int8_t;

    static Column decode(const int8_t* at) { return {widen(at), widen(at + WIDTH)}; }

    // Intrinsics, because GCC 12 takes this conversion of vectors apart into single bytes; AVX2's at any width, because
    // it only defines the macros of a target that was given on the command line.
#if defined(__x86_64__) && WIDTH >= 8
    static __m256 widen_8(const int8_t* at) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)at)));
    }
#endif

    static Floats widen(const int8_t* at) {
#if defined(__x86_64__) && WIDTH == 16
        return __builtin_shufflevector(widen_8(at), widen_8(at + 8), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(__x86_64__) && WIDTH == 8
        return (Floats)widen_8(at);
#else
        Floats values;
        for (int i = 0; i < WIDTH; ++i) values[i] = at[i];
        return values;
#endif
    }

    static void encode(const float* column, const float* scales, int8_t* at) {
        for (long i = 0; i < PANEL; ++i) {
            const float steps = std::nearbyint(column[i] / scales[i]);
            // Written so that NaN (a scale of zero or NaN) takes a branch too: converting it would be undefined.
            at[i] = steps > -127 ? (int8_t)(steps < 127 ? steps : 127) : (int8_t)-127;
        }
    }
};

// Asks memory, a little at a time, for what is multiplied next: all at once would only wait in line, and left to itself
// the processor asks too late, so that reading and arithmetic would take turns. To the second-level cache, which has
// room for more open misses than the first (the same with 8 rows in 18.1 ms instead of 20.2).
struct Ahead {
    const char* at = nullptr;
    long lines_a_round = 0;

    // Inputs a round.
    static constexpr long ROUND = 16;

    INLINE void fetch_round() {
        for (long line = 0; line < lines_a_round; ++line, at += 64) __builtin_prefetch(at, 0, 2);
    }
};

// Adds x times `panels` panels, `panel_step` elements apart, to their tiles of [rows][PANEL], `tile_step` floats apart.
// x is packed input by input: [depth][rows].
template <class Storage, int rows, int panels>
void multiply(const float* x, const typename Storage::Element* panel, long panel_step, long depth, float* tile,
              long tile_step, Ahead* ahead) {
    Floats sums[panels][rows][2];
#pragma GCC unroll 16
    for (int p = 0; p < panels; ++p)
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            sums[p][r][0] = load<Floats>(tile + p * tile_step + r * PANEL);
            sums[p][r][1] = load<Floats>(tile + p * tile_step + r * PANEL + WIDTH);
        }
    for (long k = 0; k < depth; ++k) {
        if (k % Ahead::ROUND == 0)
            for (int p = 0; p < panels; ++p) ahead[p].fetch_round();
#pragma GCC unroll 16
        for (int p = 0; p < panels; ++p) {
            const Column weights = Storage::decode(panel + p * panel_step + k * PANEL);
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                const Floats value = broadcast(x[k * rows + r]);
                sums[p][r][0] += value * weights.low;
                sums[p][r][1] += value * weights.high;
            }
        }
    }
#pragma GCC unroll 16
    for (int p = 0; p < panels; ++p)
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            store(tile + p * tile_step + r * PANEL, sums[p][r][0]);
            store(tile + p * tile_step + r * PANEL + WIDTH, sums[p][r][1]);
        }
}

template <class Storage>
using Multiply = void (*)(const float*, const typename Storage::Element*, long, long, float*, long, Ahead*);

// The product of 1 to `count` rows, where the sequence counts from 0 to count - 1.
template <class Storage, int panels, int... below>
Multiply<Storage> multiply_rows(long rows, std::integer_sequence<int, below...>) {
    static constexpr Multiply<Storage> table[] = {multiply<Storage, below + 1, panels>...};
    return table[rows - 1];
}
