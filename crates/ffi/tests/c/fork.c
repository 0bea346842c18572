/* Two peers: fork PORT trainer | fork PORT other. The trainer forks data loaders, which have none of its sockets and live
 * until their standard input ends, and waits to be killed; the other one waits for it in an op. */
#include <pccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <time.h>
#include <unistd.h>

static void check(int line, const char *what, int ok) {
    if (!ok) {
        fprintf(stderr, "line %d: not so: %s; last error: %s\n", line, what, pcclGetLastError());
        exit(1);
    }
}
#define CHECK(x) check(__LINE__, #x, (x))

static int sockets(void) {
    DIR *open = opendir("/proc/self/fd");
    struct dirent *one;
    int found = 0;
    CHECK(open != NULL);
    while ((one = readdir(open)) != NULL) {
        char path[300], target[64] = "";
        snprintf(path, sizeof path, "/proc/self/fd/%s", one->d_name);
        if (readlink(path, target, sizeof target - 1) > 0 && strncmp(target, "socket:", 7) == 0) found++;
    }
    closedir(open);
    return found;
}

static void meet(pcclComm_t *comm) {
    int world = 0;
    while (pcclGetAttribute(comm, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE, &world) == pcclSuccess && world < 2) {
        struct timespec ms = {0, 5000000};
        bool pending = false;
        CHECK(pcclArePeersPending(comm, &pending) == pcclSuccess);
        if (pending) CHECK(pcclUpdateTopology(comm) == pcclSuccess);
        else nanosleep(&ms, NULL);
    }
    CHECK(world == 2);
}

static void data_loader(pcclComm_t *comm) {
    char byte;
    int world = 0;
    CHECK(sockets() == 0);
    CHECK(pcclGetAttribute(comm, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE, &world) == pcclInvalidUsage);
    CHECK(pcclUpdateTopology(comm) == pcclInvalidUsage);
    CHECK(pcclDestroyCommunicator(comm) == pcclInvalidUsage);
    printf("loading\n");
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {
    }
    _exit(0);
}

int main(int argc, char **argv) {
    pcclCommCreateParams_t params;
    pcclReduceDescriptor_t sum = {4, pcclSum, 1, {pcclFloat, pcclDistributionNone}, {pcclFloat, pcclQuantNone}};
    pcclComm_t *comm = NULL;
    float x[4] = {1, 2, 3, 4};
    if (argc != 3) return 2;
    memset(&params, 0, sizeof params);
    params.master_address.inet.ipv4.data[0] = 127;
    params.master_address.inet.ipv4.data[3] = 1;
    params.master_address.port = (uint16_t)atoi(argv[1]);
    CHECK(pcclInit() == pcclSuccess && pcclCreateCommunicator(&params, &comm) == pcclSuccess);
    CHECK(pcclConnect(comm) == pcclSuccess);
    meet(comm);
    CHECK(pcclAllReduce(x, x, &sum, comm, NULL) == pcclSuccess && x[3] == 8);
    CHECK(sockets() > 0);
    if (strcmp(argv[2], "trainer") == 0) {
        for (int i = 0; i < 3; i++) {
            pid_t child = fork();
            CHECK(child >= 0);
            if (child == 0) data_loader(comm);
        }
        pause();
        return 1;
    }
    /* Whoever calls only after the news is alone, and has its own sum. */
    pcclResult_t result = pcclAllReduce(x, x, &sum, comm, NULL);
    int world = 0;
    CHECK(pcclGetAttribute(comm, PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE, &world) == pcclSuccess && world == 1);
    CHECK((result == pcclRankConnectionLost || result == pcclSuccess) && x[3] == 8);
    printf("lost\n");
    CHECK(pcclDestroyCommunicator(comm) == pcclSuccess);
    return 0;
}
