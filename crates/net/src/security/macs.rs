//! Records of a connection that is authenticated and not encrypted: length, bytes, code.
//!
//! The code is AES-256-GCM over nothing but additional data, with a key of its own for each direction of each connection
//! and the record's number as nonce. So a record that is changed, repeated, left out or sent back is refused, and the cost
//! is low enough for tensor data.

use std::ops::Range;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};

use super::outgoing::{Outgoing, Plain};
use super::preamble::SessionKey;
use super::refused::{Reason, Refused};

/// Bytes of the length before a record.
pub(super) const HEADER_BYTES: usize = 4;
/// Most bytes that a record carries.
pub(super) const MAX_PLAIN_BYTES: usize = 64 << 10;
/// Bytes of a code.
pub(super) const CODE_BYTES: usize = 16;

/// The code of bytes with a number, under a key that is used for nothing else.
pub(super) struct Coder(LessSafeKey);

impl Coder {
    pub(super) fn new(session: &SessionKey, purpose: &str) -> Result<Self, Refused> {
        let key = UnboundKey::new(&AES_256_GCM, &session.derive(purpose))
            .map_err(|_| Refused::new(Reason::NotAuthenticated, "a key cannot be made"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// The code; no number may come twice.
    pub(super) fn code(&self, number: u64, bytes: &[u8]) -> Result<[u8; CODE_BYTES], Refused> {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(number), Aad::from(bytes), &mut [])
            .map_err(|_| Refused::new(Reason::Forged, "a record cannot be given a code"))?;
        let mut code = [0; CODE_BYTES];
        code.copy_from_slice(tag.as_ref());
        Ok(code)
    }

    /// Whether the code is the right one, in constant time.
    pub(super) fn is_right(&self, number: u64, bytes: &[u8], code: [u8; CODE_BYTES]) -> bool {
        let tag = Tag::from(code);
        self.0.open_in_place_separate_tag(nonce(number), Aad::from(bytes), tag, &mut [], 0..).is_ok()
    }
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Both directions of a connection.
pub(super) struct MacRecords {
    ours: Coder,
    theirs: Coder,
    sent: u64,
    received: u64,
}

impl MacRecords {
    pub(super) fn new(session: &SessionKey, dialed: bool) -> Result<Self, Refused> {
        let dialing = Coder::new(session, "records of the dialing side")?;
        let accepting = Coder::new(session, "records of the accepting side")?;
        let (ours, theirs) = if dialed { (dialing, accepting) } else { (accepting, dialing) };
        Ok(Self { ours, theirs, sent: 0, received: 0 })
    }

    /// Writes records with up to `limit` of these bytes. How many it took.
    pub(super) fn seal(
        &mut self,
        chunks: &[&[u8]],
        limit: usize,
        out: &mut Outgoing,
    ) -> Result<usize, Refused> {
        let mut plain = Plain::new(chunks);
        let total = plain.len().min(limit);
        let mut left = total;
        while left > 0 {
            let n = left.min(MAX_PLAIN_BYTES);
            let (signed, code) = out.space(HEADER_BYTES + n + CODE_BYTES).split_at_mut(HEADER_BYTES + n);
            signed[..HEADER_BYTES].copy_from_slice(&(n as u32).to_be_bytes());
            plain.copy_to(&mut signed[HEADER_BYTES..]);
            match self.ours.code(self.sent, signed) {
                Ok(right) => code.copy_from_slice(&right),
                Err(refused) => {
                    out.take_back(HEADER_BYTES + n + CODE_BYTES);
                    return Err(refused);
                }
            }
            self.sent += 1;
            left -= n;
        }
        Ok(total)
    }

    /// Length of the whole record at the beginning of `bytes`, if its header is there.
    pub(super) fn record_bytes(bytes: &[u8]) -> Result<Option<usize>, Refused> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*header) as usize;
        if length == 0 || length > MAX_PLAIN_BYTES {
            return Err(spoiled());
        }
        Ok(Some(HEADER_BYTES + length + CODE_BYTES))
    }

    /// Checks a whole record: where its bytes are in it.
    pub(super) fn open(&mut self, record: &[u8]) -> Result<Range<usize>, Refused> {
        let (signed, code) = record.split_last_chunk::<CODE_BYTES>().ok_or_else(spoiled)?;
        if !self.theirs.is_right(self.received, signed, *code) {
            return Err(spoiled());
        }
        self.received += 1;
        Ok(HEADER_BYTES..signed.len())
    }
}

fn spoiled() -> Refused {
    Refused::new(
        Reason::Forged,
        "the code of a record is wrong: it was spoiled, replayed or forged on the way",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (MacRecords, MacRecords) {
        let session = SessionKey::of_channel(&[9; 32]);
        (MacRecords::new(&session, true).unwrap(), MacRecords::new(&session, false).unwrap())
    }

    fn sealed(records: &mut MacRecords, chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut out = Outgoing::default();
        let total: usize = chunks.iter().map(|c| c.len()).sum();
        assert_eq!(records.seal(chunks, usize::MAX, &mut out).unwrap(), total);
        let (mut all, mut rest) = (Vec::new(), out.as_slice());
        while let Some(length) = MacRecords::record_bytes(rest).unwrap() {
            let (record, later) = rest.split_at(length);
            all.push(record.to_vec());
            rest = later;
        }
        all
    }

    #[test]
    fn chunks_of_any_size_arrive_as_they_were() {
        let (mut ours, mut theirs) = pair();
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n * 7) as u8).collect();
        for cut in [0, 1, 65_535, 65_536, 65_537, 199_999] {
            let (first, second) = bytes.split_at(cut);
            let mut got = Vec::new();
            for record in sealed(&mut ours, &[first, &[], second]) {
                assert_eq!(MacRecords::record_bytes(&record).unwrap(), Some(record.len()));
                let data = theirs.open(&record).unwrap();
                got.extend_from_slice(&record[data]);
            }
            assert_eq!(got, bytes);
        }
        assert_eq!(ours.seal(&[&bytes], 70_000, &mut Outgoing::default()).unwrap(), 70_000);
    }

    #[test]
    fn every_spoiled_bit_is_seen() {
        let (mut ours, _) = pair();
        let record = sealed(&mut ours, &[b"a beat"]).remove(0);
        for bit in 0..record.len() * 8 {
            let (_, mut theirs) = pair();
            let mut spoiled = record.clone();
            spoiled[bit / 8] ^= 1 << (bit % 8);
            let whole = MacRecords::record_bytes(&spoiled).is_ok_and(|n| n == Some(spoiled.len()));
            assert!(!whole || theirs.open(&spoiled).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_is_repeated_left_out_or_sent_back_is_refused() {
        let (mut ours, mut theirs) = pair();
        let [first, second, third] = [b"1", b"2", b"3"].map(|b| sealed(&mut ours, &[b]).remove(0));
        theirs.open(&first).unwrap();
        assert_eq!(theirs.open(&first).unwrap_err().reason, Reason::Forged);
        assert_eq!(theirs.open(&third).unwrap_err().reason, Reason::Forged);
        assert_eq!(ours.open(&second).unwrap_err().reason, Reason::Forged);
        theirs.open(&second).unwrap();
    }

    #[test]
    fn a_length_is_bounded_before_anything_is_kept() {
        for length in [0, MAX_PLAIN_BYTES as u32 + 1, u32::MAX] {
            assert!(MacRecords::record_bytes(&length.to_be_bytes()).is_err());
        }
        assert_eq!(MacRecords::record_bytes(&[0, 0]).unwrap(), None);
    }
}
