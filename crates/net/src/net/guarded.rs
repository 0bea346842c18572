//! Connections with something between socket and machine. The machine hears of one once the other side is known.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, Read};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pccl_proto::ids::ConnId;
use pccl_proto::machine::{Closed, Machine};
use pccl_proto::record::StoreRequest;

use super::{Net, READS_PER_TURN, reason, token, tune};
use crate::security::{BROKEN_OFF, Beats, Channel, Reason, Refused, Security};
use crate::send::send;

/// How long the other side may take until it is known. Many peers that connect to a busy master at the same moment wait
/// for each other.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Most connections whose other side is not known yet, in all and from one address. Beyond that the oldest one goes: a
/// peer needs a moment, whoever keeps connections half open needs them to stay.
const MAX_STRANGERS: usize = 1024;
const MAX_STRANGERS_OF_ADDRESS: usize = 256;
/// Names of accepted connections that the machine does not know yet begin here.
const FIRST_STRANGER: u64 = 1 << 48;

/// What lies between one socket and the machine.
pub(super) struct Guard {
    channel: Channel,
    with: SocketAddr,
    dialed: bool,
}

/// What guards all connections.
pub(super) struct Guards {
    security: Security,
    beats: Beats,
    /// Connections whose other side is not known yet, and until when they may take.
    handshakes: BTreeMap<ConnId, Instant>,
    /// Those among them that we have accepted, the oldest first.
    strangers: BTreeMap<ConnId, SocketAddr>,
    next_stranger: u64,
}

impl Guards {
    pub(super) fn forget(&mut self, conn: ConnId) {
        self.handshakes.remove(&conn);
        self.strangers.remove(&conn);
        self.beats.closed(conn, Instant::now());
    }

    /// The heartbeat in a datagram, if it is one.
    pub(super) fn open_datagram<'a>(&mut self, from: SocketAddr, bytes: &'a [u8]) -> Option<&'a [u8]> {
        match self.beats.open(from, bytes) {
            Ok(beat) => Some(beat),
            Err(refused) => {
                self.security.note(&refused, from);
                None
            }
        }
    }

    pub(super) fn seal_datagram(&mut self, to: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
        self.beats.seal(to, bytes)
    }

    /// Whom a new stranger takes the place of.
    fn crowded_out(&self, from: SocketAddr) -> Option<ConnId> {
        let of_address = |ip| self.strangers.iter().filter(move |(_, addr)| addr.ip() == ip);
        if of_address(from.ip()).count() >= MAX_STRANGERS_OF_ADDRESS {
            return of_address(from.ip()).next().map(|(conn, _)| *conn);
        }
        if self.strangers.len() < MAX_STRANGERS {
            return None;
        }
        // Of the address with the most: whoever comes alone is not the one to go.
        let mut counts = BTreeMap::new();
        for addr in self.strangers.values() {
            *counts.entry(addr.ip()).or_insert(0_usize) += 1;
        }
        let (most, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        of_address(most).next().map(|(conn, _)| *conn)
    }
}

impl Guard {
    /// Last words, if saying them takes no waiting.
    pub(super) fn say_last(&mut self, stream: &mut mio::net::TcpStream, last: &[u8]) {
        if self.channel.is_open() {
            if !last.is_empty() && self.channel.seal(&[last]).is_err() {
                return;
            }
            self.channel.seal_close();
        }
        while self.channel.has_outgoing() {
            match send(stream, &[IoSlice::new(self.channel.outgoing())]) {
                Ok(n) => self.channel.written(n),
                Err(_) => return,
            }
        }
    }
}

impl Net {
    /// From now on every connection is guarded as asked for, if anything is asked for.
    pub fn set_security(&mut self, security: Security) {
        self.doorkeeper = Some(security.clone());
        self.guards = security.guards().then(|| Guards {
            security,
            beats: Beats::default(),
            handshakes: BTreeMap::new(),
            strangers: BTreeMap::new(),
            next_stranger: FIRST_STRANGER,
        });
    }

    /// When the first of the connections whose other side is not known has taken too long.
    pub(super) fn handshake_deadline(&self) -> Option<Instant> {
        self.guards.as_ref()?.handshakes.values().min().copied()
    }

    pub(super) fn end_slow_handshakes<M: Machine>(&mut self, machine: &mut M) {
        let Some(guards) = &self.guards else { return };
        if guards.handshakes.is_empty() {
            return;
        }
        let now = Instant::now();
        let slow: Vec<ConnId> =
            guards.handshakes.iter().filter(|(_, at)| **at <= now).map(|(conn, _)| *conn).collect();
        for conn in slow {
            let connecting = self.sockets.get(&conn).is_none_or(|s| s.connecting);
            if connecting {
                self.ended(machine, conn, Closed::TimedOut);
            } else {
                let seconds = HANDSHAKE_TIME.as_secs();
                let why = format!("it did not say who it is within {seconds} s");
                self.refuse(machine, conn, &Refused { reason: Reason::TimedOut, why });
            }
        }
    }

    /// Counts and says that a master has turned away a peer whose certificate does not allow its group.
    pub fn note_refused_group(&self, from: SocketAddr, why: String) {
        if let Some(guards) = &self.guards {
            guards.security.note(&Refused { reason: Reason::Group, why }, from);
        }
    }

    /// Somebody has connected, and may say who it is.
    pub(super) fn accepted_stranger(&mut self, stream: mio::net::TcpStream, from: SocketAddr) {
        let Some(guards) = &mut self.guards else { return };
        let channel = match Channel::accepting(&guards.security) {
            Ok(channel) => channel,
            Err(refused) => return guards.security.note(&refused, from),
        };
        let oldest = guards.crowded_out(from);
        if let Some((oldest, addr)) = oldest.and_then(|c| Some((c, *guards.strangers.get(&c)?))) {
            let why = format!(
                "more than {MAX_STRANGERS_OF_ADDRESS} connections from its address, or {MAX_STRANGERS} from all, had \
                 not said who they are; the oldest ones are closed"
            );
            guards.security.note(&Refused { reason: Reason::TooMany, why }, addr);
            self.close(oldest);
        }
        let Some(guards) = &mut self.guards else { return };
        let conn = ConnId(guards.next_stranger);
        guards.next_stranger += 1;
        guards.strangers.insert(conn, from);
        guards.handshakes.insert(conn, Instant::now() + HANDSHAKE_TIME);
        tune(&stream);
        let guard = Guard { channel, with: from, dialed: false };
        if self.add(conn, stream, false, Some(Box::new(guard))).is_err() {
            self.close(conn);
            if let Some(guards) = &mut self.guards {
                guards.forget(conn);
            }
        }
    }

    /// What guards a connection that is about to be dialed.
    pub(super) fn dialing_guard(
        &mut self,
        conn: ConnId,
        addr: SocketAddr,
    ) -> Result<Option<Box<Guard>>, Closed> {
        let Some(guards) = &mut self.guards else { return Ok(None) };
        match Channel::dialing(&guards.security, addr) {
            Ok(channel) => {
                guards.handshakes.insert(conn, Instant::now() + HANDSHAKE_TIME);
                Ok(Some(Box::new(Guard { channel, with: addr, dialed: true })))
            }
            Err(refused) => {
                guards.security.note(&refused, addr);
                Err(Closed::Failed(format!("{addr}: {refused}")))
            }
        }
    }

    /// A connection has ended. The machine is told if it knows of it.
    pub(super) fn ended<M: Machine>(&mut self, machine: &mut M, conn: ConnId, why: Closed) {
        if conn.0 >= FIRST_STRANGER {
            self.close(conn);
        } else {
            self.closed(machine, conn, why);
        }
    }

    /// The other side is not whom we speak with: it is told, if that takes no waiting.
    fn refuse<M: Machine>(&mut self, machine: &mut M, conn: ConnId, refused: &Refused) {
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        let Some(guard) = &mut socket.guard else { return };
        guard.say_last(&mut socket.stream, &[]);
        let with = guard.with;
        if let Some(guards) = &self.guards {
            guards.security.note(refused, with);
        }
        self.ended(machine, conn, Closed::Failed(format!("{with}: {refused}")));
    }

    /// The other side sends no more.
    fn guarded_end<M: Machine>(&mut self, machine: &mut M, conn: ConnId, why: Closed) {
        let Some(guard) = self.sockets.get(&conn).and_then(|s| s.guard.as_ref()) else { return };
        if guard.channel.is_open() || (!guard.dialed && !guard.channel.has_heard()) {
            // Who connects and says nothing has only looked whether somebody is there.
            return self.ended(machine, conn, why);
        }
        let refused = Refused { reason: Reason::NotAuthenticated, why: BROKEN_OFF.to_owned() };
        self.refuse(machine, conn, &refused);
    }

    /// The other side is known: the machine hears of it. The connection's name from now on, if it goes on.
    fn admit<M: Machine>(&mut self, machine: &mut M, conn: ConnId) -> Option<ConnId> {
        let guard = self.sockets.get(&conn)?.guard.as_ref()?;
        let (with, dialed) = (guard.with, guard.dialed);
        let named = if dialed { Some(conn) } else { machine.handle_accepted(self.now(), with) };
        let Some(named) = named else {
            self.close(conn);
            return None;
        };
        let mut socket = self.sockets.remove(&conn)?;
        let guards = self.guards.as_mut()?;
        let certificate = socket.guard.as_mut().and_then(|guard| guard.channel.take_certificate());
        if !dialed && let Some(permit) = guards.security.permit(certificate.as_ref()) {
            machine.handle_permit(named, permit);
        }
        guards.handshakes.remove(&conn);
        guards.strangers.remove(&conn);
        if let Some(session) = socket.guard.as_ref().and_then(|g| g.channel.session())
            && let Err(refused) = guards.beats.opened(named, session, dialed.then_some(with))
        {
            guards.security.note(&refused, with);
        }
        let moved = dialed
            || self
                .registry
                .reregister(
                    &mut *socket.stream,
                    token(named),
                    mio::Interest::READABLE | mio::Interest::WRITABLE,
                )
                .is_ok();
        self.sockets.insert(named, socket);
        if !moved {
            self.closed(machine, named, Closed::Eof);
            return None;
        }
        if dialed {
            machine.handle_connected(self.now(), named);
        }
        Some(named)
    }

    /// As `read`, of a guarded connection that stands.
    pub(super) fn read_guarded<M: Machine>(
        &mut self,
        machine: &mut M,
        conn: ConnId,
        store: &mut dyn FnMut(StoreRequest),
    ) {
        let mut conn = conn;
        for _ in 0..READS_PER_TURN {
            if !self.hand_over(machine, conn, store) {
                return;
            }
            let Some(socket) = self.sockets.get_mut(&conn).filter(|s| s.readable) else { return };
            let Some(guard) = &mut socket.guard else { return };
            let was_open = guard.channel.is_open();
            let room = guard.channel.room();
            let size = room.len();
            match socket.stream.read(room) {
                Ok(0) => return self.guarded_end(machine, conn, Closed::Eof),
                Ok(n) => {
                    if n < size && !socket.read_closed {
                        socket.readable = false;
                    }
                    if let Some(metrics) = &self.metrics {
                        metrics.add_bytes(0, n as u64, Instant::now());
                    }
                    if let Err(refused) = guard.channel.received(n) {
                        return self.refuse(machine, conn, &refused);
                    }
                    if was_open {
                        continue;
                    }
                    let (open, dialed) = (guard.channel.is_open(), guard.dialed);
                    if open {
                        let Some(named) = self.admit(machine, conn) else { return };
                        conn = named;
                        self.flush(machine, store);
                    } else if dialed {
                        machine.handle_progress(self.now(), conn);
                    }
                    // What the handshake has to say.
                    self.write(machine, conn);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => socket.readable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return self.guarded_end(machine, conn, reason(&e)),
            }
        }
        if self.sockets.contains_key(&conn) {
            self.readable.insert(conn);
        }
    }

    /// Gives the machine what has been received and opened. False if the connection is to be left alone: it has ended, or
    /// the machine has no room.
    fn hand_over<M: Machine>(
        &mut self,
        machine: &mut M,
        conn: ConnId,
        store: &mut dyn FnMut(StoreRequest),
    ) -> bool {
        loop {
            let Some(guard) = self.sockets.get_mut(&conn).and_then(|s| s.guard.as_mut()) else {
                return false;
            };
            if !guard.channel.is_open() {
                return true;
            }
            let [into, _] = machine.receive_buffers(conn);
            match guard.channel.open_into(into) {
                Ok(None) => {}
                Ok(Some(0)) => continue,
                Ok(Some(n)) => {
                    machine.handle_received(self.now(), conn, n);
                    self.flush(machine, store);
                    continue;
                }
                Err(refused) => {
                    self.refuse(machine, conn, &refused);
                    return false;
                }
            }
            let plain = match guard.channel.plain() {
                Ok(plain) => plain,
                Err(refused) => {
                    self.refuse(machine, conn, &refused);
                    return false;
                }
            };
            if plain.is_empty() {
                if guard.channel.is_closed() {
                    self.ended(machine, conn, Closed::Eof);
                    return false;
                }
                return true;
            }
            let [first, second] = machine.receive_buffers(conn);
            if first.len() + second.len() == 0 {
                // `ResumeReading` will come.
                return false;
            }
            let in_first = plain.len().min(first.len());
            let in_second = (plain.len() - in_first).min(second.len());
            first[..in_first].copy_from_slice(&plain[..in_first]);
            second[..in_second].copy_from_slice(&plain[in_first..in_first + in_second]);
            guard.channel.take(in_first + in_second);
            machine.handle_received(self.now(), conn, in_first + in_second);
            self.flush(machine, store);
        }
    }

    /// As `write`, of a guarded connection that stands.
    pub(super) fn write_guarded<M: Machine>(&mut self, machine: &mut M, conn: ConnId) {
        loop {
            let Some(socket) = self.sockets.get_mut(&conn) else { return };
            let Some(guard) = socket.guard.as_mut().filter(|_| socket.writable) else { return };
            while guard.channel.has_outgoing() {
                match send(&*socket.stream, &[IoSlice::new(guard.channel.outgoing())]) {
                    Ok(n) => {
                        if let Some(metrics) = &self.metrics {
                            metrics.add_bytes(n as u64, 0, Instant::now());
                        }
                        guard.channel.written(n);
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        socket.writable = false;
                        return;
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return self.guarded_end(machine, conn, reason(&e)),
                }
            }
            if !guard.channel.is_open() || conn.0 >= FIRST_STRANGER {
                return;
            }
            let mut buffers = Vec::with_capacity(super::BUFFERS_PER_WRITE);
            machine.transmit_buffers(conn, &mut buffers);
            buffers.retain(|bytes| !bytes.is_empty());
            if buffers.is_empty() {
                return;
            }
            match guard.channel.seal(&buffers) {
                Ok(n) => machine.handle_transmitted(self.now(), conn, n),
                Err(refused) => return self.refuse(machine, conn, &refused),
            }
        }
    }
}
