/* Shared state in the memory of a CUDA device, by whatever driver the dynamic linker finds.
 *   cuda probe                  says "present" or "absent", and checks what the library says of it
 *   cuda PORT sender|receiver   two peers: two tensors on the device and one in main memory */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pccl.h"

#define CHECK(what)                                                                                                        \
    do {                                                                                                                   \
        if (!(what)) {                                                                                                     \
            fprintf(stderr, "line %d: %s does not hold: %s\n", __LINE__, #what, pcclGetLastError());                       \
            exit(1);                                                                                                       \
        }                                                                                                                  \
    } while (0)

enum { COUNT = 1 << 17 };

static void *driver;

static void (*function(const char *name))(void) {
    void (*found)(void);
    void *symbol = dlsym(driver, name);
    memcpy(&found, &symbol, sizeof found);
    return found;
}

static int (*copy_to_host)(void *, uint64_t, size_t);
static int (*copy_to_device)(uint64_t, const void *, size_t);
static void *context;

/* In the way that a program has one: current only while it uses it. */
static void enter(void) { CHECK(((int (*)(void *))function("cuCtxPushCurrent_v2"))(context) == 0); }

static void leave(void) {
    void *popped;
    CHECK(((int (*)(void **))function("cuCtxPopCurrent_v2"))(&popped) == 0);
}

static uint64_t device_tensor(float value) {
    static float values[COUNT];
    uint64_t address = 0;
    enter();
    CHECK(((int (*)(uint64_t *, size_t))function("cuMemAlloc_v2"))(&address, sizeof values) == 0);
    for (int i = 0; i < COUNT; i++) values[i] = value + (float)(i % 100);
    CHECK(copy_to_device(address, values, sizeof values) == 0);
    leave();
    return address;
}

static int holds(uint64_t address, float value) {
    static float values[COUNT];
    enter();
    CHECK(copy_to_host(values, address, sizeof values) == 0);
    leave();
    for (int i = 0; i < COUNT; i++)
        if (values[i] != value + (float)(i % 100)) return 0;
    return 1;
}

static int probe(void) {
    pcclBuildInfo_t info;
    CHECK(pcclGetBuildInfo(&info) == pcclSuccess);
    CHECK(info.has_cuda_support == (driver != NULL));
    puts(driver ? "present" : "absent");
    return 0;
}

static pcclComm_t *join(const char *port) {
    pcclCommCreateParams_t params;
    pcclComm_t *comm = NULL;
    int world = 0;
    memset(&params, 0, sizeof params);
    params.master_address.inet.protocol = inetIPv4;
    params.master_address.inet.ipv4.data[0] = 127;
    params.master_address.inet.ipv4.data[3] = 1;
    params.master_address.port = (uint16_t)atoi(port);
    CHECK(pcclCreateCommunicator(&params, &comm) == pcclSuccess);
    CHECK(pcclConnect(comm) == pcclSuccess);
    for (;;) {
        CHECK(pcclGetAttribute(comm, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE, &world) == pcclSuccess);
        if (world == 2) return comm;
        CHECK(pcclUpdateTopology(comm) == pcclSuccess);
    }
}

static void wrong_addresses(pcclComm_t *comm, pcclTensorInfo_t info, float *host) {
    pcclSharedState_t state = {0, 1, &info};
    const pcclSharedStateSyncStrategy_t popular = PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR;
    void *device = info.data;
    info.data = host;
    CHECK(pcclSynchronizeSharedState(comm, &state, popular, NULL) == pcclInvalidArgument);
    CHECK(strstr(pcclGetLastError(), "\"a\"") != NULL && strstr(pcclGetLastError(), "CUDA") != NULL);
    /* More than the tensor has; more than any device and any machine has. */
    info.data = device, info.count = (size_t)1 << 36;
    CHECK(pcclSynchronizeSharedState(comm, &state, popular, NULL) == pcclInvalidArgument);
    CHECK(strstr(pcclGetLastError(), "\"a\"") != NULL);
    info.count = (size_t)1 << 44;
    CHECK(pcclSynchronizeSharedState(comm, &state, popular, NULL) == pcclInvalidArgument);
    CHECK(strstr(pcclGetLastError(), "no room") != NULL);
    info.allow_content_inequality = true;
    CHECK(pcclSynchronizeSharedState(comm, &state, popular, NULL) == pcclInvalidArgument);
}

int main(int argc, char **argv) {
    CHECK(pcclInit() == pcclSuccess && argc > 1);
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (argc == 2) return probe();

    int device = 0, sends = strcmp(argv[2], "sender") == 0;
    CHECK(driver != NULL);
    CHECK(((int (*)(unsigned))function("cuInit"))(0) == 0);
    CHECK(((int (*)(int *, int))function("cuDeviceGet"))(&device, 0) == 0);
    CHECK(((int (*)(void **, int))function("cuDevicePrimaryCtxRetain"))(&context, device) == 0);
    *(void (**)(void))&copy_to_host = function("cuMemcpyDtoH_v2");
    *(void (**)(void))&copy_to_device = function("cuMemcpyHtoD_v2");

    static float host[COUNT];
    uint64_t a = device_tensor(sends ? 1 : 2), b = device_tensor(3);
    for (int i = 0; i < COUNT; i++) host[i] = sends ? 5 : 6;
    pcclTensorInfo_t infos[3] = {{"a", (void *)(uintptr_t)a, COUNT, pcclFloat, pcclDeviceCuda, false},
                                 {"b", (void *)(uintptr_t)b, COUNT, pcclFloat, pcclDeviceCuda, false},
                                 {"c", host, COUNT, pcclFloat, pcclDeviceCpu, false}};
    pcclSharedState_t state = {1, 3, infos};
    pcclSharedStateSyncInfo_t info;
    pcclSharedStateSyncStrategy_t strategy =
        sends ? PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY : PCCL_SHARED_STATE_SYNC_STRATEGY_RECEIVE_ONLY;
    pcclComm_t *comm = join(argv[1]);
    wrong_addresses(comm, infos[0], host);
    CHECK(holds(a, sends ? 1 : 2));

    /* Only what differs is written: the stand-in counts. */
    int (*writes)(void) = (int (*)(void))function("stand_in_writes");
    int (*is_tidy)(void) = (int (*)(void))function("stand_in_is_tidy");
    int before = writes ? writes() : 0;
    CHECK(pcclSynchronizeSharedState(comm, &state, strategy, &info) == pcclSuccess);
    CHECK(holds(a, 1) && holds(b, 3) && host[COUNT - 1] == 5);
    CHECK(sends ? info.tx_bytes > 0 : info.rx_bytes > 0);
    CHECK(!writes || writes() == before + !sends);

    /* Another revision, whose content cannot be written. The one after it repairs that. */
    void (*fail_writes)(int) = (void (*)(int))function("stand_in_fail_writes");
    uint64_t changed = sends ? device_tensor(9) : a;
    infos[0].data = (void *)(uintptr_t)changed;
    state.revision = 2;
    if (fail_writes) {
        fail_writes(1);
        pcclResult_t result = pcclSynchronizeSharedState(comm, &state, strategy, NULL);
        fail_writes(0);
        CHECK(result == (sends ? pcclSuccess : pcclInternalError));
        CHECK(sends || strstr(pcclGetLastError(), "an illegal memory access") != NULL);
        CHECK(sends || holds(a, 1));
        state.revision = 3;
    }
    CHECK(pcclSynchronizeSharedState(comm, &state, strategy, NULL) == pcclSuccess);
    CHECK(holds(changed, 9) && holds(b, 3));
    CHECK(((int (*)(int))function("cuDevicePrimaryCtxRelease_v2"))(device) == 0);
    CHECK(!is_tidy || is_tidy());
    CHECK(pcclDestroyCommunicator(comm) == pcclSuccess);
    return 0;
}
