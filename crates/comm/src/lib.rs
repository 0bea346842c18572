//! Fault-tolerant collectives over TCP/IP: the library of a peer.
