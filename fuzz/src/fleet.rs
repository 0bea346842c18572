//! A master and three peers, as they ship, over pipes in memory; an input says what their programs call, which bytes are
//! spoiled on their way, what strangers send, which connections break, and how time goes.
//!
//! Who is in the run speaks for itself, so an input reaches registrations, ops, epoch changes and synchronizations without
//! having to find a valid frame byte by byte. Results mean nothing here: bytes of a member may be spoiled into a wrong
//! tensor.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use pccl_proto::ids::{ConnId, PeerGroup, RunId, Tag, Time};
use pccl_proto::lease::{Candidate, MasterId};
use pccl_proto::machine::{Action, Closed, Machine};
use pccl_proto::master::{Master, MasterConfig};
use pccl_proto::message::VoteKind;
use pccl_proto::peer::{Peer, PeerConfig};
use pccl_proto::record::{RunRecord, StoreReply, StoreRequest};
use pccl_proto::settings::Expectations;
use pccl_proto::shared_state::{Offer, Strategy};
use pccl_proto::vocabulary::{Algorithm, Collective, DataType, Fingerprint, ReduceOp};
use pccl_proto::wire::{Kind, Prefix};
use pccl_sim::{Arithmetic, Memory, Shape, State};

use crate::input::Input;

/// Host 0 has the master.
const PEERS: usize = 3;
/// What happens in one run, at most.
const STROKES: usize = 400;
/// Turns of the network in which everything must have come to rest or at least gone on: more of them is a hang.
const TURNS: usize = 64;
/// Bytes that lie in one direction of a connection before the writer has to wait.
const CAPACITY: usize = 64 << 10;
/// Connections that strangers have at once.
const STRANGERS: usize = 6;
const SHAPE: [usize; 2] = [40, 100];

enum Process {
    Master(Box<Master>),
    Peer(Box<Peer<Memory, Arithmetic>>),
}

impl Process {
    fn machine(&mut self) -> &mut dyn Machine {
        match self {
            Self::Master(master) => &mut **master,
            Self::Peer(peer) => &mut **peer,
        }
    }
}

/// One end of a pipe: the host, and its name for the connection.
type End = (usize, ConnId);

/// A connection. The first end of a stranger's is nobody.
struct Pipe {
    ends: [Option<End>; 2],
    /// On their way to each end.
    bytes: [Vec<u8>; 2],
}

/// What happens to one of the writes to come.
struct Spoil {
    writes_before: usize,
    at: usize,
    how: u8,
    with: u8,
}

struct Fleet {
    now: Time,
    hosts: Vec<Process>,
    pipes: Vec<Pipe>,
    store: RunRecord,
    store_answers: bool,
    asked: VecDeque<StoreRequest>,
    spoils: Vec<Spoil>,
    writes: usize,
    strangers: usize,
}

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut fleet = Fleet::new();
    fleet.gather();
    for _ in 0..STROKES {
        if input.is_empty() {
            break;
        }
        fleet.stroke(&mut input);
        fleet.go_on(TURNS);
    }
    // Time for every timeout: what is left ends by them.
    for _ in 0..20 {
        fleet.pass(500);
        fleet.go_on(TURNS);
    }
}

fn address(host: usize) -> SocketAddr {
    ([10, 0, 0, host as u8 + 1], 7117).into()
}

impl Fleet {
    fn new() -> Self {
        let now = Time(1_000_000);
        let lease = Candidate { id: MasterId(1), addr: Some(address(0)), lease_ms: 1500 };
        let config = MasterConfig { new_run: RunId(7), lease, ..MasterConfig::default() };
        let mut hosts = vec![Process::Master(Box::new(Master::new(now, config)))];
        for host in 1..=PEERS {
            let config = PeerConfig {
                group: PeerGroup(0),
                advertised: address(host),
                site: String::new(),
                masters: vec![address(0)],
                expects: Expectations::default(),
                ended: None,
                seed: host as u64,
            };
            hosts.push(Process::Peer(Box::new(Peer::new(now, config, Arithmetic))));
        }
        Self {
            now,
            hosts,
            pipes: Vec::new(),
            store: RunRecord::default(),
            store_answers: true,
            asked: VecDeque::new(),
            spoils: Vec::new(),
            writes: 0,
            strangers: 0,
        }
    }

    /// All peers become members.
    fn gather(&mut self) {
        for round in 0..40 {
            self.pass(50);
            self.go_on(TURNS);
            if round % 10 == 5 {
                (1..=PEERS).for_each(|host| self.vote(host, VoteKind::UpdateTopology));
            }
        }
    }

    fn stroke(&mut self, input: &mut Input<'_>) {
        let host = input.below(PEERS) + 1;
        match input.byte() % 16 {
            0..=2 => self.start(host, input),
            3 => self.vote(host, VoteKind::UpdateTopology),
            4 => {
                let kinds = [VoteKind::PeersPending, VoteKind::OptimizeTopology, VoteKind::Synchronize];
                self.vote(host, kinds[input.below(3)]);
            }
            5 => self.synchronize(host, input),
            6..=8 => self.spoils.push(Spoil {
                writes_before: self.writes + input.below(8),
                at: usize::from(input.short()),
                how: input.byte(),
                with: input.byte(),
            }),
            9 => self.pass(u64::from(input.byte()) * 10),
            10 => self.break_one(input.byte()),
            11 => self.visit(input.below(PEERS + 1)),
            12 => self.speak(input),
            13 => {
                let (to, from) = (input.below(PEERS + 1), address(input.below(6)));
                let now = self.now;
                self.hosts[to].machine().handle_datagram(now, from, input.some_bytes());
            }
            14 => self.store_answers = !self.store_answers,
            _ => {
                if let Process::Peer(peer) = &mut self.hosts[host] {
                    peer.leave();
                }
            }
        }
    }

    fn start(&mut self, host: usize, input: &mut Input<'_>) {
        let (tag, kind, dtype, op) = (Tag(input.byte() as u64 % 4), input.byte(), input.byte(), input.byte());
        let count = u64::from(input.short()) % 20_000;
        let collectives = [
            Collective::AllReduce,
            Collective::ReduceScatter,
            Collective::AllGather,
            Collective::Broadcast,
            Collective::Barrier,
        ];
        let algorithms = [
            None,
            Some(Algorithm::Direct),
            Some(Algorithm::Ring),
            Some(Algorithm::Doubling),
            Some(Algorithm::Star),
        ];
        let collective = collectives[usize::from(kind) % 5];
        let dtype = DataType::from_code(dtype % 12).unwrap_or(DataType::F32);
        let f = Fingerprint {
            collective,
            dtype,
            op: ReduceOp::from_code(op % 5).unwrap_or(ReduceOp::Sum),
            count: if collective == Collective::Barrier { 0 } else { count },
            root: u32::from(kind / 64),
            algorithm: algorithms[usize::from(kind / 8) % 5],
            quantization: None,
        };
        let bytes = f.bytes() as usize;
        let in_place = matches!(collective, Collective::AllReduce | Collective::Broadcast) && op & 0x80 != 0;
        let output = if collective == Collective::AllGather { bytes * PEERS } else { bytes };
        let memory = Memory::new(vec![host as u8; bytes], in_place, output);
        let now = self.now;
        if let Process::Peer(peer) = &mut self.hosts[host] {
            drop(peer.start(now, tag, f, memory));
        }
    }

    fn vote(&mut self, host: usize, kind: VoteKind) {
        if let Process::Peer(peer) = &mut self.hosts[host] {
            peer.vote(kind);
        }
    }

    fn synchronize(&mut self, host: usize, input: &mut Input<'_>) {
        let shape = Shape { block_bytes: 16, tensors: SHAPE.to_vec() };
        let mut own = vec![0; SHAPE.iter().sum()];
        let at = input.below(own.len());
        own[at] = input.byte() % 4;
        let strategies = [Strategy::EnforcePopular, Strategy::ReceiveOnly, Strategy::SendOnly];
        let offer = Offer {
            revision: u64::from(input.byte() % 4),
            strategy: strategies[input.below(3)],
            counts: true,
            admits: at.is_multiple_of(2),
            block_bytes: shape.block_bytes,
            content: shape.content(&own),
            tensors: shape.keys(),
        };
        if let Process::Peer(peer) = &mut self.hosts[host] {
            drop(peer.synchronize(offer, Box::new(State::new(shape, own))));
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now = Time(self.now.0 + ms * 1000);
        let now = self.now;
        for host in &mut self.hosts {
            if host.machine().poll_timeout().is_some_and(|at| at <= now) {
                host.machine().handle_timeout(now);
            }
        }
    }

    /// Somebody from elsewhere connects.
    fn visit(&mut self, host: usize) {
        if self.strangers < STRANGERS {
            let accepted = self.hosts[host].machine().handle_accepted(self.now, address(9));
            if let Some(conn) = accepted {
                self.strangers += 1;
                self.pipes.push(Pipe { ends: [None, Some((host, conn))], bytes: [Vec::new(), Vec::new()] });
            }
        }
    }

    /// A stranger says something, or somebody in the name of a member: in a frame, or as it is.
    fn speak(&mut self, input: &mut Input<'_>) {
        let (which, how) = (input.byte(), input.byte());
        let mut said = Vec::new();
        if how % 4 > 0 {
            let kind = [Kind::Control, Kind::Data, Kind::State][usize::from(how % 4) - 1];
            let payload = input.some_bytes();
            said.extend_from_slice(&Prefix { kind, len: payload.len() }.encode());
            said.extend_from_slice(payload);
        } else {
            said.extend_from_slice(input.some_bytes());
        }
        let all = self.pipes.len();
        if let Some(pipe) = self.pipes.get_mut(usize::from(which) % all.max(1)) {
            pipe.bytes[usize::from(how >> 7 | u8::from(pipe.ends[0].is_none()))].extend_from_slice(&said);
        }
    }

    fn break_one(&mut self, which: u8) {
        if self.pipes.is_empty() {
            return;
        }
        let pipe = self.pipes.swap_remove(usize::from(which) % self.pipes.len());
        self.hang_up(&pipe, None);
    }

    /// Tells the ends of a pipe that is no more, but for whoever closed it.
    fn hang_up(&mut self, pipe: &Pipe, closer: Option<End>) {
        if pipe.ends[0].is_none() {
            self.strangers -= 1;
        }
        for (host, conn) in pipe.ends.iter().flatten().filter(|end| Some(**end) != closer) {
            self.hosts[*host].machine().handle_closed(self.now, *conn, Closed::Eof);
        }
    }

    /// Carries out what the machines want and moves bytes, until nothing moves or the turns are used up.
    fn go_on(&mut self, turns: usize) {
        let mut asks = true;
        for _ in 0..turns {
            let mut moved = asks && self.answer_for_store();
            asks &= self.store_answers;
            for host in 0..self.hosts.len() {
                moved |= self.act(host);
                moved |= self.write(host);
                self.take_results(host);
            }
            for pipe in 0..self.pipes.len() {
                moved |= self.deliver(pipe, 0) | self.deliver(pipe, 1);
            }
            if !moved {
                return;
            }
        }
    }

    fn act(&mut self, host: usize) -> bool {
        let mut acted = 0;
        while let Some(action) = self.hosts[host].machine().poll_action() {
            acted += 1;
            assert!(acted < 10_000, "host {host} has no end of things to do: {action:?}");
            match action {
                Action::Dial { conn, addr } => self.dial(host, conn, addr),
                Action::Close { conn, last } => self.close((host, conn), &last),
                Action::ResumeReading { .. } => {}
                Action::Datagram { to, bytes } => {
                    let (now, from) = (self.now, address(host));
                    if let Some(to) = (0..self.hosts.len()).find(|h| address(*h) == to) {
                        self.hosts[to].machine().handle_datagram(now, from, &bytes);
                    }
                }
                Action::Store(request) => self.asked.push_back(request),
            }
        }
        acted > 0
    }

    fn dial(&mut self, host: usize, conn: ConnId, addr: SocketAddr) {
        let now = self.now;
        let to = (0..self.hosts.len()).find(|h| address(*h) == addr);
        let accepted =
            to.and_then(|to| Some((to, self.hosts[to].machine().handle_accepted(now, address(host))?)));
        match accepted {
            Some(end) => {
                self.pipes
                    .push(Pipe { ends: [Some((host, conn)), Some(end)], bytes: [Vec::new(), Vec::new()] });
                self.hosts[host].machine().handle_connected(now, conn);
            }
            None => self.hosts[host].machine().handle_closed(now, conn, Closed::Refused),
        }
    }

    fn close(&mut self, end: End, last: &[u8]) {
        let Some(at) = self.pipes.iter().position(|p| p.ends.contains(&Some(end))) else { return };
        let side = usize::from(self.pipes[at].ends[0] == Some(end));
        self.pipes[at].bytes[side].extend_from_slice(last);
        while self.deliver(at, side) {}
        let pipe = self.pipes.swap_remove(at);
        self.hang_up(&pipe, Some(end));
    }

    /// A store takes its time, and more of it when it is in trouble: then the next answer comes when time has passed.
    fn answer_for_store(&mut self) -> bool {
        let Some(request) = self.asked.pop_front() else { return false };
        let reply = if self.store_answers {
            self.store.apply(&request)
        } else {
            StoreReply::Unknown { id: request.id(), why: "it is away".into() }
        };
        let now = self.now;
        if let Process::Master(master) = &mut self.hosts[0] {
            master.handle_store(now, reply);
        }
        self.store_answers
    }

    fn write(&mut self, host: usize) -> bool {
        let mut wrote = false;
        let mut blocked = BTreeMap::new();
        while let Some(conn) = self.hosts[host].machine().poll_writable() {
            let Some(at) = self.pipes.iter().position(|p| p.ends.contains(&Some((host, conn)))) else {
                continue;
            };
            let side = usize::from(self.pipes[at].ends[0] == Some((host, conn)));
            loop {
                let room = CAPACITY.saturating_sub(self.pipes[at].bytes[side].len());
                let mut buffers = Vec::new();
                self.hosts[host].machine().transmit_buffers(conn, &mut buffers);
                let mut written: Vec<u8> = buffers.concat();
                written.truncate(room);
                if written.is_empty() {
                    break;
                }
                let n = written.len();
                self.hosts[host].machine().handle_transmitted(self.now, conn, n);
                self.spoil(&mut written);
                self.pipes[at].bytes[side].extend_from_slice(&written);
                wrote = true;
            }
            // A machine may name the same connection again and again: once in a turn is enough.
            let times = blocked.entry(conn).or_insert(0);
            *times += 1;
            if *times > 100 {
                break;
            }
        }
        wrote
    }

    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        self.writes += 1;
        let now = self.writes;
        let due: Vec<Spoil> = self.spoils.extract_if(.., |s| s.writes_before < now).collect();
        for spoil in due {
            if bytes.is_empty() {
                return;
            }
            let at = spoil.at % bytes.len();
            match spoil.how % 5 {
                0 => bytes[at] = spoil.with,
                1 => bytes[at] ^= spoil.with,
                2 => bytes.insert(at, spoil.with),
                3 => drop(bytes.remove(at)),
                _ => {
                    let end = (at + usize::from(spoil.with % 9)).min(bytes.len());
                    bytes[at..end].fill(0xff);
                }
            }
        }
    }

    /// Moves what lies before an end of a pipe to whoever is there.
    fn deliver(&mut self, pipe: usize, side: usize) -> bool {
        let Some(p) = self.pipes.get_mut(pipe) else { return false };
        let Some((host, conn)) = p.ends[side] else {
            p.bytes[side].clear();
            return false;
        };
        if p.bytes[side].is_empty() {
            return false;
        }
        let [first, second] = self.hosts[host].machine().receive_buffers(conn);
        let n = p.bytes[side].len().min(first.len() + second.len());
        let of_first = n.min(first.len());
        first[..of_first].copy_from_slice(&p.bytes[side][..of_first]);
        second[..n - of_first].copy_from_slice(&p.bytes[side][of_first..n]);
        p.bytes[side].drain(..n);
        if n > 0 {
            self.hosts[host].machine().handle_received(self.now, conn, n);
        }
        n > 0
    }

    /// The programs take what their calls gave.
    fn take_results(&mut self, host: usize) {
        match &mut self.hosts[host] {
            Process::Master(master) => while master.poll_event().is_some() {},
            Process::Peer(peer) => {
                while peer.poll_event().is_some() {}
                while peer.poll_completed().is_some() {}
                while peer.poll_vote().is_some() {}
                while peer.poll_synchronized().is_some() {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise every input would look at peers that wait for each other.
    #[test]
    fn an_input_finds_a_fleet_that_reduces() {
        let mut fleet = Fleet::new();
        fleet.gather();
        for host in 1..=PEERS {
            let Process::Peer(peer) = &mut fleet.hosts[host] else {
                unreachable!("hosts after the first have peers")
            };
            assert_eq!(peer.view().map(|v| v.members.len()), Some(PEERS), "host {host}");
            fleet.start(host, &mut Input::new(&[1, 0, 9, 0, 100, 0]));
        }
        for _ in 0..200 {
            fleet.answer_for_store();
            for host in 0..=PEERS {
                fleet.act(host);
                fleet.write(host);
            }
            for pipe in 0..fleet.pipes.len() {
                fleet.deliver(pipe, 0);
                fleet.deliver(pipe, 1);
            }
        }
        for host in 1..=PEERS {
            let Process::Peer(peer) = &mut fleet.hosts[host] else {
                unreachable!("hosts after the first have peers")
            };
            let done = peer.poll_completed().expect("the op has ended");
            assert_eq!(done.result.map(|info| info.world), Ok(PEERS as u32), "host {host}");
        }
    }
}
