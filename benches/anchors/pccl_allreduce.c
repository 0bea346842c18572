/* The master, or one peer, of an all-reduce through any library with PCCL's C API.
 *
 *   pccl_allreduce --role master --library libpccl.so --port P --timeout-s T
 *   pccl_allreduce --role peer --library libpccl.so --port P --timeout-s T
 *                  --rank R --peers N --bytes B --seconds S
 *
 * Both print a line when they are ready: "ready" (the master listens), "joined" (the peer is
 * accepted). The master ends when its standard input does. The library is opened at run time, and
 * the part of its interface used here is declared here, so nothing of it is needed to build this.
 */
#include <dlfcn.h>
#include <stdbool.h>

#include "anchor.h"

enum { SUCCESS = 0, SUM = 0, FLOAT = 10, WORLD_SIZE = 1, IPV4 = 0 };

struct socket_address {
    struct {
        int protocol;
        uint8_t ipv4[4];
        uint8_t ipv6[16];
    } inet;
    uint16_t port;
};

struct comm_params {
    struct socket_address master;
    uint32_t peer_group;
    uint32_t connection_pool_size;
};

struct reduce_descriptor {
    size_t count;
    int op;
    uint64_t tag;
    struct {
        int datatype;
        int distribution_hint;
    } source;
    struct {
        int datatype;
        int algorithm;
    } quantization;
};

struct reduce_info {
    uint32_t world_size;
    uint64_t tx_bytes;
    uint64_t rx_bytes;
};

_Static_assert(sizeof(struct socket_address) == 28, "as the library's ABI has it");
_Static_assert(sizeof(struct comm_params) == 36, "as the library's ABI has it");
_Static_assert(sizeof(struct reduce_descriptor) == 40, "as the library's ABI has it");
_Static_assert(sizeof(struct reduce_info) == 24, "as the library's ABI has it");

/* The functions used, with the library's symbol names. */
struct library {
    int (*init)(void);
    int (*create_communicator)(const struct comm_params *, void **);
    int (*connect)(void *);
    int (*update_topology)(void *);
    int (*get_attribute)(const void *, int, int *);
    int (*all_reduce)(const void *, void *, const struct reduce_descriptor *, const void *,
                      struct reduce_info *);
    int (*destroy_communicator)(void *);
    int (*create_master)(struct socket_address, void **);
    int (*run_master)(void *);
    int (*interrupt_master)(void *);
    int (*await_master)(void *);
    int (*destroy_master)(void *);
};

static void bind(void *handle, const char *symbol, void *function) {
    void *address = dlsym(handle, symbol);
    if (address == NULL) {
        anchor_die(symbol, "the library does not export this function: is it a libpccl.so?");
    }
    memcpy(function, &address, sizeof address);
}

static struct library open_library(const char *path) {
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        anchor_die("the library cannot be opened", dlerror());
    }
    struct library l;
    bind(handle, "pcclInit", &l.init);
    bind(handle, "pcclCreateCommunicator", &l.create_communicator);
    bind(handle, "pcclConnect", &l.connect);
    bind(handle, "pcclUpdateTopology", &l.update_topology);
    bind(handle, "pcclGetAttribute", &l.get_attribute);
    bind(handle, "pcclAllReduce", &l.all_reduce);
    bind(handle, "pcclDestroyCommunicator", &l.destroy_communicator);
    bind(handle, "pcclCreateMaster", &l.create_master);
    bind(handle, "pcclRunMaster", &l.run_master);
    bind(handle, "pcclInterruptMaster", &l.interrupt_master);
    bind(handle, "pcclMasterAwaitTermination", &l.await_master);
    bind(handle, "pcclDestroyMaster", &l.destroy_master);
    return l;
}

static void check(int result, const char *call) {
    if (result != SUCCESS) {
        char why[64];
        snprintf(why, sizeof why, "failed with result code %d", result);
        anchor_die(call, why);
    }
}

static struct socket_address loopback(uint16_t port) {
    struct socket_address address;
    memset(&address, 0, sizeof address);
    address.inet.protocol = IPV4;
    address.inet.ipv4[0] = 127;
    address.inet.ipv4[3] = 1;
    address.port = port;
    return address;
}

static void say(const char *line) {
    printf("%s\n", line);
    fflush(stdout);
}

static void run_master(const struct library *l, uint16_t port) {
    void *master = NULL;
    check(l->create_master(loopback(port), &master), "pcclCreateMaster");
    check(l->run_master(master), "pcclRunMaster");
    say("ready");
    while (getchar() != EOF) {
    }
    check(l->interrupt_master(master), "pcclInterruptMaster");
    check(l->await_master(master), "pcclMasterAwaitTermination");
    check(l->destroy_master(master), "pcclDestroyMaster");
}

struct peer {
    const struct library *library;
    void *communicator;
    uint64_t tag;
};

static int allreduce(void *context, const float *input, float *output, size_t count) {
    struct peer *p = (struct peer *)context;
    struct reduce_descriptor d;
    memset(&d, 0, sizeof d);
    d.count = count;
    d.op = SUM;
    d.tag = p->tag++;
    d.source.datatype = FLOAT;
    d.quantization.datatype = FLOAT;
    struct reduce_info info;
    check(p->library->all_reduce(input, output, &d, p->communicator, &info), "pcclAllReduce");
    return 0;
}

/* Every member votes until all newcomers are in; a newcomer waits in pcclConnect for those votes. */
static void join(struct peer *p, uint16_t port, unsigned peers) {
    struct comm_params params;
    memset(&params, 0, sizeof params);
    params.master = loopback(port);
    params.connection_pool_size = 1;
    check(p->library->create_communicator(&params, &p->communicator), "pcclCreateCommunicator");
    check(p->library->connect(p->communicator), "pcclConnect");
    say("joined");
    int world = 0;
    for (;;) {
        check(p->library->get_attribute(p->communicator, WORLD_SIZE, &world), "pcclGetAttribute");
        if (world >= (int)peers) {
            return;
        }
        check(p->library->update_topology(p->communicator), "pcclUpdateTopology");
        usleep(1000);
    }
}

int main(int argc, char **argv) {
    anchor_guard(argc, argv);
    const char *role = anchor_text(argc, argv, "--role");
    struct library l = open_library(anchor_text(argc, argv, "--library"));
    uint16_t port = (uint16_t)anchor_number(argc, argv, "--port");
    check(l.init(), "pcclInit");
    if (strcmp(role, "master") == 0) {
        run_master(&l, port);
        return 0;
    }
    struct anchor a;
    anchor_parse(&a, argc, argv, "libpccl");
    a.rank = (unsigned)anchor_number(argc, argv, "--rank");
    a.peers = (unsigned)anchor_number(argc, argv, "--peers");
    struct peer p = {&l, NULL, 0};
    join(&p, port, a.peers);
    anchor_measure(&a, allreduce, &p);
    check(l.destroy_communicator(p.communicator), "pcclDestroyCommunicator");
    return 0;
}
