//! Who may speak with whom, and who can listen: TLS, the shared secret, codes on heartbeats, allowed networks.
//!
//! All of it lies below the protocol: a machine hears of a connection once the other side is known, and sees plain bytes.
//! Without any of it a connection is what it always was, with the same system calls.

mod beats;
mod channel;
mod files;
mod groups;
mod handshake;
mod macs;
mod outgoing;
mod preamble;
mod records;
mod refused;
mod stream;
mod verify;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use ipnet::IpNet;
use pccl_observe::Metrics;
use pccl_proto::machine::Permit;
use rustls::pki_types::{CertificateDer, ServerName};

pub(crate) use beats::Beats;
#[doc(hidden)]
pub use channel::Channel;
use files::Tls;
pub use files::{TlsFileError, TlsFiles};
pub use groups::CertificateGroups;
use handshake::Handshake;
pub use preamble::SharedSecret;
use refused::Refusals;
pub use refused::{Reason, Refused};
pub use stream::SecureStream;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct SecurityOptions {
    /// TLS 1.3 on every TCP connection.
    pub tls: Option<TlsFiles>,
    /// The secret that every process of the run must have.
    pub secret: Option<SharedSecret>,
    /// Where connections and datagrams are taken from; empty for everywhere.
    pub allowed_networks: Vec<IpNet>,
    /// Which peer groups a certificate may join at this master; none for all. Needs authorities in `tls`.
    pub groups: Option<CertificateGroups>,
}

/// The security of a program. Clones share everything.
#[derive(Clone)]
pub struct Security(Arc<Shared>);

struct Shared {
    tls: Option<Mutex<Tls>>,
    secret: Option<SharedSecret>,
    allowed_networks: RwLock<Vec<IpNet>>,
    groups: RwLock<Option<CertificateGroups>>,
    /// Whether every other side shows a certificate.
    asks_certificates: bool,
    /// The masters by address, for the names in their certificates.
    masters: Mutex<BTreeMap<SocketAddr, String>>,
    refusals: Mutex<Refusals>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Security {
    /// Reads the files.
    pub fn new(options: SecurityOptions) -> Result<Self, TlsFileError> {
        let asks_certificates = options.tls.as_ref().is_some_and(|tls| tls.ca.is_some());
        if options.groups.is_some() && !asks_certificates {
            return Err(TlsFileError {
                file: options.tls.map_or_else(Default::default, |tls| tls.cert),
                why: "network.tls.groups goes by the certificates of peers, and without network.tls.ca_file none is \
                      asked for; give ca_file"
                    .to_owned(),
            });
        }
        let tls = options.tls.map(Tls::load).transpose()?.map(Mutex::new);
        Ok(Self(Arc::new(Shared {
            tls,
            secret: options.secret,
            allowed_networks: RwLock::new(options.allowed_networks),
            groups: RwLock::new(options.groups),
            asks_certificates,
            masters: Mutex::default(),
            refusals: Mutex::default(),
        })))
    }

    /// Whether connections are guarded at all.
    pub fn guards(&self) -> bool {
        self.0.tls.is_some() || self.0.secret.is_some()
    }

    /// Whether anything is taken from this address at all; if not, that is counted and said.
    pub(crate) fn admits(&self, from: SocketAddr) -> bool {
        let ip = from.ip().to_canonical();
        let networks = self.0.allowed_networks.read().unwrap_or_else(PoisonError::into_inner);
        let admits = networks.is_empty() || networks.iter().any(|network| network.contains(&ip));
        drop(networks);
        if !admits {
            let why = "its address is in none of network.allowed_networks";
            self.note(&Refused::new(Reason::Network, why), from);
        }
        admits
    }

    /// From here on connections and datagrams are taken from these networks; connections that stand go on.
    pub fn set_allowed_networks(&self, networks: Vec<IpNet>) {
        *self.0.allowed_networks.write().unwrap_or_else(PoisonError::into_inner) = networks;
    }

    /// From here on certificates may join these groups, or all of them for none; connections that stand go on. False, and
    /// nothing has changed, if nobody is asked for a certificate here.
    pub fn set_groups(&self, groups: Option<CertificateGroups>) -> bool {
        if groups.is_some() && !self.0.asks_certificates {
            return false;
        }
        *self.0.groups.write().unwrap_or_else(PoisonError::into_inner) = groups;
        true
    }

    /// What the certificate of somebody who has connected allows, if that is not everything.
    pub(crate) fn permit(&self, certificate: Option<&CertificateDer<'_>>) -> Option<Permit> {
        let groups = self.0.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.as_ref().map(|groups| groups.permit(certificate))
    }

    /// Looks at the files of certificates and keys now, and not with the next connection.
    pub fn reread(&self) {
        if let Some(tls) = &self.0.tls {
            lock(tls).look();
        }
    }

    /// Counts refusals here.
    pub fn set_metrics(&self, metrics: Metrics) {
        lock(&self.0.refusals).set_metrics(metrics);
    }

    /// The master at `addr` is known by this name: its certificate must have it.
    pub fn name_master(&self, addr: SocketAddr, host: &str) {
        lock(&self.0.masters).insert(addr, host.to_owned());
    }

    /// Counts somebody who was refused, and says so once.
    pub(crate) fn note(&self, refused: &Refused, from: SocketAddr) {
        lock(&self.0.refusals).note(refused, from, Instant::now());
    }

    /// A key that only those can make who have the shared secret, for a purpose and a random number that both sides know;
    /// none without a secret.
    pub fn derive_key(&self, purpose: &str, random: &[u8; 32]) -> Option<[u8; 32]> {
        self.0.secret.as_ref().map(|secret| secret.derive(purpose, random))
    }

    fn secret(&self) -> Option<SharedSecret> {
        self.0.secret.clone()
    }

    fn tls_server(&self) -> Result<Option<Handshake>, Refused> {
        let Some(tls) = &self.0.tls else { return Ok(None) };
        let (loaded, authorities) = {
            let mut tls = lock(tls);
            (tls.current(), tls.authorities())
        };
        Handshake::server(&loaded.server, authorities).map(Some)
    }

    fn tls_client(&self, addr: SocketAddr) -> Result<Option<Handshake>, Refused> {
        let Some(tls) = &self.0.tls else { return Ok(None) };
        let (loaded, authorities) = {
            let mut tls = lock(tls);
            (tls.current(), tls.authorities())
        };
        let host = lock(&self.0.masters).get(&addr).cloned();
        let (config, name) = match host {
            None => (&loaded.to_peer, ServerName::from(addr.ip())),
            Some(host) => {
                let name = ServerName::try_from(host.clone()).map_err(|_| {
                    Refused::new(
                        Reason::CertificateName,
                        format!("`{host}` is no name that a certificate can have; see network.master_host"),
                    )
                })?;
                (&loaded.to_master, name)
            }
        };
        Handshake::client(config, name, authorities).map(Some)
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security")
            .field("tls", &self.0.tls.is_some())
            .field("secret", &self.0.secret.is_some())
            .finish_non_exhaustive()
    }
}

/// What is said of a connection that ends in the middle of its handshake.
pub(crate) const BROKEN_OFF: &str = "it closed the connection before both sides knew each other: TLS or authentication may \
                                     be off there, another program may use that port, or it has just ended";
