// What every processor of the platform can run (on x86-64: SSE2).
#include "headers.h"

#define VARIANT portable
#define WIDTH 4
#include "variant.h"
