//! Bytes from people who mean no good.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use pccl_proto::ids::{Epoch, PeerGroup, RunId, Seeded, SessionId, Term, Time};
use pccl_proto::machine::Machine;
use pccl_proto::master::{Authority, Master, MasterConfig};
use pccl_proto::message::{MasterMessage, Session, ToMaster};
use pccl_proto::record::{GroupRecord, Member, MemberRecord, RunRecord, StoreReply};
use pccl_proto::settings::Expectations;
use pccl_proto::wire::{Kind, MAX_STRANGER_BYTES, Prefix, encode_control};

use super::client::{Client, LONG, until};
use super::start;
use crate::{Server, query_status};

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.addr()).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// Whether the master has closed the connection. What it says before is skipped.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut buffer = [0; 512];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return false;
            }
            Err(_) => return true,
        }
    }
}

fn prefix(len: usize) -> Vec<u8> {
    Prefix { kind: Kind::Control, len }.encode().to_vec()
}

fn frame(message: &ToMaster) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_control(message, &mut bytes);
    bytes
}

#[test]
fn bytes_that_are_no_protocol_end_their_connection_and_nothing_else() {
    let server = start();
    let mut member = Client::connect(server.addr());
    let (_, _, _, view) = member.join_alone(server.addr().port());
    let mut random = Seeded::new(1);
    for round in 0..300 {
        let bytes: Vec<u8> = match round % 6 {
            0 => (0..=random.below(300)).map(|_| random.next_u64() as u8 | 1).collect(),
            1 => prefix(u32::MAX as usize),
            2 => prefix(MAX_STRANGER_BYTES + 1),
            3 => [prefix(100), (0..100).map(|_| 0xff).collect()].concat(),
            4 => Prefix { kind: Kind::Data, len: 100 }.encode().repeat(9),
            _ => frame(&ToMaster::Leave),
        };
        let mut stream = connect(&server);
        // The master may close it before everything is written.
        let _ = stream.write_all(&bytes);
        if round % 6 == 0 && bytes.len() < 8 {
            continue;
        }
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(said.len() < 200, "round {round}: {} bytes", said.len());
    }
    let status = query_status(server.addr(), LONG, None).unwrap();
    assert_eq!((status.groups[0].epoch, status.groups[0].peers.len()), (view.epoch.0, 1));
    member.send(&ToMaster::Ping);
    assert_eq!(member.receive().unwrap(), MasterMessage::Pong);
}

#[test]
fn half_handshakes_and_drips_make_room_for_others() {
    let server = start();
    let mut drips: Vec<TcpStream> = (0..400)
        .map(|n| {
            let mut stream = connect(&server);
            let hello = frame(&ToMaster::Vote(pccl_proto::message::Vote {
                kind: pccl_proto::message::VoteKind::UpdateTopology,
                number: n,
                since: Epoch(0),
                ordinal: n,
            }));
            stream.write_all(&hello[..n as usize % hello.len()]).unwrap();
            stream
        })
        .collect();
    // The oldest have been shown the door, whatever they still say.
    for stream in &mut drips[..100] {
        until("a closed connection", || is_closed(stream) || stream.write_all(&[0xc1]).is_err());
    }
    let mut member = Client::connect(server.addr());
    member.join_alone(server.addr().port());
    // The others had their time.
    for stream in &mut drips[100..] {
        until("a closed connection", || is_closed(stream));
    }
    member.send(&ToMaster::Ping);
    assert_eq!(member.receive().unwrap(), MasterMessage::Pong);
}

#[test]
fn a_stranger_who_claims_a_newer_term_ends_nothing() {
    let server = start();
    let mut member = Client::connect(server.addr());
    let (session, ..) = member.join_alone(server.addr().port());
    let forged = Session { id: session.id, key: session.key ^ 1 };
    for forged in [forged, Session { id: SessionId(u64::MAX), key: 0 }] {
        let mut stranger = Client::connect(server.addr());
        let answer = stranger.attach(forged, Term(u64::MAX), Epoch(1));
        assert!(!matches!(answer, MasterMessage::Attached { .. }), "{answer:?}");
    }
    member.send(&ToMaster::Ping);
    assert_eq!(member.receive().unwrap(), MasterMessage::Pong);
    assert_eq!(server.status().groups[0].peers.len(), 1);
}

/// A machine with a term and a run of many members.
fn busy_master() -> Master {
    let member = |n: u32| MemberRecord {
        member: Member {
            session: SessionId::new(Term(1), n),
            addr: SocketAddr::from(([127, 0, 0, 1], 7118)),
            site: "x".repeat(100),
        },
        key: 1,
        joined: Epoch(1),
    };
    let group =
        GroupRecord { epoch: Epoch(1), members: (0..1000).map(member).collect(), ..GroupRecord::default() };
    let groups = [(PeerGroup(0), group)].into();
    let record = RunRecord { run: RunId(1), term: Term(2), groups, ..RunRecord::default() };
    let mut master = Master::new(Time(0), MasterConfig::default());
    let action = master.poll_action();
    assert!(matches!(action, Some(pccl_proto::machine::Action::Store(_))), "{action:?}");
    master.handle_store(Time(0), StoreReply::Taken { id: 1, record: Box::new(record) });
    assert_eq!(master.authority(), Authority::Active);
    master
}

#[test]
fn whoever_asks_and_does_not_listen_costs_little_memory() {
    for question in [ToMaster::Status, ToMaster::Ping] {
        let mut master = busy_master();
        let conn = master.handle_accepted(Time(0), SocketAddr::from(([127, 0, 0, 1], 9))).unwrap();
        let questions = frame(&question).repeat(2000);
        let mut left = &questions[..];
        while !left.is_empty() {
            let [buffer, _] = master.receive_buffers(conn);
            let n = left.len().min(buffer.len());
            buffer[..n].copy_from_slice(&left[..n]);
            left = &left[n..];
            master.handle_received(Time(0), conn, n);
        }
        let mut queued = Vec::new();
        master.transmit_buffers(conn, &mut queued);
        let bytes: usize = queued.iter().map(|b| b.len()).sum();
        assert!(bytes < 1 << 20, "{question:?}: {bytes} bytes are queued");
        // It may ask again once it has listened.
        master.handle_transmitted(Time(0), conn, bytes);
        master.receive_buffers(conn)[0][..9].copy_from_slice(&frame(&question));
        master.handle_received(Time(0), conn, 9);
        let mut queued = Vec::new();
        master.transmit_buffers(conn, &mut queued);
        assert!(queued.iter().any(|b| !b.is_empty()));
    }
}

#[test]
fn a_site_label_without_end_is_refused() {
    let server = start();
    let mut peer = Client::connect(server.addr());
    peer.send(&ToMaster::Hello {
        group: PeerGroup(0),
        addr: SocketAddr::from(([0, 0, 0, 0], 1)),
        site: "x".repeat(60_000),
        ended: None,
        expects: Expectations::default(),
    });
    let answer = peer.receive().unwrap();
    assert!(matches!(answer, MasterMessage::Refused { .. }), "{answer:?}");
}
