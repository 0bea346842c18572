// Peers make their weights equal: those of the first one win. Start a master, then twice or more:
//     c++ -std=c++11 shared_state.cpp $(pkg-config --cflags --libs pccl) -o shared_state && ./shared_state 7117
#include <pccl.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

void check(pcclResult_t result) {
    if (result != pcclSuccess) throw std::runtime_error(pcclGetLastError());
}

class Peer {
public:
    explicit Peer(std::uint16_t port) {
        pcclCommCreateParams_t params{};
        params.master_address.inet.protocol = inetIPv4;
        params.master_address.inet.ipv4 = {{127, 0, 0, 1}};
        params.master_address.port = port;
        check(pcclInit());
        check(pcclCreateCommunicator(&params, &comm_));
        check(pcclConnect(comm_));
    }
    Peer(const Peer &) = delete;
    Peer &operator=(const Peer &) = delete;
    ~Peer() { pcclDestroyCommunicator(comm_); }

    int world() const {
        int world = 0;
        check(pcclGetAttribute(comm_, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE, &world));
        return world;
    }
    void meet(int wanted) {
        while (world() < wanted) {
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
            check(pcclUpdateTopology(comm_));
        }
    }
    std::uint64_t synchronize(std::vector<double> &weights, std::uint64_t revision) {
        pcclTensorInfo_t tensor{"weights", weights.data(), weights.size(), pcclDouble, pcclDeviceCpu, false};
        pcclSharedState_t state{revision, 1, &tensor};
        check(pcclSynchronizeSharedState(comm_, &state, PCCL_SHARED_STATE_SYNC_STRATEGY_ENFORCE_POPULAR, nullptr));
        return state.revision;
    }

private:
    pcclComm_t *comm_ = nullptr;
};

}  // namespace

int main(int argc, char **argv) try {
    Peer peer(static_cast<std::uint16_t>(argc > 1 ? std::atoi(argv[1]) : 7117));
    // The one that was there first begins alone.
    std::vector<double> weights(1000, peer.world() == 1 ? 1.0 : 0.0);
    peer.meet(2);
    std::uint64_t revision = peer.synchronize(weights, 1);
    std::cout << "revision " << revision << ", the last weight is " << weights.back() << '\n';
    return EXIT_SUCCESS;
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return EXIT_FAILURE;
}
