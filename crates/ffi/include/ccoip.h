/* The ports that PCCL 1.0.0 listens on by default, under the name of its header. This library's master listens where
 * it is told to, its peers on the first free port of network.p2p_ports (7118 to 7150). */
#ifndef PCCL_CCOIP_H
#define PCCL_CCOIP_H
#define CCOIP_PROTOCOL_PORT_MASTER 48148
#define CCOIP_PROTOCOL_PORT_SHARED_STATE 48149
#define CCOIP_PROTOCOL_PORT_P2P 48150
#define CCOIP_PROTOCOL_PORT_BANDWIDTH_BENCHMARK 48151
#endif
