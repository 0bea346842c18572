//! Start, work, end, and start again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pccl_observe::Metrics;
use pccl_proto::ids::{RunId, SessionId, Term};
use pccl_proto::message::{Command, Heartbeat, MasterMessage, Refusal, Role, ToMaster};
use pccl_proto::record::{Removal, StoreReply, StoreRequest};
use pccl_proto::settings::{Expectations, RunSettings};
use pccl_proto::wire::{Kind, Prefix};

use super::client::{Client, LONG, until};
use super::{embedded, options, start};
use crate::store::conformance::take_term;
use crate::{
    EndError, MemoryStore, Server, ServerError, ServerOptions, StateStore, StatusError, StoreError,
    query_status, send_command,
};

/// Somebody who listens, so that the master's probes find a living process.
fn living() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn a_peer_registers_becomes_a_member_and_is_seen() {
    let metrics = Metrics::new();
    let settings = RunSettings { max_recovery_attempts: 7, ..RunSettings::default() };
    let server = Server::start(ServerOptions {
        settings: settings.clone(),
        metrics: Some(metrics.clone()),
        ..options()
    })
    .unwrap();
    let (_listener, port) = living();
    let mut peer = Client::connect(server.addr());
    let (session, run, heard, view) = peer.join_alone(port);
    assert_eq!((peer.term, heard), (Term(1), settings));
    assert_eq!(view.members.len(), 1);
    assert_eq!(view.members[0].session, session.id);
    assert_eq!(view.members[0].addr, SocketAddr::new([127, 0, 0, 1].into(), port));
    for status in [server.status(), query_status(server.addr(), LONG, None).unwrap()] {
        assert_eq!(status.run, format!("{:032x}", run.0));
        assert_eq!((status.term, status.groups.len()), (1, 1));
        assert_eq!(status.groups[0].peers[0].state, "member");
        assert_eq!(status.groups[0].peers[0].rank, Some(0));
    }
    until("the metric", || metrics.render().contains("pccl_peer_count 1\n"));
}

#[test]
fn two_masters_have_different_runs() {
    assert_ne!(start().status().run, start().status().run);
}

#[test]
fn a_peer_whose_configuration_contradicts_is_refused() {
    let server = start();
    let expects = Expectations { heartbeat_timeout_ms: Some(1), ..Expectations::default() };
    let mut peer = Client::connect(server.addr());
    let answer = peer.hello(1, expects);
    let MasterMessage::Refused { why: Refusal::Settings(d) } = answer else { panic!("{answer:?}") };
    assert_eq!((d.key.as_str(), d.run.as_str(), d.peer.as_str()), ("heartbeat_timeout_ms", "500", "1"));
    assert!(peer.receive().is_err(), "the connection is still open");
}

#[test]
fn heartbeats_are_answered_on_the_same_port() {
    let server = start();
    let (_listener, port) = living();
    let mut peer = Client::connect(server.addr());
    let (session, run, ..) = peer.join_alone(port);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(server.addr()).unwrap();
    udp.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let beat = Heartbeat { magic: Heartbeat::MAGIC, run, session: session.id, term: Term(1), sequence: 42 };
    let mut answer = [0; 1500];
    until("an answer to a heartbeat", || {
        udp.send(&beat.encode()).unwrap();
        udp.recv(&mut answer).is_ok_and(|n| Heartbeat::decode(&answer[..n]) == Some(beat))
    });
}

#[test]
fn after_a_restart_on_the_same_file_and_port_the_member_attaches_in_a_new_term() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(embedded(dir.path())).unwrap();
    let addr = server.addr();
    let (_listener, port) = living();
    let mut peer = Client::connect(addr);
    let (session, run, _, view) = peer.join_alone(port);
    server.stop();
    assert_eq!(server.wait(), Ok(()));
    assert_eq!(server.status().groups[0].peers.len(), 1);
    drop(peer);

    let server = Server::start(ServerOptions { listen: addr, ..embedded(dir.path()) }).unwrap();
    let status = server.status();
    assert_eq!((status.term, status.run), (2, format!("{:032x}", run.0)));
    assert_eq!(status.groups[0].peers[0].state, "member, not attached");
    assert_eq!(status.groups[0].epoch, view.epoch.0);
    let mut peer = Client::connect(addr);
    let answer = peer.attach(session, Term(1), view.epoch);
    assert!(matches!(answer, MasterMessage::Attached { .. }), "{answer:?}");
    assert_eq!(peer.term, Term(2));
    until("an attached member", || server.status().groups[0].peers[0].state == "member");
}

#[test]
fn without_a_store_a_restarted_master_knows_nobody() {
    let server = start();
    let (_listener, port) = living();
    let mut peer = Client::connect(server.addr());
    let (session, _, _, view) = peer.join_alone(port);
    drop(server);
    let server = start();
    let answer = Client::connect(server.addr()).attach(session, Term(1), view.epoch);
    assert_eq!(answer, MasterMessage::Expelled { why: Removal::Forgotten, ago_ms: 0 });
}

#[test]
fn a_damaged_file_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("master.state");
    std::fs::write(&path, "{\"format\":").unwrap();
    let error = Server::start(embedded(dir.path())).unwrap_err();
    assert!(matches!(error, ServerError::Store(StoreError::Damaged { .. })), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"{\"format\":");
}

#[test]
fn a_taken_port_is_named() {
    let first = start();
    let error = Server::start(ServerOptions { listen: first.addr(), ..options() }).unwrap_err();
    assert!(matches!(error, ServerError::Listen(_)), "{error}");
    assert!(error.to_string().contains(&first.addr().to_string()), "{error}");
}

/// Fails a few times, remembering whether it did what it was asked.
struct Moody {
    inner: MemoryStore,
    failures: Arc<Mutex<Vec<bool>>>,
}

impl StateStore for Moody {
    fn execute(&mut self, request: &StoreRequest) -> StoreReply {
        let id = match request {
            StoreRequest::Read { .. } => return self.inner.execute(request),
            request => request.id(),
        };
        match self.failures.lock().unwrap().pop() {
            None => self.inner.execute(request),
            Some(takes_effect) => {
                if takes_effect {
                    self.inner.execute(request);
                }
                StoreReply::Unknown { id, why: "the disk is full".into() }
            }
        }
    }
}

#[test]
fn a_store_that_fails_for_a_while_delays_and_ends_nothing() {
    let failures = Arc::new(Mutex::new(vec![false, true, false]));
    let store = Moody { inner: MemoryStore::new(), failures: failures.clone() };
    let server = Server::start_with(options(), Box::new(store)).unwrap();
    until("a term", || server.status().term > 0);
    assert!(failures.lock().unwrap().is_empty());
    *failures.lock().unwrap() = vec![true, false, false];
    let (_listener, port) = living();
    let mut peer = Client::connect(server.addr());
    let (.., view) = peer.join_alone(port);
    assert_eq!(view.members.len(), 1);
    assert!(failures.lock().unwrap().is_empty());
}

/// Can do nothing, and counts what it is asked.
#[derive(Clone, Default)]
struct Never(Arc<AtomicU32>);

impl StateStore for Never {
    fn execute(&mut self, request: &StoreRequest) -> StoreReply {
        self.0.fetch_add(1, Ordering::Relaxed);
        StoreReply::Unknown { id: request.id(), why: "no database".into() }
    }
}

#[test]
fn a_master_without_a_working_store_says_that_it_is_not_active_and_can_be_stopped() {
    let server = Server::start_with(options(), Box::new(Never::default())).unwrap();
    let mut peer = Client::connect(server.addr());
    assert_eq!(peer.hello(1, Expectations::default()), MasterMessage::NotActive { active: None });
    assert_eq!(query_status(server.addr(), LONG, None).unwrap().term, 0);
    server.stop();
}

#[test]
fn a_store_that_fails_is_not_asked_in_a_busy_loop() {
    let store = Never::default();
    let begin = Instant::now();
    let _server = Server::start_with(options(), Box::new(store.clone())).unwrap();
    until("five requests", || store.0.load(Ordering::Relaxed) >= 5);
    // Pauses of 20, 40, 80 and 160 ms.
    assert!(begin.elapsed() >= Duration::from_millis(300), "after {:?}", begin.elapsed());
}

/// What a log says while `work` runs.
fn log_of(work: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, work);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_master_that_others_can_reach_warns_that_nothing_protects_it() {
    let log = log_of(|| drop(start()));
    assert!(log.contains("INFO pccl::master: listening on 127.0.0.1:") && !log.contains("WARN"), "{log}");
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let log = log_of(|| drop(Server::start(ServerOptions { listen: everywhere, ..options() }).unwrap()));
    assert_eq!(log.matches("WARN pccl::master: TLS and authentication are off").count(), 1, "{log}");
}

struct Broken;

impl StateStore for Broken {
    fn execute(&mut self, _: &StoreRequest) -> StoreReply {
        panic!("on purpose")
    }
}

#[test]
fn a_panic_in_the_store_ends_the_master_with_a_reason() {
    let server = Server::start_with(options(), Box::new(Broken)).unwrap();
    assert_eq!(server.wait(), Err(EndError::Panicked { thread: "store" }));
    assert!(std::net::TcpStream::connect(server.addr()).is_err());
    assert_eq!(server.wait(), Err(EndError::Panicked { thread: "store" }));
}

/// One store for several masters.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<MemoryStore>>);

impl StateStore for Shared {
    fn execute(&mut self, request: &StoreRequest) -> StoreReply {
        self.0.lock().unwrap().execute(request)
    }
}

#[test]
fn a_master_that_hears_of_a_newer_term_asks_the_store_and_ends_if_it_is_true() {
    let mut store = Shared::default();
    let server = Server::start_with(options(), Box::new(store.clone())).unwrap();
    let (_listener, port) = living();
    let mut peer = Client::connect(server.addr());
    let (session, run, _, view) = peer.join_alone(port);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let beat = Heartbeat { magic: Heartbeat::MAGIC, run, session: session.id, term: Term(2), sequence: 1 };

    // It is not true.
    udp.send_to(&beat.encode(), server.addr()).unwrap();
    let answer = Client::connect(server.addr()).attach(session, Term(2), view.epoch);
    assert_eq!(answer, MasterMessage::NotActive { active: None });
    peer.send(&ToMaster::Ping);
    assert_eq!(peer.receive().unwrap(), MasterMessage::Pong);

    store.execute(&take_term(1, RunId(1)));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| server.wait());
        until("the end", || {
            udp.send_to(&beat.encode(), server.addr()).unwrap();
            waiter.is_finished()
        });
        assert_eq!(waiter.join().unwrap(), Err(EndError::Deposed { term: Term(1), newer: Term(2) }));
    });
    let last = std::iter::from_fn(|| peer.receive().ok()).last();
    assert!(matches!(last, Some(MasterMessage::NotActive { active: Some(_) })), "{last:?}");
}

#[test]
fn who_asks_while_masters_change_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let leads = |server: &Server| until("it leads", || server.status().role == Role::Active);
    let stands_by = |server: &Server| until("it stands by", || server.status().role == Role::Standby);
    let first = Server::start(embedded(dir.path())).unwrap();
    leads(&first);
    let second = Server::start(embedded(dir.path())).unwrap();
    stands_by(&second);
    let mut asker = Client::connect(first.addr());
    asker.send(&ToMaster::Ping);
    assert_eq!(asker.receive().unwrap(), MasterMessage::Pong);

    let obeyed = send_command(second.addr(), Command::Promote, LONG, None).unwrap();
    assert_eq!(obeyed, Ok(()));
    leads(&second);
    stands_by(&first);
    asker.send(&ToMaster::Status);
    let answer = asker.receive().unwrap();
    assert!(matches!(&answer, MasterMessage::Status(status) if status.role == Role::Standby), "{answer:?}");
}

#[test]
fn a_beat_of_another_run_deposes_nobody() {
    let server = start();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let beat = Heartbeat {
        magic: Heartbeat::MAGIC,
        run: RunId(5),
        session: SessionId(1),
        term: Term(9),
        sequence: 1,
    };
    udp.send_to(&beat.encode(), server.addr()).unwrap();
    udp.send_to(b"", server.addr()).unwrap();
    udp.send_to(&[0xff; 4000], server.addr()).unwrap();
    let (_listener, port) = living();
    Client::connect(server.addr()).join_alone(port);
}

/// Answers one connection with `reply` and closes it.
fn impostor(reply: Option<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = [0; 9];
        stream.read_exact(&mut question).unwrap();
        match reply {
            Some(bytes) => stream.write_all(&bytes).unwrap(),
            // Says nothing until the other side goes.
            None => drop(stream.read(&mut question)),
        }
    });
    addr
}

#[test]
fn a_question_that_gets_no_status_says_why() {
    let ask = |reply| query_status(impostor(reply), LONG, None).unwrap_err();
    let mut newer = Prefix { kind: Kind::Control, len: 0 }.encode();
    newer[3] = 77;
    assert!(matches!(ask(Some(newer.to_vec())), StatusError::Version { theirs: 77, .. }));
    let http = ask(Some(b"HTTP/1.1 400 Bad Request\r\n".to_vec()));
    assert!(matches!(http, StatusError::NotAMaster { .. }), "{http}");
    let closed = ask(Some(Vec::new()));
    assert!(matches!(closed, StatusError::Closed { .. }), "{closed}");
    let silent = query_status(impostor(None), Duration::from_millis(20), None).unwrap_err();
    assert!(matches!(silent, StatusError::TimedOut { limit_ms: 20, .. }), "{silent}");
    let (listener, _) = living();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let refused = query_status(addr, LONG, None).unwrap_err();
    assert!(matches!(refused, StatusError::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains(&addr.to_string()));
    let none = query_status(addr, Duration::ZERO, None).unwrap_err();
    assert!(matches!(none, StatusError::TimedOut { .. }), "{none}");
}
