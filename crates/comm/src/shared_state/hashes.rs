//! The hashes of all blocks, by all cores.

use std::sync::{Mutex, PoisonError};
use std::thread;

use pccl_kernels::hash::hash_block;

/// A thread is worth starting for this much work and not for less.
const BYTES_PER_THREAD: usize = 8 << 20;
/// Blocks that a thread takes at a time have at least this many bytes together.
const BYTES_PER_TAKE: usize = 1 << 20;

/// The hashes of the blocks of all tensors, in order.
pub(super) fn of_blocks(tensors: &[&[u8]], block_bytes: usize) -> Vec<u128> {
    let blocks: Vec<&[u8]> = tensors.iter().flat_map(|t| t.chunks(block_bytes)).collect();
    let total: usize = tensors.iter().map(|t| t.len()).sum();
    let mut hashes = vec![0; blocks.len()];
    let worth = total / BYTES_PER_THREAD;
    let threads =
        if worth < 2 { 1 } else { thread::available_parallelism().map_or(1, usize::from).min(worth) };
    // As many blocks at a time as make a take of a sensible size, if all were alike.
    let per_take = (BYTES_PER_TAKE / (total / blocks.len().max(1)).max(1)).clamp(1, 1024);
    let takes = Mutex::new(blocks.chunks(per_take).zip(hashes.chunks_mut(per_take)));
    let work = || {
        loop {
            // Taking cannot panic, so a poisoned lock still holds a sound queue.
            let Some((blocks, hashes)) = takes.lock().unwrap_or_else(PoisonError::into_inner).next() else {
                return;
            };
            for (block, hash) in blocks.iter().zip(hashes) {
                *hash = hash_block(block);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // A thread that cannot be had is not missed: the others take its share.
            let _ = thread::Builder::new().name("pccl-hash".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    hashes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_threads_gives_the_hashes_of_the_blocks() {
        let bytes: Vec<u8> =
            (0..40_000_003u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (a, rest) = bytes.split_at(3_000_001);
        let (b, c) = rest.split_at(0);
        let expected: Vec<u128> = [a, b, c].iter().flat_map(|t| t.chunks(1 << 16)).map(hash_block).collect();
        assert_eq!(of_blocks(&[a, b, c], 1 << 16), expected);
        assert_eq!(of_blocks(&[], 1 << 16), vec![]);
        assert_eq!(of_blocks(&[b, b], 1), vec![]);
    }
}
