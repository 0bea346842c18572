/* Two peers or more average a vector. Start a master (`pccl master --listen 127.0.0.1:7117`), then twice or more:
 *     cc -std=c99 all_reduce.c $(pkg-config --cflags --libs pccl) -o all_reduce && ./all_reduce 7117
 */
#define _POSIX_C_SOURCE 200809L
#include <pccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COUNT 1024
#define TRY(call)                                              \
    do {                                                       \
        if ((call) != pcclSuccess) {                           \
            fprintf(stderr, "%s\n", pcclGetLastError());       \
            return EXIT_FAILURE;                               \
        }                                                      \
    } while (0)

int main(int argc, char **argv) {
    static float values[COUNT];
    pcclCommCreateParams_t params;
    pcclReduceDescriptor_t average;
    pcclReduceInfo_t info;
    pcclResult_t result;
    pcclComm_t *comm;
    int world = 0;

    memset(&params, 0, sizeof params);
    params.master_address.inet.protocol = inetIPv4;
    params.master_address.inet.ipv4.data[0] = 127;
    params.master_address.inet.ipv4.data[3] = 1;
    params.master_address.port = (uint16_t)(argc > 1 ? atoi(argv[1]) : 7117);
    TRY(pcclInit());
    TRY(pcclCreateCommunicator(&params, &comm));
    TRY(pcclConnect(comm));
    TRY(pcclGetAttribute(comm, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &world));
    while (world < 2) {
        struct timespec tenth = {0, 100000000};
        nanosleep(&tenth, NULL);
        /* Newcomers come in here and nowhere else: every member calls it. */
        TRY(pcclUpdateTopology(comm));
        TRY(pcclGetAttribute(comm, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &world));
    }

    for (int i = 0; i < COUNT; i++) values[i] = (float)i;
    memset(&average, 0, sizeof average);
    average.count = COUNT;
    average.op = pcclAvg;
    average.tag = 1;
    average.src_descriptor.datatype = pcclFloat;
    average.quantization_options.algorithm = pcclQuantNone;
    do {
        /* A peer was lost: the input is as it was, and the others call again too. */
        result = pcclAllReduce(values, values, &average, comm, &info);
    } while (result == pcclRankConnectionLost && pcclGetLastErrorClass() == pcclErrorRetry);
    if (result != pcclSuccess) {
        fprintf(stderr, "%s\n", pcclGetLastError());
        return EXIT_FAILURE;
    }
    printf("averaged over %u peers: the last is %g\n", (unsigned)info.local_world_size, (double)values[COUNT - 1]);
    TRY(pcclLeave(comm));
    TRY(pcclDestroyCommunicator(comm));
    return EXIT_SUCCESS;
}
