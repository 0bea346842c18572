//! Certificates and keys: read from their files, and again when these change.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::verify::MemberVerifier;

/// How long files are taken to be as they were.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where certificates and keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// This process's certificate chain (PEM).
    pub cert: PathBuf,
    /// The certificate's private key (PEM).
    pub key: PathBuf,
    /// The authorities that every other side's certificate must come from (PEM).
    pub ca: Option<PathBuf>,
}

/// Certificates or keys that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFileError {
    /// Which file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for TlsFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to set up TLS: {}: {}", self.file.display(), self.why)
    }
}

impl std::error::Error for TlsFileError {}

/// What was made of the files.
#[derive(Clone)]
pub(super) struct Loaded {
    pub(super) server: Arc<ServerConfig>,
    /// For a master, whose certificate must be for its name.
    pub(super) to_master: Arc<ClientConfig>,
    /// For another peer.
    pub(super) to_peer: Arc<ClientConfig>,
}

type Stamp = Vec<Option<(SystemTime, u64, u64)>>;

/// The files, and what was made of them last.
pub(super) struct Tls {
    pub(super) files: TlsFiles,
    loaded: Loaded,
    stamp: Stamp,
    looked: Instant,
}

impl Tls {
    pub(super) fn load(files: TlsFiles) -> Result<Self, TlsFileError> {
        let stamp = stamp(&files);
        let loaded = load(&files)?;
        Ok(Self { files, loaded, stamp, looked: Instant::now() })
    }

    /// What the files say now. If they cannot be used, what they said before.
    pub(super) fn current(&mut self) -> Loaded {
        if self.looked.elapsed() >= LOOK_EVERY {
            self.look();
        }
        self.loaded.clone()
    }

    /// Reads the files if they have changed.
    pub(super) fn look(&mut self) {
        self.looked = Instant::now();
        let stamp = stamp(&self.files);
        if stamp != self.stamp {
            self.stamp = stamp;
            match load(&self.files) {
                Ok(loaded) => {
                    self.loaded = loaded;
                    tracing::info!(
                        target: "pccl::security",
                        "the TLS files have changed: new connections use {}", self.files.cert.display()
                    );
                }
                Err(error) => tracing::warn!(
                    target: "pccl::security",
                    "{error}; new connections go on with what was there before"
                ),
            }
        }
    }

    /// The file with the authorities, for messages.
    pub(super) fn authorities(&self) -> String {
        match &self.files.ca {
            Some(file) => file.display().to_string(),
            None => "the system's certificates".to_owned(),
        }
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let look = |path: &Path| {
        let data = fs::metadata(path).ok()?;
        Some((data.modified().ok()?, data.len(), data.ino()))
    };
    vec![look(&files.cert), look(&files.key), files.ca.as_deref().and_then(look)]
}

fn load(files: &TlsFiles) -> Result<Loaded, TlsFileError> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&files.cert)?;
    let fail = |file: &Path, why: String| TlsFileError { file: file.to_owned(), why };
    let key = || {
        PrivateKeyDer::from_pem_file(&files.key).map_err(|e| fail(&files.key, unreadable("private key", &e)))
    };
    let roots = Arc::new(match &files.ca {
        Some(file) => authorities(file)?,
        None => system_authorities(),
    });
    let from = files.ca.as_deref().unwrap_or(Path::new("the system's certificates"));
    let unusable = |e: &dyn fmt::Display| fail(from, format!("its certificates cannot be used: {e}"));
    let pair = |e: rustls::Error| {
        fail(&files.key, format!("it does not go with the certificate in {}: {e}", files.cert.display()))
    };
    let versions = |e: rustls::Error| fail(&files.cert, e.to_string());

    let server = ServerConfig::builder_with_provider(provider.clone());
    let server = server.with_protocol_versions(&[&TLS13]).map_err(versions)?;
    let server = if files.ca.is_some() {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        server.with_client_cert_verifier(verifier.build().map_err(|e| unusable(&e))?)
    } else {
        server.with_no_client_auth()
    };
    let mut server = server.with_single_cert(chain.clone(), key()?).map_err(pair)?;
    // No resumption: every connection proves anew who it is, and a new certificate counts at once.
    server.send_tls13_tickets = 0;
    server.enable_secret_extraction = true;

    let client = |verifier| -> Result<_, TlsFileError> {
        let client = ClientConfig::builder_with_provider(provider.clone());
        let client = client.with_protocol_versions(&[&TLS13]).map_err(versions)?;
        let client = client.dangerous().with_custom_certificate_verifier(verifier);
        let mut client = client.with_client_auth_cert(chain.clone(), key()?).map_err(pair)?;
        client.resumption = Resumption::disabled();
        client.enable_secret_extraction = true;
        Ok(Arc::new(client))
    };
    let named = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone());
    let to_master = client(named.build().map_err(|e| unusable(&e))?)?;
    let member = MemberVerifier { roots: files.ca.is_some().then_some(roots), provider: provider.clone() };
    Ok(Loaded { server: Arc::new(server), to_master, to_peer: client(Arc::new(member))? })
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let fail = |why: String| TlsFileError { file: file.to_owned(), why };
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    match all {
        Ok(all) if all.is_empty() => Err(fail("there is no certificate in PEM form in it".to_owned())),
        Ok(all) => Ok(all),
        Err(e) => Err(fail(unreadable("certificate", &e))),
    }
}

fn unreadable(what: &str, error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("it cannot be read: {error}"),
        other => format!("no {what} in PEM form can be read from it: {other}"),
    }
}

fn authorities(file: &Path) -> Result<RootCertStore, TlsFileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|e| TlsFileError {
            file: file.to_owned(),
            why: format!("one of its certificates is no authority: {e}"),
        })?;
    }
    Ok(roots)
}

fn system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}
