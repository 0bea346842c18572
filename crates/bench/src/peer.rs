//! One peer of a benchmark: it measures what it is told to, the same number of calls as all others.

use std::fs;
use std::time::{Duration, Instant};

use pccl::{Algorithm, Call, CollectiveError, Communicator, DataType, Quantization, ReduceOp};
use serde::{Deserialize, Serialize};

use crate::pattern::Pattern;
use crate::row::{Sample, median, p99};

/// The op that is measured.
const TAG: u64 = 1;
/// The tag of the ops by which all peers agree on a number.
pub const AGREE_TAG: u64 = 2;
/// About how long a cell is warmed up, and how long it is timed.
const WARM_UP: Duration = Duration::from_millis(100);
const TIMED: Duration = Duration::from_millis(600);
/// Bounds on the number of timed calls.
const MIN_ITERS: u64 = 5;
const MAX_ITERS: u64 = 20_000;

/// What is measured, the same at all peers.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// World size.
    pub peers: u32,
    /// Element type.
    pub dtype: DataType,
    /// Operator.
    pub op: ReduceOp,
    /// Algorithm; none: what the cost model chooses.
    pub algorithm: Option<Algorithm>,
    /// One buffer for input and result.
    pub in_place: bool,
    /// How values travel, if not as they are.
    pub quantize: Option<Quantization>,
}

/// An order: measure a cell.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Measure {
    /// Bytes of a buffer.
    pub bytes: u64,
    /// Timed calls; none: as many as fit into the time.
    pub iters: Option<u64>,
}

/// One peer of a benchmark.
pub struct BenchPeer {
    comm: Communicator,
    work: Work,
    rank: u32,
}

/// The memory of a cell; in place there is one buffer.
struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl BenchPeer {
    /// For a communicator with which all peers of the work are members.
    pub fn new(comm: Communicator, work: Work) -> Self {
        Self { rank: comm.membership().rank, comm, work }
    }

    /// Measures one cell, together with all others.
    ///
    /// # Errors
    /// A collective fails.
    pub fn measure(&self, order: Measure) -> Result<Sample, CollectiveError> {
        forget_peak_memory();
        let Work { dtype, op, peers, .. } = self.work;
        let pattern = Pattern::new(dtype, op, self.rank, peers);
        let pattern = match self.work.quantize {
            Some(how) => pattern.quantized(how, dtype, op, peers),
            None => pattern,
        };
        let bytes = order.bytes as usize;
        let mut buffers = Buffers {
            input: if self.work.in_place { Vec::new() } else { vec![0; bytes] },
            output: vec![0; bytes],
        };
        pattern.fill(&mut buffers.input);
        let (mut wrong, algorithm) = self.check(&pattern, &mut buffers)?;
        if self.work.in_place {
            pattern.fill_rest(&mut buffers.output);
        }
        let each = self.agree(&self.calls(&mut buffers, 1)?)?;
        let warm_ups = fit(WARM_UP, each, 1, MAX_ITERS);
        let each = self.agree(&self.calls(&mut buffers, warm_ups)?)?;
        let iters = order.iters.unwrap_or_else(|| fit(TIMED, each, MIN_ITERS, MAX_ITERS));
        let mut times = self.calls(&mut buffers, iters)?;
        if !self.work.in_place {
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
            Call::new(TAG).op(self.work.op).algorithm(self.work.algorithm).quantized(self.work.quantize);
        let dtype = self.work.dtype;
        let info = if self.work.in_place {
            self.comm.all_reduce_bytes_in_place(dtype, &mut buffers.output, &call)?
        } else {
            self.comm.all_reduce_bytes(dtype, &buffers.input, &mut buffers.output, &call)?
        };
        Ok(info.algorithm)
    }

    /// One call on fresh input: the wrong elements of its result, and what the library chose.
    fn check(&self, pattern: &Pattern, buffers: &mut Buffers) -> Result<(u64, Algorithm), CollectiveError> {
        if self.work.in_place {
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
