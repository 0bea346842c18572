/* A driver of CUDA devices for machines without one: the functions that the library and tests/c/cuda.c use, over main
 * memory. Addresses on its "device" cannot be read or written except by its own copies, as those on a real one, and a copy
 * wants the right context. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, INVALID_CONTEXT = 201, ILLEGAL_ADDRESS = 700, MEMORIES = 64, DEPTH = 16 };

static struct {
    char *address, *content;
    size_t bytes;
    int of_pool;
} memories[MEMORIES];
static int used, initialized, failing, writes, waits, retained;
static char primary;
static __thread void *current[DEPTH];
static __thread int depth;

/* For tests: whether writes fail from now on; how many there were; whether every push and retain was undone. */
void stand_in_fail_writes(int fail) { failing = fail; }
int stand_in_writes(void) { return writes; }
int stand_in_is_tidy(void) { return depth == 0 && retained == 0 && waits > 0; }

static int has_context(void) { return depth > 0 && current[depth - 1] == &primary; }

static int find(uint64_t address, size_t bytes) {
    for (int i = 0; i < used; i++) {
        uint64_t first = (uint64_t)(uintptr_t)memories[i].address;
        if (address >= first && address < first + memories[i].bytes) {
            return bytes <= memories[i].bytes - (size_t)(address - first) ? i : -1;
        }
    }
    return -1;
}

int cuInit(unsigned flags) {
    initialized = 1;
    return flags == 0 ? SUCCESS : INVALID_VALUE;
}

int cuGetErrorString(int error, const char **text) {
    *text = error == ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : "invalid argument";
    return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = 40 + ordinal;
    return initialized && ordinal == 0 ? SUCCESS : INVALID_VALUE;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &primary;
    retained += device == 40;
    return device == 40 ? SUCCESS : INVALID_VALUE;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    retained -= device == 40;
    return device == 40 ? SUCCESS : INVALID_VALUE;
}

int cuCtxPushCurrent_v2(void *context) {
    if (context != &primary || depth == DEPTH) return INVALID_CONTEXT;
    current[depth++] = context;
    return SUCCESS;
}

int cuCtxPopCurrent_v2(void **context) {
    if (depth == 0) return INVALID_CONTEXT;
    *context = current[--depth];
    return SUCCESS;
}

int cuCtxSynchronize(void) {
    waits++;
    return has_context() ? SUCCESS : INVALID_CONTEXT;
}

int cuPointerGetAttribute(void *value, int attribute, uint64_t address) {
    int i = find(address, 1);
    if (!initialized || i < 0) return INVALID_VALUE;
    switch (attribute) {
    case 1: *(void **)value = memories[i].of_pool ? NULL : &primary; return SUCCESS;
    case 2: *(unsigned *)value = 2; return SUCCESS;
    case 9: *(int *)value = 0; return SUCCESS;
    default: return INVALID_VALUE;
    }
}

/* Every second memory is like that of a pool, which belongs to no context. */
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (!has_context() || used == MEMORIES) return INVALID_CONTEXT;
    char *reserved = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (reserved == MAP_FAILED) return INVALID_VALUE;
    memories[used].address = reserved;
    memories[used].content = calloc(1, bytes);
    memories[used].bytes = bytes;
    memories[used].of_pool = used % 2;
    *address = (uint64_t)(uintptr_t)reserved;
    used++;
    return SUCCESS;
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) {
    int i = find(from, bytes);
    if (!has_context() || i < 0) return INVALID_VALUE;
    memcpy(to, memories[i].content + (from - (uint64_t)(uintptr_t)memories[i].address), bytes);
    return SUCCESS;
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) {
    int i = find(to, bytes);
    if (!has_context() || i < 0) return INVALID_VALUE;
    if (failing) return ILLEGAL_ADDRESS;
    writes++;
    memcpy(memories[i].content + (to - (uint64_t)(uintptr_t)memories[i].address), from, bytes);
    return SUCCESS;
}
