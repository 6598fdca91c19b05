#include "headers.h"

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define VARIANT avx2
#define WIDTH 8
#include "variant.h"
#endif
