/* A peer of a fleet of N, as a program for PCCL 1.0.0 would be: fleet PORT INDEX N. It reduces until a peer has been
 * missing for three steps, and checks every element, and after every op that was cut that its input is as it was. */
#include "facts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COUNT 100003
#define MANY 6

static int peers, me;

static void check(int line, const char *what, int ok) {
    if (!ok) {
        fprintf(stderr, "peer %d, line %d: not so: %s\n", me, line, what);
        exit(1);
    }
}
#define CHECK(x) check(__LINE__, #x, (x))

static void nap(void) {
    struct timespec ms = {0, 5000000};
    nanosleep(&ms, NULL);
}

static int attribute(void *comm, int which) {
    int value = -1;
    CHECK(pcclGetAttribute(comm, which, &value) == SUCCESS);
    return value;
}

static void fill(float *x, int salt) {
    for (size_t i = 0; i < COUNT; i++) x[i] = (float)((me + 1) * (int)(i % 7 + 1) + salt);
}

/* What the sum must be if so many took part: the last of the N is the one that goes. */
static void expect(const float *x, int salt, uint32_t world) {
    long sum = 0;
    CHECK(world == (uint32_t)peers || world == (uint32_t)peers - 1);
    for (uint32_t p = 0; p < world; p++) sum += p + 1;
    for (size_t i = 0; i < COUNT; i++) {
        float wanted = (float)(sum * (long)(i % 7 + 1) + (long)world * salt);
        if (x[i] != wanted) fprintf(stderr, "[%zu] is %g, wanted %g\n", i, (double)x[i], (double)wanted);
        CHECK(x[i] == wanted);
    }
}

static struct reduction sum_of(uint64_t tag) {
    struct reduction r;
    /* Fields that PCCL does not read need not be set to anything. */
    memset(&r, 0xee, sizeof r);
    r.count = COUNT;
    r.op = SUM;
    r.tag = tag;
    r.datatype = FLOAT32;
    r.algorithm = 0;
    return r;
}

static void meet(void *comm) {
    while (attribute(comm, GLOBAL_WORLD_SIZE) < peers) {
        bool pending = false;
        CHECK(pcclArePeersPending(comm, &pending) == SUCCESS);
        if (pending) CHECK(pcclUpdateTopology(comm) == SUCCESS);
        else nap();
    }
    CHECK(attribute(comm, GROUP_WORLD_SIZE) == peers);
    CHECK(attribute(comm, GROUPS) == 1 && attribute(comm, LARGEST_GROUP) == peers);
    CHECK(pcclOptimizeTopology(comm) == SUCCESS);
}

static void synchronize(void *comm, double *weights, uint64_t revision) {
    struct tensor tensors[2] = {{"weights", weights, 1000, FLOAT64, 0, false}, {"tied", weights, 1000, FLOAT64, 0, false}};
    struct state state = {revision, 2, tensors};
    struct sync_info info = {77, 77};
    for (int i = 0; i < 1000; i++) weights[i] = me == 0 ? 0.5 : 0.25 * i;
    CHECK(pcclSynchronizeSharedState(comm, &state, me == 0 ? 1 : 2, &info) == SUCCESS);
    CHECK(state.revision == revision && weights[999] == 0.25 * 999);
    CHECK((info.received > 0) == (me == 0));
}

static uint32_t blocking(void *comm, float *x, float *before) {
    struct reduction r = sum_of(1);
    struct reduce_info info = {0, 0, 0};
    int ended;
    fill(x, 0);
    memcpy(before, x, COUNT * sizeof *x);
    while ((ended = pcclAllReduce(x, x, &r, comm, &info)) == RANK_CONNECTION_LOST) {
        CHECK(memcmp(before, x, COUNT * sizeof *x) == 0);
        printf("cut\n");
    }
    CHECK(ended == SUCCESS);
    expect(x, 0, info.world);
    CHECK(info.sent > 0 && info.received > 0);
    return info.world;
}

/* Eight bits for each value: off by a step of the range of each contribution, and of the sum, at most. */
static void quantized(void *comm, float *in, float *out) {
    for (int algorithm = 1; algorithm <= 2; algorithm++) {
        struct reduction r = sum_of(2);
        struct reduce_info info = {0, 0, 0};
        int ended;
        r.quantized = UINT8;
        r.algorithm = algorithm;
        fill(in, 0);
        while ((ended = pcclAllReduce(in, out, &r, comm, &info)) == RANK_CONNECTION_LOST) printf("cut\n");
        CHECK(ended == SUCCESS);
        int sum = (int)(info.world * (info.world + 1) / 2);
        for (size_t i = 0; i < COUNT; i++) CHECK(fabsf(out[i] - (float)(sum * (int)(i % 7 + 1))) <= 2 * 7 * sum / 255.0f);
        CHECK(info.sent < COUNT * sizeof *in);
        r.quantized = FLOAT32;
        CHECK(pcclAllReduce(in, out, &r, comm, &info) == INVALID_ARGUMENT);
    }
}

static void asynchronous(void *comm, float *in[], float *out[]) {
    struct handle handles[MANY];
    struct reduction r[MANY];
    for (int k = 0; k < MANY; k++) {
        fill(in[k], k);
        r[k] = sum_of(10 + (uint64_t)k);
        CHECK(pcclAllReduceAsync(in[k], out[k], &r[k], comm, &handles[k]) == SUCCESS);
    }
    for (int k = 0; k < MANY; k++) {
        struct reduce_info info = {0, 0, 0};
        int ended;
        while ((ended = pcclAwaitAsyncReduce(&handles[k], &info)) == RANK_CONNECTION_LOST) {
            CHECK(pcclAllReduceAsync(in[k], out[k], &r[k], comm, &handles[k]) == SUCCESS);
        }
        CHECK(ended == SUCCESS);
        expect(out[k], k, info.world);
    }
}

static void many(void *comm, float *in[]) {
    struct one_of_many ops[MANY];
    struct reduce_info info = {0, 0, 0};
    for (int k = 0; k < MANY; k++) {
        fill(in[k], k);
        ops[k].send = in[k];
        ops[k].receive = in[k];
        ops[k].reduction = sum_of(30 + (uint64_t)k);
    }
    CHECK(pcclAllReduceMultipleWithRetry(ops, MANY, comm, &info, 3) == SUCCESS);
    CHECK(info.world >= (uint32_t)peers - 1);
    for (int k = 0; k < MANY; k++) {
        /* Each op has a world of its own: tell it by the first element. */
        long full = 0;
        for (int p = 0; p < peers; p++) full += p + 1;
        expect(in[k], k, in[k][0] == (float)(full + (long)peers * k) ? (uint32_t)peers : (uint32_t)peers - 1);
    }
}

int main(int argc, char **argv) {
    struct params params;
    double weights[1000];
    float *x[MANY], *y[MANY], *before = malloc(COUNT * sizeof(float));
    void *comm = NULL;
    int missing = 0;
    if (argc != 4) return 2;
    memset(&params, 0, sizeof params);
    params.master.v4[0] = 127;
    params.master.v4[3] = 1;
    params.master.port = (uint16_t)atoi(argv[1]);
    me = atoi(argv[2]);
    peers = atoi(argv[3]);
    for (int k = 0; k < MANY; k++) {
        x[k] = malloc(COUNT * sizeof(float));
        y[k] = malloc(COUNT * sizeof(float));
    }
    CHECK(pcclInit() == SUCCESS && pcclInit() == SUCCESS);
    CHECK(pcclCreateCommunicator(&params, &comm) == SUCCESS);
    CHECK(pcclConnect(comm) == SUCCESS);
    meet(comm);
    synchronize(comm, weights, 40);
    for (int step = 0; missing < 3; step++) {
        missing += blocking(comm, x[0], before) < (uint32_t)peers;
        quantized(comm, x[0], y[0]);
        asynchronous(comm, x, y);
        many(comm, x);
        printf("step %d\n", step);
        fflush(stdout);
    }
    CHECK(pcclDestroyCommunicator(comm) == SUCCESS);
    printf("done\n");
    return 0;
}
