//! Points of an op's life and of an epoch change at which tests strike (feature `fault-points`).
//!
//! `done_received` (a promise, not the last one), `all_promised` (before *committed* is sent), `committed_some` (sent to
//! one); `collecting` (reports are asked for), `decided` (before the write), `written` (before anybody is told),
//! `told_some` (one has been told).

#[cfg(not(feature = "fault-points"))]
pub(super) use idle::{Watch, happened, watched};
#[cfg(feature = "fault-points")]
pub(super) use watch::{Watch, happened, watched};

#[cfg(not(feature = "fault-points"))]
mod idle {
    use pccl_proto::master::{Master, MasterEvent};
    use pccl_proto::record::StoreReply;

    #[derive(Default)]
    pub(in crate::server) struct Watch {}

    impl Watch {
        #[expect(clippy::unused_self, reason = "with fault points it has something to remember")]
        pub(in crate::server) fn replied(&mut self, _reply: &StoreReply) {}
    }

    pub(in crate::server) fn happened(_event: &MasterEvent) {}

    pub(in crate::server) fn watched<R>(
        master: &mut Master,
        _watch: &mut Watch,
        drive: impl FnOnce(&mut Master) -> R,
    ) -> R {
        drive(master)
    }
}

#[cfg(feature = "fault-points")]
mod watch {
    use std::net::SocketAddr;

    use pccl_net::fault::reached;
    use pccl_proto::ids::{ConnId, Time};
    use pccl_proto::machine::{Action, Closed, Machine, Permit};
    use pccl_proto::master::{Master, MasterEvent};
    use pccl_proto::record::{StoreReply, StoreRequest};

    /// What is being told.
    #[derive(Default)]
    pub(in crate::server) struct Watch {
        telling: Option<&'static str>,
    }

    impl Watch {
        pub(in crate::server) fn replied(&mut self, reply: &StoreReply) {
            if matches!(reply, StoreReply::Written { .. }) {
                reached("written");
                self.telling = Some("told_some");
            }
        }
    }

    pub(in crate::server) fn happened(event: &MasterEvent) {
        if matches!(event, MasterEvent::ChangeBegins { .. }) {
            reached("collecting");
        }
    }

    pub(in crate::server) fn watched<R>(
        master: &mut Master,
        watch: &mut Watch,
        drive: impl FnOnce(&mut Watched<'_>) -> R,
    ) -> R {
        drive(&mut Watched { master, watch })
    }

    /// A master, seen before and after what it hears and says.
    pub(in crate::server) struct Watched<'a> {
        master: &'a mut Master,
        watch: &'a mut Watch,
    }

    impl Machine for Watched<'_> {
        fn handle_accepted(&mut self, now: Time, from: SocketAddr) -> Option<ConnId> {
            self.master.handle_accepted(now, from)
        }
        fn handle_permit(&mut self, conn: ConnId, permit: Permit) {
            self.master.handle_permit(conn, permit);
        }
        fn handle_connected(&mut self, now: Time, conn: ConnId) {
            self.master.handle_connected(now, conn);
        }
        fn handle_closed(&mut self, now: Time, conn: ConnId, why: Closed) {
            self.master.handle_closed(now, conn, why);
        }
        fn receive_buffers(&mut self, conn: ConnId) -> [&mut [u8]; 2] {
            self.master.receive_buffers(conn)
        }
        fn handle_received(&mut self, now: Time, conn: ConnId, n: usize) {
            let before = self.master.promises();
            self.master.handle_received(now, conn, n);
            let after = self.master.promises();
            if after.1 > before.1 {
                reached("all_promised");
                self.watch.telling = Some("committed_some");
            } else if after.0 > before.0 {
                reached("done_received");
            }
        }
        fn transmit_buffers<'a>(&'a mut self, conn: ConnId, out: &mut Vec<&'a [u8]>) {
            self.master.transmit_buffers(conn, out);
        }
        fn handle_transmitted(&mut self, now: Time, conn: ConnId, n: usize) {
            self.master.handle_transmitted(now, conn, n);
            if let Some(point) = self.watch.telling.take() {
                reached(point);
            }
        }
        fn handle_datagram(&mut self, now: Time, from: SocketAddr, bytes: &[u8]) {
            self.master.handle_datagram(now, from, bytes);
        }
        fn handle_timeout(&mut self, now: Time) {
            self.master.handle_timeout(now);
        }
        fn poll_timeout(&self) -> Option<Time> {
            self.master.poll_timeout()
        }
        fn poll_action(&mut self) -> Option<Action> {
            let action = self.master.poll_action();
            if let Some(Action::Store(StoreRequest::Write { .. })) = &action {
                reached("decided");
            }
            action
        }
        fn poll_writable(&mut self) -> Option<ConnId> {
            self.master.poll_writable()
        }
    }
}
