//! The bytes of a connection between peers: frames out of and into the memory of ops, without copies for large ones.

use std::collections::VecDeque;

use super::links::{Held, Outgoing, Role};
use super::{Peer, PeerEvent};
use crate::execute::{Expected, Kernels, OpMemory, Target};
use crate::ids::{AttemptName, ConnId, SessionId, Time};
use crate::message::{LinkMessage, ToMaster};
use crate::shared_state::Piece;
use crate::wire::{
    DATA_HEADER_BYTES, DataHeader, Kind, MAX_STRANGER_BYTES, PREFIX_BYTES, Prefix, STATE_HEADER_BYTES,
    StateHeader, WireError, decode_control,
};

/// Bytes read ahead: small frames arrive with one read, large payloads go where they belong.
const STAGING_BYTES: usize = 8 << 10;
/// Bytes held for attempts that our caller has not started, per link, over all epochs; reading stops beyond.
const HELD_LIMIT_BYTES: usize = 4 * (64 << 10) + (256 << 10);
/// Buffers of one frame that are kept for the next contributions.
const SPARE_SLOTS: usize = 16;
/// Frames, and bytes of them, that are offered for one write: each write costs a system call, and the end of each
/// the rest of a segment.
const FRAMES_PER_WRITE: usize = 8;
const BYTES_PER_WRITE: usize = 512 << 10;
/// Accepted frames after which they are confirmed without waiting for a frame the other way.
const CONFIRM_EVERY: u64 = 32;

/// Where a frame's payload goes.
pub(super) enum Place {
    Output {
        at: Expected,
        start: usize,
    },
    Slot {
        at: Expected,
        data: Vec<u8>,
    },
    Held {
        data: Vec<u8>,
    },
    /// Shared state that was asked for.
    State(Piece),
    Nowhere,
}

/// A data frame on its way in.
pub(super) struct Incoming {
    pub(super) peer: SessionId,
    pub(super) stripe: u16,
    pub(super) header: DataHeader,
    place: Place,
    got: usize,
    /// Whether it is a data frame, which has a number.
    numbered: bool,
}

/// The receiving half of a connection.
#[derive(Default)]
pub(super) struct Rx {
    staging: Vec<u8>,
    start: usize,
    end: usize,
    data: Option<Incoming>,
    /// Where bytes that belong nowhere go.
    waste: Vec<u8>,
    /// A control frame larger than the staging buffer.
    control: Option<(Vec<u8>, usize)>,
}

/// The sending half of a connection.
#[derive(Default)]
pub(super) struct Tx {
    pub(super) control: Vec<u8>,
    control_sent: usize,
    /// Frames in the order in which they go out. Only of the first one anything has been sent.
    data: VecDeque<Sending>,
}

enum Payload {
    Frame(Outgoing),
    /// Of an attempt that has ended meanwhile.
    Owned(Vec<u8>),
    /// Of shared state.
    State(Piece),
}

struct Sending {
    header: [u8; DATA_HEADER_BYTES],
    payload: Payload,
    len: usize,
    sent: usize,
}

impl<M: OpMemory, K: Kernels> Peer<M, K> {
    // ---- sending ----

    pub(super) fn link_transmit_buffers<'a>(&'a mut self, conn: ConnId, out: &mut Vec<&'a [u8]>) {
        self.load_frames(conn);
        let Some(state) = self.links.conns.get(&conn) else {
            return;
        };
        let tx = &state.tx;
        let control = &tx.control[tx.control_sent..];
        let begun = tx.has_begun();
        if !begun {
            out.push(control);
        }
        for (i, sending) in tx.data.iter().enumerate() {
            if sending.sent < DATA_HEADER_BYTES {
                out.push(&sending.header[sending.sent..]);
            }
            out.push(&self.payload(&sending.payload)[sending.sent.saturating_sub(DATA_HEADER_BYTES)..]);
            if begun && i == 0 {
                out.push(control);
            }
        }
    }

    fn payload<'a>(&'a self, payload: &'a Payload) -> &'a [u8] {
        match payload {
            Payload::Owned(bytes) => bytes,
            Payload::State(piece) => self.sync.as_ref().map_or(&[][..], |s| s.bytes(*piece)),
            Payload::Frame(o) => {
                let op = self.ops.get(&o.name.tag);
                let attempt = op.and_then(|op| Some((op, op.attempt.as_ref()?)));
                attempt.map_or(&[][..], |(op, a)| a.execution.bytes(&op.memory, &o.frame))
            }
        }
    }

    /// Takes frames out of the stripe's queue, as many as are good for one write.
    fn load_frames(&mut self, conn: ConnId) {
        loop {
            let Some(tx) = self.links.conns.get(&conn).map(|state| &state.tx) else { return };
            let bytes: usize = tx.data.iter().map(|sending| sending.len - sending.sent).sum();
            if tx.data.len() >= FRAMES_PER_WRITE || bytes >= BYTES_PER_WRITE || !self.load_frame(conn) {
                return;
            }
        }
    }

    /// Takes the next frame. False if there is none.
    fn load_frame(&mut self, conn: ConnId) -> bool {
        let Some(state) = self.links.conns.get_mut(&conn) else {
            return false;
        };
        let Role::Up { peer, stripe } = state.role else {
            return false;
        };
        let Some(s) = self.links.table.get_mut(&peer).map(|l| &mut l.stripes[stripe as usize]) else {
            return false;
        };
        let Some(outgoing) = s.queue.pop_front() else {
            return state.tx.data.is_empty() && self.load_state(conn, peer);
        };
        let seq = s.first_seq + s.sent.len() as u64;
        s.sent.push_back(outgoing);
        s.told = s.accepted;
        let op = self.ops.get_mut(&outgoing.name.tag);
        let op = op.filter(|op| op.running_name() == Some(outgoing.name));
        let running = op.is_some();
        if let Some((memory, attempt)) = op.and_then(|op| Some((&mut op.memory, op.attempt.as_ref()?))) {
            attempt.execution.prepare(memory, &outgoing.frame);
        }
        let len = if running { outgoing.frame.len } else { 0 };
        let header = DataHeader {
            name: outgoing.name,
            digest: outgoing.digest,
            phase: outgoing.frame.phase,
            offset: outgoing.frame.offset,
            len,
            seq,
            accepted: s.accepted,
        };
        let payload = if running { Payload::Frame(outgoing) } else { Payload::Owned(Vec::new()) };
        state.tx.data.push_back(Sending {
            header: header.encode(),
            payload,
            len: DATA_HEADER_BYTES + len as usize,
            sent: 0,
        });
        true
    }

    /// Takes the next frame of shared state for a peer that has asked for some.
    fn load_state(&mut self, conn: ConnId, to: SessionId) -> bool {
        let Some((header, piece)) = self.next_state_piece(to) else {
            return false;
        };
        if let Some(state) = self.links.conns.get_mut(&conn) {
            let len = STATE_HEADER_BYTES + piece.len as usize;
            let payload = Payload::State(piece);
            state.tx.data.push_back(Sending { header: header.encode(), payload, len, sent: 0 });
        }
        true
    }

    /// Shared state is not sent or taken any more: frames that are half sent are finished from a copy.
    pub(super) fn detach_state(&mut self) {
        self.drop_incoming_state(|_, _| true);
        for state in self.links.conns.values_mut() {
            state.tx.data.retain(|s| s.sent > 0 || !matches!(s.payload, Payload::State(_)));
            for sending in &mut state.tx.data {
                let Payload::State(piece) = sending.payload else { continue };
                let bytes = self.sync.as_ref().map(|s| s.bytes(piece).to_vec());
                sending.payload = Payload::Owned(bytes.unwrap_or_default());
            }
        }
    }

    /// Pieces of shared state on their way in, by sender and block, are not taken.
    pub(super) fn drop_incoming_state(&mut self, which: impl Fn(SessionId, u32) -> bool) {
        for data in self.links.conns.values_mut().filter_map(|c| c.rx.data.as_mut()) {
            if matches!(&data.place, Place::State(piece) if which(data.peer, piece.block)) {
                data.place = Place::Nowhere;
            }
        }
    }

    pub(super) fn link_transmitted(&mut self, _now: Time, conn: ConnId, mut n: usize) {
        let Some(state) = self.links.conns.get_mut(&conn) else {
            return;
        };
        let tx = &mut state.tx;
        let mut control_is_next = !tx.has_begun();
        loop {
            if control_is_next {
                n -= tx.take_control(n);
            }
            let Some(sending) = tx.data.front_mut().filter(|_| n > 0) else { return };
            let taken = n.min(sending.len - sending.sent);
            sending.sent += taken;
            n -= taken;
            if sending.sent < sending.len {
                return;
            }
            tx.data.pop_front();
            control_is_next = true;
        }
    }

    /// An attempt ends: frames of it that are half sent are finished from a copy, those not begun go out empty.
    pub(super) fn detach_frames(&mut self, name: AttemptName) {
        let Some(op) = self.ops.get(&name.tag) else { return };
        for state in self.links.conns.values_mut() {
            if let Some(data) = &mut state.rx.data
                && data.header.name == name
            {
                data.place = Place::Nowhere;
            }
            for sending in &mut state.tx.data {
                let Payload::Frame(o) = &sending.payload else { continue };
                if o.name != name {
                    continue;
                }
                if sending.sent > 0 {
                    let bytes = op.attempt.as_ref().map(|a| a.execution.bytes(&op.memory, &o.frame).to_vec());
                    sending.payload = Payload::Owned(bytes.unwrap_or_default());
                } else {
                    sending.payload = Payload::Owned(Vec::new());
                    sending.header[4..8].copy_from_slice(&[0; 4]);
                    sending.len = DATA_HEADER_BYTES;
                }
            }
        }
    }

    // ---- receiving ----

    pub(super) fn link_receive_buffers(&mut self, conn: ConnId) -> [&mut [u8]; 2] {
        let Some(state) = self.links.conns.get_mut(&conn) else {
            return [&mut [], &mut []];
        };
        if let Role::Up { peer, .. } = state.role
            && self.links.table.get(&peer).is_some_and(|l| l.held_bytes > HELD_LIMIT_BYTES)
        {
            return [&mut [], &mut []];
        }
        let rx = &mut state.rx;
        if rx.staging.is_empty() {
            rx.staging = vec![0; STAGING_BYTES];
        }
        if rx.control.is_some() {
            let rest = rx.control.as_mut().map_or(&mut [][..], |(buffer, filled)| &mut buffer[*filled..]);
            return [rest, &mut []];
        }
        if rx.data.is_none() {
            rx.compact();
            return [&mut rx.staging[rx.end..], &mut []];
        }
        let Some(data) = &mut rx.data else {
            return [&mut [], &mut []];
        };
        debug_assert!(rx.start == rx.end, "staged bytes are used up before a payload is read");
        (rx.start, rx.end) = (0, 0);
        let len = data.header.len as usize;
        let target: &mut [u8] = match &mut data.place {
            Place::Output { start, .. } => match self.ops.get_mut(&data.header.name.tag) {
                Some(op) => &mut op.memory.output_mut()[*start + data.got..*start + len],
                None => &mut [],
            },
            Place::Slot { data: slot, .. } | Place::Held { data: slot } => &mut slot[data.got..],
            Place::State(piece) => match &mut self.sync {
                Some(sync) => &mut sync.incoming(*piece)[data.got..],
                None => &mut [],
            },
            Place::Nowhere => {
                rx.waste.resize((len - data.got).min(STAGING_BYTES), 0);
                &mut rx.waste
            }
        };
        [target, &mut rx.staging]
    }

    pub(super) fn link_received(&mut self, now: Time, conn: ConnId, mut n: usize) {
        self.link_heard(now, conn);
        let Some(state) = self.links.conns.get_mut(&conn) else {
            return;
        };
        let rx = &mut state.rx;
        if let Some((buffer, filled)) = &mut rx.control {
            *filled += n;
            if *filled < buffer.len() {
                return;
            }
            let payload = rx.control.take().map(|(b, _)| b).unwrap_or_default();
            if !self.control_frame(now, conn, &payload) {
                return;
            }
        } else if let Some(data) = &mut rx.data {
            state.receiving = true;
            let rest = data.header.len as usize - data.got;
            let window = if matches!(data.place, Place::Nowhere) { rest.min(STAGING_BYTES) } else { rest };
            let taken = n.min(window);
            data.got += taken;
            n -= taken;
            rx.end = n;
            self.fill_from_staging(conn);
            if !self.payload_is_complete(conn) {
                return;
            }
            self.finish_data(now, conn);
        } else {
            rx.end += n;
        }
        while self.parse(now, conn) {}
    }

    /// Handles the next frame, or part of one, in the staging buffer. False if more bytes are needed.
    fn parse(&mut self, now: Time, conn: ConnId) -> bool {
        let Some(state) = self.links.conns.get_mut(&conn) else {
            return false;
        };
        let role = state.role;
        let rx = &mut state.rx;
        let bytes = &rx.staging[rx.start..rx.end];
        if bytes.len() < PREFIX_BYTES {
            return false;
        }
        let prefix = match Prefix::decode(bytes, MAX_STRANGER_BYTES) {
            Ok(prefix) => prefix,
            Err(why) => {
                self.close_link_conn(now, conn, &why.to_string());
                return false;
            }
        };
        match (prefix.kind, role) {
            (Kind::Control, _) => self.parse_control(now, conn, prefix.len),
            (Kind::Data, Role::Up { peer, stripe }) => {
                if bytes.len() < DATA_HEADER_BYTES {
                    return false;
                }
                match DataHeader::decode(bytes, prefix) {
                    Ok(header) => {
                        rx.start += DATA_HEADER_BYTES;
                        self.data_begins(now, conn, (peer, stripe), header)
                    }
                    Err(why) => {
                        self.close_link_conn(now, conn, &why.to_string());
                        false
                    }
                }
            }
            (Kind::State, Role::Up { peer, stripe }) => {
                if bytes.len() < STATE_HEADER_BYTES {
                    return false;
                }
                let header = StateHeader::decode(bytes, prefix);
                rx.start += STATE_HEADER_BYTES;
                self.state_begins(now, conn, (peer, stripe), header)
            }
            _ => {
                self.close_link_conn(now, conn, &WireError::Kind(2).to_string());
                false
            }
        }
    }

    fn parse_control(&mut self, now: Time, conn: ConnId, len: usize) -> bool {
        let Some(state) = self.links.conns.get_mut(&conn) else {
            return false;
        };
        let rx = &mut state.rx;
        let have = rx.end - rx.start - PREFIX_BYTES;
        let first = rx.start + PREFIX_BYTES;
        if have >= len {
            let payload = rx.staging[first..first + len].to_vec();
            rx.start = first + len;
            return self.control_frame(now, conn, &payload);
        }
        if PREFIX_BYTES + len > STAGING_BYTES {
            let mut buffer = vec![0; len];
            buffer[..have].copy_from_slice(&rx.staging[first..rx.end]);
            (rx.start, rx.end) = (0, 0);
            rx.control = Some((buffer, have));
        }
        false
    }

    /// Handles a control frame. False if the connection is no more.
    fn control_frame(&mut self, now: Time, conn: ConnId, payload: &[u8]) -> bool {
        match decode_control::<LinkMessage>(payload) {
            Ok(message) => self.handle_link_message(now, conn, message),
            Err(why) => self.close_link_conn(now, conn, &why.to_string()),
        }
        self.links.conns.contains_key(&conn)
    }

    /// A data frame's header is there. False if the connection is no more, or waits for payload bytes.
    fn data_begins(&mut self, now: Time, conn: ConnId, from: (SessionId, u16), header: DataHeader) -> bool {
        let (peer, stripe) = from;
        let expected = self.links.table.get(&peer).map(|l| l.stripes[stripe as usize].accepted);
        if expected != Some(header.seq) {
            self.close_link_conn(now, conn, "data frames out of order");
            return false;
        }
        let place = match self.place_of(peer, &header) {
            Ok(place) => place,
            Err(why) => {
                self.close_link_conn(now, conn, &why);
                return false;
            }
        };
        let incoming = Incoming { peer, stripe, header, place, got: 0, numbered: true };
        self.header_accepted(now, conn, &incoming);
        let Some(state) = self.links.conns.get_mut(&conn) else {
            return false;
        };
        state.receiving = true;
        state.rx.data = Some(incoming);
        self.fill_from_staging(conn);
        let complete = self.payload_is_complete(conn);
        if complete {
            self.finish_data(now, conn);
        }
        complete
    }

    /// The header of a frame of shared state is there. False if it waits for payload bytes.
    fn state_begins(
        &mut self,
        now: Time,
        conn: ConnId,
        from: (SessionId, u16),
        state_header: StateHeader,
    ) -> bool {
        let (peer, stripe) = from;
        let place = self.place_of_state(peer, state_header);
        let header = DataHeader { len: state_header.len, ..DataHeader::default() };
        if let Some(state) = self.links.conns.get_mut(&conn) {
            state.rx.data = Some(Incoming { peer, stripe, header, place, got: 0, numbered: false });
        }
        self.fill_from_staging(conn);
        let complete = self.payload_is_complete(conn);
        if complete {
            self.finish_data(now, conn);
        }
        complete
    }

    fn payload_is_complete(&self, conn: ConnId) -> bool {
        let data = self.links.conns.get(&conn).and_then(|c| c.rx.data.as_ref());
        data.is_some_and(|d| d.got == d.header.len as usize)
    }

    /// Decides where a frame's payload goes.
    fn place_of(&mut self, peer: SessionId, header: &DataHeader) -> Result<Place, String> {
        let name = header.name;
        if header.len == 0 || name.epoch < self.epoch() {
            return Ok(Place::Nowhere);
        }
        if name.epoch == self.epoch() {
            let started = self.counts.get(&name.tag).copied().unwrap_or(0);
            let running = self.ops.get(&name.tag).is_some_and(|op| op.running_name() == Some(name));
            if running {
                self.credit(peer, name);
                return self.place_in_attempt(peer, header);
            }
            let to_come =
                self.ops.get(&name.tag).is_some_and(|op| op.counted && op.attempt.is_none()) && name.n == 0;
            if name.n < started && !to_come {
                return Ok(Place::Nowhere);
            }
        }
        self.credit(peer, name);
        Ok(Place::Held { data: self.spare_slot(header.len as usize) })
    }

    fn place_in_attempt(&mut self, peer: SessionId, header: &DataHeader) -> Result<Place, String> {
        let from = self.rank_of(peer).ok_or("the peer is not a member")?;
        let Some(op) = self.ops.get_mut(&header.name.tag) else {
            return Ok(Place::Nowhere);
        };
        if op.fingerprint.digest() != header.digest {
            let tag = header.name.tag.0;
            self.events.push_back(PeerEvent::Mismatch { peer, tag });
            self.tell_master_if_attached(&ToMaster::Mismatch { name: header.name });
            return Ok(Place::Nowhere);
        }
        let Some(attempt) = op.attempt.as_mut().filter(|a| a.impossible.is_none()) else {
            return Ok(Place::Nowhere);
        };
        let place = (from, header.phase, header.offset, header.len);
        let (at, target) =
            attempt.execution.accept(place, &mut op.memory, &self.kernels).map_err(|e| e.to_string())?;
        let tag = header.name.tag;
        self.flush_attempt(tag);
        Ok(match target {
            Target::Output { start, .. } => Place::Output { at, start },
            Target::Slot { len } => Place::Slot { at, data: self.spare_slot(len) },
        })
    }

    /// Copies staged bytes to where the current frame's payload goes.
    fn fill_from_staging(&mut self, conn: ConnId) {
        let Some(state) = self.links.conns.get_mut(&conn) else {
            return;
        };
        let rx = &mut state.rx;
        let Some(data) = &mut rx.data else { return };
        let len = data.header.len as usize;
        let n = (rx.end - rx.start).min(len - data.got);
        let staged = &rx.staging[rx.start..rx.start + n];
        match &mut data.place {
            Place::Output { start, .. } => {
                if let Some(op) = self.ops.get_mut(&data.header.name.tag) {
                    let at = *start + data.got;
                    op.memory.output_mut()[at..at + n].copy_from_slice(staged);
                }
            }
            Place::Slot { data: slot, .. } | Place::Held { data: slot } => {
                slot[data.got..data.got + n].copy_from_slice(staged);
            }
            Place::State(piece) => {
                if let Some(sync) = &mut self.sync {
                    sync.incoming(*piece)[data.got..data.got + n].copy_from_slice(staged);
                }
            }
            Place::Nowhere => {}
        }
        data.got += n;
        rx.start += n;
    }

    /// A data frame is complete.
    fn finish_data(&mut self, now: Time, conn: ConnId) {
        let Some(data) = self.links.conns.get_mut(&conn).and_then(|c| c.rx.data.take()) else {
            return;
        };
        let Incoming { peer, stripe, header, place, numbered, .. } = data;
        if !numbered {
            if let Place::State(piece) = place {
                self.piece_arrived(peer, piece);
            }
            return;
        }
        let mut confirm = None;
        if let Some(link) = self.links.table.get_mut(&peer) {
            let s = &mut link.stripes[stripe as usize];
            s.accepted += 1;
            if s.accepted - s.told >= CONFIRM_EVERY {
                s.told = s.accepted;
                confirm = Some(s.accepted);
            }
        }
        if let Some(frames) = confirm {
            self.say(conn, &LinkMessage::Accepted { frames });
        }
        match place {
            Place::Nowhere | Place::State(_) => {}
            Place::Held { data } => self.hold(now, peer, header, data),
            Place::Output { at, .. } => self.deliver(header, at, None),
            Place::Slot { at, data } => self.deliver(header, at, Some(data)),
        }
    }

    fn deliver(&mut self, header: DataHeader, at: Expected, slot: Option<Vec<u8>>) {
        let tag = header.name.tag;
        let Some(op) = self.ops.get_mut(&tag) else { return };
        op.received_bytes += u64::from(header.len);
        let Some(attempt) = &mut op.attempt else { return };
        attempt.execution.deliver(at, slot, &mut op.memory, &self.kernels);
        let room = SPARE_SLOTS.saturating_sub(self.spare_slots.len());
        self.spare_slots.extend(attempt.execution.take_free().take(room));
        self.flush_attempt(tag);
        self.check_done(tag);
    }

    fn hold(&mut self, now: Time, peer: SessionId, header: DataHeader, data: Vec<u8>) {
        // The attempt may have started while the frame came in.
        if self.ops.get(&header.name.tag).is_some_and(|op| op.running_name() == Some(header.name)) {
            return self.take_held(now, peer, Held { header, data });
        }
        if header.name.epoch < self.epoch() {
            return;
        }
        if let Some(link) = self.links.table.get_mut(&peer) {
            link.held_bytes += data.len();
            link.held.push_back(Held { header, data });
        }
    }

    /// Our caller has started an attempt: the frames of it that came before count now.
    pub(super) fn replay_held(&mut self, now: Time, name: AttemptName) {
        let peers: Vec<SessionId> = self.links.table.keys().copied().collect();
        for peer in peers {
            let Some(link) = self.links.table.get_mut(&peer) else {
                continue;
            };
            if link.held.is_empty() {
                continue;
            }
            let (mine, rest) =
                std::mem::take(&mut link.held).into_iter().partition(|h| h.header.name == name);
            link.held = rest;
            link.held_bytes = link.held.iter().map(|h| h.data.len()).sum();
            let mine: std::collections::VecDeque<Held> = mine;
            let any = !mine.is_empty();
            for held in mine {
                self.take_held(now, peer, held);
            }
            if any {
                self.resume_peer(peer);
            }
        }
    }

    fn resume_peer(&mut self, peer: SessionId) {
        let Some(link) = self.links.table.get(&peer) else {
            return;
        };
        for conn in link.stripes.iter().filter_map(|s| s.conn) {
            self.actions.push_back(crate::machine::Action::ResumeReading { conn });
        }
    }

    fn take_held(&mut self, now: Time, peer: SessionId, held: Held) {
        match self.place_of(peer, &held.header) {
            Ok(Place::Output { at, start }) => {
                if let Some(op) = self.ops.get_mut(&held.header.name.tag) {
                    op.memory.output_mut()[start..start + held.data.len()].copy_from_slice(&held.data);
                }
                self.keep_slot(held.data);
                self.deliver(held.header, at, None);
            }
            Ok(Place::Slot { at, data }) => {
                self.keep_slot(data);
                self.deliver(held.header, at, Some(held.data));
            }
            Ok(Place::Held { .. } | Place::State(_) | Place::Nowhere) => self.keep_slot(held.data),
            Err(why) => {
                let conns: Vec<ConnId> = self
                    .links
                    .table
                    .get(&peer)
                    .map(|l| l.stripes.iter().filter_map(|s| s.conn).collect())
                    .unwrap_or_default();
                for conn in conns {
                    self.close_link_conn(now, conn, &why);
                }
            }
        }
    }

    /// A connection is no more: the frame on its way in will come again.
    pub(super) fn give_up_rx(&mut self, conn: ConnId) {
        let Some(data) = self.links.conns.get_mut(&conn).and_then(|c| c.rx.data.take()) else {
            return;
        };
        let Place::Output { at, .. } = data.place else {
            return;
        };
        let Some(op) = self.ops.get_mut(&data.header.name.tag) else {
            return;
        };
        let Some(attempt) = &mut op.attempt else { return };
        if attempt.name == data.header.name {
            attempt.execution.give_up(at);
        }
    }

    fn spare_slot(&mut self, len: usize) -> Vec<u8> {
        let mut slot = self.spare_slots.pop().unwrap_or_default();
        slot.resize(len, 0);
        slot
    }

    fn keep_slot(&mut self, slot: Vec<u8>) {
        if self.spare_slots.len() < SPARE_SLOTS {
            self.spare_slots.push(slot);
        }
    }
}

impl Rx {
    fn compact(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            self.staging.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }
}

impl Tx {
    /// Messages that can still be sent before the connection is closed: none in the middle of a data frame.
    pub(super) fn last_words(&self) -> Vec<u8> {
        if self.has_begun() { Vec::new() } else { self.control[self.control_sent..].to_vec() }
    }

    /// Whether a frame has been sent in part: nothing else may come before its rest.
    fn has_begun(&self) -> bool {
        self.data.front().is_some_and(|sending| sending.sent > 0)
    }

    fn take_control(&mut self, n: usize) -> usize {
        let taken = n.min(self.control.len() - self.control_sent);
        self.control_sent += taken;
        if self.control_sent == self.control.len() {
            self.control.clear();
            self.control_sent = 0;
        }
        taken
    }
}
