//! The records of an established TLS 1.3 connection.
//!
//! `rustls` does the handshake, and its ciphers seal and open the records. What lies between, which record comes next, is
//! done here, because it decides how often tensor data are copied: once on the way out, once on the way in.

use std::ops::Range;

use rustls::client::ClientConnectionData;
use rustls::crypto::cipher::{
    InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundPlainMessage,
};
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets, ProtocolVersion, SupportedCipherSuite,
    Tls13CipherSuite,
};

use super::refused::{Reason, Refused};

/// Bytes before the payload of a record.
pub(super) const HEADER_BYTES: usize = 5;
/// Most bytes of a record that a record can carry (RFC 8446, 5.1).
pub(super) const MAX_PLAIN_BYTES: usize = 16 << 10;
/// Most bytes of a sealed payload (RFC 8446, 5.2).
const MAX_SEALED_BYTES: usize = MAX_PLAIN_BYTES + 256;

const CHANGE_CIPHER_SPEC: u8 = 20;
const APPLICATION_DATA: u8 = 23;
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

/// Both directions of a connection.
pub(super) struct TlsRecords {
    suite: &'static Tls13CipherSuite,
    kernel: Kernel,
    seal: Box<dyn MessageEncrypter>,
    seal_next: u64,
    /// Records that one key may seal.
    seal_limit: u64,
    open: Box<dyn MessageDecrypter>,
    open_next: u64,
}

impl TlsRecords {
    pub(super) fn of_client(
        secrets: ExtractedSecrets,
        kernel: KernelConnection<ClientConnectionData>,
    ) -> Result<Self, Error> {
        let suite = kernel.negotiated_cipher_suite();
        Self::new(suite, secrets, Kernel::Client(kernel))
    }

    pub(super) fn of_server(
        secrets: ExtractedSecrets,
        kernel: KernelConnection<ServerConnectionData>,
    ) -> Result<Self, Error> {
        let suite = kernel.negotiated_cipher_suite();
        Self::new(suite, secrets, Kernel::Server(kernel))
    }

    fn new(suite: SupportedCipherSuite, secrets: ExtractedSecrets, kernel: Kernel) -> Result<Self, Error> {
        let suite = suite.tls13().ok_or_else(|| Error::General("TLS 1.3 was not agreed on".into()))?;
        let ((seal_next, seal), (open_next, open)) = (secrets.tx, secrets.rx);
        Ok(Self {
            kernel,
            seal: sealer(suite, seal)?,
            seal_next,
            // The last ones are for the message that announces the next key.
            seal_limit: suite.common.confidentiality_limit.saturating_sub(16),
            open: opener(suite, open)?,
            open_next,
            suite,
        })
    }

    /// Seals up to `limit` of these bytes, record by record. How many it took.
    pub(super) fn seal(
        &mut self,
        chunks: &[&[u8]],
        limit: usize,
        out: &mut impl FnMut(Vec<u8>),
    ) -> Result<usize, Refused> {
        let chunks = OutboundChunks::new(chunks);
        let total = chunks.len().min(limit);
        let (mut rest, _) = chunks.split_at(total);
        while !rest.is_empty() {
            if self.seal_next >= self.seal_limit {
                self.announce_next_key(out)?;
            }
            let (now, later) = rest.split_at(MAX_PLAIN_BYTES.min(rest.len()));
            out(self.seal_one(ContentType::ApplicationData, now)?);
            rest = later;
        }
        Ok(total)
    }

    /// The last record: nothing more comes.
    pub(super) fn seal_close(&mut self, out: &mut impl FnMut(Vec<u8>)) -> Result<(), Refused> {
        let warning = 1;
        out(self.seal_one(ContentType::Alert, [warning, CLOSE_NOTIFY][..].into())?);
        Ok(())
    }

    fn seal_one(&mut self, typ: ContentType, payload: OutboundChunks<'_>) -> Result<Vec<u8>, Refused> {
        let message = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload };
        let sealed = self.seal.encrypt(message, self.seal_next).map_err(|e| broken(&e))?;
        self.seal_next += 1;
        Ok(sealed.encode())
    }

    /// Sends under a new key from now on (RFC 8446, 4.6.3).
    fn announce_next_key(&mut self, out: &mut impl FnMut(Vec<u8>)) -> Result<(), Refused> {
        let update_not_requested = 0;
        let message = [KEY_UPDATE, 0, 0, 1, update_not_requested];
        out(self.seal_one(ContentType::Handshake, message[..].into())?);
        let next = match &mut self.kernel {
            Kernel::Client(kernel) => kernel.update_tx_secret(),
            Kernel::Server(kernel) => kernel.update_tx_secret(),
        };
        let (first, secret) = next.map_err(|e| broken(&e))?;
        self.seal = sealer(self.suite, secret).map_err(|e| broken(&e))?;
        self.seal_next = first;
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
    pub(super) fn open(
        &mut self,
        record: &mut [u8],
        out: &mut impl FnMut(Vec<u8>),
    ) -> Result<Opened, Refused> {
        let (header, payload) = record.split_at_mut(HEADER_BYTES);
        if header[0] == CHANGE_CIPHER_SPEC {
            // Means nothing in TLS 1.3 and is only sent for the sake of middleboxes.
            return Ok(Opened::Nothing);
        }
        let base = payload.as_ptr().addr();
        let message =
            InboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, payload);
        let plain = self.open.decrypt(message, self.open_next).map_err(|_| {
            Refused::new(
                Reason::Forged,
                "a TLS record cannot be opened: it was spoiled, replayed or forged on the way",
            )
        })?;
        self.open_next += 1;
        match plain.typ {
            ContentType::ApplicationData => {
                let start = HEADER_BYTES + plain.payload.as_ptr().addr() - base;
                Ok(Opened::Data(start..start + plain.payload.len()))
            }
            ContentType::Alert if plain.payload.get(1) == Some(&CLOSE_NOTIFY) => Ok(Opened::Closed),
            ContentType::Alert => {
                let number = plain.payload.get(1).copied().unwrap_or_default();
                Err(super::handshake::alert(rustls::AlertDescription::from(number), ""))
            }
            ContentType::Handshake => {
                let messages = plain.payload.to_vec();
                self.handshake_messages(&messages, out).map(|()| Opened::Nothing)
            }
            _ => Err(Refused::new(Reason::Tls, "it sent a TLS record of a kind that does not belong here")),
        }
    }

    fn handshake_messages(
        &mut self,
        mut messages: &[u8],
        out: &mut impl FnMut(Vec<u8>),
    ) -> Result<(), Refused> {
        let unexpected = || Refused::new(Reason::Tls, "it sent a TLS message that does not belong here");
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
                    let (first, secret) = next.map_err(|e| broken(&e))?;
                    self.open = opener(self.suite, secret).map_err(|e| broken(&e))?;
                    self.open_next = first;
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

fn sealer(
    suite: &Tls13CipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageEncrypter>, Error> {
    let (key, iv) = split(secrets)?;
    Ok(suite.aead_alg.encrypter(key, iv))
}

fn opener(
    suite: &Tls13CipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageDecrypter>, Error> {
    let (key, iv) = split(secrets)?;
    Ok(suite.aead_alg.decrypter(key, iv))
}

fn split(
    secrets: ConnectionTrafficSecrets,
) -> Result<(rustls::crypto::cipher::AeadKey, rustls::crypto::cipher::Iv), Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(Error::General("a cipher that is not known here".into())),
    }
}
