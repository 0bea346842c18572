/* One of two peers of a run that compresses: compressed PORT INDEX. What is not to be quantized is the plain sum, to the
 * last bit. */
#include <pccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Long enough to be quantized without being asked. */
#define COUNT (((size_t)1 << 18) + 5)
#define BYTES (COUNT * sizeof(float))

static int me;
static float exact[COUNT], mine[COUNT], out[COUNT];

static void check(int line, const char *what, int ok) {
    if (!ok) {
        fprintf(stderr, "peer %d, line %d: not so: %s; last error: %s\n", me, line, what, pcclGetLastError());
        exit(1);
    }
}
#define CHECK(x) check(__LINE__, #x, (x))

static float of_peer(int peer, size_t i) {
    return (float)((i * 7919 + (size_t)peer * 104729) % 100003) / 977.0f - 50.0f;
}

static pcclReduceDescriptor_t sum(uint64_t tag, pcclQuantizationAlgorithm_t algorithm) {
    pcclReduceDescriptor_t d = {COUNT, pcclSum, 0, {pcclFloat, pcclDistributionNone}, {pcclUint8, pcclQuantNone}};
    d.tag = tag;
    d.quantization_options.algorithm = algorithm;
    return d;
}

static void meet(pcclComm_t *comm) {
    int world = 0;
    for (;;) {
        struct timespec ms = {0, 5000000};
        bool pending = false;
        CHECK(pcclGetAttribute(comm, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &world) == pcclSuccess);
        if (world == 2) return;
        CHECK(pcclArePeersPending(comm, &pending) == pcclSuccess);
        if (pending) CHECK(pcclUpdateTopology(comm) == pcclSuccess);
        else nanosleep(&ms, NULL);
    }
}

static int is_exact(const float *x, const pcclReduceInfo_t *info) {
    return memcmp(x, exact, BYTES) == 0 && info->local_world_size == 2 && info->tx_bytes >= BYTES && info->rx_bytes >= BYTES;
}

/* More ops than may be in flight at once. */
static void many(pcclComm_t *comm) {
    static pcclReduceOpDescriptor_t ops[1500];
    pcclReduceInfo_t info;
    for (size_t k = 0; k < 1500; k++) {
        ops[k].sendbuf = &mine[k];
        ops[k].recvbuf = &out[k];
        ops[k].descriptor = sum(k, pcclQuantNone);
        ops[k].descriptor.count = 1;
    }
    CHECK(pcclAllReduceMultipleWithRetry(ops, 1500, comm, &info, 1500) == pcclSuccess);
    CHECK(memcmp(out, exact, 1500 * sizeof *out) == 0 && info.local_world_size == 2);
}

int main(int argc, char **argv) {
    pcclCommCreateParams_t params;
    pcclComm_t *comm = NULL;
    pcclReduceDescriptor_t d;
    pcclReduceOpDescriptor_t one;
    pcclReduceInfo_t info;
    pcclAsyncReduceOp_t handle;
    if (argc != 3) return 2;
    me = atoi(argv[2]);
    memset(&params, 0, sizeof params);
    params.master_address.inet.ipv4.data[0] = 127;
    params.master_address.inet.ipv4.data[3] = 1;
    params.master_address.port = (uint16_t)atoi(argv[1]);
    CHECK(pcclInit() == pcclSuccess && pcclCreateCommunicator(&params, &comm) == pcclSuccess);
    CHECK(pcclConnect(comm) == pcclSuccess);
    meet(comm);
    for (size_t i = 0; i < COUNT; i++) {
        mine[i] = of_peer(me, i);
        exact[i] = of_peer(0, i) + of_peer(1, i);
    }
    /* The run compresses. */
    d = sum(1, pcclQuantNone);
    CHECK(pcclAllReduce(mine, out, &d, comm, &info) == pcclSuccess);
    CHECK(info.tx_bytes < BYTES / 3 && memcmp(out, exact, BYTES) != 0);
    /* The same tag, type and length: what was taken away from the op before does not come with this one. */
    d = sum(1, pcclQuantOff);
    CHECK(pcclAllReduce(mine, out, &d, comm, &info) == pcclSuccess && is_exact(out, &info));
    memcpy(out, mine, BYTES);
    CHECK(pcclAllReduce(out, out, &d, comm, &info) == pcclSuccess && is_exact(out, &info));
    memset(out, 0, BYTES);
    CHECK(pcclAllReduceAsync(mine, out, &d, comm, &handle) == pcclSuccess);
    CHECK(pcclAwaitAsyncReduce(&handle, &info) == pcclSuccess && is_exact(out, &info));
    memcpy(out, mine, BYTES);
    one.sendbuf = one.recvbuf = out;
    one.descriptor = d;
    CHECK(pcclAllReduceMultipleWithRetry(&one, 1, comm, &info, 1) == pcclSuccess && is_exact(out, &info));
    /* All must say the same. */
    d = sum(2, me == 0 ? pcclQuantOff : pcclQuantNone);
    memcpy(out, mine, BYTES);
    CHECK(pcclAllReduce(out, out, &d, comm, &info) == pcclInvalidArgument && memcmp(out, mine, BYTES) == 0);
    many(comm);
    CHECK(pcclBarrier(3, comm) == pcclSuccess && pcclDestroyCommunicator(comm) == pcclSuccess);
    return 0;
}
