//! A master on real sockets.

mod driver;
mod fault;
mod insight;
mod storage;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use pccl_net::{ListenError, Security, Wakeup, listen_tcp_and_udp};
use pccl_observe::Metrics;
use pccl_proto::ids::{RunId, Term};
use pccl_proto::lease::{Candidate, MasterId};
use pccl_proto::master::MasterConfig;
use pccl_proto::message::Status;
use pccl_proto::settings::RunSettings;

use self::driver::Driver;
use self::insight::MasterSource;
use crate::store::{EmbeddedStore, EtcdStore, MemoryStore, PostgresStore, StateStore, StoreError, StoreUrl};

/// Where the master keeps what it must not forget.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreChoice {
    /// Nowhere: the run ends with the master.
    #[default]
    Memory,
    /// In this file; see [`EmbeddedStore`].
    Embedded(PathBuf),
    /// In a PostgreSQL database; see [`PostgresStore`].
    Postgres(StoreUrl),
    /// In etcd; see [`EtcdStore`].
    Etcd(StoreUrl),
}

/// How a master is to be run.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Where to listen, TCP and UDP; port 0 stands for any free one.
    pub listen: SocketAddr,
    /// Settings of the run, handed to every peer.
    pub settings: RunSettings,
    /// Where the state is kept.
    pub store: StoreChoice,
    /// How long this master may lead without renewing its lease, milliseconds, where others may share its store.
    pub lease_ms: u32,
    /// Where other masters and operators are told that this one is, if not where it listens.
    pub advertise: Option<SocketAddr>,
    /// Most members and newcomers at once.
    pub max_peers: u32,
    /// How long newcomers and members try to connect to each other.
    pub link_timeout: Duration,
    /// What guards connections and heartbeats; peers need the same.
    pub security: Option<Security>,
    /// Where to show what it knows, if anywhere. Recoveries are counted by the peers: the master does not
    /// learn how an op that began again has ended.
    pub metrics: Option<Metrics>,
}

impl ServerOptions {
    /// Everything else by default, nothing kept.
    pub fn new(listen: SocketAddr) -> Self {
        let defaults = MasterConfig::default();
        Self {
            listen,
            settings: defaults.settings,
            store: StoreChoice::default(),
            lease_ms: 1500,
            advertise: None,
            max_peers: defaults.max_peers,
            link_timeout: Duration::from_millis(u64::from(defaults.link_timeout_ms)),
            security: None,
            metrics: None,
        }
    }
}

/// A master cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// No port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system refuses something that every master needs.
    #[error("failed to start the master: {what}: {source}; check the limits of this process (`ulimit -a`)")]
    System {
        /// What.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// No random numbers for session keys.
    #[error("failed to start the master: the system gives no random numbers: {0}")]
    Entropy(getrandom::Error),
}

/// A master has ended although nobody stopped it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndError {
    /// Another master has a newer term.
    #[error(
        "the master of term {term} has ended: another one has term {newer}; see that only one uses these peers and \
         this store, and start it again"
    )]
    Deposed {
        /// This master's term.
        term: Term,
        /// The newer one.
        newer: Term,
    },
    /// It cannot wait for its sockets any more.
    #[error("the master has ended: waiting for its sockets failed: {why}; start it again")]
    Sockets {
        /// What the system says.
        why: String,
    },
    /// A thread of it panicked, which is a bug.
    #[error("the master has ended: its {thread} thread panicked; see the log, report it, and start it again")]
    Panicked {
        /// Which.
        thread: &'static str,
    },
}

enum Life {
    Running(JoinHandle<Result<(), EndError>>),
    Ended(Result<(), EndError>),
}

/// A running master. It stops when it is dropped.
///
/// ```
/// use pccl_master::{Server, ServerOptions, query_status};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::start(ServerOptions::new("127.0.0.1:0".parse()?))?;
/// let status = query_status(server.addr(), std::time::Duration::from_secs(60), None)?;
/// assert_eq!(status.term, 1);
/// server.stop();
/// # Ok(())
/// # }
/// ```
pub struct Server {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    wakeup: Wakeup,
    questions: mpsc::Sender<mpsc::Sender<Status>>,
    last_status: Arc<Mutex<Status>>,
    life: Mutex<Life>,
    /// What metrics show of it, as long as it lives.
    _insight: Option<Arc<MasterSource>>,
}

impl Server {
    /// Opens the store, binds the ports and starts the threads.
    pub fn start(options: ServerOptions) -> Result<Self, ServerError> {
        let store: Box<dyn StateStore> = match &options.store {
            StoreChoice::Memory => Box::new(MemoryStore::new()),
            StoreChoice::Embedded(path) => Box::new(EmbeddedStore::open(path)?),
            StoreChoice::Postgres(url) => Box::new(PostgresStore::new(url)?),
            StoreChoice::Etcd(url) => Box::new(EtcdStore::new(url)?),
        };
        Self::start_with(options, store)
    }

    pub(crate) fn start_with(
        options: ServerOptions,
        store: Box<dyn StateStore>,
    ) -> Result<Self, ServerError> {
        let system = |what| move |source| ServerError::System { what, source };
        let listeners = listen_tcp_and_udp(options.listen)?;
        let addr = listeners.tcp.local_addr().map_err(system("its own address"))?;
        let (mut net, waiter, wakeup) = pccl_net::pair().map_err(system("an event queue"))?;
        net.set_listener(listeners.tcp).map_err(system("watching its TCP port"))?;
        if let Some(udp) = listeners.udp {
            net.set_udp(udp).map_err(system("watching its UDP port"))?;
        }
        let config = config(&options, addr)?;
        let storage = storage::start(store, wakeup.clone()).map_err(system("a thread for its store"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let last_status = Arc::new(Mutex::new(Status::default()));
        let (questions, asked) = mpsc::channel();
        let active = Arc::new(AtomicBool::new(false));
        let guarded = options.security.as_ref().is_some_and(Security::guards);
        if let Some(security) = options.security {
            if let Some(metrics) = &options.metrics {
                security.set_metrics(metrics.clone());
            }
            net.set_security(security);
        }
        let insight = options.metrics.map(|metrics| {
            let source = MasterSource::watch(questions.clone(), wakeup.clone(), active.clone(), &metrics);
            net.set_metrics(metrics);
            source
        });
        let driver = Driver::new(net, waiter, storage, config, active, (stop.clone(), asked));
        let last = last_status.clone();
        let thread = std::thread::Builder::new()
            .name("pccl-master".into())
            .spawn(move || driver.run(&last))
            .map_err(system("a thread"))?;
        tracing::info!(target: "pccl::master", "listening on {addr}, TCP and UDP");
        if !guarded && !addr.ip().is_loopback() {
            tracing::warn!(
                target: "pccl::master",
                "TLS and authentication are off, and {addr} can be reached from other machines: whoever reaches it \
                 can join the run and end it; allow only the peers' addresses in the firewall"
            );
        }
        let life = Mutex::new(Life::Running(thread));
        Ok(Self { addr, stop, wakeup, questions, last_status, life, _insight: insight })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What goes on; after the end of the master, what went on then.
    pub fn status(&self) -> Status {
        let (answer, answers) = mpsc::channel();
        if self.questions.send(answer).is_ok() {
            self.wakeup.wake();
            if let Ok(status) = answers.recv() {
                return status;
            }
        }
        self.last_status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the master and waits for its threads. Peers keep their links and look for a master for `master_timeout`.
    /// A second call does nothing.
    pub fn stop(&self) {
        self.interrupt();
        // An end of another kind is the business of whoever waits for it.
        let _ = self.wait();
    }

    /// Asks the master to end, without waiting for it: takes no lock, so that a signal handler may call it.
    pub fn interrupt(&self) {
        self.stop.store(true, Ordering::Release);
        self.wakeup.wake();
    }

    /// Blocks until the master has ended: by [`stop`](Self::stop) from another thread, or by itself.
    pub fn wait(&self) -> Result<(), EndError> {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = match std::mem::replace(&mut *life, Life::Ended(Ok(()))) {
            Life::Running(thread) => thread.join().unwrap_or(Err(EndError::Panicked { thread: "main" })),
            Life::Ended(how) => how,
        };
        *life = Life::Ended(ended.clone());
        ended
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addr", &self.addr).finish_non_exhaustive()
    }
}

fn config(options: &ServerOptions, addr: SocketAddr) -> Result<MasterConfig, ServerError> {
    let mut run = [0; 16];
    getrandom::fill(&mut run).map_err(ServerError::Entropy)?;
    let seed = getrandom::u64().map_err(ServerError::Entropy)?;
    Ok(MasterConfig {
        settings: options.settings.clone(),
        // Zero stands for a run without a name.
        new_run: RunId(u128::from_le_bytes(run).max(1)),
        seed,
        max_peers: options.max_peers,
        link_timeout_ms: u32::try_from(options.link_timeout.as_millis()).unwrap_or(u32::MAX),
        lease: candidate(options, addr)?,
        ..MasterConfig::default()
    })
}

/// What it says of itself to other masters. A store in memory is nobody else's: then there is no lease.
fn candidate(options: &ServerOptions, addr: SocketAddr) -> Result<Candidate, ServerError> {
    if options.store == StoreChoice::Memory {
        return Ok(Candidate::default());
    }
    let id = MasterId(getrandom::u64().map_err(ServerError::Entropy)?.max(1));
    let heard_at = (!addr.ip().is_unspecified()).then_some(addr);
    Ok(Candidate { id, addr: options.advertise.or(heard_at), lease_ms: options.lease_ms.max(1) })
}
