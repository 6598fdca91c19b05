#include "headers.h"

#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#define VARIANT avx512
#define WIDTH 16
#include "variant.h"
#endif
