//! Measuring: what a machine can find out about a fleet from where it stands.

mod certificate;
mod host;
mod master;
pub(crate) mod page;
mod process;
mod sockets;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime};

use pccl_net::Security;
use pccl_observe::process::Roots;

use crate::diagnose::diagnose;
use crate::finding::{Diagnosis, Unmeasured};
use crate::observed::{Connect, MasterSeen, Observations, PortSeen, ProcessSeen, Setting};
use crate::symptom::Symptom;

/// So often the pages and this machine are looked at.
const LOOKS: u32 = 8;

/// A master as somebody names it.
#[derive(Clone, Debug)]
pub struct MasterName {
    /// As it was given.
    pub text: String,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Certificates of this machine.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Our own.
    pub cert: PathBuf,
    /// The authorities.
    pub ca: Option<PathBuf>,
}

/// What to examine.
#[derive(Clone, Debug)]
pub struct ExamineOptions {
    /// What somebody has noticed; none for everything.
    pub symptom: Option<Symptom>,
    /// The masters.
    pub masters: Vec<MasterName>,
    /// Pages of metrics by address; empty: the hosts of masters and peers at `metrics_port`.
    pub metrics: Vec<String>,
    /// Where processes serve their metrics unless somebody says otherwise; none: they do not.
    pub metrics_port: Option<u16>,
    /// What guards connections.
    pub security: Option<Security>,
    /// Its files, for a look at their dates.
    pub tls: Option<TlsFiles>,
    /// What the configuration says.
    pub setting: Setting,
    /// Ports for peers.
    pub p2p_ports: RangeInclusive<u16>,
    /// The address that a peer here would listen on.
    pub bind: IpAddr,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// For how long rates are watched.
    pub window: Duration,
    /// Where the system shows itself.
    pub roots: Roots,
}

/// Measures, and says what is wrong.
pub fn examine(options: &ExamineOptions) -> Diagnosis {
    diagnose(&look(options), options.symptom)
}

/// Measures. Blocks for the window of the rates, and for whoever does not answer.
pub fn look(options: &ExamineOptions) -> Observations {
    let mut unmeasured = Vec::new();
    let masters = masters(options);
    let (certificates, unread) = certificate::own(options.tls.as_ref());
    unmeasured.extend(unread);
    let peers = peers(&masters);
    let pages = pages(options, &masters, &peers);
    let all: &'static [Symptom] = &[];
    if pages.is_empty() && options.metrics_port.is_none() {
        let why = "metrics.address is off in this configuration, and no --metrics is given";
        unmeasured.push(Unmeasured::new("pages of metrics", why, all));
    }
    let ((processes, unread), host, ports) = thread::scope(|scope| {
        let watching = scope.spawn(|| watch(options, &pages));
        let host = scope.spawn(|| host::watch(&options.roots, options.window, LOOKS));
        let ports = scope.spawn(|| try_ports(&peers, options.timeout));
        (
            watching.join().unwrap_or_default(),
            host.join().unwrap_or_default(),
            ports.join().unwrap_or_default(),
        )
    });
    unmeasured.extend(unread);
    if peers.is_empty() && !masters.is_empty() {
        let why = "no master told the addresses of its peers";
        let symptoms = &[Symptom::CantConnect, Symptom::FrequentRecoveries];
        if masters.iter().all(|master| master.status().is_none()) {
            unmeasured.push(Unmeasured::new("ports of the peers", why, symptoms));
        }
    }
    let own_ports = sockets::own_ports(&options.roots, options.bind, options.p2p_ports.clone());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Observations {
        setting: options.setting,
        masters,
        certificates,
        processes,
        ports,
        own_ports,
        host,
        now: now.as_secs().cast_signed(),
        unmeasured,
    }
}

fn masters(options: &ExamineOptions) -> Vec<MasterSeen> {
    thread::scope(|scope| {
        let all: Vec<_> =
            options.masters.iter().map(|name| (name, scope.spawn(|| master::look(name, options)))).collect();
        let seen = |(name, thread): (&MasterName, thread::ScopedJoinHandle<'_, MasterSeen>)| {
            thread.join().unwrap_or_else(|_| MasterSeen {
                name: name.text.clone(),
                unresolved: Some("a thread of this program panicked".to_owned()),
                addresses: Vec::new(),
            })
        };
        all.into_iter().map(seen).collect()
    })
}

/// Where the members and newcomers say that they are.
fn peers(masters: &[MasterSeen]) -> BTreeSet<SocketAddr> {
    let groups = masters.iter().filter_map(MasterSeen::status).flat_map(|status| &status.groups);
    groups.flat_map(|group| &group.peers).filter_map(|peer| peer.addr.parse().ok()).collect()
}

/// The pages to read, and whether somebody has asked for each.
fn pages(
    options: &ExamineOptions,
    masters: &[MasterSeen],
    peers: &BTreeSet<SocketAddr>,
) -> Vec<(String, bool)> {
    if !options.metrics.is_empty() {
        return options.metrics.iter().map(|address| (address.clone(), true)).collect();
    }
    let Some(port) = options.metrics_port else { return Vec::new() };
    let hosts = masters.iter().flat_map(|m| &m.addresses).map(|a| a.addr.ip());
    let hosts: BTreeSet<IpAddr> =
        hosts.chain(peers.iter().map(SocketAddr::ip)).filter(|ip| !ip.is_unspecified()).collect();
    hosts.into_iter().map(|ip| (SocketAddr::new(ip, port).to_string(), false)).collect()
}

fn watch(options: &ExamineOptions, pages: &[(String, bool)]) -> (Vec<ProcessSeen>, Vec<Unmeasured>) {
    let mut seen = Vec::new();
    let mut unread = Vec::new();
    let results: Vec<_> = thread::scope(|scope| {
        let watch = |address: &String| {
            let address = address.clone();
            scope.spawn(move || process::watch(&address, options.timeout, options.window, LOOKS))
        };
        let all: Vec<_> = pages.iter().map(|(address, _)| watch(address)).collect();
        all.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    for ((address, asked), result) in pages.iter().zip(results) {
        match result {
            Ok(Ok(process)) => seen.push(process),
            Ok(Err(why)) => {
                let hint = if *asked { "" } else { " (name the processes by --metrics HOST:PORT)" };
                unread.push(Unmeasured::new(
                    format!("the process at {address}"),
                    format!("{why}{hint}"),
                    &[],
                ));
            }
            Err(_) => {
                unread.push(Unmeasured::new(format!("the process at {address}"), "a thread panicked", &[]));
            }
        }
    }
    (seen, unread)
}

/// So many ports of peers are tried at once.
const AT_ONCE: usize = 64;

fn try_ports(peers: &BTreeSet<SocketAddr>, timeout: Duration) -> Vec<PortSeen> {
    let all: Vec<SocketAddr> = peers.iter().copied().collect();
    let mut seen = Vec::new();
    for some in all.chunks(AT_ONCE) {
        let connects: Vec<Connect> = thread::scope(|scope| {
            let threads: Vec<_> =
                some.iter().map(|addr| scope.spawn(move || sockets::connect(*addr, timeout).0)).collect();
            let gone = || Connect::Unreachable { why: "a thread of this program panicked".to_owned() };
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| gone())).collect()
        });
        seen.extend(some.iter().zip(connects).map(|(addr, connect)| PortSeen { addr: *addr, connect }));
    }
    seen
}
