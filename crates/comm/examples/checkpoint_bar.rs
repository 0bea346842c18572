//! What a checkpoint in the background costs, measured: `cargo run --release -p pccl --example checkpoint_bar -- [GiB]`.
//! Four peers on this machine reduce 64 MiB again and again, without a checkpoint and while one of 1 GiB is written to a
//! directory for temporary files. Needs about 6 GiB of memory and 1 GiB of disk for each GiB.
#![expect(clippy::unwrap_used, reason = "a measurement, not a library")]

use std::sync::Barrier;
use std::time::{Duration, Instant};

use pccl::{
    Call, CheckpointOptions, Checkpoints, Communicator, Options, Ports, ReduceOp, SharedState, Strategy,
    Tensor,
};
use pccl_master::{Server, ServerOptions};

const PEERS: usize = 4;
/// Elements of the op: 64 MiB.
const ELEMENTS: usize = 16 << 20;
/// Ops without a checkpoint, before and after the ones with it.
const QUIET_OPS: usize = 60;
/// More time an op may take while a checkpoint is written, and longest time of that.
const MOST: f64 = 1.05;
const LONGEST: Duration = Duration::from_secs(60);

fn main() {
    let gib: f64 = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1.0);
    let floats = (gib * f64::from(1 << 28)) as usize;
    let place = std::env::temp_dir().join(format!("pccl-checkpoint-bar-{}", std::process::id()));
    let url = place.display().to_string();
    let master = Server::start(ServerOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let options = Options::new(master.addr().to_string())
        .ports(Ports::Any)
        .checkpoints(CheckpointOptions::new(&url).interval_steps(0));
    let line = Barrier::new(PEERS);
    let mut peers: Vec<Measured> = std::thread::scope(|scope| {
        let run = |rank: usize| peer(&options, &line, floats, rank);
        let all: Vec<_> = (0..PEERS).map(|rank| scope.spawn(move || run(rank))).collect();
        all.into_iter().map(|h| h.join().unwrap()).collect()
    });
    let newest = Checkpoints::open(&url).unwrap().get(0, None).unwrap();
    Checkpoints::open(&url).unwrap().verify(&newest).unwrap();
    std::fs::remove_dir_all(&place).unwrap();
    let worst = peers.iter_mut().map(Measured::ratio).fold(0.0, f64::max);
    let took = peers.iter().map(|p| p.took).max().unwrap_or_default();
    let first = &peers[0];
    println!(
        "{gib} GiB from {PEERS} peers: ops of 64 MiB {:.1} ms without it, {:.1} ms meanwhile ({} of them): {worst:.3} of \
         {MOST} allowed: {}; the copy took {:.0} ms, all was written {:.1} s after it, of {} s allowed: {}",
        median(&first.quiet) * 1e3,
        median(&first.busy) * 1e3,
        first.busy.len(),
        verdict(worst <= MOST),
        first.copied.as_secs_f64() * 1e3,
        took.as_secs_f64(),
        LONGEST.as_secs(),
        verdict(took <= LONGEST)
    );
}

/// What one peer saw.
struct Measured {
    /// Seconds of each op.
    quiet: Vec<f64>,
    busy: Vec<f64>,
    /// The synchronization with the copy.
    copied: Duration,
    /// From there until this peer's part was written.
    took: Duration,
}

impl Measured {
    fn ratio(&mut self) -> f64 {
        median(&self.busy) / median(&self.quiet)
    }
}

fn peer(options: &Options, line: &Barrier, floats: usize, rank: usize) -> Measured {
    let comm = Communicator::connect(options).unwrap();
    while comm.membership().world_size < PEERS as u32 {
        comm.update_topology().unwrap();
    }
    let mut weights: Vec<f32> = (0..floats).map(|i| (i % 10_007) as f32).collect();
    let input = vec![rank as f32; ELEMENTS];
    let mut output = vec![0.0; ELEMENTS];
    let mut op = || {
        let begun = Instant::now();
        comm.all_reduce(&input, &mut output, &Call::new(1)).unwrap();
        let took = begun.elapsed().as_secs_f64();
        let sum = (PEERS * (PEERS - 1) / 2) as f32;
        assert!(output.iter().all(|x| x.to_bits() == sum.to_bits()));
        took
    };
    let mut quiet: Vec<f64> = (0..QUIET_OPS).map(|_| op()).collect();
    line.wait();
    let begun = Instant::now();
    let mut state = SharedState::new(1).with(Tensor::new("weights", &mut weights)).checkpoint(true);
    comm.synchronize(&mut state, Strategy::EnforcePopular).unwrap();
    let copied = begun.elapsed();
    let (begun, mut busy, mut took) = (Instant::now(), Vec::new(), None);
    // All go on for as long as one of them writes: a vote in numbers, so that the ops fit together.
    loop {
        busy.push(op());
        let status = comm.checkpoint_status().unwrap();
        assert_eq!(status.error, None);
        if status.writing.is_none() {
            took.get_or_insert_with(|| begun.elapsed());
        }
        let writing = [f32::from(u8::from(status.writing.is_some()))];
        let mut all = [0.0];
        comm.all_reduce(&writing, &mut all, &Call::new(2).op(ReduceOp::Max)).unwrap();
        if all[0] == 0.0 {
            break;
        }
    }
    quiet.extend((0..QUIET_OPS).map(|_| op()));
    Measured { quiet, busy, copied, took: took.unwrap_or_default() }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn verdict(ok: bool) -> &'static str {
    if ok { "ok" } else { "MISSED" }
}
