//! Peers in one process against a master in a thread, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pccl::{Call, Communicator, Options, Ports, ReduceOp, RunSettings};
use pccl_proto::master::{Master, MasterConfig};
use pccl_proto::record::RunRecord;

struct TestMaster {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TestMaster {
    fn start() -> Self {
        let listeners = pccl_net::listen_tcp_and_udp("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listeners.tcp.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut net, mut waiter, _wake) = pccl_net::pair().unwrap();
            net.set_listener(listeners.tcp).unwrap();
            net.set_udp(listeners.udp.unwrap()).unwrap();
            let settings = RunSettings { heartbeat_timeout_ms: 5000, ..RunSettings::default() };
            let mut master = Master::new(net.now(), MasterConfig { settings, ..MasterConfig::default() });
            let mut store = RunRecord::default();
            while !stopped.load(Ordering::Relaxed) {
                let mut asked = Vec::new();
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
                let limit = net
                    .time_left(&master)
                    .unwrap_or(Duration::from_millis(50))
                    .min(Duration::from_millis(50));
                waiter.wait(Some(limit)).unwrap();
                net.handle(&mut master, &waiter, &mut |r| asked.push(r)).unwrap();
                for request in asked {
                    let reply = store.apply(&request);
                    master.handle_store(net.now(), reply);
                }
            }
        });
        Self { addr, stop, thread: Some(thread) }
    }
}

impl Drop for TestMaster {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn join(addr: SocketAddr, world: u32) -> Communicator {
    let comm = Communicator::connect(&Options::new(addr.to_string()).ports(Ports::Any)).unwrap();
    while comm.membership().world_size < world {
        comm.update_topology().unwrap();
    }
    comm
}

#[test]
fn four_peers_reduce() {
    let master = TestMaster::start();
    let peers: Vec<_> = (0..4)
        .map(|_| {
            let addr = master.addr;
            std::thread::spawn(move || {
                let comm = join(addr, 4);
                let rank = comm.membership().rank;
                for (i, count) in [1usize, 7, 1000, 100_000, 1_000_003].into_iter().enumerate() {
                    let send: Vec<f32> = (0..count).map(|j| (j % 1000) as f32 + rank as f32).collect();
                    let mut recv = vec![f32::NAN; count];
                    let begun = Instant::now();
                    let info = comm.all_reduce(&send, &mut recv, &Call::new(1).op(ReduceOp::Sum)).unwrap();
                    eprintln!("{rank} {count} {:?} {:?}", begun.elapsed(), info.algorithm);
                    for (j, r) in recv.iter().enumerate() {
                        assert_eq!(*r, 4.0 * (j % 1000) as f32 + 6.0, "op {i} element {j}");
                    }
                }
                comm.leave();
            })
        })
        .collect();
    for p in peers {
        p.join().unwrap();
    }
}
