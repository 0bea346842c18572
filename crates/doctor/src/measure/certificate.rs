//! Certificates: ours from files, a master's as it shows it to anybody.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::TlsFiles;
use crate::finding::Unmeasured;
use crate::observed::CertificateSeen;
use crate::symptom::Symptom;

/// Our own certificates: the first of `cert_file`, all authorities.
pub(super) fn own(files: Option<&TlsFiles>) -> (Vec<CertificateSeen>, Vec<Unmeasured>) {
    let Some(files) = files else { return (Vec::new(), Vec::new()) };
    let mut seen = Vec::new();
    let mut unread = Vec::new();
    let all = [(&files.cert, 1)].into_iter().chain(files.ca.as_ref().map(|ca| (ca, usize::MAX)));
    for (path, most) in all {
        match from_file(path, most) {
            Ok(some) => seen.extend(some),
            Err(why) => {
                let symptoms = &[Symptom::CantConnect, Symptom::MasterUnreachable];
                unread.push(Unmeasured::new(format!("the certificate {}", path.display()), why, symptoms));
            }
        }
    }
    (seen, unread)
}

fn from_file(path: &Path, most: usize) -> Result<Vec<CertificateSeen>, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let place = path.display().to_string();
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).take(most).collect();
    let all = all.map_err(|error| error.to_string())?;
    if all.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    all.iter().map(|der| read(der, &place).ok_or_else(|| "it cannot be read".to_owned())).collect()
}

fn read(der: &[u8], place: &str) -> Option<CertificateSeen> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let mut names: Vec<String> = Vec::new();
    if let Ok(Some(others)) = certificate.subject_alternative_name() {
        names.extend(others.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => ip(bytes),
            _ => None,
        }));
    }
    if names.is_empty() {
        names.extend(subject.map(str::to_owned));
    }
    let issuer = certificate.issuer().iter_common_name().find_map(|name| name.as_str().ok());
    let issuer = issuer.map_or_else(|| certificate.issuer().to_string(), str::to_owned);
    let (from, until) =
        (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    Some(CertificateSeen { place: place.to_owned(), names, issuer, from, until })
}

fn ip(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok().map(|ip| ip.to_string())
}

/// Takes whatever certificate is shown, and remembers it: nothing is sent over such a connection.
struct Onlooker(Mutex<Option<Vec<u8>>>);

impl fmt::Debug for Onlooker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Onlooker")
    }
}

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.to_vec());
        // Seen is seen: the handshake need not go on.
        Err(Error::General("only looked at".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only looked at".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only looked at".to_owned()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate that a server shows to anybody; none if it speaks no TLS. The handshake is broken off.
pub(super) fn shown(addr: SocketAddr, host: &str, patience: Duration) -> Option<CertificateSeen> {
    let onlooker = Arc::new(Onlooker(Mutex::default()));
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(onlooker.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).unwrap_or_else(|_| ServerName::from(addr.ip()));
    let mut connection = ClientConnection::new(Arc::new(config), name).ok()?;
    let mut stream = TcpStream::connect_timeout(&addr, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream.set_write_timeout(Some(patience)).ok()?;
    // It ends with our own refusal, or because there is no TLS.
    let _ = connection.complete_io(&mut stream);
    let der = onlooker.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    read(&der, &addr.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_dates_of_a_certificate_are_read() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut wanted = rcgen::CertificateParams::new(["master.example.com".to_owned()]).unwrap();
        wanted.not_before = time::OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        wanted.not_after = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.crt");
        fs::write(&path, wanted.self_signed(&key).unwrap().pem()).unwrap();
        let files = TlsFiles { cert: path, ca: Some(folder.path().join("no.crt")) };
        let (seen, unread) = own(Some(&files));
        assert_eq!(seen[0].names, ["master.example.com"]);
        assert_eq!((seen[0].from, seen[0].until), (1_700_000_000, 1_800_000_000));
        assert_eq!(unread.len(), 1);
        fs::write(&files.cert, "nothing").unwrap();
        assert_eq!(own(Some(&files)).0, []);
    }
}
