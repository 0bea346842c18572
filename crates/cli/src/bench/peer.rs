//! One peer of a benchmark: joins, and measures what it is told to, the same number of calls as all others.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use pccl::{
    Algorithm, Call, CollectiveError, Communicator, DataType, Options, Ports, Quantization, ReduceOp,
};
use serde::{Deserialize, Serialize};

use super::pattern::Pattern;
use super::row::{Sample, median, p99};
use crate::error::CliError;
use crate::exit::Exit;
use crate::settings;
use crate::supervised;

/// The op that is measured.
const TAG: u64 = 1;
/// Numbers on which all peers agree.
const AGREE_TAG: u64 = 2;
/// About how long a cell is warmed up, and how long it is timed.
const WARM_UP: Duration = Duration::from_millis(100);
const TIMED: Duration = Duration::from_millis(600);
/// Bounds on the number of timed calls.
const MIN_ITERS: u64 = 5;
const MAX_ITERS: u64 = 20_000;
/// Between two looks for peers that have not come yet.
const IDLE: Duration = Duration::from_millis(2);

/// Options of the hidden `pccl bench-peer`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PeerArgs {
    #[arg(long)]
    master: SocketAddr,
    #[arg(long)]
    peers: u32,
    #[arg(long)]
    op: ReduceOp,
    #[arg(long)]
    dtype: DataType,
    #[arg(long)]
    algorithm: Option<Algorithm>,
    #[arg(long)]
    in_place: bool,
    #[arg(long)]
    quantize: Option<Quantization>,
    #[arg(long)]
    certificates: Option<PathBuf>,
}

impl PeerArgs {
    /// The command line of a peer.
    pub(super) fn line(
        master: SocketAddr,
        peers: u32,
        (op, dtype): (ReduceOp, DataType),
        algorithm: Option<Algorithm>,
        in_place: bool,
    ) -> Vec<String> {
        let mut line = vec![
            "bench-peer".to_owned(),
            format!("--master={master}"),
            format!("--peers={peers}"),
            format!("--op={op}"),
            format!("--dtype={dtype}"),
        ];
        line.extend(algorithm.map(|algorithm| format!("--algorithm={algorithm}")));
        line.extend(in_place.then(|| "--in-place".to_owned()));
        line
    }
}

/// An order: measure a cell.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Measure {
    /// Bytes of a buffer.
    pub(super) bytes: u64,
    /// Timed calls; none: as many as fit into the time.
    pub(super) iters: Option<u64>,
}

/// What a peer says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum PeerEvent {
    /// All peers are there.
    Ready,
    /// A cell is measured.
    Sample(Sample),
}

/// Joins, then measures until the orders end, and this process with them.
pub(crate) fn run_peer(args: &PeerArgs) -> Result<Exit, CliError> {
    pccl_launch::parent::die_with_parent();
    settings::start_child_log()?;
    let (sender, orders) = mpsc::channel();
    supervised::follow(move |order: Measure| {
        let _ = sender.send(order);
    });
    let mut options = Options::new(args.master.to_string()).ports(Ports::Any);
    if let Some(folder) = &args.certificates {
        options = options.security(super::security(folder)?);
    }
    let comm = Communicator::connect(&options)?;
    gather(&comm, args.peers)?;
    supervised::say(&PeerEvent::Ready);
    let peer = Peer { rank: comm.membership().rank, comm, args };
    for order in orders {
        supervised::say(&PeerEvent::Sample(peer.measure(order)?));
    }
    Ok(Exit::Success)
}

/// Waits until all are members. All peers decide by the world of the same op.
fn gather(comm: &Communicator, peers: u32) -> Result<(), CliError> {
    loop {
        let info = comm.all_reduce_in_place(&mut [0_u64], &Call::new(AGREE_TAG))?;
        if info.world >= peers {
            return Ok(());
        }
        thread::sleep(IDLE);
        comm.update_topology()?;
    }
}

struct Peer<'a> {
    comm: Communicator,
    args: &'a PeerArgs,
    rank: u32,
}

/// The memory of a cell; in place there is one buffer.
struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Peer<'_> {
    fn measure(&self, order: Measure) -> Result<Sample, CollectiveError> {
        forget_peak_memory();
        let PeerArgs { dtype, op, peers, .. } = *self.args;
        let pattern = Pattern::new(dtype, op, self.rank, peers);
        let pattern = match self.args.quantize {
            Some(how) => pattern.quantized(how, dtype, op, peers),
            None => pattern,
        };
        let bytes = order.bytes as usize;
        let mut buffers = Buffers {
            input: if self.args.in_place { Vec::new() } else { vec![0; bytes] },
            output: vec![0; bytes],
        };
        pattern.fill(&mut buffers.input);
        let (mut wrong, algorithm) = self.check(&pattern, &mut buffers)?;
        if self.args.in_place {
            pattern.fill_rest(&mut buffers.output);
        }
        let each = self.agree(&self.calls(&mut buffers, 1)?)?;
        let warm_ups = fit(WARM_UP, each, 1, MAX_ITERS);
        let each = self.agree(&self.calls(&mut buffers, warm_ups)?)?;
        let iters = order.iters.unwrap_or_else(|| fit(TIMED, each, MIN_ITERS, MAX_ITERS));
        let mut times = self.calls(&mut buffers, iters)?;
        if !self.args.in_place {
            wrong += pattern.wrong(&buffers.output);
        }
        wrong += self.check(&pattern, &mut buffers)?.0;
        times.sort_by(f64::total_cmp);
        Ok(Sample {
            iters,
            median_s: median(&times),
            p99_s: p99(&times),
            wrong,
            algorithm: algorithm.to_string(),
            max_rss_bytes: peak_memory_bytes(),
        })
    }

    fn call_once(&self, buffers: &mut Buffers) -> Result<Algorithm, CollectiveError> {
        let call =
            Call::new(TAG).op(self.args.op).algorithm(self.args.algorithm).quantized(self.args.quantize);
        let dtype = self.args.dtype;
        let info = if self.args.in_place {
            self.comm.all_reduce_bytes_in_place(dtype, &mut buffers.output, &call)?
        } else {
            self.comm.all_reduce_bytes(dtype, &buffers.input, &mut buffers.output, &call)?
        };
        Ok(info.algorithm)
    }

    /// One call on fresh input: the wrong elements of its result, and what the library chose.
    fn check(&self, pattern: &Pattern, buffers: &mut Buffers) -> Result<(u64, Algorithm), CollectiveError> {
        if self.args.in_place {
            pattern.fill(&mut buffers.output);
        } else {
            pattern.poison(&mut buffers.output);
        }
        let algorithm = self.call_once(buffers)?;
        Ok((pattern.wrong(&buffers.output), algorithm))
    }

    /// The times of `iters` calls, one after the other.
    fn calls(&self, buffers: &mut Buffers, iters: u64) -> Result<Vec<f64>, CollectiveError> {
        let mut times = Vec::with_capacity(iters as usize);
        let mut last = Instant::now();
        for _ in 0..iters {
            self.call_once(buffers)?;
            let now = Instant::now();
            times.push((now - last).as_secs_f64());
            last = now;
        }
        Ok(times)
    }

    /// The mean time of a call of the slowest peer: the same number for all.
    fn agree(&self, times: &[f64]) -> Result<Duration, CollectiveError> {
        let mean_s = times.iter().sum::<f64>() / times.len() as f64;
        let mut nanos = [(mean_s * 1e9) as u64];
        self.comm.all_reduce_in_place(&mut nanos, &Call::new(AGREE_TAG).op(ReduceOp::Max))?;
        Ok(Duration::from_nanos(nanos[0].max(1)))
    }
}

fn fit(budget: Duration, each: Duration, least: u64, most: u64) -> u64 {
    let count = budget.as_nanos() / each.as_nanos().max(1);
    u64::try_from(count).unwrap_or(most).clamp(least, most)
}

/// From here on the kernel measures the peak anew.
fn forget_peak_memory() {
    // Where it does not, the peak of an earlier cell stands: never too little.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// `VmHWM`; zero where the kernel does not tell.
fn peak_memory_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterations_fit_the_time() {
        let ms = Duration::from_millis;
        assert_eq!(fit(ms(600), ms(1), 5, 20_000), 600);
        assert_eq!(fit(ms(600), ms(900), 5, 20_000), 5);
        assert_eq!(fit(ms(600), Duration::from_nanos(1), 5, 20_000), 20_000);
    }

    #[test]
    fn the_kernel_tells_our_memory() {
        assert!(!cfg!(target_os = "linux") || peak_memory_bytes() > 0);
    }
}
