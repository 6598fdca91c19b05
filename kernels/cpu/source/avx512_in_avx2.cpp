// The 16-wide code in AVX2 instructions: slow, for tests of that code on a processor without AVX-512.
#include "headers.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define VARIANT avx512_in_avx2
#define WIDTH 16
#define EMULATED  // no intrinsics for this width (GCC 12 does not define __AVX2__ and the like after such a pragma)
#include "variant.h"
#endif
