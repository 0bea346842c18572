// One peer of Gloo's all-reduce over TCP on loopback, ring or bcube.
//
//   gloo_allreduce --algorithm ring|bcube --store DIR --rank R --peers N --bytes B --seconds S --timeout-s T
//
// The peers find each other through files in DIR, which must be empty and their own.

#include <chrono>
#include <cstring>
#include <exception>
#include <memory>

#include <gloo/allreduce.h>
#include <gloo/math.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>

#include "anchor.h"

namespace {

using Algorithm = gloo::AllreduceOptions::Algorithm;

struct Peer {
    std::shared_ptr<gloo::rendezvous::Context> context;
    Algorithm algorithm;
};

void add(void *out, const void *left, const void *right, size_t count) {
    gloo::sum<float>(out, left, right, count);
}

int allreduce(void *context, const float *input, float *output, size_t count) {
    const auto *peer = static_cast<const Peer *>(context);
    gloo::AllreduceOptions options(peer->context);
    options.setAlgorithm(peer->algorithm);
    options.setInput(const_cast<float *>(input), count);
    options.setOutput(output, count);
    options.setReduceFunction(add);
    gloo::allreduce(options);
    return 0;
}

void run(int argc, char **argv) {
    const char *name = anchor_text(argc, argv, "--algorithm");
    const bool bcube = std::strcmp(name, "bcube") == 0;
    struct anchor a;
    anchor_parse(&a, argc, argv, bcube ? "bcube" : "ring");
    a.rank = static_cast<unsigned>(anchor_number(argc, argv, "--rank"));
    a.peers = static_cast<unsigned>(anchor_number(argc, argv, "--peers"));

    gloo::transport::tcp::attr loopback("127.0.0.1");
    auto device = gloo::transport::tcp::CreateDevice(loopback);
    gloo::rendezvous::FileStore store(anchor_text(argc, argv, "--store"));
    const auto rank = static_cast<int>(a.rank), size = static_cast<int>(a.peers);
    const auto timeout = static_cast<long>(anchor_number(argc, argv, "--timeout-s"));
    Peer peer;
    peer.context = std::make_shared<gloo::rendezvous::Context>(rank, size);
    peer.context->setTimeout(std::chrono::seconds(timeout));
    peer.context->connectFullMesh(store, device);
    peer.algorithm = bcube ? Algorithm::BCUBE : Algorithm::RING;
    anchor_measure(&a, allreduce, &peer);
}

}  // namespace

int main(int argc, char **argv) {
    try {
        run(argc, argv);
    } catch (const std::exception &e) {
        anchor_die("Gloo", e.what());
    }
    return 0;
}
