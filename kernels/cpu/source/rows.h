// Operations on rows: RMS norm (Zhang and Sennrich 2019, arXiv:1910.07467), the SwiGLU gate, rotary embedding.

// Elements under which waking a second thread costs more than it saves.
constexpr int64_t PARALLEL_ELEMENTS = 1 << 16;

// So that a thread that comes late, or is taken away, is not waited for.
constexpr int64_t CHUNKS_A_THREAD = 4;

// Calls body(row) for every row, on several threads when there is enough to do.
template <class Body>
void for_rows(int64_t rows, int64_t elements, int threads, Body body) {
    if (threads == 1 || rows * elements < PARALLEL_ELEMENTS) {
        for (int64_t row = 0; row < rows; ++row) body(row);
        return;
    }
    const int64_t tasks = std::min<int64_t>(rows, CHUNKS_A_THREAD * threads);
    share_out(threads, tasks, [&](int64_t task, int) {
        for (int64_t row = rows * task / tasks; row < rows * (task + 1) / tasks; ++row) body(row);
    });
}

// Calls body with a null pointer of the element type.
template <class Body>
void with_dtype(int32_t dtype, Body body) {
    if (dtype == FLOAT32) body((float*)nullptr);
    else body((uint16_t*)nullptr);
}

INLINE float inverse_root_mean_square(float squares, int64_t size, float epsilon) {
    return 1.0f / std::sqrt(squares / (float)size + epsilon);
}

// The reference rounds the normalised value to the element type before it multiplies by the weight.
template <class Element>
void scale_row(const Element* x, const Element* weight, float scale, int64_t size, Element* out) {
    for_vectors(size, [=](long i, auto part) {
        part.write(out + i, rounded(x, part.read(x + i) * scale) * part.read(weight + i));
    });
}

template <class Element>
void norm_row(const Element* x, const Element* weight, int64_t size, float epsilon, Element* out) {
    Floats squares = {};
    for_vectors(size, [&](long i, auto part) {
        const Floats values = part.read(x + i);
        squares += values * values;
    });
    scale_row(x, weight, inverse_root_mean_square(sum_of(squares), size, epsilon), size, out);
}

template <class Element>
void add_norm_row(const Element* x, Element* residual, const Element* weight, int64_t size, float epsilon,
                  Element* out) {
    Floats squares = {};
    for_vectors(size, [&](long i, auto part) {
        const Floats sum = rounded(x, part.read(x + i) + part.read(residual + i));
        part.write(residual + i, sum);
        squares += sum * sum;
    });
    scale_row(residual, weight, inverse_root_mean_square(sum_of(squares), size, epsilon), size, out);
}

template <class Element>
void silu_multiply_row(const Element* gate, const Element* up, int64_t size, Element* out) {
    for_vectors(size, [=](long i, auto part) {
        const Floats x = part.read(gate + i);
        const Floats small = exponential((Floats)((Ints)x | INT32_MIN));  // of -|x|: neither overflows nor cuts off
        const Floats sigmoid = (x >= 0.0f ? broadcast(1.0f) : small) / (1.0f + small);
        part.write(out + i, x * sigmoid * part.read(up + i));
    });
}

// Sets `out` to `x * scale * weight`, turned. The halves of a head are the two coordinates of its pairs.
template <class Element>
void rotate_head(const Element* x, const Element* weight, float scale, const Element* cosine, const Element* sine,
                 int64_t head_dim, Element* out) {
    const long half = head_dim / 2;
    for_vectors(half, [=](long i, auto part) {
        Floats first = part.read(x + i), second = part.read(x + half + i);
        if (weight) {
            first *= scale * part.read(weight + i);
            second *= scale * part.read(weight + half + i);
        }
        part.write(out + i, first * part.read(cosine + i) + second * part.read(sine + i));
        part.write(out + half + i, second * part.read(cosine + half + i) + first * part.read(sine + half + i));
    });
}

template <class Element>
void norm_and_rotate_head(const Rotation& rotation, const Element* x, const void* weight, int64_t position,
                          Element* out) {
    const int64_t size = rotation.head_dim;
    float scale = 1;
    if (weight) {
        Floats squares = {};
        for_vectors(size, [&](long i, auto part) {
            const Floats values = part.read(x + i);
            squares += values * values;
        });
        scale = inverse_root_mean_square(sum_of(squares), size, rotation.epsilon);
    }
    rotate_head(x, (const Element*)weight, scale, (const Element*)rotation.cosine + position * size,
                (const Element*)rotation.sine + position * size, size, out);
}

template <class Element>
void rotate_token(const Rotation& rotation, int64_t token) {
    const int64_t size = rotation.head_dim, kv_size = rotation.kv_heads * size;
    const int64_t position = rotation.positions[token], slot = rotation.slots[token];
    const int64_t page = slot / rotation.page_size, offset = slot % rotation.page_size * kv_size;
    const Element* heads = (const Element*)rotation.heads + token * rotation.token_step;
    Element* query = (Element*)rotation.query + token * rotation.query_heads * size;
    for (int64_t head = 0; head < rotation.query_heads; ++head)
        norm_and_rotate_head(rotation, heads + head * size, rotation.query_norm, position, query + head * size);
    heads += rotation.query_heads * size;
    Element* key = (Element*)rotation.key_cache + page * rotation.key_page_step + offset;
    for (int64_t head = 0; head < rotation.kv_heads; ++head)
        norm_and_rotate_head(rotation, heads + head * size, rotation.key_norm, position, key + head * size);
    Element* value = (Element*)rotation.value_cache + page * rotation.value_page_step + offset;
    std::memcpy(value, heads + kv_size, kv_size * sizeof(Element));
}

void rms_norm(ROWS_OF_ELEMENTS, const void* x, const void* weight, void* out, float epsilon) {
    with_dtype(dtype, [=](auto* type) {
        using Element = std::remove_pointer_t<decltype(type)>;
        for_rows(rows, size, threads, [=](int64_t row) {
            norm_row((const Element*)x + row * size, (const Element*)weight, size, epsilon, (Element*)out + row * size);
        });
    });
}

void add_rms_norm(ROWS_OF_ELEMENTS, const void* x, void* residual, const void* weight, void* out, float epsilon) {
    with_dtype(dtype, [=](auto* type) {
        using Element = std::remove_pointer_t<decltype(type)>;
        for_rows(rows, size, threads, [=](int64_t row) {
            add_norm_row((const Element*)x + row * size, (Element*)residual + row * size, (const Element*)weight, size,
                         epsilon, (Element*)out + row * size);
        });
    });
}

void silu_multiply(ROWS_OF_ELEMENTS, const void* gate_up, void* out) {
    with_dtype(dtype, [=](auto* type) {
        using Element = std::remove_pointer_t<decltype(type)>;
        for_rows(rows, 2 * size, threads, [=](int64_t row) {
            const Element* gate = (const Element*)gate_up + 2 * row * size;
            silu_multiply_row(gate, gate + size, size, (Element*)out + row * size);
        });
    });
}

void rotate_and_cache(const Rotation* rotation) {
    with_dtype(rotation->dtype, [=](auto* type) {
        using Element = std::remove_pointer_t<decltype(type)>;
        const int64_t elements = (rotation->query_heads + 2 * rotation->kv_heads) * rotation->head_dim;
        for_rows(rotation->tokens, elements, rotation->threads, [=](int64_t token) {
            rotate_token<Element>(*rotation, token);
        });
    });
}
