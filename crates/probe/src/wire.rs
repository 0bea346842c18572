//! Datagrams between hosts: a fixed header, a code, and filling.

use ring::hmac;

const HEADER: usize = 40;
const CODE: usize = 32;
/// "PCCL check", and the version of this form.
const MAGIC: [u8; 4] = [0x50, 0xcc, 0xc4, 1];

/// What a datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To be answered by an `Echo` at once; `a`: when it was sent.
    Probe = 1,
    /// `a` as it came, `b`: when it was heard, `c`: when this was sent.
    Echo = 2,
    /// One of many, to be counted.
    Train = 3,
    /// Long, to be answered by `Fits`.
    Long = 4,
    /// It has come whole.
    Fits = 5,
    /// Asks how much of a stream has come.
    Tally = 6,
    /// `a`: datagrams, `b`: bits per second.
    Counted = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        let kinds =
            [Self::Probe, Self::Echo, Self::Train, Self::Long, Self::Fits, Self::Tally, Self::Counted];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) kind: Kind,
    /// The host that sends it.
    pub(crate) from: u8,
    /// The host that it is for.
    pub(crate) to: u8,
    /// The stream that it is of, one of the asking host's.
    pub(crate) stream: u32,
    /// Its number there.
    pub(crate) number: u32,
    pub(crate) a: u64,
    pub(crate) b: u64,
    pub(crate) c: u64,
}

/// The key of a meeting.
pub(crate) struct Key(hmac::Key);

impl Key {
    pub(crate) fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }
}

impl Packet {
    /// Its bytes, filled up to `length`.
    pub(crate) fn write(&self, key: &Key, length: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[self.kind as u8, self.from, self.to, 0]);
        out.extend_from_slice(&self.stream.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        for field in [self.a, self.b, self.c] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        let code = hmac::sign(&key.0, &out[start..]);
        out.extend_from_slice(code.as_ref());
        // Filling that says nothing: what is measured must not shrink on links that compress.
        let mut filling = u64::from(self.number) ^ self.a.rotate_left(17) ^ 0x9e37_79b9_7f4a_7c15;
        while out.len() < start + length {
            filling ^= filling << 13;
            filling ^= filling >> 7;
            filling ^= filling << 17;
            let part = filling.to_le_bytes();
            let room = (start + length - out.len()).min(part.len());
            out.extend_from_slice(&part[..room]);
        }
    }

    /// Reads one that has the right code.
    pub(crate) fn read(key: &Key, bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER)?;
        if header[..4] != MAGIC {
            return None;
        }
        hmac::verify(&key.0, header, rest.get(..CODE)?).ok()?;
        let word = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            kind: Kind::from_byte(header[4])?,
            from: header[5],
            to: header[6],
            stream: word(8)?,
            number: word(12)?,
            a: long(16)?,
            b: long(24)?,
            c: long(32)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEAST_BYTES: usize = HEADER + CODE;

    const PACKET: Packet =
        Packet { kind: Kind::Echo, from: 1, to: 2, stream: 3, number: 4, a: 5, b: u64::MAX, c: 7 };

    #[test]
    fn what_is_written_is_read() {
        let key = Key::new(&[7; 32]);
        for length in [0, LEAST_BYTES, 1400] {
            let mut bytes = Vec::new();
            PACKET.write(&key, length, &mut bytes);
            assert_eq!(bytes.len(), length.max(LEAST_BYTES));
            assert_eq!(Packet::read(&key, &bytes), Some(PACKET));
            assert_eq!(Packet::read(&Key::new(&[8; 32]), &bytes), None);
        }
    }

    proptest! {
        #[test]
        fn any_other_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Packet::read(&Key::new(&[7; 32]), &bytes), None);
        }

        #[test]
        fn a_changed_bit_is_refused(bit in 0_usize..LEAST_BYTES * 8, short in 0_usize..LEAST_BYTES) {
            let key = Key::new(&[7; 32]);
            let mut bytes = Vec::new();
            PACKET.write(&key, 0, &mut bytes);
            prop_assert_eq!(Packet::read(&key, &bytes[..short]), None);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Packet::read(&key, &bytes), None);
        }
    }
}
