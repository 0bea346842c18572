//! The figures of one cell: what a peer measures, and what becomes of all peers' figures.

use pccl::{DataType, Quantization};
use pccl_config::ByteSize;
use pccl_observe::table::{Table, seconds};
use serde::{Deserialize, Serialize};

use crate::peer::Work;

/// What one peer measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Timed calls.
    pub iters: u64,
    /// Median time of a call.
    pub median_s: f64,
    /// 99th percentile of the calls, nearest rank.
    pub p99_s: f64,
    /// Elements of its results that were not as they must be.
    pub wrong: u64,
    /// What the library chose.
    pub algorithm: String,
    /// Largest memory of the process during the work.
    pub max_rss_bytes: u64,
}

/// One row of the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// World size.
    pub peers: u32,
    /// Bytes of a buffer.
    pub bytes: u64,
    /// Element type.
    pub dtype: &'static str,
    /// Operator.
    pub op: &'static str,
    /// What the library chose, or was told.
    pub algorithm: String,
    /// One buffer for input and result.
    pub in_place: bool,
    /// How values travelled, if not as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<&'static str>,
    /// Timed calls.
    pub iters: u64,
    /// Median time of a call at the slowest peer, seconds.
    pub median_s: f64,
    /// 99th percentile at the slowest peer, seconds.
    pub p99_s: f64,
    /// Bytes of a buffer by the median time, 10⁹ bytes per second.
    pub algbw_gbs: f64,
    /// The same times 2(N-1)/N, what crosses a link, as nccl-tests has it.
    pub busbw_gbs: f64,
    /// Elements of all results that were wrong.
    pub wrong: u64,
    /// Largest memory of a process, bytes.
    pub max_rss_bytes: u64,
}

impl Row {
    /// Of all peers' samples, for buffers of `bytes` bytes: an op is as slow as its slowest peer.
    pub fn new(work: &Work, bytes: u64, samples: &[Sample]) -> Self {
        let slowest = |time: fn(&Sample) -> f64| samples.iter().map(time).fold(0.0, f64::max);
        let median_s = slowest(|sample| sample.median_s);
        let algbw_gbs = bytes as f64 / median_s * 1e-9;
        let peers = f64::from(work.peers);
        Self {
            peers: work.peers,
            bytes,
            dtype: work.dtype.name(),
            op: work.op.name(),
            algorithm: samples.first().map(|sample| sample.algorithm.clone()).unwrap_or_default(),
            in_place: work.in_place,
            quantize: work.quantize.map(Quantization::name),
            iters: samples.iter().map(|sample| sample.iters).min().unwrap_or(0),
            median_s,
            p99_s: slowest(|sample| sample.p99_s),
            algbw_gbs,
            busbw_gbs: algbw_gbs * 2.0 * (peers - 1.0) / peers,
            wrong: samples.iter().map(|sample| sample.wrong).sum(),
            max_rss_bytes: samples.iter().map(|sample| sample.max_rss_bytes).max().unwrap_or(0),
        }
    }
}

/// The table's titles, in the vocabulary of nccl-tests.
const TITLES: [&str; 13] = [
    "peers",
    "size",
    "count",
    "<type",
    "<op",
    "<algorithm",
    "iters",
    "time",
    "p99",
    "algbw",
    "busbw",
    "wrong",
    "memory",
];

/// All rows under their titles; bandwidths in 10⁹ bytes per second.
pub fn table(rows: &[Row]) -> Vec<String> {
    let mut table = Table::new(&TITLES);
    for row in rows {
        let element = row.dtype.parse::<DataType>().map_or(1, |dtype| dtype.size_bytes() as u64);
        table.push([
            row.peers.to_string(),
            ByteSize(row.bytes).to_string(),
            (row.bytes / element).to_string(),
            row.dtype.to_owned(),
            row.op.to_owned(),
            row.quantize.map_or_else(|| row.algorithm.clone(), |how| format!("{} {how}", row.algorithm)),
            row.iters.to_string(),
            seconds(row.median_s),
            seconds(row.p99_s),
            format!("{:.3}", row.algbw_gbs),
            format!("{:.3}", row.busbw_gbs),
            row.wrong.to_string(),
            ByteSize(row.max_rss_bytes.next_multiple_of(1 << 20)).to_string(),
        ]);
    }
    table.lines()
}

/// The middle of sorted times, or the mean of the two in the middle.
pub fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The smallest of sorted times that at least 99 % did not exceed.
pub(crate) fn p99(sorted: &[f64]) -> f64 {
    let rank = (sorted.len() * 99).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use pccl::ReduceOp;

    use super::*;

    #[test]
    fn a_row_is_as_slow_as_its_slowest_peer_and_counts_all_wrong_elements() {
        let sample = |median_s, wrong| Sample {
            iters: 10,
            median_s,
            p99_s: median_s * 2.0,
            wrong,
            algorithm: "ring".to_owned(),
            max_rss_bytes: 5,
        };
        let work = Work {
            peers: 4,
            dtype: DataType::F32,
            op: ReduceOp::Sum,
            algorithm: None,
            in_place: false,
            quantize: None,
        };
        let row = Row::new(&work, 4_000_000_000, &[sample(1.0, 2), sample(2.0, 3)]);
        assert_eq!((row.median_s, row.p99_s, row.wrong), (2.0, 4.0, 5));
        assert_eq!((row.algbw_gbs, row.busbw_gbs), (2.0, 3.0));
    }

    #[test]
    fn percentiles() {
        let times: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((median(&times), p99(&times)), (100.5, 198.0));
        assert_eq!((median(&[3.0]), p99(&[3.0])), (3.0, 3.0));
    }
}
