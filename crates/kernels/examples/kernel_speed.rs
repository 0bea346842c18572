//! Prints the speed of the kernels on this machine: `cargo run --release -p pccl-kernels --example
//! kernel_speed [WORD]`; with a word, only the rows that have it.
//!
//! The figure is 10⁹ bytes of *each* operand per second, the best of several runs, on one core; "cache"
//! means 64 KiB per operand, "memory" 128 MiB. A copy of the same size is the yardstick.

use pccl_kernels::quantize::{Format, Scheme, Width};
use pccl_kernels::{DataType, Isa, ReduceOp, hash};
use std::hint::black_box;
use std::time::{Duration, Instant};

const CACHE_BYTES: usize = 64 << 10;
const MEMORY_BYTES: usize = 128 << 20;

/// Something to be timed, given (dst, acc, b).
type Work<'a> = &'a mut dyn FnMut(&mut [u8], &mut [u8], &[u8]);

fn main() {
    let mut dst = vec![0; MEMORY_BYTES];
    let mut acc = bytes(1);
    let b = bytes(2);

    println!("{:<20}{:<10}{:>8}{:>8}", "", "", "cache", "memory");
    let only = std::env::args().nth(1).unwrap_or_default();
    let mut row = |name: &str, isa: &str, work: Work| {
        if !name.contains(&only) && !isa.contains(&only) {
            return;
        }
        let [cache, memory] = [CACHE_BYTES, MEMORY_BYTES]
            .map(|len| speed(len, || work(&mut dst[..len], &mut acc[..len], &b[..len])));
        println!("{name:<20}{isa:<10}{cache:>8.1}{memory:>8.1}");
    };

    row("copy", "", &mut |dst, _, b| dst.copy_from_slice(b));
    let mut isas = vec![Isa::active(), Isa::BASELINE];
    isas.dedup();
    for isa in isas {
        let name = isa.name();
        println!("\nacc = acc + b");
        for dtype in DataType::ALL {
            row(dtype.name(), name, &mut |_, acc, b| {
                isa.reduce_assign(dtype, ReduceOp::Sum, acc, b);
            });
        }
        println!("\ndst = max(a, b)");
        for dtype in [DataType::Float16, DataType::BFloat16, DataType::Float32, DataType::Float64] {
            row(dtype.name(), name, &mut |dst, a, b| {
                isa.reduce(dtype, ReduceOp::Max, dst, a, b);
            });
        }
        println!("\nacc = acc / 3");
        for dtype in DataType::ALL {
            row(dtype.name(), name, &mut |_, acc, _| {
                isa.finalize(dtype, ReduceOp::Avg, acc, 3);
            });
        }
    }
    println!(
        "\nquantization, of a tensor of f32 and back; sum of two quantized ones, by bytes of their tensors; + keeps residuals"
    );
    for (name, width, scheme) in [
        ("q8 min-max", Width::Eight, Scheme::MinMax),
        ("q8 zero", Width::Eight, Scheme::ZeroPoint),
        ("q16 zero", Width::Sixteen, Scheme::ZeroPoint),
    ] {
        let format = Format { dtype: DataType::Float32, width, scheme };
        let mut blocks = vec![0; format.bytes(MEMORY_BYTES / 4)];
        let mut sum = vec![0; blocks.len()];
        row(&format!("{name} encode"), "", &mut |_, _, b| {
            format.encode(b, &mut blocks[..format.bytes(b.len() / 4)]);
        });
        row(&format!("{name} decode"), "", &mut |dst, _, _| {
            format.decode(&blocks[..format.bytes(dst.len() / 4)], dst);
        });
        row(&format!("{name} sum"), "", &mut |dst, _, _| {
            let (parts, sum) =
                (&blocks[..format.bytes(dst.len() / 4)], &mut sum[..format.bytes(dst.len() / 4)]);
            format.reduce(ReduceOp::Sum, &[parts, parts], sum);
        });
        row(&format!("{name} encode+"), "", &mut |after, before, b| {
            let blocks = &mut blocks[..format.bytes(b.len() / 4)];
            format.encode_with_residual(b, Some(before), blocks, after);
        });
        row(&format!("{name} sum+"), "", &mut |after, _, _| {
            let bytes = format.bytes(after.len() / 4);
            let (parts, sum) = (&blocks[..bytes], &mut sum[..bytes]);
            format.reduce_with_residual(ReduceOp::Sum, &[parts, parts], sum, after);
        });
    }
    println!("\nhash, blocks of 4 MiB");
    for threads in [1, 0] {
        let name = if threads == 1 { "1 thread" } else { "all cores" };
        row(name, "", &mut |_, _, b| {
            black_box(hash::hash_blocks(b, 4 << 20, threads));
        });
    }
}

/// Elements that are ordinary numbers in every type, so that no time goes into special cases.
fn bytes(seed: u8) -> Vec<u8> {
    (0..MEMORY_BYTES).map(|i| 0x3C ^ (seed.wrapping_mul(i as u8) & 3)).collect()
}

/// GB/s of `work` over `len` bytes.
fn speed(len: usize, mut work: impl FnMut()) -> f64 {
    let rounds = ((32 << 20) / len).max(1);
    let mut best = Duration::MAX;
    for _ in 0..7 {
        let start = Instant::now();
        for _ in 0..rounds {
            work();
            black_box(());
        }
        best = best.min(start.elapsed());
    }
    (len * rounds) as f64 / best.as_secs_f64() / 1e9
}
