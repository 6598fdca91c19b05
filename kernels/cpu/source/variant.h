// Everything, compiled for one instruction set. The file that includes this names VARIANT and WIDTH, and sets the
// target after the standard headers, whose inline functions must stay what every other file thinks they are.

namespace VARIANT {

typedef float Quad __attribute__((vector_size(16)));

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Ints{__VA_ARGS__})
#endif

namespace {
#include "vector.h"
#include "rows.h"
#include "attention.h"
#include "microkernel.h"
#include "linear.h"
}

extern const Table table;
const Table table = {rms_norm, add_rms_norm, silu_multiply, rotate_and_cache, attention_scratch, attend,
                     linear, pack_linear};

}
