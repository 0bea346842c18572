/* What a program that was compiled against PCCL 1.0.0's own header has in it: the numbers and layouts, declared here
 * once more, without our pccl.h. The library must run such a program. */
#ifndef FACTS_H
#define FACTS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 3, TOO_FEW_PEERS = 5, RANK_CONNECTION_LOST = 8 };
enum { UINT8 = 0, FLOAT32 = 10, FLOAT64 = 11 };
enum { SUM = 0, AVG = 1, MAX = 3 };
enum { GLOBAL_WORLD_SIZE = 1, GROUP_WORLD_SIZE = 2, GROUPS = 3, LARGEST_GROUP = 4 };

struct address {
    int protocol;
    unsigned char v4[4];
    unsigned char v6[16];
    uint16_t port;
};
struct params {
    struct address master;
    uint32_t group;
    uint32_t connections;
};
struct reduce_info {
    uint32_t world;
    uint64_t sent, received;
};
struct reduction {
    size_t count;
    int op;
    uint64_t tag;
    int datatype, hint;
    int quantized, algorithm;
};
struct one_of_many {
    void *send, *receive;
    struct reduction reduction;
};
struct handle {
    void *comm;
    uint64_t tag;
};
struct tensor {
    const char *name;
    void *data;
    size_t count;
    int datatype, device;
    bool may_differ;
};
struct state {
    uint64_t revision;
    size_t count;
    struct tensor *tensors;
};
struct sync_info {
    uint64_t sent, received;
};

int pcclInit(void);
int pcclCreateCommunicator(const struct params *, void **);
int pcclConnect(void *);
int pcclDestroyCommunicator(void *);
int pcclGetAttribute(const void *, int, int *);
int pcclArePeersPending(const void *, bool *);
int pcclUpdateTopology(void *);
int pcclOptimizeTopology(const void *);
int pcclAllReduce(const void *, void *, const struct reduction *, const void *, struct reduce_info *);
int pcclAllReduceAsync(const void *, void *, const struct reduction *, const void *, struct handle *);
int pcclAwaitAsyncReduce(const struct handle *, struct reduce_info *);
int pcclAllReduceMultipleWithRetry(const struct one_of_many *, size_t, const void *, struct reduce_info *, int);
int pcclSynchronizeSharedState(const void *, struct state *, int, struct sync_info *);
int pcclCreateMaster(struct address, void **);
int pcclRunMaster(void *);
int pcclInterruptMaster(void *);
int pcclMasterAwaitTermination(void *);
int pcclDestroyMaster(void *);
#endif
