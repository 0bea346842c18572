//! Framing: how messages and tensor data lie in a byte stream.
//!
//! Every frame starts with eight bytes: magic (2), kind (1), version (1), payload length (4); little-endian throughout.
//! A control frame's payload is a message in postcard encoding. A data frame has a [`DataHeader`] of 56 bytes between
//! the prefix and its payload. Lengths are bounded before anything is allocated.

pub use pccl_collective::execute::MAX_DATA_BYTES;
use serde::{Serialize, de::DeserializeOwned};

use crate::ids::{AttemptName, Epoch, Tag};

/// Version of the protocol; both ends of a connection must have the same one.
pub const VERSION: u8 = 1;

const MAGIC: u16 = 0x7cc1;
/// The first bytes of the challenge that stands before the protocol where authentication is on.
const AUTHENTICATION: [u8; 2] = [0xa7, 0x7c];

/// Bytes of the prefix of every frame.
pub const PREFIX_BYTES: usize = 8;
/// Bytes of a data frame before its payload: prefix and [`DataHeader`].
pub const DATA_HEADER_BYTES: usize = PREFIX_BYTES + 56;
/// Bytes of a shared-state frame before its payload: prefix and [`StateHeader`].
pub const STATE_HEADER_BYTES: usize = DATA_HEADER_BYTES;
/// Most payload bytes of a control frame between a master and a registered peer.
pub const MAX_CONTROL_BYTES: usize = 8 << 20;
/// Most payload bytes of a control frame from a stranger, and between peers.
pub const MAX_STRANGER_BYTES: usize = 64 << 10;

/// Bytes that are not a frame of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not our protocol at all.
    #[error("the first bytes are not those of this protocol (is another program using this port?)")]
    Magic,
    /// TLS, which the other side has on and this one off.
    #[error(
        "the first bytes are those of TLS: network.tls is on at one end and off at the other; use the same \
         certificates' settings on both"
    )]
    Tls,
    /// A challenge, or the refusal of whoever did not answer one.
    #[error(
        "authentication is on at one end and off at the other; set auth.secret on both, to the same secret"
    )]
    Authentication,
    /// Another version of it.
    #[error(
        "protocol version {theirs}, expected {VERSION}: all processes of a run must have the same version of pccl"
    )]
    Version {
        /// The other side's version.
        theirs: u8,
    },
    /// A kind of frame that does not exist, or not here.
    #[error("a frame of kind {0}, which does not belong here")]
    Kind(u8),
    /// A length beyond the limit.
    #[error("a frame of {bytes} bytes, the limit is {limit}")]
    Length {
        /// As announced.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A payload that cannot be decoded.
    #[error("a message that cannot be decoded")]
    Payload,
    /// A field outside its range.
    #[error("a data frame with an impossible {0}")]
    Field(&'static str),
}

/// Kinds of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A message.
    Control,
    /// Tensor data.
    Data,
    /// Shared-state data.
    State,
}

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// What follows.
    pub kind: Kind,
    /// Payload bytes.
    pub len: usize,
}

impl Prefix {
    /// Writes the prefix.
    pub fn encode(self) -> [u8; PREFIX_BYTES] {
        let mut out = [0; PREFIX_BYTES];
        out[..2].copy_from_slice(&MAGIC.to_le_bytes());
        out[2] = match self.kind {
            Kind::Control => 1,
            Kind::Data => 2,
            Kind::State => 3,
        };
        out[3] = VERSION;
        out[4..].copy_from_slice(&(self.len as u32).to_le_bytes());
        out
    }

    /// Reads a prefix from at least [`PREFIX_BYTES`] bytes; `control_limit` bounds control payloads.
    pub fn decode(bytes: &[u8], control_limit: usize) -> Result<Self, WireError> {
        match [bytes[0], bytes[1]] {
            magic if u16::from_le_bytes(magic) == MAGIC => {}
            [20..=22, 3] => return Err(WireError::Tls),
            AUTHENTICATION => return Err(WireError::Authentication),
            _ => return Err(WireError::Magic),
        }
        if bytes[3] != VERSION {
            return Err(WireError::Version { theirs: bytes[3] });
        }
        let len = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        let (kind, limit) = match bytes[2] {
            1 => (Kind::Control, control_limit),
            2 => (Kind::Data, MAX_DATA_BYTES),
            3 => (Kind::State, MAX_DATA_BYTES),
            other => return Err(WireError::Kind(other)),
        };
        if len > limit {
            return Err(WireError::Length { bytes: len, limit });
        }
        Ok(Self { kind, len })
    }
}

/// Appends a control frame with `message` to `out`.
pub fn encode_control<T: Serialize>(message: &T, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    // Encoding into a growing vector cannot fail: none of our messages has a serializer that returns errors.
    if let Ok(payload) = postcard::to_allocvec(message) {
        out.extend_from_slice(&payload);
    }
    let len = out.len() - start - PREFIX_BYTES;
    out[start..start + PREFIX_BYTES].copy_from_slice(&Prefix { kind: Kind::Control, len }.encode());
}

/// Decodes a control frame's payload; trailing bytes are an error.
pub fn decode_control<T: DeserializeOwned>(payload: &[u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(payload) {
        Ok((message, [])) => Ok(message),
        _ => Err(WireError::Payload),
    }
}

/// What stands before the payload of a data frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DataHeader {
    /// The attempt.
    pub name: AttemptName,
    /// Digest of the op's fingerprint.
    pub digest: u32,
    /// Which of the transfers between the two peers for this part of the tensor.
    pub phase: u16,
    /// First element of the payload, counted over all chunks of the op, as a byte offset.
    pub offset: u64,
    /// Payload bytes.
    pub len: u32,
    /// Number of this data frame on its stripe.
    pub seq: u64,
    /// Data frames that the sender has accepted on this stripe.
    pub accepted: u64,
}

impl DataHeader {
    /// Writes prefix and header.
    pub fn encode(&self) -> [u8; DATA_HEADER_BYTES] {
        let mut out = [0; DATA_HEADER_BYTES];
        out[..8].copy_from_slice(&Prefix { kind: Kind::Data, len: self.len as usize }.encode());
        out[8..16].copy_from_slice(&self.name.epoch.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.name.tag.0.to_le_bytes());
        out[24..28].copy_from_slice(&self.name.n.to_le_bytes());
        out[28..32].copy_from_slice(&self.digest.to_le_bytes());
        out[32..40].copy_from_slice(&self.offset.to_le_bytes());
        out[40..48].copy_from_slice(&self.seq.to_le_bytes());
        out[48..56].copy_from_slice(&self.accepted.to_le_bytes());
        out[56..58].copy_from_slice(&self.phase.to_le_bytes());
        out
    }

    /// Reads what follows the prefix from at least [`DATA_HEADER_BYTES`] bytes (prefix included).
    pub fn decode(bytes: &[u8], prefix: Prefix) -> Result<Self, WireError> {
        fn at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
            let mut out = [0; N];
            out.copy_from_slice(&bytes[offset..offset + N]);
            out
        }
        if bytes[58..64] != [0; 6] {
            return Err(WireError::Field("reserved part"));
        }
        Ok(Self {
            name: AttemptName {
                epoch: Epoch(u64::from_le_bytes(at(bytes, 8))),
                tag: Tag(u64::from_le_bytes(at(bytes, 16))),
                n: u32::from_le_bytes(at(bytes, 24)),
            },
            digest: u32::from_le_bytes(at(bytes, 28)),
            offset: u64::from_le_bytes(at(bytes, 32)),
            seq: u64::from_le_bytes(at(bytes, 40)),
            accepted: u64::from_le_bytes(at(bytes, 48)),
            phase: u16::from_le_bytes(at(bytes, 56)),
            len: prefix.len as u32,
        })
    }
}

/// What stands before the payload of a shared-state frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateHeader {
    /// Names the synchronization.
    pub sync: u64,
    /// The block.
    pub block: u32,
    /// First byte of the payload in the block.
    pub offset: u32,
    /// Payload bytes.
    pub len: u32,
}

impl StateHeader {
    /// Writes prefix and header.
    pub fn encode(&self) -> [u8; STATE_HEADER_BYTES] {
        let mut out = [0; STATE_HEADER_BYTES];
        out[..8].copy_from_slice(&Prefix { kind: Kind::State, len: self.len as usize }.encode());
        out[8..16].copy_from_slice(&self.sync.to_le_bytes());
        out[16..20].copy_from_slice(&self.block.to_le_bytes());
        out[20..24].copy_from_slice(&self.offset.to_le_bytes());
        out
    }

    /// Reads what follows the prefix from at least [`STATE_HEADER_BYTES`] bytes (prefix included).
    pub fn decode(bytes: &[u8], prefix: Prefix) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self {
            sync: u64::from(word(8)) | u64::from(word(12)) << 32,
            block: word(16),
            offset: word(20),
            len: prefix.len as u32,
        }
    }
}

/// A connection that carries control frames only: bytes in, messages out, and the other way round.
#[derive(Debug)]
pub struct ControlStream {
    inbox: Vec<u8>,
    filled: usize,
    outbox: Vec<u8>,
    sent: usize,
    limit: usize,
}

const READ_BYTES: usize = 4 << 10;

impl ControlStream {
    /// A stream that takes frames of at most `limit` payload bytes.
    pub fn new(limit: usize) -> Self {
        Self { inbox: Vec::new(), filled: 0, outbox: Vec::new(), sent: 0, limit }
    }

    /// Raises (or lowers) the limit on the frames to come.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Queues a message.
    pub fn push<T: Serialize>(&mut self, message: &T) {
        if self.sent == self.outbox.len() {
            self.outbox.clear();
            self.sent = 0;
        }
        encode_control(message, &mut self.outbox);
    }

    /// Bytes queued and not yet taken.
    pub fn queued_bytes(&self) -> usize {
        self.outbox.len() - self.sent
    }

    /// What to send next.
    pub fn transmit_buffer(&self) -> &[u8] {
        &self.outbox[self.sent..]
    }

    /// `n` bytes were taken.
    pub fn handle_transmitted(&mut self, n: usize) {
        self.sent = (self.sent + n).min(self.outbox.len());
    }

    /// Where the next bytes go. Grows only as bytes arrive, so that an announced length costs its sender as much as us.
    pub fn receive_buffer(&mut self) -> &mut [u8] {
        if self.inbox.len() < self.filled + READ_BYTES {
            let room = (self.filled * 2).clamp(READ_BYTES, 1 << 20);
            self.inbox.resize(self.filled + room, 0);
        }
        &mut self.inbox[self.filled..]
    }

    /// `n` bytes were written to `receive_buffer`.
    pub fn handle_received(&mut self, n: usize) {
        self.filled = (self.filled + n).min(self.inbox.len());
    }

    /// The next complete message, if any. After an error the connection must be closed.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        if self.filled < PREFIX_BYTES {
            return Ok(None);
        }
        let prefix = Prefix::decode(&self.inbox, self.limit)?;
        if prefix.kind != Kind::Control {
            return Err(WireError::Kind(2));
        }
        let end = PREFIX_BYTES + prefix.len;
        if self.filled < end {
            return Ok(None);
        }
        let message = decode_control(&self.inbox[PREFIX_BYTES..end])?;
        self.inbox.copy_within(end..self.filled, 0);
        self.filled -= end;
        if self.filled == 0 && self.inbox.len() > 64 << 10 {
            self.inbox = Vec::new();
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_headers_round_trip() {
        let header = DataHeader {
            name: AttemptName { epoch: Epoch(7), tag: Tag(u64::MAX), n: 3 },
            digest: 0xdead_beef,
            phase: 513,
            offset: 1 << 40,
            len: 4096,
            seq: 99,
            accepted: 98,
        };
        let bytes = header.encode();
        let prefix = Prefix::decode(&bytes, 0).unwrap();
        assert_eq!(DataHeader::decode(&bytes, prefix).unwrap(), header);
    }

    #[test]
    fn state_headers_round_trip() {
        let header = StateHeader { sync: 7 << 32 | 9, block: u32::MAX, offset: 256 << 10, len: 77 };
        let bytes = header.encode();
        let prefix = Prefix::decode(&bytes, 0).unwrap();
        assert_eq!((prefix.kind, StateHeader::decode(&bytes, prefix)), (Kind::State, header));
    }

    #[test]
    fn messages_survive_any_fragmentation() {
        let messages: Vec<String> = (0..20).map(|i| "x".repeat(i * 137)).collect();
        for step in [1, 3, 7, 8, 9, 1000, 5000] {
            let mut from = ControlStream::new(MAX_STRANGER_BYTES);
            let mut to = ControlStream::new(MAX_STRANGER_BYTES);
            let mut got: Vec<String> = Vec::new();
            for m in &messages {
                from.push(m);
            }
            while from.queued_bytes() > 0 {
                let buffer = to.receive_buffer();
                let n = from.transmit_buffer().len().min(step).min(buffer.len());
                buffer[..n].copy_from_slice(&from.transmit_buffer()[..n]);
                from.handle_transmitted(n);
                to.handle_received(n);
                while let Some(m) = to.next_message().unwrap() {
                    got.push(m);
                }
            }
            assert_eq!(got, messages);
        }
    }

    #[test]
    fn hostile_prefixes_are_refused_before_anything_is_allocated() {
        let mut stream = ControlStream::new(1000);
        let huge = Prefix { kind: Kind::Control, len: u32::MAX as usize }.encode();
        stream.receive_buffer()[..8].copy_from_slice(&huge);
        stream.handle_received(8);
        assert_eq!(
            stream.next_message::<String>(),
            Err(WireError::Length { bytes: u32::MAX as usize, limit: 1000 })
        );
        assert_eq!(Prefix::decode(b"GET / HT", 10), Err(WireError::Magic));
        assert_eq!(
            Prefix::decode(&[0xc1, 0x7c, 1, 9, 0, 0, 0, 0], 10),
            Err(WireError::Version { theirs: 9 })
        );
        assert_eq!(decode_control::<String>(&[200, 1, 2]), Err(WireError::Payload));
    }
}
