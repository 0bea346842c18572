//! The network: byte pipes of bounded capacity, which break, stall and are cut to pieces.

use std::collections::VecDeque;
use std::net::SocketAddr;

use pccl_proto::ids::ConnId;
use pccl_proto::machine::Closed;

use crate::hostile::spoil;
use crate::trace::{Reader, Speech};
use crate::world::{Event, Host, MASTER_HOST, ProcId, World, address, host_of};

pub(crate) type SockId = usize;

/// One end of a connection.
pub(crate) struct Socket {
    pub(crate) proc: ProcId,
    /// The machine's name for it, once it has one, until it is closed.
    pub(crate) conn: Option<ConnId>,
    pub(crate) other: Option<SockId>,
    target: Host,
    /// On their way to us: when they are there, and the bytes.
    wire: VecDeque<(u64, Vec<u8>)>,
    received: VecDeque<u8>,
    /// Bytes on their way and received; what the other end may still write is the capacity less this.
    taken: usize,
    /// We wait for room at the other end.
    blocked: bool,
    /// The other end has closed; we learn it after the last byte.
    fin: bool,
    /// What we write vanishes.
    dead: bool,
    accept_from: Option<SocketAddr>,
    connected: bool,
    closed: Option<Closed>,
    reader: Reader,
}

impl Socket {
    fn new(proc: ProcId, conn: Option<ConnId>, target: Host) -> Self {
        Self {
            proc,
            conn,
            other: None,
            target,
            wire: VecDeque::new(),
            received: VecDeque::new(),
            taken: 0,
            blocked: false,
            fin: false,
            dead: false,
            accept_from: None,
            connected: false,
            closed: None,
            reader: Reader::default(),
        }
    }
}

impl World {
    pub(crate) fn delay(&mut self) -> u64 {
        let links = &self.plan.links;
        links.delay_us + self.random.below(links.jitter_us + 1)
    }

    pub(crate) fn dial(&mut self, p: ProcId, conn: ConnId, to: SocketAddr) {
        let s = self.socks.len();
        self.socks.push(Socket::new(p, Some(conn), host_of(to)));
        self.procs[p].conns.insert(conn, s);
        let delay = self.delay();
        self.after(delay, Event::Knock(s, 0));
    }

    /// A connection attempt reaches its target, or does not.
    pub(crate) fn knock(&mut self, s: SockId, times: u32) {
        let Some(conn) = self.socks[s].conn else { return };
        let (p, target) = (self.socks[s].proc, self.socks[s].target);
        let from = self.procs[p].host;
        if self.is_cut(from, target) || self.is_cut(target, from) || self.dark.contains(&target) {
            if times < 4 {
                return self.after(200_000 << times, Event::Knock(s, times + 1));
            }
            self.socks[s].closed = Some(Closed::TimedOut);
            return self.service(s);
        }
        let delay = self.delay();
        let Some(q) = self.living.get(&target).copied() else {
            self.socks[s].closed = Some(Closed::Refused);
            return self.after(delay, Event::Service(s));
        };
        if self.between(p, target) >= self.plan.links.most {
            // Whoever counts them there says so, or lets the request vanish.
            let said = self.chance(50);
            self.socks[s].closed = Some(if said { Closed::Refused } else { Closed::TimedOut });
            return self.after(if said { delay } else { 3_000_000 }, Event::Service(s));
        }
        let t = self.socks.len();
        let mut accepted = Socket::new(q, None, from);
        accepted.other = Some(s);
        accepted.accept_from = Some(SocketAddr::new(address(from).ip(), 50_000 + (conn.0 % 10_000) as u16));
        self.socks.push(accepted);
        self.socks[s].other = Some(t);
        self.socks[s].connected = true;
        self.after(delay, Event::Service(s));
        self.service(t);
    }

    /// Connections in use between two peers' hosts.
    fn between(&self, p: ProcId, there: Host) -> usize {
        match self.living.get(&there) {
            Some(q) if there.max(self.procs[p].host) < MASTER_HOST => self.sockets_between(p, *q).len(),
            _ => 0,
        }
    }

    /// The first process' ends of its connections to the second one that are in use.
    pub(crate) fn sockets_between(&self, p: ProcId, q: ProcId) -> Vec<SockId> {
        let in_use = |s: &SockId| {
            let socket = &self.socks[*s];
            let there = socket.other.is_some_and(|o| self.socks[o].proc == q);
            there && !socket.dead && socket.closed.is_none()
        };
        self.procs[p].conns.values().copied().filter(in_use).collect()
    }

    // ---- what a process learns of its sockets ----

    /// Tells the machine what has happened to a socket, unless its process stands still.
    pub(crate) fn service(&mut self, s: SockId) {
        let p = self.socks[s].proc;
        if self.procs[p].body.is_none() {
            return;
        }
        if self.procs[p].paused {
            self.procs[p].waiting.insert(s);
            return;
        }
        if let Some(from) = self.socks[s].accept_from.take() {
            self.accept(p, s, from);
        }
        if self.socks[s].connected {
            self.socks[s].connected = false;
            let Some(conn) = self.socks[s].conn else { return };
            self.with(p, |m, now| m.handle_connected(now, conn));
        }
        while self.read(s) {}
        self.end(s);
    }

    fn accept(&mut self, p: ProcId, s: SockId, from: SocketAddr) {
        let now = self.time(p);
        let conn = self.procs[p].body.as_mut().and_then(|b| b.machine().handle_accepted(now, from));
        match conn {
            Some(conn) => {
                self.socks[s].conn = Some(conn);
                self.procs[p].conns.insert(conn, s);
                self.drive(p);
            }
            None => self.hang_up(s),
        }
    }

    /// Moves received bytes into the machine. False if there are none, or it does not want any.
    fn read(&mut self, s: SockId) -> bool {
        let fragment = self.random.below(self.plan.links.fragment as u64) as usize + 1;
        let fragment = if self.plan.links.fragment > 1 << 16 { usize::MAX } else { fragment };
        let socket = &mut self.socks[s];
        let (Some(conn), p) = (socket.conn, socket.proc) else { return false };
        let Some(body) = &mut self.procs[p].body else { return false };
        if socket.received.is_empty() {
            return false;
        }
        let mut n = 0;
        for buffer in body.machine().receive_buffers(conn) {
            let len = buffer.len().min(fragment - n).min(socket.received.len());
            for (to, from) in buffer.iter_mut().zip(socket.received.drain(..len)) {
                *to = from;
            }
            n += len;
        }
        if n == 0 {
            return false;
        }
        socket.taken -= n;
        if let Some(other) = socket.other
            && self.socks[other].blocked
        {
            let delay = self.delay();
            self.after(delay, Event::Room(other));
        }
        self.with(p, |m, now| m.handle_received(now, conn, n));
        true
    }

    /// Tells the machine that its connection is no more, once it has read everything.
    fn end(&mut self, s: SockId) {
        let socket = &mut self.socks[s];
        if socket.closed.is_none() && socket.fin && socket.wire.is_empty() && socket.received.is_empty() {
            socket.closed = Some(Closed::Eof);
        }
        let (Some(conn), Some(why)) = (socket.conn, socket.closed.clone()) else { return };
        let p = socket.proc;
        socket.conn = None;
        self.procs[p].conns.remove(&conn);
        self.with(p, |m, now| m.handle_closed(now, conn, why));
    }

    // ---- bytes ----

    /// Writes what the machine has for a connection, as far as there is room.
    pub(crate) fn write(&mut self, p: ProcId, conn: ConnId) {
        let Some(s) = self.procs[p].conns.get(&conn).copied() else { return };
        loop {
            let mut room = self.room_at_other(s);
            if self.plan.links.fragment < 1 << 16 {
                room = room.min(self.random.below(self.plan.links.fragment as u64) as usize + 1);
            }
            let Some(body) = &mut self.procs[p].body else { return };
            let mut out = Vec::new();
            body.machine().transmit_buffers(conn, &mut out);
            let mut bytes = Vec::new();
            for part in &out {
                bytes.extend_from_slice(&part[..part.len().min(room - bytes.len())]);
            }
            if out.iter().all(|part| part.is_empty()) {
                return;
            }
            if bytes.is_empty() {
                self.socks[s].blocked = true;
                return;
            }
            let (n, now) = (bytes.len(), self.time(p));
            self.send(s, bytes);
            if let Some(body) = &mut self.procs[p].body {
                body.machine().handle_transmitted(now, conn, n);
            }
        }
    }

    fn room_at_other(&self, s: SockId) -> usize {
        match self.socks[s].other {
            _ if self.socks[s].dead => usize::MAX,
            Some(other) => self.plan.links.capacity.saturating_sub(self.socks[other].taken),
            None => 0,
        }
    }

    /// Puts bytes on their way to the other end.
    fn send(&mut self, s: SockId, mut bytes: Vec<u8>) {
        self.tell(s, &bytes);
        if self.plan.spoiled_per_mille > 0 && self.random.below(1000) < self.plan.spoiled_per_mille {
            spoil(&mut self.random, &mut bytes);
        }
        if self.socks[s].dead {
            // A router that has forgotten the connection says so, or nobody does for a long while.
            if self.socks[s].closed.is_none() && self.chance(50) {
                let delay = 2 * self.delay();
                self.socks[s].closed = Some(Closed::Failed("connection reset".into()));
                self.after(delay, Event::Service(s));
            }
            return;
        }
        let Some(other) = self.socks[s].other else { return };
        let delay = self.delay();
        let last = self.socks[other].wire.back().map_or(0, |(at, _)| *at);
        let at = (self.now + delay).max(last);
        let first = self.socks[other].wire.is_empty();
        self.socks[other].taken += bytes.len();
        self.socks[other].wire.push_back((at, bytes));
        if first {
            self.at(at, Event::Arrive(other));
        }
    }

    /// The first bytes on their way are there; those after them follow.
    pub(crate) fn arrive(&mut self, s: SockId) {
        let Some((at, _)) = self.socks[s].wire.front() else { return };
        if *at > self.now {
            return self.at(*at, Event::Arrive(s));
        }
        let (p, target) = (self.socks[s].proc, self.socks[s].target);
        let (here, size) =
            (self.procs[p].host, self.socks[s].wire.front().map_or(0, |(_, bytes)| bytes.len()));
        if self.is_cut(target, here) || self.is_cut(here, target) || self.is_swallowed(target, here, size) {
            // Sent again until it gets through.
            let wait = 30_000 + self.random.below(200_000);
            return self.after(wait, Event::Arrive(s));
        }
        let socket = &mut self.socks[s];
        if let Some((_, bytes)) = socket.wire.pop_front() {
            socket.received.extend(bytes);
        }
        if let Some((next, _)) = socket.wire.front() {
            let next = (*next).max(self.now);
            self.at(next, Event::Arrive(s));
        }
        self.service(s);
    }

    /// Whether so much at once is lost between two hosts although less is not: a router drops large packets, and the
    /// word of it does not reach the sender.
    fn is_swallowed(&self, from: Host, to: Host, size: usize) -> bool {
        self.holes.iter().any(|hole| (hole.from, hole.to) == (from, to) && size > hole.most)
    }

    /// There may be room again.
    pub(crate) fn room(&mut self, s: SockId) {
        self.socks[s].blocked = false;
        let p = self.socks[s].proc;
        if self.procs[p].paused {
            // Its buffer stays full until it goes on.
            self.socks[s].blocked = true;
            return self.after(50_000, Event::Room(s));
        }
        if let Some(conn) = self.socks[s].conn {
            self.write(p, conn);
            self.drive(p);
        }
    }

    fn tell(&mut self, s: SockId, bytes: &[u8]) {
        if !self.trace.is_on() {
            return;
        }
        let (from, to) = (self.procs[self.socks[s].proc].host, self.socks[s].target);
        let speech = match (from >= MASTER_HOST, to >= MASTER_HOST) {
            (true, _) => Speech::FromMaster,
            (_, true) => Speech::ToMaster,
            _ => Speech::BetweenPeers,
        };
        let said = self.socks[s].reader.read(bytes, speech, self.trace.brief);
        let there = self.socks[s].other.map(|o| self.procs[self.socks[o].proc].name.clone());
        let lost = if self.socks[s].dead { " (lost)" } else { "" };
        for text in said {
            let from = &self.procs[self.socks[s].proc].name;
            let text = format!("{from} -> {}: {text}{lost}", there.as_deref().unwrap_or("?"));
            self.trace.add(self.now, &text);
        }
    }

    // ---- ends of connections ----

    /// The machine closes a connection, with last words if they fit.
    pub(crate) fn close(&mut self, p: ProcId, conn: ConnId, last: &[u8]) {
        let Some(s) = self.procs[p].conns.remove(&conn) else { return };
        // The narrowest pipe here is narrower than any system's buffer: what is said into an empty one fits.
        let empty = self.socks[s].other.is_some_and(|o| self.socks[o].taken == 0);
        if !last.is_empty() && (empty || self.room_at_other(s) >= last.len()) {
            self.send(s, last.to_vec());
        }
        self.socks[s].conn = None;
        self.hang_up(s);
    }

    /// One end is no more: the other one reads what is on its way, or is reset.
    fn hang_up(&mut self, s: SockId) {
        let unread = !self.socks[s].received.is_empty() || !self.socks[s].wire.is_empty();
        let Some(other) = self.socks[s].other else { return };
        if self.socks[s].dead {
            return;
        }
        self.socks[other].dead = true;
        self.socks[s].wire.clear();
        let reset = unread && self.healed.is_none() && self.chance(50);
        if reset {
            self.socks[other].wire.clear();
            self.socks[other].closed = Some(Closed::Failed("connection reset".into()));
        } else {
            self.socks[other].fin = true;
        }
        let (p, host) = (self.socks[s].proc, self.procs[self.socks[other].proc].host);
        if self.is_cut(self.procs[p].host, host) {
            // Nobody tells the other end.
            self.socks[other].closed = None;
            self.socks[other].fin = false;
            return;
        }
        let last = self.socks[other].wire.back().map_or(0, |(at, _)| *at);
        let at = last.max(self.now + self.plan.links.delay_us);
        self.at(at, Event::Service(other));
    }

    /// A process has ended: what its system does to its connections.
    pub(crate) fn abandon_sockets(&mut self, p: ProcId, silently: bool) {
        let socks: Vec<SockId> = std::mem::take(&mut self.procs[p].conns).into_values().collect();
        for s in socks {
            self.socks[s].conn = None;
            if silently {
                if let Some(other) = self.socks[s].other {
                    self.socks[other].dead = true;
                }
                continue;
            }
            self.hang_up(s);
        }
        for s in 0..self.socks.len() {
            // Not accepted yet.
            if self.socks[s].proc == p && self.socks[s].accept_from.take().is_some() {
                self.hang_up(s);
            }
        }
    }

    /// A connection breaks: both ends, or one, learn it sooner or later; what is on its way is lost.
    pub(crate) fn break_socket(&mut self, s: SockId, one_end: bool) {
        let Some(other) = self.socks[s].other else { return };
        for end in [s, other] {
            self.socks[end].dead = true;
            let lost: usize = self.socks[end].wire.drain(..).map(|(_, bytes)| bytes.len()).sum();
            self.socks[end].taken -= lost;
        }
        for end in [s, other] {
            if one_end && end == other {
                continue;
            }
            self.socks[end].closed = Some(Closed::Failed("connection reset".into()));
            let delay = self.delay() + self.random.below(50_000);
            self.after(delay, Event::Service(end));
        }
    }

    /// A connection that is in use, by chance.
    pub(crate) fn any_socket(&mut self) -> Option<SockId> {
        let used: Vec<SockId> = self
            .procs
            .iter()
            .filter(|p| p.body.is_some())
            .flat_map(|p| p.conns.values().copied())
            .filter(|s| self.socks[*s].other.is_some() && !self.socks[*s].dead)
            .collect();
        if used.is_empty() {
            return None;
        }
        let i = self.random.below(used.len() as u64) as usize;
        Some(used[i])
    }

    pub(crate) fn is_cut(&self, from: Host, to: Host) -> bool {
        self.cuts.iter().any(|c| c.cuts(from, to))
    }
}
