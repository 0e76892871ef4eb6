// A driver for a machine without one: what it answers is in the environment. It counts contexts, and says at the
// process's end if one was left.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int contexts, pushed;

static long set(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

int cuDriverGetVersion(int *version) { return *version = set("FAKE_VERSION", 13000), 0; }
int cuInit(unsigned flags) { return flags ? 1 : set("FAKE_INIT", 0); }
int cuDeviceGetCount(int *count) { return *count = set("FAKE_COUNT", 1), 0; }
int cuDeviceGet(int *device, int number) { return *device = 40 + number, number < set("FAKE_COUNT", 1) ? 0 : 101; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = (size_t)8 << 30, device == 40 ? 0 : 101; }

int cuGetErrorName(int status, const char **name) {
    *name = status == 802 ? "CUDA_ERROR_SYSTEM_NOT_READY" : NULL;
    return *name ? 0 : 1;
}

int cuDeviceGetName(char *name, int room, int device) {
    strncpy(name, "Fake H200", room);
    return device == 40 ? 0 : 101;
}

int cuDeviceGetAttribute(int *value, int which, int device) {
    int capability = set("FAKE_CAPABILITY", 90);
    *value = which == 75 ? capability / 10 : which == 76 ? capability % 10 : -1;
    return device == 40 ? 0 : 101;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    return *context = &contexts, contexts++, device == 40 ? 0 : 101;
}
int cuDevicePrimaryCtxRelease_v2(int device) { return contexts--, device == 40 ? 0 : 101; }
int cuCtxPushCurrent_v2(void *context) { return pushed++, context == &contexts ? 0 : 201; }
int cuCtxPopCurrent_v2(void **context) { return *context = &contexts, pushed--, 0; }

int cuMemGetInfo_v2(size_t *free, size_t *total) {
    *free = (size_t)set("FAKE_FREE_MIB", 4096) << 20;
    *total = (size_t)8 << 30;
    return contexts == 1 && pushed == 1 ? set("FAKE_MEMORY", 0) : 201;
}

// The pool holds 512 MiB, of which 128 are in use.
int cuDeviceGetDefaultMemPool(void **pool, int device) {
    return *pool = &pushed, device == 40 ? set("FAKE_POOL", 0) : 101;
}
int cuMemPoolGetAttribute(void *pool, int which, uint64_t *bytes) {
    *bytes = which == 5 ? 512 << 20 : which == 7 ? 128 << 20 : 0;
    return pool == &pushed ? 0 : 1;
}
int cuMemPoolSetAttribute(void *pool, int which, uint64_t *bytes) {
    if (pool == &pushed && which == 4 && *bytes == UINT64_MAX) printf("the pool keeps all\n"), fflush(stdout);
    return 0;
}

__attribute__((destructor)) static void leave(void) {
    if (contexts || pushed) fprintf(stderr, "%d contexts and %d pushes were left\n", contexts, pushed);
}
