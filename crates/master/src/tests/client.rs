//! A peer's side of the control connection, by hand.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use pccl_proto::ids::{Epoch, PeerGroup, RunId, Term};
use pccl_proto::message::{FromMaster, MasterMessage, Report, Session, ToMaster, View};
use pccl_proto::settings::{Expectations, RunSettings};
use pccl_proto::wire::{ControlStream, MAX_CONTROL_BYTES};

/// Far beyond what anything here takes; a test that waits so long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Waits for a condition.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::yield_now();
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A connection to a master.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    control: ControlStream,
    pub(crate) term: Term,
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Self { stream, control: ControlStream::new(MAX_CONTROL_BYTES), term: Term(0) }
    }

    pub(crate) fn send(&mut self, message: &ToMaster) {
        self.control.push(message);
        self.stream.write_all(self.control.transmit_buffer()).unwrap();
        self.control.handle_transmitted(self.control.queued_bytes());
    }

    /// The next message that is no ping; pings are answered.
    pub(crate) fn receive(&mut self) -> io::Result<MasterMessage> {
        loop {
            match self.control.next_message::<FromMaster>().unwrap() {
                Some(FromMaster { message: MasterMessage::Ping, .. }) => self.send(&ToMaster::Pong),
                Some(from) => {
                    self.term = from.term;
                    return Ok(from.message);
                }
                None => match self.stream.read(self.control.receive_buffer())? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    n => self.control.handle_received(n),
                },
            }
        }
    }

    /// Registers as a newcomer whose own port is `port`.
    pub(crate) fn hello(&mut self, port: u16, expects: Expectations) -> MasterMessage {
        self.send(&ToMaster::Hello {
            group: PeerGroup(0),
            addr: SocketAddr::new([0, 0, 0, 0].into(), port),
            site: "here".into(),
            ended: None,
            expects,
        });
        self.receive().unwrap()
    }

    /// Registers, and becomes the only member of the first epoch.
    pub(crate) fn join_alone(&mut self, port: u16) -> (Session, RunId, RunSettings, View) {
        let MasterMessage::Registered { session, run, settings, members: 0 } =
            self.hello(port, Expectations::default())
        else {
            panic!("not registered")
        };
        let MasterMessage::EpochChange { changes, view } = self.receive().unwrap() else {
            panic!("no epoch")
        };
        assert!(changes.is_empty());
        self.send(&ToMaster::Applied { epoch: view.epoch });
        (session, run, settings, view)
    }

    /// Attaches as a member that stands at the beginning of `epoch`.
    pub(crate) fn attach(&mut self, session: Session, term: Term, epoch: Epoch) -> MasterMessage {
        let report = Report { epoch, ..Report::default() };
        self.send(&ToMaster::Attach { group: PeerGroup(0), session, term, report, vote: None, ended: None });
        self.receive().unwrap()
    }
}
