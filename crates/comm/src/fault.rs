//! Points of an op's life and of an epoch change at which tests strike (feature `fault-points`).
//!
//! `started` (nothing sent), `first_frame` (bytes of a tensor sent), `mid_transfer` (half a tensor received), `complete`
//! (before the promise is sent), `promised` (before the verdict), `verdict` (before the call returns); `prepared` (before
//! the report is sent), `reported` (before the new epoch is heard of), `entered` (before it is acknowledged).

use pccl_proto::peer::Peer;

use crate::buffer::Buffers;
use crate::kernels::Cpu;

/// Hands the machine to whoever moves its bytes.
#[cfg(not(feature = "fault-points"))]
pub(crate) fn watched<R>(
    peer: &mut Peer<Buffers, Cpu>,
    drive: impl FnOnce(&mut Peer<Buffers, Cpu>) -> R,
) -> R {
    drive(peer)
}

/// Hands the machine, under observation, to whoever moves its bytes.
#[cfg(feature = "fault-points")]
pub(crate) fn watched<R>(
    peer: &mut Peer<Buffers, Cpu>,
    drive: impl FnOnce(&mut watch::Watched<'_>) -> R,
) -> R {
    drive(&mut watch::Watched(peer))
}

#[cfg(feature = "fault-points")]
mod watch {
    use std::net::SocketAddr;

    use pccl_net::fault::reached;
    use pccl_proto::ids::{ConnId, Time};
    use pccl_proto::machine::{Action, Closed, Machine};
    use pccl_proto::peer::Peer;

    use crate::buffer::Buffers;
    use crate::kernels::Cpu;

    /// A peer, seen before and after every call.
    pub(crate) struct Watched<'a>(pub(super) &'a mut Peer<Buffers, Cpu>);

    impl Watched<'_> {
        fn step<R>(&mut self, call: impl FnOnce(&mut Peer<Buffers, Cpu>) -> R) -> R {
            let before = self.0.progress();
            let result = call(self.0);
            let after = self.0.progress();
            let half = before.op_bytes / 2;
            if half > 0 && before.received_bytes < half && after.received_bytes >= half {
                reached("mid_transfer");
            }
            if after.done > before.done {
                reached("complete");
            }
            if after.frozen && !before.frozen {
                reached("prepared");
            }
            if after.epoch > before.epoch {
                reached("entered");
            }
            result
        }
    }

    impl Machine for Watched<'_> {
        fn handle_accepted(&mut self, now: Time, from: SocketAddr) -> Option<ConnId> {
            self.0.handle_accepted(now, from)
        }
        fn handle_connected(&mut self, now: Time, conn: ConnId) {
            self.0.handle_connected(now, conn);
        }
        fn handle_closed(&mut self, now: Time, conn: ConnId, why: Closed) {
            self.step(|peer| peer.handle_closed(now, conn, why));
        }
        fn receive_buffers(&mut self, conn: ConnId) -> [&mut [u8]; 2] {
            self.0.receive_buffers(conn)
        }
        fn handle_received(&mut self, now: Time, conn: ConnId, n: usize) {
            self.step(|peer| peer.handle_received(now, conn, n));
        }
        fn transmit_buffers<'a>(&'a mut self, conn: ConnId, out: &mut Vec<&'a [u8]>) {
            self.0.transmit_buffers(conn, out);
        }
        fn handle_transmitted(&mut self, now: Time, conn: ConnId, n: usize) {
            let control = self.0.is_control(conn);
            self.step(|peer| peer.handle_transmitted(now, conn, n));
            let progress = self.0.progress();
            if control && progress.frozen {
                reached("reported");
            } else if control && progress.done > 0 {
                reached("promised");
            } else if !control && progress.sent_bytes > 0 {
                reached("first_frame");
            }
        }
        fn handle_datagram(&mut self, now: Time, from: SocketAddr, bytes: &[u8]) {
            self.0.handle_datagram(now, from, bytes);
        }
        fn handle_timeout(&mut self, now: Time) {
            self.0.handle_timeout(now);
        }
        fn poll_timeout(&self) -> Option<Time> {
            self.0.poll_timeout()
        }
        fn poll_action(&mut self) -> Option<Action> {
            self.0.poll_action()
        }
        fn poll_writable(&mut self) -> Option<ConnId> {
            self.0.poll_writable()
        }
    }
}
