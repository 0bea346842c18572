//! The records of an established TLS 1.3 connection.
//!
//! `rustls` does the handshake and derives the keys. Records are sealed and opened here, from the caller's memory and into
//! it: the interface that `rustls` has for it copies tensor data twice, which took longer than the cipher's half.

use std::ops::Range;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error, ExtractedSecrets};

use super::outgoing::{Outgoing, Plain};
use super::refused::{Reason, Refused};

/// Bytes before the payload of a record.
pub(super) const HEADER_BYTES: usize = 5;
/// Most bytes of a record that a record can carry (RFC 8446, 5.1).
pub(super) const MAX_PLAIN_BYTES: usize = 16 << 10;
/// Most bytes of a sealed payload (RFC 8446, 5.2).
const MAX_SEALED_BYTES: usize = MAX_PLAIN_BYTES + 256;

/// Bytes by which a payload proves that it is as it was sent.
const TAG_BYTES: usize = 16;

/// Kinds of records (RFC 8446, 5.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// Kinds of handshake messages.
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// The alert that ends a connection in order.
const CLOSE_NOTIFY: u8 = 0;

/// Which keys come next.
enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

/// What was in a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Bytes for the protocol above, here in the record's payload.
    Data(Range<usize>),
    /// Nothing for it.
    Nothing,
    /// The other side says no more.
    Closed,
}

/// A key, and what makes each record's nonce different (RFC 8446, 5.3).
struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    /// The number of the next record.
    next: u64,
}

impl Keys {
    fn new((next, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (cipher, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("a cipher that is not known here".into())),
        };
        let wrong = |_| Error::General("a key of the wrong length".into());
        let iv = iv.as_ref().try_into().map_err(|_| Error::General("a nonce of the wrong length".into()))?;
        Ok(Self { key: LessSafeKey::new(UnboundKey::new(cipher, key.as_ref()).map_err(wrong)?), iv, next })
    }

    /// For the next record, which is the only one that gets it.
    fn nonce(&self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.next.to_be_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Both directions of a connection.
pub(super) struct TlsRecords {
    kernel: Kernel,
    seal: Keys,
    /// Records that one key may seal.
    seal_limit: u64,
    open: Keys,
}

impl TlsRecords {
    pub(super) fn of_client(
        secrets: ExtractedSecrets,
        kernel: KernelConnection<ClientConnectionData>,
    ) -> Result<Self, Error> {
        let suite = kernel.negotiated_cipher_suite();
        Self::new(suite.tls13(), secrets, Kernel::Client(kernel))
    }

    pub(super) fn of_server(
        secrets: ExtractedSecrets,
        kernel: KernelConnection<ServerConnectionData>,
    ) -> Result<Self, Error> {
        let suite = kernel.negotiated_cipher_suite();
        Self::new(suite.tls13(), secrets, Kernel::Server(kernel))
    }

    fn new(
        suite: Option<&rustls::Tls13CipherSuite>,
        secrets: ExtractedSecrets,
        kernel: Kernel,
    ) -> Result<Self, Error> {
        let suite = suite.ok_or_else(|| Error::General("TLS 1.3 was not agreed on".into()))?;
        Ok(Self {
            kernel,
            seal: Keys::new(secrets.tx)?,
            // The last ones are for the message that announces the next key.
            seal_limit: suite.common.confidentiality_limit.saturating_sub(16),
            open: Keys::new(secrets.rx)?,
        })
    }

    /// Seals up to `limit` of these bytes, record by record. How many it took.
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
            if self.seal.next >= self.seal_limit {
                self.announce_next_key(out)?;
            }
            let n = left.min(MAX_PLAIN_BYTES);
            self.seal_one(APPLICATION_DATA, &mut plain, n, out)?;
            left -= n;
        }
        Ok(total)
    }

    /// The last record: nothing more comes.
    pub(super) fn seal_close(&mut self, out: &mut Outgoing) -> Result<(), Refused> {
        let warning = 1;
        self.seal_message(ALERT, &[warning, CLOSE_NOTIFY], out)
    }

    fn seal_message(&mut self, kind: u8, message: &[u8], out: &mut Outgoing) -> Result<(), Refused> {
        self.seal_one(kind, &mut Plain::new(&[message]), message.len(), out)
    }

    /// Seals the next `n` bytes, from where they lie: header, payload, kind and tag (RFC 8446, 5.2).
    fn seal_one(
        &mut self,
        kind: u8,
        plain: &mut Plain<'_>,
        n: usize,
        out: &mut Outgoing,
    ) -> Result<(), Refused> {
        let sealed = n + 1 + TAG_BYTES;
        let (header, payload) = out.space(HEADER_BYTES + sealed).split_at_mut(HEADER_BYTES);
        let [high, low] = (sealed as u16).to_be_bytes();
        header.copy_from_slice(&[APPLICATION_DATA, 3, 3, high, low]);
        let (text, tail) = payload.split_at_mut(n);
        let (key, nonce, aad) = (&self.seal.key, self.seal.nonce(), Aad::from(&*header));
        let done = if let Some(bytes) = plain.in_one(n) {
            key.seal_out_of_place_scatter(nonce, aad, bytes, text, &[kind], tail)
        } else {
            plain.copy_to(text);
            key.seal_in_place_scatter(nonce, aad, text, &[kind], tail)
        };
        self.seal.next += 1;
        done.map_err(|_| {
            out.take_back(HEADER_BYTES + sealed);
            broken(&Error::EncryptError)
        })
    }

    /// Sends under a new key from now on (RFC 8446, 4.6.3).
    fn announce_next_key(&mut self, out: &mut Outgoing) -> Result<(), Refused> {
        let update_not_requested = 0;
        self.seal_message(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, update_not_requested], out)?;
        let next = match &mut self.kernel {
            Kernel::Client(kernel) => kernel.update_tx_secret(),
            Kernel::Server(kernel) => kernel.update_tx_secret(),
        };
        self.seal = next.and_then(Keys::new).map_err(|e| broken(&e))?;
        Ok(())
    }

    /// Length of the whole record at the beginning of `bytes`, if its header is there.
    pub(super) fn record_bytes(bytes: &[u8]) -> Result<Option<usize>, Refused> {
        let Some(header) = bytes.get(..HEADER_BYTES) else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let known = matches!(header[0], APPLICATION_DATA | CHANGE_CIPHER_SPEC);
        if !known || header[1] != 3 || length > MAX_SEALED_BYTES {
            return Err(Refused::new(Reason::Forged, "it sent something that is no TLS record"));
        }
        Ok(Some(HEADER_BYTES + length))
    }

    /// Opens a whole record in place; answers to it go to `out`.
    pub(super) fn open(&mut self, record: &mut [u8], out: &mut Outgoing) -> Result<Opened, Refused> {
        let (header, payload) = record.split_at_mut(HEADER_BYTES);
        if header[0] == CHANGE_CIPHER_SPEC {
            // Means nothing in TLS 1.3 and is only sent for the sake of middleboxes.
            return Ok(Opened::Nothing);
        }
        let opened = self.open.key.open_in_place(self.open.nonce(), Aad::from(&*header), payload);
        let plain = opened.map_err(|_| spoiled())?;
        self.open.next += 1;
        self.opened(plain, HEADER_BYTES, out)
    }

    /// As [`TlsRecords::open`], to other memory, where the bytes begin; nothing happens if that is too small.
    pub(super) fn open_into(
        &mut self,
        record: &[u8],
        into: &mut [u8],
        out: &mut Outgoing,
    ) -> Result<Option<Opened>, Refused> {
        let (header, payload) = record.split_at(HEADER_BYTES);
        let room = payload.len().checked_sub(TAG_BYTES).and_then(|n| into.get_mut(..n));
        let Some(plain) = room.filter(|_| header[0] == APPLICATION_DATA) else { return Ok(None) };
        let (text, tag) = payload.split_at(plain.len());
        let (nonce, aad) = (self.open.nonce(), Aad::from(header));
        self.open.key.open_separate_gather(nonce, aad, text, tag, plain).map_err(|_| spoiled())?;
        self.open.next += 1;
        self.opened(plain, 0, out).map(Some)
    }

    /// What a record says that has been opened: bytes, what they are, and nothing but zeros (RFC 8446, 5.4).
    fn opened(&mut self, plain: &[u8], start: usize, out: &mut Outgoing) -> Result<Opened, Refused> {
        let Some(length) = plain.iter().rposition(|byte| *byte != 0) else { return Err(unexpected()) };
        let (bytes, kind) = (&plain[..length], plain[length]);
        match kind {
            APPLICATION_DATA => Ok(Opened::Data(start..start + length)),
            ALERT if bytes.get(1) == Some(&CLOSE_NOTIFY) => Ok(Opened::Closed),
            ALERT => {
                let number = bytes.get(1).copied().unwrap_or_default();
                Err(super::handshake::alert(rustls::AlertDescription::from(number), ""))
            }
            HANDSHAKE => self.handshake_messages(bytes, out).map(|()| Opened::Nothing),
            _ => Err(Refused::new(Reason::Tls, "it sent a TLS record of a kind that does not belong here")),
        }
    }

    fn handshake_messages(&mut self, mut messages: &[u8], out: &mut Outgoing) -> Result<(), Refused> {
        while let [kind, a, b, c, rest @ ..] = messages {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let (body, later) = rest.split_at_checked(length).ok_or_else(unexpected)?;
            match (*kind, body) {
                (NEW_SESSION_TICKET, _) => {}
                (KEY_UPDATE, [request @ (0 | 1)]) => {
                    let next = match &mut self.kernel {
                        Kernel::Client(kernel) => kernel.update_rx_secret(),
                        Kernel::Server(kernel) => kernel.update_rx_secret(),
                    };
                    self.open = next.and_then(Keys::new).map_err(|e| broken(&e))?;
                    if *request == 1 {
                        self.announce_next_key(out)?;
                    }
                }
                _ => return Err(unexpected()),
            }
            messages = later;
        }
        if messages.is_empty() { Ok(()) } else { Err(unexpected()) }
    }

    #[cfg(test)]
    pub(super) fn seal_at_most(&mut self, records: u64) {
        self.seal_limit = records;
    }
}

fn broken(error: &Error) -> Refused {
    Refused::new(Reason::Tls, format!("TLS failed: {error}"))
}

fn spoiled() -> Refused {
    Refused::new(
        Reason::Forged,
        "a TLS record cannot be opened: it was spoiled, replayed or forged on the way",
    )
}

fn unexpected() -> Refused {
    Refused::new(Reason::Tls, "it sent a TLS message that does not belong here")
}
