//! The bytes of a connection between its socket and the protocol: handshake, challenge, then sealed records.
//!
//! Knows no socket: what came from one goes in, what is to be written comes out.

use std::net::SocketAddr;
use std::ops::Range;

use rustls::pki_types::CertificateDer;

use super::Security;
use super::handshake::{Binding, Handshake};
use super::macs::MacRecords;
use super::outgoing::Outgoing;
use super::preamble::{Preamble, SessionKey};
use super::records::{Opened, TlsRecords};
use super::refused::{Reason, Refused};

/// Most bytes that somebody may send before it is known who that is: certificate chains of a sensible length.
const MAX_STRANGER_BYTES: usize = 64 << 10;
/// Room for what comes, at first and at most: what is opened is copied while it is in the cache.
const MIN_ROOM: usize = 4 << 10;
const MAX_ROOM: usize = 128 << 10;
/// Most bytes that are sealed before they are written: eight records of TLS, which fill two segments of a loopback
/// connection (65,483 bytes each) and do not begin a third.
const SEAL_BYTES: usize = 255 << 9;
/// A TLS record with the alert that a connection ends, as one may send it before anything is agreed on.
const PLAIN_ALERTS: [u8; 14] = [21, 3, 3, 0, 2, 2, 10, 21, 3, 3, 0, 2, 1, 0];
/// Kinds of TLS records: alert, handshake.
const TLS_KINDS: [u8; 2] = [21, 22];

enum Stage {
    Tls(Box<Handshake>),
    Challenge(Box<Preamble>),
    Open,
    /// It has failed, and nothing more is read.
    Failed,
}

enum Layer {
    None,
    Tls(Box<TlsRecords>),
    Macs(Box<MacRecords>),
}

/// What came and what part of it has been opened.
struct Incoming {
    bytes: Vec<u8>,
    /// Opened, and not taken yet.
    plain: Range<usize>,
    /// Not opened yet: from here to `end`.
    start: usize,
    end: usize,
}

impl Incoming {
    fn new() -> Self {
        Self { bytes: vec![0; MIN_ROOM], plain: 0..0, start: 0, end: 0 }
    }

    fn room(&mut self) -> &mut [u8] {
        let keep = if self.plain.is_empty() { self.start } else { self.plain.start };
        if keep == self.end {
            (self.plain, self.start, self.end) = (0..0, 0, 0);
        } else if keep > 0 && self.bytes.len() - self.end < self.bytes.len() / 2 {
            self.bytes.copy_within(keep..self.end, 0);
            self.plain = if self.plain.is_empty() { 0..0 } else { 0..self.plain.end - keep };
            (self.start, self.end) = (self.start - keep, self.end - keep);
        }
        if self.end == self.bytes.len() {
            // One record is always shorter than the largest room.
            let larger = (self.bytes.len() * 4).min(MAX_ROOM.max(self.bytes.len() + MIN_ROOM));
            self.bytes.resize(larger, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// A read that filled the room: more may come at once, and few large reads cost less than many small ones.
    fn grow(&mut self) {
        if self.end == self.bytes.len() && self.bytes.len() < MAX_ROOM {
            self.bytes.resize((self.bytes.len() * 4).min(MAX_ROOM), 0);
        }
    }
}

/// One connection. Public for the targets of `fuzz` only.
pub struct Channel {
    stage: Stage,
    layer: Layer,
    incoming: Incoming,
    outgoing: Outgoing,
    security: Security,
    /// Whom we dialed.
    dialed: Option<SocketAddr>,
    /// The part of the challenge that is coming.
    challenge: Vec<u8>,
    heard: usize,
    /// The other side speaks TLS.
    begun: bool,
    binding: Option<Binding>,
    session: Option<SessionKey>,
    certificate: Option<CertificateDer<'static>>,
    closed: bool,
}

impl Channel {
    /// Of a connection that we dial.
    pub fn dialing(security: &Security, addr: SocketAddr) -> Result<Self, Refused> {
        let mut channel = Self::new(security, Some(addr));
        match security.tls_client(addr)? {
            Some(handshake) => channel.stage = Stage::Tls(Box::new(handshake)),
            None => channel.begin_challenge()?,
        }
        channel.go_on()?;
        Ok(channel)
    }

    /// Of a connection that we have accepted.
    pub fn accepting(security: &Security) -> Result<Self, Refused> {
        let mut channel = Self::new(security, None);
        match security.tls_server()? {
            Some(handshake) => channel.stage = Stage::Tls(Box::new(handshake)),
            None => channel.begin_challenge()?,
        }
        Ok(channel)
    }

    fn new(security: &Security, dialed: Option<SocketAddr>) -> Self {
        Self {
            stage: Stage::Failed,
            layer: Layer::None,
            incoming: Incoming::new(),
            outgoing: Outgoing::default(),
            security: security.clone(),
            dialed,
            challenge: Vec::new(),
            heard: 0,
            begun: false,
            binding: None,
            session: None,
            certificate: None,
            closed: false,
        }
    }

    /// Whether the other side is known, and bytes of the protocol may pass.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// Whether the other side has said that no more comes.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether anything has come at all.
    pub(crate) fn has_heard(&self) -> bool {
        self.heard > 0
    }

    /// Keys for heartbeats beside this connection.
    pub(crate) fn session(&self) -> Option<&SessionKey> {
        self.session.as_ref()
    }

    /// The certificate of whoever has connected, which nobody needs twice.
    pub(crate) fn take_certificate(&mut self) -> Option<CertificateDer<'static>> {
        self.certificate.take()
    }

    /// Where the next bytes from the socket go. Never empty.
    pub fn room(&mut self) -> &mut [u8] {
        self.incoming.room()
    }

    /// So many bytes have come.
    pub fn received(&mut self, n: usize) -> Result<(), Refused> {
        self.incoming.end += n;
        if self.is_open() {
            self.incoming.grow();
            return Ok(());
        }
        self.heard += n;
        if self.heard > MAX_STRANGER_BYTES {
            self.stage = Stage::Failed;
            return Err(Refused::new(
                Reason::TooManyBytes,
                format!("it sent more than {MAX_STRANGER_BYTES} bytes before it said who it is"),
            ));
        }
        let result = self.go_on();
        if result.is_err() {
            self.stage = Stage::Failed;
        }
        result
    }

    fn go_on(&mut self) -> Result<(), Refused> {
        loop {
            match &mut self.stage {
                Stage::Tls(handshake) => {
                    let bytes = &mut self.incoming.bytes[self.incoming.start..self.incoming.end];
                    let first = bytes.first().filter(|_| self.dialed.is_none() && !self.begun);
                    if first.is_some_and(|kind| !TLS_KINDS.contains(kind)) {
                        self.outgoing.push(&PLAIN_ALERTS);
                        return Err(Refused::new(
                            Reason::PlainText,
                            "it does not speak TLS, and TLS is on here; set network.tls there too",
                        ));
                    }
                    let outgoing = &mut self.outgoing;
                    let (used, agreed) = handshake.go_on(bytes, &mut |record| outgoing.push(&record))?;
                    self.incoming.start += used;
                    self.begun |= used > 0;
                    let Some(agreed) = agreed else { return Ok(()) };
                    self.layer = Layer::Tls(Box::new(agreed.records));
                    self.binding = Some(agreed.binding);
                    self.certificate = agreed.certificate;
                    self.session = Some(SessionKey::of_channel(&agreed.binding));
                    self.put_early(&agreed.early);
                    self.begin_challenge()?;
                }
                Stage::Challenge(_) => {
                    if !self.challenge_on()? {
                        return Ok(());
                    }
                }
                Stage::Open | Stage::Failed => return Ok(()),
            }
        }
    }

    /// Bytes that were opened during the handshake come before those that have not been opened.
    fn put_early(&mut self, early: &[u8]) {
        let incoming = &mut self.incoming;
        if early.is_empty() {
            return;
        }
        let rest = incoming.bytes[incoming.start..incoming.end].to_vec();
        incoming.bytes = early.to_vec();
        incoming.bytes.extend_from_slice(&rest);
        (incoming.plain, incoming.start) = (0..early.len(), early.len());
        incoming.end = incoming.bytes.len();
    }

    fn begin_challenge(&mut self) -> Result<(), Refused> {
        let Some(secret) = self.security.secret() else {
            self.stage = Stage::Open;
            return Ok(());
        };
        let preamble = if self.dialed.is_some() {
            let (preamble, hello) = Preamble::dialing(secret, self.binding)?;
            self.say(&hello)?;
            preamble
        } else {
            Preamble::accepting(secret, self.binding)
        };
        self.stage = Stage::Challenge(Box::new(preamble));
        Ok(())
    }

    /// A part of the challenge, if it is there; false if more must come.
    fn challenge_on(&mut self) -> Result<bool, Refused> {
        let Stage::Challenge(preamble) = &self.stage else { return Ok(true) };
        let wanted = match preamble.wants(&self.challenge) {
            Ok(wanted) => wanted,
            Err(refused) => {
                if matches!(refused.reason, Reason::NotAuthenticated | Reason::PlainText) {
                    self.say(&Preamble::refusal())?;
                }
                return Err(refused);
            }
        };
        if self.challenge.len() < wanted {
            let room = wanted - self.challenge.len();
            let plain = self.plain()?;
            let part = plain[..plain.len().min(room)].to_vec();
            self.challenge.extend_from_slice(&part);
            self.take(part.len());
            return Ok(!part.is_empty());
        }
        let message = std::mem::take(&mut self.challenge);
        let Stage::Challenge(preamble) = &mut self.stage else { return Ok(true) };
        match preamble.take(&message) {
            Ok((session, answer)) => {
                self.say(&answer)?;
                if let Some(session) = session {
                    self.authenticated(session)?;
                }
                Ok(true)
            }
            Err(refused) => {
                self.say(&Preamble::refusal())?;
                Err(refused)
            }
        }
    }

    fn authenticated(&mut self, session: SessionKey) -> Result<(), Refused> {
        if matches!(self.layer, Layer::None) {
            self.layer = Layer::Macs(Box::new(MacRecords::new(&session, self.dialed.is_some())?));
            // What came behind the challenge has codes.
            if !self.incoming.plain.is_empty() {
                self.incoming.start = self.incoming.plain.start;
                self.incoming.plain = 0..0;
            }
        }
        self.session = Some(session);
        self.stage = Stage::Open;
        Ok(())
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        if matches!(self.layer, Layer::None) {
            self.outgoing.push(bytes);
            return Ok(());
        }
        self.seal_chunks(&[bytes]).map(|_| ())
    }

    /// Bytes that the other side sent, opened; none if more must come first.
    pub fn plain(&mut self) -> Result<&[u8], Refused> {
        let incoming = &mut self.incoming;
        let outgoing = &mut self.outgoing;
        while incoming.plain.is_empty() && incoming.start < incoming.end && !self.closed {
            let (start, end) = (incoming.start, incoming.end);
            let here = &mut incoming.bytes[start..end];
            let length = match &self.layer {
                Layer::None => Some(here.len()),
                Layer::Tls(_) => TlsRecords::record_bytes(here)?,
                Layer::Macs(_) => MacRecords::record_bytes(here)?,
            };
            let Some(record) = length.and_then(|length| here.get_mut(..length)) else { break };
            incoming.start += record.len();
            let data = match &mut self.layer {
                Layer::None => 0..record.len(),
                Layer::Macs(records) => records.open(record)?,
                Layer::Tls(records) => match records.open(record, outgoing)? {
                    Opened::Data(data) => data,
                    Opened::Nothing => continue,
                    Opened::Closed => {
                        self.closed = true;
                        break;
                    }
                },
            };
            incoming.plain = start + data.start..start + data.end;
        }
        Ok(&self.incoming.bytes[self.incoming.plain.clone()])
    }

    /// Opens the next record straight into the memory that its bytes are for: how many there are, maybe none. Does nothing
    /// if that memory is too small for it, or there is no whole record, or another way to read it.
    pub fn open_into(&mut self, into: &mut [u8]) -> Result<Option<usize>, Refused> {
        let Layer::Tls(records) = &mut self.layer else { return Ok(None) };
        let incoming = &mut self.incoming;
        if !incoming.plain.is_empty() || self.closed {
            return Ok(None);
        }
        let here = &incoming.bytes[incoming.start..incoming.end];
        let length = TlsRecords::record_bytes(here)?;
        let Some(record) = length.and_then(|length| here.get(..length)) else { return Ok(None) };
        let Some(opened) = records.open_into(record, into, &mut self.outgoing)? else { return Ok(None) };
        incoming.start += record.len();
        match opened {
            Opened::Data(data) => return Ok(Some(data.len())),
            Opened::Nothing => {}
            Opened::Closed => self.closed = true,
        }
        Ok(Some(0))
    }

    /// So many bytes of [`plain`](Self::plain) have been used.
    pub fn take(&mut self, n: usize) {
        self.incoming.plain.start += n;
    }

    /// Takes bytes to be written, as many as are good for one write: how many.
    pub fn seal(&mut self, chunks: &[&[u8]]) -> Result<usize, Refused> {
        self.seal_chunks(chunks)
    }

    fn seal_chunks(&mut self, chunks: &[&[u8]]) -> Result<usize, Refused> {
        match &mut self.layer {
            Layer::None => Ok(0),
            Layer::Tls(records) => records.seal(chunks, SEAL_BYTES, &mut self.outgoing),
            Layer::Macs(records) => records.seal(chunks, SEAL_BYTES, &mut self.outgoing),
        }
    }

    /// Says that no more comes, where the layer has a word for it.
    pub fn seal_close(&mut self) {
        if let Layer::Tls(records) = &mut self.layer {
            // The connection is closed in any case.
            let _ = records.seal_close(&mut self.outgoing);
        }
    }

    /// Whether anything is to be written.
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing().is_empty()
    }

    /// What is to be written next.
    pub fn outgoing(&self) -> &[u8] {
        self.outgoing.as_slice()
    }

    /// So many bytes of [`outgoing`](Self::outgoing) have been written.
    pub fn written(&mut self, n: usize) {
        self.outgoing.written(n);
    }

    #[cfg(test)]
    pub(super) fn tls(&mut self) -> Option<&mut TlsRecords> {
        match &mut self.layer {
            Layer::Tls(records) => Some(records),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
