//! A master and peers in threads, with a state that is known for each revision.

use std::time::{Duration, Instant};

use pccl::{
    CheckpointOptions, Communicator, Options, Ports, RunSettings, SharedState, Strategy, SyncInfo, Tensor,
};
use pccl_master::{Server, ServerOptions};

/// Longer than anything here may take.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// The state of a peer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    pub(crate) weights: Vec<f32>,
    pub(crate) steps: Vec<u64>,
    pub(crate) odd: Vec<u8>,
    pub(crate) own: Vec<u8>,
}

impl State {
    pub(crate) fn zero(weights: usize) -> Self {
        Self { weights: vec![0.0; weights], steps: vec![0; 3], odd: vec![0; 1001], own: vec![7; 5] }
    }

    /// What it is at a revision, the same on all peers.
    pub(crate) fn at(weights: usize, revision: u64) -> Self {
        let value = |i: usize| (i as u64).wrapping_mul(2_654_435_761).wrapping_add(revision * 77);
        Self {
            weights: (0..weights).map(|i| (value(i) % 10_007) as f32).collect(),
            steps: (0..3).map(|i| value(i + 5)).collect(),
            odd: (0..1001).map(|i| value(i) as u8).collect(),
            own: vec![7; 5],
        }
    }

    /// The small blocks make many of them out of little.
    pub(crate) fn shared(&mut self, revision: u64) -> SharedState<'_> {
        let columns = self.weights.len() / 2;
        SharedState::new(revision)
            .with(Tensor::new("weights", &mut self.weights).shaped([2, columns]))
            .with(Tensor::new("steps", &mut self.steps))
            .with(Tensor::new("odd", &mut self.odd))
            .with(Tensor::new("own", &mut self.own).allow_content_inequality())
            .block_bytes(4096)
            .note("step", (revision * 10).to_string())
    }
}

pub(crate) fn master() -> Server {
    let mut options = ServerOptions::new("127.0.0.1:0".parse().unwrap());
    options.settings = RunSettings { heartbeat_timeout_ms: 5000, ..RunSettings::default() };
    Server::start(options).unwrap()
}

/// So many members that write checkpoints.
pub(crate) fn members(master: &Server, world: u32, checkpoints: &CheckpointOptions) -> Vec<Communicator> {
    let options = Options::new(master.addr().to_string()).ports(Ports::Any).checkpoints(checkpoints.clone());
    let gather = |_: usize| {
        let comm = Communicator::connect(&options).unwrap();
        while comm.membership().world_size < world {
            comm.update_topology().unwrap();
        }
        comm
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..world as usize).map(|i| scope.spawn(move || gather(i))).collect();
        all.into_iter().map(|h| h.join().unwrap()).collect()
    })
}

/// Calls from every peer at once.
pub(crate) fn together<R: Send>(peers: &[Communicator], call: impl Fn(&Communicator) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let call = &call;
        let handles: Vec<_> = peers.iter().map(|comm| scope.spawn(move || call(comm))).collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    })
}

/// All synchronize the state of a revision, and their parts are written.
pub(crate) fn step(peers: &[Communicator], weights: usize, revision: u64) -> Vec<SyncInfo> {
    let infos = together(peers, |comm| {
        let mut state = State::at(weights, revision);
        let mut shared = state.shared(revision);
        let info = comm.synchronize(&mut shared, Strategy::EnforcePopular).unwrap();
        assert!(comm.finish_checkpoint(HANG));
        info
    });
    for comm in peers {
        assert_eq!(comm.checkpoint_status().unwrap().error, None);
    }
    infos
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < HANG, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
