//! Peers in threads, with a master of their own.

use std::net::SocketAddr;
use std::sync::Arc;

use pccl::{Communicator, Options, Ports, RunSettings};
use pccl_master::{Server, ServerOptions};

/// A master whose peers are not lost because the machine is busy.
pub(crate) fn master() -> Server {
    master_of(&RunSettings::default())
}

/// The same with these settings for the rest.
pub(crate) fn master_of(settings: &RunSettings) -> Server {
    let mut options = ServerOptions::new("127.0.0.1:0".parse().unwrap());
    options.settings = RunSettings { heartbeat_timeout_ms: 5000, ..settings.clone() };
    Server::start(options).unwrap()
}

fn join(addr: SocketAddr, world: u32) -> Communicator {
    let comm = Communicator::connect(&Options::new(addr.to_string()).ports(Ports::Any)).unwrap();
    while comm.membership().world_size < world {
        comm.update_topology().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    comm
}

/// Runs `act` on each of `world` members, at the same time; what they return, by rank.
pub(crate) fn each<R: Send + 'static>(
    world: u32,
    act: impl Fn(&Communicator, usize) -> R + Send + Sync + 'static,
) -> Vec<R> {
    each_of(&master(), world, act)
}

/// The same with a master of one's own.
pub(crate) fn each_of<R: Send + 'static>(
    server: &Server,
    world: u32,
    act: impl Fn(&Communicator, usize) -> R + Send + Sync + 'static,
) -> Vec<R> {
    let act = Arc::new(act);
    let threads: Vec<_> = (0..world)
        .map(|_| {
            let (act, addr) = (Arc::clone(&act), server.addr());
            std::thread::spawn(move || {
                let comm = join(addr, world);
                let rank = comm.membership().rank as usize;
                let result = act(&comm, rank);
                // Nobody leaves while another one is at work.
                comm.barrier(u64::MAX).unwrap();
                comm.leave();
                (rank, result)
            })
        })
        .collect();
    let mut all: Vec<(usize, R)> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    all.sort_by_key(|(rank, _)| *rank);
    all.into_iter().map(|(_, r)| r).collect()
}
