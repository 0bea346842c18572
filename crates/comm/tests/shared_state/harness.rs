//! A master in a thread, that can be looked at and restarted.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pccl::{Communicator, Options, Ports, RunSettings};
use pccl_net::Listeners;
use pccl_proto::master::{Master, MasterConfig};
use pccl_proto::message::Status;
use pccl_proto::record::RunRecord;

/// A master that remembers its record.
pub(crate) struct TestMaster {
    pub(crate) addr: SocketAddr,
    listeners: Listeners,
    stop: Arc<AtomicBool>,
    status: Arc<Mutex<Status>>,
    thread: Option<JoinHandle<RunRecord>>,
}

impl TestMaster {
    pub(crate) fn start() -> Self {
        let listeners = pccl_net::listen_tcp_and_udp("127.0.0.1:0".parse().unwrap()).unwrap();
        Self::with(listeners, RunRecord::default())
    }

    /// Ends it, and starts another one with what its store had. The port stays taken.
    pub(crate) fn restart(mut self) -> Self {
        let record = self.end().unwrap();
        Self::with(again(&self.listeners), record)
    }

    fn with(listeners: Listeners, store: RunRecord) -> Self {
        let addr = listeners.tcp.local_addr().unwrap();
        let (stop, status) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Status::default())));
        let (stopped, shown) = (Arc::clone(&stop), Arc::clone(&status));
        let kept = again(&listeners);
        let thread = std::thread::spawn(move || run(listeners, store, &stopped, &shown));
        Self { addr, listeners: kept, stop, status, thread: Some(thread) }
    }

    /// Waits until the run looks like this.
    pub(crate) fn wait_until(&self, what: &str, mut check: impl FnMut(&Status) -> bool) {
        let begun = Instant::now();
        while !check(&self.status.lock().unwrap()) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {:?}", self.status.lock().unwrap());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn end(&mut self) -> Option<RunRecord> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(|t| t.join().unwrap())
    }
}

impl Drop for TestMaster {
    fn drop(&mut self) {
        self.end();
    }
}

/// The same sockets once more.
fn again(listeners: &Listeners) -> Listeners {
    let udp = listeners.udp.as_ref().map(|u| u.try_clone().unwrap());
    Listeners { tcp: listeners.tcp.try_clone().unwrap(), udp }
}

fn run(listeners: Listeners, mut store: RunRecord, stopped: &AtomicBool, shown: &Mutex<Status>) -> RunRecord {
    let (mut net, mut waiter, _wake) = pccl_net::pair().unwrap();
    net.set_listener(listeners.tcp).unwrap();
    net.set_udp(listeners.udp.unwrap()).unwrap();
    let settings = RunSettings { heartbeat_timeout_ms: 5000, ..RunSettings::default() };
    let mut master = Master::new(net.now(), MasterConfig { settings, ..MasterConfig::default() });
    let mut asked = Vec::new();
    while !stopped.load(Ordering::Relaxed) {
        net.go_on(&mut master, &mut |r| asked.push(r));
        while !asked.is_empty() {
            for request in std::mem::take(&mut asked) {
                let reply = store.apply(&request);
                master.handle_store(net.now(), reply);
            }
            net.go_on(&mut master, &mut |r| asked.push(r));
        }
        while let Some(event) = master.poll_event() {
            eprintln!("master: {event}");
        }
        *shown.lock().unwrap() = master.status(net.now());
        let limit =
            net.time_left(&master).unwrap_or(Duration::from_millis(50)).min(Duration::from_millis(50));
        waiter.wait(Some(limit)).unwrap();
        net.handle(&mut master, &waiter, &mut |r| asked.push(r)).unwrap();
    }
    store
}

pub(crate) fn connect(addr: SocketAddr) -> Communicator {
    Communicator::connect(&Options::new(addr.to_string()).ports(Ports::Any)).unwrap()
}

/// Connects one after the other, so that ranks are in the order of the calls.
pub(crate) fn members(master: &TestMaster, world: u32) -> Vec<Communicator> {
    let mut all = vec![connect(master.addr)];
    while all.len() < world as usize {
        let addr = master.addr;
        let newcomer = std::thread::spawn(move || connect(addr));
        let n = all.len();
        master.wait_until("a newcomer", |s| registered(s) > n);
        together(&all, |_, comm| comm.update_topology().unwrap());
        all.push(newcomer.join().unwrap());
    }
    all
}

/// Calls from every peer at once; results by rank.
pub(crate) fn together<R: Send>(
    peers: &[Communicator],
    call: impl Fn(usize, &Communicator) -> R + Sync,
) -> Vec<R> {
    std::thread::scope(|scope| {
        let call = &call;
        let handles: Vec<_> =
            peers.iter().enumerate().map(|(i, comm)| scope.spawn(move || call(i, comm))).collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    })
}

/// Peers of the only group that wait in a vote to synchronize.
pub(crate) fn voters(status: &Status) -> usize {
    let peers = status.groups.iter().flat_map(|g| &g.peers);
    peers.filter(|p| p.waits_for.as_deref() == Some("synchronize")).count()
}

/// Members and newcomers.
pub(crate) fn registered(status: &Status) -> usize {
    status.groups.iter().map(|g| g.peers.len()).sum()
}

/// Whether somebody receives shared state.
pub(crate) fn is_moving(status: &Status) -> bool {
    status.groups.iter().any(|g| g.activity.contains("shared state of revision"))
}
