//! Whole worlds of executors in one thread, with frames delivered in a seeded random order.

use super::*;
use crate::schedule::{block_len, block_start, output_len, schedule};
use crate::seeded::Seeded;
use crate::vocabulary::{Algorithm, Collective};

/// Integer sums, wrapping; the order of operands is checked by the schedules' own tests.
struct Wrapping;

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|c| u32::from_ne_bytes([c[0], c[1], c[2], c[3]]))
}

impl Kernels for Wrapping {
    fn fold(&self, _: DataType, _: ReduceOp, dst: &mut [u8], a: &[u8], b: &[u8]) {
        for ((d, a), b) in dst.chunks_exact_mut(4).zip(words(a)).zip(words(b)) {
            d.copy_from_slice(&a.wrapping_add(b).to_ne_bytes());
        }
    }
    fn fold_right(&self, d: DataType, op: ReduceOp, acc: &mut [u8], b: &[u8]) {
        let a = acc.to_vec();
        self.fold(d, op, acc, &a, b);
    }
    fn fold_left(&self, d: DataType, op: ReduceOp, a: &[u8], acc: &mut [u8]) {
        self.fold_right(d, op, acc, a);
    }
    fn finalize(&self, _: DataType, op: ReduceOp, acc: &mut [u8], world: u32) {
        if op == ReduceOp::Avg {
            let sums: Vec<u32> = words(acc).collect();
            for (d, s) in acc.chunks_exact_mut(4).zip(sums) {
                d.copy_from_slice(&(s / world).to_ne_bytes());
            }
        }
    }
    fn reduce_quantized(
        &self,
        what: Quantized,
        dst: &mut [u8],
        parts: &[&[u8]],
        residual: Option<&mut [u8]>,
    ) {
        assert!(residual.is_none(), "nobody keeps any here");
        assert_eq!((what.dtype, what.op), (DataType::F32, ReduceOp::Sum));
        for (i, d) in dst.chunks_exact_mut(4).enumerate() {
            let word = |p: &&[u8]| u32::from_ne_bytes([p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3]]);
            d.copy_from_slice(&in_order(parts.iter().map(word)).to_ne_bytes());
        }
    }
}

/// Depends on the order of its operands.
fn in_order(words: impl Iterator<Item = u32>) -> u32 {
    words.fold(0, |acc: u32, w| acc.wrapping_mul(31).wrapping_add(w))
}

enum Mem {
    InPlace(Vec<u8>),
    Apart(Vec<u8>, Vec<u8>),
    /// Input and output apart, made from the third and copied to the fourth as they are asked for.
    Made(Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>),
}

impl OpMemory for Mem {
    fn in_place(&self) -> bool {
        matches!(self, Mem::InPlace(_))
    }
    fn input(&self) -> &[u8] {
        let (Mem::InPlace(v) | Mem::Apart(v, _) | Mem::Made(v, ..)) = self;
        v
    }
    fn output(&self) -> &[u8] {
        let (Mem::InPlace(v) | Mem::Apart(_, v) | Mem::Made(_, v, ..)) = self;
        v
    }
    fn output_mut(&mut self) -> &mut [u8] {
        let (Mem::InPlace(v) | Mem::Apart(_, v) | Mem::Made(_, v, ..)) = self;
        v
    }
    fn split(&mut self) -> (&[u8], &mut [u8]) {
        match self {
            Mem::InPlace(_) => unreachable!("only called for separate buffers"),
            Mem::Apart(i, o) | Mem::Made(i, o, ..) => (i, o),
        }
    }
    fn prepare(&mut self, start: usize, len: usize) {
        if let Mem::Made(input, _, from, _) = self {
            input[start..start + len].copy_from_slice(&from[start..start + len]);
        }
    }
    fn complete(&mut self, start: usize, len: usize) {
        if let Mem::Made(_, output, _, to) = self {
            assert!(to[start..start + len].iter().all(|b| *b == 0xAA), "bytes are complete once");
            to[start..start + len].copy_from_slice(&output[start..start + len]);
        }
    }
}

fn element(rank: u32, i: u64) -> u32 {
    (rank + 1).wrapping_mul(1_000_003).wrapping_add(i as u32 * 7)
}

struct World {
    peers: Vec<(Execution, Mem)>,
    wire: Vec<(Rank, OutFrame, Vec<u8>)>,
    random: Seeded,
}

impl World {
    fn new(f: &Fingerprint, algorithm: Algorithm, world: u32, in_place: bool, cut: Cut, seed: u64) -> Self {
        let peers = (0..world).map(|rank| {
            let input: Vec<u8> =
                (0..f.travelling_bytes() / 4).flat_map(|i| element(rank, i).to_ne_bytes()).collect();
            let out_bytes = (output_len(f, world, rank) * f.unit_bytes()) as usize;
            let backup = in_place.then(|| Backup::for_len(None, out_bytes));
            let output = vec![0xAA; out_bytes];
            let mem = match in_place {
                true => Mem::InPlace(input),
                false if f.quantization.is_some() => {
                    Mem::Made(vec![0; input.len()], output.clone(), input, output)
                }
                false => Mem::Apart(input, output),
            };
            (Execution::new(schedule(f, algorithm, world, rank), f, world, cut, backup), mem)
        });
        let mut w = Self { peers: peers.collect(), wire: Vec::new(), random: Seeded::new(seed) };
        for rank in 0..world {
            let (e, m) = &mut w.peers[rank as usize];
            e.start(m, &Wrapping);
            w.collect(rank);
        }
        w
    }

    fn collect(&mut self, rank: Rank) {
        let (e, m) = &mut self.peers[rank as usize];
        let frames: Vec<_> = e.take_out().collect();
        for f in frames {
            e.prepare(m, &f);
            let bytes = e.bytes(m, &f).to_vec();
            self.wire.push((rank, f, bytes));
        }
    }

    /// Delivers a random frame; false if there is none.
    fn step(&mut self) -> bool {
        if self.wire.is_empty() {
            return false;
        }
        let i = self.random.below(self.wire.len() as u64) as usize;
        let (from, frame, bytes) = self.wire.swap_remove(i);
        let (e, m) = &mut self.peers[frame.to as usize];
        let place = (from, frame.phase, frame.offset, frame.len);
        if self.random.below(8) == 0 {
            // A connection breaks in the middle; the frame comes again.
            let (at, _) = e.accept(place, m, &Wrapping).expect("an expected frame");
            e.give_up(at);
        }
        let (at, target) = e.accept(place, m, &Wrapping).expect("an expected frame");
        match target {
            Target::Output { start, len } => {
                m.output_mut()[start..start + len].copy_from_slice(&bytes);
                e.deliver(at, None, m, &Wrapping);
            }
            Target::Slot { len } => {
                assert_eq!(len, bytes.len());
                e.deliver(at, Some(bytes), m, &Wrapping);
            }
        }
        self.collect(frame.to);
        true
    }
}

fn fingerprint(collective: Collective, count: u64, op: ReduceOp) -> Fingerprint {
    Fingerprint { collective, dtype: DataType::U32, op, count, root: 0, algorithm: None, quantization: None }
}

const SMALL: Cut = Cut { piece_units: 5, window: 2 };

fn expected(f: &Fingerprint, world: u32, rank: Rank) -> Vec<u32> {
    let sum = |i| (0..world).fold(0u32, |s, r| s.wrapping_add(element(r, i)));
    let all = 0..f.count;
    match f.collective {
        Collective::AllReduce if f.op == ReduceOp::Avg => all.map(|i| sum(i) / world).collect(),
        Collective::AllReduce => all.map(sum).collect(),
        Collective::ReduceScatter => {
            let start = block_start(f.count, world, rank);
            (start..start + block_len(f.count, world, rank)).map(sum).collect()
        }
        Collective::AllGather => (0..world).flat_map(|r| (0..f.count).map(move |i| element(r, i))).collect(),
        Collective::Broadcast => all.map(|i| element(f.root, i)).collect(),
        Collective::Barrier => Vec::new(),
    }
}

#[test]
fn every_collective_in_any_order_of_delivery() {
    let mut seed = 0;
    for world in 1..=6 {
        for (collective, algorithms) in [
            (Collective::AllReduce, Algorithm::ALL),
            (Collective::ReduceScatter, &[Algorithm::Direct]),
            (Collective::AllGather, &[Algorithm::Direct, Algorithm::Ring]),
            (Collective::Broadcast, &[Algorithm::Direct]),
        ] {
            for algorithm in algorithms {
                for count in [1, 2, 13, 64, 203] {
                    for op in [ReduceOp::Sum, ReduceOp::Avg] {
                        seed += 1;
                        let f = fingerprint(collective, count, op);
                        let f = Fingerprint { root: seed as u32 % world, ..f };
                        if collective != Collective::AllReduce && op == ReduceOp::Avg {
                            continue;
                        }
                        let in_place = matches!(collective, Collective::AllReduce | Collective::Broadcast)
                            && seed % 2 == 0;
                        let mut w = World::new(&f, *algorithm, world, in_place, SMALL, seed);
                        while w.step() {}
                        for (rank, (e, m)) in w.peers.iter().enumerate() {
                            assert!(e.is_complete(), "{f} by {algorithm}, world {world}, rank {rank}");
                            let got: Vec<u32> = words(m.output()).collect();
                            assert_eq!(got, expected(&f, world, rank as u32), "{f} by {algorithm}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_short_rest_goes_with_the_piece_before() {
    assert_eq!(
        [1, 16, 17, 32, 33, 34, 48, 50].map(|units| pieces_of(units, 16, 4)),
        [1, 1, 1, 2, 2, 3, 3, 4]
    );
    let whole = SHORT_PIECE_BYTES / 4;
    assert_eq!(pieces_of(whole + 400, whole, 4), 1);
    let most = MAX_DATA_BYTES as u64;
    assert_eq!(pieces_of(most + 1, most, 1), 2, "a frame has room for so much and no more");
    let mut seed = 0;
    for algorithm in Algorithm::ALL {
        for count in [16, 17, 4 * 16 + 1, 4 * 33 + 3] {
            seed += 1;
            let f = fingerprint(Collective::AllReduce, count, ReduceOp::Sum);
            let cut = Cut { piece_units: 16, window: 2 };
            let mut w = World::new(&f, *algorithm, 4, seed % 2 == 0, cut, seed);
            while w.step() {}
            for (rank, (e, m)) in w.peers.iter().enumerate() {
                assert!(e.is_complete(), "{f} by {algorithm}, rank {rank}");
                assert_eq!(
                    words(m.output()).collect::<Vec<_>>(),
                    expected(&f, 4, rank as u32),
                    "{f} by {algorithm}"
                );
            }
        }
    }
}

/// As on a host with 4 or 8 peers: a block of a 1 MiB op is a few bytes more than whole frames.
#[test]
fn blocks_of_an_all_reduce_are_whole_frames_if_they_nearly_are() {
    for world in [4, 8] {
        for algorithm in [Algorithm::Ring, Algorithm::Direct] {
            let f = fingerprint(Collective::AllReduce, 1 << 18, ReduceOp::Sum);
            let cut = cut(&f, world, 4 << 20);
            let mut w = World::new(&f, algorithm, world, world == 4, cut, 7);
            let chunks = &w.peers[0].0.schedule().chunks;
            let whole = u64::from(8 / world) * SHORT_PIECE_BYTES / 4;
            assert!(chunks[..chunks.len() - 1].iter().all(|c| c.len == whole), "{algorithm}");
            assert!(chunks[chunks.len() - 1].len <= whole * 17 / 16, "{algorithm}");
            assert_eq!(w.peers[0].0.piece_count(0), 8 / world);
            while w.step() {}
            for (rank, (e, m)) in w.peers.iter().enumerate() {
                assert!(e.is_complete(), "{algorithm}, rank {rank}");
                assert_eq!(
                    words(m.output()).collect::<Vec<_>>(),
                    expected(&f, world, rank as u32),
                    "{algorithm}"
                );
            }
        }
    }
}

#[test]
fn quantized_contributions_are_reduced_once_in_the_order_of_ranks() {
    let mut seed = 0;
    for world in 1..=6 {
        for algorithm in Algorithm::ALL.iter().copied() {
            for (count, piece_units) in [(1, 1), (700, 1), (256 * 40 + 1, 3)] {
                seed += 1;
                let f = fingerprint(Collective::AllReduce, count, ReduceOp::Sum);
                let f = Fingerprint { dtype: DataType::F32, quantization: Some(Quantization::MinMaxU8), ..f };
                let cut = Cut { piece_units, window: 2 };
                let in_place = seed % 2 == 0;
                let mut w = World::new(&f, algorithm, world, in_place, cut, seed);
                while w.step() {}
                let words_of = f.travelling_bytes() / 4;
                let sum =
                    |i| if world == 1 { element(0, i) } else { in_order((0..world).map(|r| element(r, i))) };
                let expected: Vec<u32> = (0..words_of).map(sum).collect();
                for (rank, (e, m)) in w.peers.iter_mut().enumerate() {
                    assert!(e.is_complete(), "{f} by {algorithm}, world {world}, rank {rank}");
                    assert_eq!(words(m.output()).collect::<Vec<_>>(), expected, "{f} by {algorithm}");
                    if let Mem::Made(_, output, _, to) = m {
                        assert_eq!(to, output, "all of it was said to be complete");
                    }
                    assert!(e.restore(m));
                    let input: Vec<u32> = (0..words_of).map(|i| element(rank as u32, i)).collect();
                    assert_eq!(words(m.input()).collect::<Vec<_>>(), input);
                }
            }
        }
    }
}

#[test]
fn an_in_place_input_is_restored_byte_for_byte_at_any_moment() {
    for algorithm in Algorithm::ALL.iter().copied() {
        for stop_after in 0..400 {
            let f = fingerprint(Collective::AllReduce, 203, ReduceOp::Avg);
            let mut w = World::new(&f, algorithm, 4, true, SMALL, stop_after);
            let mut steps = 0;
            while steps < stop_after && w.step() {
                steps += 1;
            }
            for (rank, (e, m)) in w.peers.iter_mut().enumerate() {
                assert!(e.restore(m));
                let input: Vec<u32> = (0..f.count).map(|i| element(rank as u32, i)).collect();
                assert_eq!(words(m.output()).collect::<Vec<_>>(), input);
            }
        }
    }
}

#[test]
fn without_a_backup_a_written_input_is_reported_lost() {
    let f = fingerprint(Collective::AllReduce, 8, ReduceOp::Sum);
    let mut w = World::new(&f, Algorithm::Direct, 2, true, SMALL, 1);
    for (e, _) in &mut w.peers {
        e.take_backup();
    }
    let (e, m) = &mut w.peers[0];
    assert!(e.restore(m), "nothing was written yet");
    while w.step() {}
    let (e, m) = &mut w.peers[0];
    assert!(!e.restore(m));
}

#[test]
fn frames_that_the_schedule_does_not_provide_for_are_refused() {
    let f = fingerprint(Collective::AllReduce, 64, ReduceOp::Sum);
    let mut w = World::new(&f, Algorithm::Direct, 3, false, SMALL, 1);
    let (e, m) = &mut w.peers[0];
    for (from, phase, offset, len) in [
        (1, 0, 3, 20),
        (1, 0, 0, 21),
        (1, 7, 0, 20),
        (9, 0, 0, 20),
        (1, 0, u64::MAX, 20),
        (1, 1, 0, 20),
        (1, 1, 90, 0),
    ] {
        assert!(e.accept((from, phase, offset, len), m, &Wrapping).is_err(), "{from} {phase} {offset} {len}");
    }
    let (at, _) = e.accept((1, 0, 0, 20), m, &Wrapping).unwrap();
    e.deliver(at, Some(vec![0; 20]), m, &Wrapping);
    assert!(e.accept((1, 0, 0, 20), m, &Wrapping).is_err(), "the same frame twice");
}
