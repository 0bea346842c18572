//! What an op must give: inputs as a function of names, and their reduction written down once more, by hand.

use pccl_proto::execute::{Kernels, Quantized};
use pccl_proto::ids::{Seeded, SessionId};
use pccl_proto::schedule::{block_len, block_start};
use pccl_proto::vocabulary::{Algorithm, Collective, DataType, Fingerprint, QUANTIZATION_BLOCK, ReduceOp};

use crate::memory::{Arithmetic, format};

/// The input of a peer for an op: the same whenever it is asked for, different for any two names.
pub(crate) fn input(session: SessionId, op: u64, f: &Fingerprint) -> Vec<u8> {
    let (dtype, count) = (f.dtype, f.count);
    let mut random = Seeded::new(session.0.wrapping_mul(0x1000_0000_01b3) ^ op.rotate_left(20));
    let mut bytes = Vec::with_capacity(count as usize * dtype.size_bytes());
    for _ in 0..count {
        let x = random.next_u64();
        // Numbers of very different sizes: the order of additions shows in the last bits.
        let (mantissa, exponent) = ((x >> 40) as f64 - f64::from(1 << 23), (x % 9) as i32 - 4);
        let value = mantissa * 10f64.powi(exponent);
        match dtype {
            DataType::F32 => bytes.extend_from_slice(&(value as f32).to_ne_bytes()),
            DataType::F64 => bytes.extend_from_slice(&value.to_ne_bytes()),
            DataType::BF16 => bytes.extend_from_slice(&((value as f32).to_bits() >> 16).to_ne_bytes()[..2]),
            _ => bytes.extend_from_slice(&x.to_ne_bytes()[..dtype.size_bytes()]),
        }
    }
    bytes
}

/// The result of `rank`, from the inputs of all by rank.
pub(crate) fn result(f: &Fingerprint, algorithm: Algorithm, inputs: &[Vec<u8>], rank: u32) -> Vec<u8> {
    let world = inputs.len() as u32;
    let size = f.dtype.size_bytes() as u64;
    let block = |owner| {
        let (start, len) = (block_start(f.count, world, owner), block_len(f.count, world, owner));
        (start * size) as usize..((start + len) * size) as usize
    };
    match f.collective {
        Collective::Barrier => Vec::new(),
        Collective::Broadcast => inputs[f.root as usize].clone(),
        Collective::AllGather => inputs.concat(),
        Collective::ReduceScatter => chunk(f, inputs, block(rank), rank),
        Collective::AllReduce if f.quantization.is_some() => quantized(f, inputs),
        Collective::AllReduce if world == 1 => inputs[0].clone(),
        Collective::AllReduce => match algorithm {
            Algorithm::Direct => (0..world).flat_map(|o| chunk(f, inputs, block(o), o)).collect(),
            Algorithm::Ring => (0..world).flat_map(|o| chunk(f, inputs, block(o), o + 1)).collect(),
            Algorithm::Star => chunk(f, inputs, 0..inputs[0].len(), 0),
            Algorithm::Doubling => doubling(f, inputs),
        },
    }
}

/// Adds a part of all inputs, beginning with the one of `first` and going round.
fn chunk(f: &Fingerprint, inputs: &[Vec<u8>], part: std::ops::Range<usize>, first: u32) -> Vec<u8> {
    let world = inputs.len();
    let at = |i: usize| &inputs[(first as usize + i) % world][part.clone()];
    let mut acc = at(0).to_vec();
    for i in 1..world {
        acc = fold(f, &acc, at(i));
    }
    if world > 1 {
        Arithmetic.finalize(f.dtype, f.op, &mut acc, world as u32);
    }
    acc
}

fn fold(f: &Fingerprint, a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut out = vec![0; a.len()];
    Arithmetic.fold(f.dtype, f.op, &mut out, a, b);
    out
}

/// All contributions at once, each quantized, in the order of ranks, whoever owns which block; and the sum, if there is
/// anybody to add.
fn quantized(f: &Fingerprint, inputs: &[Vec<u8>]) -> Vec<u8> {
    let Some(quantization) = f.quantization else { return Vec::new() };
    let format = format(f.dtype, quantization);
    let encode = |input: &Vec<u8>| {
        let mut blocks = vec![0; f.travelling_bytes() as usize];
        format.encode(input, &mut blocks);
        blocks
    };
    let mut blocks: Vec<Vec<u8>> = inputs.iter().map(encode).collect();
    if blocks.len() > 1 {
        let parts: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
        let mut sum = vec![0; parts[0].len()];
        let what = Quantized { quantization, dtype: f.dtype, op: f.op };
        Arithmetic.reduce_quantized(what, &mut sum, &parts, None);
        blocks[0] = sum;
    }
    let mut result = inputs[0].clone();
    format.decode(&blocks[0], &mut result);
    result
}

/// Elements of `f32` and what is added to them.
pub(crate) fn added(elements: &[u8], more: &[f32]) -> Vec<u8> {
    floats(elements).iter().zip(more).flat_map(|(a, b)| (a + b).to_ne_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// What is left of the contribution of `rank` to a compressed op: what quantizing it took away, and for the blocks that
/// this rank adds up, what quantizing the sum did.
pub(crate) fn left(f: &Fingerprint, algorithm: Algorithm, said: &[Vec<u8>], rank: u32) -> Vec<f32> {
    let Some(quantization) = f.quantization else { return Vec::new() };
    let format = format(f.dtype, quantization);
    let heard = |said: &[u8]| {
        let (mut blocks, mut back) = (vec![0; f.travelling_bytes() as usize], vec![0; said.len()]);
        format.encode(said, &mut blocks);
        format.decode(&blocks, &mut back);
        floats(&back)
    };
    let own = rank as usize;
    let mut left: Vec<f32> =
        floats(&said[own]).iter().zip(heard(&said[own])).map(|(said, heard)| said - heard).collect();
    let world = said.len() as u32;
    if world == 1 {
        return left;
    }
    let units = match algorithm {
        Algorithm::Star if rank == 0 => 0..f.units(),
        Algorithm::Star => 0..0,
        _ => {
            let start = block_start(f.units(), world, rank);
            start..start + block_len(f.units(), world, rank)
        }
    };
    let all: Vec<Vec<f32>> = said.iter().map(|one| heard(one)).collect();
    let average = f.op == ReduceOp::Avg;
    let sum = |i: usize| all[1..].iter().fold(all[0][i], |sum, one| sum + one[i]);
    let exact: Vec<f32> =
        (0..left.len()).map(|i| if average { sum(i) / world as f32 } else { sum(i) }).collect();
    let given = heard(&exact.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<u8>>());
    let part = |unit: u64| ((unit * QUANTIZATION_BLOCK) as usize).min(left.len());
    for i in part(units.start)..part(units.end) {
        left[i] += (exact[i] - given[i]) * if average { world as f32 } else { 1.0 };
    }
    left
}

fn doubling(f: &Fingerprint, inputs: &[Vec<u8>]) -> Vec<u8> {
    let core = 1 << inputs.len().ilog2();
    let mut level: Vec<Vec<u8>> = (0..core)
        .map(|r| match inputs.get(r + core) {
            Some(surplus) => fold(f, &inputs[r], surplus),
            None => inputs[r].clone(),
        })
        .collect();
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| fold(f, &pair[0], &pair[1])).collect();
    }
    let mut acc = level.swap_remove(0);
    Arithmetic.finalize(f.dtype, f.op, &mut acc, inputs.len() as u32);
    acc
}

/// Tensor bytes that `rank` sends, by the formulas of the algorithms.
pub(crate) fn sent_bytes(f: &Fingerprint, algorithm: Algorithm, world: u32, rank: u32) -> Option<u64> {
    let count = f.units();
    let own = block_len(count, world, rank);
    let others = u64::from(world) - 1;
    let units = match (f.collective, algorithm) {
        _ if world == 1 => 0,
        (Collective::Barrier, _) => 0,
        (Collective::AllReduce, Algorithm::Direct) => count - own + others * own,
        (Collective::AllReduce, Algorithm::Star) if rank == 0 => others * count,
        (Collective::AllReduce, Algorithm::Star) => count,
        (Collective::AllReduce, Algorithm::Ring) => {
            2 * count - own - block_len(count, world, (rank + 1) % world)
        }
        (Collective::AllReduce, Algorithm::Doubling) => {
            let core = 1 << world.ilog2();
            let surplus = u64::from(rank + core < world);
            if rank >= core { count } else { (u64::from(world.ilog2()) + surplus) * count }
        }
        (Collective::ReduceScatter, _) => count - own,
        (Collective::AllGather, _) => others * count,
        (Collective::Broadcast, _) => return None,
    };
    Some(units * f.unit_bytes())
}
