//! Content hashes of tensors, for shared state: equal hashes mean equal content.
//!
//! The hash is XXH3 with 128 bits: it runs at the speed of memory, and its value is defined by its
//! specification, whatever the machine, its byte order and its instruction set. (The *content* of a tensor
//! is hashed as it lies in memory; peers of different byte order do not share tensors.) With b blocks in a
//! run, the chance that any two different ones collide is about b²/2¹²⁹. It is **not cryptographic**: it
//! finds differences, not forgers. Peers that could forge are kept out by authentication.
//!
//! A tensor is hashed in blocks, so that a peer that is behind fetches only what differs; the hashes of the
//! blocks together make the hash of the tensor.

use std::sync::{Mutex, PoisonError};
use std::thread;
use twox_hash::XxHash3_128;

/// Separates the hash of a tensor from that of a block with the same bytes.
const TENSOR_SEED: u64 = u64::from_be_bytes(*b"pccl-ten");

/// A thread is worth starting for this much work (some 100 µs) and not for less.
const BYTES_PER_THREAD: usize = 4 << 20;

/// What a thread takes at a time: little enough for an even finish, enough to make the taking free.
const BYTES_PER_TAKE: usize = 1 << 20;

/// The hash of one block.
pub fn hash_block(block: &[u8]) -> u128 {
    XxHash3_128::oneshot(block)
}

/// The hashes of the blocks of `data`, each of `block_bytes` (the last one may be shorter), by at most
/// `threads` threads, the caller's included; 0 means one for each core. Small inputs are hashed by the
/// caller's thread alone.
///
/// # Panics
/// If `block_bytes` is 0.
pub fn hash_blocks(data: &[u8], block_bytes: usize, threads: usize) -> Vec<u128> {
    assert!(block_bytes > 0, "bug of the caller: blocks of no bytes");
    let mut hashes = vec![0; data.len().div_ceil(block_bytes)];
    let threads = match (data.len() / BYTES_PER_THREAD, threads) {
        // Counting the cores reads files; not for this little.
        (0 | 1, _) => 1,
        (worth, 0) => thread::available_parallelism().map_or(1, usize::from).min(worth),
        (worth, given) => given.min(worth),
    };

    let blocks_per_take = (BYTES_PER_TAKE / block_bytes).max(1);
    let takes =
        Mutex::new(data.chunks(block_bytes * blocks_per_take).zip(hashes.chunks_mut(blocks_per_take)));
    let work = || loop {
        // Taking cannot panic, so a poisoned lock still holds a sound queue.
        let Some((data, hashes)) = takes.lock().unwrap_or_else(PoisonError::into_inner).next() else {
            break;
        };
        for (block, hash) in data.chunks(block_bytes).zip(hashes) {
            *hash = hash_block(block);
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

/// The hash of a tensor of `total_bytes`, from the hashes of its blocks in order.
///
/// It depends on how the tensor was cut: peers compare tensor hashes only of the same block size.
pub fn hash_tensor(blocks: &[u128], total_bytes: u64) -> u128 {
    let mut hasher = XxHash3_128::with_seed(TENSOR_SEED);
    hasher.write(&total_bytes.to_le_bytes());
    for block in blocks {
        hasher.write(&block.to_le_bytes());
    }
    hasher.finish_128()
}
