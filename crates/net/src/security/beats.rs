//! Heartbeats with a code and a number, under keys of the connection between the two.
//!
//! ```text
//! magic 2, connection 8, number 8, the heartbeat, code 16
//! ```
//!
//! A key outlives its connection for a while: as long as heartbeats come, a connection that has broken ends nobody.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pccl_proto::ids::ConnId;

use super::macs::{CODE_BYTES, Coder};
use super::preamble::SessionKey;
use super::refused::{Reason, Refused};

const MAGIC: [u8; 2] = [0xa7, 0x7d];
const HEADER_BYTES: usize = 18;
/// Keys of closed connections that are kept, and for how long.
const MAX_CLOSED: usize = 4096;
const CLOSED_FOR: Duration = Duration::from_secs(600);
/// Numbers behind the highest one that may still come.
const WINDOW: u64 = 64;

/// Names the keys; it says nothing of them.
type KeyId = u64;

struct Keys {
    ours: Coder,
    theirs: Coder,
    sent: u64,
    seen: Window,
    /// We dialed: the other side is where we found it.
    dialed: bool,
}

/// Which numbers have come.
#[derive(Default)]
struct Window {
    /// One more than the highest.
    next: u64,
    /// Bit n: the number `next - 1 - n` has come.
    come: u64,
}

impl Window {
    /// Whether a number is new; from now on it is not.
    fn take(&mut self, number: u64) -> bool {
        if number >= self.next {
            let step = (number - self.next).saturating_add(1);
            self.come = if step >= WINDOW { 0 } else { self.come << step } | 1;
            self.next = number.saturating_add(1);
            return true;
        }
        let bit = self.next - 1 - number;
        if bit >= WINDOW || self.come & (1 << bit) != 0 {
            return false;
        }
        self.come |= 1 << bit;
        true
    }
}

/// The keys of all connections.
#[derive(Default)]
pub(crate) struct Beats {
    keys: BTreeMap<KeyId, Keys>,
    of_conn: BTreeMap<ConnId, KeyId>,
    /// Which keys are used to an address.
    to: BTreeMap<SocketAddr, KeyId>,
    closed: VecDeque<(Instant, KeyId)>,
}

impl Beats {
    /// A connection stands. Datagrams to where we dialed go under its keys.
    pub(crate) fn opened(
        &mut self,
        conn: ConnId,
        session: &SessionKey,
        dialed: Option<SocketAddr>,
    ) -> Result<(), Refused> {
        let id = KeyId::from_be_bytes(
            session.derive("name of the keys for heartbeats").first_chunk().copied().unwrap_or_default(),
        );
        let dialing = Coder::new(session, "heartbeats of the dialing side")?;
        let accepting = Coder::new(session, "heartbeats of the accepting side")?;
        let (ours, theirs) = if dialed.is_some() { (dialing, accepting) } else { (accepting, dialing) };
        self.keys
            .insert(id, Keys { ours, theirs, sent: 0, seen: Window::default(), dialed: dialed.is_some() });
        self.of_conn.insert(conn, id);
        if let Some(addr) = dialed {
            self.to.insert(addr, id);
        }
        Ok(())
    }

    /// A connection is gone; its keys stay for a while.
    pub(crate) fn closed(&mut self, conn: ConnId, now: Instant) {
        let Some(id) = self.of_conn.remove(&conn) else { return };
        self.closed.push_back((now, id));
        while let Some((at, id)) = self.closed.front().copied() {
            if self.closed.len() <= MAX_CLOSED && now.duration_since(at) < CLOSED_FOR {
                return;
            }
            self.closed.pop_front();
            self.keys.remove(&id);
            self.to.retain(|_, used| *used != id);
        }
    }

    /// A heartbeat as it goes over the network; none if the other side shares no keys with us (yet).
    pub(crate) fn seal(&mut self, to: SocketAddr, beat: &[u8]) -> Option<Vec<u8>> {
        let id = *self.to.get(&to)?;
        let keys = self.keys.get_mut(&id)?;
        let number = keys.sent;
        keys.sent += 1;
        let mut out = Vec::with_capacity(HEADER_BYTES + beat.len() + CODE_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(beat);
        let code = keys.ours.code(number, &out).ok()?;
        out.extend_from_slice(&code);
        Some(out)
    }

    /// The heartbeat in a datagram.
    pub(crate) fn open<'a>(&mut self, from: SocketAddr, datagram: &'a [u8]) -> Result<&'a [u8], Refused> {
        let forged = |why: &str| Refused::new(Reason::Heartbeat, why);
        let parts = datagram
            .split_last_chunk::<CODE_BYTES>()
            .filter(|(signed, _)| signed.len() >= HEADER_BYTES && signed[..MAGIC.len()] == MAGIC);
        let (signed, code) = parts.ok_or_else(|| {
            forged("a heartbeat without a code; authentication or TLS is on here, and must be on there too")
        })?;
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&signed[at..at + 8]);
            u64::from_be_bytes(bytes)
        };
        let (id, number) = (number(2), number(10));
        let keys = self.keys.get_mut(&id).ok_or_else(|| {
            forged("a heartbeat under keys that are not known here: of a connection that ended long ago, or forged")
        })?;
        if !keys.theirs.is_right(number, signed, *code) {
            return Err(forged("a heartbeat whose code is wrong: spoiled or forged"));
        }
        if !keys.seen.take(number) {
            return Err(Refused::new(Reason::HeartbeatReplayed, "a heartbeat that has been here before"));
        }
        // Answers go where the newest word came from.
        let newest = number.saturating_add(1) == keys.seen.next;
        if newest && !keys.dialed && self.to.get(&from) != Some(&id) {
            self.to.retain(|addr, used| *used != id || *addr == from);
            self.to.insert(from, id);
        }
        Ok(&signed[HEADER_BYTES..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "10.0.0.2:40000";
    const MASTER: &str = "10.0.0.1:7117";

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn pair() -> (Beats, Beats) {
        let session = SessionKey::of_channel(&[3; 32]);
        let (mut peer, mut master) = (Beats::default(), Beats::default());
        peer.opened(ConnId(1), &session, Some(addr(MASTER))).unwrap();
        master.opened(ConnId(9), &session, None).unwrap();
        (peer, master)
    }

    #[test]
    fn a_beat_is_answered_and_nothing_is_sent_to_strangers() {
        let (mut peer, mut master) = pair();
        assert_eq!(master.seal(addr(PEER), b"first"), None);
        let beat = peer.seal(addr(MASTER), b"beat").unwrap();
        assert_eq!(master.open(addr(PEER), &beat).unwrap(), b"beat");
        let answer = master.seal(addr(PEER), b"answer").unwrap();
        assert_eq!(peer.open(addr(MASTER), &answer).unwrap(), b"answer");
        assert_eq!(peer.seal(addr(PEER), b"to nobody"), None);
    }

    #[test]
    fn a_beat_that_is_repeated_turned_around_or_spoiled_is_refused() {
        let (mut peer, mut master) = pair();
        let beat = peer.seal(addr(MASTER), b"beat").unwrap();
        master.open(addr(PEER), &beat).unwrap();
        let reason = |beats: &mut Beats, bytes: &[u8]| beats.open(addr(PEER), bytes).unwrap_err().reason;
        assert_eq!(reason(&mut master, &beat), Reason::HeartbeatReplayed);
        assert_eq!(reason(&mut peer, &beat), Reason::Heartbeat);
        for bit in 0..beat.len() * 8 {
            let mut spoiled = beat.clone();
            spoiled[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(reason(&mut master, &spoiled), Reason::Heartbeat, "bit {bit}");
        }
        assert_eq!(reason(&mut master, b""), Reason::Heartbeat);
        assert_eq!(reason(&mut master, &beat[..20]), Reason::Heartbeat);
    }

    #[test]
    fn beats_may_overtake_each_other_a_little() {
        let (mut peer, mut master) = pair();
        let beats: Vec<_> = (0..100).map(|_| peer.seal(addr(MASTER), b"beat").unwrap()).collect();
        for n in [3, 1, 0, 2, 99, 60] {
            master.open(addr(PEER), &beats[n]).unwrap();
        }
        for n in [3, 0, 99, 60, 10] {
            assert_eq!(
                master.open(addr(PEER), &beats[n]).unwrap_err().reason,
                Reason::HeartbeatReplayed,
                "beat {n}"
            );
        }
    }

    #[test]
    fn keys_outlive_their_connection_but_not_for_ever() {
        let (mut peer, mut master) = pair();
        let start = Instant::now();
        master.closed(ConnId(9), start);
        let beat = peer.seal(addr(MASTER), b"beat").unwrap();
        master.open(addr(PEER), &beat).unwrap();
        for n in 0..=MAX_CLOSED {
            let mut binding = [0; 32];
            binding[..8].copy_from_slice(&(n as u64 + 1).to_be_bytes());
            let session = SessionKey::of_channel(&binding);
            master.opened(ConnId(100 + n as u64), &session, None).unwrap();
            master.closed(ConnId(100 + n as u64), start);
        }
        assert!(master.closed.len() <= MAX_CLOSED && master.keys.len() <= MAX_CLOSED);
        let beat = peer.seal(addr(MASTER), b"beat").unwrap();
        assert_eq!(master.open(addr(PEER), &beat).unwrap_err().reason, Reason::Heartbeat);
        assert!(master.to.is_empty());
    }
}
