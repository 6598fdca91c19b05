// What every instruction set's variant offers, and the arguments of its functions. Plain C: Python fills these in.
#pragma once

#include <cstdint>

enum Dtype : int32_t { FLOAT32, BFLOAT16 };

// Rows of `size` elements stand one after the other without gaps.
#define ROWS_OF_ELEMENTS int32_t dtype, int32_t threads, int64_t rows, int64_t size

struct Rotation {
    const void* heads;  // [tokens, query_heads + 2 * kv_heads, head_dim]: queries, keys, values
    const void *query_norm, *key_norm;  // [head_dim], or null
    const void *cosine, *sine;  // [positions, head_dim]; the first half of each sine row is negated
    const int64_t *positions, *slots;  // [tokens]
    void *query;  // out: [tokens, query_heads, head_dim]
    void *key_cache, *value_cache;  // [pages, page_size, kv_heads, head_dim]
    int64_t tokens, token_step, query_heads, kv_heads, head_dim, page_size, key_page_step, value_page_step;
    float epsilon;
    int32_t dtype, threads;
};

struct Step {
    const void* query;  // [tokens, heads, head_dim]
    const void *key_cache, *value_cache;  // [pages, page_size, kv_heads, head_dim]
    void* out;  // like query
    const int64_t *starts, *counts;  // [requests]: tokens before this step, tokens of this step
    const int64_t* page_tables;  // [requests, pages]
    void* scratch;  // as many bytes as attention_scratch asks for, on a cache line
    int64_t requests, table_step, page_size, heads, kv_heads, head_dim, key_page_step, value_page_step;
    int64_t window;  // 0: none
    float scale, soft_cap;  // soft_cap 0: none
    int32_t dtype, threads;
};

// How a weight lies: as rows, [outputs, inputs], or as the panels that pack_linear makes of them.
enum Layout : int32_t { FLOAT32_ROWS, BFLOAT16_ROWS, FLOAT32_PANELS, BFLOAT16_PANELS, INT8_PANELS, INT8_ROWS };

struct Weight {
    const void* data;
    const float *scales, *bias;  // null, or one for each output and then some up to a multiple of 32
    int64_t outputs, inputs;
    int32_t layout;
};

struct Table {
    void (*rms_norm)(ROWS_OF_ELEMENTS, const void* x, const void* weight, void* out, float epsilon);
    // Overwrites the residual with the sum.
    void (*add_rms_norm)(ROWS_OF_ELEMENTS, const void* x, void* residual, const void* weight, void* out, float epsilon);
    void (*silu_multiply)(ROWS_OF_ELEMENTS, const void* gate_up, void* out);
    void (*rotate_and_cache)(const Rotation*);
    int64_t (*attention_scratch)(const Step*);
    void (*attend)(const Step*);
    // x: [rows, inputs], rows x_step elements apart; y: [rows, outputs]; scratch: rows * inputs floats.
    void (*linear)(const Weight*, int32_t dtype, int32_t threads, int64_t rows, const void* x, int64_t x_step, void* y,
                   float* scratch);
    // panels: room for the outputs up to a multiple of 32; scales: written for int8 only, one an output.
    void (*pack_linear)(const Weight*, int32_t threads, int32_t layout, void* panels, float* scales);
};
