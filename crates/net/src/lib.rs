//! Sockets and timers: drives the pure state machines of pccl-proto.
