//! What quantization takes away is kept and given back: over many rounds nothing is lost, and a cut attempt counts for
//! nothing.

use half::{bf16, f16};
use pccl_kernels::quantize::{BLOCK, Format, Residual, Scheme, Width};
use pccl_kernels::{Blocks, DataType, ReduceOp};
use proptest::prelude::*;

const FLOATS: [DataType; 4] = [DataType::Float16, DataType::BFloat16, DataType::Float32, DataType::Float64];

fn format(dtype: DataType) -> Format {
    Format { dtype, width: Width::Eight, scheme: Scheme::ZeroPoint }
}

fn bytes_of(dtype: DataType, values: &[f64]) -> Vec<u8> {
    let one = |v: &f64| match dtype {
        DataType::Float16 => f16::from_f64(*v).to_ne_bytes().to_vec(),
        DataType::BFloat16 => bf16::from_f64(*v).to_ne_bytes().to_vec(),
        DataType::Float64 => v.to_ne_bytes().to_vec(),
        _ => (*v as f32).to_ne_bytes().to_vec(),
    };
    values.iter().flat_map(one).collect()
}

fn numbers(dtype: DataType, bytes: &[u8]) -> Vec<f64> {
    let one = |b: &[u8]| match (dtype, b) {
        (DataType::Float16, &[a, b]) => f16::from_ne_bytes([a, b]).to_f64(),
        (DataType::BFloat16, &[a, b]) => bf16::from_ne_bytes([a, b]).to_f64(),
        (_, &[a, b, c, d]) => f64::from(f32::from_ne_bytes([a, b, c, d])),
        (_, b) => b.try_into().map_or(f64::NAN, f64::from_ne_bytes),
    };
    bytes.chunks_exact(dtype.size()).map(one).collect()
}

fn left(dtype: DataType, residual: &Residual) -> Vec<f64> {
    match dtype {
        DataType::Float64 => residual.to_f64(),
        _ => residual.to_f32().into_iter().map(f64::from).collect(),
    }
}

/// Peers that all-reduce tensors of `count` elements round by round; each owns a part of the blocks.
struct Peers {
    dtype: DataType,
    op: ReduceOp,
    count: usize,
    residuals: Vec<Option<Residual>>,
    feedback: bool,
}

impl Peers {
    fn new(dtype: DataType, op: ReduceOp, count: usize, world: usize, feedback: bool) -> Self {
        Self { dtype, op, count, residuals: vec![None; world], feedback }
    }

    fn blocks(&self, rank: usize) -> Blocks {
        let blocks = Blocks::new(format(self.dtype), self.count);
        if self.feedback {
            return blocks.with_feedback(self.count, self.residuals[rank].clone(), None);
        }
        blocks
    }

    /// The bytes of the blocks that a rank owns among `world`.
    fn owned(&self, rank: usize, world: usize) -> (usize, usize) {
        let (blocks, bytes) = (self.count.div_ceil(BLOCK), format(self.dtype).block_bytes());
        let at = |rank: usize| (blocks * rank / world) * bytes;
        (at(rank), at(rank + 1) - at(rank))
    }

    /// An attempt among the first `world` of the peers, as far as the blocks of the first `owners`.
    fn attempt(&self, all: &mut [Blocks], inputs: &[Vec<u8>], world: usize, owners: usize) {
        all[..world].iter_mut().for_each(Blocks::begin);
        for owner in 0..owners {
            let (start, len) = self.owned(owner, world);
            for (blocks, input) in all.iter_mut().zip(inputs).take(world) {
                blocks.prepare(input, start, len);
            }
            let parts: Vec<Vec<u8>> =
                all[..world].iter().map(|b| b.contribution()[start..start + len].to_vec()).collect();
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let (_, sum, residual) = all[owner].both_to_sum(start, len);
            let sum = &mut sum[start..start + len];
            match residual {
                Some(residual) => format(self.dtype).reduce_with_residual(self.op, &parts, sum, residual),
                None => format(self.dtype).reduce(self.op, &parts, sum),
            }
            let sum = sum.to_vec();
            for blocks in &mut all[..world] {
                blocks.result_mut()[start..start + len].copy_from_slice(&sum);
            }
        }
    }

    /// A whole op of all peers; what everybody gets.
    fn reduce(&mut self, inputs: &[Vec<u8>]) -> Vec<f64> {
        let mut all: Vec<Blocks> = (0..inputs.len()).map(|rank| self.blocks(rank)).collect();
        self.attempt(&mut all, inputs, inputs.len(), inputs.len());
        let mut result = vec![0; inputs[0].len()];
        all[0].take_all(&mut result);
        for (kept, blocks) in self.residuals.iter_mut().zip(&mut all) {
            *kept = blocks.end_feedback(true).0;
        }
        numbers(self.dtype, &result)
    }
}

fn input(dtype: DataType, count: usize, rank: usize, round: usize, spread: f64) -> Vec<u8> {
    let value = |i: usize| {
        let fixed = ((i * 31 + rank * 17) % 1009) as f64 / 1009.0 - 0.47;
        let moving = ((i * 7 + rank * 3 + round * 131) % 97) as f64 / 97.0 - 0.5;
        fixed + spread * moving
    };
    bytes_of(dtype, &(0..count).map(value).collect::<Vec<_>>())
}

/// Most that any element of `a` is off from `b`.
fn worst(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn add(all: &mut [f64], more: &[f64], factor: f64) {
    for (a, b) in all.iter_mut().zip(more) {
        *a += b * factor;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// What has been given out and what is left make up what has come in, whatever came in.
    #[test]
    fn nothing_is_lost(
        count in 1_usize..4 * BLOCK,
        world in 2_usize..5,
        rounds in 1_usize..12,
        dtype in prop::sample::select(&FLOATS[..]),
        average in any::<bool>(),
        spread in 0.0_f64..2.0,
    ) {
        let op = if average { ReduceOp::Avg } else { ReduceOp::Sum };
        let parts = if average { world as f64 } else { 1.0 };
        let mut peers = Peers::new(dtype, op, count, world, true);
        let (mut given, mut came) = (vec![0.0; count], vec![0.0; count]);
        for round in 0..rounds {
            let inputs: Vec<Vec<u8>> = (0..world).map(|rank| input(dtype, count, rank, round, spread)).collect();
            for one in &inputs {
                add(&mut came, &numbers(dtype, one), 1.0);
            }
            add(&mut given, &peers.reduce(&inputs), parts);
        }
        for residual in peers.residuals.iter().flatten() {
            add(&mut given, &left(dtype, residual), 1.0);
        }
        // Calculated in `f32` or `f64`, with values below 2.
        let exact = if dtype == DataType::Float64 { 1e-14 } else { 3e-6 };
        let off = worst(&given, &came);
        prop_assert!(off <= exact * (rounds * world) as f64, "off by {off}");
    }

    /// An attempt that is cut anywhere, among more or fewer peers, leaves no trace in the one that commits.
    #[test]
    fn a_cut_attempt_counts_for_nothing(
        count in 1_usize..5 * BLOCK,
        cuts in prop::collection::vec((2_usize..5, 0_usize..5), 1..4),
        dtype in prop::sample::select(&FLOATS[..]),
    ) {
        let mut peers = Peers::new(dtype, ReduceOp::Avg, count, 4, true);
        let inputs = |round| -> Vec<Vec<u8>> { (0..4).map(|rank| input(dtype, count, rank, round, 1.0)).collect() };
        peers.reduce(&inputs(0));
        let ended = |mut all: Vec<Blocks>| -> Vec<_> {
            all.iter_mut().map(|blocks| (blocks.contribution().to_vec(), blocks.end_feedback(true).0)).collect()
        };
        let fresh = || -> Vec<Blocks> { (0..4).map(|rank| peers.blocks(rank)).collect() };
        let (mut once, mut again) = (fresh(), fresh());
        for (world, owners) in cuts {
            peers.attempt(&mut again, &inputs(1), world, owners.min(world));
        }
        peers.attempt(&mut again, &inputs(1), 3, 3);
        peers.attempt(&mut once, &inputs(1), 3, 3);
        prop_assert_eq!(once[0].result(), again[0].result());
        let (mut once, mut again) = (ended(once), ended(again));
        // The fourth was lost on the way.
        once.truncate(3);
        again.truncate(3);
        prop_assert_eq!(once, again);
        let mut failed = fresh();
        peers.attempt(&mut failed, &inputs(1), 4, 4);
        for (blocks, before) in failed.iter_mut().zip(&peers.residuals) {
            prop_assert_eq!(&blocks.end_feedback(false).0, before);
        }
    }
}

/// How far the mean of the results of so many rounds of one input is off from the mean of the inputs.
fn mean_is_off(dtype: DataType, feedback: bool, rounds: usize) -> f64 {
    let (count, world) = (300, 3);
    let mut peers = Peers::new(dtype, ReduceOp::Avg, count, world, feedback);
    let inputs: Vec<Vec<u8>> = (0..world).map(|rank| input(dtype, count, rank, 0, 0.0)).collect();
    let mut exact = vec![0.0; count];
    for one in &inputs {
        add(&mut exact, &numbers(dtype, one), 1.0 / world as f64);
    }
    let mut mean = vec![0.0; count];
    for _ in 0..rounds {
        add(&mut mean, &peers.reduce(&inputs), 1.0 / rounds as f64);
    }
    worst(&mean, &exact)
}

#[test]
fn the_mean_of_many_rounds_is_the_true_one_and_without_feedback_it_never_is() {
    for dtype in FLOATS {
        let (first, biased) = (mean_is_off(dtype, true, 1), mean_is_off(dtype, false, 64));
        assert!(biased > 1e-3, "{dtype:?}: without feedback off by {biased}");
        for rounds in [4, 16, 64] {
            let off = mean_is_off(dtype, true, rounds);
            // What is left in the end, over the number of rounds; a step of the sum is about that of the contributions.
            assert!(
                off <= 3.0 * first / rounds as f64 + 1e-6,
                "{dtype:?}: {off} after {rounds}, {first} after 1"
            );
        }
        assert!(mean_is_off(dtype, true, 64) < biased / 10.0);
    }
}

#[test]
fn what_is_kept_does_not_grow_in_a_large_fleet() {
    let (dtype, world) = (DataType::Float32, 64);
    let mut peers = Peers::new(dtype, ReduceOp::Avg, BLOCK, world, true);
    let most = |peers: &Peers| {
        let all = peers.residuals.iter().flatten().flat_map(|residual| left(dtype, residual));
        all.fold(0.0, |most: f64, r| most.max(r.abs()))
    };
    let mut first = 0.0;
    for round in 0..20 {
        let inputs: Vec<Vec<u8>> = (0..world).map(|rank| input(dtype, BLOCK, rank, round, 1.0)).collect();
        peers.reduce(&inputs);
        first = if round == 0 { most(&peers) } else { first };
    }
    assert!(first > 0.0 && most(&peers) < 2.0 * first, "{} after {first}", most(&peers));
}

#[test]
fn zero_stays_zero_beside_what_is_kept() {
    let (dtype, count) = (DataType::Float32, 2 * BLOCK);
    let mut peers = Peers::new(dtype, ReduceOp::Sum, count, 2, true);
    for round in 0..20 {
        let inputs: Vec<Vec<u8>> = (0..2)
            .map(|rank| {
                let mut values = numbers(dtype, &input(dtype, count, rank, round, 1.0));
                values.iter_mut().skip(1).step_by(3).for_each(|v| *v = 0.0);
                bytes_of(dtype, &values)
            })
            .collect();
        let result = peers.reduce(&inputs);
        assert!(result.iter().skip(1).step_by(3).all(|v| *v == 0.0));
    }
}

#[test]
fn a_block_that_is_not_finite_leaves_what_was_kept_as_it_was() {
    for dtype in FLOATS {
        let count = 3 * BLOCK;
        let mut peers = Peers::new(dtype, ReduceOp::Sum, count, 2, true);
        let inputs: Vec<Vec<u8>> = (0..2).map(|rank| input(dtype, count, rank, 0, 1.0)).collect();
        peers.reduce(&inputs);
        let before: Vec<_> = peers.residuals.iter().flatten().map(|r| left(dtype, r)).collect();
        let mut bad = inputs.clone();
        bad[1][..dtype.size()].copy_from_slice(&bytes_of(dtype, &[f64::INFINITY]));
        let result = peers.reduce(&bad);
        assert!(result[..BLOCK].iter().all(|v| v.is_nan()) && result[BLOCK..].iter().all(|v| v.is_finite()));
        let after: Vec<_> = peers.residuals.iter().flatten().map(|r| left(dtype, r)).collect();
        assert_eq!(before[1][..BLOCK], after[1][..BLOCK]);
        assert!(after.iter().flatten().all(|r| r.is_finite()));
        let result = peers.reduce(&inputs);
        assert!(result.iter().all(|v| v.is_finite()));
    }
}

#[test]
#[should_panic(expected = "of the same length")]
fn a_residual_of_another_tensor_is_a_bug() {
    let mut peers = Peers::new(DataType::Float32, ReduceOp::Sum, 300, 2, true);
    peers.reduce(&[vec![0; 1200], vec![0; 1200]]);
    let _ = Blocks::new(format(DataType::Float32), 301).with_feedback(301, peers.residuals[0].clone(), None);
}
