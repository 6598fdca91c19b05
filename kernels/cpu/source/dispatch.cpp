// The library's C interface, and the choice of the widest instruction set that the processor has.

#include <cstring>

#include "table.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace portable { extern const Table table; }
namespace avx2 { extern const Table table; }
namespace avx512 { extern const Table table; }
namespace avx512_in_avx2 { extern const Table table; }

namespace {

struct Variant {
    const char* name;
    const Table* table;
    bool (*runs_here)();
};

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif

// Widest first; behind the portable one, which runs anywhere, those that are only used by name.
const Variant variants[] = {
#if defined(__x86_64__)
    {"avx512", &avx512::table, [] {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    }},
    {"avx2", &avx2::table, has_avx2},
#endif
    {"portable", &portable::table, [] { return true; }},
#if defined(__x86_64__)
    {"avx512 in avx2", &avx512_in_avx2::table, has_avx2},
#endif
};

const Variant* widest() {
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    const Variant* variant = variants;
    while (!variant->runs_here()) ++variant;
    return variant;
}

const Variant* used = widest();

}

// The name of the variant in use.
EXPORT const char* pilotlight_variant() { return used->name; }

// Uses a variant by name from now on. 0: done; 1: this processor cannot run it; 2: there is none of that name.
EXPORT int pilotlight_use(const char* name) {
    for (const Variant& variant : variants) {
        if (std::strcmp(variant.name, name)) continue;
        if (!variant.runs_here()) return 1;
        used = &variant;
        return 0;
    }
    return 2;
}

EXPORT void pilotlight_rms_norm(ROWS_OF_ELEMENTS, const void* x, const void* weight, void* out, float epsilon) {
    used->table->rms_norm(dtype, threads, rows, size, x, weight, out, epsilon);
}

EXPORT void pilotlight_add_rms_norm(ROWS_OF_ELEMENTS, const void* x, void* residual, const void* weight, void* out,
                                    float epsilon) {
    used->table->add_rms_norm(dtype, threads, rows, size, x, residual, weight, out, epsilon);
}

EXPORT void pilotlight_silu_multiply(ROWS_OF_ELEMENTS, const void* gate_up, void* out) {
    used->table->silu_multiply(dtype, threads, rows, size, gate_up, out);
}

EXPORT void pilotlight_rotate_and_cache(const Rotation* rotation) { used->table->rotate_and_cache(rotation); }

EXPORT int64_t pilotlight_attention_scratch(const Step* step) { return used->table->attention_scratch(step); }

EXPORT void pilotlight_attend(const Step* step) { used->table->attend(step); }

EXPORT void pilotlight_linear(const Weight* weight, int32_t dtype, int32_t threads, int64_t rows, const void* x,
                              int64_t x_step, void* y, float* scratch) {
    used->table->linear(weight, dtype, threads, rows, x, x_step, y, scratch);
}

EXPORT void pilotlight_pack_linear(const Weight* weight, int32_t threads, int32_t layout, void* panels, float* scales) {
    used->table->pack_linear(weight, threads, layout, panels, scales);
}
