//! The TLS 1.3 handshake, and what is said when it fails.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ring::hmac;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, KeyLog, ServerConfig};

use super::records::TlsRecords;
use super::refused::{Reason, Refused};

/// What both ends of a TLS connection know and nobody else, also not one who stands between with a connection to each.
pub(super) type Binding = [u8; 32];

/// A handshake has succeeded.
pub(super) struct Agreed {
    pub(super) records: TlsRecords,
    pub(super) binding: Binding,
    /// What came behind the handshake and has been opened already.
    pub(super) early: Vec<u8>,
    /// What somebody who connected has shown of himself, if that was asked for.
    pub(super) certificate: Option<CertificateDer<'static>>,
}

enum Side {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// A handshake that goes on.
pub(super) struct Handshake {
    side: Option<Side>,
    exporter: Arc<Exporter>,
    early: Vec<u8>,
    /// The authorities that certificates are checked against, for messages.
    authorities: String,
}

/// Takes the exporter secret of one connection (RFC 8446, 7.5); no other secret is let out.
#[derive(Default)]
struct Exporter(Mutex<Option<Binding>>);

impl KeyLog for Exporter {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if self.will_log(label) {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
            let mut binding = Binding::default();
            binding.copy_from_slice(hmac::sign(&key, b"EXPORTER-pccl channel binding").as_ref());
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(binding);
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == "EXPORTER_SECRET"
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter")
    }
}

/// Goes on as far as `incoming` allows: bytes used, and whether all has been said.
macro_rules! go_on {
    ($connection:expr, $incoming:expr, $out:expr, $early:expr) => {{
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state } = $connection.process_tls_records(&mut $incoming[used..]);
            let wait = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    let mut bytes = Vec::new();
                    if let Err(EncodeError::InsufficientSize(e)) = data.encode(&mut bytes) {
                        bytes.resize(e.required_size, 0);
                        data.encode(&mut bytes).map_err(|e| Error::General(e.to_string()))?;
                    }
                    $out(bytes);
                    false
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    false
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        $early.extend_from_slice(record?.payload);
                    }
                    false
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    return Err(Error::General("the other side closed the connection".into()));
                }
                Ok(_) => true,
                Err(error) => {
                    // The alert that tells the other side.
                    let rest = &mut $incoming[used + discard..];
                    let UnbufferedStatus { state, .. } = $connection.process_tls_records(rest);
                    if let Ok(ConnectionState::EncodeTlsData(mut data)) = state {
                        let mut bytes = vec![0; 64];
                        if let Ok(n) = data.encode(&mut bytes) {
                            bytes.truncate(n);
                            $out(bytes);
                        }
                    }
                    return Err(error);
                }
            };
            used += discard;
            if wait {
                break Ok((used, !$connection.is_handshaking()));
            }
        }
    }};
}

impl Handshake {
    pub(super) fn client(
        config: &ClientConfig,
        name: ServerName<'static>,
        authorities: String,
    ) -> Result<Self, Refused> {
        let exporter = Arc::new(Exporter::default());
        let mut config = config.clone();
        config.key_log = exporter.clone();
        let connection =
            UnbufferedClientConnection::new(Arc::new(config), name).map_err(|e| explain(&e, &authorities))?;
        let side = Some(Side::Client(Box::new(connection)));
        Ok(Self { side, exporter, early: Vec::new(), authorities })
    }

    pub(super) fn server(config: &ServerConfig, authorities: String) -> Result<Self, Refused> {
        let exporter = Arc::new(Exporter::default());
        let mut config = config.clone();
        config.key_log = exporter.clone();
        let connection =
            UnbufferedServerConnection::new(Arc::new(config)).map_err(|e| explain(&e, &authorities))?;
        let side = Some(Side::Server(Box::new(connection)));
        Ok(Self { side, exporter, early: Vec::new(), authorities })
    }

    /// Goes on with what has come: how much of it was used, and the end if this is the end. What is to be sent goes to
    /// `out`, also if it fails.
    pub(super) fn go_on(
        &mut self,
        incoming: &mut [u8],
        out: &mut impl FnMut(Vec<u8>),
    ) -> Result<(usize, Option<Agreed>), Refused> {
        let (used, done) = self.process(incoming, out).map_err(|error| explain(&error, &self.authorities))?;
        if !done {
            return Ok((used, None));
        }
        let agreed = self.agreed().map_err(|error| explain(&error, &self.authorities))?;
        Ok((used, Some(agreed)))
    }

    fn process(
        &mut self,
        incoming: &mut [u8],
        out: &mut impl FnMut(Vec<u8>),
    ) -> Result<(usize, bool), Error> {
        match &mut self.side {
            Some(Side::Client(connection)) => go_on!(connection, incoming, out, self.early),
            Some(Side::Server(connection)) => go_on!(connection, incoming, out, self.early),
            None => Err(Error::HandshakeNotComplete),
        }
    }

    fn agreed(&mut self) -> Result<Agreed, Error> {
        let exported = self.exporter.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let binding = exported.ok_or(Error::HandshakeNotComplete)?;
        let early = std::mem::take(&mut self.early);
        let certificate = match &self.side {
            Some(Side::Server(connection)) => connection.peer_certificates().and_then(<[_]>::first).cloned(),
            _ => None,
        };
        let records = match self.side.take() {
            Some(Side::Client(connection)) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                TlsRecords::of_client(secrets, kernel)?
            }
            Some(Side::Server(connection)) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                TlsRecords::of_server(secrets, kernel)?
            }
            None => return Err(Error::HandshakeNotComplete),
        };
        Ok(Agreed { records, binding, early, certificate })
    }
}

/// What the other side says of us by an alert.
pub(super) fn alert(alert: AlertDescription, authorities: &str) -> Refused {
    let ours = if authorities.is_empty() { "ca_file there and cert_file here" } else { authorities };
    let (reason, why) = match alert {
        // An authority of the same name with another key gives the latter.
        AlertDescription::UnknownCA | AlertDescription::DecryptError => (
            Reason::CertificateUnknownCa,
            format!("it refuses our certificate: unknown authority; see that both sides trust the same one ({ours})"),
        ),
        AlertDescription::CertificateExpired => (
            Reason::CertificateExpired,
            "it refuses our certificate: expired or not valid yet; issue a new one, it is read without a restart"
                .to_owned(),
        ),
        AlertDescription::CertificateRequired => (
            Reason::CertificateMissing,
            "it asks for a certificate, and we sent none; set network.tls.cert_file and key_file".to_owned(),
        ),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown => (
            Reason::Certificate,
            format!("it refuses our certificate ({alert:?}): not for this name or this purpose, or from nowhere it trusts"),
        ),
        other => (Reason::Tls, format!("it ended TLS: {other:?}")),
    };
    Refused { reason, why }
}

/// What went wrong, and what to do.
fn explain(error: &Error, authorities: &str) -> Refused {
    let (reason, why) = match error {
        Error::InvalidCertificate(error) => return explain_certificate(error, authorities),
        Error::AlertReceived(description) => return alert(*description, authorities),
        Error::NoCertificatesPresented => (
            Reason::CertificateMissing,
            "it shows no certificate, and network.tls.ca_file asks for one; set cert_file and key_file there"
                .to_owned(),
        ),
        Error::InvalidMessage(_) => (
            Reason::PlainText,
            "it does not speak TLS, and TLS is on here; set network.tls there too".to_owned(),
        ),
        other => (Reason::Tls, format!("TLS failed: {other}")),
    };
    Refused { reason, why }
}

fn explain_certificate(error: &CertificateError, authorities: &str) -> Refused {
    let (reason, why) = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            Reason::CertificateExpired,
            format!(
                "its certificate has expired ({error}); issue a new one there, and see that both clocks are right"
            ),
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            Reason::CertificateExpired,
            format!("its certificate is not valid yet ({error}); see that both clocks are right"),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            Reason::CertificateName,
            format!(
                "its certificate is for another name ({error}); issue one for the name in network.master_host, or use \
                 a name there that it has"
            ),
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            Reason::CertificateUnknownCa,
            format!(
                "its certificate comes from an authority that is not in {authorities}; see that network.tls.ca_file is \
                 the one that issued it"
            ),
        ),
        other => (Reason::Certificate, format!("its certificate will not do: {other}")),
    };
    Refused { reason, why }
}
