// Vectors of WIDTH floats, in GCC's vector extensions: one source for every instruction set.

#define INLINE inline __attribute__((always_inline))

typedef float Floats __attribute__((vector_size(WIDTH * 4)));
typedef int32_t Ints __attribute__((vector_size(WIDTH * 4)));
typedef uint32_t Words __attribute__((vector_size(WIDTH * 4)));
typedef uint16_t Halves __attribute__((vector_size(WIDTH * 2)));

template <class Vector>
INLINE Vector load(const void* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

template <class Vector>
INLINE void store(void* to, Vector vector) {
    std::memcpy(to, &vector, sizeof vector);
}

INLINE Floats broadcast(float value) { return value - Floats{}; }
INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// bfloat16 is the upper half of a float32. Rounding is to nearest even; a NaN keeps its upper half, made quiet.
INLINE float to_float32(float value) { return value; }
INLINE float to_float32(uint16_t bits) {
    const uint32_t word = (uint32_t)bits << 16;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

INLINE uint16_t to_bfloat16(float value) {
    uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    if (value != value) return (uint16_t)(word >> 16 | 0x40);
    return (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

// The bits of the nearest bfloat16, in the upper half of each word.
INLINE Words nearest_bfloat16(Floats values) {
    const Words words = (Words)values, sound = (Words)(values == values);
    const Words nearest = words + 0x7fff + (words >> 16 & 1);
    return ((nearest & sound) | ((words | 0x400000) & ~sound)) & 0xffff0000;
}

// Halves to the upper halves of words, and back. Intrinsics, because GCC 12 does such conversions element by element.
#if WIDTH == 4 && defined(__SSE2__)
INLINE Words widened(Halves halves) {
    return (Words)_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64((const __m128i*)&halves));
}
INLINE Halves narrowed(Words words) {
    const __m128i packed = _mm_packs_epi32((__m128i)((Ints)words >> 16), (__m128i)words);
    return load<Halves>(&packed);
}
#elif WIDTH == 8
INLINE Words widened(Halves halves) { return (Words)_mm256_cvtepu16_epi32((__m128i)halves) << 16; }
INLINE Halves narrowed(Words words) {
    const __m256i high = (__m256i)((Ints)words >> 16);
    return (Halves)_mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packs_epi32(high, high), 0x08));
}
#elif WIDTH == 16 && !defined(EMULATED)
INLINE Words widened(Halves halves) { return (Words)_mm512_cvtepu16_epi32((__m256i)halves) << 16; }
INLINE Halves narrowed(Words words) { return (Halves)_mm512_cvtepi32_epi16((__m512i)(words >> 16)); }
#else
INLINE Words widened(Halves halves) { return __builtin_convertvector(halves, Words) << 16; }
INLINE Halves narrowed(Words words) { return __builtin_convertvector(words >> 16, Halves); }
#endif

INLINE Halves to_bfloat16(Floats values) { return narrowed(nearest_bfloat16(values)); }

// WIDTH elements of either type, as float32.
INLINE Floats read(const float* from) { return load<Floats>(from); }
INLINE Floats read(const uint16_t* from) { return (Floats)widened(load<Halves>(from)); }
INLINE void write(float* to, Floats values) { store(to, values); }
INLINE void write(uint16_t* to, Floats values) { store(to, to_bfloat16(values)); }

// int8 is read only, where speed matters little: before a weight is packed.
INLINE float to_float32(int8_t value) { return value; }
INLINE Floats read(const int8_t* from) {
    Floats values;
    for (int i = 0; i < WIDTH; ++i) values[i] = from[i];
    return values;
}

// The value that stays when an element type has held it.
INLINE Floats rounded(const float*, Floats values) { return values; }
INLINE Floats rounded(const uint16_t*, Floats values) { return (Floats)nearest_bfloat16(values); }

// The first `count` elements of a vector; the others read as zero and are not written.
template <class Element>
INLINE Floats read_some(const Element* from, long count) {
    Element lanes[WIDTH] = {};
    std::memcpy(lanes, from, count * sizeof(Element));
    return read(lanes);
}

template <class Element>
INLINE void write_some(Element* to, Floats values, long count) {
    Element lanes[WIDTH];
    write(lanes, values);
    std::memcpy(to, lanes, count * sizeof(Element));
}

// A part of a row: one whole vector, or the row's last few elements.
struct Whole {
    template <class Element> INLINE Floats read(const Element* from) const { return VARIANT::read(from); }
    template <class Element> INLINE void write(Element* to, Floats values) const { VARIANT::write(to, values); }
};
struct Partial {
    long count;
    template <class Element> INLINE Floats read(const Element* from) const { return read_some(from, count); }
    template <class Element> INLINE void write(Element* to, Floats values) const { write_some(to, values, count); }
};

// Calls body(index, part) for every part of a row.
template <class Body>
INLINE void for_vectors(long size, Body body) {
    long i = 0;
    for (; i + WIDTH <= size; i += WIDTH) body(i, Whole{});
    if (i < size) body(i, Partial{size - i});
}

INLINE float sum_of(Floats values) {
    float lanes[WIDTH], sum = 0;
    store(lanes, values);
    for (float lane : lanes) sum += lane;
    return sum;
}

INLINE float largest_of(Floats values) {
    float lanes[WIDTH];
    store(lanes, values);
    float largest = lanes[0];
    for (float lane : lanes) largest = lane > largest ? lane : largest;
    return largest;
}

// e^x to 2 units in the last place: 2^n times a Taylor polynomial on [-ln 2 / 2, ln 2 / 2]. Under -87 it is 0, over 88
// it is e^88; NaN stays NaN.
INLINE Floats exponential(Floats x) {
    const Ints tiny = x < -87.0f;
    x = x > 88.0f ? broadcast(88.0f) : x;
    const float shift = 12582912.0f;  // 1.5 x 2^23: adding it rounds to a whole number
    const Floats shifted = x * 1.44269504088896f + shift;
    const Floats whole = shifted - shift;
    const Floats rest = (x - whole * 0.693145751953125f) - whole * 1.42860682030941723e-6f;
    Floats series = broadcast(1.0f / 720);
    series = series * rest + 1.0f / 120;
    series = series * rest + 1.0f / 24;
    series = series * rest + 1.0f / 6;
    series = series * rest + 0.5f;
    series = series * rest + 1.0f;
    series = series * rest + 1.0f;
    const Floats power = (Floats)(((Ints)shifted - 0x4b400000 + 127) << 23);
    return (Floats)((Ints)(series * power) & ~tiny);
}

INLINE Floats hyperbolic_tangent(Floats x) { return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f); }
