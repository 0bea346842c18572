/* Calls that are wrong: each returns a code and leaves a text. misuse PORT, with a master there and nobody else. */
#include <pccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void expect(int line, const char *call, pcclResult_t got, pcclResult_t wanted) {
    const char *text = pcclGetLastError();
    int ok = got == wanted && (got == pcclSuccess || (strstr(text, "pccl") == text && strlen(text) > 20));
    if (!ok) {
        fprintf(stderr, "line %d: %s is %d, wanted %d; last error: %s\n", line, call, (int)got, (int)wanted, text);
        exit(1);
    }
}
#define IS(call, wanted) expect(__LINE__, #call, (call), (wanted))

static float in[16], out[16];
static pcclReduceDescriptor_t sum = {16, pcclSum, 1, {pcclFloat, pcclDistributionNone}, {pcclFloat, pcclQuantNone}};

static pcclComm_t *create(int port) {
    pcclCommCreateParams_t params;
    pcclComm_t *comm = NULL;
    memset(&params, 0, sizeof params);
    params.master_address.inet.ipv4.data[0] = 127;
    params.master_address.inet.ipv4.data[3] = 1;
    params.master_address.port = (uint16_t)port;
    IS(pcclCreateCommunicator(NULL, &comm), pcclInvalidArgument);
    IS(pcclCreateCommunicator(&params, NULL), pcclInvalidArgument);
    params.master_address.inet.protocol = (ccoip_inet_protocol_t)9;
    IS(pcclCreateCommunicator(&params, &comm), pcclInvalidArgument);
    params.master_address.inet.protocol = inetIPv4;
    IS(pcclCreateCommunicator(&params, &comm), pcclSuccess);
    return comm;
}

static void unconnected(pcclComm_t *comm) {
    int value;
    bool pending;
    pcclAsyncReduceOp_t handle = {comm, 1};
    pcclSharedState_t state = {0, 0, NULL};
    IS(pcclGetAttribute(comm, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE, &value), pcclInvalidUsage);
    IS(pcclArePeersPending(comm, &pending), pcclInvalidUsage);
    IS(pcclUpdateTopology(comm), pcclInvalidUsage);
    IS(pcclOptimizeTopology(comm), pcclInvalidUsage);
    IS(pcclAllReduce(in, out, &sum, comm, NULL), pcclInvalidUsage);
    IS(pcclAllReduceAsync(in, out, &sum, comm, &handle), pcclInvalidUsage);
    IS(pcclAwaitAsyncReduce(&handle, NULL), pcclInvalidArgument);
    IS(pcclSynchronizeSharedState(comm, &state, PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR, NULL), pcclInvalidUsage);
    IS(pcclBarrier(1, comm), pcclInvalidUsage);
    IS(pcclLeave(comm), pcclInvalidUsage);
}

static void options(pcclComm_t *comm) {
    IS(pcclSetOption(comm, NULL, "x"), pcclInvalidArgument);
    IS(pcclSetOption(comm, "algorithm", NULL), pcclInvalidArgument);
    IS(pcclSetOption(comm, "algorithm", "magic"), pcclInvalidArgument);
    IS(pcclSetOption(comm, "netwrk.site", "x"), pcclInvalidArgument);
    IS(pcclSetOption(comm, "network.site", "here"), pcclSuccess);
    IS(pcclSetOption(comm, "algorithm", "ring"), pcclSuccess);
    IS(pcclSetOption(comm, "connect_timeout_ms", "20000"), pcclSuccess);
}

static void reductions(pcclComm_t *comm) {
    pcclReduceDescriptor_t bad;
    pcclReduceOpDescriptor_t two[2];
    pcclAsyncReduceOp_t handle;
    IS(pcclAllReduce(NULL, out, &sum, comm, NULL), pcclInvalidArgument);
    IS(pcclAllReduce(in, NULL, &sum, comm, NULL), pcclInvalidArgument);
    IS(pcclAllReduce(in, out, NULL, comm, NULL), pcclInvalidArgument);
    IS(pcclAllReduce(in, out, &sum, NULL, NULL), pcclInvalidArgument);
    IS(pcclAllReduce(in, in + 4, &sum, comm, NULL), pcclInvalidArgument);
    IS(pcclAllReduceAsync(in, out, &sum, comm, NULL), pcclInvalidArgument);
    bad = sum, bad.op = (pcclRedOp_t)5;
    IS(pcclAllReduce(in, out, &bad, comm, NULL), pcclInvalidArgument);
    bad = sum, bad.src_descriptor.datatype = (pcclDataType_t)12;
    IS(pcclAllReduce(in, out, &bad, comm, NULL), pcclInvalidArgument);
    bad = sum, bad.src_descriptor.datatype = (pcclDataType_t)266;
    IS(pcclAllReduce(in, out, &bad, comm, NULL), pcclInvalidArgument);
    bad = sum, bad.quantization_options.algorithm = (pcclQuantizationAlgorithm_t)4;
    IS(pcclAllReduce(in, out, &bad, comm, NULL), pcclInvalidArgument);
    bad = sum, bad.count = 0;
    IS(pcclAllReduce(in, out, &bad, comm, NULL), pcclInvalidArgument);
    bad = sum, bad.count = (size_t)-1;
    IS(pcclAllReduce(in, out, &bad, comm, NULL), pcclInvalidArgument);
    IS(pcclAllReduce(in, out, &sum, comm, NULL), pcclTooFewPeers);
    IS(pcclAllReduceAsync(in, out, &sum, comm, &handle), pcclTooFewPeers);
    IS(pcclAwaitAsyncReduce(NULL, NULL), pcclInvalidArgument);
    two[0].sendbuf = two[0].recvbuf = in;
    two[0].descriptor = sum;
    two[1].sendbuf = two[1].recvbuf = out;
    two[1].descriptor = sum;
    IS(pcclAllReduceMultipleWithRetry(NULL, 2, comm, NULL, 1), pcclInvalidArgument);
    IS(pcclAllReduceMultipleWithRetry(two, 0, comm, NULL, 1), pcclInvalidArgument);
    IS(pcclAllReduceMultipleWithRetry(two, 1, comm, NULL, 0), pcclInvalidArgument);
    IS(pcclAllReduceMultipleWithRetry(two, 2, comm, NULL, 2), pcclInvalidArgument);
    IS(pcclAllReduceMultipleWithRetry(two, 1, comm, NULL, 2), pcclTooFewPeers);
    IS(pcclBroadcast(in, 16, pcclFloat, 7, 2, comm, NULL), pcclInvalidArgument);
    IS(pcclAllGather(in, 16, out, 4, pcclFloat, 2, comm, NULL), pcclInvalidArgument);
    IS(pcclReduceScatter(in, in, 16, pcclFloat, pcclSum, 2, comm, NULL, NULL, NULL), pcclInvalidArgument);
    IS(pcclBarrier(3, comm), pcclSuccess);
}

static void shared_state(pcclComm_t *comm) {
    pcclTensorInfo_t infos[2] = {{"a", in, 16, pcclFloat, pcclDeviceCpu, false},
                                 {"b", out, 16, pcclFloat, pcclDeviceCpu, false}};
    pcclSharedState_t state = {0, 2, NULL};
    const pcclSharedStateSyncStrategy_t popular = PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR;
    IS(pcclSynchronizeSharedState(comm, NULL, popular, NULL), pcclInvalidArgument);
    IS(pcclSynchronizeSharedState(comm, &state, popular, NULL), pcclInvalidArgument);
    state.infos = infos;
    IS(pcclSynchronizeSharedState(comm, &state, (pcclSharedStateSyncStrategy_t)7, NULL), pcclInvalidArgument);
    infos[1].name = NULL;
    IS(pcclSynchronizeSharedState(comm, &state, popular, NULL), pcclInvalidArgument);
    infos[1].name = "a";
    IS(pcclSynchronizeSharedState(comm, &state, popular, NULL), pcclInvalidArgument);
    infos[1].name = "\xff\xfe";
    IS(pcclSynchronizeSharedState(comm, &state, popular, NULL), pcclInvalidArgument);
    infos[1].name = "b", infos[1].data = NULL;
    IS(pcclSynchronizeSharedState(comm, &state, popular, NULL), pcclInvalidArgument);
    infos[1].data = out, infos[1].device_type = pcclDeviceCuda;
    IS(pcclSynchronizeSharedState(comm, &state, popular, NULL), pcclInvalidArgument);
    IS(strstr(pcclGetLastError(), "CUDA") != NULL, 1);
    infos[1].device_type = (pcclDeviceType_t)2;
    IS(pcclSynchronizeSharedState(comm, &state, popular, NULL), pcclInvalidArgument);
    infos[1].device_type = pcclDeviceCpu, infos[1].count = (size_t)1 << 62;
    IS(pcclSynchronizeSharedState(comm, &state, popular, NULL), pcclInvalidArgument);
}

static void masters(void) {
    ccoip_socket_address_t listen;
    pcclMasterInstance_t *master = NULL, *second = NULL;
    int port = 0;
    memset(&listen, 0, sizeof listen);
    IS(pcclCreateMaster(listen, NULL), pcclInvalidArgument);
    listen.inet.protocol = (ccoip_inet_protocol_t)2;
    IS(pcclCreateMaster(listen, &master), pcclInvalidArgument);
    listen.inet.protocol = inetIPv6;
    listen.inet.ipv6.data[15] = 1;
    IS(pcclCreateMaster(listen, &master), pcclSuccess);
    IS(pcclInterruptMaster(master), pcclInvalidUsage);
    IS(pcclMasterAwaitTermination(master), pcclInvalidArgument);
    IS(pcclGetMasterPort(master, &port), pcclInvalidUsage);
    IS(pcclSetMasterOption(master, "network.heartbeat_timeout_ms", "never"), pcclInvalidArgument);
    IS(pcclRunMaster(master), pcclSuccess);
    IS(pcclSetMasterOption(master, "network.heartbeat_timeout_ms", "900"), pcclInvalidUsage);
    IS(pcclRunMaster(master), pcclInvalidArgument);
    IS(pcclDestroyMaster(master), pcclInvalidUsage);
    IS(pcclGetMasterPort(master, NULL), pcclInvalidArgument);
    IS(pcclGetMasterPort(master, &port), pcclSuccess);
    listen.port = (uint16_t)port;
    IS(pcclCreateMaster(listen, &second), pcclSuccess);
    IS(pcclRunMaster(second), pcclInvalidUsage); /* the port is taken */
    IS(pcclDestroyMaster(second), pcclSuccess);
    IS(pcclConnect((pcclComm_t *)master), pcclInvalidArgument);
    IS(pcclInterruptMaster(master), pcclSuccess);
    IS(pcclInterruptMaster(master), pcclSuccess);
    IS(pcclMasterAwaitTermination(master), pcclSuccess);
    IS(pcclMasterAwaitTermination(master), pcclSuccess);
    IS(pcclRunMaster(master), pcclInvalidArgument);
    IS(pcclDestroyMaster(master), pcclSuccess);
    IS(pcclDestroyMaster(master), pcclInvalidArgument);
    IS(pcclRunMaster(NULL), pcclInvalidArgument);
}

static void *from_another_thread(void *comm) {
    int value = 0;
    if (strlen(pcclGetLastError()) != 0 || pcclGetLastErrorClass() != pcclErrorNone) return NULL;
    IS(pcclGetAttribute(comm, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &value), pcclSuccess);
    IS(pcclAllReduce(in, out, &sum, comm, NULL), pcclTooFewPeers);
    return value == 1 && pcclGetLastErrorClass() == pcclErrorRetry ? comm : NULL;
}

static void after_fork(pcclComm_t *comm) {
    int status = 1;
    pid_t child = fork();
    if (child == 0) {
        int value;
        IS(pcclGetAttribute(comm, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE, &value), pcclInvalidUsage);
        IS(pcclAllReduce(in, out, &sum, comm, NULL), pcclInvalidUsage);
        IS(pcclDestroyCommunicator(comm), pcclInvalidUsage);
        _exit(0);
    }
    if (waitpid(child, &status, 0) != child || status != 0) exit(1);
}

int main(int argc, char **argv) {
    pcclComm_t *comm, *nobody = NULL;
    pthread_t thread;
    void *fine = NULL;
    int value = 0;
    pcclBuildInfo_t build;
    if (argc != 2) return 2;
    IS(pcclUpdateTopology(NULL), pcclNotInitialized);
    IS(pcclCreateCommunicator(NULL, NULL), pcclNotInitialized);
    IS(pcclInit(), pcclSuccess);
    IS(pcclGetBuildInfo(NULL), pcclInvalidArgument);
    IS(pcclGetBuildInfo(&build), pcclSuccess);
    comm = create(atoi(argv[1]));
    IS(pcclConnect(NULL), pcclInvalidArgument);
    IS(pcclConnect((pcclComm_t *)&value), pcclInvalidArgument);
    unconnected(comm);
    options(comm);
    nobody = create(1);
    IS(pcclSetOption(nobody, "connect_timeout_ms", "200"), pcclSuccess);
    IS(pcclConnect(nobody), pcclMasterConnectionFailed);
    IS(pcclConnect(nobody), pcclMasterConnectionFailed);
    IS(pcclDestroyCommunicator(nobody), pcclSuccess);
    IS(pcclConnect(comm), pcclSuccess);
    IS(pcclConnect(comm), pcclInvalidUsage);
    IS(pcclSetOption(comm, "network.site", "there"), pcclInvalidUsage);
    IS(pcclGetAttribute(comm, (pcclAttribute_t)0, &value), pcclInvalidArgument);
    IS(pcclGetAttribute(comm, (pcclAttribute_t)5, &value), pcclInvalidArgument);
    IS(pcclGetAttribute(comm, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE, NULL), pcclInvalidArgument);
    IS(pcclArePeersPending(comm, NULL), pcclInvalidArgument);
    IS(pcclOptimizeTopology(comm), pcclInvalidUsage);
    reductions(comm);
    shared_state(comm);
    if (pthread_create(&thread, NULL, from_another_thread, comm) != 0 || pthread_join(thread, &fine) != 0) return 1;
    if (fine != comm) return 1;
    after_fork(comm);
    IS(pcclLeave(comm), pcclSuccess);
    IS(pcclLeave(comm), pcclInvalidUsage);
    IS(pcclConnect(comm), pcclSuccess);
    IS(pcclDestroyCommunicator(comm), pcclSuccess);
    IS(pcclDestroyCommunicator(comm), pcclInvalidArgument);
    IS(pcclAllReduce(in, out, &sum, comm, NULL), pcclInvalidArgument);
    IS(pcclConnect(comm), pcclInvalidArgument);
    masters();
    return 0;
}
