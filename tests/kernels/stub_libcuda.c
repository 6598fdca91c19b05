/* A CUDA driver that does nothing but write down what it is told: what a launch passes, read as the real one reads it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CAPABILITY_MAJOR 75
#define CAPABILITY_MINOR 76
#define SHARED_LIMIT 97

static void note(const char *text) {
    FILE *log = fopen(getenv("STUB_LOG"), "a");
    fputs(text, log);
    fclose(log);
}

int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuInit(unsigned flags) { return flags; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal == 0 ? 0 : 101; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(uintptr_t)(0x1000 + device); return 0; }
int cuCtxGetCurrent(void **context) { *context = NULL; return 0; }
int cuCtxSetCurrent(void *context) { return context == (void *)0x1000 ? 0 : 201; }

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == CAPABILITY_MAJOR ? 9 : attribute == CAPABILITY_MINOR ? 0 : attribute == SHARED_LIMIT ? 232448 : 0;
    return device;
}

int cuModuleLoadData(void **module, const void *image) {
    *module = (void *)0x2000;
    return memcmp(image, "\177ELF", 4) == 0 ? 0 : 200;
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    char text[300];
    snprintf(text, sizeof text, "function %s\n", name);
    note(text);
    *function = (void *)0x3000;
    return module == (void *)0x2000 ? 0 : 400;
}

int cuFuncSetAttribute(void *function, int attribute, int value) {
    char text[100];
    snprintf(text, sizeof text, "attribute %d %d\n", attribute, value);
    note(text);
    return function == (void *)0x3000 ? 0 : 400;
}

int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned rows, unsigned layers,
                   unsigned shared, void *stream, void **parameters, void **extra) {
    char text[4000];
    int length = snprintf(text, sizeof text, "launch %u %u %u %u %u %u %u %p", x, y, z, threads, rows, layers, shared, stream);
    char sizes[500];
    strncpy(sizes, getenv("STUB_SIZES"), sizeof sizes - 1);
    int place = 0;
    for (char *size = strtok(sizes, ","); size != NULL; size = strtok(NULL, ","), place++) {
        length += snprintf(text + length, sizeof text - length, " ");
        for (int byte = 0; byte < atoi(size); byte++)
            length += snprintf(text + length, sizeof text - length, "%02x", ((unsigned char *)parameters[place])[byte]);
    }
    snprintf(text + length, sizeof text - length, "\n");
    note(text);
    if (getenv("STUB_FAILS")) return 700;
    return function == (void *)0x3000 && extra == NULL ? 0 : 400;
}

int cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status) {
    *function = dlsym(RTLD_DEFAULT, symbol);
    if (*function == NULL) {
        Dl_info here;
        dladdr((void *)cuInit, &here);
        *function = dlsym(dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD), symbol);
    }
    if (status != NULL) *status = *function != NULL ? 0 : 1;
    return *function != NULL ? 0 : 500;
}
