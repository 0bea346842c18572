//! A fleet of real processes to break: a master and peers, driven line by line, each killed when it is dropped.

pub(crate) mod churn;
/// Shared with the tests of the stores.
#[expect(dead_code, reason = "they use the rest of it")]
#[path = "../../../../master/src/store/servers/daemon.rs"]
pub(crate) mod daemon;
pub(crate) mod master;
pub(crate) mod namespace;
pub(crate) mod pattern;
pub(crate) mod peer;
pub(crate) mod process;
pub(crate) mod proxy;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use namespace::Namespace;
use pccl_proto::message::{Role, Status};
pub(crate) use process::{Process, Reply};
use tempfile::TempDir;

/// No answer for so long is a hang.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// Every peer has an address of its own, and this port. Not one that other programs take on all addresses at once: those for
/// peers, and those that the system gives out.
const PEER_PORT: u16 = 6118;

/// Waits for a condition.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < HANG, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An address of the loopback network that nobody else uses: no test can take another one's port.
pub(crate) fn own_ip() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = std::process::id().wrapping_mul(256) + NEXT.fetch_add(1, Ordering::Relaxed);
    // Not in 127.0.0.0/16, which people use.
    Ipv4Addr::from((127 << 24) | ((1 << 16) + number % (254 << 16)))
}

/// How a fleet is to be.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) heartbeat_timeout_ms: u32,
    /// Whether the master keeps its state in a file.
    pub(crate) store: bool,
    /// Whether peers live in a network of their own, whose packets can be dropped.
    pub(crate) namespace: bool,
    pub(crate) max_recovery_attempts: u32,
    pub(crate) master_timeout_ms: u32,
    /// Where several masters keep their state, if not in a file.
    pub(crate) database: Option<String>,
    pub(crate) lease_ms: u32,
    /// Masters that stand by.
    pub(crate) standbys: u32,
    /// Whether large sums travel as integers.
    pub(crate) compression: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            heartbeat_timeout_ms: 5000,
            store: false,
            namespace: false,
            max_recovery_attempts: 3,
            master_timeout_ms: 60_000,
            database: None,
            lease_ms: 1500,
            standbys: 0,
            compression: false,
        }
    }
}

/// A master and its peers.
pub(crate) struct Fleet {
    pub(crate) peers: Vec<Process>,
    pub(crate) master: Process,
    pub(crate) addr: SocketAddr,
    /// The other masters.
    pub(crate) others: Vec<(Process, SocketAddr)>,
    pub(crate) namespace: Option<Namespace>,
    setup: Setup,
    dir: TempDir,
    spawned: u32,
    next_id: u32,
}

impl Fleet {
    pub(crate) fn start(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let namespace = setup.namespace.then(|| Namespace::new(dir.path()));
        let ip = namespace.as_ref().map_or_else(own_ip, |n| n.ip(0));
        let first = SocketAddr::new(ip.into(), 0);
        let (master, addr) = Self::spawn_master(&setup, &dir, namespace.as_ref(), first);
        if setup.standbys > 0 {
            until("a master", || leads(addr));
        }
        let others = Vec::new();
        let mut fleet =
            Self { peers: Vec::new(), master, addr, others, namespace, setup, dir, spawned: 0, next_id: 0 };
        for _ in 0..fleet.setup.standbys {
            fleet.stand_by(SocketAddr::new(own_ip().into(), 0));
        }
        fleet
    }

    /// One more master, which stands by.
    pub(crate) fn stand_by(&mut self, at: SocketAddr) {
        let (master, addr) = Self::spawn_master(&self.setup, &self.dir, self.namespace.as_ref(), at);
        until("a standby", || {
            status(addr).is_some_and(|status| status.role == Role::Standby && status.term > 0)
        });
        self.others.push((master, addr));
    }

    /// Waits until another master leads; the one that led is among the others then.
    pub(crate) fn succession(&mut self) {
        let mut leader = None;
        until("another master to lead", || {
            leader = self.others.iter().position(|(_, addr)| leads(*addr));
            leader.is_some()
        });
        let (master, addr) = &mut self.others[leader.unwrap()];
        std::mem::swap(&mut self.master, master);
        std::mem::swap(&mut self.addr, addr);
    }

    /// All masters, the one that leads first.
    fn masters(&self) -> String {
        let all = std::iter::once(self.addr).chain(self.others.iter().map(|(_, addr)| *addr));
        all.map(|addr| addr.to_string()).collect::<Vec<_>>().join(",")
    }

    /// With so many members.
    pub(crate) fn of(members: u32, setup: Setup) -> Self {
        let mut fleet = Self::start(setup);
        for _ in 0..members {
            fleet.spawn("");
        }
        fleet.meet();
        fleet
    }

    fn spawn_master(
        setup: &Setup,
        dir: &TempDir,
        namespace: Option<&Namespace>,
        addr: SocketAddr,
    ) -> (Process, SocketAddr) {
        let store = dir.path().join("state");
        let store = match &setup.database {
            Some(url) => url,
            None if setup.store => store.to_str().unwrap(),
            None => "-",
        };
        let (timeout, retries) = (setup.heartbeat_timeout_ms, setup.max_recovery_attempts);
        let patience = setup.master_timeout_ms;
        let (lease, compression) = (setup.lease_ms, setup.compression);
        let role = format!("master {addr} {timeout} {patience} {retries} {store} {lease} {compression}");
        let mut master = Process::spawn("master", &role, dir.path(), namespace.map(|n| (n, 0)));
        let addr = master.event("ready").parse().unwrap();
        (master, addr)
    }

    /// A new peer whose connections from others go through a proxy.
    pub(crate) fn spawn_behind(&mut self, how: proxy::Breaks) -> proxy::Proxy {
        let ip = own_ip();
        let target = SocketAddr::new(ip.into(), PEER_PORT);
        let proxy = proxy::Proxy::start(own_ip(), target, how, u64::from(self.spawned));
        self.spawn_at(ip, &format!("advertise={}", proxy.addr));
        proxy
    }

    /// A new process that knows the master; `more` are further words for its `connect`.
    pub(crate) fn spawn(&mut self, more: &str) -> &mut Process {
        let next = self.spawned + 1;
        let ip = self.namespace.as_ref().map_or_else(own_ip, |net| net.ip(next));
        self.spawn_at(ip, more)
    }

    fn spawn_at(&mut self, ip: Ipv4Addr, more: &str) -> &mut Process {
        while self.peers.len() < pattern::IDS as usize && self.peers.iter().any(|p| p.id == self.next_id) {
            self.next_id = (self.next_id + 1) % pattern::IDS;
        }
        let id = self.next_id;
        self.next_id = (id + 1) % pattern::IDS;
        self.spawned += 1;
        let n = self.spawned;
        let name = format!("peer{n}");
        let inside = self.namespace.as_ref().map(|net| (net, n));
        let mut peer = Process::spawn(&name, "peer", self.dir.path(), inside);
        peer.id = id;
        peer.addr = Some(SocketAddr::new(ip.into(), PEER_PORT));
        peer.send(&format!("connect master={} id={id} bind={ip} port={PEER_PORT} {more}", self.masters()));
        self.peers.push(peer);
        self.peers.last_mut().unwrap()
    }

    /// Everybody comes in.
    pub(crate) fn meet(&mut self) {
        let world = self.peers.len();
        for peer in &mut self.peers {
            peer.send(&format!("world n={world}"));
        }
        for peer in &mut self.peers {
            for _ in 0..peer.owed() {
                peer.reply().ok();
            }
        }
    }

    /// Waits until everybody has heard how many are left: an op may end before the loss of a peer is known.
    pub(crate) fn settle(&mut self) {
        let world = self.peers.len() as u64;
        for peer in &mut self.peers {
            until("the new epoch", || peer.ask("describe").ok().number("world") == world);
        }
    }

    /// Says the same to all.
    pub(crate) fn tell(&mut self, command: &str) {
        for peer in &mut self.peers {
            peer.send(command);
        }
    }

    /// One answer of each.
    pub(crate) fn replies(&mut self) -> Vec<Reply> {
        self.peers.iter_mut().map(Process::reply).collect()
    }

    /// One answer of each, and all say that their results are right and the same.
    pub(crate) fn agree(&mut self) -> Reply {
        let replies = self.replies();
        agree(replies)
    }

    /// Takes a peer out of the fleet.
    pub(crate) fn take(&mut self, index: usize) -> Process {
        self.peers.remove(index)
    }

    /// The master is gone; another one takes over the port and the file.
    pub(crate) fn restart_master(&mut self) {
        self.master.kill();
        let (master, addr) = Self::spawn_master(&self.setup, &self.dir, self.namespace.as_ref(), self.addr);
        assert_eq!(addr, self.addr);
        self.master = master;
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() && self.namespace.is_none() {
            eprintln!("{:#?}", pccl_master::query_status(self.addr, Duration::from_secs(1), None));
        }
    }
}

/// What a master says, if it answers.
pub(crate) fn status(addr: SocketAddr) -> Option<Status> {
    pccl_master::query_status(addr, Duration::from_secs(5), None).ok()
}

pub(crate) fn leads(addr: SocketAddr) -> bool {
    status(addr).is_some_and(|status| status.role == Role::Active)
}

/// Checks that all answers tell the same result, and gives one of them.
pub(crate) fn agree(replies: Vec<Reply>) -> Reply {
    let mut last: Option<Reply> = None;
    for reply in replies {
        let reply = reply.ok();
        if let Some(last) = &last {
            for key in ["mask", "world", "epoch"] {
                assert_eq!(last.get(key), reply.get(key), "{key} differs: {last:?}, {reply:?}");
            }
        }
        last = Some(reply);
    }
    last.expect("at least one answer")
}

/// What this process is, if it was started by a fleet: then it does not return.
pub(crate) fn play_role() {
    let Ok(role) = std::env::var(process::ROLE) else { return };
    let words: Vec<&str> = role.split(' ').collect();
    match words[..] {
        ["peer"] => peer::run(),
        ["master", addr, timeout, patience, retries, store, lease, compression] => {
            master::run(addr, (timeout, patience, lease), (retries, compression), store);
        }
        _ => panic!("what is {role}?"),
    }
    std::process::exit(0);
}
